//! A model's configuration: `models/<preset>/config.json`.
//!
//! One architecture serves every preset. Fields that depart from the paper say so; `sd21` leaves them off.

use serde::{Deserialize, Serialize};

use crate::nn::{BlockKind, NormKind};
use crate::{Error, Result};

/// Overlap of the tiles of a model that says nothing of it, in pixels.
pub(crate) const DEFAULT_OVERLAP: usize = 128;

/// Channels that no layer has more of.
const MAX_WIDTH: i64 = 1 << 16;

/// Everything that shapes a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub name: String,
    pub vae: VaeConfig,
    pub unet: UnetConfig,
    pub prompt: PromptConfig,
    pub scheduler: SchedulerConfig,
    pub lora: LoraConfig,
    /// Pixels that neighbouring tiles are to share: as far as the model sees, more or less.
    #[serde(default = "tile_overlap", skip_serializing_if = "is_tile_overlap")]
    pub tile_overlap: usize,
    /// Dtype of the tensors in the weight files.
    pub weights_dtype: WeightsDtype,
}

fn tile_overlap() -> usize {
    DEFAULT_OVERLAP
}

fn is_tile_overlap(overlap: &usize) -> bool {
    *overlap == DEFAULT_OVERLAP
}

/// The enhanced VAE: an autoencoder with encoder-to-decoder skips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeConfig {
    pub latent_channels: i64,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: Layers,
    /// Blocks per level of the decoder; diffusers has one more than in the encoder.
    pub decoder_layers_per_block: Layers,
    pub norm: NormKind,
    /// What its levels are made of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub block: BlockKind,
    /// The two residual blocks in the middle of encoder and decoder.
    pub mid_block: bool,
    /// Self-attention in the middle, which sees the whole image.
    pub mid_attention: bool,
    /// 3x3 convolutions in each skip block; 0 for a plain VAE without skips.
    pub skip_layers: usize,
    /// Resolutions that have skips, counted from the highest; all of them where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_levels: Option<usize>,
    pub scaling_factor: f64,
    /// Departure: pixels are folded into channels by this factor before the first convolution (1 = off).
    pub patch_size: i64,
    /// Departure: the decoder's output is added to the input image.
    pub residual_output: bool,
}

/// Blocks per level: one number for all, or one a level from the highest resolution on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "blocks per level must be a number, or a list with one a level"
)]
pub enum Layers {
    Everywhere(usize),
    PerLevel(Vec<usize>),
}

/// The noise predictor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    pub block_out_channels: Vec<i64>,
    /// Per level: whether its blocks attend (`CrossAttnDownBlock2D` against `DownBlock2D`).
    pub cross_attention: Vec<bool>,
    pub layers_per_block: usize,
    /// Attention heads per level; the last also serves the mid block.
    pub num_attention_heads: Vec<i64>,
    pub cross_attention_dim: i64,
    pub norm: NormKind,
    /// What its levels are made of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub block: BlockKind,
    /// Width of the time embedding; diffusers has four times the first level's width. 0 is a departure: no embedding. At one
    /// fixed timestep it adds a constant to the biases, which can learn that themselves.
    pub time_embed_dim: i64,
    /// Inner width of the feed-forward layers, in multiples of the level's width (diffusers: 4).
    pub ff_mult: i64,
    /// Self-attention, which sees the whole image; off is a departure that bounds the receptive field.
    pub self_attention: bool,
}

/// The learned prompt, `[1, tokens, cross_attention_dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptConfig {
    pub tokens: i64,
}

/// The noise schedule and the one fixed timestep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerConfig {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub timestep: usize,
    /// What the UNet's output means.
    #[serde(default)]
    pub prediction_type: PredictionType,
}

/// What the UNet predicts about `z_t = sqrt(ᾱ_t) z_0 + sqrt(1 - ᾱ_t) ε`, in diffusers' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε, as in the paper and in Stable Diffusion 2.1-base.
    #[default]
    Epsilon,
    /// The velocity `v = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) z_0` (Salimans & Ho 2022), as in Stable Diffusion 2.1 at 768 pixels.
    VPrediction,
}

