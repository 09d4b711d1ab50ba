//! One frame through the model: pixels, γ, tiles, strength, pixels.

use std::sync::Arc;
use std::time::Instant;

use super::budget::{Alone, Budget};
use super::pixels::{from_samples, to_samples};
use super::plain::{self, Plain};
use super::source::Source;
use super::tiled::{Joined, TiledPass};
use super::{Arriving, EngineConfig, EngineInfo, FromFrame, Picture, StageTimes};
use crate::Result;
use crate::device::{self, OwnStream, Precision};
use crate::frame::Frame;
use crate::memory;
use crate::model::Arithmetic;
use crate::nn::{FrameKernels, on_own_threads};
use crate::weights::{SharedModel, load_config, shared_model};

/// A loaded model and what it needs to restore frames of any size.
pub(super) struct Restorer<P> {
    info: EngineInfo,
    source: Source,
    tiles: TiledPass,
    device: tch::Device,
    arithmetic: Arithmetic,
    /// The last output where tiles may be reused, for a frame in which nothing has changed.
    last: Option<P>,
    reuses: bool,
    /// When the last frame was done, and the device free for the next.
    free_since: Instant,
    /// Kernels for plain frames.
    kernels: plain::Find,
    /// For engines that start while this one is there.
    _shared: Arc<SharedModel>,
    /// Goes last, when nothing is left to do there.
    _stream: Option<OwnStream>,
}

/// Works where the model's layers find the threads that they bring, or here.
fn with_threads<T: Send>(fused: bool, work: impl FnOnce() -> T + Send) -> T {
    match fused {
        true => on_own_threads(|| {
            // Threads do not take this over from each other.
            let _no_grad = tch::no_grad_guard();
            work()
        }),
        false => work(),
    }
}

/// A frame that the device has been asked for.
pub(super) struct Begun<P> {
    frame: Arriving<P>,
    finite: Option<tch::Tensor>,
    start: Instant,
    times: StageTimes,
    tiles: usize,
    tiles_reused: usize,
    tiles_skipped: usize,
    /// It is kept, for the next frame to show again.
    kept: bool,
}

impl<P: Picture> Begun<P> {
    /// Of no tiles.
    fn new(frame: Arriving<P>, start: Instant, times: StageTimes) -> Self {
        Begun {
            frame,
            finite: None,
            start,
            times,
            tiles: 0,
            tiles_reused: 0,
            tiles_skipped: 0,
            kept: false,
        }
    }

    /// Whether nothing is left to wait for.
    pub fn is_here(&self) -> bool {
        self.frame.is_here()
    }

    /// Whether it has to be finished before another may begin.
    pub fn is_alone(&self) -> bool {
        self.kept
    }
}

/// A restored frame.
pub(super) struct Restored<P> {
    pub frame: P,
    pub times: StageTimes,
    pub tiles: usize,
    pub tiles_failed: usize,
    pub tiles_reused: usize,
    pub tiles_skipped: usize,
}

impl<P> Drop for Restorer<P> {
    fn drop(&mut self) {
        // Of other engines' weights too none may be in use when they are freed. A device that is lost has nothing in use.
        let _ = device::synchronize(self.device);
    }
}

impl<P: Picture> Restorer<P> {
    /// # Errors
    /// A device that is not there, a model that is missing or broken, too little memory.
    pub fn new(config: &EngineConfig) -> Result<Self> {
        let (device, torch_device) = device::resolve(config.device)?;
        let arithmetic = Arithmetic::new(&load_config(&config.model)?, device, config.precision)?;
        let precision = arithmetic.precision;
        if precision == Precision::Fp32 && torch_device.is_cuda() {
            device::exact_float32();
        }
        memory::keep_freed(torch_device);
        if !arithmetic.fused {
            // A convolution of libtorch's settles whether this process has GPUs, and a later engine may want one.
            device::find_gpus();
        }
        let stream = OwnStream::take(torch_device);
        let shared = shared_model(&config.model, torch_device, arithmetic.kind, arithmetic.fused)?;
        // Asked for until somebody has seen them on a GPU.
        let graphs =
            torch_device.is_cuda() && std::env::var_os("OSDD_CUDA_GRAPHS").is_some_and(|value| value == "1");
        let (model, weights) = (shared.config().clone(), shared.merged(config.gamma)?);
        // Says now, not with the first frame, whether the weights make a model.
        let source = Source::new(model, weights, arithmetic.products, graphs)?;
        let model = source.model()?;
        let (fused, large_tiles) = (arithmetic.fused, arithmetic.large_tiles);
        let multiple = shared.config().size_multiple();
        let alone = Alone::wait();
        let budget = with_threads(fused, || {
            // It goes there and stays.
            let model = model;
            Budget::measure(&model, multiple, torch_device, &alone)
        })?;
        drop(alone);
        let tile_overlap = config.tile_overlap.unwrap_or(shared.config().tile_overlap);
        let config = &EngineConfig {
            tile_overlap: Some(tile_overlap),
            ..config.clone()
        };
        Ok(Restorer {
            info: EngineInfo {
                model: config.model.clone(),
                device,
                precision,
                tile_size: config.resolved_tile_size(large_tiles, torch_device.is_cuda()),
                tile_overlap,
            },
            source,
            tiles: TiledPass::new(config, large_tiles, multiple, torch_device, budget),
            device: torch_device,
            arithmetic,
            last: None,
            reuses: config.reuse_threshold > 0.0,
            free_since: Instant::now(),
            kernels: plain::on_gpu,
            _shared: shared,
            _stream: stream,
        })
    }

    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Gives back what is kept, and makes what runs at a time smaller, after memory has run out. False where that would not help any
    /// more.
    pub fn shrink(&mut self) -> bool {
        self.tiles.shrink()
    }

