//! The pipeline of a video file:
//!
//! ```text
//! filesrc ! parsebin ! decodebin ! videoconvert ! osdddeblur ! videoconvert ! encoder ! tee ! concat ! muxer ! filesink
//!                    ! (every other stream) ................................................. !
//! ```
//!
//! The tee writes the [`Journal`], and where an interrupted run has left one, `concat` sends that first.

use std::path::Path;

use anyhow::{Context, Result};
use gst::prelude::*;

use super::container::Container;
use super::journal::Journal;
use super::streams::{Action, Branch, Plan};
use super::{element, probe, subtitles};
use crate::args::DeblurArgs;

/// The elements that a run looks at while it lasts.
pub(crate) struct Pipeline {
    pub pipeline: gst::Pipeline,
    /// Takes what the decoder gives.
    pub decoded: gst::Pad,
    /// Gives deblurred frames.
    pub deblurred: gst::Pad,
    /// Takes what is encoded.
    pub encoded: gst::Pad,
    /// Frames of earlier runs, which are decoded and go no further.
    pub kept: u64,
    /// Holds what is encoded for the muxer.
    pub ready: gst::Element,
}

/// # Errors
/// An element is missing, or the muxer does not take what the plan says.
pub(crate) fn build(
    input: &Path,
    output: &Path,
    container: Container,
    plan: &Plan,
    journal: &Journal,
    args: &DeblurArgs,
) -> Result<Pipeline> {
    let pipeline = gst::Pipeline::new();
    let source = element::make("filesrc")?;
    source.set_property("location", input);
    let parse = element::make("parsebin")?;
    let muxer = element::make(container.muxer())?;
    let sink = element::make("filesink")?;
    sink.set_property("location", output);
    pipeline.add_many([&source, &parse, &muxer, &sink])?;
    source.link(&parse)?;
    muxer.link(&sink)?;

    let mut entries = Vec::new();
    let mut video = None;
    for branch in &plan.branches {
        let builder = BranchBuilder {
            pipeline: &pipeline,
            muxer: &muxer,
            branch,
        };
        let entry = match branch.action {
            Action::Deblur => {
                let (entry, pads, ready) = builder.deblur(container, plan.upright, journal, args)?;
                video = Some((pads, ready));
                entry
            }
            Action::Copy => builder.copy()?,
            Action::CopyText => builder.copy_text(container)?,
            Action::Encode(encoder) => builder.encode(encoder)?,
        };
        entries.push((branch.stream_id.clone(), entry));
    }
    let ([decoded, deblurred, encoded], ready) = video.context("it has no video stream")?;

    parse.connect_pad_added(move |_, pad| {
        let id = pad.stream_id();
        let entry = entries
            .iter()
            .find(|(wanted, entry)| Some(wanted.as_str()) == id.as_deref() && !entry.is_linked());
        // A link that fails shows as an error of the stream, on the bus.
        let linked = entry.is_some_and(|(_, entry)| pad.link(entry).is_ok());
        if !linked {
            probe::discard(pad);
        }
    });
    Ok(Pipeline {
        pipeline,
        decoded,
        deblurred,
        encoded,
        kept: journal.frames(),
        ready,
    })
}

struct BranchBuilder<'a> {
    pipeline: &'a gst::Pipeline,
    muxer: &'a gst::Element,
    branch: &'a Branch,
}

