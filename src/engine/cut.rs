//! How large tiles are, and how many run at a time.

use tch::Device;

use super::EngineConfig;
use super::budget::{Beside, Budget};
use crate::Result;
use crate::config::DEFAULT_OVERLAP;
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
    /// At least; of small tiles half their side at most.
    pub overlap: usize,
    /// Tiles that run together.
    pub batch: usize,
    /// Pixels up to which a frame is one tile all the same.
    pub whole_frame: usize,
}

impl Cut {
    /// As the caller asks for.
    pub fn new(config: &EngineConfig, large_tiles: bool, device: Device) -> Self {
        let gpu = device != Device::Cpu;
        let auto = if gpu { AUTO_BATCH_CUDA } else { 1 };
        Cut {
            tile_size: config.resolved_tile_size(large_tiles, gpu),
            whole_frame: config.whole_frame(large_tiles, gpu),
            overlap: config.tile_overlap.unwrap_or(DEFAULT_OVERLAP),
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
        (LEAST_TILE <= half && half < largest).then_some(Cut {
            tile_size: half,
            overlap: self.overlap,
            batch,
            whole_frame: 0,
        })
    }

    /// Cuts a size so that it fits into the memory that is free, with what is there `beside` the tiles, or as small as can be: what is
    /// needed is an estimate.
    ///
    /// # Errors
    /// A size that cannot be tiled; on a CPU, one for which there is too little memory however it is cut.
    pub fn fitted(
        self,
        width: usize,
        height: usize,
        multiple: usize,
        budget: Option<&Budget>,
        beside: Beside,
    ) -> Result<(TileGrid, Self)> {
        let mut cut = self;
        loop {
            let tile_size = match width * height <= cut.whole_frame {
                true => 0,
                false => cut.tile_size,
            };
            let overlap = match tile_size {
                0 => 0,
                side => cut.overlap.min(side / multiple / 2 * multiple),
            };
            let grid = TileGrid::new(width, height, tile_size, overlap, multiple)?;
            let Some(budget) = budget else {
                return Ok((grid, cut));
            };
            let tiles = grid.tile_width() * grid.tile_height() * cut.batch.min(grid.len());
            let shortage = budget.shortage(beside.pixels(&grid), tiles);
            let smaller = shortage.as_ref().and_then(|_| cut.smaller(&grid, multiple));
            if let Some(smaller) = smaller {
                cut = smaller;
                continue;
            }
            if let Some(shortage) = shortage {
                shortage.refuse(width, height)?;
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
    use super::*;

    #[test]
    fn frames_are_cut_smaller_where_memory_is_short() {
        let config = EngineConfig {
            tile_size: Some(0),
            tile_overlap: Some(16),
            tile_batch: 8,
            ..EngineConfig::default()
        };
        let cut_with = |utmost, per_pixel: f64, available: fn() -> Option<u64>| {
            let budget = Budget::of(per_pixel, available, utmost);
            let cut = Cut::new(&config, true, Device::Cpu);
            cut.fitted(1024, 512, 8, Some(&budget), Beside::new(false, Device::Cpu))
                .map(|(_, cut)| cut)
        };
        let cut = |per_pixel: f64, available| cut_with(Some(26 << 20), per_pixel, available);
        let whole = cut(100.0, || Some(100 << 20)).unwrap();
        assert_eq!((whole.tile_size, whole.batch), (0, 8));
        assert_eq!(cut(1e9, || None).unwrap(), whole, "nobody knows what is free");
        // 25 MB for frames; 50 MB, 25 MB and so on for tiles.
        let smaller = cut(100.0, || Some(60 << 20)).unwrap();
        assert_eq!((smaller.tile_size, smaller.batch), (512, 1));
        let least = cut(100.0, || Some(26 << 20)).unwrap();
        assert_eq!((least.tile_size, least.overlap), (128, 16));
        assert_eq!(cut(100.0, || Some(0)).unwrap(), least, "by swapping, it may do");
        // Where too much would end the process, it is not tried; where it is an error at once, it is.
        let none = cut_with(Some(20 << 20), 100.0, || Some(20 << 20)).unwrap_err();
        assert_eq!(none.kind(), crate::ErrorKind::NoMemory);
        let text = "not enough memory on cpu: frames of 1024x512 need some 26 MB however they are cut, and there are 20 MB";
        assert_eq!(none.to_string(), text);
        assert_eq!(cut_with(None, 100.0, || Some(0)).unwrap(), least);
    }

    #[test]
    fn tiles_that_may_be_reused_are_there_twice_with_their_overlaps() {
        let grid = TileGrid::new(1024, 512, 256, 128, 8).unwrap();
        let tiles = grid.len() * 256 * 256;
        assert!(tiles > 1024 * 512);
        let [plain, reused] = [false, true].map(|reuses| Beside::new(reuses, Device::Cpu).pixels(&grid));
        assert_eq!(reused - plain, 1024 * 512 + 2 * tiles);
    }

    #[test]
    fn on_a_gpu_frames_up_to_a_megapixel_are_one_tile_of_a_large_model() {
        let config = EngineConfig::default();
        let tiles = |config: &EngineConfig, device, width, height| {
            let cut = Cut::new(config, false, device);
            let (grid, cut) = cut
                .fitted(width, height, 64, None, Beside::new(false, device))
                .unwrap();
            ((grid.tile_width(), grid.tile_height(), grid.len()), cut)
        };
        let gpu = Device::Cuda(0);
        assert_eq!(tiles(&config, gpu, 1280, 720).0, (1280, 768, 1));
        let (_, cut) = tiles(&config, gpu, 1280, 720);
        // After memory has run out it is no more.
        let grid = TileGrid::new(1280, 720, 0, cut.overlap, 64).unwrap();
        let smaller = cut.smaller(&grid, 64).unwrap();
        assert_eq!((smaller.tile_size, smaller.whole_frame), (640, 0));
        // Rectangles of 0.4 to 0.6 megapixels above.
        for (width, height, count) in [(1920, 1080, 6), (3840, 2160, 24)] {
            let ((tile_width, tile_height, tiles), _) = tiles(&config, gpu, width, height);
            let pixels = tile_width * tile_height;
            assert!(
                (400_000..=600_000).contains(&pixels),
                "{tile_width}x{tile_height}"
            );
            assert_eq!(tiles, count);
        }
        assert_eq!(tiles(&config, Device::Cpu, 1280, 720).0.2, 6);
        let asked = EngineConfig {
            tile_size: Some(512),
            ..EngineConfig::default()
        };
        assert_eq!(tiles(&asked, gpu, 1280, 720).0.2, 6);
    }
}
