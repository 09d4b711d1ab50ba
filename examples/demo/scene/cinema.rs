//! The cinema's marquee and its posters.

use super::GROUND;
use super::props::ball;
use crate::draw::texture::{fbm, pane};
use crate::draw::{Canvas, Rgb, Shape, font, smoothstep};

/// A marquee with changeable letters and bulbs, posters below.
pub fn front(world: &mut Canvas) {
    let (x, y, w, h) = (1500.0, 436.0, 562.0, 118.0);
    world.shadow(&Shape::rect(x + 10.0, y + 20.0, w, h + 40.0), 26.0, 0.6);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        Rgb::hex(0x7d1f24) * (0.8 + 0.35 * fbm(px * 0.02, py * 0.1, 4, 126))
    });
    world.fill(&Shape::rect(x + 18.0, y + 16.0, w - 36.0, h - 32.0), |px, py| {
        let tube = 0.82 + 0.12 * ((py - y) * 0.14).cos();
        Rgb::hex(0xfff6df) * (tube * (0.95 + 0.08 * fbm(px * 0.02, py * 0.02, 3, 127)))
    });
    for row in 1..3 {
        world.fill_solid(
            &Shape::rect(x + 18.0, y + 16.0 + 43.0 * row as f32 - 1.0, w - 36.0, 2.0),
            Rgb::hex(0x9b8f7c),
        );
    }
    font::draw_centred(
        world,
        "TONIGHT: SHARP AT LAST",
        (x + w / 2.0, y + 23.0),
        28.0,
        5.0,
        Rgb::hex(0x1c1718),
    );
    font::draw_centred(
        world,
        "ONE STEP - NO BLUR - 8:30",
        (x + w / 2.0, y + 67.0),
        25.0,
        4.2,
        Rgb::hex(0xa32229),
    );
    for i in 0..37 {
        for by in [y + 8.0, y + h - 8.0] {
            ball(
                world,
                (x + 10.0 + 15.05 * i as f32, by),
                4.6,
                Rgb::hex(0xffdf8a),
                0.8,
            );
        }
    }
    world.fill(
        &Shape::rect(x + 8.0, 566.0, w - 16.0, GROUND - 566.0),
        |px, py| Rgb::hex(0x3d2a24) * (0.6 + 0.6 * fbm(px * 0.02, py * 0.05, 4, 128)),
    );
    for (i, px) in [1524.0, 1672.0, 1908.0].into_iter().enumerate() {
        poster(world, (px, 590.0), i);
    }
    for px in [1816.0, 1858.0] {
        world.fill(&Shape::rect(px - 10.0, 584.0, 40.0, GROUND - 584.0), |a, b| {
            pane(a, b, (a - px) / 40.0, (b - 584.0) / 246.0) * 0.9
        });
        world.fill_solid(
            &Shape::rect(px + if px < 1830.0 { 20.0 } else { -6.0 }, 690.0, 4.0, 60.0),
            Rgb::hex(0xd9b45a),
        );
    }
}

