//! What stands behind the shop windows and in front of them.

use super::GROUND;
use super::charts::{eye_chart, line_pairs, siemens_star, spectacles};
use super::props::{ball, chalkboard, crate_box, die, letter_block};
use crate::draw::texture::{fbm, hash, pane, wood};
use crate::draw::{Canvas, Rgb, Shape, font};

const CREAM: u32 = 0xf6ecd4;

/// A timber shop front between `x` and `x + w`: fascia with the name, stall riser, posts.
fn shop_front(world: &mut Canvas, x: f32, w: f32, name: &str, timber: Rgb, letters: Rgb) {
    let grain = |px: f32, py: f32| timber * (0.7 + 0.5 * fbm(px * 0.02, py * 0.3, 4, 120));
    world.shadow(&Shape::rect(x - 4.0, 500.0, w + 12.0, GROUND - 500.0), 8.0, 0.5);
    world.fill(&Shape::rect(x, 496.0, w, GROUND - 496.0), grain);
    world.fill(&Shape::rect(x - 6.0, 494.0, w + 12.0, 62.0), |px, py| {
        let rim = (py - 494.0).min(556.0 - py);
        grain(px, py)
            * if rim < 4.0 {
                1.6
            } else if rim < 6.0 {
                0.4
            } else {
                1.0
            }
    });
    font::draw_centred(world, name, (x + w / 2.0 + 2.0, 511.0), 30.0, 5.2, timber * 0.15);
    font::draw_centred(world, name, (x + w / 2.0, 509.0), 30.0, 5.2, letters);
    world.shadow(&Shape::rect(x, 556.0, w, 8.0), 8.0, 0.55);
}

/// A lit display window: back wall, floor board, and the shade that its top throws.
fn display(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32), back: Rgb) {
    world.fill_solid(
        &Shape::rect(x - 5.0, y - 5.0, w + 10.0, h + 10.0),
        Rgb::hex(0x1f1a17),
    );
    world.fill(&Shape::rect(x, y, w, h), |px, py| {
        let spot = (-((px - x - w / 2.0) / (0.55 * w)).powi(2)).exp();
        back * ((0.35 + 0.5 * spot) * (0.78 + 0.4 * fbm(px * 0.02, py * 0.02, 5, 121)))
    });
    world.fill(&Shape::rect(x, y + h - 16.0, w, 16.0), |px, py| {
        wood(py, px, 16.0, Rgb::hex(0xb58351))
    });
    world.shadow(&Shape::rect(x, y, w, 14.0), 12.0, 0.5);
}

/// The pane in front of a display: a faint mirror of the street, in slanted bands.
fn glaze(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32)) {
    for (left, width, amount) in [(0.08, 0.10, 0.14), (0.22, 0.03, 0.10), (0.66, 0.16, 0.11)] {
        let (a, b) = (x + left * w, x + (left + width) * w);
        let lean = 0.35 * h;
        let band = Shape::polygon(&[(a + lean, y), (b + lean, y), (b, y + h), (a, y + h)]);
        world.glow(
            &band.within(Shape::rect(x, y, w, h)),
            0.5,
            Rgb::hex(0xdfeaf2),
            amount,
        );
    }
}

fn door(world: &mut Canvas, x: f32, colour: Rgb) {
    let (y, w) = (574.0, 96.0);
    world.fill_solid(
        &Shape::rect(x - 6.0, y - 6.0, w + 12.0, GROUND - y + 6.0),
        Rgb::hex(0x1c1815),
    );
    world.fill(&Shape::rect(x, y, w, GROUND - y), |px, py| {
        wood(px, py, 24.0, colour)
    });
    world.fill(&Shape::rect(x + 14.0, y + 16.0, w - 28.0, 118.0), |px, py| {
        pane(px, py, (px - x) / w, (py - y) / 130.0) * 0.8
    });
    for bar in [x + w / 2.0 - 1.5, x + 13.0, x + w - 16.0] {
        world.fill_solid(&Shape::rect(bar, y + 14.0, 3.0, 122.0), colour * 0.6);
    }
    world.fill_solid(
        &Shape::rounded(x + 26.0, y + 46.0, 44.0, 24.0, 3.0),
        Rgb::hex(CREAM),
    );
    font::draw_centred(world, "OPEN", (x + 48.0, y + 53.0), 10.0, 1.7, Rgb::hex(0x9c2b25));
    world.fill_solid(&Shape::circle(x + w - 11.0, y + 166.0, 5.0), Rgb::hex(0xd9b45a));
}

