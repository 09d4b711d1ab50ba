//! Rows of planes, whatever their stride is.

use gst_video::{VideoFormatFlags, VideoFrameExt, VideoFrameRef, VideoInfo};

/// The part of a plane that has samples in it, without padding.
pub(crate) struct PlaneSize {
    pub rows: usize,
    pub row_bytes: usize,
}

impl PlaneSize {
    /// `None` for a plane without components.
    pub fn of(info: &VideoInfo, plane: u32) -> Option<Self> {
        let components =
            (0..info.n_components() as u8).filter(|&component| info.comp_plane(component) == plane);
        let sizes = components.map(|component| {
            let step = usize::try_from(info.comp_pstride(component)).unwrap_or_default();
            (
                info.comp_height(component) as usize,
                info.comp_width(component) as usize * step,
            )
        });
        // Packed formats have several components in a plane; the one with the widest steps goes to the end of
        // the row.
        sizes
            .reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
            .map(|(rows, row_bytes)| Self { rows, row_bytes })
    }
}

/// Lines of a plane that GstVideoConverter goes through: with 4:2:0 in an interlaced frame each field has its own.
pub(crate) fn lines(info: &VideoInfo, plane: u32) -> usize {
    let Some(size) = PlaneSize::of(info, plane) else {
        return 0;
    };
    let height = info.height() as usize;
    if !info.is_interlaced() || size.rows == height {
        return size.rows;
    }
    let last = height.saturating_sub(2)..height;
    let chroma = last.map(|line| line / 4 * 2 + line % 2 + 1).max();
    chroma.unwrap_or_default().max(size.rows)
}

/// The rows of a plane, as far as its memory goes.
///
/// # Errors
///
/// The frame has no such plane.
pub(crate) fn rows<'a>(
    frame: &'a VideoFrameRef<&gst::BufferRef>,
    plane: u32,
    size: &PlaneSize,
) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, glib::BoolError> {
    let (stride, row_bytes) = (stride(frame.plane_stride(), plane), size.row_bytes);
    let rows = frame.plane_data(plane)?.chunks(stride).take(size.rows);
    Ok(rows.map(move |row| &row[..row_bytes.min(row.len())]))
}

/// Like [`rows`], to write to.
///
/// # Errors
///
/// The frame has no such plane.
pub(crate) fn rows_mut<'a>(
    frame: &'a mut VideoFrameRef<&mut gst::BufferRef>,
    plane: u32,
    size: &PlaneSize,
) -> Result<impl Iterator<Item = &'a mut [u8]> + use<'a>, glib::BoolError> {
    let (stride, row_bytes) = (stride(frame.plane_stride(), plane), size.row_bytes);
    let rows = frame.plane_data_mut(plane)?.chunks_mut(stride).take(size.rows);
    Ok(rows.map(move |row| {
        let row_bytes = row_bytes.min(row.len());
        &mut row[..row_bytes]
    }))
}

/// Bytes from one line of a plane to the next.
pub(crate) fn stride(strides: &[i32], plane: u32) -> usize {
    strides
        .get(plane as usize)
        .and_then(|&stride| usize::try_from(stride).ok())
        .unwrap_or_default()
        .max(1)
}

/// Copies a frame between buffers of one format and different layouts.
///
/// Not `gst_video_frame_copy`, which forgets the last chroma sample of packed 4:2:2 with an odd width.
///
/// # Errors
///
/// The formats differ.
pub(crate) fn copy(
    from: &VideoFrameRef<&gst::BufferRef>,
    to: &mut VideoFrameRef<&mut gst::BufferRef>,
) -> Result<(), glib::BoolError> {
    if from.format_info().flags().contains(VideoFormatFlags::COMPLEX) {
        return from.copy(to);
    }
    for plane in 0..from.n_planes() {
        let Some(size) = PlaneSize::of(from.info(), plane) else {
            continue;
        };
        for (from, to) in rows(from, plane, &size)?.zip(rows_mut(to, plane, &size)?) {
            let bytes = from.len().min(to.len());
            to[..bytes].copy_from_slice(&from[..bytes]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::VideoFormat;

    #[test]
    fn rows_end_with_their_last_sample() {
        gst::init().expect("GStreamer starts");
        let size = |format, plane| {
            let info = VideoInfo::builder(format, 17, 13).build().expect("a format");
            PlaneSize::of(&info, plane).map(|size| (size.rows, size.row_bytes))
        };
        assert_eq!(size(VideoFormat::I420, 0), Some((13, 17)));
        assert_eq!(size(VideoFormat::I420, 2), Some((7, 9)));
        assert_eq!(size(VideoFormat::Nv12, 1), Some((7, 18)));
        assert_eq!(size(VideoFormat::Yuy2, 0), Some((13, 36)));
        assert_eq!(size(VideoFormat::Rgb, 0), Some((13, 51)));
        assert_eq!(size(VideoFormat::P01010le, 1), Some((7, 36)));
        assert_eq!(size(VideoFormat::I420, 3), None);
    }
}
