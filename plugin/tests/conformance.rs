//! What GstBaseTransform does for elements that send each frame at once, and this one has to see to itself.

mod common;

use common::*;
use gst::prelude::*;

fn started(properties: &[(&str, &str)]) -> (gst::Element, gst_check::Harness, gst_video::VideoInfo) {
    let element = deblur();
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    let info = info(&caps);
    (element, harness, info)
}

fn push(harness: &mut gst_check::Harness, info: &gst_video::VideoInfo, index: u64) {
    harness.push(noise(info, index)).expect("a frame is taken");
}

fn title(title: &str) -> gst::TagList {
    let mut tags = gst::TagList::new();
    tags.make_mut()
        .add::<gst::tags::Title>(&title, gst::TagMergeMode::Replace);
    tags
}

#[test]
fn tags_behind_discarded_frames_are_still_known_downstream() {
    let (element, mut harness, info) = started(&[("depth", "3")]);
    push(&mut harness, &info, 0);
    assert!(harness.push_event(gst::event::Tag::new(title("kept"))));
    let src = element.static_pad("src").expect("a source pad");
    assert!(
        src.sticky_event::<gst::event::Tag>(0).is_none(),
        "it waits for the frame"
    );
    assert!(harness.push_event(gst::event::FlushStart::new()));
    assert!(harness.push_event(gst::event::FlushStop::new(true)));
    let tag = src.sticky_event::<gst::event::Tag>(0).expect("a tag");
    assert_eq!(tag.tag(), &title("kept"));
}

#[test]
fn a_stream_of_tags_without_frames_is_not_kept_back_for_ever() {
    let (_element, mut harness, info) = started(&[("depth", "3")]);
    push(&mut harness, &info, 0);
    for number in 0..1000 {
        assert!(harness.push_event(gst::event::Tag::new(title(&number.to_string()))));
    }
    assert_eq!(harness.buffers_received(), 1);
}

#[test]
fn serialized_queries_let_out_the_frames_and_events_before_them() {
    let (element, mut harness, info) = started(&[("depth", "3")]);
    let log = record(&element);
    push(&mut harness, &info, 0);
    push(&mut harness, &info, 1);
    let still = gst::Structure::new_empty("GstEventStillFrame");
    assert!(harness.push_event(gst::event::CustomDownstream::new(still)));
    push(&mut harness, &info, 2);
    // Nobody answers it, but who would has had its frames.
    let sink = element.static_pad("sink").expect("a sink pad");
    sink.query(&mut gst::query::Drain::new());
    assert_eq!(
        *log.lock().expect("the record"),
        ["0", "1", "custom-downstream", "2"]
    );
}

#[test]
fn the_position_is_that_of_the_latest_frame_sent() {
    let (element, mut harness, info) = started(&[("depth", "3")]);
    let position = || {
        let mut query = gst::query::Position::new(gst::Format::Time);
        assert!(element.static_pad("src").expect("a source pad").query(&mut query));
        match query.result() {
            gst::GenericFormattedValue::Time(Some(time)) => time,
            other => panic!("no time: {other:?}"),
        }
    };
    assert_eq!(position(), gst::ClockTime::ZERO);
    for index in 0..4 {
        push(&mut harness, &info, index);
        harness.pull().expect("a frame");
        assert_eq!(position(), pts(index + 1));
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    assert_eq!(position(), pts(4));
}

#[test]
fn a_frame_that_qos_leaves_out_marks_the_frame_after_it() {
    let (_element, mut harness, info) = started(&[("depth", "3"), ("qos", "true")]);
    for index in 0..6 {
        if index == 3 {
            let late = gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 0, pts(3));
            assert!(harness.push_upstream_event(late));
        }
        push(&mut harness, &info, index);
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let came = std::iter::from_fn(|| harness.try_pull()).map(|buffer| {
        let marked = buffer.flags().contains(gst::BufferFlags::DISCONT);
        (buffer.offset(), marked)
    });
    let expected = [(0, false), (1, false), (2, false), (4, true), (5, false)];
    assert_eq!(came.collect::<Vec<_>>(), expected);
}

#[test]
fn side_by_side_keeps_what_holds_for_its_left_half() {
    let (element, mut harness, info) = started(&[("depth", "1"), ("compare", "side-by-side")]);
    let mut frame = noise(&info, 0);
    {
        let frame = frame.make_mut();
        gst_video::VideoRegionOfInterestMeta::add(frame, "face", (1, 2, 3, 4));
        gst_video::VideoAFDMeta::add(
            frame,
            0,
            gst_video::VideoAFDSpec::AtscA53,
            gst_video::VideoAFDValue::_169Letter169Full,
        );
    }
    harness.push(frame).expect("a frame is taken");
    let output = harness.pull().expect("a frame");
    let region = output.meta::<gst_video::VideoRegionOfInterestMeta>();
    assert_eq!(region.expect("a region").rect(), (1, 2, 3, 4));
    let wide = output.meta::<gst_video::VideoAFDMeta>();
    assert!(wide.is_none(), "the format of a picture that is half of this one");

    // Clicks into the right half are clicks into the picture too.
    let sink = element.static_pad("sink").expect("a sink pad");
    let (sender, clicks) = std::sync::mpsc::channel();
    sink.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, probe| {
        if let Some(gst::EventView::Navigation(event)) = probe.event().map(|event| event.view()) {
            let x = event.structure().and_then(|s| s.get::<f64>("pointer_x").ok());
            let _ = sender.send(x);
        }
        gst::PadProbeReturn::Ok
    });
    for x in [10.0, 64.0, 100.5] {
        let press = gst_video::NavigationEvent::new_mouse_button_press(1, x, 5.0);
        harness.push_upstream_event(press.build());
    }
    assert_eq!(clicks.try_iter().flatten().collect::<Vec<_>>(), [10.0, 0.0, 36.5]);
}

