//! The paper's own scale runs here, on a CPU, within 16 GB. A test of its own process, so that its memory is its own.

use std::path::Path;

use osdd::config::ModelConfig;
use osdd::model::OsddModel;
use osdd::nn::{Initializer, Params};
use tch::{Device, Kind, Tensor};

#[test]
fn a_512x512_tile_runs_within_16_gb() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sd21/config.json");
    let config = ModelConfig::from_json(&std::fs::read_to_string(path).unwrap(), "sd21").unwrap();
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(0);
    let model = OsddModel::new(&Params::new(&Initializer::default()), &config).unwrap();
    let x = Tensor::rand([1, 3, 512, 512], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let y = model.forward(&x);
    assert_eq!(y.size(), [1, 3, 512, 512]);
    assert_eq!(y.isfinite().all().int64_value(&[]), 1);
    assert!(y.std(true).double_value(&[]) > 0.0);

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak memory: {:.1} GB", kib as f64 * 1024.0 / 1e9);
    assert!(kib * 1024 < 16_000_000_000, "peak memory {kib} KiB");
}
