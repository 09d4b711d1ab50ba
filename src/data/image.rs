//! 8-bit RGB images in memory, from files and folders.

use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};

use super::error::DataError;

/// File name extensions that are taken for images.
const EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp"];

/// An RGB image, interleaved, 8 bits per value, encoded with its camera's response curve.
///
/// Photographs stay in memory this way (2.8 MB at 1280x720) and only the crops in use become float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image8 {
    /// Width in px.
    pub width: usize,
    /// Height in px.
    pub height: usize,
    /// `height * width * 3` levels, rows packed.
    pub data: Vec<u8>,
}

impl Image8 {
    /// An image from its packed levels.
    ///
    /// # Errors
    /// [`DataError::ImageBytes`] when the image is empty or `data` does not hold `width * height * 3` bytes.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, DataError> {
        if width == 0 || height == 0 || data.len() != width * height * 3 {
            return Err(DataError::ImageBytes {
                width,
                height,
                got: data.len(),
            });
        }
        Ok(Self { width, height, data })
    }

    /// Reads a file in any format the image crate was built with. Alpha is dropped, 16 bits become 8, and the
    /// orientation that a camera wrote into the file is applied.
    ///
    /// # Errors
    /// [`DataError::ReadImage`] when the file cannot be opened or decoded.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let (decoder, orientation) = decoder(path)?;
        let mut decoded = DynamicImage::from_decoder(decoder).map_err(|error| failed(path, error))?;
        decoded.apply_orientation(orientation);
        let rgb = decoded.into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        Self::new(width, height, rgb.into_raw())
    }

    /// Width and height in px that [`open`](Self::open) would give, from the file's header alone.
    ///
    /// # Errors
    /// [`DataError::ReadImage`] when the file cannot be opened or its header is broken.
    pub fn stored_size(path: &Path) -> Result<(usize, usize), DataError> {
        let (decoder, orientation) = decoder(path)?;
        let (width, height) = decoder.dimensions();
        let turned = matches!(
            orientation,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        let (width, height) = if turned { (height, width) } else { (width, height) };
        Ok((width as usize, height as usize))
    }

    /// Width and height in px.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// One row of interleaved levels.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..][..self.width * 3]
    }
}

/// A file with its header read, and how its picture is to be turned.
fn decoder(path: &Path) -> Result<(impl ImageDecoder, Orientation), DataError> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let mut decoder = reader
        .map_err(|error| failed(path, error.into()))?
        .into_decoder()
        .map_err(|error| failed(path, error))?;
    // A broken orientation tag does not make the pixels unusable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn failed(path: &Path, source: image::ImageError) -> DataError {
    DataError::ReadImage {
        path: path.to_owned(),
        source,
    }
}

/// Files with an image's extension, sorted by name: the order of a directory differs from machine to machine.
pub(crate) fn image_paths(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| DataError::ReadFolder {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort_by_key(|path| file_name(path));
    Ok(paths)
}

/// Last part of a path, for people and for sorting.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        assert!(Image8::new(2, 2, vec![0; 12]).is_ok());
        assert!(Image8::new(2, 2, vec![0; 11]).is_err());
        assert!(Image8::new(0, 2, vec![]).is_err());
    }
}
