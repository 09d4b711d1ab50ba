//! Buffers as their video meta lays them out.
//!
//! GStreamer takes a meta's word: it maps planes that end behind their memory, and goes through as many lines of chroma as an
//! interlaced picture has, whether they are there or not (drivers often lay out one less). Where such a mapping would leave
//! the memory, frames go through a copy that has the layout of the caps.

use std::borrow::Cow;

use gst_video::{VideoFormatFlags, VideoInfo, VideoMeta};
use osdd::frame::reserve;

use super::error::FrameError;
use super::planes::{self, PlaneSize, lines};

/// A plane, where it lies in a buffer.
struct Plane {
    offset: usize,
    stride: usize,
    lines: usize,
    row_bytes: usize,
}

impl Plane {
    /// Its samples of a line, where the memory has them.
    fn line(&self, line: usize) -> Option<std::ops::Range<usize>> {
        let start = line.checked_mul(self.stride)?.checked_add(self.offset)?;
        Some(start..start.checked_add(self.row_bytes)?)
    }
}

/// The meta that GStreamer maps by.
pub(super) fn meta(buffer: &gst::BufferRef) -> Option<gst::MetaRef<'_, VideoMeta>> {
    buffer.iter_meta::<VideoMeta>().min_by_key(|meta| meta.id())
}

/// Where the meta says that all planes with samples are, in order; others are `None`.
fn meta_planes(
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
        let Some(size) = PlaneSize::of(info, plane) else {
            return Ok(None);
        };
        let (&offset, &stride) = meta
            .offset()
            .get(plane as usize)
            .zip(meta.stride().get(plane as usize))
            .ok_or_else(|| glib::bool_error!("its video meta has no plane {plane}"))?;
        let row_bytes = row_bytes(info, plane, &size);
        let found = usize::try_from(stride)
            .ok()
            .filter(|&stride| stride >= row_bytes)
            .map(|stride| Plane {
                offset,
                stride,
                lines: size.rows,
                row_bytes,
            });
        let ends_at = |plane: &Plane| plane.line(plane.lines.saturating_sub(1)).map(|line| line.end);
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

fn row_bytes(info: &VideoInfo, plane: u32, size: &PlaneSize) -> usize {
    if info.format_info().flags().contains(VideoFormatFlags::COMPLEX) {
        // Several samples share their bytes, up to the end of the row.
        planes::stride(info.stride(), plane)
    } else {
        size.row_bytes
    }
}

/// Where `info` has them, with all lines that are gone through and that there is room for.
fn plain_planes(info: &VideoInfo) -> Vec<Option<Plane>> {
    let plane = |plane: u32| {
        PlaneSize::of(info, plane).map(|size| Plane {
            offset: info.offset()[plane as usize],
            stride: planes::stride(info.stride(), plane),
            lines: lines(info, plane).min(room(info, plane)),
            row_bytes: row_bytes(info, plane, &size),
        })
    };
    (0..info.n_planes()).map(plane).collect()
}

/// Copies the lines of all planes. A line of chroma that is not there is the one before it of the same field.
fn copy(from: &[u8], from_planes: &[Option<Plane>], to: &mut [u8], to_planes: &[Option<Plane>]) {
    let planes = from_planes.iter().flatten().zip(to_planes.iter().flatten());
    for (from_plane, to_plane) in planes {
        for line in 0..to_plane.lines {
            let there = if line < from_plane.lines {
                line
            } else {
                line.saturating_sub(2)
            };
            let from = from_plane.line(there).and_then(|line| from.get(line));
            let to = to_plane.line(line).and_then(|line| to.get_mut(line));
            if let Some((from, to)) = from.zip(to) {
                to.copy_from_slice(from);
            }
        }
    }
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
    end.saturating_sub(start) / planes::stride(info.stride(), plane)
}

/// Whether a frame laid out by `info` has all lines that GstVideoConverter goes through.
pub(crate) fn is_whole(info: &VideoInfo) -> bool {
    (0..info.n_planes()).all(|plane| lines(info, plane) <= room(info, plane))
}

/// So many bytes in the memory of `recycled`, whatever they are.
///
/// # Errors
///
/// Too little memory.
pub(crate) fn bytes(mut recycled: Vec<u8>, length: usize) -> osdd::Result<Vec<u8>> {
    reserve(&mut recycled, length)?;
    recycled.resize(length, 0);
    Ok(recycled)
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
        return fits(buffer, info).map(|()| Cow::Borrowed(buffer));
    };
    let planes = meta_planes(buffer, &meta, info)?;
    if is_sound(buffer, &meta, info, &planes) {
        return Ok(Cow::Borrowed(buffer));
    }
    let mut plain = bytes(Vec::new(), info.size())?;
    copy(&buffer.map_readable()?, &planes, &mut plain, &plain_planes(info));
    Ok(Cow::Owned(gst::Buffer::from_mut_slice(plain)))
}

/// Whether a buffer without a meta can be mapped as its caps say.
///
/// # Errors
///
/// It is smaller.
fn fits(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<(), FrameError> {
    match buffer.size() < info.size() {
        true => Err(glib::bool_error!(
            "a buffer of {} bytes, where {}x{} {} takes {}",
            buffer.size(),
            info.width(),
            info.height(),
            info.format(),
            info.size()
        )
        .into()),
        false => Ok(()),
    }
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
        None => {
            fits(buffer, info)?;
            return write(buffer);
        }
        Some(meta) => {
            let planes = meta_planes(buffer, &meta, info)?;
            (!is_sound(buffer, &meta, info, &planes)).then_some(planes)
        }
    };
    let Some(planes) = planes else {
        return write(buffer);
    };
    let mut plain = gst::Buffer::from_mut_slice(bytes(Vec::new(), info.size())?);
    let written = write(plain.make_mut())?;
    let (from, mut to) = (plain.map_readable()?, buffer.map_writable()?);
    copy(&from, &plain_planes(info), &mut to, &planes);
    drop((from, to));
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
