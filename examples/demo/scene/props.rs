//! Things that shops and street share: balls, blocks, dice, boards, lamps, a bicycle.

use crate::draw::texture::{fbm, wood};
use crate::draw::{Canvas, Rgb, Shape, font, smoothstep};

/// A ball in the light of the sun (upper left) and the sky.
pub fn ball(world: &mut Canvas, (cx, cy): (f32, f32), r: f32, colour: Rgb, gloss: f32) {
    world.shadow(
        &Shape::ellipse(cx + 0.25 * r, cy + 0.85 * r, r, 0.4 * r, 0.0),
        0.3 * r,
        0.5,
    );
    world.fill(&Shape::circle(cx, cy, r), |x, y| {
        let (nx, ny) = ((x - cx) / r, (y - cy) / r);
        let nz = (1.0 - nx * nx - ny * ny).max(0.0).sqrt();
        let sun = (-0.52 * nx - 0.62 * ny + 0.59 * nz).max(0.0);
        let bounce = 0.12 * (ny + 0.3).max(0.0);
        let shine = (-0.38 * nx - 0.48 * ny + 0.79 * nz).max(0.0).powf(36.0) * gloss;
        let skin = 0.86 + 0.28 * (fbm(x * 0.3, y * 0.3, 3, 111) - 0.5);
        colour * ((0.16 + 0.95 * sun + bounce) * skin) + Rgb(1.0, 0.95, 0.85) * shine
    });
}

/// A face of a solid: `origin` plus two edges.
#[derive(Clone, Copy)]
struct Face {
    origin: (f32, f32),
    right: (f32, f32),
    down: (f32, f32),
}

impl Face {
    fn at(&self, u: f32, v: f32) -> (f32, f32) {
        let along = |o: f32, r: f32, d: f32| o + u * r + v * d;
        (
            along(self.origin.0, self.right.0, self.down.0),
            along(self.origin.1, self.right.1, self.down.1),
        )
    }

    fn outline(&self) -> Shape {
        Shape::polygon(&[
            self.at(0.0, 0.0),
            self.at(1.0, 0.0),
            self.at(1.0, 1.0),
            self.at(0.0, 1.0),
        ])
    }

    fn disc(&self, (u, v): (f32, f32), r: f32) -> Shape {
        let points: Vec<_> = (0..20)
            .map(|i| {
                let (sin, cos) = (i as f32 / 20.0 * std::f32::consts::TAU).sin_cos();
                self.at(u + r * cos, v + r * sin)
            })
            .collect();
        Shape::polygon(&points)
    }
}

/// The three visible faces (top, left, right) of a cube whose nearest upper corner is at `(x, y)`.
fn cube_faces((x, y): (f32, f32), edge: f32, turn: f32) -> [Face; 3] {
    let (sin, cos) = turn.sin_cos();
    let (a, b) = ((-edge * cos, -edge * sin * 0.5), (edge * sin, -edge * cos * 0.5));
    let down = (0.0, edge * 0.92);
    [
        Face {
            origin: (x + a.0 + b.0, y + a.1 + b.1),
            right: (-a.0, -a.1),
            down: (-b.0, -b.1),
        },
        Face {
            origin: (x + a.0, y + a.1),
            right: (-a.0, -a.1),
            down,
        },
        Face {
            origin: (x, y),
            right: b,
            down,
        },
    ]
}

/// A die that shows `pips` on top, left and right.
pub fn die(world: &mut Canvas, at: (f32, f32), edge: f32, turn: f32, body: Rgb, pips: [usize; 3]) {
    const PLACES: [&[(f32, f32)]; 6] = [
        &[(0.5, 0.5)],
        &[(0.27, 0.27), (0.73, 0.73)],
        &[(0.25, 0.25), (0.5, 0.5), (0.75, 0.75)],
        &[(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)],
        &[(0.25, 0.25), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.75, 0.75)],
        &[
            (0.28, 0.22),
            (0.28, 0.5),
            (0.28, 0.78),
            (0.72, 0.22),
            (0.72, 0.5),
            (0.72, 0.78),
        ],
    ];
    world.shadow(
        &Shape::ellipse(at.0 + 0.2 * edge, at.1 + 0.9 * edge, edge, 0.3 * edge, 0.0),
        0.25 * edge,
        0.5,
    );
    let ink = if body.0 + body.1 + body.2 > 1.2 {
        Rgb::hex(0x241d1c)
    } else {
        Rgb::hex(0xf7f0e2)
    };
    for ((face, light), count) in cube_faces(at, edge, turn)
        .into_iter()
        .zip([1.0, 0.72, 0.4])
        .zip(pips)
    {
        world.fill(&face.outline(), |x, y| {
            body * (light * (0.9 + 0.16 * fbm(x * 0.1, y * 0.1, 3, 112)))
        });
        for &place in PLACES[count - 1] {
            world.fill_solid(&face.disc(place, 0.1), ink * light);
        }
    }
}

