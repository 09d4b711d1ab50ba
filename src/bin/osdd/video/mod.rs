//! `osdd deblur` for video files: what is in the file ([`probe`]), what becomes of each stream ([`streams`]), the
//! GStreamer pipeline that does it ([`pipeline`]), its run to the end ([`run`]), and what a run that was interrupted leaves
//! for the next ([`journal`]).

mod bus;
mod container;
pub(crate) mod element;
mod journal;
mod pipeline;
mod probe;
mod run;
mod streams;
mod subtitles;

use std::path::Path;

use anyhow::{Context, Result};

pub(crate) use bus::Messages;
pub(crate) use container::Container;
use journal::Journal;

use crate::args::DeblurArgs;
use crate::interrupt::Interrupted;
use crate::output::PendingFile;
use crate::report;

/// Deblurs the video stream of `input` into `output`; every other stream comes along where the container takes it. Goes on
/// from what an interrupted run has left.
///
/// # Errors
/// The input is no video, GStreamer lacks something, an interrupted run's frames are in the way, or the user asked to stop.
pub(crate) fn deblur(input: &Path, output: &Path, container: Container, args: &DeblurArgs) -> Result<()> {
    element::load()?;
    let probe = probe::probe(input).with_context(|| format!("cannot read {}", input.display()))?;
    let plan = streams::Plan::new(&probe, container)
        .with_context(|| format!("cannot deblur {}", input.display()))?;
    for note in &plan.notes {
        report::warning(format_args!("{}: {note}", input.display()));
    }
    let file = PendingFile::create(output)?;
    let journal = Journal::open(input, output, container, args)?;
    let label = input
        .file_name()
        .unwrap_or(input.as_os_str())
        .to_string_lossy()
        .into_owned();
    let outcome = pipeline::build(input, file.temporary(), container, &plan, &journal, args)
        .and_then(|pipeline| run::to_the_end(&pipeline, label, probe.duration))
        .with_context(|| format!("cannot deblur {}", input.display()))
        .and_then(|outcome| file.commit().map(|()| outcome));
    let outcome = match outcome {
        Ok(outcome) => {
            journal.remove();
            outcome
        }
        Err(error) => {
            match journal.close() {
                Ok(0) if error.is::<Interrupted>() => {
                    report::warning(format_args!(
                        "interrupted: nothing of {} is kept",
                        input.display()
                    ));
                }
                Ok(0) => {}
                Ok(frames) => report::warning(format_args!(
                    "{frames} frames of {} are kept: --resume goes on from there",
                    input.display()
                )),
                Err(unread) => report::warning(report::one_line(&unread)),
            }
            return Err(error);
        }
    };
    report::note(format_args!(
        "{}: {} frames, {:.2} frames/s",
        output.display(),
        outcome.frames,
        outcome.rate
    ));
    Ok(())
}
