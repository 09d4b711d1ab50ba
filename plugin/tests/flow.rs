//! Frames in flight: their order against events, what drains them, what discards them, and what each one
//! keeps.

mod common;

use common::*;
use gst::prelude::*;

fn started(element: &gst::Element) -> (gst_check::Harness, gst_video::VideoInfo) {
    let caps = caps("I420", 64, 48);
    let mut harness = harness(element);
    harness.set_src_caps(caps.clone());
    (harness, info(&caps))
}

fn with_depth(depth: i32) -> gst::Element {
    let element = deblur();
    element.set_property("depth", depth);
    element
}

fn received(harness: &mut gst_check::Harness) -> Vec<u64> {
    let buffers = std::iter::from_fn(|| harness.try_pull());
    buffers
        .map(|buffer| buffer.pts().expect("a timestamp").mseconds() / 40)
        .collect()
}

#[test]
fn the_end_of_the_stream_lets_out_every_frame() {
    for depth in [1, 2, 3, 16] {
        let element = with_depth(depth);
        let (mut harness, info) = started(&element);
        let log = record(&element);
        for index in 0..5 {
            harness.push(noise(&info, index)).expect("a frame is taken");
            let waiting = index + 1 - u64::from(harness.buffers_received());
            // One that is done may be on its way out.
            assert!(
                waiting <= depth as u64 + 1,
                "depth {depth}: {waiting} frames wait"
            );
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(
            *log.lock().expect("the record"),
            ["0", "1", "2", "3", "4", "eos"],
            "depth {depth}"
        );
    }
}

#[test]
fn a_frame_leaves_when_it_is_done_though_no_other_comes() {
    for depth in [1, 2, 16] {
        let element = with_depth(depth);
        let (mut harness, info) = started(&element);
        for index in 0..3 {
            harness.push(noise(&info, index)).expect("a frame is taken");
        }
        for index in 0..3 {
            let frame = harness.pull().expect("a frame without another behind it");
            assert_eq!(frame.pts(), Some(pts(index)), "depth {depth}");
        }
    }
}

#[test]
fn what_downstream_answers_reaches_upstream_and_the_stream_can_go_on() {
    let element = with_depth(2);
    let (mut harness, info) = started(&element);
    let answer = std::sync::Arc::new(std::sync::Mutex::new(Err(gst::FlowError::Eos)));
    let src = element.static_pad("src").expect("a source pad");
    let probe = src.add_probe(gst::PadProbeType::BUFFER, {
        let answer = answer.clone();
        move |_, probe| {
            probe.flow_res = *answer.lock().expect("the answer");
            gst::PadProbeReturn::Handled
        }
    });
    for error in [
        gst::FlowError::Eos,
        gst::FlowError::NotLinked,
        gst::FlowError::CustomError1,
    ] {
        *answer.lock().expect("the answer") = Err(error);
        assert_eq!(refused(&mut harness, |index| noise(&info, index)), error);
    }
    // As an element that was linked anew does.
    src.remove_probe(probe.expect("a probe"));
    harness.push(noise(&info, 100)).expect("a frame is taken");
    assert!(harness.push_event(gst::event::Eos::new()));
    assert_eq!(received(&mut harness), [100]);
}

/// Of the last frame upstream cannot be told with the next.
#[test]
fn the_end_of_the_stream_says_that_the_last_frame_was_refused() {
    for (answer, errors) in [
        (gst::FlowError::NotNegotiated, 1),
        (gst::FlowError::NotLinked, 0),
        (gst::FlowError::Eos, 0),
    ] {
        let element = with_depth(1);
        let bus = bus_of(&element);
        let (mut harness, info) = started(&element);
        let src = element.static_pad("src").expect("a source pad");
        src.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            probe.flow_res = Err(answer);
            gst::PadProbeReturn::Handled
        });
        harness.push(noise(&info, 0)).expect("a frame is taken");
        // Neither of these keeps it to itself.
        harness.push_event(gst::event::Gap::builder(pts(1)).build());
        let sink = element.static_pad("sink").expect("a sink pad");
        sink.query(&mut gst::query::Drain::new());
        assert!(harness.push_event(gst::event::Eos::new()));
        let said = complaints(&bus, gst::MessageType::Error);
        assert_eq!(said.len(), errors, "{said:?}");
    }
}

