//! Before and after in one picture.

use osdd::frame::Frame;

use crate::args::Compare;

/// `input` and `output` have the same size and format.
pub(crate) fn compose(compare: Compare, input: &Frame, output: Frame) -> Frame {
    match compare {
        Compare::Off => output,
        Compare::Split => split(input, output),
        Compare::SideBySide => side_by_side(input, &output),
    }
}

fn split(input: &Frame, mut output: Frame) -> Frame {
    let pixel = output.format.bytes_per_pixel();
    let colour = 3 * output.format.bytes_per_sample();
    let stride = output.stride();
    // As the element draws it: one pixel for every 640 of the width.
    let left = output.width / 2;
    let right = (left + output.width.div_ceil(640)).min(output.width);
    for (row, before) in output
        .data
        .chunks_exact_mut(stride)
        .zip(input.data.chunks_exact(stride))
    {
        row[..left * pixel].copy_from_slice(&before[..left * pixel]);
        for pixel in row[left * pixel..right * pixel].chunks_exact_mut(pixel) {
            pixel[..colour].fill(0xff);
        }
    }
    output
}

fn side_by_side(input: &Frame, output: &Frame) -> Frame {
    let mut both = Frame::new(input.width * 2, input.height, input.format);
    let stride = input.stride();
    let rows = input
        .data
        .chunks_exact(stride)
        .zip(output.data.chunks_exact(stride));
    for (row, (before, after)) in both.data.chunks_exact_mut(2 * stride).zip(rows) {
        row[..stride].copy_from_slice(before);
        row[stride..].copy_from_slice(after);
    }
    both
}

#[cfg(test)]
mod tests {
    use osdd::frame::PixelFormat;

    use super::*;

    fn filled(width: usize, value: u8) -> Frame {
        let mut frame = Frame::new(width, 2, PixelFormat::Rgb8);
        frame.data.fill(value);
        frame
    }

    #[test]
    fn split_is_input_line_output() {
        let frame = compose(Compare::Split, &filled(8, 10), filled(8, 20));
        let row: Vec<u8> = frame.data[..frame.stride()].iter().step_by(3).copied().collect();
        assert_eq!(row, [10, 10, 10, 10, 255, 20, 20, 20]);
        assert_eq!(compose(Compare::Split, &filled(1, 10), filled(1, 20)).width, 1);
    }

    #[test]
    fn side_by_side_is_twice_as_wide() {
        let frame = compose(Compare::SideBySide, &filled(3, 10), filled(3, 20));
        let row: Vec<u8> = frame.data[..frame.stride()].iter().step_by(3).copied().collect();
        assert_eq!((frame.width, row), (6, vec![10, 10, 10, 20, 20, 20]));
    }
}
