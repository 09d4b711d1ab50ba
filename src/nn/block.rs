//! The building block of autoencoder and UNet, of the kind that a configuration names.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{GatedBlock2D, NormKind, Params, ResnetBlock2D};
use crate::Result;

/// What a model is built from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Two 3x3 convolutions, as in Stable Diffusion; around them 3x3 convolutions change the resolution.
    #[default]
    Resnet,
    /// Departure: [`GatedBlock2D`]; around them 2x2 and 1x1 convolutions change the resolution.
    Gated,
}

impl BlockKind {
    /// Kernel of the convolutions between blocks: at the ends of the UNet, to and from the latents, in the skips.
    pub fn kernel_between(self) -> i64 {
        match self {
            BlockKind::Resnet => 3,
            BlockKind::Gated => 1,
        }
    }
}

/// Widths and norm of a block.
#[derive(Clone, Copy)]
pub struct BlockShape {
    pub in_channels: i64,
    pub out_channels: i64,
    /// Channels of the skip that enters beside the input.
    pub skip_channels: i64,
    /// Width of the time embedding; `None` in the autoencoder.
    pub temb_channels: Option<i64>,
    pub norm: NormKind,
    pub eps: f64,
}

/// A block of one of the kinds.
pub enum Block2D {
    Resnet(Box<ResnetBlock2D>),
    Gated(Box<GatedBlock2D>),
}

impl Block2D {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, kind: BlockKind, shape: BlockShape) -> Result<Self> {
        Ok(match kind {
            BlockKind::Resnet => Block2D::Resnet(Box::new(ResnetBlock2D::new(p, shape)?)),
            BlockKind::Gated => Block2D::Gated(Box::new(GatedBlock2D::new(p, shape)?)),
        })
    }

    /// A block that takes a residual of `skip_channels` from the UNet's way down: beside its input where the block is gated,
    /// as part of it (through the norm) in a resnet block, as diffusers has it.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn with_residual(p: &Params, kind: BlockKind, shape: BlockShape) -> Result<Self> {
        match kind {
            BlockKind::Gated => Self::new(p, kind, shape),
            BlockKind::Resnet => {
                let in_channels = shape.in_channels + shape.skip_channels;
                let shape = BlockShape {
                    in_channels,
                    skip_channels: 0,
                    ..shape
                };
                Self::new(p, kind, shape)
            }
        }
    }

    /// What the block makes of the time embedding `temb`, `[1, temb_channels]`: the same for every image.
    pub fn shift(&self, temb: &Tensor) -> Option<Tensor> {
        match self {
            Block2D::Resnet(block) => block.shift(temb),
            Block2D::Gated(block) => block.shift(temb),
        }
    }

    /// As [`Block2D::forward`], for a block made by [`Block2D::with_residual`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor, shift: Option<&Tensor>) -> Tensor {
        match self {
            Block2D::Resnet(block) => block.forward(&Tensor::cat(&[x, residual], 1), None, shift),
            Block2D::Gated(block) => block.forward(x, Some(residual), shift),
        }
    }

    /// `x` `[B, in, H, W]`, `skip` `[B, skip_channels, H, W]`, [`shift`](Self::shift); gives `[B, out, H, W]`.
    pub fn forward(&self, x: &Tensor, skip: Option<&Tensor>, shift: Option<&Tensor>) -> Tensor {
        match self {
            Block2D::Resnet(block) => block.forward(x, skip, shift),
            Block2D::Gated(block) => block.forward(x, skip, shift),
        }
    }
}
