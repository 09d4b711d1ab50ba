//! Moving objects in front of a background: blur that jumps at their outlines.
//!
//! At every moment of the exposure the objects, each with a soft mask, are laid over the background where their own
//! paths have brought them; the mean of those moments in linear light is the blurry image. For a background at rest that
//! equals `K * (alpha F) + (1 - K * alpha) B`, the usual layered model (Levin, "Blind Motion Deblurring Using Image
//! Statistics", 2006); with both in motion only the mean over time is exact.

use super::blob::Blob;
use super::interpolate::{Filter, REACH_AFTER, REACH_BEFORE, split};
use super::kernel::Margins;
use super::planes::Planes;
use super::trajectory::Trajectory;

/// Longest way of any layer between two moments, in px.
const STEP_PX: f64 = 0.7;

/// Transparent pixels around an object, so that interpolation at its edge finds nothing.
const BORDER: usize = REACH_BEFORE + REACH_AFTER;

/// Paths of the layers during one exposure.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// Where the background is at each moment, in px; zero in the mean.
    background: Vec<[f64; 2]>,
    /// The same for each object, from back to front.
    objects: Vec<Vec<[f64; 2]>>,
}

/// What an object looks like.
#[derive(Clone, Debug)]
pub struct Object {
    /// Column of the window where the object's picture starts; may lie outside.
    pub x: i64,
    /// Row of the window where it starts.
    pub y: i64,
    /// Red, green and blue in linear light, times opacity.
    colour: Planes,
    /// Opacity, 0 to 1.
    alpha: Vec<f32>,
}

impl Layers {
    /// Samples all paths at the same moments, as many as the fastest one needs.
    pub fn new(background: &Trajectory, objects: &[&Trajectory]) -> Self {
        let way = |path: &&Trajectory| path.longest_step_px() * (path.points.len() - 1) as f64;
        let longest = objects.iter().chain([&background]).map(way).fold(0.0, f64::max);
        let moments = (longest / STEP_PX).ceil().max(1.0) as usize;
        let sampled = |path: &Trajectory| {
            let mut points = path.at_equal_times(moments);
            let sum = points
                .iter()
                .fold([0.0; 2], |sum, point| [sum[0] + point[0], sum[1] + point[1]]);
            for point in &mut points {
                *point = [
                    point[0] - sum[0] / moments as f64,
                    point[1] - sum[1] / moments as f64,
                ];
            }
            points
        };
        Self {
            background: sampled(background),
            objects: objects.iter().map(|path| sampled(path)).collect(),
        }
    }

    /// Room that the background needs around the window.
    pub fn margins(&self) -> Margins {
        let most = |sign: f64, axis: usize| {
            let ways = self.background.iter().map(|point| sign * point[axis]);
            ways.fold(0.0, f64::max).ceil() as usize
        };
        // What lies left of the window is seen when the background moves to the right.
        Margins {
            left: most(1.0, 0) + REACH_BEFORE,
            right: most(-1.0, 0) + REACH_AFTER,
            top: most(1.0, 1) + REACH_BEFORE,
            bottom: most(-1.0, 1) + REACH_AFTER,
        }
    }

    /// The mean over the exposure. `background` is the window with [`margins`](Self::margins) around it; objects are
    /// placed on the window.
    ///
    /// # Panics
    /// If there are more or fewer objects than paths.
    pub fn blur(&self, background: &Planes, objects: &[Object], filter: Filter) -> Planes {
        assert_eq!(objects.len(), self.objects.len(), "a path for each object");
        let mut sums: Option<Planes> = None;
        for (moment, &place) in self.background.iter().enumerate() {
            let mut view = self.background_at(background, place, filter);
            for (object, path) in objects.iter().zip(&self.objects) {
                object.lay_over(&mut view, path[moment], filter);
            }
            match &mut sums {
                Some(sums) => sums
                    .data
                    .iter_mut()
                    .zip(&view.data)
                    .for_each(|(sum, value)| *sum += value),
                None => sums = Some(view),
            }
        }
        let mut mean = sums.expect("at least one moment");
        if self.background.len() > 1 {
            let share = 1.0 / self.background.len() as f32;
            mean.data.iter_mut().for_each(|value| *value *= share);
        }
        mean
    }

    /// The truth: every layer where it is in the mean over the exposure.
    pub fn sharp(&self, background: &Planes, objects: &[Object]) -> Planes {
        let mut view = self.background_at(background, [0.0; 2], Filter::CatmullRom);
        for object in objects {
            object.lay_over(&mut view, [0.0; 2], Filter::CatmullRom);
        }
        view
    }

    fn background_at(&self, source: &Planes, [dx, dy]: [f64; 2], filter: Filter) -> Planes {
        let Margins {
            left,
            right,
            top,
            bottom,
        } = self.margins();
        let (width, height) = (source.width - left - right, source.height - top - bottom);
        let shift = Shift::to([left as f64 - dx, top as f64 - dy], filter);
        let mut out = Planes::zeros(width, height);
        let planes = source.data.chunks_exact(source.width * source.height);
        for (from, to) in planes.zip(out.data.chunks_exact_mut(width * height)) {
            shift.read(from, source.width, to, width);
        }
        out
    }
}

