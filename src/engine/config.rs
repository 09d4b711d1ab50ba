//! An engine's settings, checked once.

use crate::config::DEFAULT_OVERLAP;
use crate::device::{Device, Precision};
use crate::{Error, Result};

/// Settings of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Name of a preset, or a model's folder.
    pub model: String,
    pub device: Device,
    pub precision: Precision,
    /// Largest side of a tile in pixels, a multiple of 64; 0 takes the whole frame. `None` leaves it to the engine: 2048 where
    /// larger tiles save time and their memory is to be had, which is for models like `nano` and `small` on a GPU, and where they
    /// are fused for the CPU's caches; else 512 on a CPU, and on a GPU frames of up to a megapixel as a whole and
    /// tiles of 768 above. Where tiles may be reused or skipped 512, or four times the overlap.
    pub tile_size: Option<usize>,
    /// Overlap of neighbouring tiles in pixels, or half of a tile's side where that is less. `None` is what the model asks for
    /// ([`ModelConfig::tile_overlap`](crate::config::ModelConfig::tile_overlap)): 128, with which `nano`'s tiles match the whole frame to
    /// within 1/255 (in bf16 a pixel in millions differs by 2/255), or for `small` 256.
    pub tile_overlap: Option<usize>,
    /// Tiles that run together; 0 leaves it to the engine.
    pub tile_batch: usize,
    /// A tile is shown again, without the model, while no sample of it differs by more than this, in levels of 255, from what
    /// it was made of: for scenes that stand still. 0 makes every tile anew.
    pub reuse_threshold: f64,
    /// A tile shows the input, without the model, where its blur is less than this, from 0 (sharp) to 1: the share of differences
    /// between neighbouring pixels that a mean filter of 9 leaves (Crete et al., "The Blur Effect", 2007). Photographs have 0.16 to
    /// 0.35, real motion blur 0.4 to 0.7. 0 skips nothing.
    pub skip_sharp: f64,
    /// Frames that may be in flight at once.
    pub depth: usize,
    /// 1 is fidelity (LoRA_r), lower is more generated detail (LoRA_s).
    pub gamma: f64,
    /// Mix of output (1) and input (0).
    pub strength: f64,
}

/// Half of the largest tile, so more would be no more.
const MOST_OVERLAP: usize = 4096;

/// Tiles of an engine that is told nothing: where each is to be small, on a GPU, and where large ones cost little.
const LEAST_AUTO_TILE: usize = 512;
const GPU_AUTO_TILE: usize = 768;
const LARGE_AUTO_TILE: usize = 2048;

/// Pixels of a frame that then goes through a GPU as a whole: tiles of a model at the paper's scale would compute half as much again.
const GPU_WHOLE_FRAME: usize = 1 << 20;

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            model: "nano".into(),
            device: Device::Auto,
            precision: Precision::Auto,
            tile_size: None,
            tile_overlap: None,
            tile_batch: 0,
            reuse_threshold: 0.0,
            skip_sharp: 0.0,
            depth: 2,
            gamma: 0.7,
            strength: 1.0,
        }
    }
}

impl EngineConfig {
    /// Largest side of a tile in pixels, 0 for the whole frame, for a model that is to have large tiles or not, on a GPU or not.
    pub fn resolved_tile_size(&self, large_tiles: bool, gpu: bool) -> usize {
        let each_counts = self.reuse_threshold > 0.0 || self.skip_sharp > 0.0;
        self.tile_size.unwrap_or(match (each_counts, large_tiles, gpu) {
            // Tiles that overlap by half would be made four times.
            (true, true, _) => {
                LEAST_AUTO_TILE.max((4 * self.tile_overlap.unwrap_or(DEFAULT_OVERLAP)).next_multiple_of(64))
            }
            (true, false, _) | (false, false, false) => LEAST_AUTO_TILE,
            (false, true, _) => LARGE_AUTO_TILE,
            (false, false, true) => GPU_AUTO_TILE,
        })
    }

    /// Pixels up to which a frame is one tile, whatever the size of others.
    pub(crate) fn whole_frame(&self, large_tiles: bool, gpu: bool) -> usize {
        let adaptive = self.tile_size.is_none() && self.resolved_tile_size(large_tiles, gpu) == GPU_AUTO_TILE;
        if adaptive { GPU_WHOLE_FRAME } else { 0 }
    }

    /// Checks every setting against its legal range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] with the range.
    pub fn validate(&self) -> Result<()> {
        let check = |legal: bool, name: &'static str, value: String, range: String| {
            if legal {
                Ok(())
            } else {
                Err(Error::OutOfRange { name, value, range })
            }
        };
        let tile = self.tile_size.unwrap_or(LEAST_AUTO_TILE);
        check(
            tile.is_multiple_of(64) && tile <= 8192,
            "tile size",
            tile.to_string(),
            "a multiple of 64 up to 8192, or 0 for the whole frame".into(),
        )?;
        let overlap = self.tile_overlap.unwrap_or(0);
        check(
            overlap <= MOST_OVERLAP,
            "tile overlap",
            overlap.to_string(),
            format!("0 to {MOST_OVERLAP}"),
        )?;
        let depth = self.depth;
        check(
            (1..=16).contains(&depth),
            "depth",
            depth.to_string(),
            "1 to 16".into(),
        )?;
        check(
            self.tile_batch <= 256,
            "tile batch",
            self.tile_batch.to_string(),
            "0 to 256".into(),
        )?;
        let threshold = self.reuse_threshold;
        check(
            (0.0..=255.0).contains(&threshold),
            "reuse threshold",
            threshold.to_string(),
            "0 to 255".into(),
        )?;
        for (name, value) in [
            ("gamma", self.gamma),
            ("strength", self.strength),
            ("skip sharp", self.skip_sharp),
        ] {
            check(
                (0.0..=1.0).contains(&value),
                name,
                value.to_string(),
                "0 to 1".into(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal_and_errors_give_the_range() {
        EngineConfig::default().validate().unwrap();
        let bad = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.tile_size = Some(100)).contains("multiple of 64"));
        assert!(bad(|c| c.tile_overlap = Some(4097)).contains("0 to 4096"));
        assert!(bad(|c| c.depth = 0).contains("1 to 16"));
        assert!(bad(|c| c.reuse_threshold = -1.0).contains("0 to 255"));
        assert!(bad(|c| c.gamma = f64::NAN).contains("0 to 1"));
        assert!(bad(|c| c.strength = 1.5).contains("0 to 1"));
        assert!(bad(|c| c.skip_sharp = -0.1).contains("0 to 1"));
    }

    #[test]
    fn tiles_that_count_each_are_small_but_not_all_overlap() {
        let tile = |tile_overlap, skip_sharp, large| {
            let config = EngineConfig {
                tile_overlap,
                skip_sharp,
                ..EngineConfig::default()
            };
            config.resolved_tile_size(large, false)
        };
        assert_eq!(tile(None, 0.0, true), LARGE_AUTO_TILE);
        assert_eq!(tile(None, 0.3, true), 512);
        assert_eq!(tile(Some(256), 0.3, true), 1024);
        assert_eq!(tile(Some(130), 0.3, true), 576, "a multiple of 64");
        assert_eq!(tile(Some(256), 0.3, false), 512);
    }
}
