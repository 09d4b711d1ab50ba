//! diffusers' configuration files become our configuration, or a sentence about the field that cannot.
//!
//! Absent fields have the defaults of diffusers' classes (0.42.1): `UNet2DConditionModel`, `AutoencoderKL`, and those that
//! all schedulers share.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::layout::{Json, Layout};
use super::wrong;
use crate::config::{Layers, ModelConfig, PredictionType, SchedulerConfig, UnetConfig, VaeConfig};
use crate::nn::{BlockKind, NormKind};
use crate::{Error, Result};

/// diffusers' files say what they can; skips, prompt, timestep, adapters and dtype are the template's. Departures from the
/// paper are off.
pub(super) fn model_config(layout: &Layout, template: &ModelConfig) -> Result<ModelConfig> {
    let vae = vae(&layout.vae, &template.vae)?;
    let config = ModelConfig {
        unet: unet(&layout.unet, vae.latent_channels)?,
        vae,
        scheduler: scheduler(&layout.scheduler, template.scheduler.timestep)?,
        ..template.clone()
    };
    let json = serde_json::to_string(&config).expect("a config is plain data");
    ModelConfig::from_json(&json, &layout.root().display().to_string())
}

fn unet(json: &Json, latent_channels: i64) -> Result<UnetConfig> {
    let mut fields = Fields::new(json, "the UNet");
    fields.needs("_class_name", json!("UNet2DConditionModel"), Value::Null)?;
    for (name, needed) in [
        ("act_fn", json!("silu")),
        ("center_input_sample", json!(false)),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("only_cross_attention", json!(false)),
        ("mid_block_only_cross_attention", Value::Null),
        ("downsample_padding", json!(1)),
        ("mid_block_scale_factor", json!(1)),
        ("norm_eps", json!(1e-5)),
        ("transformer_layers_per_block", json!(1)),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("num_attention_heads", Value::Null),
        ("dual_cross_attention", json!(false)),
        ("class_embed_type", Value::Null),
        ("addition_embed_type", Value::Null),
        ("addition_time_embed_dim", Value::Null),
        ("num_class_embeds", Value::Null),
        ("resnet_time_scale_shift", json!("default")),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1)),
        ("time_embedding_type", json!("positional")),
        ("time_embedding_act_fn", Value::Null),
        ("timestep_post_act", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("projection_class_embeddings_input_dim", Value::Null),
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
        ("cross_attention_norm", Value::Null),
    ] {
        fields.needs(name, needed.clone(), needed)?;
    }
    fields.needs("use_linear_projection", json!(true), json!(false))?;
    for name in ["in_channels", "out_channels"] {
        fields.needs(name, json!(latent_channels), json!(4))?;
    }
    // The size of training images, how sums are rounded, what training drops: none of it changes the network.
    fields.ignore(&[
        "sample_size",
        "upcast_attention",
        "dropout",
        "addition_embed_type_num_heads",
    ]);

    let widths = fields.integers("block_out_channels", json!([320, 640, 1280, 1280]))?;
    let levels = widths.len();
    let down = ["CrossAttnDownBlock2D", "DownBlock2D"];
    let down_default = json!([down[0], down[0], down[0], down[1]]);
    let cross_attention = fields.choices("down_block_types", down, down_default, levels)?;
    let up = ["CrossAttnUpBlock2D", "UpBlock2D"];
    let up_default = json!([up[1], up[0], up[0], up[0]]);
    let mirrored = fields.choices("up_block_types", up, up_default, levels)?;
    if !mirrored.iter().rev().eq(&cross_attention) {
        return Err(fields.refuse("up_block_types", "the mirror image of down_block_types"));
    }
    let config = UnetConfig {
        block: BlockKind::Resnet,
        cross_attention,
        layers_per_block: fields.uniform("layers_per_block", json!(2), levels)? as usize,
        // diffusers has the number of heads under this name, and keeps it for the sake of old files.
        num_attention_heads: fields.per_level("attention_head_dim", json!(8), levels)?,
        cross_attention_dim: fields.uniform("cross_attention_dim", json!(1280), levels)?,
        norm: NormKind::Group {
            num_groups: fields.integer("norm_num_groups", json!(32))?,
        },
        time_embed_dim: match fields.value("time_embedding_dim", Value::Null) {
            Value::Null => widths.first().map_or(0, |width| width * 4),
            _ => fields.integer("time_embedding_dim", Value::Null)?,
        },
        ff_mult: 4,
        self_attention: true,
        block_out_channels: widths,
    };
    fields.nothing_else()?;
    Ok(config)
}

