//! Layer by layer against diffusers and PEFT: `tests/fixtures/make_fixtures.py` made the numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use osdd::config::{Layers, ModelConfig, PredictionType, SchedulerConfig, UnetConfig, VaeConfig};
use osdd::model::{Evae, OneStep, UNet2DConditionModel, alphas_cumprod, parameter_shapes};
use osdd::nn::{BlockKind, NormKind, Params, TensorMap};
use osdd::weights::{EndPoints, Keep, Weights};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn tensors(name: &str) -> TensorMap {
    let pairs = Tensor::read_safetensors(fixture(name)).unwrap();
    pairs.into_iter().collect()
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_i64().unwrap())
        .collect()
}

/// Largest difference, relative to the largest expected value.
fn assert_close(name: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.size(), expected.size(), "{name}");
    let difference = (got - expected).abs().max().double_value(&[]);
    let relative = difference / expected.abs().max().double_value(&[]);
    assert!(relative < TOLERANCE, "{name}: relative error {relative:.2e}");
}

/// Compares every layer that the fixture has and that the model shows; none of the fixture's may be left out.
fn compare_layers(case: &str, expected: &TensorMap, seen: &BTreeMap<String, Tensor>, expect: &[&str]) {
    let mut compared = 0;
    for (name, tensor) in seen {
        if let Some(value) = expected.get(&format!("fixture.{case}.{name}")) {
            assert_close(&format!("{case} {name}"), tensor, value);
            compared += 1;
        }
    }
    for name in expect {
        assert!(seen.contains_key(*name), "{case}: {name} was not seen");
    }
    assert!(
        compared >= expect.len(),
        "{case}: only {compared} layers compared"
    );
}

fn unet_config() -> UnetConfig {
    let config = &json("unet_tiny.json")["config"];
    let widths = numbers(&config["block_out_channels"]);
    let types = config["down_block_types"].as_array().unwrap();
    UnetConfig {
        block: BlockKind::Resnet,
        cross_attention: types.iter().map(|t| t == "CrossAttnDownBlock2D").collect(),
        layers_per_block: config["layers_per_block"].as_u64().unwrap() as usize,
        // diffusers calls the number of heads by this name.
        num_attention_heads: numbers(&config["attention_head_dim"]),
        cross_attention_dim: config["cross_attention_dim"].as_i64().unwrap(),
        norm: NormKind::Group {
            num_groups: config["norm_num_groups"].as_i64().unwrap(),
        },
        time_embed_dim: widths[0] * 4,
        ff_mult: 4,
        self_attention: true,
        block_out_channels: widths,
    }
}

fn vae_config(skip_layers: usize) -> VaeConfig {
    let config = &json("vae_tiny.json")["config"];
    let layers = config["layers_per_block"].as_u64().unwrap() as usize;
    VaeConfig {
        block: BlockKind::Resnet,
        latent_channels: config["latent_channels"].as_i64().unwrap(),
        block_out_channels: numbers(&config["block_out_channels"]),
        layers_per_block: Layers::Everywhere(layers),
        decoder_layers_per_block: Layers::Everywhere(layers + 1),
        norm: NormKind::Group {
            num_groups: config["norm_num_groups"].as_i64().unwrap(),
        },
        mid_block: true,
        mid_attention: true,
        skip_layers,
        skip_levels: None,
        scaling_factor: config["scaling_factor"].as_f64().unwrap(),
        patch_size: 1,
        residual_output: false,
    }
}

