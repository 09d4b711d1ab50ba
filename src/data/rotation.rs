//! Camera rotation during the exposure: blur that varies over the image.
//!
//! The model of Whyte et al. ("Non-uniform Deblurring for Shaken Images", 2012): a camera that turns by `R` about its
//! optical centre moves the image by the homography `K R K^-1` whatever the distance of the scene, `K` holding focal
//! length and principal point. The blurry image is the mean, in linear light, of the sharp one under the poses that the
//! camera passes through.

use rand_chacha::ChaCha8Rng;

use super::interpolate::{Filter, PHASES, REACH_AFTER, REACH_BEFORE};
use super::kernel::Margins;
use super::planes::Planes;
use super::trajectory::Trajectory;

/// Longest way of any pixel of the window between two poses, in px: closer than the eye can tell apart.
const STEP_PX: f64 = 0.7;

/// Poses at which a path is measured before it is known how many it needs.
const FINE: usize = 512;

/// A camera's path of rotations, seen from a window on its image.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Rotation vectors about the axes x (right), y (down) and z (forwards), equal times apart; their mean is zero. The
    /// tangent of half the angle, not the angle, is half the length: no sine is needed then.
    pub poses: Vec<[f64; 3]>,
    /// Focal length in px of the window.
    pub focal_px: f64,
    /// Principal point in px, from the centre of the window's first pixel.
    pub principal_point: [f64; 2],
}

/// Pixels of a row over which a homography is taken for straight.
const SPAN: usize = 16;

/// A homography, row by row.
type Homography = [[f64; 3]; 3];

impl Rotation {
    /// A camera shake of three angles: the way of the farthest-moving pixel of a `width` x `height` window has the
    /// given extent.
    ///
    /// `sideways` gives pitch and yaw; the first coordinate of `about` times `roll` gives the rotation about the
    /// optical axis.
    pub fn new(
        sideways: &Trajectory,
        about: &Trajectory,
        roll: f64,
        focal_px: f64,
        principal_point: [f64; 2],
        (width, height): (usize, usize),
        extent_px: f64,
    ) -> Self {
        let angles = |count: usize, factor: f64| {
            let (sideways, about) = (sideways.at_equal_times(count), about.at_equal_times(count));
            let poses = sideways.iter().zip(&about).map(|([x, y], [r, _])| {
                // Turning about y moves the image along x, and turning about x moves it against y.
                [-y, *x, r * roll].map(|angle| angle * factor)
            });
            Self {
                poses: centred(poses.collect()),
                focal_px,
                principal_point,
            }
        };
        let points = corners(width, height);
        let mut factor = extent_px / focal_px;
        // The way is nearly proportional to the angles, so two corrections are plenty.
        for _ in 0..3 {
            let path = angles(FINE, factor);
            let extent = points
                .iter()
                .map(|&point| path.way_of(point).extent_px())
                .fold(0.0, f64::max);
            if extent > 1e-9 {
                factor *= extent_px / extent;
            }
        }
        let path = angles(FINE, factor);
        let longest = points
            .iter()
            .map(|&point| path.way_of(point).longest_step_px())
            .fold(0.0, f64::max);
        angles((longest * FINE as f64 / STEP_PX).ceil().max(1.0) as usize, factor)
    }

    /// Draws a camera shake, or with `pan` a steady turn; arguments as for [`new`](Self::new).
    pub fn draw(
        rng: &mut ChaCha8Rng,
        pan: bool,
        roll: f64,
        focal_px: f64,
        principal_point: [f64; 2],
        size: (usize, usize),
        extent_px: f64,
    ) -> Self {
        let mut path = || {
            if pan {
                Trajectory::pan(rng, 1.0)
            } else {
                Trajectory::shake(rng, 1.0)
            }
        };
        let (sideways, about) = (path(), path());
        Self::new(
            &sideways,
            &about,
            roll,
            focal_px,
            principal_point,
            size,
            extent_px,
        )
    }

    /// The way of the light of one pixel over the image, relative to where it lies in the sharp image, in px.
    pub fn way_of(&self, point: [f64; 2]) -> Trajectory {
        let points = self.poses.iter().map(|&pose| {
            let [x, y] = apply(&self.homography(pose), point);
            [x - point[0], y - point[1]]
        });
        Trajectory {
            points: points.collect(),
        }
    }

