//! The UNet's down, mid and up blocks.

use tch::Tensor;

use super::unet::EPS;
use crate::Result;
use crate::config::UnetConfig;
use crate::nn::{
    Downsample2D, Params, ResnetBlock2D, ResnetShape, Transformer2DModel, TransformerShape, Upsample2D,
};

fn resnet(p: &Params, config: &UnetConfig, in_channels: i64, out_channels: i64) -> Result<ResnetBlock2D> {
    ResnetBlock2D::new(
        p,
        ResnetShape {
            in_channels,
            out_channels,
            skip_channels: 0,
            temb_channels: Some(config.time_embed_dim),
            norm: config.norm,
            eps: EPS,
        },
    )
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
    resnet: ResnetBlock2D,
    attention: Option<Transformer2DModel>,
}

impl Layer {
    fn new(p: &Params, config: &UnetConfig, level: usize, index: usize, inputs: i64) -> Result<Self> {
        let width = config.block_out_channels[level];
        Ok(Layer {
            resnet: resnet(&p.pp("resnets").pp(index), config, inputs, width)?,
            attention: if config.cross_attention[level] {
                Some(transformer(&p.pp("attentions").pp(index), config, level)?)
            } else {
                None
            },
        })
    }

    fn forward(&self, x: &Tensor, temb: &Tensor, prompt: &Tensor) -> Tensor {
        let h = self.resnet.forward(x, None, Some(temb));
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
            .map(|i| Layer::new(p, config, level, i, if i == 0 { inputs } else { width }));
        Ok(DownBlock2D {
            layers: layers.collect::<Result<_>>()?,
            downsampler: if downsample {
                Some(Downsample2D::new(&p.pp("downsamplers.0"), width, false)?)
            } else {
                None
            },
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        temb: &Tensor,
        prompt: &Tensor,
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for layer in &self.layers {
            h = layer.forward(&h, temb, prompt);
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
    first: ResnetBlock2D,
    attention: Transformer2DModel,
    second: ResnetBlock2D,
}

impl MidBlock2DCrossAttn {
    pub(super) fn new(p: &Params, config: &UnetConfig) -> Result<Self> {
        let level = config.block_out_channels.len() - 1;
        let width = config.block_out_channels[level];
        Ok(MidBlock2DCrossAttn {
            first: resnet(&p.pp("resnets.0"), config, width, width)?,
            attention: transformer(&p.pp("attentions.0"), config, level)?,
            second: resnet(&p.pp("resnets.1"), config, width, width)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, temb: &Tensor, prompt: &Tensor) -> Tensor {
        let h = self.first.forward(x, None, Some(temb));
        let h = self.attention.forward(&h, prompt);
        self.second.forward(&h, None, Some(temb))
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
            Layer::new(p, config, level, i, before + skip)
        });
        Ok(UpBlock2D {
            layers: layers.collect::<Result<_>>()?,
            upsampler: if upsample {
                Some(Upsample2D::new(&p.pp("upsamplers.0"), width)?)
            } else {
                None
            },
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        temb: &Tensor,
        prompt: &Tensor,
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for layer in &self.layers {
            let residual = residuals.pop().expect("one residual a layer");
            h = layer.forward(&Tensor::cat(&[h, residual], 1), temb, prompt);
        }
        match (&self.upsampler, residuals.last()) {
            // As diffusers: to the size of what it will be joined with, which is odd where the halving rounded up.
            (Some(upsampler), Some(next)) => upsampler.to_size(&h, next.size()[2], next.size()[3]),
            (Some(upsampler), None) => upsampler.forward(&h),
            (None, _) => h,
        }
    }
}
