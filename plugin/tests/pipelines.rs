//! Whole pipelines: decoding, seeking, states, errors, automation, and settings moved from another thread.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use gst::prelude::*;
use gst_controller::prelude::*;

fn launch(description: &str) -> (gst::Pipeline, gst::Element) {
    init();
    let small_tiles = description.replace(
        "osdddeblur",
        "osdddeblur name=deblur tile-size=64 tile-overlap=16",
    );
    let pipeline = gst::parse::launch(&small_tiles).expect("the launch line is understood");
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
    let element = pipeline.by_name("deblur").expect("osdddeblur is in it");
    (pipeline, element)
}

/// Counts the frames that leave the element.
fn frames_out(element: &gst::Element) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    element
        .static_pad("src")
        .expect("a source pad")
        .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            seen.fetch_add(1, Ordering::SeqCst);
            gst::PadProbeReturn::Ok
        });
    count
}

const SOURCE: &str =
    "videotestsrc num-buffers=7 pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1";

#[test]
fn decoded_video_goes_through() {
    let (pipeline, element) = launch(&format!(
        "{SOURCE} ! jpegenc ! image/jpeg,framerate=25/1 ! decodebin ! osdddeblur gamma=0.3 ! videoconvert ! fakesink"
    ));
    let frames = frames_out(&element);
    assert!(play(&pipeline).is_empty());
    assert_eq!(frames.load(Ordering::SeqCst), 7);
}

#[test]
fn ready_and_playing_can_be_repeated() {
    let (pipeline, element) = launch(&format!("{SOURCE} ! osdddeblur depth=3 ! fakesink"));
    let frames = frames_out(&element);
    let bus = pipeline.bus().expect("a bus");
    for round in 1..=5 {
        pipeline.set_state(gst::State::Playing).expect("it plays");
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = bus
            .timed_pop_filtered(gst::ClockTime::from_seconds(120), &wanted)
            .expect("it ends");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
        assert_eq!(stat(&element, "frames-out"), 7, "counted from the start");
        pipeline.set_state(gst::State::Ready).expect("it stops");
        assert_eq!(frames.load(Ordering::SeqCst), 7 * round);
    }
    pipeline.set_state(gst::State::Null).expect("it ends");
}

#[test]
fn stopping_in_the_middle_neither_hangs_nor_complains() {
    let source = SOURCE.replace("num-buffers=7", "");
    let (pipeline, element) = launch(&format!("{source} ! osdddeblur depth=4 ! fakesink"));
    let frames = frames_out(&element);
    for round in 1..=3 {
        pipeline.set_state(gst::State::Playing).expect("it plays");
        let before = frames.load(Ordering::SeqCst);
        while frames.load(Ordering::SeqCst) < before + 2 * round {
            std::thread::yield_now();
        }
        pipeline.set_state(gst::State::Null).expect("it stops");
        let bus = pipeline.bus().expect("a bus");
        assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none());
    }
}

#[test]
fn a_flushing_seek_starts_again() {
    let (pipeline, element) = launch(&format!("{SOURCE} ! osdddeblur depth=3 ! fakesink sync=false"));
    pipeline.set_state(gst::State::Paused).expect("it prerolls");
    let (result, ..) = pipeline.state(gst::ClockTime::from_seconds(120));
    result.expect("it has prerolled");
    let log = record(&element);
    let target = gst::ClockTime::ZERO;
    pipeline
        .seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, target)
        .expect("it seeks");
    assert!(play(&pipeline).is_empty());
    let log = log.lock().expect("the record").clone();
    let start = log
        .iter()
        .position(|line| line == "segment")
        .expect("a segment after the flush");
    let frames = log[start..]
        .iter()
        .filter_map(|line| line.parse::<u64>().ok())
        .collect::<Vec<_>>();
    assert_eq!(frames.first(), Some(&0));
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1), "{frames:?}");
    assert_eq!(log.last().map(String::as_str), Some("eos"));
}

#[test]
fn a_missing_model_is_one_error_that_says_what_to_do() {
    let (pipeline, _) = launch(&format!(
        "{SOURCE} ! osdddeblur model=/nowhere/to/be/found ! fakesink"
    ));
    let errors = play(&pipeline);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].matches(gst::ResourceError::NotFound), "{}", errors[0]);
    assert!(
        errors[0].message().contains("/nowhere/to/be/found"),
        "{}",
        errors[0]
    );
}

#[test]
fn settings_that_cannot_be_are_one_error() {
    for setting in ["device=abacus", "tile-size=65", "precision=fp16 device=cpu"] {
        init();
        let description = format!("{SOURCE} ! osdddeblur {setting} ! fakesink");
        let pipeline = gst::parse::launch(&description).expect("the launch line is understood");
        let errors = play(&pipeline.downcast::<gst::Pipeline>().expect("a pipeline"));
        assert_eq!(errors.len(), 1, "{setting}: {errors:?}");
        assert!(
            errors[0].matches(gst::ResourceError::Settings),
            "{setting}: {}",
            errors[0]
        );
    }
}

