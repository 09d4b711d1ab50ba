//! Crops in linear light: planar float32, read from 8-bit images with mirrored borders, resampled.

use std::borrow::Borrow;

use serde::Serialize;

use super::image::Image8;
use super::kernel::Margins;
use super::transfer::Response;

/// A crop as `[3, height, width]` float32, linear light, nominally in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// Width in px.
    pub width: usize,
    /// Height in px.
    pub height: usize,
    /// Values of the red plane, then green, then blue; rows packed.
    pub data: Vec<f32>,
}

/// A window on a source image, and the size at which it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Window {
    /// Column of the source where the window starts; may lie outside the image.
    pub x: i64,
    /// Row of the source where the window starts; may lie outside the image.
    pub y: i64,
    /// Output width in px.
    pub width: usize,
    /// Output height in px.
    pub height: usize,
    /// Output pixels for each source pixel, `(0, 1]`.
    pub scale: f64,
}

/// Source pixels read around a window that is resampled: the foot of the triangle filter at scale 1/2.
const FILTER_REACH: usize = 2;

impl Planes {
    /// Black planes.
    pub fn zeros(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: vec![0.0; 3 * width * height],
        }
    }

    /// Reads a window in linear light at the size it asks for.
    pub fn read(image: &Image8, window: &Window, response: Response) -> Self {
        Self::read_mean(&[image], window, response)
    }

    /// Reads the same window of several images of equal size and averages them in linear light.
    ///
    /// # Panics
    /// If `images` is empty.
    pub fn read_mean(images: &[impl Borrow<Image8>], window: &Window, response: Response) -> Self {
        assert!(!images.is_empty(), "a mean of no images");
        let source = window.source();
        let mut planes = Self::zeros(source.width, source.height);
        for image in images {
            planes.add(image.borrow(), source.x, source.y, response);
        }
        if images.len() > 1 {
            let share = 1.0 / images.len() as f32;
            planes.data.iter_mut().for_each(|value| *value *= share);
        }
        if window.scale < 1.0 {
            planes.resampled(window)
        } else {
            planes
        }
    }

    /// Adds the linear values of an image, mirrored at its borders, from source pixel `(x, y)` on.
    fn add(&mut self, image: &Image8, x: i64, y: i64, response: Response) {
        let tables = response.tables();
        let columns: Vec<usize> = (0..self.width)
            .map(|i| 3 * mirror(x + i as i64, image.width))
            .collect();
        let (red, rest) = self.data.split_at_mut(self.width * self.height);
        let (green, blue) = rest.split_at_mut(self.width * self.height);
        for j in 0..self.height {
            let row = image.row(mirror(y + j as i64, image.height));
            let at = j * self.width;
            let planes = red[at..].iter_mut().zip(&mut green[at..]).zip(&mut blue[at..]);
            for (&column, ((r, g), b)) in columns.iter().zip(planes) {
                let pixel = &row[column..column + 3];
                *r += tables.decode(pixel[0]);
                *g += tables.decode(pixel[1]);
                *b += tables.decode(pixel[2]);
            }
        }
    }

    /// The window at its own scale, from planes that hold its source with [`FILTER_REACH`] pixels around.
    /// Triangle filter as wide as an output pixel on each side: bilinear interpolation that averages where it
    /// shrinks.
    fn resampled(&self, window: &Window) -> Self {
        let columns = Feet::new(window.width, self.width, window.scale);
        let rows = Feet::new(window.height, self.height, window.scale);
        let mut narrow = vec![0.0f32; 3 * self.height * window.width];
        for (from, to) in self
            .data
            .chunks_exact(self.width)
            .zip(narrow.chunks_exact_mut(window.width))
        {
            for (value, (start, weights)) in to.iter_mut().zip(columns.iter()) {
                *value = from[start..].iter().zip(weights).map(|(v, w)| v * w).sum();
            }
        }
        let mut out = Self::zeros(window.width, window.height);
        for channel in 0..3 {
            for (j, (start, weights)) in rows.iter().enumerate() {
                let to = &mut out.data[(channel * window.height + j) * window.width..][..window.width];
                for (i, &weight) in weights.iter().enumerate() {
                    let from = &narrow[(channel * self.height + start + i) * window.width..][..window.width];
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(value, v)| *value += weight * v);
                }
            }
        }
        out
    }

    /// The part that starts at `(x, y)`.
    ///
    /// # Panics
    /// If it reaches outside.
    pub fn cropped(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let mut data = Vec::with_capacity(3 * width * height);
        for plane in self.data.chunks_exact(self.width * self.height) {
            for row in plane.chunks_exact(self.width).skip(y).take(height) {
                data.extend_from_slice(&row[x..x + width]);
            }
        }
        assert_eq!(data.len(), 3 * width * height, "the crop lies inside");
        Self { width, height, data }
    }

    /// Encoded values in `[0, 1]` as `[3, height, width]`; what exceeds the range is clipped, as a sensor
    /// does.
    pub fn encoded(&self, response: Response) -> Vec<f32> {
        let tables = response.tables();
        self.data.iter().map(|&linear| tables.encode(linear)).collect()
    }
}

