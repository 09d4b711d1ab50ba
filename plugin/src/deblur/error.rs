//! Errors of the engine and of frames as GStreamer's: a domain and a code, a sentence that says what to do, and the detail
//! for the log.

use std::fmt;

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
            ("There is not enough memory for model \"{model}\". Make \"tile-size\" or \"tile-batch\" smaller, or the frames, or choose a smaller model."),
            ["{detail}"]
        ),
        ErrorKind::Device => gst::error_msg!(
            gst::ResourceError::OpenReadWrite,
            ("Device \"{device}\" cannot be used. Set the property \"device\" to \"cpu\", or check the driver."),
            ["{detail}"]
        ),
        ErrorKind::NoThreads => no_threads(&detail),
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

/// The message that an element posts where a thread does not start.
pub(crate) fn no_threads(detail: &str) -> gst::ErrorMessage {
    gst::error_msg!(
        gst::CoreError::Thread,
        ("The system gives no more threads. Raise its limit for this program (ulimit -u, or the container's)."),
        ["{detail}"]
    )
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// Why a frame cannot be converted.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// It is not what its caps say.
    Unfit(glib::BoolError),
    /// There is no room for another; how much was asked for.
    NoMemory(String),
    /// It is in a GPU's memory, and the GPU does not copy it.
    Gpu(String),
}

impl FrameError {
    /// The message that an element posts for it.
    pub fn message(&self) -> gst::ErrorMessage {
        match self {
            Self::Unfit(error) => gst::error_msg!(
                gst::StreamError::Format,
                ("A frame does not fit its caps. Check the elements around osdddeblur."),
                ["{error}"]
            ),
            Self::NoMemory(detail) => gst::error_msg!(
                gst::ResourceError::NoSpaceLeft,
                ("There is not enough memory for another frame. Scale frames down with \"videoscale\", or lower \"depth\"."),
                ["{detail}"]
            ),
            Self::Gpu(detail) => gst::error_msg!(
                gst::ResourceError::OpenReadWrite,
                ("A frame cannot be copied within the GPU's memory. Check the driver, or put \"cudadownload\" before osdddeblur."),
                ["{detail}"]
            ),
        }
    }
}

impl From<glib::BoolError> for FrameError {
    fn from(error: glib::BoolError) -> Self {
        Self::Unfit(error)
    }
}

/// Of the library's functions, those for frames can only run out of memory, or lose the GPU that a frame is on.
impl From<osdd::Error> for FrameError {
    fn from(error: osdd::Error) -> Self {
        match error.kind() {
            ErrorKind::Device => Self::Gpu(error.to_string()),
            _ => Self::NoMemory(error.to_string()),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(error) => error.fmt(f),
            Self::NoMemory(detail) | Self::Gpu(detail) => f.write_str(detail),
        }
    }
}
