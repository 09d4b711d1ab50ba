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
use crate::interrupt::Interrupted;
use crate::progress::Progress;
use crate::{interrupt, report};

/// One measurement, as the child prints it.
#[derive(Clone, Default, Serialize, Deserialize)]
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
    /// What became of what was asked for, where anything was measured.
    #[serde(flatten)]
    settings: Option<Settings>,
    sizes: Vec<SizeReport>,
    /// What was not measured, and why.
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct Settings {
    device: String,
    precision: String,
    tile_size: usize,
    tile_overlap: usize,
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
    if args.all {
        return sweep(&args, targets::all(&args.engine)?, &sizes);
    }
    let mut target = Target::one(args.engine.clone(), args.random_weights)?;
    if let Some(measurement) = args.only {
        args.engine = target.weights()?;
        let sample = match measurement {
            Measurement::Model => serde_json::to_string(&model::run(sizes[0], &args)?)?,
            _ => serde_json::to_string(&measure::run(measurement, sizes[0], &args)?)?,
        };
        return report::print(&(sample + "\n"));
    }
    sweep(&args, vec![target], &sizes)
}

/// Measures everything, and reports it; what has been measured is reported when the rest fails, too.
fn sweep(args: &BenchArgs, targets: Vec<Target>, sizes: &[Size]) -> Result<()> {
    let each = u64::from(args.rounds) * (Measurement::FRAMES.len() + 1) as u64;
    let steps = each * (targets.len() * sizes.len()) as u64;
    let mut progress = Progress::new("bench".to_owned(), "measurements", Some(steps));
    let watch = quiet::Watch::start();
    let mut done = 0;
    let mut models = Vec::new();
    let mut pace = Pace::new(f64::from(args.frames) * each as f64);
    let mut result = Ok(());
    for mut target in targets {
        let mut measure = |target: &mut Target, size| {
            let mut advance = || {
                done += 1;
                progress.update(done, done);
            };
            measure_size(args, &target.weights()?, size, &mut advance)
        };
        let model;
        (model, result) = measure_model(&mut target, sizes, &mut pace, args.all, &mut measure);
        models.push(model);
        if result.is_err() {
            break;
        }
    }
    let report = Report {
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
    };
    if report.models.iter().any(|model| !model.sizes.is_empty()) {
        tell(args, &report)?;
        return result;
    }
    let left_out = report.models.into_iter().flat_map(|model| model.left_out);
    let reasons: Vec<String> = left_out.map(|left_out| left_out.reason).collect();
    result.and_then(|()| Err(anyhow!("nothing was measured: {}", reasons.join("; "))))
}

fn tell(args: &BenchArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.plot {
        plot::write(path, report)?;
    }
    let to_stdout = args.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if let Some(path) = &args.json {
        report::write_json(path, report)?;
    }
    if to_stdout {
        Ok(())
    } else {
        report::print(&table::of(report)?)
    }
}

/// Measures a model at a size; gives what the engine made of its settings, too.
type Measure<'a> = dyn FnMut(&mut Target, Size) -> Result<(SizeReport, Sample)> + 'a;

/// One model at every size. Where it is one of `several`, what takes too long or fails is left out; otherwise its failure is that of all.
fn measure_model(
    target: &mut Target,
    sizes: &[Size],
    pace: &mut Pace,
    several: bool,
    measure: &mut Measure,
) -> (ModelReport, Result<()>) {
    let mut report = ModelReport {
        model: target.name.clone(),
        settings: None,
        sizes: Vec::new(),
        left_out: Vec::new(),
    };
    pace.next_model(target.operations, target.engine.runtime.device);
    for &size in sizes {
        let measured = match pace.too_slow(size).filter(|_| several) {
            Some(reason) => Err(anyhow!(reason)),
            None => measure(target, size),
        };
        match measured {
            Ok((size, sample)) => {
                pace.measured(&size.model);
                report.settings = Some(Settings {
                    device: sample.device,
                    precision: sample.precision,
                    tile_size: sample.tile_size,
                    tile_overlap: sample.tile_overlap,
                });
                report.sizes.push(size);
            }
            Err(error) if several && !error.is::<Interrupted>() => report.left_out.push(LeftOut {
                size: size.to_string(),
                reason: report::one_line(&error),
            }),
            Err(error) => return (report, Err(error)),
        }
    }
    (report, Ok(()))
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
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(vec![7.0]), 7.0);
    }

    fn target() -> Target {
        let Command::Bench(args) = Cli::parse_from(["osdd", "bench"]).command else {
            panic!("it is bench");
        };
        Target::one(args.engine, false).expect("nano is built in")
    }

    fn measured(size: Size, ms: f64) -> (SizeReport, Sample) {
        let model = ModelSample {
            width: size.width,
            height: size.height,
            total_ms: ms,
            convolution_gflops: 100.0,
            ..ModelSample::default()
        };
        let sample = Sample {
            frames_per_second: 1e3 / ms,
            device: "cpu".to_owned(),
            ..Sample::default()
        };
        let summary = || summarise(std::slice::from_ref(&sample));
        let report = SizeReport {
            size: size.to_string(),
            pixels: size.width * size.height,
            engine: summary(),
            pipeline: summary(),
            moving_gamma: summary(),
            pipeline_over_engine: 1.0,
            moving_gamma_over_pipeline: 1.0,
            model,
        };
        (report, sample)
    }

    /// What is measured and what is left out, of one of several models, and whether it went on to the end.
    fn sizes(measure: &mut Measure, several: bool) -> (Vec<String>, Vec<String>, Result<()>) {
        let sizes = SIZES.map(|(width, height)| Size { width, height });
        let (report, result) = measure_model(&mut target(), &sizes, &mut Pace::new(32.0), several, measure);
        let left_out = report
            .left_out
            .into_iter()
            .map(|left_out| left_out.size + ": " + &left_out.reason);
        (
            report.sizes.into_iter().map(|size| size.size).collect(),
            left_out.collect(),
            result,
        )
    }

    #[test]
    fn what_fails_or_takes_too_long_is_left_out_of_several() {
        let mut measure = |_: &mut Target, size: Size| match size.width {
            640 => Err(anyhow!("no memory")),
            // 3 us a pixel.
            _ => Ok(measured(size, 0.003 * (size.width * size.height) as f64)),
        };
        let (done, left_out, result) = sizes(&mut measure, true);
        result.expect("the others are measured");
        assert_eq!(done, ["512x512", "1280x720", "1920x1080"]);
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert_eq!(left_out[0], "640x360: no memory");
        assert!(
            left_out[1].starts_with("3840x2160: it would take 13 minutes"),
            "{left_out:?}"
        );
        // Of one alone nothing is.
        let (done, left_out, result) = sizes(&mut measure, false);
        assert_eq!(result.unwrap_err().to_string(), "no memory");
        assert_eq!((done.len(), left_out.len()), (1, 0));
    }

    #[test]
    fn an_interruption_is_no_failure_of_one_size() {
        let mut measure = |_: &mut Target, size: Size| match size.width {
            512 => Ok(measured(size, 1.0)),
            _ => Err(Interrupted.into()),
        };
        let (done, left_out, result) = sizes(&mut measure, true);
        assert!(result.unwrap_err().is::<Interrupted>());
        assert_eq!((done.len(), left_out.len()), (1, 0));
    }
}
