//! What a stage trains, what it leaves as it is, and how a batch goes through it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::{AdapterStart, Stage, TrainConfig, checkpoint};
use crate::config::{ModelConfig, VaeConfig};
use crate::model::{LatentEncoder, OsddModel};
use crate::nn::{Init, Initializer, Params, Shapes, TensorMap, channels_last};
use crate::weights::{Weights, load_safetensors, lora_shapes, merge_functional, save_safetensors};
use crate::{Error, Result};

/// First segment of the names of the encoder that sees sharp images in stage 1.
const LATENT_ENCODER: &str = "latent_encoder";

/// File of that encoder, beside the model's folder.
const LATENT_ENCODER_FILE: &str = "latent_encoder.safetensors";

/// A model on its way through a stage.
pub(super) struct Subject {
    stage: Stage,
    learn_prompt: bool,
    config: ModelConfig,
    /// What is trained, by name.
    pub parameters: TensorMap,
    /// The other weights of the model, without adapters.
    frozen: TensorMap,
    lora_r: Option<TensorMap>,
    lora_s: Option<TensorMap>,
    /// The encoder of sharp images that stage 1 left, for the discriminator.
    latent_encoder: Option<TensorMap>,
}

/// What a stage sends images through.
pub(super) struct Network {
    model: OsddModel,
    /// Stage 1 alone: the encoder of sharp images.
    encoder: Option<LatentEncoder>,
    kind: Kind,
}

/// What a batch came to.
pub(super) struct Passed {
    /// `[B, 3, H, W]` in [0, 1], not clamped, float32.
    pub image: Tensor,
    /// ẑ_h and the prompt; none in stage 1.
    pub latents: Option<(Tensor, Tensor)>,
}

impl Network {
    /// `blurry` and `sharp` `[B, 3, H, W]` in [0, 1]; only stage 1 looks at `sharp`.
    pub fn forward(&self, blurry: &Tensor, sharp: &Tensor) -> Passed {
        let signed = |x: &Tensor| x * 2.0 - 1.0;
        let unsigned = |x: &Tensor| (x.to_kind(Kind::Float) + 1.0) / 2.0;
        if let Some(encoder) = &self.encoder {
            let latents = encoder.latents(&signed(sharp).to_kind(self.kind));
            return Passed {
                image: unsigned(&self.model.reconstruct(&signed(blurry), &latents)),
                latents: None,
            };
        }
        let restored = self.model.restore(&signed(blurry));
        Passed {
            image: unsigned(&restored.image),
            latents: Some((restored.latents, self.model.prompt.shallow_clone())),
        }
    }
}

impl Subject {
    /// A subject, and the initial values of what is to be trained, for [`Subject::train`].
    ///
    /// # Errors
    /// An adapter stage without initial weights, or weights of another model.
    pub fn new(
        train: &TrainConfig,
        config: ModelConfig,
        init: Option<Weights>,
        latent_encoder: Option<&Path>,
        device: Device,
    ) -> Result<(Self, TensorMap)> {
        if let Some(weights) = &init {
            let kept = match train.stage {
                Stage::AdapterR => &weights.lora_s,
                Stage::AdapterS => &weights.lora_r,
                Stage::Base | Stage::Evae => &None,
            };
            let keeps_lora = kept.is_some() || train.start != AdapterStart::Fresh;
            check_same_model(&weights.config, &config, keeps_lora)?;
        }
        if train.stage.is_adapter() && init.is_none() {
            return Err(Error::Train(
                "an adapter stage needs weights to start from (--init MODEL)".into(),
            ));
        }
        let latent_encoder = latent_encoder.map(|path| read_latent_encoder(path, &config));
        let (base, lora_r, lora_s) = match init {
            // Adapters belong to the weights they were trained on; other stages than theirs move those.
            Some(weights) if train.stage.is_adapter() => (weights.base, weights.lora_r, weights.lora_s),
            Some(weights) => (weights.base, None, None),
            None => (initial_weights(&config, train.seed as u64)?, None, None),
        };
        let (parameters, frozen) = match train.stage {
            Stage::Base => (base, TensorMap::new()),
            Stage::Evae => split_evae(base, &config),
            Stage::AdapterR | Stage::AdapterS => {
                let missing =
                    |name| Error::Train(format!("start = {name}, but the initial weights have none"));
                let mut parameters = match train.start {
                    AdapterStart::Fresh => initial_adapter(&config, train.seed as u64)?,
                    AdapterStart::LoraR => shared(lora_r.as_ref().ok_or_else(|| missing("lora_r"))?),
                    AdapterStart::LoraS => shared(lora_s.as_ref().ok_or_else(|| missing("lora_s"))?),
                };
                let (prompt, frozen): (TensorMap, TensorMap) = base
                    .into_iter()
                    .partition(|(name, _)| train.learn_prompt && name.starts_with("prompt."));
                parameters.extend(prompt);
                (parameters, frozen)
            }
        };
        let place = |map: TensorMap| -> TensorMap {
            let moved = map
                .into_iter()
                .map(|(name, t)| (name, laid_out(&t.detach().to_device(device))));
            moved.collect()
        };
        let subject = Subject {
            stage: train.stage,
            learn_prompt: train.learn_prompt,
            config,
            parameters: TensorMap::new(),
            frozen: place(frozen),
            lora_r,
            lora_s,
            latent_encoder: latent_encoder.transpose()?.map(place),
        };
        Ok((subject, place(parameters)))
    }

