//! The asymmetric generalised Gaussian distribution, fitted by moment matching (Lasmar et al. 2009; NIQE, section II).

use tch::{Kind, Tensor};

/// Candidate shapes: 0.2 to 10 in steps of 0.001.
const SHAPES: i64 = 9801;

/// What the fit needs of every candidate shape a, in ascending order.
pub(super) struct AggdTable {
    shape: Vec<f64>,
    /// Γ(2/a)² / (Γ(1/a) Γ(3/a)), ascending: the square of a sample's mean magnitude by its mean square.
    ratio: Vec<f64>,
    /// sqrt(Γ(1/a) / Γ(3/a)), which makes a scale of a standard deviation.
    scale: Vec<f64>,
    /// Γ(2/a) / Γ(1/a), which makes the mean of the scales' difference.
    mean: Vec<f64>,
}

/// A fitted distribution. Everything but the shape is NaN where a side has no samples.
pub(super) struct Aggd {
    pub shape: f64,
    /// Scale of the negative side.
    pub left: f64,
    /// Scale of the positive side.
    pub right: f64,
    pub mean: f64,
}

impl AggdTable {
    pub(super) fn new() -> Self {
        // The candidates are single-precision numbers, as in pyiqa.
        let shapes: Vec<f64> = (0..SHAPES)
            .map(|i| (0.2 + 0.001 * i as f64) as f32 as f64)
            .collect();
        let shape = Tensor::from_slice(&shapes);
        let ln_gamma = |k: f64| (shape.reciprocal() * k).lgamma();
        let [one, two, three] = [ln_gamma(1.0), ln_gamma(2.0), ln_gamma(3.0)];
        let numbers =
            |logarithm: Tensor| Vec::try_from(logarithm.exp().to_kind(Kind::Double)).expect("one dimension");
        AggdTable {
            shape: shapes,
            ratio: numbers(&two * 2.0 - (&one + &three)),
            scale: numbers((&one - &three) / 2.0),
            mean: numbers(two - one),
        }
    }

    /// The distribution whose moments are those of `samples`.
    pub(super) fn fit(&self, samples: &[f64]) -> Aggd {
        let deviation = |side: &dyn Fn(f64) -> bool| {
            let (squares, count) = samples
                .iter()
                .filter(|x| side(**x))
                .fold((0.0, 0.0), |(squares, count), x| (squares + x * x, count + 1.0));
            (squares / count).sqrt()
        };
        let (left, right) = (deviation(&|x| x < 0.0), deviation(&|x| x > 0.0));
        let count = samples.len() as f64;
        let magnitude = samples.iter().map(|x| x.abs()).sum::<f64>() / count;
        let square = samples.iter().map(|x| x * x).sum::<f64>() / count;
        let sides = left / right;
        let skew = (sides.powi(3) + 1.0) * (sides + 1.0) / (sides * sides + 1.0).powi(2);
        let i = self.nearest(magnitude * magnitude / square * skew);
        let (left, right) = (left * self.scale[i], right * self.scale[i]);
        Aggd {
            shape: self.shape[i],
            left,
            right,
            mean: (right - left) * self.mean[i],
        }
    }

    /// The candidate whose ratio is nearest; the first where there is none (NaN).
    fn nearest(&self, ratio: f64) -> usize {
        let above = self
            .ratio
            .partition_point(|r| *r < ratio)
            .min(self.ratio.len() - 1);
        let below = above.saturating_sub(1);
        if (ratio - self.ratio[below]).abs() <= (self.ratio[above] - ratio).abs() {
            below
        } else {
            above
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of a Laplace distribution (shape 1) whose positive side is twice as wide.
    #[test]
    fn a_known_distribution_is_found_again() {
        let n = 20_000;
        let mut samples = Vec::new();
        for i in 0..n {
            let quantile = -(1.0 - (i as f64 + 0.5) / n as f64).ln();
            // Sides are as heavy as they are wide, so that the density has no step at zero.
            samples.push(2.0 * quantile);
            if i % 2 == 0 {
                samples.push(-quantile);
            }
        }
        let fit = AggdTable::new().fit(&samples);
        assert!((fit.shape - 1.0).abs() < 0.02, "{}", fit.shape);
        assert!((fit.left - 1.0).abs() < 0.02 && (fit.right - 2.0).abs() < 0.03);
        assert!((fit.mean - 1.0).abs() < 0.03, "{}", fit.mean);
    }

    #[test]
    fn one_sided_samples_have_no_fit() {
        let fit = AggdTable::new().fit(&[1.0, 2.0, 3.0]);
        assert!(fit.left.is_nan() && fit.mean.is_nan());
        assert!((fit.shape - 0.2).abs() < 1e-6);
    }
}
