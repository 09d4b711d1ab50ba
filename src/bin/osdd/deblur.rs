//! `osdd deblur`: runs a plan job by job. A file that cannot be read is named and skipped; the exit code tells at the end.

use std::path::Path;

use anyhow::{Error, Result, anyhow};
use osdd::engine::{Engine, EngineConfig};

use crate::args::DeblurArgs;
use crate::images::{self, Step};
use crate::interrupt::{self, Interrupted};
use crate::plan::{Job, Plan, Target};
use crate::progress::Progress;
use crate::{report, video};

pub(crate) fn run(args: DeblurArgs) -> Result<()> {
    let config = EngineConfig {
        reuse_threshold: args.reuse_threshold,
        skip_sharp: args.skip_sharp,
        ..args.engine.config(args.gamma, args.strength)?
    };
    let plan = Plan::new(&args)?;
    if !plan.folders.is_empty() {
        report::note(format_args!(
            "folders in folders are not searched: {}",
            names(&plan.folders)
        ));
    }
    if !plan.ignored.is_empty() {
        report::note(format_args!(
            "ignored, neither images nor videos: {}",
            names(&plan.ignored)
        ));
    }
    if plan.finished > 0 {
        report::note(format_args!(
            "{} finished before, with the settings of that run",
            count(plan.finished, "file")
        ));
    }
    let total = plan.jobs.len() + plan.rejected.len();
    // One file that fails is the error; among several it is named in passing and counted at the end.
    let single = total == 1 && plan.rejected.is_empty();
    for (path, error) in &plan.rejected {
        skipped(path, error);
    }
    let mut failed = plan.rejected.len();

    let (images, videos): (Vec<Job>, Vec<Job>) = plan
        .jobs
        .into_iter()
        .partition(|job| matches!(job.target, Target::Image(_)));
    if !images.is_empty() {
        let engine = Engine::new(config)?;
        failed += deblur_images(&engine, &images, &args, single)?;
    }
    for job in &videos {
        interrupt::check()?;
        let Target::Video(container) = job.target else {
            continue;
        };
        match video::deblur(&job.input, &job.output, container, &args) {
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) if single => return Err(error),
            Err(error) => {
                skipped(&job.input, &error);
                failed += 1;
            }
            Ok(()) => {}
        }
    }
    if failed > 0 {
        Err(anyhow!("{failed} of {} failed", count(total, "file")))
    } else {
        Ok(())
    }
}

/// How many of the images failed.
fn deblur_images(engine: &Engine, jobs: &[Job], args: &DeblurArgs, single: bool) -> Result<usize> {
    let label = match jobs {
        [job] => job.input.display().to_string(),
        _ => count(jobs.len(), "image"),
    };
    let mut progress = Progress::new(label, "images", Some(jobs.len() as u64));
    let mut failed = 0;
    for (index, job) in jobs.iter().enumerate() {
        let Target::Image(format) = job.target else {
            continue;
        };
        match images::deblur(engine, &job.input, &job.output, format, args.compare) {
            Ok(()) => {}
            // What stops the engine stops every image after it.
            Err(Step::Engine(error)) => {
                if error.is::<Interrupted>() {
                    let written = index - failed;
                    progress.line(|| {
                        report::warning(format_args!(
                            "interrupted: {written} of {} written; --resume goes on",
                            count(jobs.len(), "image")
                        ));
                    });
                }
                return Err(error);
            }
            Err(Step::File(error)) if single => return Err(error),
            Err(Step::File(error)) => {
                progress.line(|| skipped(&job.input, &error));
                failed += 1;
            }
        }
        let done = (index + 1) as u64;
        progress.update(done, done);
    }
    let written = jobs.len() - failed;
    if written > 0 {
        let rate = progress.finish(written as u64);
        report::note(format_args!(
            "{} written, {rate:.2} images/s",
            count(written, "image")
        ));
    }
    Ok(failed)
}

fn skipped(path: &Path, error: &Error) {
    let cause = report::one_line(error);
    if cause.contains(&*path.to_string_lossy()) {
        report::warning(format_args!("skipped: {cause}"));
    } else {
        report::warning(format_args!("skipped {}: {cause}", path.display()));
    }
}

/// The first few of many.
fn names(paths: &[impl AsRef<Path>]) -> String {
    const SHOWN: usize = 3;
    let mut text = paths
        .iter()
        .take(SHOWN)
        .map(|path| path.as_ref().display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
