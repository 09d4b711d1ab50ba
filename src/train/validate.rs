//! Measuring a model on whole image pairs while it trains.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::ValidationConfig;
use super::subject::Network;
use crate::data::{Image8, Picture, image_paths};
use crate::tile::reflect;
use crate::{Error, Result};

/// Pairs of one kind, measured together.
pub struct ValidationSet {
    name: String,
    /// Blurry and sharp.
    pairs: Vec<(Picture, Picture)>,
}

/// Means over the pairs of a [`ValidationSet`].
#[derive(Clone, Debug)]
pub struct Score {
    pub name: String,
    /// PSNR of the blurry input in dB.
    pub input_psnr: f64,
    /// PSNR of the output in dB.
    pub output_psnr: f64,
    /// Mean absolute error of the output in 8-bit levels.
    pub output_mae: f64,
}

impl ValidationSet {
    /// Finds the pairs that a configuration names, below `data`. Their pixels are read when they are needed.
    ///
    /// # Errors
    /// A folder without images, a blurry image without its sharp one, or two of different sizes.
    pub fn read(config: &ValidationConfig, data: &Path) -> Result<Self> {
        let sharp_folder = data.join(&config.sharp);
        let by_stem: BTreeMap<String, PathBuf> = image_paths(&sharp_folder)?
            .into_iter()
            .map(|path| (stem(&path), path))
            .collect();
        let mut pairs = Vec::new();
        for path in chosen(config, image_paths(&data.join(&config.blurry))?) {
            let stem = stem(&path);
            let partner = stem.strip_suffix(&config.suffix).unwrap_or(&stem);
            let truth = by_stem
                .get(&stem)
                .or_else(|| by_stem.get(partner))
                .ok_or_else(|| {
                    Error::Train(format!(
                        "{} has no partner in {}",
                        path.display(),
                        sharp_folder.display()
                    ))
                })?;
            let (blurry, sharp) = (Picture::in_file(&path)?, Picture::in_file(truth)?);
            if blurry.size() != sharp.size() {
                return Err(Error::Train(format!(
                    "{} and {} differ in size",
                    path.display(),
                    truth.display()
                )));
            }
            pairs.push((blurry, sharp));
        }
        if pairs.is_empty() {
            let named = data.join(&config.blurry);
            return Err(Error::Train(format!(
                "{} has no images for validation '{}'",
                named.display(),
                config.name
            )));
        }
        Ok(ValidationSet {
            name: config.name.clone(),
            pairs,
        })
    }

    /// Blurry and sharp images that can be read, `[1, 3, H, W]` in [0, 1].
    pub(super) fn tensors(&self) -> impl Iterator<Item = (Tensor, Tensor)> + '_ {
        let load = |(blurry, sharp): &(Picture, Picture)| {
            Some((to_tensor(&*blurry.load()?), to_tensor(&*sharp.load()?)))
        };
        self.pairs.iter().filter_map(load)
    }

    /// Every pair before and after the network, averaged.
    ///
    /// # Errors
    /// No pair can be read.
    pub(super) fn score(&self, restorer: &Restorer) -> Result<Score> {
        let (mut before, mut after, mut error, mut count) = (0.0, 0.0, 0.0, 0.0);
        for (blurry, sharp) in self.tensors() {
            let restored = restorer.restore(&blurry, &sharp);
            before += psnr(&blurry, &sharp);
            after += psnr(&restored, &sharp);
            count += 1.0;
            error += (&restored - sharp).abs().mean(Kind::Double).double_value(&[]);
        }
        if count == 0.0 {
            return Err(Error::Train(format!(
                "no pair of validation '{}' can be read",
                self.name
            )));
        }
        Ok(Score {
            name: self.name.clone(),
            input_psnr: before / count,
            output_psnr: after / count,
            output_mae: 255.0 * error / count,
        })
    }
}

/// Whole images of any size through a stage's network.
pub(super) struct Restorer {
    pub network: Network,
    pub multiple: usize,
    pub device: Device,
}