/// Interpolates the property from 0 at the first frame to 1 at the last.
fn control(
    element: &gst::Element,
    property: &str,
    last: gst::ClockTime,
) -> gst_controller::InterpolationControlSource {
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::Linear);
    let values = source.upcast_ref::<gst_controller::TimedValueControlSource>();
    assert!(values.set(gst::ClockTime::ZERO, 0.0));
    assert!(values.set(last, 1.0));
    let binding = gst_controller::DirectControlBinding::new(element, property, &source);
    element
        .add_control_binding(&binding)
        .expect("the property is controllable");
    source
}

#[test]
fn gamma_moves_with_every_frame_and_no_frame_is_lost() {
    let (pipeline, element) = launch(
        "videotestsrc num-buffers=26 ! video/x-raw,width=64,height=48,framerate=25/1 ! osdddeblur depth=3 ! fakesink",
    );
    let frames = frames_out(&element);
    let _source = control(&element, "gamma", pts(25));
    let gammas = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&gammas);
    element.connect_notify(Some("gamma"), move |element, _| {
        seen.lock()
            .expect("the record")
            .push(element.property::<f64>("gamma"));
    });
    assert!(play(&pipeline).is_empty());
    assert_eq!(frames.load(Ordering::SeqCst), 26);
    let gammas = gammas.lock().expect("the record");
    assert_eq!(gammas.len(), 26, "{gammas:?}");
    for (index, gamma) in gammas.iter().enumerate() {
        assert!((gamma - index as f64 / 25.0).abs() < 1e-6, "{gammas:?}");
    }
}

fn caps_of(format: &str) -> gst::Caps {
    let caps = gst::Caps::builder("video/x-raw").field("format", format);
    caps.field("width", 64).field("height", 48).build()
}

/// An application that changes what it wants while it plays: the element's output follows, and no frame is lost.
#[test]
fn downstream_may_ask_for_another_format_while_frames_flow() {
    let (pipeline, element) = launch(
        "videotestsrc num-buffers=200 ! videoconvert ! osdddeblur depth=3 ! capsfilter name=wanted caps=video/x-raw,format=I420,width=64,height=48 ! fakesink",
    );
    let frames = frames_out(&element);
    let wanted = pipeline.by_name("wanted").expect("an element");
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let formats = Arc::clone(&seen);
    let src = element.static_pad("src").expect("a source pad");
    src.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, probe| {
        if let Some(gst::EventView::Caps(caps)) = probe.event().map(|event| event.view()) {
            let caps = caps.caps().structure(0).expect("a structure");
            let format = caps.get::<String>("format").expect("a format");
            formats.lock().expect("the formats").push(format);
        }
        gst::PadProbeReturn::Ok
    });
    let count = Arc::clone(&frames);
    let changing = std::thread::spawn(move || {
        for (at, format) in [(20, "NV12"), (60, "RGB"), (100, "GRAY8")] {
            while count.load(Ordering::SeqCst) < at {
                std::thread::yield_now();
            }
            wanted.set_property("caps", caps_of(format));
        }
    });
    let errors = play(&pipeline);
    changing.join().expect("no panic");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(frames.load(Ordering::SeqCst), 200);
    assert_eq!(
        *seen.lock().expect("the formats"),
        ["I420", "NV12", "RGB", "GRAY8"]
    );
}

#[test]
fn properties_and_queries_answer_while_frames_flow() {
    let (pipeline, element) = launch(
        "videotestsrc num-buffers=30 ! video/x-raw,width=64,height=48,framerate=25/1 ! osdddeblur depth=2 ! fakesink",
    );
    let frames = frames_out(&element);
    let done = Arc::new(AtomicBool::new(false));
    let mover = std::thread::spawn({
        let (element, done) = (element.clone(), Arc::clone(&done));
        move || {
            let mut step = 0_u32;
            while !done.load(Ordering::SeqCst) {
                step += 1;
                element.set_property("gamma", f64::from(step % 100) / 100.0);
                element.set_property("strength", f64::from(step % 50 + 1) / 50.0);
                let mut latency = gst::query::Latency::new();
                element
                    .static_pad("src")
                    .expect("a source pad")
                    .query(&mut latency);
                stat(&element, "frames-in");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    let errors = play(&pipeline);
    done.store(true, Ordering::SeqCst);
    mover.join().expect("the other thread has not failed");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(frames.load(Ordering::SeqCst), 30);
}

#[test]
fn two_elements_work_in_one_pipeline() {
    let (pipeline, element) = launch(&format!(
        "{SOURCE} ! tee name=t  t. ! queue ! osdddeblur ! fakesink  t. ! queue ! identity ! fakesink"
    ));
    let second = deblur();
    pipeline.add(&second).expect("added");
    let identity = pipeline
        .iterate_elements()
        .into_iter()
        .flatten()
        .find(|e| e.type_().name() == "GstIdentity");
    let identity = identity.expect("identity is there");
    let sink = identity
        .static_pad("src")
        .and_then(|pad| pad.peer())
        .expect("a sink");
    identity
        .static_pad("src")
        .expect("a pad")
        .unlink(&sink)
        .expect("unlinked");
    identity.link(&second).expect("linked");
    second
        .static_pad("src")
        .expect("a pad")
        .link(&sink)
        .expect("linked");
    let frames = [frames_out(&element), frames_out(&second)];
    assert!(play(&pipeline).is_empty());
    assert_eq!(frames.map(|count| count.load(Ordering::SeqCst)), [7, 7]);
}