    /// Asks the device for a frame; a CPU has then made it. `None` once the frame is not `wanted` any more, which is asked before each batch
    /// of tiles, and on a CPU before each layer. Nothing of the frame changes; it is mutable because it goes to another thread and need not be fit to be seen by two.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn begin(
        &mut self,
        frame: &mut P,
        gamma: f64,
        strength: f64,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Begun<P>>> {
        with_threads(self.arithmetic.fused, || {
            self.begin_here(frame, gamma, strength, wanted)
        })
    }

    fn begin_here(
        &mut self,
        frame: &mut P,
        gamma: f64,
        strength: f64,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Begun<P>>> {
        let start = Instant::now();
        let frame = &*frame;
        if strength == 0.0 {
            let frame = Arriving::here(frame.try_clone()?);
            return Ok(Some(Begun::new(frame, start, StageTimes::default())));
        }
        self.source.set_gamma(gamma)?;
        if self.tiles.makes_all()
            && let Some((plain, picture_of)) = frame.as_frame()
            && let Some(kernels) = (self.kernels)(self.device, plain.format)
        {
            return self.begin_plain((plain, picture_of), kernels, strength, wanted, start);
        }
        let mut times = StageTimes::default();
        let input = frame.to_tensor(self.device)?;
        times.upload = start.elapsed();

        let model = || self.source.forward();
        let joined = self.tiles.run(&input, gamma, &model, wanted, &mut times)?;
        let Some(joined) = joined else {
            self.last = None;
            return Ok(None);
        };

        let blended = Instant::now();
        let output = if strength < 1.0 {
            input.f_lerp(&joined.image, strength)?
        } else {
            joined.image
        };
        let repeats = self.reuses && strength == 1.0;
        let still = repeats && joined.tiles + joined.tiles_skipped == 0;
        let last = self.last.take().filter(|_| still);
        let frame = match last.and_then(|last| frame.repeated(last)) {
            Some(frame) => Arriving::here(frame),
            None => frame.with_colours(&output, &input)?,
        };
        times.download = blended.elapsed();
        Ok(Some(Begun {
            finite: joined.finite,
            tiles: joined.tiles,
            tiles_reused: joined.tiles_reused,
            tiles_skipped: joined.tiles_skipped,
            kept: repeats,
            ..Begun::new(frame, start, times)
        }))
    }

    /// As [`begin`](Self::begin), by kernels from the frame's samples to such samples.
    fn begin_plain(
        &mut self,
        (frame, picture_of): (&Frame, FromFrame<P>),
        kernels: &FrameKernels,
        strength: f64,
        wanted: &dyn Fn() -> bool,
        start: Instant,
    ) -> Result<Option<Begun<P>>> {
        let mut times = StageTimes::default();
        let samples = to_samples(frame, self.device)?;
        times.upload = start.elapsed();
        let model = || self.source.forward();
        let made = self
            .tiles
            .run_plain((kernels, &samples), strength, &model, wanted, &mut times)?;
        let Some(Plain {
            samples,
            tiles,
            finite,
        }) = made
        else {
            return Ok(None);
        };
        let done = Instant::now();
        let arriving = from_samples(&samples, frame)?.map(picture_of);
        times.download = done.elapsed();
        Ok(Some(Begun {
            finite: Some(finite),
            tiles,
            ..Begun::new(arriving, start, times)
        }))
    }

    /// Waits for a frame; those that were begun before it come first.
    ///
    /// # Errors
    /// A failure of the device, or too little memory.
    pub fn finish(&mut self, begun: Begun<P>) -> Result<Restored<P>> {
        let waited = Instant::now();
        let frame = begun.frame.arrive()?;
        let tiles_failed = Joined::failed(begun.finite.as_ref())?;
        if begun.kept {
            // Where there is no memory for it, the next frame is written anew.
            self.last = frame.try_clone().ok();
        }
        let mut times = begun.times;
        times.download += waited.elapsed();
        // Not what it has waited for the frame before.
        times.total = begun.start.max(self.free_since).elapsed();
        self.free_since = Instant::now();
        Ok(Restored {
            frame,
            times,
            tiles: begun.tiles,
            tiles_failed,
            tiles_reused: begun.tiles_reused,
            tiles_skipped: begun.tiles_skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::device::Device;
    use crate::frame::PixelFormat;

    /// As on a GPU, by its kernels.
    #[test]
    fn a_plain_frame_by_kernels_is_the_same_frame() {
        static FOUND: AtomicUsize = AtomicUsize::new(0);
        fn emulated(_: tch::Device, _: PixelFormat) -> Option<&'static FrameKernels> {
            FOUND.fetch_add(1, Ordering::Relaxed);
            Some(Box::leak(Box::new(FrameKernels::emulated(false, 4, false))))
        }
        let _no_grad = tch::no_grad_guard();
        let mut frame = Frame::new(150, 70, PixelFormat::Rgba8);
        for (i, sample) in frame.data.iter_mut().enumerate() {
            *sample = (i * i / 97) as u8;
        }
        let mut restored = |find: plain::Find, strength: f64, skip_sharp: f64| {
            let config = EngineConfig {
                device: Device::Cpu,
                tile_size: Some(64),
                tile_overlap: Some(16),
                skip_sharp,
                ..EngineConfig::default()
            };
            let mut restorer = Restorer::new(&config).unwrap();
            restorer.kernels = find;
            let begun = restorer.begin(&mut frame, 0.7, strength, &|| true).unwrap();
            restorer.finish(begun.unwrap()).unwrap()
        };
        for strength in [1.0, 0.5] {
            let expected = restored(plain::on_gpu, strength, 0.0);
            let made = restored(emulated, strength, 0.0);
            assert_eq!((made.tiles, made.tiles_failed), (expected.tiles, 0));
            let pairs = made.frame.data.iter().zip(&expected.frame.data);
            assert!(pairs.clone().all(|(one, two)| one.abs_diff(*two) <= 1));
            assert!(
                pairs.filter(|(one, two)| one != two).count() < 50,
                "halves may round either way"
            );
        }
        assert_eq!(FOUND.load(Ordering::Relaxed), 2);
        restored(emulated, 1.0, 0.3);
        assert_eq!(FOUND.load(Ordering::Relaxed), 2, "not where tiles may be skipped");
    }

    #[test]
    fn engines_share_what_they_have_loaded() {
        let config = EngineConfig {
            device: Device::Cpu,
            ..EngineConfig::default()
        };
        let one = Restorer::<Frame>::new(&config).unwrap();
        let two = Restorer::<Frame>::new(&config).unwrap();
        assert!(Arc::ptr_eq(&one._shared, &two._shared));
    }

    #[test]
    fn a_frame_is_given_up_between_two_layers() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(0),
            ..EngineConfig::default()
        };
        let _no_grad = tch::no_grad_guard();
        let mut restorer = Restorer::new(&config).unwrap();
        // It has five tiles.
        let mut frame = Frame::new(320, 64, PixelFormat::Rgb8);
        frame
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(i, value)| *value = (i * 7) as u8);
        let mut run = |layers: usize| {
            let questions = AtomicUsize::new(0);
            let wanted = || questions.fetch_add(1, Ordering::Relaxed) < layers;
            let begun = restorer.begin(&mut frame, 1.0, 1.0, &wanted).unwrap();
            let restored = begun.map(|begun| restorer.finish(begun).unwrap().frame.data);
            (restored, questions.into_inner())
        };
        let (whole, asked) = run(usize::MAX);
        assert!(whole.is_some() && asked > 5 * 20, "asked {asked} times");
        for layers in [0, 1, asked / 7, asked / 3, asked - 1] {
            assert_eq!(run(layers), (None, layers + 1));
        }
        assert_eq!(run(asked), (whole, asked), "nothing stale is left");
    }
}
