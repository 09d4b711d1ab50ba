//! What a video file does to a picture: colour at half resolution, and H.264.

use openh264::OpenH264API;
use openh264::decoder::Decoder;
use openh264::encoder::{Encoder, EncoderConfig, QpRange};
use openh264::formats::{YUVSlices, YUVSource};

/// H.264 codes blocks of this side.
const MACROBLOCK: usize = 16;

/// OpenH264 takes 3840x2160 px, either way up.
const LARGEST_PART: usize = 2048;

/// Weights of red and blue in the luma of BT.709 (ITU-R BT.709-6, item 3.2).
const KR: f32 = 0.2126;
const KB: f32 = 0.0722;

/// Stores colour at half the resolution and interpolates it back, as nearly every video file does (4:2:0): `values` is
/// `[3, height, width]`, encoded RGB in `[0, 1]`.
///
/// BT.709 in limited range, colour sited left and between two rows as H.264's default is (ITU-T H.264, annex E), halved
/// with `[1 2 1] / 4` across and the mean of two rows, brought back linearly.
///
/// # Panics
/// If `values` has another length.
pub fn subsample_chroma(values: &mut [f32], width: usize, height: usize) {
    Yuv420::from_rgb(values, width, height).write_rgb(values, width, height);
}

/// Stores a picture as one intra frame of H.264 and reads it back: `values` is `[3, height, width]`, encoded RGB in
/// `[0, 1]`; `qp` is the quantiser, 12 to 51 (what the encoder takes of H.264's 0 to 51): 18 looks like the original, 26 is a good recording, 36 a poor one. Colour is
/// subsampled as by [`subsample_chroma`]. Encoder and decoder are OpenH264, which calculates with integers; a picture
/// larger than it takes is coded in parts of 2048 px.
///
/// # Panics
/// If `values` has another length, or `qp` is out of range.
pub fn compress_h264(values: &mut [f32], width: usize, height: usize, qp: u8) {
    assert!((12..=51).contains(&qp), "a quantiser that the encoder takes");
    let mut picture = Yuv420::from_rgb(values, width, height);
    for y in (0..picture.height).step_by(LARGEST_PART) {
        for x in (0..picture.width).step_by(LARGEST_PART) {
            picture.compress_part(x, y, qp);
        }
    }
    picture.write_rgb(values, width, height);
}

