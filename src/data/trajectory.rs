//! Random trajectories of a camera during the exposure.
//!
//! The model of Boracchi and Foi ("Modeling the Performance of Image Restoration from Motion Blur", 2012) as
//! Kupyn et al. used it ("DeblurGAN", 2018): a particle with inertia, disturbed by Gaussian noise, by rare
//! impulses that throw it back, and by a pull towards the centre; one number, the anxiety, scales all
//! disturbances; only a part of the path is exposed.
//!
//! Departure from both: a path is scaled so that its extent is a requested number of pixels. Left to
//! themselves such paths curl up into kernels of a few pixels, while real blur runs over 5 to 30 px, and a
//! network trained on the former does nothing for the latter.

use rand_chacha::ChaCha8Rng;

use super::random::{Normal, chance, direction, integer, uniform};

/// Steps of a full path.
const STEPS: usize = 512;

/// Path of a point during the exposure: equal times between successive points.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Positions `[x, y]` in px.
    pub points: Vec<[f64; 2]>,
}

/// Character of one camera shake. Time runs from 0 to 1 over the path, and the path has length one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraShake {
    /// Standard deviation of the change of direction over the whole path, in rad.
    pub gaussian: f64,
    /// Expected number of impulses over the whole path.
    pub impulses: f64,
    /// Pull towards the start, as the square of its angular frequency.
    pub centripetal: f64,
    /// Part of the path that falls into the exposure, `(0, 1]`.
    pub exposure: f64,
}

impl CameraShake {
    /// Draws a character: a calm hand gives a nearly straight path, an anxious one curls and jumps.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        // The square favours calm hands; the factors are those of Kupyn et al., expressed for a path of
        // length one.
        let anxiety = uniform(rng, 0.15, 1.0);
        let anxiety = anxiety * anxiety;
        Self {
            gaussian: anxiety * uniform(rng, 0.0, 1.8),
            impulses: anxiety * uniform(rng, 0.0, 1.5),
            centripetal: anxiety * uniform(rng, 0.0, 150.0),
            exposure: uniform(rng, 0.3, 1.0),
        }
    }

    /// Draws a path of this character, in units of its full length.
    pub fn trajectory(&self, rng: &mut ChaCha8Rng) -> Trajectory {
        let dt = 1.0 / STEPS as f64;
        let sigma = self.gaussian * dt.sqrt();
        let normal = Normal::table();
        let mut velocity = direction(rng);
        let mut position = [0.0f64; 2];
        let mut points = Vec::with_capacity(STEPS + 1);
        points.push(position);
        for _ in 0..STEPS {
            let noise = normal.pair(rng);
            let thrown_back = if chance(rng, self.impulses * dt) {
                let skew = uniform(rng, -0.55, 0.55);
                [
                    2.0 * (-velocity[0] - skew * velocity[1]),
                    2.0 * (-velocity[1] + skew * velocity[0]),
                ]
            } else {
                [0.0; 2]
            };
            for axis in 0..2 {
                let pull = -self.centripetal * position[axis] * dt;
                velocity[axis] += sigma * f64::from(noise[axis]) + pull + thrown_back[axis];
            }
            let speed = (velocity[0] * velocity[0] + velocity[1] * velocity[1]).sqrt();
            if speed > 1e-9 {
                velocity = [velocity[0] / speed, velocity[1] / speed];
            } else {
                velocity = direction(rng);
            }
            position = [position[0] + velocity[0] * dt, position[1] + velocity[1] * dt];
            points.push(position);
        }
        let exposed = ((STEPS as f64 * self.exposure) as usize).clamp(1, STEPS);
        let start = integer(rng, 0, STEPS - exposed);
        Trajectory {
            points: points[start..=start + exposed].to_vec(),
        }
    }
}

impl Trajectory {
    /// What does not move.
    pub fn rest() -> Self {
        Self {
            points: vec![[0.0; 2]],
        }
    }

    /// Whether this is more than one point.
    pub fn moves(&self) -> bool {
        self.points.len() > 1
    }

    /// A random camera shake with zero centroid and the given extent in px.
    pub fn shake(rng: &mut ChaCha8Rng, extent_px: f64) -> Self {
        CameraShake::draw(rng)
            .trajectory(rng)
            .scaled_to(extent_px)
            .centred()
    }

    /// A pan: nearly straight, slightly curved, with a changing speed; zero centroid and the given extent in
    /// px.
    pub fn pan(rng: &mut ChaCha8Rng, extent_px: f64) -> Self {
        const POINTS: usize = 64;
        let along = direction(rng);
        let curvature = uniform(rng, -0.15, 0.15);
        let acceleration = uniform(rng, -0.4, 0.4);
        let points = (0..=POINTS).map(|i| {
            let t = i as f64 / POINTS as f64 - 0.5;
            let s = t + acceleration * t * t;
            let aside = curvature * s * s;
            [along[0] * s - along[1] * aside, along[1] * s + along[0] * aside]
        });
        Self {
            points: points.collect(),
        }
        .scaled_to(extent_px)
        .centred()
    }

