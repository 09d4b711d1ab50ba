//! `make demo`: a clip shot with a shaking hand goes through `filesrc ! decodebin ! osdddeblur`, and what comes out is
//! compared with what went in and with the truth, which is known because this program draws the scene.
//!
//! With `--input FILE` the clip is the user's own, and there is no truth.

mod camera;
mod draw;
mod media;
mod picture;
mod scene;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use osdd::frame::Frame;
use osdd::metrics::{mean_gradient, psnr};

use camera::Shot;
use picture::Row;

/// Deblurs a drawn street scene, or a video of yours, and shows before and after.
#[derive(Parser)]
struct Arguments {
    /// A video file; without it the demo draws its own
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Folder for the videos and the picture
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    out: PathBuf,
    /// 1 = fidelity, lower = more generated detail
    #[arg(long, default_value_t = 0.7, value_parser = gamma)]
    gamma: f64,
}

fn gamma(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(gamma) if (0.0..=1.0).contains(&gamma) => Ok(gamma),
        _ => Err("gamma is a number from 0 to 1".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = media::init().and_then(|()| {
        let out = &arguments.out;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        match &arguments.input {
            Some(input) => own_footage(input, &arguments),
            None => drawn_scene(&arguments),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Draws the scene, deblurs it and measures against the truth.
fn drawn_scene(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let shots = camera::shoot(&scene::street(), &scene::van());
    let mut extents: Vec<f32> = shots.iter().map(|shot| shot.extent_px).collect();
    extents.sort_by(f32::total_cmp);
    let median = extents[extents.len() / 2];
    println!(
        "drew {} frames of {}x{} in {:.1} s; blur {:.0} to {:.0} px, median {median:.0} px",
        shots.len(),
        camera::WIDTH,
        camera::HEIGHT,
        started.elapsed().as_secs_f64(),
        extents[0],
        extents[extents.len() - 1],
    );
    let blurry = arguments.out.join("blurry.mp4");
    media::encode(
        shots.iter().map(|shot| &shot.blurry),
        camera::FRAMES_PER_SECOND,
        &blurry,
    )?;

    let mut before = Vec::new();
    media::decode(&blurry, |frame| {
        before.push(frame);
        Ok(())
    })?;
    let mut after = Vec::new();
    let speed = deblur(&blurry, arguments, shots.len(), |frame| after.push(frame))?;
    for (what, frames) in [("decoded", &before), ("deblurred", &after)] {
        ensure!(
            frames.len() == shots.len(),
            "{} frames went in, {} {what} frames came out",
            shots.len(),
            frames.len()
        );
    }

    let truth = || shots.iter().map(|shot| &shot.truth);
    let mean_psnr = |frames: &[Frame]| -> osdd::Result<f64> {
        let sum: f64 = frames
            .iter()
            .zip(truth())
            .map(|(frame, truth)| psnr(frame, truth))
            .sum::<osdd::Result<_>>()?;
        Ok(sum / frames.len() as f64)
    };
    let (psnr_before, psnr_after) = (mean_psnr(&before)?, mean_psnr(&after)?);
    let all_edges = truth().map(mean_gradient).sum::<f64>() / 100.0;
    let share = |frames: &[Frame]| frames.iter().map(mean_gradient).sum::<f64>() / all_edges;
    let (edges_before, edges_after) = (share(&before), share(&after));
    let gain = psnr_after - psnr_before;
    println!("PSNR    {psnr_before:.2} dB before, {psnr_after:.2} dB after ({gain:+.2} dB)");
    println!("edges   {edges_before:.0} % of the truth's before, {edges_after:.0} % after");
    println!("frames  {} in, {} out", before.len(), after.len());
    println!("speed   {speed:.1} frames/s");
    println!("{}", verdict(gain, edges_after - edges_before));

    let titles = [
        format!("BEFORE {psnr_before:.2} DB"),
        format!("AFTER {psnr_after:.2} DB"),
        "TRUTH".into(),
    ];
    let rows: Vec<Row> = close_ups(&shots, median)
        .into_iter()
        .map(|(i, at)| {
            let cut = |frame| picture::crop(frame, at, CLOSE_UP);
            let (before, after, truth) = (cut(&before[i]), cut(&after[i]), cut(&shots[i].truth));
            let note = |frame: &Frame| psnr(frame, &truth).map(|value| format!("{value:.2} DB"));
            let (left, middle) = (note(&before)?, note(&after)?);
            Ok(Row {
                panels: vec![(before, left), (after, middle), (truth, String::new())],
            })
        })
        .collect::<Result<_>>()?;
    finish(arguments, &titles, &rows)
}

/// What the figures say in words: `gain` in dB, `edges` in percent of the truth's.
fn verdict(gain: f64, edges: f64) -> &'static str {
    match (gain, edges) {
        (..-0.05, 0.5..) => "The clip is sharper, but its PSNR FELL: the added detail is not the truth's.",
        (..-0.05, _) => "The clip is NOT sharper and its PSNR FELL.",
        (0.05.., 0.5..) => "The clip is sharper and nearer to the truth.",
        (0.05.., _) => "The clip is nearer to the truth, but no sharper.",
        (_, 0.5..) => "The clip is sharper, but hardly nearer to the truth.",
        _ => "The clip has hardly changed.",
    }
}

/// Size of a cut-out of the comparison picture.
const CLOSE_UP: (usize, usize) = (288, 168);

/// Frame and place of each landmark. The frame is the one whose blur is nearest to the clip's median among those that
/// hold the whole cut-out: neither the easiest nor the hardest.
fn close_ups(shots: &[Shot], median: f32) -> Vec<(usize, (f32, f32))> {
    let (w, h) = (CLOSE_UP.0 as f32 / 2.0, CLOSE_UP.1 as f32 / 2.0);
    let whole = |(x, y): (f32, f32)| {
        (w..camera::WIDTH as f32 - w).contains(&x) && (h..camera::HEIGHT as f32 - h).contains(&y)
    };
    let unusual = |i: usize| (shots[i].extent_px - median).abs();
    let typical = |landmark: usize| {
        let places = shots
            .iter()
            .enumerate()
            .map(|(i, shot)| (i, shot.landmarks()[landmark]));
        places
            .filter(|&(_, at)| whole(at))
            .min_by(|a, b| unusual(a.0).total_cmp(&unusual(b.0)))
    };
    (0..Shot::LANDMARKS).filter_map(typical).collect()
}

/// Deblurs the user's file and puts a few of its frames side by side.
fn own_footage(input: &Path, arguments: &Arguments) -> Result<()> {
    // GStreamer's own message about a missing file is longer and says less.
    std::fs::File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
    let mut before = Thinned::default();
    let mut edges_before = 0.0;
    media::decode(input, |frame| {
        edges_before += mean_gradient(&frame);
        before.push(frame);
        Ok(())
    })?;
    let mut after = Thinned::default();
    let mut edges_after = 0.0;
    let speed = deblur(input, arguments, before.seen, |frame| {
        edges_after += mean_gradient(&frame);
        after.push(frame);
    })?;
    println!(
        "edges   {:+.1} % contrast",
        100.0 * (edges_after / edges_before.max(1e-9) - 1.0)
    );
    println!("frames  {} in, {} out", before.seen, after.seen);
    println!("speed   {speed:.1} frames/s");
    let rows: Vec<Row> = before
        .frames
        .iter()
        .zip(&after.frames)
        .map(|(before, after)| {
            let cut = |frame: &Frame| {
                let centre = (frame.width as f32 / 2.0, frame.height as f32 / 2.0);
                (picture::crop(frame, centre, (480, 270)), String::new())
            };
            Row {
                panels: vec![cut(before), cut(after)],
            }
        })
        .collect();
    finish(
        arguments,
        &["BEFORE".into(), format!("AFTER AT GAMMA {}", arguments.gamma)],
        &rows,
    )
}

/// A few frames spread over a clip of unknown length: every `step`-th, with `step` doubled whenever there are too many.
#[derive(Default)]
struct Thinned {
    frames: Vec<Frame>,
    seen: usize,
    doublings: u32,
}

impl Thinned {
    const MOST: usize = 6;

    fn push(&mut self, frame: Frame) {
        if self.seen.is_multiple_of(1 << self.doublings) {
            self.frames.push(frame);
        }
        self.seen += 1;
        if self.frames.len() > Self::MOST {
            let mut index = 0;
            self.frames.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.doublings += 1;
        }
    }
}

/// Runs the element's pipeline with a progress bar (on a terminal only); returns frames per second.
fn deblur(input: &Path, arguments: &Arguments, frames: usize, mut visit: impl FnMut(Frame)) -> Result<f64> {
    let gamma = arguments.gamma;
    println!(
        "filesrc location={} ! decodebin ! osdddeblur gamma={gamma} ! ...",
        input.display()
    );
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left")?;
    let bar = ProgressBar::new(frames as u64).with_style(style);
    let speed = media::deblur(input, gamma, &arguments.out.join("deblurred.mp4"), |frame| {
        bar.inc(1);
        visit(frame);
        Ok(())
    });
    bar.finish_and_clear();
    speed
}

fn finish(arguments: &Arguments, titles: &[String], rows: &[Row]) -> Result<()> {
    let picture = arguments.out.join("compare.png");
    picture::write(&picture, titles, rows)?;
    println!("video   {}", arguments.out.join("deblurred.mp4").display());
    println!("picture {}", picture.display());
    Ok(())
}
