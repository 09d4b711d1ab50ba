//! Every way in which a model on disk can be wrong is an error of its own, which names tensor and file.

use std::path::Path;

use osdd::config::ModelConfig;
use osdd::device::Device as Place;
use osdd::engine::{Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};
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
fn weights_that_cannot_be_replaced_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    let weights = write_model(dir.path());
    // What is set aside cannot have this name.
    let in_the_way = dir.path().join("model.safetensors.old/file");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let error = weights.save(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    Weights::from_dir(dir.path()).unwrap();
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 2, "nothing is left behind");
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

/// The folder of the sources that holds `small`.
fn small() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small")
}

#[test]
fn shipped_weights_are_within_their_limits() {
    let small = small();
    for (model, most_parameters, most_gflop) in [
        ("nano", 2_000_000, 3.0),
        (small.to_str().unwrap(), 30_000_000, 40.0),
    ] {
        let weights = load_model(model).unwrap();
        assert!(weights.lora_r.is_some() && weights.lora_s.is_some());
        let count: usize = weights.base.values().map(Tensor::numel).sum();
        assert!(count <= most_parameters, "{model}: {count}");
        let operations = osdd::model::operations_per_pixel(&weights.config).unwrap();
        let gflop = operations.total() * 65536.0 / 1e9;
        assert!(gflop <= most_gflop, "{model}: {gflop}");
    }
    let files = std::fs::read_dir(small).unwrap().map(Result::unwrap);
    let sizes: Vec<u64> = files
        .filter(|file| file.path().extension().is_some_and(|e| e == "safetensors"))
        .map(|file| file.metadata().unwrap().len())
        .collect();
    assert!(
        sizes.len() <= 4 && sizes.iter().all(|&size| size <= 16_000_000),
        "{sizes:?}"
    );
}

/// Rectangles of many colours over one another.
fn picture(side: usize) -> Frame {
    let mut frame = Frame::new(side, side, PixelFormat::Rgb8);
    let mut state = 7u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..150 {
        let (x, y, w, h) = (random(side), random(side), 4 + random(30), 4 + random(30));
        let colour = [0; 3].map(|_| random(256) as u8);
        for row in y..(y + h).min(side) {
            for column in x..(x + w).min(side) {
                let at = 3 * (row * side + column);
                frame.data[at..at + 3].copy_from_slice(&colour);
            }
        }
    }
    frame
}

/// The mean of `count` neighbours in a row, in linear light.
fn panned(frame: &Frame, count: usize) -> Frame {
    let linear = |sample: u8| (f64::from(sample) / 255.0).powf(2.2);
    let mut blurry = frame.try_clone().unwrap();
    for (i, sample) in blurry.data.iter_mut().enumerate() {
        let (row, column, channel) = (i / 3 / frame.width, i / 3 % frame.width, i % 3);
        let light = (0..count).map(|step| {
            let from = (column + step).saturating_sub(count / 2).min(frame.width - 1);
            linear(frame.data[3 * (row * frame.width + from) + channel])
        });
        *sample = ((light.sum::<f64>() / count as f64).powf(1.0 / 2.2) * 255.0).round() as u8;
    }
    blurry
}

fn psnr(a: &Frame, b: &Frame) -> f64 {
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let sum: f64 = a.data.iter().zip(&b.data).map(square).sum();
    10.0 * (255.0f64.powi(2) / (sum / a.data.len() as f64)).log10()
}

#[test]
fn shipped_weights_sharpen_what_is_blurred_and_leave_what_is_sharp() {
    let sharp = picture(192);
    let blurry = panned(&sharp, 9);
    let before = psnr(&blurry, &sharp);
    let small = small();
    let mut gains = Vec::new();
    for model in ["nano", small.to_str().unwrap()] {
        let engine = Engine::new(EngineConfig {
            model: model.into(),
            device: Place::Cpu,
            gamma: 1.0,
            ..EngineConfig::default()
        });
        let engine = engine.unwrap();
        let restored = |frame: &Frame| {
            engine.send(frame.try_clone().unwrap()).unwrap();
            engine.receive().unwrap().unwrap().frame
        };
        let gain = psnr(&restored(&blurry), &sharp) - before;
        let kept = psnr(&restored(&sharp), &sharp);
        eprintln!("{model}: {before:.2} dB, {gain:+.2}; sharp {kept:.1}");
        assert!(kept > 35.0, "{model}: {kept}");
        gains.push(gain);
    }
    assert!(gains[0] > 1.0 && gains[1] > gains[0] + 0.3, "{gains:?}");
}
