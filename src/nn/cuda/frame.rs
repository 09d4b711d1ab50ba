//! Frames to tiles and back: what libtorch does in some ten passes over a frame, and a few over every tile, in one each way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::gated::aligned;
use super::kernels::{Argument, Kernel, Launch, Size, compiled, launch};
use crate::Result;

const SOURCE: &str = concat!(include_str!("numbers.cu"), include_str!("frame.cu"));

/// Threads of a block.
const THREADS: i64 = 256;
/// Most blocks to a multiprocessor.
const BLOCKS_EACH: i64 = 16;

/// Kernels for frames of one kind of samples, `[H, W, channels]`: R, G and B, and perhaps one that stays as it is.
pub(crate) struct FrameKernels {
    /// Of a sample: 16-bit numbers are signed to libtorch.
    kind: Kind,
    channels: i64,
    launcher: Box<dyn Launch>,
}

/// Where tiles `[h, w]` lie in a frame, row by row, and what they weigh there.
pub(crate) struct TilePlaces {
    pub size: [i64; 2],
    /// Left and upper edge of each tile, `[tiles, 2]`, as 32-bit numbers.
    pub origins: Tensor,
    /// Left edges of the columns of tiles, `[columns]`, and upper ones of their rows, `[rows]`, likewise.
    pub edges: [Tensor; 2],
    /// `[columns, w]` and `[rows, h]`.
    pub weights: [Tensor; 2],
}

impl FrameKernels {
    fn new(wide: bool, channels: usize, launcher: Box<dyn Launch>) -> Self {
        FrameKernels {
            kind: if wide { Kind::Int16 } else { Kind::Uint8 },
            channels: channels as i64,
            launcher,
        }
    }

    /// What the source is compiled with. Samples have 16 bits where they are `wide`, else 8.
    fn defines(wide: bool, channels: usize) -> Vec<String> {
        let (sample, full) = match wide {
            true => ("short", u16::MAX.into()),
            false => ("char", u32::from(u8::MAX)),
        };
        vec![
            // Tiles are float32.
            "-DBF16=0".to_owned(),
            format!("-DSAMPLE=unsigned {sample}"),
            format!("-DCHANNELS={channels}"),
            format!("-DFULL={full}.0f"),
        ]
    }

    /// As functions of the CPU; where they are `broken`, the largest sample is another.
    #[cfg(test)]
    pub fn emulated(wide: bool, channels: usize, broken: bool) -> Self {
        let mut defines = Self::defines(wide, channels);
        defines.push("-DFRAME".to_owned());
        if broken {
            defines.retain(|define| !define.starts_with("-DFULL"));
            defines.push("-DFULL=240.0f".to_owned());
        }
        let emulated = super::emulated::Emulated::new(defines);
        Self::new(wide, channels, Box::new(emulated))
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
        let defines = Self::defines(wide, channels);
        // There may be memory the next time.
        let module = compiled(
            index,
            SOURCE,
            &defines,
            &[Kernel::TilesOfFrame, Kernel::FrameOfTiles],
        )
        .ok()?;
        let kernels = module
            .map(|module| -> &Self { Box::leak(Box::new(Self::new(wide, channels, Box::new(module)))) });
        made.insert((index, wide, channels), kernels);
        kernels
    }

    fn blocks(&self, rows: i64) -> i64 {
        rows.clamp(1, self.launcher.multiprocessors() * BLOCKS_EACH)
    }

    /// Height and width of samples that are of the kind that these kernels take.
    fn size(&self, samples: &Tensor) -> Size {
        let (height, width, channels) = samples.size3().expect("samples have three dimensions");
        assert_eq!(
            (samples.kind(), channels),
            (self.kind, self.channels),
            "other samples"
        );
        Size([1, height, width])
    }

    /// `count` tiles from the one that is `first`, `[count, 3, h, w]` in [-1, 1], channels-last; beyond the frame it is reflected.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// Samples of another kind, or where the driver says no.
    pub fn tiles(&self, samples: &Tensor, places: &TilePlaces, first: usize, count: usize) -> Result<Tensor> {
        let ([height, width], first, count) = (places.size, first as i64, count as i64);
        assert!(
            first + count <= places.origins.size()[0],
            "tiles that are not there"
        );
        let options = (Kind::Float, samples.device());
        let tiles = Tensor::f_empty([count, height, width, 3], options)?;
        launch(
            &*self.launcher,
            Kernel::TilesOfFrame,
            self.blocks(count * height),
            THREADS,
            [
                samples.into(),
                (&places.origins).into(),
                (&tiles).into(),
                Argument::Number(first),
                self.size(samples).into(),
                Size([count, height, width]).into(),
            ],
        );
        Ok(tiles.f_permute([0, 3, 1, 2])?)
    }

    /// The frame that `tiles` make, `[tiles, 3, h, w]`, float32: samples like `samples`, which show where a tile is not `finite`,
    /// `[tiles]`, and by what `strength` lacks of one.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// Tensors of other sizes or kinds, or where the driver says no.
    pub fn frame(
        &self,
        samples: &Tensor,
        places: &TilePlaces,
        tiles: &Tensor,
        finite: &Tensor,
        strength: f64,
    ) -> Result<Tensor> {
        let (frame, [height, width]) = (self.size(samples), places.size);
        let [columns, rows] = places.edges.each_ref().map(|edges| edges.size()[0]);
        let expected = (vec![columns * rows, 3, height, width], Kind::Float);
        assert_eq!((tiles.size(), tiles.kind()), expected, "other tiles");
        assert_eq!((finite.size(), finite.kind()), (vec![columns * rows], Kind::Bool));
        let (tiles, finite) = (aligned(&tiles.f_permute([0, 2, 3, 1])?), aligned(finite));
        let made = samples.f_empty_like()?;
        launch(
            &*self.launcher,
            Kernel::FrameOfTiles,
            self.blocks(frame.0[1]),
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
                Argument::Number(columns),
                frame.into(),
                Size([columns * rows, height, width]).into(),
                Argument::Share(strength as f32),
            ],
        );
        Ok(made)
    }
}
