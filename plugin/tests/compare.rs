//! Input and output in one picture: side by side, or parted by a line that moves, with labels.

mod common;

use common::*;
use gst::prelude::*;
use gst_controller::prelude::*;

#[test]
fn side_by_side_doubles_the_width_and_can_be_switched_on_and_off() {
    let element = deblur();
    let (width, height) = (17, 13);
    let caps = caps("RGBA", width, height);
    let mut harness = harness(&element);
    let log = record(&element);
    harness.set_src_caps(caps.clone());
    let input = noise(&info(&caps), 0);
    for (index, compare) in ["off", "side-by-side", "side-by-side", "split", "off"]
        .into_iter()
        .enumerate()
    {
        element.set_property_from_str("compare", compare);
        // Both ways of a frame: through the engine, and past it. One that is under way would become the other.
        while index == 2 && stat(&element, "frames-out") < 2 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        element.set_property("strength", if index == 2 { 0.0 } else { 1.0 });
        let mut input = input.clone();
        input.make_mut().set_pts(pts(index as u64));
        harness.push(input).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    let outputs = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
    let plain = bytes(&input).len();
    let sizes = outputs.iter().map(|output| output.size()).collect::<Vec<_>>();
    assert_eq!(sizes, [plain, 2 * plain, 2 * plain, plain, plain]);
    let log = log.lock().expect("the record").clone();
    let log = log
        .iter()
        .filter(|line| !["stream-start", "segment"].contains(&line.as_str()))
        .collect::<Vec<_>>();
    assert_eq!(log, ["caps", "0", "caps", "1", "2", "caps", "3", "4", "eos"]);

    let stride = 4 * width as usize;
    for (output, input) in bytes(&outputs[1])
        .chunks(2 * stride)
        .zip(bytes(&input).chunks(stride))
    {
        assert_eq!(&output[..stride], input, "the input is on the left");
        assert_ne!(&output[stride..], input, "the output is on the right");
    }
    for (output, input) in bytes(&outputs[2])
        .chunks(2 * stride)
        .zip(bytes(&input).chunks(stride))
    {
        assert_eq!(
            output,
            [input, input].concat(),
            "with strength 0 both are the input"
        );
    }
}

/// Also where its colours are none that R'G'B' has.
#[test]
fn side_by_side_shows_the_input_to_the_bit_on_the_left() {
    for format in [
        "I420",
        "NV12",
        "YUY2",
        "Y444",
        "I420_10LE",
        "P010_10LE",
        "AYUV",
        "GRAY8",
    ] {
        let caps = caps(format, 64, 48);
        let narrow = info(&caps);
        let mut data = bytes(&noise(&narrow, 0));
        // Samples of ten bits.
        let words = data.chunks_exact_mut(2);
        match format {
            "I420_10LE" => words.for_each(|word| word[1] &= 0x03),
            "P010_10LE" => words.for_each(|word| word[0] &= 0xc0),
            _ => {}
        }
        let input = gst::Buffer::from_mut_slice(data);
        let after = compared(&caps, &input, &[]);
        let both = compared(
            &caps,
            &input,
            &[("compare", "side-by-side"), ("compare-labels", "false")],
        );
        let before = bytes(&input);
        let wide = info(&widened(&caps));
        for plane in 0..narrow.n_planes() as usize {
            let plane_of = |info: &gst_video::VideoInfo, data: &[u8]| {
                let end = info.offset().get(plane + 1).copied().unwrap_or(info.size());
                let rows = data[info.offset()[plane]..end].chunks(info.stride()[plane] as usize);
                rows.map(<[u8]>::to_vec).collect::<Vec<_>>()
            };
            let [before, after] = [&before, &after].map(|data| plane_of(&narrow, data));
            for ((both, before), after) in plane_of(&wide, &both).iter().zip(before).zip(after) {
                let (left, right) = both.split_at(before.len());
                assert_eq!(left, before, "{format} plane {plane}");
                // Colours of neighbouring pixels are mixed at the seam.
                assert_eq!(right[16..], after[16..], "{format} plane {plane}");
            }
        }
    }
}

/// Twice as wide.
fn widened(caps: &gst::Caps) -> gst::Caps {
    let mut wide = caps.clone();
    let width = info(caps).width() as i32;
    wide.make_mut().set("width", 2 * width);
    wide
}

#[test]
fn split_shows_the_input_to_the_bit_on_the_left() {
    for format in ["RGB", "Y444", "GRAY8"] {
        let element = deblur();
        element.set_property_from_str("compare", "split");
        let caps = caps(format, 64, 48);
        let info = info(&caps);
        let mut harness = harness(&element);
        harness.set_src_caps(caps);
        let input = noise(&info, 0);
        harness.push(input.clone()).expect("a frame is taken");
        assert!(harness.push_event(gst::event::Eos::new()));
        let output = harness.pull().expect("a frame");
        let half = 32 * usize::try_from(info.comp_pstride(0)).expect("positive");
        let stride = info.stride()[0] as usize;
        let mut changed = false;
        for (output, input) in bytes(&output).chunks(stride).zip(bytes(&input).chunks(stride)) {
            assert_eq!(output[..half], input[..half], "{format}");
            changed |= output[half + 3..] != input[half + 3..];
        }
        assert!(changed, "{format}: the output is on the right");
    }
}

/// One frame through an element of its own, with properties given as text.
fn compared(caps: &gst::Caps, input: &gst::Buffer, properties: &[(&str, &str)]) -> Vec<u8> {
    let (element, _folder) = small_deblur();
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    harness.push(input.clone()).expect("a frame is taken");
    assert!(harness.push_event(gst::event::Eos::new()));
    bytes(&harness.pull().expect("a frame"))
}

#[test]
fn the_line_moves_with_compare_position() {
    let caps = caps("RGBA", 64, 48);
    let input = noise(&info(&caps), 0);
    let before = bytes(&input);
    let after = compared(&caps, &input, &[]);
    let at = |position| {
        let properties = [
            ("compare", "split"),
            ("compare-position", position),
            ("compare-labels", "false"),
        ];
        compared(&caps, &input, &properties)
    };
    assert!(at("0") == after, "only the output");
    assert!(at("1") == before, "only the input");
    let parted = at("0.25");
    for ((parted, before), after) in parted.chunks(256).zip(before.chunks(256)).zip(after.chunks(256)) {
        assert_eq!(parted[..64], before[..64]);
        assert_eq!((&parted[64..67], &parted[68..71]), (&[255; 3][..], &[0; 3][..]));
        assert_eq!(parted[72..], after[72..]);
    }
}

#[test]
fn compare_position_can_be_moved_while_frames_flow() {
    let (element, _folder) = small_deblur();
    element.set_property("depth", 1);
    element.set_property_from_str("compare", "split");
    let caps = caps("GRAY8", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    let input = gst::Buffer::from_slice(vec![100; 64 * 48]);
    for column in [5, 40, 63] {
        element.set_property("compare-position", f64::from(column) / 64.0);
        harness.push(input.clone()).expect("a frame is taken");
        let row = bytes(&harness.pull().expect("a frame"))[..64].to_vec();
        assert_eq!(
            row.iter().position(|&value| value > 250),
            Some(column as usize),
            "{row:?}"
        );
    }
}

#[test]
fn labels_name_both_pictures_and_can_be_left_out() {
    let caps = caps("RGB", 100, 48);
    let input = gst::Buffer::from_slice(vec![100; info(&caps).size()]);
    for (compare, width) in [("split", 100), ("side-by-side", 200)] {
        let look = |labels| compared(&caps, &input, &[("compare", compare), ("compare-labels", labels)]);
        let (with, without) = (look("true"), look("false"));
        let stride = with.len() / 48;
        let changed = (0..width)
            .filter(|column| {
                (0..48).any(|y| with[y * stride + 3 * column] != without[y * stride + 3 * column])
            })
            .collect::<Vec<_>>();
        // 39 columns for BEFORE and 33 for AFTER, two from the edges.
        let expected = (2..41).chain(width - 35..width - 2).collect::<Vec<_>>();
        assert_eq!(changed, expected, "{compare}");
    }
}

/// The line belongs to the frame, not to the time when the model is done with it.
#[test]
fn an_automated_line_follows_the_frames() {
    let element = deblur();
    element.set_property_from_str("compare", "split");
    element.set_property("compare-labels", false);
    element.set_property("depth", 3);
    let control = gst_controller::InterpolationControlSource::new();
    control.set_mode(gst_controller::InterpolationMode::Linear);
    let values = control.upcast_ref::<gst_controller::TimedValueControlSource>();
    assert!(values.set(pts(0), 0.0) && values.set(pts(4), 1.0));
    let binding = gst_controller::DirectControlBinding::new(&element, "compare-position", &control);
    element.add_control_binding(&binding).expect("a binding");
    let caps = caps("RGB", 64, 48);
    let mut harness = harness(&element);
    harness.set_src_caps(caps.clone());
    let inputs = (0..5)
        .map(|index| smooth(&info(&caps), index))
        .collect::<Vec<_>>();
    for input in &inputs {
        harness.push(input.clone()).expect("a frame is taken");
    }
    assert!(harness.push_event(gst::event::Eos::new()));
    for (index, input) in inputs.iter().enumerate() {
        let output = harness.pull().expect("a frame");
        let line = index * 16;
        // The line itself is drawn, so a column beside it on either side.
        let same = |column: usize| {
            (0..48).all(|row| {
                let at = (row * 64 + column) * 3;
                bytes(input)[at..at + 3] == bytes(&output)[at..at + 3]
            })
        };
        assert!(
            line < 4 || same(line - 4),
            "frame {index}: the input left of {line}"
        );
        assert!(
            line > 60 || !same(line + 3),
            "frame {index}: the output right of {line}"
        );
    }
}

#[test]
fn where_a_wide_picture_is_not_taken_the_error_says_so() {
    init();
    let line = "videotestsrc ! video/x-raw,width=64,height=48 ! osdddeblur name=deblur \
        ! video/x-raw,width=64 ! fakesink";
    let pipeline = gst::parse::launch(line).expect("the launch line is understood");
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
    let bus = pipeline.bus().expect("a bus");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let (playing, ..) = pipeline.state(gst::ClockTime::from_seconds(60));
    playing.expect("frames flow");
    let deblur = pipeline.by_name("deblur").expect("osdddeblur is in it");
    deblur.set_property_from_str("compare", "side-by-side");
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]);
    let message = message.expect("an error");
    let gst::MessageView::Error(error) = message.view() else {
        panic!("only errors were asked for");
    };
    assert_eq!(message.src(), Some(deblur.upcast_ref()));
    assert!(error.error().matches(gst::CoreError::Negotiation), "{error:?}");
    assert!(error.error().message().contains("twice as wide"), "{error:?}");
    pipeline.set_state(gst::State::Null).expect("it stops");
}
