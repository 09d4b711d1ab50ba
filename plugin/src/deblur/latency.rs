//! How much the element delays a stream: `depth` frames, and the time that a frame takes.

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
    /// Moving average of the time per frame; 0 before the first.
    mean_ns: AtomicU64,
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

/// The time per frame that the latest latency message stood for.
#[derive(Default)]
struct Announced {
    mean_ns: u64,
    at: Option<Instant>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            frame_rate: Mutex::new(gst::Fraction::new(0, 1)),
            mean_ns: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            live: AtomicBool::new(false),
            announced: Mutex::default(),
        }
    }
}

impl Latency {
    /// Forgets what was measured.
    pub fn reset(&self) {
        self.set_frame_rate(gst::Fraction::new(0, 1));
        self.mean_ns.store(0, Ordering::Relaxed);
        self.frames.store(0, Ordering::Relaxed);
        *lock(&self.announced) = Announced::default();
    }

    /// Whether the frame rate is another than before, so that a latency message is due.
    pub fn set_frame_rate(&self, frame_rate: gst::Fraction) -> bool {
        std::mem::replace(&mut *lock(&self.frame_rate), frame_rate) != frame_rate
    }

    /// What the element adds to the latency of its upstream.
    pub fn added(&self, depth: i32) -> gst::ClockTime {
        let mean = gst::ClockTime::from_nseconds(self.mean_ns.load(Ordering::Relaxed));
        frames(*lock(&self.frame_rate), depth).saturating_add(mean)
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

    /// Whether the model is too slow for the frame rate; not where either is unknown.
    pub fn overrun(&self) -> Option<Overrun> {
        let taken = gst::ClockTime::from_nseconds(self.mean_ns.load(Ordering::Relaxed));
        let available = frames(*lock(&self.frame_rate), 1);
        (!available.is_zero() && taken > available).then_some(Overrun { taken, available })
    }

    /// Takes the time of one frame into account; true when a latency message is due.
    pub fn measured(&self, time: Duration, now: Instant) -> bool {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mean_ns = match self.mean_ns.load(Ordering::Relaxed) {
            0 => time_ns,
            mean_ns => mean_ns - mean_ns / 8 + time_ns / 8,
        };
        self.mean_ns.store(mean_ns, Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed);

        let mut announced = lock(&self.announced);
        let changed = mean_ns.abs_diff(announced.mean_ns) > announced.mean_ns / 4;
        let rested = announced
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= MESSAGE_INTERVAL);
        if changed && rested {
            *announced = Announced {
                mean_ns,
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
        let at = |ms| start + Duration::from_millis(ms);
        assert!(
            latency.measured(Duration::from_millis(100), at(0)),
            "the first measurement is news"
        );
        assert!(
            !latency.measured(Duration::from_millis(110), at(2000)),
            "one per cent is not"
        );
        assert!(latency.measured(Duration::from_millis(1000), at(3000)));
        assert!(
            !latency.measured(Duration::from_millis(9000), at(3500)),
            "too soon after the last"
        );
        assert!(latency.measured(Duration::from_millis(1000), at(4000)));
    }

    #[test]
    fn too_slow_is_more_than_the_frame_rate_leaves() {
        let latency = Latency::default();
        latency.measured(Duration::from_millis(100), Instant::now());
        assert_eq!(latency.overrun(), None, "the frame rate is unknown");
        latency.set_frame_rate(gst::Fraction::new(10, 1));
        assert_eq!(latency.overrun(), None, "just in time");
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        let overrun = latency.overrun().expect("too slow");
        assert_eq!(
            (overrun.taken.mseconds(), overrun.available.mseconds()),
            (100, 40)
        );
        assert_eq!(overrun.factor(), 2.5);
    }

    #[test]
    fn added_is_depth_frames_and_the_measured_time() {
        let latency = Latency::default();
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.added(2).mseconds(), 80);
        latency.measured(Duration::from_millis(30), Instant::now());
        assert_eq!(latency.added(2).mseconds(), 110);
        latency.reset();
        assert_eq!(latency.added(2), gst::ClockTime::ZERO);
    }
}
