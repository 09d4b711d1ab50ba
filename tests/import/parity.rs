//! What an import gives is what diffusers gives.

use std::fs;

use osdd::config::{
    Layers, ModelConfig, PredictionType, SchedulerConfig, UnetConfig, VaeConfig, WeightsDtype,
};
use osdd::engine::{Device, Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};
use osdd::model::OsddModel;
use osdd::nn::{BlockKind, NormKind, Params};
use osdd::weights::{DiffusersFolder, ImportOptions, Weights};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::folder::{Folder, assert_gives_what_diffusers_gives, import, options, repository};

#[test]
fn an_imported_model_gives_what_diffusers_gives() {
    let folder = Folder::new();
    let out = folder.path("out/tiny");
    let manifest = folder.import(&out);
    assert_gives_what_diffusers_gives(&out, "epsilon", 1e-4);
    let config = Weights::from_dir(&out).unwrap().config;
    assert_eq!(config.name, "tiny");
    assert_eq!(config.vae.skip_layers, 2);
    assert_eq!(config.scheduler.prediction_type, PredictionType::Epsilon);
    assert_eq!(manifest.unused, ["text_encoder"]);
    assert_eq!(manifest.count("unet"), (686, 0));
    assert_eq!(manifest.count("prompt"), (0, 1));

    // The skips start without effect, but not at zero, where no gradient would reach them.
    let weights = Weights::from_dir(&out).unwrap();
    let skip = &weights.base["vae.skip_blocks.0.conv1.weight"];
    assert!(skip.abs().max().double_value(&[]) > 0.0);
    // Again gives the same bytes.
    let again = folder.import(&folder.path("again"));
    assert_eq!(again.tensors, manifest.tensors);
}

/// The file is as `DPMSolverMultistepScheduler` writes it, with a number that is none.
#[test]
fn velocities_are_predicted_where_the_scheduler_says_so() {
    let folder = Folder::new();
    let path = folder.path("scheduler/scheduler_config.json");
    let with_infinity =
        fs::read_to_string(&path)
            .unwrap()
            .replacen('{', "{\"lambda_min_clipped\": -Infinity,", 1);
    fs::write(&path, with_infinity).unwrap();
    let changed = fs::read_to_string(&path)
        .unwrap()
        .replace("epsilon", "v_prediction");
    fs::write(&path, changed).unwrap();
    folder.import(&folder.path("out"));
    assert_gives_what_diffusers_gives(&folder.path("out"), "v_prediction", 1e-4);
}

#[test]
fn old_names_shards_and_bfloat16() {
    let folder = Folder::new();
    folder.change("vae", |tensors| {
        let attention = |name: &String| name.contains("mid_block.attentions.0.to_");
        let names: Vec<String> = tensors.keys().filter(|name| attention(name)).cloned().collect();
        assert_eq!(names.len(), 16);
        for name in names {
            let mut tensor = tensors.remove(&name).unwrap();
            let mut old = name;
            for (new, before) in [
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ] {
                old = old.replace(new, before);
            }
            // The encoder's as 1x1 convolutions, the decoder's as matrices: both have been in files.
            if old.starts_with("encoder") && tensor.dim() == 2 {
                tensor = tensor.unsqueeze(-1).unsqueeze(-1);
            }
            tensors.insert(old, tensor);
        }
    });
    folder.shard("unet");
    let out = folder.path("out");
    let manifest = folder.import(&out);
    assert_gives_what_diffusers_gives(&out, "epsilon", 1e-4);
    assert_eq!(manifest.files.len(), 3);
    let query = manifest
        .tensors
        .iter()
        .find(|record| record.source.contains(".query.weight"));
    assert!(query.unwrap().name.ends_with(".to_q.weight"), "{query:?}");

    for part in ["unet", "vae"] {
        let folder = Folder::new();
        folder.change(part, |tensors| {
            tensors.values_mut().for_each(|t| *t = t.to_kind(Kind::BFloat16));
        });
        // Of one dtype only when both parts are.
        let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
        assert_eq!(opened.config().weights_dtype, WeightsDtype::F32);
    }
    let half = ImportOptions {
        dtype: Some(WeightsDtype::Bf16),
        ..options()
    };
    import(folder.root(), &folder.path("bf16"), &half).unwrap();
    let size = |dir: &str| {
        fs::metadata(folder.path(dir).join("model.safetensors"))
            .unwrap()
            .len()
    };
    assert!(size("bf16") * 10 < size("out") * 6);
    assert_gives_what_diffusers_gives(&folder.path("bf16"), "epsilon", 0.1);
}

#[test]
fn the_engine_runs_an_imported_model() {
    let folder = Folder::new();
    folder.import(&folder.path("out"));
    let engine = Engine::new(EngineConfig {
        model: folder.path("out").display().to_string(),
        device: Device::Cpu,
        tile_size: Some(0),
        gamma: 1.0,
        ..EngineConfig::default()
    })
    .unwrap();
    let mut frame = Frame::new(64, 64, PixelFormat::Rgb8);
    frame
        .data
        .iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = (i * 7 % 256) as u8);
    engine.send(frame.clone()).unwrap();
    let got = engine.receive().unwrap().unwrap().frame;

    let weights = Weights::from_dir(&folder.path("out")).unwrap();
    let model = OsddModel::new(&Params::new(&weights.base), &weights.config).unwrap();
    let pixels = Tensor::from_slice(&frame.data)
        .view([1, 64, 64, 3])
        .permute([0, 3, 1, 2]);
    let x = pixels.to_kind(Kind::Float) / 127.5 - 1.0;
    let y = ((model.forward(&x) + 1.0) * 127.5)
        .clamp(0.0, 255.0)
        .permute([0, 2, 3, 1]);
    let got = Tensor::from_slice(&got.data)
        .view([1, 64, 64, 3])
        .to_kind(Kind::Float);
    assert!((y - got).abs().max().double_value(&[]) <= 0.51);
}

