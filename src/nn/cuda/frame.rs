//! Frames to tiles and back: what libtorch does in some ten passes over a frame, and a few over every tile, in one each way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::gated::aligned;
use super::kernels::{Argument, Kernel, Launch, Size, compiled, launch};

const SOURCE: &str = concat!(include_str!("numbers.cu"), include_str!("frame.cu"));

/// Threads of a block.
const THREADS: i64 = 256;
/// Most blocks to a multiprocessor.
const BLOCKS_EACH: i64 = 16;

/// Kernels for frames of one kind of samples, `[H, W, channels]`: R, G and B, and perhaps one that stays as it is.
pub(crate) struct FrameKernels {
    launcher: Box<dyn Launch>,
}

/// Where tiles `[h, w]` lie in a frame, row by row, and what they weigh there.
pub(crate) struct TilePlaces {
    pub size: [i64; 2],
    /// Left and upper edge of each tile, `[tiles, 2]`, as 32-bit numbers.
    pub origins: Tensor,
    /// Left edges of the columns of tiles, and upper ones of their rows, likewise.
    pub edges: [Tensor; 2],
    /// `[columns, w]` and `[rows, h]`.
    pub weights: [Tensor; 2],
}

impl FrameKernels {
    fn new(launcher: Box<dyn Launch>) -> Self {
        FrameKernels { launcher }
    }

    /// What the source is compiled with. Samples have 16 bits where they are `wide`, else 8.
    fn defines(wide: bool, channels: i64) -> Vec<String> {
        let (sample, full) = match wide {
            true => ("short", u16::MAX.into()),
            false => ("char", u32::from(u8::MAX)),
        };
        vec![
            "-DBF16=0".to_owned(),
            format!("-DSAMPLE=unsigned {sample}"),
            format!("-DCHANNELS={channels}"),
            format!("-DFULL={full}.0f"),
        ]
    }

    /// As functions of the CPU.
    #[cfg(test)]
    pub fn emulated(wide: bool, channels: usize) -> Self {
        let mut defines = Self::defines(wide, channels as i64);
        defines.push("-DFRAME".to_owned());
        Self::new(Box::new(super::emulated::Emulated::new(defines)))
    }