/// Integer rectangle of source pixels.
struct SourceRect {
    x: i64,
    y: i64,
    width: usize,
    height: usize,
}

impl Window {
    /// The window with room around it.
    pub fn widened(&self, margins: Margins) -> Self {
        Self {
            x: self.x - self.at_source(margins.left),
            y: self.y - self.at_source(margins.top),
            width: self.width + margins.left + margins.right,
            height: self.height + margins.top + margins.bottom,
            ..*self
        }
    }

    /// Moved so that it and its margins lie inside a source of this size, if that is large enough.
    pub fn moved_inside(&self, margins: Margins, source: (usize, usize)) -> Self {
        // A resampling filter reads a little more than the window covers.
        let reach = if self.scale < 1.0 {
            self.source_reach() as i64
        } else {
            0
        };
        let axis = |at: i64, length: usize, before: usize, after: usize, limit: usize| {
            let low = self.at_source(before) + reach;
            let covered = ((length + after) as f64 / self.scale).ceil() as i64 + reach;
            let high = limit as i64 - covered;
            if low <= high { at.clamp(low, high) } else { at }
        };
        Self {
            x: axis(self.x, self.width, margins.left, margins.right, source.0),
            y: axis(self.y, self.height, margins.top, margins.bottom, source.1),
            ..*self
        }
    }

    /// Made smaller by its margins; for a window on a whole image.
    ///
    /// # Panics
    /// If nothing is left.
    pub fn narrowed(&self, margins: Margins) -> Self {
        let (across, down) = (margins.left + margins.right, margins.top + margins.bottom);
        assert!(
            self.width > across && self.height > down,
            "an image larger than its blur"
        );
        Self {
            x: self.x + self.at_source(margins.left),
            y: self.y + self.at_source(margins.top),
            width: self.width - across,
            height: self.height - down,
            ..*self
        }
    }

    fn at_source(&self, length: usize) -> i64 {
        (length as f64 / self.scale).round() as i64
    }

    /// Source pixels that the resampling filter reads around the window.
    fn source_reach(&self) -> usize {
        FILTER_REACH.max((1.0 / self.scale).ceil() as usize)
    }

    /// Source pixels that the window covers, with the reach of the filter where it is resampled.
    fn source(&self) -> SourceRect {
        if self.scale >= 1.0 {
            return SourceRect {
                x: self.x,
                y: self.y,
                width: self.width,
                height: self.height,
            };
        }
        // At scales below 1/2 the filter is wider.
        let reach = self.source_reach();
        let covered = |length: usize| (length as f64 / self.scale).ceil() as usize + 2 * reach;
        SourceRect {
            x: self.x - reach as i64,
            y: self.y - reach as i64,
            width: covered(self.width),
            height: covered(self.height),
        }
    }
}

/// Where each output pixel of one axis reads, and with which weights.
struct Feet {
    starts: Vec<usize>,
    weights: Vec<f32>,
    /// Weights for each output pixel.
    count: usize,
}

