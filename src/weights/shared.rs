//! One copy of a model per process: engines with the same model, device and dtype share its end points.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use once_cell::sync::Lazy;
use tch::{Device, Kind};

use super::preset::{load_model, version};
use super::{EndPoints, Merged};
use crate::Result;
use crate::config::ModelConfig;

/// A model's configuration and end points, kept by every engine that uses them.
pub(crate) struct SharedModel {
    config: ModelConfig,
    /// Behind a lock because tensors may move between threads but not be used by two at once.
    end_points: Mutex<EndPoints>,
}

impl SharedModel {
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A set of parameters of one's own, merged for γ.
    pub(crate) fn merged(&self, gamma: f64) -> Result<Merged> {
        let end_points = self.end_points.lock().unwrap_or_else(|e| e.into_inner());
        end_points.merged(gamma)
    }
}

type Key = (String, String, Kind);
type Cache = HashMap<Key, Weak<SharedModel>>;

static CACHE: Lazy<Mutex<Cache>> = Lazy::new(Mutex::default);

/// The model `name` on `device`, loaded at first use and dropped with its last user. A folder whose files were replaced
/// meanwhile is another model.
pub(crate) fn shared_model(name: &str, device: Device, kind: Kind) -> Result<Arc<SharedModel>> {
    let key = (version(name)?, format!("{device:?}"), kind);
    // Held while loading, so that two engines that start together load once.
    let mut cache = CACHE.lock().unwrap_or_else(|e| e.into_inner());
    cache.retain(|_, model| model.strong_count() > 0);
    if let Some(model) = cache.get(&key).and_then(Weak::upgrade) {
        return Ok(model);
    }
    let weights = load_model(name)?;
    let model = Arc::new(SharedModel {
        end_points: Mutex::new(EndPoints::new(&weights, device, kind)?),
        config: weights.config,
    });
    cache.insert(key, Arc::downgrade(&model));
    Ok(model)
}
