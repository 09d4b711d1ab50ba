//! `osdd bench`: frames per second of the engine alone, of a GStreamer pipeline around it, and of that pipeline while
//! gamma moves at every frame, with peak memory and latency; the model alone, part by part.
//!
//! Every measurement runs in a child process, so that its memory is its own, and the kinds take turns, so that a
//! machine that slows down slows all of them.

mod measure;
mod model;
mod plot;
mod quiet;
mod random;
mod table;
mod targets;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::model::ModelSample;
use self::targets::{Pace, Target};
use crate::args::{BenchArgs, EngineArgs, Measurement, Size};
use crate::hardware::Hardware;
use crate::progress::Progress;
use crate::{interrupt, report};

/// One measurement, as the child prints it.
#[derive(Clone, Serialize, Deserialize)]
struct Sample {
    frames_in: u64,
    frames_out: u64,
    frames_per_second: f64,
    peak_memory_mib: Option<u64>,
    /// Of tensors on the GPU.
    peak_gpu_memory_mib: Option<u64>,
    model: String,
    device: String,
    precision: String,
    tile_size: usize,
    tile_overlap: usize,
    /// Of a single frame, where it was measured.
    latency_ms: Option<f64>,
    /// Means per frame, where the measurement knows them.
    stages: Option<Stages>,
    /// The element's conversions from the pixel format and back, where there is one.
    convert_ms: Option<f64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stages {
    upload_ms: f64,
    model_ms: f64,
    blend_ms: f64,
    download_ms: f64,
    total_ms: f64,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// UTC, as ISO 8601 has it.
    date: String,
    hardware: Hardware,
    gamma: f64,
    frames: u32,
    rounds: u32,
    /// Of the processors' time, in 0..=1, what other programs, or the machine around a virtual one, took meanwhile.
    others_share: Option<f64>,
    models: Vec<ModelReport>,
}

/// A model on a device.
#[derive(Serialize)]
struct ModelReport {
    model: String,
    device: String,
    precision: String,
    tile_size: usize,
    tile_overlap: usize,
    sizes: Vec<SizeReport>,
    /// What was not measured, and why.
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    size: String,
    reason: String,
}

#[derive(Serialize)]
struct SizeReport {
    size: String,
    pixels: usize,
    engine: Summary,
    pipeline: Summary,
    moving_gamma: Summary,
    /// Frames per second of the pipeline over those of the engine alone.
    pipeline_over_engine: f64,
    moving_gamma_over_pipeline: f64,
    model: ModelSample,
}

#[derive(Serialize)]
struct Summary {
    /// Median over the rounds.
    frames_per_second: f64,
    /// Of each round.
    rounds: Vec<f64>,
    frames_lost: u64,
    peak_memory_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_gpu_memory_mib: Option<u64>,
    latency_ms: Option<f64>,
    stages: Option<Stages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    convert_ms: Option<f64>,
}

/// Of `--all` and `--all-sizes`.
const SIZES: [(usize, usize); 5] = [(512, 512), (640, 360), (1280, 720), (1920, 1080), (3840, 2160)];

pub(crate) fn run(mut args: BenchArgs) -> Result<()> {
    // Wrong arguments are told here, once, and not by each child.
    args.engine.config(args.gamma, 1.0)?;
    let named = std::mem::take(&mut args.size);
    let sizes = match (args.all || args.all_sizes, named.is_empty()) {
        (true, _) => SIZES.map(|(width, height)| Size { width, height }).to_vec(),
        (false, true) => vec![Size {
            width: 640,
            height: 360,
        }],
        (false, false) => named,
    };
    if let Some(measurement) = args.only {
        let sample = match measurement {
            Measurement::Model => serde_json::to_string(&model::run(sizes[0], &args)?)?,
            _ => serde_json::to_string(&measure::run(measurement, sizes[0], &args)?)?,
        };
        return report::print(&(sample + "\n"));
    }
    let targets = match args.all {
        true => targets::all(&args.engine)?,
        false => vec![Target::one(args.engine.clone(), args.random_weights)?],
    };
    let report = measure_all(&args, targets, &sizes)?;
    if let Some(path) = &args.plot {
        plot::write(path, &report)?;
    }
    let to_stdout = args.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
    }
    if to_stdout {
        Ok(())
    } else {
        report::print(&table::of(&report)?)
    }
}

