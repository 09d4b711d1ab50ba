//! What the element counts, and the structure of its property `stats`.

use std::{
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use osdd::engine::{EngineInfo, Stats};

use super::lock;
use super::settings::Settings;

/// Time between two messages of `message-stats`.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Frames since the element started.
#[derive(Default)]
pub(crate) struct Counters {
    pub frames_in: AtomicU64,
    pub frames_out: AtomicU64,
    pub frames_late: AtomicU64,
    pub frames_passed: AtomicU64,
    pub frames_dropped: AtomicU64,
    /// Those that were converted for the model and back.
    converted: AtomicU64,
    /// Nanoseconds of their conversions.
    converting_ns: AtomicU64,
}

impl Counters {
    /// Counts the conversions of a frame, there and back.
    pub fn converted(&self, time: Duration) {
        count(&self.converted);
        self.converting_ns.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    fn mean_conversion_ns(&self) -> u64 {
        let frames = self.converted.load(Ordering::Relaxed);
        self.converting_ns
            .load(Ordering::Relaxed)
            .checked_div(frames)
            .unwrap_or(0)
    }

    pub fn reset(&self) {
        for counter in [
            &self.frames_in,
            &self.frames_out,
            &self.frames_late,
            &self.frames_passed,
            &self.frames_dropped,
            &self.converted,
            &self.converting_ns,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// When the latest message with the statistics was posted.
#[derive(Default)]
pub(crate) struct LastMessage(Mutex<Option<Instant>>);

impl LastMessage {
    pub fn reset(&self) {
        *lock(&self.0) = None;
    }

    /// Whether the next message is due, which then counts as posted.
    pub fn due(&self, now: Instant) -> bool {
        let mut last = lock(&self.0);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= MESSAGE_INTERVAL);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// The value of `stats`; before the element has started, what it would start with and zeros.
pub(crate) fn structure(
    counters: &Counters,
    settings: &Settings,
    engine: Option<(Stats, EngineInfo)>,
) -> gst::Structure {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (engine_stats, model, device) = match engine {
        Some((stats, info)) => (stats, info.model, info.device.to_string()),
        None => (Stats::default(), settings.model.clone(), settings.device.clone()),
    };
    gst::Structure::builder("application/x-osdd-stats")
        .field("frames-in", read(&counters.frames_in))
        .field("frames-out", read(&counters.frames_out))
        .field("frames-late", read(&counters.frames_late))
        .field("frames-passed", read(&counters.frames_passed))
        .field("frames-dropped", read(&counters.frames_dropped))
        .field("time-convert", counters.mean_conversion_ns())
        .field("time-upload", nanoseconds(engine_stats.times.upload))
        .field("time-model", nanoseconds(engine_stats.times.model))
        .field("time-blend", nanoseconds(engine_stats.times.blend))
        .field("time-download", nanoseconds(engine_stats.times.download))
        .field("time-total", nanoseconds(engine_stats.times.total))
        .field("tiles-run", engine_stats.tiles_run)
        .field("tiles-reused", engine_stats.tiles_reused)
        .field("tiles-skipped", engine_stats.tiles_skipped)
        .field("tiles-failed", engine_stats.tiles_failed)
        .field("device", device)
        .field("model", model)
        .field("gamma", settings.gamma)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_first_and_every_second() {
        let last = LastMessage::default();
        let start = Instant::now();
        let due =
            [0, 999, 1000, 1999, 2500, 3499, 3500].map(|ms| last.due(start + Duration::from_millis(ms)));
        assert_eq!(due, [true, false, true, false, true, false, true]);
        last.reset();
        assert!(last.due(start));
    }
}