    /// Room that the blur of a `width` x `height` window needs around it.
    pub fn margins(&self, (width, height): (usize, usize)) -> Margins {
        let mut low = [0.0f64; 2];
        let mut high = [0.0f64; 2];
        let last = [(width - 1) as f64, (height - 1) as f64];
        for &pose in &self.poses {
            let back = self.homography(pose.map(|angle| -angle));
            for corner in corners(width, height) {
                let read = apply(&back, corner);
                for axis in 0..2 {
                    low[axis] = low[axis].min(read[axis]);
                    high[axis] = high[axis].max(read[axis] - last[axis]);
                }
            }
        }
        let before = |way: f64| (-way).ceil() as usize + REACH_BEFORE;
        let after = |way: f64| way.ceil() as usize + REACH_AFTER;
        Margins {
            left: before(low[0]),
            right: after(high[0]),
            top: before(low[1]),
            bottom: after(high[1]),
        }
    }

    /// The mean of a `width` x `height` window under all poses, in linear light. `source` is that window with its
    /// [`margins`](Self::margins) around it.
    ///
    /// # Panics
    /// If `source` has another size.
    pub fn blur(&self, source: &Planes, (width, height): (usize, usize), filter: Filter) -> Planes {
        let margins = self.margins((width, height));
        assert_eq!(
            source.width,
            width + margins.left + margins.right,
            "the window with its margins"
        );
        assert_eq!(
            source.height,
            height + margins.top + margins.bottom,
            "the window with its margins"
        );
        let pixels = interleaved(source);
        let weights = filter.weights();
        let mut sums = vec![[0.0f32; 4]; width * height];
        for &pose in &self.poses {
            let back = self.homography(pose.map(|angle| -angle));
            let corner = [margins.left as f64, margins.top as f64];
            for (y, row) in sums.chunks_exact_mut(width).enumerate() {
                for (part, sums) in row.chunks_mut(SPAN).enumerate() {
                    let mut way = Span::new(&back, part * SPAN, y, corner);
                    for sum in sums {
                        let ((column, phase_x), (line, phase_y)) = way.next_place();
                        let first = (line - REACH_BEFORE) * source.width + column - REACH_BEFORE;
                        let across = &weights[phase_x];
                        for (j, down) in weights[phase_y].iter().enumerate() {
                            let four: &[[f32; 4]; 4] = pixels[first + j * source.width..]
                                .first_chunk()
                                .expect("inside the margins");
                            for channel in 0..4 {
                                let value = across[0] * four[0][channel]
                                    + across[1] * four[1][channel]
                                    + across[2] * four[2][channel]
                                    + across[3] * four[3][channel];
                                sum[channel] += down * value;
                            }
                        }
                    }
                }
            }
        }
        mean(&sums, self.poses.len(), width, height)
    }

    /// Where the homography of a pose moves a point of the sharp image: `K R K^-1`.
    fn homography(&self, pose: [f64; 3]) -> Homography {
        let rotation = rotation_matrix(pose);
        let [cx, cy] = self.principal_point;
        let f = self.focal_px;
        // K^-1 on the right, then K on the left.
        let right = rotation.map(|[a, b, c]| [a / f, b / f, c - (a * cx + b * cy) / f]);
        let row = |axis: usize, centre: f64| {
            std::array::from_fn(|column| f * right[axis][column] + centre * right[2][column])
        };
        [row(0, cx), row(1, cy), right[2]]
    }
}

/// Positions in the source of up to [`SPAN`] successive pixels of a row, in fixed point with 16 bits after the point. The
/// homography is evaluated at both ends; between them it is straight to a thousandth of a pixel.
struct Span {
    at: [i64; 2],
    step: [i64; 2],
}

