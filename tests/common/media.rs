//! What tests of the tool with videos share: making files, running `osdd` on them, and what is in the result.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

#[path = "tool.rs"]
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use tempfile::TempDir;
pub use tool::osdd;

pub const FRAMES: usize = 10;
pub const VIDEO: &str =
    "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1";
pub const H264: &str = "x264enc speed-preset=ultrafast bframes=0 ! h264parse";

pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// What the command says on standard error.
pub fn succeeds(folder: &TempDir, arguments: &str) -> String {
    let output = osdd(folder, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "osdd {arguments}: {text}");
    text
}

pub fn fails(folder: &TempDir, arguments: &str) -> String {
    let output = osdd(folder, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "osdd {arguments}: {text}");
    assert_eq!(text.lines().count(), 1, "osdd {arguments}: {text}");
    text
}

pub fn launch(folder: &TempDir, description: &str) -> gst::Pipeline {
    gst::init().expect("GStreamer starts");
    let description = description.replace("@", &format!("{}/", folder.path().display()));
    let pipeline = gst::parse::launch(&description).unwrap_or_else(|error| panic!("{description}: {error}"));
    pipeline.downcast().expect("several elements are a pipeline")
}

/// An MP4 of so many frames.
pub fn make_mp4(folder: &TempDir, name: &str, frames: usize) {
    let video = VIDEO.replace("num-buffers=10", &format!("num-buffers={frames}"));
    play(&launch(
        folder,
        &format!("{video} ! {H264} ! mp4mux ! filesink location=@{name}"),
    ));
}

pub fn play(pipeline: &gst::Pipeline) {
    let bus = pipeline.bus().expect("a bus");
    pipeline
        .set_state(gst::State::Playing)
        .expect("the pipeline plays");
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus
        .timed_pop_filtered(gst::ClockTime::from_seconds(120), &ends)
        .expect("an end");
    pipeline.set_state(gst::State::Null).expect("the pipeline stops");
    if let gst::MessageView::Error(error) = message.view() {
        panic!("{} ({:?})", error.error(), error.debug());
    }
}

/// An elementary stream of a file.
#[derive(Clone, Default)]
pub struct Stream {
    pub caps: Option<gst::Caps>,
    pub times: Vec<gst::ClockTime>,
    pub data: Vec<Vec<u8>>,
    pub tags: Vec<gst::TagList>,
}

impl Stream {
    pub fn field<'a, T: gst::glib::value::FromValue<'a>>(&'a self, name: &str) -> Option<T> {
        self.caps
            .as_ref()
            .and_then(|caps| caps.structure(0))
            .and_then(|structure| structure.get(name).ok())
    }
}

/// The streams of a file by the name of their format.
pub fn streams(folder: &TempDir, name: &str) -> BTreeMap<String, Stream> {
    let pipeline = launch(folder, &format!("filesrc location=@{name} ! parsebin name=parse"));
    let found = Arc::new(Mutex::new(BTreeMap::<String, Stream>::new()));
    let (weak, kept) = (pipeline.downgrade(), Arc::clone(&found));
    pipeline
        .by_name("parse")
        .expect("parsebin")
        .connect_pad_added(move |_, pad| {
            let pipeline = weak.upgrade().expect("the pipeline lives");
            let sink = gst::ElementFactory::make("fakesink")
                .property("sync", false)
                .build()
                .expect("fakesink");
            let queue = gst::ElementFactory::make("queue").build().expect("queue");
            pipeline.add_many([&queue, &sink]).expect("a name of its own");
            queue.link(&sink).expect("a sink that takes everything");
            pad.link(&queue.static_pad("sink").expect("a sink pad"))
                .expect("a queue that takes everything");
            let (kept, name) = (Arc::clone(&kept), pad.name().to_string());
            kept.lock().unwrap().entry(name.clone()).or_default().caps = pad.current_caps();
            pad.add_probe(
                gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
                move |_, info| {
                    let mut kept = kept.lock().unwrap();
                    let stream = kept.entry(name.clone()).or_default();
                    match (&info.data, info.event().map(|event| event.view())) {
                        (Some(gst::PadProbeData::Buffer(buffer)), _) => {
                            stream.times.extend(buffer.pts());
                            stream.data.push(buffer.map_readable().expect("memory").to_vec());
                        }
                        (_, Some(gst::EventView::Caps(caps))) => stream.caps = Some(caps.caps_owned()),
                        (_, Some(gst::EventView::Tag(tag))) => stream.tags.push(tag.tag_owned()),
                        _ => {}
                    }
                    gst::PadProbeReturn::Ok
                },
            );
            for element in [sink, queue] {
                element.sync_state_with_parent().expect("it plays");
            }
        });
    play(&pipeline);
    let found = found.lock().unwrap();
    let format = |stream: &Stream| {
        stream
            .caps
            .as_ref()?
            .structure(0)
            .map(|structure| structure.name().to_string())
    };
    found
        .values()
        .filter_map(|stream| Some((format(stream)?, stream.clone())))
        .collect()
}

pub fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn same_times(before: &Stream, after: &Stream) {
    assert_eq!(before.times.len(), after.times.len());
    let [before, after] = [before, after].map(|stream| {
        // From the first on, in the order of display.
        let first = stream.times.iter().min().copied().unwrap_or_default();
        let mut times: Vec<gst::ClockTime> = stream.times.iter().map(|time| *time - first).collect();
        times.sort();
        times
    });
    for (before, after) in before.iter().zip(&after) {
        let difference = before.nseconds().abs_diff(after.nseconds());
        assert!(difference <= 1_000_000, "{before} became {after}");
    }
}
