//! What changes while data flows: latency, lateness, gamma and strength.

mod common;

use common::*;
use gst::prelude::*;
use gst_controller::prelude::*;

fn latency(element: &gst::Element) -> (bool, gst::ClockTime, Option<gst::ClockTime>) {
    let mut query = gst::query::Latency::new();
    assert!(element.static_pad("src").expect("a source pad").query(&mut query));
    query.result()
}

#[test]
fn latency_is_upstreams_and_the_time_of_a_frame() {
    let upstream = gst::ClockTime::from_mseconds(7);
    for (framerate, depth) in [((30000, 1001), 4), ((25, 1), 1), ((0, 1), 2)] {
        let element = deblur();
        element.set_property("depth", depth);
        let mut harness = harness(&element);
        harness.set_live(true);
        harness.set_upstream_latency(upstream);
        let mut caps = caps("I420", 64, 48);
        caps.make_mut()
            .set("framerate", gst::Fraction::new(framerate.0, framerate.1));
        harness.set_src_caps(caps.clone());
        let (live, min, _) = latency(&element);
        assert!(live);
        assert_eq!(min, upstream, "before the first frame");

        for index in 0..3 {
            harness
                .push(noise(&info(&caps), index))
                .expect("a frame is taken");
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        assert!(latency(&element).1 > upstream, "the measured time is added");
    }
}

#[test]
fn the_first_measurement_announces_a_latency() {
    let element = deblur();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = harness(&element);
    let caps = caps("I420", 64, 48);
    let messages = || std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Latency])).count();
    harness.set_src_caps(caps.clone());
    assert_eq!(messages(), 0);
    harness.push(noise(&info(&caps), 0)).expect("a frame is taken");
    assert!(harness.push_event(gst::event::Eos::new()));
    assert_eq!(messages(), 1);
}

/// Sends five frames of which downstream says, after the first, that all up to the third are late.
fn with_late_frames(policy: &str) -> (gst::Element, Vec<gst::Buffer>, Vec<gst::Buffer>, usize) {
    let element = deblur();
    element.set_property("depth", 1);
    element.set_property_from_str("late-policy", policy);
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = harness(&element);
    // Otherwise frames are late that find the model at work.
    harness.set_live(false);
    let caps = caps("RGB", 64, 48);
    harness.set_src_caps(caps.clone());
    let mut inputs = (0..5)
        .map(|index| smooth(&info(&caps), index))
        .collect::<Vec<_>>();
    for (index, input) in inputs.iter_mut().enumerate() {
        if index > 2 {
            // Whatever the model takes.
            input
                .make_mut()
                .set_pts(pts(index as u64) + gst::ClockTime::from_seconds(3600));
        }
        if index == 1 {
            let late = i64::try_from(pts(2).nseconds()).expect("short");
            assert!(harness.push_upstream_event(gst::event::Qos::new(
                gst::QOSType::Underflow,
                2.0,
                late,
                pts(0)
            )));
        }
        harness.push(input.clone()).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let outputs = std::iter::from_fn(|| harness.try_pull()).collect();
    let messages = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Qos])).count();
    (element, inputs, outputs, messages)
}

fn indices(buffers: &[gst::Buffer]) -> Vec<u64> {
    buffers.iter().map(|buffer| buffer.offset()).collect()
}

#[test]
fn late_frames_are_processed_by_default() {
    let (_element, inputs, outputs, messages) = with_late_frames("process");
    assert_eq!(indices(&outputs), [0, 1, 2, 3, 4]);
    assert!(
        inputs
            .iter()
            .zip(&outputs)
            .all(|(input, output)| bytes(input) != bytes(output))
    );
    assert_eq!(messages, 0);
}

#[test]
fn late_frames_pass_in_order() {
    let (_element, inputs, outputs, messages) = with_late_frames("passthrough");
    assert_eq!(indices(&outputs), [0, 1, 2, 3, 4]);
    let passed = inputs
        .iter()
        .zip(&outputs)
        .map(|(input, output)| bytes(input) == bytes(output))
        .collect::<Vec<_>>();
    assert_eq!(passed, [false, true, true, false, false]);
    assert_eq!(messages, 2, "of the quality, down and up again");
}

#[test]
fn late_frames_are_dropped_with_a_message_and_a_mark() {
    let (_element, _, outputs, messages) = with_late_frames("drop");
    assert_eq!(indices(&outputs), [0, 3, 4]);
    assert_eq!(messages, 2);
    let marked = outputs
        .iter()
        .map(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT))
        .collect::<Vec<_>>();
    assert_eq!(marked[1..], [true, false]);
}

/// A file's frame that would be in time as it came, and not when the model is done. What comes live has the latency that the
/// element reports for that.
#[test]
fn a_frame_that_leaves_the_model_no_time_is_late_unless_it_is_live() {
    for (policy, live, late) in [
        ("process", false, 0),
        ("passthrough", false, 1),
        ("drop", false, 1),
        ("passthrough", true, 0),
        ("drop", true, 0),
    ] {
        let element = deblur();
        element.set_property_from_str("late-policy", policy);
        let mut harness = harness(&element);
        harness.set_live(live);
        let caps = caps("RGB", 64, 48);
        harness.set_src_caps(caps.clone());
        harness.push(smooth(&info(&caps), 0)).expect("a frame is taken");
        harness.pull().expect("a frame, so that its time is known");
        // Downstream has reached the time just before the next frame's.
        let qos = gst::event::Qos::new(gst::QOSType::Overflow, 1.0, -1, pts(1));
        assert!(harness.push_upstream_event(qos));
        harness.push(smooth(&info(&caps), 1)).expect("a frame is taken");
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(stat(&element, "frames-late"), late, "{policy}, live {live}");
    }
}

