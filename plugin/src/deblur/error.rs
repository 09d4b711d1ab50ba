//! The engine's errors as GStreamer's: a domain and a code, a sentence that says what to do, and the detail
//! for the log.

use osdd::ErrorKind;

/// The message that an element posts for an error of the engine.
pub(crate) fn message(error: &osdd::Error, model: &str, device: &str) -> gst::ErrorMessage {
    let detail = chain(error);
    match error.kind() {
        ErrorKind::NotFound => gst::error_msg!(
            gst::ResourceError::NotFound,
            ("Model \"{model}\" was not found. Set the property \"model\" to a preset or to a folder with a model."),
            ["{detail}"]
        ),
        ErrorKind::Read => gst::error_msg!(
            gst::ResourceError::Read,
            ("Model \"{model}\" cannot be read. Install it again, or choose another with the property \"model\"."),
            ["{detail}"]
        ),
        ErrorKind::NoMemory => gst::error_msg!(
            gst::ResourceError::NoSpaceLeft,
            ("There is not enough memory for model \"{model}\". Make \"tile-size\" or \"tile-batch\" smaller, or choose a smaller model."),
            ["{detail}"]
        ),
        ErrorKind::Device => gst::error_msg!(
            gst::ResourceError::OpenReadWrite,
            ("Device \"{device}\" cannot be used. Set the property \"device\" to \"auto\" or \"cpu\", or check the driver."),
            ["{detail}"]
        ),
        ErrorKind::Settings => gst::error_msg!(
            gst::ResourceError::Settings,
            ("A property has a value that cannot be used: {error}."),
            ["{detail}"]
        ),
        _ => gst::error_msg!(
            gst::LibraryError::Failed,
            ("Deblurring stopped: {error}. Restart the pipeline; if it happens again, report it with a log (GST_DEBUG=osdddeblur:5)."),
            ["{detail}"]
        ),
    }
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