    /// The kernels where they are; `None` where libtorch has to do. A first call compiles.
    pub fn of(device: Device, wide: bool, channels: usize) -> Option<&'static Self> {
        type Made = HashMap<(usize, bool, usize), Option<&'static FrameKernels>>;
        static MADE: Lazy<Mutex<Made>> = Lazy::new(Mutex::default);
        let Device::Cuda(index) = device else {
            return None;
        };
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = made.get(&(index, wide, channels)) {
            return *kernels;
        }
        let defines = Self::defines(wide, channels as i64);
        // There may be memory the next time.
        let module = compiled(
            index,
            SOURCE,
            &defines,
            &[Kernel::TilesOfFrame, Kernel::FrameOfTiles],
        )
        .ok()?;
        let kernels = module.map(|module| Self::new(Box::new(module)));
        let kernels = kernels.filter(|kernels| {
            let works = kernels.work(device, wide, channels as i64);
            if !works {
                tracing::warn!("kernels for frames do not do what they should, libtorch's operations serve");
            }
            works
        });
        let kernels = kernels.map(|kernels| -> &Self { Box::leak(Box::new(kernels)) });
        made.insert((index, wide, channels), kernels);
        kernels
    }

    /// Whether a small frame comes back as it was.
    fn work(&self, device: Device, wide: bool, channels: i64) -> bool {
        let kind = if wide { Kind::Int16 } else { Kind::Uint8 };
        let (height, width) = (5, 13);
        let numbers = |numbers: &[i32]| Tensor::from_slice(numbers).to_device(device);
        let ones = |length: i64| Tensor::ones([length], (Kind::Float, device));
        let tried = || {
            let samples = Tensor::arange(height * width * channels, (Kind::Int, device));
            let samples = samples.view([height, width, channels]).to_kind(kind);
            let places = TilePlaces {
                size: [8, 16],
                origins: numbers(&[0, 0]),
                edges: [numbers(&[0]), numbers(&[0])],
                weights: [ones(16), ones(8)],
            };
            let tiles = self.tiles(&samples, &places, 0, 1);
            let finite = Tensor::ones([1], (Kind::Bool, device));
            self.frame(&samples, &places, &tiles, &finite, 1.0) == samples
                && tiles.min().double_value(&[]) == -1.0
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(tried)).unwrap_or(false)
    }

    fn blocks(&self, rows: i64) -> i64 {
        rows.clamp(1, self.launcher.multiprocessors() * BLOCKS_EACH)
    }

    /// `count` tiles from the one that is `first`, `[count, 3, h, w]` in [-1, 1], channels-last; beyond the frame it is reflected.
    pub fn tiles(&self, samples: &Tensor, places: &TilePlaces, first: usize, count: usize) -> Tensor {
        let ([height, width], count) = (places.size, count as i64);
        let options = (Kind::Float, samples.device());
        let tiles = Tensor::empty([count, height, width, 3], options);
        launch(
            &*self.launcher,
            Kernel::TilesOfFrame,
            self.blocks(count * height),
            THREADS,
            [
                samples.into(),
                (&places.origins).into(),
                (&tiles).into(),
                Argument::Pixels(first as i64),
                of_frame(samples).into(),
                Size([count, height, width]).into(),
            ],
        );
        tiles.permute([0, 3, 1, 2])
    }

    /// The frame that `tiles` make, `[tiles, 3, h, w]`, float32: samples like `samples`, which show where a tile is not `finite`, and by
    /// what `strength` lacks of one.
    pub fn frame(
        &self,
        samples: &Tensor,
        places: &TilePlaces,
        tiles: &Tensor,
        finite: &Tensor,
        strength: f64,
    ) -> Tensor {
        let frame = of_frame(samples);
        let ([height, width], Size([_, rows, _])) = (places.size, frame);
        let (tiles, finite) = (aligned(&tiles.permute([0, 2, 3, 1])), aligned(finite));
        let made = samples.empty_like();
        launch(
            &*self.launcher,
            Kernel::FrameOfTiles,
            self.blocks(rows),
            THREADS,
            [
                samples.into(),
                (&tiles).into(),
                (&finite).into(),
                (&places.edges[0]).into(),
                (&places.edges[1]).into(),
                (&places.weights[0]).into(),
                (&places.weights[1]).into(),
                (&made).into(),
                Argument::Pixels(places.edges[0].size()[0]),
                frame.into(),
                Size([tiles.size()[0], height, width]).into(),
                Argument::Share(strength as f32),
            ],
        );
        made
    }
}

/// Of samples `[H, W, channels]`.
fn of_frame(samples: &Tensor) -> Size {
    let (height, width, _) = samples.size3().expect("samples have three dimensions");
    Size([1, height, width])
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::*;

    #[test]
    fn kernels_are_tried_before_they_are_used() {
        for (wide, channels) in [(false, 3), (true, 4)] {
            let kernels = FrameKernels::emulated(wide, channels);
            assert!(kernels.work(Device::Cpu, wide, channels as i64));
        }
        let kernels = FrameKernels::emulated(false, 3);
        assert!(!kernels.work(Device::Cpu, false, 4), "for other frames");
        /// Says that it has run them.
        struct Idle(Result<(), String>);
        impl Launch for Idle {
            fn multiprocessors(&self) -> i64 {
                1
            }
            fn launch(&self, _: Kernel, _: u32, _: u32, _: &mut [*mut c_void]) -> Result<(), String> {
                self.0.clone()
            }
        }
        for result in [Ok(()), Err("of this test".to_owned())] {
            assert!(!FrameKernels::new(Box::new(Idle(result))).work(Device::Cpu, false, 3));
        }
    }
}
