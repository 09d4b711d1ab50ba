//! Before and after in one picture.

use crate::frame::Frame;

/// The left half of `output` becomes `input`, which has the same size and format; a white line, one pixel wide for every
/// 640 of the width, marks the border.
pub fn split(output: &mut Frame, input: &Frame) {
    let pixel = output.format.bytes_per_pixel();
    let colour = 3 * output.format.bytes_per_sample();
    let middle = output.width / 2;
    let line = middle * pixel..(middle + output.width.div_ceil(640)).min(output.width) * pixel;
    let stride = output.stride();
    for (output, input) in output
        .data
        .chunks_exact_mut(stride)
        .zip(input.data.chunks_exact(stride))
    {
        output[..line.start].copy_from_slice(&input[..line.start]);
        for pixel in output[line.clone()].chunks_exact_mut(pixel) {
            // Both 8 and 16 bits are white with all bits set; alpha stays.
            pixel[..colour].fill(0xff);
        }
    }
}

/// `input` left and `output` right, of the same size and format, in a frame twice as wide that uses `recycled`.
pub fn side_by_side(output: &Frame, input: &Frame, mut recycled: Vec<u8>) -> Frame {
    recycled.clear();
    recycled.reserve(output.data.len() + input.data.len());
    let stride = output.stride();
    for (input, output) in input
        .data
        .chunks_exact(stride)
        .zip(output.data.chunks_exact(stride))
    {
        recycled.extend_from_slice(input);
        recycled.extend_from_slice(output);
    }
    Frame {
        width: 2 * output.width,
        height: output.height,
        format: output.format,
        data: recycled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    fn frame(width: usize, format: PixelFormat, value: u8) -> Frame {
        let mut frame = Frame::new(width, 2, format);
        frame.data.fill(value);
        frame
    }

    #[test]
    fn split_shows_input_line_and_output() {
        let mut output = frame(5, PixelFormat::Rgba8, 2);
        split(&mut output, &frame(5, PixelFormat::Rgba8, 1));
        for row in output.data.chunks_exact(20) {
            assert_eq!(row[..8], [1; 8]);
            assert_eq!(row[8..12], [255, 255, 255, 2]);
            assert_eq!(row[12..], [2; 8]);
        }
    }

    #[test]
    fn split_of_one_pixel_is_the_line() {
        let mut output = frame(1, PixelFormat::Rgb8, 2);
        split(&mut output, &frame(1, PixelFormat::Rgb8, 1));
        assert_eq!(output.data, [255; 6]);
    }

    #[test]
    fn side_by_side_is_twice_as_wide() {
        let both = side_by_side(
            &frame(3, PixelFormat::Rgba16, 2),
            &frame(3, PixelFormat::Rgba16, 1),
            vec![9; 7],
        );
        assert_eq!((both.width, both.height), (6, 2));
        assert_eq!(both.data.len(), 2 * both.stride());
        for row in both.data.chunks_exact(both.stride()) {
            assert_eq!(row[..24], [1; 24]);
            assert_eq!(row[24..], [2; 24]);
        }
    }
}