/// What downstream says of one stream is nothing to the next.
#[test]
fn a_stream_that_downstream_ends_does_not_end_the_next() {
    init();
    let source = "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=64,height=48 ! c.";
    let description = format!("concat name=c ! osdddeblur name=d ! fakesink sync=false {source} {source}");
    let pipeline = gst::parse::launch(&description).expect("a pipeline");
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
    let element = pipeline.by_name("d").expect("the element");
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = count.clone();
    let src = element.static_pad("src").expect("a source pad");
    src.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) != 2 {
            return gst::PadProbeReturn::Ok;
        }
        probe.flow_res = Err(gst::FlowError::Eos);
        gst::PadProbeReturn::Handled
    });
    play_to_the_end(&pipeline);
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 6);
}

#[test]
fn nobody_behind_a_tee_that_allows_it_is_no_error() {
    init();
    for frames in [1, 5, 6] {
        let description = format!(
            "videotestsrc num-buffers={frames} ! video/x-raw,format=I420,width=64,height=48 ! tee allow-not-linked=true name=t ! osdddeblur name=d t. ! queue ! fakesink sync=false"
        );
        let pipeline = gst::parse::launch(&description).expect("a pipeline");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        play_to_the_end(&pipeline);
        let element = pipeline.by_name("d").expect("the element");
        assert_eq!(stat(&element, "frames-out"), 0, "nobody has taken any");
    }
}

fn play_to_the_end(pipeline: &gst::Pipeline) {
    let bus = pipeline.bus().expect("a bus");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
    let message = message.expect("an end");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).expect("it stops");
}

#[test]
fn a_source_pad_can_be_deactivated_and_activated_alone() {
    let element = with_depth(2);
    let (mut harness, info) = started(&element);
    let src = element.static_pad("src").expect("a source pad");
    for round in 0..3 {
        for index in 0..3 {
            harness
                .push(noise(&info, 3 * round + index))
                .expect("a frame is taken");
        }
        src.set_active(false).expect("it stops");
        assert_eq!(harness.push(noise(&info, 0)), Err(gst::FlowError::Flushing));
        src.set_active(true).expect("it starts");
    }
}

#[test]
fn events_keep_their_place_between_frames() {
    let element = with_depth(3);
    let (mut harness, info) = started(&element);
    let log = record(&element);
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    let custom = gst::Structure::builder("between-frames").build();
    let events = [
        gst::event::Tag::new(gst::TagList::new()),
        gst::event::CustomDownstream::new(custom),
        gst::event::Gap::builder(pts(3)).duration(pts(1)).build(),
        gst::event::Segment::new(&segment),
    ];
    let names = events.each_ref().map(|event| event.type_().name().to_string());
    for (index, event) in (0..).zip(events) {
        harness.push(noise(&info, index)).expect("a frame is taken");
        assert!(harness.push_event(event));
    }
    harness.push(noise(&info, 4)).expect("a frame is taken");
    assert!(harness.push_event(gst::event::Eos::new()));
    let expected = (0..4)
        .flat_map(|index| [index.to_string(), names[index].clone()])
        .chain(["4".into(), "eos".into()]);
    assert_eq!(*log.lock().expect("the record"), expected.collect::<Vec<_>>());
}

