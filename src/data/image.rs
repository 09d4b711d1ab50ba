//! 8-bit RGB images in memory, from files and folders.

use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};
use rayon::prelude::*;

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

/// The readable images of a folder, sorted by file name.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// File names, in the order of `images`.
    pub names: Vec<String>,
    /// The images.
    pub images: Vec<Image8>,
    /// Files with an image's extension that did not decode; each was named in a warning.
    pub skipped: usize,
}

impl Folder {
    /// Reads every image of a folder (not of its subfolders) on all cores. Unreadable files are skipped,
    /// counted and named in a warning, so that one broken file among thousands does not stop a training run.
    ///
    /// # Errors
    /// [`DataError::ReadFolder`] when the folder cannot be listed, [`DataError::EmptyFolder`] when nothing in
    /// it is readable.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let paths = image_paths(path)?;
        let read: Vec<_> = paths.par_iter().map(|file| Image8::open(file)).collect();
        let mut folder = Self::default();
        for (file, image) in paths.iter().zip(read) {
            match image {
                Ok(image) => {
                    folder.names.push(file_name(file));
                    folder.images.push(image);
                }
                Err(error) => {
                    folder.skipped += 1;
                    tracing::warn!("skipped: {error}");
                }
            }
        }
        if folder.images.is_empty() {
            return Err(DataError::EmptyFolder {
                path: path.to_owned(),
                skipped: folder.skipped,
            });
        }
        if folder.skipped > 0 {
            tracing::warn!(
                "{} of {} image(s) in {} skipped",
                folder.skipped,
                paths.len(),
                path.display()
            );
        }
        Ok(folder)
    }
}

/// Files with an image's extension, sorted by name: the order of a directory differs from machine to machine.
pub(super) fn image_paths(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
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

    fn write_png(path: &Path, level: u8) {
        image::RgbImage::from_pixel(4, 3, image::Rgb([level, 0, 0]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn a_folder_is_sorted_and_skips_what_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        write_png(&dir.path().join("b.png"), 2);
        write_png(&dir.path().join("a.PNG"), 1);
        std::fs::write(dir.path().join("c.jpg"), b"not a picture").unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"not an image").unwrap();
        let folder = Folder::read(dir.path()).unwrap();
        assert_eq!(folder.names, ["a.PNG", "b.png"]);
        assert_eq!(folder.skipped, 1);
        assert_eq!(folder.images[1].data[..3], [2, 0, 0]);
        assert_eq!(folder.images[0].size(), (4, 3));
    }

    #[test]
    fn an_empty_folder_is_an_error_that_counts_the_broken_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.jpg"), b"not a picture").unwrap();
        let error = Folder::read(dir.path()).unwrap_err();
        assert!(
            matches!(error, DataError::EmptyFolder { skipped: 1, .. }),
            "{error}"
        );
        let error = Folder::read(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(error, DataError::ReadFolder { .. }), "{error}");
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        assert!(Image8::new(2, 2, vec![0; 12]).is_ok());
        assert!(Image8::new(2, 2, vec![0; 11]).is_err());
        assert!(Image8::new(0, 2, vec![]).is_err());
    }
}
