//! How much the element delays a stream: the frames that it waits for, and the time that a frame takes.

use std::{
    sync::Mutex,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use gst::prelude::*;

use super::lock;

/// Shortest time between two latency messages: each makes the application configure the whole pipeline again.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(1);

/// What latency queries need. They are answered from here at once, whatever the engine does.
pub(crate) struct Latency {
    frame_rate: Mutex<gst::Fraction>,
    /// Moving average of the engine's time per frame; 0 before the first.
    engine_ns: AtomicU64,
    /// The same of conversions there and back, on the streaming thread.
    conversion_ns: AtomicU64,
    frames: AtomicU64,
    /// What upstream said in the latest query.
    live: AtomicBool,
    announced: Mutex<Announced>,
}

/// The model takes longer for a frame than the frame rate leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun {
    pub taken: gst::ClockTime,
    pub available: gst::ClockTime,
}

impl Overrun {
    /// How many times too slow.
    pub fn factor(self) -> f64 {
        self.taken.nseconds() as f64 / self.available.nseconds().max(1) as f64
    }
}

/// What the latest latency message stood for.
#[derive(Default)]
struct Announced {
    added_ns: u64,
    at: Option<Instant>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            frame_rate: Mutex::new(gst::Fraction::new(0, 1)),
            engine_ns: AtomicU64::new(0),
            conversion_ns: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            live: AtomicBool::new(false),
            announced: Mutex::default(),
        }
    }
}

impl Latency {
    /// Forgets what was measured, and what upstream is.
    pub fn reset(&self) {
        self.set_frame_rate(gst::Fraction::new(0, 1));
        self.set_live(false);
        self.engine_ns.store(0, Ordering::Relaxed);
        self.conversion_ns.store(0, Ordering::Relaxed);
        self.frames.store(0, Ordering::Relaxed);
        *lock(&self.announced) = Announced::default();
    }

    /// Whether the frame rate is another than before, so that a latency message is due.
    pub fn set_frame_rate(&self, frame_rate: gst::Fraction) -> bool {
        std::mem::replace(&mut *lock(&self.frame_rate), frame_rate) != frame_rate
    }

    /// What the element adds to the latency of its upstream, with `depth` frames in flight: a frame leaves with the one that
    /// comes `depth - 1` later, after its own time. Where the model is too slow, the one that finds it done may come a frame
    /// later than that.
    pub fn added(&self, depth: i32) -> gst::ClockTime {
        let waited_for = (depth - 1).max(i32::from(self.overrun(depth).is_some()));
        frames(*lock(&self.frame_rate), waited_for).saturating_add(self.taken(1))
    }

    /// The mean time of a frame: what it takes from in to out, or, where `depth` lets the engine and the streaming thread
    /// work at the same time, until the next frame can be taken.
    fn taken(&self, depth: i32) -> gst::ClockTime {
        let engine = gst::ClockTime::from_nseconds(self.engine_ns.load(Ordering::Relaxed));
        let conversion = gst::ClockTime::from_nseconds(self.conversion_ns.load(Ordering::Relaxed));
        if depth > 1 {
            engine.max(conversion)
        } else {
            engine.saturating_add(conversion)
        }
    }

    /// Whether frames of a live source come when they please, so that no next frame can be counted on.
    pub fn is_unsteady(&self) -> bool {
        self.is_live() && lock(&self.frame_rate).numer() == 0
    }

    pub fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Relaxed);
    }

    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Frames that the mean is made of.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether the model is too slow for the frame rate with `depth` frames in flight; not where either is unknown.
    pub fn overrun(&self, depth: i32) -> Option<Overrun> {
        let taken = self.taken(depth);
        let available = frames(*lock(&self.frame_rate), 1);
        (!available.is_zero() && taken > available).then_some(Overrun { taken, available })
    }

    /// Takes the times of one frame into account, the engine's and that of its conversions; true when a latency message is
    /// due, with `depth` frames in flight.
    pub fn measured(&self, engine: Duration, conversion: Duration, depth: i32, now: Instant) -> bool {
        let first = self.frames.fetch_add(1, Ordering::Relaxed) == 0;
        for (mean, time) in [(&self.engine_ns, engine), (&self.conversion_ns, conversion)] {
            let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let mean_ns = mean.load(Ordering::Relaxed);
            let moved = if first {
                time_ns
            } else {
                mean_ns - mean_ns / 8 + time_ns / 8
            };
            mean.store(moved, Ordering::Relaxed);
        }

        let added_ns = self.added(depth).nseconds();
        let mut announced = lock(&self.announced);
        let changed = added_ns.abs_diff(announced.added_ns) > announced.added_ns / 4;
        let rested = announced
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= MESSAGE_INTERVAL);
        if changed && rested {
            *announced = Announced {
                added_ns,
                at: Some(now),
            };
        }
        changed && rested
    }
}

