//! Blur kernels: a trajectory rendered to the pixel grid with sub-pixel precision, kept as a sparse list of
//! taps.

use std::ops::Add;

use serde::Serialize;

use super::trajectory::Trajectory;

/// Longest step between two samples of a path while it is rendered, in px; shorter than the bilinear foot by
/// far.
const STEP_PX: f64 = 0.2;

/// One non-zero entry of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tap {
    /// Offset to the right in px.
    pub dx: i32,
    /// Offset downwards in px.
    pub dy: i32,
    /// Share of the light that lands there.
    pub weight: f32,
}

/// Point spread function: a white dot at the origin is imaged as `weight` at every `(dx, dy)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    taps: Vec<Tap>,
}

/// Room a kernel needs around an output window, in px.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Margins {
    /// Columns left of the window.
    pub left: usize,
    /// Columns right of the window.
    pub right: usize,
    /// Rows above the window.
    pub top: usize,
    /// Rows below the window.
    pub bottom: usize,
}

impl Add for Margins {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            left: self.left + other.left,
            right: self.right + other.right,
            top: self.top + other.top,
            bottom: self.bottom + other.bottom,
        }
    }
}

impl Kernel {
    /// Renders a path: every moment of the exposure spreads its light bilinearly over the four pixels around
    /// it.
    ///
    /// Bilinear spreading keeps the centroid, and the weights are normalised in float64, so they sum to one
    /// up to the rounding of the single float32 weights.
    ///
    /// # Panics
    /// If the trajectory has no points or one that is not finite.
    pub fn render(trajectory: &Trajectory) -> Self {
        let points = &trajectory.points;
        assert!(!points.is_empty(), "a trajectory has at least one point");
        assert!(
            points.iter().flatten().all(|v| v.is_finite()),
            "a trajectory is finite"
        );
        let floor = |axis: usize| {
            points
                .iter()
                .map(|p| p[axis])
                .fold(f64::INFINITY, f64::min)
                .floor() as i32
        };
        let ceil = |axis: usize| {
            points
                .iter()
                .map(|p| p[axis])
                .fold(f64::NEG_INFINITY, f64::max)
                .floor() as i32
                + 1
        };
        let (left, top) = (floor(0), floor(1));
        let width = (ceil(0) - left + 1) as usize;
        let height = (ceil(1) - top + 1) as usize;
        let mut grid = vec![0.0f64; width * height];
        let mut splat = |x: f64, y: f64, light: f64| {
            let (column, row) = (x.floor(), y.floor());
            let (fx, fy) = (x - column, y - row);
            let at = (row as i32 - top) as usize * width + (column as i32 - left) as usize;
            grid[at] += light * (1.0 - fx) * (1.0 - fy);
            grid[at + 1] += light * fx * (1.0 - fy);
            grid[at + width] += light * (1.0 - fx) * fy;
            grid[at + width + 1] += light * fx * fy;
        };
        if let [only] = points[..] {
            splat(only[0], only[1], 1.0);
        }
        for segment in points.windows(2) {
            let [from, to] = [segment[0], segment[1]];
            let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
            let parts = ((dx * dx + dy * dy).sqrt() / STEP_PX).ceil().max(1.0);
            for part in 0..parts as usize {
                let t = (part as f64 + 0.5) / parts;
                splat(from[0] + t * dx, from[1] + t * dy, 1.0 / parts);
            }
        }
        let total: f64 = grid.iter().sum();
        let taps = grid
            .iter()
            .enumerate()
            .filter(|(_, light)| **light > 0.0)
            .map(|(at, light)| Tap {
                dx: left + (at % width) as i32,
                dy: top + (at / width) as i32,
                weight: (light / total) as f32,
            });
        Self { taps: taps.collect() }
    }

