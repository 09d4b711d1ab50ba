//! Normalisation layers.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Init, Params};
use crate::Result;

/// How feature maps are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Over groups of channels and the whole image, as in Stable Diffusion.
    Group { num_groups: i64 },
    /// Over the channels of each pixel: no image-wide statistics, so tiles can match the whole frame.
    Channel,
}

/// Normalisation of a feature map `[B, C, H, W]`, with a learned scale and shift per channel.
pub struct ImageNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) kind: NormKind,
    pub(super) eps: f64,
}

impl ImageNorm {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, kind: NormKind, channels: i64, eps: f64) -> Result<Self> {
        Ok(ImageNorm {
            weight: p.get("weight", &[channels], Init::Ones)?,
            bias: p.get("bias", &[channels], Init::Zeros)?,
            kind,
            eps,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.on_gpu(x, false).unwrap_or_else(|| self.by_libtorch(x))
    }

    /// The norm's SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Tensor {
        self.on_gpu(x, true).unwrap_or_else(|| self.by_libtorch(x).silu())
    }

    /// By kernels of our own, where there are some.
    fn on_gpu(&self, x: &Tensor, silu: bool) -> Option<Tensor> {
        match self.kind {
            NormKind::Group { num_groups } => {
                super::cuda::group_norm(x, num_groups, [&self.weight, &self.bias], self.eps, silu)
            }
            NormKind::Channel => None,
        }
    }

    fn by_libtorch(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        match self.kind {
            NormKind::Group { num_groups } => x.group_norm(num_groups, weight, bias, self.eps, false),
            NormKind::Channel => x
                .permute([0, 2, 3, 1])
                .layer_norm(self.weight.size(), weight, bias, self.eps, false)
                .permute([0, 3, 1, 2]),
        }
    }
}

/// Normalisation of tokens `[B, N, C]` over C.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, channels: i64) -> Result<Self> {
        Ok(LayerNorm {
            weight: p.get("weight", &[channels], Init::Ones)?,
            bias: p.get("bias", &[channels], Init::Zeros)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let shape = self.weight.size();
        x.layer_norm(shape, Some(&self.weight), Some(&self.bias), 1e-5, false)
    }
}