/// Limited-range BT.709 of 8 bits; sides are multiples of a macroblock, the last column and row repeated.
struct Yuv420 {
    width: usize,
    height: usize,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Yuv420 {
    fn from_rgb(values: &[f32], width: usize, height: usize) -> Self {
        let plane = width * height;
        assert_eq!(values.len(), 3 * plane, "three planes");
        let padded = [width, height].map(|side| side.next_multiple_of(MACROBLOCK));
        let mut luma = vec![0; padded[0] * padded[1]];
        let mut chroma = [vec![0.0; luma.len()], vec![0.0; luma.len()]];
        for (y, row) in luma.chunks_exact_mut(padded[0]).enumerate() {
            for (x, luma) in row.iter_mut().enumerate() {
                let at = y.min(height - 1) * width + x.min(width - 1);
                let [r, g, b] = [0, 1, 2].map(|channel| values[channel * plane + at]);
                let bright = KR * r + (1.0 - KR - KB) * g + KB * b;
                *luma = level(16.0 + 219.0 * bright);
                chroma[0][y * padded[0] + x] = (b - bright) / (2.0 - 2.0 * KB);
                chroma[1][y * padded[0] + x] = (r - bright) / (2.0 - 2.0 * KR);
            }
        }
        let [u, v] = chroma.map(|plane| halve(&plane, padded[0]));
        Self {
            width: padded[0],
            height: padded[1],
            y: luma,
            u,
            v,
        }
    }

    /// Codes the part that begins at this place.
    fn compress_part(&mut self, x: usize, y: usize, qp: u8) {
        let (width, height) = (
            LARGEST_PART.min(self.width - x),
            LARGEST_PART.min(self.height - y),
        );
        let copy = |plane: &[u8], stride: usize, shift: usize| -> Vec<u8> {
            let rows = (y >> shift..(y + height) >> shift).map(|row| row * stride + (x >> shift));
            rows.flat_map(|start| &plane[start..start + (width >> shift)])
                .copied()
                .collect()
        };
        let (luma, half) = (self.width, self.width / 2);
        let planes = [
            copy(&self.y, luma, 0),
            copy(&self.u, half, 1),
            copy(&self.v, half, 1),
        ];
        let source = YUVSlices::new(
            (&planes[0], &planes[1], &planes[2]),
            (width, height),
            (width, width / 2, width / 2),
        );
        let config = EncoderConfig::new().qp(QpRange::new(qp, qp)).num_threads(1);
        let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).expect("an encoder");
        let stream = encoder
            .encode(&source)
            .expect("a picture within the codec's limits")
            .to_vec();
        let mut decoder = Decoder::new().expect("a decoder");
        let decoded = decoder.decode(&stream).expect("what was just encoded");
        let decoded = decoded.expect("one frame in, one frame out");
        assert_eq!(decoded.dimensions(), (width, height), "the size that was encoded");
        let strides = decoded.strides();
        for (to, stride, from, from_stride, shift) in [
            (&mut self.y, luma, decoded.y(), strides.0, 0),
            (&mut self.u, half, decoded.u(), strides.1, 1),
            (&mut self.v, half, decoded.v(), strides.2, 1),
        ] {
            let width = width >> shift;
            for (row, from) in from.chunks(from_stride).take(height >> shift).enumerate() {
                to[((y >> shift) + row) * stride + (x >> shift)..][..width].copy_from_slice(&from[..width]);
            }
        }
    }

    fn write_rgb(&self, values: &mut [f32], width: usize, height: usize) {
        let plane = width * height;
        for y in 0..height {
            for x in 0..width {
                let bright = (f32::from(self.y[y * self.width + x]) - 16.0) / 219.0;
                let b = bright + (2.0 - 2.0 * KB) * self.chroma(&self.u, x, y);
                let r = bright + (2.0 - 2.0 * KR) * self.chroma(&self.v, x, y);
                let g = (bright - KR * r - KB * b) / (1.0 - KR - KB);
                for (channel, value) in [r, g, b].into_iter().enumerate() {
                    values[channel * plane + y * width + x] = f32::from(level(255.0 * value)) / 255.0;
                }
            }
        }
    }

    /// A colour difference at full resolution, -0.5 to 0.5.
    fn chroma(&self, plane: &[u8], x: usize, y: usize) -> f32 {
        let (half_width, half_height) = (self.width / 2, self.height / 2);
        let (left, right) = (x / 2, x.div_ceil(2).min(half_width - 1));
        let near = y / 2;
        let far = if y.is_multiple_of(2) {
            near.saturating_sub(1)
        } else {
            (near + 1).min(half_height - 1)
        };
        let across = |row: usize| {
            f32::from(plane[row * half_width + left]) + f32::from(plane[row * half_width + right])
        };
        ((3.0 * across(near) + across(far)) / 8.0 - 128.0) / 224.0
    }
}

/// A colour difference at half the resolution, as limited-range levels.
fn halve(plane: &[f32], width: usize) -> Vec<u8> {
    let across = |row: usize, x: usize| {
        let row = &plane[row * width..][..width];
        row[x.saturating_sub(1)] + 2.0 * row[x] + row[x + 1]
    };
    let rows = plane.len() / width;
    let half = |row: usize| (0..width / 2).map(move |x| (row, 2 * x));
    let places = (0..rows).step_by(2).flat_map(half);
    places
        .map(|(row, x)| level(128.0 + 28.0 * (across(row, x) + across(row + 1, x))))
        .collect()
}

