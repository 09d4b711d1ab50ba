//! Which frames come too late to be shown, as downstream says with QoS events.

use std::sync::Mutex;

use super::lock;

/// The latest word of downstream.
#[derive(Default)]
pub(crate) struct Qos(Mutex<State>);

#[derive(Clone, Copy, Default)]
struct State {
    /// Frames up to this running time are late.
    earliest: Option<gst::ClockTime>,
    proportion: f64,
    behind: bool,
}

/// A frame that is late.
pub(crate) struct Late {
    pub running_time: Option<gst::ClockTime>,
    /// How late, in nanoseconds.
    pub jitter: i64,
    pub proportion: f64,
}

impl Qos {
    /// Forgets what downstream said, as after a flush.
    pub fn reset(&self) {
        *lock(&self.0) = State::default();
    }

    /// Takes over a QoS event: a frame at `timestamp` was `diff` nanoseconds late (negative: early).
    pub fn update(&self, proportion: f64, diff: i64, timestamp: Option<gst::ClockTime>) {
        let earliest = timestamp.map(|timestamp| match u64::try_from(diff) {
            Ok(late) => timestamp.saturating_add(gst::ClockTime::from_nseconds(late)),
            Err(_) => timestamp.saturating_sub(gst::ClockTime::from_nseconds(diff.unsigned_abs())),
        });
        *lock(&self.0) = State {
            earliest,
            proportion,
            behind: diff > 0,
        };
    }

    /// Whether downstream's latest word is that frames come too late.
    pub fn is_behind(&self) -> bool {
        lock(&self.0).behind
    }

    /// Whether a frame with this running time is late, where it takes `needed` from here to downstream.
    pub fn late(&self, running_time: Option<gst::ClockTime>, needed: gst::ClockTime) -> Option<Late> {
        let State {
            earliest, proportion, ..
        } = *lock(&self.0);
        let (earliest, running_time) = (earliest?.saturating_add(needed), running_time?);
        (running_time <= earliest).then(|| Late {
            running_time: Some(running_time),
            jitter: i64::try_from((earliest - running_time).nseconds()).unwrap_or(i64::MAX),
            proportion,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(ms)
    }

    #[test]
    fn a_frame_is_late_up_to_the_time_that_downstream_has_reached() {
        let qos = Qos::default();
        assert!(
            qos.late(Some(ms(0)), ms(0)).is_none(),
            "nothing is late before downstream says so"
        );
        qos.update(1.5, 20_000_000, Some(ms(100)));
        assert!(qos.is_behind());
        assert_eq!(
            qos.late(Some(ms(110)), ms(0)).map(|late| late.jitter),
            Some(10_000_000)
        );
        assert!(qos.late(Some(ms(120)), ms(0)).is_some());
        assert!(qos.late(Some(ms(121)), ms(0)).is_none());
        assert!(qos.late(Some(ms(150)), ms(30)).is_some(), "it would come at 150");
        assert!(qos.late(Some(ms(151)), ms(30)).is_none());
        assert!(qos.late(None, ms(0)).is_none());
        qos.update(0.5, -30_000_000, Some(ms(120)));
        assert!(!qos.is_behind());
        assert!(qos.late(Some(ms(90)), ms(0)).is_some());
        assert!(qos.late(Some(ms(91)), ms(0)).is_none());
        qos.update(0.5, i64::MIN, Some(ms(120)));
        assert!(qos.late(Some(ms(1)), ms(0)).is_none());
        qos.reset();
        assert!(qos.late(Some(ms(0)), ms(0)).is_none());
    }

    /// A model of twice the time between frames, behind a file that is read at once: how many of the frames that go through it are
    /// in time, where frames that are late are left out.
    fn in_time(needed: u64) -> (u32, u32) {
        const INTERVAL: u64 = 40;
        let taken = 2 * INTERVAL;
        let qos = Qos::default();
        let (mut now, mut run, mut in_time) = (0, 0, 0);
        for frame in (0..200).map(|index| index * INTERVAL) {
            if qos.late(Some(ms(frame)), ms(needed)).is_some() {
                continue;
            }
            run += 1;
            in_time += u32::from(now + taken <= frame);
            let jitter = (now + taken) as i64 - frame as i64;
            qos.update(1.0, jitter * 1_000_000, Some(ms(frame)));
            // The sink shows none too early.
            now = (now + taken).max(frame);
        }
        (in_time, run)
    }

    #[test]
    fn with_the_models_own_time_in_mind_what_it_makes_is_shown() {
        let (shown, run) = in_time(0);
        assert!(10 * shown < run, "{shown} of {run}");
        let (shown, run) = in_time(80);
        assert!(shown + 3 >= run && run >= 60, "{shown} of {run}");
    }
}