fn vae(json: &Json, template: &VaeConfig) -> Result<VaeConfig> {
    let mut fields = Fields::new(json, "the autoencoder");
    fields.needs("_class_name", json!("AutoencoderKL"), Value::Null)?;
    for (name, needed) in [
        ("in_channels", json!(3)),
        ("out_channels", json!(3)),
        ("act_fn", json!("silu")),
        ("shift_factor", Value::Null),
        ("latents_mean", Value::Null),
        ("latents_std", Value::Null),
        ("use_quant_conv", json!(true)),
        ("use_post_quant_conv", json!(true)),
    ] {
        fields.needs(name, needed.clone(), needed)?;
    }
    fields.ignore(&["sample_size", "force_upcast"]);
    let widths = fields.integers("block_out_channels", json!([64]))?;
    for (name, block) in [
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ] {
        fields.choices(name, [block], json!([block]), widths.len())?;
    }
    let layers = fields.integer("layers_per_block", json!(1))? as usize;
    let config = VaeConfig {
        block: BlockKind::Resnet,
        latent_channels: fields.integer("latent_channels", json!(4))?,
        layers_per_block: Layers::Everywhere(layers),
        decoder_layers_per_block: Layers::Everywhere(layers + 1),
        norm: NormKind::Group {
            num_groups: fields.integer("norm_num_groups", json!(32))?,
        },
        mid_block: true,
        mid_attention: fields.boolean("mid_block_add_attention", true)?,
        skip_layers: template.skip_layers,
        skip_levels: template.skip_levels,
        scaling_factor: fields.number("scaling_factor", json!(0.18215))?,
        patch_size: 1,
        residual_output: false,
        block_out_channels: widths,
    };
    fields.nothing_else()?;
    Ok(config)
}

/// Only the noise schedule counts: with one step there is nothing to choose among samplers, so their fields are left out.
fn scheduler(json: &Json, timestep: usize) -> Result<SchedulerConfig> {
    let mut fields = Fields::new(json, "the noise schedule");
    fields.needs("beta_schedule", json!("scaled_linear"), json!("linear"))?;
    fields.needs("trained_betas", Value::Null, Value::Null)?;
    fields.needs("rescale_betas_zero_snr", json!(false), json!(false))?;
    let prediction_type = fields.value("prediction_type", json!("epsilon"));
    Ok(SchedulerConfig {
        num_train_timesteps: fields.integer("num_train_timesteps", json!(1000))? as usize,
        beta_start: fields.number("beta_start", json!(0.0001))?,
        beta_end: fields.number("beta_end", json!(0.02))?,
        timestep,
        prediction_type: serde_json::from_value::<PredictionType>(prediction_type)
            .map_err(|_| fields.refuse("prediction_type", "epsilon or v_prediction"))?,
    })
}

/// The fields of one file, with a note of those that have been looked at.
struct Fields<'a> {
    json: &'a Json,
    what: &'static str,
    known: BTreeSet<String>,
}

impl<'a> Fields<'a> {
    fn new(json: &'a Json, what: &'static str) -> Self {
        Fields {
            json,
            what,
            known: BTreeSet::new(),
        }
    }

    fn value(&mut self, name: &str, default: Value) -> Value {
        self.known.insert(name.into());
        self.json.fields.get(name).cloned().unwrap_or(default)
    }

    fn refuse(&self, name: &str, needed: &str) -> Error {
        let found = match self.json.fields.get(name) {
            Some(value) => format!("is {value}"),
            None => "is absent".into(),
        };
        let what = self.what;
        wrong(
            &self.json.path,
            format!("{name} {found}, and osdd cannot build {what} unless it is {needed}"),
        )
    }

    /// The field has one value that our code can express; lists need it in each entry.
    fn needs(&mut self, name: &str, needed: Value, default: Value) -> Result<()> {
        match self.value(name, default) {
            Value::Array(items) if items.iter().all(|item| same(item, &needed)) => Ok(()),
            value if same(&value, &needed) => Ok(()),
            _ => Err(self.refuse(name, &needed.to_string())),
        }
    }

