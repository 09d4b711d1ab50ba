//! The losses of training: terms on pixels, on spectra, on edges, and on a network's features.

use std::path::Path;

use tch::{Device, Kind, Reduction, Tensor};

use super::LossConfig;
use super::perceptual::Perceptual;
use crate::Result;
use crate::metrics::Sobel;

/// The weighted sum of the terms that a configuration asks for.
pub(super) struct Losses {
    config: LossConfig,
    sobel: Sobel,
    perceptual: Option<Perceptual>,
}

/// The total, to be differentiated, and its terms by name, for the log; all on the device.
pub(super) struct LossTerms {
    pub total: Tensor,
    terms: Vec<(&'static str, Tensor)>,
}

impl LossTerms {
    /// Adds `term` times `weight` to the total.
    pub fn add(&mut self, name: &'static str, weight: f64, term: &Tensor) {
        self.total = &self.total + term * weight;
        self.note(name, term);
    }

    /// A figure for the log that is no term of the total.
    pub fn note(&mut self, name: &'static str, value: &Tensor) {
        self.terms.push((name, value.detach().to_kind(Kind::Float)));
    }

    /// Term by term, the sum with another batch's.
    pub fn plus(&self, other: &LossTerms) -> LossTerms {
        let pairs = self.terms.iter().zip(&other.terms);
        LossTerms {
            total: self.total.detach() + other.total.detach(),
            terms: pairs.map(|((name, a), (_, b))| (*name, a + b)).collect(),
        }
    }

    /// Every term and the total, multiplied by `factor`.
    pub fn times(&self, factor: f64) -> LossTerms {
        LossTerms {
            total: self.total.detach() * factor,
            terms: self
                .terms
                .iter()
                .map(|(name, term)| (*name, term * factor))
                .collect(),
        }
    }

    /// The values of all terms and of the total, divided by `count`, and that of `norm`, in one transfer.
    pub fn values(&self, count: f64, norm: &Tensor) -> (Vec<(&'static str, f64)>, f64, f64) {
        let mut all: Vec<Tensor> = self.terms.iter().map(|(_, term)| term.view([-1])).collect();
        all.push(self.total.detach().view([-1]));
        let all = Tensor::cat(&[Tensor::cat(&all, 0) / count, norm.view([-1])], 0);
        let values: Vec<f64> = Vec::try_from(all.to_kind(Kind::Double)).expect("a vector of doubles");
        let (terms, rest) = values.split_at(self.terms.len());
        let names = self.terms.iter().map(|(name, _)| *name);
        (names.zip(terms.iter().copied()).collect(), rest[0], rest[1])
    }
}

impl Losses {
    /// `metrics` is the folder with the weights of the perceptual networks.
    ///
    /// # Errors
    /// A perceptual network whose weights are missing or broken.
    pub fn new(config: LossConfig, metrics: &Path, device: Device) -> Result<Self> {
        let perceptual = config.perceptual.map(|p| Perceptual::open(p, metrics, device));
        Ok(Losses {
            config,
            sobel: Sobel::new(device),
            perceptual: perceptual.transpose()?,
        })
    }

    pub fn config(&self) -> LossConfig {
        self.config
    }

    /// Whether every term compares pixel with pixel or block with block, without a network.
    pub fn is_of_pixels(&self) -> bool {
        self.perceptual.is_none()
    }

