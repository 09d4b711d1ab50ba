//! Which frame of the engine a raw format becomes, and with which colours.

use osdd::frame::PixelFormat;

use super::layout;

/// A frame of the engine that holds every bit of the format.
///
/// YUV of 8 bits takes 16 as well: GstVideoConverter's 8-bit matrices are fast but darken a picture by up to
/// 5/255.
pub(crate) fn engine_format(info: &gst_video::VideoInfo) -> PixelFormat {
    let deep = info.format_info().depth().iter().any(|&bits| bits > 8);
    match (info.is_rgb() && !deep, info.has_alpha()) {
        (true, false) => PixelFormat::Rgb8,
        (true, true) => PixelFormat::Rgba8,
        // GStreamer has no 16-bit RGB without alpha; the engine carries the opaque alpha through.
        (false, _) => PixelFormat::Rgba16,
    }
}

fn gst_format(format: PixelFormat) -> gst_video::VideoFormat {
    match format {
        PixelFormat::Rgb8 => gst_video::VideoFormat::Rgb,
        PixelFormat::Rgba8 => gst_video::VideoFormat::Rgba,
        PixelFormat::Rgb16 | PixelFormat::Rgba16 if cfg!(target_endian = "big") => {
            gst_video::VideoFormat::Rgba64Be
        }
        PixelFormat::Rgb16 | PixelFormat::Rgba16 => gst_video::VideoFormat::Rgba64Le,
    }
}

/// GstVideoConverter copies Y, U and V to R, G and B where the caps name no YUV matrix, as grey and
/// mislabelled streams do: those get the matrix that their size suggests, and the same one on the way back.
pub(crate) fn with_known_colorimetry(
    info: &gst_video::VideoInfo,
) -> Result<gst_video::VideoInfo, glib::BoolError> {
    use gst_video::{VideoColorMatrix, VideoColorRange, VideoColorimetry};

    if info.is_rgb() {
        return Ok(info.clone());
    }
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        VideoColorMatrix::Unknown | VideoColorMatrix::Rgb if info.height() > 576 => VideoColorMatrix::Bt709,
        VideoColorMatrix::Unknown | VideoColorMatrix::Rgb => VideoColorMatrix::Bt601,
        matrix => matrix,
    };
    let range = match colorimetry.range() {
        VideoColorRange::Unknown if info.is_gray() => VideoColorRange::Range0_255,
        VideoColorRange::Unknown => VideoColorRange::Range16_235,
        range => range,
    };
    let colorimetry = VideoColorimetry::new(range, matrix, colorimetry.transfer(), colorimetry.primaries());
    gst_video::VideoInfo::builder_from_info(info)
        .colorimetry(&colorimetry)
        .build()
}

/// GStreamer (1.22) lays out interlaced P010, P012 and P016 of 4n + 2 lines with a line of chroma less than its
/// GstVideoConverter reads and writes. Such frames are converted as if they were progressive, within their memory: the two
/// fields then share chroma where the model changes it.
pub(crate) fn with_enough_chroma(
    info: &gst_video::VideoInfo,
) -> Result<gst_video::VideoInfo, glib::BoolError> {
    if layout::is_whole(info) {
        return Ok(info.clone());
    }
    gst_video::VideoInfo::builder_from_info(info)
        .interlace_mode(gst_video::VideoInterlaceMode::Progressive)
        .build()
}

/// R'G'B' in full range with packed rows, of the size, transfer function and primaries of `info`.
pub(crate) fn rgb_info(
    info: &gst_video::VideoInfo,
    format: PixelFormat,
) -> Result<gst_video::VideoInfo, glib::BoolError> {
    let colorimetry = gst_video::VideoColorimetry::new(
        gst_video::VideoColorRange::Range0_255,
        gst_video::VideoColorMatrix::Rgb,
        info.colorimetry().transfer(),
        info.colorimetry().primaries(),
    );
    let stride = info.width() as usize * format.bytes_per_pixel();
    let (Ok(stride_i32), Some(size)) = (i32::try_from(stride), stride.checked_mul(info.height() as usize))
    else {
        return Err(glib::bool_error!(
            "a frame of {}x{} is too large",
            info.width(),
            info.height()
        ));
    };
    gst_video::VideoInfo::builder(gst_format(format), info.width(), info.height())
        .fps(info.fps())
        .interlace_mode(info.interlace_mode())
        .colorimetry(&colorimetry)
        .offset(&[0])
        .stride(&[stride_i32])
        .size(size)
        .build()
}
