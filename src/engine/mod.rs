//! The streaming engine: frames in, sharper frames out, in order, on a thread of its own.
//!
//! One thread owns the device and what it computes with; frames ([`Frame`], or a [`Picture`] of one's own, which may be in a GPU's
//! memory) and plain messages cross the channels. A model is loaded once per process and shared by all engines that use it.
//!
//! ```no_run
//! use osdd::engine::{Engine, EngineConfig};
//! use osdd::frame::{Frame, PixelFormat};
//!
//! let engine = Engine::new(EngineConfig::default())?;
//! engine.send(Frame::new(640, 360, PixelFormat::Rgb8))?;
//! let output = engine.receive()?.expect("one frame is in flight");
//! assert_eq!(output.frame.width, 640);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blend;
mod budget;
mod config;
mod cut;
mod flight;
mod graph;
mod pass;
mod picture;
mod pixels;
mod plain;
mod restore;
mod reuse;
mod sharp;
mod source;
mod tiled;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use config::EngineConfig;
use flight::{Flight, Reply, Wait};
pub use picture::{Arriving, FromFrame, Picture};
use worker::{Job, Shared};

pub use crate::device::{Device, Precision};
use crate::frame::Frame;
use crate::{Error, Result, memory, threads};

/// A running engine; `Send` and `Sync`, so that one thread may send while another receives.
pub struct Engine<P: Picture = Frame> {
    config: EngineConfig,
    info: EngineInfo,
    shared: Arc<Shared>,
    flight: Flight<P>,
    jobs: Option<Sender<Job<P>>>,
    /// The worker's end of `jobs`, to take back what it has not started.
    waiting: Receiver<Job<P>>,
    worker: Option<std::thread::JoinHandle<()>>,
}

/// What an engine runs on, with everything `auto` resolved.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    pub model: String,
    pub device: Device,
    pub precision: Precision,
    /// Largest side of a tile in pixels; 0 is the whole frame. Where memory is short, tiles are smaller.
    pub tile_size: usize,
    /// Pixels that neighbouring tiles share, where they are large enough.
    pub tile_overlap: usize,
}

/// Why a frame was not taken; it comes back.
#[derive(Debug, thiserror::Error)]
pub enum SendError<P = Frame> {
    /// `depth` frames are in flight: receive one first.
    #[error("as many frames are in flight as the engine's depth allows")]
    Full(P),
    /// The frame is malformed, or the engine has stopped.
    #[error("{1}")]
    Failed(P, Error),
}

impl<P> From<SendError<P>> for Error {
    fn from(error: SendError<P>) -> Self {
        match error {
            SendError::Full(_) => Error::Worker(error.to_string()),
            SendError::Failed(_, error) => error,
        }
    }
}

/// A finished frame.
#[derive(Debug)]
pub struct Output<P = Frame> {
    /// What `send` returned for it.
    pub id: u64,
    pub frame: P,
    /// The frame that was sent, for comparison or reuse.
    pub input: P,
    /// γ of all of this frame.
    pub gamma: f64,
    /// Tiles that show the input, because the model gave numbers for them that are not finite.
    pub tiles_failed: usize,
    pub times: StageTimes,
}

/// Time spent on one frame, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes {
    /// Pixels to tensor, and to the device.
    pub upload: Duration,
    /// The model, over all tiles.
    pub model: Duration,
    /// Cutting and joining tiles.
    pub blend: Duration,
    /// Tensor to pixels, and from the device.
    pub download: Duration,
    /// All of it, without waiting in the queue.
    pub total: Duration,
}

/// Counters since the engine started.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub frames_in: u64,
    pub frames_out: u64,
    /// Discarded by [`Engine::flush`].
    pub frames_dropped: u64,
    pub tiles_run: u64,
    /// Tiles that showed what they had shown before, see [`EngineConfig::reuse_threshold`].
    pub tiles_reused: u64,
    /// Tiles that were sharp as they came, see [`EngineConfig::skip_sharp`].
    pub tiles_skipped: u64,
    /// Tiles that show the input, because the model gave numbers for them that are not finite.
    pub tiles_failed: u64,
    /// Mean per finished frame.
    pub times: StageTimes,
    /// Most bytes that tensors have had at a time on the engine's GPU, whoever's; `None` on a CPU.
    pub gpu_memory_peak: Option<u64>,
}

impl Engine {
    /// Loads the model (or shares it) and starts the worker; returns when the first frame can be sent.
    ///
    /// # Errors
    /// A setting out of range, a model that is missing or broken, a device that is not there, too little memory, too few threads.
    pub fn new(config: EngineConfig) -> Result<Engine> {
        Engine::of_pictures(config)
    }
}

