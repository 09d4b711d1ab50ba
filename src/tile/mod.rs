//! Tile geometry: where a frame is cut, and with which weights the pieces are put together again.
//!
//! A model's cost and memory grow with the area it sees, so a large frame runs as tiles of one
//! fixed shape. This module is arithmetic on integers and plain `f32` slices, all lengths in
//! pixels; tensors stay in the engine, which
//!
//! 1. pads the frame on the right and at the bottom to [`TileGrid::padded_width`] x
//!    [`TileGrid::padded_height`], taking the source of every padded row and column from
//!    [`reflect`];
//! 2. runs the model on each [`Tile`] of [`TileGrid::tiles`];
//! 3. adds each result, times the outer product of its entries in [`TileGrid::row_windows`] and
//!    [`TileGrid::col_windows`], to a zero frame in float32: the weights sum to one at every pixel;
//! 4. cuts the padding off.
//!
//! `geometry.rs` has the origins and the rules they keep, `reflect.rs` the padding, `window.rs` the
//! weights.

mod geometry;
mod reflect;
mod window;

pub use geometry::{MAX_SIDE, Tile, TileGrid};
pub use reflect::reflect;
pub use window::axis_windows;

/// Why a frame cannot be cut as asked. Lengths in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    #[error("a frame of {width}x{height} pixels is empty: both sides must be between 1 and {MAX_SIDE}")]
    EmptyFrame { width: usize, height: usize },
    #[error(
        "a frame of {width}x{height} pixels is too large: both sides must be \
         between 1 and {MAX_SIDE}"
    )]
    FrameTooLarge { width: usize, height: usize },
    #[error("a spatial factor of {multiple} pixels is not possible: it must be between 1 and {MAX_SIDE}")]
    Multiple { multiple: usize },
    #[error(
        "a tile size of {tile_size} does not fit the model: it must be 0 (whole frame) \
         or a multiple of {multiple}"
    )]
    TileSize { tile_size: usize, multiple: usize },
    #[error(
        "a tile overlap of {overlap} is too large for a tile size of {tile_size}: \
         it must be between 0 and {max}"
    )]
    Overlap {
        overlap: usize,
        tile_size: usize,
        max: usize,
    },
}
