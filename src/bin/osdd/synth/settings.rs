//! What shapes the pairs, from the command line and the configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use osdd::data::{MixConfig, MixWeights, SampleKind};
use serde::{Deserialize, Serialize};

use super::SynthArgs;
use crate::Usage;

/// `LOW..HIGH`, both included, or a single number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range<T>(pub [T; 2]);

impl<T: FromStr + Copy + PartialOrd> FromStr for Range<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self([low, high])),
            _ => Err("a range is LOW..HIGH, such as 7..13, or one number".to_owned()),
        }
    }
}

/// For clap.
pub(super) fn kind(name: &str) -> Result<SampleKind, String> {
    let possible = || {
        SampleKind::ALL
            .into_iter()
            .filter(|kind| *kind != SampleKind::Pair)
    };
    possible().find(|kind| kind.name() == name).ok_or_else(|| {
        let names: Vec<_> = possible().map(SampleKind::name).collect();
        format!("the kinds are {}", names.join(", "))
    })
}

/// Everything that the pairs depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub images: Vec<PathBuf>,
    pub clips: Vec<PathBuf>,
    /// Random crops to make; every crop of every image if none.
    pub count: Option<u32>,
    /// Side of the crops in px, 0 for whole images.
    pub crop: usize,
    /// Overlap of neighbouring crops in px.
    pub overlap: usize,
    /// Pairs from each crop.
    pub variants: u32,
    pub mix: MixConfig,
}

impl Settings {
    /// # Errors
    /// [`Usage`] for values that are out of range or contradict each other; a configuration that cannot be read.
    pub fn new(args: &SynthArgs) -> Result<Self> {
        let mut mix = match &args.config {
            Some(path) => read_mix(path)?,
            // A dataset shows its images as they are: no noise that nobody asked for, no mirroring, no scaling.
            None => MixConfig {
                weights: MixWeights {
                    trajectory: 1.0,
                    rotation: 1.0,
                    layered: 1.0,
                    ..MixWeights::NONE
                },
                noise_levels: 0.0,
                flip: false,
                scale_share: 0.0,
                ..MixConfig::default()
            },
        };
        mix.keep_inside = true;
        if args.crop > 0 {
            mix.crop_size = args.crop;
        }
        if args.config.is_none() && !args.clips.is_empty() {
            mix.weights.clip = 1.0;
        }
        if !args.kinds.is_empty() {
            let configured = mix.weights;
            mix.weights = MixWeights::NONE;
            for &kind in &args.kinds {
                // As often as the configuration says, if it says so.
                let weight = configured.get(kind);
                *mix.weights.get_mut(kind) = if weight > 0.0 { weight } else { 1.0 };
            }
        }
        mix.weights.pair = 0.0;
        if let Some(Range(extent)) = args.extent {
            mix.extent_px = extent;
        }
        if let Some(Range(frames)) = args.clip_frames {
            mix.clip_frames = frames;
        }
        mix.noise_levels = args.noise.unwrap_or(mix.noise_levels);
        mix.seed = args.seed.unwrap_or(mix.seed);
        mix.validate().map_err(|error| Usage(error.to_string()))?;
        let overlap = args.overlap.unwrap_or(args.crop / 8);
        if args.crop > 0 && overlap >= args.crop {
            return Err(Usage(format!("--overlap {overlap} must be below --crop {}", args.crop)).into());
        }
        Ok(Self {
            images: args.images.clone(),
            clips: args.clips.clone(),
            count: args.count,
            crop: args.crop,
            overlap,
            variants: args.variants,
            mix,
        })
    }

    /// Shortest side of an image that can be used, in px.
    pub fn smallest_side(&self) -> usize {
        if self.crop > 0 {
            return self.crop;
        }
        // Blur takes up to its extent and a few pixels away on both sides; as much again shall be left.
        let mix = &self.mix;
        let extent = mix.extent_px[1]
            .max(mix.light_extent_px[1])
            .max(2.0 * mix.defocus_radius_px[1]);
        3 * extent.ceil() as usize + 16
    }

    /// Names of the settings in which two runs differ.
    ///
    /// # Errors
    /// None in practice.
    pub fn differing_fields(&self, other: &Self) -> Result<Vec<String>> {
        let mut fields = Vec::new();
        let (ours, theirs) = (serde_json::to_value(self)?, serde_json::to_value(other)?);
        for (name, value) in ours.as_object().into_iter().flatten() {
            match (value.as_object(), theirs[name].as_object()) {
                (Some(inner), Some(_)) => {
                    let differs = |key: &&String| inner[*key] != theirs[name][*key];
                    fields.extend(inner.keys().filter(differs).map(|key| format!("{name}.{key}")));
                }
                _ if *value != theirs[name] => fields.push(name.clone()),
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// A file of mix settings, or the `mix` of a training configuration.
fn read_mix(path: &Path) -> Result<MixConfig> {
    let cannot_read = || format!("cannot read {}", path.display());
    let text = fs::read_to_string(path).with_context(cannot_read)?;
    let mut value: serde_json::Value = serde_json::from_str(&text).with_context(cannot_read)?;
    let mix = match value.get_mut("mix") {
        Some(mix) => mix.take(),
        None => value,
    };
    serde_json::from_value(mix).with_context(cannot_read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_numbers_or_one() {
        assert_eq!("7..13".parse(), Ok(Range([7, 13])));
        assert_eq!("2.5".parse(), Ok(Range([2.5, 2.5])));
        for wrong in ["13..7", "..", "7..x", "7-13", ""] {
            assert!(wrong.parse::<Range<usize>>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn kinds_have_their_names_and_pairs_are_not_made() {
        assert_eq!(kind("rotation"), Ok(SampleKind::Rotation));
        assert!(
            kind("pair")
                .unwrap_err()
                .contains("trajectory, clip, sharp, light, rotation")
        );
    }
}