/// What Stable Diffusion 2.1-base's own files say; they leave out fields that diffusers has by default.
#[test]
fn stable_diffusion_2_1_base_becomes_the_preset() {
    let folder = Folder::new();
    folder.set(
        "unet/config.json",
        json!({
            "attention_head_dim": [5, 10, 20, 20],
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 1024,
            "dual_cross_attention": false,
            "norm_num_groups": 32,
            "only_cross_attention": false,
            "sample_size": 64,
            "upcast_attention": null,
        }),
    );
    folder.set(
        "vae/config.json",
        json!({
            "block_out_channels": [128, 256, 512, 512],
            "norm_num_groups": 32,
            "sample_size": 768,
            "scaling_factor": null,
        }),
    );
    let path = repository("models/sd21/config.json");
    let preset = ModelConfig::from_json(&fs::read_to_string(path).unwrap(), "sd21").unwrap();
    assert_eq!(fabricate(&folder, &preset), [686, 248]);
    let opened = DiffusersFolder::open(folder.root(), &ImportOptions::default()).unwrap();
    assert_eq!(opened.config(), &preset);
    assert!(opened.differences().is_empty());

    // The same network at 768 pixels, which predicts velocities.
    folder.set(
        "unet/config.json",
        json!({ "sample_size": 96, "upcast_attention": true }),
    );
    folder.set(
        "scheduler/scheduler_config.json",
        json!({ "_class_name": "DDIMScheduler", "prediction_type": "v_prediction" }),
    );
    let opened = DiffusersFolder::open(folder.root(), &ImportOptions::default()).unwrap();
    let different = "scheduler.prediction_type: \"v_prediction\", not \"epsilon\"";
    assert_eq!(opened.differences(), [different]);
}

/// Whatever our configuration has a field for is taken over, as diffusers writes it.
#[test]
fn other_sizes_of_the_family_are_taken_over() {
    let folder = Folder::new();
    folder.set(
        "unet/config.json",
        json!({
            "attention_head_dim": 2,
            "block_out_channels": [8, 12],
            "cross_attention_dim": [24, 24],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "layers_per_block": [1, 1],
            "norm_num_groups": 4,
            "time_embedding_dim": 20,
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        }),
    );
    folder.set(
        "vae/config.json",
        json!({
            "layers_per_block": 1,
            "mid_block_add_attention": false,
            "norm_num_groups": 3,
            "scaling_factor": 0.5,
        }),
    );
    folder.set(
        "scheduler/scheduler_config.json",
        json!({ "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 500 }),
    );
    let mut expected = options().config.unwrap();
    expected.unet = UnetConfig {
        block: BlockKind::Resnet,
        block_out_channels: vec![8, 12],
        cross_attention: vec![false, true],
        layers_per_block: 1,
        num_attention_heads: vec![2, 2],
        cross_attention_dim: 24,
        norm: NormKind::Group { num_groups: 4 },
        time_embed_dim: 20,
        ..expected.unet
    };
    expected.vae = VaeConfig {
        block: BlockKind::Resnet,
        block_out_channels: vec![6, 8, 12, 12],
        layers_per_block: Layers::Everywhere(1),
        decoder_layers_per_block: Layers::Everywhere(2),
        norm: NormKind::Group { num_groups: 3 },
        mid_attention: false,
        scaling_factor: 0.5,
        ..expected.vae
    };
    expected.scheduler = SchedulerConfig {
        num_train_timesteps: 500,
        beta_start: 0.001,
        beta_end: 0.02,
        ..expected.scheduler
    };
    // Three groups do not divide a width of 8: our own check of a configuration runs too.
    let error = DiffusersFolder::open(folder.root(), &options()).err().unwrap();
    assert!(
        error.to_string().contains("not a multiple of num_groups 3"),
        "{error}"
    );
    expected.vae.norm = NormKind::Group { num_groups: 1 };
    folder.set("vae/config.json", json!({ "norm_num_groups": 1 }));
    fabricate(&folder, &expected);
    let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
    assert_eq!(opened.config(), &expected);
}

/// Weight files of the right size whose data are holes: opening a folder reads headers only. Gives the number of tensors in
/// UNet and autoencoder.
fn fabricate(folder: &Folder, config: &ModelConfig) -> [usize; 2] {
    let mut plain = config.clone();
    plain.vae.skip_layers = 0;
    let shapes = osdd::model::parameter_shapes(&plain).unwrap();
    ["unet", "vae"].map(|part| {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, shape) in &shapes {
            let Some(name) = name.strip_prefix(part).and_then(|name| name.strip_prefix('.')) else {
                continue;
            };
            let start = end;
            end += shape.iter().product::<i64>() * 4;
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
            header.insert(name.to_owned(), entry);
        }
        let count = header.len();
        let header = Value::Object(header).to_string();
        let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        fs::write(folder.weights(part), &start).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(folder.weights(part))
            .unwrap();
        file.set_len(start.len() as u64 + end as u64).unwrap();
        count
    })
}
