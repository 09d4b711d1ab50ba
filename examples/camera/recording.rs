//! Recording while the window shows the same frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

/// What the recording needs of a frame on its way to the file. Frames wait here while the encoder is busy.
const RECORDING: &str = "queue max-size-bytes=0 max-size-buffers=0 max-size-time=5000000000 ! videoconvert \
    ! x264enc tune=zerolatency speed-preset=veryfast ! h264parse ! mp4mux ! filesink name=file async=false";

/// A branch of the pipeline that comes and goes while the others play on.
pub struct Recording {
    bin: gst::Bin,
    tee_pad: gst::Pad,
    file: String,
    frames: Arc<AtomicU64>,
    stopping: bool,
}

impl Recording {
    pub fn start(pipeline: &gst::Pipeline, tee: &gst::Element) -> Result<Self> {
        let names = (1..).map(|number| format!("camera-{number}.mp4"));
        let file = names
            .into_iter()
            .find(|name| !std::path::Path::new(name).exists())
            .expect("names do not run out");
        let bin = gst::parse::bin_from_description(RECORDING, true).context("cannot record")?;
        let sink = bin.by_name("file").expect("the description names it");
        sink.set_property("location", &file);
        // Opens the file, so that one that cannot be written does not stop the camera.
        if bin.set_state(gst::State::Paused).is_err() {
            bin.set_state(gst::State::Null)?;
            bail!("cannot write {file}");
        }
        pipeline.add(&bin)?;
        let tee_pad = tee
            .request_pad_simple("src_%u")
            .context("the tee has no pad left")?;
        let input = bin.static_pad("sink").expect("the bin has the queue's pad");
        if bin.sync_state_with_parent().is_err() || tee_pad.link(&input).is_err() {
            bin.set_state(gst::State::Null)?;
            pipeline.remove(&bin)?;
            tee.release_request_pad(&tee_pad);
            bail!("cannot record into {file}");
        }
        let frames = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&frames);
        input.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        Ok(Recording {
            bin,
            tee_pad,
            file,
            frames,
            stopping: false,
        })
    }

    /// Takes the branch off the tee and tells it that this is the end: the muxer then completes the file.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        // Between two frames, whichever thread that is in.
        self.tee_pad.add_probe(gst::PadProbeType::IDLE, |pad, _| {
            if let Some(peer) = pad.peer() {
                let _ = pad.unlink(&peer);
                peer.send_event(gst::event::Eos::new());
            }
            gst::PadProbeReturn::Remove
        });
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether a message comes from an element of this branch.
    pub fn is_source_of(&self, message: &gst::Message) -> bool {
        message
            .src()
            .is_some_and(|source| source.has_as_ancestor(&self.bin))
    }

    /// Whether the message says that the file is complete.
    pub fn is_ended_by(&self, message: &gst::Message) -> bool {
        let forwarded = message
            .structure()
            .filter(|structure| structure.name() == "GstBinForwarded");
        let forwarded = forwarded.and_then(|structure| structure.get::<gst::Message>("message").ok());
        forwarded.is_some_and(|forwarded| {
            forwarded.type_() == gst::MessageType::Eos && forwarded.src() == Some(self.bin.upcast_ref())
        })
    }

    pub fn remove(self, pipeline: &gst::Pipeline, tee: &gst::Element) -> Result<()> {
        self.bin.set_state(gst::State::Null)?;
        pipeline.remove(&self.bin)?;
        tee.release_request_pad(&self.tee_pad);
        if self.frames.load(Ordering::Relaxed) == 0 {
            std::fs::remove_file(&self.file).with_context(|| format!("cannot remove {}", self.file))?;
            println!("nothing to write: no frame came while it recorded");
        } else {
            println!("wrote {}", self.file);
        }
        Ok(())
    }
}
