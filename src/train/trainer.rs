//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tch::{Kind, Tensor};

use super::adversary::Adversary;
use super::checkpoint::{self, Groups, State};
use super::differentiate::{Differentiated, in_shares};
use super::echo::{self, Echo, Lesson};
use super::feed::Feed;
use super::flat::Flat;
use super::loss::Losses;
use super::optimizer::{Optimizer, clip};
use super::subject::Subject;
use super::teacher::Teacher;
use super::validate::Restorer;
use super::{PhaseConfig, Score, TrainConfig, ValidationSet};
use crate::config::ModelConfig;
use crate::data::{Image8, Loader, MixConfig, Sources};
use crate::device::{self, Device, Precision};
use crate::memory;
use crate::nn::TensorMap;
use crate::weights::Weights;
use crate::{Error, Result};

/// Consecutive iterations without finite gradients after which a run stops.
const MAX_BAD_STEPS: u32 = 10;

/// Where a run computes and what it starts from, beside its configurations.
#[derive(Default)]
pub struct Setup {
    pub device: Device,
    /// Arithmetic of the forward pass; master weights, losses and optimizer are always float32.
    pub precision: Precision,
    /// Weights to start from; an adapter stage needs them.
    pub init: Option<Weights>,
    /// The encoder of sharp images that stage `evae` wrote, for the adversarial term; without it the model's own serves.
    pub latent_encoder: Option<PathBuf>,
    /// Model that the loss term `teacher` compares with.
    pub teacher: Option<Weights>,
    /// Folder with the weights of the perceptual networks.
    pub metrics: PathBuf,
}

/// One training run.
pub struct Trainer {
    config: TrainConfig,
    subject: Subject,
    /// Moving average of the parameters.
    ema: Flat,
    optimizer: Optimizer,
    losses: Losses,
    adversary: Option<Adversary>,
    teacher: Option<Teacher>,
    sources: Arc<Sources>,
    device: tch::Device,
    kind: Kind,
    /// Threads of the caller, for what is not cut into shares.
    threads: i32,
    iteration: u64,
    next_sample: u64,
    bad_steps: u32,
    /// What the run depends on and does not change, for checkpoints.
    fixed: BTreeMap<String, String>,
}

/// What one iteration did.
pub struct Progress {
    /// Iterations done so far.
    pub iteration: u64,
    pub learning_rate: f64,
    pub grad_norm: f64,
    pub total: f64,
    pub terms: Vec<(&'static str, f64)>,
    /// Crops it saw.
    pub images: u64,
    /// Time it waited for them.
    pub waited: Duration,
    /// The step was left out because loss or gradients were not finite.
    pub skipped: bool,
}

/// What the caller wants after an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    Stop,
}

/// Whether every phase can be served, before the first one begins.
fn check_data(config: &TrainConfig, model: &ModelConfig, sources: &Sources) -> Result<()> {
    let factor = model.latent_factor();
    for phase in &config.phases {
        if !phase.crop_size.is_multiple_of(factor) {
            return Err(Error::Train(format!(
                "crop_size = {} in a phase, but the model needs a multiple of {factor}",
                phase.crop_size
            )));
        }
        let mix = MixConfig {
            crop_size: phase.crop_size,
            ..config.mix.clone()
        };
        mix.check_sources(sources)?;
    }
    Ok(())
}

/// The teacher, which has to be there exactly where the loss asks for it.
fn teacher(
    config: &TrainConfig,
    weights: Option<&Weights>,
    (device, torch_device): (Device, tch::Device),
    precision: Precision,
) -> Result<Option<Teacher>> {
    let wanted = config.loss.teacher > 0.0;
    match weights {
        Some(weights) if wanted => {
            let teacher = Teacher::new(weights, device, torch_device, precision)?;
            let mut phases = config.phases.iter();
            phases.try_for_each(|phase| teacher.check(phase.crop_size))?;
            Ok(Some(teacher))
        }
        None if !wanted => Ok(None),
        Some(_) => Err(Error::Train(
            "there is a teacher, but loss.teacher has no weight above 0".into(),
        )),
        None => Err(Error::Train(
            "loss.teacher needs a model to compare with (--teacher MODEL)".into(),
        )),
    }
}

