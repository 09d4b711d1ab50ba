//! `osdd import`: Stable Diffusion 2.1-base in diffusers' layout becomes a model folder of ours.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use osdd::config::{ModelConfig, PredictionType, WeightsDtype};
use osdd::weights::{DiffusersFolder, ImportOptions, ImportProgress, Manifest, verify_import};

use crate::progress::Progress;
use crate::{interrupt, report};

#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// Folder of Stable Diffusion 2.1-base in diffusers' layout, or of the model in the hub's cache
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "verify",
        conflicts_with = "verify"
    )]
    pub diffusers: Option<PathBuf>,
    /// Model folder to write
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["check", "verify"], conflicts_with = "verify")]
    pub out: Option<PathBuf>,
    /// Read and check everything, and write nothing
    #[arg(long, conflicts_with_all = ["out", "verify"])]
    pub check: bool,
    /// Check a model folder that was imported earlier against its import.json
    #[arg(long, value_name = "DIR")]
    pub verify: Option<PathBuf>,
    /// Dtype of the weights on disk [default: that of the source]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Take half-precision weights too (fp16 variants); their rounding stays
    #[arg(long)]
    pub allow_fp16: bool,
    /// Model configuration to take skips, prompt, timestep and adapters from [default: that of sd21]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

pub(crate) fn run(args: ImportArgs) -> Result<()> {
    if let Some(dir) = &args.verify {
        let manifest = watched(dir, |watch| verify_import(dir, watch))?;
        report::note(format_args!(
            "{}: all {} imported tensors are as they were",
            dir.display(),
            manifest.tensors.len()
        ));
        return Ok(());
    }
    let dir = args.diffusers.as_deref().context("--diffusers is missing")?;
    let options = ImportOptions {
        dtype: args.dtype.map(|dtype| match dtype {
            Dtype::F32 => WeightsDtype::F32,
            Dtype::Bf16 => WeightsDtype::Bf16,
            Dtype::F16 => WeightsDtype::F16,
        }),
        allow_fp16: args.allow_fp16,
        config: args.config.as_deref().map(read_config).transpose()?,
    };
    let folder = DiffusersFolder::open(dir, &options)?;
    about_config(&folder);
    match &args.out {
        Some(out) => {
            let manifest = watched(dir, |watch| folder.import(out, watch))?;
            about_tensors(&manifest);
            report::note(format_args!("wrote {}", out.display()));
        }
        None => about_tensors(&watched(dir, |watch| folder.check(watch))?),
    }
    Ok(())
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let json = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(ModelConfig::from_json(&json, &path.display().to_string())?)
}

/// Runs `work` with a progress bar, until it ends or the user asks to stop.
fn watched(
    dir: &Path,
    work: impl FnOnce(&mut dyn FnMut(ImportProgress) -> ControlFlow<()>) -> osdd::Result<Option<Manifest>>,
) -> Result<Manifest> {
    let mut bar: Option<Progress> = None;
    let manifest = work(&mut |progress| {
        let label = || dir.display().to_string();
        bar.get_or_insert_with(|| Progress::new(label(), "tensors", Some(progress.total_bytes)))
            .update(progress.bytes, progress.tensors);
        match interrupt::check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    match manifest {
        Some(manifest) => Ok(manifest),
        None => bail!(interrupt::Interrupted),
    }
}

fn about_config(folder: &DiffusersFolder) {
    let scheduler = &folder.config().scheduler;
    report::note(format_args!(
        "noise schedule: scaled linear betas {}..{} over {} steps; the UNet predicts {}; one step at t = {}",
        scheduler.beta_start,
        scheduler.beta_end,
        scheduler.num_train_timesteps,
        match scheduler.prediction_type {
            PredictionType::Epsilon => "the noise (epsilon)",
            PredictionType::VPrediction => "the velocity (v_prediction)",
        },
        scheduler.timestep
    ));
    match folder.differences().as_slice() {
        [] => report::note("configuration: exactly that of the preset sd21"),
        lines => {
            report::note("configuration: that of the preset sd21, except");
            lines
                .iter()
                .for_each(|line| report::note(format_args!("  {line}")));
        }
    }
}

fn about_tensors(manifest: &Manifest) {
    for part in ["unet", "vae", "prompt"] {
        let (taken, made) = manifest.count(part);
        report::note(format_args!("{part}: {taken} tensors checked, {made} made here"));
    }
    for file in &manifest.files {
        let hub = match file.as_on_the_hub {
            true => "the same as on the hub",
            false => "none of the hub's to compare with",
        };
        report::note(format_args!("{}: SHA-256 {}, {hub}", file.path, file.sha256));
    }
    if !manifest.unused.is_empty() {
        report::note(format_args!(
            "not used: {} (the prompt is learned)",
            manifest.unused.join(", ")
        ));
    }
}
