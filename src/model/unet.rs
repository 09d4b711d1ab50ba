//! The noise predictor ε_θ(z_t, c, t): a UNet with cross-attention to the prompt.

use tch::{Kind, Tensor};

use super::Observer;
use super::unet_blocks::{Conditions, DownBlock2D, MidBlock2DCrossAttn, UpBlock2D};
use crate::Result;
use crate::config::UnetConfig;
use crate::nn::{BlockKind, Conv2d, ImageNorm, Linear, Params};

/// UNet of Stable Diffusion 2.1's structure; names as in diffusers' class of this name.
pub struct UNet2DConditionModel {
    conv_in: Conv2d,
    /// Absent where `time_embed_dim` is 0.
    time_embedding: Option<(Linear, Linear)>,
    down_blocks: Vec<DownBlock2D>,
    mid_block: MidBlock2DCrossAttn,
    up_blocks: Vec<UpBlock2D>,
    conv_norm_out: ImageNorm,
    conv_out: Conv2d,
    time_channels: i64,
}

/// What the layers make of timestep and prompt: the same for every image as long as the weights stay.
pub(super) struct Conditioning {
    /// `[1, time_embed_dim]`.
    temb: Option<Tensor>,
    down: Vec<Vec<Conditions>>,
    mid: Vec<Conditions>,
    up: Vec<Vec<Conditions>>,
}

impl Conditioning {
    /// In the layers' order.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let down = self.down.iter().flatten();
        let all = down.chain(&self.mid).chain(self.up.iter().flatten());
        self.temb.iter().chain(all.flat_map(Conditions::tensors))
    }

    /// Takes over what `other` has, in the memory that is there.
    pub(super) fn overwrite(&self, other: &Conditioning) {
        for (ours, theirs) in self.tensors().zip(other.tensors()) {
            ours.shallow_clone().copy_(theirs);
        }
    }

    /// The same memory once more.
    pub(super) fn share(&self) -> Self {
        let share = |conditions: &Vec<Conditions>| conditions.iter().map(Conditions::share).collect();
        Conditioning {
            temb: self.temb.as_ref().map(Tensor::shallow_clone),
            down: self.down.iter().map(share).collect(),
            mid: share(&self.mid),
            up: self.up.iter().map(share).collect(),
        }
    }
}

/// GroupNorm epsilon of Stable Diffusion's UNet.
pub(super) const EPS: f64 = 1e-5;

