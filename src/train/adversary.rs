//! The adversarial term of stage 2 (paper, eq. 11 and 12): a discriminator of latents, which learns beside the model.

use tch::{Device, Kind, Tensor};

use super::flat::Flat;
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
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let source = FromUnet {
            unet: base,
            random: Initializer::new(seed),
        };
        LatentDiscriminator::new(&Params::new(&source), &model.unet, model.vae.latent_channels)?;
        let made = source.random.into_tensors();
        let made = made.into_iter().map(|(name, t)| (name, t.to_device(device)));
        let optimizer = Optimizer::new(OptimizerKind::AdamW, Kind::Float, 0.0, &made.collect())?;
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

    /// L_D of a batch, and its flat gradient for [`Adversary::learn`].
    pub fn discriminate(
        &self,
        restored: &Tensor,
        sharp: &Tensor,
        prompt: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let fake = self
            .logits(&restored.detach(), prompt)?
            .softplus()
            .mean(Kind::Float);
        let real = (-self.logits(&sharp.detach(), prompt)?)
            .softplus()
            .mean(Kind::Float);
        let loss = fake + real;
        let slots = self.optimizer.parameters().slots().iter();
        let inputs: Vec<&Tensor> = slots.map(|slot| &self.parameters[&slot.name]).collect();
        let gradients = Tensor::f_run_backward(&[&loss], &inputs, false, false)?;
        Ok((loss.detach(), Flat::gather(&gradients)))
    }

    /// One update. A gradient that is not finite counts as zero, without waiting for the device to know.
    pub fn learn(&mut self, mut gradient: Tensor) -> Result<()> {
        let _norm = clip(&mut gradient, self.max_grad_norm);
        let gradient = gradient.nan_to_num(0.0, 0.0, 0.0);
        self.optimizer.step(&gradient, self.config.learning_rate)
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adversary() -> Adversary {
        let json = include_str!("../../tests/fixtures/small_model.json");
        let model = ModelConfig::from_json(json, "small_model").unwrap();
        let config = AdversarialConfig {
            weight: 1.0,
            learning_rate: 1e-3,
        };
        Adversary::new(config, &model, &TensorMap::new(), 1.0, 3, Device::Cpu).unwrap()
    }

    /// Latents of two kinds: stripes, and the same with less contrast.
    fn latents() -> (Tensor, Tensor) {
        let stripes = (Tensor::arange(16, (Kind::Float, Device::Cpu)) * 1.5).sin();
        let sharp = stripes
            .view([1, 1, 1, 16])
            .expand([2, 4, 16, 16], false)
            .contiguous();
        (&sharp * 0.2, sharp)
    }

    #[test]
    fn the_discriminator_learns_to_tell_and_the_generator_to_please_it() {
        let mut adversary = adversary();
        let prompt = Tensor::zeros([1, 2, 8], (Kind::Float, Device::Cpu));
        let (blurry, sharp) = latents();
        for _ in 0..150 {
            let (_, gradient) = adversary.discriminate(&blurry, &sharp, &prompt).unwrap();
            adversary.learn(gradient).unwrap();
        }
        let judged = |x: &Tensor| {
            adversary
                .logits(x, &prompt)
                .unwrap()
                .mean(Kind::Double)
                .double_value(&[])
        };
        assert!(
            judged(&sharp) > 1.0 && judged(&blurry) < -1.0,
            "{} {}",
            judged(&sharp),
            judged(&blurry)
        );
        let restored = blurry.copy().set_requires_grad(true);
        let loss = adversary.generator_loss(&restored, &prompt).unwrap();
        let gradient = Tensor::run_backward(&[loss], &[&restored], false, false).remove(0);
        let better = restored.detach() - &gradient * (0.5 / gradient.abs().max().double_value(&[]));
        assert!(judged(&better) > judged(&blurry));
    }

    #[test]
    fn what_is_not_finite_teaches_nothing() {
        let mut adversary = adversary();
        let before = adversary.optimizer.parameters().copy();
        let poison = before.buffer() * f64::NAN;
        adversary.learn(poison).unwrap();
        assert_eq!(adversary.optimizer.parameters().buffer(), before.buffer());
    }
}
