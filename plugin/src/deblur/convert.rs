//! Raw frames of the pads to the engine's R'G'B' frames and back, by GstVideoConverter.
//!
//! The engine sees R'G'B' in full range with the transfer function and the primaries that the input has: only
//! the matrix and the range are converted, there and back, so that nothing but the model changes the colours.

use osdd::frame::{Frame, PixelFormat};

use super::{
    difference::{self, Samples},
    error::FrameError,
    formats::{engine_format, rgb_info, with_enough_chroma, with_known_colorimetry},
    layout::{self, bytes},
    planes,
    repack::Repack,
};

/// Converts between frames of one pair of caps and frames of the engine.
pub(crate) struct FrameConverter {
    /// The source pad's layout.
    pad_info: gst_video::VideoInfo,
    /// Where the pads' samples are not whole bytes; the layouts below are then of frames where they are.
    repack: Option<Repack>,
    sink_info: gst_video::VideoInfo,
    src_info: gst_video::VideoInfo,
    /// What the caps say; frames may have to be converted as something else.
    interlace_mode: gst_video::VideoInterlaceMode,
    sink_rgb_info: gst_video::VideoInfo,
    src_rgb_info: gst_video::VideoInfo,
    to_rgb: Converter,
    from_rgb: Converter,
    format: PixelFormat,
    /// Set where the output is the input and a difference: see [`difference`].
    samples: Option<Samples>,
    /// The input after R'G'B' and back, to take the difference from.
    before: gst::Buffer,
}

impl FrameConverter {
    /// `src_info` has the format of `sink_info`; its width may differ.
    ///
    /// # Errors
    ///
    /// GstVideoConverter cannot convert this format; too little memory.
    pub fn new(
        sink_info: &gst_video::VideoInfo,
        src_info: &gst_video::VideoInfo,
    ) -> Result<Self, FrameError> {
        let format = engine_format(sink_info);
        let interlace_mode = sink_info.interlace_mode();
        let sink_info = with_enough_chroma(&with_known_colorimetry(sink_info)?)?;
        let src_info = with_enough_chroma(&with_known_colorimetry(src_info)?)?;
        let pad_info = src_info.clone();
        let repack = Repack::of(&sink_info, &src_info)?;
        let (sink_info, src_info) = repack.as_ref().map_or((sink_info, src_info), Repack::plain);
        let sink_rgb_info = rgb_info(&sink_info, format)?;
        let src_rgb_info = rgb_info(&src_info, format)?;
        let samples = Samples::of(&sink_info).filter(|_| difference::fits(&sink_info, &src_info));
        let before = match samples {
            Some(_) => gst::Buffer::from_mut_slice(bytes(Vec::new(), src_info.size())?),
            None => gst::Buffer::new(),
        };
        Ok(Self {
            pad_info,
            repack,
            samples,
            before,
            to_rgb: Converter::new(&sink_info, &sink_rgb_info)?,
            from_rgb: Converter::new(&src_rgb_info, &src_info)?,
            sink_info,
            src_info,
            interlace_mode,
            sink_rgb_info,
            src_rgb_info,
            format,
        })
    }

    /// The layout of the buffers on the source pad.
    pub fn pad_info(&self) -> &gst_video::VideoInfo {
        &self.pad_info
    }

    /// Whether the samples are PQ or HLG. The model has learned from standard dynamic range: these curves would be damaged.
    pub fn is_hdr(&self) -> bool {
        use gst_video::VideoTransferFunction::{AribStdB67, Smpte2084};

        matches!(self.sink_info.colorimetry().transfer(), Smpte2084 | AribStdB67)
    }

    /// Whether a buffer has two fields in it.
    pub fn has_fields(&self, buffer: &gst::BufferRef) -> bool {
        use gst_video::{VideoBufferFlags, VideoInterlaceMode, prelude::VideoBufferExt};

        let woven = match self.interlace_mode {
            VideoInterlaceMode::Interleaved => true,
            VideoInterlaceMode::Mixed => buffer.video_flags().contains(VideoBufferFlags::INTERLACED),
            _ => false,
        };
        woven && self.sink_info.height() > 1
    }

