//! The eVAE's encoder.

use tch::Tensor;

use super::Observer;
use crate::Result;
use crate::config::VaeConfig;
use crate::nn::{AttnBlock, Block2D, BlockShape, Conv2d, Downsample2D, ImageNorm, Params};

/// GroupNorm epsilon of Stable Diffusion's autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// One resolution level: residual blocks, then a downsampler on all but the last.
struct DownEncoderBlock2D {
    resnets: Vec<Block2D>,
    downsampler: Option<Downsample2D>,
}

/// Two residual blocks with attention between them.
pub(super) struct UNetMidBlock2D {
    first: Block2D,
    attention: Option<AttnBlock>,
    second: Block2D,
}

impl UNetMidBlock2D {
    pub(super) fn new(p: &Params, config: &VaeConfig, channels: i64) -> Result<Self> {
        let shape = block_shape(config, channels, channels, 0);
        Ok(UNetMidBlock2D {
            first: Block2D::new(&p.pp("resnets.0"), config.block, shape)?,
            attention: if config.mid_attention {
                Some(AttnBlock::new(&p.pp("attentions.0"), channels, config.norm, EPS)?)
            } else {
                None
            },
            second: Block2D::new(&p.pp("resnets.1"), config.block, shape)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.first.forward(x, None, None);
        if let Some(attention) = &self.attention {
            h = attention.forward(&h);
        }
        self.second.forward(&h, None, None)
    }
}

pub(super) fn block_shape(config: &VaeConfig, inputs: i64, outputs: i64, skip: i64) -> BlockShape {
    BlockShape {
        in_channels: inputs,
        out_channels: outputs,
        skip_channels: skip,
        temb_channels: None,
        norm: config.norm,
        eps: EPS,
    }
}

/// Image to the mean and log variance of its latents, and one feature map a level.
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock2D>,
    mid_block: Option<UNetMidBlock2D>,
    conv_norm_out: ImageNorm,
    conv_out: Conv2d,
    patch_size: i64,
}

impl Encoder {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &VaeConfig) -> Result<Self> {
        let widths = &config.block_out_channels;
        let last = widths.len() - 1;
        let in_channels = 3 * config.patch_size * config.patch_size;
        let mut down_blocks = Vec::new();
        for (level, &width) in widths.iter().enumerate() {
            let p = p.pp("down_blocks").pp(level);
            let inputs = config.width_entering(width, widths[level.saturating_sub(1)]);
            let resnets = (0..config.layers_per_block.at(level)).map(|i| {
                let inputs = if i == 0 { inputs } else { width };
                Block2D::new(
                    &p.pp("resnets").pp(i),
                    config.block,
                    block_shape(config, inputs, width, 0),
                )
            });
            down_blocks.push(DownEncoderBlock2D {
                resnets: resnets.collect::<Result<_>>()?,
                downsampler: if level < last {
                    let p = p.pp("downsamplers.0");
                    let outputs = config.width_entering(widths[level + 1], width);
                    Some(Downsample2D::new(&p, config.block, width, outputs, true)?)
                } else {
                    None
                },
            });
        }
        let top = widths[last];
        Ok(Encoder {
            conv_in: Conv2d::new(&p.pp("conv_in"), in_channels, widths[0], 3)?,
            down_blocks,
            mid_block: if config.mid_block {
                Some(UNetMidBlock2D::new(&p.pp("mid_block"), config, top)?)
            } else {
                None
            },
            conv_norm_out: ImageNorm::new(&p.pp("conv_norm_out"), config.norm, top, EPS)?,
            conv_out: Conv2d::new(
                &p.pp("conv_out"),
                top,
                2 * config.latent_channels,
                config.block.kernel_between(),
            )?,
            patch_size: config.patch_size,
        })
    }

    /// `[B, 3, H, W]` to moments `[B, 2c, H/f, W/f]` and each level's features before its downsampler.
    pub fn forward(&self, x: &Tensor, observer: Observer) -> (Tensor, Vec<Tensor>) {
        let mut h = match self.patch_size {
            1 => self.conv_in.forward(x),
            patch => self.conv_in.forward_patches(x, patch),
        };
        observer(format_args!("encoder.conv_in"), &h);
        let mut features = Vec::with_capacity(self.down_blocks.len());
        for (level, block) in self.down_blocks.iter().enumerate() {
            for (i, resnet) in block.resnets.iter().enumerate() {
                h = resnet.forward(&h, None, None);
                observer(format_args!("encoder.down_blocks.{level}.resnets.{i}"), &h);
            }
            features.push(h.shallow_clone());
            if let Some(downsampler) = &block.downsampler {
                h = downsampler.forward(&h);
            }
        }
        if let Some(mid_block) = &self.mid_block {
            h = mid_block.forward(&h);
            observer(format_args!("encoder.mid_block"), &h);
        }
        (
            self.conv_out.forward_activated(&self.conv_norm_out, &h, 1, None),
            features,
        )
    }
}
