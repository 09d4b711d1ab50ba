//! A small folder in diffusers' layout, and what is done to it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use osdd::Error;
use osdd::config::ModelConfig;
use osdd::model::OsddModel;
use osdd::nn::{Params, TensorMap};
use osdd::weights::{DiffusersFolder, ImportOptions, Manifest, Weights, save_safetensors};
use serde_json::{Value, json};
use tch::Tensor;
use tempfile::TempDir;

pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

pub(super) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(super) fn read(path: &Path) -> TensorMap {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

pub(super) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub(super) fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

/// The fixtures' UNet and autoencoder, made by diffusers, in its folder layout.
pub(super) struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
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

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn weights(&self, part: &str) -> PathBuf {
        self.path(part).join(WEIGHTS)
    }

    /// Changes fields of one of its JSON files; null takes a field away.
    pub fn set(&self, file: &str, fields: Value) {
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

    pub fn change(&self, part: &str, change: impl FnOnce(&mut TensorMap)) {
        let mut tensors = read(&self.weights(part));
        change(&mut tensors);
        save_safetensors(&self.weights(part), &tensors, None).unwrap();
    }

    /// Cuts a part's weights into two files with an index, as diffusers does with large ones.
    pub fn shard(&self, part: &str) {
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

    pub fn import(&self, out: &Path) -> Manifest {
        import(self.root(), out, &options()).unwrap()
    }
}

pub(super) fn shard_name(index: usize) -> String {
    format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", index + 1)
}

/// The preset `sd21`, with the fixture's prompt of five tokens.
pub(super) fn options() -> ImportOptions {
    let path = repository("models/sd21/config.json");
    let mut config = ModelConfig::from_json(&fs::read_to_string(path).unwrap(), "sd21").unwrap();
    config.prompt.tokens = 5;
    ImportOptions {
        config: Some(config),
        ..ImportOptions::default()
    }
}

pub(super) fn import(dir: &Path, out: &Path, options: &ImportOptions) -> osdd::Result<Manifest> {
    let folder = DiffusersFolder::open(dir, options)?;
    let manifest = folder.import(out, &mut |_| ControlFlow::Continue(()))?;
    Ok(manifest.expect("nobody broke it off"))
}

/// What opening, or else reading, a folder fails with.
pub(super) fn error_of(dir: &Path, options: &ImportOptions) -> Error {
    let checked = DiffusersFolder::open(dir, options)
        .and_then(|folder| folder.check(&mut |_| ControlFlow::Continue(())));
    checked.expect_err("the folder must be refused")
}

pub(super) fn assert_close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), expected.size(), "{name}");
    let difference = (got - expected).abs().max().double_value(&[]);
    let relative = difference / expected.abs().max().double_value(&[]);
    assert!(relative < tolerance, "{name}: relative error {relative:.2e}");
}

/// The whole model on the fixture's image, with the fixture's prompt, against diffusers.
pub(super) fn assert_gives_what_diffusers_gives(model: &Path, output: &str, tolerance: f64) {
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
