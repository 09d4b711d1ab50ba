//! A model with random weights, to measure speed where there are none yet.

use anyhow::{Context, Result};
use osdd::model::OsddModel;
use osdd::nn::{Initializer, Params};
use osdd::weights::{Weights, load_config};
use tempfile::TempDir;

/// Writes a model of the configuration of `model` into a folder that goes when the result does.
pub(super) fn model_like(model: &str) -> Result<TempDir> {
    let config = load_config(model)?;
    let init = Initializer::new(1);
    OsddModel::new(&Params::new(&init), &config)?;
    let weights = Weights {
        config,
        base: init.into_tensors(),
        lora_r: None,
        lora_s: None,
    };
    let folder = tempfile::tempdir().context("no folder for a model with random weights")?;
    weights.save(folder.path())?;
    Ok(folder)
}
