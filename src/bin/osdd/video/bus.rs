//! Messages of a pipeline as sentences.

use anyhow::{Error, anyhow};
use gst::prelude::*;

/// Collects what a pipeline says is missing, which comes before the error that it leads to.
#[derive(Default)]
pub(crate) struct Messages {
    missing: Vec<String>,
}

impl Messages {
    /// Remembers a missing-plugin message; others pass.
    pub fn note_missing(&mut self, message: &gst::message::Element) {
        let Some(structure) = message
            .structure()
            .filter(|structure| structure.name() == "missing-plugin")
        else {
            return;
        };
        if let Ok(name) = structure.get::<String>("name")
            && !self.missing.contains(&name)
        {
            self.missing.push(name);
        }
    }

    pub fn missing(&self) -> Option<String> {
        (!self.missing.is_empty()).then(|| self.missing.join(", "))
    }

    /// One sentence with its cause.
    pub fn error(&self, message: &gst::message::Error) -> Error {
        let error = message.error();
        if let Some(missing) = self.missing() {
            return anyhow!(
                "GStreamer has no {missing}; on Debian: apt install gstreamer1.0-libav gstreamer1.0-plugins-bad"
            );
        }
        let sentence = error.to_string();
        let debug = message.debug();
        // "Internal data stream error" and its like say nothing; the reason stands at the end of the debug text.
        let reason = debug.as_deref().and_then(reason);
        if is_deblurs(message.src()) {
            // The sentence speaks of properties; the library's words, behind it, are the same for images.
            return match reason {
                Some(reason) if !error.is::<gst::StreamError>() => anyhow!("{reason}"),
                _ => anyhow!("{sentence}"),
            };
        }
        let source = message
            .src()
            .map(|source| source.name().to_string())
            .unwrap_or_default();
        match reason {
            Some(reason) => anyhow!("{sentence} ({source}: {reason})"),
            None => anyhow!("{sentence} ({source})"),
        }
    }
}

/// What a user of this program can do about a warning of `osdddeblur`; `None` for other elements', whose warnings are about streams
/// that do decode.
pub(crate) fn warning(message: &gst::message::Warning) -> Option<String> {
    let error = message.error();
    is_deblurs(message.src()).then(|| {
        if error.matches(gst::StreamError::NotImplemented) {
            "HDR video (PQ or HLG) is not deblurred: convert it to standard dynamic range first".into()
        } else if error.matches(gst::LibraryError::Failed) {
            crate::images::NOT_FINITE.into()
        } else {
            error.to_string()
        }
    })
}

fn is_deblurs(source: Option<&gst::Object>) -> bool {
    let element = source.and_then(|source| source.downcast_ref::<gst::Element>());
    let factory = element.and_then(gst::Element::factory);
    factory.is_some_and(|factory| factory.name() == super::element::NAME)
}

/// The last line of a debug text of the form "file.c(12): function (): /path:\nreason".
fn reason(debug: &str) -> Option<&str> {
    let (_, reason) = debug.split_once('\n')?;
    reason.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reason_is_the_last_line() {
        let debug = "gstbasesrc.c(3132): gst_base_src_loop (): /GstPipeline:p/GstFileSrc:f:\nstreaming stopped, reason error (-5)";
        assert_eq!(super::reason(debug), Some("streaming stopped, reason error (-5)"));
        assert_eq!(super::reason("nothing more"), None);
    }
}