/// A letter block seen from the front, with a little of its top and side.
pub fn letter_block(world: &mut Canvas, letter: char, (x, y): (f32, f32), edge: f32, colour: Rgb) {
    let skew = 0.28 * edge;
    let top = Face {
        origin: (x + skew, y - skew * 0.7),
        right: (edge, 0.0),
        down: (-skew, skew * 0.7),
    };
    let side = Face {
        origin: (x + edge, y),
        right: (skew, -skew * 0.7),
        down: (0.0, edge),
    };
    world.shadow(
        &Shape::rect(x + 0.2 * edge, y + 0.8 * edge, edge * 1.2, edge * 0.25),
        0.15 * edge,
        0.5,
    );
    world.fill_solid(&top.outline(), colour * 1.25);
    world.fill_solid(&side.outline(), colour * 0.4);
    world.fill(&Shape::rect(x, y, edge, edge), |px, py| {
        wood(py, px, edge, Rgb::hex(0xe9c992))
    });
    let inner = Shape::rounded(
        x + 0.09 * edge,
        y + 0.09 * edge,
        0.82 * edge,
        0.82 * edge,
        0.1 * edge,
    );
    world.fill(&inner, |px, py| {
        colour * (0.85 + 0.3 * fbm(px * 0.1, py * 0.1, 3, 113))
    });
    let cap = 0.5 * edge;
    font::draw_centred(
        world,
        &letter.to_string(),
        (x + edge / 2.0, y + 0.25 * edge),
        cap,
        0.16 * cap,
        Rgb::hex(0xfdf6e6),
    );
}

/// A wooden crate seen slightly from above; what it holds is drawn on `(x, y)`, its rim.
pub fn crate_box(world: &mut Canvas, (x, y): (f32, f32), w: f32, h: f32) {
    world.shadow(&Shape::rect(x + 6.0, y + h - 8.0, w, 16.0), 9.0, 0.6);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        let slat = ((py - y) / (h / 3.0)).fract();
        let gap = smoothstep(0.0, 0.08, slat.min(1.0 - slat));
        wood(py, px, h / 3.0, Rgb::hex(0xc79c63)) * (0.2 + 0.8 * gap)
    });
    for post in [x, x + w - 10.0] {
        world.fill(&Shape::rect(post, y - 5.0, 10.0, h + 5.0), |px, py| {
            wood(px, py, 10.0, Rgb::hex(0xb98a52))
        });
    }
}

/// A chalkboard with its lines of writing.
pub fn chalkboard(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32), lines: &[&str], size: f32) {
    world.shadow(&Shape::rect(x + 8.0, y + 8.0, w, h), 8.0, 0.5);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        wood(px, py, 90.0, Rgb::hex(0x8a5a34))
    });
    world.fill(&Shape::rect(x + 7.0, y + 7.0, w - 14.0, h - 14.0), |px, py| {
        Rgb::hex(0x22302c) * (0.7 + 0.8 * fbm(px * 0.03, py * 0.06, 5, 114))
    });
    for (i, line) in lines.iter().enumerate() {
        let colour = if i == 0 {
            Rgb::hex(0xffd97a)
        } else {
            Rgb::hex(0xf1eee6)
        };
        let at = (x + w / 2.0, y + 20.0 + i as f32 * size * 1.75);
        let fitted = font::fit(line, size, w - 26.0);
        font::draw_centred(world, line, at, fitted, fitted * 0.14, colour * 0.9);
    }
}

/// A cast-iron street lamp standing at `(x, y)`.
pub fn lamp(world: &mut Canvas, (x, y): (f32, f32)) {
    let iron = |cx: f32, w: f32| {
        move |px: f32, _: f32| {
            Rgb::hex(0x2c3a38) * (0.45 + 1.1 * (1.0 - ((px - cx) / w + 0.25).abs() * 2.0).max(0.0))
        }
    };
    world.shadow(&Shape::ellipse(x + 22.0, y + 1.0, 46.0, 6.0, 0.0), 5.0, 0.55);
    for (dy, h, w) in [
        (-52.0, 52.0, 26.0),
        (-66.0, 16.0, 18.0),
        (-350.0, 290.0, 10.0),
        (-356.0, 12.0, 20.0),
    ] {
        world.fill(&Shape::rounded(x - w / 2.0, y + dy, w, h, 3.0), iron(x, w));
    }
    let top = y - 356.0;
    let glass = [
        (x - 15.0, top),
        (x - 24.0, top - 52.0),
        (x + 24.0, top - 52.0),
        (x + 15.0, top),
    ];
    world.fill(&Shape::polygon(&glass), |px, py| {
        let flame = (-((px - x).powi(2) + (py - top + 24.0).powi(2)) / 260.0).exp();
        Rgb::hex(0xd9c79c) * (0.55 + 0.2 * ((px - x) / 24.0)) + Rgb::hex(0xffe2a0) * (0.5 * flame)
    });
    let frame = Rgb::hex(0x22302e);
    for (a, b) in [
        (glass[0], glass[1]),
        (glass[2], glass[3]),
        ((x, top), (x, top - 52.0)),
    ] {
        world.fill_solid(&Shape::line(a, b, 3.2), frame);
    }
    let cap = [
        (x - 31.0, top - 50.0),
        (x - 12.0, top - 76.0),
        (x + 12.0, top - 76.0),
        (x + 31.0, top - 50.0),
    ];
    world.fill(&Shape::polygon(&cap), iron(x, 62.0));
    world.fill(&Shape::circle(x, top - 81.0, 7.0), iron(x, 14.0));
}

