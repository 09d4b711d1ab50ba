//! What happens to an image after the light was collected: sensor noise, quantisation, compression.

use std::io::Cursor;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::{DynamicImage, RgbImage};
use rand_chacha::ChaCha8Rng;

use super::random::Normal;

/// Adds the noise of a sensor to linear values: variance `shot^2 * value + read^2`, both deviations in 8-bit levels
/// (`shot` at full scale, `read` in the dark).
///
/// The Gaussian form of photon and electronic noise (Foi et al., "Practical Poissonian-Gaussian Noise Modeling and
/// Fitting for Single-Image Raw-Data", 2008).
pub fn add_sensor_noise(values: &mut [f32], shot_levels: f32, read_levels: f32, rng: &mut ChaCha8Rng) {
    let normal = Normal::table();
    let (shot, read) = (shot_levels / 255.0, read_levels / 255.0);
    for pair in values.chunks_mut(2) {
        for (value, noise) in pair.iter_mut().zip(normal.pair(rng)) {
            *value += noise * (shot * shot * value.max(0.0) + read * read).sqrt();
        }
    }
}

/// Adds independent Gaussian noise to encoded values in `[0, 1]`; `sigma_levels` is its standard deviation in
/// 8-bit levels.
pub fn add_noise(values: &mut [f32], sigma_levels: f32, rng: &mut ChaCha8Rng) {
    let normal = Normal::table();
    let sigma = sigma_levels / 255.0;
    for pair in values.chunks_mut(2) {
        for (value, noise) in pair.iter_mut().zip(normal.pair(rng)) {
            *value += sigma * noise;
        }
    }
}

/// Clips encoded values to `[0, 1]` and rounds them to 8-bit levels, without dither, as a camera's file does.
pub fn quantise(values: &mut [f32]) {
    for value in values {
        // Adding one half and cutting off is rounding for what is not negative, and vectorises.
        let level = (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        *value = f32::from(level) / 255.0;
    }
}

/// Stores a crop as JPEG and reads it back: `values` is `[3, height, width]`, encoded, on 8-bit levels; `quality` runs
/// from 1 to 100. Encoder and decoder calculate with integers, the same on every machine.
///
/// # Panics
/// If `values` has another length, or a side is longer than 65,535 px, the format's limit.
pub fn compress_jpeg(values: &mut [f32], width: usize, height: usize, quality: u8) {
    let plane = width * height;
    assert_eq!(values.len(), 3 * plane, "three planes");
    let level = |value: f32| (value * 255.0 + 0.5) as u8;
    let pixels = (0..plane).flat_map(|i| [0, 1, 2].map(|channel| level(values[channel * plane + i])));
    let image = RgbImage::from_raw(width as u32, height as u32, pixels.collect()).expect("three bytes each");
    let mut file = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut file, quality).encode_image(&image);
    encoded.expect("a JPEG of at most 65535 px fits into memory");
    let decoded = JpegDecoder::new(Cursor::new(file)).and_then(DynamicImage::from_decoder);
    let decoded = decoded.expect("what was just encoded").into_rgb8().into_raw();
    for (i, pixel) in decoded.chunks_exact(3).enumerate() {
        for (channel, &level) in pixel.iter().enumerate() {
            values[channel * plane + i] = f32::from(level) / 255.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::sample_rng;
    use super::*;

    #[test]
    fn sensor_noise_grows_with_the_light() {
        let deviation = |level: f32| {
            let mut values = vec![level; 60_000];
            add_sensor_noise(&mut values, 6.0, 0.5, &mut sample_rng(1, 0));
            let square = |v: &f32| f64::from(*v - level).powi(2);
            (values.iter().map(square).sum::<f64>() / 60_000.0).sqrt() * 255.0
        };
        assert!((deviation(0.0) - 0.5).abs() < 0.02, "{}", deviation(0.0));
        assert!(
            (deviation(0.25) - 9.25f64.sqrt()).abs() < 0.05,
            "{}",
            deviation(0.25)
        );
        assert!(
            (deviation(1.0) - 36.25f64.sqrt()).abs() < 0.1,
            "{}",
            deviation(1.0)
        );
    }

    #[test]
    fn jpeg_loses_more_at_lower_quality_and_keeps_the_layout() {
        let (width, height) = (37, 21);
        let original: Vec<f32> = (0..3 * width * height)
            .map(|i| ((i % width * 5 + i / width * 3) % 256) as f32 / 255.0)
            .collect();
        let error = |quality: u8| {
            let mut values = original.clone();
            compress_jpeg(&mut values, width, height, quality);
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            (values.iter().zip(&original).map(square).sum::<f64>() / values.len() as f64).sqrt() * 255.0
        };
        assert!(error(100) < 3.0, "{}", error(100));
        assert!(error(20) > 2.0 * error(95), "{} {}", error(20), error(95));
    }

    #[test]
    fn noise_has_the_requested_deviation() {
        let mut values = vec![0.5f32; 60_001];
        add_noise(&mut values, 2.5, &mut sample_rng(1, 0));
        let n = values.len() as f64;
        let mean: f64 = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance: f64 = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        assert!((mean - 0.5).abs() < 2e-4, "{mean}");
        assert!(
            (variance.sqrt() * 255.0 - 2.5).abs() < 0.05,
            "{}",
            variance.sqrt() * 255.0
        );
    }

    #[test]
    fn quantised_values_are_levels() {
        let mut values = vec![-0.2, 0.0, 0.4999 / 255.0, 0.5001 / 255.0, 200.3 / 255.0, 1.0, 1.7];
        quantise(&mut values);
        assert_eq!(values, [0.0, 0.0, 0.0, 1.0 / 255.0, 200.0 / 255.0, 1.0, 1.0]);
    }
}
