//! The UNet's down, mid and up blocks.

use tch::Tensor;

use super::unet::EPS;
use crate::Result;
use crate::config::UnetConfig;
use crate::nn::{
    Block2D, BlockShape, Downsample2D, Params, Transformer2DModel, TransformerShape, Upsample2D,
};

fn block(
    p: &Params,
    config: &UnetConfig,
    in_channels: i64,
    residual_channels: i64,
    out_channels: i64,
) -> Result<Block2D> {
    let shape = BlockShape {
        in_channels,
        out_channels,
        skip_channels: residual_channels,
        temb_channels: config.temb_channels(),
        norm: config.norm,
        eps: EPS,
    };
    Block2D::with_residual(p, config.block, shape)
}

fn transformer(p: &Params, config: &UnetConfig, level: usize) -> Result<Transformer2DModel> {
    Transformer2DModel::new(
        p,
        TransformerShape {
            channels: config.block_out_channels[level],
            context_channels: config.cross_attention_dim,
            heads: config.num_attention_heads[level],
            self_attention: config.self_attention,
            ff_mult: config.ff_mult,
            norm: config.norm,
        },
    )
}

/// A residual block, followed by attention on levels that have it.
struct Layer {
    resnet: Block2D,
    attention: Option<Transformer2DModel>,
}

impl Layer {
    /// `residual`: channels that come from the way down, 0 on the way down itself.
    fn new(
        p: &Params,
        config: &UnetConfig,
        level: usize,
        index: usize,
        inputs: i64,
        residual: i64,
    ) -> Result<Self> {
        let width = config.block_out_channels[level];
        Ok(Layer {
            resnet: block(&p.pp("resnets").pp(index), config, inputs, residual, width)?,
            attention: if config.cross_attention[level] {
                Some(transformer(&p.pp("attentions").pp(index), config, level)?)
            } else {
                None
            },
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        temb: Option<&Tensor>,
        prompt: &Tensor,
    ) -> Tensor {
        let h = match residual {
            Some(residual) => self.resnet.forward_residual(x, residual, temb),
            None => self.resnet.forward(x, None, temb),
        };
        match &self.attention {
            Some(attention) => attention.forward(&h, prompt),
            None => h,
        }
    }
}

/// `DownBlock2D`, or `CrossAttnDownBlock2D` where the level attends.
pub(super) struct DownBlock2D {
    layers: Vec<Layer>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock2D {
    pub(super) fn new(
        p: &Params,
        config: &UnetConfig,
        level: usize,
        inputs: i64,
        downsample: bool,
    ) -> Result<Self> {
        let width = config.block_out_channels[level];
        let layers = (0..config.layers_per_block)
            .map(|i| Layer::new(p, config, level, i, if i == 0 { inputs } else { width }, 0));
        Ok(DownBlock2D {
            layers: layers.collect::<Result<_>>()?,
            downsampler: if downsample {
                Some(Downsample2D::new(
                    &p.pp("downsamplers.0"),
                    config.block,
                    width,
                    width,
                    false,
                )?)
            } else {
                None
            },
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        temb: Option<&Tensor>,
        prompt: &Tensor,
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for layer in &self.layers {
            h = layer.forward(&h, None, temb, prompt);
            residuals.push(h.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            h = downsampler.forward(&h);
            residuals.push(h.shallow_clone());
        }
        h
    }
}

/// Residual block, attention, residual block at the lowest resolution.
pub(super) struct MidBlock2DCrossAttn {
    first: Block2D,
    attention: Transformer2DModel,
    second: Block2D,
}

impl MidBlock2DCrossAttn {
    pub(super) fn new(p: &Params, config: &UnetConfig) -> Result<Self> {
        let level = config.block_out_channels.len() - 1;
        let width = config.block_out_channels[level];
        Ok(MidBlock2DCrossAttn {
            first: block(&p.pp("resnets.0"), config, width, 0, width)?,
            attention: transformer(&p.pp("attentions.0"), config, level)?,
            second: block(&p.pp("resnets.1"), config, width, 0, width)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, temb: Option<&Tensor>, prompt: &Tensor) -> Tensor {
        let h = self.first.forward(x, None, temb);
        let h = self.attention.forward(&h, prompt);
        self.second.forward(&h, None, temb)
    }
}

/// `UpBlock2D`, or `CrossAttnUpBlock2D` where the level attends.
pub(super) struct UpBlock2D {
    layers: Vec<Layer>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock2D {
    /// `skips`: widths of the residuals that this block takes, in the order in which they were made.
    pub(super) fn new(
        p: &Params,
        config: &UnetConfig,
        level: usize,
        inputs: i64,
        skips: &[i64],
        upsample: bool,
    ) -> Result<Self> {
        let width = config.block_out_channels[level];
        let layers = skips.iter().rev().enumerate().map(|(i, skip)| {
            let before = if i == 0 { inputs } else { width };
            Layer::new(p, config, level, i, before, *skip)
        });
        Ok(UpBlock2D {
            layers: layers.collect::<Result<_>>()?,
            upsampler: if upsample {
                Some(Upsample2D::new(
                    &p.pp("upsamplers.0"),
                    config.block,
                    width,
                    width,
                )?)
            } else {
                None
            },
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        temb: Option<&Tensor>,
        prompt: &Tensor,
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for layer in &self.layers {
            let residual = residuals.pop().expect("one residual a layer");
            h = layer.forward(&h, Some(&residual), temb, prompt);
        }
        match (&self.upsampler, residuals.last()) {
            // As diffusers: to the size of what it will be joined with, which is odd where the halving rounded up.
            (Some(upsampler), Some(next)) => upsampler.to_size(&h, next.size()[2], next.size()[3]),
            (Some(upsampler), None) => upsampler.forward(&h, None),
            (None, _) => h,
        }
    }
}
