//! Blend weights of tiles along one axis: a raised cosine that leaves out the pixels a tile
//! computed with too little context.
//!
//! At an edge between two tiles that overlap by `o` pixels, seen from the edge of either one:
//!
//! ```text
//! weight 1 |                ,------------  the tile alone
//!          |              ,'
//!          |             /
//!        0 |-----------,'
//!          0          3o/8  5o/8          o
//! ```
//!
//! The outer three eighths are context only. Their pixels are the ones nearest to the tile's border
//! padding, which the model carries inwards over its receptive field; they would show as seams, so
//! their weight is exactly zero. The neighbour has weight one there, which makes the inner three
//! eighths. Between the two a raised cosine `w(u) = (1 - cos(pi u)) / 2` hands over without a kink, and
//! `w(u) + w(1 - u) = 1`. At the border of the frame there is no neighbour to hand over to, and the
//! weight is one up to the edge.

use std::f64::consts::PI;

/// The weights along one axis of tiles of `tile_len` pixels at `origins` (ascending, at most
/// `tile_len` apart): one vector of `tile_len` per tile, in [0, 1]. The weights at each pixel from
/// the first origin to the end of the last tile sum to one.
///
/// Two neighbours sum to one by construction. Where few tiles share a frame a little longer than
/// they need, a tile can reach its neighbour's neighbour; dividing by the sum, once, covers that
/// case too. Zeros stay zeros.
///
/// The weight of a pixel in a frame is the product of its weights along the two axes.
///
/// # Panics
///
/// If the origins descend or leave a gap between tiles.
pub fn axis_windows(origins: &[usize], tile_len: usize) -> Vec<Vec<f32>> {
    let (Some(&first), Some(&last)) = (origins.first(), origins.last()) else {
        return Vec::new();
    };
    let mut windows = vec![vec![1.0; tile_len]; origins.len()];
    for (k, pair) in origins.windows(2).enumerate() {
        let overlap = pair[0] + tile_len - pair[1];
        let shared = tile_len - overlap;
        for i in 0..overlap {
            let rise = rise(i, overlap);
            windows[k][shared + i] *= 1.0 - rise;
            windows[k + 1][i] *= rise;
        }
    }
    let mut sums = vec![0.0; last + tile_len - first];
    for (window, origin) in windows.iter().zip(origins) {
        let shared = &mut sums[origin - first..][..tile_len];
        shared
            .iter_mut()
            .zip(window)
            .for_each(|(sum, weight)| *sum += weight);
    }
    let normalised = |(window, origin): (&Vec<f64>, &usize)| {
        let sums = &sums[origin - first..];
        window
            .iter()
            .zip(sums)
            .map(|(weight, sum)| (weight / sum) as f32)
            .collect()
    };
    windows.iter().zip(origins).map(normalised).collect()
}

