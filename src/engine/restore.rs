//! One frame through the model: pixels, γ, tiles, strength, pixels.

use std::time::Instant;

use super::budget::Budget;
use super::graph::{cuda_graph, recorded};
use super::packed::{self, Packed};
use super::pass::Forward;
use super::pixels::{from_samples, to_samples};
use super::tiled::{Joined, TiledPass};
use super::{Arriving, EngineConfig, EngineInfo, Picture, StageTimes};
use crate::Result;
use crate::config::ModelConfig;
use crate::device::{self, Precision};
use crate::memory;
use crate::model::{Arithmetic, OsddModel};
use crate::nn::{Params, Products, on_own_threads};
use crate::weights::{Merged, load_config, shared_model};

/// A loaded model and what it needs to restore frames of any size.
pub(super) struct Restorer<P> {
    info: EngineInfo,
    config: ModelConfig,
    weights: Merged,
    /// Has what all models of these weights keep from one image to the next, for γ as below.
    folded: OsddModel,
    folded_gamma: Option<f64>,
    tiles: TiledPass,
    device: tch::Device,
    arithmetic: Arithmetic,
    /// The last output where tiles may be reused, for a frame in which nothing has changed.
    last: Option<P>,
    reuses: bool,
    /// When the last frame was done, and the device free for the next.
    free_since: Instant,
    /// The model's work is recorded.
    graphs: bool,
    /// Kernels for plain frames.
    kernels: packed::Find,
}

/// The model as it is at present; it shares the weights' memory.
fn model(weights: &Merged, config: &ModelConfig, products: Products) -> Result<OsddModel> {
    OsddModel::new(&Params::new(weights.tensors()).with_products(products), config)
}

fn forward(model: OsddModel) -> Forward {
    Box::new(move |tiles| model.forward(tiles))
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
        device::own_stream(torch_device);
        let shared = shared_model(&config.model, torch_device, arithmetic.kind)?;
        let weights = shared.merged(config.gamma)?;
        // Says now, not with the first frame, whether the weights make a model.
        let [folded, measured] = [(); 2].map(|()| model(&weights, shared.config(), arithmetic.products));
        let measured = forward(measured?);
        let (fused, large_tiles) = (arithmetic.fused, arithmetic.large_tiles);
        let multiple = shared.config().size_multiple();
        let budget = with_threads(fused, move || Budget::measure(&measured, multiple, torch_device))?;
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
            config: shared.config().clone(),
            weights,
            folded: folded?,
            folded_gamma: None,
            tiles: TiledPass::new(config, large_tiles, multiple, torch_device, budget),
            device: torch_device,
            arithmetic,
            last: None,
            reuses: config.reuse_threshold > 0.0,
            free_since: Instant::now(),
            // Asked for until somebody has seen them on a GPU.
            graphs: torch_device.is_cuda() && std::env::var_os("OSDD_CUDA_GRAPHS").is_some_and(|v| v == "1"),
            kernels: packed::on_gpu,
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
    /// of tiles. Nothing of the frame changes; it is mutable because it goes to another thread and need not be fit to be seen by two.
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
        if self.folded_gamma != Some(gamma) {
            self.folded_gamma = None;
            self.weights.set_gamma(gamma)?;
            self.folded.fold();
            self.folded_gamma = Some(gamma);
        }
        let mut times = StageTimes::default();

        let (weights, config) = (&self.weights, &self.config);
        let model = || {
            let mut model = model(weights, config, self.arithmetic.products)?;
            model.share_fold(&self.folded);
            let forward = forward(model);
            Ok(match self.graphs {
                true => recorded(forward, cuda_graph),
                false => forward,
            })
        };

        let plain = frame.as_frame().filter(|_| self.tiles.makes_all());
        if let Some((plain, picture_of)) = plain
            && let Some(kernels) = (self.kernels)(self.device, plain.format)
        {
            let samples = to_samples(plain, self.device)?;
            times.upload = start.elapsed();
            let tiles = &mut self.tiles;
            let packed = tiles.run_packed((kernels, &samples), strength, &model, wanted, &mut times)?;
            let Some(Packed {
                samples,
                tiles,
                finite,
            }) = packed
            else {
                return Ok(None);
            };
            let packed = Instant::now();
            let frame = from_samples(&samples, plain)?.map(picture_of);
            times.download = packed.elapsed();
            return Ok(Some(Begun {
                finite: Some(finite),
                tiles,
                ..Begun::new(frame, start, times)
            }));
        }

        let input = frame.to_tensor(self.device)?;
        times.upload = start.elapsed();
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
    use crate::frame::{Frame, PixelFormat};
    use crate::nn::FrameKernels;

    /// As on a GPU, by its kernels.
    #[test]
    fn a_plain_frame_by_kernels_is_the_same_frame() {
        let _no_grad = tch::no_grad_guard();
        let mut frame = Frame::new(150, 70, PixelFormat::Rgba8);
        for (i, sample) in frame.data.iter_mut().enumerate() {
            *sample = (i * i / 97) as u8;
        }
        let mut restored = |find: packed::Find, strength: f64| {
            let config = EngineConfig {
                tile_size: Some(64),
                tile_overlap: Some(16),
                ..EngineConfig::default()
            };
            let mut restorer = Restorer::new(&config).unwrap();
            restorer.kernels = find;
            let begun = restorer.begin(&mut frame, 0.7, strength, &|| true).unwrap();
            restorer.finish(begun.unwrap()).unwrap()
        };
        for strength in [1.0, 0.5] {
            let expected = restored(packed::on_gpu, strength);
            let made = restored(
                |_, _| Some(Box::leak(Box::new(FrameKernels::emulated(false, 4)))),
                strength,
            );
            assert_eq!((made.tiles, made.tiles_failed), (expected.tiles, 0));
            let pairs = made.frame.data.iter().zip(&expected.frame.data);
            assert!(pairs.clone().all(|(one, two)| one.abs_diff(*two) <= 1));
            assert!(
                pairs.filter(|(one, two)| one != two).count() < 50,
                "halves may round either way"
            );
        }
    }

    #[test]
    fn a_frame_is_given_up_between_two_tiles() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(0),
            ..EngineConfig::default()
        };
        let _no_grad = tch::no_grad_guard();
        let mut restorer = Restorer::new(&config).unwrap();
        let mut frame = Frame::new(320, 64, PixelFormat::Rgb8);
        // It has five tiles.
        for (tiles, asked) in [(0, 1), (2, 3), (5, 5)] {
            let questions = AtomicUsize::new(0);
            let wanted = || questions.fetch_add(1, Ordering::Relaxed) < tiles;
            let begun = restorer.begin(&mut frame, 1.0, 1.0, &wanted).unwrap();
            assert_eq!(begun.is_some(), tiles == 5, "wanted for {tiles} tiles");
            assert_eq!(questions.into_inner(), asked);
        }
    }
}