    /// A frame for the engine, and a copy of its samples where [`Self::write_frame`] needs one, in the memory of `recycled`.
    ///
    /// # Errors
    ///
    /// The buffer is too small for its caps or for its video meta, or cannot be mapped; too little memory.
    pub fn read_frame(
        &self,
        buffer: &gst::BufferRef,
        recycled: [Vec<u8>; 2],
    ) -> Result<(Frame, Option<Vec<u8>>), FrameError> {
        let unpacked = self
            .repack
            .as_ref()
            .map(|repack| repack.unpack(buffer))
            .transpose()?;
        let buffer = layout::readable(unpacked.as_deref().unwrap_or(buffer), &self.sink_info)?;
        let input = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &self.sink_info)?;
        let [first, second] = recycled;
        let mut rgb = gst::Buffer::from_mut_slice(bytes(first, self.sink_rgb_info.size())?);
        {
            let rgb = writable(&mut rgb)?;
            let mut rgb = gst_video::VideoFrameRef::from_buffer_ref_writable(rgb, &self.sink_rgb_info)?;
            self.to_rgb.convert(&input, &mut rgb)?;
        }
        let frame = Frame {
            width: self.sink_rgb_info.width() as usize,
            height: self.sink_rgb_info.height() as usize,
            format: self.format,
            data: into_data(rgb)?,
        };
        if self.samples.is_none() {
            return Ok((frame, None));
        }
        let mut original = gst::Buffer::from_mut_slice(bytes(second, self.sink_info.size())?);
        {
            let original = writable(&mut original)?;
            let mut original = gst_video::VideoFrameRef::from_buffer_ref_writable(original, &self.sink_info)?;
            planes::copy(&input, &mut original)?;
        }
        Ok((frame, Some(into_data(original)?)))
    }

    /// Writes a frame of the source pad's size into `buffer`. `input` is what the model was given, in that size too (of two
    /// pictures side by side, twice the same), `original` what [`Self::read_frame`] kept of it. Gives the memory of all three back.
    ///
    /// # Errors
    ///
    /// The buffer is too small for the source pad's caps, or cannot be mapped.
    pub fn write_frame(
        &mut self,
        frame: Frame,
        input: Frame,
        original: Option<Vec<u8>>,
        buffer: &mut gst::BufferRef,
    ) -> Result<impl IntoIterator<Item = Vec<u8>> + use<>, FrameError> {
        if let Some(repack) = self.repack.take() {
            let written = repack.pack(buffer, |plain| self.write_plain(frame, input, original, plain));
            self.repack = Some(repack);
            return written;
        }
        let info = self.pad_info.clone();
        layout::write(buffer, &info, |buffer| {
            self.write_plain(frame, input, original, buffer)
        })
    }

    /// [`Self::write_frame`] where the buffer can be mapped as the caps say.
    fn write_plain(
        &mut self,
        frame: Frame,
        input: Frame,
        original: Option<Vec<u8>>,
        buffer: &mut gst::BufferRef,
    ) -> Result<std::iter::Flatten<std::array::IntoIter<Option<Vec<u8>>, 3>>, FrameError> {
        let mut output = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &self.src_info)?;
        let frame = from_rgb(&self.from_rgb, frame.data, &self.src_rgb_info, &mut output)?;
        let (Some(samples), Some(original)) = (self.samples, original) else {
            return Ok([Some(frame), Some(input.data), None].into_iter().flatten());
        };
        let input = {
            let before = writable(&mut self.before)?;
            let mut before = gst_video::VideoFrameRef::from_buffer_ref_writable(before, &self.src_info)?;
            from_rgb(&self.from_rgb, input.data, &self.src_rgb_info, &mut before)?
        };
        let original = gst::Buffer::from_mut_slice(original);
        {
            let original = gst_video::VideoFrameRef::from_buffer_ref_readable(&original, &self.sink_info)?;
            let before = gst_video::VideoFrameRef::from_buffer_ref_readable(&self.before, &self.src_info)?;
            difference::add(samples, &mut output, &original, &before)?;
        }
        Ok([Some(frame), Some(input), Some(into_data(original)?)]
            .into_iter()
            .flatten())
    }

    /// Copies a frame of equal caps into a buffer that may have another layout.
    ///
    /// # Errors
    ///
    /// One of the buffers is too small for its caps or for its video meta, or cannot be mapped.
    pub fn copy(&self, from: &gst::BufferRef, to: &mut gst::BufferRef) -> Result<(), FrameError> {
        let from = layout::readable(from, &self.pad_info)?;
        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(&from, &self.pad_info)?;
        layout::write(to, &self.pad_info, |to| {
            let mut to = gst_video::VideoFrameRef::from_buffer_ref_writable(to, &self.pad_info)?;
            Ok(planes::copy(&from, &mut to)?)
        })
    }
}

fn writable(buffer: &mut gst::Buffer) -> Result<&mut gst::BufferRef, glib::BoolError> {
    buffer
        .get_mut()
        .ok_or_else(|| glib::bool_error!("a buffer of the element's own is in use elsewhere"))
}