impl Trainer {
    /// A new run. It starts from the setup's weights, or from random ones.
    ///
    /// # Errors
    /// An adapter stage without weights, weights of another configuration, a device or a network that is not there.
    pub fn new(config: TrainConfig, model: ModelConfig, sources: Arc<Sources>, setup: Setup) -> Result<Self> {
        check_data(&config, &model, &sources)?;
        let (named, device) = device::resolve(setup.device)?;
        memory::keep_freed(device);
        let (_, kind) = setup.precision.resolve(named)?;
        if kind == Kind::Half {
            return Err(Error::Train(
                "fp16 overflows in training; use bf16 or fp32".into(),
            ));
        }
        let (mut subject, initial) = Subject::new(
            &config,
            model,
            setup.init,
            setup.latent_encoder.as_deref(),
            device,
        )?;
        let optimizer = Optimizer::new(config.optimizer, kind, config.weight_decay, &initial)?;
        subject.train(optimizer.parameters().views());
        let adversary = config.loss.adversarial.map(|adversarial| {
            Adversary::new(
                adversarial,
                subject.config(),
                &subject.base(),
                config.max_grad_norm,
                config.seed as u64,
                device,
            )
        });
        let teacher = teacher(&config, setup.teacher.as_ref(), (named, device), setup.precision)?;
        let mut fixed = subject.fixed()?;
        if let Some(weights) = &setup.teacher {
            // As they are, whatever this machine makes of them.
            let weights = [Some(&weights.base), weights.lora_r.as_ref()];
            let sums = weights.into_iter().flatten().map(checkpoint::checksum);
            fixed.insert("teacher".into(), sums.collect::<Result<Vec<_>>>()?.join(" "));
        }
        Ok(Trainer {
            fixed,
            teacher,
            ema: optimizer.parameters().copy(),
            optimizer,
            losses: Losses::new(config.loss, &setup.metrics, device)?,
            adversary: adversary.transpose()?,
            subject,
            config,
            sources,
            device,
            kind,
            threads: tch::get_num_threads(),
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
        fields.extend(checkpoint::differing_fields(&state.model, self.subject.config()));
        if !fields.is_empty() {
            return Err(Error::Train(format!(
                "{} is from another configuration: {} differ",
                path.display(),
                fields.join(", ")
            )));
        }
        let changed = |(name, sum): &(&String, &String)| self.fixed.get(*name) != Some(sum);
        let changed: Vec<&str> = state
            .fixed
            .iter()
            .filter(changed)
            .map(|(name, _)| name.as_str())
            .collect();
        if !changed.is_empty() {
            return Err(Error::Train(format!(
                "{} was made with other settings on the command line: {} differ",
                path.display(),
                changed.join(", ")
            )));
        }
        let group = |name| checkpoint::group(&groups, name);
        self.optimizer.load_parameters(&group("parameter"))?;
        self.optimizer
            .load_state(&group("optimizer"), state.optimizer_steps)?;
        self.ema.load(&group("ema"))?;
        if let Some(adversary) = &mut self.adversary {
            let optimizer = adversary.optimizer_mut();
            optimizer.load_parameters(&group("discriminator"))?;
            optimizer.load_state(&group("discriminator_optimizer"), state.discriminator_steps)?;
        }
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
            optimizer_steps: self.optimizer.steps(),
            discriminator_steps: self.adversary.as_ref().map_or(0, |a| a.optimizer().steps()),
            fixed: self.fixed.clone(),
            train: self.config.clone(),
            model: self.subject.config().clone(),
        };
        let mut groups = Groups::from([
            ("parameter".into(), self.optimizer.parameters().views()),
            ("ema".into(), self.ema.views()),
            ("optimizer".into(), self.optimizer.state()),
        ]);
        if let Some(adversary) = &self.adversary {
            let optimizer = adversary.optimizer();
            groups.insert("discriminator".into(), optimizer.parameters().views());
            groups.insert("discriminator_optimizer".into(), optimizer.state());
        }
        checkpoint::save(path, &state, &groups)
    }

    /// Writes the averaged weights as a model folder `model` into `out`; gives its path.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_model(&self, out: &Path) -> Result<PathBuf> {
        self.subject.save(&self.ema.views(), out)
    }

