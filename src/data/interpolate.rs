//! Interpolation weights for positions between pixels.
//!
//! Every moment of an exposure shows the scene at a fraction of a pixel. Bilinear interpolation would soften each of
//! them (by a fifth at a quarter of the sampling rate) and the truth not at all, and a network would learn to sharpen
//! what motion never touched. The cubic of Catmull and Rom keeps 97 % there.

use std::sync::LazyLock;

/// Positions between two pixels that are told apart.
pub const PHASES: usize = 256;

/// Pixels read before the one that a position falls on.
pub const REACH_BEFORE: usize = 1;

/// Pixels read after it.
pub const REACH_AFTER: usize = 2;

/// A filter of four pixels in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Sharp; overshoots next to edges by a few hundredths of their height.
    CatmullRom,
    /// Soft; never overshoots, as highlights many times brighter than white need.
    Bilinear,
}

impl Filter {
    /// Weights of the pixels at -1, 0, 1 and 2, for each of [`PHASES`] positions from 0 to 1.
    pub fn weights(self) -> &'static [[f32; 4]; PHASES] {
        static CATMULL_ROM: LazyLock<[[f32; 4]; PHASES]> = LazyLock::new(|| table(catmull_rom));
        static BILINEAR: LazyLock<[[f32; 4]; PHASES]> = LazyLock::new(|| table(|t| [0.0, 1.0 - t, t, 0.0]));
        match self {
            Self::CatmullRom => &CATMULL_ROM,
            Self::Bilinear => &BILINEAR,
        }
    }
}

/// The pixel that a position falls on, and its phase after it, rounded to a 256th.
#[inline]
pub fn split(position: f64) -> (i64, usize) {
    let steps = (position * PHASES as f64 + 0.5).floor() as i64;
    (
        steps.div_euclid(PHASES as i64),
        steps.rem_euclid(PHASES as i64) as usize,
    )
}

fn table(weights: fn(f64) -> [f64; 4]) -> [[f32; 4]; PHASES] {
    std::array::from_fn(|phase| weights(phase as f64 / PHASES as f64).map(|weight| weight as f32))
}

/// Catmull and Rom, "A Class of Local Interpolating Splines", 1974.
fn catmull_rom(t: f64) -> [f64; 4] {
    [
        ((2.0 - t) * t - 1.0) * t / 2.0,
        ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
        ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
        (t - 1.0) * t * t / 2.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_hit_the_position() {
        for filter in [Filter::CatmullRom, Filter::Bilinear] {
            for (phase, weights) in filter.weights().iter().enumerate() {
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                let position: f32 = weights
                    .iter()
                    .zip([-1.0, 0.0, 1.0, 2.0])
                    .map(|(w, x)| w * x)
                    .sum();
                assert!((position - phase as f32 / PHASES as f32).abs() < 1e-6);
            }
            assert_eq!(filter.weights()[0], [0.0, 1.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn positions_split_below_and_above_zero() {
        assert_eq!(split(0.0), (0, 0));
        assert_eq!(split(2.5), (2, 128));
        assert_eq!(split(-0.25), (-1, 192));
        assert_eq!(split(2.9999), (3, 0));
    }

    #[test]
    fn a_quarter_of_the_sampling_rate_keeps_its_contrast_over_all_phases() {
        // cos(pi/2 x) at phase t, averaged over t with the fundamental taken out: the transfer at 0.25 cycles/px.
        let transfer = |filter: Filter| {
            let amplitude = |(phase, weights): (usize, &[f32; 4])| {
                let angle = std::f64::consts::FRAC_PI_2;
                let t = phase as f64 / PHASES as f64;
                weights
                    .iter()
                    .zip([-1.0, 0.0, 1.0, 2.0])
                    .map(|(w, x)| f64::from(*w) * (angle * (x - t)).cos())
                    .sum::<f64>()
            };
            filter.weights().iter().enumerate().map(amplitude).sum::<f64>() / PHASES as f64
        };
        assert!(
            transfer(Filter::CatmullRom) > 0.93,
            "{}",
            transfer(Filter::CatmullRom)
        );
        assert!(
            transfer(Filter::Bilinear) < 0.83,
            "{}",
            transfer(Filter::Bilinear)
        );
    }
}
