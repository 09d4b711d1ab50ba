//! The gated block: much depth for few operations.
//!
//! After the block of NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022), without its image-wide
//! channel attention, which no overlap would make exact on tiles.

use tch::Tensor;

use super::{BlockShape, Conv2d, ImageNorm, Linear, Params};
use crate::Result;

/// `x + conv2(gate(conv_dw(conv1(norm1(x)) + time)))`, then `x + ff.net.2(gate(ff.net.0.proj(norm2(x))))`.
///
/// `gate` multiplies the first half of the channels by the second; `conv_dw` is a depthwise 3x3 convolution, all others are
/// 1x1. Where the width changes, and where a skip enters beside the input, `conv_shortcut` joins them first.
pub struct GatedBlock2D {
    conv_shortcut: Option<Conv2d>,
    norm1: ImageNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    conv_dw: Conv2d,
    conv2: Conv2d,
    norm2: ImageNorm,
    ff_proj: Conv2d,
    ff_out: Conv2d,
}

impl GatedBlock2D {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, shape: BlockShape) -> Result<Self> {
        let (inputs, width) = (shape.in_channels + shape.skip_channels, shape.out_channels);
        let ff = p.pp("ff.net");
        Ok(GatedBlock2D {
            conv_shortcut: if inputs != width {
                Some(Conv2d::joining(
                    &p.pp("conv_shortcut"),
                    shape.in_channels,
                    inputs,
                    width,
                )?)
            } else {
                None
            },
            norm1: ImageNorm::new(&p.pp("norm1"), shape.norm, width, shape.eps)?,
            conv1: Conv2d::new(&p.pp("conv1"), width, 2 * width, 1)?,
            time_emb_proj: match shape.temb_channels {
                Some(temb) => Some(Linear::new(&p.pp("time_emb_proj"), temb, 2 * width, true)?),
                None => None,
            },
            conv_dw: Conv2d::depthwise(&p.pp("conv_dw"), 2 * width, 3)?,
            // Both branches start at zero: an untrained block passes its input on.
            conv2: Conv2d::zeroed(&p.pp("conv2"), width, width, 1)?,
            norm2: ImageNorm::new(&p.pp("norm2"), shape.norm, width, shape.eps)?,
            ff_proj: Conv2d::new(&ff.pp("0.proj"), width, 2 * width, 1)?,
            ff_out: Conv2d::zeroed(&ff.pp("2"), width, width, 1)?,
        })
    }

    /// `x` `[B, in, H, W]`, `skip` `[B, skip_channels, H, W]`, `temb` `[1, temb_channels]`; gives `[B, out, H, W]`.
    pub fn forward(&self, x: &Tensor, skip: Option<&Tensor>, temb: Option<&Tensor>) -> Tensor {
        let joined = skip.map(|skip| Tensor::cat(&[x, skip], 1));
        let x = joined.as_ref().unwrap_or(x);
        let x = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x.shallow_clone(),
        };
        let h = self.norm1.forward(&x);
        let h = match (&self.time_emb_proj, temb) {
            (Some(proj), Some(temb)) => self.conv1.forward_shifted(&h, &proj.forward(&temb.silu())),
            _ => self.conv1.forward(&h),
        };
        let x = x + self.conv2.forward(&gate(&self.conv_dw.forward(&h)));
        let h = gate(&self.ff_proj.forward(&self.norm2.forward(&x)));
        x + self.ff_out.forward(&h)
    }
}

/// The first half of the channels times the second.
fn gate(x: &Tensor) -> Tensor {
    let halves = x.chunk(2, 1);
    &halves[0] * &halves[1]
}
