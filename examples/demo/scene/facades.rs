//! The four houses from the pavement to the roof, without what their shops show.

use super::GROUND;
use crate::draw::texture::{ashlar, brick, fbm, hash, noise, pane, plaster};
use crate::draw::{Canvas, Rgb, Shape, font, smoothstep};

/// A sash window set into the wall: reveal, glass with what it mirrors, curtains, bars and sill.
struct Window {
    at: (f32, f32),
    size: (f32, f32),
    panes: (usize, usize),
    frame: Rgb,
}

impl Window {
    fn draw(&self, world: &mut Canvas) {
        let ((x, y), (w, h)) = (self.at, self.size);
        world.fill_solid(
            &Shape::rect(x - 4.0, y - 4.0, w + 8.0, h + 8.0),
            Rgb::hex(0x2a241f),
        );
        let curtain = 0.12 + 0.16 * hash(x as i32, y as i32, 5);
        world.fill(&Shape::rect(x, y, w, h), |px, py| {
            let (u, v) = ((px - x) / w, (py - y) / h);
            let drape = Rgb::hex(0xe8dcc4)
                * (0.42 + 0.4 * (0.5 + 0.5 * (px * 0.9 + 2.0 * noise(py * 0.02, x, 6)).sin()));
            let hang = curtain + 0.05 * v;
            let behind = u.min(1.0 - u) < hang;
            let glass = pane(px, py, u, v);
            let inside = if behind { glass.lerp(drape, 0.62) } else { glass };
            inside * (0.45 + 0.55 * smoothstep(0.0, 0.16, v))
        });
        let (columns, rows) = self.panes;
        for column in 0..=columns {
            let bar = if column == 0 || column == columns {
                7.0
            } else {
                3.2
            };
            let bx = x + w * column as f32 / columns as f32;
            world.fill_solid(&Shape::rect(bx - bar / 2.0 + 1.5, y, bar, h), self.frame * 0.4);
            world.fill_solid(&Shape::rect(bx - bar / 2.0, y, bar, h), self.frame);
        }
        for row in 0..=rows {
            let bar = if row == 0 || row == rows || 2 * row == rows {
                6.5
            } else {
                3.2
            };
            let by = y + h * row as f32 / rows as f32;
            world.fill_solid(&Shape::rect(x, by - bar / 2.0 + 1.5, w, bar), self.frame * 0.4);
            world.fill_solid(&Shape::rect(x, by - bar / 2.0, w, bar), self.frame);
        }
        world.shadow(&Shape::rect(x - 4.0, y - 4.0, w + 8.0, 9.0), 6.0, 0.6);
        sill(world, x - 12.0, y + h + 4.0, w + 24.0);
    }
}

fn sill(world: &mut Canvas, x: f32, y: f32, w: f32) {
    world.shadow(&Shape::rect(x + 4.0, y + 8.0, w, 12.0), 7.0, 0.55);
    world.fill(&Shape::rect(x, y, w, 10.0), |px, py| {
        let light = if py < y + 3.0 { 1.1 } else { 0.72 };
        Rgb::hex(0xd9ccb4) * (light * (0.7 + 0.4 * fbm(px * 0.15, py * 0.3, 3, 7)))
    });
}

/// A moulded band across a wall, with its shadow below.
fn cornice(world: &mut Canvas, x: f32, y: f32, w: f32, h: f32, colour: Rgb) {
    world.shadow(&Shape::rect(x, y + h - 2.0, w, 16.0), 12.0, 0.6);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        let v = (py - y) / h;
        let profile = if v < 0.3 {
            1.12
        } else if v < 0.42 {
            0.55
        } else {
            0.95 - 0.4 * v
        };
        colour * (profile * (0.74 + 0.36 * fbm(px * 0.06, py * 0.3, 4, 8)))
    });
    let mut dentil = x + 6.0;
    while h > 18.0 && dentil < x + w - 8.0 {
        world.fill_solid(&Shape::rect(dentil, y + h * 0.62, 7.0, h * 0.38), colour * 0.42);
        dentil += 15.0;
    }
}