/// Converts a frame of the engine and gives its memory back.
fn from_rgb(
    converter: &Converter,
    data: Vec<u8>,
    info: &gst_video::VideoInfo,
    output: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
) -> Result<Vec<u8>, glib::BoolError> {
    let rgb = gst::Buffer::from_mut_slice(data);
    {
        let rgb = gst_video::VideoFrameRef::from_buffer_ref_readable(&rgb, info)?;
        converter.convert(&rgb, output)?;
    }
    into_data(rgb)
}

fn into_data(buffer: gst::Buffer) -> Result<Vec<u8>, glib::BoolError> {
    buffer
        .try_into_inner()
        .map_err(|(_, error)| glib::bool_error!("cannot take a frame's memory back: {error}"))
}

/// GstVideoConverter, for frames of any size.
pub(super) struct Converter {
    converter: gst_video::VideoConverter,
    from: gst_video::VideoInfo,
    to: gst_video::VideoInfo,
    config: gst_video::VideoConverterConfig,
}

impl Converter {
    fn new(from: &gst_video::VideoInfo, to: &gst_video::VideoInfo) -> Result<Self, glib::BoolError> {
        Self::with_config(from, to, Self::config())
    }

    /// Where both have the same samples, and nothing but their places changes.
    pub fn of_samples(
        from: &gst_video::VideoInfo,
        to: &gst_video::VideoInfo,
    ) -> Result<Self, glib::BoolError> {
        let mut config = Self::config();
        config.set_chroma_mode(gst_video::VideoChromaMode::None);
        config.set_matrix_mode(gst_video::VideoMatrixMode::None);
        Self::with_config(from, to, config)
    }

    fn with_config(
        from: &gst_video::VideoInfo,
        to: &gst_video::VideoInfo,
        config: gst_video::VideoConverterConfig,
    ) -> Result<Self, glib::BoolError> {
        Ok(Self {
            converter: gst_video::VideoConverter::new(from, to, Some(config.clone()))?,
            from: from.clone(),
            to: to.clone(),
            config,
        })
    }