#[test]
fn a_flush_discards_and_the_stream_goes_on() {
    let element = with_depth(3);
    let (mut harness, info) = started(&element);
    for index in 0..2 {
        harness.push(noise(&info, index)).expect("a frame is taken");
    }
    let before = received(&mut harness);
    assert!(harness.push_event(gst::event::FlushStart::new()));
    assert_eq!(harness.push(noise(&info, 2)), Err(gst::FlowError::Flushing));
    assert!(harness.push_event(gst::event::FlushStop::new(true)));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(harness.push_event(gst::event::Segment::new(&segment)));
    for index in 10..14 {
        harness
            .push(noise(&info, index))
            .expect("a frame is taken after the flush");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    assert!(before.iter().all(|index| *index < 2));
    assert_eq!(received(&mut harness), [10, 11, 12, 13]);
}

#[test]
fn new_caps_let_out_the_frames_of_the_old_ones_first() {
    let element = with_depth(3);
    let mut harness = harness(&element);
    let log = record(&element);
    let mut sizes = Vec::new();
    let mut index = 0;
    for (format, width) in [("I420", 64), ("RGBA", 64), ("RGBA", 32), ("GRAY8", 17)] {
        let caps = caps(format, width, 48);
        harness.set_src_caps(caps.clone());
        for _ in 0..3 {
            harness
                .push(noise(&info(&caps), index))
                .expect("a frame is taken");
            sizes.push(info(&caps).size());
            index += 1;
        }
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let buffers = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
    assert_eq!(
        buffers.iter().map(|buffer| buffer.size()).collect::<Vec<_>>(),
        sizes
    );
    let log = log.lock().expect("the record").clone();
    let log = log
        .iter()
        .filter(|line| !["stream-start", "segment"].contains(&line.as_str()))
        .collect::<Vec<_>>();
    let expected = [
        "caps", "0", "1", "2", "caps", "3", "4", "5", "caps", "6", "7", "8", "caps", "9", "10", "11", "eos",
    ];
    assert_eq!(log, expected);
}

#[test]
fn every_frame_keeps_its_own_metadata() {
    let element = with_depth(3);
    let (mut harness, info) = started(&element);
    let mut inputs = Vec::new();
    for index in 0..6 {
        let mut buffer = noise(&info, index);
        let writable = buffer.make_mut();
        writable.set_dts(pts(index) / 2);
        writable.set_duration(gst::ClockTime::from_mseconds(index));
        writable.set_offset(1000 + index);
        writable.set_offset_end(2000 + index);
        if index % 2 == 1 {
            writable.set_flags(gst::BufferFlags::DROPPABLE | gst::BufferFlags::MARKER);
        }
        let corner = (index as u32, 2, 3, 4);
        gst_video::VideoRegionOfInterestMeta::add(writable, "face", corner);
        let reference = gst::Caps::builder("timestamp/x-test").build();
        gst::ReferenceTimestampMeta::add(writable, &reference, pts(100 + index), gst::ClockTime::NONE);
        let timecode = gst_video::VideoTimeCode::new(
            gst::Fraction::new(25, 1),
            None,
            gst_video::VideoTimeCodeFlags::empty(),
            10,
            59,
            59,
            index as u32,
            0,
        );
        let timecode = timecode.try_into().expect("a valid time code");
        gst_video::VideoTimeCodeMeta::add(writable, &timecode);
        if index == 4 {
            writable.set_pts(gst::ClockTime::NONE);
            writable.set_duration(gst::ClockTime::NONE);
        }
        inputs.push(buffer.clone());
        harness.push(buffer).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    for input in inputs {
        let output = harness.pull().expect("a frame");
        assert_eq!(
            (
                input.pts(),
                input.dts(),
                input.duration(),
                input.offset(),
                input.offset_end()
            ),
            (
                output.pts(),
                output.dts(),
                output.duration(),
                output.offset(),
                output.offset_end()
            ),
        );
        let flags =
            |buffer: &gst::Buffer| buffer.flags() - gst::BufferFlags::TAG_MEMORY - gst::BufferFlags::DISCONT;
        assert_eq!(flags(&input), flags(&output));
        let face = |buffer: &gst::Buffer| {
            let metas = buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>();
            metas.map(|meta| meta.rect()).collect::<Vec<_>>()
        };
        assert_eq!(face(&input), face(&output));
        let reference = |buffer: &gst::Buffer| {
            buffer
                .meta::<gst::ReferenceTimestampMeta>()
                .map(|meta| meta.timestamp())
                .expect("a reference")
        };
        assert_eq!(reference(&input), reference(&output));
        let timecode = |buffer: &gst::Buffer| {
            let meta = buffer.meta::<gst_video::VideoTimeCodeMeta>();
            meta.map(|meta| meta.tc().to_string()).expect("a time code")
        };
        assert_eq!(timecode(&input), timecode(&output));
    }
}

#[test]
fn a_discontinuity_marks_its_own_frame_only() {
    let element = with_depth(3);
    let (mut harness, info) = started(&element);
    for index in 0..6 {
        let mut buffer = noise(&info, index);
        if index == 0 || index == 3 {
            buffer.make_mut().set_flags(gst::BufferFlags::DISCONT);
        }
        harness.push(buffer).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let marked = std::iter::from_fn(|| harness.try_pull())
        .map(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT))
        .collect::<Vec<_>>();
    assert_eq!(marked, [true, false, false, true, false, false]);
}

/// Upstream's pool may own fewer buffers than there are frames in flight.
#[test]
fn the_buffers_of_upstream_are_not_held_back() {
    for strength in [1.0, 0.0] {
        let element = with_depth(8);
        let (mut harness, info) = started(&element);
        let pool = gst::BufferPool::new();
        let mut config = pool.config();
        config.set_params(Some(&caps("I420", 64, 48)), info.size() as u32, 1, 1);
        pool.set_config(config).expect("the pool is configured");
        pool.set_active(true).expect("the pool starts");
        let at_once = gst::BufferPoolAcquireParams::with_flags(gst::BufferPoolAcquireFlags::DONTWAIT);
        for index in 0..10 {
            // The first frames go to the engine, so that later ones have to wait for them in either case.
            element.set_property("strength", if index < 3 { 1.0 } else { strength });
            let mut buffer = pool
                .acquire_buffer(Some(&at_once))
                .expect("the only buffer is free again");
            buffer.get_mut().expect("writable").set_pts(pts(index));
            harness.push(buffer).expect("a frame is taken");
            // A frame that has passed is downstream's; this one gives it back at once.
            while harness.try_pull().is_some() {}
        }
        pool.set_active(false).expect("the pool stops");
    }
}

#[test]
fn a_frame_that_does_not_fit_its_caps_is_one_error() {
    let element = deblur();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let (mut harness, info) = started(&element);
    for index in 0..3 {
        let mut buffer = gst::Buffer::with_size(info.size() / 2).expect("memory");
        buffer.make_mut().set_pts(pts(index));
        assert_eq!(harness.push(buffer), Err(gst::FlowError::Error));
    }
    let errors = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error])).collect::<Vec<_>>();
    assert_eq!(errors.len(), 1);
    let gst::MessageView::Error(error) = errors[0].view() else {
        unreachable!()
    };
    assert!(
        error.error().matches(gst::StreamError::Format),
        "{}",
        error.error()
    );
}

#[test]
fn what_is_apart_is_refused_with_the_way_out() {
    for (field, value, way_out) in [
        ("interlace-mode", "fields", "deinterlace"),
        ("multiview-mode", "separated", "each view"),
    ] {
        refused_caps(&deblur(), field, value, way_out);
    }
    let wide = deblur();
    wide.set_property_from_str("compare", "side-by-side");
    refused_caps(&wide, "multiview-mode", "top-bottom", "split");
}

fn refused_caps(element: &gst::Element, field: &str, value: &str, way_out: &str) {
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = harness(element);
    let mut caps = caps("I420", 64, 48);
    caps.make_mut().set(field, value);
    caps.make_mut().set("views", 2);
    harness.set_src_caps(caps.clone());
    for index in 0..3 {
        let refused = harness.push(noise(&info(&caps), index));
        assert_eq!(refused, Err(gst::FlowError::NotNegotiated));
    }
    let errors = complaints(&bus, gst::MessageType::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].message().contains(way_out), "{}", errors[0]);
}
