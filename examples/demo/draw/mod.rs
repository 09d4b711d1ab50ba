//! A small anti-aliased rasteriser in linear light: shapes are signed distances in pixels, paints are functions of the
//! position. Just what the scene of this example needs.

pub mod font;
pub mod texture;

use std::ops::{Add, Mul};

use rayon::prelude::*;

/// A colour in linear light, 1.0 = white of the display.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rgb(pub f32, pub f32, pub f32);

impl Rgb {
    /// `0xRRGGBB` as painters write it, in sRGB.
    pub fn hex(code: u32) -> Rgb {
        let channel = |shift: u32| srgb_to_linear(((code >> shift) & 0xff) as f32 / 255.0);
        Rgb(channel(16), channel(8), channel(0))
    }

    pub fn lerp(self, other: Rgb, t: f32) -> Rgb {
        self * (1.0 - t) + other * t
    }
}

impl Mul<f32> for Rgb {
    type Output = Rgb;
    fn mul(self, k: f32) -> Rgb {
        Rgb(self.0 * k, self.1 * k, self.2 * k)
    }
}

impl Add for Rgb {
    type Output = Rgb;
    fn add(self, other: Rgb) -> Rgb {
        Rgb(self.0 + other.0, self.1 + other.1, self.2 + other.2)
    }
}

pub fn srgb_to_linear(v: f32) -> f32 {
    if v <= 0.04045 {
        v / 12.92
    } else {
        ((v + 0.055) / 1.055).powf(2.4)
    }
}

pub fn linear_to_srgb(v: f32) -> f32 {
    let v = v.clamp(0.0, 1.0);
    if v <= 0.003_130_8 {
        v * 12.92
    } else {
        1.055 * v.powf(1.0 / 2.4) - 0.055
    }
}

