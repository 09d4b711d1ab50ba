//! Every metric against the package that the field uses: `tests/fixtures/make_metrics_fixtures.py` made the numbers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use osdd::engine::Device;
use osdd::frame::{Frame, PixelFormat};
use osdd::metrics::{Backbone, Dists, Lpips, Niqe, ssim};
use osdd::nn::TensorMap;
use osdd::weights::save_safetensors;
use serde_json::Value;
use tch::Tensor;

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

/// Random numbers of 24 bits by the fixtures' rule: an avalanche hash of the name's FNV-1a hash and each index.
fn hashed(name: &str, count: usize) -> impl Iterator<Item = u32> {
    let seed = name.bytes().fold(0x811c_9dc5u32, |hash, byte| {
        (hash ^ byte as u32).wrapping_mul(0x0100_0193)
    });
    (0..count as u32).map(move |i| {
        let mut h = i.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        (h ^ (h >> 16)) >> 8
    })
}

fn random_tensor(name: &str, shape: &[i64]) -> Tensor {
    let fan_in: i64 = shape[1..].iter().product();
    let value = |unit: f64| match name {
        _ if !name.starts_with("features.") => unit,
        _ if name.ends_with(".bias") => (2.0 * unit - 1.0) * 0.1,
        _ => (2.0 * unit - 1.0) * (6.0 / fan_in as f64).sqrt(),
    };
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = hashed(name, count)
        .map(|h| value(h as f64 / 16777216.0) as f32)
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// Convolutions of torchvision's networks: place in `features`, output, input channels, kernel.
fn convolutions(backbone: Backbone) -> Vec<(String, [i64; 4])> {
    let named = |rows: &[(usize, i64, i64, i64)]| {
        let row = |&(i, o, c, k): &(usize, i64, i64, i64)| (i.to_string(), [o, c, k, k]);
        rows.iter().map(row).collect::<Vec<_>>()
    };
    match backbone {
        Backbone::Alex => named(&[
            (0, 64, 3, 11),
            (3, 192, 64, 5),
            (6, 384, 192, 3),
            (8, 256, 384, 3),
            (10, 256, 256, 3),
        ]),
        Backbone::Vgg => {
            let places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
            let widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
            let rows: Vec<_> = (0..13)
                .map(|i| (places[i], widths[i + 1], widths[i], 3))
                .collect();
            named(&rows)
        }
        Backbone::Squeeze => {
            let mut rows = named(&[(0, 64, 3, 3)]);
            let fires = [
                (3, 64, 16, 64),
                (4, 128, 16, 64),
                (6, 128, 32, 128),
                (7, 256, 32, 128),
            ]
            .into_iter()
            .chain([
                (9, 256, 48, 192),
                (10, 384, 48, 192),
                (11, 384, 64, 256),
                (12, 512, 64, 256),
            ]);
            for (place, input, squeeze, expand) in fires {
                rows.push((format!("{place}.squeeze"), [squeeze, input, 1, 1]));
                rows.push((format!("{place}.expand1x1"), [expand, squeeze, 1, 1]));
                rows.push((format!("{place}.expand3x3"), [expand, squeeze, 3, 3]));
            }
            rows
        }
    }
}

/// A metric's weights by the fixtures' rule.
fn random_weights(backbone: Backbone, others: &[(String, i64)]) -> TensorMap {
    let mut tensors = TensorMap::new();
    let mut add = |name: String, shape: &[i64]| {
        let tensor = random_tensor(&name, shape);
        tensors.insert(name, tensor);
    };
    for (place, shape) in convolutions(backbone) {
        add(format!("features.{place}.weight"), &shape);
        add(format!("features.{place}.bias"), &shape[..1]);
    }
    for (name, channels) in others {
        add(name.clone(), &[1, *channels, 1, 1]);
    }
    tensors
}

fn lpips_weights(backbone: Backbone) -> TensorMap {
    let widths: &[i64] = match backbone {
        Backbone::Alex => &[64, 192, 384, 256, 256],
        Backbone::Vgg => &[64, 128, 256, 512, 512],
        Backbone::Squeeze => &[64, 128, 256, 384, 384, 512, 512],
    };
    let heads: Vec<_> = (0..)
        .zip(widths)
        .map(|(k, width): (usize, _)| (format!("lin{k}.model.1.weight"), *width))
        .collect();
    random_weights(backbone, &heads)
}

fn metadata(entries: &[(&str, &str)]) -> Option<HashMap<String, String>> {
    Some(
        entries
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    )
}

fn lpips_metadata(backbone: &str) -> Option<HashMap<String, String>> {
    metadata(&[("metric", "lpips"), ("backbone", backbone), ("version", "0.1")])
}

fn lpips_is_the_packages(backbone: Backbone) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    save_safetensors(
        &path,
        &lpips_weights(backbone),
        lpips_metadata(&backbone.to_string()),
    )
    .unwrap();
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
    let weights = random_weights(Backbone::Vgg, &[("alpha".into(), 1475), ("beta".into(), 1475)]);
    let says = metadata(&[("metric", "dists"), ("backbone", "vgg"), ("version", "1")]);
    save_safetensors(&path, &weights, says).unwrap();
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