/// The weight of pixel `i` of an overlap, counted from the edge of the tile that fades in. It is
/// sampled at pixel centres, so that the tile that fades out has the mirror image.
fn rise(i: usize, overlap: usize) -> f64 {
    let context = overlap * 3 / 8;
    if i < context {
        0.0
    } else if i >= overlap - context {
        1.0
    } else {
        let u = ((i - context) as f64 + 0.5) / (overlap - 2 * context) as f64;
        (1.0 - (PI * u).cos()) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileGrid, reflect};
    use proptest::prelude::*;

    /// The sum of all weights at each pixel of the axis.
    fn sums(origins: &[usize], tile_len: usize) -> Vec<f32> {
        let mut sums = vec![0.0; origins[origins.len() - 1] + tile_len];
        for (window, &origin) in axis_windows(origins, tile_len).iter().zip(origins) {
            window
                .iter()
                .enumerate()
                .for_each(|(i, weight)| sums[origin + i] += weight);
        }
        sums
    }

    fn sums_to_one(origins: &[usize], tile_len: usize) -> bool {
        sums(origins, tile_len).iter().all(|sum| (sum - 1.0).abs() < 1e-6)
    }

    proptest! {
        #[test]
        fn weights_sum_to_one(
            units in 1usize..=9,
            log_multiple in 0u32..=6,
            percent_of_largest_overlap in 0usize..=100,
            percent_of_tile in 0usize..=500,
        ) {
            let multiple = 1 << log_multiple;
            let tile_size = units * multiple;
            let overlap = units / 2 * multiple * percent_of_largest_overlap / 100;
            let len = 1 + tile_size * percent_of_tile / 100;
            let grid = TileGrid::new(len, 1, tile_size, overlap, multiple).unwrap();
            let origins: Vec<usize> = grid.tiles().map(|tile| tile.x).collect();
            prop_assert!(sums_to_one(&origins, grid.tile_width()));
            let windows = grid.col_windows();
            prop_assert_eq!(windows.len(), grid.cols());
            prop_assert!(windows.iter().flatten().all(|weight| (0.0..=1.0).contains(weight)));
        }

        /// Tiles show the padded frame, blended they show it again: origins, reflection, both
        /// windows and their indices.
        #[test]
        fn blended_tiles_give_the_frame(
            width in 1usize..=150,
            height in 1usize..=150,
            overlap in 0usize..=16,
        ) {
            let grid = TileGrid::new(width, height, 32, overlap, 8).unwrap();
            let pixel = |x: usize, y: usize| ((x * 37 + y * 101) % 256) as f32 / 255.0;
            let (cols, rows) = (grid.col_windows(), grid.row_windows());
            let padded_width = grid.padded_width();
            let mut blended = vec![0.0; padded_width * grid.padded_height()];
            for tile in grid.tiles() {
                for y in 0..tile.height {
                    for x in 0..tile.width {
                        let source = pixel(
                            reflect((tile.x + x) as isize, width),
                            reflect((tile.y + y) as isize, height),
                        );
                        let weight = cols[tile.col][x] * rows[tile.row][y];
                        blended[(tile.y + y) * padded_width + tile.x + x] += weight * source;
                    }
                }
            }
            for y in 0..height {
                for x in 0..width {
                    let (expected, got) = (pixel(x, y), blended[y * padded_width + x]);
                    let error = (got - expected).abs();
                    prop_assert!(error < 1e-6, "{} not {} at {}, {}", got, expected, x, y);
                }
            }
        }
    }

    #[test]
    fn one_tile_has_weight_one_everywhere() {
        assert_eq!(axis_windows(&[0], 8), [[1.0; 8]]);
    }

    #[test]
    fn touching_tiles_do_not_blend() {
        assert_eq!(axis_windows(&[0, 8], 8), [[1.0; 8], [1.0; 8]]);
    }

    #[test]
    fn interior_edge_is_context_then_cosine_then_one() {
        let windows = axis_windows(&[0, 448, 896], 512);
        let middle = &windows[1];
        assert!(middle[..24].iter().all(|&weight| weight == 0.0));
        assert!(middle[24..40].iter().all(|&weight| 0.0 < weight && weight < 1.0));
        assert!(middle[24..40].is_sorted());
        assert!(
            (middle[31] + middle[32] - 1.0).abs() < 1e-6,
            "the ramp is centred in the overlap"
        );
        // w(u) at the centre of the fifth of 16 pixels.
        assert!((f64::from(middle[28]) - (1.0 - (PI * 4.5 / 16.0).cos()) / 2.0).abs() < 1e-6);
        assert!(middle[40..472].iter().all(|&weight| weight == 1.0));
        assert!(
            middle
                .iter()
                .zip(middle.iter().rev())
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "both edges alike"
        );
    }

    #[test]
    fn border_of_the_frame_has_full_weight() {
        let windows = axis_windows(&[0, 448], 512);
        assert!(windows[0][..448 + 24].iter().all(|&weight| weight == 1.0));
        assert!(windows[1][40..].iter().all(|&weight| weight == 1.0));
    }

    #[test]
    fn tile_that_reaches_its_neighbours_neighbour() {
        // Two tiles of 64 px that share 32 reach 96: these 100 px take three, and the outer two
        // meet.
        let (origins, tile_len) = ([0, 18, 36], 64);
        let grid = TileGrid::new(100, 1, tile_len, 32, 1).unwrap();
        assert!(grid.tiles().map(|tile| tile.x).eq(origins));
        assert!(sums_to_one(&origins, tile_len));
        let windows = axis_windows(&origins, tile_len);
        let (middle, context) = (&windows[1], (tile_len - 18) * 3 / 8);
        let (left, right) = (&middle[..context], &middle[tile_len - context..]);
        assert!(left.iter().chain(right).all(|&weight| weight == 0.0));
        let jump = |pair: &[f32]| (pair[1] - pair[0]).abs() > 0.2;
        assert!(!middle.windows(2).any(jump), "{middle:?}");
    }

    #[test]
    fn no_tiles_have_no_windows() {
        assert!(axis_windows(&[], 8).is_empty());
    }
}