impl<P: Picture> Engine<P> {
    /// As [`Engine::new`], for pictures of the caller's own kind.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn of_pictures(config: EngineConfig) -> Result<Engine<P>> {
        config.validate()?;
        // Its own, libtorch's, and those that share a layer.
        let count = 2 * usize::try_from(tch::get_num_threads()).unwrap_or(1) + 1;
        if !threads::are_given(count) {
            return Err(Error::NoThreads { count });
        }
        let shared = Arc::new(Shared::new(config.gamma, config.strength));
        let (jobs, waiting) = bounded(config.depth);
        // Room for stale results and wake-ups, so that the worker does not wait for a caller that only flushes.
        let (replies, results) = bounded(config.depth + 3);
        let (ready, started) = bounded(1);
        let thread = {
            let (config, shared, waiting) = (config.clone(), shared.clone(), waiting.clone());
            let replies: Sender<Reply<P>> = replies.clone();
            std::thread::Builder::new()
                .name("osdd-engine".into())
                .spawn(move || worker::run(&config, &shared, &waiting, &replies, &ready))
        };
        let thread = thread.map_err(|e| Error::Worker(format!("cannot start it: {e}")))?;
        let info = started
            .recv()
            .unwrap_or_else(|_| Err(Error::Worker("it ended while loading the model".into())))?;
        tracing::info!("model {} on {}, {:?}", info.model, info.device, info.precision);
        Ok(Engine {
            flight: Flight::new(config.depth, results, replies),
            config,
            info,
            shared,
            jobs: Some(jobs),
            waiting,
            worker: Some(thread),
        })
    }

    /// Queues a frame under the γ and strength in force when its turn comes. Never blocks.
    ///
    /// # Errors
    /// The frame comes back when `depth` frames are in flight, when it is malformed, or when the engine has stopped.
    pub fn send(&self, frame: P) -> Result<u64, SendError<P>> {
        self.enqueue(frame, None)
    }

    /// As [`Engine::send`], with γ and strength (both clamped to 0..=1) of its own for this frame.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn send_with(&self, frame: P, gamma: f64, strength: f64) -> Result<u64, SendError<P>> {
        self.enqueue(frame, Some((unit(gamma), unit(strength))))
    }

    fn enqueue(&self, frame: P, settings: Option<(f64, f64)>) -> Result<u64, SendError<P>> {
        if let Err(error) = frame.check() {
            return Err(SendError::Failed(frame, error));
        }
        let Some(jobs) = self.jobs.as_ref().filter(|_| !self.shared.has_failed()) else {
            return Err(SendError::Failed(frame, self.shared.failure()));
        };
        let Some((id, epoch)) = self.flight.take_off() else {
            return Err(SendError::Full(frame));
        };
        let job = Job {
            id,
            epoch,
            frame,
            settings,
        };
        if let Err(error) = jobs.try_send(job) {
            self.flight.cancel(epoch);
            return Err(match error {
                crossbeam_channel::TrySendError::Full(job) => SendError::Full(job.frame),
                crossbeam_channel::TrySendError::Disconnected(job) => {
                    SendError::Failed(job.frame, self.shared.failure())
                }
            });
        }
        self.shared.count(|stats| stats.frames_in += 1);
        Ok(id)
    }

    /// The oldest frame in flight, when it is done. `None` when nothing is in flight, or once [`Engine::flush`] has
    /// emptied it.
    ///
    /// # Errors
    /// What went wrong with this frame. The engine has then stopped: start another.
    pub fn receive(&self) -> Result<Option<Output<P>>> {
        self.flight.land(Wait::Forever, &self.shared)
    }

    /// As [`Engine::receive`], but does not wait: `None` when no result is ready.
    ///
    /// # Errors
    /// As [`Engine::receive`].
    pub fn try_receive(&self) -> Result<Option<Output<P>>> {
        self.flight.land(Wait::No, &self.shared)
    }

    /// As [`Engine::receive`], but waits no longer than until `deadline`: `None` when there is no result by then.
    ///
    /// # Errors
    /// As [`Engine::receive`].
    pub fn receive_deadline(&self, deadline: Instant) -> Result<Option<Output<P>>> {
        self.flight.land(Wait::Until(deadline), &self.shared)
    }

    /// Frames sent and neither received nor flushed.
    pub fn in_flight(&self) -> usize {
        self.flight.count()
    }

    /// Frames in flight that are done and wait to be received.
    pub fn ready(&self) -> usize {
        self.flight.landed()
    }

    /// Frames that may be in flight at once.
    pub fn depth(&self) -> usize {
        self.config.depth
    }

    /// Discards every frame in flight and wakes a waiting [`Engine::receive`]. Work on a frame that has begun ends on a CPU with the
    /// layer that is being computed, on a GPU with the tiles.
    pub fn flush(&self) {
        let dropped = self.flight.discard(&self.waiting, &self.shared);
        self.shared.count(|stats| stats.frames_dropped += dropped as u64);
    }

    /// Sets γ, clamped to 0..=1, for frames whose turn has not come. One atomic store.
    pub fn set_gamma(&self, gamma: f64) {
        self.shared.gamma.store(unit(gamma));
    }

    pub fn gamma(&self) -> f64 {
        self.shared.gamma.load()
    }

    /// Sets the mix of output (1) and input (0), clamped to 0..=1. At 0 frames pass unchanged, bit for bit.
    pub fn set_strength(&self, strength: f64) {
        self.shared.strength.store(unit(strength));
    }

    pub fn strength(&self) -> f64 {
        self.shared.strength.load()
    }

    pub fn stats(&self) -> Stats {
        let gpu = match self.info.device {
            Device::Cuda(index) => Some(tch::Device::Cuda(index)),
            _ => None,
        };
        Stats {
            gpu_memory_peak: gpu.and_then(memory::gpu_peak),
            ..self.shared.stats()
        }
    }

    pub fn info(&self) -> &EngineInfo {
        &self.info
    }
}

impl<P: Picture> Drop for Engine<P> {
    fn drop(&mut self) {
        // Take back what has not started, close the queue, and wait for the frame in work: device memory is free after.
        self.flush();
        self.jobs = None;
        self.flight.close();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// NaN counts as 0.
fn unit(value: f64) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0)
    }
}
