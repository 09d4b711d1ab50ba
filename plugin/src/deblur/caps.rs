//! What the pads accept, and how the width changes when input and output are shown side by side.

use glib::prelude::*;
use once_cell::sync::Lazy;

use super::cuda;

/// What GstVideoConverter can turn into the engine's frames and back; the common ones first, for sources that
/// can choose.
#[rustfmt::skip]
const FORMATS: [&str; 61] = [
    "I420", "NV12", "YV12", "NV21", "Y41B", "Y42B", "NV16", "NV61", "YUY2", "YVYU", "UYVY", "VYUY", "Y444", "NV24", "v308",
    "RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "GBR", "GRAY8",
    "RGBA", "BGRA", "ARGB", "ABGR", "AYUV", "VUYA", "A420", "GBRA",
    "P010_10LE", "I420_10LE", "I422_10LE", "Y444_10LE", "GBR_10LE", "NV12_10LE32", "v210", "Y410", "RGB10A2_LE", "BGR10A2_LE",
    "P012_LE", "I420_12LE", "I422_12LE", "Y444_12LE", "GBR_12LE", "Y412_LE", "P016_LE", "Y444_16LE", "GRAY16_LE",
    "A420_10LE", "A422_10LE", "A444_10LE", "GBRA_10LE", "GBRA_12LE", "AYUV64", "ARGB64", "ARGB64_LE", "RGBA64_LE",
    "BGRA64_LE", "ABGR64_LE",
];

/// `video/x-raw` in system memory, and in a GPU's. There is no frame rate here, or caps without one could not pass.
pub(crate) static TEMPLATE: Lazy<gst::Caps> = Lazy::new(|| {
    let of = |formats: gst::List| {
        gst::Structure::builder("video/x-raw")
            .field("format", formats)
            .field("width", gst::IntRange::new(1, i32::MAX))
            .field("height", gst::IntRange::new(1, i32::MAX))
            .build()
    };
    gst::Caps::builder_full()
        .structure(of(gst::List::new(FORMATS)))
        .structure_with_features(
            of(gst::List::new(cuda::formats())),
            gst::CapsFeatures::new([cuda::FEATURE]),
        )
        .build()
});

/// The caps that are not of a GPU's memory.
pub(crate) fn without_cuda(caps: &gst::CapsRef) -> gst::Caps {
    let kept = caps
        .iter_with_features()
        .filter(|(_, features)| !features.contains(cuda::FEATURE));
    let mut rest = gst::Caps::builder_full();
    for (structure, features) in kept {
        rest = rest.structure_with_features(structure.to_owned(), features.to_owned());
    }
    rest.build()
}

/// Why frames of these caps cannot be taken, `wide` where input and output are to be side by side.
pub(crate) fn refusal(
    caps: &gst::Caps,
    info: &gst_video::VideoInfo,
    wide: bool,
) -> Option<gst::ErrorMessage> {
    use gst_video::VideoMultiviewMode::{
        Checkerboard, ColumnInterleaved, RowInterleaved, Separated, SideBySide, SideBySideQuincunx, TopBottom,
    };

    match (info.interlace_mode(), info.multiview_mode()) {
        (gst_video::VideoInterlaceMode::Fields, _) => Some(gst::error_msg!(
            gst::StreamError::Format,
            ("Video with its fields apart is not supported. Put \"deinterlace\" before osdddeblur."),
            ["caps {caps}"]
        )),
        (_, Separated) if info.views() > 1 => Some(gst::error_msg!(
            gst::StreamError::Format,
            ("Video with its views apart is not supported. Deblur each view by an element of its own."),
            ["caps {caps}"]
        )),
        (
            _,
            SideBySide | SideBySideQuincunx | ColumnInterleaved | RowInterleaved | TopBottom | Checkerboard,
        ) if wide => Some(gst::error_msg!(
            gst::StreamError::Format,
            ("Stereo video side by side with its input would be four pictures. Set \"compare\" to split."),
            ["caps {caps}"]
        )),
        _ => None,
    }
}

