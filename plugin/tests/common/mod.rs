//! What the element's tests share: the element with small tiles, frames with known content, and a record of
//! what leaves.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::sync::{Arc, Mutex, Once};

use gst::prelude::*;
use gst_check::Harness;

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer starts");
        // Frames are small and tests run beside each other: threads that wait for each other would take all the time.
        tch::set_num_threads(1);
        gstosdd::plugin_register_static().expect("the plugin registers");
    });
}

/// The configuration of [`write_model`].
pub fn small_config() -> osdd::config::ModelConfig {
    let json = include_str!("../../../tests/fixtures/small_model.json");
    osdd::config::ModelConfig::from_json(json, "small_model.json").expect("a configuration")
}

/// Writes a model with random weights, many times faster than nano.
pub fn write_model(folder: &std::path::Path, config: osdd::config::ModelConfig, seed: u64) {
    // Not as training starts, which is with an output of nothing.
    let random = |(name, shape): (String, Vec<i64>)| {
        let tensor = osdd::nn::Init::Normal(0.1).values(seed, &name, &shape);
        (name, tensor.expect("a tensor"))
    };
    let shapes = osdd::model::parameter_shapes(&config).expect("shapes");
    let weights = osdd::weights::Weights {
        base: shapes.into_iter().map(random).collect(),
        config,
        lora_r: None,
        lora_s: None,
    };
    weights.save(folder).expect("the model is written");
}

/// An element with the model of [`write_model`], and the folder that holds it.
pub fn small_deblur() -> (gst::Element, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path(), small_config(), 1);
    let element = deblur();
    element.set_property("model", folder.path().to_str().expect("UTF-8"));
    (element, folder)
}

/// An element whose tiles have the size of the tests' frames.
pub fn deblur() -> gst::Element {
    init();
    gst::ElementFactory::make("osdddeblur")
        .property("tile-size", 64)
        .property("tile-overlap", 16)
        .build()
        .expect("osdddeblur is registered")
}

pub fn harness(element: &gst::Element) -> Harness {
    Harness::with_element(element, Some("sink"), Some("src"))
}

pub fn caps(format: &str, width: i32, height: i32) -> gst::Caps {
    init();
    gst::Caps::builder("video/x-raw")
        .field("format", format)
        .field("width", width)
        .field("height", height)
        .field("framerate", gst::Fraction::new(25, 1))
        .build()
}

pub fn info(caps: &gst::Caps) -> gst_video::VideoInfo {
    gst_video::VideoInfo::from_caps(caps).expect("raw video caps")
}

/// The formats that the element's pads accept.
pub fn formats() -> Vec<String> {
    let template = deblur()
        .static_pad("sink")
        .expect("a sink pad")
        .pad_template_caps();
    let formats = template
        .structure(0)
        .expect("one structure")
        .get::<gst::List>("format")
        .expect("formats");
    formats
        .iter()
        .map(|format| format.get::<String>().expect("a name"))
        .collect()
}

/// Pushes until upstream is told what became of a frame, of which those on their way do not know yet.
pub fn refused(harness: &mut Harness, frame: impl Fn(u64) -> gst::Buffer) -> gst::FlowError {
    let pushed = (0..100).map(|index| harness.push(frame(index)));
    pushed.filter_map(Result::err).next().expect("an answer")
}

pub fn pts(index: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(40 * index)
}

fn stamp(mut buffer: gst::Buffer, index: u64) -> gst::Buffer {
    let writable = buffer.make_mut();
    writable.set_pts(pts(index));
    writable.set_duration(pts(1));
    writable.set_offset(index);
    writable.set_offset_end(index + 1);
    buffer
}

/// A frame of reproducible noise.
pub fn noise(info: &gst_video::VideoInfo, index: u64) -> gst::Buffer {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    stamp(
        gst::Buffer::from_mut_slice(data.take(info.size()).collect::<Vec<u8>>()),
        index,
    )
}

/// A frame of smooth colours that every matrix and range can hold.
pub fn smooth(info: &gst_video::VideoInfo, index: u64) -> gst::Buffer {
    let (width, height) = (info.width(), info.height());
    let colorimetry = gst_video::VideoColorimetry::new(
        gst_video::VideoColorRange::Range0_255,
        gst_video::VideoColorMatrix::Rgb,
        info.colorimetry().transfer(),
        info.colorimetry().primaries(),
    );
    let rgb = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgba64Le, width, height)
        .fps(info.fps())
        .colorimetry(&colorimetry)
        .build()
        .expect("RGB");
    let ramp = |at: u32, of: u32| (0x3000 + 0x9000 * at / of.max(2)) as u16;
    let data = (0..height)
        .flat_map(|y| {
            (0..width).map(move |x| [ramp(x, width), ramp(y, height), ramp(width - x, width), 0xffff])
        })
        .flatten()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<u8>>();
    let source =
        gst_video::VideoFrame::from_buffer_readable(gst::Buffer::from_slice(data), &rgb).expect("a frame");
    stamp(convert(&source, info), index)
}

fn config() -> gst_video::VideoConverterConfig {
    let mut config = gst_video::VideoConverterConfig::new();
    config.set_dither_method(gst_video::VideoDitherMethod::None);
    config
}

