//! Keeping pace with a live source where the model is slower than its frames come.
//!
//! Downstream's QoS events are not enough: a sink that does not synchronise sends none, and a camera whose frames wait
//! for the model loses frames where nobody counts them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::imp::{Engine, OsddDeblur};
use super::lock;
use super::qos::Late;
use super::queue::MAX_PENDING;
use super::settings::LatePolicy;

/// Frames that the model works on, or has yet to.
fn at_work(engine: &Engine) -> usize {
    engine.in_flight().saturating_sub(engine.ready())
}

impl OsddDeblur {
    /// Frames in flight; what is set while the engine runs counts from its next start.
    fn depth(&self) -> usize {
        let engine = lock(&self.engine).as_ref().map(|engine| engine.depth());
        engine.unwrap_or_else(|| usize::try_from(lock(&self.settings).depth).unwrap_or(1))
    }

    /// Whether frames may not wait for the model: the source is live, and the user lets late frames go.
    fn hurries(&self, policy: LatePolicy) -> bool {
        policy != LatePolicy::Process && self.latency.is_live()
    }

    /// How many frames a frame may find in the engine that come before it.
    pub(super) fn frames_ahead(&self) -> usize {
        let others = self.depth().saturating_sub(1);
        match self.latency.overrun() {
            Some(_) if self.hurries(lock(&self.settings).late_policy) => 0,
            Some(_) => others,
            // They may come in bursts.
            None if self.latency.is_unsteady() => others,
            None => 0,
        }
    }

    /// Whether a frame that needs the model is late: because of what downstream says, or of the model itself.
    pub(super) fn late_for_model(
        &self,
        engine: &Engine,
        policy: LatePolicy,
        running_time: Option<gst::ClockTime>,
    ) -> Result<Option<Late>, gst::FlowError> {
        // A live source's frames have the latency that the element reports, others only what they come early. One that would
        // be done too late takes the time of those behind it in vain.
        let needed = match policy == LatePolicy::Process || self.latency.is_live() {
            true => gst::ClockTime::ZERO,
            false => self.latency.added(at_work(engine)),
        };
        match self.qos.late(running_time, needed) {
            None => self.wait_for_turn(engine, policy, running_time),
            late => Ok(late),
        }
    }

    /// Whether a frame finds the model at work with no time to wait for it, which makes it late. Where the model is too slow
    /// for the frame rate, one frame at a time is in the engine, so that those behind it wait no longer than the latency that
    /// is reported. Where it is not, a frame that takes longer than others holds the source up for one interval between
    /// frames at most.
    fn wait_for_turn(
        &self,
        engine: &Engine,
        policy: LatePolicy,
        running_time: Option<gst::ClockTime>,
    ) -> Result<Option<Late>, gst::FlowError> {
        if !self.hurries(policy) {
            return Ok(None);
        }
        let interval = self.latency.interval();
        let overrun = self.latency.overrun();
        let room = overrun.map_or(engine.depth(), |_| 1);
        let patient = overrun.is_none() && !self.held_up.load(Ordering::Relaxed);
        let patience = if patient {
            interval.into()
        } else {
            std::time::Duration::ZERO
        };
        let has_room = self
            .queue
            .wait(Some(Instant::now() + patience), |_| at_work(engine) < room)?;
        self.held_up.store(!has_room, Ordering::Relaxed);
        let excess = overrun.map_or(interval, |overrun| overrun.taken - overrun.available);
        Ok((!has_room).then(|| Late {
            running_time,
            jitter: i64::try_from(excess.nseconds()).unwrap_or(i64::MAX),
            proportion: overrun.map_or(1.0, |overrun| overrun.factor()),
        }))
    }

    /// Whether so many frames wait for the model that one more cannot even pass behind them.
    pub(super) fn is_full_behind_model(&self, engine: &Engine) -> bool {
        self.latency.is_live()
            && self.queue.len() >= MAX_PENDING
            && at_work(engine) > 0
            && engine.ready() == 0
    }
}
