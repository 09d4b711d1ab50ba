//! Batches on their way to the device.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::data::Loader;
use crate::device::pinned;

/// A batch on the device.
pub(super) struct Uploaded {
    /// `[B, 3, S, S]` in [0, 1], float32.
    pub blurry: Tensor,
    /// Same shape.
    pub sharp: Tensor,
    /// Index of the sample after its last.
    next_index: u64,
}

/// A loader's batches, one of them ahead where a GPU computes meanwhile.
pub(super) struct Feed {
    loader: Loader,
    device: Device,
    crop_size: i64,
    ahead: Option<Uploaded>,
    /// What was delivered last ends before it.
    next_index: u64,
    /// Time that the loader was waited for, since it was last asked.
    waited: Duration,
}

impl Feed {
    pub fn new(loader: Loader, crop_size: usize, device: Device) -> Self {
        Feed {
            next_index: loader.next_index(),
            loader,
            device,
            crop_size: crop_size as i64,
            ahead: None,
            waited: Duration::ZERO,
        }
    }

    /// The next batch.
    ///
    /// # Errors
    /// A loader that has stopped.
    pub fn next_batch(&mut self) -> Result<Uploaded> {
        let batch = match self.ahead.take() {
            Some(batch) => batch,
            None => self.load()?,
        };
        self.next_index = batch.next_index;
        Ok(batch)
    }

    /// Sends the batch after it on its way while the device is at work; a CPU has better things to do.
    ///
    /// # Errors
    /// A loader that has stopped.
    pub fn prefetch(&mut self) -> Result<()> {
        if self.device != Device::Cpu && self.ahead.is_none() {
            self.ahead = Some(self.load()?);
        }
        Ok(())
    }

    /// Index of the first sample that was not delivered: what a checkpoint keeps.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Time that the loader was waited for since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    fn load(&mut self) -> Result<Uploaded> {
        let start = Instant::now();
        let batch = self.loader.next_batch()?;
        self.waited += start.elapsed();
        Ok(Uploaded {
            blurry: self.upload(&batch.blurry),
            sharp: self.upload(&batch.sharp),
            next_index: self.loader.next_index(),
        })
    }

    fn upload(&self, values: &[f32]) -> Tensor {
        let shape = [-1, 3, self.crop_size, self.crop_size];
        match self.device {
            Device::Cpu => Tensor::from_slice(values).view(shape),
            device => pinned(values)
                .to_device_(device, Kind::Float, true, false)
                .view(shape),
        }
    }
}
