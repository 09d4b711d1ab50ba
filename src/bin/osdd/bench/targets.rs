//! Which models are measured, where, and whether that takes too long.

use anyhow::Result;
use osdd::config::ModelConfig;
use osdd::device::{self, Device};
use osdd::model::operations_per_pixel;
use osdd::weights::{load_config, load_model};
use tempfile::TempDir;

use super::model::ModelSample;
use super::random;
use crate::args::{EngineArgs, Size};

/// Of `--all`.
const PRESETS: [&str; 3] = ["nano", "small", "sd21"];
/// `--all` leaves out what takes longer for a frame.
const MOST_SECONDS: f64 = 10.0;

/// A model on a device.
pub(super) struct Target {
    pub name: String,
    pub engine: EngineArgs,
    /// Multiplications and additions for each pixel.
    pub operations: f64,
    /// Its configuration, where its weights are random; they are made when they are needed.
    random: Option<ModelConfig>,
    folder: Option<TempDir>,
}

impl Target {
    pub fn one(engine: EngineArgs, random: bool) -> Result<Self> {
        let config = load_config(&engine.model)?;
        Ok(Target {
            name: match random {
                true => format!("{}, random weights", engine.model),
                false => engine.model.clone(),
            },
            operations: operations_per_pixel(&config)?.total(),
            engine,
            random: random.then_some(config),
            folder: None,
        })
    }

    /// What to measure it with.
    pub fn weights(&mut self) -> Result<EngineArgs> {
        if let (Some(config), None) = (&self.random, &self.folder) {
            let folder = random::model(config)?;
            self.engine.model = folder.path().display().to_string();
            self.folder = Some(folder);
        }
        Ok(self.engine.clone())
    }
}

/// Every preset that is here on every device.
pub(super) fn all(engine: &EngineArgs) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for device in device::all() {
        for model in PRESETS {
            let mut engine = engine.clone();
            engine.model = model.to_owned();
            engine.runtime.device = device;
            if let Err(error) = load_config(model) {
                tracing::warn!("{error}");
                continue;
            }
            let random = load_model(model).is_err();
            targets.push(Target::one(engine, random)?);
        }
    }
    Ok(targets)
}

/// How long frames are going to take, by what others took.
#[derive(Default)]
pub(super) struct Pace {
    device: Option<Device>,
    /// Operations in a second of a convolution on that device.
    rate: Option<f64>,
    seconds_a_pixel: Option<f64>,
}

impl Pace {
    /// The next model does so many operations for each pixel.
    pub fn next_model(&mut self, operations: f64, device: &Device) {
        if self.device.as_ref() != Some(device) {
            *self = Pace {
                device: Some(*device),
                ..Pace::default()
            };
        }
        self.seconds_a_pixel = self.rate.map(|rate| operations / rate);
    }

    pub fn measured(&mut self, model: &ModelSample) {
        self.rate = Some(1e9 * model.convolution_gflops);
        self.seconds_a_pixel = Some(1e-3 * model.total_ms / (model.width * model.height) as f64);
    }

    /// Why a size is left out.
    pub fn too_slow(&self, size: Size) -> Option<String> {
        let seconds = self.seconds_a_pixel? * (size.width * size.height) as f64;
        (seconds > MOST_SECONDS).then(|| format!("a frame would take {seconds:.0} s (an estimate)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_long_is_known_from_what_ran_before() {
        let size = |width, height| Size { width, height };
        let sample = |total_ms, width, height| ModelSample {
            total_ms,
            width,
            height,
            convolution_gflops: 100.0,
            ..ModelSample::default()
        };
        let mut pace = Pace::default();
        pace.next_model(1e4, &Device::Cpu);
        assert_eq!(pace.too_slow(size(8192, 8192)), None, "nothing is known");
        pace.measured(&sample(100.0, 1000, 1000));
        assert_eq!(pace.too_slow(size(9000, 10_000)), None, "9 s");
        let reason = pace.too_slow(size(12_000, 10_000)).expect("too slow");
        assert_eq!(reason, "a frame would take 12 s (an estimate)");
        // 1.7e7 operations a pixel at 1e11 a second.
        pace.next_model(1.7e7, &Device::Cpu);
        assert!(pace.too_slow(size(512, 512)).is_some());
        assert_eq!(pace.too_slow(size(200, 200)), None);
        pace.next_model(1.7e7, &Device::Cuda(0));
        assert_eq!(pace.too_slow(size(512, 512)), None, "another device");
    }
}
