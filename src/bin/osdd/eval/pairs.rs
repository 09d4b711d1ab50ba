//! Which images are measured, and their pixels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::DynamicImage;
use osdd::frame::Frame;

use crate::{picture, report};

/// Where one image's pixels are.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The file's name without its extension.
    pub name: String,
    pub files: Files,
}

#[derive(Clone, Debug)]
pub(super) enum Files {
    /// A blurry image and its truth.
    Both { blurry: PathBuf, sharp: PathBuf },
    /// A blurry image whose truth nobody knows.
    Blurry(PathBuf),
    /// A sharp image, which is its own truth.
    Sharp(PathBuf),
}

/// What the model gets, and what it should give where that is known: of one size and depth.
pub(super) struct Pixels {
    pub input: Frame,
    pub truth: Option<Frame>,
}

impl Pair {
    /// # Errors
    /// A file cannot be read, or the two differ in size.
    pub fn read(&self) -> Result<Pixels> {
        match &self.files {
            Files::Both { blurry, sharp } => both(picture::read_rgb(blurry)?, picture::read_rgb(sharp)?),
            Files::Blurry(path) => Ok(Pixels {
                input: picture::to_frame(&picture::read_rgb(path)?)?,
                truth: None,
            }),
            Files::Sharp(path) => {
                let frame = picture::to_frame(&picture::read_rgb(path)?)?;
                Ok(Pixels {
                    input: frame.clone(),
                    truth: Some(frame),
                })
            }
        }
    }

    /// Every file that is read for it.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.files {
            Files::Both { blurry, sharp } => vec![blurry, sharp],
            Files::Blurry(path) | Files::Sharp(path) => vec![path],
        }
    }
}

/// Both with the deeper one's depth, as metrics compare like with like.
fn both(blurry: DynamicImage, sharp: DynamicImage) -> Result<Pixels> {
    ensure!(
        (blurry.width(), blurry.height()) == (sharp.width(), sharp.height()),
        "the blurry image is {}x{} and the sharp one {}x{}",
        blurry.width(),
        blurry.height(),
        sharp.width(),
        sharp.height()
    );
    let deep = [&blurry, &sharp]
        .iter()
        .any(|image| matches!(image, DynamicImage::ImageRgb16(_)));
    let same = |image: DynamicImage| if deep { image.into_rgb16().into() } else { image };
    Ok(Pixels {
        input: picture::to_frame(&same(blurry))?,
        truth: Some(picture::to_frame(&same(sharp))?),
    })
}

/// Pairs by name without extension, in order; two single files are a pair whatever their names.
///
/// # Errors
/// A path cannot be read, or holds no images, or no image has a partner.
pub(super) fn find(blurry: Option<&Path>, sharp: Option<&Path>) -> Result<Vec<Pair>> {
    let alone = |path: &Path, files: fn(PathBuf) -> Files| {
        let pair = |(name, path)| Pair {
            name,
            files: files(path),
        };
        Ok(images(path)?.into_iter().map(pair).collect())
    };
    match (blurry, sharp) {
        (Some(blurry), Some(sharp)) => {
            let (blurry_images, sharp_images) = (images(blurry)?, images(sharp)?);
            let pairs = if blurry.is_dir() || sharp.is_dir() {
                by_name(blurry_images, sharp_images)
            } else {
                one_pair(blurry_images, sharp_images)
            };
            ensure!(
                !pairs.is_empty(),
                "no image in {} has its name in {}",
                blurry.display(),
                sharp.display()
            );
            Ok(pairs)
        }
        (Some(blurry), None) => alone(blurry, Files::Blurry),
        (None, Some(sharp)) => alone(sharp, Files::Sharp),
        (None, None) => bail!("there are no images to measure"),
    }
}

fn by_name(mut blurry: BTreeMap<String, PathBuf>, sharp: BTreeMap<String, PathBuf>) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut alone = 0;
    for (name, sharp) in sharp {
        match blurry.remove(&name) {
            Some(blurry) => pairs.push(Pair {
                name,
                files: Files::Both { blurry, sharp },
            }),
            None => alone += 1,
        }
    }
    alone += blurry.len();
    if alone > 0 && !pairs.is_empty() {
        report::warning(format_args!(
            "images without a partner of the same name, left out: {alone}"
        ));
    }
    pairs
}

fn one_pair(blurry: BTreeMap<String, PathBuf>, sharp: BTreeMap<String, PathBuf>) -> Vec<Pair> {
    let pair = |((name, blurry), sharp)| Pair {
        name,
        files: Files::Both { blurry, sharp },
    };
    blurry.into_iter().zip(sharp.into_values()).map(pair).collect()
}

/// The images of a folder, or the one image that `path` is, by name without extension.
fn images(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let name = |file: &Path| file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    if std::fs::metadata(path).with_context(cannot_read)?.is_file() {
        return Ok(name(path)
            .map(|name| (name, path.to_owned()))
            .into_iter()
            .collect());
    }
    let mut images = BTreeMap::new();
    for entry in std::fs::read_dir(path).with_context(cannot_read)? {
        let file = entry.with_context(cannot_read)?.path();
        let Some(name) = name(&file).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        if !image::ImageFormat::from_path(&file).is_ok_and(picture::can_read) {
            continue;
        }
        if let Some(other) = images.insert(name, file.clone()) {
            bail!("{} and {} have the same name", other.display(), file.display());
        }
    }
    ensure!(!images.is_empty(), "{} holds no images", path.display());
    Ok(images)
}
