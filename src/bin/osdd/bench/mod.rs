//! `osdd bench`: frames per second of the engine alone, of a GStreamer pipeline around it, and of that pipeline while
//! gamma moves at every frame; peak memory of each.
//!
//! Every measurement runs in a child process, so that its memory is its own, and the kinds take turns, so that a
//! machine that slows down slows all of them.

mod measure;

use std::fmt::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

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
    model: String,
    device: String,
    precision: String,
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
    hardware: Hardware,
    model: String,
    device: String,
    precision: String,
    gamma: f64,
    tile_size: usize,
    tile_overlap: usize,
    frames: u32,
    rounds: u32,
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
}

#[derive(Serialize)]
struct Summary {
    /// Median over the rounds.
    frames_per_second: f64,
    /// Of each round.
    rounds: Vec<f64>,
    frames_lost: u64,
    peak_memory_mib: Option<u64>,
    stages: Option<Stages>,
}

pub(crate) fn run(args: BenchArgs) -> Result<()> {
    // Wrong arguments are told here, once, and not by each child.
    args.engine.config(args.gamma, 1.0)?;
    let sizes = if args.size.is_empty() {
        vec![Size {
            width: 640,
            height: 360,
        }]
    } else {
        args.size.clone()
    };
    if let Some(measurement) = args.only {
        let sample = measure::run(measurement, sizes[0], &args)?;
        return report::print(&(serde_json::to_string(&sample)? + "\n"));
    }
    let report = measure_all(&args, &sizes)?;
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
    let steps = (sizes.len() * args.rounds as usize * Measurement::ALL.len()) as u64;
    let mut progress = Progress::new("bench".to_owned(), "measurements", Some(steps));
    let mut done = 0;
    let mut reports = Vec::new();
    // The engine's own measurement knows what "auto" became.
    let mut resolved = None;
    for &size in sizes {
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for _ in 0..args.rounds {
            for (measurement, samples) in Measurement::ALL.into_iter().zip(&mut samples) {
                interrupt::check()?;
                let sample = child(measurement, size, args)
                    .with_context(|| format!("cannot measure {} at {size}", measurement.name()))?;
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
        });
    }
    let resolved = resolved.context("nothing was measured")?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        hardware: Hardware::detect(),
        model: resolved.model,
        device: resolved.device,
        precision: resolved.precision,
        gamma: args.gamma,
        tile_size: args.engine.runtime.tile,
        tile_overlap: args.engine.runtime.overlap,
        frames: args.frames,
        rounds: args.rounds,
        sizes: reports,
    })
}

/// Runs this program again for one measurement.
fn child(measurement: Measurement, size: Size, args: &BenchArgs) -> Result<Sample> {
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
        return Err(anyhow!("{}", line.trim_start_matches("error: ")));
    }
    serde_json::from_slice(&output.stdout).context("a measurement printed something else than its result")
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
    writeln!(
        text,
        "{} on {}, {}, gamma {}, tiles {} px, overlap {} px; median of {} x {} frames",
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
    }
    writeln!(
        text,
        "\nratio: the pipeline's to the engine alone; the moving gamma's to the pipeline's"
    )?;
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