/// A flower box: leaves with geraniums among them.
fn flowers(world: &mut Canvas, x: f32, y: f32, w: f32) {
    world.fill(&Shape::rect(x, y, w, 15.0), |px, py| {
        Rgb::hex(0x6b4a31) * (0.6 + 0.6 * fbm(px * 0.1, py * 0.5, 3, 9))
    });
    for i in 0..(w * 1.7) as i32 {
        let (a, b, c) = (
            hash(i, x as i32, 10),
            hash(i, x as i32, 11),
            hash(i, x as i32, 12),
        );
        let at = (x + a * w, y + 5.0 - 20.0 * b * b);
        let red = [Rgb::hex(0xd8343b), Rgb::hex(0xf06a8a), Rgb::hex(0xe8e1d6)]
            [(hash(x as i32, 3, 13) * 2.99) as usize];
        let colour = if c > 0.66 {
            red * (0.6 + 0.5 * b)
        } else {
            Rgb::hex(0x4f7a31) * (0.35 + 0.9 * b)
        };
        world.fill_solid(&Shape::ellipse(at.0, at.1, 4.2, 2.8, 3.0 * c), colour);
    }
}

pub fn brick_house(world: &mut Canvas) {
    let (x, w, top) = (-20.0, 650.0, 96.0);
    let (dark, light) = (Rgb::hex(0x7f3a2b), Rgb::hex(0xc2714f));
    world.fill(&Shape::rect(x, top, w, GROUND - top), |px, py| {
        brick(px, py, dark, light)
    });
    for (i, wx) in [52.0, 198.0, 344.0, 490.0].into_iter().enumerate() {
        for wy in [152.0, 322.0] {
            lintel(world, wx - 16.0, wy - 34.0, 120.0);
            Window {
                at: (wx, wy),
                size: (88.0, 126.0),
                panes: (2, 4),
                frame: Rgb::hex(0xefe9dc),
            }
            .draw(world);
        }
        if i != 1 {
            flowers(world, wx - 4.0, 442.0, 96.0);
        }
    }
    cornice(world, x, top - 14.0, w + 8.0, 28.0, Rgb::hex(0xd3c4a9));
    cornice(world, x, 478.0, w + 8.0, 14.0, Rgb::hex(0xd3c4a9));
    drainpipe(world, 622.0, top + 10.0);
}

/// A flat arch of bricks on end above a window.
fn lintel(world: &mut Canvas, x: f32, y: f32, w: f32) {
    let shape = Shape::polygon(&[(x, y), (x + w, y), (x + w - 10.0, y + 28.0), (x + 10.0, y + 28.0)]);
    world.fill(&shape, |px, py| {
        let lean = (px - x - w / 2.0) * (1.0 + (28.0 - (py - y)) * -0.004);
        let brick = (lean / 10.5).floor();
        let u = lean / 10.5 - brick;
        let face = Rgb::hex(0xa8523a)
            * (0.6 + 0.5 * hash(brick as i32, x as i32, 14) + 0.3 * (fbm(px * 0.3, py * 0.3, 3, 15) - 0.5));
        Rgb::hex(0xb9ab98).lerp(face, smoothstep(0.04, 0.14, u.min(1.0 - u)))
    });
}

fn drainpipe(world: &mut Canvas, x: f32, top: f32) {
    world.shadow(&Shape::rect(x + 6.0, top, 12.0, GROUND - top), 5.0, 0.5);
    world.fill(&Shape::rect(x, top, 11.0, GROUND - top), |px, py| {
        let u = (px - x) / 11.0;
        let ring = if ((py - top) / 120.0).fract() < 0.05 {
            1.5
        } else {
            1.0
        };
        Rgb::hex(0x4b5352) * (ring * (0.35 + 1.5 * (u * (1.0 - u)) * (1.3 - u)))
    });
}

pub fn plaster_house(world: &mut Canvas) {
    let (x, w, top) = (632.0, 600.0, 172.0);
    world.fill(&Shape::rect(x, top, w, GROUND - top), |px, py| {
        plaster(px, py, Rgb::hex(0xe2b46a))
    });
    roof(world, (x - 14.0, x + w + 14.0), top, 92.0, Rgb::hex(0xa4533a));
    let frame = Rgb::hex(0xf0e8d8);
    for wx in [706.0, 886.0, 1066.0] {
        for (side, sx) in [(0, wx - 47.0), (1, wx + 95.0)] {
            shutter(world, sx + side as f32 * 2.0, 246.0, Rgb::hex(0x2f6e62));
        }
        Window {
            at: (wx, 248.0),
            size: (90.0, 148.0),
            panes: (2, 3),
            frame,
        }
        .draw(world);
        flowers(world, wx - 2.0, 388.0, 94.0);
    }
    cornice(world, x, top - 4.0, w, 14.0, Rgb::hex(0xe6d6b8));
    cornice(world, x, 478.0, w, 12.0, Rgb::hex(0xe6d6b8));
}

