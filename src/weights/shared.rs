//! One copy of a model per process: engines with the same model, device and dtype share its end points.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::preset::{load_config, load_model, version};
use super::{EndPoints, Keep, Merged, adapted_modules};
use crate::config::ModelConfig;
use crate::memory;
use crate::model::parameter_shapes;
use crate::nn::on_one_thread;
use crate::{Error, Result};

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

/// The model `name` on `device`, loaded at first use and dropped with its last user; by one thread where its layers are `fused`: its many short
/// operations take longer when they are spread. A folder whose files were replaced meanwhile is another model.
pub(crate) fn shared_model(name: &str, device: Device, kind: Kind, fused: bool) -> Result<Arc<SharedModel>> {
    let key = (version(name)?, format!("{device:?}"), kind);
    // Held while loading, so that two engines that start together load once.
    let mut cache = CACHE.lock().unwrap_or_else(|e| e.into_inner());
    cache.retain(|_, model| model.strong_count() > 0);
    if let Some(model) = cache.get(&key).and_then(Weak::upgrade) {
        return Ok(model);
    }
    let load = || -> Result<SharedModel> {
        // The thread may be another than the caller's.
        let _no_grad = tch::no_grad_guard();
        let keep = kept(&load_config(name)?, device, kind, available(device, kind)?)?;
        let weights = load_model(name)?;
        Ok(SharedModel {
            end_points: Mutex::new(EndPoints::new(&weights, device, kind, keep)?),
            config: weights.config,
        })
    };
    let model = Arc::new(if fused { on_one_thread(load) } else { load() }?);
    // Others work on streams of their own.
    crate::device::synchronize(device)?;
    cache.insert(key, Arc::downgrade(&model));
    Ok(model)
}

/// Bytes that a model takes while it is loaded for a device: of what adapters change, both ends of the dial, or the weights without
/// adapters, and one merged set; the rest once, and on a CPU the file's float32 besides. The factors are small.
fn bytes(config: &ModelConfig, device: Device, kind: Kind, keep: Keep) -> Result<u64> {
    let numbers = |shape: &Vec<i64>| shape.iter().product::<i64>() as u64;
    let all: u64 = parameter_shapes(config)?.values().map(numbers).sum();
    let adapted: u64 = adapted_modules(config)?.values().map(numbers).sum();
    let more = match keep {
        Keep::EndPoints => 2 * adapted,
        Keep::Factors => adapted,
    };
    let file = if device == Device::Cpu { 4 * all } else { 0 };
    Ok(file + kind.elt_size_in_bytes() as u64 * (all + more))
}

/// Of the memory that is free, the share that weights may take before less of them is kept: frames need some, too.
const SHARE: f64 = 0.8;

/// How a model is kept where so many bytes are free, if that is known.
fn kept(config: &ModelConfig, device: Device, kind: Kind, available: Option<u64>) -> Result<Keep> {
    let Some(available) = available else {
        return Ok(Keep::EndPoints);
    };
    if bytes(config, device, kind, Keep::EndPoints)? as f64 <= SHARE * available as f64 {
        return Ok(Keep::EndPoints);
    }
    let needed = bytes(config, device, kind, Keep::Factors)?;
    if needed <= available {
        tracing::warn!(
            "memory is short: a change of gamma takes longer, because the adapters are kept as factors"
        );
        return Ok(Keep::Factors);
    }
    Err(Error::NoMemory {
        device: match device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".into(),
        },
        reason: format!(
            "the weights take {} MB, and {} MB are free",
            needed.div_ceil(1 << 20),
            available >> 20
        ),
    })
}

/// Bytes that are free for a model.
fn available(device: Device, kind: Kind) -> Result<Option<u64>> {
    if device != Device::Cpu {
        // Before the first tensor there is nobody to ask.
        let _first = Tensor::f_zeros([1], (kind, device))?;
    }
    // What this process keeps for later tensors is as good as free.
    memory::release();
    Ok(memory::available(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_goes_by_what_is_free() {
        let config = load_config("nano").unwrap();
        let need = |device, kind, keep| bytes(&config, device, kind, keep).unwrap();
        let gpu = Device::Cuda(0);
        let [most, least] = [Keep::EndPoints, Keep::Factors].map(|keep| need(gpu, Kind::BFloat16, keep));
        assert!(least < most && most < 2 * least);
        assert_eq!(need(gpu, Kind::Float, Keep::EndPoints), 2 * most);
        assert!(need(Device::Cpu, Kind::Float, Keep::EndPoints) > 2 * most);
        let kept = |free| kept(&config, gpu, Kind::BFloat16, free);
        assert_eq!(kept(None).unwrap(), Keep::EndPoints);
        assert_eq!(kept(Some(2 * most)).unwrap(), Keep::EndPoints);
        assert_eq!(kept(Some(most - 1)).unwrap(), Keep::Factors);
        let error = kept(Some(least - 1)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NoMemory);
        assert!(error.to_string().contains("cuda:0"), "{error}");
        assert!(available(Device::Cpu, Kind::Float).unwrap() > Some(most));
    }
}
