//! Losses that need no network of their own.

use tch::{Kind, Reduction, Tensor};

use super::LossConfig;

/// The weighted sum of the terms that a configuration asks for.
pub struct Losses {
    config: LossConfig,
    /// Sobel filters for the horizontal and the vertical gradient, `[2, 1, 3, 3]`.
    sobel: Tensor,
}

/// The total, to be differentiated, and its terms by name, for the log.
pub struct LossTerms {
    pub total: Tensor,
    pub terms: Vec<(&'static str, f64)>,
}

impl Losses {
    pub fn new(config: LossConfig) -> Self {
        #[rustfmt::skip]
        let filters = [
            -1.0f32, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0,
            -1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0,
        ];
        Losses {
            config,
            sobel: Tensor::from_slice(&filters).view([2, 1, 3, 3]) / 8.0,
        }
    }

    /// `output` and `truth` `[B, 3, H, W]` in [0, 1].
    pub fn compute(&self, output: &Tensor, truth: &Tensor) -> LossTerms {
        let c = &self.config;
        let mut total = Tensor::zeros([], (Kind::Float, output.device()));
        let mut terms = Vec::new();
        let mut add = |name, weight: f64, term: &dyn Fn() -> Tensor| {
            if weight > 0.0 {
                let term = term();
                terms.push((name, term.detach().double_value(&[])));
                total += term * weight;
            }
        };
        add("l1", c.l1, &|| output.l1_loss(truth, Reduction::Mean));
        add("l2", c.l2, &|| output.mse_loss(truth, Reduction::Mean));
        add("fft", c.fft, &|| {
            let spectrum = (output - truth).fft_rfft2(None::<&[i64]>, [-2, -1], "ortho");
            spectrum.view_as_real().abs().mean(Kind::Float)
        });
        if c.edge > 0.0 || c.detail > 0.0 {
            let (a, b) = (self.gradient(output), self.gradient(truth));
            add("edge", c.edge, &|| a.l1_loss(&b, Reduction::Mean));
            add("detail", c.detail, &|| {
                local_magnitude(&a).l1_loss(&local_magnitude(&b), Reduction::Mean)
            });
        }
        LossTerms { total, terms }
    }

    /// Gradient of the grey image (BT.601 weights), `[B, 2, H-2, W-2]`, per pixel.
    fn gradient(&self, x: &Tensor) -> Tensor {
        let weights = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).view([1, 3, 1, 1]);
        let grey = (x * weights.to_device(x.device())).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        let sobel = self.sobel.to_device(x.device());
        grey.conv2d(&sobel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)
    }
}

/// Mean gradient magnitude over 8x8 pixels, every four pixels.
fn local_magnitude(gradient: &Tensor) -> Tensor {
    let squares = gradient
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    (squares + 1e-6)
        .sqrt()
        .avg_pool2d([8, 8], [4, 4], [0, 0], false, true, None::<i64>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn loss(config: LossConfig, a: &Tensor, b: &Tensor) -> f64 {
        Losses::new(config).compute(a, b).total.double_value(&[])
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
            one(|c| c.detail = 1.0),
        ] {
            assert!(loss(config, &a, &a).abs() < 1e-9, "{config:?}");
            assert!(loss(config, &a, &b) > 1e-4, "{config:?}");
        }
    }

    #[test]
    fn detail_ignores_where_an_edge_lies_and_edge_does_not() {
        let stripe = |at: i64| {
            let x = Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu));
            let _ = x.narrow(3, at, 1).fill_(1.0);
            x
        };
        let detail = LossConfig {
            detail: 1.0,
            ..Default::default()
        };
        let edge = LossConfig {
            edge: 1.0,
            ..Default::default()
        };
        let moved = loss(detail, &stripe(14), &stripe(15)) / loss(detail, &stripe(14), &stripe(28));
        let moved_edge = loss(edge, &stripe(14), &stripe(15)) / loss(edge, &stripe(14), &stripe(28));
        assert!(moved < 0.7 * moved_edge, "{moved} against {moved_edge}");
    }
}