/// Eye chart, resolution targets and spectacles.
pub fn optician(world: &mut Canvas) {
    let (x, w) = (96.0, 500.0);
    shop_front(world, x, w, "OPTICIAN", Rgb::hex(0x1f4d4a), Rgb::hex(0xf1cf7c));
    let (at, size) = ((116.0, 576.0), (352.0, 196.0));
    display(world, at, size, Rgb::hex(0xd9d0bb));
    eye_chart(world, (132.0, 590.0), (118.0, 162.0));
    siemens_star(world, (322.0, 648.0), 52.0);
    line_pairs(world, (394.0, 596.0));
    spectacles(world, (322.0, 738.0), 26.0, Rgb::hex(0x6d2420));
    spectacles(world, (424.0, 738.0), 20.0, Rgb::hex(0x1f2a38));
    glaze(world, at, size);
    font::draw_centred(
        world,
        "SEE SHARP AGAIN",
        (292.0, 792.0),
        17.0,
        2.8,
        Rgb::hex(0xf1cf7c),
    );
    door(world, 488.0, Rgb::hex(0x2c6863));
    // The trade sign that hangs over the pavement.
    world.fill_solid(
        &Shape::line((40.0, 520.0), (96.0, 520.0), 4.0),
        Rgb::hex(0x26211f),
    );
    world.shadow(&Shape::rounded(22.0, 540.0, 84.0, 56.0, 8.0), 6.0, 0.4);
    world.fill_solid(&Shape::rounded(14.0, 532.0, 84.0, 56.0, 8.0), Rgb::hex(0x1f4d4a));
    spectacles(world, (56.0, 560.0), 17.0, Rgb::hex(0xf1cf7c));
}

/// Fruit in crates under a striped awning.
pub fn grocer(world: &mut Canvas) {
    let (x, w) = (660.0, 540.0);
    shop_front(world, x, w, "FRUIT & BOOKS", Rgb::hex(0x6b2430), Rgb::hex(CREAM));
    let (at, size) = ((680.0, 590.0), (370.0, 150.0));
    display(world, at, size, Rgb::hex(0x9b7d55));
    bookshelf(world, at, size);
    glaze(world, at, size);
    door(world, 1078.0, Rgb::hex(0x8b2f3b));
    awning(world, (664.0, 556.0), (404.0, 62.0));
    let fruit = [
        (0xe8761b, 15.0),
        (0xb81f22, 14.0),
        (0x7fa62c, 13.0),
        (0xe9c02e, 16.0),
    ];
    for (i, (colour, r)) in fruit.into_iter().enumerate() {
        let cx = 684.0 + 96.0 * i as f32;
        crate_box(world, (cx, 778.0), 90.0, 50.0);
        for row in 0..3 {
            for column in 0..(4 - row % 2) {
                let jitter = hash(column, row * 7 + i as i32, 123) - 0.5;
                let bx = cx + 16.0 + (column as f32 + 0.5 * (row % 2) as f32) * 19.5 + 3.0 * jitter;
                let ripe = Rgb::hex(colour) * (0.85 + 0.4 * jitter);
                ball(
                    world,
                    (bx, 756.0 + 10.0 * row as f32),
                    r * (0.92 + 0.12 * jitter),
                    ripe,
                    0.35,
                );
            }
        }
        world.fill(&Shape::rect(cx, 786.0, 90.0, 6.0), |px, py| {
            wood(py, px, 6.0, Rgb::hex(0xc79c63))
        });
        world.fill_solid(&Shape::rect(cx + 22.0, 796.0, 46.0, 22.0), Rgb::hex(CREAM));
        font::draw_centred(
            world,
            ["2.50", "1.95", "0.80", "3.20"][i],
            (cx + 45.0, 801.0),
            12.0,
            2.0,
            Rgb::hex(0x9c2b25),
        );
    }
}

