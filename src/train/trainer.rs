//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::Tensor;

use super::checkpoint::{self, Groups, State};
use super::optimizer::{Optimizer, clip_gradients};
use super::{Losses, PhaseConfig, Score, Stage, TrainConfig, ValidationSet};
use crate::config::ModelConfig;
use crate::data::{Batch, Loader, Sources};
use crate::model::OsddModel;
use crate::nn::{Initializer, Params, TensorMap, channels_last};
use crate::weights::{Weights, lora_shapes, merge_functional};
use crate::{Error, Result};

/// Consecutive iterations without finite gradients after which a run stops.
const MAX_BAD_STEPS: u32 = 10;

/// One training run.
pub struct Trainer {
    config: TrainConfig,
    model_config: ModelConfig,
    /// Weights that stay as they are: all of them in an adapter stage, none in the base stage.
    frozen: TensorMap,
    /// Adapters that this run does not train, carried through to the saved model.
    other: Option<Weights>,
    /// What is trained, by name.
    parameters: TensorMap,
    ema: TensorMap,
    optimizer: Optimizer,
    losses: Losses,
    sources: Arc<Sources>,
    iteration: u64,
    next_sample: u64,
    bad_steps: u32,
}

/// What one iteration did.
pub struct Progress {
    /// Iterations done so far.
    pub iteration: u64,
    pub learning_rate: f64,
    pub grad_norm: f64,
    pub total: f64,
    pub terms: Vec<(&'static str, f64)>,
    /// The step was left out because loss or gradients were not finite.
    pub skipped: bool,
}

/// What the caller wants after an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    Stop,
}

impl Trainer {
    /// A new run. The base stage starts from `init`, or from random weights; an adapter stage needs `init`.
    ///
    /// # Errors
    /// An adapter stage without weights, or weights of another configuration.
    pub fn new(
        config: TrainConfig,
        model_config: ModelConfig,
        init: Option<Weights>,
        sources: Arc<Sources>,
    ) -> Result<Self> {
        tch::manual_seed(config.seed);
        if let Some(weights) = &init {
            let fields = checkpoint::differing_fields(&weights.config, &model_config);
            if fields
                .iter()
                .any(|field| field != "lora" && field != "weights_dtype")
            {
                return Err(Error::Train(format!(
                    "the initial weights are of another model: {} differ",
                    fields.join(", ")
                )));
            }
        }
        let (parameters, frozen) = match config.stage {
            Stage::Base => {
                let start = match &init {
                    Some(weights) => copies(&weights.base),
                    None => initial_weights(&model_config)?,
                };
                (start, TensorMap::new())
            }
            Stage::AdapterR | Stage::AdapterS => {
                let weights = init
                    .as_ref()
                    .ok_or_else(|| Error::Train("an adapter stage needs weights to start from".into()))?;
                (initial_adapter(&model_config)?, copies(&weights.base))
            }
        };
        let parameters: TensorMap = parameters
            .into_iter()
            .map(|(name, t)| (name, channels_last_weight(&t).set_requires_grad(true)))
            .collect();
        Ok(Trainer {
            optimizer: Optimizer::new(config.optimizer, config.weight_decay, &parameters),
            ema: copies(&parameters),
            losses: Losses::new(config.loss),
            parameters,
            frozen,
            other: init,
            config,
            model_config,
            sources,
            iteration: 0,
            next_sample: 0,
            bad_steps: 0,
        })
    }

