//! Tile origins along the two axes of a frame.
//!
//! The axes are independent. Along each one:
//!
//! - The frame is padded at its end to a multiple of the model's spatial factor, because the model
//!   halves its input that many times and cannot take any other length. Nothing is padded beyond
//!   that.
//! - Every origin is a multiple of the same factor. A model with strides is covariant only to
//!   shifts by multiples of its factor: a tile at any other origin samples a different grid, and no
//!   overlap makes it match the whole frame.
//! - A frame no longer than a tile is one tile of the padded length, not of the full tile size:
//!   reflected pixels beyond the next multiple cost time and change nothing.
//! - Otherwise the tile size is an upper limit: it gives the least number of tiles that leaves the
//!   requested overlap, and all of them are as small as that number allows (one shape for one
//!   batch, no pixel computed twice without need), though never smaller than two overlaps. What
//!   rounding leaves over widens the overlaps evenly, so that the last tile ends where the padded
//!   frame ends.

use super::{TileError, axis_windows};

/// The longest frame side and the largest spatial factor, in pixels: keeps sums, products and
/// rounding far from overflow.
pub const MAX_SIDE: usize = 1 << 20;

/// One tile of a [`TileGrid`]: a rectangle of the padded frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Column of tiles, the index into [`TileGrid::col_windows`].
    pub col: usize,
    /// Row of tiles, the index into [`TileGrid::row_windows`].
    pub row: usize,
    /// Left edge in the padded frame, a multiple of the spatial factor.
    pub x: usize,
    /// Upper edge in the padded frame, a multiple of the spatial factor.
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

/// How frames of one size are cut into tiles. All tiles of a grid have the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TileGrid {
    horizontal: Axis,
    vertical: Axis,
}

impl TileGrid {
    /// Cuts a frame of `width` x `height` pixels into tiles of at most `tile_size` x `tile_size` (0:
    /// the whole frame is one tile) whose neighbours share at least `overlap` pixels.
    ///
    /// `multiple` is the spatial factor of the model: the sides and origins of tiles are multiples
    /// of it. An `overlap` in between is rounded up; with `tile_size` 0 it has no meaning and is
    /// ignored.
    ///
    /// # Errors
    ///
    /// - [`TileError::EmptyFrame`], [`TileError::FrameTooLarge`]: a side is zero or above
    ///   [`MAX_SIDE`].
    /// - [`TileError::Multiple`]: `multiple` is zero or above [`MAX_SIDE`].
    /// - [`TileError::TileSize`]: `tile_size` is not a multiple of `multiple`.
    /// - [`TileError::Overlap`]: `overlap`, rounded up, is more than half of `tile_size`, so that
    ///   tiles would overlap their neighbours' neighbours all along the frame. A frame that happens
    ///   to need one tile does not hide it.
    pub fn new(
        width: usize,
        height: usize,
        tile_size: usize,
        overlap: usize,
        multiple: usize,
    ) -> Result<Self, TileError> {
        if width == 0 || height == 0 {
            return Err(TileError::EmptyFrame { width, height });
        }
        if width > MAX_SIDE || height > MAX_SIDE {
            return Err(TileError::FrameTooLarge { width, height });
        }
        if multiple == 0 || multiple > MAX_SIDE {
            return Err(TileError::Multiple { multiple });
        }
        if !tile_size.is_multiple_of(multiple) {
            return Err(TileError::TileSize { tile_size, multiple });
        }
        // Half a tile in whole multiples: an overlap up to here is still legal when rounded up.
        let max = tile_size / multiple / 2 * multiple;
        if tile_size > 0 && overlap > max {
            return Err(TileError::Overlap {
                overlap,
                tile_size,
                max,
            });
        }
        let axis = |len| match tile_size {
            0 => Axis::whole(len, multiple),
            _ => Axis::cut(len, tile_size, overlap, multiple),
        };
        Ok(Self {
            horizontal: axis(width),
            vertical: axis(height),
        })
    }

    /// The tiles from left to right, then from top to bottom.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> {
        let tile = |row, col| Tile {
            col,
            row,
            x: self.horizontal.origins[col],
            y: self.vertical.origins[row],
            width: self.tile_width(),
            height: self.tile_height(),
        };
        (0..self.rows()).flat_map(move |row| (0..self.cols()).map(move |col| tile(row, col)))
    }

    /// Number of tiles, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a grid has at least one tile")]
    pub fn len(&self) -> usize {
        self.rows() * self.cols()
    }

    /// Number of rows of tiles.
    pub fn rows(&self) -> usize {
        self.vertical.origins.len()
    }

    /// Number of columns of tiles.
    pub fn cols(&self) -> usize {
        self.horizontal.origins.len()
    }

    /// Width of every tile in pixels.
    pub fn tile_width(&self) -> usize {
        self.horizontal.tile_len
    }

    /// Height of every tile in pixels.
    pub fn tile_height(&self) -> usize {
        self.vertical.tile_len
    }

    /// Width of the frame in pixels.
    pub fn width(&self) -> usize {
        self.horizontal.len
    }

    /// Height of the frame in pixels.
    pub fn height(&self) -> usize {
        self.vertical.len
    }

    /// Width of the padded frame in pixels: where the last column of tiles ends.
    pub fn padded_width(&self) -> usize {
        self.horizontal.padded_len()
    }

    /// Height of the padded frame in pixels: where the last row of tiles ends.
    pub fn padded_height(&self) -> usize {
        self.vertical.padded_len()
    }

    /// Blend weights across each column of tiles, `cols()` vectors of `tile_width()`; see
    /// [`axis_windows`].
    pub fn col_windows(&self) -> Vec<Vec<f32>> {
        axis_windows(&self.horizontal.origins, self.horizontal.tile_len)
    }

    /// Blend weights down each row of tiles, `rows()` vectors of `tile_height()`; see
    /// [`axis_windows`].
    pub fn row_windows(&self) -> Vec<Vec<f32>> {
        axis_windows(&self.vertical.origins, self.vertical.tile_len)
    }
}

