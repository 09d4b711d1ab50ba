//! Formats of which three samples of ten bits share 32 bits, in the layout that their bytes are apart: the same samples, bit for
//! bit, for what works on samples.

use gst_video::{VideoFormat, VideoInfo};

use super::convert::Converter;
use super::error::FrameError;
use super::layout;

/// Converts between packed frames of the pads and plain ones.
pub(crate) struct Repack {
    packed_sink: VideoInfo,
    packed_src: VideoInfo,
    plain_sink: VideoInfo,
    plain_src: VideoInfo,
    unpack: Converter,
    pack: Converter,
}

/// The format with the same samples apart, where there is one.
fn plain(format: VideoFormat) -> Option<VideoFormat> {
    match format {
        VideoFormat::V210 => Some(VideoFormat::I42210le),
        VideoFormat::Nv1210le32 => Some(VideoFormat::I42010le),
        _ => None,
    }
}

fn plain_info(packed: &VideoInfo, format: VideoFormat) -> Result<VideoInfo, glib::BoolError> {
    VideoInfo::builder(format, packed.width(), packed.height())
        .fps(packed.fps())
        .interlace_mode(packed.interlace_mode())
        .colorimetry(&packed.colorimetry())
        .chroma_site(packed.chroma_site())
        .build()
}

impl Repack {
    /// `None` where the pads' samples are apart already.
    ///
    /// # Errors
    ///
    /// GstVideoConverter cannot convert this format.
    pub fn of(sink: &VideoInfo, src: &VideoInfo) -> Result<Option<Self>, glib::BoolError> {
        let Some(format) = plain(sink.format()) else {
            return Ok(None);
        };
        let (plain_sink, plain_src) = (plain_info(sink, format)?, plain_info(src, format)?);
        Ok(Some(Self {
            unpack: Converter::of_samples(sink, &plain_sink)?,
            pack: Converter::of_samples(&plain_src, src)?,
            packed_sink: sink.clone(),
            packed_src: src.clone(),
            plain_sink,
            plain_src,
        }))
    }

    /// The layouts of the plain frames, of the sink pad and of the source pad.
    pub fn plain(&self) -> (VideoInfo, VideoInfo) {
        (self.plain_sink.clone(), self.plain_src.clone())
    }

    /// A plain frame of what came in.
    ///
    /// # Errors
    ///
    /// The buffer is too small for its caps or for its video meta, or cannot be mapped; too little memory.
    pub fn unpack(&self, buffer: &gst::BufferRef) -> Result<gst::Buffer, FrameError> {
        let buffer = layout::readable(buffer, &self.packed_sink)?;
        let packed = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &self.packed_sink)?;
        let mut plain = gst::Buffer::from_mut_slice(layout::bytes(Vec::new(), self.plain_sink.size())?);
        {
            let plain = plain.make_mut();
            let mut plain = gst_video::VideoFrameRef::from_buffer_ref_writable(plain, &self.plain_sink)?;
            self.unpack.convert(&packed, &mut plain)?;
        }
        Ok(plain)
    }

    /// Packs the plain frame that `write` makes into `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too small for the source pad's caps, or cannot be mapped; too little memory; what `write` says.
    pub fn pack<T>(
        &self,
        buffer: &mut gst::BufferRef,
        write: impl FnOnce(&mut gst::BufferRef) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        let mut plain = gst::Buffer::from_mut_slice(layout::bytes(Vec::new(), self.plain_src.size())?);
        let written = write(plain.make_mut())?;
        let plain = gst_video::VideoFrameRef::from_buffer_ref_readable(&plain, &self.plain_src)?;
        layout::write(buffer, &self.packed_src, |buffer| {
            let mut packed = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &self.packed_src)?;
            Ok(self.pack.convert(&plain, &mut packed)?)
        })?;
        Ok(written)
    }
}
