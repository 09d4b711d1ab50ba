//! The source pad's thread ends where its pad is deactivated: with the element, or by itself.

use glib::translate::{IntoGlib, ToGlibPtr, from_glib};
use gst_base::{prelude::*, subclass::prelude::*};

use super::imp::OsddDeblur;

impl OsddDeblur {
    /// Follows the activation of the source pad from now on.
    pub(super) fn end_with_source_pad(&self) {
        let pad = self.obj().src_pad().clone();
        // SAFETY: the element is being made, nobody else has its pad.
        let inherited = unsafe { (*pad.as_ptr()).activatemodefunc };
        let element = self.obj().downgrade();
        let follow = move |pad: &gst::Pad, parent: Option<&gst::Object>, mode: gst::PadMode, active: bool| {
            if let (gst::PadMode::Push, Some(element)) = (mode, element.upgrade()) {
                element.imp().activated(pad, active);
            }
            // SAFETY: GstBaseTransform's function, for a pad and parent that are there, as GStreamer calls it.
            let done = inherited.is_none_or(|inherited| unsafe {
                from_glib(inherited(
                    pad.to_glib_none().0,
                    parent.to_glib_none().0,
                    mode.into_glib(),
                    active.into_glib(),
                ))
            });
            done.then_some(()).ok_or_else(|| {
                gst::loggable_error!(crate::log::CAT, "GstBaseTransform does not allow {mode:?}")
            })
        };
        // SAFETY: as above, so that the function is not in use.
        unsafe { pad.set_activatemode_function(follow) };
    }

    /// The pad stops only once its thread has come back from what it waits for.
    fn activated(&self, pad: &gst::Pad, active: bool) {
        if active {
            self.queue.reset();
        } else {
            self.queue.stop();
            self.flush_engine();
            let _ = pad.stop_task();
        }
    }
}
