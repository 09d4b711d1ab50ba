//! Latency as reported against what frames have to wait, and live sources whose model is too slow.

mod common;

use std::time::{Duration, Instant};

use common::*;
use gst::prelude::*;

fn latency(element: &gst::Element) -> gst::ClockTime {
    let mut query = gst::query::Latency::new();
    assert!(element.static_pad("src").expect("a source pad").query(&mut query));
    query.result().1
}

/// The time from a frame's coming to its leaving, of frames that come one after the other.
#[test]
fn the_latency_that_is_reported_is_that_of_a_frame() {
    for depth in [1, 2, 5] {
        let element = deblur();
        element.set_property("depth", depth);
        let mut caps = caps("I420", 256, 192);
        caps.make_mut().set("framerate", gst::Fraction::new(1, 1));
        let mut harness = harness(&element);
        harness.set_live(true);
        harness.set_src_caps(caps.clone());
        let mut waited = Vec::new();
        for index in 0..15 {
            let frame = noise(&info(&caps), index);
            let start = Instant::now();
            harness.push(frame).expect("a frame is taken");
            harness.pull().expect("a frame leaves without another behind it");
            waited.push(start.elapsed());
        }
        // What is reported is a mean of the last ones.
        let recent = &mut waited[5..];
        recent.sort();
        let median: Duration = recent[recent.len() / 2];
        let reported: Duration = latency(&element).into();
        assert!(
            reported > median / 3 && reported < 3 * median,
            "depth {depth}: {reported:?} for {median:?}"
        );
    }
}

#[test]
fn frames_that_come_in_bursts_wait_for_each_other() {
    let (element, _folder) = small_deblur();
    element.set_property("depth", 3);
    let mut caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_live(true);
    for framerate in [
        gst::Fraction::new(1, 1),
        gst::Fraction::new(0, 1),
        gst::Fraction::new(1_000_000, 1),
    ] {
        caps.make_mut().set("framerate", framerate);
        harness.set_src_caps(caps.clone());
        harness.push(noise(&info(&caps), 0)).expect("a frame is taken");
        harness.pull().expect("a frame");
        // As many as `depth` may be in the engine, unless they come one by one.
        let engine = gst::ClockTime::from_nseconds(stat(&element, "time-total"));
        let frames = if framerate.numer() == 1 { 1 } else { 3 };
        let reported = latency(&element);
        assert!(
            reported > engine * frames / 3,
            "{framerate}: {reported} of {engine}"
        );
        if framerate.numer() != 1 {
            element.set_property_from_str("late-policy", "drop");
            let alone = latency(&element);
            let hurried = framerate.numer() > 1;
            assert_eq!(alone < reported, hurried, "{framerate}: {alone}, {reported}");
            element.set_property_from_str("late-policy", "process");
        }
    }
}

