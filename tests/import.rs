//! `osdd import`: a folder in diffusers' layout becomes a model that gives what diffusers gives, and every folder that is
//! something else is told what it is.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use osdd::config::{ModelConfig, PredictionType, WeightsDtype};
use osdd::engine::{Device as EngineDevice, Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};
use osdd::model::OsddModel;
use osdd::nn::{Params, TensorMap};
use osdd::weights::{DiffusersFolder, ImportOptions, Manifest, Weights, save_safetensors, verify_import};
use osdd::{Error, ErrorKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> TensorMap {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

/// The fixtures' UNet and autoencoder, made by diffusers, in its folder layout.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for part in ["unet", "vae", "scheduler", "text_encoder"] {
            fs::create_dir(folder.path(part)).unwrap();
        }
        let index = json!({
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [null, null],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        write_json(&folder.path("model_index.json"), &index);
        for (part, class) in [("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")] {
            let about = read_json(&repository(&format!("tests/fixtures/{part}_tiny.json")));
            let mut config = about["config"].clone();
            config["_class_name"] = class.into();
            write_json(&folder.path(part).join("config.json"), &config);
            let fixture = read(&repository(&format!("tests/fixtures/{part}_tiny.safetensors")));
            let own = fixture.into_iter().filter_map(|(name, tensor)| {
                let name = name.strip_prefix(part)?.strip_prefix('.')?;
                Some((name.to_owned(), tensor))
            });
            save_safetensors(&folder.path(part).join(WEIGHTS), &own.collect(), None).unwrap();
        }
        write_json(
            &folder.path("scheduler/scheduler_config.json"),
            &json!({
                "_class_name": "PNDMScheduler",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "num_train_timesteps": 1000,
                "prediction_type": "epsilon",
                "skip_prk_steps": true,
                "trained_betas": null,
            }),
        );
        folder
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn weights(&self, part: &str) -> PathBuf {
        self.path(part).join(WEIGHTS)
    }

    /// Changes fields of one of its JSON files; null takes a field away.
    fn set(&self, file: &str, fields: Value) {
        let path = self.path(file);
        let mut json = read_json(&path);
        for (name, value) in fields.as_object().unwrap() {
            match value {
                Value::Null => drop(json.as_object_mut().unwrap().remove(name)),
                _ => json[name] = value.clone(),
            }
        }
        write_json(&path, &json);
    }

    fn change(&self, part: &str, change: impl FnOnce(&mut TensorMap)) {
        let mut tensors = read(&self.weights(part));
        change(&mut tensors);
        save_safetensors(&self.weights(part), &tensors, None).unwrap();
    }

    /// Cuts a part's weights into two files with an index, as diffusers does with large ones.
    fn shard(&self, part: &str) {
        let tensors = read(&self.weights(part));
        let mut map = serde_json::Map::new();
        let mut halves = [TensorMap::new(), TensorMap::new()];
        for (i, (name, tensor)) in tensors.into_iter().enumerate() {
            map.insert(name.clone(), shard_name(i % 2).into());
            halves[i % 2].insert(name, tensor);
        }
        for (i, half) in halves.iter().enumerate() {
            save_safetensors(&self.path(part).join(shard_name(i)), half, None).unwrap();
        }
        fs::remove_file(self.weights(part)).unwrap();
        let index = self.path(part).join(format!("{WEIGHTS}.index.json"));
        write_json(&index, &json!({ "metadata": {}, "weight_map": map }));
    }

    fn import(&self, out: &Path) -> Manifest {
        import(self.root(), out, &options()).unwrap()
    }
}

fn shard_name(index: usize) -> String {
    format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", index + 1)
}

/// The preset `sd21`, with the fixture's prompt of five tokens.
fn options() -> ImportOptions {
    let path = repository("models/sd21/config.json");
    let mut config = ModelConfig::from_json(&fs::read_to_string(path).unwrap(), "sd21").unwrap();
    config.prompt.tokens = 5;
    ImportOptions {
        config: Some(config),
        ..ImportOptions::default()
    }
}

fn import(dir: &Path, out: &Path, options: &ImportOptions) -> osdd::Result<Manifest> {
    let folder = DiffusersFolder::open(dir, options)?;
    let manifest = folder.import(out, &mut |_| ControlFlow::Continue(()))?;
    Ok(manifest.expect("nobody broke it off"))
}

/// What opening, or else reading, a folder fails with.
fn error_of(dir: &Path, options: &ImportOptions) -> Error {
    let checked = DiffusersFolder::open(dir, options)
        .and_then(|folder| folder.check(&mut |_| ControlFlow::Continue(())));
    checked.err().expect("the folder must be refused")
}

fn assert_close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), expected.size(), "{name}");
    let difference = (got - expected).abs().max().double_value(&[]);
    let relative = difference / expected.abs().max().double_value(&[]);
    assert!(relative < tolerance, "{name}: relative error {relative:.2e}");
}

