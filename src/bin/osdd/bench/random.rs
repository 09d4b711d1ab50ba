//! A model with random weights, to measure speed where there are none yet.

use anyhow::{Context, Result};
use osdd::config::ModelConfig;
use osdd::model::OsddModel;
use osdd::nn::{Initializer, Params};
use osdd::weights::Weights;
use tempfile::TempDir;

/// Writes a model of this configuration into a folder that goes when the result does.
pub(super) fn model(config: &ModelConfig) -> Result<TempDir> {
    let init = Initializer::new(1);
    OsddModel::new(&Params::new(&init), config)?;
    let weights = Weights {
        config: config.clone(),
        base: init.into_tensors(),
        lora_r: None,
        lora_s: None,
    };
    let folder = tempfile::tempdir().context("no folder for a model with random weights")?;
    weights.save(folder.path())?;
    Ok(folder)
}
