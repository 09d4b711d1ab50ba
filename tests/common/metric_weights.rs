//! Weights of metrics by the rule of `tests/fixtures/make_metrics_fixtures.py`: random, and the same everywhere.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::HashMap;
use std::path::Path;

use osdd::metrics::Backbone;
use osdd::nn::TensorMap;
use osdd::weights::save_safetensors;
use tch::Tensor;

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

pub fn random_tensor(name: &str, shape: &[i64]) -> Tensor {
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

pub fn lpips_weights(backbone: Backbone) -> TensorMap {
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

pub fn metadata(entries: &[(&str, &str)]) -> Option<HashMap<String, String>> {
    Some(
        entries
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    )
}

pub fn lpips_metadata(backbone: &str) -> Option<HashMap<String, String>> {
    metadata(&[("metric", "lpips"), ("backbone", backbone), ("version", "0.1")])
}

/// A file with the weights of LPIPS.
pub fn write_lpips(path: &Path, backbone: Backbone) {
    let says = lpips_metadata(&backbone.to_string());
    save_safetensors(path, &lpips_weights(backbone), says).unwrap();
}

/// A file with the weights of DISTS.
pub fn write_dists(path: &Path) {
    let weights = random_weights(Backbone::Vgg, &[("alpha".into(), 1475), ("beta".into(), 1475)]);
    let says = metadata(&[("metric", "dists"), ("backbone", "vgg"), ("version", "1")]);
    save_safetensors(path, &weights, says).unwrap();
}
