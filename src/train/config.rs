//! A training run's configuration: `models/<preset>/train/*.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::echo;
use crate::data::MixConfig;
use crate::{Error, Result};

/// Everything that shapes a training run. Paths in `data` and `validation` are relative to the data folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub stage: Stage,
    pub seed: i64,
    pub data: DataConfig,
    /// How samples are made; its crop size is replaced by each phase's.
    pub mix: MixConfig,
    /// Run one after the other; the learning rate follows one schedule over all of them.
    pub phases: Vec<PhaseConfig>,
    pub optimizer: OptimizerKind,
    /// At the end of the warm-up.
    pub learning_rate: f64,
    #[serde(default)]
    pub schedule: Schedule,
    pub warmup_iterations: u64,
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm where they exceed it.
    pub max_grad_norm: f64,
    /// Batches whose gradients are averaged for one update.
    #[serde(default = "one")]
    pub accumulation: u64,
    /// How many times a crop is seen, mirrored and transposed in another way each time; a teacher is asked once.
    #[serde(default = "one")]
    pub echo: u64,
    /// Decay of the moving average of the weights, which is what is saved and validated.
    pub ema_decay: f64,
    /// Adapter stages: what the adapter starts from.
    #[serde(default)]
    pub start: AdapterStart,
    /// Adapter stages: the prompt is trained too.
    #[serde(default)]
    pub learn_prompt: bool,
    pub loss: LossConfig,
    #[serde(default)]
    pub validation: Vec<ValidationConfig>,
}

fn one() -> u64 {
    1
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The paper's stage 1: decoder, skips and two encoders, one for the skips (it sees the blurry image) and one for the
    /// latents (it sees the sharp image).
    Evae,
    /// All weights, eVAE and UNet together, without adapters.
    Base,
    /// LoRA_r on frozen weights.
    AdapterR,
    /// LoRA_s on frozen weights.
    AdapterS,
}

impl Stage {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Evae => "evae",
            Stage::Base => "base",
            Stage::AdapterR => "adapter_r",
            Stage::AdapterS => "adapter_s",
        }
    }

    /// Whether a LoRA set is trained, on weights that stay as they are.
    pub fn is_adapter(self) -> bool {
        matches!(self, Stage::AdapterR | Stage::AdapterS)
    }
}

/// What becomes of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It falls to a hundredth along half a cosine over all iterations.
    #[default]
    Cosine,
    /// It stays.
    Constant,
}

/// What an adapter starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterStart {
    /// Random A and zero B: it changes nothing yet.
    #[default]
    Fresh,
    /// The LoRA_r of the initial weights.
    LoraR,
    /// The LoRA_s of the initial weights: one LoRA for both kinds of data, in sequence (the paper's table 6).
    LoraS,
}

/// Where samples come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Folders of sharp photographs.
    pub photos: Vec<PathBuf>,
    /// Folders with `blurry/` and `sharp/` of equal names.
    pub pairs: Vec<PathBuf>,
    /// High-frame-rate videos of sharp frames, as files or as folders of images.
    pub clips: Vec<PathBuf>,
}

/// A stretch of iterations with one crop size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    pub iterations: u64,
    /// Side of the square crops in pixels.
    pub crop_size: usize,
    pub batch_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    AdamW,
    /// Orthogonalised momentum (Jordan et al. 2024) for matrices and kernels, AdamW at a twentieth of the rate for the rest.
    Muon,
}

/// Weights of the loss terms; images in [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Mean absolute difference.
    pub l1: f64,
    /// Mean squared difference (the paper's stage 2).
    pub l2: f64,
    /// Mean absolute difference of the orthonormal Fourier transforms.
    pub fft: f64,
    /// Mean absolute difference of the Sobel gradients of grey images.
    pub edge: f64,
    /// Mean absolute difference of the Fourier amplitudes of blocks of 32x32 pixels: asks for as much detail of every
    /// scale and direction as the truth has nearby, wherever exactly it lies.
    pub amplitude: f64,
    /// Mean absolute difference to what a larger model makes of the blurry image.
    pub teacher: f64,
    /// A distance between the features of a network.
    pub perceptual: Option<PerceptualConfig>,
    /// A discriminator of latents (the paper's stage 2); for stages with a noise predictor.
    pub adversarial: Option<AdversarialConfig>,
}

impl LossConfig {
    fn check(&self) -> Result<(), String> {
        let weights = [
            ("l1", self.l1),
            ("l2", self.l2),
            ("fft", self.fft),
            ("edge", self.edge),
            ("amplitude", self.amplitude),
            ("teacher", self.teacher),
            ("perceptual", self.perceptual.map_or(0.0, |p| p.weight)),
            ("adversarial", self.adversarial.map_or(0.0, |a| a.weight)),
        ];
        if let Some((name, weight)) = weights.iter().find(|(_, w)| !(w.is_finite() && *w >= 0.0)) {
            return Err(format!(
                "the loss term {name} has a weight of {weight}; it must be 0 or more"
            ));
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err("the loss has no term with a weight above 0".into());
        }
        match self.adversarial {
            Some(a) if !(a.learning_rate.is_finite() && a.learning_rate > 0.0) => {
                Err("the discriminator's learning_rate must be above 0".into())
            }
            _ => Ok(()),
        }
    }
}

/// A perceptual term.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualConfig {
    pub network: PerceptualNetwork,
    pub weight: f64,
    /// Adds the distance of the Sobel magnitudes: EA-DISTS, when the network is DISTS.
    #[serde(default)]
    pub edge_aware: bool,
    /// Multiplies the weight by the ratio of the L1 term to this one, so that both weigh the same (paper, eq. 1).
    #[serde(default)]
    pub balanced: bool,
}

