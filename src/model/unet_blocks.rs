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

/// What a layer makes of time embedding and prompt: the same for every image.
pub(super) struct Conditions {
    pub shift: Option<Tensor>,
    /// Keys and values of the prompt.
    pub context: Option<[Tensor; 2]>,
}

impl Conditions {
    pub fn share(&self) -> Self {
        let context = self.context.as_ref();
        Conditions {
            shift: self.shift.as_ref().map(Tensor::shallow_clone),
            context: context.map(|context| context.each_ref().map(Tensor::shallow_clone)),
        }
    }

    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.shift.iter().chain(self.context.iter().flatten())
    }
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

    fn conditions(&self, temb: Option<&Tensor>, prompt: &Tensor) -> Conditions {
        Conditions {
            shift: temb.and_then(|temb| self.resnet.shift(temb)),
            context: self.attention.as_ref().map(|attention| attention.context(prompt)),
        }
    }

    fn forward(&self, x: &Tensor, residual: Option<&Tensor>, conditions: &Conditions) -> Tensor {
        let shift = conditions.shift.as_ref();
        let h = match residual {
            Some(residual) => self.resnet.forward_residual(x, residual, shift),
            None => self.resnet.forward(x, None, shift),
        };
        match (&self.attention, &conditions.context) {
            (Some(attention), Some(context)) => attention.forward(&h, context),
            _ => h,
        }
    }
}

fn conditions(layers: &[Layer], temb: Option<&Tensor>, prompt: &Tensor) -> Vec<Conditions> {
    let layers = layers.iter();
    layers.map(|layer| layer.conditions(temb, prompt)).collect()
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

    pub(super) fn conditions(&self, temb: Option<&Tensor>, prompt: &Tensor) -> Vec<Conditions> {
        conditions(&self.layers, temb, prompt)
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        conditions: &[Conditions],
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for (layer, conditions) in self.layers.iter().zip(conditions) {
            h = layer.forward(&h, None, conditions);
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
pub(super) struct MidBlock2DCrossAttn([Layer; 2]);

impl MidBlock2DCrossAttn {
    pub(super) fn new(p: &Params, config: &UnetConfig) -> Result<Self> {
        let level = config.block_out_channels.len() - 1;
        let width = config.block_out_channels[level];
        let first = Layer {
            resnet: block(&p.pp("resnets.0"), config, width, 0, width)?,
            attention: Some(transformer(&p.pp("attentions.0"), config, level)?),
        };
        let second = Layer {
            resnet: block(&p.pp("resnets.1"), config, width, 0, width)?,
            attention: None,
        };
        Ok(MidBlock2DCrossAttn([first, second]))
    }

    pub(super) fn conditions(&self, temb: Option<&Tensor>, prompt: &Tensor) -> Vec<Conditions> {
        conditions(&self.0, temb, prompt)
    }

    pub(super) fn forward(&self, x: &Tensor, conditions: &[Conditions]) -> Tensor {
        let mut h = x.shallow_clone();
        for (layer, conditions) in self.0.iter().zip(conditions) {
            h = layer.forward(&h, None, conditions);
        }
        h
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

    pub(super) fn conditions(&self, temb: Option<&Tensor>, prompt: &Tensor) -> Vec<Conditions> {
        conditions(&self.layers, temb, prompt)
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        conditions: &[Conditions],
        residuals: &mut Vec<Tensor>,
    ) -> Tensor {
        let mut h = x.shallow_clone();
        for (layer, conditions) in self.layers.iter().zip(conditions) {
            let residual = residuals.pop().expect("one residual a layer");
            h = layer.forward(&h, Some(&residual), conditions);
        }
        match (&self.upsampler, residuals.last()) {
            // As diffusers: to the size of what it will be joined with, which is odd where the halving rounded up.
            (Some(upsampler), Some(next)) => upsampler.to_size(&h, next.size()[2], next.size()[3]),
            (Some(upsampler), None) => upsampler.forward(&h, None),
            (None, _) => h,
        }
    }
}
