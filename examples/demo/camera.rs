//! A hand-held camera: a planned pan plus the hand's tremor, and exposures that average sub-frames in linear light.
//!
//! The tremor is a mass on a damped spring under random pushes, so that speed has inertia and blur paths curve; see
//! Boracchi and Foi 2012 for why such trajectories look like real ones.

use std::sync::LazyLock;

use osdd::frame::{Frame, PixelFormat};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::draw::{Canvas, linear_to_srgb, smoothstep};
use crate::scene::LANDMARKS;

pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 360;
pub const FRAMES: usize = 90;
pub const FRAMES_PER_SECOND: i32 = 30;
/// The part of a frame's time for which the shutter is open.
const EXPOSURE: f32 = 0.8;
/// Sub-frames of an exposure; odd, so that the one in the middle is the truth.
const SUB_FRAMES: usize = 21;
/// World pixels per picture pixel.
const SCALE: f32 = 1.7;
/// Steps per frame of the tremor's integration.
const STEPS: usize = 64;
const SEED: u64 = 17;

/// Where the camera looks at one moment.
#[derive(Clone, Copy, Debug)]
struct Pose {
    /// World point in the middle of the picture.
    x: f32,
    y: f32,
    /// Radians.
    angle: f32,
    /// World pixels per picture pixel.
    scale: f32,
}

impl Pose {
    fn to_world(self, px: f32, py: f32) -> (f32, f32) {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = (
            (px - WIDTH as f32 / 2.0) * self.scale,
            (py - HEIGHT as f32 / 2.0) * self.scale,
        );
        (self.x + dx * cos - dy * sin, self.y + dx * sin + dy * cos)
    }

    fn to_picture(self, (x, y): (f32, f32)) -> (f32, f32) {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = ((x - self.x) / self.scale, (y - self.y) / self.scale);
        (
            dx * cos + dy * sin + WIDTH as f32 / 2.0,
            dy * cos - dx * sin + HEIGHT as f32 / 2.0,
        )
    }
}

/// One picture of the clip and what is known about it.
pub struct Shot {
    /// The average over the exposure.
    pub blurry: Frame,
    /// The moment in the middle of the exposure.
    pub truth: Frame,
    /// How far the middle of the picture travelled during the exposure, in picture pixels.
    pub extent_px: f32,
    pose: Pose,
    van: (f32, f32),
}

impl Shot {
    pub const LANDMARKS: usize = LANDMARKS.len() + 1;

    /// Where the world's landmarks and the van are in this picture, in pixels; they may lie outside.
    pub fn landmarks(&self) -> [(f32, f32); Shot::LANDMARKS] {
        let [optician, grocer, cinema] = LANDMARKS;
        let van = (self.van.0 + 235.0, self.van.1 + 120.0);
        [optician, grocer, van, cinema].map(|point| self.pose.to_picture(point))
    }
}

/// Poses at `STEPS` per frame.
struct Trajectory(Vec<Pose>);