/// The networks, each from a file of its name in the folder of metrics' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerceptualNetwork {
    Dists,
    LpipsAlex,
    LpipsVgg,
    LpipsSqueeze,
}

impl PerceptualNetwork {
    /// Name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            PerceptualNetwork::Dists => "dists.safetensors",
            PerceptualNetwork::LpipsAlex => "lpips_alex.safetensors",
            PerceptualNetwork::LpipsVgg => "lpips_vgg.safetensors",
            PerceptualNetwork::LpipsSqueeze => "lpips_squeeze.safetensors",
        }
    }
}

/// The adversarial term and how its discriminator learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversarialConfig {
    pub weight: f64,
    /// Of the discriminator, for AdamW.
    pub learning_rate: f64,
}

/// Pairs that are measured during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    pub name: String,
    pub blurry: PathBuf,
    pub sharp: PathBuf,
    /// Only files whose names start with this.
    #[serde(default)]
    pub prefix: String,
    /// Only files whose names end with this (without extension).
    #[serde(default)]
    pub suffix: String,
    /// At most this many pairs, spread evenly over all.
    #[serde(default)]
    pub limit: Option<usize>,
}

impl TrainConfig {
    /// # Errors
    /// [`Error::Config`] for bad JSON, unknown fields and values out of range.
    pub fn from_json(json: &str, file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Config {
            file: file.into(),
            reason,
        };
        let config: TrainConfig = serde_json::from_str(json).map_err(|e| fail(e.to_string()))?;
        let finite_positive = |x: f64| x.is_finite() && x > 0.0;
        if config.phases.iter().map(|p| p.iterations).sum::<u64>() == 0 {
            return Err(fail("phases have no iterations".into()));
        }
        if config
            .phases
            .iter()
            .any(|p| p.batch_size == 0 || p.crop_size == 0)
        {
            return Err(fail(
                "a phase needs a batch_size and a crop_size of at least 1".into(),
            ));
        }
        if !finite_positive(config.learning_rate) || !finite_positive(config.max_grad_norm) {
            return Err(fail("learning_rate and max_grad_norm must be above 0".into()));
        }
        if !(0.0..=1.0).contains(&config.weight_decay) {
            return Err(fail("weight_decay must be 0 to 1".into()));
        }
        if config.accumulation == 0 {
            return Err(fail("accumulation must be at least 1".into()));
        }
        if !(1..=echo::MOST).contains(&config.echo) {
            let most = echo::MOST;
            return Err(fail(format!("echo = {}, must be 1 to {most}", config.echo)));
        }
        if config.echo > 1 && !config.mix.flip {
            return Err(fail("echo above 1 mirrors crops, and mix.flip is false".into()));
        }
        if config.stage == Stage::Evae && config.loss.adversarial.is_some() {
            return Err(fail(
                "the adversarial term needs a noise predictor, which stage evae has not".into(),
            ));
        }
        if config.stage == Stage::Evae && config.loss.teacher > 0.0 {
            return Err(fail(
                "stage evae reconstructs sharp images, for which there is no teacher".into(),
            ));
        }
        if !config.stage.is_adapter() && (config.learn_prompt || config.start != AdapterStart::Fresh) {
            return Err(fail("learn_prompt and start are for the adapter stages".into()));
        }
        config.loss.check().map_err(fail)?;
        let smallest = config
            .phases
            .iter()
            .map(|p| p.crop_size)
            .min()
            .unwrap_or_default();
        if config.loss.amplitude > 0.0 && smallest < 32 {
            return Err(fail("the amplitude term needs a crop_size of at least 32".into()));
        }
        if config.loss.perceptual.is_some() && smallest < 32 {
            return Err(fail("a perceptual term needs a crop_size of at least 32".into()));
        }
        let perceptual = config.loss.perceptual;
        if perceptual.is_some_and(|p| p.balanced) && config.loss.l1 <= 0.0 {
            return Err(fail(
                "a balanced perceptual term needs the l1 term it is balanced with".into(),
            ));
        }
        if !(0.0..1.0).contains(&config.ema_decay) {
            return Err(fail(format!(
                "ema_decay = {}, must be in [0, 1)",
                config.ema_decay
            )));
        }
        Ok(config)
    }

    /// Iterations of all phases.
    pub fn iterations(&self) -> u64 {
        self.phases.iter().map(|p| p.iterations).sum()
    }

    /// Learning rate of an iteration, counted from 0.
    pub fn learning_rate_at(&self, iteration: u64) -> f64 {
        let warmup = ((iteration + 1) as f64 / (self.warmup_iterations + 1) as f64).min(1.0);
        let decay = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => {
                let done = iteration as f64 / self.iterations() as f64;
                0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        };
        self.learning_rate * warmup * decay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_as_many_as_there_are_symmetries_and_need_mirroring() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano/train/base.json");
        let base = std::fs::read_to_string(path).unwrap();
        let config = |echo, flip| {
            let mut config = TrainConfig::from_json(&base, "base.json").unwrap();
            (config.echo, config.mix.flip) = (echo, flip);
            TrainConfig::from_json(&serde_json::to_string(&config).unwrap(), "c.json")
        };
        assert!(config(8, true).is_ok() && config(1, false).is_ok());
        for (echo, flip, said) in [
            (0, true, "echo = 0"),
            (9, true, "echo = 9"),
            (2, false, "mix.flip"),
        ] {
            let error = config(echo, flip).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
