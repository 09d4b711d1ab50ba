//! Layers fused for the CPU's caches, on plain slices: what libtorch does in many passes over memory.

mod activate;
mod conv;
mod gated;
mod panels;
mod pool;

use std::ops::Range;

pub(super) use activate::Activation;
pub(super) use conv::{Arrangement, ConvWeights, Input, Kernel};
pub(super) use gated::{GatedLayers, GatedWeights};
pub use pool::on_own_threads;
use pool::threads;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows that one thread takes at a time at least, and where it may take fewer than its share: their neighbours are made anew for
/// them.
const LEAST_ROWS: usize = 4;
const MANY_ROWS: usize = 16;

/// Weight and bias of a layer, as PyTorch has them: outputs first.
pub(super) struct Layer<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// Feature maps `[B, height, width, channels]`.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub values: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl<'a> Map<'a> {
    fn image(self, index: usize) -> Map<'a> {
        let length = self.height * self.width * self.channels;
        Map {
            values: &self.values[index * length..][..length],
            ..self
        }
    }

    /// Some columns of a row of the first image.
    fn columns(&self, row: usize, columns: Range<usize>) -> &'a [f32] {
        let at = |column: usize| (row * self.width + column) * self.channels;
        &self.values[at(columns.start)..at(columns.end)]
    }
}

/// How many numbers this CPU takes at a time; `None` where that is too few for layers of our own to pay.
pub(crate) fn lanes() -> Option<usize> {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Some(Arch::new().dispatch(Lanes)).filter(|lanes| *lanes >= 4)
}

/// Rows of images, some together, each to be made apart from the others.
struct Parts<'a> {
    /// Image, first row, and the rows.
    parts: Vec<(usize, usize, &'a mut [f32])>,
}

impl<'a> Parts<'a> {
    fn new(output: &'a mut [f32], height: usize, row_length: usize) -> Self {
        // One part is made where it is asked for.
        let rows = match threads() {
            1 => height,
            // Each as many parts, of which one that is held up leaves some to others where there are rows enough.
            threads => {
                let parts = threads * (height / (MANY_ROWS * threads)).clamp(1, 2);
                height.div_ceil(parts).max(LEAST_ROWS)
            }
        };
        let images = output.chunks_exact_mut((height * row_length).max(1)).enumerate();
        let parts = images.flat_map(|(image, output)| {
            let parts = output.chunks_mut(rows * row_length).enumerate();
            parts.map(move |(part, output)| (image, part * rows, output))
        });
        Parts {
            parts: parts.collect(),
        }
    }

    /// Image, first row, and the rows go to `make`.
    fn run(self, make: impl Fn(usize, usize, &mut [f32]) + Sync + Send) {
        let make = |(image, first, output): (usize, usize, &mut [f32])| make(image, first, output);
        match self.parts.len() {
            1 => self.parts.into_iter().for_each(make),
            _ => on_own_threads(|| self.parts.into_par_iter().for_each(make)),
        }
    }
}

/// So many values of a buffer that is kept, of which nothing is known.
fn at_least(scratch: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if scratch.len() < length {
        scratch.resize(length, 0.0);
    }
    &mut scratch[..length]
}
