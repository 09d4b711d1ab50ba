//! Every format, at every size that is awkward, in both ranges: exact where the model is off, and without a shift of
//! colour where it changes nothing.

mod common;

use common::*;
use gst::prelude::*;

const SIZES: [(i32, i32); 5] = [(1, 1), (2, 2), (17, 13), (641, 359), (1921, 1081)];

/// Every format, and with BT.709 in full and in limited range where it can have both.
fn formats_and_ranges() -> Vec<gst::Caps> {
    let both = |format: String| {
        let plain = caps(&format, 4, 4);
        let ranged = |colorimetry: &str| {
            let mut caps = plain.clone();
            caps.make_mut().set("colorimetry", colorimetry);
            caps
        };
        match info(&plain).is_rgb() {
            true => vec![plain],
            false => vec![ranged("1:3:5:1"), ranged("2:3:5:1")],
        }
    };
    formats().into_iter().flat_map(both).collect()
}

/// Sends a frame of each kind through one element; `check` sees input and output.
fn for_each(
    element: &gst::Element,
    frame: fn(&gst_video::VideoInfo, u64) -> gst::Buffer,
    check: impl Fn(&gst::Caps, &gst::Buffer, &gst::Buffer),
) {
    element.set_property("depth", 1);
    let mut harness = harness(element);
    for (width, height) in SIZES {
        for (index, mut caps) in (0..).zip(formats_and_ranges()) {
            caps.make_mut().set("width", width);
            caps.make_mut().set("height", height);
            harness.set_src_caps(caps.clone());
            let input = frame(&info(&caps), index);
            harness.push(input.clone()).expect("a frame is taken");
            let output = harness.pull().expect("a frame");
            assert_eq!(input.pts(), output.pts(), "{caps}");
            check(&caps, &input, &output);
        }
    }
}

#[test]
fn strength_zero_is_exact() {
    let (element, _folder) = small_deblur();
    element.set_property("strength", 0.0);
    for_each(&element, noise, |caps, input, output| {
        assert!(bytes(input) == bytes(output), "{caps}");
    });
}

#[test]
fn what_the_model_hardly_changes_keeps_its_colours() {
    let (element, _folder) = small_deblur();
    element.set_property("tile-size", 512);
    element.set_property("strength", 1e-4);
    for_each(&element, smooth, |caps, input, output| {
        let info = info(caps);
        let difference = difference(input, output, &info);
        assert!(difference <= 1.0, "{caps}: {difference}/255");
    });
}
