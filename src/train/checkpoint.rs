//! Everything a run needs to go on as if it had never stopped, in one file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::TrainConfig;
use crate::config::ModelConfig;
use crate::nn::TensorMap;
use crate::weights::save_safetensors;
use crate::{Error, Result};

/// What a checkpoint knows beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Iterations done.
    pub iteration: u64,
    /// Index of the next sample; samples are a function of seed and index, so this is the generators' whole state.
    pub next_sample: u64,
    /// Updates of the optimizers, fewer than iterations where steps were skipped.
    #[serde(default)]
    pub optimizer_steps: u64,
    #[serde(default)]
    pub discriminator_steps: u64,
    /// Checksums of the weights that the run depends on and does not change, by name.
    #[serde(default)]
    pub fixed: BTreeMap<String, String>,
    pub train: TrainConfig,
    pub model: ModelConfig,
}

/// Tensors in groups (`parameter`, `ema`, `optimizer`, and those of a discriminator), each by name.
pub(super) type Groups = HashMap<String, TensorMap>;

/// The tensors of one group; none where it is not there.
pub(super) fn group(groups: &Groups, name: &str) -> TensorMap {
    let tensors = groups.get(name).into_iter().flatten();
    tensors
        .map(|(name, t)| (name.clone(), t.shallow_clone()))
        .collect()
}

const STATE_KEY: &str = "osdd_training_state";

pub(super) fn save(path: &Path, state: &State, groups: &Groups) -> Result<()> {
    let mut tensors = TensorMap::new();
    for (group, map) in groups {
        for (name, tensor) in map {
            tensors.insert(format!("{group}/{name}"), tensor.shallow_clone());
        }
    }
    let json = serde_json::to_string(state).expect("a state is plain data");
    save_safetensors(
        path,
        &tensors,
        Some(HashMap::from([(STATE_KEY.to_owned(), json)])),
    )
}

pub(super) fn load(path: &Path) -> Result<(State, Groups)> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let broken = |reason: String| Error::NotSafetensors {
        file: file.clone(),
        reason,
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(e.to_string()))?;
    let json = header.metadata().as_ref().and_then(|m| m.get(STATE_KEY));
    let json = json.ok_or_else(|| broken("it is not a training checkpoint".into()))?;
    let state = serde_json::from_str(json).map_err(|e| broken(e.to_string()))?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let mut groups = Groups::new();
    for (name, view) in parsed.iter() {
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?;
        let (group, name) = name
            .split_once('/')
            .ok_or_else(|| broken(format!("tensor '{name}' is in no group")))?;
        groups
            .entry(group.to_owned())
            .or_default()
            .insert(name.to_owned(), tensor);
    }
    Ok((state, groups))
}

/// SHA-256 of names and values of tensors.
pub(super) fn checksum(tensors: &TensorMap) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        let tensor = tensor.detach().f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        hash.update(name);
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Names of the top-level fields in which two configurations differ.
pub(super) fn differing_fields<T: Serialize>(a: &T, b: &T) -> Vec<String> {
    let fields = |x: &T| serde_json::to_value(x).expect("a config is plain data");
    let (a, b) = (fields(a), fields(b));
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return Vec::new();
    };
    let differs = a.iter().filter(|(key, value)| b.get(*key) != Some(value));
    differs.map(|(key, _)| key.clone()).collect()
}