/// One axis of a grid, in pixels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Axis {
    len: usize,
    tile_len: usize,
    /// Strictly ascending, the first is 0.
    origins: Vec<usize>,
}

impl Axis {
    fn whole(len: usize, multiple: usize) -> Self {
        Self {
            len,
            tile_len: len.next_multiple_of(multiple),
            origins: vec![0],
        }
    }

    fn cut(len: usize, tile_len: usize, overlap: usize, multiple: usize) -> Self {
        if len <= tile_len {
            return Self::whole(len, multiple);
        }
        // In units of `multiple` every integer is a legal origin.
        let frame = len.div_ceil(multiple);
        let tile = tile_len / multiple;
        let overlap = overlap.div_ceil(multiple);
        // The least n with n * tile - (n - 1) * overlap >= frame; 2 or more, because frame > tile.
        let count = (frame - overlap).div_ceil(tile - overlap);
        let tile = (frame + (count - 1) * overlap).div_ceil(count).max(2 * overlap);
        // The mean step is at most the integer tile - overlap: rounded up it is still no larger.
        let origin = |k| k * (frame - tile) / (count - 1) * multiple;
        Self {
            len,
            tile_len: tile * multiple,
            origins: (0..count).map(origin).collect(),
        }
    }

    fn padded_len(&self) -> usize {
        self.origins[self.origins.len() - 1] + self.tile_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Legal arguments of `TileGrid::new`: width, height, tile size (not 0), overlap, multiple.
    fn settings() -> impl Strategy<Value = (usize, usize, usize, usize, usize)> {
        let tiles = (prop::sample::select(vec![1usize, 2, 8, 16, 32, 64]), 1usize..=9);
        tiles.prop_flat_map(|(multiple, units)| {
            let overlap = 0..=units / 2 * multiple;
            (
                1usize..=2000,
                1usize..=2000,
                Just(units * multiple),
                overlap,
                Just(multiple),
            )
        })
    }

    fn origins(grid: &TileGrid) -> (Vec<usize>, Vec<usize>) {
        let xs = grid.tiles().filter(|t| t.row == 0).map(|t| t.x).collect();
        let ys = grid.tiles().filter(|t| t.col == 0).map(|t| t.y).collect();
        (xs, ys)
    }

    proptest! {
        #[test]
        fn every_axis_keeps_the_rules((width, height, tile_size, overlap, multiple) in settings()) {
            let grid = TileGrid::new(width, height, tile_size, overlap, multiple).unwrap();
            let (xs, ys) = origins(&grid);
            prop_assert_eq!((grid.cols(), grid.rows()), (xs.len(), ys.len()));
            for (len, padded, tile, origins) in [
                (width, grid.padded_width(), grid.tile_width(), xs),
                (height, grid.padded_height(), grid.tile_height(), ys),
            ] {
                prop_assert_eq!(padded, len.next_multiple_of(multiple));
                prop_assert!(tile <= tile_size.min(padded));
                prop_assert!(origins.iter().all(|origin| origin % multiple == 0), "{:?}", origins);
                prop_assert_eq!(origins[0], 0);
                prop_assert_eq!(origins[origins.len() - 1] + tile, padded);
                for pair in origins.windows(2) {
                    prop_assert!(pair[0] < pair[1]);
                    prop_assert!(pair[0] + tile >= pair[1] + overlap, "{:?}", pair);
                }
                let steps = || origins.windows(2).map(|pair| pair[1] - pair[0]);
                if let (Some(least), Some(most)) = (steps().min(), steps().max()) {
                    prop_assert!(most - least <= multiple, "uneven: {:?}", origins);
                    let fewer = origins.len() - 1;
                    let aligned_overlap = overlap.next_multiple_of(multiple);
                    let reach = |count: usize, tile: usize| count * tile - (count - 1) * aligned_overlap;
                    prop_assert!(reach(fewer, tile_size) < len, "{} tiles would do", fewer);
                    prop_assert!(
                        tile == 2 * aligned_overlap || reach(origins.len(), tile - multiple) < padded,
                        "smaller tiles would do"
                    );
                }
            }
        }

        #[test]
        fn tiles_cover_every_pixel_and_stay_inside(
            (width, height, tile_size, overlap, multiple) in settings()
                .prop_filter("small enough to paint", |s| s.0 * s.1 < 200_000),
        ) {
            let grid = TileGrid::new(width, height, tile_size, overlap, multiple).unwrap();
            let mut covered = vec![false; grid.padded_width() * grid.padded_height()];
            for tile in grid.tiles() {
                prop_assert!(tile.x + tile.width <= grid.padded_width());
                prop_assert!(tile.y + tile.height <= grid.padded_height());
                for y in tile.y..tile.y + tile.height {
                    let start = y * grid.padded_width() + tile.x;
                    covered[start..start + tile.width].fill(true);
                }
            }
            prop_assert!(covered.iter().all(|&pixel| pixel));
            prop_assert_eq!(grid.tiles().count(), grid.len());
        }

        #[test]
        fn whole_frame_is_one_tile(
            width in 1usize..=9000,
            height in 1usize..=9000,
            multiple in 1usize..=64,
        ) {
            // The overlap is larger than any tile: it has no meaning here.
            let grid = TileGrid::new(width, height, 0, 1 << 30, multiple).unwrap();
            let width = width.next_multiple_of(multiple);
            let height = height.next_multiple_of(multiple);
            let whole = Tile { col: 0, row: 0, x: 0, y: 0, width, height };
            prop_assert_eq!(grid.tiles().collect::<Vec<_>>(), vec![whole]);
        }
    }

    #[test]
    fn one_pixel_is_one_tile_of_one_multiple() {
        let grid = TileGrid::new(1, 1, 512, 64, 16).unwrap();
        let only = Tile {
            col: 0,
            row: 0,
            x: 0,
            y: 0,
            width: 16,
            height: 16,
        };
        assert_eq!(grid.tiles().collect::<Vec<_>>(), [only]);
        assert_eq!((grid.width(), grid.height()), (1, 1));
    }

    #[test]
    fn short_axis_does_not_shorten_the_other() {
        let grid = TileGrid::new(1280, 90, 512, 64, 32).unwrap();
        assert_eq!((grid.tile_width(), grid.tile_height()), (480, 96));
        assert_eq!(origins(&grid), (vec![0, 384, 800], vec![0]));
    }

    #[test]
    fn eight_k_frame() {
        for multiple in [8, 16, 32, 64] {
            let grid = TileGrid::new(7680, 4320, 512, 64, multiple).unwrap();
            assert_eq!((grid.cols(), grid.rows(), grid.len()), (17, 10, 170));
            assert_eq!(grid.tile_width(), 512);
            assert_eq!(grid.tile_height(), if multiple <= 16 { 496 } else { 512 });
            assert_eq!(grid.padded_width(), 7680);
            assert_eq!(grid.padded_height(), if multiple == 64 { 4352 } else { 4320 });
        }
    }

    #[test]
    fn largest_frames_fit() {
        let grid = TileGrid::new(32_768, 32_767, 512, 64, 64).unwrap();
        assert_eq!((grid.cols(), grid.rows()), (73, 73));
        let grid = TileGrid::new(MAX_SIDE, MAX_SIDE, 2, 1, 1).unwrap();
        assert_eq!((grid.cols(), grid.padded_width()), (MAX_SIDE - 1, MAX_SIDE));
        let grid = TileGrid::new(1, MAX_SIDE, usize::MAX, 0, 1).unwrap();
        assert_eq!((grid.tile_width(), grid.tile_height()), (1, MAX_SIDE));
    }

    #[test]
    fn errors_say_what_is_legal() {
        let error = |width, height, tile_size, overlap, multiple| {
            TileGrid::new(width, height, tile_size, overlap, multiple).unwrap_err()
        };
        for (width, height) in [(0, 5), (5, 0)] {
            let expected = TileError::EmptyFrame { width, height };
            assert_eq!(error(width, height, 512, 64, 8), expected);
        }
        for (width, height) in [(MAX_SIDE + 1, 5), (5, MAX_SIDE + 1)] {
            let expected = TileError::FrameTooLarge { width, height };
            assert_eq!(error(width, height, 512, 64, 8), expected);
        }
        for multiple in [0, MAX_SIDE + 1] {
            assert_eq!(error(5, 5, 0, 64, multiple), TileError::Multiple { multiple });
        }
        let (tile_size, multiple) = (500, 8);
        let expected = TileError::TileSize { tile_size, multiple };
        assert_eq!(error(5, 5, tile_size, 64, multiple), expected);
        // Half of 24 is 12, which would round up to 16 of 24.
        let message = error(5, 5, 24, 12, 8).to_string();
        let expected = "a tile overlap of 12 is too large for a tile size of 24: \
                        it must be between 0 and 8";
        assert_eq!(message, expected);
        assert!(TileGrid::new(5, 5, 24, 8, 8).is_ok());
    }
}
