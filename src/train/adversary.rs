//! The adversarial term of stage 2 (paper, eq. 11 and 12): a discriminator of latents, which learns beside the model.

use tch::{Device, Kind, Tensor};

use super::optimizer::{Optimizer, clip};
use super::{AdversarialConfig, OptimizerKind};
use crate::Result;
use crate::config::ModelConfig;
use crate::model::LatentDiscriminator;
use crate::nn::{Init, Initializer, Params, Source, TensorMap};

/// A discriminator, its optimizer, and the prompt that it is shown.
pub(super) struct Adversary {
    config: AdversarialConfig,
    model: ModelConfig,
    parameters: TensorMap,
    optimizer: Optimizer,
    max_grad_norm: f64,
}

/// Initial values: the noise predictor's where it has a tensor of that name and shape, else random ones.
struct FromUnet<'a> {
    unet: &'a TensorMap,
    random: Initializer,
}

impl Source for FromUnet<'_> {
    fn fetch(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let fresh = self.random.fetch(name, shape, init)?;
        if let Some(known) = self
            .unet
            .get(&format!("unet.{name}"))
            .filter(|t| t.size() == shape)
        {
            let _no_grad = tch::no_grad_guard();
            fresh.shallow_clone().f_copy_(known)?;
        }
        Ok(fresh)
    }
}

impl Adversary {
    /// `base` holds the model's weights, from which the discriminator starts.
    ///
    /// # Errors
    /// None in practice; libtorch may fail to make a tensor.
    pub fn new(
        config: AdversarialConfig,
        model: &ModelConfig,
        base: &TensorMap,
        max_grad_norm: f64,
        device: Device,
    ) -> Result<Self> {
        let source = FromUnet {
            unet: base,
            random: Initializer::default(),
        };
        LatentDiscriminator::new(&Params::new(&source), &model.unet, model.vae.latent_channels)?;
        let made = source.random.into_tensors();
        let made = made.into_iter().map(|(name, t)| (name, t.to_device(device)));
        let optimizer = Optimizer::new(OptimizerKind::AdamW, 0.0, &made.collect())?;
        let views = optimizer.parameters().views().into_iter();
        Ok(Adversary {
            parameters: views.map(|(name, t)| (name, t.set_requires_grad(true))).collect(),
            optimizer,
            config,
            model: model.clone(),
            max_grad_norm,
        })
    }

    pub fn weight(&self) -> f64 {
        self.config.weight
    }

    fn logits(&self, latents: &Tensor, prompt: &Tensor) -> Result<Tensor> {
        let p = Params::new(&self.parameters);
        let network = LatentDiscriminator::new(&p, &self.model.unet, self.model.vae.latent_channels)?;
        Ok(network.forward(
            &latents.to_kind(Kind::Float),
            &prompt.detach().to_kind(Kind::Float),
        ))
    }

    /// L_G: how surely the restored latents are told from sharp ones.
    pub fn generator_loss(&self, restored: &Tensor, prompt: &Tensor) -> Result<Tensor> {
        Ok((-self.logits(restored, prompt)?).softplus().mean(Kind::Float))
    }

    /// One update of the discriminator; `step` counts from 1. Gives L_D.
    pub fn learn(&mut self, restored: &Tensor, sharp: &Tensor, prompt: &Tensor, step: u64) -> Result<Tensor> {
        let fake = self
            .logits(&restored.detach(), prompt)?
            .softplus()
            .mean(Kind::Float);
        let real = (-self.logits(&sharp.detach(), prompt)?)
            .softplus()
            .mean(Kind::Float);
        let loss = fake + real;
        let inputs: Vec<&Tensor> = self
            .optimizer
            .parameters()
            .slots()
            .iter()
            .map(|s| &self.parameters[&s.name])
            .collect();
        let gradients = Tensor::f_run_backward(&[&loss], &inputs, false, false)?;
        let mut gradient = self.optimizer.parameters().gather(&gradients);
        let norm = clip(&mut gradient, self.max_grad_norm).double_value(&[]);
        if norm.is_finite() {
            self.optimizer.step(&gradient, self.config.learning_rate, step)?;
        }
        Ok(loss.detach())
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }
}
