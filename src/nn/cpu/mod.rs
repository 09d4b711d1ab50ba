//! Layers fused for the CPU's caches, on plain slices: what libtorch does in many passes over memory.

mod activate;
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_amx.rs")]
mod amx;
mod conv;
mod gated;
mod lines;
mod panels;
mod pool;
mod rows;

use std::ops::Range;

pub(super) use activate::Activation;
pub(super) use conv::{Arrangement, ConvWeights, Input, Kernel};
pub(super) use gated::{GatedLayers, GatedWeights};
pub use panels::Products;
pub use pool::on_own_threads;
use pulp::{Arch, Simd, WithSimd};
pub(crate) use rows::by_rows;

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
