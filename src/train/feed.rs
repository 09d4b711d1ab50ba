//! Batches on their way to the device.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tch::{Device, Kind, Tensor};

use crate::data::{Batch, DataError, Loader};
use crate::device::upload;
use crate::{Error, Result};

/// Batches that wait on a GPU, beside the one that is being copied there.
const AHEAD: usize = 1;

/// A batch on the device.
pub(super) struct Uploaded {
    /// `[B, 3, S, S]` in [0, 1], float32.
    pub blurry: Tensor,
    /// Same shape.
    pub sharp: Tensor,
    /// Index of the sample after its last.
    next_index: u64,
}

/// A loader's batches. On their way to a GPU they are copied twice; a thread does that while the GPU is given other work.
pub(super) struct Feed {
    source: Source,
    /// What was delivered last ends before it.
    next_index: u64,
    /// Time that batches were waited for, since it was last asked.
    waited: Duration,
}

enum Source {
    Here(Loader, Upload),
    Thread(Option<Receiver<Result<Uploaded>>>, Option<JoinHandle<()>>),
}

impl Source {
    fn thread(loader: Loader, upload: Upload) -> Result<Self> {
        let (sender, receiver) = bounded(AHEAD);
        let thread = std::thread::Builder::new().name("osdd-upload".into());
        let thread = thread
            .spawn(move || upload.all(loader, &sender))
            .map_err(DataError::Thread)?;
        Ok(Source::Thread(Some(receiver), Some(thread)))
    }
}

/// Where batches go.
#[derive(Clone, Copy)]
struct Upload {
    device: Device,
    crop_size: i64,
}

impl Feed {
    /// # Errors
    /// The system refuses a thread.
    pub fn new(loader: Loader, crop_size: usize, device: Device) -> Result<Self> {
        let upload = Upload {
            device,
            crop_size: crop_size as i64,
        };
        let next_index = loader.next_index();
        let source = match device {
            Device::Cpu => Source::Here(loader, upload),
            _ => Source::thread(loader, upload)?,
        };
        Ok(Feed {
            source,
            next_index,
            waited: Duration::ZERO,
        })
    }

    /// The next batch; waits for it.
    ///
    /// # Errors
    /// A loader that has stopped.
    pub fn next_batch(&mut self) -> Result<Uploaded> {
        let start = Instant::now();
        let batch = match &mut self.source {
            Source::Here(loader, upload) => {
                let batch = loader.next_batch()?;
                self.waited += start.elapsed();
                upload.one(&batch, loader.next_index())?
            }
            Source::Thread(receiver, _) => {
                let stopped = || Error::Train("the thread that feeds the GPU has stopped".into());
                let received = receiver.as_ref().and_then(|receiver| receiver.recv().ok());
                self.waited += start.elapsed();
                received.ok_or_else(stopped)??
            }
        };
        self.next_index = batch.next_index;
        Ok(batch)
    }

    /// Index of the first sample that was not delivered: what a checkpoint keeps.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Time that batches were waited for since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Source::Thread(receiver, thread) = &mut self.source {
            // A thread that waits to send wakes up when its receiver goes.
            drop(receiver.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Upload {
    fn all(self, mut loader: Loader, sender: &Sender<Result<Uploaded>>) {
        // The copies are this thread's own; more of them would wait for those that make samples.
        tch::set_num_threads(1);
        loop {
            let batch = loader.next_batch().map_err(Error::from);
            let batch = batch.and_then(|batch| self.one(&batch, loader.next_index()));
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    fn one(self, batch: &Batch, next_index: u64) -> Result<Uploaded> {
        Ok(Uploaded {
            blurry: self.values(&batch.blurry)?,
            sharp: self.values(&batch.sharp)?,
            next_index,
        })
    }

    fn values(self, values: &[f32]) -> Result<Tensor> {
        let (data, length) = (values.as_ptr().cast(), values.len() as i64);
        // SAFETY: as many numbers as the slice has; only copies of them outlive it.
        let borrowed = unsafe { Tensor::f_from_blob(data, &[length], &[1], Kind::Float, Device::Cpu)? };
        let values = match self.device {
            Device::Cpu => borrowed.f_detach_copy()?,
            device => upload(&borrowed, device)?,
        };
        Ok(values.f_view([-1, 3, self.crop_size, self.crop_size])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{MixConfig, Sources};

    fn loader() -> Loader {
        let sources = Sources::of_one_photo();
        let config = MixConfig {
            crop_size: 32,
            ..MixConfig::default()
        };
        Loader::new(sources, config, 4, 2, 8).unwrap()
    }

    #[test]
    fn a_thread_between_changes_neither_batches_nor_indices() {
        let mut here = Feed::new(loader(), 32, Device::Cpu).unwrap();
        let upload = Upload {
            device: Device::Cpu,
            crop_size: 32,
        };
        let mut there = Feed {
            source: Source::thread(loader(), upload).unwrap(),
            next_index: 8,
            waited: Duration::ZERO,
        };
        for end in [12, 16, 20, 24] {
            let (one, two) = (here.next_batch().unwrap(), there.next_batch().unwrap());
            assert_eq!(one.blurry.size(), [4, 3, 32, 32]);
            assert!(one.blurry == two.blurry && one.sharp == two.sharp);
            assert_eq!((here.next_index(), there.next_index()), (end, end));
        }
        let _ = there.take_waited();
        assert_eq!(there.take_waited(), Duration::ZERO);
        // Ends while the thread waits to send.
        drop(there);
    }
}
