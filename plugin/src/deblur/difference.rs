//! The model's change, in the samples of the pads' format, added to the frame that came in.
//!
//! R'G'B' and back is not free: GstVideoConverter rounds, filters 4:2:0 chroma twice and clips colours that
//! R'G'B' does not have, which alone costs a clip 30 to 50 dB PSNR. So YUV output is not `C(model)` with C
//! the conversion from R'G'B', but `input + C(model) - C(before the model)`: where the model changes nothing,
//! the input's bits come out.

use gst_video::{VideoFormatFlags, VideoFrameExt, VideoFrameRef, VideoInfo};

use super::planes::{self, PlaneSize};

/// How the samples of a format lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Samples {
    U8,
    /// Native endian, with the largest value that a sample has.
    U16 {
        max: u16,
    },
}

impl Samples {
    /// `None` where no difference is needed, for R'G'B', or where samples are not whole bytes, as in v210.
    pub fn of(info: &VideoInfo) -> Option<Self> {
        let format = info.format_info();
        if info.is_rgb() || format.flags().contains(VideoFormatFlags::COMPLEX) {
            return None;
        }
        let (depth, shift) = (*format.depth().first()?, *format.shift().first()?);
        if format.depth().iter().any(|&other| other != depth) {
            return None;
        }
        let little = format.flags().contains(VideoFormatFlags::LE);
        match depth {
            8 => Some(Self::U8),
            9..=16 if cfg!(target_endian = "little") || !little => Some(Self::U16 {
                max: (((1_u32 << depth) - 1) << shift) as u16,
            }),
            _ => None,
        }
    }
}

/// Whether `output` holds the samples of `original` once, or twice side by side: with 4:2:0 and an odd width, the samples of two
/// pictures would share one.
pub(crate) fn fits(original: &VideoInfo, output: &VideoInfo) -> bool {
    let times = output.width() / original.width().max(1);
    (0..original.n_components() as u8)
        .all(|component| original.comp_width(component) * times == output.comp_width(component))
}

/// `output = original + output - before`, sample by sample and clamped to what the format holds. `original` may be narrower
/// and is then repeated, see [`fits`].
pub(crate) fn add(
    samples: Samples,
    output: &mut VideoFrameRef<&mut gst::BufferRef>,
    original: &VideoFrameRef<&gst::BufferRef>,
    before: &VideoFrameRef<&gst::BufferRef>,
) -> Result<(), glib::BoolError> {
    for plane in 0..original.n_planes() {
        let sizes = (
            PlaneSize::of(original.info(), plane),
            PlaneSize::of(before.info(), plane),
        );
        let (Some(narrow), Some(wide)) = sizes else {
            continue;
        };
        let rows = planes::rows_mut(output, plane, &wide)?
            .zip(planes::rows(original, plane, &narrow)?)
            .zip(planes::rows(before, plane, &wide)?);
        for ((output, original), before) in rows {
            let pictures = output
                .chunks_mut(narrow.row_bytes)
                .zip(before.chunks(narrow.row_bytes));
            for (output, before) in pictures {
                match samples {
                    Samples::U8 => add_u8(output, original, before),
                    Samples::U16 { max } => add_u16(output, original, before, max),
                }
            }
        }
    }
    Ok(())
}

fn add_u8(output: &mut [u8], original: &[u8], before: &[u8]) {
    for ((output, &original), &before) in output.iter_mut().zip(original).zip(before) {
        *output = (i16::from(original) + i16::from(*output) - i16::from(before)).clamp(0, 255) as u8;
    }
}

fn add_u16(output: &mut [u8], original: &[u8], before: &[u8], max: u16) {
    let sample = |bytes: &[u8]| i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    let rows = output
        .chunks_exact_mut(2)
        .zip(original.chunks_exact(2))
        .zip(before.chunks_exact(2));
    for ((output, original), before) in rows {
        let value = (sample(original) + sample(output) - sample(before)).clamp(0, i32::from(max));
        output.copy_from_slice(&(value as u16).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::VideoFormat;

    fn info(format: VideoFormat, width: u32, height: u32) -> VideoInfo {
        gst::init().expect("GStreamer starts");
        VideoInfo::builder(format, width, height)
            .build()
            .expect("a format")
    }

    #[test]
    fn samples_follow_the_format() {
        let samples = |format| Samples::of(&info(format, 64, 48));
        assert_eq!(samples(VideoFormat::I420), Some(Samples::U8));
        assert_eq!(samples(VideoFormat::Yuy2), Some(Samples::U8));
        assert_eq!(samples(VideoFormat::Gray8), Some(Samples::U8));
        assert_eq!(samples(VideoFormat::I42010le), Some(Samples::U16 { max: 1023 }));
        assert_eq!(
            samples(VideoFormat::P01010le),
            Some(Samples::U16 { max: 1023 << 6 })
        );
        assert_eq!(samples(VideoFormat::Gray16Le), Some(Samples::U16 { max: 65535 }));
        assert_eq!(samples(VideoFormat::V210), None);
        assert_eq!(samples(VideoFormat::Rgb), None);
    }

    #[test]
    fn pictures_side_by_side_must_not_share_samples() {
        let fit = |format, width| fits(&info(format, width, 8), &info(format, 2 * width, 8));
        assert!(fit(VideoFormat::I420, 16) && fit(VideoFormat::Yuy2, 18) && fit(VideoFormat::Y444, 17));
        assert!(!fit(VideoFormat::I420, 17) && !fit(VideoFormat::Nv12, 1));
        let one = info(VideoFormat::I420, 17, 8);
        assert!(fits(&one, &one));
    }

    #[test]
    fn sums_are_clamped() {
        let mut bytes = [10, 250, 5, 7];
        add_u8(&mut bytes, &[100, 100, 3, 7], &[20, 50, 9, 7]);
        assert_eq!(bytes, [90, 255, 0, 7]);

        let words = |values: [u16; 3]| values.map(u16::to_ne_bytes).concat();
        let mut output = words([500, 900, 0]);
        add_u16(&mut output, &words([100, 500, 20]), &words([400, 100, 30]), 1023);
        assert_eq!(output, words([200, 1023, 0]));
    }
}
