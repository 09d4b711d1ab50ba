//! Procedural materials with photo-like detail: noise in octaves, masonry, wood, foliage-like clutter.

use super::{Rgb, smoothstep};

/// A well mixed value in 0..1 for a lattice point.
pub fn hash(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1)
        ^ (y as u32).wrapping_mul(0x85EB_CA77)
        ^ seed.wrapping_mul(0xC2B2_AE3D);
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    (h ^ (h >> 15)) as f32 / u32::MAX as f32
}

/// Value noise in 0..1, one cell per unit.
pub fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (ix, iy) = (x.floor(), y.floor());
    let (fx, fy) = (x - ix, y - iy);
    let fade = |t: f32| t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
    let (u, v) = (fade(fx), fade(fy));
    let (ix, iy) = (ix as i32, iy as i32);
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    mix(
        mix(hash(ix, iy, seed), hash(ix + 1, iy, seed), u),
        mix(hash(ix, iy + 1, seed), hash(ix + 1, iy + 1, seed), u),
        v,
    )
}

/// `octaves` of noise, each at twice the frequency and 0.55 of the amplitude of the one before; in 0..1, mean 0.5.
pub fn fbm(x: f32, y: f32, octaves: u32, seed: u32) -> f32 {
    let (mut sum, mut total, mut amplitude, mut frequency) = (0.0, 0.0, 1.0, 1.0);
    for octave in 0..octaves {
        // A shear between octaves keeps their lattices from lining up.
        let (sx, sy) = (
            x * frequency + 0.3 * y * frequency,
            y * frequency - 0.3 * x * frequency,
        );
        sum += amplitude * noise(sx, sy, seed + octave);
        total += amplitude;
        amplitude *= 0.55;
        frequency *= 2.03;
    }
    sum / total
}

/// Where a point lies in running-bond masonry.
struct Bond {
    /// Distance in pixels to the nearest joint.
    joint: f32,
    column: i32,
    row: i32,
    /// Height in the course, 0 at its top and 1 at its bottom.
    v: f32,
}

fn bond(x: f32, y: f32, (w, h): (f32, f32)) -> Bond {
    let row = (y / h).floor();
    let shifted = x / w + 0.5 * (row as i32 & 1) as f32;
    let (u, v) = (shifted - shifted.floor(), y / h - row);
    let joint = (u.min(1.0 - u) * w).min(v.min(1.0 - v) * h);
    Bond {
        joint,
        column: shifted.floor() as i32,
        row: row as i32,
        v,
    }
}

/// Brickwork: bricks of 30 x 12 px that differ in tint, worn faces, light mortar.
pub fn brick(x: f32, y: f32, dark: Rgb, light: Rgb) -> Rgb {
    let wobble = (noise(x * 0.15, y * 0.15, 40) - 0.5) * 1.6;
    let b = bond(x + wobble, y + wobble, (30.0, 12.0));
    let tint = hash(b.column, b.row, 41);
    let grain = fbm(x * 0.25, y * 0.25, 4, 42);
    let face = dark.lerp(light, 0.75 * tint + 0.5 * (grain - 0.5)) * (0.72 + 0.55 * grain);
    let mortar = Rgb::hex(0xb9ab98) * (0.55 + 0.5 * grain);
    let worn = 1.15 - 0.3 * b.v;
    mortar.lerp(face * worn, smoothstep(0.5, 1.6, b.joint)) * stain(x, y)
}

/// Dressed stone in blocks of 92 x 44 px with fine joints.
pub fn ashlar(x: f32, y: f32, base: Rgb) -> Rgb {
    let b = bond(x, y, (92.0, 44.0));
    let tint = 0.86 + 0.2 * hash(b.column, b.row, 51);
    let grain = fbm(x * 0.06, y * 0.12, 6, 52);
    let pits = smoothstep(0.66, 0.74, fbm(x * 0.3, y * 0.3, 2, 53)) * 0.2;
    let bevel = if b.v < 0.5 { 1.1 } else { 0.8 };
    let edge = 1.0 + (bevel - 1.0) * smoothstep(5.0, 1.5, b.joint);
    base * (tint * (0.7 + 0.6 * grain - pits) * edge * (0.45 + 0.55 * smoothstep(0.4, 1.5, b.joint)))
        * stain(x, y)
}

