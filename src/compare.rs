//! Before and after in one picture.

use crate::Result;
use crate::frame::{Frame, PixelFormat, reserve};

/// The part of `output` left of `position` (0 to 1 of its width) becomes `input`, which has the same size and format; a white
/// line and a black one beside it, each one pixel wide for every 640 of the width, mark the border unless it lies at an edge. Gives
/// the border's column.
pub fn split(output: &mut Frame, input: &Frame, position: f64) -> usize {
    let pixel = output.format.bytes_per_pixel();
    let border = (output.width as f64 * position.clamp(0.0, 1.0)).round() as usize;
    let thickness = match border {
        0 => 0,
        _ => output.width.div_ceil(640),
    };
    let column = |at: usize| at.min(output.width) * pixel;
    let [left, middle, right] = [0, 1, 2].map(|lines| column(border + lines * thickness));
    let (stride, format) = (output.stride(), output.format);
    for (output, input) in output
        .data
        .chunks_exact_mut(stride)
        .zip(input.data.chunks_exact(stride))
    {
        output[..left].copy_from_slice(&input[..left]);
        paint(&mut output[left..middle], format, true);
        paint(&mut output[middle..right], format, false);
    }
    border
}

/// `input` left and `output` right, of the same size and format, in a frame twice as wide that uses `recycled`.
///
/// # Errors
/// Too little memory.
pub fn side_by_side(output: &Frame, input: &Frame, mut recycled: Vec<u8>) -> Result<Frame> {
    recycled.clear();
    reserve(&mut recycled, output.data.len() + input.data.len())?;
    let stride = output.stride();
    for (input, output) in input
        .data
        .chunks_exact(stride)
        .zip(output.data.chunks_exact(stride))
    {
        recycled.extend_from_slice(input);
        recycled.extend_from_slice(output);
    }
    Ok(Frame {
        width: 2 * output.width,
        height: output.height,
        format: output.format,
        data: recycled,
    })
}

/// Space around a label's letters, and between its box and the frame's edge, in dots.
const LABEL_MARGIN: usize = 2;

/// Writes BEFORE and AFTER in the lower corners of a frame that shows the input left of column `border` and the output right
/// of it; each where there is room. A dot of a letter is one pixel for every 360 of the height.
pub fn label(frame: &mut Frame, border: usize) {
    let dot = (frame.height / 360).max(1);
    for (text, columns, at_right) in [("BEFORE", 0..border, false), ("AFTER", border..frame.width, true)] {
        let size = |dots: usize| (dots + 2 * LABEL_MARGIN) * dot;
        let (width, height) = (size(6 * text.len() - 1), size(7));
        let margin = LABEL_MARGIN * dot;
        if width + 2 * margin > columns.len() || height + 2 * margin > frame.height {
            continue;
        }
        let left = if at_right {
            frame.width - margin - width
        } else {
            margin
        };
        let top = frame.height - margin - height;
        let (pixel, stride, format) = (frame.format.bytes_per_pixel(), frame.stride(), frame.format);
        for y in 0..height {
            let row = &mut frame.data[(top + y) * stride + left * pixel..][..width * pixel];
            for (x, pixel) in row.chunks_exact_mut(pixel).enumerate() {
                paint(pixel, format, is_ink(text, x / dot, y / dot));
            }
        }
    }
}

/// Makes pixels white or black; alpha stays.
fn paint(pixels: &mut [u8], format: PixelFormat, white: bool) {
    let colour = 3 * format.bytes_per_sample();
    for pixel in pixels.chunks_exact_mut(format.bytes_per_pixel()) {
        // Both 8 and 16 bits are white with all bits set.
        pixel[..colour].fill(if white { 0xff } else { 0 });
    }
}

/// Whether a dot of a label's box belongs to a letter.
fn is_ink(text: &str, x: usize, y: usize) -> bool {
    let (Some(x), Some(y)) = (x.checked_sub(LABEL_MARGIN), y.checked_sub(LABEL_MARGIN)) else {
        return false;
    };
    let rows = text.as_bytes().get(x / 6).map_or([0; 7], |&letter| glyph(letter));
    rows.get(y).is_some_and(|row| row << (x % 6) & 0b1_0000 != 0)
}

/// Letters of 5x7 dots, row by row from the top, the leftmost dot in the highest of five bits.
fn glyph(letter: u8) -> [u8; 7] {
    match letter {
        b'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        b'B' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
        b'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        b'F' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
        b'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        b'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        b'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(width: usize, format: PixelFormat, value: u8) -> Frame {
        let mut frame = Frame::new(width, 2, format);
        frame.data.fill(value);
        frame
    }

    #[test]
    fn split_shows_input_lines_and_output() {
        let mut output = frame(5, PixelFormat::Rgba8, 2);
        let border = split(&mut output, &frame(5, PixelFormat::Rgba8, 1), 0.4);
        assert_eq!(border, 2);
        for row in output.data.chunks_exact(20) {
            assert_eq!(row[..8], [1; 8]);
            assert_eq!(row[8..12], [255, 255, 255, 2]);
            assert_eq!(row[12..16], [0, 0, 0, 2]);
            assert_eq!(row[16..], [2; 4]);
        }
    }

    #[test]
    fn at_the_edges_split_shows_one_picture_whole() {
        for (position, expected) in [(0.0, 2), (-1.0, 2), (1.0, 1), (f64::INFINITY, 1)] {
            let mut output = frame(5, PixelFormat::Rgb8, 2);
            split(&mut output, &frame(5, PixelFormat::Rgb8, 1), position);
            assert_eq!(output.data, [expected; 30], "{position}");
        }
        let mut one = frame(1, PixelFormat::Rgb8, 2);
        split(&mut one, &frame(1, PixelFormat::Rgb8, 1), 0.5);
        assert_eq!(one.data, [1; 6]);
    }

    #[test]
    fn labels_lie_in_the_lower_corners_where_there_is_room() {
        let grey = |width| {
            let mut frame = Frame::new(width, 20, PixelFormat::Rgb8);
            frame.data.fill(7);
            frame
        };
        let mut both = grey(90);
        label(&mut both, 45);
        let dots = |columns: std::ops::Range<usize>, y: usize| -> String {
            let dot = |x: usize| match both.data[y * both.stride() + 3 * x] {
                255 => '#',
                0 => ' ',
                _ => '.',
            };
            columns.map(dot).collect()
        };
        assert_eq!(dots(0..15, 6), "...............");
        assert_eq!(dots(0..15, 7), "..             ");
        assert_eq!(dots(0..15, 9), "..  ####  #####");
        assert_eq!(dots(0..15, 10), "..  #   # #    ");
        assert_eq!(dots(75..90, 15), "##### #   #  ..");
        assert_eq!(dots(0..15, 18), "...............");

        let mut narrow = grey(60);
        label(&mut narrow, 30);
        assert!(narrow.data.iter().all(|&value| value == 7));
    }

    #[test]
    fn side_by_side_is_twice_as_wide() {
        let both = side_by_side(
            &frame(3, PixelFormat::Rgba16, 2),
            &frame(3, PixelFormat::Rgba16, 1),
            vec![9; 7],
        )
        .unwrap();
        assert_eq!((both.width, both.height), (6, 2));
        assert_eq!(both.data.len(), 2 * both.stride());
        for row in both.data.chunks_exact(both.stride()) {
            assert_eq!(row[..24], [1; 24]);
            assert_eq!(row[24..], [2; 24]);
        }
    }
}
