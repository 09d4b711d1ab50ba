//! The debug category `osdddeblur`, and the bridge that sends the library's `tracing` events to it.
//!
//! `GST_DEBUG=osdddeblur:5` therefore shows what the engine does between the element's own lines.

use std::fmt::{self, Write};

use once_cell::sync::Lazy;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

pub(crate) static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "osdddeblur",
        gst::DebugColorFlags::empty(),
        Some("One-step diffusion motion deblurring"),
    )
});

/// Sends what the library logs to [`CAT`].
///
/// An application that links the plugin statically and has installed a subscriber of its own keeps it: the
/// first one wins.
pub(crate) fn forward_tracing() {
    if tracing::subscriber::set_global_default(CategorySubscriber).is_err() {
        gst::debug!(CAT, "the application listens to tracing itself");
    }
}

/// Writes events of the `osdd` crates to the GStreamer category; spans carry nothing that it shows.
struct CategorySubscriber;

fn level_of(level: &Level) -> gst::DebugLevel {
    match *level {
        Level::ERROR => gst::DebugLevel::Error,
        Level::WARN => gst::DebugLevel::Warning,
        Level::INFO => gst::DebugLevel::Info,
        Level::DEBUG => gst::DebugLevel::Debug,
        Level::TRACE => gst::DebugLevel::Trace,
    }
}

impl Subscriber for CategorySubscriber {
    // The threshold of a category can change at any time, so no answer may be cached.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target().starts_with("osdd") {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("osdd") && CAT.threshold() >= level_of(metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        CAT.log(
            None::<&gst::Object>,
            level_of(metadata.level()),
            glib::GString::from(metadata.file().unwrap_or_default()).as_gstr(),
            metadata.module_path().unwrap_or_default(),
            metadata.line().unwrap_or_default(),
            format_args!("{}{}", line.message, line.fields),
        );
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// One event as text: its message, then ` name=value` for each field.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