fn convert(
    source: &gst_video::VideoFrame<gst_video::video_frame::Readable>,
    info: &gst_video::VideoInfo,
) -> gst::Buffer {
    use gst_video::prelude::*;
    let converter = gst_video::VideoConverter::new(source.info(), info, Some(config())).expect("a converter");
    let target = gst::Buffer::with_size(info.size()).expect("memory");
    let mut target = gst_video::VideoFrame::from_buffer_writable(target, info).expect("a frame");
    converter.frame(source, &mut target);
    target.into_buffer()
}

/// The pixels of a buffer in 16 bits, alpha first: A Y U V or A R G B.
fn unpacked(buffer: &gst::Buffer, info: &gst_video::VideoInfo) -> Vec<[u16; 4]> {
    // In 16 bits also for 8: GstVideoConverter's fast path from YUY2 to AYUV reads beyond frames of odd
    // width.
    let format = if info.is_rgb() {
        gst_video::VideoFormat::Argb64
    } else {
        gst_video::VideoFormat::Ayuv64
    };
    let target = gst_video::VideoInfo::builder(format, info.width(), info.height())
        .fps(info.fps())
        .colorimetry(&info.colorimetry())
        .build()
        .expect("an unpacked format");
    let source = gst_video::VideoFrame::from_buffer_readable(buffer.clone(), info).expect("a frame");
    let buffer = convert(&source, &target);
    let map = buffer.map_readable().expect("mapped");
    map.chunks_exact(8)
        .map(|pixel| [0, 2, 4, 6].map(|at| u16::from_ne_bytes([pixel[at], pixel[at + 1]])))
        .collect()
}

/// One component of a buffer (0 to 3: Y U V A or R G B A), in 16 bits.
pub fn component(buffer: &gst::Buffer, info: &gst_video::VideoInfo, component: usize) -> Vec<u16> {
    let pixels = unpacked(buffer, info);
    pixels
        .into_iter()
        .map(|pixel| pixel[(component + 1) % 4])
        .collect()
}

/// The largest difference between two buffers in any component, in units of 1/255.
pub fn difference(a: &gst::Buffer, b: &gst::Buffer, info: &gst_video::VideoInfo) -> f64 {
    let (a, b) = (unpacked(a, info), unpacked(b, info));
    let samples = a.as_flattened().iter().zip(b.as_flattened());
    let worst = samples.map(|(a, b)| a.abs_diff(*b)).max();
    f64::from(worst.unwrap_or_default()) / 257.0
}

pub fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().expect("mapped").to_vec()
}

/// Everything that leaves the element from now on, in order, each as one word.
pub fn record(element: &gst::Element) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let src = element.static_pad("src").expect("a source pad");
    let seen = Arc::clone(&log);
    src.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, probe| {
            let line = match &probe.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    buffer.pts().map(|pts| (pts.mseconds() / 40).to_string())
                }
                Some(gst::PadProbeData::Event(event)) => Some(event.type_().name().to_string()),
                _ => None,
            };
            seen.lock().expect("the record").extend(line);
            gst::PadProbeReturn::Ok
        },
    );
    log
}

/// Plays a pipeline to its end and returns the errors that came instead. It fails rather than waits forever.
pub fn play(pipeline: &gst::Pipeline) -> Vec<glib::Error> {
    let bus = pipeline.bus().expect("a bus");
    let mut errors = Vec::new();
    if pipeline.set_state(gst::State::Playing).is_ok() {
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        match bus.timed_pop_filtered(gst::ClockTime::from_seconds(900), &wanted) {
            Some(message) if message.type_() == gst::MessageType::Eos => {}
            Some(message) => bus.post(message).expect("posted again"),
            None => panic!("the pipeline neither ends nor fails"),
        }
    }
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
        if let gst::MessageView::Error(error) = message.view() {
            errors.push(error.error());
        }
    }
    pipeline.set_state(gst::State::Null).expect("the pipeline stops");
    errors
}

/// A bus for an element without a pipeline.
pub fn bus_of(element: &gst::Element) -> gst::Bus {
    // Messages that nobody read hold pads, and GStreamer frees a bus that is replaced with the element locked.
    if let Some(old) = element.bus() {
        old.set_flushing(true);
    }
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    bus
}

/// The messages of a type that have come so far, others are thrown away.
pub fn messages(bus: &gst::Bus, kind: gst::MessageType) -> Vec<gst::Message> {
    std::iter::from_fn(|| bus.pop_filtered(&[kind])).collect()
}

/// The errors, or the warnings, among the messages that have come so far.
pub fn complaints(bus: &gst::Bus, kind: gst::MessageType) -> Vec<glib::Error> {
    let complaint = |message: gst::Message| match message.view() {
        gst::MessageView::Error(error) => error.error(),
        gst::MessageView::Warning(warning) => warning.error(),
        other => panic!("neither an error nor a warning: {other:?}"),
    };
    messages(bus, kind).into_iter().map(complaint).collect()
}

pub fn stat(element: &gst::Element, name: &str) -> u64 {
    element
        .property::<gst::Structure>("stats")
        .get(name)
        .expect("a count")
}

/// Memory of this process that is in use.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the process's memory");
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    4096 * pages.expect("a number of pages")
}