fn shutter(world: &mut Canvas, x: f32, y: f32, colour: Rgb) {
    let (w, h) = (44.0, 154.0);
    world.shadow(&Shape::rect(x + 5.0, y + 6.0, w, h), 6.0, 0.5);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        let (u, v) = (px - x, py - y);
        let worn = 0.68 + 0.5 * fbm(px * 0.09, py * 0.05, 4, 16);
        let border = u.min(w - u).min(v).min(h - v).min((v - h / 2.0).abs() + 2.0);
        let slat = (v / 6.5).fract();
        let louvre = if border < 6.0 { 1.0 } else { 0.38 + 0.85 * slat };
        colour * (worn * louvre)
    });
}

/// Rows of curved tiles.
fn roof(world: &mut Canvas, (left, right): (f32, f32), base: f32, rise: f32, colour: Rgb) {
    let shape = Shape::polygon(&[
        (left, base),
        (left + 46.0, base - rise),
        (right - 46.0, base - rise),
        (right, base),
    ]);
    world.fill(&shape, |px, py| {
        let row = ((py - base) / 11.0).floor();
        let v = (py - base) / 11.0 - row;
        let shifted = px / 15.0 + 0.5 * (row as i32 & 1) as f32;
        let (column, u) = (shifted.floor(), shifted - shifted.floor());
        let round = (u * std::f32::consts::PI).sin().sqrt();
        let tint = 0.6 + 0.6 * hash(column as i32, row as i32, 17);
        let moss = smoothstep(0.58, 0.72, fbm(px * 0.02, py * 0.03, 4, 18));
        colour.lerp(Rgb::hex(0x6f7340), moss * 0.6) * (tint * (0.4 + 0.6 * round) * (0.55 + 0.5 * v))
    });
}

pub fn cinema(world: &mut Canvas) {
    let (x, w, top) = (1478.0, 606.0, 64.0);
    let stone = Rgb::hex(0xd6c7ab);
    world.fill(&Shape::rect(x, top, w, GROUND - top), |px, py| {
        ashlar(px, py, stone)
    });
    for wx in [1530.0, 1950.0] {
        Window {
            at: (wx, 160.0),
            size: (82.0, 210.0),
            panes: (2, 5),
            frame: Rgb::hex(0x3b3a38),
        }
        .draw(world);
    }
    for px in [1500.0, 1640.0, 1906.0, 2060.0] {
        pilaster(world, px - 12.0, top + 20.0, 24.0, 380.0, stone);
    }
    // A round-headed window with spokes between the pilasters.
    let (cx, cy) = (1781.0, 250.0);
    world.fill_solid(&Shape::circle(cx, cy, 92.0), stone * 1.05);
    world.shadow(&Shape::ring(cx + 2.0, cy + 3.0, 84.0, 8.0), 4.0, 0.5);
    world.fill(&Shape::circle(cx, cy, 78.0), |px, py| {
        pane(px, py, (px - cx + 78.0) / 156.0, (py - cy + 78.0) / 156.0)
    });
    for spoke in 0..12 {
        let (sin, cos) = (spoke as f32 / 12.0 * std::f32::consts::TAU).sin_cos();
        let frame = Shape::line(
            (cx + 20.0 * cos, cy + 20.0 * sin),
            (cx + 78.0 * cos, cy + 78.0 * sin),
            3.4,
        );
        world.fill_solid(&frame, Rgb::hex(0x3b3a38));
    }
    for r in [20.0, 50.0, 78.0] {
        world.fill_solid(&Shape::ring(cx, cy, r, 4.5), Rgb::hex(0x3b3a38));
    }
    font::draw_centred(
        world,
        "ANNO 1927",
        (cx + 1.5, 110.5),
        26.0,
        3.6,
        Rgb::hex(0xfff4dd),
    );
    font::draw_centred(world, "ANNO 1927", (cx, 109.0), 26.0, 3.6, Rgb::hex(0x5d5140));
    cornice(world, x - 10.0, top - 22.0, w + 20.0, 34.0, stone);
}

