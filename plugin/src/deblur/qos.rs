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

    /// Whether a frame with this running time is late.
    pub fn late(&self, running_time: Option<gst::ClockTime>) -> Option<Late> {
        let State {
            earliest, proportion, ..
        } = *lock(&self.0);
        let (earliest, running_time) = (earliest?, running_time?);
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
            qos.late(Some(ms(0))).is_none(),
            "nothing is late before downstream says so"
        );
        qos.update(1.5, 20_000_000, Some(ms(100)));
        assert!(qos.is_behind());
        assert_eq!(qos.late(Some(ms(110))).map(|late| late.jitter), Some(10_000_000));
        assert!(qos.late(Some(ms(120))).is_some());
        assert!(qos.late(Some(ms(121))).is_none());
        assert!(qos.late(None).is_none());
        qos.update(0.5, -30_000_000, Some(ms(120)));
        assert!(!qos.is_behind());
        assert!(qos.late(Some(ms(90))).is_some());
        assert!(qos.late(Some(ms(91))).is_none());
        qos.update(0.5, i64::MIN, Some(ms(120)));
        assert!(qos.late(Some(ms(1))).is_none());
        qos.reset();
        assert!(qos.late(Some(ms(0))).is_none());
    }
}
