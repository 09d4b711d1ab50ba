//! A stroke font of capitals, digits and some signs: drawn at any size and weight, with round ends.

use super::{Canvas, Rgb, Shape, segment_distance};

/// Cap height of the glyph grid; y grows downwards and 6 is the baseline.
const CAP: f32 = 6.0;
const SPACING: f32 = 1.7;

/// Advance width and strokes of a glyph. `M x y` moves, `L x y` draws a line; `H x y` and `V x y` draw a quarter of an
/// ellipse that leaves horizontally or vertically.
fn glyph(c: char) -> (f32, &'static str) {
    match c {
        'A' => (4.2, "M0 6 L2.1 0 L4.2 6 M.7 4 L3.5 4"),
        'B' => (
            3.8,
            "M0 3 L2.2 3 H3.5 1.5 V2.2 0 L0 0 L0 6 L2.2 6 H3.8 4.5 V2.2 3",
        ),
        'C' => (4.0, "M4 1.6 V2.1 0 H0 2.2 L0 3.8 V2.1 6 H4 4.4"),
        'D' => (4.0, "M0 0 L1.7 0 H4 2.4 L4 3.6 V1.7 6 L0 6 L0 0"),
        'E' => (3.3, "M3.3 0 L0 0 L0 6 L3.3 6 M0 2.9 L2.7 2.9"),
        'F' => (3.2, "M3.2 0 L0 0 L0 6 M0 2.9 L2.6 2.9"),
        'G' => (4.1, "M4 1.6 V2.1 0 H0 2.2 L0 3.8 V2.1 6 H4.1 4 L4.1 3.3 L2.5 3.3"),
        'H' => (4.0, "M0 0 L0 6 M4 0 L4 6 M0 2.9 L4 2.9"),
        'I' => (0.0, "M0 0 L0 6"),
        'J' => (2.8, "M2.8 0 L2.8 4.5 V1.4 6 H0 4.5"),
        'K' => (3.8, "M0 0 L0 6 M3.7 0 L0 3.8 M1.3 2.5 L3.8 6"),
        'L' => (3.1, "M0 0 L0 6 L3.1 6"),
        'M' => (4.8, "M0 6 L0 0 L2.4 4 L4.8 0 L4.8 6"),
        'N' => (4.0, "M0 6 L0 0 L4 6 L4 0"),
        'O' => (4.4, "M2.2 0 H4.4 2.4 L4.4 3.6 V2.2 6 H0 3.6 L0 2.4 V2.2 0"),
        'P' => (3.8, "M0 6 L0 0 L2.2 0 H3.8 1.7 V2.2 3.4 L0 3.4"),
        'Q' => (
            4.4,
            "M2.2 0 H4.4 2.4 L4.4 3.6 V2.2 6 H0 3.6 L0 2.4 V2.2 0 M2.7 4.4 L4.5 6.4",
        ),
        'R' => (3.9, "M0 6 L0 0 L2.2 0 H3.8 1.7 V2.2 3.4 L0 3.4 M2 3.4 L3.9 6"),
        'S' => (3.8, "M3.6 1.4 V1.9 0 H.1 1.5 V1.9 2.9 H3.8 4.5 V1.9 6 H0 4.5"),
        'T' => (4.0, "M0 0 L4 0 M2 0 L2 6"),
        'U' => (4.0, "M0 0 L0 3.8 V2 6 H4 3.8 L4 0"),
        'V' => (4.2, "M0 0 L2.1 6 L4.2 0"),
        'W' => (6.0, "M0 0 L1.5 6 L3 .8 L4.5 6 L6 0"),
        'X' => (4.0, "M0 0 L4 6 M4 0 L0 6"),
        'Y' => (4.0, "M0 0 L2 3.1 L4 0 M2 3.1 L2 6"),
        'Z' => (3.8, "M0 0 L3.8 0 L0 6 L3.8 6"),
        '0' => (3.8, "M1.9 0 H3.8 2.2 L3.8 3.8 V1.9 6 H0 3.8 L0 2.2 V1.9 0"),
        '1' => (1.5, "M0 1.2 L1.5 0 L1.5 6"),
        '2' => (3.6, "M.1 1.6 V1.8 0 H3.5 1.6 L3.3 2.5 L0 6 L3.6 6"),
        '3' => (3.6, "M.2 1.3 V1.8 0 H3.4 1.5 V1.8 2.9 H3.6 4.4 V1.8 6 H0 4.6"),
        '4' => (3.8, "M2.9 6 L2.9 0 L0 4.3 L3.8 4.3"),
        '5' => (3.6, "M3.3 0 L.4 0 L.2 2.7 L1.8 2.3 H3.6 4.1 V1.8 6 H0 4.8"),
        '6' => (
            3.7,
            "M3.4 1.1 V2.1 0 H0 3.2 L0 4.2 V1.9 6 H3.7 4.2 V1.9 2.5 H0 4.2",
        ),
        '7' => (3.6, "M0 0 L3.6 0 L1.2 6"),
        '8' => (
            3.7,
            "M1.9 2.9 H.2 1.45 V1.9 0 H3.5 1.45 V1.9 2.9 H3.7 4.4 V1.9 6 H0 4.4 V1.9 2.9",
        ),
        '9' => (
            3.7,
            "M3.7 1.8 V1.8 3.5 H0 1.8 V1.8 0 H3.7 1.8 L3.7 2.8 V1.6 6 H.3 4.9",
        ),
        '.' => (0.0, "M0 6 L0 6"),
        ':' => (0.0, "M0 2 L0 2 M0 5.2 L0 5.2"),
        '-' => (2.2, "M0 3.2 L2.2 3.2"),
        '+' => (3.0, "M0 3.2 L3 3.2 M1.5 1.7 L1.5 4.7"),
        '/' => (2.6, "M2.6 0 L0 6"),
        '\'' => (0.0, "M0 0 L0 1.4"),
        '&' => (
            4.4,
            "M4.4 6 L.9 2.1 L.7 1.3 V1.9 0 H3.1 1.2 L2.7 2.1 L.5 3.7 L0 4.6 V1.8 6 H4.3 3.4",
        ),
        // A space, and room for what the font does not have.
        _ => (2.4, ""),
    }
}