/// The nearest 8-bit level.
fn level(value: f32) -> u8 {
    (value + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Smooth brightness and colour, and a fine red and blue pattern in the upper half.
    fn picture(width: usize, height: usize) -> Vec<f32> {
        let pixel = |channel: usize, x: usize, y: usize| {
            let smooth = 0.2 + 0.2 * (x + y) as f32 / (width + height) as f32;
            let fine = y < height / 2 && (x + y).is_multiple_of(2);
            if fine && channel != 1 {
                1.0 - smooth
            } else {
                smooth
            }
        };
        let places = (0..3 * width * height).map(|i| (i / (width * height), i % width, i / width % height));
        places
            .map(|(channel, x, y)| (pixel(channel, x, y) * 255.0).round() / 255.0)
            .collect()
    }

    fn rms_levels(a: &[f32], b: &[f32]) -> f64 {
        let square = |(a, b): (&f32, &f32)| f64::from(255.0 * (a - b)).powi(2);
        (a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64).sqrt()
    }

    #[test]
    fn greys_stay_within_a_level_and_smooth_colour_within_two() {
        let (width, height) = (37, 21);
        for pixel in [[0.0; 3], [1.0; 3], [0.5; 3], [0.8, 0.4, 0.1]] {
            let original: Vec<f32> = (0..3 * width * height)
                .map(|i| pixel[i / (width * height)])
                .collect();
            let mut values = original.clone();
            subsample_chroma(&mut values, width, height);
            let limit = if pixel[0] == pixel[2] { 1.0 } else { 2.0 };
            let worst = values
                .iter()
                .zip(&original)
                .map(|(a, b)| (a - b).abs() * 255.0)
                .fold(0.0, f32::max);
            assert!(worst <= limit, "{pixel:?}: {worst}");
        }
    }

    #[test]
    fn only_colour_loses_its_detail() {
        let (width, height) = (48, 32);
        let original = picture(width, height);
        let mut values = original.clone();
        subsample_chroma(&mut values, width, height);
        let luma = |v: &[f32]| -> Vec<f32> {
            let (r, rest) = v.split_at(width * height);
            let (g, b) = rest.split_at(width * height);
            r.iter()
                .zip(g)
                .zip(b)
                .map(|((r, g), b)| KR * r + (1.0 - KR - KB) * g + KB * b)
                .collect()
        };
        assert!(rms_levels(&luma(&values), &luma(&original)) < 2.0);
        assert!(rms_levels(&values, &original) > 10.0);
    }

    #[test]
    fn a_sharp_colour_edge_stays_where_it_is() {
        let (width, height) = (32, 16);
        for edge in [15, 16] {
            let original: Vec<f32> = (0..3 * width * height)
                .map(|i| {
                    if (i % width < edge) == (i / (width * height) == 0) {
                        0.75
                    } else {
                        0.25
                    }
                })
                .collect();
            let mut values = original.clone();
            subsample_chroma(&mut values, width, height);
            let shift: f32 = (0..width).map(|x| values[x] - original[x]).sum();
            assert!(shift.abs() < 0.1, "edge at {edge}: red grew by {shift} columns");
        }
    }

    #[test]
    fn h264_loses_more_at_a_higher_quantiser_and_keeps_the_layout() {
        for (width, height) in [
            (48, 32),
            (37, 21),
            (9, 8),
            (2 * LARGEST_PART + 33, 16),
            (16, LARGEST_PART + 5),
        ] {
            let original = picture(width, height);
            let error = |qp: u8| {
                let mut values = original.clone();
                compress_h264(&mut values, width, height, qp);
                assert!(values.iter().all(|v| (0.0..=1.0).contains(v)));
                rms_levels(&values, &original)
            };
            let mut subsampled = original.clone();
            subsample_chroma(&mut subsampled, width, height);
            let unavoidable = rms_levels(&subsampled, &original);
            assert!(
                error(12) < unavoidable + 2.0,
                "{} against {unavoidable}",
                error(12)
            );
            assert!(error(45) > 1.2 * error(20), "{} {}", error(45), error(20));
        }
    }
}
