//! The one step of diffusion (paper, eq. 8) on Stable Diffusion's schedule.

use tch::Tensor;

use crate::config::SchedulerConfig;

/// `ẑ_h = (z_t - sqrt(1 - ᾱ_t) ε̂) / sqrt(ᾱ_t)` at one fixed timestep t.
pub struct OneStep {
    sqrt_alpha: f64,
    sqrt_one_minus_alpha: f64,
}

impl OneStep {
    pub fn new(config: &SchedulerConfig) -> Self {
        let alpha = alphas_cumprod(config)[config.timestep];
        OneStep {
            sqrt_alpha: alpha.sqrt(),
            sqrt_one_minus_alpha: (1.0 - alpha).sqrt(),
        }
    }

    /// `z_t` and `noise` `[B, c, h, w]`; the result is computed in float32 at least and has the dtype of `z_t`.
    pub fn denoise(&self, z_t: &Tensor, noise: &Tensor) -> Tensor {
        let kind = z_t.kind();
        let wide = match kind {
            tch::Kind::Half | tch::Kind::BFloat16 => tch::Kind::Float,
            other => other,
        };
        let noise = noise.to_kind(wide) * self.sqrt_one_minus_alpha;
        ((z_t.to_kind(wide) - noise) / self.sqrt_alpha).to_kind(kind)
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
