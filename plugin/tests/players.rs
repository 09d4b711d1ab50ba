//! The element in players: playbin's `video-filter`, decodebin, decodebin3, frames of a GPU, and every clip of a folder.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

/// Times of a frame, as it reaches the sink.
type Times = (Option<gst::ClockTime>, Option<gst::ClockTime>);

fn times(sink: &gst::Element) -> Arc<Mutex<Vec<Times>>> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let pad = sink.static_pad("sink").expect("a sink pad");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        if let Some(buffer) = probe.buffer() {
            seen.lock()
                .expect("the times")
                .push((buffer.pts(), buffer.duration()));
        }
        gst::PadProbeReturn::Ok
    });
    times
}

fn taken(times: &Mutex<Vec<Times>>) -> Vec<Times> {
    std::mem::take(&mut times.lock().expect("the times"))
}

fn sink() -> gst::Element {
    gst::ElementFactory::make("fakesink")
        .property("sync", false)
        .property("qos", false)
        .build()
        .expect("fakesink is there")
}

/// Plays a file through `filesrc ! decoder ! element ! fakesink`.
fn decoded(file: &Path, decoder: &str, element: &gst::Element) -> Vec<Times> {
    let description = format!("filesrc location=\"{}\" ! {decoder} name=decoder", file.display());
    let pipeline = gst::parse::launch(&description).expect("the launch line is understood");
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
    let sink = sink();
    let times = times(&sink);
    pipeline.add_many([element, &sink]).expect("added");
    element.link(&sink).expect("linked");
    let input = element.static_pad("sink").expect("a sink pad");
    let decoder = pipeline.by_name("decoder").expect("the decoder");
    decoder.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let video = caps.structure(0).is_some_and(|s| s.name().starts_with("video/"));
        if video && !input.is_linked() {
            pad.link(&input).expect("linked");
        }
    });
    let errors = play(&pipeline);
    assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    taken(&times)
}

/// Plays a file with playbin and the element as its video filter.
fn played(file: &Path, element: &gst::Element) -> Vec<Times> {
    let (sink, silent) = (sink(), sink());
    let times = times(&sink);
    let uri = gst::glib::filename_to_uri(file, None).expect("a URI");
    let playbin = gst::ElementFactory::make("playbin")
        .property("uri", uri.as_str())
        .property("video-filter", element)
        .property("video-sink", &sink)
        .property("audio-sink", &silent)
        .build()
        .expect("playbin is there");
    let playbin = playbin.downcast::<gst::Pipeline>().expect("a pipeline");
    let errors = play(&playbin);
    assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    taken(&times)
}

fn identity() -> gst::Element {
    init();
    gst::ElementFactory::make("identity")
        .build()
        .expect("identity is there")
}

/// Every way of playing must give the frames and times that it gives with `identity`.
fn check(file: &Path) -> usize {
    let (element, _folder) = small_deblur();
    element.set_property("tile-size", 512);
    element.set_property("depth", 3);
    let expected = decoded(file, "decodebin", &identity());
    assert!(!expected.is_empty(), "{}", file.display());
    assert_eq!(
        decoded(file, "decodebin", &element),
        expected,
        "{}",
        file.display()
    );
    element.set_state(gst::State::Null).expect("it stops");

    let (element, _folder) = small_deblur();
    element.set_property("tile-size", 512);
    let with_identity = played(file, &identity());
    // Its frames may be others than decodebin's: playbin deinterlaces.
    assert!(!with_identity.is_empty(), "{}", file.display());
    assert_eq!(
        played(file, &element),
        with_identity,
        "{} in playbin",
        file.display()
    );
    expected.len()
}

fn made_clip(folder: &Path) -> PathBuf {
    init();
    let file = folder.join("made.mkv");
    let description = format!(
        "videotestsrc num-buffers=20 pattern=ball ! video/x-raw,width=96,height=64,framerate=30000/1001 ! jpegenc \
         ! matroskamux name=mux ! filesink location=\"{}\" \
         audiotestsrc num-buffers=30 ! vorbisenc ! mux.",
        file.display()
    );
    let pipeline = gst::parse::launch(&description).expect("the launch line is understood");
    assert!(play(&pipeline.downcast().expect("a pipeline")).is_empty());
    file
}

#[test]
fn a_file_plays_as_with_identity() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(check(&made_clip(folder.path())), 20);
}

#[test]
fn decodebin3_feeds_the_element() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = made_clip(folder.path());
    let (element, _model) = small_deblur();
    let expected = decoded(&file, "decodebin3", &identity());
    assert_eq!(expected.len(), 20);
    assert_eq!(decoded(&file, "decodebin3", &element), expected);
}

/// Frames in textures under the caps of plain memory, as `gldownload` passes them on.
#[test]
fn frames_of_a_gpu_are_read_where_there_is_one() {
    init();
    let there = ["gltestsrc", "gldownload"].map(|name| gst::ElementFactory::find(name).is_some());
    let display = ["DISPLAY", "WAYLAND_DISPLAY"].map(|name| std::env::var_os(name).is_some());
    if there.contains(&false) || !display.contains(&true) {
        println!("skipped: there is no display, or no OpenGL plugin");
        return;
    }
    let frames = |element: gst::Element| {
        let description = "gltestsrc num-buffers=4 pattern=smpte ! video/x-raw(memory:GLMemory),format=RGBA,width=64,height=48 \
            ! gldownload name=last";
        let pipeline = gst::parse::launch(description).expect("the launch line is understood");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let sink = sink();
        pipeline.add_many([&element, &sink]).expect("added");
        let last = pipeline.by_name("last").expect("the launch line names it");
        gst::Element::link_many([&last, &element, &sink]).expect("linked");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&frames);
        let pad = sink.static_pad("sink").expect("a sink pad");
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            let buffer = probe.buffer().expect("a buffer");
            seen.lock().expect("the frames").push(bytes(&buffer.to_owned()));
            gst::PadProbeReturn::Ok
        });
        let errors = play(&pipeline);
        assert!(errors.is_empty(), "{errors:?}");
        std::mem::take(&mut *frames.lock().expect("the frames"))
    };
    let expected = frames(identity());
    assert_eq!(expected.len(), 4);
    let (element, _folder) = small_deblur();
    element.set_property("strength", 0.0);
    assert!(frames(element) == expected, "passed as they came");
    let (element, _folder) = small_deblur();
    let restored = frames(element);
    assert_eq!(restored.len(), 4);
    assert!(restored != expected, "the model has seen them");
}

/// Clips of a camera's and the web's codecs and containers, in `$OSDD_DATA/video`.
#[test]
fn every_clip_plays_as_with_identity() {
    let Some(data) = std::env::var_os("OSDD_DATA") else {
        println!("skipped: OSDD_DATA names no folder with clips in video/");
        return;
    };
    let files = std::fs::read_dir(Path::new(&data).join("video")).expect("a folder of clips");
    let mut files = files.flatten().map(|file| file.path()).collect::<Vec<_>>();
    files.sort();
    for file in files {
        println!("{}: {} frames", file.display(), check(&file));
    }
}