impl UNet2DConditionModel {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &UnetConfig, latent_channels: i64) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (levels, first, last) = (widths.len(), widths[0], widths[widths.len() - 1]);
        let mut down_blocks = Vec::new();
        // Widths of the residuals that the up blocks take back, last first.
        let mut residuals = vec![first];
        for level in 0..levels {
            let inputs = widths[level.saturating_sub(1)];
            let downsample = level + 1 < levels;
            let p = p.pp("down_blocks").pp(level);
            down_blocks.push(DownBlock2D::new(&p, config, level, inputs, downsample)?);
            let count = config.layers_per_block + usize::from(downsample);
            residuals.extend(std::iter::repeat_n(widths[level], count));
        }
        let mut up_blocks = Vec::new();
        let mut inputs = last;
        for (i, level) in (0..levels).rev().enumerate() {
            let p = p.pp("up_blocks").pp(i);
            let skips = residuals.split_off(residuals.len() - config.layers_per_block - 1);
            up_blocks.push(UpBlock2D::new(&p, config, level, inputs, &skips, level > 0)?);
            inputs = widths[level];
        }
        let kernel = config.block.kernel_between();
        let t = p.pp("time_embedding");
        Ok(UNet2DConditionModel {
            conv_in: Conv2d::new(&p.pp("conv_in"), latent_channels, first, kernel)?,
            time_embedding: match config.temb_channels() {
                Some(temb) => Some((
                    Linear::new(&t.pp("linear_1"), first, temb, true)?,
                    Linear::new(&t.pp("linear_2"), temb, temb, true)?,
                )),
                None => None,
            },
            down_blocks,
            mid_block: MidBlock2DCrossAttn::new(&p.pp("mid_block"), config)?,
            up_blocks,
            conv_norm_out: ImageNorm::new(&p.pp("conv_norm_out"), config.norm, first, EPS)?,
            conv_out: match config.block {
                BlockKind::Resnet => Conv2d::new(&p.pp("conv_out"), first, latent_channels, kernel)?,
                // No noise at first: the latents go through as they are.
                BlockKind::Gated => Conv2d::zeroed(&p.pp("conv_out"), first, latent_channels, kernel)?,
            },
            time_channels: first,
        })
    }

    /// `z_t` `[B, c, h, w]`, timestep t, `prompt` `[1, M, dim]`; gives the predicted noise `[B, c, h, w]`.
    pub fn forward(&self, z_t: &Tensor, timestep: f64, prompt: &Tensor) -> Tensor {
        self.observed(z_t, timestep, prompt, &mut |_, _| ())
    }

    /// As [`UNet2DConditionModel::forward`], showing each block's output to `observer` under the block's name.
    pub fn observed(&self, z_t: &Tensor, timestep: f64, prompt: &Tensor, observer: Observer) -> Tensor {
        self.conditioned(z_t, &self.conditioning(timestep, prompt), observer)
    }

    /// What the layers make of the timestep t and the `prompt`, `[1, M, dim]`.
    pub(super) fn conditioning(&self, timestep: f64, prompt: &Tensor) -> Conditioning {
        let temb = self.embed_time(timestep, prompt);
        let time = temb.as_ref();
        Conditioning {
            down: self
                .down_blocks
                .iter()
                .map(|block| block.conditions(time, prompt))
                .collect(),
            mid: self.mid_block.conditions(time, prompt),
            up: self
                .up_blocks
                .iter()
                .map(|block| block.conditions(time, prompt))
                .collect(),
            temb,
        }
    }

    /// As [`UNet2DConditionModel::observed`], with what [`conditioning`](Self::conditioning) of this UNet has given.
    pub(super) fn conditioned(
        &self,
        z_t: &Tensor,
        conditioning: &Conditioning,
        observer: Observer,
    ) -> Tensor {
        if let Some(temb) = &conditioning.temb {
            observer(format_args!("time_embedding"), temb);
        }
        let mut h = self.conv_in.forward(z_t);
        observer(format_args!("conv_in"), &h);
        let mut residuals = vec![h.shallow_clone()];
        for (i, (block, conditions)) in self.down_blocks.iter().zip(&conditioning.down).enumerate() {
            h = block.forward(&h, conditions, &mut residuals);
            observer(format_args!("down_blocks.{i}"), &h);
        }
        h = self.mid_block.forward(&h, &conditioning.mid);
        observer(format_args!("mid_block"), &h);
        for (i, (block, conditions)) in self.up_blocks.iter().zip(&conditioning.up).enumerate() {
            h = block.forward(&h, conditions, &mut residuals);
            observer(format_args!("up_blocks.{i}"), &h);
        }
        self.conv_out.forward_activated(&self.conv_norm_out, &h, 1, None)
    }

    /// Sinusoidal embedding of t (cosines first), through two linear layers: `[1, time_embed_dim]`.
    fn embed_time(&self, timestep: f64, like: &Tensor) -> Option<Tensor> {
        let (linear_1, linear_2) = self.time_embedding.as_ref()?;
        let half = self.time_channels / 2;
        let options = (Kind::Float, like.device());
        let exponent = Tensor::arange(half, options) * (-(10000f64.ln()) / half as f64);
        let angles = exponent.exp() * timestep;
        let sinusoid = Tensor::cat(&[angles.cos(), angles.sin()], 0).unsqueeze(0);
        Some(linear_2.forward(&linear_1.forward(&sinusoid.to_kind(like.kind())).silu()))
    }
}