/// The whole model on the fixture's image, with the fixture's prompt, against diffusers.
fn assert_gives_what_diffusers_gives(model: &Path, output: &str, tolerance: f64) {
    let fixture = read(&repository("tests/fixtures/pipeline_tiny.safetensors"));
    let mut weights = Weights::from_dir(model).unwrap();
    let prompt = read(&repository("tests/fixtures/unet_tiny.safetensors"))
        .remove("fixture.encoder_hidden_states")
        .unwrap();
    weights.base.insert("prompt.embedding".into(), prompt);
    let model = OsddModel::new(&Params::new(&weights.base), &weights.config).unwrap();
    let got = model.forward(&fixture["fixture.image"]);
    assert_close(output, &got, &fixture[&format!("fixture.{output}")], tolerance);
}

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

#[test]
fn velocities_are_predicted_where_the_scheduler_says_so() {
    let folder = Folder::new();
    folder.set(
        "scheduler/scheduler_config.json",
        json!({ "prediction_type": "v_prediction" }),
    );
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
        device: EngineDevice::Cpu,
        tile_size: 0,
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
    fabricate(&folder, &preset);
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

/// Weight files of the right size whose data are holes: opening a folder reads headers only.
fn fabricate(folder: &Folder, config: &ModelConfig) {
    let mut plain = config.clone();
    plain.vae.skip_layers = 0;
    let shapes = osdd::model::parameter_shapes(&plain).unwrap();
    for (part, count) in [("unet", 686), ("vae", 248)] {
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
        assert_eq!(header.len(), count);
        let header = Value::Object(header).to_string();
        let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        fs::write(folder.weights(part), &start).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(folder.weights(part))
            .unwrap();
        file.set_len(start.len() as u64 + end as u64).unwrap();
    }
}

/// Changes a folder; the sentence about it has these words.
type Case = (&'static str, fn(&Folder), &'static [&'static str]);

fn unet(folder: &Folder, fields: Value) {
    folder.set("unet/config.json", fields);
}

fn schedule(folder: &Folder, fields: Value) {
    folder.set("scheduler/scheduler_config.json", fields);
}

#[test]
fn other_models_are_named() {
    let cases: &[Case] = &[
        (
            "SD1.5",
            |f| unet(f, json!({ "cross_attention_dim": 768 })),
            &["Stable Diffusion 1.x", "name a folder"],
        ),
        (
            "SDXL by its UNet",
            |f| {
                unet(
                    f,
                    json!({ "cross_attention_dim": 2048, "addition_embed_type": "text_time" }),
                )
            },
            &["Stable Diffusion XL"],
        ),
        (
            "SDXL by its pipeline, where nothing else is there yet",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "_class_name": "StableDiffusionXLPipeline" }),
                );
                fs::remove_dir_all(f.path("unet")).unwrap();
            },
            &["Stable Diffusion XL"],
        ),
        (
            "SDXL by its two text encoders",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "text_encoder_2": ["transformers", "CLIP"] }),
                )
            },
            &["Stable Diffusion XL", "two text encoders"],
        ),
        (
            "inpainting",
            |f| unet(f, json!({ "in_channels": 9 })),
            &["inpainting", "9 channels"],
        ),
        (
            "depth",
            |f| unet(f, json!({ "in_channels": 5 })),
            &["depth-to-image"],
        ),
        (
            "upscaler",
            |f| unet(f, json!({ "in_channels": 7 })),
            &["x4 upscaler"],
        ),
        (
            "ControlNet in place of the UNet",
            |f| unet(f, json!({ "_class_name": "ControlNetModel" })),
            &["ControlNet"],
        ),
        (
            "a transformer",
            |f| {
                f.set(
                    "model_index.json",
                    json!({ "_class_name": "PixArtPipeline", "unet": null }),
                )
            },
            &["without a UNet", "PixArtPipeline"],
        ),
        (
            "projections as convolutions",
            |f| unet(f, json!({ "use_linear_projection": false })),
            &["unet/config.json", "use_linear_projection is false", "true"],
        ),
        (
            "that field left out",
            |f| unet(f, json!({ "use_linear_projection": null })),
            &["use_linear_projection is absent"],
        ),
        (
            "two cross-attentions",
            |f| unet(f, json!({ "only_cross_attention": [true, false, false, false] })),
            &["only_cross_attention"],
        ),
        (
            "another block",
            |f| {
                unet(
                    f,
                    json!({ "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"] }),
                )
            },
            &["down_block_types", "CrossAttnDownBlock2D or DownBlock2D"],
        ),
        (
            "up blocks that do not mirror the down blocks",
            |f| {
                unet(
                    f,
                    json!({ "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"] }),
                )
            },
            &["up_block_types", "mirror image"],
        ),
        (
            "several transformers a layer",
            |f| unet(f, json!({ "transformer_layers_per_block": [1, 2, 4, 4] })),
            &["transformer_layers_per_block"],
        ),
        (
            "a field from the future",
            |f| unet(f, json!({ "rotary_embedding": "3d" })),
            &["rotary_embedding is \"3d\"", "left out"],
        ),
        (
            "other latents",
            |f| f.set("vae/config.json", json!({ "latent_channels": 16 })),
            &["in_channels is 4", "unless it is 16"],
        ),
        (
            "shifted latents",
            |f| f.set("vae/config.json", json!({ "shift_factor": 0.1 })),
            &["vae/config.json", "shift_factor is 0.1"],
        ),
        (
            "another autoencoder",
            |f| f.set("vae/config.json", json!({ "_class_name": "AutoencoderTiny" })),
            &["AutoencoderTiny", "AutoencoderKL"],
        ),
        (
            "linear betas",
            |f| schedule(f, json!({ "beta_schedule": "linear" })),
            &["beta_schedule is \"linear\"", "scaled_linear"],
        ),
        (
            "betas not given at all, as in flow matching",
            |f| schedule(f, json!({ "beta_schedule": null })),
            &["beta_schedule is absent"],
        ),
        (
            "zero terminal SNR",
            |f| schedule(f, json!({ "rescale_betas_zero_snr": true })),
            &["rescale_betas_zero_snr is true"],
        ),
        (
            "a UNet that predicts the sample",
            |f| schedule(f, json!({ "prediction_type": "sample" })),
            &["prediction_type is \"sample\"", "epsilon or v_prediction"],
        ),
    ];
    refused(cases);
}

