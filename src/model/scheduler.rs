//! The one step of diffusion (paper, eq. 8) on Stable Diffusion's schedule.

use tch::Tensor;

use crate::config::{PredictionType, SchedulerConfig};

/// `ẑ_h` from `z_t` and the UNet's output at one fixed timestep t: `(z_t - sqrt(1 - ᾱ_t) ε̂) / sqrt(ᾱ_t)` where it
/// predicts the noise, `sqrt(ᾱ_t) z_t - sqrt(1 - ᾱ_t) v̂` where it predicts the velocity.
pub struct OneStep {
    sqrt_alpha: f64,
    sqrt_one_minus_alpha: f64,
    prediction_type: PredictionType,
}

impl OneStep {
    pub fn new(config: &SchedulerConfig) -> Self {
        let alpha = alphas_cumprod(config)[config.timestep];
        OneStep {
            sqrt_alpha: alpha.sqrt(),
            sqrt_one_minus_alpha: (1.0 - alpha).sqrt(),
            prediction_type: config.prediction_type,
        }
    }

    /// `z_t` and `prediction` `[B, c, h, w]`; the result is computed in float32 at least and has the dtype of `z_t`.
    pub fn denoise(&self, z_t: &Tensor, prediction: &Tensor) -> Tensor {
        let kind = z_t.kind();
        let wide = match kind {
            tch::Kind::Half | tch::Kind::BFloat16 => tch::Kind::Float,
            other => other,
        };
        let z_t = z_t.to_kind(wide);
        let removed = prediction.to_kind(wide) * self.sqrt_one_minus_alpha;
        let z_h = match self.prediction_type {
            PredictionType::Epsilon => (z_t - removed) / self.sqrt_alpha,
            PredictionType::VPrediction => z_t * self.sqrt_alpha - removed,
        };
        z_h.to_kind(kind)
    }
}

/// ᾱ_t for every timestep: betas are linear in their square roots ("scaled linear").
pub fn alphas_cumprod(config: &SchedulerConfig) -> Vec<f64> {
    let (start, end) = (config.beta_start.sqrt(), config.beta_end.sqrt());
    let last = (config.num_train_timesteps.max(2) - 1) as f64;
    (0..config.num_train_timesteps)
        .scan(1.0, |product, t| {
            let beta = (start + (end - start) * t as f64 / last).powi(2);
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}
