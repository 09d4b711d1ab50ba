//! The dual adapter (paper, eq. 9): `y = W(x) + γ LoRA_r(x) + (1-γ) LoRA_s(x)`.
//!
//! The sum is linear in the weights, so it is merged: `W(γ) = (1-γ) W_s + γ W_r` with the end points
//! `W_r = W + scale · B_r A_r` and `W_s = W + scale · B_s A_s`. A frame then costs the same as without adapters.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::Weights;
use crate::Result;
use crate::config::{LoraConfig, ModelConfig};
use crate::model::parameter_shapes;
use crate::nn::{TensorMap, from_memory_order, memory_order};

/// One of the two LoRA sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// Fidelity, from real pairs (γ = 1).
    R,
    /// Detail, from synthetic pairs (γ = 0).
    S,
}

impl Adapter {
    /// First segment of its tensors' names.
    pub fn prefix(self) -> &'static str {
        match self {
            Adapter::R => "lora_r",
            Adapter::S => "lora_s",
        }
    }
}

/// Names of the modules that have adapters, such as `unet.conv_in`, and the shape of their weights.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn adapted_modules(config: &ModelConfig) -> Result<BTreeMap<String, Vec<i64>>> {
    let shapes = parameter_shapes(config)?;
    let modules = shapes.into_iter().filter_map(|(name, shape)| {
        let module = name.strip_suffix(".weight")?;
        let matrix = shape.len() == 2 || shape.len() == 4;
        (matrix && is_adapted(module, &config.lora)).then(|| (module.to_owned(), shape))
    });
    Ok(modules.collect())
}

fn is_adapted(module: &str, lora: &LoraConfig) -> bool {
    let ends_with = |target: &String| match module.strip_suffix(target.as_str()) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    };
    let starts_with = |scope: &String| match module.strip_prefix(scope.as_str()) {
        Some(rest) => rest.is_empty() || rest.starts_with('.'),
        None => false,
    };
    lora.scopes.iter().any(starts_with) && lora.targets.iter().any(ends_with)
}

/// Name and shape of every tensor of one LoRA set, in PEFT's layout: `lora_A` `[rank, in]` or `[rank, in, k, k]`,
/// `lora_B` `[out, rank]` or `[out, rank, 1, 1]`.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn lora_shapes(config: &ModelConfig) -> Result<BTreeMap<String, Vec<i64>>> {
    let rank = config.lora.rank;
    let mut shapes = BTreeMap::new();
    for (module, shape) in adapted_modules(config)? {
        let (mut a, mut b) = (shape.clone(), vec![shape[0], rank]);
        a[0] = rank;
        b.resize(shape.len(), 1);
        shapes.insert(format!("{module}.lora_A.weight"), a);
        shapes.insert(format!("{module}.lora_B.weight"), b);
    }
    Ok(shapes)
}

/// `scale · B A` in the shape of the module's weight.
fn delta(lora: &TensorMap, module: &str, shape: &[i64], config: &LoraConfig) -> Tensor {
    let a = &lora[&format!("{module}.lora_A.weight")];
    let b = &lora[&format!("{module}.lora_B.weight")];
    let product = b.flatten(1, -1).matmul(&a.flatten(1, -1));
    product.view(shape) * (config.alpha / config.rank as f64)
}

/// Weights with one adapter at full strength, differentiable in the adapter: for training it.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn merge_functional(base: &TensorMap, lora: &TensorMap, config: &ModelConfig) -> Result<TensorMap> {
    let mut merged: TensorMap = base.iter().map(|(k, v)| (k.clone(), v.shallow_clone())).collect();
    for (module, shape) in adapted_modules(config)? {
        let weight = merged
            .get_mut(&format!("{module}.weight"))
            .expect("a module has a weight");
        *weight = &*weight + delta(lora, &module, &shape, &config.lora);
    }
    Ok(merged)
}

/// Both ends of the dial, packed for merging: shared by all engines of a process, never written.
pub struct EndPoints {
    /// Parameters without adapters.
    fixed: TensorMap,
    /// Name, shape and offset in the flat buffers.
    layout: Vec<(String, Vec<i64>, i64)>,
    flat_r: Tensor,
    flat_s: Tensor,
}

impl EndPoints {
    /// Packs a model for `device` and `kind`. A missing adapter counts as zero.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn new(weights: &Weights, device: Device, kind: Kind) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let place = |t: &Tensor| -> Result<Tensor> { Ok(t.f_to_device(device)?.f_to_kind(kind)?) };
        let adapted = adapted_modules(&weights.config)?;
        let mut fixed = TensorMap::new();
        let mut layout = Vec::new();
        let (mut r, mut s) = (Vec::new(), Vec::new());
        let mut offset = 0;
        for (name, weight) in &weights.base {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let Some(shape) = adapted.get(module).filter(|_| name.ends_with(".weight")) else {
                fixed.insert(name.clone(), place(&pack(weight))?);
                continue;
            };
            let end_point = |lora: &Option<TensorMap>| -> Result<Tensor> {
                Ok(match lora {
                    Some(lora) => place(&memory_order(
                        &(weight + delta(lora, module, shape, &weights.config.lora)),
                    ))?,
                    None => place(&memory_order(weight))?,
                })
            };
            r.push(end_point(&weights.lora_r)?);
            s.push(end_point(&weights.lora_s)?);
            layout.push((name.clone(), shape.clone(), offset));
            offset += weight.numel() as i64;
        }
        let concatenate = |parts: &[Tensor]| -> Result<Tensor> {
            Ok(match parts {
                [] => Tensor::f_zeros([0], (kind, device))?,
                _ => Tensor::f_cat(parts, 0)?,
            })
        };
        Ok(EndPoints {
            fixed,
            layout,
            flat_r: concatenate(&r)?,
            flat_s: concatenate(&s)?,
        })
    }

    /// A set of parameters of one's own, merged for γ.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn merged(&self, gamma: f64) -> Result<Merged> {
        let flat = self.flat_s.f_lerp(&self.flat_r, gamma)?;
        let mut tensors: TensorMap = self
            .fixed
            .iter()
            .map(|(k, v)| (k.clone(), v.shallow_clone()))
            .collect();
        for (name, shape, offset) in &self.layout {
            let length = shape.iter().product();
            tensors.insert(
                name.clone(),
                from_memory_order(&flat.f_narrow(0, *offset, length)?, shape),
            );
        }
        Ok(Merged {
            flat_r: self.flat_r.shallow_clone(),
            flat_s: self.flat_s.shallow_clone(),
            flat,
            tensors,
            gamma,
        })
    }
}

/// Parameters at one γ; moving γ writes them in place, so a model built from them follows.
pub struct Merged {
    flat_r: Tensor,
    flat_s: Tensor,
    flat: Tensor,
    tensors: TensorMap,
    gamma: f64,
}

impl Merged {
    pub fn tensors(&self) -> &TensorMap {
        &self.tensors
    }

    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// `W(γ) = (1-γ) W_s + γ W_r`, one pass over one buffer; nothing to do where γ has not changed.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn set_gamma(&mut self, gamma: f64) -> Result<()> {
        if gamma != self.gamma {
            let _no_grad = tch::no_grad_guard();
            let _ = self.flat_s.f_lerp_scalar_out(&self.flat, &self.flat_r, gamma)?;
            self.gamma = gamma;
        }
        Ok(())
    }
}

fn pack(weight: &Tensor) -> Tensor {
    from_memory_order(&memory_order(weight), &weight.size())
}