    /// `output`, `truth` and what a teacher makes of the same images, `[B, 3, H, W]` in [0, 1].
    pub fn compute(&self, output: &Tensor, truth: &Tensor, taught: Option<&Tensor>) -> LossTerms {
        let c = &self.config;
        let mut loss = LossTerms {
            total: Tensor::zeros([], (Kind::Float, output.device())),
            terms: Vec::new(),
        };
        let mut add = |name, weight: f64, term: &dyn Fn() -> Tensor| {
            if weight > 0.0 {
                loss.add(name, weight, &term());
            }
        };
        add("l1", c.l1, &|| output.l1_loss(truth, Reduction::Mean));
        add("l2", c.l2, &|| output.mse_loss(truth, Reduction::Mean));
        add("fft", c.fft, &|| {
            let spectrum = (output - truth).fft_rfft2(None::<&[i64]>, [-2, -1], "ortho");
            spectrum.view_as_real().abs().mean(Kind::Float)
        });
        add("edge", c.edge, &|| {
            // A pixel's difference to its neighbours: the kernels' weights sum to eight.
            let (a, b) = (self.sobel.gradient(output), self.sobel.gradient(truth));
            a.l1_loss(&b, Reduction::Mean) / 8.0
        });
        add("amplitude", c.amplitude, &|| {
            amplitudes(output).l1_loss(&amplitudes(truth), Reduction::Mean)
        });
        if let Some(perceptual) = &self.perceptual {
            let distance = perceptual.distance(output, truth);
            let ratio = if perceptual.config().balanced {
                // Without a gradient: it sets the balance, it is not to be learned from.
                output.l1_loss(truth, Reduction::Mean).detach() / (distance.detach() + 1e-8)
            } else {
                distance.ones_like()
            };
            loss.total = &loss.total + &distance * ratio.detach() * perceptual.config().weight;
            loss.note("perceptual", &distance);
        }
        if let Some(taught) = taught {
            loss.add("teacher", c.teacher, &output.l1_loss(taught, Reduction::Mean));
        }
        loss
    }
}

/// Amplitudes of the Fourier transforms of blocks of 32x32 pixels, orthonormal, without their phases.
fn amplitudes(x: &Tensor) -> Tensor {
    const BLOCK: i64 = 32;
    let (b, c, h, w) = x.size4().expect("images have four dimensions");
    let (rows, columns) = (h / BLOCK, w / BLOCK);
    let whole = x.narrow(2, 0, rows * BLOCK).narrow(3, 0, columns * BLOCK);
    let blocks = whole
        .reshape([b, c, rows, BLOCK, columns, BLOCK])
        .permute([0, 1, 2, 4, 3, 5])
        // Strided input makes the transform a hundred times slower.
        .contiguous()
        .view([-1, BLOCK, BLOCK]);
    blocks.fft_rfft2(None::<&[i64]>, [-2, -1], "ortho").abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(config: LossConfig, a: &Tensor, b: &Tensor) -> f64 {
        let losses = Losses::new(config, Path::new(""), Device::Cpu).unwrap();
        losses.compute(a, b, None).total.double_value(&[])
    }

    #[test]
    fn every_term_is_zero_for_equal_images_and_not_for_others() {
        let a = Tensor::linspace(0.0, 1.0, 3 * 32 * 32, (Kind::Float, Device::Cpu)).view([1, 3, 32, 32]);
        let b = a.flip([3]) * 0.5;
        let one = |f: fn(&mut LossConfig)| {
            let mut config = LossConfig::default();
            f(&mut config);
            config
        };
        for config in [
            one(|c| c.l1 = 1.0),
            one(|c| c.l2 = 1.0),
            one(|c| c.fft = 1.0),
            one(|c| c.edge = 1.0),
            one(|c| c.amplitude = 1.0),
        ] {
            assert!(loss(config, &a, &a).abs() < 1e-9, "{config:?}");
            assert!(loss(config, &a, &b) > 1e-4, "{config:?}");
        }
    }

    /// A loss that rewards gradients wherever they lie taught a model to draw a grid; this one must punish it.
    #[test]
    fn amplitude_ignores_where_an_edge_lies_but_not_a_grid() {
        let options = (Kind::Float, Device::Cpu);
        let stripe = |at: i64| {
            let x = Tensor::zeros([1, 3, 32, 32], options);
            let _ = x.narrow(3, at, 2).fill_(1.0);
            x
        };
        let amplitude = LossConfig {
            amplitude: 1.0,
            ..Default::default()
        };
        assert!(loss(amplitude, &stripe(14), &stripe(19)) < 1e-5);
        let texture = Tensor::rand([1, 3, 32, 32], options);
        let grid = (Tensor::arange(32, options).remainder(4.0) - 1.5) * 0.1;
        let blurred = &texture * 0.5 + 0.25;
        assert!(loss(amplitude, &(&blurred + &grid), &texture) > loss(amplitude, &blurred, &texture));
    }
}