impl BranchBuilder<'_> {
    /// The entry; and the decoder's, the model's and the encoder's pads and the last queue, for [`Pipeline`].
    fn deblur(
        &self,
        container: Container,
        upright: bool,
        journal: &Journal,
        args: &DeblurArgs,
    ) -> Result<(gst::Pad, [gst::Pad; 3], gst::Element)> {
        let entry = element::make("queue")?;
        let decode = element::make("decodebin")?;
        self.pipeline.add_many([&entry, &decode])?;
        entry.link(&decode)?;

        let before = element::make("videoconvert")?;
        let deblur = deblur_element(args)?;
        let after = element::make("videoconvert")?;
        let encoder = container.video_encoder(args.quality)?;
        let mut chain = vec![before.clone()];
        if upright {
            let flip = element::make("videoflip")?;
            flip.set_property_from_str("video-direction", "auto");
            chain.push(flip);
            // A muxer that does write it down would have it turned once more.
            static_pad(&encoder, "src")?.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
                if let Some(event) = info.event().and_then(without_orientation) {
                    info.data = Some(gst::PadProbeData::Event(event));
                }
                gst::PadProbeReturn::Ok
            });
        }
        chain.extend([deblur.clone(), after]);
        if container != Container::WebM && self.is_odd() {
            // x264 has no half pixels of colour.
            let full = element::make("capsfilter")?;
            full.set_property_from_str("caps", "video/x-raw,format={Y444,Y444_10LE}");
            chain.push(full);
        }
        let tee = element::make("tee")?;
        let join = element::make("concat")?;
        // A query for buffers would wait in the queue behind what an earlier run has encoded, which waits for the sound, which the
        // file gives only while its video goes on.
        static_pad(&join, "src")?.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
            let asks = info.query().map(gst::QueryRef::type_) == Some(gst::QueryType::Allocation);
            if asks {
                gst::PadProbeReturn::Handled
            } else {
                gst::PadProbeReturn::Ok
            }
        });
        // Each run's segment says where its frames belong.
        join.set_property("adjust-base", false);
        self.play_journal(journal, &join)?;
        chain.extend([encoder.clone(), tee.clone(), join]);
        if container != Container::WebM {
            chain.push(element::make("h264parse")?);
        }
        let ready = unbounded_queue()?;
        if journal.frames() > 0 {
            // Until the decoder has come as far as the earlier runs: their frames are on the disk, and the muxer waits for sound.
            ready.set_property("max-size-bytes", 64_u32 << 20);
        }
        chain.push(ready.clone());
        self.chain(&chain)?;
        self.write_journal(journal, &tee)?;

        let decoded = static_pad(&before, "sink")?;
        let target = decoded.clone();
        decode.connect_pad_added(move |_, pad| {
            if target.is_linked() || pad.link(&target).is_err() {
                probe::discard(pad);
            }
        });
        let pads = [
            decoded,
            static_pad(&deblur, "src")?,
            static_pad(&encoder, "sink")?,
        ];
        Ok((static_pad(&entry, "sink")?, pads, ready))
    }

    /// Links what earlier runs have encoded to `join`, whose first pads play first.
    fn play_journal(&self, journal: &Journal, join: &gst::Element) -> Result<()> {
        self.pipeline.add(join)?;
        for part in &journal.kept {
            let source = element::make("filesrc")?;
            source.set_property("location", &part.path);
            let read = element::make("gdpdepay")?;
            self.pipeline.add_many([&source, &read])?;
            gst::Element::link_many([&source, &read, join])?;
        }
        Ok(())
    }

    fn write_journal(&self, journal: &Journal, tee: &gst::Element) -> Result<()> {
        let write = element::make("gdppay")?;
        static_pad(&write, "sink")?.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
            use gst::EventView::{Caps, Eos, Segment, StreamStart};
            // Others, and the streams of a file's first event, hold what cannot be read back.
            let plain = match info.event().map(|event| event.view()) {
                Some(StreamStart(start)) => gst::event::StreamStart::new(start.stream_id()),
                Some(Caps(_) | Segment(_) | Eos(_)) => return gst::PadProbeReturn::Ok,
                // As `probe::discard` does.
                _ => return gst::PadProbeReturn::Handled,
            };
            info.data = Some(gst::PadProbeData::Event(plain));
            gst::PadProbeReturn::Ok
        });
        let sink = element::make("filesink")?;
        sink.set_property("location", journal.current());
        // What a process that is killed has encoded is there.
        sink.set_property_from_str("buffer-mode", "unbuffered");
        // Or the pipeline would wait for its first frame, and it for the pipeline.
        sink.set_property("async", false);
        // It takes one frame until the pipeline plays, which is when the muxer has written something: after the first sound, however late.
        let chain = [unbounded_queue()?, write, sink];
        self.pipeline.add_many(&chain)?;
        gst::Element::link_many([tee].into_iter().chain(&chain))?;
        Ok(())
    }

    /// Whether the stream's width or height is an odd number.
    fn is_odd(&self) -> bool {
        let structure = self.branch.caps.structure(0);
        let side = |name: &str| structure.and_then(|s| s.get::<i32>(name).ok()).unwrap_or(0);
        side("width") % 2 == 1 || side("height") % 2 == 1
    }

    fn copy(&self) -> Result<gst::Pad> {
        let mut chain = vec![unbounded_queue()?];
        // `parsebin` has parsed the stream, in the shape that its file has; the muxer may want another.
        let structure = self
            .branch
            .caps
            .structure(0)
            .context("a stream without a format")?;
        match (structure.name().as_str(), structure.get::<i32>("mpegversion")) {
            ("audio/mpeg", Ok(2 | 4)) => chain.push(element::make("aacparse")?),
            ("audio/x-raw", _) => chain.push(element::make("audioconvert")?),
            ("video/x-h264", _) => chain.push(element::make("h264parse")?),
            ("video/x-h265", _) => chain.push(element::make("h265parse")?),
            _ => {}
        }
        self.chain(&chain)
    }

    fn copy_text(&self, container: Container) -> Result<gst::Pad> {
        let rename = element::make("capssetter")?;
        rename.set_property("join", false);
        rename.set_property("replace", true);
        rename.set_property(
            "caps",
            gst::Caps::builder("text/x-raw").field("format", "utf8").build(),
        );
        let entry = self.chain(&[unbounded_queue()?, rename])?;
        // Matroska stores SubRip, which knows a few tags; elsewhere they would be read out as they are.
        let keep_tags = container == Container::Matroska;
        entry.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer_mut()
                && let Some(plain) = plain_text(buffer, keep_tags)
            {
                *buffer = plain;
            }
            gst::PadProbeReturn::Ok
        });
        Ok(entry)
    }

    fn encode(&self, name: &str) -> Result<gst::Pad> {
        let entry = unbounded_queue()?;
        let decode = element::make("decodebin")?;
        self.pipeline.add_many([&entry, &decode])?;
        entry.link(&decode)?;
        let encoder = element::make(name)?;
        if matches!(name, "avenc_aac" | "fdkaacenc" | "opusenc" | "voaacenc") {
            // In bit/s; what they start with suits speech.
            encoder.set_property("bitrate", 192_000_i32);
        }
        let target = self.chain(&[
            element::make("audioconvert")?,
            element::make("audioresample")?,
            encoder,
            unbounded_queue()?,
        ])?;
        decode.connect_pad_added(move |_, pad| {
            if target.is_linked() || pad.link(&target).is_err() {
                probe::discard(pad);
            }
        });
        static_pad(&entry, "sink")
    }

    /// Adds what is not there yet of `elements` and links them and the muxer behind them; gives the first one's sink pad.
    fn chain(&self, elements: &[gst::Element]) -> Result<gst::Pad> {
        self.pipeline
            .add_many(elements.iter().filter(|element| element.parent().is_none()))?;
        gst::Element::link_many(elements)?;
        let (first, last) = elements.first().zip(elements.last()).context("an empty chain")?;
        let pad = self
            .muxer
            .request_pad(&self.branch.template, None, None)
            .with_context(|| format!("{} takes no further stream", self.muxer.name()))?;
        static_pad(last, "src")?
            .link(&pad)
            .with_context(|| format!("{} refuses a stream", self.muxer.name()))?;
        static_pad(first, "sink")
    }
}

