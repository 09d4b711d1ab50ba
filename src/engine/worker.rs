//! The thread that owns the device and its tensors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::flight::Reply;
use super::restore::{Restored, Restorer};
use super::{EngineConfig, EngineInfo, Output, Picture, StageTimes, Stats};
use crate::memory;
use crate::{Error, ErrorKind, Result};

/// A frame on its way to the worker.
pub(super) struct Job<P> {
    pub id: u64,
    pub epoch: u64,
    pub frame: P,
    /// γ and strength of this frame alone.
    pub settings: Option<(f64, f64)>,
}

/// A number that is set and read without a lock.
pub(super) struct AtomicF64(AtomicU64);

impl AtomicF64 {
    pub fn new(value: f64) -> Self {
        AtomicF64(AtomicU64::new(value.to_bits()))
    }

    pub fn load(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    pub fn store(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// What the caller's threads and the worker both see.
pub(super) struct Shared {
    pub gamma: AtomicF64,
    pub strength: AtomicF64,
    /// Flushes so far. A frame that was sent before the latest is wanted by nobody.
    pub epoch: AtomicU64,
    /// Counters, and the sum (not the mean) of times.
    stats: Mutex<Stats>,
    /// Why the worker stopped.
    failure: Mutex<Option<Error>>,
}

impl Shared {
    pub fn new(gamma: f64, strength: f64) -> Self {
        Shared {
            gamma: AtomicF64::new(gamma),
            strength: AtomicF64::new(strength),
            epoch: AtomicU64::new(0),
            stats: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    pub fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(|e| e.into_inner()));
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let frames = u32::try_from(stats.frames_out.max(1)).unwrap_or(u32::MAX);
        let sum = stats.times;
        stats.times = StageTimes {
            upload: sum.upload / frames,
            model: sum.model / frames,
            blend: sum.blend / frames,
            download: sum.download / frames,
            total: sum.total / frames,
        };
        stats
    }

    pub fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    /// The error for whoever talks to a worker that has stopped.
    pub fn failure(&self) -> Error {
        let failure = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        let failure = failure.as_ref().map(Error::again);
        failure.unwrap_or_else(|| Error::Worker("it has ended".into()))
    }

    fn fail(&self, error: &Error) {
        *self.failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error.again());
    }
}

/// Loads the model, says so on `ready`, then answers `jobs` until they end: after a failure, with that failure.
pub(super) fn run<P: Picture>(
    config: &EngineConfig,
    shared: &Shared,
    jobs: &Receiver<Job<P>>,
    replies: &Sender<Reply<P>>,
    ready: &Sender<Result<EngineInfo>>,
) {
    let _no_grad = tch::no_grad_guard();
    // Dropped last, when no tensor is left.
    let _memory = memory::ReleasedAtEnd;
    let restorer = match guarded(|| Restorer::new(config)) {
        Ok(restorer) => restorer,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(restorer.info().clone())).is_err() {
        return;
    }
    let mut restorer = Some(restorer);
    for mut job in jobs {
        let (gamma, strength) = job
            .settings
            .unwrap_or_else(|| (shared.gamma.load(), shared.strength.load()));
        let result = match &mut restorer {
            Some(restorer) => {
                let wanted = || shared.epoch.load(Ordering::Relaxed) == job.epoch;
                restore(restorer, &mut job.frame, gamma, strength, &wanted)
            }
            // Every frame gets an answer, so that nobody waits for a worker that cannot work.
            None => Err(shared.failure()),
        };
        let result = match result {
            // Its result would be stale.
            Ok(None) => continue,
            Ok(Some(restored)) => {
                shared.count(|stats| stats.add(&restored));
                Ok(Output {
                    id: job.id,
                    frame: restored.frame,
                    input: job.frame,
                    gamma,
                    tiles_failed: restored.tiles_failed,
                    times: restored.times,
                })
            }
            Err(error) => {
                if restorer.take().is_some() {
                    tracing::debug!("the worker stops: {error}");
                    shared.fail(&error);
                }
                Err(error)
            }
        };
        let reply = Reply {
            epoch: job.epoch,
            result: Some(result),
        };
        if replies.send(reply).is_err() {
            return;
        }
    }
}

/// The restored frame, in smaller pieces where memory runs out; where these do not help, once more with what was kept given back.
/// `None` once it is not `wanted` any more.
fn restore<P: Picture>(
    restorer: &mut Restorer<P>,
    frame: &mut P,
    gamma: f64,
    strength: f64,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<Option<Restored<P>>> {
    let mut last = false;
    loop {
        match guarded(|| restorer.restore(frame, gamma, strength, wanted)) {
            Err(error) if error.kind() == ErrorKind::NoMemory && !last => {
                last = !restorer.shrink();
                tracing::debug!("once more after: {error}");
            }
            result => return result,
        }
    }
}

impl Stats {
    /// Counts a frame; times are summed here, see [`Shared::stats`].
    fn add<P>(&mut self, restored: &Restored<P>) {
        self.frames_out += 1;
        self.tiles_run += restored.tiles as u64;
        self.tiles_reused += restored.tiles_reused as u64;
        self.tiles_skipped += restored.tiles_skipped as u64;
        self.tiles_failed += restored.tiles_failed as u64;
        let (sum, times) = (&mut self.times, &restored.times);
        sum.upload += times.upload;
        sum.model += times.model;
        sum.blend += times.blend;
        sum.download += times.download;
        sum.total += times.total;
    }
}

/// Turns a panic into an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let text = text.unwrap_or_else(|| "a panic without a message".into());
        // tch panics with libtorch's message where it has no fallible call.
        Err(Error::from_libtorch(&text, Error::Worker))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded::<()>(|| panic!("broken {}", 7)).unwrap_err();
        assert_eq!(error.to_string(), "the engine's worker stopped: broken 7");
        let memory =
            guarded::<()>(|| panic!("DefaultCPUAllocator: can't allocate memory: you tried")).unwrap_err();
        assert_eq!(memory.kind(), crate::ErrorKind::NoMemory);
        let lost = guarded::<()>(|| panic!("CUDA error: unspecified launch failure\nstack")).unwrap_err();
        assert_eq!(lost.kind(), crate::ErrorKind::Device);
        assert!(!lost.to_string().contains("stack"), "{lost}");
        // As tch panics where it has no fallible call.
        let broken = || {
            Err(tch::TchError::Torch(
                "sizes (8) and (7) differ\nframe #0: stack".into(),
            ))
        };
        let error = guarded::<()>(|| broken().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the engine's worker stopped: sizes (8) and (7) differ"
        );
        for (text, kind) in [
            ("std::bad_alloc", crate::ErrorKind::NoMemory),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
                crate::ErrorKind::NoMemory,
            ),
            (
                "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
                crate::ErrorKind::Device,
            ),
        ] {
            assert_eq!(
                guarded::<()>(|| panic!("{text}")).unwrap_err().kind(),
                kind,
                "{text}"
            );
        }
    }
}
