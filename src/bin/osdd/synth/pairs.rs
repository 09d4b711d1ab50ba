//! Makes the pairs and writes their files, on all cores.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use image::{GrayImage, ImageFormat, RgbImage};
use osdd::data::{LocalKernel, Sample, Sources};
use rayon::prelude::*;
use serde::de::IgnoredAny;

use super::jobs::Job;
use super::record::{KernelFile, KernelRecord, PairRecord};
use super::settings::Settings;
use crate::output::PendingFile;
use crate::progress::Progress;
use crate::{interrupt, report};

/// Kernels of a rotation are given at this many places in each direction.
const GRID: usize = 3;

const FOLDERS: [&str; 3] = ["blurry", "sharp", "kernels"];

/// Makes what is not there yet; gives the records of all pairs.
///
/// # Errors
/// A file cannot be written, or the user asked to stop.
pub(super) fn make(
    out: &Path,
    sources: &Sources,
    settings: &Settings,
    jobs: &[Job],
) -> Result<Vec<PairRecord>> {
    for folder in FOLDERS {
        let path = out.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let progress = Mutex::new(Progress::new(
        "synth".to_owned(),
        "pairs",
        Some(jobs.len() as u64),
    ));
    let made = AtomicU64::new(0);
    let records: Result<Vec<PairRecord>> = jobs
        .par_iter()
        .map(|job| {
            interrupt::check()?;
            let record = match finished(out, job) {
                Some(record) => record,
                None => write(out, job, sources, settings)?,
            };
            let done = made.fetch_add(1, Ordering::Relaxed) + 1;
            progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .update(done, done);
            Ok(record)
        })
        .collect();
    records
}

/// The record of a pair that an earlier run has written: its last file is there.
fn finished(out: &Path, job: &Job) -> Option<PairRecord> {
    let text = fs::read(out.join("kernels").join(job.stem() + ".json")).ok()?;
    let file: KernelFile<IgnoredAny> = serde_json::from_slice(&text).ok()?;
    let pictures = ["blurry", "sharp"].map(|folder| out.join(folder).join(&file.pair.name));
    pictures.iter().all(|path| path.is_file()).then_some(file.pair)
}

fn write(out: &Path, job: &Job, sources: &Sources, settings: &Settings) -> Result<PairRecord> {
    let (recipe, mut rng) = job.recipe(sources, settings);
    let sample = recipe.render(&mut rng);
    let record = PairRecord::new(job, &recipe, sources, &settings.clips);
    let Sample { width, height, .. } = sample;
    let path = |folder: &str| out.join(folder).join(&record.name);
    save(&path("blurry"), |to| {
        to_image(&sample.blurry, width, height).save_with_format(to, ImageFormat::Png)
    })?;
    save(&path("sharp"), |to| {
        to_image(&sample.sharp, width, height).save_with_format(to, ImageFormat::Png)
    })?;
    let kernels = recipe.kernels(GRID);
    if !kernels.is_empty() {
        save(&path("kernels"), |to| {
            picture(&kernels).save_with_format(to, ImageFormat::Png)
        })?;
    }
    let file = KernelFile {
        pair: record,
        kernels: kernels.iter().map(KernelRecord::from).collect::<Vec<_>>(),
    };
    // Last: it says that the pair is complete.
    report::write_json(&out.join("kernels").join(job.stem() + ".json"), &file)?;
    Ok(file.pair)
}

fn save(path: &Path, write: impl FnOnce(&Path) -> image::ImageResult<()>) -> Result<()> {
    let file = PendingFile::create(path)?;
    write(file.temporary()).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

fn to_image(values: &[f32], width: usize, height: usize) -> RgbImage {
    let plane = width * height;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        image::Rgb([0, 1, 2].map(|channel| (values[channel * plane + at] * 255.0 + 0.5) as u8))
    })
}

/// The kernels side by side in cells of equal size, a grid row by row; the brightest tap of each is white.
fn picture(kernels: &[LocalKernel]) -> GrayImage {
    let reach = |kernel: &LocalKernel| {
        let farthest = |tap: &osdd::data::Tap| tap.dx.unsigned_abs().max(tap.dy.unsigned_abs());
        kernel.kernel.taps().iter().map(farthest).max().unwrap_or(0)
    };
    let reach = kernels.iter().map(reach).max().unwrap_or(0) + 1;
    let (cell, columns) = (
        2 * reach + 1,
        if kernels.len() == GRID * GRID {
            GRID
        } else {
            kernels.len()
        },
    );
    let rows = kernels.len().div_ceil(columns);
    let mut image = GrayImage::new(cell * columns as u32, cell * rows as u32);
    for (i, local) in kernels.iter().enumerate() {
        let (left, top) = (
            cell * (i % columns) as u32 + reach,
            cell * (i / columns) as u32 + reach,
        );
        let brightest = local
            .kernel
            .taps()
            .iter()
            .map(|tap| tap.weight)
            .fold(0.0, f32::max);
        for tap in local.kernel.taps() {
            let (x, y) = (left.wrapping_add_signed(tap.dx), top.wrapping_add_signed(tap.dy));
            image.put_pixel(x, y, image::Luma([(tap.weight / brightest * 255.0 + 0.5) as u8]));
        }
    }
    image
}

/// Removes the pairs of an earlier run, and nothing else.
///
/// # Errors
/// New ones are to be made from something in their folders; a file cannot be removed.
pub(super) fn remove<'a>(out: &Path, mut sources: impl Iterator<Item = &'a Path>) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folders = FOLDERS.map(|folder| real(&out.join(folder)));
    if let Some(source) = sources.find(|source| folders.iter().any(|folder| real(source).starts_with(folder)))
    {
        bail!(
            "{} is in the folder whose pairs are to be replaced; choose another --out",
            source.display()
        );
    }
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(out.join(folder)) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let digits = name.bytes().take_while(u8::is_ascii_digit).count();
            let ours = digits >= 6 && name[digits..].starts_with('_');
            if ours && (name.ends_with(".png") || name.ends_with(".json")) {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    Ok(())
}
