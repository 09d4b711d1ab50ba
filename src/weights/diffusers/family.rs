//! Which model a folder holds, where it is not the one that we build on.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// What to do about any of them.
const ADVICE: &str = "osdd builds on Stable Diffusion 2.1-base, so name a folder with that";

/// One sentence about a model that is recognisably another one, from its `model_index.json` and its UNet's configuration.
///
/// The first match counts; the UNet's own fields come before the name of the pipeline, which people change.
pub(super) fn other_model(index: Option<&Object>, unet: Option<&Object>) -> Option<String> {
    let name = unet.and_then(by_unet).or_else(|| index.and_then(by_pipeline))?;
    Some(format!("this is {name}; {ADVICE}"))
}

fn by_unet(unet: &Object) -> Option<String> {
    let number = |field: &str| unet.get(field).and_then(Value::as_i64);
    let class = text(unet, "_class_name");
    if class.contains("ControlNet") {
        return Some("a ControlNet, which only steers another model".into());
    }
    if is_set(unet, "addition_embed_type") {
        return Some("Stable Diffusion XL (its UNet takes additional embeddings)".into());
    }
    match number("cross_attention_dim") {
        Some(768) => {
            return Some("Stable Diffusion 1.x (its UNet takes prompts 768 wide, not 1024)".into());
        }
        Some(dim @ (1280 | 2048)) => {
            return Some(format!(
                "Stable Diffusion XL (its UNet takes prompts {dim} wide, not 1024)"
            ));
        }
        _ => {}
    }
    let extra = match number("in_channels")? {
        4 => return None,
        5 => "a depth-to-image model",
        7 => "a x4 upscaler",
        8 => "an image-editing model (InstructPix2Pix)",
        9 => "an inpainting model",
        // Tiny models for tests may have any latent; `configs` compares it with the autoencoder's.
        _ => return None,
    };
    Some(format!(
        "{extra} (its UNet takes {} channels, not 4)",
        number("in_channels")?
    ))
}

fn by_pipeline(index: &Object) -> Option<String> {
    let class = text(index, "_class_name");
    let known = [
        ("StableDiffusionXL", "Stable Diffusion XL"),
        ("StableDiffusion3", "Stable Diffusion 3"),
        ("Inpaint", "an inpainting model"),
        ("Depth2Img", "a depth-to-image model"),
        ("Upscale", "an upscaler"),
        ("Pix2Pix", "an image-editing model"),
        ("ControlNet", "a pipeline with a ControlNet"),
    ];
    if let Some((_, name)) = known.iter().find(|(part, _)| class.contains(part)) {
        return Some(format!("{name} ({class})"));
    }
    if is_set(index, "text_encoder_2") {
        return Some(format!("Stable Diffusion XL ({class}, with two text encoders)"));
    }
    if !is_set(index, "unet") {
        return Some(format!("a model without a UNet ({class})"));
    }
    None
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Neither absent nor null nor diffusers' `[null, null]` for a part that is left out.
fn is_set(object: &Object, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => items.iter().any(|item| !item.is_null()),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(index: Value, unet: Value) -> Option<String> {
        other_model(index.as_object(), unet.as_object())
    }

    #[test]
    fn the_model_we_build_on_is_none_of_the_others() {
        let index = json!({
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [null, null],
            "unet": ["diffusers", "UNet2DConditionModel"],
        });
        let unet = json!({ "in_channels": 4, "cross_attention_dim": 1024, "addition_embed_type": null });
        assert_eq!(named(index, unet), None);
    }

    #[test]
    fn others_are_named() {
        let plain = json!({ "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"] });
        let cases = [
            (plain.clone(), json!({ "cross_attention_dim": 768 }), "1.x"),
            (plain.clone(), json!({ "cross_attention_dim": 2048 }), "XL"),
            (
                plain.clone(),
                json!({ "cross_attention_dim": 1024, "in_channels": 9 }),
                "inpainting",
            ),
            (plain.clone(), json!({ "addition_embed_type": "text_time" }), "XL"),
            (
                json!({ "_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3"] }),
                Value::Null,
                "Stable Diffusion 3",
            ),
            (
                json!({ "_class_name": "FluxPipeline", "transformer": ["diffusers", "X"] }),
                Value::Null,
                "without a UNet",
            ),
            (
                json!({ "_class_name": "Mine", "unet": ["a", "b"], "text_encoder_2": ["a", "b"] }),
                json!({ "in_channels": 4 }),
                "two text encoders",
            ),
        ];
        for (index, unet, expected) in cases {
            let sentence = named(index, unet).unwrap_or_default();
            assert!(sentence.contains(expected), "{expected}: {sentence}");
        }
    }
}
