//! Random smooth shapes with soft edges: the outlines of moving objects.

use rand_chacha::ChaCha8Rng;

use super::random::{direction, uniform};

/// Harmonics of an outline beyond the circle.
const HARMONICS: usize = 5;

/// An outline in polar coordinates: the radius is a Fourier series of the angle.
#[derive(Clone, Debug, PartialEq)]
pub struct Blob {
    /// Mean radius in px.
    pub radius_px: f64,
    /// Cosine and sine amplitudes of harmonic 2, 3, ..., relative to the mean radius.
    harmonics: [[f64; 2]; HARMONICS],
    /// The shape is this much longer along `axis` than across it, at equal area.
    elongation: f64,
    axis: [f64; 2],
    /// Width of the edge in px.
    softness_px: f64,
}

impl Blob {
    /// Draws a shape of this mean radius.
    pub fn draw(rng: &mut ChaCha8Rng, radius_px: f64) -> Self {
        let mut harmonics = [[0.0; 2]; HARMONICS];
        for (index, amplitudes) in harmonics.iter_mut().enumerate() {
            // Falling amplitudes make a smooth outline; together they stay below the radius.
            let most = 0.3 / (index + 1) as f64;
            *amplitudes = [uniform(rng, -most, most), uniform(rng, -most, most)];
        }
        Self {
            radius_px,
            harmonics,
            elongation: uniform(rng, 1.0, 2.0),
            axis: direction(rng),
            softness_px: uniform(rng, 1.0, 3.0),
        }
    }

    /// No part of the shape is farther from its centre than this, in px.
    pub fn reach_px(&self) -> f64 {
        let size = |[a, b]: &[f64; 2]| (a * a + b * b).sqrt();
        let longest = 1.0 + self.harmonics.iter().map(size).sum::<f64>();
        (self.radius_px * longest + self.softness_px) * self.elongation.sqrt()
    }

    /// How much of the object there is at `(x, y)` px from its centre, 0 to 1.
    pub fn alpha(&self, x: f64, y: f64) -> f64 {
        let [ax, ay] = self.axis;
        let stretch = self.elongation.sqrt();
        let (along, across) = ((x * ax + y * ay) / stretch, (y * ax - x * ay) * stretch);
        let distance = (along * along + across * across).sqrt();
        let [cos, sin] = if distance > 0.0 {
            [along / distance, across / distance]
        } else {
            [1.0, 0.0]
        };
        // Cosine and sine of the multiples of the angle by complex powers.
        let (mut power, mut radius) = ([cos, sin], 1.0);
        for [a, b] in self.harmonics {
            power = [power[0] * cos - power[1] * sin, power[0] * sin + power[1] * cos];
            radius += a * power[0] + b * power[1];
        }
        let inside = (0.5 + (self.radius_px * radius - distance) / self.softness_px).clamp(0.0, 1.0);
        inside * inside * (3.0 - 2.0 * inside)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::sample_rng;
    use super::*;

    #[test]
    fn a_blob_is_solid_inside_and_gone_beyond_its_reach() {
        for index in 0..50 {
            let blob = Blob::draw(&mut sample_rng(2, index), 20.0);
            assert_eq!(blob.alpha(0.0, 0.0), 1.0);
            let reach = blob.reach_px();
            let mut area = 0.0;
            for y in -80..=80 {
                for x in -80..=80 {
                    let (x, y) = (f64::from(x), f64::from(y));
                    let alpha = blob.alpha(x, y);
                    assert!((0.0..=1.0).contains(&alpha));
                    assert!(
                        alpha == 0.0 || (x * x + y * y).sqrt() <= reach,
                        "{x} {y}: {alpha}, {reach}"
                    );
                    area += alpha;
                }
            }
            let disc = std::f64::consts::PI * 400.0;
            assert!((0.5 * disc..2.0 * disc).contains(&area), "{area}");
        }
    }
}
