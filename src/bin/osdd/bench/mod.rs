//! `osdd bench`: frames per second of the engine alone, of a GStreamer pipeline around it, and of that pipeline while
//! gamma moves at every frame, with peak memory and latency; the model alone, part by part.
//!
//! Every measurement runs in a child process, so that its memory is its own, and the kinds take turns, so that a
//! machine that slows down slows all of them.

mod measure;
mod model;
mod quiet;
mod random;

use std::fmt::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::model::ModelSample;
use crate::args::{BenchArgs, Measurement, Size};
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
    model: String,
    device: String,
    precision: String,
    gamma: f64,
    tile_size: usize,
    tile_overlap: usize,
    frames: u32,
    rounds: u32,
    /// Of the processors' time, in 0..=1, what other programs, or the machine around a virtual one, took meanwhile.
    others_share: Option<f64>,
    sizes: Vec<SizeReport>,
}

#[derive(Serialize)]
struct SizeReport {
    size: String,
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
}

/// Of `--all`.
const SIZES: [(usize, usize); 5] = [(512, 512), (640, 360), (1280, 720), (1920, 1080), (3840, 2160)];

pub(crate) fn run(mut args: BenchArgs) -> Result<()> {
    // Wrong arguments are told here, once, and not by each child.
    args.engine.config(args.gamma, 1.0)?;
    let named = std::mem::take(&mut args.size);
    let sizes = match (args.all, named.is_empty()) {
        (true, _) => SIZES.map(|(width, height)| Size { width, height }).to_vec(),
        (false, true) => vec![Size {
            width: 640,
            height: 360,
        }],
        (false, false) => named,
    };
    let model = args.engine.model.clone();
    let folder = match args.random_weights {
        true => Some(random::model_like(&model)?),
        false => None,
    };
    if let Some(folder) = &folder {
        args.engine.model = folder.path().display().to_string();
    }
    if let Some(measurement) = args.only {
        let sample = match measurement {
            Measurement::Model => serde_json::to_string(&model::run(sizes[0], &args)?)?,
            _ => serde_json::to_string(&measure::run(measurement, sizes[0], &args)?)?,
        };
        return report::print(&(sample + "\n"));
    }
    let mut report = measure_all(&args, &sizes)?;
    if folder.is_some() {
        report.model = format!("{model}, random weights");
    }
    let to_stdout = args.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if let Some(path) = &args.json {
        report::write_json(path, &report)?;
    }
    if to_stdout {
        Ok(())
    } else {
        report::print(&table(&report)?)
    }
}

fn measure_all(args: &BenchArgs, sizes: &[Size]) -> Result<Report> {
    let steps = (sizes.len() * args.rounds as usize * (Measurement::FRAMES.len() + 1)) as u64;
    let mut progress = Progress::new("bench".to_owned(), "measurements", Some(steps));
    let mut done = 0;
    let mut reports = Vec::new();
    // The engine's own measurement knows what "auto" became.
    let mut resolved = None;
    let watch = quiet::Watch::start();
    for &size in sizes {
        let mut samples: [Vec<Sample>; 3] = Default::default();
        let mut models: Vec<ModelSample> = Vec::new();
        for _ in 0..args.rounds {
            models.push(child(Measurement::Model, size, args)?);
            done += 1;
            progress.update(done, done);
            for (measurement, samples) in Measurement::FRAMES.into_iter().zip(&mut samples) {
                let sample: Sample = child(measurement, size, args)?;
                if measurement == Measurement::Engine {
                    resolved = Some(sample.clone());
                }
                samples.push(sample);
                done += 1;
                progress.update(done, done);
            }
        }
        let [engine, pipeline, moving_gamma] = samples.map(|samples| summarise(&samples));
        reports.push(SizeReport {
            size: size.to_string(),
            pipeline_over_engine: pipeline.frames_per_second / engine.frames_per_second,
            moving_gamma_over_pipeline: moving_gamma.frames_per_second / pipeline.frames_per_second,
            engine,
            pipeline,
            moving_gamma,
            model: middle(models).context("nothing was measured")?,
        });
    }
    let resolved = resolved.context("nothing was measured")?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        date: gst::glib::DateTime::now_utc()?
            .format("%Y-%m-%dT%H:%M:%SZ")?
            .into(),
        hardware: Hardware::detect(),
        model: resolved.model,
        device: resolved.device,
        precision: resolved.precision,
        gamma: args.gamma,
        tile_size: resolved.tile_size,
        tile_overlap: resolved.tile_overlap,
        frames: args.frames,
        rounds: args.rounds,
        others_share: watch.others(),
        sizes: reports,
    })
}