impl Span {
    /// `corner` is where the window's first pixel lies in the source.
    fn new(back: &Homography, x: usize, y: usize, corner: [f64; 2]) -> Self {
        let fixed = |value: f64| (value * 65536.0).round() as i64;
        let first = apply(back, [x as f64, y as f64]);
        let end = apply(back, [(x + SPAN) as f64, y as f64]);
        Self {
            // Half of a phase more rounds to the nearest one.
            at: [0, 1].map(|axis| fixed(first[axis] + corner[axis]) + 65536 / (2 * PHASES as i64)),
            step: [0, 1].map(|axis| fixed((end[axis] - first[axis]) / SPAN as f64)),
        }
    }

    /// Column and row with their phases.
    #[inline]
    fn next_place(&mut self) -> ((usize, usize), (usize, usize)) {
        let place = |at: i64| ((at >> 16) as usize, at as usize % 65536 / (65536 / PHASES));
        let places = (place(self.at[0]), place(self.at[1]));
        self.at = [self.at[0] + self.step[0], self.at[1] + self.step[1]];
        places
    }
}

/// Rotation by the unit quaternion along `(1, v / 2)`.
fn rotation_matrix(vector: [f64; 3]) -> Homography {
    let [x, y, z] = vector.map(|part| 0.5 * part);
    let norm = 1.0 + x * x + y * y + z * z;
    let two = 2.0 / norm;
    [
        [1.0 - two * (y * y + z * z), two * (x * y - z), two * (x * z + y)],
        [two * (x * y + z), 1.0 - two * (x * x + z * z), two * (y * z - x)],
        [two * (x * z - y), two * (y * z + x), 1.0 - two * (x * x + y * y)],
    ]
}

#[inline]
fn apply(h: &Homography, [x, y]: [f64; 2]) -> [f64; 2] {
    let along = |row: &[f64; 3]| row[0] * x + row[1] * y + row[2];
    let scale = 1.0 / along(&h[2]);
    [along(&h[0]) * scale, along(&h[1]) * scale]
}

/// The corners of a window and its middle.
fn corners(width: usize, height: usize) -> [[f64; 2]; 5] {
    let (right, bottom) = ((width - 1) as f64, (height - 1) as f64);
    [
        [0.0, 0.0],
        [right, 0.0],
        [0.0, bottom],
        [right, bottom],
        [0.5 * right, 0.5 * bottom],
    ]
}

/// Zero mean for each angle, so that the sharp image lies where the blurry one has its centroid.
fn centred(mut poses: Vec<[f64; 3]>) -> Vec<[f64; 3]> {
    let count = poses.len() as f64;
    for axis in 0..3 {
        let mean = poses.iter().map(|pose| pose[axis]).sum::<f64>() / count;
        poses.iter_mut().for_each(|pose| pose[axis] -= mean);
    }
    poses
}

/// One pixel after the other, with a fourth value that is not used: the shape that vector units like.
fn interleaved(planes: &Planes) -> Vec<[f32; 4]> {
    let (red, rest) = planes.data.split_at(planes.width * planes.height);
    let (green, blue) = rest.split_at(planes.width * planes.height);
    red.iter()
        .zip(green)
        .zip(blue)
        .map(|((&r, &g), &b)| [r, g, b, 0.0])
        .collect()
}

