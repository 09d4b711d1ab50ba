//! Every metric against the package that the field uses: `tests/fixtures/make_metrics_fixtures.py` made the numbers.

use std::path::{Path, PathBuf};

use osdd::engine::Device;
use osdd::frame::{Frame, PixelFormat};
use osdd::metrics::{Backbone, Dists, Lpips, Niqe, ssim};
use osdd::nn::TensorMap;
use osdd::weights::save_safetensors;
use serde_json::Value;
use tch::Tensor;

#[path = "common/metric_weights.rs"]
mod metric_weights;

use metric_weights::{lpips_metadata, lpips_weights, metadata, random_tensor, write_dists, write_lpips};

/// Absolute. AlexNet with another rounding of its pooled sizes is 1.4e-5 off; what single precision costs is below 1e-6.
const TOLERANCE: f64 = 5e-6;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("metrics.json")).unwrap()).unwrap()
}

/// The image's top left, of the size that the case names.
fn frame(name: &str, case: &Value) -> Frame {
    let side = |i: usize| case["size"][i].as_u64().unwrap() as u32;
    let image = image::open(fixture(name)).unwrap();
    let image = image.crop_imm(0, 0, side(0), side(1)).into_rgb8();
    let (width, height) = image.dimensions();
    Frame::from_data(
        width as usize,
        height as usize,
        PixelFormat::Rgb8,
        image.into_raw(),
    )
    .unwrap()
}

/// The same picture in 16 bits with some alpha.
fn rgba16(frame: &Frame) -> Frame {
    let mut wide = Frame::new(frame.width, frame.height, PixelFormat::Rgba16);
    for (i, (to, from)) in wide
        .data
        .chunks_exact_mut(8)
        .zip(frame.data.chunks_exact(3))
        .enumerate()
    {
        let alpha = i as u8;
        for (to, from) in to.chunks_exact_mut(2).zip([from[0], from[1], from[2], alpha]) {
            to.fill(from);
        }
    }
    wide
}

fn assert_close(what: &str, got: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    let error = (got - expected).abs();
    println!("{what}: {got:.7} against {expected:.7}, error {error:.1e}");
    assert!(error <= TOLERANCE, "{what}: {got} is not {expected}");
}

/// The scores of the metric in every format that shows the case's picture.
fn compare_pairs(name: &str, score: impl Fn(&Frame, &Frame) -> f64) {
    for case in expected()["pairs"].as_array().unwrap() {
        let (a, b) = (frame("metrics_a.png", case), frame("metrics_b.png", case));
        let what = format!("{name} of {}x{}", a.width, a.height);
        assert_close(&what, score(&a, &b), &case["expected"][name]);
        assert_close(&what, score(&rgba16(&a), &rgba16(&b)), &case["expected"][name]);
    }
}

fn lpips_is_the_packages(backbone: Backbone) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    write_lpips(&path, backbone);
    let lpips = Lpips::open(&path, Device::Cpu).unwrap();
    assert_eq!(lpips.backbone(), backbone);
    compare_pairs(&format!("lpips_{backbone}"), |a, b| lpips.score(a, b).unwrap());
}

#[test]
fn lpips_of_alexnet_is_the_packages() {
    lpips_is_the_packages(Backbone::Alex);
}

#[test]
fn lpips_of_vgg_is_the_packages() {
    lpips_is_the_packages(Backbone::Vgg);
}

#[test]
fn lpips_of_squeezenet_is_the_packages() {
    lpips_is_the_packages(Backbone::Squeeze);
}

#[test]
fn dists_is_the_packages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dists.safetensors");
    write_dists(&path);
    let dists = Dists::open(&path, Device::Cpu).unwrap();
    compare_pairs("dists", |a, b| dists.score(a, b).unwrap());
    let error = Lpips::open(&path, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("dists") && error.contains("lpips"), "{error}");
}

#[test]
fn ssim_is_pyiqas() {
    compare_pairs("ssim", |a, b| ssim(a, b).unwrap());
}

#[test]
fn niqe_is_pyiqas() {
    let niqe = Niqe::new();
    for case in expected()["niqe"].as_array().unwrap() {
        let frame = frame("metrics_niqe.png", case);
        let what = format!("niqe of {}x{}", frame.width, frame.height);
        assert_close(&what, niqe.score(&frame).unwrap(), &case["expected"]);
        assert_close(&what, niqe.score(&rgba16(&frame)).unwrap(), &case["expected"]);
    }
}

/// A name, what is done to a file that fits, and what the error must say.
type Damage = (&'static str, fn(&mut TensorMap), &'static [&'static str]);

#[test]
fn weights_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    let open = |tensors: &TensorMap, says| {
        save_safetensors(&path, tensors, says).unwrap();
        Lpips::open(&path, Device::Cpu)
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let good = || lpips_weights(Backbone::Squeeze);
    assert_eq!(open(&good(), lpips_metadata("squeeze")), Ok(()));
    let damages: [Damage; 5] = [
        (
            "missing",
            |t| drop(t.remove("lin6.model.1.weight")),
            &["lin6.model.1.weight", "missing"],
        ),
        (
            "unexpected",
            |t| drop(t.insert("lin7".into(), Tensor::from(1.0f32))),
            &["lin7", "no layer"],
        ),
        (
            "shape",
            |t| drop(t.insert("features.0.bias".into(), random_tensor("x", &[1, 64]))),
            &["features.0.bias", "[64]"],
        ),
        (
            "dtype",
            |t| {
                drop(t.insert(
                    "features.0.bias".into(),
                    random_tensor("x", &[64, 1]).view([64]).to_kind(tch::Kind::Half),
                ))
            },
            &["features.0.bias", "F16"],
        ),
        (
            "NaN",
            |t| drop(t.get_mut("features.0.bias").unwrap().get(3).fill_(f64::NAN)),
            &["features.0.bias", "NaN"],
        ),
    ];
    for (what, damage, words) in damages {
        let mut tensors = good();
        damage(&mut tensors);
        let error = open(&tensors, lpips_metadata("squeeze")).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{what}: {error}");
    }
    let version = metadata(&[("metric", "lpips"), ("backbone", "squeeze"), ("version", "0.0")]);
    for (says, word) in [
        (None, "metric"),
        (lpips_metadata("resnet"), "resnet"),
        (version, "0.0"),
    ] {
        let error = open(&good(), says).unwrap_err();
        assert!(
            error.contains(word) && error.contains("convert_metrics.py"),
            "{error}"
        );
    }
    std::fs::write(&path, "not tensors").unwrap();
    let error = Lpips::open(&path, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("safetensors"), "{error}");
}

#[test]
fn frames_that_no_network_can_pool_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    save_safetensors(
        &path,
        &lpips_weights(Backbone::Squeeze),
        lpips_metadata("squeeze"),
    )
    .unwrap();
    let lpips = Lpips::open(&path, Device::Cpu).unwrap();
    let black = |width, height| Frame::new(width, height, PixelFormat::Rgb8);
    let error = lpips
        .score(&black(40, 31), &black(40, 31))
        .unwrap_err()
        .to_string();
    assert!(error.contains("40x31") && error.contains("32x32"), "{error}");
    assert!(lpips.score(&black(40, 32), &black(32, 40)).is_err());
    assert_eq!(lpips.score(&black(40, 32), &black(40, 32)).unwrap(), 0.0);
}
