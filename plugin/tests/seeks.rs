//! Seeks, segments, trick modes and pauses: what arrives must be exactly what arrives with `identity` in the element's place.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

const LAST: gst::ClockTime = gst::ClockTime::from_mseconds(1000);

/// Everything that reaches the sink, each as a line: frames with their times, segments, the end.
type Record = Arc<Mutex<Vec<String>>>;

struct Player {
    pipeline: gst::Pipeline,
    record: Record,
}

impl Player {
    fn new(element: &str) -> Self {
        init();
        let description = format!(
            "videotestsrc pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! {element} \
             ! fakesink name=sink sync=false"
        );
        let pipeline = gst::parse::launch(&description).expect("the launch line is understood");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let sink = pipeline.by_name("sink").expect("the sink");
        let record = Record::default();
        let seen = Arc::clone(&record);
        let kinds =
            gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
        sink.static_pad("sink")
            .expect("a pad")
            .add_probe(kinds, move |_, probe| {
                let line = match &probe.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => Some(format!(
                        "{:?} {:?} {:?}",
                        buffer.pts(),
                        buffer.duration(),
                        buffer.offset()
                    )),
                    Some(gst::PadProbeData::Event(event)) => match event.view() {
                        gst::EventView::Segment(segment) => {
                            let segment = segment.segment().downcast_ref::<gst::ClockTime>();
                            segment.map(|s| {
                                format!(
                                    "segment {} {:?} {:?} {:?}",
                                    s.rate(),
                                    s.start(),
                                    s.stop(),
                                    s.time()
                                )
                            })
                        }
                        gst::EventView::Eos(_) | gst::EventView::SegmentDone(_) => {
                            Some(format!("{:?}", event.type_()))
                        }
                        _ => None,
                    },
                    _ => None,
                };
                seen.lock().expect("the record").extend(line);
                gst::PadProbeReturn::Ok
            });
        Self { pipeline, record }
    }

    fn settle(&self, state: gst::State) {
        self.pipeline.set_state(state).expect("the state changes");
        self.settled();
    }

    fn settled(&self) {
        let (result, ..) = self.pipeline.state(gst::ClockTime::from_seconds(120));
        result.expect("the state has changed");
    }

    fn seek(&self, rate: f64, flags: gst::SeekFlags, start: gst::ClockTime, stop: gst::ClockTime) {
        self.pipeline
            .seek(rate, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop)
            .expect("it seeks");
    }

    fn wait_for(&self, kind: gst::MessageType) {
        let bus = self.pipeline.bus().expect("a bus");
        let message = bus.timed_pop_filtered(
            gst::ClockTime::from_seconds(120),
            &[kind, gst::MessageType::Error],
        );
        assert_eq!(message.map(|message| message.type_()), Some(kind));
    }

    /// What has arrived since the latest flush; where the pipeline stood before it is a matter of chance.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.record.lock().expect("the record"))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Runs a scenario with the element and with `identity`; both must give the same, and something.
fn like_identity(scenario: fn(&Player) -> Vec<String>) {
    let expected = scenario(&Player::new("identity"));
    assert!(!expected.is_empty());
    for depth in [1, 3] {
        let (element, folder) = small_deblur();
        drop(element);
        let element = format!(
            "osdddeblur depth={depth} tile-size=64 tile-overlap=16 model={}",
            folder.path().display()
        );
        assert_eq!(scenario(&Player::new(&element)), expected, "depth {depth}");
    }
}

const FLUSH: gst::SeekFlags = gst::SeekFlags::FLUSH.union(gst::SeekFlags::ACCURATE);

/// Frames of before a flush are gone; the segment is the first of what comes after it.
fn since_the_last_segment(mut taken: Vec<String>) -> Vec<String> {
    let begin = taken.iter().rposition(|line| line.starts_with("segment"));
    taken.split_off(begin.expect("a segment"))
}

#[test]
fn flushing_seeks_forth_and_back() {
    like_identity(|player| {
        player.settle(gst::State::Paused);
        let mut all = Vec::new();
        for start in [600, 0, 280, 960, 40] {
            player.pipeline.set_state(gst::State::Paused).expect("it pauses");
            player.seek(1.0, FLUSH, gst::ClockTime::from_mseconds(start), LAST);
            player.settled();
            player.settle(gst::State::Playing);
            player.wait_for(gst::MessageType::Eos);
            all.extend(since_the_last_segment(player.taken()));
        }
        all
    });
}

#[test]
fn segments_follow_each_other_without_a_flush() {
    like_identity(|player| {
        player.settle(gst::State::Paused);
        let third = gst::ClockTime::from_mseconds(320);
        player.seek(1.0, FLUSH | gst::SeekFlags::SEGMENT, gst::ClockTime::ZERO, third);
        player.settled();
        player.taken();
        player.settle(gst::State::Playing);
        player.wait_for(gst::MessageType::SegmentDone);
        for _ in 0..3 {
            player.seek(1.0, gst::SeekFlags::SEGMENT, gst::ClockTime::ZERO, third);
            player.wait_for(gst::MessageType::SegmentDone);
        }
        player.seek(1.0, gst::SeekFlags::empty(), gst::ClockTime::ZERO, third);
        player.wait_for(gst::MessageType::Eos);
        let taken = player.taken();
        let begin = taken.iter().position(|line| line.starts_with("segment"));
        taken[begin.unwrap_or_default()..].to_vec()
    });
}

#[test]
fn trick_modes_run_fast_slowly_and_backwards() {
    like_identity(|player| {
        player.settle(gst::State::Paused);
        let mut all = Vec::new();
        for (rate, flags) in [
            (2.0, FLUSH),
            (0.5, FLUSH),
            (-1.0, FLUSH),
            (-2.0, FLUSH),
            (4.0, FLUSH | gst::SeekFlags::TRICKMODE),
        ] {
            player.pipeline.set_state(gst::State::Paused).expect("it pauses");
            player.seek(rate, flags, gst::ClockTime::from_mseconds(200), LAST);
            player.settled();
            player.settle(gst::State::Playing);
            player.wait_for(gst::MessageType::Eos);
            all.extend(since_the_last_segment(player.taken()));
        }
        all
    });
}

#[test]
fn frames_can_be_stepped_through() {
    like_identity(|player| {
        player.settle(gst::State::Paused);
        player.seek(1.0, FLUSH, gst::ClockTime::ZERO, LAST);
        player.settled();
        let sink = player.pipeline.by_name("sink").expect("the sink");
        let mut shown = Vec::new();
        for _ in 0..6 {
            let step = gst::event::Step::new(gst::format::Buffers::from_u64(1), 1.0, true, false);
            assert!(sink.send_event(step));
            player.wait_for(gst::MessageType::AsyncDone);
            player.settled();
            let sample = sink.property::<gst::Sample>("last-sample");
            shown.push(format!("{:?}", sample.buffer().and_then(|buffer| buffer.pts())));
        }
        shown
    });
}
