//! Peak signal-to-noise ratio.

use super::pixels::{check_pair, samples};
use crate::Result;
use crate::frame::Frame;

/// Peak signal-to-noise ratio in dB over R, G and B, peak = full scale; infinite for equal frames.
///
/// # Errors
/// Frames of different sizes or formats.
pub fn psnr(a: &Frame, b: &Frame) -> Result<f64> {
    check_pair(a, b)?;
    let squares = samples(a).zip(samples(b)).map(|(x, y)| (x - y) * (x - y));
    let mse = squares.sum::<f64>() / (a.width * a.height * 3) as f64;
    Ok(-10.0 * mse.log10())
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
}
