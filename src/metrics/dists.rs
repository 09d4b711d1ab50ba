//! DISTS (Ding et al. 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity").

use std::path::Path;

use tch::{Kind, Tensor};

use super::backbone::{Backbone, Features, Pooling};
use super::file::MetricFile;
use super::pixels::{self, IMAGENET_MEAN, IMAGENET_STD};
use crate::Result;
use crate::device::{self, Device};
use crate::frame::Frame;
use crate::nn::{Init, Params};

/// Keeps both similarities defined where a feature map is flat; the paper's c1 and c2.
const STABILIZER: f64 = 1e-6;

/// One minus the similarity of two images in texture and structure: 0 for equal ones, at most about 1.
pub struct Dists {
    features: Features,
    /// Weights of the channels' means (texture) and covariances (structure), `[1, 1475, 1, 1]`; all of both sum to one.
    alpha: Tensor,
    beta: Tensor,
    mean: Tensor,
    std: Tensor,
}

impl Dists {
    /// Reads backbone, alpha and beta from one file of `scripts/convert_metrics.py`.
    ///
    /// # Errors
    /// A file that cannot be read or is not a DISTS file, and each way in which its tensors do not fit: missing,
    /// unexpected, of another shape or dtype, not finite. A device that is not there.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        Self::open_on(path, device::resolve(device)?.1)
    }

    /// As [`Dists::open`], on a device of libtorch's.
    pub(crate) fn open_on(path: &Path, device: tch::Device) -> Result<Self> {
        let file = MetricFile::open(path, "dists")?;
        file.expect("backbone", "vgg")?;
        file.expect("version", "1")?;
        file.build(device, |p| Self::new(p, device))
    }

    fn new(p: &Params, device: tch::Device) -> Result<Self> {
        // Those of the image itself and of every feature map.
        let channels = 3 + Backbone::Vgg.widths().iter().sum::<i64>();
        let weights = |name| p.get(name, &[1, channels, 1, 1], Init::Ones);
        let (alpha, beta) = (weights("alpha")?, weights("beta")?);
        let total = alpha.sum(Kind::Float) + beta.sum(Kind::Float);
        // A Hann window of 5 pixels without its zeros, 0.5, 1, 0.5, in two dimensions and of sum one.
        let hann = Tensor::from_slice(&[0.25f32, 0.5, 0.25]).to_device(device);
        let filter = hann.outer(&hann).view([1, 1, 3, 3]);
        Ok(Dists {
            features: Features::new(p, Backbone::Vgg, Pooling::L2(filter))?,
            alpha: alpha / &total,
            beta: beta / &total,
            mean: pixels::per_channel(&IMAGENET_MEAN, device),
            std: pixels::per_channel(&IMAGENET_STD, device),
        })
    }

    /// The distance of two frames, equal to the package `DISTS_pytorch` for the same weights. Frames enter as they
    /// are; the package's own command line shrinks large ones to 256 pixels first.
    ///
    /// # Errors
    /// Frames of different sizes or formats, or smaller than 32x32; a failure of libtorch.
    pub fn score(&self, a: &Frame, b: &Frame) -> Result<f64> {
        let [a, b] = pixels::pair(a, b, "DISTS", self.mean.device())?;
        tch::no_grad(|| Ok(self.forward(&a, &b).f_double_value(&[0])?))
    }

    /// Distances of `a` and `b`, each `[B, 3, H, W]` in [0, 1] on the metric's device, as `[B]` in float32.
    ///
    /// Differentiable; the gradient is finite where the images agree, and zero there. An image whose gradient is not
    /// asked for costs no memory beyond its feature maps.
    pub(crate) fn forward(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let maps = |x: &Tensor| {
            let x = x.to_kind(Kind::Float);
            let mut maps = self.features.forward(&((&x - &self.mean) / &self.std));
            maps.insert(0, x);
            maps
        };
        let (mut texture, mut structure) = (Vec::new(), Vec::new());
        for (a, b) in maps(a).iter().zip(&maps(b)) {
            let (mean_a, mean_b) = (spatial_mean(a), spatial_mean(b));
            texture.push(similarity(
                &(&mean_a * &mean_b),
                &(mean_a.square() + mean_b.square()),
            ));
            let (a, b) = (a - mean_a, b - mean_b);
            let variances = spatial_mean(&a.square()) + spatial_mean(&b.square());
            structure.push(similarity(&spatial_mean(&(a * b)), &variances));
        }
        let weighted = |similarities: &[Tensor], weights: &Tensor| {
            (Tensor::cat(similarities, 1) * weights).sum_dim_intlist(
                [1i64, 2, 3].as_slice(),
                false,
                Kind::Float,
            )
        };
        1.0 - weighted(&texture, &self.alpha) - weighted(&structure, &self.beta)
    }
}

/// `(2 product + c) / (squares + c)`, one where the two sides are equal.
fn similarity(product: &Tensor, squares: &Tensor) -> Tensor {
    (product * 2.0 + STABILIZER) / (squares + STABILIZER)
}

/// `[B, C, H, W]` to `[B, C, 1, 1]`.
fn spatial_mean(x: &Tensor) -> Tensor {
    x.mean_dim([2i64, 3].as_slice(), true, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Sobel;
    use crate::nn::Initializer;

    #[test]
    fn the_gradient_is_finite_everywhere_of_images_and_of_their_edges() {
        tch::manual_seed(1);
        let device = tch::Device::Cpu;
        let dists = Dists::new(&Params::new(&Initializer::default()), device).unwrap();
        let sobel = Sobel::new(device);
        let image = Tensor::rand([2, 3, 40, 33], (Kind::Float, device));
        let other = &image * 0.5;
        for (a, b, agree) in [
            (&image, &other, false),
            (&image.zeros_like(), &image, false),
            (&image, &image, true),
        ] {
            let a = a.detach().copy().set_requires_grad(true);
            let distance = dists.forward(&a, b) + dists.forward(&sobel.magnitude(&a), &sobel.magnitude(b));
            assert_eq!(distance.size(), [2]);
            assert_eq!(distance.abs().max().double_value(&[]) < 1e-5, agree);
            distance.sum(Kind::Float).backward();
            assert_eq!(a.grad().isfinite().all().int64_value(&[]), 1);
            assert!(agree || a.grad().abs().max().double_value(&[]) > 0.0);
        }
    }
}
