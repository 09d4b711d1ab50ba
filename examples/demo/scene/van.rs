//! The delivery van: the one thing that moves by itself, as a sprite with a soft outline and its shadow.

use crate::draw::texture::{fbm, pane};
use crate::draw::{Canvas, Rgb, Shape, font, smoothstep};

/// Paints the van, which drives to the left, on a transparent sprite of 470 x 260 pixels; its wheels stand at 236.
pub fn van() -> Canvas {
    let mut van = Canvas::new(470, 260);
    van.shadow(&Shape::ellipse(238.0, 238.0, 205.0, 9.0, 0.0), 10.0, 0.75);
    let paint = |x: f32, y: f32| {
        // Enamel mirrors sky above and street below the waist line.
        let sheen = smoothstep(150.0, 40.0, y) * 0.35
            + 0.22 * smoothstep(128.0, 122.0, y) * smoothstep(112.0, 122.0, y);
        let base = if y < 128.0 {
            Rgb::hex(0xf4ead2)
        } else {
            Rgb::hex(0x2e7d74)
        };
        base * (0.62 + 0.3 * sheen - 0.0011 * (y - 60.0) + 0.08 * fbm(x * 0.02, y * 0.08, 3, 131))
    };
    let cab = [
        (30.0, 214.0),
        (28.0, 150.0),
        (40.0, 128.0),
        (88.0, 114.0),
        (128.0, 50.0),
        (146.0, 38.0),
        (440.0, 36.0),
        (452.0, 48.0),
        (454.0, 214.0),
    ];
    van.fill(&Shape::polygon(&cab), paint);
    van.fill_solid(&Shape::rect(29.0, 126.0, 424.0, 4.0), Rgb::hex(0xd9a441));
    let glass = [
        (100.0, 118.0),
        (134.0, 60.0),
        (148.0, 52.0),
        (196.0, 52.0),
        (196.0, 118.0),
    ];
    van.fill_solid(
        &Shape::polygon(&[
            (93.0, 122.0),
            (130.0, 55.0),
            (147.0, 46.0),
            (202.0, 46.0),
            (202.0, 122.0),
        ]),
        Rgb::hex(0x25211f),
    );
    van.fill(&Shape::polygon(&glass), |x, y| {
        pane(x, y, (x - 96.0) / 100.0, (y - 52.0) / 66.0)
    });
    van.fill_solid(
        &Shape::line((152.0, 50.0), (150.0, 120.0), 5.0),
        Rgb::hex(0x25211f),
    );
    for x in [206.0, 150.0] {
        van.fill_solid(&Shape::rect(x, 122.0, 1.6, 88.0), Rgb::hex(0x173f3a));
    }
    van.fill_solid(&Shape::rounded(170.0, 140.0, 22.0, 6.0, 3.0), Rgb::hex(0xd8d5cc));
    font::draw_centred(
        &mut van,
        "FRESH BREAD",
        (330.0, 62.0),
        24.0,
        5.0,
        Rgb::hex(0xa8402a),
    );
    font::draw_centred(
        &mut van,
        "BAKED BEFORE SUNRISE",
        (330.0, 103.0),
        11.0,
        1.9,
        Rgb::hex(0x4b4138),
    );
    font::draw_centred(
        &mut van,
        "TEL. 555 0142",
        (272.0, 146.0),
        13.0,
        2.3,
        Rgb::hex(0xf4ead2),
    );
    // Lamps, bumper, plate.
    van.fill(&Shape::ellipse(40.0, 150.0, 10.0, 15.0, 0.1), |x, _| {
        Rgb::hex(0xfff3cf) * (0.7 + 0.02 * (x - 30.0))
    });
    van.fill_solid(&Shape::rect(447.0, 140.0, 7.0, 34.0), Rgb::hex(0xb3261f));
    van.fill(&Shape::rounded(20.0, 198.0, 440.0, 15.0, 6.0), |_, y| {
        Rgb::hex(0x9ba0a0) * (1.15 - 0.055 * (y - 198.0))
    });
    for cx in [108.0, 372.0] {
        wheel(&mut van, (cx, 204.0));
    }
    van
}

fn wheel(van: &mut Canvas, (cx, cy): (f32, f32)) {
    van.fill_solid(&Shape::circle(cx, cy - 2.0, 42.0), Rgb::hex(0x14110f));
    van.fill(&Shape::circle(cx, cy, 34.0), |x, y| {
        Rgb::hex(0x2b2929) * (0.7 + 0.5 * fbm(x * 0.2, y * 0.2, 3, 132))
    });
    van.fill(&Shape::circle(cx, cy, 20.0), |x, y| {
        Rgb::hex(0xd0d2d0) * (0.75 - 0.012 * ((x - cx) * 0.6 + (y - cy)))
    });
    van.fill_solid(&Shape::ring(cx, cy, 13.0, 2.0), Rgb::hex(0x77797a));
    van.fill_solid(&Shape::circle(cx, cy, 5.0), Rgb::hex(0x8f9292));
}
