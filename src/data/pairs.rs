//! Real pairs: a folder with `blurry/` and `sharp/`, files of equal names showing the same scene.

use std::path::Path;

use rayon::prelude::*;

use super::error::DataError;
use super::image::{Image8, file_name, image_paths};

/// A blurry image and its sharp truth, of equal size.
#[derive(Clone, Debug)]
pub struct Pair {
    /// File name, for reports.
    pub name: String,
    /// What the camera saw while it moved.
    pub blurry: Image8,
    /// The same moment without blur.
    pub sharp: Image8,
}

/// The readable pairs of a folder, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct PairFolder {
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// Blurry files whose own or whose partner's pixels could not be read, or that have no partner; each was
    /// named in a warning.
    pub skipped: usize,
}

impl Pair {
    /// A pair of equal size.
    ///
    /// # Errors
    /// [`DataError::PairSize`] when the sizes differ: then the two are not aligned and would teach nonsense.
    pub fn new(name: String, blurry: Image8, sharp: Image8) -> Result<Self, DataError> {
        if blurry.size() != sharp.size() {
            return Err(DataError::PairSize {
                name,
                blurry: blurry.size(),
                sharp: sharp.size(),
            });
        }
        Ok(Self { name, blurry, sharp })
    }
}

impl PairFolder {
    /// Reads `path/blurry` and `path/sharp` on all cores.
    ///
    /// # Errors
    /// [`DataError::ReadFolder`] when a folder cannot be listed, [`DataError::PairSize`] when the images of a
    /// pair differ in size, [`DataError::NoPairs`] when nothing remains.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let sharp_folder = path.join("sharp");
        // Listed only to report a missing folder as such instead of as many missing partners.
        image_paths(&sharp_folder)?;
        let blurry_paths = image_paths(&path.join("blurry"))?;
        let read: Vec<_> = blurry_paths
            .par_iter()
            .map(|file| {
                let name = file_name(file);
                let sharp = Image8::open(&sharp_folder.join(&name))?;
                Pair::new(name, Image8::open(file)?, sharp)
            })
            .collect();
        let mut folder = Self::default();
        for pair in read {
            match pair {
                Ok(pair) => folder.pairs.push(pair),
                Err(error @ DataError::ReadImage { .. }) => {
                    folder.skipped += 1;
                    tracing::warn!("pair skipped: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        if folder.pairs.is_empty() {
            return Err(DataError::NoPairs {
                path: path.to_owned(),
            });
        }
        if folder.skipped > 0 {
            tracing::warn!(
                "{} of {} pair(s) in {} skipped",
                folder.skipped,
                blurry_paths.len(),
                path.display()
            );
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, width: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, 3, image::Rgb([9, 8, 7]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn equal_names_make_a_pair_and_orphans_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "blurry/2.png",
            "sharp/2.png",
            "blurry/1.png",
            "sharp/1.png",
            "blurry/orphan.png",
        ] {
            write(&dir.path().join(name), 4);
        }
        let folder = PairFolder::read(dir.path()).unwrap();
        let names: Vec<_> = folder.pairs.iter().map(|pair| pair.name.as_str()).collect();
        assert_eq!((names, folder.skipped), (vec!["1.png", "2.png"], 1));
    }

    #[test]
    fn unequal_sizes_and_missing_folders_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("blurry/1.png"), 4);
        assert!(matches!(
            PairFolder::read(dir.path()),
            Err(DataError::ReadFolder { .. })
        ));
        write(&dir.path().join("sharp/1.png"), 5);
        let error = PairFolder::read(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "pair 1.png: blurry is 4x3, sharp is 5x3");
        std::fs::rename(dir.path().join("sharp/1.png"), dir.path().join("sharp/2.png")).unwrap();
        assert!(matches!(
            PairFolder::read(dir.path()),
            Err(DataError::NoPairs { .. })
        ));
    }
}