    /// A disc, as a lens out of focus draws a point; its rim is smoothed over one pixel.
    ///
    /// # Panics
    /// If the radius is not finite.
    pub fn disc(radius_px: f64) -> Self {
        assert!(radius_px.is_finite(), "a radius is finite");
        let reach = (radius_px + 0.5).ceil() as i32;
        let light = |dx: i32, dy: i32| {
            let distance = f64::from(dx * dx + dy * dy).sqrt();
            (radius_px + 0.5 - distance).clamp(0.0, 1.0)
        };
        let offsets = || (-reach..=reach).flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy)));
        let total: f64 = offsets().map(|(dx, dy)| light(dx, dy)).sum();
        let taps = offsets()
            .filter(|&(dx, dy)| light(dx, dy) > 0.0)
            .map(|(dx, dy)| Tap {
                dx,
                dy,
                weight: (light(dx, dy) / total) as f32,
            });
        Self { taps: taps.collect() }
    }

    /// The taps, row by row, at most one for each offset.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Longer side of the box around the centres of all taps, in px.
    ///
    /// Bilinear spreading rounds both ends of a path outwards: this lies between the extent of the path and 2
    /// px more.
    pub fn extent_px(&self) -> f64 {
        let extent = |offset: fn(&Tap) -> i32| {
            let low = self.taps.iter().map(offset).min().unwrap_or(0);
            let high = self.taps.iter().map(offset).max().unwrap_or(0);
            f64::from(high - low)
        };
        extent(|tap| tap.dx).max(extent(|tap| tap.dy))
    }

    /// Mean offset `[x, y]` in px, weighted by light.
    pub fn centroid(&self) -> [f64; 2] {
        self.taps.iter().fold([0.0; 2], |[x, y], tap| {
            let weight = f64::from(tap.weight);
            [x + weight * f64::from(tap.dx), y + weight * f64::from(tap.dy)]
        })
    }

    /// Pixels that a convolution reads around its output window.
    pub fn margins(&self) -> Margins {
        let reach = |offset: fn(&Tap) -> i32| self.taps.iter().map(offset).max().unwrap_or(0).max(0) as usize;
        Margins {
            left: reach(|tap| tap.dx),
            right: reach(|tap| -tap.dx),
            top: reach(|tap| tap.dy),
            bottom: reach(|tap| -tap.dy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::{sample_rng, uniform};
    use super::*;

    fn kernels() -> impl Iterator<Item = (f64, Kernel)> {
        (0..200).flat_map(|index| {
            let mut rng = sample_rng(11, index);
            let extent = uniform(&mut rng, 0.5, 32.0);
            let shake = Trajectory::shake(&mut rng, extent);
            let pan = Trajectory::pan(&mut rng, extent);
            [(extent, Kernel::render(&shake)), (extent, Kernel::render(&pan))]
        })
    }

    #[test]
    fn weights_sum_to_one_and_the_centroid_is_zero() {
        for (_, kernel) in kernels() {
            let sum: f64 = kernel.taps().iter().map(|tap| f64::from(tap.weight)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            let [x, y] = kernel.centroid();
            assert!(x.abs() < 0.01 && y.abs() < 0.01, "{x} {y}");
        }
    }

    #[test]
    fn measured_extent_matches_the_requested_one() {
        for (requested, kernel) in kernels() {
            let measured = kernel.extent_px();
            // The path is sampled at the middles of steps of at most 0.2 px, so it may miss 0.1 px at each
            // end.
            assert!(
                (requested - 0.2..requested + 2.0).contains(&measured),
                "{requested} px rendered as {measured} px"
            );
        }
    }

    #[test]
    fn a_resting_camera_is_the_identity() {
        let kernel = Kernel::render(&Trajectory {
            points: vec![[0.0, 0.0]],
        });
        assert_eq!(
            kernel.taps(),
            [Tap {
                dx: 0,
                dy: 0,
                weight: 1.0
            }]
        );
        assert_eq!(kernel.margins(), Margins::default());
    }

    #[test]
    fn a_disc_is_round_even_and_centred() {
        for radius in [0.4, 1.0, 3.3, 8.0] {
            let disc = Kernel::disc(radius);
            let sum: f64 = disc.taps().iter().map(|tap| f64::from(tap.weight)).sum();
            assert!((sum - 1.0).abs() < 1e-5);
            assert!(disc.centroid().iter().all(|offset| offset.abs() < 1e-6));
            let even = disc.taps().iter().map(|tap| tap.weight).fold(0.0, f32::max);
            let area = 1.0 / f64::from(even);
            let expected = std::f64::consts::PI * radius * radius;
            assert!(
                radius < 1.0 || (area / expected - 1.0).abs() < 0.3,
                "{radius}: {area} {expected}"
            );
            assert!((disc.extent_px() - 2.0 * radius).abs() <= 1.0);
        }
    }

    #[test]
    fn a_pixel_wide_step_spreads_evenly() {
        let kernel = Kernel::render(&Trajectory {
            points: vec![[-0.5, 0.0], [0.5, 0.0]],
        });
        let weights: Vec<f32> = kernel.taps().iter().map(|tap| tap.weight).collect();
        assert_eq!(weights.len(), 3);
        assert!(
            (weights[0] - weights[2]).abs() < 1e-6 && (weights[1] - 0.75).abs() < 0.02,
            "{weights:?}"
        );
    }

    #[test]
    fn offsets_are_merged() {
        for (_, kernel) in kernels().take(20) {
            let mut offsets: Vec<_> = kernel.taps().iter().map(|tap| (tap.dy, tap.dx)).collect();
            let before = offsets.len();
            offsets.dedup();
            assert_eq!(before, offsets.len());
        }
    }
}
