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
        // "Internal data stream error" and its like say nothing; the reason stands at the end of the debug text.
        let ours = message
            .src()
            .and_then(|source| source.downcast_ref::<gst::Element>().and_then(|e| e.factory()));
        if ours.is_some_and(|factory| factory.name() == super::element::NAME) {
            return anyhow!("{sentence}");
        }
        let source = message
            .src()
            .map(|source| source.name().to_string())
            .unwrap_or_default();
        match message.debug().as_deref().and_then(reason) {
            Some(reason) => anyhow!("{sentence} ({source}: {reason})"),
            None => anyhow!("{sentence} ({source})"),
        }
    }
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