    /// Takes what is trained, by name: views of the optimizer's values, which they follow.
    pub fn train(&mut self, parameters: TensorMap) {
        self.parameters = parameters;
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the leaves should be of where the network computes in `kind`: the same, unless adapters are merged first, in float32.
    pub fn leaf_kind(&self, kind: Kind) -> Kind {
        match self.stage {
            Stage::Base | Stage::Evae => kind,
            Stage::AdapterR | Stage::AdapterS => Kind::Float,
        }
    }

    /// The tensors of the whole model, without adapters of their own, for these values of what is trained.
    pub fn tensors(&self, trained: &TensorMap, kind: Kind) -> Result<TensorMap> {
        let all = match self.stage {
            Stage::Base | Stage::Evae => shared(self.frozen.iter().chain(trained)),
            Stage::AdapterR | Stage::AdapterS => {
                let prompt = trained.iter().filter(|(name, _)| name.starts_with("prompt."));
                let base = shared(self.frozen.iter().chain(prompt));
                merge_functional(&base, trained, &self.config)?
            }
        };
        Ok(match kind {
            Kind::Float => all,
            // Master weights stay in float32; the cast is part of the graph.
            _ => all.into_iter().map(|(name, t)| (name, t.to_kind(kind))).collect(),
        })
    }

    /// The stage's network with these values of what is trained, in the arithmetic of `kind`.
    pub fn network(&self, trained: &TensorMap, kind: Kind) -> Result<Network> {
        let tensors = self.tensors(trained, kind)?;
        // Stage 1 decodes latents of the sharp image: from an encoder of its own, or from the only one of a plain VAE.
        let encoder = match self.stage {
            Stage::Evae if self.config.vae.has_skip(0) => Some(LATENT_ENCODER),
            Stage::Evae => Some("vae"),
            _ => None,
        };
        let encoder =
            encoder.map(|name| LatentEncoder::new(&Params::new(&tensors).pp(name), &self.config.vae));
        Ok(Network {
            model: OsddModel::new(&Params::new(&tensors), &self.config)?,
            encoder: encoder.transpose()?,
            kind,
        })
    }

    /// z_h, the latents of sharp images `[B, 3, H, W]` in [0, 1], without a gradient.
    pub fn sharp_latents(&self, sharp: &Tensor, kind: Kind) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let signed = (sharp * 2.0 - 1.0).to_kind(kind);
        let cast = |map: &TensorMap| -> TensorMap {
            map.iter()
                .map(|(name, t)| (name.clone(), t.to_kind(kind)))
                .collect()
        };
        let encoder = match &self.latent_encoder {
            Some(tensors) => {
                LatentEncoder::new(&Params::new(&cast(tensors)).pp(LATENT_ENCODER), &self.config.vae)?
            }
            None => {
                let vae = self
                    .parameters
                    .iter()
                    .chain(&self.frozen)
                    .filter(|(name, _)| name.starts_with("vae."));
                LatentEncoder::new(&Params::new(&cast(&shared(vae))).pp("vae"), &self.config.vae)?
            }
        };
        Ok(encoder.latents(&signed))
    }

