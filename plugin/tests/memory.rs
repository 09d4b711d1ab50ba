//! Memory that runs out in the middle of a stream: smaller tiles while those do, else an error that says so, and a clean start
//! once there is some again.
//!
//! The limit is the process's, so this is alone in its file.

mod common;

use common::*;
use gst::prelude::*;

fn limit_address_space(bytes: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read and write the struct that they are given.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
    }
}

fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the process's memory");
    let pages = statm
        .split_whitespace()
        .next()
        .and_then(|pages| pages.parse::<u64>().ok());
    4096 * pages.expect("a number of pages")
}

#[test]
fn too_little_memory_makes_tiles_smaller_and_then_is_one_error() {
    // In libtorch, where it panics: the whole frame as one tile of a model with wide layers.
    let folder = tempfile::tempdir().expect("a temporary folder");
    init();
    let mut config = small_config();
    config.vae.block_out_channels = vec![64, 8];
    config.vae.patch_size = 1;
    write_model(folder.path(), config, 1);
    let element = deblur();
    element.set_property("model", folder.path().to_str().expect("UTF-8"));
    element.set_property("tile-size", 0);
    element.set_property("depth", 1);
    let bus = bus_of(&element);
    let small = caps("RGB", 64, 48);
    {
        let mut harness = harness(&element);
        harness.set_src_caps(small.clone());
        harness.push(noise(&info(&small), 0)).expect("a frame is taken");
        assert!(harness.pull().is_ok());

        // 12 MB and, in float32, 50 MB; the model's first layer makes a gigabyte of it.
        let large = caps("RGB", 2048, 2048);
        let frame = || gst::Buffer::from_mut_slice(vec![50; info(&large).size()]);
        harness.set_src_caps(large.clone());
        limit_address_space(address_space() + (500 << 20));
        harness.push(frame()).expect("a frame is taken");
        let pulled = harness.pull();
        limit_address_space(u64::MAX);
        pulled.expect("smaller tiles do");
        assert!(complaints(&bus, gst::MessageType::Error).is_empty());

        // Too little for the frame itself, as numbers.
        harness.set_src_caps(small.clone());
        harness.push(noise(&info(&small), 0)).expect("a frame is taken");
        assert!(harness.pull().is_ok());
        harness.set_src_caps(large.clone());
        let frame = frame();
        limit_address_space(address_space() + (90 << 20));
        let pushed = harness.push(frame.clone());
        let error = bus.timed_pop_filtered(gst::ClockTime::from_seconds(300), &[gst::MessageType::Error]);
        limit_address_space(u64::MAX);
        bus.post(error.expect("an error")).expect("posted again");
        // By now or with the next frame.
        let refused = pushed.and_then(|_| harness.push(frame));
        assert_eq!(refused, Err(gst::FlowError::Error));
    }
    let errors = complaints(&bus, gst::MessageType::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].matches(gst::ResourceError::NoSpaceLeft),
        "{}",
        errors[0]
    );
    assert!(errors[0].message().contains("tile-size"), "{}", errors[0]);

    element.set_state(gst::State::Null).expect("it stops");
    let mut harness = harness(&element);
    harness.set_src_caps(small.clone());
    harness.push(noise(&info(&small), 1)).expect("a frame is taken");
    assert!(harness.pull().is_ok());
}
