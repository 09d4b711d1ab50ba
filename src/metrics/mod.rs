//! Full-reference and sharpness measures on frames.

mod backbone;
mod file;
mod lpips;
mod pixels;

pub use backbone::Backbone;
pub use lpips::Lpips;
use pixels::{check_pair, samples};

use crate::Result;
use crate::frame::Frame;

/// Peak signal-to-noise ratio in dB over R, G and B, peak = full scale; infinite for equal frames.
///
/// # Errors
/// [`Error::FramesDiffer`] for different sizes or formats.
pub fn psnr(a: &Frame, b: &Frame) -> Result<f64> {
    check_pair(a, b)?;
    let squares = samples(a).zip(samples(b)).map(|(x, y)| (x - y) * (x - y));
    let mse = squares.sum::<f64>() / (a.width * a.height * 3) as f64;
    Ok(-10.0 * mse.log10())
}

/// Mean absolute difference of neighbouring pixels over both axes, of luma (BT.601), full scale = 1: a measure of sharpness.
pub fn mean_gradient(frame: &Frame) -> f64 {
    let rgb: Vec<f64> = samples(frame).collect();
    let luma: Vec<f64> = rgb
        .chunks_exact(3)
        .map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2])
        .collect();
    let (w, h) = (frame.width, frame.height);
    let across = (0..h).flat_map(|y| (1..w).map(move |x| (y * w + x, y * w + x - 1)));
    let down = (1..h).flat_map(|y| (0..w).map(move |x| (y * w + x, (y - 1) * w + x)));
    let pairs = h * (w - 1) + (h - 1) * w;
    let sum: f64 = across.chain(down).map(|(i, j)| (luma[i] - luma[j]).abs()).sum();
    sum / pairs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn psnr_of_a_known_difference() {
        let a = Frame::new(4, 4, PixelFormat::Rgba8);
        let mut b = a.clone();
        for pixel in b.data.chunks_exact_mut(4) {
            pixel.copy_from_slice(&[51, 51, 51, 200]); // a fifth of full scale; alpha does not count
        }
        assert!((psnr(&a, &b).unwrap() - 13.979).abs() < 1e-3);
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
        assert!(psnr(&a, &Frame::new(4, 4, PixelFormat::Rgba16)).is_err());
    }

    #[test]
    fn gradient_of_stripes() {
        let mut frame = Frame::new(4, 1, PixelFormat::Rgb8);
        frame.data[3..6].fill(255);
        frame.data[9..12].fill(255);
        assert!((mean_gradient(&frame) - 1.0).abs() < 1e-9);
    }
}
