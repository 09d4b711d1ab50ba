//! Images that may be too many for the memory: some are kept decoded, the others are read when they are needed.
//!
//! Which ones are kept depends on the machine; what is made of them does not. Samples choose images at random,
//! so no cache could do better than keeping as many as fit.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::error::DataError;
use super::image::{Image8, file_name, image_paths};

/// Memory assumed to be free where the operating system does not tell.
const DEFAULT_FREE_BYTES: u64 = 4 << 30;

/// An RGB image in memory, or in a file that is decoded at every use.
#[derive(Clone, Debug)]
pub struct Picture {
    size: (usize, usize),
    path: Option<Arc<Path>>,
    pixels: Pixels,
}

#[derive(Clone, Debug)]
enum Pixels {
    Memory(Arc<Image8>),
    /// In the file at `path`. Its header was good; it is marked, and named in a warning, once its pixels are not.
    File {
        broken: Arc<AtomicBool>,
    },
}

impl From<Image8> for Picture {
    fn from(image: Image8) -> Self {
        Self {
            size: image.size(),
            path: None,
            pixels: Pixels::Memory(Arc::new(image)),
        }
    }
}

impl Picture {
    /// A picture in a file, of which only the header is read.
    ///
    /// # Errors
    /// [`DataError::ReadImage`] when the file cannot be opened or its header is broken.
    pub fn in_file(path: &Path) -> Result<Self, DataError> {
        Ok(Self {
            size: Image8::stored_size(path)?,
            path: Some(path.into()),
            pixels: Pixels::File {
                broken: Arc::default(),
            },
        })
    }

    /// The file it comes from, if it was not made in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Width and height in px.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The pixels, or `None` for a file that does not decode. The first time, that is told in a warning.
    pub fn load(&self) -> Option<Arc<Image8>> {
        match (&self.pixels, &self.path) {
            (Pixels::Memory(image), _) => Some(image.clone()),
            (Pixels::File { .. }, None) => None,
            (Pixels::File { broken }, Some(path)) => match Image8::open(path) {
                Ok(image) => Some(Arc::new(image)),
                Err(error) => {
                    if !broken.swap(true, Ordering::Relaxed) {
                        tracing::warn!("skipped: {error}");
                    }
                    None
                }
            },
        }
    }

    /// True once its pixels have turned out to be unreadable.
    pub fn is_broken(&self) -> bool {
        matches!(&self.pixels, Pixels::File { broken } if broken.load(Ordering::Relaxed))
    }

    fn bytes(&self) -> u64 {
        3 * self.size.0 as u64 * self.size.1 as u64
    }

    /// Decodes a picture that is in a file; one that does not decode stays there, marked.
    fn keep(&mut self) {
        if let Some(image) = self.load() {
            self.pixels = Pixels::Memory(image);
        }
    }
}

/// Decodes pictures in their order for as long as they fit into `free_bytes`, on all cores.
pub(super) fn keep_within<'a>(pictures: impl Iterator<Item = &'a mut Picture>, mut free_bytes: u64) {
    let fitting: Vec<&mut Picture> = pictures
        .take_while(|picture| {
            let fits = picture.bytes() <= free_bytes;
            free_bytes = free_bytes.saturating_sub(picture.bytes());
            fits
        })
        .collect();
    fitting.into_par_iter().for_each(Picture::keep);
}

/// Bytes that decoded images may take now: half of the memory that is free. The rest is for training itself.
pub fn memory_for_images() -> u64 {
    let free_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    free_kib.map_or(DEFAULT_FREE_BYTES, |kib| kib * 1024) / 2
}

/// Pictures to choose from.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    items: Vec<Picture>,
}

impl Pictures {
    /// The pixels of picture `index`, or of the next one that can be read, from the start again after the last;
    /// and its index. So a broken file changes the same samples on every machine.
    ///
    /// # Panics
    /// If none can be read.
    pub fn load(&self, index: usize) -> (usize, Arc<Image8>) {
        let count = self.items.len();
        (0..count)
            .map(|step| (index + step) % count)
            .find_map(|index| Some((index, self.items[index].load()?)))
            .expect("no image of the data can be read any more")
    }

    /// Takes the unwanted pictures out.
    pub fn extract_if(&mut self, unwanted: impl FnMut(&Picture) -> bool) -> Vec<Picture> {
        let items = std::mem::take(&mut self.items);
        let (out, kept) = items.into_iter().partition(unwanted);
        self.items = kept;
        out
    }

    /// Pictures that have turned out to be unreadable so far.
    pub fn broken(&self) -> usize {
        self.items.iter().filter(|picture| picture.is_broken()).count()
    }
}

impl Deref for Pictures {
    type Target = [Picture];

    fn deref(&self) -> &[Picture] {
        &self.items
    }
}

impl<P: Into<Picture>> FromIterator<P> for Pictures {
    fn from_iter<I: IntoIterator<Item = P>>(pictures: I) -> Self {
        Self {
            items: pictures.into_iter().map(Into::into).collect(),
        }
    }
}