fn bookshelf(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32)) {
    let spines = [
        0x8c2f2a, 0x27506b, 0xd6b35a, 0x3f6b45, 0xe3d6bd, 0x5a3a63, 0xb8642f, 0x22302e,
    ];
    for shelf in 0..2 {
        let base = y + 78.0 + 68.0 * shelf as f32;
        let mut bx = x + 4.0;
        let mut i = shelf * 100;
        while bx < x + w - 18.0 {
            let (a, b) = (hash(i, 0, 124), hash(i, 1, 124));
            let (bw, bh) = (8.0 + 9.0 * a, (38.0 + 18.0 * b).min(h));
            let colour = Rgb::hex(spines[(hash(i, 2, 124) * 7.99) as usize]);
            world.fill(&Shape::rect(bx, base - bh, bw, bh), |px, py| {
                let round = 0.55 + 0.6 * (((px - bx) / bw) * std::f32::consts::PI).sin();
                let band =
                    ((py - base + bh) / bh - 0.2).abs() < 0.03 || ((py - base + bh) / bh - 0.8).abs() < 0.02;
                if band {
                    Rgb::hex(0xe7c878) * round
                } else {
                    colour * round
                }
            });
            bx += bw + 1.0;
            i += 1;
        }
        world.fill(&Shape::rect(x, base, w, 7.0), |px, py| {
            wood(py, px, 7.0, Rgb::hex(0xa9774a))
        });
    }
}

/// Striped cloth with a scalloped edge, and the shade under it.
fn awning(world: &mut Canvas, (x, y): (f32, f32), (w, h): (f32, f32)) {
    world.shadow(&Shape::rect(x + 6.0, y + h - 10.0, w, 44.0), 24.0, 0.6);
    let cloth = |px: f32, py: f32| {
        let stripe = ((px - x) / 25.25).floor() as i32 & 1;
        let colour = if stripe == 0 {
            Rgb::hex(0xb3262e)
        } else {
            Rgb::hex(0xf7efdc)
        };
        colour * (1.05 - 0.35 * (py - y) / h) * (0.85 + 0.25 * fbm(px * 0.03, py * 0.08, 4, 125))
    };
    world.fill(
        &Shape::polygon(&[
            (x + 8.0, y),
            (x + w - 8.0, y),
            (x + w, y + h - 12.0),
            (x, y + h - 12.0),
        ]),
        cloth,
    );
    for i in 0..16 {
        let cx = x + 12.6 + 25.25 * i as f32;
        let drop =
            Shape::circle(cx, y + h - 12.0, 12.4).within(Shape::rect(cx - 13.0, y + h - 12.5, 26.0, 20.0));
        world.fill(&drop, |px, py| cloth(px, py) * 0.8);
    }
    world.shadow(&Shape::rect(x, y + h - 15.0, w, 3.0), 1.5, 0.4);
}

/// Dice, blocks and balls.
pub fn toy_shop(world: &mut Canvas) {
    let (x, w) = (2116.0, 420.0);
    shop_front(
        world,
        x,
        w,
        "TOYS & GAMES",
        Rgb::hex(0x274b7a),
        Rgb::hex(0xffd76a),
    );
    let (at, size) = ((2136.0, 576.0), (270.0, 196.0));
    display(world, at, size, Rgb::hex(0xcbb9d0));
    for (i, letter) in "OSDD".chars().enumerate() {
        let colour = Rgb::hex([0xc9352f, 0x2f7fb0, 0xe0a526, 0x3f8f4d][i]);
        letter_block(world, letter, (2146.0 + 64.0 * i as f32, 606.0), 50.0, colour);
    }
    world.fill(&Shape::rect(2136.0, 656.0, 270.0, 8.0), |px, py| {
        wood(py, px, 8.0, Rgb::hex(0xb58351))
    });
    die(world, (2190.0, 704.0), 40.0, 0.75, Rgb::hex(0xf4ead8), [5, 3, 6]);
    die(world, (2262.0, 722.0), 28.0, 0.5, Rgb::hex(0xa32229), [2, 4, 1]);
    ball(world, (2334.0, 722.0), 34.0, Rgb::hex(0x2b7cc0), 0.7);
    ball(world, (2386.0, 738.0), 17.0, Rgb::hex(0xe0a526), 0.6);
    glaze(world, at, size);
    door(world, 2428.0, Rgb::hex(0x356aa6));
    font::draw_centred(world, "PLAY MORE", (2271.0, 792.0), 17.0, 2.8, Rgb::hex(0xffd76a));
    chalkboard(
        world,
        (2060.0, 730.0),
        (92.0, 132.0),
        &["CAFE", "ESPRESSO 2", "LATTE 3", "CAKE 4", "WIFI NO"],
        12.0,
    );
}
