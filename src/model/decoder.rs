//! The eVAE's decoder, with the encoder's features entering at every resolution.

use tch::Tensor;

use super::Observer;
use super::encoder::{EPS, UNetMidBlock2D, block_shape};
use crate::Result;
use crate::config::VaeConfig;
use crate::nn::{Block2D, BlockKind, Conv2d, ImageNorm, Params, Upsample2D};

/// A few convolutions on one level's encoder features, on their way to the decoder.
pub struct SkipBlock {
    convs: Vec<Conv2d>,
}

impl SkipBlock {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, kind: BlockKind, channels: i64, layers: usize) -> Result<Self> {
        let convs = (1..=layers).map(|i| {
            let p = p.pp(format!("conv{i}"));
            match kind {
                BlockKind::Resnet => Conv2d::new(&p, channels, channels, 3),
                BlockKind::Gated => Conv2d::joining(&p, channels, channels, channels),
            }
        });
        Ok(SkipBlock {
            convs: convs.collect::<Result<_>>()?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (first, rest) = self.convs.split_first().expect("a skip block has a convolution");
        rest.iter()
            .fold(first.forward(x), |h, conv| conv.forward(&h.silu()))
    }
}

/// One resolution level: residual blocks, the first with a skip, then an upsampler on all but the last.
struct UpDecoderBlock2D {
    resnets: Vec<Block2D>,
    upsampler: Option<Upsample2D>,
}

/// Latents and skips to an image.
pub struct Decoder {
    kind: BlockKind,
    conv_in: Conv2d,
    mid_block: Option<UNetMidBlock2D>,
    up_blocks: Vec<UpDecoderBlock2D>,
    conv_norm_out: ImageNorm,
    conv_out: Conv2d,
    patch_size: i64,
}

impl Decoder {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &VaeConfig) -> Result<Self> {
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let (top, bottom, last) = (widths[0], widths[widths.len() - 1], widths.len() - 1);
        let mut up_blocks = Vec::new();
        for (i, &width) in widths.iter().enumerate() {
            let p = p.pp("up_blocks").pp(i);
            let inputs = config.width_entering(width, widths[i.saturating_sub(1)]);
            let beside = config.block == BlockKind::Resnet && config.has_skip(last - i);
            let skip = if beside { width } else { 0 };
            let resnets = (0..config.decoder_layers_per_block.at(last - i)).map(|j| {
                let (inputs, skip) = if j == 0 { (inputs, skip) } else { (width, 0) };
                Block2D::new(
                    &p.pp("resnets").pp(j),
                    config.block,
                    block_shape(config, inputs, width, skip),
                )
            });
            up_blocks.push(UpDecoderBlock2D {
                resnets: resnets.collect::<Result<_>>()?,
                upsampler: if i < last {
                    let outputs = config.width_entering(widths[i + 1], width);
                    Some(Upsample2D::new(
                        &p.pp("upsamplers.0"),
                        config.block,
                        width,
                        outputs,
                    )?)
                } else {
                    None
                },
            });
        }
        let out_channels = 3 * config.patch_size * config.patch_size;
        // A residual output starts as the identity.
        let conv_out = if config.residual_output {
            Conv2d::zeroed
        } else {
            Conv2d::new
        };
        Ok(Decoder {
            kind: config.block,
            conv_in: Conv2d::new(
                &p.pp("conv_in"),
                config.latent_channels,
                top,
                config.block.kernel_between(),
            )?,
            mid_block: if config.mid_block {
                Some(UNetMidBlock2D::new(&p.pp("mid_block"), config, top)?)
            } else {
                None
            },
            up_blocks,
            conv_norm_out: ImageNorm::new(&p.pp("conv_norm_out"), config.norm, bottom, EPS)?,
            conv_out: conv_out(&p.pp("conv_out"), bottom, out_channels, 3)?,
            patch_size: config.patch_size,
        })
    }

    /// `z` `[B, c, h, w]` and one skip a level, lowest resolution first; gives `[B, 3, H, W]`, plus `added` of
    /// the same shape.
    pub fn forward(
        &self,
        z: &Tensor,
        skips: &[Tensor],
        added: Option<&Tensor>,
        observer: Observer,
    ) -> Tensor {
        let mut h = self.conv_in.forward(z);
        observer(format_args!("decoder.conv_in"), &h);
        if let Some(mid_block) = &self.mid_block {
            h = mid_block.forward(&h);
            observer(format_args!("decoder.mid_block"), &h);
        }
        // The lowest resolutions may have none.
        let without = self.up_blocks.len() - skips.len();
        let skip = |i: usize| skips.get(i.checked_sub(without)?);
        // Beside the input of a resnet block, added to that of a gated one.
        let beside = |i: usize| skip(i).filter(|_| self.kind == BlockKind::Resnet);
        let added_to = |i: usize| skip(i).filter(|_| self.kind == BlockKind::Gated);
        if let Some(skip) = added_to(0) {
            h = &h + skip;
        }
        for (i, block) in self.up_blocks.iter().enumerate() {
            let mut beside = beside(i);
            for resnet in &block.resnets {
                h = resnet.forward(&h, beside.take(), None);
            }
            if let Some(upsampler) = &block.upsampler {
                h = upsampler.forward(&h, added_to(i + 1));
            }
            observer(format_args!("decoder.up_blocks.{i}"), &h);
        }
        self.conv_out
            .forward_activated(&self.conv_norm_out, &h, self.patch_size, added)
    }
}