impl Object {
    /// Cuts an object of the given shape out of `picture`, whose middle it takes; `picture` has the side
    /// [`side`](Self::side). `centre` is where the object's middle lies in the window, in whole px.
    ///
    /// # Panics
    /// If the picture has another size.
    pub fn cut(mut picture: Planes, blob: &Blob, centre: [i64; 2]) -> Self {
        let side = Self::side(blob);
        assert_eq!(
            (picture.width, picture.height),
            (side, side),
            "a picture of the object's size"
        );
        let middle = (side / 2) as i64;
        let place = |i: usize| (i as i64 - middle) as f64;
        let alpha: Vec<f32> = (0..side * side)
            .map(|i| blob.alpha(place(i % side), place(i / side)) as f32)
            .collect();
        for plane in picture.data.chunks_exact_mut(side * side) {
            plane
                .iter_mut()
                .zip(&alpha)
                .for_each(|(value, alpha)| *value *= alpha);
        }
        Self {
            x: centre[0] - middle,
            y: centre[1] - middle,
            colour: picture,
            alpha,
        }
    }

    /// Side of the picture that an object of this shape is cut out of, in px.
    pub fn side(blob: &Blob) -> usize {
        2 * (blob.reach_px().ceil() as usize + BORDER) + 1
    }

    /// Lays the object, moved by `way`, over a view of the scene.
    fn lay_over(&self, view: &mut Planes, way: [f64; 2], filter: Filter) {
        // The part of the view that reads nothing from outside the object's picture; beyond it all is transparent.
        let side = self.colour.width;
        let (x0, y0) = (self.x + way[0].floor() as i64, self.y + way[1].floor() as i64);
        let range = |start: i64, limit: usize| {
            let limit = limit as i64;
            let first = (start + REACH_BEFORE as i64 + 1).clamp(0, limit);
            (first, (start + (side - REACH_AFTER) as i64).clamp(first, limit))
        };
        let ((left, right), (top, bottom)) = (range(x0, view.width), range(y0, view.height));
        let (width, height) = ((right - left) as usize, (bottom - top) as usize);
        if width == 0 || height == 0 {
            return;
        }
        let shift = Shift::to(
            [
                left as f64 - self.x as f64 - way[0],
                top as f64 - self.y as f64 - way[1],
            ],
            filter,
        );
        let mut alpha = vec![0.0f32; width * height];
        shift.read(&self.alpha, side, &mut alpha, width);
        let mut colour = vec![0.0f32; width * height];
        let view_width = view.width;
        for (channel, plane) in view.data.chunks_exact_mut(view.width * view.height).enumerate() {
            shift.read(
                &self.colour.data[channel * side * side..][..side * side],
                side,
                &mut colour,
                width,
            );
            let rows = colour.chunks_exact(width).zip(alpha.chunks_exact(width));
            for (j, (colour, alpha)) in rows.enumerate() {
                let row = &mut plane[(top as usize + j) * view_width + left as usize..][..width];
                for ((value, colour), alpha) in row.iter_mut().zip(colour).zip(alpha) {
                    *value = *value * (1.0 - alpha) + colour;
                }
            }
        }
    }
}

/// Reading a plane at positions that all have the same phase.
struct Shift {
    column: i64,
    row: i64,
    across: [f32; 4],
    down: [f32; 4],
}

impl Shift {
    /// The first pixel read lies at `(x, y)` of the source.
    fn to([x, y]: [f64; 2], filter: Filter) -> Self {
        let ((column, phase_x), (row, phase_y)) = (split(x), split(y));
        Self {
            column: column - REACH_BEFORE as i64,
            row: row - REACH_BEFORE as i64,
            across: filter.weights()[phase_x],
            down: filter.weights()[phase_y],
        }
    }

