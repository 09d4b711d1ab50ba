//! Convolution of linear-light planes with a sparse kernel, and saturated highlights.

use super::kernel::{Kernel, Margins};
use super::planes::Planes;

/// Output pixels computed together: their sums stay in vector registers while all taps pass by.
const BLOCK: usize = 32;

/// Blurs the inside of `source`: the output is smaller by the kernel's margins, and no border is invented
/// here.
///
/// `out(x, y) = sum of weight * source(left + x - dx, top + y - dy)` over the taps: convolution, so that a
/// white dot turns into the kernel.
///
/// # Panics
/// If `source` is not larger than the margins.
pub fn convolve(source: &Planes, kernel: &Kernel) -> Planes {
    let Margins {
        left,
        right,
        top,
        bottom,
    } = kernel.margins();
    assert!(
        source.width > left + right && source.height > top + bottom,
        "the source is larger than the kernel"
    );
    let (width, height) = (source.width - left - right, source.height - top - bottom);
    // The taps as distances in memory from the first pixel that an output pixel can read.
    let taps: Vec<(usize, f32)> = kernel
        .taps()
        .iter()
        .map(|tap| {
            let (row, column) = (top as i64 - i64::from(tap.dy), left as i64 - i64::from(tap.dx));
            (row as usize * source.width + column as usize, tap.weight)
        })
        .collect();
    let mut out = Planes::zeros(width, height);
    let planes = source.data.chunks_exact(source.width * source.height);
    for (from, to) in planes.zip(out.data.chunks_exact_mut(width * height)) {
        for (y, row) in to.chunks_exact_mut(width).enumerate() {
            let from = &from[y * source.width..];
            let mut blocks = row.chunks_exact_mut(BLOCK);
            let mut x = 0;
            for block in &mut blocks {
                let mut sums = [0.0f32; BLOCK];
                for &(distance, weight) in &taps {
                    let values: &[f32; BLOCK] =
                        from[x + distance..].first_chunk().expect("inside the source");
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += weight * value;
                    }
                }
                block.copy_from_slice(&sums);
                x += BLOCK;
            }
            for (i, value) in blocks.into_remainder().iter_mut().enumerate() {
                *value = taps
                    .iter()
                    .map(|&(distance, weight)| weight * from[x + i + distance])
                    .sum();
            }
        }
    }
    out
}

/// Restores the brightness that clipping hid: linear values above `threshold` are raised, up to `gain` at 1.
///
/// A lamp that fills the sensor's range in the sharp image is in truth many times brighter, and its blurred
/// streak is clipped too (Hu et al., "Deblurring Low-light Images with Light Streaks", 2014). Blur after this
/// and clip then.
///
/// # Panics
/// If `threshold` is not below 1.
pub fn boost_highlights(planes: &mut Planes, threshold: f32, gain: f32) {
    assert!(threshold < 1.0, "highlights begin below full scale");
    let slope = (gain - 1.0) / (1.0 - threshold);
    for value in &mut planes.data {
        if *value > threshold {
            *value += *value * (*value - threshold) * slope;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::sample_rng;
    use super::super::trajectory::Trajectory;
    use super::*;

    fn kernel(extent_px: f64) -> Kernel {
        Kernel::render(&Trajectory::shake(&mut sample_rng(3, 9), extent_px))
    }

    #[test]
    fn a_white_dot_becomes_the_kernel_and_keeps_its_energy() {
        let kernel = kernel(11.0);
        let mut source = Planes::zeros(101, 101);
        source.data[50 * 101 + 50] = 1.0;
        let out = convolve(&source, &kernel);
        let margins = kernel.margins();
        for tap in kernel.taps() {
            let x = (50 - margins.left as i32 + tap.dx) as usize;
            let y = (50 - margins.top as i32 + tap.dy) as usize;
            assert_eq!(out.data[y * out.width + x], tap.weight);
        }
        let energy: f64 = out.data.iter().map(|v| f64::from(*v)).sum();
        assert!((energy - 1.0).abs() < 1e-5, "{energy}");
    }

    #[test]
    fn a_constant_stays_constant() {
        let mut source = Planes::zeros(90, 70);
        source.data.fill(0.25);
        assert!(
            convolve(&source, &kernel(20.0))
                .data
                .iter()
                .all(|v| (v - 0.25).abs() < 1e-5)
        );
    }

    #[test]
    fn blocks_and_their_remainder_agree_with_the_definition() {
        let kernel = kernel(6.0);
        let mut source = Planes::zeros(75, 30);
        source
            .data
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v = ((i * 37) % 101) as f32 / 101.0);
        let out = convolve(&source, &kernel);
        let margins = kernel.margins();
        for (x, y) in [(0, 0), (31, 3), (32, 4), (out.width - 1, out.height - 1)] {
            let expected: f32 = kernel
                .taps()
                .iter()
                .map(|tap| {
                    let row = (margins.top + y) as i32 - tap.dy;
                    let column = (margins.left + x) as i32 - tap.dx;
                    tap.weight * source.data[row as usize * 75 + column as usize]
                })
                .sum();
            assert!((out.data[y * out.width + x] - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn only_highlights_are_boosted() {
        let mut planes = Planes::zeros(2, 1);
        planes.data = vec![0.5, 0.8, 0.9, 1.0, 0.0, 1.0];
        boost_highlights(&mut planes, 0.8, 5.0);
        assert_eq!(planes.data[..2], [0.5, 0.8]);
        assert!((planes.data[3] - 5.0).abs() < 1e-5);
        assert!(planes.data[2] > 0.9 && planes.data[2] < 5.0);
    }
}
