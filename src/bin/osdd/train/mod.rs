//! `osdd train`: reads a configuration and the data it names, runs the trainer, keeps checkpoints, logs and scores.

mod log;
mod plot;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use osdd::config::ModelConfig;
use osdd::device::{Device, Precision};
use osdd::train::{Setup, Stage, TrainConfig, Trainer, ValidationSet, Verdict};
use osdd::weights::{Weights, load_model};

use self::log::Log;
use crate::{interrupt, metrics_weights, report};

pub(crate) const EXAMPLES: &str = "\
Examples:
  osdd train base --config models/nano/train/base.json --model models/nano --data DATA -o runs/base
  osdd train adapter --config models/nano/train/adapter_r.json --model models/nano --data DATA -o runs/r --init runs/base/model
  osdd train base --config models/nano/train/base.json --model models/nano --data DATA -o runs/base --resume
  osdd train evae --config models/sd21/train/evae.json --model runs/sd21 --data DATA -o runs/evae --init runs/sd21

The output folder gets checkpoint.safetensors, log.csv, losses.svg, scores.csv, samples.png, and at the end model/. models/TRAINING.md has all
fields of a configuration.";

#[derive(Args, Clone, Debug)]
pub(crate) struct TrainArgs {
    /// What to train
    #[arg(value_enum)]
    pub what: What,
    /// Training configuration, such as models/nano/train/base.json
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Model configuration: a folder with a config.json
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder that the configuration's data paths start from
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Folder for checkpoint, log and trained model
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Weights to start from: a model folder (needed for an adapter)
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// Encoder of sharp images from stage evae, for an adversarial term [default: the model's own encoder]
    #[arg(long, value_name = "FILE")]
    pub latent_encoder: Option<PathBuf>,
    /// Model whose output the loss term `teacher` compares with, at gamma 1: a preset or a folder
    #[arg(long, value_name = "NAME|DIR")]
    pub teacher: Option<String>,
    /// Folder with the weights of perceptual losses, from scripts/convert_metrics.py
    /// [default: $OSDD_METRICS, or ~/.local/share/osdd/metrics]
    #[arg(long, value_name = "DIR")]
    pub metrics_weights: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Arithmetic of the forward pass: auto (bf16 on a GPU, fp32 on the CPU), fp32 or bf16
    #[arg(long, default_value = "auto")]
    pub precision: Precision,
    /// Go on from the checkpoint in the output folder
    #[arg(long)]
    pub resume: bool,
    /// Threads that make samples [default: all cores but one, at least one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub data_threads: Option<u16>,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    pub checkpoint_minutes: f64,
    /// Minutes between scores and pictures of the validation sets
    #[arg(long, default_value_t = 15.0, value_name = "N")]
    pub validation_minutes: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// The enhanced VAE: two encoders and a decoder (the paper's stage 1)
    Evae,
    /// All weights, without adapters, for models that start from nothing
    Base,
    /// One of the two LoRA sets, on frozen weights (the paper's stage 2)
    Adapter,
}

impl What {
    fn trains(self, stage: Stage) -> bool {
        match self {
            What::Evae => stage == Stage::Evae,
            What::Base => stage == Stage::Base,
            What::Adapter => stage.is_adapter(),
        }
    }
}

