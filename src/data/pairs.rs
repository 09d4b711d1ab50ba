//! Real pairs: a folder with `blurry/` and `sharp/`, files of equal names showing the same scene.

use std::path::Path;

use rayon::prelude::*;

use super::error::DataError;
use super::image::{file_name, image_paths};
use super::picture::{Picture, keep_within, memory_for_images};

/// A blurry image and its sharp truth, of equal size.
#[derive(Clone, Debug)]
pub struct Pair {
    /// File name, for reports.
    pub name: String,
    /// What the camera saw while it moved.
    pub blurry: Picture,
    /// The same moment without blur.
    pub sharp: Picture,
}

/// The readable pairs of a folder, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct PairFolder {
    /// The pairs; those whose pixels turn out to be unreadable later are skipped when a sample is made.
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
    pub fn new(
        name: String,
        blurry: impl Into<Picture>,
        sharp: impl Into<Picture>,
    ) -> Result<Self, DataError> {
        let (blurry, sharp) = (blurry.into(), sharp.into());
        if blurry.size() != sharp.size() {
            return Err(DataError::PairSize {
                name,
                blurry: blurry.size(),
                sharp: sharp.size(),
            });
        }
        Ok(Self { name, blurry, sharp })
    }

    /// True once the pixels of one of the two have turned out to be unreadable.
    fn is_broken(&self) -> bool {
        self.blurry.is_broken() || self.sharp.is_broken()
    }
}

impl PairFolder {
    /// Reads `path/blurry` and `path/sharp` on all cores, and keeps as many pairs decoded as the memory allows.
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
                let sharp = Picture::in_file(&sharp_folder.join(&name))?;
                Pair::new(name, Picture::in_file(file)?, sharp)
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
        let pictures = folder
            .pairs
            .iter_mut()
            .flat_map(|pair| [&mut pair.blurry, &mut pair.sharp]);
        keep_within(pictures, memory_for_images());
        folder.skipped += folder.pairs.iter().filter(|pair| pair.is_broken()).count();
        if folder.skipped == blurry_paths.len() {
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
