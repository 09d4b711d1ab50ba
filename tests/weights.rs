//! Every way in which a model on disk can be wrong is an error of its own, which names tensor and file.

use std::path::Path;

use osdd::config::ModelConfig;
use osdd::nn::TensorMap;
use osdd::weights::{Weights, load_model, lora_shapes, save_safetensors};
use osdd::{Error, ErrorKind};
use tch::{Device, Kind, Tensor};

/// A small model on disk, with both adapters.
fn write_model(dir: &Path) -> Weights {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small_model.json");
    let config = ModelConfig::from_json(&std::fs::read_to_string(config).unwrap(), "small_model").unwrap();
    let random = |shapes: std::collections::BTreeMap<String, Vec<i64>>| -> TensorMap {
        let tensor = |shape: &Vec<i64>| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.1;
        shapes
            .iter()
            .map(|(name, shape)| (name.clone(), tensor(shape)))
            .collect()
    };
    tch::manual_seed(3);
    let weights = Weights {
        base: random(osdd::model::parameter_shapes(&config).unwrap()),
        lora_r: Some(random(lora_shapes(&config).unwrap())),
        lora_s: Some(random(lora_shapes(&config).unwrap())),
        config,
    };
    weights.save(dir).unwrap();
    weights
}

fn read(dir: &Path) -> TensorMap {
    Tensor::read_safetensors(dir.join("model.safetensors"))
        .unwrap()
        .into_iter()
        .collect()
}

/// The error that loading gives after `change` to the tensors on disk.
fn error_after(change: impl FnOnce(&mut TensorMap)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let mut tensors = read(dir.path());
    change(&mut tensors);
    save_safetensors(&dir.path().join("model.safetensors"), &tensors, None).unwrap();
    let error = Weights::from_dir(dir.path())
        .err()
        .expect("the change must be noticed");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Read);
    error
}

const NAME: &str = "unet.conv_in.weight";

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let saved = write_model(dir.path());
    let loaded = Weights::from_dir(dir.path()).unwrap();
    assert_eq!(loaded.config, saved.config);
    for (a, b) in [
        (&saved.base, &loaded.base),
        (saved.lora_r.as_ref().unwrap(), loaded.lora_r.as_ref().unwrap()),
        (saved.lora_s.as_ref().unwrap(), loaded.lora_s.as_ref().unwrap()),
    ] {
        assert!(a.keys().eq(b.keys()));
        assert!(a.iter().all(|(name, tensor)| tensor == &b[name]));
    }
}

#[test]
fn saving_replaces_what_was_saved_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let stale = dir.path().join("model-00001-of-00002.safetensors");
    std::fs::rename(dir.path().join("model.safetensors"), &stale).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    write_model(dir.path());
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "notes.txt"]);
    Weights::from_dir(dir.path()).unwrap();
}

#[test]
fn a_missing_tensor() {
    let error = error_after(|t| drop(t.remove(NAME)));
    assert!(
        matches!(&error, Error::TensorMissing { name, .. } if name == NAME),
        "{error}"
    );
}

#[test]
fn half_an_adapter() {
    let name = "lora_s.unet.conv_in.lora_B.weight";
    let error = error_after(|t| drop(t.remove(name)));
    assert!(
        matches!(&error, Error::TensorMissing { name: n, .. } if n == name),
        "{error}"
    );
}

#[test]
fn an_unexpected_tensor() {
    let error = error_after(|t| {
        drop(t.insert(
            "unet.extra".into(),
            Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        ))
    });
    assert!(
        matches!(&error, Error::TensorUnexpected { name, .. } if name == "unet.extra"),
        "{error}"
    );
}

#[test]
fn a_wrong_shape() {
    // One that broadcasts, which a careless loader would take.
    let error = error_after(|t| {
        drop(t.insert(
            "unet.conv_in.bias".into(),
            Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        ))
    });
    assert!(
        matches!(&error, Error::TensorShape { got, .. } if got == &[1]),
        "{error}"
    );
}

#[test]
fn a_wrong_dtype() {
    let error = error_after(|t| {
        let half = t[NAME].to_kind(Kind::Half);
        t.insert(NAME.into(), half);
    });
    assert!(
        matches!(&error, Error::TensorDtype { got, .. } if got == "F16"),
        "{error}"
    );
}

#[test]
fn nan_inside() {
    let error = error_after(|t| {
        let _ = t[NAME].view([-1]).get(7).fill_(f64::NAN);
    });
    assert!(
        matches!(&error, Error::TensorNotFinite { name, .. } if name == NAME),
        "{error}"
    );
}

#[test]
fn a_truncated_file_and_one_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for broken in [
        &bytes[..bytes.len() - 10],
        &bytes[..100],
        b"not safetensors at all",
        b"",
    ] {
        std::fs::write(&path, broken).unwrap();
        let error = Weights::from_dir(dir.path()).err().expect("broken");
        assert!(matches!(error, Error::NotSafetensors { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Read);
    }
}

#[test]
fn a_tensor_in_two_files() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let again = TensorMap::from([(NAME.to_owned(), read(dir.path())[NAME].shallow_clone())]);
    save_safetensors(&dir.path().join("second.safetensors"), &again, None).unwrap();
    let error = Weights::from_dir(dir.path()).err().expect("twice");
    assert!(
        matches!(&error, Error::TensorTwice { name, .. } if name == NAME),
        "{error}"
    );
}

#[test]
fn a_bad_config_and_a_missing_model() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let path = dir.path().join("config.json");
    let json = std::fs::read_to_string(&path).unwrap();
    for broken in [
        "{".to_owned(),
        json.replace("\"prompt\"", "\"promt\""),
        json.replace("\"rank\": 2", "\"rank\": 0"),
    ] {
        assert_ne!(broken, json);
        std::fs::write(&path, broken).unwrap();
        let error = Weights::from_dir(dir.path()).err().expect("bad config");
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    let error = load_model("no-such-model").err().expect("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such-model"));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let path = dir.path().join("model.safetensors");
    let before = std::fs::read(&path).unwrap();
    let bad = TensorMap::from([("x".to_owned(), Tensor::zeros([1], (Kind::Bool, Device::Cpu)))]);
    assert!(save_safetensors(&path, &bad, None).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no temporary file is left"
    );
}

#[test]
fn nano_is_built_in_and_within_its_limits() {
    let nano = load_model("nano").unwrap();
    let numbers = |map: &TensorMap| map.values().map(|t| t.numel() as u64).sum::<u64>();
    assert!(numbers(&nano.base) <= 2_000_000);
    assert!(
        nano.base
            .values()
            .all(|t| t.isfinite().all().int64_value(&[]) == 1)
    );
}