    /// Writes `model/` with these values of what is trained into `out`, and after stage 1 its second encoder beside it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, trained: &TensorMap, out: &Path) -> Result<PathBuf> {
        let (mut lora_r, mut lora_s) = (self.lora_r.as_ref().map(shared), self.lora_s.as_ref().map(shared));
        let base = match self.stage {
            Stage::Base => shared(trained),
            Stage::Evae => {
                let (second, own): (TensorMap, TensorMap) = shared(trained)
                    .into_iter()
                    .partition(|(name, _)| name.starts_with(LATENT_ENCODER));
                if !second.is_empty() {
                    std::fs::create_dir_all(out).map_err(|source| Error::Io {
                        path: out.to_owned(),
                        source,
                    })?;
                    save_safetensors(&out.join(LATENT_ENCODER_FILE), &second, None)?;
                }
                shared(self.frozen.iter().chain(&own))
            }
            Stage::AdapterR | Stage::AdapterS => {
                let (prompt, lora): (TensorMap, TensorMap) = shared(trained)
                    .into_iter()
                    .partition(|(name, _)| self.learn_prompt && name.starts_with("prompt."));
                match self.stage {
                    Stage::AdapterR => lora_r = Some(lora),
                    _ => lora_s = Some(lora),
                }
                shared(self.frozen.iter().chain(&prompt))
            }
        };
        let weights = Weights {
            config: self.config.clone(),
            base,
            lora_r,
            lora_s,
        };
        let dir = out.join("model");
        weights.save(&dir)?;
        Ok(dir)
    }

    /// Checksums of what a run depends on and does not change; empty sets are left out.
    pub fn fixed(&self) -> Result<BTreeMap<String, String>> {
        let sets = [
            ("frozen weights", Some(&self.frozen)),
            (
                "lora_r",
                self.lora_r.as_ref().filter(|_| self.stage == Stage::AdapterS),
            ),
            (
                "lora_s",
                self.lora_s.as_ref().filter(|_| self.stage == Stage::AdapterR),
            ),
            ("latent encoder", self.latent_encoder.as_ref()),
        ];
        let sets = sets.into_iter().filter_map(|(name, set)| Some((name, set?)));
        let sets = sets.filter(|(_, set)| !set.is_empty());
        sets.map(|(name, set)| Ok((name.to_owned(), checkpoint::checksum(set)?)))
            .collect()
    }

    /// The model's weights as they were at the start, for the discriminator to start from.
    pub fn base(&self) -> TensorMap {
        shared(self.frozen.iter().chain(&self.parameters))
    }
}

fn check_same_model(found: &ModelConfig, wanted: &ModelConfig, keeps_lora: bool) -> Result<()> {
    let mut fields = checkpoint::differing_fields(found, wanted);
    fields.retain(|field| field != "weights_dtype" && (keeps_lora || field != "lora"));
    if fields.is_empty() {
        return Ok(());
    }
    Err(Error::Train(format!(
        "the initial weights are of another model: {} differ",
        fields.join(", ")
    )))
}

/// Stage 1: what the loss reaches, and the rest. Of the first encoder that is what makes the features of the skips; the
/// second encoder starts as its copy.
fn split_evae(base: TensorMap, config: &ModelConfig) -> (TensorMap, TensorMap) {
    if !config.vae.has_skip(0) {
        return base.into_iter().partition(|(name, _)| name.starts_with("vae."));
    }
    let second: TensorMap = base
        .iter()
        .filter(|(name, _)| name.starts_with("vae.encoder.") || name.starts_with("vae.quant_conv."))
        .map(|(name, t)| (name.replacen("vae", LATENT_ENCODER, 1), t.shallow_clone()))
        .collect();
    let (mut trained, frozen): (TensorMap, TensorMap) = base
        .into_iter()
        .partition(|(name, _)| name.starts_with("vae.") && reaches_skips(name, &config.vae));
    trained.extend(second);
    (trained, frozen)
}

/// False for what follows the encoder's last features with a skip.
fn reaches_skips(name: &str, config: &VaeConfig) -> bool {
    if name.starts_with("vae.quant_conv.") {
        return false;
    }
    let Some(part) = name.strip_prefix("vae.encoder.") else {
        return true;
    };
    let Some(block) = part.strip_prefix("down_blocks.") else {
        return part.starts_with("conv_in.");
    };
    let level = block.split('.').next().and_then(|level| level.parse().ok());
    let level: usize = level.expect("a down block has a number");
    config.has_skip(level) && (!block.contains("downsamplers") || config.has_skip(level + 1))
}

fn read_latent_encoder(path: &Path, config: &ModelConfig) -> Result<TensorMap> {
    let shapes = Shapes::default();
    LatentEncoder::new(&Params::new(&shapes).pp(LATENT_ENCODER), &config.vae)?;
    load_safetensors(path, &shapes.into_map())
}

/// Random weights for every parameter of a model.
fn initial_weights(config: &ModelConfig, seed: u64) -> Result<TensorMap> {
    let init = Initializer::new(seed);
    OsddModel::new(&Params::new(&init), config)?;
    Ok(init.into_tensors())
}

/// An adapter that changes nothing yet: random A, zero B.
fn initial_adapter(config: &ModelConfig, seed: u64) -> Result<TensorMap> {
    let mut tensors = TensorMap::new();
    for (name, shape) in lora_shapes(config)? {
        let init = match name.ends_with("lora_A.weight") {
            true => Init::FanIn(shape[1..].iter().product()),
            false => Init::Zeros,
        };
        let tensor = init.values(seed, &name, &shape)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The same tensors under the same names.
fn shared<'a>(entries: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> TensorMap {
    let clones = entries
        .into_iter()
        .map(|(name, t)| (name.clone(), t.shallow_clone()));
    clones.collect()
}

fn laid_out(weight: &Tensor) -> Tensor {
    match weight.dim() {
        4 => channels_last(weight),
        _ => weight.shallow_clone(),
    }
}
