//! Whether what runs at a time fits into the memory that is free.
//!
//! On a CPU the system gives memory that it does not have and ends the process when it is used, so there it has to be known before.
//! On a GPU too much is an error at once, and less is tried then; knowing it before saves that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::pass::{Forward, pass};
use crate::tile::TileGrid;
use crate::{Error, Result, memory};

/// Side of the tile on which the model's need is measured, in pixels, where the model takes it.
const PROBE: usize = 128;

/// What freed tensors leave behind for later ones, beside what is in use at once: 1.17 of it for `nano` at 2048x2048.
const KEPT: f64 = 1.25;

/// Of a frame of float32 R'G'B', the copies that are there beside the tiles: as it came, padded, joined, and mixed with the input. The
/// kernels for plain frames keep all tiles' outputs instead, which overlap by half their sides at most: up to four frames too.
const FRAMES: usize = 4;

/// What is there beside the tiles that run at a time.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// Copies of the padded frame.
    frames: usize,
    /// Copies of all tiles, which overlap.
    tiles: usize,
}

impl Beside {
    /// Where tiles may be reused there are what they were made of, their outputs, and the whole.
    pub fn new(reuses: bool, device: Device) -> Self {
        match reuses {
            true => Beside {
                frames: FRAMES + 1,
                tiles: 2,
            },
            // Of a frame that comes back, too.
            false if device != Device::Cpu => Beside {
                frames: 2 * FRAMES,
                tiles: 0,
            },
            false => Beside {
                frames: FRAMES,
                tiles: 0,
            },
        }
    }

    /// Pixels of a frame that is cut so.
    pub fn pixels(self, grid: &TileGrid) -> usize {
        let frame = grid.padded_width() * grid.padded_height();
        let tiles = grid.len() * grid.tile_width() * grid.tile_height();
        self.frames * frame + self.tiles * tiles
    }
}

static MEASURING: Mutex<()> = Mutex::new(());

/// Nobody else measures, see [`Budget::measure`].
pub(super) struct Alone {
    _guard: MutexGuard<'static, ()>,
}

impl Alone {
    pub fn wait() -> Self {
        Alone {
            _guard: MEASURING.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// What a pass needs, and what there is.
pub(super) struct Budget {
    /// Peak of a pass for each pixel of its tiles, in bytes.
    per_pixel: f64,
    /// Bytes that are free, where that is known.
    available: Box<dyn Fn() -> Option<u64> + Send>,
    /// Bytes after which the process is ended, where it would be.
    utmost: Box<dyn Fn() -> Option<u64> + Send>,
}

/// More is needed than is free.
pub(super) struct Shortage {
    /// In bytes.
    needed: u64,
    /// In bytes.
    available: u64,
    /// Bytes after which the process would be ended, where they are less than what is needed.
    utmost: Option<u64>,
}

impl Shortage {
    /// # Errors
    /// [`Error::NoMemory`] where going on would end the process; otherwise it is tried.
    pub fn refuse(&self, width: usize, height: usize) -> Result<()> {
        let mib = |bytes: u64| bytes >> 20;
        let needed = format!("frames of {width}x{height} need some {} MB", mib(self.needed) + 1);
        if let Some(utmost) = self.utmost {
            return Err(Error::NoMemory {
                device: "cpu".to_owned(),
                reason: format!("{needed} however they are cut, and there are {} MB", mib(utmost)),
            });
        }
        tracing::warn!(
            "memory is short: {needed}, and {} MB are free",
            mib(self.available)
        );
        Ok(())
    }
}

impl Budget {
    /// Measures a pass through the model, which makes the first frame faster too. `None` where that cannot be known. One measures at a
    /// time, and holds `_alone` from before it has the CPU's own threads: these are wanted by layers of others that measure.
    ///
    /// # Errors
    /// Too little memory for even that.
    pub fn measure(model: &Forward, multiple: usize, device: Device, _alone: &Alone) -> Result<Option<Self>> {
        let start = Instant::now();
        let side = PROBE.next_multiple_of(multiple) as i64;
        let tile = Tensor::f_zeros([1, 3, side, side], (Kind::Float, device))?;
        // Other engines' tensors count too. So the smaller of two peaks is right; the first pass has weights to pack besides.
        let mut peaks = [None; 2];
        for peak in &mut peaks {
            let (passed, most) = memory::peak(device, || pass(model, &tile, &|| true));
            passed?;
            *peak = most;
        }
        let peak = peaks[0].min(peaks[1]);
        tracing::debug!(
            "a tile of {side} px took {peak:?} bytes and {:?}",
            start.elapsed()
        );
        Ok(peak.map(|bytes| Budget {
            per_pixel: KEPT * bytes as f64 / (side * side) as f64,
            available: Box::new(move || memory::available(device)),
            utmost: Box::new(move || memory::utmost(device)),
        }))
    }

    #[cfg(test)]
    pub fn of(per_pixel: f64, available: fn() -> Option<u64>, utmost: Option<u64>) -> Self {
        Budget {
            per_pixel,
            available: Box::new(available),
            utmost: Box::new(move || utmost),
        }
    }

    /// Whether so many pixels of float32 R'G'B', beside so many of tiles that run at a time, need more than is free.
    pub fn shortage(&self, beside_pixels: usize, tile_pixels: usize) -> Option<Shortage> {
        let beside = 12 * beside_pixels as u64;
        let needed = beside + (self.per_pixel * tile_pixels as f64) as u64;
        let mut available = (self.available)()?;
        if needed > available {
            // What this process keeps for later tensors is as good as free.
            memory::release();
            available = (self.available)()?;
        }
        (needed > available).then(|| Shortage {
            needed,
            available,
            utmost: (self.utmost)().filter(|utmost| needed > *utmost),
        })
    }
}