/// The dual adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    pub rank: i64,
    /// Adapters are scaled by `alpha / rank`.
    pub alpha: f64,
    /// Parts of the model with adapters, such as `unet`.
    pub scopes: Vec<String>,
    /// Modules with adapters, by the end of their name, such as `to_q` or `ff.net.2`.
    pub targets: Vec<String>,
}

/// Dtype of stored tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsDtype {
    F32,
    F16,
    Bf16,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl UnetConfig {
    /// Width of the time embedding, if there is one.
    pub fn temb_channels(&self) -> Option<i64> {
        (self.time_embed_dim > 0).then_some(self.time_embed_dim)
    }
}

impl Layers {
    /// At a level, counted from the highest resolution.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Layers::Everywhere(layers) => *layers,
            Layers::PerLevel(layers) => layers[level],
        }
    }
}

impl VaeConfig {
    /// What a level of `width` channels gets from the one of `before` channels: convolutions between gated blocks change the
    /// width too.
    pub(crate) fn width_entering(&self, width: i64, before: i64) -> i64 {
        match self.block {
            BlockKind::Resnet => before,
            BlockKind::Gated => width,
        }
    }

    /// Whether the features of a level, counted from the highest resolution, reach the decoder.
    pub fn has_skip(&self, level: usize) -> bool {
        self.skip_layers > 0 && self.skip_levels.is_none_or(|levels| level < levels)
    }
}

impl ModelConfig {
    /// Reads and checks a configuration; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] for bad JSON, unknown fields, or values no model can have.
    pub fn from_json(json: &str, file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Config {
            file: file.into(),
            reason,
        };
        let config: ModelConfig = serde_json::from_str(json).map_err(|e| fail(e.to_string()))?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.check_ranges()?;
        self.check_widths()?;
        let s = &self.scheduler;
        let betas = s.beta_start > 0.0 && s.beta_end >= s.beta_start && s.beta_end < 1.0;
        if !betas || s.timestep >= s.num_train_timesteps {
            return Err(format!(
                "scheduler: betas {}..{} must lie in (0, 1) and timestep {} below {}",
                s.beta_start, s.beta_end, s.timestep, s.num_train_timesteps
            ));
        }
        Ok(())
    }

    /// The upper ends are far above any model's: a file that is broken must not make layers until memory runs out.
    fn check_ranges(&self) -> Result<(), String> {
        let (vae, unet) = (&self.vae, &self.unet);
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        #[rustfmt::skip]
        let ranges = [
            ("vae.latent_channels", vae.latent_channels, 1, MAX_WIDTH),
            ("vae.block_out_channels: levels", count(vae.block_out_channels.len()), 1, 8),
            ("vae.skip_layers", count(vae.skip_layers), 0, 64),
            ("vae.patch_size", vae.patch_size, 1, 64),
            ("unet.block_out_channels: levels", count(unet.block_out_channels.len()), 1, 8),
            ("unet.layers_per_block", count(unet.layers_per_block), 1, 64),
            ("unet.cross_attention_dim", unet.cross_attention_dim, 1, MAX_WIDTH),
            ("unet.time_embed_dim", unet.time_embed_dim, 0, MAX_WIDTH),
            ("unet.ff_mult", unet.ff_mult, 1, 64),
            ("prompt.tokens", self.prompt.tokens, 1, MAX_WIDTH),
            ("lora.rank", self.lora.rank, 1, MAX_WIDTH),
            ("scheduler.num_train_timesteps", count(self.scheduler.num_train_timesteps), 1, 1_000_000),
        ];
        let layers = [
            ("vae.layers_per_block", &vae.layers_per_block),
            ("vae.decoder_layers_per_block", &vae.decoder_layers_per_block),
        ];
        let levels = vae.block_out_channels.len();
        for (name, layers) in layers {
            if let Layers::PerLevel(layers) = layers
                && layers.len() != levels
            {
                return Err(format!("{name} has {} entries for {levels} levels", layers.len()));
            }
        }
        let layers = layers
            .iter()
            .flat_map(|(name, layers)| (0..levels).map(move |level| (*name, count(layers.at(level)), 1, 64)));
        match ranges
            .into_iter()
            .chain(layers)
            .find(|(_, value, min, max)| !(min..=max).contains(&value))
        {
            Some((name, value, min, max)) => Err(format!("{name} = {value}, must be {min} to {max}")),
            None => Ok(()),
        }
    }