#[test]
fn unet_matches_diffusers_layer_by_layer() {
    let file = tensors("unet_tiny.safetensors");
    let unet = UNet2DConditionModel::new(&Params::new(&file).pp("unet"), &unet_config(), 4).unwrap();
    let prompt = &file["fixture.encoder_hidden_states"];
    for case in ["square", "wide"] {
        let mut seen = BTreeMap::new();
        let sample = &file[&format!("fixture.{case}.sample")];
        let output = unet.observed(sample, 399.0, prompt, &mut |name, x| {
            seen.insert(name.to_string(), x.shallow_clone());
        });
        seen.insert("output".into(), output);
        let blocks = (0..4).flat_map(|i| [format!("down_blocks.{i}"), format!("up_blocks.{i}")]);
        let names: Vec<String> = blocks
            .chain(["conv_in", "mid_block", "output"].map(String::from))
            .collect();
        compare_layers(
            case,
            &file,
            &seen,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn channels_last_gives_the_same_as_contiguous() {
    let file = tensors("unet_tiny.safetensors");
    let unet = UNet2DConditionModel::new(&Params::new(&file).pp("unet"), &unet_config(), 4).unwrap();
    let sample = osdd::nn::channels_last(&file["fixture.wide.sample"]);
    let output = unet.forward(&sample, 399.0, &file["fixture.encoder_hidden_states"]);
    assert_close("channels-last output", &output, &file["fixture.wide.output"]);
}

fn compare_vae(vae: &Evae, inputs: &TensorMap, expected: &TensorMap, expect: &[&str]) {
    for case in ["square", "wide"] {
        let image = &inputs[&format!("fixture.{case}.image")];
        let mut seen = BTreeMap::new();
        let mut observe = |name: std::fmt::Arguments, x: &Tensor| {
            seen.insert(name.to_string(), x.shallow_clone());
        };
        let encoded = vae.encode_observed(image, &mut observe);
        let output = vae.decode_observed(&encoded.latents, &encoded.skips, None, &mut observe);
        seen.insert("output".into(), output);
        seen.insert("latents".into(), encoded.latents);
        let expect = if case == "square" { expect } else { &["output"] };
        compare_layers(case, expected, &seen, expect);
    }
}

#[test]
fn vae_matches_diffusers_layer_by_layer() {
    let file = tensors("vae_tiny.safetensors");
    let vae = Evae::new(&Params::new(&file).pp("vae"), &vae_config(0)).unwrap();
    let mut names: Vec<String> = (0..4)
        .flat_map(|i| {
            [
                format!("encoder.down_blocks.{i}.resnets.1"),
                format!("decoder.up_blocks.{i}"),
            ]
        })
        .collect();
    let single = "encoder.conv_in encoder.mid_block quant_conv latents post_quant_conv decoder.conv_in decoder.mid_block output";
    names.extend(single.split(' ').map(String::from));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    compare_vae(&vae, &file, &file, &names);
}

#[test]
fn evae_matches_the_reference_with_skips() {
    let plain = tensors("vae_tiny.safetensors");
    let own = tensors("evae_tiny.safetensors");
    let mut merged = tensors("vae_tiny.safetensors");
    merged.extend(own.iter().map(|(k, v)| (k.clone(), v.shallow_clone())));
    let vae = Evae::new(&Params::new(&merged).pp("vae"), &vae_config(2)).unwrap();
    let names = [
        "skip_blocks.0",
        "skip_blocks.1",
        "skip_blocks.2",
        "skip_blocks.3",
        "output",
    ];
    compare_vae(&vae, &plain, &own, &names);
}

#[test]
fn merged_adapters_match_an_unmerged_forward() {
    let base = tensors("unet_tiny.safetensors");
    let lora = tensors("lora_tiny.safetensors");
    let about = json("lora_tiny.json");
    let rank = about["rank"].as_i64().unwrap();
    let mut config = tiny_model();
    config.lora.rank = rank;
    config.lora.alpha = rank as f64;
    config.lora.scopes = vec!["unet".into()];
    config.lora.targets = about["target_modules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap().into())
        .collect();
    // The fixture gives each set a scale of its own; ours share one, so fold the difference into B.
    let set = |prefix: &str| -> TensorMap {
        let scale = about["alpha"][prefix].as_f64().unwrap() / rank as f64;
        let own = lora.iter().filter_map(|(name, t)| {
            let name = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((
                name.to_owned(),
                if name.ends_with("lora_B.weight") {
                    t * scale
                } else {
                    t.shallow_clone()
                },
            ))
        });
        own.collect()
    };
    let mut weights = Weights {
        base: base
            .iter()
            .filter(|(k, _)| k.starts_with("unet."))
            .map(|(k, v)| (k.clone(), v.shallow_clone()))
            .collect(),
        lora_r: Some(set("lora_r")),
        lora_s: Some(set("lora_s")),
        config,
    };
    assert_eq!(
        weights.lora_r.as_ref().unwrap().len(),
        2 * about["modules"].as_array().map_or(258, Vec::len)
    );
    // The UNet stands alone here; the adapters name no other part.
    weights.config.lora.scopes = vec!["unet".into()];
    let mut merged = EndPoints::new(&weights, Device::Cpu, Kind::Float, Keep::EndPoints)
        .unwrap()
        .merged(0.5)
        .unwrap();
    let unet =
        UNet2DConditionModel::new(&Params::new(merged.tensors()).pp("unet"), &unet_config(), 4).unwrap();
    for case in about["cases"].as_array().unwrap() {
        let gamma = case["gamma"].as_f64().unwrap();
        merged.set_gamma(gamma).unwrap();
        let output = unet.forward(
            &base["fixture.square.sample"],
            399.0,
            &base["fixture.encoder_hidden_states"],
        );
        let name = case["output"].as_str().unwrap();
        let expected = lora
            .get(name)
            .unwrap_or_else(|| &lora[&format!("fixture.square.{name}")]);
        assert_close(&format!("gamma {gamma}"), &output, expected);
    }
}

/// A model whose UNet is the fixture's.
fn tiny_model() -> ModelConfig {
    let mut config = sd21();
    config.unet = unet_config();
    config.vae = vae_config(2);
    config.prompt.tokens = 5;
    config
}

fn sd21() -> ModelConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sd21/config.json");
    ModelConfig::from_json(&std::fs::read_to_string(path).unwrap(), "sd21").unwrap()
}

#[test]
fn one_step_matches_the_scheduler() {
    let about = json("one_step.json");
    let config = sd21().scheduler;
    assert_eq!(config.timestep, 399);
    let alphas = alphas_cumprod(&config);
    for (t, expected) in about["alphas_cumprod"].as_object().unwrap() {
        let (got, expected) = (alphas[t.parse::<usize>().unwrap()], expected.as_f64().unwrap());
        assert!(
            (got / expected - 1.0).abs() < 1e-9,
            "t = {t}: {got} against {expected}"
        );
    }
    let equation = &about["equation_8"];
    let tensor = |name: &str| {
        let values: Vec<f64> = equation[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        Tensor::from_slice(&values)
            .view(numbers(&equation["shape"]).as_slice())
            .to_kind(Kind::Float)
    };
    for (prediction_type, expected) in [
        (PredictionType::Epsilon, "z_h"),
        (PredictionType::VPrediction, "z_h_v_prediction"),
    ] {
        let step = OneStep::new(&SchedulerConfig {
            timestep: 399,
            prediction_type,
            ..config.clone()
        });
        let z_h = step.denoise(&tensor("z_t"), &tensor("noise_prediction"));
        assert_close(expected, &z_h, &tensor(expected));
    }
}

#[test]
fn sd21_has_the_published_parameter_counts() {
    let shapes = parameter_shapes(&sd21()).unwrap();
    let count = |keep: &dyn Fn(&str) -> bool| -> i64 {
        let own = shapes.iter().filter(|(name, _)| keep(name));
        own.map(|(_, shape)| shape.iter().product::<i64>()).sum()
    };
    assert_eq!(count(&|name| name.starts_with("unet.")), 865_910_724);
    assert_eq!(
        shapes.keys().filter(|name| name.starts_with("unet.")).count(),
        686
    );
    assert_eq!(shapes["prompt.embedding"], [1, 77, 1024]);
    let mut plain = sd21();
    plain.vae.skip_layers = 0;
    let plain = parameter_shapes(&plain).unwrap();
    let vae: i64 = plain
        .iter()
        .filter(|(n, _)| n.starts_with("vae."))
        .map(|(_, s)| s.iter().product::<i64>())
        .sum();
    assert_eq!(vae, 83_653_863);
}
