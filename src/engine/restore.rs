//! One frame through the model: pixels, γ, tiles, strength, pixels.

use std::time::Instant;

use super::budget::Budget;
use super::graph::{cuda_graph, recorded};
use super::pass::Forward;
use super::pixels::Landing;
use super::tiled::TiledPass;
use super::{EngineConfig, EngineInfo, Picture, StageTimes};
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
    tiles: TiledPass,
    device: tch::Device,
    arithmetic: Arithmetic,
    /// The last output where tiles may be reused, for a frame in which nothing has changed.
    last: Option<P>,
    landing: Landing,
    reuses: bool,
    /// The model's work is recorded.
    graphs: bool,
}

/// The model as it is at present; it shares the weights' memory.
fn forward(weights: &Merged, config: &ModelConfig, products: Products) -> Result<Forward> {
    let model = OsddModel::new(&Params::new(weights.tensors()).with_products(products), config)?;
    Ok(Box::new(move |tiles| model.forward(tiles)))
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
        let model = forward(&weights, shared.config(), arithmetic.products)?;
        let (fused, large_tiles) = (arithmetic.fused, arithmetic.large_tiles);
        let multiple = shared.config().size_multiple();
        let budget = with_threads(fused, move || Budget::measure(&model, multiple, torch_device))?;
        Ok(Restorer {
            info: EngineInfo {
                model: config.model.clone(),
                device,
                precision,
                tile_size: config.resolved_tile_size(large_tiles, torch_device.is_cuda()),
            },
            config: shared.config().clone(),
            weights,
            tiles: TiledPass::new(config, large_tiles, multiple, torch_device, budget),
            device: torch_device,
            arithmetic,
            last: None,
            landing: Landing::default(),
            reuses: config.reuse_threshold > 0.0,
            // Asked for until somebody has seen them on a GPU.
            graphs: torch_device.is_cuda() && std::env::var_os("OSDD_CUDA_GRAPHS").is_some_and(|v| v == "1"),
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

    /// `None` once the frame is not `wanted` any more, which is asked before each batch of tiles. Nothing of the frame changes; it is
    /// mutable because it goes to another thread and need not be fit to be seen by two.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn restore(
        &mut self,
        frame: &mut P,
        gamma: f64,
        strength: f64,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Restored<P>>> {
        with_threads(self.arithmetic.fused, || {
            self.restore_here(frame, gamma, strength, wanted)
        })
    }

    fn restore_here(
        &mut self,
        frame: &mut P,
        gamma: f64,
        strength: f64,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Restored<P>>> {
        let start = Instant::now();
        let frame = &*frame;
        if strength == 0.0 {
            let times = StageTimes {
                total: start.elapsed(),
                ..StageTimes::default()
            };
            return Ok(Some(Restored {
                frame: frame.try_clone()?,
                times,
                tiles: 0,
                tiles_failed: 0,
                tiles_reused: 0,
                tiles_skipped: 0,
            }));
        }
        self.weights.set_gamma(gamma)?;
        let mut times = StageTimes::default();

        let input = frame.to_tensor(self.device)?;
        times.upload = start.elapsed();

        let (weights, config) = (&self.weights, &self.config);
        let model = || {
            let model = forward(weights, config, self.arithmetic.products)?;
            Ok(match self.graphs {
                true => recorded(model, cuda_graph),
                false => model,
            })
        };
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
            Some(frame) => frame,
            None => frame.with_colours(&output, &mut self.landing)?,
        };
        self.last = if repeats { Some(frame.try_clone()?) } else { None };
        times.download = blended.elapsed();
        times.total = start.elapsed();
        Ok(Some(Restored {
            frame,
            times,
            tiles: joined.tiles,
            tiles_failed: joined.tiles_failed,
            tiles_reused: joined.tiles_reused,
            tiles_skipped: joined.tiles_skipped,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::frame::{Frame, PixelFormat};

    #[test]
    fn a_frame_is_given_up_between_two_tiles() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: 0,
            ..EngineConfig::default()
        };
        let _no_grad = tch::no_grad_guard();
        let mut restorer = Restorer::new(&config).unwrap();
        let mut frame = Frame::new(320, 64, PixelFormat::Rgb8);
        // It has five tiles.
        for (tiles, asked) in [(0, 1), (2, 3), (5, 5)] {
            let questions = AtomicUsize::new(0);
            let wanted = || questions.fetch_add(1, Ordering::Relaxed) < tiles;
            let restored = restorer.restore(&mut frame, 1.0, 1.0, &wanted).unwrap();
            assert_eq!(restored.is_some(), tiles == 5, "wanted for {tiles} tiles");
            assert_eq!(questions.into_inner(), asked);
        }
    }
}