fn pilaster(world: &mut Canvas, x: f32, y: f32, w: f32, h: f32, stone: Rgb) {
    world.shadow(&Shape::rect(x + 6.0, y, w, h), 6.0, 0.45);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        let flute = 0.5 + 0.5 * ((px - x) / w * 6.0 * std::f32::consts::TAU).cos();
        stone * ((0.55 + 0.5 * flute) * (0.75 + 0.35 * fbm(px * 0.1, py * 0.05, 4, 19)))
    });
    for dy in [0.0, h - 12.0] {
        world.fill_solid(&Shape::rect(x - 5.0, y + dy, w + 10.0, 12.0), stone * 0.95);
        world.fill_solid(&Shape::rect(x - 5.0, y + dy + 9.0, w + 10.0, 3.0), stone * 0.45);
    }
}

pub fn blue_house(world: &mut Canvas) {
    let (x, w, top) = (2086.0, 500.0, 196.0);
    world.fill(&Shape::rect(x, top, w, GROUND - top), |px, py| {
        // Weatherboards.
        let v = ((py - top) / 15.0).fract();
        plaster(px, (py / 15.0).floor() * 40.0, Rgb::hex(0x7fa3b4))
            * (0.6 + 0.5 * smoothstep(0.0, 0.14, v) - 0.12 * v)
    });
    roof(world, (x - 12.0, x + w + 30.0), top, 84.0, Rgb::hex(0x565a63));
    for wx in [2130.0, 2420.0] {
        Window {
            at: (wx, 262.0),
            size: (84.0, 136.0),
            panes: (3, 4),
            frame: Rgb::hex(0xf4efe4),
        }
        .draw(world);
        flowers(world, wx - 2.0, 390.0, 88.0);
    }
    clock(world, (2316.0, 330.0), 58.0);
    cornice(world, x, top - 4.0, w, 14.0, Rgb::hex(0xe9e4d8));
    cornice(world, x, 478.0, w, 12.0, Rgb::hex(0xe9e4d8));
}

fn clock(world: &mut Canvas, (cx, cy): (f32, f32), r: f32) {
    world.shadow(&Shape::circle(cx + 5.0, cy + 7.0, r + 8.0), 8.0, 0.6);
    world.fill_solid(&Shape::circle(cx, cy, r + 8.0), Rgb::hex(0x2c2a2b));
    world.fill_solid(&Shape::ring(cx, cy, r + 4.0, 3.0), Rgb::hex(0xc9a24c));
    world.fill(&Shape::circle(cx, cy, r), |px, py| {
        Rgb::hex(0xf6efdc) * (0.95 - 0.12 * fbm(px * 0.05, py * 0.05, 3, 20))
    });
    let ink = Rgb::hex(0x1f1c1b);
    for minute in 0..60 {
        let (sin, cos) = (minute as f32 / 60.0 * std::f32::consts::TAU).sin_cos();
        let (inner, width) = if minute % 5 == 0 {
            (r - 9.0, 2.4)
        } else {
            (r - 6.0, 1.0)
        };
        world.fill_solid(
            &Shape::line(
                (cx + inner * sin, cy - inner * cos),
                (cx + (r - 3.0) * sin, cy - (r - 3.0) * cos),
                width,
            ),
            ink,
        );
    }
    for hour in 1..=12 {
        let (sin, cos) = (hour as f32 / 12.0 * std::f32::consts::TAU).sin_cos();
        let at = (cx + (r - 18.0) * sin, cy - (r - 18.0) * cos - 5.0);
        font::draw_centred(world, &hour.to_string(), at, 10.0, 1.7, ink);
    }
    for (turn, length, width) in [(10.15 / 12.0, 27.0, 4.4), (9.0 / 60.0, 42.0, 2.8)] {
        let (sin, cos) = (turn * std::f32::consts::TAU).sin_cos();
        world.fill_solid(
            &Shape::line(
                (cx - 8.0 * sin, cy + 8.0 * cos),
                (cx + length * sin, cy - length * cos),
                width,
            ),
            ink,
        );
    }
}