    /// Takes up where a checkpoint left off.
    ///
    /// # Errors
    /// A broken file, or one from another configuration (the error names the fields that differ).
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let (state, groups) = checkpoint::load(path)?;
        let mut fields = checkpoint::differing_fields(&state.train, &self.config);
        fields.retain(|field| field != "validation");
        fields.extend(checkpoint::differing_fields(&state.model, &self.model_config));
        if !fields.is_empty() {
            return Err(Error::Train(format!(
                "{} is from another configuration: {} differ",
                path.display(),
                fields.join(", ")
            )));
        }
        let _no_grad = tch::no_grad_guard();
        for (group, own) in [("parameter", &self.parameters), ("ema", &self.ema)] {
            let stored = &groups[group];
            for (name, tensor) in own {
                let source = Params::new(stored);
                let value = source.get(name, &tensor.size(), crate::nn::Init::Zeros)?;
                tensor.shallow_clone().f_copy_(&value)?;
            }
        }
        self.optimizer.load_state(&groups["optimizer"])?;
        self.iteration = state.iteration;
        self.next_sample = state.next_sample;
        Ok(())
    }

    /// Writes everything [`Trainer::resume`] needs.
    ///
    /// # Errors
    /// A file that cannot be written; the old one is then intact.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let state = State {
            iteration: self.iteration,
            next_sample: self.next_sample,
            train: self.config.clone(),
            model: self.model_config.clone(),
        };
        let groups = Groups::from([
            ("parameter", copies(&self.parameters)),
            ("ema", copies(&self.ema)),
            ("optimizer", self.optimizer.state()),
        ]);
        checkpoint::save(path, &state, &groups)
    }

    /// Writes the averaged weights as a model folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_model(&self, dir: &Path) -> Result<PathBuf> {
        let (mut lora_r, mut lora_s) = match &self.other {
            Some(weights) => (
                weights.lora_r.as_ref().map(copies),
                weights.lora_s.as_ref().map(copies),
            ),
            None => (None, None),
        };
        let base = match self.config.stage {
            Stage::Base => copies(&self.ema),
            Stage::AdapterR => {
                lora_r = Some(copies(&self.ema));
                copies(&self.frozen)
            }
            Stage::AdapterS => {
                lora_s = Some(copies(&self.ema));
                copies(&self.frozen)
            }
        };
        let weights = Weights {
            config: self.model_config.clone(),
            base,
            lora_r,
            lora_s,
        };
        weights.save(dir)?;
        Ok(dir.join("model.safetensors"))
    }

    /// The model's tensors with the averaged weights, for validation.
    ///
    /// # Errors
    /// None in practice.
    pub fn averaged_tensors(&self) -> Result<TensorMap> {
        self.effective(&self.ema)
    }

    /// Scores the averaged weights on every set.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn validate(&self, sets: &[ValidationSet]) -> Result<Vec<Score>> {
        let tensors = self.averaged_tensors()?;
        sets.iter()
            .map(|set| set.score(&tensors, &self.model_config))
            .collect()
    }

    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Runs until the last phase is done or `after` says stop; `threads` make the samples.
    ///
    /// # Errors
    /// Sources that cannot serve the mix, or ten steps in a row without finite gradients.
    pub fn run(
        &mut self,
        threads: usize,
        after: &mut dyn FnMut(&Trainer, &Progress) -> Result<Verdict>,
    ) -> Result<()> {
        let mut end = 0;
        for phase in self.config.phases.clone() {
            end += phase.iterations;
            if self.iteration >= end {
                continue;
            }
            let mut loader = self.loader(phase, threads)?;
            while self.iteration < end {
                let batch = loader.next_batch()?;
                let progress = self.step(&batch, phase)?;
                self.next_sample = loader.next_index();
                if after(self, &progress)? == Verdict::Stop {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn loader(&self, phase: PhaseConfig, threads: usize) -> Result<Loader> {
        let mix = crate::data::MixConfig {
            crop_size: phase.crop_size,
            ..self.config.mix.clone()
        };
        let sources = self.sources.clone();
        Ok(Loader::new(
            sources,
            mix,
            phase.batch_size,
            threads,
            self.next_sample,
        )?)
    }

    /// The model's tensors for these values of what is trained.
    fn effective(&self, trained: &TensorMap) -> Result<TensorMap> {
        match self.config.stage {
            Stage::Base => Ok(trained
                .iter()
                .map(|(k, v)| (k.clone(), v.shallow_clone()))
                .collect()),
            _ => merge_functional(&self.frozen, trained, &self.model_config),
        }
    }

    /// One iteration: forward, loss, backward, update, average.
    fn step(&mut self, batch: &Batch, phase: PhaseConfig) -> Result<Progress> {
        let learning_rate = self.config.learning_rate_at(self.iteration);
        let (blurry, sharp) = (to_tensor(&batch.blurry, phase), to_tensor(&batch.sharp, phase));

        let tensors = self.effective(&self.parameters)?;
        let model = OsddModel::new(&Params::new(&tensors), &self.model_config)?;
        let output = (model.forward(&(blurry * 2.0 - 1.0)) + 1.0) / 2.0;
        let loss = self.losses.compute(&output, &sharp);

        let inputs: Vec<&Tensor> = self.parameters.values().collect();
        let mut gradients = Tensor::f_run_backward(&[&loss.total], &inputs, false, false)?;
        let grad_norm = clip_gradients(&mut gradients, self.config.max_grad_norm);
        let total = loss.total.double_value(&[]);

        self.iteration += 1;
        let skipped = !grad_norm.is_finite() || !total.is_finite();
        if skipped {
            self.bad_steps += 1;
            if self.bad_steps >= MAX_BAD_STEPS {
                return Err(Error::Train(format!(
                    "{MAX_BAD_STEPS} steps in a row had no finite gradients (iteration {})",
                    self.iteration
                )));
            }
        } else {
            self.bad_steps = 0;
            let (parameters, iteration) = (&self.parameters, self.iteration);
            self.optimizer
                .step(parameters, &gradients, learning_rate, iteration)?;
            self.average()?;
        }
        Ok(Progress {
            iteration: self.iteration,
            learning_rate,
            grad_norm,
            total,
            terms: loss.terms,
            skipped,
        })
    }

    /// Moves the average towards the parameters, faster at the start so that it forgets the first values.
    fn average(&mut self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let decay = self
            .config
            .ema_decay
            .min((1.0 + self.iteration as f64) / (10.0 + self.iteration as f64));
        for (name, average) in &mut self.ema {
            let _ = average.f_lerp_(&self.parameters[name], 1.0 - decay)?;
        }
        Ok(())
    }
}

/// Random weights for every parameter of a model.
fn initial_weights(config: &ModelConfig) -> Result<TensorMap> {
    let init = Initializer::default();
    OsddModel::new(&Params::new(&init), config)?;
    Ok(init.into_tensors())
}

/// An adapter that changes nothing yet: random A, zero B.
fn initial_adapter(config: &ModelConfig) -> Result<TensorMap> {
    let options = (tch::Kind::Float, tch::Device::Cpu);
    let mut tensors = TensorMap::new();
    for (name, shape) in lora_shapes(config)? {
        let tensor = if name.ends_with("lora_A.weight") {
            let fan_in: i64 = shape[1..].iter().product();
            let bound = 1.0 / (fan_in as f64).sqrt();
            Tensor::f_empty(&shape, options)?.f_uniform_(-bound, bound)?
        } else {
            Tensor::f_zeros(&shape, options)?
        };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn copies(map: &TensorMap) -> TensorMap {
    map.iter().map(|(k, v)| (k.clone(), v.detach().copy())).collect()
}

fn channels_last_weight(weight: &Tensor) -> Tensor {
    match weight.dim() {
        4 => channels_last(weight),
        _ => weight.shallow_clone(),
    }
}

fn to_tensor(values: &[f32], phase: PhaseConfig) -> Tensor {
    let (batch, size) = (phase.batch_size as i64, phase.crop_size as i64);
    Tensor::from_slice(values).view([batch, 3, size, size])
}
