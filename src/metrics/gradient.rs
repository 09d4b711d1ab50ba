//! Mean gradient: how sharp an image looks, without a reference.

use super::pixels::samples;
use crate::frame::Frame;

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
    fn gradient_of_stripes() {
        let mut frame = Frame::new(4, 1, PixelFormat::Rgb8);
        frame.data[3..6].fill(255);
        frame.data[9..12].fill(255);
        assert!((mean_gradient(&frame) - 1.0).abs() < 1e-9);
    }
}
