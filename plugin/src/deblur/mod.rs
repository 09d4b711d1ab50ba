//! SECTION:element-osdddeblur
//! @short_description: Removes motion blur with a one-step diffusion model
//!
//! Every frame goes through a diffusion model that takes a single step. `gamma` moves between fidelity and
//! generated detail while the pipeline runs and can be automated with a GstController; `strength` mixes the
//! result with the input.
//!
//! Frames keep their format, timestamps, flags (but what the model has worked on is no gap) and metas. Up to `depth` of them are in flight; each leaves the
//! element as soon as it and those before it are done, on a thread of the source pad's own.
//!
//! ## Example launch lines
//! ```bash
//! gst-launch-1.0 videotestsrc pattern=ball num-buffers=90 ! video/x-raw,width=320,height=240 ! osdddeblur gamma=0.7 ! videoconvert ! autovideosink
//! ```
//! ```bash
//! gst-launch-1.0 filesrc location=clip.mp4 ! decodebin ! osdddeblur compare=split ! videoconvert ! autovideosink
//! ```
//!
//! ## Late frames
//!
//! `late-policy` says what happens to a frame for which downstream, by QoS events, has no time left; where the
//! source is not live, none left for the model. Where the
//! source is live and the model too slow for its frame rate, a frame that finds the model at work is late as
//! well, unless the policy is to process it: the source is not held up. The element warns once when the model
//! is too slow for somebody who waits.
//!
//! The property `qos` of GstBaseTransform is something else: it drops late frames before the element has seen
//! them, whatever the policy.
//!
//! ## Statistics
//!
//! The property `stats` counts frames (`frames-in`, `frames-out`, `frames-late`, `frames-passed`,
//! `frames-dropped`) and tiles (`tiles-run`, `tiles-reused`, `tiles-skipped`, and `tiles-failed`, which show the input because
//! the model's numbers were not finite), and has the mean time of a frame's stages in
//! nanoseconds (`time-upload`, `time-model`, `time-blend`, `time-download`, in all `time-total`, and beside these
//! `time-convert`, from its pixel format and back), the `device` and
//! the `model` that are used, and the property `gamma` as it is. They stay until the next start. With `message-stats` an element message with this
//! structure, `application/x-osdd-stats`, comes with the first frame, every second and at the end of the stream.
//!
//! ## High dynamic range
//!
//! Video with the transfer function PQ or HLG passes unchanged, with a warning: the model does not know it.

mod activation;
mod caps;
mod convert;
mod cuda;
mod difference;
mod error;
mod fields;
mod flow;
mod formats;
mod imp;
mod latency;
mod layout;
mod pace;
mod pending;
mod picture;
mod planes;
mod qos;
mod queue;
mod repack;
mod reports;
mod settings;
mod stats;

use std::sync::{Mutex, MutexGuard, PoisonError};

use gst::prelude::*;

pub use settings::{Compare, LatePolicy, Precision};

glib::wrapper! {
    /// The element `osdddeblur`.
    pub struct OsddDeblur(ObjectSubclass<imp::OsddDeblur>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "osdddeblur",
        gst::Rank::NONE,
        OsddDeblur::static_type(),
    )
}

/// Locks, also after a panic elsewhere: GStreamer has turned that into an error message, and the state that
/// it left is plain data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
