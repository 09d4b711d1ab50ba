//! Training, stage by stage, as the paper has it: an eVAE, then two adapters on a frozen Stable Diffusion with an
//! edge-aware perceptual and an adversarial loss.
//!
//! Presets that start from nothing train everything together instead (stage `base`, a named departure), then the
//! adapters as the paper does.

mod adversary;
mod checkpoint;
mod config;
mod differentiate;
mod echo;
mod feed;
mod flat;
mod loss;
mod optimizer;
mod perceptual;
mod samples;
mod subject;
mod teacher;
mod trainer;
mod validate;

pub use config::{
    AdapterStart, AdversarialConfig, DataConfig, LossConfig, OptimizerKind, PerceptualConfig,
    PerceptualNetwork, PhaseConfig, Schedule, Stage, TrainConfig, ValidationConfig,
};
pub use trainer::{Progress, Setup, Trainer, Verdict};
pub use validate::{Score, ValidationSet};
