//! The frames of a clip for training: a video, or a folder of images in the order of their names.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use gst::prelude::*;
use osdd::data::{Image8, Picture, PictureFolder, memory_for_images};

use crate::interrupt;

/// Every frame of a video, or the images of a folder, as 8-bit RGB. A video is decoded into memory; of a folder, what does
/// not fit stays in its files.
///
/// # Errors
/// The video does not decode or does not fit into memory; the folder has no readable image; the user asked to stop.
pub(crate) fn decode_frames(path: &Path) -> anyhow::Result<Vec<Picture>> {
    if path.is_dir() {
        return Ok(PictureFolder::read(path)?.pictures.into_iter().collect());
    }
    decode_video(path)
}

fn decode_video(path: &Path) -> anyhow::Result<Vec<Picture>> {
    gst::init()?;
    let pipeline = gst::parse::launch(
        "filesrc name=source ! decodebin ! videoconvert ! video/x-raw,format=RGB ! \
         appsink name=sink sync=false max-buffers=8",
    )?;
    let pipeline = pipeline
        .downcast::<gst::Pipeline>()
        .map_err(|_| anyhow!("not a pipeline"))?;
    let source = pipeline.by_name("source").context("no source")?;
    source.set_property("location", path.to_str().context("the path is not UTF-8")?);
    let sink = pipeline
        .by_name("sink")
        .and_downcast::<gst_app::AppSink>()
        .context("no sink")?;
    let frames = pull_all(&pipeline, &sink);
    pipeline.set_state(gst::State::Null)?;
    let frames = frames?;
    if frames.is_empty() {
        bail!("it has no video frames");
    }
    Ok(frames)
}

fn pull_all(pipeline: &gst::Pipeline, sink: &gst_app::AppSink) -> anyhow::Result<Vec<Picture>> {
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    // What cannot start posts an error with the reason.
    let _ = pipeline.set_state(gst::State::Playing);
    let mut frames: Vec<Picture> = Vec::new();
    let mut free_bytes = memory_for_images();
    loop {
        interrupt::check()?;
        let sample = sink.try_pull_sample(gst::ClockTime::from_mseconds(100));
        // Where there is none yet, there may never be one: a stream that does not start has no end either.
        let error = bus.pop_filtered(&[gst::MessageType::Error]);
        if let Some(gst::MessageView::Error(error)) = error.as_ref().map(|message| message.view()) {
            bail!("{}", error.error());
        }
        let Some(sample) = sample else {
            match sink.is_eos() {
                true => return Ok(frames),
                false => continue,
            }
        };
        let frame = to_image(&sample)?;
        let Some(left) = free_bytes.checked_sub(frame.data.len() as u64) else {
            bail!(
                "it does not fit into memory after {} frames; cut it, or extract its frames into a folder and give that",
                frames.len()
            );
        };
        free_bytes = left;
        frames.push(frame.into());
    }
}

fn to_image(sample: &gst::Sample) -> anyhow::Result<Image8> {
    let caps = sample.caps().context("a sample has caps")?;
    let structure = caps.structure(0).context("caps have a structure")?;
    let (width, height): (i32, i32) = (structure.get("width")?, structure.get("height")?);
    let (width, height) = (width as usize, height as usize);
    let map = sample.buffer().context("a sample has a buffer")?.map_readable()?;
    // GStreamer pads RGB rows to a multiple of four bytes.
    let stride = (width * 3).next_multiple_of(4);
    let rows = map.chunks(stride).take(height);
    let data: Vec<u8> = rows.flat_map(|row| row[..width * 3].iter().copied()).collect();
    Ok(Image8::new(width, height, data)?)
}