#[test]
fn incomplete_folders_say_what_is_missing() {
    let cases: &[Case] = &[
        (
            "missing files",
            |f| {
                fs::remove_file(f.path("vae/config.json")).unwrap();
                fs::remove_file(f.weights("unet")).unwrap();
            },
            &[
                "vae/config.json and unet/diffusion_pytorch_model.safetensors are missing",
                "download",
            ],
        ),
        (
            "no index",
            |f| fs::remove_file(f.path("model_index.json")).unwrap(),
            &["model_index.json is missing"],
        ),
        (
            "a shard",
            |f| {
                f.shard("unet");
                fs::remove_file(f.path("unet").join(shard_name(1))).unwrap();
            },
            &["unet/diffusion_pytorch_model-00002-of-00002.safetensors is missing"],
        ),
        (
            "a download that goes on",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                fs::create_dir_all(f.path(".cache/huggingface/download/vae")).unwrap();
                fs::write(f.path(".cache/huggingface/download/vae/abc.incomplete"), "x").unwrap();
            },
            &["is missing", "unfinished: abc.incomplete"],
        ),
        (
            "cut off in its data",
            |f| {
                let bytes = fs::read(f.weights("vae")).unwrap();
                fs::write(f.weights("vae"), &bytes[..bytes.len() - 10]).unwrap();
            },
            &[
                "vae/diffusion_pytorch_model.safetensors",
                "the download has stopped",
            ],
        ),
        (
            "cut off in its header",
            |f| {
                let bytes = fs::read(f.weights("unet")).unwrap();
                fs::write(f.weights("unet"), &bytes[..1000]).unwrap();
            },
            &["1000 of", "the download has stopped"],
        ),
        (
            "an empty file",
            |f| fs::write(f.weights("vae"), "").unwrap(),
            &["0 bytes"],
        ),
        (
            "a web page",
            |f| fs::write(f.weights("vae"), "<!DOCTYPE html><title>Sign in</title>").unwrap(),
            &["does not begin with a header"],
        ),
        (
            "a damaged header",
            |f| {
                let mut bytes = fs::read(f.weights("vae")).unwrap();
                bytes[20] = 7;
                fs::write(f.weights("vae"), bytes).unwrap();
            },
            &["header is damaged"],
        ),
        (
            "git-lfs pointers",
            |f| {
                let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
                fs::write(f.weights("unet"), pointer).unwrap();
            },
            &["git-lfs pointer", "git lfs pull"],
        ),
        (
            "half a JSON file",
            |f| fs::write(f.path("vae/config.json"), "{\"act_fn\":").unwrap(),
            &["vae/config.json", "not valid JSON"],
        ),
        (
            "a link to nowhere",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                std::os::unix::fs::symlink("../../blobs/0123", f.weights("vae")).unwrap();
            },
            &["link to a file that is not there"],
        ),
        (
            "fp16 only",
            |f| {
                fs::rename(
                    f.weights("unet"),
                    f.path("unet/diffusion_pytorch_model.fp16.safetensors"),
                )
                .unwrap()
            },
            &["only the fp16 variant", "--allow-fp16"],
        ),
        (
            "another variant only",
            |f| {
                fs::rename(
                    f.weights("unet"),
                    f.path("unet/diffusion_pytorch_model.non_ema.safetensors"),
                )
                .unwrap()
            },
            &["non_ema", "no diffusion_pytorch_model.safetensors"],
        ),
        (
            "pickles only",
            |f| fs::rename(f.weights("vae"), f.path("vae/diffusion_pytorch_model.bin")).unwrap(),
            &[
                "diffusion_pytorch_model.bin",
                "may run code",
                "safe_serialization",
            ],
        ),
        (
            "an index that leads elsewhere",
            |f| {
                fs::remove_file(f.weights("vae")).unwrap();
                let index = f.path("vae").join(format!("{WEIGHTS}.index.json"));
                write_json(&index, &json!({ "weight_map": { "a": "../../x.safetensors" } }));
            },
            &["index names no safetensors files beside it"],
        ),
    ];
    refused(cases);
}

