//! Keeping pace with a live source where the model is slower than its frames come.
//!
//! Downstream's QoS events are not enough: a sink that does not synchronise sends none, and a camera whose frames wait
//! for the model loses frames where nobody counts them.

use osdd::engine::Engine;

use super::flow::Wait;
use super::imp::OsddDeblur;
use super::latency::Overrun;
use super::lock;
use super::qos::Late;
use super::settings::LatePolicy;

impl OsddDeblur {
    /// Frames in flight; what is set while the engine runs counts from its next start.
    pub(super) fn depth(&self) -> i32 {
        let engine = lock(&self.engine).as_ref().map(|engine| engine.depth());
        engine
            .and_then(|depth| i32::try_from(depth).ok())
            .unwrap_or_else(|| lock(&self.settings).depth)
    }

    /// Whether frames may not wait for the model: the source is live, the user lets late frames go, and the model is too
    /// slow for the frame rate.
    fn hurried(&self, policy: LatePolicy) -> Option<Overrun> {
        (policy != LatePolicy::Process && self.latency.is_live())
            .then(|| self.latency.overrun(self.depth()))
            .flatten()
    }

    /// How long the output of a frame that has just come may be waited for.
    pub(super) fn patience(&self) -> Wait {
        let policy = lock(&self.settings).late_policy;
        match self.hurried(policy) {
            Some(_) => Wait::No,
            None if self.latency.is_unsteady() => Wait::ForAll,
            None => Wait::ForRoom,
        }
    }

    /// Whether a frame finds the model at work with no time to wait for it, which makes it late. One frame at a time is
    /// then in the engine, so that those behind it wait no longer than the latency that is reported.
    pub(super) fn no_time(
        &self,
        engine: &Engine,
        policy: LatePolicy,
        running_time: Option<gst::ClockTime>,
    ) -> Result<Option<Late>, gst::FlowError> {
        let Some(overrun) = self.hurried(policy) else {
            return Ok(None);
        };
        while let Some(output) = self.next_output(Wait::No)? {
            self.push(output)?;
        }
        Ok((engine.in_flight() > 0).then(|| Late {
            running_time,
            jitter: i64::try_from((overrun.taken - overrun.available).nseconds()).unwrap_or(i64::MAX),
            proportion: overrun.factor(),
        }))
    }
}
