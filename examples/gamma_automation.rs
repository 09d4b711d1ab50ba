//! Gamma on a curve: a GstController control source moves it along the time of the stream.
//!
//! ```text
//! cargo run --release --example gamma_automation -- [FILE] [--headless]
//! ```
//!
//! Unlike a thread that sets the property, the curve belongs to the video: each frame gets the value of its own
//! timestamp, however fast the pipeline runs and wherever somebody seeks to.
//!
//! GStreamer must find the plugin: `make install`, or GST_PLUGIN_PATH=target/release.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gst_controller::prelude::*;

/// Gamma at times of the stream, in seconds; between them it moves in a straight line.
const CURVE: [(u64, f64); 4] = [(0, 1.0), (2, 1.0), (4, 0.2), (6, 0.8)];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gamma_automation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut file, mut sink) = (None, "autovideosink");
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--headless" => sink = "fakesink",
            "-h" | "--help" => {
                println!("usage: gamma_automation [FILE] [--headless]");
                return Ok(());
            }
            _ => file = Some(argument),
        }
    }
    gst::init()?;

    let source = match &file {
        Some(_) => "filesrc name=source ! decodebin",
        None => "videotestsrc pattern=ball num-buffers=120 ! video/x-raw,width=320,height=240,framerate=15/1",
    };
    let launch = format!("{source} ! queue ! osdddeblur name=deblur compare=split ! videoconvert ! {sink}");
    let pipeline =
        gst::parse::launch(&launch).context("cannot build the pipeline; is the plugin installed?")?;
    let pipeline = pipeline
        .downcast::<gst::Pipeline>()
        .expect("several elements make a pipeline");
    let deblur = pipeline.by_name("deblur").expect("the launch line names it");
    if let Some(file) = file {
        let source = pipeline.by_name("source").expect("the launch line names it");
        source.set_property("location", file);
    }

    automate(&deblur)?;
    let played = play(&pipeline, &deblur);
    pipeline.set_state(gst::State::Null)?;
    played
}

/// Binds the curve to the property. A control source of values from 0 to 1 fits gamma as it is, hence "absolute".
fn automate(deblur: &gst::Element) -> Result<()> {
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::Linear);
    for (seconds, gamma) in CURVE {
        if !source.set(gst::ClockTime::from_seconds(seconds), gamma) {
            bail!("the control source takes no value for second {seconds}");
        }
    }
    let binding = gst_controller::DirectControlBinding::new_absolute(deblur, "gamma", &source);
    deblur.add_control_binding(&binding)?;
    Ok(())
}

/// Plays to the end and prints twice a second how far it is, and gamma as the element has it.
fn play(pipeline: &gst::Pipeline, deblur: &gst::Element) -> Result<()> {
    use gst::MessageType::{Eos, Error, Latency, Warning};

    let bus = pipeline.bus().expect("a pipeline has a bus");
    // Where the state change fails, the message that says why is on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    loop {
        let message = bus.timed_pop_filtered(
            gst::ClockTime::from_mseconds(500),
            &[Eos, Error, Warning, Latency],
        );
        let Some(message) = message else {
            let position = pipeline.query_position::<gst::ClockTime>().unwrap_or_default();
            println!("{position:.1}  gamma {:.2}", deblur.property::<f64>("gamma"));
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(error) => bail!("{}", error.error()),
            gst::MessageView::Warning(warning) => eprintln!("warning: {}", warning.error()),
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => {}
        }
    }
}
