//! The residual block of UNet and autoencoder.

use tch::Tensor;

use super::{BlockShape, Conv2d, ImageNorm, Linear, Params};
use crate::Result;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))`, with a 1x1 shortcut where the width changes.
///
/// A block may take `skip_channels` more channels that enter beside the normalised input, at `conv1` and at the
/// shortcut: the eVAE's skip connection. They stay out of `norm1`, so that zero weights for them give the plain block.
pub struct ResnetBlock2D {
    norm1: ImageNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: ImageNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, shape: BlockShape) -> Result<Self> {
        let BlockShape {
            in_channels,
            out_channels,
            skip_channels,
            ..
        } = shape;
        let wide = in_channels + skip_channels;
        Ok(ResnetBlock2D {
            norm1: ImageNorm::new(&p.pp("norm1"), shape.norm, in_channels, shape.eps)?,
            conv1: Conv2d::new(&p.pp("conv1"), wide, out_channels, 3)?,
            time_emb_proj: match shape.temb_channels {
                Some(temb) => Some(Linear::new(&p.pp("time_emb_proj"), temb, out_channels, true)?),
                None => None,
            },
            norm2: ImageNorm::new(&p.pp("norm2"), shape.norm, out_channels, shape.eps)?,
            conv2: Conv2d::new(&p.pp("conv2"), out_channels, out_channels, 3)?,
            conv_shortcut: if wide != out_channels {
                Some(Conv2d::new(&p.pp("conv_shortcut"), wide, out_channels, 1)?)
            } else {
                None
            },
        })
    }

    /// What the block makes of the time embedding `temb`, `[1, temb_channels]`.
    pub fn shift(&self, temb: &Tensor) -> Option<Tensor> {
        Some(self.time_emb_proj.as_ref()?.forward(&temb.silu()))
    }

    /// `x` `[B, in, H, W]`, `skip` `[B, skip_channels, H, W]`, [`shift`](Self::shift); gives `[B, out, H, W]`.
    pub fn forward(&self, x: &Tensor, skip: Option<&Tensor>, shift: Option<&Tensor>) -> Tensor {
        let mut h = self.norm1.forward_silu(x);
        if let Some(skip) = skip {
            h = Tensor::cat(&[&h, skip], 1);
        }
        h = match shift {
            Some(shift) => self.conv1.forward_shifted(&h, shift),
            None => self.conv1.forward(&h),
        };
        h = self.conv2.forward(&self.norm2.forward_silu(&h));
        match (&self.conv_shortcut, skip) {
            (Some(shortcut), Some(skip)) => h + shortcut.forward(&Tensor::cat(&[x, skip], 1)),
            (Some(shortcut), None) => h + shortcut.forward(x),
            (None, _) => h + x,
        }
    }
}
