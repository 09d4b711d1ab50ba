//! `osdd train`: reads a configuration and the data it names, runs the trainer, keeps checkpoints, logs and scores.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use osdd::config::ModelConfig;
use osdd::data::{Clip, Folder, PairFolder, Sources};
use osdd::train::{DataConfig, Progress, Score, Stage, TrainConfig, Trainer, ValidationSet, Verdict};
use osdd::weights::Weights;

use crate::frames::decode_frames;
use crate::interrupt;

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
    /// Go on from the checkpoint in the output folder
    #[arg(long)]
    pub resume: bool,
    /// Threads that make samples
    #[arg(long, default_value_t = 1)]
    pub data_threads: usize,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 3.0)]
    pub checkpoint_minutes: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// All weights, without adapters
    Base,
    /// One of the two LoRA sets, on frozen weights
    Adapter,
}

/// Iterations between lines of the log.
const LOG_EVERY: u64 = 50;

pub(crate) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let config = TrainConfig::from_json(&read(&args.config)?, &args.config.display().to_string())?;
    let is_base = config.stage == Stage::Base;
    if is_base != (args.what == What::Base) {
        bail!(
            "{} is for another stage ({:?})",
            args.config.display(),
            config.stage
        );
    }
    let model_path = args.model.join("config.json");
    let model = ModelConfig::from_json(&read(&model_path)?, &model_path.display().to_string())?;
    let init = args.init.as_deref().map(Weights::from_dir).transpose()?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;

    let sources = Arc::new(read_sources(&config.data, &args.data)?);
    let sets = config
        .validation
        .iter()
        .map(|set| ValidationSet::read(set, &args.data));
    let sets = sets.collect::<Result<Vec<_>, _>>()?;
    let total = config.iterations();
    let mut trainer = Trainer::new(config, model, init, sources)?;
    let checkpoint = args.out.join("checkpoint.safetensors");
    if args.resume && checkpoint.exists() {
        trainer.resume(&checkpoint)?;
        eprintln!("resumed at iteration {}", trainer.iteration());
    }

    let mut log = Log::open(&args.out, total, trainer.iteration())?;
    let mut last_save = Instant::now();
    let interval = Duration::from_secs_f64(args.checkpoint_minutes.max(0.1) * 60.0);
    let mut interrupted = false;
    trainer.run(args.data_threads, &mut |trainer, progress| {
        log.step(progress);
        interrupted = interrupt::check().is_err();
        if interrupted || last_save.elapsed() >= interval {
            trainer.save_checkpoint(&checkpoint)?;
            last_save = Instant::now();
            if !interrupted {
                log.scores(progress.iteration, &trainer.validate(&sets)?);
            }
        }
        Ok(if interrupted {
            Verdict::Stop
        } else {
            Verdict::Continue
        })
    })?;
    trainer.save_checkpoint(&checkpoint)?;
    if interrupted {
        bail!(interrupt::Interrupted);
    }
    log.scores(trainer.iteration(), &trainer.validate(&sets)?);
    let path = trainer.save_model(&args.out.join("model"))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

fn read_sources(config: &DataConfig, root: &Path) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    for folder in &config.photos {
        sources.photos.extend(Folder::read(&root.join(folder))?.images);
    }
    for folder in &config.pairs {
        sources.pairs.extend(PairFolder::read(&root.join(folder))?.pairs);
    }
    for file in &config.clips {
        let path = root.join(file);
        let frames = decode_frames(&path).with_context(|| format!("cannot decode {}", path.display()))?;
        sources.clips.push(Clip::new(frames)?);
    }
    eprintln!(
        "{} photographs, {} pairs, {} clips",
        sources.photos.len(),
        sources.pairs.len(),
        sources.clips.len()
    );
    Ok(sources)
}

/// The live line on standard error, and `log.csv` and `scores.csv` in the output folder.
struct Log {
    csv: File,
    scores: File,
    total: u64,
    since: Instant,
    first: u64,
    sums: Vec<(&'static str, f64)>,
    skipped: u64,
}

impl Log {
    fn open(dir: &Path, total: u64, first: u64) -> anyhow::Result<Self> {
        let open = |name: &str| {
            let path = dir.join(name);
            let file = File::options().create(true).append(true).open(&path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Log {
            csv: open("log.csv")?,
            scores: open("scores.csv")?,
            total,
            since: Instant::now(),
            first,
            sums: Vec::new(),
            skipped: 0,
        })
    }

    fn step(&mut self, progress: &Progress) {
        self.skipped += u64::from(progress.skipped);
        let values = [("loss", progress.total), ("grad_norm", progress.grad_norm)];
        for (name, value) in values.into_iter().chain(progress.terms.iter().copied()) {
            match self.sums.iter_mut().find(|(other, _)| *other == name) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((name, value)),
            }
        }
        if !progress.iteration.is_multiple_of(LOG_EVERY) {
            return;
        }
        let means: Vec<(&str, f64)> = self
            .sums
            .drain(..)
            .map(|(n, s)| (n, s / LOG_EVERY as f64))
            .collect();
        let columns: Vec<String> = means
            .iter()
            .map(|(name, mean)| format!("{name},{mean:.6}"))
            .collect();
        let rate = (progress.iteration - self.first) as f64 / self.since.elapsed().as_secs_f64();
        let left = (self.total - progress.iteration) as f64 / rate / 60.0;
        // A full disk must not stop a run that can still be saved elsewhere.
        let _ = writeln!(
            self.csv,
            "{},{:.3e},{}",
            progress.iteration,
            progress.learning_rate,
            columns.join(",")
        );
        let terms: Vec<String> = means
            .iter()
            .map(|(name, mean)| format!("{name} {mean:.5}"))
            .collect();
        eprintln!(
            "{}/{}  {}  lr {:.2e}  {rate:.2} it/s  {left:.0} min left{}",
            progress.iteration,
            self.total,
            terms.join("  "),
            progress.learning_rate,
            match self.skipped {
                0 => String::new(),
                n => format!("  {n} steps skipped"),
            }
        );
    }

    fn scores(&mut self, iteration: u64, scores: &[Score]) {
        for score in scores {
            let gain = score.output_psnr - score.input_psnr;
            eprintln!(
                "  {}: {:.3} dB, input {:.3}, gain {gain:+.3}",
                score.name, score.output_psnr, score.input_psnr
            );
            let _ = writeln!(
                self.scores,
                "{iteration},{},{:.4},{:.4}",
                score.name, score.input_psnr, score.output_psnr
            );
        }
    }
}
