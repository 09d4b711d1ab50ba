//! LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"), version 0.1.

use std::path::Path;

use tch::{Kind, Tensor};

use super::backbone::{Backbone, Features, Pooling};
use super::file::MetricFile;
use super::pixels::{self, IMAGENET_MEAN, IMAGENET_STD};
use crate::Result;
use crate::device::{self, Device};
use crate::frame::Frame;
use crate::nn::{Init, Params};

/// The learned distance of two images: 0 for equal ones, about 0.1 for good restorations, 0.5 and more for bad ones.
pub struct Lpips {
    backbone: Backbone,
    features: Features,
    /// One weight for each channel of each feature map, `[1, C, 1, 1]`, none negative.
    heads: Vec<Tensor>,
    mean: Tensor,
    std: Tensor,
}

impl Lpips {
    /// Reads backbone and heads from one file of `scripts/convert_metrics.py`.
    ///
    /// # Errors
    /// A file that cannot be read or is not an LPIPS file of version 0.1, and each way in which its tensors do not
    /// fit: missing, unexpected, of another shape or dtype, not finite. A device that is not there.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        Self::open_on(path, device::resolve(device)?.1)
    }

    /// As [`Lpips::open`], on a device of libtorch's.
    pub(crate) fn open_on(path: &Path, device: tch::Device) -> Result<Self> {
        let file = MetricFile::open(path, "lpips")?;
        let name = file.text("backbone")?;
        let backbone: Backbone = name
            .parse()
            .map_err(|()| file.wrong(format!("its backbone is '{name}', not alex, vgg or squeeze")))?;
        file.expect("version", "0.1")?;
        file.build(device, |p| Self::new(p, backbone, device))
    }

    fn new(p: &Params, backbone: Backbone, device: tch::Device) -> Result<Self> {
        let head = |(k, width)| {
            let p = p.pp(format!("lin{k}.model.1"));
            p.get("weight", &[1, width, 1, 1], Init::FanIn(width))
        };
        Ok(Lpips {
            backbone,
            features: Features::new(p, backbone, Pooling::Max)?,
            heads: backbone
                .widths()
                .into_iter()
                .enumerate()
                .map(head)
                .collect::<Result<_>>()?,
            mean: pixels::per_channel(&IMAGENET_MEAN, device),
            std: pixels::per_channel(&IMAGENET_STD, device),
        })
    }

    /// Which network's features are compared.
    pub fn backbone(&self) -> Backbone {
        self.backbone
    }

    /// The distance of two frames, equal to the package `lpips` for the same weights.
    ///
    /// # Errors
    /// Frames of different sizes or formats, or smaller than 32x32; a failure of libtorch.
    pub fn score(&self, a: &Frame, b: &Frame) -> Result<f64> {
        let [a, b] = pixels::pair(a, b, "LPIPS", self.mean.device())?;
        tch::no_grad(|| Ok(self.forward(&a, &b).f_double_value(&[0])?))
    }

    /// Distances of `a` and `b`, each `[B, 3, H, W]` in [0, 1] on the metric's device, as `[B]` in float32.
    ///
    /// Differentiable; the gradient is finite where the images agree, and zero there. Images whose gradient is not
    /// asked for cost no memory beyond their feature maps.
    ///
    /// # Panics
    /// For images smaller than the network's pooling allows; 32x32 always fits.
    pub(crate) fn forward(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let maps = |x: &Tensor| {
            let x = (x.to_kind(Kind::Float) - &self.mean) / &self.std;
            self.features.forward(&x)
        };
        let layers = maps(a).into_iter().zip(maps(b)).zip(&self.heads);
        layers
            .map(|((a, b), head)| {
                let difference = (unit_length(&a) - unit_length(&b)).square() * head;
                difference
                    .sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
                    .mean_dim([1i64, 2].as_slice(), false, Kind::Float)
            })
            .reduce(|sum, layer| sum + layer)
            .expect("every backbone has feature maps")
    }
}

/// Each pixel's channels scaled to length one; where all are zero they stay so, and the gradient stays finite.
fn unit_length(x: &Tensor) -> Tensor {
    let squares = x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    x / (squares.clamp_min(1e-30).sqrt() + 1e-10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Initializer;

    fn gradient(lpips: &Lpips, a: &Tensor, b: &Tensor) -> Tensor {
        let a = a.detach().copy().set_requires_grad(true);
        lpips.forward(&a, b).sum(Kind::Float).backward();
        a.grad()
    }

    #[test]
    fn the_gradient_is_finite_everywhere_and_zero_only_where_images_agree() {
        tch::manual_seed(1);
        let device = tch::Device::Cpu;
        let lpips = Lpips::new(&Params::new(&Initializer::default()), Backbone::Squeeze, device).unwrap();
        let a = Tensor::rand([2, 3, 40, 33], (Kind::Float, device));
        assert_eq!(lpips.forward(&a, &(&a * 0.5)).size(), [2]);
        for (a, b) in [(&a, &(&a * 0.5)), (&a.zeros_like(), &a)] {
            let gradient = gradient(&lpips, a, b);
            assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
            assert!(gradient.abs().max().double_value(&[]) > 0.0);
        }
        // Layers with a gradient and without round differently.
        assert!(gradient(&lpips, &a, &a).abs().max().double_value(&[]) < 1e-9);
    }

    #[test]
    fn pixels_without_any_feature_have_a_finite_gradient() {
        let x = Tensor::zeros([1, 4, 2, 2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        unit_length(&x).sum(Kind::Float).backward();
        assert_eq!(x.grad().isfinite().all().int64_value(&[]), 1);
    }
}
