//! Whether what runs at a time fits into the memory that is free.
//!
//! On a CPU the system gives memory that it does not have and ends the process when it is used, so there it has to be known before.
//! On a GPU too much is an error at once, and less is tried then; knowing it before saves that.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::pass::{Forward, pass};
use crate::{Error, Result, memory};

/// Side of the tile on which the model's need is measured, in pixels, where the model takes it.
const PROBE: usize = 128;

/// Of a frame of float32 R'G'B', the copies that are there beside the tiles: as it came, padded, joined, and mixed with the input. The
/// kernels for plain frames keep all tiles' outputs instead, which overlap by half their sides at most: up to four frames too.
pub(super) const FRAMES: usize = 4;

/// And those of a frame whose tiles may be reused: what they were made of, their outputs, and the whole.
pub(super) const REUSE_FRAMES: usize = 3;

static MEASURING: Mutex<()> = Mutex::new(());

/// What a pass needs, and what there is.
pub(super) struct Budget {
    device: Device,
    /// Peak of a pass for each pixel of its tiles, in bytes.
    per_pixel: f64,
    /// Bytes that are free, where that is known.
    available: Box<dyn Fn() -> Option<u64> + Send>,
    /// Bytes of the swap space that are free.
    swap: Box<dyn Fn() -> u64 + Send>,
}

/// More is needed than is free.
pub(super) struct Shortage {
    /// In bytes.
    pub needed: u64,
    /// In bytes.
    pub available: u64,
    /// Using more would end the process.
    hopeless: bool,
}

impl Shortage {
    /// # Errors
    /// [`Error::NoMemory`] where going on would end the process; otherwise it is tried.
    pub fn refuse(&self, width: usize, height: usize) -> Result<()> {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (needed, available) = (mib(self.needed), mib(self.available));
        let reason =
            format!("frames of {width}x{height} need about {needed} MB, and {available} MB are free");
        if self.hopeless {
            let device = "the CPU".to_owned();
            return Err(Error::NoMemory { device, reason });
        }
        tracing::warn!("memory is short: {reason}");
        Ok(())
    }
}

impl Budget {
    /// Measures a pass through the model, which makes the first frame faster too. `None` where that cannot be known.
    ///
    /// # Errors
    /// Too little memory for even that.
    pub fn measure(model: &Forward, multiple: usize, device: Device) -> Result<Option<Self>> {
        let start = Instant::now();
        let side = PROBE.next_multiple_of(multiple) as i64;
        let tile = Tensor::f_zeros([1, 3, side, side], (Kind::Float, device))?;
        // Other engines' tensors count too. So one measures at a time, and the smaller of two peaks is right; the first pass has
        // weights to pack besides.
        let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peaks = [None; 2];
        for peak in &mut peaks {
            let (passed, most) = memory::peak(device, || pass(model, &tile));
            passed?;
            *peak = most;
        }
        let peak = peaks[0].min(peaks[1]);
        tracing::debug!(
            "a tile of {side} px took {peak:?} bytes and {:?}",
            start.elapsed()
        );
        Ok(peak.map(|bytes| Budget {
            device,
            per_pixel: bytes as f64 / (side * side) as f64,
            available: Box::new(move || memory::available(device)),
            swap: Box::new(memory::swap),
        }))
    }

    #[cfg(test)]
    pub fn of(device: Device, per_pixel: f64, available: fn() -> Option<u64>, swap: u64) -> Self {
        Budget {
            device,
            per_pixel,
            available: Box::new(available),
            swap: Box::new(move || swap),
        }
    }

    /// Whether so many pixels of float32 R'G'B', with so many pixels of tiles at a time, need more than is free.
    pub fn shortage(&self, frame_pixels: usize, tile_pixels: usize) -> Option<Shortage> {
        let frames = 12 * frame_pixels as u64;
        let needed = frames + (self.per_pixel * tile_pixels as f64) as u64;
        let mut available = (self.available)()?;
        if needed > available {
            // What this process keeps for later tensors is as good as free.
            memory::release();
            available = (self.available)()?;
        }
        (needed > available).then(|| Shortage {
            needed,
            available,
            hopeless: self.device == Device::Cpu && needed > available.saturating_add((self.swap)()),
        })
    }
}
