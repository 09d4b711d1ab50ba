//! The library's one error type.

use std::path::PathBuf;

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library, with the facts in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no model '{name}': {reason}")]
    ModelNotFound { name: String, reason: String },
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error("{file} is not a complete safetensors file: {reason}")]
    NotSafetensors { file: String, reason: String },
    #[error("tensor '{name}' is missing from {file}")]
    TensorMissing { name: String, file: String },
    #[error("tensor '{name}' in {file} belongs to no layer of this model")]
    TensorUnexpected { name: String, file: String },
    #[error("tensor '{name}' is in both {first} and {second}")]
    TensorTwice {
        name: String,
        first: String,
        second: String,
    },
    #[error("tensor '{name}' in {file} has shape {got:?}, the model needs {expected:?}")]
    TensorShape {
        name: String,
        file: String,
        expected: Vec<i64>,
        got: Vec<i64>,
    },
    #[error("tensor '{name}' in {file} has dtype {got}, the model needs {expected}")]
    TensorDtype {
        name: String,
        file: String,
        expected: String,
        got: String,
    },
    #[error("tensor '{name}' in {file} contains NaN or infinity")]
    TensorNotFinite { name: String, file: String },
    #[error("no device '{device}': {reason}")]
    Device { device: String, reason: String },
    #[error("{name} cannot be {value}: it is {range}")]
    OutOfRange {
        name: &'static str,
        value: String,
        range: String,
    },
    #[error("a {width}x{height} frame of {format} takes {expected} bytes, not {got}")]
    FrameSize {
        width: usize,
        height: usize,
        format: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("frames differ: {0}")]
    FramesDiffer(String),
    #[error("the device failed: {reason}")]
    DeviceLost { reason: String },
    #[error("not enough memory on {device}: {reason}")]
    NoMemory { device: String, reason: String },
    #[error("the system gives no {count} threads more, see ulimit -u")]
    NoThreads { count: usize },
    #[error("the engine's worker stopped: {0}")]
    Worker(String),
    #[error("libtorch: {0}")]
    Torch(String),
    #[error(transparent)]
    Tile(#[from] crate::tile::TileError),
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    #[error("training: {0}")]
    Train(String),
}

/// What kind of failure an [`Error`] is, for callers that map it to their own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The model is not there.
    NotFound,
    /// The model is there, but broken.
    Read,
    /// Host or device memory ran out.
    NoMemory,
    /// The system gives no more threads.
    NoThreads,
    /// The device does not exist or cannot be used.
    Device,
    /// An argument is out of its range.
    Settings,
    /// Anything else, such as a failure on the worker thread.
    Failed,
}

impl Error {
    /// The group this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        use Error::*;
        match self {
            ModelNotFound { .. } => ErrorKind::NotFound,
            Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Io { .. }
            | Config { .. }
            | NotSafetensors { .. }
            | TensorMissing { .. }
            | TensorUnexpected { .. }
            | TensorTwice { .. }
            | TensorShape { .. }
            | TensorDtype { .. }
            | TensorNotFinite { .. } => ErrorKind::Read,
            NoMemory { .. } => ErrorKind::NoMemory,
            NoThreads { .. } => ErrorKind::NoThreads,
            Device { .. } | DeviceLost { .. } => ErrorKind::Device,
            OutOfRange { .. } | FrameSize { .. } | FramesDiffer(_) | Tile(_) | Data(_) => ErrorKind::Settings,
            Write { .. } | Worker(_) | Torch(_) | Train(_) => ErrorKind::Failed,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Error::from_libtorch(&error.to_string(), Error::Torch)
    }
}

impl Error {
    /// What libtorch's words mean, by themselves or in a panic of tch's; `other` where they are about neither memory nor the device.
    /// Its C++ stack, all but the first line, is left out.
    pub(crate) fn from_libtorch(text: &str, other: fn(String) -> Error) -> Self {
        let reason = first_line(text).to_owned();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        if says(&[
            "out of memory",
            "can't allocate memory",
            "bad_alloc",
            "ALLOC_FAILED",
            "ALLOCATION_FAILED",
            "CUBLAS_STATUS_NOT_INITIALIZED",
        ]) {
            let device = if says(&["CUDA", "CUDNN", "CUBLAS"]) {
                "cuda"
            } else {
                "cpu"
            }
            .into();
            Error::NoMemory { device, reason }
        } else if says(&["CUDA error", "CUDA driver error", "cuDNN error"]) {
            Error::DeviceLost { reason }
        } else {
            other(reason)
        }
    }

    /// The same error for whoever comes later; of those that have a source, the words.
    pub(crate) fn again(&self) -> Self {
        match self {
            Error::DeviceLost { reason } => Error::DeviceLost {
                reason: reason.clone(),
            },
            Error::NoMemory { device, reason } => Error::NoMemory {
                device: device.clone(),
                reason: reason.clone(),
            },
            Error::Worker(reason) => Error::Worker(reason.clone()),
            other => Error::Worker(other.to_string()),
        }
    }
}

/// Of libtorch's message. Where tch panics, it is in quotes, with its line ends spelled out.
fn first_line(text: &str) -> &str {
    const PANIC: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"";
    let line = match text.strip_prefix(PANIC) {
        Some(quoted) => quoted
            .split("\\n")
            .next()
            .map(|line| line.trim_end_matches("\")")),
        None => text.lines().next(),
    };
    line.filter(|line| !line.is_empty()).unwrap_or("unknown error")
}
