//! Runs a pipeline to its end, with progress, and tells what was done to the frames on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;

use super::bus::{self, Messages};
use super::pipeline::Pipeline;
use crate::progress::Progress;
use crate::{interrupt, report};

pub(crate) struct Outcome {
    pub frames: u64,
    /// Frames per second.
    pub rate: f64,
}

#[derive(Default)]
struct Counters {
    decoded: AtomicU64,
    deblurred: AtomicU64,
    /// Where the last frame ends, in nanoseconds.
    end: AtomicU64,
}

/// # Errors
/// The pipeline failed, gave no frame, or the user asked to stop.
pub(crate) fn to_the_end(
    pipeline: &Pipeline,
    label: String,
    duration: Option<gst::ClockTime>,
) -> Result<Outcome> {
    let counters = count(pipeline);
    let mut progress = Progress::new(label, "frames", duration.map(gst::ClockTime::nseconds));
    let result = play(pipeline, &counters, &mut progress);
    let state = pipeline.pipeline.set_state(gst::State::Null);
    result?;
    state.context("cannot stop the pipeline")?;
    let [decoded, frames] =
        [&counters.decoded, &counters.deblurred].map(|counter| counter.load(Ordering::Relaxed));
    ensure!(frames > 0, "it has no video frames");
    if frames != decoded {
        progress.line(|| report::warning(format_args!("{decoded} frames were decoded and {frames} written")));
    }
    let end = gst::ClockTime::from_nseconds(counters.end.load(Ordering::Relaxed));
    // Sound may be a little longer than its video.
    let more = |duration: gst::ClockTime| {
        duration.mul_div_floor(1, 50).unwrap_or_default() + gst::ClockTime::from_mseconds(500)
    };
    if let Some(duration) = duration.filter(|duration| end + more(*duration) < *duration) {
        progress.line(|| {
            report::warning(format_args!(
                "the file says that it lasts {:.1} s, and its video ended after {:.1} s; is it cut short?",
                duration.mseconds() as f64 / 1e3,
                end.mseconds() as f64 / 1e3
            ));
        });
    }
    Ok(Outcome {
        frames,
        rate: progress.finish(frames - pipeline.kept),
    })
}

fn play(pipeline: &Pipeline, counters: &Counters, progress: &mut Progress) -> Result<()> {
    let bus = pipeline.pipeline.bus().context("the pipeline has no bus")?;
    let mut messages = Messages::default();
    let mut formats_told = false;
    let mut reached = None;
    // What cannot start posts an error with the reason.
    let _ = pipeline.pipeline.set_state(gst::State::Playing);
    loop {
        interrupt::check()?;
        let frames = counters.deblurred.load(Ordering::Relaxed);
        let position = pipeline.decoded.peer_query_position::<gst::ClockTime>();
        // Elements that are done do not know where they are.
        reached = reached.max(position);
        let own = frames - pipeline.kept;
        progress.update(reached.map_or(0, gst::ClockTime::nseconds), own);
        if own > 0 && !formats_told {
            formats_told = true;
            progress.line(|| tell_formats(pipeline));
        }
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(message) => return Err(messages.error(message)),
            gst::MessageView::Warning(message) => {
                if let Some(warning) = bus::warning(message) {
                    progress.line(|| report::warning(format_args!("{}: {warning}", progress.label())));
                }
            }
            gst::MessageView::Element(message) => messages.note_missing(message),
            gst::MessageView::Latency(_) => {
                let _ = pipeline.pipeline.recalculate_latency();
            }
            _ => {}
        }
    }
}

fn count(pipeline: &Pipeline) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    counters.deblurred.store(pipeline.kept, Ordering::Relaxed);
    let decoded = Arc::clone(&counters);
    let (kept, ready) = (pipeline.kept, pipeline.ready.downgrade());
    pipeline
        .decoded
        .add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            let index = decoded.decoded.fetch_add(1, Ordering::Relaxed);
            if let Some(pts) = probe.buffer().and_then(|buffer| buffer.pts()) {
                let duration = probe.buffer().and_then(|buffer| buffer.duration());
                let end = pts + duration.unwrap_or(gst::ClockTime::ZERO);
                decoded.end.fetch_max(end.nseconds(), Ordering::Relaxed);
            }
            if index + 1 == kept
                && let Some(ready) = ready.upgrade()
            {
                // From here on the decoder may have to wait for the muxer.
                ready.set_property("max-size-bytes", 0_u32);
            }
            if index < kept {
                // As `probe::discard` does.
                gst::PadProbeReturn::Handled
            } else {
                gst::PadProbeReturn::Ok
            }
        });
    let deblurred = Arc::clone(&counters);
    pipeline
        .deblurred
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            deblurred.deblurred.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    counters
}

/// What an encoder does not take has to be converted, and that is worth a word.
fn tell_formats(pipeline: &Pipeline) {
    let caps = [&pipeline.decoded, &pipeline.encoded].map(|pad| pad.current_caps());
    let [Some(decoded), Some(encoded)] = &caps else {
        return;
    };
    let format = |caps: &gst::Caps| {
        caps.structure(0)
            .and_then(|video| video.get::<String>("format").ok())
    };
    if let (Some(from), Some(to)) = (format(decoded), format(encoded)) {
        // These hold the same samples in another order.
        let planar = |format: &str| matches!(format, "I420" | "YV12" | "NV12" | "NV21");
        if from != to && !(planar(&from) && planar(&to)) {
            report::note(format_args!("{from} frames are encoded as {to}"));
        }
    }
}