    /// Where the path is at the middles of `count` equal parts of its time.
    pub fn at_equal_times(&self, count: usize) -> Vec<[f64; 2]> {
        let segments = self.points.len() - 1;
        let position = |part: usize| {
            let time = (part as f64 + 0.5) / count as f64 * segments as f64;
            let before = (time as usize).min(segments.saturating_sub(1));
            let (from, to) = (self.points[before], self.points[(before + 1).min(segments)]);
            let share = time - before as f64;
            [
                from[0] + share * (to[0] - from[0]),
                from[1] + share * (to[1] - from[1]),
            ]
        };
        (0..count).map(position).collect()
    }

    /// Longest way between two successive points in px.
    pub fn longest_step_px(&self) -> f64 {
        let step = |pair: &[[f64; 2]]| {
            let (dx, dy) = (pair[1][0] - pair[0][0], pair[1][1] - pair[0][1]);
            (dx * dx + dy * dy).sqrt()
        };
        self.points.windows(2).map(step).fold(0.0, f64::max)
    }

    /// Longer side of the bounding box in px.
    pub fn extent_px(&self) -> f64 {
        let mut extent = 0.0f64;
        for axis in 0..2 {
            let coordinates = || self.points.iter().map(|point| point[axis]);
            let low = coordinates().fold(f64::INFINITY, f64::min);
            let high = coordinates().fold(f64::NEG_INFINITY, f64::max);
            extent = extent.max(high - low);
        }
        extent
    }

    /// Mean position over time in px, each segment of the path counted at its middle.
    pub fn centroid(&self) -> [f64; 2] {
        let mut sum = [0.0; 2];
        for segment in self.points.windows(2) {
            for axis in 0..2 {
                sum[axis] += 0.5 * (segment[0][axis] + segment[1][axis]);
            }
        }
        let segments = (self.points.len() - 1).max(1) as f64;
        [sum[0] / segments, sum[1] / segments]
    }

    /// The same shape with the given extent in px. A path that does not move cannot be scaled and is kept.
    pub fn scaled_to(mut self, extent_px: f64) -> Self {
        let extent = self.extent_px();
        if extent > 1e-12 {
            let factor = extent_px / extent;
            for point in &mut self.points {
                *point = [point[0] * factor, point[1] * factor];
            }
        }
        self
    }

    /// Moved to zero centroid, so that blurring does not shift the image against its sharp target.
    pub fn centred(mut self) -> Self {
        let centroid = self.centroid();
        for point in &mut self.points {
            *point = [point[0] - centroid[0], point[1] - centroid[1]];
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::sample_rng;
    use super::*;

    #[test]
    fn extent_is_honoured_and_centroid_is_zero() {
        for index in 0..200 {
            let mut rng = sample_rng(7, index);
            let extent = uniform(&mut rng, 0.5, 40.0);
            for path in [
                Trajectory::shake(&mut rng, extent),
                Trajectory::pan(&mut rng, extent),
            ] {
                assert!((path.extent_px() - extent).abs() < 1e-9);
                let centroid = path.centroid();
                assert!(
                    centroid[0].abs() < 1e-9 && centroid[1].abs() < 1e-9,
                    "{centroid:?}"
                );
            }
        }
    }

    #[test]
    fn equal_times_lie_on_the_path() {
        let path = Trajectory {
            points: vec![[0.0, 0.0], [2.0, 0.0], [2.0, 4.0]],
        };
        assert_eq!(
            path.at_equal_times(4),
            [[0.5, 0.0], [1.5, 0.0], [2.0, 1.0], [2.0, 3.0]]
        );
        assert_eq!(path.longest_step_px(), 4.0);
        let rest = Trajectory {
            points: vec![[3.0, 1.0]],
        };
        assert_eq!(rest.at_equal_times(2), [[3.0, 1.0]; 2]);
    }

    #[test]
    fn a_calm_hand_draws_a_straight_line() {
        let calm = CameraShake {
            gaussian: 0.0,
            impulses: 0.0,
            centripetal: 0.0,
            exposure: 1.0,
        };
        let path = calm.trajectory(&mut sample_rng(1, 1));
        let [first, last] = [path.points[0], path.points[path.points.len() - 1]];
        let chord = ((last[0] - first[0]).powi(2) + (last[1] - first[1]).powi(2)).sqrt();
        assert!((chord - 1.0).abs() < 1e-9, "{chord}");
    }

    #[test]
    fn exposure_shortens_the_path() {
        let half = CameraShake {
            gaussian: 1.0,
            impulses: 1.0,
            centripetal: 50.0,
            exposure: 0.5,
        };
        assert_eq!(half.trajectory(&mut sample_rng(1, 2)).points.len(), STEPS / 2 + 1);
    }
}
