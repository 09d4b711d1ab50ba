//! The eight symmetries of a rectangle's pixels.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::random::chance;

/// Mirroring and transposition of a crop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    /// Left and right change places.
    pub mirror_x: bool,
    /// Top and bottom change places.
    pub mirror_y: bool,
    /// Rows become columns, before the mirroring.
    pub transpose: bool,
}

impl Orientation {
    pub(super) fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            mirror_x: chance(rng, 0.5),
            mirror_y: chance(rng, 0.5),
            transpose: chance(rng, 0.5),
        }
    }

    /// Width and height of what was `width` x `height`.
    pub fn turned(self, (width, height): (usize, usize)) -> (usize, usize) {
        if self.transpose {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// `values` is `[3, height, width]`.
    pub(super) fn applied(self, values: &[f32], (width, height): (usize, usize)) -> Vec<f32> {
        let mut out = Vec::with_capacity(values.len());
        let place = |mirrored: bool, i: usize, length: usize| if mirrored { length - 1 - i } else { i };
        let (out_width, out_height) = self.turned((width, height));
        for plane in values.chunks_exact(width * height) {
            if self.transpose {
                // Mirrored as the result: its rows are the source's columns.
                for column in (0..out_height).map(|y| place(self.mirror_y, y, out_height)) {
                    let row = |x: usize| place(self.mirror_x, x, out_width);
                    out.extend((0..out_width).map(|x| plane[row(x) * width + column]));
                }
                continue;
            }
            for y in (0..height).map(|y| place(self.mirror_y, y, height)) {
                let row = &plane[y * width..][..width];
                if self.mirror_x {
                    out.extend(row.iter().rev());
                } else {
                    out.extend_from_slice(row);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_and_mirroring_are_what_they_say() {
        let values: Vec<f32> = (0..18).map(|v| v as f32).collect();
        let identity = Orientation::default();
        assert_eq!(identity.applied(&values, (3, 2)), values);
        let transposed = Orientation {
            transpose: true,
            ..identity
        };
        assert_eq!(transposed.turned((3, 2)), (2, 3));
        assert_eq!(
            transposed.applied(&values, (3, 2))[..6],
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
        let mirrored = Orientation {
            mirror_x: true,
            ..identity
        };
        assert_eq!(
            mirrored.applied(&values, (3, 2))[..6],
            [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]
        );
        let both = Orientation {
            mirror_y: true,
            transpose: true,
            ..identity
        };
        assert_eq!(both.applied(&values, (3, 2))[..6], [2.0, 5.0, 1.0, 4.0, 0.0, 3.0]);
    }
}
