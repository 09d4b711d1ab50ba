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
    /// The engine's time per frame.
    engine: Mean,
    /// The same of conversions there and back, on the pads' threads.
    conversion: Mean,
    frames: AtomicU64,
    /// What upstream said in the latest query.
    live: AtomicBool,
    announced: Mutex<Announced>,
}

/// Moving averages of a time, 0 before the first, and of how far it is from the first average.
#[derive(Default)]
struct Mean {
    ns: AtomicU64,
    deviation_ns: AtomicU64,
}

impl Mean {
    fn get(&self) -> gst::ClockTime {
        gst::ClockTime::from_nseconds(self.ns.load(Ordering::Relaxed))
    }

    /// What few frames exceed, as TCP estimates the time of a round trip (RFC 6298).
    fn bound(&self) -> gst::ClockTime {
        let deviation = self.deviation_ns.load(Ordering::Relaxed);
        self.get()
            .saturating_add(gst::ClockTime::from_nseconds(deviation.saturating_mul(2)))
    }

    fn set(&self, ns: u64, deviation_ns: u64) {
        self.ns.store(ns, Ordering::Relaxed);
        self.deviation_ns.store(deviation_ns, Ordering::Relaxed);
    }

    fn measured(&self, time: Duration, first: bool) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (mean, deviation) = (
            self.ns.load(Ordering::Relaxed),
            self.deviation_ns.load(Ordering::Relaxed),
        );
        match first {
            true => self.set(ns, 0),
            false => self.set(
                mean - mean / 8 + ns / 8,
                deviation - deviation / 8 + ns.abs_diff(mean) / 8,
            ),
        }
    }
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
            engine: Mean::default(),
            conversion: Mean::default(),
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
        self.engine.set(0, 0);
        self.conversion.set(0, 0);
        self.frames.store(0, Ordering::Relaxed);
        *lock(&self.announced) = Announced::default();
    }

    /// Takes over the frame rate of a stream.
    pub fn set_rate_of(&self, info: &gst_video::VideoInfo) {
        // Caps that say `max-framerate` give that in its place.
        let variable = info.flags().contains(gst_video::VideoFlags::VARIABLE_FPS);
        self.set_frame_rate(if variable {
            gst::Fraction::new(0, 1)
        } else {
            info.fps()
        });
    }

    fn set_frame_rate(&self, frame_rate: gst::Fraction) {
        *lock(&self.frame_rate) = frame_rate;
    }

    /// What the element adds to the latency of its upstream: the time of a frame from in to out, behind `ahead` others in the
    /// engine.
    pub fn added(&self, ahead: usize) -> gst::ClockTime {
        let turns = self.engine.get().nseconds().saturating_mul(ahead as u64);
        let own = self.engine.bound().saturating_add(self.conversion.bound());
        gst::ClockTime::from_nseconds(turns).saturating_add(own)
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

    /// The time between two frames, 0 where the frame rate is unknown or variable.
    pub fn interval(&self) -> gst::ClockTime {
        interval(*lock(&self.frame_rate))
    }

    /// Whether a frame takes longer than the frame rate leaves; not where either is unknown.
    pub fn overrun(&self) -> Option<Overrun> {
        // Other threads convert.
        let taken = self.engine.get().max(self.conversion.get());
        let available = self.interval();
        (!available.is_zero() && taken > available).then_some(Overrun { taken, available })
    }

    /// Takes the times of one frame into account, the engine's and that of its conversions.
    pub fn measured(&self, engine: Duration, conversion: Duration) {
        // The first takes longer than all others.
        let first = self.frames.fetch_add(1, Ordering::Relaxed) < 2;
        self.engine.measured(engine, first);
        self.conversion.measured(conversion, first);
    }

    /// Whether a latency message is due, with `ahead` frames before each in the engine; it then counts as posted. That frames take
    /// longer is news sooner than that they take less: they come late.
    pub fn announces(&self, ahead: usize, now: Instant) -> bool {
        let added_ns = self.added(ahead).nseconds();
        let mut announced = lock(&self.announced);
        let changed = match added_ns.checked_sub(announced.added_ns) {
            Some(more) => more > announced.added_ns / 16,
            None => announced.added_ns - added_ns > announced.added_ns / 4,
        };
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

/// The duration of a frame, 0 where the frame rate is unknown or variable.
fn interval(frame_rate: gst::Fraction) -> gst::ClockTime {
    match (
        u64::try_from(frame_rate.numer()),
        u64::try_from(frame_rate.denom()),
    ) {
        (Ok(numer @ 1..), Ok(denom)) => gst::ClockTime::SECOND
            .mul_div_ceil(denom, numer)
            .unwrap_or(gst::ClockTime::MAX),
        _ => gst::ClockTime::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn intervals_are_those_of_the_frame_rate() {
        assert_eq!(interval(gst::Fraction::new(30000, 1001)).nseconds(), 33_366_667);
        assert_eq!(interval(gst::Fraction::new(0, 1)), gst::ClockTime::ZERO);
        assert_eq!(
            interval(gst::Fraction::new(1, i32::MAX)).seconds(),
            i32::MAX as u64
        );
    }

    #[test]
    fn messages_follow_large_changes_at_most_once_a_second() {
        let latency = Latency::default();
        let start = Instant::now();
        let news = |took_ms, ahead, at_ms| {
            latency.measured(ms(took_ms), Duration::ZERO);
            latency.announces(ahead, start + ms(at_ms))
        };
        assert!(news(100, 0, 0), "the first measurement is news");
        assert!(!news(101, 0, 2000), "one per cent is not");
        assert!(news(1000, 0, 3000));
        assert!(!news(9000, 0, 3500), "too soon after the last");
        assert!(news(1000, 0, 4000));
        assert!(news(1000, 1, 5000), "a frame before each");
    }

    #[test]
    fn too_slow_is_more_than_the_frame_rate_leaves() {
        let latency = Latency::default();
        latency.measured(ms(100), ms(20));
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
        latency.reset();
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        latency.measured(ms(10), ms(50));
        let overrun = latency.overrun().expect("conversions are too slow");
        assert_eq!(overrun.taken.mseconds(), 50);
    }

    #[test]
    fn added_are_the_measured_time_and_that_of_the_frames_ahead() {
        let latency = Latency::default();
        latency.set_frame_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.added(2), gst::ClockTime::ZERO);
        latency.measured(ms(30), ms(5));
        assert_eq!(latency.added(0).mseconds(), 35);
        assert_eq!(latency.added(2).mseconds(), 95);
        latency.reset();
        assert_eq!(latency.added(2), gst::ClockTime::ZERO);
    }

    #[test]
    fn hardly_a_frame_takes_longer_than_is_reported() {
        let latency = Latency::default();
        // Between 20 and 60 ms, 40 in the mean.
        let times = (0..200).map(|index| ms(20 + index * 17 % 41));
        let mut longer = 0;
        for (index, time) in times.enumerate() {
            longer += u32::from(index > 20 && gst::ClockTime::try_from(time).ok() > Some(latency.added(0)));
            latency.measured(time, Duration::ZERO);
        }
        assert!(longer < 10, "{longer} of 180");
        assert!(latency.added(0).mseconds() < 80);
    }

    #[test]
    fn a_variable_frame_rate_is_unknown() {
        gst::init().expect("GStreamer starts");
        let latency = Latency::default();
        for (rate, known) in [("25/1", true), ("0/1", false), ("0/1, max-framerate=60/1", false)] {
            let caps = format!("video/x-raw, format=I420, width=64, height=48, framerate={rate}");
            let info = gst_video::VideoInfo::from_caps(&caps.parse::<gst::Caps>().expect("caps"))
                .expect("raw video");
            latency.set_rate_of(&info);
            assert_eq!(!latency.interval().is_zero(), known, "{rate}");
        }
    }
}