fn refused(cases: &[Case]) {
    for (name, change, expected) in cases {
        let folder = Folder::new();
        change(&folder);
        let error = error_of(folder.root(), &options());
        let text = error.to_string();
        for words in *expected {
            assert!(text.contains(words), "{name}: '{words}' is not in: {text}");
        }
        assert_eq!(text.lines().count(), 1, "{name}: {text}");
        assert_eq!(error.kind(), ErrorKind::Read, "{name}: {text}");
    }
}

#[test]
fn each_tensor_is_checked() {
    let name = "encoder.conv_in.weight";
    let error = |part: &str, change: &dyn Fn(&mut TensorMap)| {
        let folder = Folder::new();
        folder.change(part, |tensors| change(tensors));
        let error = error_of(folder.root(), &options());
        assert!(
            error.to_string().contains(&format!("{part}/{WEIGHTS}")),
            "{error}"
        );
        error
    };
    let missing = error("vae", &|t| drop(t.remove(name)));
    assert!(
        matches!(&missing, Error::TensorMissing { name: n, .. } if n == name),
        "{missing}"
    );
    let unexpected = error("vae", &|t| {
        drop(t.insert("encoder.extra".into(), t[name].shallow_clone()))
    });
    assert!(
        matches!(&unexpected, Error::TensorUnexpected { name, .. } if name == "encoder.extra"),
        "{unexpected}"
    );
    // As many numbers, in another shape.
    let shape = error("unet", &|t| {
        let turned = t["conv_in.weight"].transpose(0, 1).contiguous();
        t.insert("conv_in.weight".into(), turned);
    });
    assert!(
        matches!(&shape, Error::TensorShape { name, .. } if name == "conv_in.weight"),
        "{shape}"
    );
    // Only the autoencoder's attention may come as a convolution.
    let convolution = error("unet", &|t| {
        let name = "mid_block.attentions.0.proj_in.weight";
        let wide = t[name].unsqueeze(-1).unsqueeze(-1);
        t.insert(name.into(), wide);
    });
    assert!(matches!(convolution, Error::TensorShape { .. }), "{convolution}");
    let dtype = error("vae", &|t| {
        let integer = t[name].to_kind(Kind::Int64);
        t.insert(name.into(), integer);
    });
    assert!(
        matches!(&dtype, Error::TensorDtype { got, .. } if got == "I64"),
        "{dtype}"
    );
    let nan = error("unet", &|t| {
        let _ = t["conv_in.weight"].view([-1]).get(3).fill_(f64::NAN);
    });
    assert!(
        matches!(&nan, Error::TensorNotFinite { name, .. } if name == "conv_in.weight"),
        "{nan}"
    );
    let both = error("vae", &|t| {
        let name = "decoder.mid_block.attentions.0.to_q.bias";
        t.insert(name.replace("to_q", "query"), t[name].shallow_clone());
    });
    assert!(matches!(both, Error::TensorTwice { .. }), "{both}");
}

