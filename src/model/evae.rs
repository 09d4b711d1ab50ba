//! The enhanced VAE: encoder, skip blocks and decoder (paper, section 3.2).

use tch::Tensor;

use super::Observer;
use super::decoder::{Decoder, SkipBlock};
use super::encoder::Encoder;
use crate::Result;
use crate::config::VaeConfig;
use crate::nn::{Conv2d, Params, channels_last};

/// What the encoder makes of an image.
pub struct Encoded {
    /// `[B, c, H/f, W/f]`: the posterior's mode times the scaling factor.
    pub latents: Tensor,
    /// The skip blocks' outputs, lowest resolution first; empty for a plain VAE.
    pub skips: Vec<Tensor>,
}

/// An encoder and the convolution that makes its moments: image to latents and features.
pub struct LatentEncoder {
    encoder: Encoder,
    quant_conv: Conv2d,
    latent_channels: i64,
    scaling_factor: f64,
}

impl LatentEncoder {
    /// Names as in diffusers' `AutoencoderKL`: `encoder.*` and `quant_conv`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &VaeConfig) -> Result<Self> {
        let c = config.latent_channels;
        Ok(LatentEncoder {
            encoder: Encoder::new(&p.pp("encoder"), config)?,
            quant_conv: Conv2d::new(&p.pp("quant_conv"), 2 * c, 2 * c, 1)?,
            latent_channels: c,
            scaling_factor: config.scaling_factor,
        })
    }

    /// `[B, 3, H, W]` in [-1, 1] to latents `[B, c, H/f, W/f]`, the posterior's mode times the scaling factor, and one
    /// feature map a level, highest resolution first.
    pub fn forward(&self, x: &Tensor, observer: Observer) -> (Tensor, Vec<Tensor>) {
        let (moments, features) = self.encoder.forward(x, observer);
        let moments = self.quant_conv.forward(&moments);
        observer(format_args!("quant_conv"), &moments);
        let mode = moments.narrow(1, 0, self.latent_channels);
        let latents = match self.scaling_factor {
            1.0 => mode,
            factor => mode * factor,
        };
        (latents, features)
    }

    /// As [`LatentEncoder::forward`], the latents alone.
    pub fn latents(&self, x: &Tensor) -> Tensor {
        self.forward(&channels_last(x), &mut |_, _| ()).0
    }
}

/// An autoencoder whose encoder features reach the decoder directly.
pub struct Evae {
    encoder: LatentEncoder,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    /// Per encoder level, highest resolution first.
    skip_blocks: Vec<SkipBlock>,
    scaling_factor: f64,
}

impl Evae {
    /// Names as in diffusers' `AutoencoderKL`; the skips are `skip_blocks.{level}.conv{n}`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &VaeConfig) -> Result<Self> {
        let c = config.latent_channels;
        let mut skip_blocks = Vec::new();
        let levels = config.block_out_channels.iter().enumerate();
        for (level, &width) in levels.filter(|(level, _)| config.has_skip(*level)) {
            let p = p.pp("skip_blocks").pp(level);
            skip_blocks.push(SkipBlock::new(&p, config.block, width, config.skip_layers)?);
        }
        Ok(Evae {
            encoder: LatentEncoder::new(p, config)?,
            post_quant_conv: Conv2d::new(&p.pp("post_quant_conv"), c, c, 1)?,
            decoder: Decoder::new(&p.pp("decoder"), config)?,
            skip_blocks,
            scaling_factor: config.scaling_factor,
        })
    }

    /// `[B, 3, H, W]` in [-1, 1]. The mode is taken, never a sample: sampling makes video flicker.
    pub fn encode(&self, x: &Tensor) -> Encoded {
        self.encode_observed(x, &mut |_, _| ())
    }

    /// As [`Evae::encode`], showing intermediate results.
    pub fn encode_observed(&self, x: &Tensor, observer: Observer) -> Encoded {
        let (latents, features) = self.encoder.forward(x, observer);
        let mut skips = Vec::with_capacity(self.skip_blocks.len());
        for (level, block) in self.skip_blocks.iter().enumerate().rev() {
            skips.push(block.forward(&features[level]));
            observer(format_args!("skip_blocks.{level}"), &skips[skips.len() - 1]);
        }
        Encoded { latents, skips }
    }

    /// `latents` as [`Evae::encode`] gives them; the image is `[B, 3, H, W]`, plus `added` of the same
    /// shape, which may be more precise.
    pub fn decode(&self, latents: &Tensor, skips: &[Tensor], added: Option<&Tensor>) -> Tensor {
        self.decode_observed(latents, skips, added, &mut |_, _| ())
    }

    /// As [`Evae::decode`], showing intermediate results.
    pub fn decode_observed(
        &self,
        latents: &Tensor,
        skips: &[Tensor],
        added: Option<&Tensor>,
        observer: Observer,
    ) -> Tensor {
        let z = match self.scaling_factor {
            1.0 => self.post_quant_conv.forward(latents),
            factor => self.post_quant_conv.forward(&(latents / factor)),
        };
        observer(format_args!("post_quant_conv"), &z);
        self.decoder.forward(&z, skips, added, observer)
    }
}
