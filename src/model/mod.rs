//! The OSDD model: eVAE, noise predictor, one step (Liu et al., arXiv 2503.06537).
//!
//! A model is cheap to build from tensors that exist: it holds references to them, so merging the adapters in place
//! changes the model too.

mod arithmetic;
mod cost;
mod decoder;
mod discriminator;
mod encoder;
mod evae;
mod scheduler;
mod unet;
mod unet_blocks;

use std::fmt::Arguments;

use tch::Tensor;

pub use arithmetic::Arithmetic;
pub use cost::{Operations, operations_per_pixel};
pub use discriminator::LatentDiscriminator;
use evae::Encoded;
pub use evae::{Evae, LatentEncoder};
pub use scheduler::{OneStep, alphas_cumprod};
use unet::Conditioning;
pub use unet::UNet2DConditionModel;

use crate::Result;
use crate::config::ModelConfig;
use crate::nn::{Init, Params, Shapes, channels_last};

/// Sees intermediate results, each under the name that its module has in diffusers.
pub type Observer<'a> = &'a mut dyn FnMut(Arguments, &Tensor);

/// What the model makes of a blurry image.
pub struct Restored {
    /// x̂_h, `[B, 3, H, W]` in [-1, 1], not clamped.
    pub image: Tensor,
    /// ẑ_h, `[B, c, H/f, W/f]`.
    pub latents: Tensor,
}

/// The parts of a pass, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Image to latents and skips.
    Encode,
    /// The UNet and its one step.
    Predict,
    /// Latents and skips to the image.
    Decode,
}

/// eVAE, UNet and learned prompt, joined by one step of diffusion.
pub struct OsddModel {
    pub vae: Evae,
    pub unet: UNet2DConditionModel,
    pub prompt: Tensor,
    /// Where the model is [folded](OsddModel::fold).
    conditioning: Option<Conditioning>,
    step: OneStep,
    timestep: usize,
    residual_output: bool,
}

impl OsddModel {
    /// Tensor names start with `vae.` and `unet.`; the prompt is `prompt.embedding`, `[1, tokens, dim]`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, config: &ModelConfig) -> Result<Self> {
        let unet = &config.unet;
        let prompt_shape = [1, config.prompt.tokens, unet.cross_attention_dim];
        Ok(OsddModel {
            vae: Evae::new(&p.pp("vae"), &config.vae)?,
            unet: UNet2DConditionModel::new(&p.pp("unet"), unet, config.vae.latent_channels)?,
            prompt: p
                .pp("prompt")
                .get("embedding", &prompt_shape, Init::Normal(0.02))?,
            conditioning: None,
            step: OneStep::new(&config.scheduler),
            timestep: config.scheduler.timestep,
            residual_output: config.vae.residual_output,
        })
    }

    fn conditioning(&self) -> Conditioning {
        self.unet.conditioning(self.timestep as f64, &self.prompt)
    }

    /// Keeps what the UNet's layers make of timestep and prompt, so that images do not make it anew: for inference. To be called again
    /// whenever the weights, or the prompt, have changed in place.
    pub fn fold(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let now = self.conditioning();
        match &self.conditioning {
            Some(kept) => kept.overwrite(&now),
            None => self.conditioning = Some(now),
        }
    }

    /// Keeps what `other`, of the same weights, keeps, and follows when that is [folded](Self::fold) again; nothing where it is not folded.
    pub fn share_fold(&mut self, other: &OsddModel) {
        self.conditioning = other.conditioning.as_ref().map(Conditioning::share);
    }

    /// Blurry image `[B, 3, H, W]` in [-1, 1] to its restoration, same shape and range but not clamped.
    ///
    /// H and W must be multiples of [`ModelConfig::size_multiple`]. The image may be more precise than the model's weights:
    /// a residual output is added to the image as it came, so that bf16 does not round away what the model leaves alone.
    pub fn forward(&self, x_l: &Tensor) -> Tensor {
        self.restore(x_l).image
    }

    /// As [`OsddModel::forward`], with the restored latents.
    pub fn restore(&self, x_l: &Tensor) -> Restored {
        self.restore_in_parts(x_l, &mut |_| ())
    }

    /// As [`OsddModel::forward`]; `done` is called after each part, which a GPU may still have in its queue then.
    pub fn forward_in_parts(&self, x_l: &Tensor, done: &mut dyn FnMut(Part)) -> Tensor {
        self.restore_in_parts(x_l, done).image
    }

    fn restore_in_parts(&self, x_l: &Tensor, done: &mut dyn FnMut(Part)) -> Restored {
        let encoded = self.encode(x_l);
        done(Part::Encode);
        let conditioning = match &self.conditioning {
            Some(kept) => kept,
            None => &self.conditioning(),
        };
        let noise = self
            .unet
            .conditioned(&encoded.latents, conditioning, &mut |_, _| ());
        let z_h = self.step.denoise(&encoded.latents, &noise);
        done(Part::Predict);
        let image = self.decode(&z_h, &encoded.skips, x_l);
        done(Part::Decode);
        Restored { image, latents: z_h }
    }

    fn encode(&self, x_l: &Tensor) -> Encoded {
        self.vae.encode(&channels_last(&x_l.to_kind(self.prompt.kind())))
    }

    /// Latents and skips to the image; `x_l` is the image that the skips come from.
    fn decode(&self, latents: &Tensor, skips: &[Tensor], x_l: &Tensor) -> Tensor {
        self.vae
            .decode(latents, skips, self.residual_output.then_some(x_l))
    }

    /// The eVAE alone, as stage 1 trains it: skips from the blurry image `x_l`, `latents` of the sharp one.
    pub fn reconstruct(&self, x_l: &Tensor, latents: &Tensor) -> Tensor {
        self.decode(latents, &self.encode(x_l).skips, x_l)
    }
}

