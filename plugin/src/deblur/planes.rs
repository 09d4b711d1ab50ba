//! Rows of planes, whatever their stride is.

use gst_video::{VideoFormatFlags, VideoFrameExt, VideoFrameRef, VideoInfo};

/// The part of a plane that has samples in it, without padding.
pub(crate) struct PlaneSize {
    rows: usize,
    row_bytes: usize,
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

/// Checks that a buffer's planes lie where its video meta says. GStreamer takes its word, and would read beyond the memory.
///
/// # Errors
///
/// The meta is of another format, of a smaller picture, or reaches beyond the buffer's memory.
pub(crate) fn check_layout(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<(), glib::BoolError> {
    let Some(meta) = buffer.meta::<gst_video::VideoMeta>() else {
        return Ok(());
    };
    if meta.format() != info.format() || meta.width() < info.width() || meta.height() < info.height() {
        return Err(glib::bool_error!(
            "its video meta is of {:?} {}x{}, its caps are of {:?} {}x{}",
            meta.format(),
            meta.width(),
            meta.height(),
            info.format(),
            info.width(),
            info.height()
        ));
    }
    for plane in 0..info.n_planes() {
        let Some(size) = PlaneSize::of(info, plane) else {
            continue;
        };
        let row_bytes = match info.format_info().flags().contains(VideoFormatFlags::COMPLEX) {
            true => stride(info.stride(), plane),
            false => size.row_bytes,
        };
        let (offset, stride) = (
            meta.offset().get(plane as usize),
            meta.stride().get(plane as usize),
        );
        let fits = offset.zip(stride).is_some_and(|(&offset, &stride)| {
            let Some(stride) = usize::try_from(stride).ok().filter(|&stride| stride >= row_bytes) else {
                return false;
            };
            let last = stride.checked_mul(size.rows.saturating_sub(1));
            let bytes = last.and_then(|last| last.checked_add(row_bytes));
            // A plane lies in one of the buffer's memories.
            let end = offset.checked_add(1).filter(|&end| end <= buffer.size());
            let memory = end.and_then(|end| buffer.find_memory(offset..end));
            memory.zip(bytes).is_some_and(|((memories, skip), bytes)| {
                let memory = buffer.peek_memory(memories.start);
                bytes <= memory.size().saturating_sub(skip)
            })
        });
        if !fits {
            return Err(glib::bool_error!(
                "plane {plane} of its video meta (offset {offset:?}, stride {stride:?}) is not within its {} bytes",
                buffer.size()
            ));
        }
    }
    Ok(())
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

fn stride(strides: &[i32], plane: u32) -> usize {
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
    fn a_layout_has_to_lie_within_the_buffer() {
        gst::init().expect("GStreamer starts");
        let info = VideoInfo::builder(VideoFormat::I420, 16, 8)
            .build()
            .expect("a format");
        let check = |format, (width, height), offset: [usize; 3], stride: [i32; 3]| {
            let mut buffer = gst::Buffer::from_mut_slice(vec![0_u8; info.size()]);
            let flags = gst_video::VideoFrameFlags::empty();
            gst_video::VideoMeta::add_full(buffer.make_mut(), flags, format, width, height, &offset, &stride)
                .expect("a meta");
            check_layout(&buffer, &info)
        };
        let (offset, stride) = ([0, 128, 160], [16, 8, 8]);
        check(VideoFormat::I420, (16, 8), offset, stride).expect("as the caps say");
        check(VideoFormat::Yv12, (16, 8), offset, stride).expect_err("another format");
        check(VideoFormat::I420, (16, 4), offset, stride).expect_err("a smaller picture");
        check(VideoFormat::I420, (16, 8), [0, 128, 161], stride).expect_err("beyond the end");
        check(VideoFormat::I420, (16, 8), [0, 128, 192], stride).expect_err("behind the end");
        check(VideoFormat::I420, (16, 8), [0, 128, usize::MAX], stride).expect_err("nowhere");
        check(VideoFormat::I420, (16, 8), offset, [16, 8, 4]).expect_err("rows that overlap");
        check(VideoFormat::I420, (16, 8), offset, [-16, 8, 8]).expect_err("backwards");
        check(VideoFormat::I420, (16, 8), offset, [1 << 30, 8, 8]).expect_err("rows too far apart");
    }

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