/// Smooth step from 0 at `a` to 1 at `b`; `a` may be the larger one.
pub fn smoothstep(a: f32, b: f32, v: f32) -> f32 {
    let t = ((v - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

type Distance = Box<dyn Fn(f32, f32) -> f32 + Send + Sync>;

/// The signed distance in pixels to an outline (negative inside) and the box that holds it.
pub struct Shape {
    /// Left, top, right, bottom.
    bounds: [f32; 4],
    distance: Distance,
}

impl Shape {
    pub fn new(bounds: [f32; 4], distance: impl Fn(f32, f32) -> f32 + Send + Sync + 'static) -> Shape {
        Shape {
            bounds,
            distance: Box::new(distance),
        }
    }

    pub fn rect(x: f32, y: f32, w: f32, h: f32) -> Shape {
        Shape::rounded(x, y, w, h, 0.0)
    }

    pub fn rounded(x: f32, y: f32, w: f32, h: f32, radius: f32) -> Shape {
        let (cx, cy, hw, hh) = (x + w / 2.0, y + h / 2.0, w / 2.0 - radius, h / 2.0 - radius);
        Shape::new([x, y, x + w, y + h], move |px, py| {
            let (dx, dy) = ((px - cx).abs() - hw, (py - cy).abs() - hh);
            dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
        })
    }

    pub fn circle(cx: f32, cy: f32, r: f32) -> Shape {
        Shape::new([cx - r, cy - r, cx + r, cy + r], move |x, y| {
            (x - cx).hypot(y - cy) - r
        })
    }

    pub fn ring(cx: f32, cy: f32, r: f32, width: f32) -> Shape {
        let reach = r + width / 2.0;
        Shape::new([cx - reach, cy - reach, cx + reach, cy + reach], move |x, y| {
            ((x - cx).hypot(y - cy) - r).abs() - width / 2.0
        })
    }

    /// An ellipse whose first axis is turned by `angle` radians; its distance is exact to first order at the outline.
    pub fn ellipse(cx: f32, cy: f32, rx: f32, ry: f32, angle: f32) -> Shape {
        let (sin, cos) = angle.sin_cos();
        let reach = rx.max(ry);
        Shape::new([cx - reach, cy - reach, cx + reach, cy + reach], move |x, y| {
            let (dx, dy) = (x - cx, y - cy);
            let (u, v) = ((dx * cos + dy * sin) / rx, (dy * cos - dx * sin) / ry);
            let norm = u.hypot(v).max(1e-4);
            (norm - 1.0) * norm / (u / rx).hypot(v / ry).max(1e-6)
        })
    }

    /// A line with round ends.
    pub fn line(from: (f32, f32), to: (f32, f32), width: f32) -> Shape {
        let half = width / 2.0;
        let bounds = [
            from.0.min(to.0) - half,
            from.1.min(to.1) - half,
            from.0.max(to.0) + half,
            from.1.max(to.1) + half,
        ];
        Shape::new(bounds, move |x, y| segment_distance((x, y), from, to) - half)
    }

    pub fn polygon(points: &[(f32, f32)]) -> Shape {
        let points = points.to_vec();
        let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        for &(x, y) in &points {
            bounds = [
                bounds[0].min(x),
                bounds[1].min(y),
                bounds[2].max(x),
                bounds[3].max(y),
            ];
        }
        Shape::new(bounds, move |x, y| {
            let mut nearest = f32::MAX;
            let mut inside = false;
            for (i, &a) in points.iter().enumerate() {
                let b = points[(i + 1) % points.len()];
                nearest = nearest.min(segment_distance((x, y), a, b));
                if (a.1 > y) != (b.1 > y) && x < (b.0 - a.0) * (y - a.1) / (b.1 - a.1) + a.0 {
                    inside = !inside;
                }
            }
            if inside { -nearest } else { nearest }
        })
    }

    /// The part of this shape that lies in `other` as well.
    pub fn within(self, other: Shape) -> Shape {
        let (a, b) = (self.bounds, other.bounds);
        let bounds = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
        Shape::new(bounds, move |x, y| {
            (self.distance)(x, y).max((other.distance)(x, y))
        })
    }
}

/// Distance from `p` to the segment between `a` and `b`.
pub fn segment_distance(p: (f32, f32), a: (f32, f32), b: (f32, f32)) -> f32 {
    let (abx, aby) = (b.0 - a.0, b.1 - a.1);
    let (apx, apy) = (p.0 - a.0, p.1 - a.1);
    let t = ((apx * abx + apy * aby) / (abx * abx + aby * aby).max(1e-9)).clamp(0.0, 1.0);
    (apx - t * abx).hypot(apy - t * aby)
}

/// Premultiplied RGBA in linear light, row by row; a fresh one is transparent.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<[f32; 4]>,
}

impl Canvas {
    pub fn new(width: usize, height: usize) -> Canvas {
        Canvas {
            width,
            height,
            pixels: vec![[0.0; 4]; width * height],
        }
    }

    /// Paints `shape`, with the anti-aliased edge one pixel wide.
    pub fn fill(&mut self, shape: &Shape, paint: impl Fn(f32, f32) -> Rgb + Sync) {
        self.blend(shape, 0.5, |x, y| {
            let Rgb(r, g, b) = paint(x, y);
            [r, g, b, 1.0]
        });
    }

    pub fn fill_solid(&mut self, shape: &Shape, colour: Rgb) {
        self.fill(shape, |_, _| colour);
    }

    /// Darkens by `amount` (0..=1) inside `shape`, with an edge that is `2 * softness` pixels wide.
    pub fn shadow(&mut self, shape: &Shape, softness: f32, amount: f32) {
        self.blend(shape, softness.max(0.5), |_, _| [0.0, 0.0, 0.0, amount]);
    }

    /// Lays light of `colour` with opacity `amount` over `shape`: a glow, a reflection or a highlight.
    pub fn glow(&mut self, shape: &Shape, softness: f32, colour: Rgb, amount: f32) {
        self.blend(shape, softness.max(0.5), |_, _| {
            [colour.0, colour.1, colour.2, amount]
        });
    }

    /// `paint` gives straight RGB and alpha; coverage falls from 1 to 0 within `softness` either side of the outline.
    fn blend(&mut self, shape: &Shape, softness: f32, paint: impl Fn(f32, f32) -> [f32; 4] + Sync) {
        let [left, top, right, bottom] = shape.bounds;
        let column = |v: f32| v.clamp(0.0, self.width as f32) as usize;
        let row = |v: f32| v.clamp(0.0, self.height as f32) as usize;
        let (x0, x1) = (column(left - softness), column((right + softness).ceil()));
        let (y0, y1) = (row(top - softness), row((bottom + softness).ceil()));
        if x0 >= x1 || y0 >= y1 {
            return;
        }
        let width = self.width;
        let draw_row = |(y, pixels): (usize, &mut [[f32; 4]])| {
            let py = (y0 + y) as f32 + 0.5;
            for (x, pixel) in pixels[x0..x1].iter_mut().enumerate() {
                let px = (x0 + x) as f32 + 0.5;
                let distance = (shape.distance)(px, py);
                if distance >= softness {
                    continue;
                }
                let edge = ((softness - distance) / (2.0 * softness)).clamp(0.0, 1.0);
                // A wide edge is a penumbra: smooth at both ends.
                let coverage = if softness > 0.5 {
                    edge * edge * (3.0 - 2.0 * edge)
                } else {
                    edge
                };
                let [r, g, b, alpha] = paint(px, py);
                let alpha = alpha * coverage;
                for (value, colour) in pixel.iter_mut().zip([r, g, b, 1.0]) {
                    *value += (colour - *value) * alpha;
                }
            }
        };
        let rows = &mut self.pixels[y0 * width..y1 * width];
        // Thousands of leaves are a few pixels each: threads pay only for large shapes.
        if (x1 - x0) * (y1 - y0) > 20_000 {
            rows.par_chunks_mut(width).enumerate().for_each(draw_row);
        } else {
            rows.chunks_mut(width).enumerate().for_each(draw_row);
        }
    }

    /// Bilinear sample at pixel coordinates; transparent outside.
    pub fn sample(&self, x: f32, y: f32) -> [f32; 4] {
        let (x, y) = (x - 0.5, y - 0.5);
        if x < 0.0 || y < 0.0 || x >= (self.width - 1) as f32 || y >= (self.height - 1) as f32 {
            return [0.0; 4];
        }
        let (ix, iy) = (x as usize, y as usize);
        let (fx, fy) = (x - ix as f32, y - iy as f32);
        let at = iy * self.width + ix;
        let (a, b) = (self.pixels[at], self.pixels[at + 1]);
        let (c, d) = (self.pixels[at + self.width], self.pixels[at + self.width + 1]);
        std::array::from_fn(|i| {
            let top = a[i] + (b[i] - a[i]) * fx;
            let bottom = c[i] + (d[i] - c[i]) * fx;
            top + (bottom - top) * fy
        })
    }

    /// Lays packed 8-bit sRGB pixels over the canvas, one to one, with their upper left corner at `(x, y)`.
    pub fn paste(&mut self, (x, y): (usize, usize), rgb: &[u8], width: usize) {
        for (row, line) in rgb.chunks_exact(width * 3).enumerate() {
            let start = (y + row) * self.width + x;
            for (pixel, value) in self.pixels[start..start + width]
                .iter_mut()
                .zip(line.chunks_exact(3))
            {
                let light = |i: usize| srgb_to_linear(value[i] as f32 / 255.0);
                *pixel = [light(0), light(1), light(2), 1.0];
            }
        }
    }

    /// Packed 8-bit sRGB over black.
    pub fn to_rgb8(&self) -> Vec<u8> {
        let encode = |v: f32| (linear_to_srgb(v) * 255.0 + 0.5) as u8;
        self.pixels
            .iter()
            .flat_map(|p| [encode(p[0]), encode(p[1]), encode(p[2])])
            .collect()
    }
}
