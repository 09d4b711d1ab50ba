//! Sky, far town and the tree.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{GROUND, WORLD};
use crate::draw::texture::{fbm, hash};
use crate::draw::{Canvas, Rgb, Shape, smoothstep};

/// Late afternoon with broken clouds.
pub fn sky(world: &mut Canvas) {
    let shape = Shape::rect(0.0, 0.0, WORLD.0 as f32, WORLD.1 as f32);
    world.fill(&shape, |x, y| {
        let clear = Rgb::hex(0x4f86bd).lerp(Rgb::hex(0xf3d6ac), smoothstep(-60.0, 640.0, y));
        let body = fbm(x * 0.0035, y * 0.0075, 6, 11);
        let lit = fbm(x * 0.0035 + 0.06, y * 0.0075 + 0.09, 6, 11);
        let cover = smoothstep(0.46, 0.66, body);
        let cloud = Rgb::hex(0xa9a4ad).lerp(Rgb::hex(0xfff1dc), (0.62 + 3.4 * (body - lit)).clamp(0.0, 1.0));
        clear.lerp(cloud, cover * 0.92)
    });
}

/// Hills and the far end of the town, seen through the gap between the houses.
pub fn distance(world: &mut Canvas) {
    let hills = [
        (470.0, 0x8fa3b0, 0.004, 21),
        (520.0, 0x718b86, 0.006, 22),
        (560.0, 0x5c7357, 0.009, 23),
    ];
    for (base, colour, frequency, seed) in hills {
        let ridge = move |x: f32| base - 90.0 * (fbm(x * frequency, 0.5, 5, seed) - 0.4);
        let shape = Shape::new([1180.0, 380.0, 1540.0, GROUND], move |x, y| ridge(x) - y);
        world.fill(&shape, |x, y| {
            Rgb::hex(colour) * (0.6 + 0.75 * fbm(x * 0.11, y * 0.2, 5, seed + 5)) + Rgb::hex(0x6b7f92) * 0.12
        });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(24);
    let mut x = 1200.0;
    while x < 1530.0 {
        let (w, top) = (
            rng.random_range(34.0..62.0_f32),
            rng.random_range(630.0..720.0_f32),
        );
        far_house(world, &mut rng, x, top, w);
        x += w - 3.0;
    }
}

fn far_house(world: &mut Canvas, rng: &mut ChaCha8Rng, x: f32, top: f32, w: f32) {
    let walls = [0xd8c3a0, 0xc99b78, 0xb9b2a2, 0xdbb994, 0xa88772];
    let wall = Rgb::hex(walls[rng.random_range(0..walls.len())]);
    let seed = rng.random::<u16>() as u32;
    world.fill(&Shape::rect(x, top, w, GROUND - top), |px, py| {
        wall * ((0.6 + 0.5 * fbm(px * 0.15, py * 0.15, 4, seed)) * (0.75 + 0.3 * (px - x) / w))
    });
    let rise = rng.random_range(14.0..30.0_f32);
    let roof = Shape::polygon(&[
        (x - 3.0, top + 1.0),
        (x + w / 2.0, top - rise),
        (x + w + 3.0, top + 1.0),
    ]);
    world.fill(&roof, |px, py| {
        let tiles = if (py * 0.5).fract() < 0.3 { 0.7 } else { 1.0 };
        Rgb::hex(0x9a4f37) * ((0.6 + 0.6 * hash((px * 0.4) as i32, (py * 0.5) as i32, seed)) * tiles)
    });
    let mut y = top + 9.0;
    while y < GROUND - 40.0 {
        let mut wx = x + 6.0;
        while wx < x + w - 10.0 {
            let glass = if rng.random::<f32>() < 0.25 {
                0xffd98a
            } else {
                0x39424d
            };
            world.fill_solid(
                &Shape::rect(wx - 1.0, y - 1.0, 8.0, 12.0),
                Rgb::hex(0xe9e0cf) * 0.8,
            );
            world.fill_solid(&Shape::rect(wx, y, 6.0, 10.0), Rgb::hex(glass));
            wx += 12.0;
        }
        y += 23.0;
    }
}

/// A plane tree: trunk, limbs, and a crown of thousands of leaves from the shaded ones behind to the lit ones in front.
pub fn tree(world: &mut Canvas, (x, y): (f32, f32)) {
    let mut rng = ChaCha8Rng::seed_from_u64(31);
    world.shadow(&Shape::ellipse(x + 30.0, y, 130.0, 13.0, 0.0), 9.0, 0.5);
    let bark = |px: f32, py: f32| {
        let patches = smoothstep(0.5, 0.58, fbm(px * 0.05, py * 0.03, 3, 32));
        let light = 1.25 - 0.024 * (px - x + 16.0).clamp(0.0, 40.0);
        Rgb::hex(0x6d5a45).lerp(Rgb::hex(0xb7a581), patches)
            * ((0.5 + 0.7 * fbm(px * 0.4, py * 0.06, 4, 33)) * light)
    };
    let trunk = [
        (x - 19.0, y),
        (x - 13.0, y - 250.0),
        (x + 11.0, y - 250.0),
        (x + 21.0, y),
    ];
    world.fill(&Shape::polygon(&trunk), bark);
    for (dx, dy, w) in [
        (-120.0, -420.0, 13.0),
        (90.0, -450.0, 14.0),
        (-30.0, -520.0, 15.0),
        (40.0, -330.0, 9.0),
    ] {
        world.fill(&Shape::line((x, y - 240.0), (x + dx, y + dy), w), bark);
    }

    // Clumps first, so that the crown has lobes; then leaves by depth.
    let clumps: Vec<(f32, f32, f32)> = (0..34)
        .map(|_| {
            let (angle, reach) = (
                rng.random_range(0.0..std::f32::consts::TAU),
                rng.random::<f32>().sqrt(),
            );
            let centre = (
                x - 5.0 + 118.0 * reach * angle.cos(),
                y - 430.0 + 150.0 * reach * angle.sin(),
            );
            (centre.0, centre.1, rng.random_range(30.0..54.0))
        })
        .collect();
    for layer in 0..4 {
        let depth = layer as f32 / 3.0;
        for _ in 0..1900 {
            let (cx, cy, r) = clumps[rng.random_range(0..clumps.len())];
            let (angle, reach) = (
                rng.random_range(0.0..std::f32::consts::TAU),
                rng.random::<f32>().sqrt(),
            );
            let (lx, ly) = (cx + r * reach * angle.cos(), cy + r * reach * angle.sin());
            // Sun from the upper left; the lower right of every clump is in shade.
            let sun = 0.5 - 0.5 * ((lx - cx) * 0.6 + (ly - cy) * 0.8) / r;
            let tone = (0.18 + 0.5 * depth) * (0.45 + 0.9 * sun) + rng.random_range(0.0..0.16);
            let hue = Rgb::hex(0x7d8f2b).lerp(Rgb::hex(0x3f6b2c), rng.random());
            let colour = hue * (0.25 + 1.1 * tone)
                + Rgb::hex(0xffe9a0) * (0.22 * depth * sun * sun * rng.random::<f32>());
            let size = rng.random_range(3.6..6.8);
            world.fill_solid(
                &Shape::ellipse(
                    lx,
                    ly,
                    size,
                    size * 0.55,
                    rng.random_range(0.0..std::f32::consts::PI),
                ),
                colour,
            );
        }
    }
}
