//! What the optician shows: lettering and lines down to the finest that the camera can hold.

use crate::draw::texture::fbm;
use crate::draw::{Canvas, Rgb, Shape, font};

const PAPER: u32 = 0xf6ecd4;

/// Letters from 32 px down to 8 px.
pub fn eye_chart(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32)) {
    world.shadow(&Shape::rect(x + 4.0, y + 5.0, w, h), 6.0, 0.5);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        Rgb::hex(0xfbf8ef) * (0.92 - 0.06 * fbm(px * 0.04, py * 0.04, 3, 122))
    });
    let mut top = y + 9.0;
    for (line, size) in [
        ("E", 32.0),
        ("F P", 23.0),
        ("T O Z", 17.0),
        ("L P E D", 13.0),
        ("P E C F D", 10.0),
        ("E D F C Z P", 8.0),
    ] {
        font::draw_centred(
            world,
            line,
            (x + w / 2.0, top),
            size,
            size * 0.18,
            Rgb::hex(0x15130f),
        );
        top += size + 8.0;
    }
}

/// A star of 36 spokes: the finer the pattern that survives, the nearer to the centre it reads.
pub fn siemens_star(world: &mut Canvas, (cx, cy): (f32, f32), r: f32) {
    world.shadow(
        &Shape::rect(cx - r - 4.0, cy - r - 3.0, 2.0 * r + 16.0, 2.0 * r + 16.0),
        6.0,
        0.4,
    );
    world.fill_solid(
        &Shape::rect(cx - r - 8.0, cy - r - 8.0, 2.0 * r + 16.0, 2.0 * r + 16.0),
        Rgb::hex(PAPER),
    );
    for spoke in 0..36 {
        let step = std::f32::consts::TAU / 72.0;
        let (a, b) = (2.0 * spoke as f32 * step, (2.0 * spoke as f32 + 1.0) * step);
        let points = [
            (cx, cy),
            (cx + r * a.cos(), cy + r * a.sin()),
            (cx + r * b.cos(), cy + r * b.sin()),
        ];
        world.fill_solid(&Shape::polygon(&points), Rgb::hex(0x1a1816));
    }
    world.fill_solid(&Shape::circle(cx, cy, 4.0), Rgb::hex(0xb3262e));
}

/// Groups of bars from 6 px to 1.5 px, upright and level, and a slanted edge.
pub fn line_pairs(world: &mut Canvas, (x, y): (f32, f32)) {
    let ink = Rgb::hex(0x1a1816);
    world.fill_solid(&Shape::rect(x, y, 62.0, 110.0), Rgb::hex(PAPER));
    let mut top = y + 6.0;
    for bar in [6.0, 4.0, 2.5, 1.5] {
        for i in 0..3 {
            let offset = 2.0 * bar * i as f32;
            world.fill_solid(&Shape::rect(x + 5.0 + offset, top, bar, 5.0 * bar), ink);
            world.fill_solid(
                &Shape::rect(
                    x + 56.0 - 4.0 * bar.min(4.5) - bar,
                    top + offset,
                    4.0 * bar.min(4.5) + bar,
                    bar,
                ),
                ink,
            );
        }
        top += 5.0 * bar + 4.0;
    }
    world.fill_solid(
        &Shape::polygon(&[
            (x + 8.0, y + 90.0),
            (x + 54.0, y + 86.0),
            (x + 54.0, y + 104.0),
            (x + 8.0, y + 104.0),
        ]),
        ink,
    );
}

pub fn spectacles(world: &mut Canvas, (x, y): (f32, f32), r: f32, colour: Rgb) {
    for side in [-1.0, 1.0] {
        let cx = x + side * r * 1.15;
        world.glow(&Shape::circle(cx, y, r), 0.5, Rgb::hex(0xe8f2f5), 0.45);
        world.fill_solid(&Shape::ring(cx, y, r, 0.16 * r + 1.0), colour);
        world.fill_solid(
            &Shape::line(
                (cx + side * r, y),
                (cx + side * r * 1.35, y - 0.5 * r),
                0.16 * r + 0.6,
            ),
            colour,
        );
    }
    world.fill_solid(
        &Shape::line((x - 0.18 * r, y - 2.0), (x + 0.18 * r, y - 2.0), 0.2 * r),
        colour,
    );
}
