//! What can be seen without a GPU. The operations are libtorch's, which give the same on a CPU; pipelines run over a driver that is
//! a fake (`tests/fakes/cuda_driver.c`), whose GPU's memory is the CPU's, in a process of their own.

mod pipelines;

use std::sync::Arc;

use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};
use osdd::engine::{Arriving, Picture as _};
use osdd::frame::Frame;
use tch::{Kind, Tensor};

use super::*;
use crate::deblur::convert::FrameConverter;

/// Whether this process has the fake driver.
pub(super) fn is_faked() -> bool {
    std::env::var_os(pipelines::FAKED).is_some()
}

const COLORIMETRIES: [&str; 5] = ["bt601", "bt709", "bt2020", "1:4:16:3", "2:4:5:1"];

/// All formats with all colorimetries that they can have, of a size.
fn infos(width: u32, height: u32) -> impl Iterator<Item = VideoInfo> {
    gst::init().expect("GStreamer starts");
    formats().flat_map(move |format| {
        let format = VideoFormat::from_string(format);
        let rgb = gst_video::VideoFormatInfo::from_format(format).is_rgb();
        let colorimetries = match rgb {
            true => &["sRGB"][..],
            false => &COLORIMETRIES[..],
        };
        colorimetries.iter().map(move |colorimetry| {
            let colorimetry = colorimetry.parse().expect("a colorimetry");
            let info = VideoInfo::builder(format, width, height).colorimetry(&colorimetry);
            info.build().expect("a format")
        })
    })
}

/// A picture with soft colours, brighter to the right by `slope`.
fn picture(info: &VideoInfo, slope: f64) -> gst::Buffer {
    let (width, height) = (info.width() as usize, info.height() as usize);
    let rgba = VideoInfo::builder(VideoFormat::Rgba, info.width(), info.height());
    let rgba = rgba.build().expect("a format");
    let mut pixels = vec![255; rgba.size()];
    for (at, pixel) in pixels.chunks_exact_mut(4).enumerate() {
        let (x, y) = (
            (at % width) as f64 / width as f64,
            (at / width) as f64 / height as f64,
        );
        for (colour, value) in [0.3 + slope * x, 0.5 + 0.2 * y, 0.6 - 0.2 * x * y]
            .into_iter()
            .enumerate()
        {
            pixel[colour] = (255.0 * value) as u8;
        }
    }
    let from = gst::Buffer::from_slice(pixels);
    let mut to = gst::Buffer::from_mut_slice(vec![0; info.size()]);
    {
        let converter = gst_video::VideoConverter::new(&rgba, info, None).expect("a converter");
        let from = VideoFrameRef::from_buffer_ref_readable(&from, &rgba).expect("a frame");
        let to = to.get_mut().expect("ours alone");
        let mut to = VideoFrameRef::from_buffer_ref_writable(to, info).expect("a frame");
        converter.frame_ref(&from, &mut to);
    }
    to
}

fn tensor(buffer: &gst::Buffer) -> Tensor {
    Tensor::from_slice(&buffer.map_readable().expect("mapped"))
}

/// As the converter has it, and as the engine has that.
fn on_cpu(converter: &FrameConverter, buffer: &gst::Buffer) -> (Frame, Option<Vec<u8>>, Tensor) {
    let read = converter.read_frame(buffer, [Vec::new(), Vec::new()]);
    let (frame, original) = read.expect("a frame");
    let rgb = frame.to_tensor(tch::Device::Cpu).expect("a tensor");
    (frame, original, rgb)
}

fn farthest(one: &Tensor, two: &Tensor) -> f64 {
    assert_eq!(one.size(), two.size());
    (one - two).abs().max().double_value(&[])
}