#[test]
fn half_precision_needs_consent() {
    let folder = Folder::new();
    for part in ["unet", "vae"] {
        folder.change(part, |tensors| {
            tensors.values_mut().for_each(|t| *t = t.to_kind(Kind::Half));
        });
    }
    let text = error_of(folder.root(), &options()).to_string();
    assert!(text.contains("this is an fp16 variant"), "{text}");
    for part in ["unet", "vae"] {
        let variant = folder.path(part).join("diffusion_pytorch_model.fp16.safetensors");
        fs::rename(folder.weights(part), variant).unwrap();
    }
    let consent = ImportOptions {
        allow_fp16: true,
        ..options()
    };
    import(folder.root(), &folder.path("out"), &consent).unwrap();
    assert_eq!(
        Weights::from_dir(&folder.path("out"))
            .unwrap()
            .config
            .weights_dtype,
        WeightsDtype::F16
    );
    assert_gives_what_diffusers_gives(&folder.path("out"), "epsilon", 0.02);
}

#[test]
fn numbers_beyond_half_precision_are_refused() {
    let folder = Folder::new();
    folder.change("unet", |tensors| {
        let _ = tensors["conv_in.bias"].view([-1]).get(0).fill_(1e6);
    });
    let half = ImportOptions {
        dtype: Some(WeightsDtype::F16),
        ..options()
    };
    let error = error_of(folder.root(), &half);
    assert!(error.to_string().contains("unet.conv_in.bias"), "{error}");
}

#[test]
fn places_that_are_no_folder_of_a_model() {
    let folder = Folder::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let text = |path: &Path| error_of(path, &options()).to_string();
    assert!(text(&folder.weights("unet")).contains("single-file checkpoint"));
    assert!(
        text(&folder.path("unet"))
            .contains("one part of a model (UNet2DConditionModel); name the folder above")
    );
    assert!(text(elsewhere.path()).contains("no model_index.json"));
    fs::write(elsewhere.path().join("v2-1_512-ema-pruned.ckpt"), "x").unwrap();
    assert!(text(elsewhere.path()).contains("single-file checkpoint v2-1_512-ema-pruned.ckpt"));
    write_json(
        &elsewhere.path().join("config.json"),
        &json!({ "_class_name": "ControlNetModel" }),
    );
    assert!(text(elsewhere.path()).contains("this is a ControlNet"));
    assert!(text(&repository("models/nano")).contains("model of osdd already"));
    assert_eq!(
        error_of(&elsewhere.path().join("nothing"), &options()).kind(),
        ErrorKind::NotFound
    );
}

