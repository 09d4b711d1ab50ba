//! How fast pairs are made: the same samples as for training, on all cores, without writing them.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use osdd::data::{Image8, MixConfig, MixWeights, SampleKind, Sources, sample};
use rayon::prelude::*;

use super::SynthArgs;
use super::settings::Settings;
use crate::{interrupt, report};

/// Side of the measured crops in px.
const CROP: usize = 128;

/// Each kind is measured for this long.
const TIME: Duration = Duration::from_secs(3);

/// Pairs between two looks at the clock.
const BATCH: u64 = 64;

pub(super) fn run(args: &SynthArgs, settings: &Settings) -> Result<()> {
    let mut sources = super::read_sources(args)?;
    if sources.photos.is_empty() && sources.clips.is_empty() {
        sources.photos = (0..8).map(made_up).collect();
    }
    let kinds = if args.kinds.is_empty() {
        vec![SampleKind::Trajectory, SampleKind::Rotation, SampleKind::Layered]
    } else {
        args.kinds.clone()
    };
    let threads = rayon::current_num_threads();
    let [low, high] = settings.mix.extent_px;
    let mut table = format!("pairs of {CROP}x{CROP}, blur of {low} to {high} px, {threads} threads\n");
    writeln!(
        table,
        "{:<12} {:>9} {:>22}",
        "kind", "pairs/s", "CPU time of a pair"
    )?;
    for kind in kinds {
        let mut weights = MixWeights::NONE;
        *weights.get_mut(kind) = 1.0;
        let mix = MixConfig {
            crop_size: CROP,
            weights,
            ..settings.mix.clone()
        };
        mix.check_sources(&sources)?;
        let (rate, cpu) = measure(&sources, &mix)?;
        writeln!(table, "{:<12} {rate:>9.1} {:>19.2} ms", kind.name(), 1e3 * cpu)?;
    }
    report::print(&table)
}

/// Pairs per second, and seconds of CPU time for each.
fn measure(sources: &Sources, mix: &MixConfig) -> Result<(f64, f64)> {
    let make = |from: u64| {
        let made = |index| sample(sources, mix, index).blurry.len();
        (from..from + BATCH).into_par_iter().map(made).sum::<usize>()
    };
    // Tables and threads come to life.
    make(0);
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut count = 0;
    while start.elapsed() < TIME {
        interrupt::check()?;
        std::hint::black_box(make(BATCH + count));
        count += BATCH;
    }
    let (wall, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
    Ok((
        count as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() / count as f64,
    ))
}

/// CPU time of all threads of this process so far.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock writes into `time` and keeps no pointer to it.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A photograph's worth of texture, so that nothing need be on the disk.
fn made_up(seed: usize) -> Image8 {
    const WIDTH: usize = 1280;
    const HEIGHT: usize = 720;
    let level = |i: usize| {
        let (x, y) = (i / 3 % WIDTH, i / 3 / WIDTH);
        ((x * (seed + 3) / 7) ^ (y * 5 / (seed + 2)) ^ (i * 7919 % 31)) as u8
    };
    Image8::new(WIDTH, HEIGHT, (0..WIDTH * HEIGHT * 3).map(level).collect()).expect("three bytes a pixel")
}
