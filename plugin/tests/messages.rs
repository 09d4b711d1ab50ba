//! What the element says on the bus and in the log: statistics, warnings, and the library's lines.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use gst::MessageType::{Error, Warning};
use gst::prelude::*;

fn push(harness: &mut gst_check::Harness, caps: &gst::Caps, frames: std::ops::Range<u64>) {
    for index in frames {
        harness.push(noise(&info(caps), index)).expect("a frame is taken");
    }
}

#[test]
fn statistics_are_posted_when_asked_and_at_the_end() {
    for wanted in [true, false] {
        let (element, _folder) = small_deblur();
        let bus = bus_of(&element);
        element.set_property("message-stats", wanted);
        let caps = caps("I420", 64, 48);
        let mut harness = harness(&element);
        harness.set_src_caps(caps.clone());
        push(&mut harness, &caps, 0..3);
        assert!(harness.push_event(gst::event::Eos::new()));
        let messages = messages(&bus, gst::MessageType::Element);
        let frames = |message: &gst::Message| {
            let stats = message.structure().expect("a structure");
            assert_eq!(stats.name(), "application/x-osdd-stats");
            let count = |name| stats.get::<u64>(name).expect("a count");
            (count("frames-in"), count("frames-out"))
        };
        match wanted {
            false => assert!(messages.is_empty()),
            true => {
                assert_eq!(frames(&messages[0]), (1, 0), "the first is posted at once");
                assert_eq!(messages.last().map(frames), Some((3, 3)));
            }
        }
    }
}

#[test]
fn statistics_go_on_when_the_source_falls_silent() {
    let (element, _folder) = small_deblur();
    let bus = bus_of(&element);
    element.set_property("message-stats", true);
    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    push(&mut harness, &caps, 0..1);
    for _ in 0..3 {
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Element]);
        assert!(message.is_some(), "no message without another frame");
    }
}

#[test]
fn high_dynamic_range_passes_with_one_warning() {
    let (element, _folder) = small_deblur();
    let bus = bus_of(&element);
    let mut harness = harness(&element);
    let mut index = 0;
    for (colorimetry, hdr) in [
        ("bt2100-pq", true),
        ("bt2100-hlg", true),
        ("bt2020-10", false),
        ("bt709", false),
    ] {
        for format in ["P010_10LE", "I420_10LE"] {
            let mut caps = caps(format, 64, 48);
            caps.make_mut().set("colorimetry", colorimetry);
            harness.set_src_caps(caps.clone());
            // Samples of 10 bits, above or below 6 bits of zeros.
            let mut input = noise(&info(&caps), index);
            for sample in input
                .make_mut()
                .map_writable()
                .expect("mapped")
                .chunks_exact_mut(2)
            {
                let value = u16::from_le_bytes([sample[0], sample[1]]);
                let value = if format == "P010_10LE" {
                    value & 0xffc0
                } else {
                    value & 0x3ff
                };
                sample.copy_from_slice(&value.to_le_bytes());
            }
            harness.push(input.clone()).expect("a frame is taken");
            harness.set_src_caps(common::caps("GRAY8", 1, 1));
            let output = harness.pull().expect("a frame");
            assert_eq!(
                bytes(&input) == bytes(&output),
                hdr,
                "{colorimetry} {format}: unchanged"
            );
            index += 1;
        }
    }
    assert_eq!(stat(&element, "frames-passed"), 4);
    let warnings = complaints(&bus, Warning);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message().contains("dynamic range"), "{}", warnings[0]);
    assert!(complaints(&bus, Error).is_empty());
}

#[test]
fn a_model_that_is_too_slow_is_said_once_with_a_way_out() {
    // Live or not, downstream behind or not, frames a second, warnings.
    for (live, behind, rate, expected) in [
        (true, false, 100_000, 1),
        (false, true, 100_000, 1),
        (false, false, 100_000, 0),
        (true, false, 0, 0),
    ] {
        let (element, _folder) = small_deblur();
        let bus = bus_of(&element);
        let mut caps = caps("I420", 64, 48);
        caps.make_mut().set("framerate", gst::Fraction::new(rate, 1));
        let mut harness = harness(&element);
        harness.set_live(live);
        harness.set_src_caps(caps.clone());
        let mut query = gst::query::Latency::new();
        assert!(element.static_pad("src").expect("a pad").query(&mut query));
        if behind {
            let event = gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 1, gst::ClockTime::ZERO);
            assert!(harness.push_upstream_event(event));
        }
        push(&mut harness, &caps, 0..40);
        assert!(harness.push_event(gst::event::Eos::new()));
        let warnings = complaints(&bus, Warning);
        assert_eq!(
            warnings.len(),
            expected,
            "live {live}, behind {behind}: {warnings:?}"
        );
        for warning in warnings {
            assert!(warning.matches(gst::CoreError::Clock), "{warning}");
            assert!(warning.message().contains("times too slow"), "{warning}");
            assert!(warning.message().contains("late-policy"), "{warning}");
        }
    }
}

#[test]
fn lines_of_the_library_are_in_the_log_under_the_elements_category() {
    init();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let function = gst::log::add_log_function(move |category, level, file, _, _, _, message| {
        if category.name() == "osdddeblur" {
            let line = (
                level,
                file.to_string(),
                message.get().map(|text| text.to_string()),
            );
            seen.lock().expect("the lines").push(line);
        }
    });
    gst::log::set_threshold_for_name("osdddeblur", gst::DebugLevel::Info);
    let element = deblur();
    element.set_state(gst::State::Paused).expect("it starts");
    element.set_state(gst::State::Null).expect("it stops");
    gst::log::remove_log_function(function);
    let lines = lines.lock().expect("the lines");
    let of_the_library = |(level, file, text): &(gst::DebugLevel, String, Option<String>)| {
        *level == gst::DebugLevel::Info
            && file.ends_with("src/engine/mod.rs")
            && text.as_deref().is_some_and(|text| text.contains("model nano"))
    };
    assert!(lines.iter().any(of_the_library), "{lines:?}");
}