    /// The model's tensors with the averaged weights, for validation.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn averaged_tensors(&self) -> Result<TensorMap> {
        self.subject.tensors(&self.ema.views(), Kind::Float)
    }

    /// Scores the averaged weights on every set; in stage `evae`, how well sharp images are reconstructed.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn validate(&self, sets: &[ValidationSet]) -> Result<Vec<Score>> {
        let _no_grad = tch::no_grad_guard();
        tch::set_num_threads(self.threads);
        let restorer = self.restorer()?;
        sets.iter().map(|set| set.score(&restorer)).collect()
    }

    /// The middle of the first image of every set, one row each: blurry, restored by the averaged weights, sharp. None
    /// without images.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn samples(&self, sets: &[ValidationSet]) -> Result<Option<Image8>> {
        let _no_grad = tch::no_grad_guard();
        tch::set_num_threads(self.threads);
        super::samples::sheet(sets, &self.restorer()?)
    }

    fn restorer(&self) -> Result<Restorer> {
        Ok(Restorer {
            network: self.subject.network(&self.ema.views(), self.kind)?,
            multiple: self.subject.config().size_multiple(),
            device: self.device,
        })
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
            let done = phase.iterations - (end - self.iteration);
            let mut lessons = self.lessons(phase, threads, done * self.config.accumulation)?;
            while self.iteration < end {
                let progress = self.step(&mut lessons, phase)?;
                if after(self, &progress)? == Verdict::Stop {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What is left of a phase's lessons after `seen` of them.
    fn lessons(&self, phase: PhaseConfig, threads: usize, seen: u64) -> Result<Echo> {
        let mix = MixConfig {
            crop_size: phase.crop_size,
            ..self.config.mix.clone()
        };
        let (sources, batch, times) = (self.sources.clone(), phase.batch_size, self.config.echo);
        let start = self.next_sample - echo::kept(times, seen) * batch as u64;
        let loader = Loader::new(sources, mix, batch, threads, start)?;
        let feed = Feed::new(loader, phase.crop_size, self.device)?;
        Echo::new(feed, &|blurry| self.taught(blurry), times, seen)
    }

    /// What the teacher makes of blurry images, where there is one.
    fn taught(&self, blurry: &Tensor) -> Option<Tensor> {
        let teacher = self.teacher.as_ref()?;
        if self.device == tch::Device::Cpu {
            tch::set_num_threads(self.threads);
        }
        Some(teacher.restored(blurry))
    }

    /// One iteration: forward, loss and backward for every batch, then one update, then the average.
    fn step(&mut self, lessons: &mut Echo, phase: PhaseConfig) -> Result<Progress> {
        if self.device != tch::Device::Cpu {
            // The CPU only copies then; threads to share that would wait for those that make samples.
            tch::set_num_threads(1);
        }
        let learning_rate = self.config.learning_rate_at(self.iteration);
        let mut sum: Option<Differentiated> = None;
        for _ in 0..self.config.accumulation {
            let lesson = lessons.next_lesson(&|blurry| self.taught(blurry))?;
            let one = self.differentiate(&lesson, phase)?;
            sum = Some(match sum {
                None => one,
                Some(before) => before.plus(one),
            });
        }
        let batches = self.config.accumulation as f64;
        let Differentiated {
            gradient,
            discriminator,
            loss,
        } = sum.expect("there is at least one batch");
        let mut gradient = gradient / batches;
        let grad_norm = clip(&mut gradient, self.config.max_grad_norm);
        if let (Some(adversary), Some(gradient)) = (&mut self.adversary, discriminator) {
            adversary.learn(gradient / batches)?;
        }
        self.next_sample = lessons.feed().next_index();
        let (terms, total, grad_norm) = loss.values(batches, &grad_norm);

        self.iteration += 1;
        let skipped = !grad_norm.is_finite() || !total.is_finite();
        if skipped {
            self.count_bad_step()?;
        } else {
            self.bad_steps = 0;
            self.optimizer.step(&gradient, learning_rate)?;
            self.average()?;
        }
        Ok(Progress {
            iteration: self.iteration,
            learning_rate,
            grad_norm,
            total,
            terms,
            images: phase.batch_size as u64 * self.config.accumulation,
            waited: lessons.feed().take_waited(),
            skipped,
        })
    }

    /// Losses of one batch and their gradients, with the discriminator as it is.
    fn differentiate(&self, lesson: &Lesson, phase: PhaseConfig) -> Result<Differentiated> {
        let Lesson {
            blurry,
            sharp,
            taught,
        } = lesson;
        let shares = self.shares(phase.batch_size);
        let parameters = self.optimizer.parameters();
        if shares > 1 {
            // What is left to this thread is short: with threads of its own it would mostly wait for them.
            tch::set_num_threads(1);
            return in_shares(&self.subject, parameters, &self.losses, self.kind, lesson, shares);
        }
        let leaves = parameters.leaves(self.subject.leaf_kind(self.kind));
        let network = self.subject.network(&leaves, self.kind)?;
        let passed = network.forward(blurry, sharp);
        let mut loss = self.losses.compute(&passed.image, sharp, taught.as_ref());
        if let (Some(adversary), Some((latents, prompt))) = (&self.adversary, &passed.latents) {
            let fooled = adversary.generator_loss(latents, prompt)?;
            loss.add("adversarial", adversary.weight(), &fooled);
        }
        let slots = parameters.slots().iter();
        let inputs: Vec<&Tensor> = slots.map(|slot| &leaves[&slot.name]).collect();
        let gradients = Tensor::f_run_backward(&[&loss.total], &inputs, false, false)?;
        // After the model's backward pass, whose memory is free by then.
        let mut discriminator = None;
        if let (Some(adversary), Some((latents, prompt))) = (&self.adversary, &passed.latents) {
            let real = self.subject.sharp_latents(sharp, self.kind)?;
            let (told, gradient) = adversary.discriminate(latents, &real, prompt)?;
            loss.note("discriminator", &told);
            discriminator = Some(gradient);
        }
        Ok(Differentiated {
            gradient: Flat::gather(&gradients),
            discriminator,
            loss,
        })
    }

    /// How many shares a batch is cut into: one a core on a CPU, where the loss needs no perceptual network and no
    /// discriminator; else one.
    fn shares(&self, batch_size: usize) -> usize {
        let separable = self.losses.is_of_pixels() && self.adversary.is_none();
        match self.device {
            tch::Device::Cpu if separable => (self.threads as usize).clamp(1, batch_size),
            _ => 1,
        }
    }

    fn count_bad_step(&mut self) -> Result<()> {
        self.bad_steps += 1;
        if self.bad_steps < MAX_BAD_STEPS {
            return Ok(());
        }
        Err(Error::Train(format!(
            "{MAX_BAD_STEPS} steps in a row had no finite gradients (iteration {})",
            self.iteration
        )))
    }

    /// Moves the average towards the parameters, faster at the start so that it forgets the first values.
    fn average(&mut self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let done = self.iteration as f64;
        let decay = self.config.ema_decay.min((1.0 + done) / (10.0 + done));
        let mut average = self.ema.buffer().shallow_clone();
        let _ = average.f_lerp_(self.optimizer.parameters().buffer(), 1.0 - decay)?;
        Ok(())
    }
}
