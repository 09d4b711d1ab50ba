//! Which models are measured, where, and whether that takes too long.

use anyhow::Result;
use osdd::config::ModelConfig;
use osdd::device::{self, Device};
use osdd::model::operations_per_pixel;
use osdd::weights::{identity, load_config};
use tempfile::TempDir;

use super::model::ModelSample;
use super::random;
use crate::args::{EngineArgs, Size};
use crate::report;

/// Of `--all`.
const PRESETS: [&str; 3] = ["nano", "small", "sd21"];
/// `--all` leaves out a size that takes longer in all.
const MOST_MINUTES: f64 = 10.0;

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

/// Every preset that is here, on `engine`'s device or, where that is left open, on all.
pub(super) fn all(engine: &EngineArgs) -> Result<Vec<Target>> {
    let devices = match engine.runtime.device {
        Device::Auto => device::all(),
        device => vec![device::resolve(device)?.0],
    };
    let mut targets = Vec::new();
    for device in devices {
        for model in PRESETS {
            let mut engine = engine.clone();
            engine.model = model.to_owned();
            engine.runtime.device = device;
            match has_weights(model) {
                Ok(there) => targets.push(Target::one(engine, !there)?),
                Err(error) => report::warning(format_args!("left out: {error}")),
            }
        }
    }
    Ok(targets)
}

/// Whether a preset is more than its configuration.
fn has_weights(model: &str) -> osdd::Result<bool> {
    let place = identity(model)?;
    let Ok(entries) = std::fs::read_dir(&place) else {
        // It is built in.
        return Ok(true);
    };
    let mut files = entries.flatten().map(|entry| entry.path());
    Ok(files.any(|file| {
        file.extension()
            .is_some_and(|extension| extension == "safetensors")
    }))
}

/// How long frames are going to take, by what others took.
pub(super) struct Pace {
    /// That are measured of each size.
    frames: f64,
    device: Option<Device>,
    /// Operations in a second of a convolution on that device.
    rate: Option<f64>,
    seconds_a_pixel: Option<f64>,
}

impl Pace {
    pub fn new(frames: f64) -> Self {
        Pace {
            frames,
            device: None,
            rate: None,
            seconds_a_pixel: None,
        }
    }

    /// The next model does so many operations for each pixel.
    pub fn next_model(&mut self, operations: f64, device: Device) {
        if self.device != Some(device) {
            (self.device, self.rate) = (Some(device), None);
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
        let minutes = self.frames * seconds / 60.0;
        (minutes > MOST_MINUTES).then(|| {
            format!("it would take {minutes:.0} minutes, {seconds:.1} s a frame (an estimate); fewer --frames and --rounds take less")
        })
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
        let mut pace = Pace::new(60.0);
        pace.next_model(1e4, Device::Cpu);
        assert_eq!(pace.too_slow(size(8192, 8192)), None, "nothing is known");
        pace.measured(&sample(100.0, 1000, 1000));
        assert_eq!(pace.too_slow(size(9000, 10_000)), None, "9 s a frame");
        let reason = pace.too_slow(size(12_000, 10_000)).expect("too slow");
        assert!(
            reason.starts_with("it would take 12 minutes, 12.0 s a frame"),
            "{reason}"
        );
        // 1.7e7 operations a pixel at 1e11 a second.
        pace.next_model(1.7e7, Device::Cpu);
        assert!(pace.too_slow(size(512, 512)).is_some());
        assert_eq!(pace.too_slow(size(200, 200)), None);
        pace.next_model(1.7e7, Device::Cuda(0));
        assert_eq!(pace.too_slow(size(512, 512)), None, "another device");
    }

    #[test]
    fn a_preset_without_weights_is_told_from_one_that_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(has_weights(path).ok(), Some(false));
        std::fs::write(folder.path().join("model.safetensors"), "").unwrap();
        assert_eq!(has_weights(path).ok(), Some(true));
        assert_eq!(has_weights("nano").ok(), Some(true));
        assert!(has_weights("nowhere").is_err());
    }
}