/// Caps of the other pad when the source pad's frames are twice as wide as the sink pad's.
pub(crate) fn side_by_side(direction: gst::PadDirection, caps: &gst::Caps) -> gst::Caps {
    let mut other = gst::Caps::new_empty();
    for (structure, features) in caps.iter_with_features() {
        let mut structure = structure.to_owned();
        match structure.value("width").ok().map(|width| scale(direction, width)) {
            None => {}
            Some(Some(width)) => structure.set_value("width", width),
            Some(None) => continue,
        }
        if let Some(caps) = other.get_mut() {
            caps.append_structure_full(structure, Some(features.to_owned()));
        }
    }
    other
}

/// A width, or a set of widths, as the other pad has it; `None` where the other pad cannot have any.
fn scale(direction: gst::PadDirection, width: &glib::Value) -> Option<glib::SendValue> {
    let scaled = |width: i32| match direction {
        gst::PadDirection::Sink => width.checked_mul(2),
        _ => (width > 1 && width % 2 == 0).then_some(width / 2),
    };
    if let Ok(width) = width.get::<i32>() {
        return scaled(width).map(|width| width.to_send_value());
    }
    if let Ok(range) = width.get::<gst::IntRange<i32>>() {
        return scale_range(direction, range);
    }
    let widths = width.get::<gst::List>().ok()?;
    let widths = widths
        .iter()
        .filter_map(|width| scale(direction, width))
        .collect::<Vec<_>>();
    (!widths.is_empty()).then(|| gst::List::from_values(widths).to_send_value())
}

/// As [`scale`]. The values of a range are multiples of its step.
fn scale_range(direction: gst::PadDirection, range: gst::IntRange<i32>) -> Option<glib::SendValue> {
    let (min, max) = (range.min().max(1), range.max());
    let (min, max, step) = match direction {
        gst::PadDirection::Sink => {
            let max = max.min(i32::MAX / 2);
            (
                min.checked_mul(2)?,
                (max - max % range.step()) * 2,
                range.step().checked_mul(2)?,
            )
        }
        _ => {
            // The even ones of them, halved.
            let step = match range.step() % 2 {
                0 => range.step() / 2,
                _ => range.step(),
            };
            let first = min.div_euclid(2 * step) + i32::from(min % (2 * step) > 0);
            (first.checked_mul(step)?, max / 2 - max / 2 % step, step)
        }
    };
    match min.cmp(&max) {
        std::cmp::Ordering::Less => Some(gst::IntRange::with_step(min, max, step).to_send_value()),
        std::cmp::Ordering::Equal => Some(min.to_send_value()),
        std::cmp::Ordering::Greater => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::PadDirection::{Sink, Src};

    fn check(direction: gst::PadDirection, from: &str, to: &str) {
        gst::init().expect("GStreamer starts");
        let parse = |width: &str| match width {
            "" => gst::Caps::new_empty(),
            width => format!("video/x-raw, height=48, width={width}")
                .parse::<gst::Caps>()
                .expect("caps"),
        };
        assert_eq!(side_by_side(direction, &parse(from)), parse(to), "width {from}");
    }

    #[test]
    fn widths_double_towards_the_source_pad() {
        check(Sink, "(int)17", "(int)34");
        check(Sink, "(int)[1, 2147483647]", "(int)[2, 2147483646, 2]");
        check(Sink, "(int)[30, 1050, 30]", "(int)[60, 2100, 60]");
        check(Sink, "(int){ 3, 8 }", "(int){ 6, 16 }");
        check(Sink, "(int)2147483647", "");
    }

    #[test]
    fn widths_halve_towards_the_sink_pad() {
        check(Src, "(int)34", "(int)17");
        check(Src, "(int)33", "");
        check(Src, "(int)1", "");
        check(Src, "(int)[1, 2147483647]", "(int)[1, 1073741823]");
        check(Src, "(int)[5, 6]", "(int)3");
        check(Src, "(int)[30, 1050, 30]", "(int)[15, 525, 15]");
        check(Src, "(int)[15, 1050, 15]", "(int)[15, 525, 15]");
        check(Src, "(int)[15, 45, 15]", "(int)15");
        check(Src, "(int){ 1, 3 }", "");
        check(Src, "(int){ 3, 8, 10 }", "(int){ 4, 5 }");
    }

    #[test]
    fn caps_without_width_stay() {
        gst::init().expect("GStreamer starts");
        let any = gst::Caps::builder("video/x-raw").build();
        assert_eq!(side_by_side(Sink, &any), any);
    }
}