/// A bicycle that leans on its stand; `(x, y)` is the ground under its rear wheel.
pub fn bicycle(world: &mut Canvas, (x, y): (f32, f32)) {
    let (r, base) = (46.0, 118.0);
    let (rear, front) = ((x, y - r), (x - base, y - r));
    let (crank, saddle, head) = (
        (x - 50.0, y - r + 4.0),
        (x - 30.0, y - 112.0),
        (x - base + 24.0, y - 108.0),
    );
    world.shadow(&Shape::ellipse(x - 48.0, y + 2.0, 120.0, 7.0, 0.0), 6.0, 0.5);
    let (tyre, metal, paint) = (Rgb::hex(0x1d1b1b), Rgb::hex(0xc8cccd), Rgb::hex(0xb3262e));
    for (cx, cy) in [rear, front] {
        for spoke in 0..18 {
            let (sin, cos) = (spoke as f32 / 18.0 * std::f32::consts::TAU).sin_cos();
            world.fill_solid(
                &Shape::line((cx, cy), (cx + r * cos, cy + r * sin), 1.1),
                metal * 0.8,
            );
        }
        world.fill_solid(&Shape::ring(cx, cy, r - 4.0, 2.0), metal);
        world.fill_solid(&Shape::ring(cx, cy, r - 1.0, 4.4), tyre);
        world.fill_solid(&Shape::circle(cx, cy, 5.0), metal);
    }
    for (a, b) in [
        (rear, crank),
        (rear, saddle),
        (crank, saddle),
        (crank, head),
        (saddle, head),
        (front, head),
    ] {
        world.fill_solid(&Shape::line(a, b, 6.0), paint * 0.7);
        world.fill_solid(
            &Shape::line((a.0 - 0.6, a.1 - 1.0), (b.0 - 0.6, b.1 - 1.0), 2.4),
            paint * 1.5,
        );
    }
    world.fill_solid(&Shape::ring(crank.0, crank.1, 11.0, 3.0), metal);
    world.fill_solid(
        &Shape::line((head.0, head.1), (head.0 + 5.0, head.1 - 24.0), 4.0),
        metal,
    );
    world.fill_solid(
        &Shape::line(
            (head.0 - 12.0, head.1 - 28.0),
            (head.0 + 26.0, head.1 - 22.0),
            5.0,
        ),
        tyre,
    );
    world.fill_solid(
        &Shape::line(saddle, (saddle.0 + 3.0, saddle.1 - 12.0), 4.0),
        metal,
    );
    world.fill_solid(
        &Shape::ellipse(saddle.0 + 6.0, saddle.1 - 15.0, 21.0, 5.5, -0.05),
        Rgb::hex(0x5b3821),
    );
}

/// Pennants on a string that sags by `sag` pixels.
pub fn bunting(world: &mut Canvas, from: (f32, f32), to: (f32, f32), sag: f32) {
    let colours = [0xd9433b, 0xf3c14b, 0x2f7f9d, 0xf2eadb, 0x4f9a5b];
    let at = |t: f32| {
        (
            from.0 + (to.0 - from.0) * t,
            from.1 + (to.1 - from.1) * t + sag * 4.0 * t * (1.0 - t),
        )
    };
    for i in 0..12 {
        let (a, b) = (at(i as f32 / 12.0), at((i + 1) as f32 / 12.0));
        world.fill_solid(&Shape::line(a, b, 1.8), Rgb::hex(0x3b3430));
        let (left, right) = ((a.0 + 2.0, a.1 + 0.5), (b.0 - 2.0, b.1 + 0.5));
        let tip = ((left.0 + right.0) / 2.0 - 2.0, (left.1 + right.1) / 2.0 + 26.0);
        let colour = Rgb::hex(colours[i % colours.len()]);
        world.fill(&Shape::polygon(&[left, right, tip]), |x, _| {
            colour * (1.05 - 0.4 * smoothstep(left.0, right.0, x))
        });
    }
}