mod pool {
    use gst::subclass::prelude::*;

    #[derive(Default)]
    pub struct Broken;

    #[glib::object_subclass]
    impl ObjectSubclass for Broken {
        const NAME: &'static str = "BrokenPool";
        type Type = super::BrokenPool;
        type ParentType = gst::BufferPool;
    }

    impl ObjectImpl for Broken {}
    impl GstObjectImpl for Broken {}
    impl BufferPoolImpl for Broken {
        fn start(&self) -> bool {
            false
        }
    }
}

glib::wrapper! {
    /// A pool that has no memory.
    pub struct BrokenPool(ObjectSubclass<pool::Broken>) @extends gst::BufferPool, gst::Object;
}

#[test]
fn a_pool_of_downstream_that_does_not_start_is_one_error() {
    let element = deblur();
    element.set_property("depth", 1);
    let bus = bus_of(&element);
    let caps = caps("I420", 64, 48);
    let mut harness = harness(&element);
    let src = element.static_pad("src").expect("a source pad");
    src.add_probe(
        gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PULL,
        |_, probe| {
            let Some(gst::QueryViewMut::Allocation(query)) = probe.query_mut().map(|query| query.view_mut())
            else {
                return gst::PadProbeReturn::Ok;
            };
            let pool = glib::Object::new::<BrokenPool>();
            query.add_allocation_pool(Some(&pool), 64 * 48 * 3 / 2, 2, 2);
            gst::PadProbeReturn::Handled
        },
    );
    harness.set_src_caps(caps.clone());
    let pushed = (0..3).map(|index| harness.push(noise(&info(&caps), index)));
    assert!(pushed.collect::<Vec<_>>().contains(&Err(gst::FlowError::Error)));
    assert_eq!(complaints(&bus, gst::MessageType::Error).len(), 1);
}

#[test]
fn upstream_is_told_what_downstream_keeps() {
    let (element, harness, _) = started(&[]);
    let src = element.static_pad("src").expect("a source pad");
    src.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, probe| {
        if let Some(gst::QueryViewMut::Allocation(query)) = probe.query_mut().map(|query| query.view_mut()) {
            query.add_allocation_pool(None::<&gst::BufferPool>, 64 * 48 * 3 / 2, 3, 0);
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
    src.mark_reconfigure();
    let mut harness = harness;
    push(&mut harness, &info(&caps("I420", 64, 48)), 0);
    let mut query = gst::query::Allocation::new(Some(&caps("I420", 64, 48)), true);
    assert!(element.static_pad("sink").expect("a sink pad").query(&mut query));
    assert!(query.find_allocation_meta::<gst_video::VideoMeta>().is_some());
    let least = query.allocation_pools().map(|(_, _, min, _)| min).max();
    assert_eq!(least, Some(3));
}

/// What downstream's hardware needs of a buffer, and what conversions like of upstream's.
#[test]
fn memory_is_aligned_as_either_side_asks() {
    let (element, harness, _) = started(&[]);
    let src = element.static_pad("src").expect("a source pad");
    src.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, probe| {
        if let Some(gst::QueryViewMut::Allocation(query)) = probe.query_mut().map(|query| query.view_mut()) {
            let params = gst::AllocationParams::new(gst::MemoryFlags::empty(), 4095, 0, 0);
            query.add_allocation_param(None::<&gst::Allocator>, params);
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
    src.mark_reconfigure();
    let mut harness = harness;
    for index in 0..4 {
        push(&mut harness, &info(&caps("I420", 64, 48)), index);
        let frame = harness.pull().expect("a frame");
        let address = frame.map_readable().expect("mapped").as_ptr() as usize;
        assert_eq!(address % 4096, 0);
    }
    let mut query = gst::query::Allocation::new(Some(&caps("I420", 64, 48)), true);
    assert!(element.static_pad("sink").expect("a sink pad").query(&mut query));
    let align = query.allocation_params().map(|(_, params)| params.align()).max();
    assert!(align.is_some_and(|align| align & 31 == 31), "{align:?}");
}

/// While the streaming thread waits in a sink that has its first frame.
#[test]
fn the_position_is_told_while_the_stream_is_blocked() {
    init();
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=9 ! video/x-raw,width=64,height=48,framerate=25/1 ! \
         osdddeblur name=deblur depth=1 ! fakesink sync=true",
    )
    .expect("a pipeline")
    .downcast::<gst::Pipeline>()
    .expect("a pipeline");
    pipeline.set_state(gst::State::Paused).expect("it pauses");
    let (result, _, _) = pipeline.state(gst::ClockTime::from_seconds(60));
    result.expect("it has paused");
    let element = pipeline.by_name("deblur").expect("the launch line names it");
    let (sender, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(element.query_position::<gst::ClockTime>());
    });
    let position = answer.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(position.expect("an answer"), Some(pts(1)));
    pipeline.set_state(gst::State::Null).expect("it stops");
}