impl Feet {
    fn new(outputs: usize, inputs: usize, scale: f64) -> Self {
        let step = 1.0 / scale;
        let reach = FILTER_REACH.max(step.ceil() as usize);
        let count = (2.0 * step).ceil() as usize + 1;
        let mut feet = Self {
            starts: Vec::with_capacity(outputs),
            weights: Vec::new(),
            count,
        };
        for output in 0..outputs {
            let centre = (output as f64 + 0.5) * step - 0.5 + reach as f64;
            let start = ((centre - step).ceil() as usize).min(inputs - count);
            let weight = |i: usize| (1.0 - ((start + i) as f64 - centre).abs() * scale).max(0.0);
            let total: f64 = (0..count).map(weight).sum();
            feet.starts.push(start);
            feet.weights
                .extend((0..count).map(|i| (weight(i) / total) as f32));
        }
        feet
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.starts
            .iter()
            .copied()
            .zip(self.weights.chunks_exact(self.count))
    }
}

/// Index of an image line for any integer, mirrored at the borders without repeating them, as often as
/// needed.
fn mirror(index: i64, length: usize) -> usize {
    let last = length as i64 - 1;
    if last == 0 {
        return 0;
    }
    let phase = index.rem_euclid(2 * last);
    (if phase > last { 2 * last - phase } else { phase }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(x: i64, y: i64, side: usize, scale: f64) -> Window {
        Window {
            x,
            y,
            width: side,
            height: side,
            scale,
        }
    }

    #[test]
    fn mirror_reflects_as_often_as_needed() {
        let lines: Vec<usize> = (-4..8).map(|i| mirror(i, 3)).collect();
        assert_eq!(lines, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]);
        assert_eq!(mirror(-7, 1), 0);
    }

    #[test]
    fn reading_at_full_scale_gives_the_levels_back() {
        let image = Image8::new(5, 4, (0..60).map(|v| v * 4).collect()).unwrap();
        let planes = Planes::read(&image, &window(1, 1, 3, 1.0), Response::Srgb);
        let encoded = planes.encoded(Response::Srgb);
        for (channel, y, x) in [(0, 0, 0), (1, 2, 1), (2, 1, 2)] {
            let level = image.row(1 + y)[3 * (1 + x) + channel];
            assert!((encoded[(channel * 3 + y) * 3 + x] * 255.0 - f32::from(level)).abs() < 0.03);
        }
    }

    #[test]
    fn a_constant_stays_constant_at_every_scale() {
        let image = Image8::new(40, 30, vec![100; 3600]).unwrap();
        for scale in [0.3, 0.5, 0.61, 0.77, 0.99, 1.0] {
            let planes = Planes::read(&image, &window(-3, 2, 24, scale), Response::Gamma22);
            assert_eq!(planes.data.len(), 3 * 24 * 24);
            let expected = Response::Gamma22.tables().decode(100);
            assert!(
                planes.data.iter().all(|v| (v - expected).abs() < 1e-5),
                "scale {scale}"
            );
        }
    }

    #[test]
    fn shrinking_does_not_shift_a_ramp() {
        let ramp = (0..64 * 8).flat_map(|i| [(i % 64) as u8; 3]).collect();
        let image = Image8::new(64, 8, ramp).unwrap();
        let linear: Vec<f32> = (0..64)
            .map(|level| Response::Srgb.tables().decode(level))
            .collect();
        let planes = Planes::read(
            &image,
            &Window {
                x: 8,
                y: 0,
                width: 16,
                height: 4,
                scale: 0.5,
            },
            Response::Srgb,
        );
        for i in 0..16 {
            // Output pixel i lies between source pixels 8 + 2i and 9 + 2i; the curve is nearly straight over
            // 4 px.
            let expected = 0.5 * (linear[8 + 2 * i] + linear[9 + 2 * i]);
            assert!(
                (planes.data[i] - expected).abs() < 2e-4,
                "{i}: {} {expected}",
                planes.data[i]
            );
        }
    }
}
