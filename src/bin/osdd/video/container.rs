//! The containers that videos are written as, and the encoders that go with them.

use anyhow::Result;
use gst::prelude::*;

use super::element;

/// Constant rate factor of x264; 18 is commonly held to be visually lossless.
const H264_QUALITY: u32 = 18;
/// VP9's scale is another one.
const VP9_QUALITY: u32 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Mp4,
    QuickTime,
    Matroska,
    WebM,
    Avi,
}

impl Container {
    pub fn for_extension(extension: &str) -> Option<Self> {
        match extension {
            "mp4" | "m4v" => Some(Self::Mp4),
            "mov" => Some(Self::QuickTime),
            "mkv" => Some(Self::Matroska),
            "webm" => Some(Self::WebM),
            "avi" => Some(Self::Avi),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "MP4",
            Self::QuickTime => "QuickTime",
            Self::Matroska => "Matroska",
            Self::WebM => "WebM",
            Self::Avi => "AVI",
        }
    }

    pub fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4mux",
            Self::QuickTime => "qtmux",
            Self::Matroska => "matroskamux",
            Self::WebM => "webmmux",
            Self::Avi => "avimux",
        }
    }

    /// Elements that encode sound for this container, the best first.
    pub fn audio_encoders(self) -> &'static [&'static str] {
        match self {
            Self::Mp4 | Self::QuickTime => &["fdkaacenc", "avenc_aac", "voaacenc", "faac"],
            Self::Matroska => &["flacenc", "opusenc", "vorbisenc"],
            Self::WebM => &["opusenc", "vorbisenc"],
            Self::Avi => &["lamemp3enc", "avenc_ac3"],
        }
    }

    /// The format of its video, and the worst quality there.
    pub fn quality_scale(self) -> (&'static str, u32) {
        match self {
            Self::WebM => ("VP9", 63),
            _ => ("H.264", 50),
        }
    }

    /// An encoder that keeps what it is given as far as the eye can tell; `quality` is on [its own scale](Self::quality_scale).
    ///
    /// # Errors
    /// The element is missing.
    pub fn video_encoder(self, quality: Option<u32>) -> Result<gst::Element> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        if self == Self::WebM {
            let encoder = element::make("vp9enc")?;
            encoder.set_property_from_str("end-usage", "cq");
            encoder.set_property("cq-level", quality.unwrap_or(VP9_QUALITY) as i32);
            // "Constrained quality" is bounded by the bit rate, whose default is a web camera's.
            encoder.set_property("target-bitrate", 1_000_000_000_i32);
            encoder.set_property("cpu-used", 4_i32);
            encoder.set_property("row-mt", true);
            encoder.set_property("threads", threads.min(16) as i32);
            // At the end of the stream vp9enc (GStreamer 1.22) forgets frames that it has kept to look ahead.
            encoder.set_property("lag-in-frames", 0_i32);
            // Frames of variable rate may lie closer than one over the nominal rate.
            encoder.set_property("timebase", gst::Fraction::new(1, 90_000));
            return Ok(encoder);
        }
        let encoder = element::make("x264enc")?;
        encoder.set_property_from_str("pass", "qual");
        encoder.set_property("quantizer", quality.unwrap_or(H264_QUALITY));
        encoder.set_property_from_str("speed-preset", "fast");
        if self == Self::Avi {
            // AVI has no presentation times of its own, so frames must be stored in the order they are shown.
            encoder.set_property("bframes", 0_u32);
        }
        Ok(encoder)
    }
}
