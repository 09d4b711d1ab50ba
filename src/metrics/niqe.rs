//! NIQE (Mittal et al. 2013, "Making a Completely Blind Image Quality Analyzer"): how far an image's statistics are
//! from those of undistorted photographs.

use rayon::prelude::*;
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

use super::aggd::AggdTable;
use super::pixels::check_size;
use super::plane::{Kernel, Plane};
use crate::frame::Frame;
use crate::{Error, Result};

/// Mean and covariance of the features of undistorted photographs, which `scripts/convert_metrics.py` wrote.
const PARAMETERS: &[u8] = include_bytes!("niqe.safetensors");

/// Side of a block in pixels at full resolution; half of it at the second scale.
const BLOCK: usize = 96;
/// Features of a block at one scale.
const FEATURES: usize = 18;
/// Both scales.
const ALL: usize = 2 * FEATURES;

/// The no-reference quality of an image; lower is better, sharp photographs have about 3 to 5.
pub struct Niqe {
    mean: Vec<f64>,
    /// 36 rows of 36.
    covariance: Vec<f64>,
    table: AggdTable,
}

impl Default for Niqe {
    fn default() -> Self {
        Self::new()
    }
}

impl Niqe {
    /// With the parameters that its authors published.
    pub fn new() -> Self {
        let file = SafeTensors::deserialize(PARAMETERS).expect("the built-in parameters are complete");
        let numbers = |name| {
            let view = file.tensor(name).expect("the built-in parameters are complete");
            let bytes = view.data().chunks_exact(8);
            bytes
                .map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")))
                .collect()
        };
        Niqe {
            mean: numbers("mean"),
            covariance: numbers("covariance"),
            table: AggdTable::new(),
        }
    }

    /// The frame's score, equal to pyiqa's `niqe`: of luma (BT.601 weights, full range) rounded to 8 bits, over whole
    /// blocks of 96x96 pixels from the top left.
    ///
    /// # Errors
    /// A frame without a whole block, or without texture in any; a failure of libtorch.
    pub fn score(&self, frame: &Frame) -> Result<f64> {
        frame.check()?;
        check_size(frame, "NIQE", BLOCK)?;
        let (columns, rows) = (frame.width / BLOCK, frame.height / BLOCK);
        let full = Plane::luma(frame).crop(0, 0, columns * BLOCK, rows * BLOCK);
        let coarse = self.block_features(&half(&full), BLOCK / 2);
        let fine = self.block_features(&full, BLOCK);
        let blocks: Vec<[f64; ALL]> = fine.iter().zip(&coarse).map(|(f, c)| joined(f, c)).collect();
        self.distance(&blocks)
    }

    /// Features of each block of the plane, one row of blocks after another.
    fn block_features(&self, plane: &Plane, side: usize) -> Vec<[f64; FEATURES]> {
        let normalized = normalize(plane);
        let columns = plane.width / side;
        let block = |i: usize| normalized.crop(i % columns * side, i / columns * side, side, side);
        (0..columns * (plane.height / side))
            .into_par_iter()
            .map(|i| self.features(&block(i)))
            .collect()
    }

    /// Shape and spread of a block's distribution, and those of the products of its pixels with four neighbours'.
    fn features(&self, block: &Plane) -> [f64; FEATURES] {
        let mut features = [0.0; FEATURES];
        let own = self.table.fit(&block.values);
        features[..2].copy_from_slice(&[own.shape, (own.left + own.right) / 2.0]);
        // Left, above, and the two diagonals; the block continues at its other side.
        for ((dy, dx), out) in [(0, 1), (1, 0), (1, 1), (1, -1)]
            .into_iter()
            .zip(features[2..].chunks_exact_mut(4))
        {
            let fit = self.table.fit(&neighbour_products(block, dy, dx));
            out.copy_from_slice(&[fit.shape, fit.mean, fit.left, fit.right]);
        }
        features
    }

    /// Distance of the blocks' distribution from the undistorted one, equation 10.
    fn distance(&self, blocks: &[[f64; ALL]]) -> Result<f64> {
        // A block without texture lacks some features: the mean takes those that it has, the covariance leaves it out.
        let whole: Vec<f64> = blocks
            .iter()
            .filter(|b| b.iter().all(|f| !f.is_nan()))
            .flatten()
            .copied()
            .collect();
        let rows = whole.len() / ALL;
        if rows == 0 {
            return Err(Error::OutOfRange {
                name: "image",
                value: "without texture".into(),
                range: "NIQE needs a block of 96x96 pixels with texture in it".into(),
            });
        }
        let mean: Vec<f64> = (0..ALL)
            .map(|i| mean(blocks.iter().map(|b| b[i]).filter(|f| !f.is_nan())))
            .collect();
        let whole = Tensor::f_from_slice(&whole)?.f_view([rows as i64, ALL as i64])?;
        let centred = &whole - whole.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        let covariance = centred.tr().f_matmul(&centred)? / (rows - 1).max(1) as f64;
        let undistorted = Tensor::f_from_slice(&self.covariance)?.f_view([ALL as i64; 2])?;
        let pooled = (undistorted + covariance) / 2.0;
        let inverse = pooled.f_linalg_pinv(ALL as f64 * f64::EPSILON, true)?;
        let offset: Vec<f64> = self.mean.iter().zip(&mean).map(|(a, b)| a - b).collect();
        let offset = Tensor::f_from_slice(&offset)?.f_view([1, ALL as i64])?;
        let square = offset.f_matmul(&inverse)?.f_matmul(&offset.tr())?;
        Ok(square.f_double_value(&[0, 0])?.sqrt())
    }
}