impl Restorer {
    /// Both `[1, 3, H, W]` in [0, 1]; the result has the same size, is on the CPU, and is rounded to 8 bits as a frame would be.
    pub fn restore(&self, blurry: &Tensor, sharp: &Tensor) -> Tensor {
        let (_, _, height, width) = blurry.size4().expect("an image has four dimensions");
        let (blurry, sharp) = (self.padded(blurry), self.padded(sharp));
        let output = self.network.forward(&blurry, &sharp).image.to_device(Device::Cpu);
        let output = output.narrow(2, 0, height).narrow(3, 0, width);
        (output.clamp(0.0, 1.0) * 255.0).round() / 255.0
    }

    /// Reflected at the right and below until both sides are multiples of what the network needs.
    fn padded(&self, image: &Tensor) -> Tensor {
        let (_, _, height, width) = image.size4().expect("an image has four dimensions");
        let indices = |len: i64| {
            let padded = (len as usize).next_multiple_of(self.multiple);
            let index: Vec<i64> = (0..padded)
                .map(|i| reflect(i as isize, len as usize) as i64)
                .collect();
            Tensor::from_slice(&index)
        };
        let padded = image
            .index_select(2, &indices(height))
            .index_select(3, &indices(width));
        padded.to_device(self.device)
    }
}

/// The files that a configuration means; where it has a limit, spread evenly over all.
fn chosen(config: &ValidationConfig, files: Vec<PathBuf>) -> Vec<PathBuf> {
    let meant = |path: &PathBuf| {
        let stem = stem(path);
        stem.starts_with(&config.prefix) && stem.ends_with(&config.suffix)
    };
    let all: Vec<PathBuf> = files.into_iter().filter(meant).collect();
    match config.limit {
        Some(limit) if limit < all.len() => (0..limit).map(|i| all[i * all.len() / limit].clone()).collect(),
        _ => all,
    }
}

/// File name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn psnr(a: &Tensor, b: &Tensor) -> f64 {
    let mse = (a - b).square().mean(Kind::Double).double_value(&[]);
    -10.0 * mse.max(1e-10).log10()
}

fn to_tensor(image: &Image8) -> Tensor {
    let (width, height) = image.size();
    let rows: Vec<u8> = (0..height).flat_map(|y| image.row(y).iter().copied()).collect();
    let tensor = Tensor::from_slice(&rows).view([1, height as i64, width as i64, 3]);
    tensor.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ValidationConfig {
        let all = format!(r#"{{ "name": "n", "blurry": "blurry", "sharp": "sharp" {json} }}"#);
        serde_json::from_str(&all).unwrap()
    }

    fn write(dir: &Path, name: &str, width: u32) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, 4, image::Rgb([9, 8, 7]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn pairs_are_found_by_prefix_suffix_and_limit() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..6 {
            write(dir.path(), &format!("blurry/a{i}_10px.png"), 5);
            write(dir.path(), &format!("sharp/a{i}.png"), 5);
        }
        write(dir.path(), "blurry/b0_22px.png", 5);
        let count =
            |json: &str| ValidationSet::read(&config(json), dir.path()).map(|set| set.tensors().count());
        assert_eq!(count(r#", "suffix": "_10px""#).unwrap(), 6);
        assert_eq!(count(r#", "suffix": "_10px", "limit": 2"#).unwrap(), 2);
        assert_eq!(count(r#", "prefix": "a3", "suffix": "_10px""#).unwrap(), 1);
        let error = count(r#", "prefix": "b""#).unwrap_err().to_string();
        assert!(error.contains("b0_22px.png has no partner"), "{error}");
        let error = count(r#", "prefix": "c""#).unwrap_err().to_string();
        assert!(error.contains("no images for validation 'n'"), "{error}");
        write(dir.path(), "sharp/a1.png", 6);
        let error = count(r#", "suffix": "_10px""#).unwrap_err().to_string();
        assert!(error.contains("differ in size"), "{error}");
    }
}