impl Trajectory {
    fn new() -> Trajectory {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut normal = move || {
            // Box-Muller; 1 - u is never zero.
            let (u, v): (f32, f32) = (rng.random(), rng.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos()
        };
        // Typical speed per frame: world pixels, radians, share of the scale.
        let speeds = [8.5, 6.5, 0.0045, 0.0028];
        // About 2 Hz, lightly damped.
        let (stiffness, damping, dt) = (0.175_f32, 0.22_f32, 1.0 / STEPS as f32);
        let mut state = [(0.0_f32, 0.0_f32); 4];
        let mut sway = || {
            for ((position, velocity), speed) in state.iter_mut().zip(speeds) {
                let push = speed * (2.0 * damping * dt).sqrt() * normal();
                *velocity += (-stiffness * *position - damping * *velocity) * dt + push;
                *position += *velocity * dt;
            }
            state.map(|(position, _)| position)
        };
        // From rest the spring needs a second to reach its typical sway.
        for _ in 0..FRAMES_PER_SECOND as usize * STEPS {
            sway();
        }
        let poses = (0..FRAMES * STEPS).map(|step| {
            let [x, y, angle, zoom] = sway();
            let (plan_x, plan_y) = plan(step as f32 / (FRAMES * STEPS) as f32);
            Pose {
                x: plan_x + x,
                y: plan_y + y,
                angle,
                scale: SCALE * (1.0 + zoom),
            }
        });
        Trajectory(poses.collect())
    }

    /// The pose at `time` in frames.
    fn at(&self, time: f32) -> Pose {
        let step = (time * STEPS as f32).clamp(0.0, (self.0.len() - 2) as f32);
        let (a, b, t) = (self.0[step as usize], self.0[step as usize + 1], step.fract());
        let mix = |a: f32, b: f32| a + (b - a) * t;
        Pose {
            x: mix(a.x, b.x),
            y: mix(a.y, b.y),
            angle: mix(a.angle, b.angle),
            scale: mix(a.scale, b.scale),
        }
    }
}

/// What the hand means to do: a look at the optician and the grocer, a pan along the street, a stop at the cinema.
fn plan(t: f32) -> (f32, f32) {
    let x = 590.0 + 260.0 * t + 560.0 * smoothstep(0.18, 0.62, t) + 500.0 * smoothstep(0.55, 1.05, t);
    let y = 640.0 + 35.0 * smoothstep(0.15, 0.5, t) - 130.0 * smoothstep(0.5, 1.0, t);
    (x, y)
}

/// The upper left corner of the van's sprite in the world; it drives to the left and rocks a little.
fn van_at(time: f32) -> (f32, f32) {
    (1385.0 - 7.0 * time, 722.0 + 1.6 * (time * 0.55).sin())
}

/// Takes every picture of the clip.
pub fn shoot(world: &Canvas, van: &Canvas) -> Vec<Shot> {
    let trajectory = Trajectory::new();
    let open = |frame: usize, part: f32| frame as f32 + 0.5 + EXPOSURE * (part - 0.5);
    (0..FRAMES)
        .into_par_iter()
        .map(|frame| {
            let mut light = Exposure::new();
            let mut still = Exposure::new();
            let mut extent_px = 0.0;
            let mut last: Option<Pose> = None;
            for k in 0..SUB_FRAMES {
                let time = open(frame, (k as f32 + 0.5) / SUB_FRAMES as f32);
                let pose = trajectory.at(time);
                // The sub-frames share the work of anti-aliasing: each samples another point of the pixel.
                let offset = ((k as f32 * 0.754_877_7).fract(), (k as f32 * 0.569_840_3).fract());
                light.add(world, van, pose, van_at(time), offset);
                if let Some(last) = last {
                    let (x, y) = pose.to_picture((last.x, last.y));
                    extent_px += (x - WIDTH as f32 / 2.0).hypot(y - HEIGHT as f32 / 2.0);
                }
                last = Some(pose);
            }
            let time = open(frame, 0.5);
            let (pose, van_place) = (trajectory.at(time), van_at(time));
            for offset in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
                still.add(world, van, pose, van_place, offset);
            }
            Shot {
                blurry: light.develop(),
                truth: still.develop(),
                extent_px,
                pose,
                van: van_place,
            }
        })
        .collect()
}

/// Light gathered on the sensor, linear.
struct Exposure {
    sum: Vec<[f32; 3]>,
    count: f32,
}

impl Exposure {
    fn new() -> Exposure {
        Exposure {
            sum: vec![[0.0; 3]; WIDTH * HEIGHT],
            count: 0.0,
        }
    }

    /// Adds the world as it is seen at one moment, sampled at `offset` (0..1) within each pixel.
    fn add(&mut self, world: &Canvas, van: &Canvas, pose: Pose, van_at: (f32, f32), offset: (f32, f32)) {
        let (ux, uy) = (pose.scale * pose.angle.cos(), pose.scale * pose.angle.sin());
        for (row, pixels) in self.sum.chunks_exact_mut(WIDTH).enumerate() {
            let (mut x, mut y) = pose.to_world(offset.0, row as f32 + offset.1);
            for pixel in pixels {
                let ground = world.sample(x, y);
                let sprite = van.sample(x - van_at.0, y - van_at.1);
                for (sum, (below, above)) in pixel.iter_mut().zip(ground.into_iter().zip(sprite)) {
                    *sum += above + below * (1.0 - sprite[3]);
                }
                x += ux;
                y += uy;
            }
        }
        self.count += 1.0;
    }

    /// The mean in sRGB, 8 bits.
    fn develop(&self) -> Frame {
        static CURVE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            (0..=u16::MAX)
                .map(|v| (linear_to_srgb(v as f32 / 65535.0) * 255.0 + 0.5) as u8)
                .collect()
        });
        let mut frame = Frame::new(WIDTH, HEIGHT, PixelFormat::Rgb8);
        for (value, light) in frame.data.iter_mut().zip(self.sum.as_flattened()) {
            *value = CURVE[(light / self.count * 65535.0 + 0.5) as u16 as usize];
        }
        frame
    }
}
