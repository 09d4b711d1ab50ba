//! What the element counts, and the structure of its property `stats`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osdd::engine::Engine;

use super::settings::Settings;

/// Frames since the element started.
#[derive(Default)]
pub(crate) struct Counters {
    pub frames_in: AtomicU64,
    pub frames_out: AtomicU64,
    pub frames_late: AtomicU64,
    pub frames_passed: AtomicU64,
    pub frames_dropped: AtomicU64,
}

impl Counters {
    pub fn reset(&self) {
        for counter in [
            &self.frames_in,
            &self.frames_out,
            &self.frames_late,
            &self.frames_passed,
            &self.frames_dropped,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The value of `stats`; before the element has started, what it would start with and zeros.
pub(crate) fn structure(counters: &Counters, settings: &Settings, engine: Option<&Engine>) -> gst::Structure {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let engine_stats = engine.map(Engine::stats).unwrap_or_default();
    let (model, device) = match engine.map(Engine::info) {
        Some(info) => (info.model.clone(), info.device.to_string()),
        None => (settings.model.clone(), settings.device.clone()),
    };
    gst::Structure::builder("application/x-osdd-stats")
        .field("frames-in", read(&counters.frames_in))
        .field("frames-out", read(&counters.frames_out))
        .field("frames-late", read(&counters.frames_late))
        .field("frames-passed", read(&counters.frames_passed))
        .field("frames-dropped", read(&counters.frames_dropped))
        .field("time-upload", ns(engine_stats.times.upload))
        .field("time-model", ns(engine_stats.times.model))
        .field("time-blend", ns(engine_stats.times.blend))
        .field("time-download", ns(engine_stats.times.download))
        .field("time-total", ns(engine_stats.times.total))
        .field("tiles-run", engine_stats.tiles_run)
        .field("tiles-reused", engine_stats.tiles_reused)
        .field("device", device)
        .field("model", model)
        .field("gamma", settings.gamma)
        .build()
}
