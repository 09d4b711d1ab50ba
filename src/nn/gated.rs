//! The gated block: much depth for few operations.
//!
//! After the block of NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022), without its image-wide
//! channel attention, which no overlap would make exact on tiles.

use tch::Tensor;

use super::cpu::{GatedLayers, GatedWeights, Layer, Products};
use super::cuda;
use super::packed::{Packed, filled, innermost, map};
use super::{BlockShape, Conv2d, ImageNorm, Linear, NormKind, Params};
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
    products: Products,
    packed: Packed<GatedWeights>,
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
            products: p.products(),
            packed: Packed::default(),
        })
    }

    /// What the block makes of the time embedding `temb`, `[1, temb_channels]`.
    pub fn shift(&self, temb: &Tensor) -> Option<Tensor> {
        Some(self.time_emb_proj.as_ref()?.forward(&temb.silu()))
    }

    /// `x` `[B, in, H, W]`, `skip` `[B, skip_channels, H, W]`, [`shift`](Self::shift); gives `[B, out, H, W]`.
    pub fn forward(&self, x: &Tensor, skip: Option<&Tensor>, shift: Option<&Tensor>) -> Tensor {
        let x = match (&self.conv_shortcut, skip) {
            (Some(shortcut), Some(skip)) => shortcut.forward_joined(&[x, skip]),
            (Some(shortcut), None) => shortcut.forward(x),
            (None, _) => x.shallow_clone(),
        };
        if shift.is_none() && self.has_channel_norms(&x) {
            if let Some(fused) = self.fused(&x) {
                return fused;
            }
            if let Some(output) = cuda::forward(&x, &self.parameters(), self.norm1.eps) {
                return output;
            }
        }
        let h = self.norm1.forward(&x);
        let h = match shift {
            Some(shift) => self.conv1.forward_shifted(&h, shift),
            None => self.conv1.forward(&h),
        };
        let x = x + self.conv2.forward(&gate(&self.conv_dw.forward(&h)));
        let h = gate(&self.ff_proj.forward(&self.norm2.forward(&x)));
        x + self.ff_out.forward(&h)
    }

    /// The block in one pass, where that is possible: on a CPU, maps in float32, for inference.
    fn fused(&self, x: &Tensor) -> Option<Tensor> {
        self.packed.with(
            &[x],
            &self.parameters(),
            |parameters| self.pack(parameters),
            |weights| {
                let input = innermost(x);
                let size = x.size4().ok()?.into();
                Some(filled(size, |output| weights.forward(map(&input), output)))
            },
        )
    }

    /// Both norms are over channels, of which `x` has as many, with the same epsilon.
    fn has_channel_norms(&self, x: &Tensor) -> bool {
        let alike = self.norm1.kind == NormKind::Channel && self.norm1.eps == self.norm2.eps;
        alike && x.size()[1..2] == self.norm1.bias.size()
    }

    fn parameters(&self) -> [&Tensor; 14] {
        let (norm1, norm2) = (&self.norm1, &self.norm2);
        let (conv1, conv_dw, conv2) = (&self.conv1, &self.conv_dw, &self.conv2);
        let (ff_proj, ff_out) = (&self.ff_proj, &self.ff_out);
        [
            &norm1.weight,
            &norm1.bias,
            &conv1.weight,
            &conv1.bias,
            &conv_dw.weight,
            &conv_dw.bias,
            &conv2.weight,
            &conv2.bias,
            &norm2.weight,
            &norm2.bias,
            &ff_proj.weight,
            &ff_proj.bias,
            &ff_out.weight,
            &ff_out.bias,
        ]
    }

    fn pack(&self, parameters: &[&[f32]]) -> Option<GatedWeights> {
        let layer = |i: usize| Layer {
            weight: parameters[2 * i],
            bias: parameters[2 * i + 1],
        };
        let layers = GatedLayers {
            norm1: layer(0),
            conv1: layer(1),
            conv_dw: layer(2),
            conv2: layer(3),
            norm2: layer(4),
            ff_proj: layer(5),
            ff_out: layer(6),
        };
        let width = self.norm1.bias.size()[0] as usize;
        GatedWeights::new(width, self.norm1.eps, self.products, &layers)
    }
}

/// The first half of the channels times the second.
fn gate(x: &Tensor) -> Tensor {
    let halves = x.chunk(2, 1);
    &halves[0] * &halves[1]
}
