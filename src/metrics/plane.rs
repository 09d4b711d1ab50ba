//! One channel of an image in double precision, and the filters that SSIM and NIQE share.

use rayon::prelude::*;

use super::pixels::samples;
use crate::frame::Frame;

/// `height` rows of `width` values.
pub(super) struct Plane {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f64>,
}

/// A square filter, `size * size` weights by row.
pub(super) struct Kernel {
    size: usize,
    weights: Vec<f64>,
}

impl Kernel {
    /// A Gaussian of sum one. Its weights are rounded to single precision as in pyiqa: in flat regions what the sum
    /// then lacks to one is all that remains.
    pub(super) fn gaussian(size: usize, sigma: f64) -> Self {
        let centre = (size as f64 - 1.0) / 2.0;
        let offset = |i: usize| i as f64 - centre;
        let square = |i: usize| offset(i / size).powi(2) + offset(i % size).powi(2);
        let weights: Vec<f64> = (0..size * size)
            .map(|i| (-square(i) / (2.0 * sigma * sigma)).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        Kernel {
            size,
            weights: weights.iter().map(|w| (w / sum) as f32 as f64).collect(),
        }
    }
}

impl Plane {
    /// Luma (BT.601 weights, full range) rounded to whole levels, 0 to 255: in single precision and with ties to even,
    /// since of 8-bit colours one in a thousand is a tie.
    pub(super) fn luma(frame: &Frame) -> Self {
        let rgb: Vec<f32> = samples(frame).map(|v| v as f32).collect();
        let level = |p: &[f32]| {
            let luma = p[0] * 0.299 + p[1] * 0.587 + p[2] * 0.114;
            (luma * 255.0).round_ties_even() as f64
        };
        Plane {
            width: frame.width,
            height: frame.height,
            values: rgb.chunks_exact(3).map(level).collect(),
        }
    }

    /// A rectangle of this plane.
    pub(super) fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Plane {
        let rows = self.values.chunks_exact(self.width).skip(top).take(height);
        Plane {
            width,
            height,
            values: rows
                .flat_map(|row| row[left..left + width].iter().copied())
                .collect(),
        }
    }

    /// This plane with `margin` more pixels on each side, which repeat those of its border.
    pub(super) fn pad_replicate(&self, margin: usize) -> Plane {
        let (width, height) = (self.width + 2 * margin, self.height + 2 * margin);
        let inside = |i: usize, len: usize| i.saturating_sub(margin).min(len - 1);
        let value = |i: usize| {
            let (y, x) = (inside(i / width, self.height), inside(i % width, self.width));
            self.values[y * self.width + x]
        };
        Plane {
            width,
            height,
            values: (0..width * height).map(value).collect(),
        }
    }

    /// Correlation with `kernel` where it lies within the plane: smaller by `size - 1` in each direction.
    pub(super) fn filter(&self, kernel: &Kernel) -> Plane {
        let size = kernel.size;
        let (width, height) = (self.width + 1 - size, self.height + 1 - size);
        let mut values = vec![0.0; width * height];
        values.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
            for (i, weight) in kernel.weights.iter().enumerate() {
                let start = (y + i / size) * self.width + i % size;
                for (sum, value) in row.iter_mut().zip(&self.values[start..start + width]) {
                    *sum += weight * value;
                }
            }
        });
        Plane {
            width,
            height,
            values,
        }
    }

    /// `f` of each pixel of two planes of one size.
    pub(super) fn zip(&self, other: &Plane, f: impl Fn(f64, f64) -> f64) -> Plane {
        let values = self
            .values
            .iter()
            .zip(&other.values)
            .map(|(a, b)| f(*a, *b))
            .collect();
        Plane { values, ..*self }
    }
}