/// Runs this program again for one measurement.
fn child<T: DeserializeOwned>(measurement: Measurement, size: Size, args: &BenchArgs) -> Result<T> {
    interrupt::check()?;
    let output = Command::new(std::env::current_exe()?)
        .arg("bench")
        .arg(format!("--only={}", measurement.name()))
        .arg(format!("--size={size}"))
        .arg(format!("--frames={}", args.frames))
        .arg(format!("--gamma={}", args.gamma))
        .args(args.engine.to_command_line())
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

fn table(report: &Report) -> Result<String> {
    let mut text = String::new();
    let hardware = &report.hardware;
    writeln!(
        text,
        "{}, {} cores, {} threads",
        hardware.cpu, hardware.cores, hardware.threads
    )?;
    for gpu in &hardware.gpus {
        let driver = hardware.gpu_driver.as_deref().unwrap_or("unknown");
        writeln!(text, "{gpu}, driver {driver}")?;
    }
    writeln!(
        text,
        "{} on {}, {}, gamma {}, tiles of at most {} px, overlap {} px; median of {} x {} frames",
        report.model,
        report.device,
        report.precision,
        report.gamma,
        report.tile_size,
        report.tile_overlap,
        report.rounds,
        report.frames
    )?;
    for size in &report.sizes {
        writeln!(
            text,
            "\n{:<34} {:>9}  {:>7}  {:>12}  {:>6}",
            size.size, "frames/s", "ratio", "peak memory", "lost"
        )?;
        let rows = [
            ("engine alone", &size.engine, String::new()),
            ("pipeline", &size.pipeline, percent(size.pipeline_over_engine)),
            (
                "pipeline, gamma moved every frame",
                &size.moving_gamma,
                percent(size.moving_gamma_over_pipeline),
            ),
        ];
        for (name, summary, ratio) in rows {
            let memory = summary
                .peak_memory_mib
                .map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
            writeln!(
                text,
                "{name:<34} {:>9.2}  {ratio:>7}  {memory:>12}  {:>6}",
                summary.frames_per_second, summary.frames_lost
            )?;
        }
        if let Some(stages) = &size.engine.stages {
            writeln!(
                text,
                "ms per frame: upload {:.2}, model {:.2}, blend {:.2}, download {:.2}, total {:.2}",
                stages.upload_ms, stages.model_ms, stages.blend_ms, stages.download_ms, stages.total_ms
            )?;
        }
        if let Some(mib) = size.engine.peak_gpu_memory_mib {
            writeln!(text, "peak memory of tensors on the GPU: {mib} MiB")?;
        }
        if let Some(latency_ms) = size.engine.latency_ms {
            writeln!(
                text,
                "a single frame takes {latency_ms:.2} ms in an engine that has nothing else to do; the times above are of frames that overlap"
            )?;
        }
        let model = &size.model;
        writeln!(
            text,
            "model at {}x{}, ms: encoder {:.2}, UNet {:.2}, decoder {:.2}; a change of gamma {:.2}",
            model.width,
            model.height,
            model.encode_ms,
            model.predict_ms,
            model.decode_ms,
            model.gamma_change_ms
        )?;
        writeln!(
            text,
            "GFLOP/s: model {:.0}, {} of its convolutions' limit measured beside it, {:.0}; a 3x3 convolution {:.0}, depthwise {:.0}, a matrix product {:.0}",
            model.gflops,
            percent(model.share_of_limit),
            model.limit_gflops,
            model.convolution_gflops,
            model.depthwise_gflops,
            model.matrix_gflops
        )?;
    }
    writeln!(
        text,
        "\nratio: the pipeline's to the engine alone; the moving gamma's to the pipeline's"
    )?;
    let summaries = report
        .sizes
        .iter()
        .flat_map(|size| [&size.engine, &size.pipeline, &size.moving_gamma]);
    let rounds = summaries
        .map(|summary| summary.rounds.as_slice())
        .collect::<Vec<_>>();
    for note in quiet::notes(report.others_share, &rounds) {
        writeln!(text, "{note}")?;
    }
    Ok(text)
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", 100.0 * ratio)
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