#[test]
fn stats_count_what_happened() {
    let element = deblur();
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<String>("model").as_deref(), Ok("nano"));
    assert_eq!(stats.get::<f64>("gamma"), Ok(0.7));
    assert_eq!(stat(&element, "frames-in"), 0);

    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    for index in 0..4 {
        element.set_property("strength", if index == 2 { 0.0 } else { 1.0 });
        harness
            .push(noise(&info(&caps), index))
            .expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    for (name, value) in [
        ("frames-in", 4),
        ("frames-out", 4),
        ("frames-passed", 1),
        ("frames-late", 0),
        ("frames-dropped", 0),
    ] {
        assert_eq!(stat(&element, name), value, "{name}");
    }
    assert!(stat(&element, "tiles-run") > 0);
    assert!(stat(&element, "time-total") > 0);
    assert!(stat(&element, "time-convert") > 0);
    for name in [
        "time-upload",
        "time-model",
        "time-blend",
        "time-download",
        "tiles-reused",
        "tiles-skipped",
    ] {
        stat(&element, name);
    }
    let stats = element.property::<gst::Structure>("stats");
    assert!(
        stats.get::<String>("device").is_ok_and(|device| device != "auto"),
        "the device that is used: {stats}"
    );
    // It is what somebody asks for when all is over.
    element.set_state(gst::State::Null).expect("it stops");
    assert_eq!(element.property::<gst::Structure>("stats"), stats);
}

/// Between reading the settings and running with them lies the loading of the model.
#[test]
fn what_is_set_while_the_model_loads_counts() {
    let caps = caps("RGB", 64, 48);
    let frame = smooth(&info(&caps), 0);
    let first = |element: &gst::Element| {
        let mut harness = harness(element);
        harness.set_src_caps(caps.clone());
        harness.push(frame.clone()).expect("a frame is taken");
        bytes(&harness.pull().expect("a frame"))
    };
    let expected = {
        let element = deblur();
        element.set_property("gamma", 0.1);
        first(&element)
    };
    for wait in 0..8 {
        let element = deblur();
        let starting = std::thread::spawn({
            let element = element.clone();
            move || element.set_state(gst::State::Paused)
        });
        std::thread::sleep(std::time::Duration::from_millis(2 * wait));
        element.set_property("gamma", 0.1);
        starting.join().expect("no panic").expect("it starts");
        assert!(first(&element) == expected, "set after {} ms", 2 * wait);
        element.set_state(gst::State::Null).expect("it stops");
    }
}

/// Frames of an element under a controller that moves a property from 0 to 1 over the first six of them.
fn controlled(property: &str, inputs: &[gst::Buffer], caps: &gst::Caps) -> Vec<Vec<u8>> {
    let element = deblur();
    element.set_property("depth", 3);
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::Linear);
    let values = source.upcast_ref::<gst_controller::TimedValueControlSource>();
    assert!(values.set(pts(0), 0.0) && values.set(pts(5), 1.0));
    let binding = gst_controller::DirectControlBinding::new(&element, property, &source);
    element
        .add_control_binding(&binding)
        .expect("the property is controllable");
    outputs(&element, inputs, caps)
}

fn outputs(element: &gst::Element, inputs: &[gst::Buffer], caps: &gst::Caps) -> Vec<Vec<u8>> {
    let mut harness = harness(element);
    // Otherwise frames may be late.
    harness.set_live(false);
    harness.set_src_caps(caps.clone());
    for input in inputs {
        harness.push(input.clone()).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    std::iter::from_fn(|| harness.try_pull())
        .map(|buffer| bytes(&buffer))
        .collect()
}

#[test]
fn a_controller_gives_every_frame_its_own_value() {
    let caps = caps("RGB", 64, 48);
    let inputs = (0..6).map(|index| noise(&info(&caps), index)).collect::<Vec<_>>();
    for property in ["gamma", "strength"] {
        let moved = controlled(property, &inputs, &caps);
        assert_eq!(moved.len(), 6);
        for index in [0, 2, 5] {
            let element = deblur();
            element.set_property(property, index as f64 / 5.0);
            let still = outputs(&element, &inputs[index..=index], &caps);
            assert!(moved[index] == still[0], "{property}, frame {index}");
        }
        // Not because it makes no difference.
        let element = deblur();
        element.set_property(property, 0.9);
        assert!(
            outputs(&element, &inputs[2..3], &caps)[0] != moved[2],
            "{property}"
        );
    }
}

#[test]
fn strength_zero_in_between_keeps_the_order() {
    let element = deblur();
    element.set_property("depth", 3);
    let caps = caps("RGB", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    let inputs = (0..9)
        .map(|index| smooth(&info(&caps), index))
        .collect::<Vec<_>>();
    for (index, input) in inputs.iter().enumerate() {
        element.set_property("strength", if index % 3 == 1 { 0.0 } else { 1.0 });
        harness.push(input.clone()).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let outputs = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
    assert_eq!(indices(&outputs), (0..9).collect::<Vec<_>>());
    for index in [1, 4, 7] {
        assert_eq!(bytes(&inputs[index]), bytes(&outputs[index]));
    }
}
