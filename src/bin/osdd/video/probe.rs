//! What is in a media file, before anything is decided.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

use super::bus::Messages;
use super::element;
use crate::interrupt;

/// A file whose streams are not known by then is not going to be understood.
const PATIENCE: Duration = Duration::from_secs(60);
/// Once there is data at all, a video without a frame is not waited for.
const PATIENCE_FOR_FRAMES: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Video,
    Audio,
    Subtitle,
    Other,
}

/// An elementary stream as `parsebin` gives it.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The same each time the file is opened.
    pub id: String,
    pub kind: Kind,
    pub caps: gst::Caps,
    /// The tag `image-orientation`, unless it says that nothing is to be turned.
    pub orientation: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub streams: Vec<Stream>,
    pub duration: Option<gst::ClockTime>,
}

/// # Errors
/// The file cannot be read or is no media file.
pub(crate) fn probe(path: &Path) -> Result<Probe> {
    if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) {
        bail!("it is empty");
    }
    let pipeline = gst::Pipeline::new();
    let source = element::make("filesrc")?;
    source.set_property("location", path);
    let parse = element::make("parsebin")?;
    pipeline.add_many([&source, &parse])?;
    source.link(&parse)?;

    let arrivals = Arc::new(Arrivals::default());
    let shared = Arc::clone(&arrivals);
    parse.connect_pad_added(move |_, pad| {
        let video = stream(pad).is_some_and(|stream| stream.kind == Kind::Video);
        shared.watch(pad, video);
        discard(pad);
    });
    let outcome = wait(&pipeline, &arrivals).map(|()| Probe {
        streams: parse.src_pads().iter().filter_map(stream).collect(),
        duration: parse
            .src_pads()
            .iter()
            .filter_map(|pad| pad.query_duration::<gst::ClockTime>())
            .max(),
    });
    let _ = pipeline.set_state(gst::State::Null);
    outcome
}

/// Lets a pad push into nothing. A sink instead would wait for the pipeline to play, and the demuxer for the sink.
pub(crate) fn discard(pad: &gst::Pad) {
    // `Drop` would say the same, but GStreamer 1.22 then frees once more what the binding has freed.
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        |_, _| gst::PadProbeReturn::Handled,
    );
}

/// What has come through the pads. `parsebin` shows all its pads before it lets any of them push, so the first data says
/// that the streams are known; tags, such as how a video is to be turned, come before its first frame.
#[derive(Default)]
struct Arrivals {
    any: AtomicBool,
    videos_awaited: AtomicUsize,
}

impl Arrivals {
    fn watch(self: &Arc<Self>, pad: &gst::Pad, video: bool) {
        self.videos_awaited
            .fetch_add(usize::from(video), Ordering::SeqCst);
        let this = Arc::clone(self);
        pad.add_probe(gst::PadProbeType::DATA_DOWNSTREAM, move |_, info| {
            if info
                .event()
                .is_some_and(|event| event.type_() != gst::EventType::Eos)
            {
                return gst::PadProbeReturn::Ok;
            }
            this.videos_awaited
                .fetch_sub(usize::from(video), Ordering::SeqCst);
            this.any.store(true, Ordering::SeqCst);
            gst::PadProbeReturn::Remove
        });
    }
}

fn wait(pipeline: &gst::Pipeline, arrivals: &Arrivals) -> Result<()> {
    let bus = pipeline.bus().context("the pipeline has no bus")?;
    let started = Instant::now();
    let mut first_data = None;
    let mut messages = Messages::default();
    // What cannot start posts an error with the reason.
    let _ = pipeline.set_state(gst::State::Paused);
    loop {
        interrupt::check()?;
        if arrivals.any.load(Ordering::SeqCst) {
            let since = *first_data.get_or_insert_with(Instant::now);
            if arrivals.videos_awaited.load(Ordering::SeqCst) == 0 || since.elapsed() > PATIENCE_FOR_FRAMES {
                return Ok(());
            }
        }
        if started.elapsed() > PATIENCE {
            bail!("its streams could not be found out");
        }
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(5)) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Element(message) => messages.note_missing(message),
            gst::MessageView::Error(message) => {
                let error = message.error();
                let unknown = [gst::StreamError::TypeNotFound, gst::StreamError::WrongType];
                if unknown.iter().any(|kind| error.matches(*kind)) {
                    bail!("neither an image nor a video that osdd knows");
                }
                return Err(messages.error(message));
            }
            _ => {}
        }
    }
}

fn stream(pad: &gst::Pad) -> Option<Stream> {
    // A pad of sparse data, such as subtitles, may be shown before its format has passed it.
    let caps = pad.current_caps().or_else(|| pad.stream()?.caps())?;
    let name = caps.structure(0)?.name();
    let kind = match name.split_once('/').map_or("", |(class, _)| class) {
        // Motion JPEG is image/jpeg.
        "video" | "image" => Kind::Video,
        "audio" => Kind::Audio,
        "text" | "subtitle" | "subpicture" => Kind::Subtitle,
        _ if matches!(
            name.as_str(),
            "application/x-ass" | "application/x-ssa" | "application/x-usf"
        ) =>
        {
            Kind::Subtitle
        }
        _ => Kind::Other,
    };
    let orientation = (0..)
        .map_while(|index| pad.sticky_event::<gst::event::Tag>(index))
        .filter_map(|event| {
            event
                .tag()
                .get::<gst::tags::ImageOrientation>()
                .map(|value| value.get().to_owned())
        })
        .last()
        .filter(|orientation| orientation != "rotate-0");
    Some(Stream {
        id: pad.stream_id()?.to_string(),
        kind,
        caps,
        orientation,
    })
}