/// A hundred frames from a source that is a million times a second ahead of any model.
fn too_fast(live: bool, policy: &str) -> (gst::Element, Vec<gst::Buffer>, gst::Bus) {
    let (element, _folder) = small_deblur();
    element.set_property_from_str("late-policy", policy);
    let bus = bus_of(&element);
    let mut caps = caps("GRAY8", 64, 48);
    caps.make_mut().set("framerate", gst::Fraction::new(1_000_000, 1));
    let mut harness = harness(&element);
    harness.set_live(live);
    harness.set_src_caps(caps.clone());
    // As the pipeline does before it plays.
    latency(&element);
    for index in 0..100 {
        harness
            .push(noise(&info(&caps), index))
            .expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let outputs = std::iter::from_fn(|| harness.try_pull()).collect();
    (element, outputs, bus)
}

fn indices(buffers: &[gst::Buffer]) -> Vec<u64> {
    buffers.iter().map(|buffer| buffer.offset()).collect()
}

#[test]
fn a_live_source_that_the_model_cannot_follow_is_passed_through() {
    let (element, outputs, bus) = too_fast(true, "passthrough");
    let indices = indices(&outputs);
    assert!(indices.is_sorted(), "{indices:?}");
    let (passed, dropped) = (stat(&element, "frames-passed"), stat(&element, "frames-dropped"));
    assert!(passed + dropped > 50, "only {passed} did not wait for the model");
    assert!(passed > 20, "{dropped} did not even pass");
    assert_eq!(stat(&element, "frames-late"), passed + dropped);
    assert_eq!(stat(&element, "frames-out"), 100 - dropped);
    assert_eq!(indices.len() as u64, 100 - dropped);
    // One for each that is left out, and where passing begins and ends.
    let said = messages(&bus, gst::MessageType::Qos).len() as u64;
    assert!(
        said > dropped && said < 100,
        "{said} messages, {dropped} left out"
    );
}

/// Whatever the model takes, a camera that makes ten frames in that time is not held up.
#[test]
fn a_model_that_is_ten_times_too_slow_holds_no_camera_up() {
    for policy in ["passthrough", "drop"] {
        let element = deblur();
        element.set_property_from_str("late-policy", policy);
        let mut caps = caps("GRAY8", 256, 192);
        let mut harness = harness(&element);
        harness.set_live(true);
        harness.set_src_caps(caps.clone());
        // The first frame takes longer than others.
        let mut taken = (0..5).map(|_| {
            let start = Instant::now();
            harness.push(noise(&info(&caps), 0)).expect("a frame is taken");
            harness.pull().expect("a frame");
            start.elapsed()
        });
        let model = taken.by_ref().min().expect("five times");
        drop(taken);
        let interval = model / 10;
        let framerate = gst::Fraction::new((1.0 / interval.as_secs_f64()).max(1.0) as i32, 1);
        caps.make_mut().set("framerate", framerate);
        harness.set_src_caps(caps.clone());
        latency(&element);
        let mut held_up = Duration::ZERO;
        for index in 1..=60 {
            std::thread::sleep(interval);
            let start = Instant::now();
            harness
                .push(noise(&info(&caps), index))
                .expect("a frame is taken");
            held_up += start.elapsed();
        }
        // Every frame is one of these: deblurred (one in ten or so), or late.
        assert!(harness.push_event(gst::event::Eos::new()));
        let late = stat(&element, "frames-late");
        assert!(late > 30, "{policy}: only {late} of 60 frames were late");
        let [passed, dropped] = ["frames-passed", "frames-dropped"].map(|name| stat(&element, name));
        assert_eq!(late, passed + dropped, "{policy}");
        assert_eq!(policy == "drop", passed == 0, "{policy}: {passed} passed");
        assert_eq!(stat(&element, "frames-out") + dropped, 65, "{policy}");
        // Where each frame waits for the model, it is 60 times.
        assert!(
            held_up < 20 * model,
            "{policy}: {held_up:?}, the model takes {model:?}"
        );
    }
}

#[test]
fn a_live_source_that_the_model_cannot_follow_is_thinned_out() {
    let (element, outputs, bus) = too_fast(true, "drop");
    let dropped = stat(&element, "frames-dropped");
    assert!(dropped > 50, "only {dropped} did not wait for the model");
    assert_eq!(stat(&element, "frames-late"), dropped);
    assert_eq!(outputs.len() as u64 + dropped, 100);
    assert_eq!(messages(&bus, gst::MessageType::Qos).len() as u64, dropped);
    for pair in outputs.windows(2) {
        let gap = pair[1].offset() > pair[0].offset() + 1;
        assert_eq!(pair[1].flags().contains(gst::BufferFlags::DISCONT), gap);
    }
}

#[test]
fn frames_wait_for_the_model_where_they_may() {
    for (live, policy) in [(true, "process"), (false, "passthrough"), (false, "drop")] {
        let (element, outputs, _) = too_fast(live, policy);
        assert_eq!(indices(&outputs), (0..100).collect::<Vec<_>>());
        assert_eq!(stat(&element, "frames-late"), 0, "live {live}, {policy}");
    }
}
