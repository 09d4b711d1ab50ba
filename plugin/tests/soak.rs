//! Everything that happens to an element in weeks, at random and as fast as it goes: caps that change, seeks, gaps, settings
//! that move, late frames, faults and restarts. Every frame must come out once, in order, with its own times.
//!
//! Without `OSDD_SOAK_MINUTES` a fixed number of operations; with it, as many as fit. `OSDD_SOAK_SEED` chooses others.

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::*;
use gst::prelude::*;
use gst_check::Harness;

const OPERATIONS: u64 = 8000;

/// Operations before memory is expected to stay as it is.
const WARM_UP: u64 = 1000;

/// What may come on top of it: buffers of several sizes lie differently in the allocator each time.
const GROWTH: u64 = 48 << 20;

const FORMATS: [&str; 6] = ["I420", "RGB", "GRAY8", "RGBA", "P010_10LE", "YUY2"];

/// Numbers that follow from a seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn unit(&mut self) -> f64 {
        self.below(1001) as f64 / 1000.0
    }
}

/// A frame that went in and has to come out.
#[derive(Debug, PartialEq)]
struct Sent {
    index: u64,
    size: usize,
}

struct Soak {
    element: gst::Element,
    bus: gst::Bus,
    harness: Option<Harness>,
    random: Random,
    caps: gst::Caps,
    next: u64,
    waiting: VecDeque<Sent>,
    received: u64,
    dropped: u64,
    flushed: u64,
    restarts: u64,
}

impl Soak {
    fn new(element: gst::Element, seed: u64) -> Self {
        let bus = bus_of(&element);
        let mut soak = Self {
            element,
            bus,
            harness: None,
            random: Random(seed | 1),
            caps: caps("I420", 64, 48),
            next: 0,
            waiting: VecDeque::new(),
            received: 0,
            dropped: 0,
            flushed: 0,
            restarts: 0,
        };
        soak.start();
        soak
    }

    fn harness(&mut self) -> &mut Harness {
        self.harness.as_mut().expect("it runs")
    }

    fn start(&mut self) {
        let mut harness = harness(&self.element);
        harness.set_src_caps(self.caps.clone());
        self.harness = Some(harness);
    }

    fn stop(&mut self) {
        self.harness = None;
        self.bus.set_flushing(true);
        self.bus.set_flushing(false);
        self.element.set_state(gst::State::Null).expect("it stops");
        self.flushed += self.waiting.drain(..).count() as u64;
        self.restarts += 1;
    }

    fn push(&mut self) {
        let index = self.next;
        self.next += 1;
        let wide = self.element.property_value("compare").get::<gstosdd::Compare>();
        let info = info(&self.caps);
        let mut out = self.caps.clone();
        if wide == Ok(gstosdd::Compare::SideBySide) {
            out.make_mut().set("width", 2 * info.width() as i32);
        }
        let size = common::info(&out).size();
        let before = stat(&self.element, "frames-dropped");
        let frame = noise(&info, index);
        self.harness().push(frame).expect("a frame is taken");
        match stat(&self.element, "frames-dropped") - before {
            0 => self.waiting.push_back(Sent { index, size }),
            dropped => self.dropped += dropped,
        }
        self.take();
    }

    /// Takes what has come out, which must be what was sent longest ago.
    fn take(&mut self) {
        while let Some(output) = self.harness().try_pull() {
            let sent = self.waiting.pop_front().expect("no frame comes out twice");
            let came = Sent {
                index: output.offset(),
                size: output.size(),
            };
            assert_eq!(came, sent);
            assert_eq!(output.pts(), Some(pts(sent.index)));
            assert_eq!(output.duration(), Some(pts(1)));
            assert_eq!(output.offset_end(), sent.index + 1);
            self.received += 1;
        }
    }

    fn change_caps(&mut self) {
        let format = FORMATS[self.random.below(FORMATS.len() as u64) as usize];
        let (width, height) = (1 + self.random.below(100), 1 + self.random.below(80));
        self.caps = caps(format, width as i32, height as i32);
        let caps = self.caps.clone();
        self.harness().set_src_caps(caps);
        self.take();
    }

    fn seek(&mut self) {
        let harness = self.harness();
        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        while self.harness().try_pull().is_some() {}
        self.flushed += self.waiting.drain(..).count() as u64;
    }

    fn event(&mut self) {
        let time = pts(self.next);
        let kind = self.random.below(4);
        let event = match kind {
            0 => gst::event::Gap::builder(time).duration(pts(1)).build(),
            1 => gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
            2 => gst::event::CustomDownstream::new(gst::Structure::new_empty("soak")),
            _ => gst::event::Tag::new(gst::TagList::new()),
        };
        assert!(self.harness().push_event(event));
        self.take();
        // A segment lets out all frames before it; the others wait in the queue with them.
        assert!(
            kind != 1 || self.waiting.is_empty(),
            "left behind: {:?}",
            self.waiting
        );
    }

