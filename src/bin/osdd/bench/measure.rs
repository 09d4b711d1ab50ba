//! One measurement of `osdd bench`, in a process of its own. All kinds take the rate between the completion of the last
//! warm-up frame and that of the last frame, so that their figures can be compared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use osdd::engine::{Engine, EngineConfig, SendError, StageTimes};
use osdd::frame::{Frame, PixelFormat};

use super::{Sample, Stages, median};
use crate::args::{BenchArgs, Measurement, Size};
use crate::hardware::peak_memory_mib;
use crate::interrupt;
use crate::video::element;

/// Frames after which memory, caches and clock rates have settled.
const WARM_UP: usize = 4;
/// Frames of which each goes alone.
const LATENCIES: usize = 5;

pub(super) fn run(measurement: Measurement, size: Size, args: &BenchArgs) -> Result<Sample> {
    match measurement {
        Measurement::Engine => engine(size, args),
        Measurement::Pipeline => pipeline(size, args, false),
        Measurement::MovingGamma => pipeline(size, args, true),
        Measurement::Model => unreachable!("it gives no frames"),
    }
}

fn engine(size: Size, args: &BenchArgs) -> Result<Sample> {
    let engine = Engine::new(args.engine.config(args.gamma, 1.0)?)?;
    let frames = args.frames as usize;
    let mut spare: Vec<Frame> = (0..engine.depth()).map(|index| pattern(size, index)).collect();
    let mut sent = 0;
    let mut ends = Vec::with_capacity(frames);
    let mut times = StageTimes::default();
    while ends.len() < frames {
        interrupt::check()?;
        while sent < frames {
            let Some(frame) = spare.pop() else { break };
            match engine.send(frame) {
                Ok(_) => sent += 1,
                Err(SendError::Full(frame)) => {
                    spare.push(frame);
                    break;
                }
                Err(SendError::Failed(_, error)) => return Err(error.into()),
            }
        }
        let output = engine.receive()?.context("the engine lost a frame")?;
        ends.push(Instant::now());
        if ends.len() > WARM_UP {
            times.upload += output.times.upload;
            times.model += output.times.model;
            times.blend += output.times.blend;
            times.download += output.times.download;
            times.total += output.times.total;
        }
        spare.push(output.input);
    }
    let info = engine.info().clone();
    let gpu_peak = engine.stats().gpu_memory_peak;
    drop(engine);
    let mean_ms = |sum: Duration| 1e3 * sum.as_secs_f64() / (frames - WARM_UP) as f64;
    Ok(Sample {
        frames_in: sent as u64,
        frames_out: ends.len() as u64,
        frames_per_second: rate(&ends)?,
        peak_memory_mib: peak_memory_mib(),
        peak_gpu_memory_mib: gpu_peak.map(|bytes| bytes >> 20),
        model: info.model.clone(),
        device: info.device.to_string(),
        precision: info.precision.to_string(),
        tile_size: info.tile_size,
        tile_overlap: info.tile_overlap,
        latency_ms: Some(latency_ms(size, args)?),
        stages: Some(Stages {
            upload_ms: mean_ms(times.upload),
            model_ms: mean_ms(times.model),
            blend_ms: mean_ms(times.blend),
            download_ms: mean_ms(times.download),
            total_ms: mean_ms(times.total),
        }),
        convert_ms: None,
    })
}

/// From a frame's going into an engine that has nothing else to do to its coming out, median.
fn latency_ms(size: Size, args: &BenchArgs) -> Result<f64> {
    let config = args.engine.config(args.gamma, 1.0)?;
    let engine = Engine::new(EngineConfig { depth: 1, ..config })?;
    let mut frame = pattern(size, 0);
    let mut times = Vec::new();
    for _ in 0..WARM_UP + LATENCIES {
        interrupt::check()?;
        let start = Instant::now();
        engine.send(frame)?;
        let output = engine.receive()?.context("the engine lost a frame")?;
        times.push(1e3 * start.elapsed().as_secs_f64());
        frame = output.input;
    }
    Ok(median(times.split_off(WARM_UP)))
}

