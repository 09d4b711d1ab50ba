//! Training: the base model end to end, then one adapter at a time.
//!
//! The paper trains an eVAE first and adapters on a frozen Stable Diffusion. Presets that start from nothing train
//! everything together instead (stage `base`, a named departure), then the adapters as the paper does.

mod checkpoint;
mod config;
mod loss;
mod optimizer;
mod trainer;
mod validate;

pub use config::{DataConfig, LossConfig, OptimizerKind, PhaseConfig, Stage, TrainConfig, ValidationConfig};
pub use loss::{LossTerms, Losses};
pub use trainer::{Progress, Trainer, Verdict};
pub use validate::{Score, ValidationSet};