fn mean(sums: &[[f32; 4]], count: usize, width: usize, height: usize) -> Planes {
    let share = 1.0 / count as f32;
    let channel = |c: usize| sums.iter().map(move |sum| sum[c] * share);
    Planes {
        width,
        height,
        data: (0..3).flat_map(channel).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::{sample_rng, uniform};
    use super::*;

    const SIZE: (usize, usize) = (96, 64);

    fn noise(width: usize, height: usize) -> Planes {
        let mut planes = Planes::zeros(width, height);
        let mut rng = sample_rng(1, 0);
        planes
            .data
            .iter_mut()
            .for_each(|value| *value = uniform(&mut rng, 0.0, 1.0) as f32);
        planes
    }

    fn with_margins(rotation: &Rotation) -> (Planes, Margins) {
        let margins = rotation.margins(SIZE);
        let (width, height) = (
            SIZE.0 + margins.left + margins.right,
            SIZE.1 + margins.top + margins.bottom,
        );
        (noise(width, height), margins)
    }

    fn drawn(index: u64, roll: f64, extent_px: f64) -> Rotation {
        Rotation::draw(
            &mut sample_rng(5, index),
            index.is_multiple_of(3),
            roll,
            400.0,
            [120.0, -30.0],
            SIZE,
            extent_px,
        )
    }

    #[test]
    fn extent_steps_and_centroid_are_as_asked() {
        for index in 0..40 {
            let rotation = drawn(index, index as f64 / 8.0, 20.0);
            let ways = corners(SIZE.0, SIZE.1).map(|point| rotation.way_of(point));
            let extent = ways.iter().map(Trajectory::extent_px).fold(0.0, f64::max);
            assert!((extent - 20.0).abs() < 0.7, "{extent}");
            for way in ways {
                assert!(way.longest_step_px() < 0.75, "{}", way.longest_step_px());
                let count = way.points.len() as f64;
                for axis in 0..2 {
                    let mean = way.points.iter().map(|point| point[axis]).sum::<f64>() / count;

                    assert!(mean.abs() < 0.25, "sample {index}: shifted by {mean} px");
                }
            }
        }
    }

    #[test]
    fn a_path_that_starts_at_its_truth_is_centred() {
        let away = Trajectory {
            points: vec![[0.0, 0.0], [1.0, 0.5]],
        };
        let rotation = Rotation::new(&away, &away, 0.5, 400.0, [48.0, 32.0], SIZE, 10.0);
        let way = rotation.way_of([48.0, 32.0]);
        let mean = way.points.iter().map(|point| point[0]).sum::<f64>() / way.points.len() as f64;
        assert!(mean.abs() < 0.05, "{mean}");
    }

    #[test]
    fn a_camera_at_rest_leaves_the_picture_alone() {
        let rest = Rotation {
            poses: vec![[0.0; 3]; 7],
            focal_px: 400.0,
            principal_point: [30.0, 20.0],
        };
        let (source, margins) = with_margins(&rest);
        let sharp = source.cropped(margins.left, margins.top, SIZE.0, SIZE.1);
        for filter in [Filter::CatmullRom, Filter::Bilinear] {
            let blurry = rest.blur(&source, SIZE, filter);
            let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-6;
            assert!(!blurry.data.iter().zip(&sharp.data).any(differs));
        }
    }

    #[test]
    fn a_turn_about_the_axis_leaves_the_principal_point_in_place() {
        let turn = Rotation {
            poses: vec![[0.0, 0.0, 0.1]],
            focal_px: 300.0,
            principal_point: [40.0, 30.0],
        };
        assert!(
            turn.way_of([40.0, 30.0]).points[0]
                .iter()
                .all(|way| way.abs() < 1e-9)
        );
        let [x, y] = turn.way_of([50.0, 30.0]).points[0];
        assert!(x.abs() < 0.06 && (y - 1.0).abs() < 0.01, "{x} {y}");
        let sideways = Rotation {
            poses: vec![[0.0, 0.01, 0.0]],
            ..turn
        };
        let [x, y] = sideways.way_of([40.0, 30.0]).points[0];
        assert!((x - 3.0).abs() < 0.01 && y.abs() < 1e-9, "{x} {y}");
    }

    #[test]
    fn a_dot_turns_into_its_way() {
        let rotation = drawn(4, 2.0, 12.0);
        let (mut source, margins) = with_margins(&rotation);
        source.data.fill(0.0);
        source.data[(margins.top + 30) * source.width + margins.left + 40] = 1.0;
        let blurry = rotation.blur(&source, SIZE, Filter::Bilinear);
        let way = rotation.way_of([40.0, 30.0]);
        let light: f32 = blurry.data.iter().sum();
        assert!((light - 1.0).abs() < 0.02, "{light}");
        for axis in 0..2 {
            let expected = way.points.iter().map(|point| point[axis]).sum::<f64>() / way.points.len() as f64;
            let place = |i: usize| {
                if axis == 0 {
                    (i % SIZE.0) as f64 - 40.0
                } else {
                    (i / SIZE.0) as f64 - 30.0
                }
            };
            let found: f64 = blurry
                .data
                .iter()
                .enumerate()
                .map(|(i, v)| f64::from(*v) * place(i))
                .sum();
            assert!((found - expected).abs() < 0.1, "{found} {expected}");
        }
    }
}
