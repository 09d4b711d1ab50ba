//! GStreamer plugin `osdd` with the element `osdddeblur`: a thin adapter over [`osdd::engine`].

mod deblur;
mod log;

pub use deblur::{Compare, LatePolicy, OsddDeblur, Precision};

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    log::forward_tracing();
    deblur::register(plugin)
}

gst::plugin_define!(
    osdd,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    env!("CARGO_PKG_VERSION"),
    // GStreamer refuses licences that it does not know, so of "MIT OR Apache-2.0" it is told the one it does.
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    "osdd",
    "The osdd developers"
);