    fn setting(&mut self) {
        let value = self.random.unit();
        match self.random.below(6) {
            0 | 1 => self.element.set_property("gamma", value),
            2 => self
                .element
                .set_property("strength", if value < 0.3 { 0.0 } else { value }),
            3 => {
                let compare = ["off", "split", "side-by-side"][self.random.below(3) as usize];
                self.element.set_property_from_str("compare", compare);
            }
            4 => self.element.set_property("compare-position", value),
            _ => {
                let policy = ["process", "passthrough", "drop"][self.random.below(3) as usize];
                self.element.set_property_from_str("late-policy", policy);
            }
        }
    }

    /// Downstream says that it is some frames behind, or ahead.
    fn lateness(&mut self) {
        let frames = self.random.below(5) as i64 - 2;
        let (time, late) = (pts(self.next), 40_000_000 * frames);
        let kind = gst::QOSType::Underflow;
        let event = gst::event::Qos::new(kind, 1.0 + self.random.unit(), late, time);
        self.harness().push_upstream_event(event);
    }

    /// What stops the element: one error, and it has to be started again.
    fn fault(&mut self) {
        self.element.set_property("strength", 1.0);
        self.element.set_property_from_str("late-policy", "process");
        match self.random.below(4) {
            0 => self.short_frame(),
            1 => self.engine_failure(),
            2 => self.missing_model(),
            _ => self.downstream_failure(),
        }
        self.restart();
    }

    /// A frame that is too short for its caps.
    fn short_frame(&mut self) {
        let size = info(&self.caps).size() / 2;
        let short = gst::Buffer::from_mut_slice(vec![0; size]);
        assert_eq!(self.harness().push(short), Err(gst::FlowError::Error));
        self.take();
        assert_eq!(complaints(&self.bus, gst::MessageType::Error).len(), 1);
    }

    /// A frame that the engine has no tiles for.
    fn engine_failure(&mut self) {
        let longest = caps("GRAY8", (1 << 20) + 1, 1);
        self.harness().set_src_caps(longest.clone());
        self.take();
        let answer = refused(self.harness(), |index| noise(&info(&longest), index));
        assert_eq!(answer, gst::FlowError::Error);
        assert_eq!(complaints(&self.bus, gst::MessageType::Error).len(), 1);
    }

    /// A start without its model.
    fn missing_model(&mut self) {
        self.stop();
        let model = self.element.property::<String>("model");
        self.element.set_property("model", "/nowhere");
        assert!(self.element.set_state(gst::State::Paused).is_err());
        assert_eq!(complaints(&self.bus, gst::MessageType::Error).len(), 1);
        self.element.set_state(gst::State::Null).expect("it stops");
        self.element.set_property("model", model);
        self.start();
    }

    /// Downstream takes no more; what is under way is lost with it, and that is no error of the element's.
    fn downstream_failure(&mut self) {
        let src = self.element.static_pad("src").expect("a source pad");
        let probe = src.add_probe(gst::PadProbeType::BUFFER, |_, probe| {
            probe.flow_res = Err(gst::FlowError::NotLinked);
            gst::PadProbeReturn::Handled
        });
        let info = info(&self.caps);
        let answer = refused(self.harness(), |index| noise(&info, index));
        assert_eq!(answer, gst::FlowError::NotLinked);
        src.remove_probe(probe.expect("a probe"));
        while self.harness().try_pull().is_some() {}
        self.flushed += self.waiting.drain(..).count() as u64;
        assert!(complaints(&self.bus, gst::MessageType::Error).is_empty());
    }

    fn restart(&mut self) {
        self.stop();
        let depth = 1 + self.random.below(4) as i32;
        self.element.set_property("depth", depth);
        self.start();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..70 => self.push(),
            70..80 => self.setting(),
            80..87 => self.event(),
            87..91 => self.lateness(),
            91..95 => self.change_caps(),
            95..98 => self.seek(),
            98 => self.fault(),
            _ => self.restart(),
        }
        let waiting = self.waiting.len();
        // The queue's bound.
        assert!(waiting <= 32, "{waiting} frames wait");
    }
}

#[test]
fn every_frame_comes_out_once_whatever_happens() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("OSDD_SOAK_SEED").unwrap_or(7);
    let until = number("OSDD_SOAK_MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (element, _folder) = small_deblur();
    let mut soak = Soak::new(element, seed);
    let (mut operations, mut warm) = (0, 0);
    while until.map_or(operations < OPERATIONS, |until| Instant::now() < until) {
        soak.step();
        operations += 1;
        if operations == WARM_UP {
            warm = resident_bytes();
        }
    }
    assert!(soak.harness().push_event(gst::event::Eos::new()));
    soak.take();
    assert!(soak.waiting.is_empty(), "lost: {:?}", soak.waiting);
    assert_eq!(soak.received + soak.dropped + soak.flushed, soak.next);
    let grown = resident_bytes().saturating_sub(warm);
    println!(
        "{operations} operations: {} frames in, {} out, {} dropped as late, {} flushed; {} restarts; {} KB more memory",
        soak.next,
        soak.received,
        soak.dropped,
        soak.flushed,
        soak.restarts,
        grown >> 10
    );
    assert!(
        operations < WARM_UP || grown < GROWTH,
        "{grown} bytes more than after the warm-up"
    );
}
