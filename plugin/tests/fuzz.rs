//! Caps, sizes and buffers at random: whatever comes, the element answers with frames, a refusal or an error, without a panic on
//! any thread, and the next stream is fine. `PROPTEST_CASES` sets the number of cases.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use gst::prelude::*;
use proptest::prelude::*;

/// What a camera, a broken demuxer or an application may say about a stream.
#[derive(Clone, Debug)]
struct Stream {
    format: usize,
    size: (i32, i32),
    framerate: Option<(i32, i32)>,
    colorimetry: Option<String>,
    interlace_mode: Option<&'static str>,
    /// Bytes more or less than the caps say.
    wrong_bytes: i64,
    /// What a video meta says beside the truth: the first line and the distance of lines of every plane, and fields.
    layout: Option<(i64, i32, bool)>,
    compare: &'static str,
    strength: f64,
}

fn colorimetry() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        (0..4, 0..8, 0..17, 0..12).prop_map(|(range, matrix, transfer, primaries)| {
            Some(format!("{range}:{matrix}:{transfer}:{primaries}"))
        }),
        "[a-z0-9:]{0,8}".prop_map(Some),
    ]
}

prop_compose! {
    fn stream()(
        format in 0..formats().len(),
        size in prop_oneof![(1..70, 1..70), (1..4, 1..300), (1..300, 1..4)],
        framerate in proptest::option::of((0..i32::MAX, 1..i32::MAX)),
        colorimetry in colorimetry(),
        interlace_mode in proptest::option::of(prop_oneof![
            Just("progressive"),
            Just("interleaved"),
            Just("mixed"),
            Just("fields"),
            Just("alternate"),
        ]),
        wrong_bytes in prop_oneof![8 => Just(0), 1 => -64_i64..64, 1 => -100_000_i64..0],
        layout in prop_oneof![
            6 => Just(None),
            1 => any::<bool>().prop_map(|fields| Some((0, 0, fields))),
            1 => (-100_i64..100, -100..100, any::<bool>()).prop_map(Some),
            1 => any::<(i64, i32, bool)>().prop_map(Some),
        ],
        compare in prop_oneof![Just("off"), Just("split"), Just("side-by-side")],
        strength in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0],
    ) -> Stream {
        Stream { format, size, framerate, colorimetry, interlace_mode, wrong_bytes, layout, compare, strength }
    }
}

fn caps_of(stream: &Stream) -> gst::Caps {
    let (width, height) = stream.size;
    let mut caps = caps(&formats()[stream.format], width, height);
    let structure = caps.make_mut().structure_mut(0).expect("a structure");
    structure.remove_field("framerate");
    if let Some((numerator, denominator)) = stream.framerate {
        structure.set("framerate", gst::Fraction::new(numerator, denominator));
    }
    if let Some(colorimetry) = &stream.colorimetry {
        structure.set("colorimetry", colorimetry);
    }
    if let Some(mode) = stream.interlace_mode {
        structure.set("interlace-mode", mode);
    }
    structure.set("x-unknown", "kept");
    caps
}

fn frame_of(stream: &Stream, info: &gst_video::VideoInfo) -> gst::Buffer {
    let size = usize::try_from(info.size() as i64 + stream.wrong_bytes).unwrap_or_default();
    let mut buffer = gst::Buffer::from_mut_slice(vec![99; size]);
    if let Some((offset, stride, fields)) = stream.layout {
        let offsets = info
            .offset()
            .iter()
            .map(|&start| start.wrapping_add_signed(offset as isize));
        let strides = info
            .stride()
            .iter()
            .map(|&distance| distance.wrapping_add(stride));
        gst_video::VideoMeta::add_full(
            buffer.make_mut(),
            match fields {
                true => gst_video::VideoFrameFlags::INTERLACED,
                false => gst_video::VideoFrameFlags::empty(),
            },
            info.format(),
            info.width(),
            info.height(),
            &offsets.collect::<Vec<_>>(),
            &strides.collect::<Vec<_>>(),
        )
        .expect("a meta");
    }
    buffer
}

/// Two frames of a stream; whether all was well.
fn play_stream(element: &gst::Element, stream: &Stream) -> bool {
    let caps = caps_of(stream);
    element.set_property_from_str("compare", stream.compare);
    element.set_property("strength", stream.strength);
    let mut harness = harness(element);
    harness.set_src_caps(caps.clone());
    let Ok(info) = gst_video::VideoInfo::from_caps(&caps) else {
        return false;
    };
    let fine = (0..2).all(|_| harness.push(frame_of(stream, &info)).is_ok());
    let ended = harness.push_event(gst::event::Eos::new());
    let frames = std::iter::from_fn(|| harness.try_pull()).count();
    assert!(!fine || !ended || frames == 2, "{frames} frames of {stream:?}");
    if fine {
        let out = harness
            .sinkpad()
            .and_then(|pad| pad.current_caps())
            .expect("caps");
        let unknown = out.structure(0).and_then(|s| s.get::<&str>("x-unknown").ok());
        assert_eq!(unknown, Some("kept"), "{out}");
    }
    fine
}

#[test]
fn any_stream_is_answered_and_the_next_is_fine() {
    let (element, _folder) = small_deblur();
    let good = Stream {
        format: 0,
        size: (40, 30),
        framerate: None,
        colorimetry: None,
        interlace_mode: None,
        wrong_bytes: 0,
        layout: None,
        compare: "off",
        strength: 1.0,
    };
    let bus = bus_of(&element);
    let mut config = ProptestConfig::with_cases(100);
    if let Some(cases) = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
    {
        config.cases = cases;
    }
    config.failure_persistence = None;
    let panics = Arc::new(AtomicU64::new(0));
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new({
        let panics = panics.clone();
        move |panic| {
            panics.fetch_add(1, Ordering::SeqCst);
            report(panic);
        }
    }));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&stream(), |stream| {
        let fine = play_stream(&element, &stream);
        let errors = complaints(&bus, gst::MessageType::Error);
        prop_assert!(errors.len() <= 1, "{errors:?}");
        prop_assert!(!fine || errors.is_empty(), "{errors:?}");
        element.set_state(gst::State::Null).expect("it stops");
        prop_assert!(play_stream(&element, &good), "after {stream:?}");
        prop_assert_eq!(panics.load(Ordering::SeqCst), 0);
        // Messages that stay on the bus would hold the harness's pads.
        prop_assert!(complaints(&bus, gst::MessageType::Error).is_empty());
        element.set_state(gst::State::Null).expect("it stops");
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