    fn check_widths(&self) -> Result<(), String> {
        let (vae, unet) = (&self.vae, &self.unet);
        let levels = unet.block_out_channels.len();
        if unet.cross_attention.len() != levels || unet.num_attention_heads.len() != levels {
            return Err(format!(
                "cross_attention and num_attention_heads need {levels} entries, one a level"
            ));
        }
        let mut widths = vae.block_out_channels.iter().chain(&unet.block_out_channels);
        if let Some(width) = widths.find(|width| !(1..=MAX_WIDTH).contains(*width)) {
            return Err(format!("a width of {width} in block_out_channels"));
        }
        for (norm, widths) in [
            (vae.norm, &vae.block_out_channels),
            (unet.norm, &unet.block_out_channels),
        ] {
            if let NormKind::Group { num_groups } = norm
                && let Some(width) = widths.iter().find(|w| num_groups < 1 || **w % num_groups != 0)
            {
                return Err(format!(
                    "width {width} is not a multiple of num_groups {num_groups}"
                ));
            }
        }
        for (width, heads) in unet.block_out_channels.iter().zip(&unet.num_attention_heads) {
            if *heads < 1 || width % heads != 0 {
                return Err(format!(
                    "width {width} is not a multiple of {heads} attention heads"
                ));
            }
        }
        if unet.block_out_channels[0] % 2 != 0 {
            return Err("the first UNet width must be even, for the time embedding".into());
        }
        if !(vae.scaling_factor > 0.0 && vae.scaling_factor.is_finite()) {
            return Err(format!(
                "vae.scaling_factor = {}, must be above 0",
                vae.scaling_factor
            ));
        }
        Ok(())
    }

    /// Pixels per latent pixel along each side (8 for Stable Diffusion).
    pub fn latent_factor(&self) -> usize {
        (self.vae.patch_size as usize) << (self.vae.block_out_channels.len() - 1)
    }

    /// Height and width of an image must be multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        self.latent_factor() << (self.unet.block_out_channels.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_per_level_are_a_number_or_a_list() {
        let nano = include_str!("../models/nano/config.json");
        let with = |layers: serde_json::Value| {
            let mut json: serde_json::Value = serde_json::from_str(nano).unwrap();
            json["vae"]["layers_per_block"] = layers;
            ModelConfig::from_json(&json.to_string(), "nano")
        };
        let levels = with(1.into()).unwrap().vae.block_out_channels.len();
        let listed: Vec<usize> = (1..=levels).collect();
        let config = with(listed.clone().into()).unwrap();
        assert_eq!(
            (0..levels)
                .map(|level| config.vae.layers_per_block.at(level))
                .collect::<Vec<_>>(),
            listed
        );
        assert!(
            serde_json::to_string(&config)
                .unwrap()
                .contains("\"layers_per_block\":[1,")
        );
        for (wrong, says) in [
            (serde_json::json!([1, 1, 1, 1, 1]), "has 5 entries"),
            (serde_json::json!([]), "has 0 entries"),
            (serde_json::json!(vec![0; levels]), "must be 1 to 64"),
            (serde_json::json!(65), "must be 1 to 64"),
            (serde_json::json!("2"), "must be a number, or a list"),
        ] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
