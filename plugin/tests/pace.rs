//! Latency as reported against what frames have to wait, and live sources whose model is too slow.

mod common;

use common::*;
use gst::prelude::*;

fn latency(element: &gst::Element) -> gst::ClockTime {
    let mut query = gst::query::Latency::new();
    assert!(element.static_pad("src").expect("a source pad").query(&mut query));
    query.result().1
}

/// The time from a frame's coming to its leaving, the worst of ten, by the clock of a source that is exactly on time.
#[test]
fn no_frame_waits_longer_than_the_latency_that_is_reported() {
    for depth in [1, 2, 5] {
        let (element, _folder) = small_deblur();
        element.set_property("depth", depth);
        let caps = caps("I420", 64, 48);
        let mut harness = harness(&element);
        harness.set_live(true);
        harness.set_src_caps(caps.clone());
        let mut waited = gst::ClockTime::ZERO;
        for index in 0..10 {
            harness
                .push(noise(&info(&caps), index))
                .expect("a frame is taken");
            while let Some(output) = harness.try_pull() {
                waited = waited.max(pts(index) - output.pts().expect("a timestamp"));
            }
        }
        assert_eq!(waited, pts(depth as u64 - 1), "depth {depth}");
        let reported = latency(&element);
        assert!(reported > waited, "depth {depth}: {reported} for {waited}");
        let mean = gst::ClockTime::from_nseconds(stat(&element, "time-total"));
        assert!(reported < waited + 20 * mean, "depth {depth}: {reported}");
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
    let (element, outputs, _) = too_fast(true, "passthrough");
    assert_eq!(indices(&outputs), (0..100).collect::<Vec<_>>());
    let passed = stat(&element, "frames-passed");
    assert!(passed > 50, "only {passed} did not wait for the model");
    assert_eq!(stat(&element, "frames-late"), passed);
    assert_eq!(stat(&element, "frames-out"), 100);
    assert_eq!(stat(&element, "frames-dropped"), 0);
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
