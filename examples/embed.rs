//! The element in a program: deblurs a test picture or a video file and moves gamma while it plays.
//!
//! ```text
//! cargo run --release --example embed -- [FILE] [--headless]
//! ```
//!
//! GStreamer must find the plugin: `make install`, or GST_PLUGIN_PATH=target/release.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

fn main() -> Result<()> {
    let (mut file, mut sink) = (None, "autovideosink");
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--headless" => sink = "fakesink sync=true",
            "-h" | "--help" => {
                println!("usage: embed [FILE] [--headless]");
                return Ok(());
            }
            _ => file = Some(argument),
        }
    }
    gst::init()?;

    let source = match &file {
        Some(_) => "filesrc name=source ! decodebin",
        None => "videotestsrc pattern=ball num-buffers=150 ! video/x-raw,width=320,height=240,framerate=15/1",
    };
    // The element takes any common format; a sink may want another, hence videoconvert behind it.
    let launch = format!("{source} ! queue ! osdddeblur name=deblur ! videoconvert ! {sink}");
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

    // Gamma may be set from any thread at any time; the next frame that starts uses it.
    let (stop, stopped) = channel::<()>();
    let mover = thread::spawn({
        let deblur = deblur.clone();
        move || {
            let started = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(100)) {
                // Between most detail (0) and most fidelity (1), there and back in eight seconds.
                let phase = started.elapsed().as_secs_f64() / 8.0 * std::f64::consts::TAU;
                deblur.set_property("gamma", 0.5 + 0.5 * phase.cos());
            }
        }
    });

    let played = play(&pipeline, &deblur);
    pipeline.set_state(gst::State::Null)?;
    drop(stop);
    mover.join().expect("the thread that moves gamma does not panic");
    played
}

/// Plays to the end and prints the element's figures once a second.
fn play(pipeline: &gst::Pipeline, deblur: &gst::Element) -> Result<()> {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    if pipeline.set_state(gst::State::Playing).is_err() {
        // The message that says why is on the bus already.
        match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => finished(pipeline, &message)?,
            None => bail!("the pipeline does not start"),
        };
    }
    use gst::MessageType::{Eos, Error, Latency, Warning};
    loop {
        match bus.timed_pop_filtered(gst::ClockTime::SECOND, &[Eos, Error, Warning, Latency]) {
            Some(message) if finished(pipeline, &message)? => break,
            Some(_) => {}
            None => println!("gamma {:.2}  {}", deblur.property::<f64>("gamma"), stats(deblur)),
        }
    }
    println!("finished  {}", stats(deblur));
    Ok(())
}

/// Handles one message; true at the end of the stream.
fn finished(pipeline: &gst::Pipeline, message: &gst::Message) -> Result<bool> {
    match message.view() {
        gst::MessageView::Eos(_) => return Ok(true),
        gst::MessageView::Error(error) => bail!("{}\n{}", error.error(), error.debug().unwrap_or_default()),
        gst::MessageView::Warning(warning) => eprintln!("warning: {}", warning.error()),
        // The element needs more or less time than it said: let the sinks know.
        gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
        _ => {}
    }
    Ok(false)
}

/// A few of the figures that the element keeps; `gst-inspect-1.0 osdddeblur` names them all.
fn stats(deblur: &gst::Element) -> String {
    let stats: gst::Structure = deblur.property("stats");
    let number = |name: &str| stats.get::<u64>(name).unwrap_or_default();
    let device = stats.get::<String>("device").unwrap_or_default();
    format!(
        "{} frames in, {} out, {:.0} ms each on {device}",
        number("frames-in"),
        number("frames-out"),
        number("time-total") as f64 / 1e6,
    )
}
