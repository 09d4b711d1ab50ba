//! The thread that owns the device and its tensors.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::flight::Reply;
use super::restore::{Begun, Restored, Restorer};
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
    let _memory = memory::ReleasedAtEnd::new();
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
    let mut worker = Worker {
        begun: VecDeque::new(),
        restorer: Some(restorer),
        shared,
        replies,
    };
    while let Some(step) = worker.next(jobs) {
        let heard = match step {
            Step::Begin(job) => worker.begin(job),
            Step::Finish => worker.finish(),
        };
        if heard.is_none() {
            return;
        }
    }
}

/// Frames that a device is asked for at a time: while one comes back, it works on the other.
const MOST_BEGUN: usize = 2;

/// How often the device is asked whether it is done, while the next frame may come.
const POLL: Duration = Duration::from_micros(100);

struct Worker<'a, P> {
    /// Frames that the device has been asked for, the oldest first; gone before what they were made with.
    begun: VecDeque<(Job<P>, f64, Begun<P>)>,
    /// `None` after a failure.
    restorer: Option<Restorer<P>>,
    shared: &'a Shared,
    replies: &'a Sender<Reply<P>>,
}

enum Step<P> {
    Begin(Job<P>),
    /// The oldest that has begun.
    Finish,
}

impl<P: Picture> Worker<'_, P> {
    /// Waits for it. `None` once there is nobody to work for.
    fn next(&self, jobs: &Receiver<Job<P>>) -> Option<Step<P>> {
        let Some((.., oldest)) = self.begun.front() else {
            return jobs.recv().ok().map(Step::Begin);
        };
        while self.begun.len() < MOST_BEGUN && !oldest.is_here() {
            match jobs.recv_timeout(POLL) {
                Ok(job) => return Some(Step::Begin(job)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        Some(Step::Finish)
    }

    /// Asks the device for a frame, in smaller pieces where memory runs out; where these do not help, once more with what was kept given
    /// back. `None` once nobody listens.
    fn begin(&mut self, mut job: Job<P>) -> Option<()> {
        let shared = self.shared;
        let (gamma, strength) = job
            .settings
            .unwrap_or_else(|| (shared.gamma.load(), shared.strength.load()));
        let wanted = || shared.epoch.load(Ordering::Relaxed) == job.epoch;
        let mut last = false;
        let begun = loop {
            let Some(restorer) = &mut self.restorer else {
                // Every frame gets an answer, so that nobody waits for a worker that cannot work.
                break Err(shared.failure());
            };
            match guarded(|| restorer.begin(&mut job.frame, gamma, strength, &wanted)) {
                Err(error) if error.kind() == ErrorKind::NoMemory && !last => {
                    tracing::debug!("once more after: {error}");
                    if self.begun.is_empty() {
                        last = !guarded(|| Ok(restorer.shrink())).unwrap_or(false);
                    } else {
                        self.finish_all()?;
                    }
                }
                begun => break begun,
            }
        };
        match begun {
            // Its result would be stale.
            Ok(None) => Some(()),
            Ok(Some(begun)) => {
                let alone = begun.is_alone();
                self.begun.push_back((job, gamma, begun));
                if alone { self.finish_all() } else { Some(()) }
            }
            Err(error) => {
                // Those before it may be well.
                self.finish_all()?;
                let error = self.failed(error);
                self.reply(job.epoch, Err(error))
            }
        }
    }

    /// Waits for the oldest frame that has begun, and sends it. `None` once nobody listens.
    fn finish(&mut self) -> Option<()> {
        let (job, gamma, begun) = self.begun.pop_front()?;
        let restored = match &mut self.restorer {
            Some(restorer) => guarded(|| restorer.finish(begun)),
            None => Err(self.shared.failure()),
        };
        let result = match restored {
            Ok(restored) => {
                self.shared.count(|stats| stats.add(&restored));
                Ok(Output {
                    id: job.id,
                    frame: restored.frame,
                    input: job.frame,
                    gamma,
                    tiles_failed: restored.tiles_failed,
                    times: restored.times,
                })
            }
            Err(error) => Err(self.failed(error)),
        };
        self.reply(job.epoch, result)
    }

    fn finish_all(&mut self) -> Option<()> {
        while !self.begun.is_empty() {
            self.finish()?;
        }
        Some(())
    }

    /// Nothing works after it.
    fn failed(&mut self, error: Error) -> Error {
        if self.restorer.take().is_some() {
            tracing::debug!("the worker stops: {error}");
            self.shared.fail(&error);
        }
        error
    }

    fn reply(&self, epoch: u64, result: Result<Output<P>>) -> Option<()> {
        let result = Some(result);
        self.replies.send(Reply { epoch, result }).ok()
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
    #[cfg(libtorch_headers)]
    use crate::engine::{Arriving, Engine};
    #[cfg(libtorch_headers)]
    use crate::frame::Frame;

    /// A frame that comes back when the fake GPU says so, after what it was made from has changed nothing.
    #[cfg(libtorch_headers)]
    #[derive(Debug)]
    struct Late(Frame);

    #[cfg(libtorch_headers)]
    static ASKED_FOR: AtomicU64 = AtomicU64::new(0);

    #[cfg(libtorch_headers)]
    impl Picture for Late {
        fn check(&self) -> Result<()> {
            self.0.check()
        }

        fn to_tensor(&self, device: tch::Device) -> Result<tch::Tensor> {
            self.0.to_tensor(device)
        }

        fn with_colours(&self, colours: &tch::Tensor, before: &tch::Tensor) -> Result<Arriving<Self>> {
            let frame = self.0.with_colours(colours, before)?.arrive()?;
            let late = Arriving::behind(tch::Device::Cuda(0), || Ok(Late(frame)));
            ASKED_FOR.fetch_add(1, Ordering::SeqCst);
            late
        }

        fn try_clone(&self) -> Result<Self> {
            self.0.try_clone().map(Late)
        }

        fn repeated(&self, _: Self) -> Option<Self> {
            None
        }
    }

    /// Whether so many frames have been asked for, which takes a while.
    #[cfg(libtorch_headers)]
    fn are_asked_for(frames: u64) {
        while ASKED_FOR.load(Ordering::SeqCst) < frames {
            std::thread::yield_now();
        }
        assert_eq!(ASKED_FOR.load(Ordering::SeqCst), frames);
    }

    #[cfg(libtorch_headers)]
    #[test]
    fn a_device_works_on_the_next_frame_while_one_comes_back() {
        let Some(fake) = crate::fake_gpu::FakeGpu::installed() else {
            return;
        };
        let (config, format) = (EngineConfig::default(), crate::frame::PixelFormat::Rgb8);
        let config = EngineConfig { depth: 4, ..config };
        let plain = Engine::new(config.clone()).unwrap();
        let late = Engine::<Late>::of_pictures(config).unwrap();
        let frame = |shade| {
            let mut frame = Frame::new(64, 48, format);
            frame
                .data
                .iter_mut()
                .enumerate()
                .for_each(|(i, byte)| *byte = (i % 251 / 4) as u8 + shade);
            frame
        };
        for shade in [0, 40, 80, 120] {
            late.send(Late(frame(shade))).unwrap();
        }
        // Two are asked for, and the others wait for the first.
        are_asked_for(2);
        assert!(late.try_receive().unwrap().is_none());
        for (id, shade) in [0, 40, 80, 120].into_iter().enumerate() {
            fake.reach(id as i64 + 1);
            let output = late.receive().unwrap().unwrap();
            assert_eq!(output.id, id as u64);
            plain.send(frame(shade)).unwrap();
            assert_eq!(output.frame.0, plain.receive().unwrap().unwrap().frame);
            are_asked_for((id as u64 + 3).min(4));
        }

        // Those under way when somebody flushes come back to nobody.
        for shade in [0, 40] {
            late.send(Late(frame(shade))).unwrap();
        }
        are_asked_for(6);
        late.flush();
        late.send(Late(frame(80))).unwrap();
        fake.reach(7);
        let output = late.receive().unwrap().unwrap();
        assert_eq!(output.id, 6);

        // The device is lost while two are under way.
        for shade in [0, 40, 80] {
            late.send(Late(frame(shade))).unwrap();
        }
        are_asked_for(9);
        fake.lose_events();
        fake.reach(10);
        for _ in 0..3 {
            let error = late.receive().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        }
        assert!(late.send(Late(frame(0))).is_err());
    }

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