type Segment = ((f32, f32), (f32, f32));

/// The strokes of `c` as straight segments on the grid.
fn segments(c: char) -> Vec<Segment> {
    let (_, path) = glyph(c);
    let mut tokens = path.split_whitespace();
    let number = |token: &str| token.parse::<f32>().expect("the font table holds numbers");
    let mut at = (0.0, 0.0);
    let mut strokes = Vec::new();
    while let Some(token) = tokens.next() {
        let (command, x) = token.split_at(1);
        let to = (number(x), number(tokens.next().expect("a point has two numbers")));
        match command {
            "M" => {}
            "L" => strokes.push((at, to)),
            _ => {
                const STEPS: usize = 10;
                let centre = if command == "H" {
                    (at.0, to.1)
                } else {
                    (to.0, at.1)
                };
                let (from, span) = (
                    (at.0 - centre.0, at.1 - centre.1),
                    (to.0 - centre.0, to.1 - centre.1),
                );
                let mut last = at;
                for step in 1..=STEPS {
                    let (sin, cos) = (step as f32 / STEPS as f32 * std::f32::consts::FRAC_PI_2).sin_cos();
                    let next = (
                        centre.0 + from.0 * cos + span.0 * sin,
                        centre.1 + from.1 * cos + span.1 * sin,
                    );
                    strokes.push((last, next));
                    last = next;
                }
            }
        }
        at = to;
    }
    strokes
}

/// Width in pixels of `text` set with capitals `size` pixels high.
pub fn width(text: &str, size: f32) -> f32 {
    let advance: f32 = text.chars().map(|c| glyph(c).0 + SPACING).sum();
    (advance - SPACING).max(0.0) * size / CAP
}

/// Sets `text` with its capitals' top left corner at `(x, y)`; `weight` is the width of a stroke in pixels.
pub fn draw(canvas: &mut Canvas, text: &str, (x, y): (f32, f32), size: f32, weight: f32, colour: Rgb) {
    let scale = size / CAP;
    let mut pen = x;
    for c in text.chars() {
        let place = |(gx, gy): (f32, f32)| (pen + gx * scale, y + gy * scale);
        let strokes: Vec<Segment> = segments(c)
            .into_iter()
            .map(|(a, b)| (place(a), place(b)))
            .collect();
        let advance = glyph(c).0 * scale;
        if !strokes.is_empty() {
            let reach = weight / 2.0;
            let bounds = [
                pen - reach,
                y - reach,
                pen + advance + reach + scale,
                y + size + reach + scale,
            ];
            let shape = Shape::new(bounds, move |px, py| {
                let distance = |&(a, b): &Segment| segment_distance((px, py), a, b);
                strokes.iter().map(distance).fold(f32::MAX, f32::min) - reach
            });
            canvas.fill_solid(&shape, colour);
        }
        pen += advance + SPACING * scale;
    }
}

/// The capitals' height, at most `size`, at which `text` is no wider than `room` pixels.
pub fn fit(text: &str, size: f32, room: f32) -> f32 {
    size.min(size * room / width(text, size).max(1.0))
}

/// Like [`draw`], centred on `cx`.
pub fn draw_centred(
    canvas: &mut Canvas,
    text: &str,
    (cx, y): (f32, f32),
    size: f32,
    weight: f32,
    colour: Rgb,
) {
    draw(
        canvas,
        text,
        (cx - width(text, size) / 2.0, y),
        size,
        weight,
        colour,
    );
}
