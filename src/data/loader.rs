//! Batches made on other threads, delivered in the order of their indices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::DataError;
use super::mix::{MixConfig, Sources};
use super::picture::Picture;
use super::sampler::sample;

/// Finished batches that each thread may hold ahead of the training step.
const AHEAD: usize = 2;

/// Samples of one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Inputs, `[B, 3, S, S]`, RGB, encoded, in `[0, 1]`.
    pub blurry: Vec<f32>,
    /// Truths, same shape.
    pub sharp: Vec<f32>,
    /// Index of the first sample; the others follow one by one.
    pub first_index: u64,
}

/// Makes batches in the background.
///
/// Thread `t` of `n` makes the batches `t, t + n, t + 2n, ...` and has a bounded channel of its own; the
/// receiver takes from the channels in turn. So the order needs no buffer, and the result does not depend on
/// the number of threads.
pub struct Loader {
    /// Always full length until dropped.
    channels: Vec<Receiver<Batch>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    batch_size: usize,
    next_index: u64,
    turn: usize,
}

impl Loader {
    /// Starts `threads` threads that make batches of `batch_size` samples, the first sample being
    /// `start_index`. A run is resumed exactly with the [`next_index`](Self::next_index) it had reached.
    ///
    /// # Errors
    /// [`DataError::Setting`] for a batch size or a number of threads of zero, those of
    /// [`MixConfig::check_sources`], and [`DataError::Thread`] when the system refuses a thread.
    pub fn new(
        sources: Arc<Sources>,
        config: MixConfig,
        batch_size: usize,
        threads: usize,
        start_index: u64,
    ) -> Result<Self, DataError> {
        for (field, value) in [("batch_size", batch_size), ("threads", threads)] {
            if value == 0 {
                return Err(DataError::Setting {
                    field,
                    value: value.to_string(),
                    legal: "at least 1",
                });
            }
        }
        config.check_sources(&sources)?;
        warn_of_small(&sources, config.crop_size);
        let mut loader = Self {
            channels: Vec::with_capacity(threads),
            threads: Vec::with_capacity(threads),
            stop: Arc::default(),
            batch_size,
            next_index: start_index,
            turn: 0,
        };
        let config = Arc::new(config);
        for thread in 0..threads {
            let (sender, receiver) = bounded(AHEAD);
            let worker = Worker {
                sources: sources.clone(),
                config: config.clone(),
                batch_size,
                first_index: start_index + (thread * batch_size) as u64,
                stride: (threads * batch_size) as u64,
                stop: loader.stop.clone(),
            };
            let builder = std::thread::Builder::new().name(format!("osdd-data-{thread}"));
            let handle = builder
                .spawn(move || worker.run(&sender))
                .map_err(DataError::Thread)?;
            loader.channels.push(receiver);
            loader.threads.push(handle);
        }
        Ok(loader)
    }

    /// The next batch; waits for it.
    ///
    /// # Errors
    /// [`DataError::LoaderStopped`] when the thread that makes it has panicked.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        let received = self.channels[self.turn].recv();
        let batch = received.map_err(|_| DataError::LoaderStopped {
            index: self.next_index,
        })?;
        self.turn = (self.turn + 1) % self.channels.len();
        self.next_index = batch.first_index + self.batch_size as u64;
        Ok(batch)
    }

    /// Index of the first sample of the next batch: what a checkpoint keeps.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }
}

/// Counts and names photographs that are smaller than the crop; they are used, mirrored at their borders.
fn warn_of_small(sources: &Sources, crop_size: usize) {
    let is_small = |picture: &&Picture| picture.size().0.min(picture.size().1) < crop_size;
    let small: Vec<&Picture> = sources.photos.iter().filter(is_small).collect();
    if let Some(first) = small.first() {
        let name = first
            .path()
            .map_or_else(|| "the first".into(), |path| path.display().to_string());
        tracing::warn!(
            "{} of {} photograph(s) are smaller than the crop of {crop_size} px and are mirrored at their borders, such as {name}",
            small.len(),
            sources.photos.len()
        );
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits to send wakes up when its receiver goes.
        self.channels.clear();
        for thread in self.threads.drain(..) {
            // Its panic was reported by `next_batch`, or nobody waited for its batch.
            let _ = thread.join();
        }
    }
}

/// What one thread needs.
struct Worker {
    sources: Arc<Sources>,
    config: Arc<MixConfig>,
    batch_size: usize,
    first_index: u64,
    stride: u64,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, sender: &Sender<Batch>) {
        let values = self.batch_size * 3 * self.config.crop_size * self.config.crop_size;
        let mut first_index = self.first_index;
        loop {
            let mut blurry = Vec::with_capacity(values);
            let mut sharp = Vec::with_capacity(values);
            for offset in 0..self.batch_size as u64 {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let made = sample(&self.sources, &self.config, first_index + offset);
                blurry.extend_from_slice(&made.blurry);
                sharp.extend_from_slice(&made.sharp);
            }
            if sender
                .send(Batch {
                    blurry,
                    sharp,
                    first_index,
                })
                .is_err()
            {
                return;
            }
            first_index += self.stride;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(threads: usize, start_index: u64) -> Loader {
        let sources = Sources::of_one_photo();
        let config = MixConfig {
            crop_size: 32,
            seed: 5,
            ..MixConfig::default()
        };
        Loader::new(sources, config, 4, threads, start_index).unwrap()
    }

    fn batches(loader: &mut Loader, count: usize) -> Vec<Batch> {
        (0..count).map(|_| loader.next_batch().unwrap()).collect()
    }

    #[test]
    fn order_and_bytes_do_not_depend_on_the_number_of_threads() {
        let one = batches(&mut loader(1, 0), 7);
        let three = batches(&mut loader(3, 0), 7);
        assert_eq!(one, three);
        let indices: Vec<u64> = one.iter().map(|batch| batch.first_index).collect();
        assert_eq!(indices, [0, 4, 8, 12, 16, 20, 24]);
        assert_eq!(one[0].blurry.len(), 4 * 3 * 32 * 32);
    }

    #[test]
    fn resuming_continues_exactly() {
        let mut first = loader(2, 0);
        batches(&mut first, 3);
        let mut resumed = loader(3, first.next_index());
        assert_eq!(batches(&mut first, 4), batches(&mut resumed, 4));
        assert_eq!(first.next_index(), 28);
    }

    #[test]
    fn dropping_ends_the_threads() {
        let mut loader = loader(3, 0);
        batches(&mut loader, 1);
        let stop = Arc::downgrade(&loader.stop);
        drop(loader);
        assert!(stop.upgrade().is_none(), "a thread still holds its share");
    }

    #[test]
    fn zero_threads_are_refused() {
        let error = Loader::new(Arc::default(), MixConfig::default(), 1, 0, 0)
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "data setting threads = 0: at least 1");
    }
}