#[test]
fn colours_are_those_of_gstreamers_converter() {
    for (width, height) in [(64, 48), (17, 13), (2, 2), (1, 1)] {
        for info in infos(width, height) {
            let layout = Layout::of(&info).expect("a layout");
            let buffer = picture(&info, 0.3);
            let converter = FrameConverter::new(&info, &info).expect("a converter");
            let (.., expected) = on_cpu(&converter, &buffer);
            let rgb = layout.to_rgb(&tensor(&buffer)).expect("colours");
            assert_eq!(rgb.kind(), Kind::Float);
            assert!(rgb.permute([0, 2, 3, 1]).is_contiguous(), "channels-last");
            // In levels of 255. GStreamer interpolates and converts in the numbers that samples have, and rounds in between.
            let deep = info.comp_depth(0) > 8;
            let most = match (info.is_rgb(), deep, info.format_info().w_sub()[1] == 1) {
                (true, ..) => 1e-4,
                (false, true, _) => 0.5,
                (false, false, false) => 2.0,
                (false, false, true) => 4.0,
            };
            let farthest = 127.5 * farthest(&rgb, &expected);
            assert!(farthest <= most, "{info:?}: {farthest}");
        }
    }
}

#[test]
fn a_frame_that_the_model_leaves_alone_keeps_its_bits() {
    for info in infos(17, 13) {
        let layout = Arc::new(Layout::of(&info).expect("a layout"));
        // Of any bits, those without meaning too.
        let bytes: Vec<u8> = (0..info.size()).map(|at| (at * at * 31 % 251) as u8).collect();
        let memory = Tensor::from_slice(&bytes);
        let frame = CudaFrame::new(layout, memory.copy());
        let rgb = frame.to_tensor(tch::Device::Cpu).expect("colours");
        let same = frame
            .with_colours(&rgb, &rgb)
            .and_then(Arriving::arrive)
            .expect("a frame");
        assert_eq!(same.memory(), &memory, "{info:?}");
        assert_eq!(frame.memory(), &memory);
    }
}

#[test]
fn what_the_model_changes_comes_out_as_on_the_cpu() {
    for (width, height) in [(64, 48), (17, 13)] {
        for info in infos(width, height) {
            let (before, after) = (picture(&info, 0.3), picture(&info, 0.5));
            let mut converter = FrameConverter::new(&info, &info).expect("a converter");
            let (frame, original, _) = on_cpu(&converter, &before);
            let (changed, ..) = on_cpu(&converter, &after);
            let colours = changed.to_tensor(tch::Device::Cpu).expect("a tensor");
            let mut output = gst::Buffer::from_mut_slice(vec![0; info.size()]);
            let spare = converter.write_frame(changed, frame, original, output.make_mut());
            drop(spare.expect("an output"));

            let layout = Arc::new(Layout::of(&info).expect("a layout"));
            let frame = CudaFrame::new(layout.clone(), tensor(&before));
            let before = frame.to_tensor(tch::Device::Cpu).expect("colours");
            let frame = frame
                .with_colours(&colours, &before)
                .and_then(Arriving::arrive)
                .expect("a frame");
            for (colour, samples) in layout.samples().iter().enumerate() {
                let [ours, theirs] = [frame.memory(), &tensor(&output)]
                    .map(|memory| samples.numbers(memory).expect("numbers"));
                let farthest = farthest(&ours, &theirs);
                let most = 2.0 * samples.max() as f64 / 255.0;
                assert!(farthest <= most, "{info:?}: colour {colour}: {farthest}");
            }
        }
    }
}

#[test]
fn what_has_no_layout_stays_on_the_cpu() {
    gst::init().expect("GStreamer starts");
    let info = |format| VideoInfo::builder(format, 64, 48);
    for format in [VideoFormat::Gray8, VideoFormat::V210, VideoFormat::Y41b] {
        assert!(
            Layout::of(&info(format).build().expect("a format")).is_none(),
            "{format:?}"
        );
    }
    let woven = info(VideoFormat::I420).interlace_mode(gst_video::VideoInterlaceMode::Interleaved);
    assert!(Layout::of(&woven.build().expect("a format")).is_none());
}
