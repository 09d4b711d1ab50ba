//! Faults: each is one error or one warning, never a hang or a black frame, and the next start is clean.

mod common;

use common::*;
use gst::MessageType::{Error, Warning};
use gst::prelude::*;
use osdd::config::ModelConfig;

/// A model that divides by zero: at this timestep nothing is left of the image.
fn diverging_config() -> ModelConfig {
    let mut config = small_config();
    config.scheduler.beta_start = 0.5;
    config.scheduler.beta_end = 0.99;
    config.scheduler.timestep = 999;
    config
}

fn with_model(folder: &tempfile::TempDir) -> gst::Element {
    let element = deblur();
    element.set_property("model", folder.path().to_str().expect("UTF-8"));
    element
}

/// What one frame becomes.
fn output(harness: &mut gst_check::Harness, frame: &gst::Buffer) -> gst::Buffer {
    harness.push(frame.clone()).expect("a frame is taken");
    harness.pull().expect("a frame")
}

#[test]
fn numbers_that_are_not_finite_show_the_input_with_one_warning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path(), diverging_config(), 1);
    for format in ["RGB", "I420", "GRAY8"] {
        let element = with_model(&folder);
        let bus = bus_of(&element);
        let caps = caps(format, 104, 48);
        let mut harness = harness(&element);
        harness.set_src_caps(caps.clone());
        let inputs = (0..3).map(|index| noise(&info(&caps), index)).collect::<Vec<_>>();
        for input in &inputs {
            harness.push(input.clone()).expect("a frame is taken");
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        for input in &inputs {
            let output = harness.pull().expect("a frame");
            assert!(bytes(input) == bytes(&output), "{format}: the input is shown");
        }
        assert!(stat(&element, "tiles-failed") >= 6, "two tiles a frame");
        assert_eq!(stat(&element, "tiles-failed"), stat(&element, "tiles-run"));
        let warnings = complaints(&bus, Warning);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].message().contains("not finite"), "{}", warnings[0]);
        assert!(complaints(&bus, Error).is_empty());
    }
}

#[test]
fn a_model_deleted_while_it_runs_is_missed_at_the_next_start() {
    let (element, folder) = small_deblur();
    element.set_property("depth", 1);
    let caps = caps("RGB", 64, 48);
    let frame = noise(&info(&caps), 0);
    let mut harness = harness(&element);
    harness.set_src_caps(caps);
    let before = output(&mut harness, &frame);
    drop(folder);
    assert!(bytes(&before) == bytes(&output(&mut harness, &frame)));

    drop(harness);
    let bus = bus_of(&element);
    element.set_state(gst::State::Null).expect("it stops");
    let started = element.set_state(gst::State::Paused);
    assert!(started.is_err());
    let errors = complaints(&bus, Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].matches(gst::ResourceError::NotFound), "{}", errors[0]);
    element.set_state(gst::State::Null).expect("it stops");
}

#[test]
fn a_model_replaced_while_it_runs_is_used_by_the_next_start_only() {
    let (element, folder) = small_deblur();
    element.set_property("depth", 1);
    let caps = caps("RGB", 64, 48);
    let frame = noise(&info(&caps), 0);
    let mut first = harness(&element);
    first.set_src_caps(caps.clone());
    let old = bytes(&output(&mut first, &frame));

    write_model(folder.path(), small_config(), 2);
    let next = with_model(&folder);
    next.set_property("depth", 1);
    let mut second = harness(&next);
    second.set_src_caps(caps);
    let new = bytes(&output(&mut second, &frame));
    assert!(new != old, "an element that starts now has the new weights");
    assert!(
        bytes(&output(&mut first, &frame)) == old,
        "one that runs keeps its own"
    );
}

#[test]
fn a_broken_model_is_one_error_and_a_mended_one_starts() {
    let (element, folder) = small_deblur();
    let (weights, config) = (
        folder.path().join("model.safetensors"),
        folder.path().join("config.json"),
    );
    let good = [&weights, &config].map(|path| std::fs::read(path).expect("read"));
    let bus = bus_of(&element);
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    for (path, broken) in [
        (&weights, half(&good[0])),
        (&weights, Vec::new()),
        (&weights, vec![0xff; 4096]),
        (&config, half(&good[1])),
        (&config, b"{}".to_vec()),
    ] {
        std::fs::write(path, broken).expect("written");
        assert!(element.set_state(gst::State::Paused).is_err());
        element.set_state(gst::State::Null).expect("it stops");
        let errors = complaints(&bus, Error);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].matches(gst::ResourceError::Read), "{}", errors[0]);
        std::fs::write(&weights, &good[0]).expect("written");
        std::fs::write(&config, &good[1]).expect("written");
    }
    let mut harness = harness(&element);
    let caps = caps("RGB", 64, 48);
    harness.set_src_caps(caps.clone());
    harness.push(noise(&info(&caps), 0)).expect("a frame is taken");
    assert!(complaints(&bus, Error).is_empty());
}

