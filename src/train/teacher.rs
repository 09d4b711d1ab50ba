//! A finished model whose output another learns from.
//!
//! What a small model cannot restore, a larger one of the same training restores halfway: a target that leaves out what nobody can
//! know is easier to follow than the truth (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

use tch::{Kind, Tensor};

use crate::device::{Device, Precision};
use crate::model::{Arithmetic, OsddModel};
use crate::nn::Params;
use crate::weights::{EndPoints, Keep, Weights};
use crate::{Error, Result};

/// The γ at which it teaches: the end of fidelity.
const GAMMA: f64 = 1.0;

/// A model on the device, for inference.
pub(super) struct Teacher {
    model: OsddModel,
    /// Sides of images that it takes are multiples of this.
    multiple: usize,
}

impl Teacher {
    /// In the arithmetic that the engine would take on `device` and `torch_device`, which are the same.
    ///
    /// # Errors
    /// Weights that make no model.
    pub fn new(
        weights: &Weights,
        device: Device,
        torch_device: tch::Device,
        precision: Precision,
    ) -> Result<Self> {
        let arithmetic = Arithmetic::new(&weights.config, device, precision)?;
        let ends = EndPoints::new(weights, torch_device, arithmetic.kind, Keep::EndPoints)?;
        let merged = ends.merged(GAMMA)?;
        let params = Params::new(merged.tensors()).with_products(arithmetic.products);
        Ok(Teacher {
            model: OsddModel::new(&params, &weights.config)?,
            multiple: weights.config.latent_factor(),
        })
    }

    /// Whether it takes crops of this side.
    ///
    /// # Errors
    /// [`Error::Train`] with the side that it wants.
    pub fn check(&self, crop_size: usize) -> Result<()> {
        match crop_size.is_multiple_of(self.multiple) {
            true => Ok(()),
            false => Err(Error::Train(format!(
                "crop_size = {crop_size} in a phase, but the teacher needs a multiple of {}",
                self.multiple
            ))),
        }
    }

    /// What it makes of blurry images `[B, 3, H, W]` in [0, 1]; same shape and range, float32, clamped, without a gradient.
    pub fn restored(&self, blurry: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let restored = self.model.forward(&(blurry * 2.0 - 1.0)).to_kind(Kind::Float);
        ((restored + 1.0) / 2.0).clamp(0.0, 1.0)
    }
}
