//! Layers fused for the CPU's caches, on plain slices: what libtorch does in many passes over memory.

mod activate;
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_amx.rs")]
mod amx;
mod conv;
mod gated;
mod lines;
mod panels;
mod pool;

use std::cell::RefCell;
use std::ops::Range;

pub(super) use activate::Activation;
pub(super) use conv::{Arrangement, ConvWeights, Input, Kernel};
pub(super) use gated::{GatedLayers, GatedWeights};
use lines::Lines;
pub use panels::Products;
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

thread_local! {
    static SCRATCH: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// Has the rows of images made, some together and apart from the others. `make` gets the image, its first row, the rows, and a
/// buffer that the thread keeps.
fn in_parts<T: Send>(
    output: &mut [T],
    height: usize,
    row_length: usize,
    make: impl Fn(usize, usize, &mut [T], &mut Lines) + Sync + Send,
) {
    let threads = threads();
    let rows = match threads {
        1 => height,
        // Each as many parts, of which one that is held up leaves some to others where there are rows enough.
        _ => {
            let parts = threads * (height / (MANY_ROWS * threads)).clamp(1, 2);
            height.div_ceil(parts).max(LEAST_ROWS)
        }
    };
    let images = output.chunks_exact_mut((height * row_length).max(1)).enumerate();
    let parts = images.flat_map(|(image, output)| {
        let parts = output.chunks_mut(rows * row_length).enumerate();
        parts.map(move |(part, output)| (image, part * rows, output))
    });
    let parts: Vec<(usize, usize, &mut [T])> = parts.collect();
    let make = |(image, first, output): (usize, usize, &mut [T])| {
        SCRATCH.with_borrow_mut(|scratch| make(image, first, output, scratch));
    };
    match threads.min(parts.len()) {
        // Here, where it is asked for.
        1 => parts.into_iter().for_each(make),
        _ => on_own_threads(|| parts.into_par_iter().for_each(make)),
    }
}

/// Has the rows of one picture made by all threads that may share a layer: `make` gets the first row of some, and these.
pub(crate) fn by_rows<T: Send>(
    output: &mut [T],
    row_length: usize,
    make: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let height = output.len() / row_length.max(1);
    in_parts(output, height, row_length, |_, first, rows, _| make(first, rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_no_others_makes_every_image_itself() {
        // A thread of its own, because the number of libtorch's threads stays with it.
        let alone = std::thread::spawn(|| {
            tch::get_num_threads();
            tch::set_num_threads(1);
            let here = std::thread::current().id();
            let mut output = vec![0.0; 3 * 40 * 2];
            in_parts(&mut output, 40, 2, |image, first, rows, _| {
                assert_eq!(std::thread::current().id(), here);
                assert_eq!((first, rows.len()), (0, 80));
                rows.fill(image as f32 + 1.0);
            });
            output
        });
        let output = alone.join().unwrap();
        for (image, values) in output.chunks_exact(80).enumerate() {
            assert!(values.iter().all(|v| *v == image as f32 + 1.0));
        }
    }
}
