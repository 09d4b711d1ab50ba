//! Every format in, the same format out: bits, alpha, colours and sizes kept.

mod common;

use common::*;
use gst::prelude::*;
use gst_video::prelude::VideoBufferExt;

const SIZES: [(i32, i32); 4] = [(64, 48), (17, 13), (2, 2), (1, 1)];

/// So little of the model that what is left is the way to R'G'B' and back.
const NEARLY_OFF: f64 = 1e-4;

/// Sends frames through one element, one caps event before each.
fn through(element: &gst::Element, frames: Vec<(gst::Caps, gst::Buffer)>) -> Vec<(gst::Caps, gst::Buffer)> {
    let mut harness = harness(element);
    let count = frames.len();
    for (caps, buffer) in frames {
        harness.set_src_caps(caps);
        harness.push(buffer).expect("the element takes the frame");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    assert_eq!(harness.buffers_received() as usize, count);
    // The caps that went with each buffer, in the order of the pad.
    let caps = std::iter::from_fn(|| harness.try_pull_event())
        .filter_map(|event| match event.view() {
            gst::EventView::Caps(caps) => Some(caps.caps_owned()),
            _ => None,
        })
        .collect::<Vec<_>>();
    assert_eq!(caps.len(), count, "one caps event per frame");
    caps.into_iter()
        .zip((0..count).map(|_| harness.pull().expect("a frame")))
        .collect()
}

fn all_formats_and_sizes(
    frame: fn(&gst_video::VideoInfo, u64) -> gst::Buffer,
) -> Vec<(gst::Caps, gst::Buffer)> {
    formats()
        .iter()
        .flat_map(|format| SIZES.map(|(width, height)| caps(format, width, height)))
        .enumerate()
        .map(|(index, caps)| {
            let buffer = frame(&info(&caps), index as u64);
            (caps, buffer)
        })
        .collect()
}

#[test]
fn strength_zero_is_exact_in_every_format_and_size() {
    let element = deblur();
    element.set_property("strength", 0.0);
    let frames = all_formats_and_sizes(noise);
    let outputs = through(&element, frames.clone());
    for ((caps, input), (out_caps, output)) in frames.iter().zip(&outputs) {
        assert_eq!(caps, out_caps);
        assert_eq!(bytes(input), bytes(output), "{caps}");
    }
}

#[test]
fn every_format_and_size_comes_out_as_it_went_in() {
    let frames = all_formats_and_sizes(noise);
    let outputs = through(&deblur(), frames.clone());
    for ((caps, input), (out_caps, output)) in frames.iter().zip(&outputs) {
        assert_eq!(caps, out_caps);
        assert_eq!(input.size(), output.size(), "{caps}");
        assert_eq!(input.pts(), output.pts(), "{caps}");
    }
}

#[test]
fn colours_survive_the_way_to_rgb_and_back() {
    let element = deblur();
    element.set_property("strength", NEARLY_OFF);
    let frames = all_formats_and_sizes(smooth);
    let outputs = through(&element, frames.clone());
    for ((caps, input), (_, output)) in frames.iter().zip(&outputs) {
        let difference = difference(input, output, &info(caps));
        assert!(difference <= 1.0, "{caps}: {difference}/255");
    }
}

#[test]
fn colorimetry_is_honoured() {
    let element = deblur();
    element.set_property("strength", NEARLY_OFF);
    let frames = [
        "bt601", "bt709", "bt2020", "1:4:16:3", "1:3:5:1", "2:4:7:1", "2:0:0:0", "1:1:5:1",
    ]
    .into_iter()
    .flat_map(|colorimetry| ["Y444", "I420", "P010_10LE"].map(|format| (colorimetry, format)))
    .enumerate()
    .map(|(index, (colorimetry, format))| {
        let mut caps = caps(format, 64, 48);
        caps.make_mut().set("colorimetry", colorimetry);
        // Where the matrix is unknown or not one of YUV, any picture will do that has such colours.
        let known = match colorimetry {
            "2:0:0:0" | "1:1:5:1" => info(&common::caps(format, 64, 48)),
            _ => info(&caps),
        };
        let buffer = smooth(&known, index as u64);
        (caps, buffer)
    })
    .collect::<Vec<_>>();
    let outputs = through(&element, frames.clone());
    for ((caps, input), (out_caps, output)) in frames.iter().zip(&outputs) {
        assert_eq!(caps, out_caps);
        let plain = caps
            .structure(0)
            .and_then(|s| s.get::<&str>("format").ok())
            .expect("a format");
        let difference = difference(input, output, &info(&common::caps(plain, 64, 48)));
        assert!(difference <= 1.0, "{caps}: {difference}/255");
    }
}

#[test]
fn alpha_is_kept_to_the_bit() {
    let formats = [
        "RGBA",
        "BGRA",
        "ARGB",
        "ABGR",
        "AYUV",
        "A420",
        "GBRA",
        "RGBA64_LE",
        "ARGB64",
        "AYUV64",
    ];
    let frames = formats
        .iter()
        .enumerate()
        .map(|(index, format)| {
            let caps = caps(format, 33, 21);
            let buffer = noise(&info(&caps), index as u64);
            (caps, buffer)
        })
        .collect::<Vec<_>>();
    let outputs = through(&deblur(), frames.clone());
    for ((caps, input), (_, output)) in frames.iter().zip(&outputs) {
        let info = info(caps);
        assert_eq!(component(input, &info, 3), component(output, &info, 3), "{caps}");
    }
}

#[test]
fn ten_bits_are_not_thrown_away() {
    for format in ["I420_10LE", "P010_10LE"] {
        let caps = caps(format, 64, 48);
        let info = info(&caps);
        let shift = if format == "P010_10LE" { 6 } else { 0 };
        let mut buffer = noise(&info, 0);
        {
            let mut map = buffer.make_mut().map_writable().expect("mapped");
            for (index, sample) in map.chunks_exact_mut(2).enumerate() {
                let value = if index < 64 * 48 {
                    64 + (index as u16 * 2 / 7).min(876)
                } else {
                    512
                };
                sample.copy_from_slice(&(value << shift).to_le_bytes());
            }
        }
        let element = deblur();
        element.set_property("strength", NEARLY_OFF);
        let outputs = through(&element, vec![(caps, buffer)]);
        let levels = component(&outputs[0].1, &info, 0)
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>();
        assert!(levels.len() > 800, "{format}: {} levels", levels.len());
    }
}

#[test]
fn grey_stays_grey_under_any_colorimetry() {
    let element = deblur();
    element.set_property("strength", NEARLY_OFF);
    let frames = [None, Some("sRGB"), Some("bt709"), Some("1:4:0:0")]
        .into_iter()
        .flat_map(|colorimetry| ["GRAY8", "GRAY16_LE"].map(|format| (colorimetry, format)))
        .enumerate()
        .map(|(index, (colorimetry, format))| {
            let mut caps = caps(format, 64, 48);
            if let Some(colorimetry) = colorimetry {
                caps.make_mut().set("colorimetry", colorimetry);
            }
            let mut buffer = noise(&info(&caps), index as u64);
            let step = if format == "GRAY8" { 1 } else { 2 };
            for (at, sample) in buffer
                .make_mut()
                .map_writable()
                .expect("mapped")
                .chunks_exact_mut(step)
                .enumerate()
            {
                sample.fill((16 + at % 64 * 3) as u8);
            }
            (caps, buffer)
        })
        .collect::<Vec<_>>();
    let outputs = through(&element, frames.clone());
    for ((caps, input), (out_caps, output)) in frames.iter().zip(&outputs) {
        assert_eq!(caps, out_caps);
        let step = if info(caps).comp_depth(0) > 8 { 2 } else { 1 };
        let top = |buffer: &gst::Buffer| {
            bytes(buffer)
                .into_iter()
                .skip(step - 1)
                .step_by(step)
                .collect::<Vec<_>>()
        };
        let worst = top(input)
            .iter()
            .zip(top(output))
            .map(|(a, b)| a.abs_diff(b))
            .max();
        assert!(worst <= Some(1), "{caps}: {worst:?}");
    }
}

/// A frame whose rows are longer than they need to be, as decoders make them.
fn padded(plain: &gst::Buffer, info: &gst_video::VideoInfo) -> gst::Buffer {
    let mut offset = 24;
    let mut offsets = Vec::new();
    let strides = info.stride().iter().map(|stride| stride + 16).collect::<Vec<_>>();
    let ends = info.offset()[1..].iter().copied().chain([info.size()]);
    for (plane, (end, stride)) in ends.zip(&strides).enumerate() {
        offsets.push(offset);
        let rows = (end - info.offset()[plane]) / info.stride()[plane] as usize;
        offset += *stride as usize * rows;
    }
    let mut buffer = gst::Buffer::from_mut_slice(vec![0xa5; offset]);
    let writable = buffer.make_mut();
    gst_video::VideoMeta::add_full(
        writable,
        gst_video::VideoFrameFlags::empty(),
        info.format(),
        info.width(),
        info.height(),
        &offsets,
        &strides,
    )
    .expect("a video meta");
    {
        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(plain, info).expect("a frame");
        let mut to =
            gst_video::VideoFrameRef::from_buffer_ref_writable(writable, info).expect("a padded frame");
        from.copy(&mut to).expect("copied");
    }
    buffer.make_mut().set_pts(plain.pts());
    buffer
}

#[test]
fn padded_rows_are_read_by_their_stride() {
    let frames = formats().into_iter().map(|format| {
        let caps = caps(&format, 34, 22);
        let plain = smooth(&info(&caps), 0);
        (caps, plain)
    });
    let frames = frames.collect::<Vec<_>>();
    let padded = frames
        .iter()
        .map(|(caps, plain)| (caps.clone(), padded(plain, &info(caps))));
    let padded = padded.collect::<Vec<_>>();
    for strength in [0.0, 1.0] {
        let outputs = |frames: &[(gst::Caps, gst::Buffer)]| {
            let element = deblur();
            element.set_property("strength", strength);
            through(&element, frames.to_vec())
        };
        // The harness downstream does not announce GstVideoMeta, so what arrives must be plain.
        for ((caps, expected), (_, output)) in outputs(&frames).iter().zip(outputs(&padded)) {
            assert_eq!(expected.size(), output.size(), "{caps}, strength {strength}");
            let difference = difference(expected, &output, &info(caps));
            assert_eq!(difference, 0.0, "{caps}, strength {strength}");
        }
    }
}

/// As a camera or a decoder hands its memory over: a descriptor of a file that is mapped when somebody reads it.
fn as_dmabuf(plain: &gst::Buffer) -> gst::Buffer {
    use std::io::Write;
    use std::os::fd::FromRawFd;

    use gst_allocators::prelude::*;

    // SAFETY: the name ends with a zero, and the descriptor is nobody else's.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"frame".as_ptr(), 0);
        assert!(descriptor >= 0);
        std::fs::File::from_raw_fd(descriptor)
    };
    file.write_all(&bytes(plain)).expect("written");
    let allocator = gst_allocators::DmaBufAllocator::new();
    // SAFETY: the file is as long as the memory says.
    let memory = unsafe { allocator.alloc_dmabuf(file, plain.size()) }.expect("memory");
    let mut buffer = gst::Buffer::new();
    {
        let writable = buffer.make_mut();
        writable.append_memory(memory);
        plain
            .copy_into(writable, gst::BufferCopyFlags::TIMESTAMPS, ..)
            .expect("copied");
    }
    buffer
}

