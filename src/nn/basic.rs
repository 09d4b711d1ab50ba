//! Linear layers, and how tensors lie in memory.

use tch::Tensor;

use super::wanted::go_on;
use super::{Init, Params};
use crate::Result;

/// `y = x Wᵀ + b` on the last dimension.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` is `[out, in]`, `bias` `[out]`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, in_features: i64, out_features: i64, bias: bool) -> Result<Self> {
        let init = Init::FanIn(in_features);
        Ok(Linear {
            weight: p.get("weight", &[out_features, in_features], init)?,
            bias: if bias {
                Some(p.get("bias", &[out_features], init)?)
            } else {
                None
            },
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        go_on();
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// `x` `[B, C, H, W]` with its channels innermost in memory: a view where it already is, else a copy.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// A copy in the same order in memory, without gaps.
///
/// # Errors
/// Too little memory.
pub(crate) fn copied(x: &Tensor) -> Result<Tensor> {
    let mut copy = x.f_empty_like()?;
    copy.f_copy_(x)?;
    Ok(copy)
}

/// A weight as one row of numbers in the order in which kernels read it: channels-last for convolutions.
pub(crate) fn memory_order(weight: &Tensor) -> Tensor {
    match weight.dim() {
        4 => weight.permute([0, 2, 3, 1]).reshape([-1]),
        _ => weight.reshape([-1]),
    }
}

/// The inverse of [`memory_order`], without a copy.
pub(crate) fn from_memory_order(row: &Tensor, shape: &[i64]) -> Tensor {
    match *shape {
        [out, inputs, height, width] => row.view([out, height, width, inputs]).permute([0, 3, 1, 2]),
        _ => row.view(shape),
    }
}
