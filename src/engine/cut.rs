//! How large tiles are, and how many run at a time.

use tch::Device;

use super::EngineConfig;
use super::budget::Budget;
use crate::Result;
use crate::tile::TileGrid;

/// Tiles that run together on a GPU where the caller leaves it open.
const AUTO_BATCH_CUDA: usize = 4;

/// Tiles that are made smaller for want of memory end here: below, what is left of them between their overlaps is little.
const LEAST_TILE: usize = 128;
/// What divides a tile's sides.
const TILE_UNIT: usize = 64;

/// How frames are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Largest side of a tile in pixels; 0 takes the whole frame.
    pub tile_size: usize,
    pub overlap: usize,
    /// Tiles that run together.
    pub batch: usize,
}

impl Cut {
    /// As the caller asks for.
    pub fn new(config: &EngineConfig, large_tiles: bool, device: Device) -> Self {
        let auto = match device {
            Device::Cpu => 1,
            _ => AUTO_BATCH_CUDA,
        };
        Cut {
            tile_size: config.resolved_tile_size(large_tiles),
            overlap: config.tile_overlap,
            batch: match config.tile_batch {
                0 => auto,
                batch => batch,
            },
        }
    }

    /// What runs at a time made smaller: fewer tiles, then smaller ones. `None` where that would not help any more.
    pub fn smaller(self, grid: &TileGrid, multiple: usize) -> Option<Self> {
        let batch = self.batch.min(grid.len());
        if batch > 1 {
            return Some(Cut {
                batch: batch / 2,
                ..self
            });
        }
        let largest = grid.tile_width().max(grid.tile_height());
        let half = (largest / 2).next_multiple_of(multiple.max(TILE_UNIT));
        (LEAST_TILE <= half && half < largest).then(|| Cut {
            tile_size: half,
            overlap: self.overlap.min(half / multiple / 2 * multiple),
            batch,
        })
    }

    /// Cuts a size so that it fits into the memory that is free, with so many `frames` beside the tiles, or as small as can be: what is
    /// needed is an estimate.
    ///
    /// # Errors
    /// A size that cannot be tiled.
    pub fn fitted(
        self,
        width: usize,
        height: usize,
        multiple: usize,
        budget: Option<&Budget>,
        frames: usize,
    ) -> Result<(TileGrid, Self)> {
        let mut cut = self;
        loop {
            let grid = TileGrid::new(width, height, cut.tile_size, cut.overlap, multiple)?;
            let Some(budget) = budget else {
                return Ok((grid, cut));
            };
            let frames = frames * grid.padded_width() * grid.padded_height();
            let tiles = grid.tile_width() * grid.tile_height() * cut.batch.min(grid.len());
            let shortage = budget.shortage(frames, tiles);
            let smaller = shortage.and_then(|_| cut.smaller(&grid, multiple));
            if let Some(smaller) = smaller {
                cut = smaller;
                continue;
            }
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            if let Some((needed, available)) = shortage {
                tracing::warn!(
                    "memory is short: frames of {width}x{height} need about {} MB, and {} MB are free",
                    mib(needed),
                    mib(available)
                );
            } else if cut != self {
                let (batch, size) = (cut.batch, cut.tile_size);
                tracing::warn!(
                    "memory is short: frames of {width}x{height} go in {batch} tiles of at most {size} px at a time"
                );
            }
            return Ok((grid, cut));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::FRAMES;
    use super::*;

    #[test]
    fn frames_are_cut_smaller_where_memory_is_short() {
        let config = EngineConfig {
            tile_size: Some(0),
            tile_overlap: 16,
            tile_batch: 8,
            ..EngineConfig::default()
        };
        let cut = |per_pixel: f64, available: fn() -> Option<u64>| {
            let budget = Budget::of(per_pixel, available);
            let cut = Cut::new(&config, true, Device::Cpu);
            cut.fitted(1024, 512, 8, Some(&budget), FRAMES)
                .map(|(_, cut)| cut)
        };
        let whole = cut(100.0, || Some(100 << 20)).unwrap();
        assert_eq!((whole.tile_size, whole.batch), (0, 8));
        assert_eq!(cut(1e9, || None).unwrap(), whole, "nobody knows what is free");
        // 25 MB for frames; 50 MB, 25 MB and so on for tiles.
        let smaller = cut(100.0, || Some(60 << 20)).unwrap();
        assert_eq!((smaller.tile_size, smaller.batch), (512, 1));
        let least = cut(100.0, || Some(26 << 20)).unwrap();
        assert_eq!((least.tile_size, least.overlap), (128, 16));
        assert_eq!(cut(100.0, || Some(0)).unwrap(), least, "it may do");
    }
}
