//! What a measurement ran on, as far as the operating system tells.

use std::collections::BTreeSet;
use std::fs;

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Hardware {
    pub cpu: String,
    /// Physical cores, where the system tells them apart from threads.
    pub cores: usize,
    pub threads: usize,
    pub memory_mib: Option<u64>,
    /// NVIDIA's, by name, and their driver.
    pub gpus: Vec<String>,
    pub gpu_driver: Option<String>,
}

impl Hardware {
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let values = |wanted: &'static str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter(move |(key, _)| key.trim() == wanted)
                .map(|(_, value)| value.trim().to_owned())
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let cores: BTreeSet<_> = values("physical id").zip(values("core id")).collect();
        Self {
            cpu: values("model name")
                .next()
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: if cores.is_empty() { threads } else { cores.len() },
            threads,
            memory_mib: proc_mib("/proc/meminfo", "MemTotal"),
            gpus: gpus(),
            gpu_driver: gpu_driver(),
        }
    }
}

fn gpus() -> Vec<String> {
    let folders = fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten();
    let names = folders.filter_map(|folder| {
        let text = fs::read_to_string(folder.path().join("information")).ok()?;
        let name = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(name.trim().to_owned())
    });
    names.collect()
}

fn gpu_driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    // "NVRM version: NVIDIA UNIX ... Kernel Module  580.95.05  ...".
    let mut words = text.lines().next()?.split_whitespace();
    let number = words.find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(number.to_owned())
}

/// The most memory that this process has held resident, in MiB.
pub(crate) fn peak_memory_mib() -> Option<u64> {
    proc_mib("/proc/self/status", "VmHWM")
}

/// A line such as `VmHWM:   123456 kB`, in MiB.
fn proc_mib(path: &str, wanted: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == wanted)?;
    value
        .split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}
