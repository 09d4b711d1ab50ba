//! The dual adapter (paper, eq. 9): `y = W(x) + γ LoRA_r(x) + (1-γ) LoRA_s(x)`.
//!
//! The sum is linear in the weights, so it is merged: `W(γ) = (1-γ) W_s + γ W_r` with the end points
//! `W_r = W + scale · B_r A_r` and `W_s = W + scale · B_s A_s`. A frame then costs the same as without adapters.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::Result;
use crate::config::{LoraConfig, ModelConfig};
use crate::model::parameter_shapes;
use crate::nn::TensorMap;

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
pub(super) fn delta(lora: &TensorMap, module: &str, shape: &[i64], config: &LoraConfig) -> Tensor {
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