    pub fn convert(
        &self,
        from: &gst_video::VideoFrameRef<&gst::BufferRef>,
        to: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<(), glib::BoolError> {
        if self.to.height() <= 2 {
            // GstVideoConverter (1.22) takes lines of so low a frame from the one before it.
            gst_video::VideoConverter::new(&self.from, &self.to, Some(self.config.clone()))?
                .frame_ref(from, to);
        } else {
            self.converter.frame_ref(from, to);
        }
        Ok(())
    }

    /// No dithering: its noise would be new in every frame and flicker.
    fn config() -> gst_video::VideoConverterConfig {
        let mut config = gst_video::VideoConverterConfig::new();
        config.set_dither_method(gst_video::VideoDitherMethod::None);
        config.set_threads(threads());
        config
    }
}

/// Converters of one element that may be at work at a time, on the way in and on the way out.
const CONVERTERS: usize = 4;

/// Threads for each GstVideoConverter of an element, the caller's among them.
fn threads() -> u32 {
    // More are not faster.
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    if threads > 1 && osdd::threads::are_given(CONVERTERS * (threads - 1) + 1) {
        threads as u32
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::{VideoFormat, VideoInfo};

    /// The first pixel that the engine gets for a 4:4:4 frame of one colour, in 0..=255.
    fn rgb(colorimetry: &str, yuv: [u8; 3]) -> [u8; 3] {
        gst::init().expect("GStreamer starts");
        let colorimetry = colorimetry.parse().expect("a colorimetry");
        let info = VideoInfo::builder(VideoFormat::V308, 4, 4)
            .colorimetry(&colorimetry)
            .build()
            .expect("a format");
        let converter = FrameConverter::new(&info, &info).expect("a converter");
        let buffer = gst::Buffer::from_slice(yuv.repeat(16));
        let (frame, _) = converter
            .read_frame(&buffer, [Vec::new(), Vec::new()])
            .expect("a frame");
        assert_eq!(
            (frame.width, frame.height, frame.format),
            (4, 4, PixelFormat::Rgba16)
        );
        let sample = |at: usize| u16::from_ne_bytes([frame.data[at], frame.data[at + 1]]);
        [0, 2, 4].map(|at| (f64::from(sample(at)) / 257.0).round() as u8)
    }

    #[test]
    fn the_engine_sees_full_range_rgb() {
        for (colorimetry, yuv, expected) in [
            ("bt601", [16, 128, 128], [0, 0, 0]),
            ("bt601", [235, 128, 128], [255, 255, 255]),
            ("bt601", [81, 90, 240], [255, 0, 0]),
            ("bt709", [63, 102, 240], [255, 0, 0]),
            ("bt709", [32, 240, 118], [0, 0, 255]),
            ("bt2020", [74, 97, 240], [255, 0, 0]),
            ("1:3:5:1", [54, 99, 255], [255, 0, 0]),
            ("1:4:16:3", [128, 128, 128], [128, 128, 128]),
            // No matrix, and one that YUV cannot have.
            ("2:0:0:0", [81, 90, 240], [255, 0, 0]),
            ("1:1:5:1", [128, 128, 128], [128, 128, 128]),
            ("1:1:5:1", [76, 85, 255], [255, 0, 0]),
        ] {
            let got = rgb(colorimetry, yuv);
            let worst = got
                .iter()
                .zip(expected)
                .map(|(got, expected)| got.abs_diff(expected))
                .max();
            assert!(
                worst <= Some(2),
                "{colorimetry} {yuv:?}: {got:?}, expected {expected:?}"
            );
        }
    }

    /// Memory with a mark behind the part that a buffer shows.
    struct Marked {
        data: Vec<u8>,
        shown: usize,
    }

    const MARK: u8 = 0xa5;

    impl AsRef<[u8]> for Marked {
        fn as_ref(&self) -> &[u8] {
            &self.data[..self.shown]
        }
    }

    impl AsMut<[u8]> for Marked {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.data[..self.shown]
        }
    }

    #[test]
    fn nothing_is_written_behind_a_frame() {
        use gst_video::VideoInterlaceMode::{Interleaved, Mixed, Progressive};

        gst::init().expect("GStreamer starts");
        let template = super::super::caps::TEMPLATE.structure(0).expect("a structure");
        let formats = template.get::<gst::List>("format").expect("formats");
        for format in formats.iter().map(|format| format.get::<&str>().expect("a name")) {
            for mode in [Progressive, Interleaved, Mixed] {
                for (width, height) in (1..12).flat_map(|height| [(1, height), (6, height), (11, height)]) {
                    let info = VideoInfo::builder(VideoFormat::from_string(format), width, height)
                        .interlace_mode(mode)
                        .build()
                        .expect("a format");
                    let mut converter = FrameConverter::new(&info, &info).expect("a converter");
                    let input = gst::Buffer::from_slice(vec![99; info.size()]);
                    let read = converter.read_frame(&input, [Vec::new(), Vec::new()]);
                    let (frame, original) = read.expect("a frame");
                    let mut output = gst::Buffer::from_mut_slice(Marked {
                        data: vec![MARK; info.size() + 4096],
                        shown: info.size(),
                    });
                    let spare = converter
                        .write_frame(frame.clone(), frame, original, output.make_mut())
                        .expect("an output");
                    drop(spare);
                    let output = output.try_into_inner::<Marked>().map_err(|(_, error)| error);
                    let output = output.expect("the memory");
                    assert!(
                        output.data[output.shown..].iter().all(|&byte| byte == MARK),
                        "{format} {mode:?} {width}x{height}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_the_model_does_not_change_keeps_its_bits() {
        gst::init().expect("GStreamer starts");
        for format in [
            VideoFormat::I420,
            VideoFormat::Nv12,
            VideoFormat::Yuy2,
            VideoFormat::P01010le,
            VideoFormat::Gray8,
        ] {
            let info = VideoInfo::builder(format, 17, 13).build().expect("a format");
            let mut converter = FrameConverter::new(&info, &info).expect("a converter");
            let step = if format == VideoFormat::P01010le { 64 } else { 1 };
            let data = (0..info.size())
                .map(|at| (at * at * step) as u8)
                .collect::<Vec<_>>();
            let input = gst::Buffer::from_slice(data);
            let read = converter.read_frame(&input, [Vec::new(), Vec::new()]);
            let (frame, original) = read.expect("a frame");
            let mut output = gst::Buffer::from_mut_slice(vec![0; info.size()]);
            let spare = converter
                .write_frame(frame.clone(), frame, original, output.make_mut())
                .expect("an output")
                .into_iter();
            assert_eq!(spare.count(), 3);
            let frame =
                |buffer| gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).expect("a frame");
            let (input, output) = (frame(&input), frame(&output));
            for plane in 0..info.n_planes() {
                let size = planes::PlaneSize::of(&info, plane).expect("a plane");
                let rows = |frame| planes::rows(frame, plane, &size).expect("rows");
                assert!(rows(&input).eq(rows(&output)), "{format:?} plane {plane}");
            }
        }
    }
}
