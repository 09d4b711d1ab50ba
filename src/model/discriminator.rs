//! The discriminator of stage 2 (paper, eq. 11 and 12): are these the latents of a sharp image?
//!
//! The first down block of a UNet, then an MLP at every position; initialised from the noise predictor where they agree.

use tch::Tensor;

use super::unet_blocks::DownBlock2D;
use crate::Result;
use crate::config::UnetConfig;
use crate::nn::{Conv2d, Linear, Params};

/// Latents to one logit a position.
pub struct LatentDiscriminator {
    conv_in: Conv2d,
    down_block: DownBlock2D,
    mlp: (Linear, Linear),
    temb_channels: Option<i64>,
}

impl LatentDiscriminator {
    /// Names: `conv_in` and `down_blocks.0` as in the UNet, then `mlp.0` and `mlp.2`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &UnetConfig, latent_channels: i64) -> Result<Self> {
        let width = config.block_out_channels[0];
        Ok(LatentDiscriminator {
            conv_in: Conv2d::new(
                &p.pp("conv_in"),
                latent_channels,
                width,
                config.block.kernel_between(),
            )?,
            down_block: DownBlock2D::new(&p.pp("down_blocks.0"), config, 0, width, true)?,
            mlp: (
                Linear::new(&p.pp("mlp.0"), width, width, true)?,
                Linear::new(&p.pp("mlp.2"), width, 1, true)?,
            ),
            temb_channels: config.temb_channels(),
        })
    }

    /// `latents` `[B, c, h, w]` and the prompt `[1, tokens, dim]` to logits `[B, h/2, w/2, 1]`; above 0 means sharp.
    ///
    /// There is no noise on what it sees, so its time embedding is zero.
    pub fn forward(&self, latents: &Tensor, prompt: &Tensor) -> Tensor {
        let options = (latents.kind(), latents.device());
        let temb = self
            .temb_channels
            .map(|channels| latents.new_zeros([1, channels], options));
        let h = self.conv_in.forward(latents);
        let conditions = self.down_block.conditions(temb.as_ref(), prompt);
        let h = self.down_block.forward(&h, &conditions, &mut Vec::new());
        let (hidden, out) = &self.mlp;
        out.forward(&hidden.forward(&h.permute([0, 2, 3, 1])).silu())
    }
}