/// Noise over a ramp, each frame another: nothing that could be reused from the frame before.
fn pattern(size: Size, index: usize) -> Frame {
    let mut frame = Frame::new(size.width, size.height, PixelFormat::Rgb8);
    let mut state = 0x9e37_79b9_u32.wrapping_mul(index as u32 + 1) | 1;
    for (position, sample) in frame.data.iter_mut().enumerate() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *sample = (position / 3 % size.width * 200 / size.width) as u8 + (state % 56) as u8;
    }
    frame
}

fn pipeline(size: Size, args: &BenchArgs, moving_gamma: bool) -> Result<Sample> {
    element::load()?;
    let pipeline = gst::Pipeline::new();
    let source = element::make("videotestsrc")?;
    source.set_property("num-buffers", args.frames as i32);
    source.set_property("horizontal-speed", 7_i32);
    let filter = element::make("capsfilter")?;
    filter.set_property(
        "caps",
        gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", size.width as i32)
            .field("height", size.height as i32)
            .field("framerate", gst::Fraction::new(30, 1))
            .build(),
    );
    let deblur = element::make(element::NAME)?;
    element::configure(&deblur, &args.engine);
    deblur.set_property("gamma", args.gamma);
    let sink = element::make("fakesink")?;
    sink.set_property("sync", false);
    let chain = [&source, &filter, &deblur, &sink];
    pipeline.add_many(chain)?;
    gst::Element::link_many(chain)?;

    let starts = stamps(&deblur, "sink", move |deblur, index| {
        if moving_gamma {
            // What a controller does at the head of every frame: a slow triangle over the whole range.
            let phase = (index % 60) as f64 / 30.0;
            deblur.set_property("gamma", if phase > 1.0 { 2.0 - phase } else { phase });
        }
    })?;
    let ends = stamps(&deblur, "src", |_, _| {})?;
    let result = play(&pipeline);
    let stats = deblur.property::<Option<gst::Structure>>("stats");
    pipeline.set_state(gst::State::Null)?;
    result?;
    let taken = |stamps: &Mutex<Vec<Instant>>| {
        std::mem::take(&mut *stamps.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let (starts, ends) = (taken(&starts), taken(&ends));
    let told = |field: &str, otherwise: &str| {
        stats
            .as_ref()
            .and_then(|stats| stats.get::<String>(field).ok())
            .unwrap_or_else(|| otherwise.to_owned())
    };
    Ok(Sample {
        frames_in: starts.len() as u64,
        frames_out: ends.len() as u64,
        frames_per_second: rate(&ends)?,
        peak_memory_mib: peak_memory_mib(),
        peak_gpu_memory_mib: None,
        model: told("model", &args.engine.model),
        device: told("device", &args.engine.runtime.device.to_string()),
        precision: told("precision", &args.engine.runtime.precision.to_string()),
        tile_size: args.engine.runtime.tile.unwrap_or_default(),
        tile_overlap: args.engine.runtime.overlap.unwrap_or_default(),
        latency_ms: None,
        stages: None,
        convert_ms: stats
            .as_ref()
            .and_then(|stats| stats.get::<u64>("time-convert").ok())
            .map(|ns| ns as f64 / 1e6),
    })
}

/// When each buffer passed the pad.
fn stamps(
    element: &gst::Element,
    pad: &str,
    at_each: impl Fn(&gst::Element, usize) + Send + Sync + 'static,
) -> Result<Arc<Mutex<Vec<Instant>>>> {
    let stamps = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&stamps);
    let weak = element.downgrade();
    element
        .static_pad(pad)
        .with_context(|| format!("the element has no pad {pad}"))?
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(element) = weak.upgrade() {
                at_each(&element, written.len());
            }
            written.push(Instant::now());
            gst::PadProbeReturn::Ok
        });
    Ok(stamps)
}

fn play(pipeline: &gst::Pipeline) -> Result<()> {
    let bus = pipeline.bus().context("the pipeline has no bus")?;
    let messages = crate::video::Messages::default();
    let _ = pipeline.set_state(gst::State::Playing);
    loop {
        interrupt::check()?;
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(message) => return Err(messages.error(message)),
            _ => {}
        }
    }
}

/// Frames per second after the warm-up.
fn rate(ends: &[Instant]) -> Result<f64> {
    ensure!(ends.len() > WARM_UP, "only {} frames came out", ends.len());
    let seconds = (ends[ends.len() - 1] - ends[WARM_UP - 1]).as_secs_f64();
    Ok((ends.len() - WARM_UP) as f64 / seconds.max(1e-9))
}