/// `blobs` named after their SHA-256, and links to them, as the hub's client lays out its cache.
#[test]
fn the_hubs_cache_is_found_through_its_links_and_its_checksums_hold() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--someone--tiny");
    let snapshot = model.join("snapshots/0a1b");
    fs::create_dir_all(model.join("blobs")).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots/other")).unwrap();
    let folder = Folder::new();
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        &format!("unet/{WEIGHTS}"),
        &format!("vae/{WEIGHTS}"),
    ];
    for file in files {
        let bytes = fs::read(folder.path(file)).unwrap();
        let sum: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let link = snapshot.join(file);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(model.join("blobs").join(&sum), bytes).unwrap();
        std::os::unix::fs::symlink(model.join("blobs").join(&sum), link).unwrap();
    }
    let text = error_of(&model, &options()).to_string();
    assert!(text.contains("2 snapshots"), "{text}");
    assert!(
        error_of(cache.path(), &options())
            .to_string()
            .contains("models--someone--tiny")
    );
    fs::write(model.join("refs/main"), "0a1b\n").unwrap();
    for dir in [&model, &model.join("snapshots"), &snapshot] {
        let opened = DiffusersFolder::open(dir, &options()).unwrap();
        let manifest = opened.check(&mut |_| ControlFlow::Continue(())).unwrap().unwrap();
        assert!(manifest.files.iter().all(|file| file.as_on_the_hub));
    }

    let blob = snapshot.join("unet").join(WEIGHTS).canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blob, bytes).unwrap();
    let text = error_of(&model, &options()).to_string();
    assert!(text.contains("as on the hub"), "{text}");
}

/// A download into a plain folder has its checksums in notes beside it, which end to count when a file is replaced.
#[test]
fn the_hubs_notes_beside_a_download_are_believed_until_the_file_changes() {
    let folder = Folder::new();
    let notes = folder.path(".cache/huggingface/download/vae");
    fs::create_dir_all(&notes).unwrap();
    let note = |time: f64| {
        let sum = "0".repeat(64);
        fs::write(
            notes.join(format!("{WEIGHTS}.metadata")),
            format!("c0ffee\n{sum}\n{time}\n"),
        )
        .unwrap();
    };
    note(4e9);
    assert!(
        error_of(folder.root(), &options())
            .to_string()
            .contains("as on the hub")
    );
    note(1e9);
    let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
    let manifest = opened.check(&mut |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert!(manifest.files.iter().all(|file| !file.as_on_the_hub));
}

#[test]
fn a_model_appears_whole_or_not_at_all() {
    let folder = Folder::new();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("model");
    let is_empty = || fs::read_dir(parent.path()).unwrap().next().is_none();
    let opened = DiffusersFolder::open(folder.root(), &options()).unwrap();
    let stopped = opened.import(&out, &mut |progress| match progress.tensors {
        700.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(stopped.unwrap().is_none());
    assert!(is_empty());

    // NaN in the last tensor that is read.
    folder.change("vae", |tensors| {
        let _ = tensors["quant_conv.weight"].view([-1]).get(0).fill_(f64::NAN);
    });
    assert!(import(folder.root(), &out, &options()).is_err());
    assert!(is_empty());

    let folder = Folder::new();
    fs::create_dir(&out).unwrap();
    folder.import(&out);
    let error = import(folder.root(), &out, &options()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_changed_model_is_noticed() {
    let folder = Folder::new();
    let out = folder.path("out");
    let written = folder.import(&out);
    let verify = || verify_import(&out, &mut |_| ControlFlow::Continue(()));
    assert_eq!(verify().unwrap().unwrap(), written);

    // Adapters that are trained later lie beside it.
    let lora = TensorMap::from([(
        "lora_r.x".to_owned(),
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
    )]);
    save_safetensors(&out.join("lora.safetensors"), &lora, None).unwrap();
    assert!(verify().unwrap().is_some());

    let path = out.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = verify().unwrap_err();
    assert!(
        error.to_string().contains("no longer what was imported"),
        "{error}"
    );

    let mut tensors = read(&path);
    tensors.remove("unet.conv_out.bias");
    save_safetensors(&path, &tensors, None).unwrap();
    let error = verify().unwrap_err();
    assert!(
        matches!(error, Error::TensorMissing { .. } | Error::Config { .. }),
        "{error}"
    );
    fs::remove_file(out.join("import.json")).unwrap();
    assert_eq!(verify().unwrap_err().kind(), ErrorKind::NotFound);
}
