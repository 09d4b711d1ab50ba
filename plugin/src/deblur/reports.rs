//! What the element says on the bus while it works: statistics, and warnings, each at most once from start to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use gst_base::subclass::prelude::*;

use super::imp::OsddDeblur;
use super::lock;
use super::qos::Late;
use super::settings::LatePolicy;
use super::stats::{self, count};

/// Frames before the mean time of a frame is worth a warning, because the first ones are slower; and where it is many times too
/// long.
const FRAMES_TO_JUDGE: u64 = 16;
const FRAMES_WHERE_CLEAR: u64 = 4;
/// How many times too slow a model is that nobody would take for fast enough on other frames.
const CLEAR: f64 = 3.0;
/// What the next frames may make up for.
const HARDLY: f64 = 1.05;

/// The warnings that have been posted.
#[derive(Default)]
pub(crate) struct Warned {
    hdr: AtomicBool,
    slow: AtomicBool,
    failed_tiles: AtomicBool,
}

/// Quality, in QoS messages, of a frame that goes through the model; that of one that passes is 0.
const FULL_QUALITY: i32 = 1_000_000;

impl Warned {
    pub fn reset(&self) {
        for flag in [&self.hdr, &self.slow, &self.failed_tiles] {
            flag.store(false, Ordering::Relaxed);
        }
    }
}

/// Which message with the statistics to post.
#[derive(PartialEq, Eq)]
pub(super) enum StatsMessage {
    WhenDue,
    Last,
}

fn first(flag: &AtomicBool) -> bool {
    !flag.swap(true, Ordering::Relaxed)
}

impl OsddDeblur {
    /// Posts the statistics where `message-stats` asks for them.
    pub(super) fn post_stats(&self, which: StatsMessage) {
        let wanted = lock(&self.settings).message_stats;
        if wanted && (which == StatsMessage::Last || self.last_message.due(Instant::now())) {
            let message = gst::message::Element::builder(self.stats()).src(&*self.obj());
            self.post(message.build());
        }
    }

    /// The value of the property `stats`.
    pub(super) fn stats(&self) -> gst::Structure {
        let settings = lock(&self.settings).clone();
        let running = lock(&self.engine).clone();
        let engine = match running {
            Some(engine) => Some((engine.stats(), engine.info().clone())),
            None => lock(&self.ended).clone(),
        };
        stats::structure(&self.counters, &settings, engine)
    }

    /// A frame is late and left out.
    pub(super) fn leave_out(&self, input: &gst::BufferRef, late: &Late, stream_time: Option<gst::ClockTime>) {
        count(&self.counters.frames_dropped);
        self.mark_next();
        self.post_qos(input, late, stream_time, FULL_QUALITY);
    }

    /// A frame is late and passes as it came, which is said of the first of several.
    pub(super) fn lower_quality(
        &self,
        input: &gst::BufferRef,
        late: &Late,
        stream_time: Option<gst::ClockTime>,
    ) {
        if !self.lowered.swap(true, Ordering::Relaxed) {
            self.post_qos(input, late, stream_time, 0);
        }
    }

    /// A frame goes through the model, perhaps after some that were late and passed.
    pub(super) fn restore_quality(
        &self,
        input: &gst::BufferRef,
        running_time: Option<gst::ClockTime>,
        stream_time: Option<gst::ClockTime>,
    ) {
        if self.lowered.swap(false, Ordering::Relaxed) {
            let on_time = Late {
                running_time,
                jitter: 0,
                proportion: 1.0,
            };
            self.post_qos(input, &on_time, stream_time, FULL_QUALITY);
        }
    }

    fn post_qos(
        &self,
        input: &gst::BufferRef,
        late: &Late,
        stream_time: Option<gst::ClockTime>,
        quality: i32,
    ) {
        let frames = |counter: &AtomicU64| gst::format::Buffers::from_u64(counter.load(Ordering::Relaxed));
        let message = gst::message::Qos::builder(self.latency.is_live())
            .src(&*self.obj())
            .running_time_if_some(late.running_time)
            .stream_time_if_some(stream_time)
            .timestamp_if_some(input.pts())
            .duration_if_some(input.duration())
            .values(late.jitter, late.proportion, quality)
            .stats(
                frames(&self.counters.frames_out),
                frames(&self.counters.frames_dropped),
            )
            .build();
        self.post(message);
    }

    pub(super) fn warn_of_hdr(&self, caps: &gst::Caps) {
        if first(&self.warned.hdr) {
            gst::element_imp_warning!(
                self,
                gst::StreamError::NotImplemented,
                ("HDR video (PQ or HLG) passes unchanged. Convert it to standard dynamic range before osdddeblur."),
                ["caps {caps}"]
            );
        }
    }

    /// Warns of a model that is too slow where somebody waits for it: a live source, or a sink that says it is behind.
    pub(super) fn warn_if_slow(&self) {
        let Some(overrun) = self.latency.overrun() else {
            return;
        };
        let waited_for = self.latency.is_live() || self.qos.is_behind();
        let factor = overrun.factor();
        let enough = match factor >= CLEAR {
            true => FRAMES_WHERE_CLEAR,
            false => FRAMES_TO_JUDGE,
        };
        if !waited_for || factor < HARDLY || self.latency.frames() < enough || !first(&self.warned.slow) {
            return;
        }
        let advice = match lock(&self.settings).late_policy {
            LatePolicy::Process => "Set late-policy to passthrough or drop, or make the video smaller".into(),
            LatePolicy::Passthrough => {
                let one_in = factor.ceil();
                format!(
                    "Frames that find the model at work pass as they came: about one in {one_in:.0} is sharp. Make the video smaller"
                )
            }
            LatePolicy::Drop => "Make the video smaller".into(),
        };
        gst::element_imp_warning!(
            self,
            gst::CoreError::Clock,
            (
                "Deblurring is {:.1} times too slow: a frame takes {:.1} ms and the frame rate leaves {:.1} ms. {advice} before osdddeblur, or use a faster device or model.",
                factor,
                overrun.taken.useconds() as f64 / 1e3,
                overrun.available.useconds() as f64 / 1e3
            ),
            ["{}", self.stats()]
        );
    }

    pub(super) fn warn_of_failed_tiles(&self) {
        if first(&self.warned.failed_tiles) {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Failed,
                ("The model gave numbers that are not finite: those tiles show the input. Set \"precision\" to fp32, or choose another model."),
                ["{}", self.stats()]
            );
        }
    }
}
