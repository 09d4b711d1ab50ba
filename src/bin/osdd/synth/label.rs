//! Small letters on pictures.

use image::{Rgb, RgbImage};

/// Height of a line of text in px, with the space around it.
pub(super) const LINE_PX: u32 = 16;

/// Side of a dot of a letter in px.
const DOT_PX: u32 = 2;

/// Letters of 3x5 dots, row by row from the top, the highest of 15 bits first.
fn glyph(letter: char) -> u16 {
    match letter {
        'a' => 0b010_101_111_101_101,
        'b' => 0b110_101_110_101_110,
        'c' => 0b011_100_100_100_011,
        'd' => 0b110_101_101_101_110,
        'e' => 0b111_100_110_100_111,
        'f' => 0b111_100_110_100_100,
        'g' => 0b011_100_101_101_011,
        'h' => 0b101_101_111_101_101,
        'i' => 0b111_010_010_010_111,
        'j' => 0b001_001_001_101_010,
        'k' => 0b101_110_100_110_101,
        'l' => 0b100_100_100_100_111,
        'm' => 0b101_111_111_101_101,
        'n' => 0b110_101_101_101_101,
        'o' => 0b010_101_101_101_010,
        'p' => 0b110_101_110_100_100,
        'r' => 0b110_101_110_101_101,
        's' => 0b011_100_010_001_110,
        't' => 0b111_010_010_010_010,
        'u' => 0b101_101_101_101_111,
        'w' => 0b101_101_111_111_101,
        'x' => 0b101_101_010_101_101,
        'y' => 0b101_101_010_010_010,
        '0' => 0b111_101_101_101_111,
        '1' => 0b010_110_010_010_111,
        '2' => 0b110_001_010_100_111,
        '3' => 0b110_001_010_001_110,
        '4' => 0b101_101_111_001_001,
        '5' => 0b111_100_110_001_110,
        '6' => 0b011_100_111_101_111,
        '7' => 0b111_001_010_010_010,
        '8' => 0b111_101_111_101_111,
        '9' => 0b111_101_111_001_110,
        '.' => 0b000_000_000_000_010,
        _ => 0,
    }
}

/// Writes one line of lower-case text in white.
pub(super) fn write(image: &mut RgbImage, x: u32, y: u32, text: &str) {
    for (i, letter) in text.chars().enumerate() {
        let bits = glyph(letter);
        let left = x + 4 * DOT_PX * i as u32;
        for dot in (0..15).filter(|dot| bits >> (14 - dot) & 1 == 1) {
            for j in 0..DOT_PX * DOT_PX {
                let column = left + dot % 3 * DOT_PX + j % DOT_PX;
                let row = y + dot / 3 * DOT_PX + j / DOT_PX;
                if column < image.width() && row < image.height() {
                    image.put_pixel(column, row, Rgb([255; 3]));
                }
            }
        }
    }
}
