//! Measuring a model on whole image pairs while it trains.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::ValidationConfig;
use super::subject::Network;
use crate::Result;
use crate::data::{Folder, Image8};
use crate::tile::reflect;

/// Pairs of one kind, measured together.
pub struct ValidationSet {
    name: String,
    /// Name, blurry and sharp image, `[1, 3, H, W]` in [0, 1].
    pairs: Vec<(String, Tensor, Tensor)>,
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
    /// Reads the pairs that a configuration names, below `data`.
    ///
    /// # Errors
    /// A folder without readable images, or a blurry image without its sharp one.
    pub fn read(config: &ValidationConfig, data: &Path) -> Result<Self> {
        let blurry = Folder::read(&data.join(&config.blurry))?;
        let sharp = Folder::read(&data.join(&config.sharp))?;
        let mut pairs = Vec::new();
        for (name, image) in blurry.names.iter().zip(&blurry.images) {
            let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
            if !stem.starts_with(&config.prefix) || !stem.ends_with(&config.suffix) {
                continue;
            }
            let partner = stem.strip_suffix(&config.suffix).unwrap_or(stem);
            let found = sharp.names.iter().position(|other| {
                let other = other.rsplit_once('.').map_or(other.as_str(), |(stem, _)| stem);
                other == stem || other == partner
            });
            let truth = found.ok_or_else(|| {
                crate::Error::Train(format!("{name} has no partner in {}", config.sharp.display()))
            })?;
            pairs.push((name.clone(), to_tensor(image), to_tensor(&sharp.images[truth])));
        }
        Ok(ValidationSet {
            name: config.name.clone(),
            pairs,
        })
    }

    /// The first pair: blurry and sharp, `[1, 3, H, W]` in [0, 1].
    pub(super) fn first(&self) -> Option<(&Tensor, &Tensor)> {
        self.pairs.first().map(|(_, blurry, sharp)| (blurry, sharp))
    }

    /// Every pair before and after the network, averaged.
    pub(super) fn score(&self, restorer: &Restorer) -> Score {
        let (mut before, mut after, mut error) = (0.0, 0.0, 0.0);
        for (_, blurry, sharp) in &self.pairs {
            let restored = restorer.restore(blurry, sharp);
            before += psnr(blurry, sharp);
            after += psnr(&restored, sharp);
            error += (&restored - sharp).abs().mean(Kind::Double).double_value(&[]);
        }
        let count = self.pairs.len().max(1) as f64;
        Score {
            name: self.name.clone(),
            input_psnr: before / count,
            output_psnr: after / count,
            output_mae: 255.0 * error / count,
        }
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