    fn ignore(&mut self, names: &[&str]) {
        self.known.extend(names.iter().map(|name| name.to_string()));
    }

    fn integer(&mut self, name: &str, default: Value) -> Result<i64> {
        let value = self.value(name, default).as_i64().filter(|value| *value > 0);
        value.ok_or_else(|| self.refuse(name, "a whole number above 0"))
    }

    fn number(&mut self, name: &str, default: Value) -> Result<f64> {
        let value = self.value(name, default).as_f64();
        value.ok_or_else(|| self.refuse(name, "a number"))
    }

    fn boolean(&mut self, name: &str, default: bool) -> Result<bool> {
        let value = self.value(name, json!(default)).as_bool();
        value.ok_or_else(|| self.refuse(name, "true or false"))
    }

    fn integers(&mut self, name: &str, default: Value) -> Result<Vec<i64>> {
        let value = self.value(name, default);
        let items = value.as_array().filter(|items| !items.is_empty());
        let numbers = items.and_then(|items| items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>());
        numbers.ok_or_else(|| self.refuse(name, "a list of whole numbers"))
    }

    /// One number for all levels, or a list with one for each.
    fn per_level(&mut self, name: &str, default: Value, levels: usize) -> Result<Vec<i64>> {
        if self.value(name, default.clone()).is_number() {
            return Ok(vec![self.integer(name, default)?; levels]);
        }
        let numbers = self.integers(name, default)?;
        if numbers.len() != levels {
            return Err(self.refuse(name, &format!("a list of {levels} numbers, one a level")));
        }
        Ok(numbers)
    }

    fn uniform(&mut self, name: &str, default: Value, levels: usize) -> Result<i64> {
        let numbers = self.per_level(name, default, levels)?;
        match numbers.first() {
            Some(first) if *first > 0 && numbers.iter().all(|n| n == first) => Ok(*first),
            _ => Err(self.refuse(name, "the same at each level, and above 0")),
        }
    }

    /// Per level, whether it has the first of the words in `from`.
    fn choices<const N: usize>(
        &mut self,
        name: &str,
        from: [&str; N],
        default: Value,
        levels: usize,
    ) -> Result<Vec<bool>> {
        let value = self.value(name, default);
        let words = value.as_array().filter(|words| words.len() == levels);
        let first = |word: &Value| {
            let word = word.as_str().filter(|word| from.contains(word))?;
            Some(word == from[0])
        };
        let chosen = words.and_then(|words| words.iter().map(first).collect());
        chosen.ok_or_else(|| self.refuse(name, &format!("a list of {levels}, each {}", from.join(" or "))))
    }

    /// A field that nobody has looked at may change the network, unless it is plainly switched off.
    fn nothing_else(&self) -> Result<()> {
        let unknown = self.json.fields.iter().find(|(name, value)| {
            let off = value.is_null() || **value == json!(false);
            !self.known.contains(*name) && !name.starts_with('_') && !off
        });
        match unknown {
            Some((name, _)) => Err(self.refuse(name, "left out")),
            None => Ok(()),
        }
    }
}

/// Equal, with 1 and 1.0 the same, and null the same as false.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Null, Value::Bool(false)) | (Value::Bool(false), Value::Null) => true,
        _ => a == b,
    }
}

/// Each field in which a model differs from a preset; its name and the dtype on disk do not count.
pub(super) fn differences(config: &ModelConfig, preset: &ModelConfig) -> Vec<String> {
    let tree = |config: &ModelConfig| serde_json::to_value(config).expect("a config is plain data");
    let mut found = Vec::new();
    compare("", &tree(config), &tree(preset), &mut found);
    found.retain(|line| !line.starts_with("name:") && !line.starts_with("weights_dtype:"));
    found
}

fn compare(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                let dot = if path.is_empty() { "" } else { "." };
                let other = b.get(name).unwrap_or(&Value::Null);
                compare(&format!("{path}{dot}{name}"), value, other, found);
            }
        }
        _ if a != b => found.push(format!("{path}: {a}, not {b}")),
        _ => {}
    }
}