#[test]
fn dmabufs_are_read_like_any_memory() {
    for strength in [1.0, 0.0] {
        let caps = caps("NV12", 64, 48);
        let plain = smooth(&info(&caps), 0);
        let restored = |frame: gst::Buffer| {
            let element = deblur();
            element.set_property("strength", strength);
            bytes(&through(&element, vec![(caps.clone(), frame)])[0].1)
        };
        assert_eq!(
            restored(as_dmabuf(&plain)),
            restored(plain),
            "strength {strength}"
        );
    }
}

#[test]
fn caps_without_frame_rate_or_with_a_variable_one_pass() {
    for framerate in [None, Some(gst::Fraction::new(0, 1))] {
        let mut caps = caps("I420", 64, 48);
        caps.make_mut()
            .structure_mut(0)
            .expect("a structure")
            .remove_field("framerate");
        if let Some(framerate) = framerate {
            caps.make_mut().set("framerate", framerate);
        }
        let buffer = noise(&info(&caps), 0);
        let outputs = through(&deblur(), vec![(caps.clone(), buffer)]);
        assert_eq!(outputs[0].0, caps);
    }
}

/// The model must not mix lines of two moments: what changes in one field must not show in the other.
#[test]
fn interlaced_frames_are_processed_field_by_field() {
    for (mode, flags, apart) in [
        ("interleaved", gst_video::VideoBufferFlags::empty(), true),
        ("mixed", gst_video::VideoBufferFlags::INTERLACED, true),
        ("mixed", gst_video::VideoBufferFlags::empty(), false),
    ] {
        let mut caps = caps("GRAY8", 64, 48);
        caps.make_mut().set("interlace-mode", mode);
        let comb = |shift: usize| {
            let mut buffer = noise(&info(&caps), 0);
            for (line, row) in buffer
                .make_mut()
                .map_writable()
                .expect("mapped")
                .chunks_exact_mut(64)
                .enumerate()
            {
                // One field is flat; in the other an edge moves with `shift`.
                let edge = |at: usize| if at < 20 + shift { 40 } else { 200 };
                (0..64).for_each(|at| row[at] = if line % 2 == 0 { 120 } else { edge(at) });
            }
            buffer.make_mut().set_video_flags(flags);
            buffer
        };
        let outputs =
            [comb(0), comb(20)].map(|buffer| through(&deblur(), vec![(caps.clone(), buffer)]).remove(0).1);
        let flat = |buffer: &gst::Buffer| {
            bytes(buffer)
                .chunks(64)
                .step_by(2)
                .flat_map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        };
        // Far as they lie from each other for the model, one may tip the rounding of the other.
        let [one, two] = [0, 1].map(|i| flat(&outputs[i]));
        let most = one.iter().zip(two).map(|(one, two)| one.abs_diff(two)).max();
        assert_eq!(
            most <= Some(1),
            apart,
            "{mode} {flags:?}: one field shows in the other by {most:?}"
        );
        assert_eq!(outputs[0].video_flags(), flags, "{mode}");
    }
}