/// The duration of `depth` frames, 0 where the frame rate is unknown or variable.
fn frames(frame_rate: gst::Fraction, depth: i32) -> gst::ClockTime {
    let (Ok(frames), Ok(numer), Ok(denom)) = (
        u64::try_from(depth),
        u64::try_from(frame_rate.numer()),
        u64::try_from(frame_rate.denom()),
    ) else {
        return gst::ClockTime::ZERO;
    };
    if numer == 0 {
        return gst::ClockTime::ZERO;
    }
    gst::ClockTime::SECOND
        .mul_div_ceil(frames * denom, numer)
        .unwrap_or(gst::ClockTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_multiply_before_they_divide() {
        let ntsc = gst::Fraction::new(30000, 1001);
        assert_eq!(frames(ntsc, 1).nseconds(), 33_366_667);
        // Three rounded frames would be 100_100_001.
        assert_eq!(frames(ntsc, 3).nseconds(), 100_100_000);
        assert_eq!(frames(gst::Fraction::new(0, 1), 3), gst::ClockTime::ZERO);
        assert_eq!(
            frames(gst::Fraction::new(1, i32::MAX), 2).seconds(),
            2 * i32::MAX as u64
        );
        assert_eq!(frames(gst::Fraction::new(1, i32::MAX), 16), gst::ClockTime::MAX);
    }

    #[test]
    fn messages_follow_large_changes_at_most_once_a_second() {
        let latency = Latency::default();
        let start = Instant::now();
        let measured = |took_ms, at_ms| {
            let now = start + Duration::from_millis(at_ms);
            latency.measured(Duration::from_millis(took_ms), Duration::ZERO, 1, now)
        };
        assert!(measured(100, 0), "the first measurement is news");
        assert!(!measured(110, 2000), "one per cent is not");
        assert!(measured(1000, 3000));
        assert!(!measured(9000, 3500), "too soon after the last");
        assert!(measured(1000, 4000));
        // A little more time, but too much for the frame rate now, which is a frame more.
        latency.reset();
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        assert!(measured(39, 5000));
        assert!((6..10).any(|second| measured(42, 1000 * second)));
    }

    #[test]
    fn too_slow_is_more_than_the_frame_rate_leaves() {
        let latency = Latency::default();
        let ms = Duration::from_millis;
        latency.measured(ms(100), ms(20), 2, Instant::now());
        assert_eq!(latency.overrun(2), None, "the frame rate is unknown");
        latency.set_frame_rate(gst::Fraction::new(10, 1));
        assert_eq!(latency.overrun(2), None, "just in time");
        let alone = latency.overrun(1).expect("conversions wait for the engine");
        assert_eq!(alone.taken.mseconds(), 120);
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        let overrun = latency.overrun(2).expect("too slow");
        assert_eq!(
            (overrun.taken.mseconds(), overrun.available.mseconds()),
            (100, 40)
        );
        assert_eq!(overrun.factor(), 2.5);
    }

    #[test]
    fn added_are_the_frames_waited_for_and_the_measured_time() {
        let latency = Latency::default();
        let ms = Duration::from_millis;
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.added(1), gst::ClockTime::ZERO);
        assert_eq!(latency.added(3).mseconds(), 80);
        latency.measured(ms(30), ms(5), 2, Instant::now());
        assert_eq!(latency.added(1).mseconds(), 35);
        assert_eq!(latency.added(2).mseconds(), 75);
        latency.set_frame_rate(gst::Fraction::new(100, 1));
        assert_eq!(latency.added(1).mseconds(), 45, "too slow, a frame more");
        latency.reset();
        assert_eq!(latency.added(2), gst::ClockTime::ZERO);
    }
}