/// Each pixel less its surroundings' mean, by their standard deviation plus one, equation 1.
fn normalize(plane: &Plane) -> Plane {
    let kernel = Kernel::gaussian(7, 7.0 / 6.0);
    let padded = plane.pad_replicate(3);
    let mean = padded.filter(&kernel);
    let square = padded.zip(&padded, |x, y| x * y).filter(&kernel);
    let deviation = square.zip(&mean, |square, mean| {
        ((square - mean * mean).abs() + f64::EPSILON).sqrt()
    });
    plane
        .zip(&mean, |x, mean| x - mean)
        .zip(&deviation, |x, deviation| x / (deviation + 1.0))
}

/// Half the resolution, with the bicubic filter of MATLAB's `imresize`, stretched against aliasing; edges are mirrored.
fn half(plane: &Plane) -> Plane {
    transposed(&half_rows(&transposed(&half_rows(plane))))
}

/// Half the height.
fn half_rows(plane: &Plane) -> Plane {
    // Keys' cubic with a = -0.5 at distances 0.25, 0.75, 1.25 and 1.75, on either side of the new pixel.
    let cubic = |x: f64| match x {
        x if x <= 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
    };
    let weights: [f64; 8] = std::array::from_fn(|i| cubic((i as f64 - 3.5).abs() / 2.0));
    let sum: f64 = weights.iter().sum();
    let (width, height) = (plane.width, plane.height / 2);
    let mirrored = |y: isize| match y {
        y if y < 0 => (-1 - y) as usize,
        y => (y as usize).min(2 * plane.height - 1 - y as usize),
    };
    let mut values = vec![0.0; width * height];
    values.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
        for (i, weight) in weights.iter().enumerate() {
            let from = mirrored((2 * y + i) as isize - 3) * width;
            for (sum_at, value) in out.iter_mut().zip(&plane.values[from..from + width]) {
                *sum_at += weight / sum * value;
            }
        }
    });
    Plane {
        width,
        height,
        values,
    }
}

fn transposed(plane: &Plane) -> Plane {
    let (width, height) = (plane.height, plane.width);
    let value = |i: usize| plane.values[i % width * plane.width + i / width];
    Plane {
        width,
        height,
        values: (0..width * height).map(value).collect(),
    }
}

/// Each pixel times the one `dy` above and `dx` to the left of it.
fn neighbour_products(block: &Plane, dy: usize, dx: isize) -> Vec<f64> {
    let (width, height) = (block.width, block.height);
    let product = |i: usize| {
        let (y, x) = (i / width, i % width);
        let row = (y + height - dy) % height;
        let column = (x as isize - dx).rem_euclid(width as isize) as usize;
        block.values[i] * block.values[row * width + column]
    };
    (0..width * height).map(product).collect()
}

fn joined(fine: &[f64; FEATURES], coarse: &[f64; FEATURES]) -> [f64; ALL] {
    std::array::from_fn(|i| {
        if i < FEATURES {
            fine[i]
        } else {
            coarse[i - FEATURES]
        }
    })
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn frames_that_cannot_be_judged_are_refused() {
        let niqe = Niqe::new();
        let small = niqe
            .score(&Frame::new(200, 95, PixelFormat::Rgb8))
            .unwrap_err()
            .to_string();
        assert!(small.contains("200x95") && small.contains("96x96"), "{small}");
        let flat = niqe
            .score(&Frame::new(96, 96, PixelFormat::Rgb8))
            .unwrap_err()
            .to_string();
        assert!(flat.contains("texture"), "{flat}");
    }

    #[test]
    fn halving_keeps_a_ramp() {
        let ramp = Plane {
            width: 12,
            height: 8,
            values: (0..96).map(|i| (i % 12) as f64).collect(),
        };
        let half = half(&ramp);
        assert_eq!((half.width, half.height), (6, 4));
        // Between the mirrored edges the new pixel lies in the middle of two old ones.
        assert!((half.values[6 + 2] - 4.5).abs() < 1e-12 && (half.values[6 + 3] - 6.5).abs() < 1e-12);
    }
}