fn deblur_element(args: &DeblurArgs) -> Result<gst::Element> {
    let deblur = element::make(element::NAME)?;
    element::configure(&deblur, &args.engine);
    deblur.set_property("gamma", args.gamma);
    deblur.set_property("strength", args.strength);
    deblur.set_property("reuse-threshold", args.reuse_threshold);
    deblur.set_property("skip-sharp", args.skip_sharp);
    deblur.set_property_from_str("compare", args.compare.nick());
    Ok(deblur)
}

/// Holds what the slowest stream is behind the others by: a bounded one would stop the whole file when its streams are
/// not interleaved. What it holds is encoded, so it is small.
fn unbounded_queue() -> Result<gst::Element> {
    let queue = element::make("queue")?;
    queue.set_property("max-size-buffers", 0_u32);
    queue.set_property("max-size-bytes", 0_u32);
    queue.set_property("max-size-time", 0_u64);
    Ok(queue)
}

fn static_pad(element: &gst::Element, name: &str) -> Result<gst::Pad> {
    element
        .static_pad(name)
        .with_context(|| format!("{} has no pad {name}", element.name()))
}

/// A tag event that no longer says how the video is to be turned; `None` for events that do not say it.
fn without_orientation(event: &gst::Event) -> Option<gst::Event> {
    let gst::EventView::Tag(tag) = event.view() else {
        return None;
    };
    let mut tags = tag.tag_owned();
    tags.get::<gst::tags::ImageOrientation>()?;
    tags.make_mut().remove::<gst::tags::ImageOrientation>();
    Some(gst::event::Tag::builder(tags).seqnum(event.seqnum()).build())
}

/// `None` where the text is as it should be.
fn plain_text(buffer: &gst::Buffer, keep_tags: bool) -> Option<gst::Buffer> {
    let map = buffer.map_readable().ok()?;
    let markup = std::str::from_utf8(&map).ok()?;
    let text = subtitles::to_text(markup, keep_tags);
    if text == markup {
        return None;
    }
    let mut plain = gst::Buffer::from_mut_slice(text.into_bytes());
    buffer
        .copy_into(
            plain.get_mut()?,
            gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META,
            ..,
        )
        .ok()?;
    Some(plain)
}