pub(crate) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let config = TrainConfig::from_json(&read(&args.config)?, &args.config.display().to_string())?;
    if !args.what.trains(config.stage) {
        let stage = config.stage;
        let what = match stage {
            stage if stage.is_adapter() => "adapter",
            stage => stage.name(),
        };
        bail!(
            "{} is for another stage, {}: osdd train {what}",
            args.config.display(),
            stage.name()
        );
    }
    let model_path = args.model.join("config.json");
    let model = ModelConfig::from_json(&read(&model_path)?, &model_path.display().to_string())?;
    let setup = Setup {
        device: args.device,
        precision: args.precision,
        init: args.init.as_deref().map(initial).transpose()?,
        latent_encoder: args.latent_encoder.clone(),
        teacher: args.teacher.as_deref().map(load_model).transpose()?,
        metrics: metrics_weights::folder(args.metrics_weights.as_deref()),
    };
    let sources = Arc::new(sources::read(&config.data, &args.data)?);
    let sets = config
        .validation
        .iter()
        .map(|set| ValidationSet::read(set, &args.data));
    let sets = sets.collect::<Result<Vec<_>, _>>()?;
    let total = config.iterations();
    let mut trainer = Trainer::new(config, model, sources, setup)?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let checkpoint = args.out.join("checkpoint.safetensors");
    go_on(&mut trainer, &checkpoint, args.resume)?;
    let mut log = Log::open(&args.out, total, trainer.iteration())?;
    let (mut saved, mut scored) = (Instant::now(), Instant::now());
    let minutes = |n: f64| Duration::try_from_secs_f64(n.max(0.0) * 60.0).unwrap_or(Duration::MAX);
    let mut interrupted = false;
    let begun = trainer.iteration();
    let outcome = trainer.run(data_threads(&args), &mut |trainer, progress| {
        log.step(progress);
        interrupted = interrupt::check().is_err();
        if interrupted {
            return Ok(Verdict::Stop);
        }
        let start = Instant::now();
        if saved.elapsed() >= minutes(args.checkpoint_minutes) {
            // A full disk must not end a run: the old checkpoint is intact, and there may be room the next time.
            if let Err(error) = trainer.save_checkpoint(&checkpoint) {
                report::warning(format_args!(
                    "no checkpoint at iteration {}: {error}",
                    progress.iteration
                ));
            }
            saved = Instant::now();
        }
        if scored.elapsed() >= minutes(args.validation_minutes) {
            log.scores(progress.iteration, &trainer.validate(&sets)?);
            log.pictures(trainer.samples(&sets)?);
            scored = Instant::now();
        }
        log.leave_out(start.elapsed());
        Ok(Verdict::Continue)
    });
    if outcome.is_err() && trainer.iteration() == begun {
        return outcome.map_err(Into::into);
    }
    // The result first: it is what the run was for, and smaller than a checkpoint. Also of a run that failed: what it has
    // learned is good.
    let model = trainer.save_model(&args.out);
    let kept = trainer.save_checkpoint(&checkpoint);
    if let Err(error) = outcome {
        match model.and(kept) {
            Ok(()) => report::warning(format_args!(
                "failed after iteration {}; --resume goes on from {}",
                trainer.iteration(),
                checkpoint.display()
            )),
            Err(error) => report::warning(format_args!("not all that was learned could be kept: {error}")),
        }
        return Err(error.into());
    }
    let path = model?;
    kept?;
    if interrupted {
        report::note(format_args!(
            "stopped after iteration {}; --resume goes on from {}",
            trainer.iteration(),
            checkpoint.display()
        ));
        bail!(interrupt::Interrupted);
    }
    log.scores(trainer.iteration(), &trainer.validate(&sets)?);
    log.pictures(trainer.samples(&sets)?);
    report::note(format_args!("wrote {}", path.display()));
    Ok(())
}

/// Takes up the checkpoint of an earlier run, which is never overwritten by accident.
fn go_on(trainer: &mut Trainer, checkpoint: &Path, resume: bool) -> anyhow::Result<()> {
    match (resume, checkpoint.exists()) {
        (true, true) => {
            trainer.resume(checkpoint)?;
            report::note(format_args!("resumed at iteration {}", trainer.iteration()));
        }
        (true, false) => report::note(format_args!(
            "{} is not there yet: from the start",
            checkpoint.display()
        )),
        (false, true) => bail!(
            "{} is there already; go on with --resume, or choose another folder",
            checkpoint.display()
        ),
        (false, false) => {}
    }
    Ok(())
}

/// The weights of a model folder; a run's folder has it inside.
fn initial(dir: &Path) -> anyhow::Result<Weights> {
    let inside = dir.join("model");
    if !dir.join("config.json").exists() && inside.join("config.json").exists() {
        bail!(
            "{} is the folder of a run; its model is {}",
            dir.display(),
            inside.display()
        );
    }
    Ok(Weights::from_dir(dir)?)
}

fn data_threads(args: &TrainArgs) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.data_threads
        .map_or(cores.saturating_sub(1).max(1), usize::from)
}