/// Longer than any grid of tiles: the engine fails, not the element.
#[test]
fn a_failure_of_the_engine_is_one_error_and_the_next_start_is_clean() {
    let (element, _folder) = small_deblur();
    element.set_property("depth", 1);
    let bus = bus_of(&element);
    {
        let mut harness = harness(&element);
        let caps = caps("GRAY8", (1 << 20) + 1, 1);
        harness.set_src_caps(caps.clone());
        for _ in 0..3 {
            let answer = refused(&mut harness, |index| noise(&info(&caps), index));
            assert_eq!(answer, gst::FlowError::Error);
        }
        assert_eq!(harness.buffers_received(), 0);
    }
    let errors = complaints(&bus, Error);
    assert_eq!(errors.len(), 1, "{errors:?}");

    element.set_state(gst::State::Null).expect("it stops");
    let bus = bus_of(&element);
    let mut harness = harness(&element);
    let caps = caps("GRAY8", 64, 48);
    harness.set_src_caps(caps.clone());
    output(&mut harness, &noise(&info(&caps), 0));
    assert_eq!(stat(&element, "frames-in"), 1, "counted from the start");
    assert!(complaints(&bus, Error).is_empty());
}

#[test]
fn sizes_from_one_pixel_to_8192_pass_through_the_model() {
    let (element, _folder) = small_deblur();
    element.set_property("depth", 1);
    element.set_property("tile-size", 512);
    let mut harness = harness(&element);
    for (width, height) in [(1, 1), (1, 8192), (8192, 1), (8192, 2), (3, 8191)] {
        let caps = caps("I420", width, height);
        harness.set_src_caps(caps.clone());
        let input = noise(&info(&caps), 0);
        assert_eq!(
            output(&mut harness, &input).size(),
            input.size(),
            "{width}x{height}"
        );
    }
    element.set_property("strength", 0.0);
    let caps = caps("GRAY8", 8192, 8192);
    harness.set_src_caps(caps.clone());
    let input = gst::Buffer::from_mut_slice(vec![77; info(&caps).size()]);
    assert_eq!(output(&mut harness, &input).size(), input.size());
}

#[test]
fn timestamps_that_are_missing_or_outside_the_segment_stay_as_they_are() {
    let (element, _folder) = small_deblur();
    element.set_property("depth", 3);
    element.set_property_from_str("late-policy", "drop");
    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    // From ten seconds on: what is before has a negative running time.
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(10));
    segment.set_time(gst::ClockTime::ZERO);
    assert!(harness.push_event(gst::event::Segment::new(&segment)));
    assert!(harness.push_upstream_event(gst::event::Qos::new(
        gst::QOSType::Underflow,
        1.0,
        0,
        gst::ClockTime::ZERO
    )));
    let stamps = [
        None,
        Some(gst::ClockTime::ZERO),
        Some(gst::ClockTime::from_seconds(9)),
        None,
        Some(gst::ClockTime::from_seconds(11)),
        Some(gst::ClockTime::from_seconds(10)),
        Some(gst::ClockTime::MAX),
    ];
    for stamp in stamps {
        let mut buffer = noise(&info(&caps), 0);
        let writable = buffer.make_mut();
        writable.set_pts(stamp);
        writable.set_duration(gst::ClockTime::NONE);
        harness.push(buffer).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let out = std::iter::from_fn(|| harness.try_pull())
        .map(|buffer| buffer.pts())
        .collect::<Vec<_>>();
    // The one at ten seconds is late, as downstream has said.
    let expected = stamps
        .into_iter()
        .filter(|stamp| *stamp != Some(gst::ClockTime::from_seconds(10)))
        .collect::<Vec<_>>();
    assert_eq!(out, expected);
}

#[test]
fn a_buffer_that_is_marked_corrupted_stays_marked() {
    let (element, _folder) = small_deblur();
    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    for index in 0..3 {
        let mut buffer = noise(&info(&caps), index);
        if index == 1 {
            buffer.make_mut().set_flags(gst::BufferFlags::CORRUPTED);
        }
        harness.push(buffer).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let marked = std::iter::from_fn(|| harness.try_pull())
        .map(|buffer| buffer.flags().contains(gst::BufferFlags::CORRUPTED))
        .collect::<Vec<_>>();
    assert_eq!(marked, [false, true, false]);
}
