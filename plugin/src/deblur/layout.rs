//! Buffers as their video meta lays them out.
//!
//! GStreamer takes a meta's word: it maps planes that end behind their memory, and goes through as many lines of chroma as an
//! interlaced picture has, whether they are there or not (drivers often lay out one less). Where such a mapping would leave
//! the memory, frames go through a copy that has the layout of the caps.

use std::borrow::Cow;

use gst_video::{VideoFormatFlags, VideoInfo, VideoMeta};

use super::convert::bytes;
use super::error::FrameError;
use super::planes::{PlaneSize, lines};

/// A plane where the meta says it is.
struct Plane {
    size: PlaneSize,
    offset: usize,
    stride: usize,
}

impl Plane {
    /// Its samples of a line, where the memory has them.
    fn line(&self, line: usize) -> Option<std::ops::Range<usize>> {
        let start = line.checked_mul(self.stride)?.checked_add(self.offset)?;
        Some(start..start.checked_add(self.size.row_bytes)?)
    }
}

/// The meta that GStreamer maps by.
fn meta(buffer: &gst::BufferRef) -> Option<gst::MetaRef<'_, VideoMeta>> {
    buffer.iter_meta::<VideoMeta>().min_by_key(|meta| meta.id())
}

/// Where all planes with samples are, in order; others are `None`.
fn planes(
    buffer: &gst::BufferRef,
    meta: &VideoMeta,
    info: &VideoInfo,
) -> Result<Vec<Option<Plane>>, glib::BoolError> {
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
    let plane = |plane: u32| {
        let Some(mut size) = PlaneSize::of(info, plane) else {
            return Ok(None);
        };
        let (&offset, &stride) = meta
            .offset()
            .get(plane as usize)
            .zip(meta.stride().get(plane as usize))
            .ok_or_else(|| glib::bool_error!("its video meta has no plane {plane}"))?;
        if info.format_info().flags().contains(VideoFormatFlags::COMPLEX) {
            // Several samples share their bytes, up to the end of the row.
            size.row_bytes = usize::try_from(info.stride()[plane as usize]).unwrap_or_default();
        }
        let found = usize::try_from(stride)
            .ok()
            .filter(|&stride| stride >= size.row_bytes)
            .map(|stride| Plane { size, offset, stride });
        let ends_at = |plane: &Plane| plane.line(plane.size.rows.saturating_sub(1)).map(|line| line.end);
        found
            .filter(|plane| ends_at(plane).is_some_and(|end| end <= buffer.size()))
            .map(Some)
            .ok_or_else(|| {
                glib::bool_error!(
                    "plane {plane} of its video meta (offset {offset}, stride {stride}) is not within its {} bytes",
                    buffer.size()
                )
            })
    };
    (0..info.n_planes()).map(plane).collect()
}

/// Whether GStreamer's mapping stays within the memory, and what goes through it too.
fn is_sound(buffer: &gst::BufferRef, meta: &VideoMeta, info: &VideoInfo, planes: &[Option<Plane>]) -> bool {
    let interlaced = meta
        .video_frame_flags()
        .contains(gst_video::VideoFrameFlags::INTERLACED);
    let same = (meta.width(), meta.height()) == (info.width(), info.height());
    same && (info.is_interlaced() || !interlaced)
        && (0..).zip(planes).all(|(index, plane)| {
            plane.as_ref().is_none_or(|plane| {
                let needed = plane.stride.checked_mul(lines(info, index));
                // A plane is mapped as far as the memory goes that it starts in.
                let memory = buffer.find_memory(plane.offset..plane.offset + 1);
                needed.zip(memory).is_some_and(|(needed, (memories, skip))| {
                    needed <= buffer.peek_memory(memories.start).size().saturating_sub(skip)
                })
            })
        })
}

/// Lines of a plane that a frame laid out by `info` has room for.
fn room(info: &VideoInfo, plane: u32) -> usize {
    let start = info.offset()[plane as usize];
    let later = info.offset().iter().copied().filter(|&other| other > start);
    let end = later.min().unwrap_or(info.size());
    let stride = usize::try_from(info.stride()[plane as usize]).unwrap_or_default();
    end.saturating_sub(start) / stride.max(1)
}

