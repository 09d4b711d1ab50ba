//! Video files through GStreamer: writing H.264, reading frames, and the element's own pipeline.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use osdd::frame::{Frame, PixelFormat};

/// H.264 that hides little: the blur is to be judged, not the codec.
const H264: &str =
    "x264enc pass=quant quantizer=15 speed-preset=veryfast ! video/x-h264,profile=high ! h264parse ! mp4mux";

/// Initialises GStreamer and makes sure that the elements of this example exist, ours first of all.
///
/// # Errors
/// Names what is missing and the command that brings it.
pub fn init() -> Result<()> {
    gst::init().context("GStreamer does not start")?;
    // This program lies in target/release/examples, the plugin beside that folder.
    let file = format!(
        "{}gstosdd{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let built = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .map(|folder| folder.join(file));
    if let Some(built) = built.filter(|path| path.exists()) {
        gst::Plugin::load_file(&built).with_context(|| format!("{} does not load", built.display()))?;
    }
    if gst::ElementFactory::find("osdddeblur").is_none() {
        bail!("GStreamer has no element `osdddeblur`: run `make build`, then `make demo`");
    }
    for name in ["decodebin", "videoconvert", "x264enc", "h264parse", "mp4mux"] {
        if gst::ElementFactory::find(name).is_none() {
            bail!("GStreamer has no element `{name}`: `make setup` installs its plugins");
        }
    }
    Ok(())
}

/// A pipeline that goes back to NULL on every way out, errors included.
struct Running(gst::Pipeline);

impl Running {
    fn new(launch: &str) -> Result<Running> {
        let element = gst::parse::launch(launch).with_context(|| format!("no pipeline from `{launch}`"))?;
        Ok(Running(
            element.downcast().expect("several elements make a pipeline"),
        ))
    }

    fn element<T: IsA<gst::Element>>(&self, name: &str) -> T {
        let element = self.0.by_name(name).expect("the launch line names it");
        element.downcast().expect("the launch line gives it this type")
    }

    /// Whether the stream has ended by now.
    fn ended(&self) -> Result<bool> {
        self.bus()
            .pop_filtered(&ENDS)
            .map_or(Ok(false), |message| reason(&message))
    }

    /// Waits for the end of the stream.
    fn finish(&self) -> Result<()> {
        let message = self.bus().timed_pop_filtered(None, &ENDS);
        reason(&message.expect("without a limit it waits for a message")).map(|_| ())
    }

    fn bus(&self) -> gst::Bus {
        self.0.bus().expect("a pipeline has a bus")
    }
}

const ENDS: [gst::MessageType; 2] = [gst::MessageType::Eos, gst::MessageType::Error];

/// True for the end of the stream, the error for an error.
fn reason(message: &gst::Message) -> Result<bool> {
    match message.view() {
        // decodebin found streams, but none that fits, such as sound alone.
        gst::MessageView::Error(error) if error.debug().is_some_and(|text| text.contains("not-linked")) => {
            bail!("there is no video in it")
        }
        gst::MessageView::Error(error) => bail!("{}", error.error()),
        _ => Ok(true),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// A file that appears under its name only when it is complete.
struct Output {
    path: PathBuf,
    partial: PathBuf,
}

impl Output {
    fn new(path: &Path) -> Output {
        Output {
            path: path.to_owned(),
            partial: path.with_extension("partial"),
        }
    }

    fn publish(&self) -> Result<()> {
        std::fs::rename(&self.partial, &self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Only there when something failed before `publish`.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// Encodes `frames` (RGB, 8 bits, all of one size) as an MP4 file.
///
/// # Errors
/// When the pipeline fails or the file cannot be written.
pub fn encode<'a>(
    frames: impl IntoIterator<Item = &'a Frame>,
    frames_per_second: i32,
    path: &Path,
) -> Result<()> {
    let output = Output::new(path);
    let running = Running::new(&format!(
        "appsrc name=source format=time block=true ! videoconvert ! video/x-raw,format=I420,colorimetry=bt709 \
         ! {H264} ! filesink name=sink"
    ))?;
    running
        .element::<gst::Element>("sink")
        .set_property("location", &output.partial);
    let source: gst_app::AppSrc = running.element("source");
    running.0.set_state(gst::State::Playing)?;
    for (i, frame) in frames.into_iter().enumerate() {
        if i == 0 {
            let caps = gst::Caps::builder("video/x-raw")
                .field("format", "RGB")
                .field("width", frame.width as i32)
                .field("height", frame.height as i32)
                .field("framerate", gst::Fraction::new(frames_per_second, 1));
            source.set_caps(Some(&caps.build()));
        }
        // Raw video in GStreamer starts its rows at multiples of four bytes.
        let mut data = Vec::with_capacity(frame.data.len() + 3 * frame.height);
        for row in frame.data.chunks_exact(frame.stride()) {
            data.extend_from_slice(row);
            data.resize(data.len().next_multiple_of(4), 0);
        }
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let time = |i: usize| gst::ClockTime::SECOND.mul_div_floor(i as u64, frames_per_second as u64);
        let meta = buffer.make_mut();
        meta.set_pts(time(i));
        meta.set_duration(time(i + 1).zip(time(i)).map(|(end, start)| end - start));
        if source.push_buffer(buffer).is_err() {
            // The bus knows why.
            running.ended()?;
            bail!("the encoder takes no more frames");
        }
    }
    source.end_of_stream()?;
    running.finish()?;
    drop(running);
    output.publish()
}

/// Decodes the video in `path` and hands each frame to `visit` as 8-bit RGB.
///
/// # Errors
/// When the file cannot be read or has no video, and whatever `visit` returns.
pub fn decode(path: &Path, visit: impl FnMut(Frame) -> Result<()>) -> Result<()> {
    let running = Running::new(
        "filesrc name=source ! decodebin ! videoconvert ! video/x-raw,format=RGB \
         ! appsink name=frames sync=false max-buffers=4",
    )?;
    running
        .element::<gst::Element>("source")
        .set_property("location", path);
    pull(&running, visit).with_context(|| format!("cannot decode {}", path.display()))?;
    Ok(())
}

/// Sends `path` through the element, writes the result to `output` as H.264 and hands each frame to `visit` as 8-bit RGB.
/// Returns frames per second of the whole pipeline, from its first frame to its last.
///
/// # Errors
/// When the file cannot be read, the element fails or the result cannot be written, and whatever `visit` returns.
pub fn deblur(path: &Path, gamma: f64, output: &Path, visit: impl FnMut(Frame) -> Result<()>) -> Result<f64> {
    let output = Output::new(output);
    // The encoder looks ahead further than the queues reach: a file sink that waited for its first bytes (async) would
    // keep the pipeline from starting.
    let running = Running::new(&format!(
        "filesrc name=source ! decodebin ! osdddeblur gamma={gamma} ! tee name=result \
         result. ! queue ! videoconvert ! {H264} ! filesink name=sink async=false \
         result. ! queue ! videoconvert ! video/x-raw,format=RGB ! appsink name=frames sync=false max-buffers=4"
    ))?;
    running
        .element::<gst::Element>("source")
        .set_property("location", path);
    running
        .element::<gst::Element>("sink")
        .set_property("location", &output.partial);
    let speed = pull(&running, visit).with_context(|| format!("cannot deblur {}", path.display()))?;
    drop(running);
    output.publish()?;
    Ok(speed)
}

/// Runs a pipeline with the appsink `frames` to its end; returns frames per second.
fn pull(running: &Running, mut visit: impl FnMut(Frame) -> Result<()>) -> Result<f64> {
    let sink: gst_app::AppSink = running.element("frames");
    if running.0.set_state(gst::State::Playing).is_err() {
        running.ended()?;
        bail!("the pipeline does not start");
    }
    let mut ended = false;
    let mut first = None;
    let mut intervals = 0_u32;
    let mut last = Instant::now();
    loop {
        if let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
            last = Instant::now();
            if first.is_none() {
                first = Some(last);
            } else {
                intervals += 1;
            }
            visit(frame(&sample)?)?;
        } else if sink.is_eos() {
            break;
        } else {
            ended |= running.ended()?;
        }
    }
    if !ended {
        // A muxer finishes its file after the last frame.
        running.finish()?;
    }
    let Some(first) = first else {
        bail!("there is no video frame in it")
    };
    Ok(intervals as f64 / (last - first).as_secs_f64().max(1e-9))
}

/// Copies an RGB sample row by row: GStreamer may pad its rows.
fn frame(sample: &gst::Sample) -> Result<Frame> {
    let caps = sample
        .caps()
        .and_then(|caps| caps.structure(0))
        .context("a frame without caps")?;
    let (width, height) = (
        caps.get::<i32>("width")? as usize,
        caps.get::<i32>("height")? as usize,
    );
    let map = sample
        .buffer()
        .context("a sample without a buffer")?
        .map_readable()?;
    let stride = map.len() / height;
    let rows = map.chunks_exact(stride).take(height);
    let data = rows.flat_map(|row| &row[..width * 3]).copied().collect();
    Ok(Frame::from_data(width, height, PixelFormat::Rgb8, data)?)
}