impl<P: Into<Picture>> Extend<P> for Pictures {
    fn extend<I: IntoIterator<Item = P>>(&mut self, pictures: I) {
        self.items.extend(pictures.into_iter().map(Into::into));
    }
}

impl IntoIterator for Pictures {
    type Item = Picture;
    type IntoIter = std::vec::IntoIter<Picture>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// The pictures of a folder, sorted by file name, however many there are.
#[derive(Clone, Debug, Default)]
pub struct PictureFolder {
    /// File names, in the order of `pictures`.
    pub names: Vec<String>,
    /// The pictures.
    pub pictures: Pictures,
    /// Files with an image's extension whose header cannot be read; each was named in a warning.
    pub skipped: usize,
}

impl PictureFolder {
    /// Reads a folder (not its subfolders) and keeps as many images decoded as the memory allows.
    ///
    /// # Errors
    /// [`DataError::ReadFolder`] when the folder cannot be listed, [`DataError::EmptyFolder`] when nothing in
    /// it is readable.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::read_within(path, memory_for_images())
    }

    /// The same with a given number of bytes for decoded images.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_within(path: &Path, free_bytes: u64) -> Result<Self, DataError> {
        let paths = image_paths(path)?;
        let headers: Vec<_> = paths.par_iter().map(|file| Picture::in_file(file)).collect();
        let mut folder = Self::default();
        for (file, picture) in paths.iter().zip(headers) {
            match picture {
                Ok(picture) => {
                    folder.names.push(file_name(file));
                    folder.pictures.items.push(picture);
                }
                Err(error) => {
                    folder.skipped += 1;
                    tracing::warn!("skipped: {error}");
                }
            }
        }
        keep_within(folder.pictures.items.iter_mut(), free_bytes);
        let broken = folder.skipped + folder.pictures.broken();
        if broken == paths.len() {
            return Err(DataError::EmptyFolder {
                path: path.to_owned(),
                skipped: broken,
            });
        }
        if broken > 0 {
            tracing::warn!(
                "{broken} of {} image(s) in {} skipped",
                paths.len(),
                path.display()
            );
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_png(path: &Path, level: u8) {
        image::RgbImage::from_pixel(4, 3, image::Rgb([level, 0, 0]))
            .save(path)
            .unwrap();
    }

    /// A file whose header is good and whose pixels are cut off.
    fn truncate(path: &Path) {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 25]).unwrap();
    }

    #[test]
    fn pictures_are_the_same_however_many_fit_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        for level in 0..4 {
            write_png(&dir.path().join(format!("{level}.png")), level);
        }
        truncate(&dir.path().join("1.png"));
        std::fs::write(dir.path().join("5.jpg"), b"not a picture").unwrap();
        for free_bytes in [0, 36, 80, 1000] {
            let folder = PictureFolder::read_within(dir.path(), free_bytes).unwrap();
            let kept = |picture: &&Picture| matches!(picture.pixels, Pixels::Memory(_));
            assert!(folder.pictures.iter().filter(kept).count() as u64 * 36 <= free_bytes);
            assert_eq!((folder.pictures.len(), folder.skipped), (4, 1));
            let loaded: Vec<_> = (0..4).map(|i| folder.pictures.load(i)).collect();
            let levels: Vec<u8> = loaded.iter().map(|(_, image)| image.data[0]).collect();
            assert_eq!(levels, [0, 2, 2, 3], "{free_bytes} bytes");
            assert_eq!(folder.pictures.broken(), 1);
        }
    }

    #[test]
    fn a_folder_of_broken_pixels_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        write_png(&dir.path().join("a.png"), 1);
        truncate(&dir.path().join("a.png"));
        let error = PictureFolder::read(dir.path()).unwrap_err();
        assert!(
            matches!(error, DataError::EmptyFolder { skipped: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_is_sorted_and_skips_what_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        write_png(&dir.path().join("b.png"), 2);
        write_png(&dir.path().join("a.PNG"), 1);
        std::fs::write(dir.path().join("c.jpg"), b"not a picture").unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"not an image").unwrap();
        let folder = PictureFolder::read(dir.path()).unwrap();
        assert_eq!(folder.names, ["a.PNG", "b.png"]);
        assert_eq!(folder.skipped, 1);
        assert_eq!(folder.pictures[1].load().unwrap().data[..3], [2, 0, 0]);
        assert_eq!(folder.pictures[0].size(), (4, 3));
    }

    #[test]
    fn an_empty_folder_is_an_error_that_counts_the_broken_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.jpg"), b"not a picture").unwrap();
        let error = PictureFolder::read(dir.path()).unwrap_err();
        assert!(
            matches!(error, DataError::EmptyFolder { skipped: 1, .. }),
            "{error}"
        );
        let error = PictureFolder::read(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(error, DataError::ReadFolder { .. }), "{error}");
    }
}