/// Whether a frame laid out by `info` has all lines that GstVideoConverter goes through.
pub(crate) fn is_whole(info: &VideoInfo) -> bool {
    (0..info.n_planes()).all(|plane| lines(info, plane) <= room(info, plane))
}

/// A buffer that can be mapped as `info` says: itself or a copy.
///
/// # Errors
///
/// Its meta is of another format or of a smaller picture, or ends behind its memory; too little memory.
pub(crate) fn readable<'a>(
    buffer: &'a gst::BufferRef,
    info: &VideoInfo,
) -> Result<Cow<'a, gst::BufferRef>, FrameError> {
    let Some(meta) = meta(buffer) else {
        return Ok(Cow::Borrowed(buffer));
    };
    let planes = planes(buffer, &meta, info)?;
    if is_sound(buffer, &meta, info, &planes) {
        return Ok(Cow::Borrowed(buffer));
    }
    let mut copy = bytes(Vec::new(), info.size())?;
    let from = buffer.map_readable()?;
    for (index, plane) in (0..).zip(&planes) {
        let Some(plane) = plane else { continue };
        let (first, stride) = (
            info.offset()[index as usize],
            info.stride()[index as usize] as usize,
        );
        for line in 0..lines(info, index).min(room(info, index)) {
            // A line that is not there is the one before it of the same field.
            let there = if line < plane.size.rows {
                line
            } else {
                line.saturating_sub(2)
            };
            let from = plane.line(there).and_then(|line| from.get(line));
            let to = copy
                .get_mut(first + line * stride..)
                .and_then(|to| to.get_mut(..plane.size.row_bytes));
            if let Some((from, to)) = from.zip(to) {
                to.copy_from_slice(from);
            }
        }
    }
    Ok(Cow::Owned(gst::Buffer::from_mut_slice(copy)))
}