/// A film poster of 124 x 200 px with a portrait; `kind` picks one of three.
fn poster(world: &mut Canvas, (x, y): (f32, f32), kind: usize) {
    let (title, below, ground, ink) = [
        ("THE STILL", "A FILM IN FOCUS", 0x1f3f5b, 0xf3c76a),
        ("STEADY", "HANDS OFF THE CAMERA", 0xb5482f, 0xf8ead0),
        ("CLEAR DAY", "SEEN BY MILLIONS", 0x3d6b58, 0xf6e3b4),
    ][kind];
    let (ground, ink) = (Rgb::hex(ground), Rgb::hex(ink));
    let (w, h) = (124.0, 200.0);
    world.fill_solid(
        &Shape::rect(x - 7.0, y - 7.0, w + 14.0, h + 14.0),
        Rgb::hex(0xc49a4a),
    );
    world.shadow(&Shape::rect(x - 3.0, y - 3.0, w + 6.0, h + 6.0), 2.0, 0.6);
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        // Rays behind the head.
        let angle = (py - y - 84.0).atan2(px - x - 62.0);
        let ray = smoothstep(-0.2, 0.2, (angle * 14.0).sin());
        ground * (0.75 + 0.45 * ray)
    });
    portrait(world, (x + 62.0, y + 88.0), kind);
    world.fill_solid(&Shape::rect(x, y + 146.0, w, 54.0), ground * 0.35);
    for (text, size, top) in [(title, 20.0, 156.0), (below, 9.0, 182.0)] {
        let size = font::fit(text, size, w - 18.0);
        font::draw_centred(world, text, (x + w / 2.0, y + top), size, 0.17 * size, ink);
    }
    let gleam = [(x + 60.0, y), (x + 100.0, y), (x + 30.0, y + h), (x, y + h)];
    world.glow(&Shape::polygon(&gleam), 0.5, Rgb(1.0, 1.0, 1.0), 0.07);
}

/// Head and shoulders, lit from the left.
fn portrait(world: &mut Canvas, (x, y): (f32, f32), kind: usize) {
    let skin = Rgb::hex([0xe6b58d, 0xa86c48, 0xf0c7a2][kind]);
    let hair = Rgb::hex([0x2a1c16, 0x17110f, 0x8a4b22][kind]);
    let coat = Rgb::hex([0x7a2130, 0xe0d2b0, 0x23364f][kind]);
    let lit = move |colour: Rgb| {
        move |px: f32, py: f32| {
            colour * (0.95 - 0.017 * (px - x + 6.0) + 0.12 * (fbm(px * 0.2, py * 0.2, 3, 115) - 0.5))
        }
    };
    world.fill(
        &Shape::ellipse(x, y + 74.0, 50.0, 36.0, 0.0).within(Shape::rect(x - 60.0, y, 120.0, 58.0)),
        lit(coat),
    );
    world.fill(
        &Shape::polygon(&[(x - 14.0, y + 38.0), (x + 14.0, y + 38.0), (x, y + 58.0)]),
        lit(Rgb::hex(0xf4efe4)),
    );
    let locks = if kind == 1 {
        (33.0, 36.0, -6.0)
    } else {
        (36.0, 48.0, 2.0)
    };
    world.fill(&Shape::ellipse(x, y + locks.2, locks.0, locks.1, 0.0), lit(hair));
    world.fill(&Shape::rect(x - 10.0, y + 20.0, 20.0, 24.0), lit(skin * 0.7));
    world.fill(&Shape::ellipse(x, y + 2.0, 26.0, 34.0, 0.0), lit(skin));
    world.fill(&Shape::ellipse(x - 4.0, y - 27.0, 30.0, 14.0, -0.2), lit(hair));
    for side in [-1.0, 1.0] {
        let ex = x + side * 11.0;
        world.fill_solid(&Shape::ellipse(ex, y, 6.0, 3.6, 0.0), Rgb::hex(0xf4efe4));
        world.fill_solid(&Shape::circle(ex + 1.0, y, 3.1), Rgb::hex(0x2c3b42));
        world.fill_solid(&Shape::circle(ex, y - 1.0, 0.9), Rgb::hex(0xffffff));
        world.fill_solid(
            &Shape::line((ex - 6.0, y - 7.5), (ex + 6.0, y - 8.5 + side), 2.4),
            hair,
        );
    }
    world.fill_solid(
        &Shape::line((x + 1.0, y + 2.0), (x + 4.0, y + 13.0), 2.0),
        skin * 0.55,
    );
    world.fill_solid(&Shape::ellipse(x, y + 21.0, 8.5, 2.8, 0.0), Rgb::hex(0xa8433d));
    world.fill_solid(
        &Shape::line((x - 8.0, y + 20.6), (x + 8.0, y + 20.6), 1.0),
        Rgb::hex(0x4f1c1c),
    );
}