/// Number of parameters of each part and of the whole: `(vae, unet, prompt)`.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn count_parameters(config: &ModelConfig) -> Result<(u64, u64, u64)> {
    let shapes = parameter_shapes(config)?;
    let sum = |prefix: &str| {
        let own = shapes.iter().filter(|(name, _)| name.starts_with(prefix));
        own.map(|(_, shape)| shape.iter().product::<i64>() as u64).sum()
    };
    Ok((sum("vae."), sum("unet."), sum("prompt.")))
}

/// Name and shape of every parameter of a model, without adapters.
///
/// # Errors
/// None in practice; libtorch may fail to make a view.
pub fn parameter_shapes(config: &ModelConfig) -> Result<std::collections::BTreeMap<String, Vec<i64>>> {
    let shapes = Shapes::default();
    OsddModel::new(&Params::new(&shapes), config)?;
    Ok(shapes.into_map())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::device;
    use crate::nn::Initializer;
    use crate::weights::{EndPoints, Keep, load_model};

    #[test]
    fn what_is_kept_from_image_to_image_follows_the_weights() {
        let _no_grad = tch::no_grad_guard();
        // With a time embedding and attention on a level, as Stable Diffusion has them.
        let mut config = load_model("nano").unwrap().config;
        config.unet.time_embed_dim = 16;
        config.unet.cross_attention[1] = true;
        let init = Initializer::new(4);
        let random = |p: &Params| OsddModel::new(p, &config).unwrap();
        random(&Params::new(&init));
        let tensors = init.into_tensors();
        for weight in tensors.values() {
            // Some start at zero.
            let _ = weight.shallow_clone().g_add_(&(weight.randn_like() * 0.05));
        }
        let [plain, mut kept, mut sharing] = [(); 3].map(|()| random(&Params::new(&tensors)));
        kept.fold();
        sharing.share_fold(&kept);
        let image = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
        let [expected, first] = [&plain, &sharing].map(|model| model.forward(&image));
        assert_eq!(first, expected);
        for part in ["attn2.to_k.weight", "attn2.to_v.weight", "time_emb_proj.weight"] {
            let moved = tensors.iter().filter(|(name, _)| name.ends_with(part));
            for (_, weight) in moved {
                let _ = weight.shallow_clone().g_mul_scalar_(-3.0);
            }
            let expected = plain.forward(&image);
            assert_ne!(sharing.forward(&image), expected, "{part}");
            kept.fold();
            assert_eq!(sharing.forward(&image), expected, "{part}");
        }
    }

    #[test]
    fn a_gpu_computes_what_the_cpu_does() {
        let Ok((_, gpu)) = device::resolve(device::Device::Cuda(0)) else {
            eprintln!("left out: there is no GPU");
            return;
        };
        device::exact_float32();
        let _no_grad = tch::no_grad_guard();
        let weights = load_model("nano").unwrap();
        let options = (Kind::Float, Device::Cpu);
        let [down, across] =
            [(256, 0.11), (320, 0.07)].map(|(side, step)| Tensor::arange(side, options) * step);
        let waves = (down.view([-1, 1]) + across.view([1, -1]) * &across).sin() * 0.8;
        let image = Tensor::stack(&[&waves, &(&waves * 0.5), &waves.flip([0])], 0).unsqueeze(0);
        let image = channels_last(&(&image + Tensor::rand_like(&image) * 0.1));
        let restored = |place: Device, kind: Kind| {
            let merged = EndPoints::new(&weights, place, kind, Keep::EndPoints)
                .unwrap()
                .merged(0.7)
                .unwrap();
            let model = OsddModel::new(&Params::new(merged.tensors()), &weights.config).unwrap();
            let restored = model.forward(&image.to_device(place));
            restored.to_kind(Kind::Float).to_device(Device::Cpu)
        };
        let expected = restored(Device::Cpu, Kind::Float);
        let error = restored(gpu, Kind::Float) - &expected;
        let relative = (error.norm() / expected.norm()).double_value(&[]);
        let error = restored(gpu, Kind::BFloat16) - &expected;
        // Of a range of two.
        let psnr = -10.0 * (error.square().mean(Kind::Double).double_value(&[]) / 4.0).log10();
        eprintln!("float32 differs by {relative:.1e}, bfloat16 by {psnr:.1} dB");
        assert!(relative < 1e-4 && psnr > 45.0, "{relative} {psnr}");
    }
}