/// Has `write` fill a buffer that can be mapped as `info` says: itself, or another that is copied into it then.
///
/// # Errors
///
/// As of [`readable`], and those of `write`.
pub(crate) fn write<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    write: impl FnOnce(&mut gst::BufferRef) -> Result<T, FrameError>,
) -> Result<T, FrameError> {
    let planes = match meta(buffer) {
        None => return write(buffer),
        Some(meta) => {
            let planes = planes(buffer, &meta, info)?;
            if is_sound(buffer, &meta, info, &planes) {
                None
            } else {
                Some(planes)
            }
        }
    };
    let Some(planes) = planes else {
        return write(buffer);
    };
    let mut plain = gst::Buffer::from_mut_slice(bytes(Vec::new(), info.size())?);
    let written = write(plain.make_mut())?;
    let from = plain.map_readable()?;
    let mut to = buffer.map_writable()?;
    for (index, plane) in (0..).zip(&planes) {
        let Some(plane) = plane else { continue };
        let (first, stride) = (
            info.offset()[index as usize],
            info.stride()[index as usize] as usize,
        );
        for line in 0..plane.size.rows {
            let from = from
                .get(first + line * stride..)
                .and_then(|from| from.get(..plane.size.row_bytes));
            let to = plane.line(line).and_then(|line| to.get_mut(line));
            if let Some((from, to)) = from.zip(to) {
                to.copy_from_slice(from);
            }
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::{VideoFormat, VideoFrameFlags, VideoInterlaceMode};

    fn info(format: VideoFormat, width: u32, height: u32, mode: VideoInterlaceMode) -> VideoInfo {
        gst::init().expect("GStreamer starts");
        let info = VideoInfo::builder(format, width, height).interlace_mode(mode);
        info.build().expect("a format")
    }

    /// Bytes that tell where they are.
    fn buffer(size: usize) -> gst::Buffer {
        gst::Buffer::from_mut_slice((0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>())
    }

    struct Meta<'a> {
        format: VideoFormat,
        size: (u32, u32),
        flags: VideoFrameFlags,
        offset: &'a [usize],
        stride: &'a [i32],
    }

    fn add(buffer: &mut gst::Buffer, meta: &Meta) {
        let buffer = buffer.make_mut();
        let (width, height) = meta.size;
        VideoMeta::add_full(
            buffer,
            meta.flags,
            meta.format,
            width,
            height,
            meta.offset,
            meta.stride,
        )
        .expect("a meta");
    }

    #[test]
    fn a_layout_has_to_lie_within_the_buffer() {
        let info = info(VideoFormat::I420, 16, 8, VideoInterlaceMode::Progressive);
        let check = |format, size, offset: [usize; 3], stride: [i32; 3]| {
            let mut buffer = buffer(info.size());
            let flags = VideoFrameFlags::empty();
            let (offset, stride) = (&offset[..], &stride[..]);
            add(
                &mut buffer,
                &Meta {
                    format,
                    size,
                    flags,
                    offset,
                    stride,
                },
            );
            readable(&buffer, &info).map(|buffer| matches!(buffer, Cow::Borrowed(_)))
        };
        let (offset, stride) = ([0, 128, 160], [16, 8, 8]);
        assert!(check(VideoFormat::I420, (16, 8), offset, stride).expect("as the caps say"));
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
    fn fields_whose_last_line_of_chroma_is_missing_get_the_one_before_it() {
        // As many drivers lay it out: 6 lines, 3 of chroma, though each field of 3 lines has 2.
        let info = info(VideoFormat::Nv12, 8, 6, VideoInterlaceMode::Interleaved);
        assert_eq!(lines(&info, 1), 4);
        assert!(is_whole(&info));
        let mut short = buffer(8 * 9);
        let (format, size, flags) = (VideoFormat::Nv12, (8, 6), VideoFrameFlags::INTERLACED);
        add(
            &mut short,
            &Meta {
                format,
                size,
                flags,
                offset: &[0, 48],
                stride: &[8, 8],
            },
        );
        let copy = readable(&short, &info).expect("it can be read");
        assert!(copy.meta::<VideoMeta>().is_none());
        let (copy, short) = (
            copy.map_readable().expect("memory"),
            short.map_readable().expect("memory"),
        );
        let line = |line: usize| &copy[info.offset()[1] + 8 * line..][..8];
        assert_eq!(copy[..48], short[..48]);
        for (at, from) in [(0, 0), (1, 1), (2, 2), (3, 1)] {
            assert_eq!(line(at), &short[48 + 8 * from..][..8], "line {at}");
        }
    }

    #[test]
    fn a_meta_does_not_make_a_progressive_picture_interlaced() {
        let info = info(VideoFormat::P01010le, 8, 6, VideoInterlaceMode::Progressive);
        let mut flagged = buffer(info.size());
        let (format, size, flags) = (info.format(), (8, 6), VideoFrameFlags::INTERLACED);
        let (offset, stride) = (info.offset().to_vec(), info.stride().to_vec());
        add(
            &mut flagged,
            &Meta {
                format,
                size,
                flags,
                offset: &offset,
                stride: &stride,
            },
        );
        let copy = readable(&flagged, &info).expect("it can be read");
        assert!(copy.meta::<VideoMeta>().is_none());
        let (copy, flagged) = (
            copy.map_readable().expect("memory"),
            flagged.map_readable().expect("memory"),
        );
        assert_eq!(copy[..], flagged[..]);
    }

    #[test]
    fn a_larger_picture_may_end_with_the_last_sample() {
        let info = info(VideoFormat::Gray8, 14, 3, VideoInterlaceMode::Progressive);
        let bytes = 2 + 2 * 20 + 14;
        let larger = |buffer: &mut gst::Buffer| {
            let (format, size, flags) = (VideoFormat::Gray8, (16, 4), VideoFrameFlags::empty());
            add(
                buffer,
                &Meta {
                    format,
                    size,
                    flags,
                    offset: &[2],
                    stride: &[20],
                },
            );
        };
        let mut from = buffer(bytes);
        larger(&mut from);
        let copy = readable(&from, &info).expect("it can be read");
        let mut to = gst::Buffer::from_mut_slice(vec![0; bytes]);
        larger(&mut to);
        write(to.make_mut(), &info, |plain| {
            assert!(plain.meta::<VideoMeta>().is_none());
            let copy = copy.map_readable()?;
            plain.map_writable()?.copy_from_slice(&copy);
            Ok(())
        })
        .expect("it can be written");
        let (from, to) = (
            from.map_readable().expect("memory"),
            to.map_readable().expect("memory"),
        );
        for line in 0..3 {
            assert_eq!(
                from[2 + 20 * line..][..14],
                to[2 + 20 * line..][..14],
                "line {line}"
            );
        }
        assert!(to[..2].iter().chain(&to[16..22]).all(|&byte| byte == 0));
    }
}