    /// Fills `to`, rows of `width`, from a plane with rows of `from_width`.
    fn read(&self, from: &[f32], from_width: usize, to: &mut [f32], width: usize) {
        let height = to.len() / width;
        let lines = height + REACH_BEFORE + REACH_AFTER;
        let mut narrow = vec![0.0f32; lines * width];
        let [a, b, c, d] = self.across;
        for (j, out) in narrow.chunks_exact_mut(width).enumerate() {
            let start = (self.row + j as i64) * from_width as i64 + self.column;
            let row = &from[start as usize..][..width + 3];
            if self.across == [0.0, 1.0, 0.0, 0.0] {
                out.copy_from_slice(&row[1..=width]);
                continue;
            }
            for (i, value) in out.iter_mut().enumerate() {
                *value = a * row[i] + b * row[i + 1] + c * row[i + 2] + d * row[i + 3];
            }
        }
        let [a, b, c, d] = self.down;
        for (j, out) in to.chunks_exact_mut(width).enumerate() {
            let row = |i: usize| &narrow[(j + i) * width..][..width];
            let (above, at, below, next) = (row(0), row(1), row(2), row(3));
            if self.down == [0.0, 1.0, 0.0, 0.0] {
                out.copy_from_slice(at);
                continue;
            }
            for (i, value) in out.iter_mut().enumerate() {
                *value = a * above[i] + b * at[i] + c * below[i] + d * next[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::blur::convolve;
    use super::super::kernel::Kernel;
    use super::super::random::{sample_rng, uniform};
    use super::*;

    const REST: [[f64; 2]; 2] = [[0.0, 0.0]; 2];

    fn noise(width: usize, height: usize, seed: u64) -> Planes {
        let mut planes = Planes::zeros(width, height);
        let mut rng = sample_rng(seed, 0);
        planes
            .data
            .iter_mut()
            .for_each(|value| *value = uniform(&mut rng, 0.1, 0.9) as f32);
        planes
    }

    fn path(points: &[[f64; 2]]) -> Trajectory {
        Trajectory {
            points: points.to_vec(),
        }
    }

    fn object(seed: u64, centre: [i64; 2]) -> Object {
        let blob = Blob::draw(&mut sample_rng(seed, 1), 11.0);
        let side = Object::side(&blob);
        Object::cut(noise(side, side, seed), &blob, centre)
    }

    fn room(layers: &Layers, width: usize, height: usize) -> Planes {
        let margins = layers.margins();
        noise(
            width + margins.left + margins.right,
            height + margins.top + margins.bottom,
            9,
        )
    }

    #[test]
    fn a_scene_at_rest_is_its_own_truth() {
        let rest = path(&REST);
        let layers = Layers::new(&rest, &[&rest, &rest]);
        let objects = [object(1, [20, 20]), object(2, [50, 3])];
        let background = room(&layers, 64, 48);
        let blurry = layers.blur(&background, &objects, Filter::CatmullRom);
        assert_eq!(blurry, layers.sharp(&background, &objects));
        assert_ne!(blurry, layers.sharp(&background, &[]));
    }

    #[test]
    fn in_front_of_a_still_background_the_layered_equation_holds() {
        // K * (alpha F) + (1 - K * alpha) B with the kernel of the path.
        let rest = path(&REST);
        let way = path(&[[-6.0, -2.0], [6.0, 2.0]]);
        let layers = Layers::new(&rest, &[&way]);
        let object = object(3, [64, 48]);
        let background = room(&layers, 128, 96);
        let blurry = layers.blur(&background, std::slice::from_ref(&object), Filter::Bilinear);

        let kernel = Kernel::render(&way);
        let margins = kernel.margins();
        let (width, height) = (
            128 + margins.left + margins.right,
            96 + margins.top + margins.bottom,
        );
        let mut colour = Planes::zeros(width, height);
        let mut alpha = Planes::zeros(width, height);
        let side = object.colour.width;
        for i in 0..side * side {
            let x = (object.x + (i % side) as i64 + margins.left as i64) as usize;
            let y = (object.y + (i / side) as i64 + margins.top as i64) as usize;
            for channel in 0..3 {
                let at = (channel * height + y) * width + x;
                colour.data[at] = object.colour.data[channel * side * side + i];
                alpha.data[at] = object.alpha[i];
            }
        }
        let (colour, alpha) = (convolve(&colour, &kernel), convolve(&alpha, &kernel));
        let still = layers.sharp(&background, &[]);
        let mut largest = 0.0f32;
        for i in 0..still.data.len() {
            let expected = colour.data[i] + (1.0 - alpha.data[i]) * still.data[i];
            largest = largest.max((expected - blurry.data[i]).abs());
        }
        // The two sample the same path at different moments.
        assert!(largest < 0.02, "{largest}");
    }

    #[test]
    fn an_object_like_its_background_is_invisible() {
        // No dark or bright halo: opacity and colour are interpolated alike.
        let way = path(&[[-5.0, 3.0], [5.0, -3.0]]);
        let layers = Layers::new(&path(&REST), &[&way]);
        let mut background = room(&layers, 64, 48);
        background.data.fill(0.5);
        let blob = Blob::draw(&mut sample_rng(8, 1), 12.0);
        let mut picture = noise(Object::side(&blob), Object::side(&blob), 1);
        picture.data.fill(0.5);
        let object = Object::cut(picture, &blob, [30, 20]);
        let blurry = layers.blur(&background, &[object], Filter::CatmullRom);
        assert!(blurry.data.iter().all(|value| (value - 0.5).abs() < 1e-5));
    }

    #[test]
    fn objects_may_leave_the_window() {
        let way = path(&[[-40.0, 0.0], [40.0, 0.0]]);
        let layers = Layers::new(&way, &[&way, &way]);
        for centre in [[-30, -30], [0, 0], [63, 47], [100, 20]] {
            let objects = [object(1, centre), object(2, [centre[1], centre[0]])];
            let blurry = layers.blur(&room(&layers, 64, 48), &objects, Filter::CatmullRom);
            assert_eq!((blurry.width, blurry.height), (64, 48));
        }
    }
}
