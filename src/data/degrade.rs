//! What happens to an image after the light was collected: sensor noise and quantisation.

use rand_chacha::ChaCha8Rng;

use super::random::Normal;

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

#[cfg(test)]
mod tests {
    use super::super::random::sample_rng;
    use super::*;

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