fn measure_all(args: &BenchArgs, targets: Vec<Target>, sizes: &[Size]) -> Result<Report> {
    let kinds = Measurement::FRAMES.len() + 1;
    let each = u64::from(args.rounds) * kinds as u64;
    let steps = each * (targets.len() * sizes.len()) as u64;
    let mut progress = Progress::new("bench".to_owned(), "measurements", Some(steps));
    let mut done = 0;
    let mut pace = Pace::default();
    let watch = quiet::Watch::start();
    let mut models = Vec::new();
    for mut target in targets {
        let mut reports = Vec::new();
        let mut left_out = Vec::new();
        // The engine's own measurement knows what "auto" became.
        let mut resolved: Option<Sample> = None;
        pace.next_model(target.operations, &target.engine.runtime.device);
        for &size in sizes {
            let end = done + each;
            let mut advance = || {
                done += 1;
                progress.update(done, done);
            };
            let measured = match pace.too_slow(size).filter(|_| args.all) {
                Some(reason) => Err(anyhow!(reason)),
                None => measure_size(args, &target.weights()?, size, &mut advance),
            };
            done = end;
            match measured {
                Ok((report, sample)) => {
                    pace.measured(&report.model);
                    resolved = Some(sample);
                    reports.push(report);
                }
                Err(error) if args.all => {
                    interrupt::check()?;
                    left_out.push(LeftOut {
                        size: size.to_string(),
                        reason: error.to_string(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        models.push(ModelReport {
            model: target.name,
            device: resolved
                .as_ref()
                .map_or(target.engine.runtime.device.to_string(), |sample| {
                    sample.device.clone()
                }),
            precision: resolved
                .as_ref()
                .map_or(target.engine.runtime.precision.to_string(), |sample| {
                    sample.precision.clone()
                }),
            tile_size: resolved.as_ref().map_or(0, |sample| sample.tile_size),
            tile_overlap: resolved.as_ref().map_or(0, |sample| sample.tile_overlap),
            sizes: reports,
            left_out,
        });
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        date: gst::glib::DateTime::now_utc()?
            .format("%Y-%m-%dT%H:%M:%SZ")?
            .into(),
        hardware: Hardware::detect(),
        gamma: args.gamma,
        frames: args.frames,
        rounds: args.rounds,
        others_share: watch.others(),
        models,
    })
}

/// All kinds of measurements, in turn, of one model at one size; `advance` is told of each. Gives what the engine made of its settings,
/// too.
fn measure_size(
    args: &BenchArgs,
    engine: &EngineArgs,
    size: Size,
    advance: &mut dyn FnMut(),
) -> Result<(SizeReport, Sample)> {
    let mut samples: [Vec<Sample>; 3] = Default::default();
    let mut models: Vec<ModelSample> = Vec::new();
    for _ in 0..args.rounds {
        models.push(child(Measurement::Model, size, args, engine)?);
        advance();
        for (measurement, samples) in Measurement::FRAMES.into_iter().zip(&mut samples) {
            samples.push(child(measurement, size, args, engine)?);
            advance();
        }
    }
    let resolved = samples[0].last().cloned().context("nothing was measured")?;
    let [engine, pipeline, moving_gamma] = samples.map(|samples| summarise(&samples));
    let report = SizeReport {
        size: size.to_string(),
        pixels: size.width * size.height,
        pipeline_over_engine: pipeline.frames_per_second / engine.frames_per_second,
        moving_gamma_over_pipeline: moving_gamma.frames_per_second / pipeline.frames_per_second,
        engine,
        pipeline,
        moving_gamma,
        model: middle(models).context("nothing was measured")?,
    };
    Ok((report, resolved))
}

/// Runs this program again for one measurement.
fn child<T: DeserializeOwned>(
    measurement: Measurement,
    size: Size,
    args: &BenchArgs,
    engine: &EngineArgs,
) -> Result<T> {
    interrupt::check()?;
    let output = Command::new(std::env::current_exe()?)
        .arg("bench")
        .arg(format!("--only={}", measurement.name()))
        .arg(format!("--size={size}"))
        .arg(format!("--frames={}", args.frames))
        .arg(format!("--gamma={}", args.gamma))
        .args(engine.to_command_line())
        .stdin(Stdio::null())
        .output()?;
    // Ctrl-C reaches the whole process group; the child's end is then no failure of its own.
    interrupt::check()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text
            .lines()
            .rev()
            .find(|line| !line.is_empty())
            .unwrap_or("it ended without a word");
        let reason = line.trim_start_matches("error: ");
        return Err(anyhow!(
            "cannot measure {} at {size}: {reason}",
            measurement.name()
        ));
    }
    serde_json::from_slice(&output.stdout).context("a measurement printed something else than its result")
}

/// The one with the median time.
fn middle(mut samples: Vec<ModelSample>) -> Option<ModelSample> {
    samples.sort_by(|one, two| one.total_ms.total_cmp(&two.total_ms));
    let index = samples.len() / 2;
    (index < samples.len()).then(|| samples.swap_remove(index))
}

fn summarise(samples: &[Sample]) -> Summary {
    let rounds: Vec<f64> = samples.iter().map(|sample| sample.frames_per_second).collect();
    Summary {
        frames_per_second: median(rounds.clone()),
        rounds,
        frames_lost: samples
            .iter()
            .map(|sample| sample.frames_in.saturating_sub(sample.frames_out))
            .sum(),
        peak_memory_mib: samples.iter().filter_map(|sample| sample.peak_memory_mib).max(),
        peak_gpu_memory_mib: samples
            .iter()
            .filter_map(|sample| sample.peak_gpu_memory_mib)
            .max(),
        latency_ms: {
            let latencies: Vec<f64> = samples.iter().filter_map(|sample| sample.latency_ms).collect();
            (!latencies.is_empty()).then(|| median(latencies))
        },
        stages: samples.iter().rev().find_map(|sample| sample.stages.clone()),
        convert_ms: samples.iter().rev().find_map(|sample| sample.convert_ms),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(vec![7.0]), 7.0);
    }
}
