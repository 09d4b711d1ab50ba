//! SSIM (Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity").

use super::pixels::{check_pair, check_size};
use super::plane::{Kernel, Plane};
use crate::Result;
use crate::frame::Frame;

/// Width of the Gaussian window in pixels.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
/// The paper's constants for values up to 255.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Structural similarity of two frames, at most 1, which equal frames have.
///
/// Equal to pyiqa's `ssim`: of luma (BT.601 weights, full range) rounded to 8 bits, at full resolution, over every window
/// that lies within the image; windows whose structures are opposed count as 0. Other packages average R, G and B, or
/// shrink the image first, and get other figures.
///
/// # Errors
/// Frames of different sizes or formats, or smaller than 11x11.
pub fn ssim(a: &Frame, b: &Frame) -> Result<f64> {
    check_pair(a, b)?;
    check_size(a, "SSIM", WINDOW)?;
    let (a, b) = (Plane::luma(a), Plane::luma(b));
    let kernel = Kernel::gaussian(WINDOW, SIGMA);
    let products = [(&a, &a), (&b, &b), (&a, &b)].map(|(p, q)| p.zip(q, |x, y| x * y).filter(&kernel));
    let (mean_a, mean_b) = (a.filter(&kernel), b.filter(&kernel));
    let count = mean_a.values.len();
    let window = |i: usize| {
        let (ma, mb) = (mean_a.values[i], mean_b.values[i]);
        let [aa, bb, ab] = [&products[0], &products[1], &products[2]].map(|p| p.values[i]);
        let luminance = (2.0 * ma * mb + C1) / (ma * ma + mb * mb + C1);
        let structure = (2.0 * (ab - ma * mb) + C2) / (aa - ma * ma + bb - mb * mb + C2);
        luminance * structure.max(0.0)
    };
    Ok((0..count).map(window).sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn equal_frames_have_one_and_opposed_ones_none() {
        let mut a = Frame::new(16, 12, PixelFormat::Rgba8);
        for (i, byte) in a.data.iter_mut().enumerate() {
            *byte = (i / 4 * 89 % 251) as u8;
        }
        let mut b = a.clone();
        b.data.iter_mut().for_each(|byte| *byte = 255 - *byte);
        assert!((ssim(&a, &a).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&a, &b).unwrap(), 0.0);
    }

    #[test]
    fn frames_without_a_window_are_refused() {
        let frame = Frame::new(40, 10, PixelFormat::Rgb8);
        let error = ssim(&frame, &frame).unwrap_err().to_string();
        assert!(error.contains("40x10") && error.contains("11x11"), "{error}");
    }
}
