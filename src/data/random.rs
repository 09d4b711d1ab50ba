//! Random numbers that are the same on every machine.
//!
//! Only the four operations and the square root touch a drawn number, and IEEE 754 fixes their results. Powers,
//! logarithms and the like differ between C libraries; the few that are needed come from the crate `libm`,
//! which computes them in Rust. There are no angles here: directions and rotations are drawn as vectors.

use std::sync::LazyLock;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of sample `index`: the seed is the key, the index the stream, so samples are independent of
/// each other and of the order in which they are made.
pub fn sample_rng(seed: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    rng
}

/// Uniform integer in `low..=high`. Drawn as `u32`, because `usize` has another width elsewhere.
pub fn integer(rng: &mut ChaCha8Rng, low: usize, high: usize) -> usize {
    low + rng.random_range(0..=(high - low) as u32) as usize
}

/// Uniform number in `[low, high]`, also for an empty interval `low == high`.
pub fn uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// True with the given probability.
pub fn chance(rng: &mut ChaCha8Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

/// Log-uniform number in `[low, high]`, both positive, on a grid of 1/1024.
pub fn log_uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    let value = low * libm::exp(libm::log(high / low) * rng.random::<f64>());
    ((value * 1024.0).round() / 1024.0).clamp(low, high)
}

/// Random direction: a vector of length one, drawn by rejection in the unit disc.
pub fn direction(rng: &mut ChaCha8Rng) -> [f64; 2] {
    loop {
        let x = uniform(rng, -1.0, 1.0);
        let y = uniform(rng, -1.0, 1.0);
        let square = x * x + y * y;
        if (1e-4..=1.0).contains(&square) {
            let length = square.sqrt();
            return [x / length, y / length];
        }
    }
}

/// Bits that pick a quantile of the half normal distribution.
const QUANTILE_BITS: u32 = 13;

/// Standard normal numbers by inversion over 2^14 equally likely quantiles (largest magnitude 4.0).
pub struct Normal {
    quantiles: Vec<f32>,
}

impl Normal {
    /// The table, computed once per process.
    pub fn table() -> &'static Self {
        static TABLE: LazyLock<Normal> = LazyLock::new(Normal::new);
        &TABLE
    }

    fn new() -> Self {
        let count = 1usize << QUANTILE_BITS;
        let mut x = 0.0f64;
        let quantiles = (0..count).map(|i| {
            let target = 0.5 * (i as f64 + 0.5) / count as f64;
            for _ in 0..6 {
                let (mass, density) = normal_mass(x);
                x -= (mass - target) / density;
            }
            x as f32
        });
        Self {
            quantiles: quantiles.collect(),
        }
    }

    /// One number from the low 14 bits.
    #[inline]
    fn number(&self, bits: u32) -> f32 {
        let magnitude = self.quantiles[(bits & ((1 << QUANTILE_BITS) - 1)) as usize];
        if bits >> QUANTILE_BITS & 1 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    /// Two independent numbers from one draw.
    #[inline]
    pub fn pair(&self, rng: &mut ChaCha8Rng) -> [f32; 2] {
        let bits = rng.next_u32();
        [self.number(bits), self.number(bits >> 16)]
    }
}

/// Mass of the standard normal distribution between 0 and `x`, and its density at `x`. Series of Marsaglia,
/// "Evaluating the Normal Distribution", 2004: mass = density * sum of x^(2k+1) / (2k+1)!!.
fn normal_mass(x: f64) -> (f64, f64) {
    let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term > sum * 1e-17 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    (density * sum, density)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_has_mean_zero_variance_one_and_tails() {
        let normal = Normal::table();
        let mut rng = sample_rng(1, 2);
        let n = 200_000;
        let (mut sum, mut square, mut beyond_two) = (0.0, 0.0, 0);
        for _ in 0..n / 2 {
            for value in normal.pair(&mut rng) {
                sum += f64::from(value);
                square += f64::from(value * value);
                beyond_two += usize::from(value.abs() > 2.0);
            }
        }
        let n = f64::from(n);
        assert!((sum / n).abs() < 0.01);
        assert!((square / n - 1.0).abs() < 0.01);
        assert!((beyond_two as f64 / n - 0.0455).abs() < 0.003);
    }

    #[test]
    fn streams_differ_and_repeat() {
        assert_eq!(sample_rng(3, 4).next_u64(), sample_rng(3, 4).next_u64());
        assert_ne!(sample_rng(3, 4).next_u64(), sample_rng(3, 5).next_u64());
        assert_ne!(sample_rng(3, 4).next_u64(), sample_rng(4, 4).next_u64());
    }

    #[test]
    fn log_uniform_has_equal_mass_per_octave() {
        let mut rng = sample_rng(5, 0);
        let low = (0..4000)
            .filter(|_| log_uniform(&mut rng, 2.0, 32.0) < 8.0)
            .count();
        assert!((1850..2150).contains(&low), "{low}");
    }
}