/// Rendered wall with trowel marks, cracks and bleached patches.
pub fn plaster(x: f32, y: f32, base: Rgb) -> Rgb {
    let broad = fbm(x * 0.008, y * 0.008, 5, 61);
    let fine = fbm(x * 0.12, y * 0.2, 4, 62);
    let ridge = (fbm(x * 0.013, y * 0.02, 5, 63) - 0.5).abs();
    let crack = smoothstep(0.004, 0.0, ridge) * smoothstep(0.5, 0.62, broad);
    base.lerp(Rgb::hex(0xf2e6cf), 0.35 * (broad - 0.4))
        * ((0.72 + 0.3 * broad + 0.26 * fine) * (1.0 - 0.45 * crack))
        * stain(x, y)
}

/// Planks that run along y, `plank` px wide.
pub fn wood(x: f32, y: f32, plank: f32, base: Rgb) -> Rgb {
    let board = (x / plank).floor();
    let u = x / plank - board;
    let shift = 97.0 * hash(board as i32, 0, 71);
    let bend = 3.0 * fbm(x * 0.05, y * 0.01 + shift, 3, 72);
    let rings = (bend * 9.0 + x * 0.35).sin() * 0.5 + 0.5;
    let grain = fbm(x * 0.9, y * 0.03 + shift, 3, 73);
    let tone = (0.6 + 0.22 * rings + 0.42 * grain) * (0.82 + 0.3 * hash(board as i32, 1, 71));
    base * (tone * (0.3 + 0.7 * smoothstep(0.0, 1.6, u.min(1.0 - u) * plank)))
}

/// Setts in rows that grow towards the viewer: `y` is the distance below the kerb.
pub fn cobbles(x: f32, y: f32) -> Rgb {
    // Rows in perspective: their height grows with the distance from the kerb.
    let depth = (1.0 + y * 0.012).ln() / 0.012 * 0.11;
    let wobble = noise(x * 0.05, y * 0.04, 80) * 0.16;
    let row = (depth + wobble).floor();
    let v = depth + wobble - row;
    let size = 25.0 + row * 1.7;
    let ragged = 0.25 * (noise(x * 0.03, row * 1.7, 84) - 0.5);
    let shifted = x / size + 0.5 * (row as i32 & 1) as f32 + 0.3 * hash(0, row as i32, 81) + ragged;
    let (column, u) = (shifted.floor(), shifted - shifted.floor());
    let dome = smoothstep(0.0, 0.2, u.min(1.0 - u)) * smoothstep(0.0, 0.26, v.min(1.0 - v));
    let tint = hash(column as i32, row as i32, 82);
    let grain = fbm(x * 0.3, y * 0.35, 3, 83);
    let stone = Rgb::hex(0x6f6a68).lerp(Rgb::hex(0xa08f80), tint) * (0.55 + 0.75 * grain);
    Rgb::hex(0x2c2825).lerp(stone * (1.15 - 0.4 * v), dome)
}

/// Slow dirt and dappled light that every wall shares.
fn stain(x: f32, y: f32) -> f32 {
    let streaks = fbm(x * 0.035, y * 0.004, 4, 91);
    let patches = fbm(x * 0.006, y * 0.006, 3, 92);
    (0.82 + 0.36 * (streaks - 0.5)) * (0.86 + 0.42 * patches)
}

/// What a window pane mirrors: a bright sky that breaks into the roofs and trees across the street. `(u, v)` run over
/// 0..1 within the pane.
pub fn pane(x: f32, y: f32, u: f32, v: f32) -> Rgb {
    let skyline = 0.42 + 0.45 * (fbm(x * 0.02, 3.0, 4, 101) - 0.5) + 0.18 * (fbm(x * 0.2, 9.0, 2, 104) - 0.5);
    let cloud = fbm(x * 0.012, y * 0.02, 4, 102);
    let sky = Rgb::hex(0x6f93b3).lerp(Rgb::hex(0xe8d9c0), smoothstep(0.35, 0.75, cloud));
    let room = Rgb::hex(0x1c2024).lerp(Rgb::hex(0x4a4134), fbm(x * 0.05, y * 0.05, 4, 103));
    let bright = smoothstep(0.06, -0.06, v - skyline - 0.1 * u);
    room.lerp(sky, 0.12 + 0.62 * bright)
}
