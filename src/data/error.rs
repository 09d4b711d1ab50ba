//! What can go wrong between a folder of images and a training batch.

use std::path::PathBuf;

/// Errors of the data pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A folder could not be listed.
    #[error("cannot list the folder {path}: {source}")]
    ReadFolder {
        /// The folder.
        path: PathBuf,
        /// Why the operating system refused.
        source: std::io::Error,
    },
    /// A single image could not be opened or decoded.
    #[error("cannot read the image {path}: {source}")]
    ReadImage {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A folder holds no image that can be read.
    #[error("no readable image in {path} ({skipped} unreadable file(s) skipped)")]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// Files with an image's extension that did not decode.
        skipped: usize,
    },
    /// `blurry/` and `sharp/` share no readable file name.
    #[error("no blurry/sharp pair in {path}: blurry/ and sharp/ have no readable file name in common")]
    NoPairs {
        /// The folder that holds `blurry/` and `sharp/`.
        path: PathBuf,
    },
    /// The two images of a pair differ in size.
    #[error("pair {name}: blurry is {}x{}, sharp is {}x{}", blurry.0, blurry.1, sharp.0, sharp.1)]
    PairSize {
        /// File name of the pair.
        name: String,
        /// Width and height of the blurry image in px.
        blurry: (usize, usize),
        /// Width and height of the sharp image in px.
        sharp: (usize, usize),
    },
    /// The pixels handed over do not fill an image of the stated size.
    #[error("an RGB image of {width}x{height} needs {} bytes and at least one pixel, got {got}", width * height * 3)]
    ImageBytes {
        /// Width in px.
        width: usize,
        /// Height in px.
        height: usize,
        /// Bytes given.
        got: usize,
    },
    /// Frames of one clip differ in size.
    #[error("frame {index} of a clip is {}x{}, the first one is {}x{}", got.0, got.1, expected.0, expected.1)]
    ClipFrameSize {
        /// Index of the frame that differs.
        index: usize,
        /// Its width and height in px.
        got: (usize, usize),
        /// Width and height of the first frame in px.
        expected: (usize, usize),
    },
    /// A clip is too short for the number of frames that are averaged.
    #[error("a clip of {frames} frame(s) is too short to average {needed}")]
    ClipTooShort {
        /// Frames in the clip.
        frames: usize,
        /// Fewest frames the configuration averages.
        needed: usize,
    },
    /// A field of [`MixConfig`](super::MixConfig) is outside its legal range.
    #[error("data setting {field} = {value}: {legal}")]
    Setting {
        /// Name of the field as it is written in the configuration.
        field: &'static str,
        /// The value given.
        value: String,
        /// The legal range in words.
        legal: &'static str,
    },
    /// No kind of sample has both a weight and something to be made from.
    #[error(
        "nothing to train on: every kind of sample has weight 0 or no source ({photos} photo(s), {clips} clip(s), {pairs} pair(s))"
    )]
    NoSource {
        /// Photographs loaded.
        photos: usize,
        /// Clips loaded.
        clips: usize,
        /// Pairs loaded.
        pairs: usize,
    },
    /// A loader thread could not be started.
    #[error("cannot start a loader thread: {0}")]
    Thread(std::io::Error),
    /// A loader thread ended early, which only a panic on it can cause.
    #[error("a loader thread stopped before sample {index}")]
    LoaderStopped {
        /// Index of the first sample that is missing.
        index: u64,
    },
}
