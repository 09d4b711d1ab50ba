//! One image through the engine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use image::ImageFormat;
use osdd::compare::{label, side_by_side, split};
use osdd::engine::{Engine, Output};
use osdd::frame::Frame;

use crate::args::Compare;
use crate::interrupt;
use crate::output::PendingFile;
use crate::{picture, report};

/// What is said of a model's output that cannot be used.
pub(crate) const NOT_FINITE: &str = "the model gave numbers that are not finite, and those tiles show the input; try --precision fp32, or another model";

/// Where it went wrong: with this file, or with the engine that all files need.
pub(crate) enum Step {
    File(Error),
    Engine(Error),
}

/// # Errors
/// The input cannot be read, the output cannot be written, or the engine failed.
pub(crate) fn deblur(
    engine: &Engine,
    input: &Path,
    output: &Path,
    format: ImageFormat,
    compare: Compare,
) -> Result<(), Step> {
    interrupt::check().map_err(|stop| Step::Engine(stop.into()))?;
    // Labels are to be read, and the border to stand.
    let upright = compare != Compare::Off;
    let (frame, origin) = picture::read(input, upright).map_err(Step::File)?;
    let cannot_write = || format!("cannot write {}", output.display());
    picture::check(&frame, format)
        .with_context(cannot_write)
        .map_err(Step::File)?;
    let file = PendingFile::create(output).map_err(Step::File)?;
    let result = run(engine, frame)
        .with_context(|| format!("cannot deblur {}", input.display()))
        .map_err(Step::Engine)?;
    if result.tiles_failed > 0 {
        report::warning(format_args!("{}: {NOT_FINITE}", input.display()));
    }
    let mut frame = result.frame;
    match compare {
        Compare::Off => {}
        Compare::Split => {
            let border = split(&mut frame, &result.input, 0.5);
            label(&mut frame, border);
        }
        Compare::SideBySide => {
            let border = frame.width;
            frame =
                side_by_side(&frame, &result.input, Vec::new()).map_err(|error| Step::File(error.into()))?;
            label(&mut frame, border);
        }
    }
    origin
        .write(frame, file.temporary(), format)
        .with_context(cannot_write)
        .and_then(|()| file.commit())
        .map_err(Step::File)
}

/// One frame through an idle engine.
///
/// # Errors
/// The engine failed, or the user asked to stop.
pub(crate) fn run(engine: &Engine, frame: Frame) -> Result<Output> {
    engine.send(frame).map_err(osdd::Error::from)?;
    // Not the blocking receive(): a large image takes long on a CPU, and Ctrl-C must not wait for it.
    loop {
        if let Some(output) = engine.try_receive()? {
            return Ok(output);
        }
        if let Err(stop) = interrupt::check() {
            engine.flush();
            return Err(stop.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
