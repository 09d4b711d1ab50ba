//! Pipelines over CUDA memory.

use std::ffi::{CString, c_ulong, c_void};
use std::path::Path;
use std::process::Command;

use gst::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};

use super::super::*;
use crate::deblur::planes::{self, PlaneSize};

/// Set in a process that has the fake driver.
pub(super) const FAKED: &str = "OSDD_TEST_FAKE_CUDA";

const PLUGINS: [&str; 4] = ["coreelements", "app", "videotestsrc", "nvcodec"];

/// Runs the calling test once more in a process with the fake driver; there, `work`.
fn with_fake_driver(test: &str, work: fn()) {
    if super::is_faked() {
        gst::init().expect("GStreamer starts");
        crate::plugin_register_static().expect("the element");
        return work();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("libcuda.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/cuda_driver.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]);
    let compiled = compiler.arg(source).arg("-o").arg(&library).status();
    assert!(compiled.expect("a compiler").success());
    // The plugin wants one of the codec's libraries before it has any element.
    std::os::unix::fs::symlink(&library, folder.path().join("libnvcuvid.so.1")).expect("a link");
    let plugins = Command::new("pkg-config")
        .args(["--variable=pluginsdir", "gstreamer-1.0"])
        .output()
        .expect("pkg-config");
    let plugins = String::from_utf8(plugins.stdout).expect("a path");
    for plugin in PLUGINS {
        let name = format!("libgst{plugin}.so");
        let plugin = Path::new(plugins.trim()).join(&name);
        if !plugin.exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "{} is not installed",
                plugin.display()
            );
            eprintln!("left out: {} is not installed", plugin.display());
            return;
        }
        std::os::unix::fs::symlink(plugin, folder.path().join(name)).expect("a link");
    }
    let libraries = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            &format!("deblur::cuda::tests::pipelines::{test}"),
            "--nocapture",
        ])
        .env(FAKED, "1")
        .env(
            "LD_LIBRARY_PATH",
            format!("{}:{libraries}", folder.path().display()),
        )
        .env("GST_REGISTRY", folder.path().join("registry"))
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", folder.path())
        .env_remove("GST_PLUGIN_PATH")
        .env_remove("GST_PLUGIN_PATH_1_0")
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A function of the fake driver's.
fn fake<T: Copy>(name: &str) -> T {
    let name = CString::new(name).expect("a name");
    // SAFETY: the caller knows its type; the library is loaded and stays so.
    unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        let found = libc::dlsym(library, name.as_ptr());
        assert!(!found.is_null());
        std::mem::transmute_copy::<*mut c_void, T>(&found)
    }
}

/// Allocations on the GPU that there are.
fn allocations() -> u64 {
    // SAFETY: as the fake driver has it.
    unsafe { fake::<unsafe extern "C" fn() -> c_ulong>("fake_cuda_allocations")() }
}

/// Copies so far to the GPU, from it, and within it.
fn copies() -> [u64; 3] {
    let copies: unsafe extern "C" fn(i32, i32) -> c_ulong = fake("fake_cuda_copies");
    // SAFETY: as the fake driver has it.
    [(0, 1), (1, 0), (1, 1)].map(|(from, to)| unsafe { copies(from, to) })
}

struct Run {
    frames: Vec<gst::Sample>,
    copies: [u64; 3],
}

const FRAMES: usize = 4;

/// Frames of a pipeline that ends in `description`, and what was copied meanwhile.
fn run(format: &str, description: &str, prepare: impl FnOnce(&gst::Pipeline)) -> Run {
    let before = copies();
    let frames = play(format, description, prepare);
    let after = copies();
    Run {
        frames,
        copies: [0, 1, 2].map(|i| after[i] - before[i]),
    }
}

/// Frames of a pipeline that ends in `description`.
fn play(format: &str, description: &str, prepare: impl FnOnce(&gst::Pipeline)) -> Vec<gst::Sample> {
    let launch = format!(
        "videotestsrc num-buffers={FRAMES} pattern=smpte ! video/x-raw,format={format},width=64,height=48 ! \
         {description} ! appsink name=sink sync=false"
    );
    let pipeline = gst::parse::launch(&launch).expect("a pipeline");
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
    prepare(&pipeline);
    let sink = pipeline.by_name("sink").expect("a sink");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let mut frames = Vec::new();
    let bus = pipeline.bus().expect("a bus");
    while !sink.property::<bool>("eos") {
        let second = gst::ClockTime::SECOND.nseconds();
        frames.extend(sink.emit_by_name::<Option<gst::Sample>>("try-pull-sample", &[&second]));
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            panic!("{launch}: {message:?}");
        }
    }
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert_eq!(frames.len(), FRAMES, "{launch}");
    frames
}

/// How far samples of two frames are apart at most, in levels of 255.
fn farthest(one: &gst::Sample, two: &gst::Sample) -> f64 {
    let info = VideoInfo::from_caps(two.caps().expect("caps")).expect("raw video");
    let [one, two] = [one, two].map(|sample| sample.buffer().expect("a buffer"));
    assert_eq!((one.pts(), one.duration()), (two.pts(), two.duration()));
    let frame = |buffer| VideoFrameRef::from_buffer_ref_readable(buffer, &info).expect("a frame");
    let (one, two) = (frame(one), frame(two));
    let (depth, shift) = (info.comp_depth(0), info.format_info().shift()[0]);
    let scale = 255.0 / f64::from((1_u32 << depth) - 1);
    let samples = |row: &[u8]| -> Vec<f64> {
        let wide = row.as_chunks::<2>().0.iter();
        match depth {
            8 => row.iter().map(|&sample| f64::from(sample)).collect(),
            _ => wide
                .map(|&sample| scale * f64::from(u16::from_le_bytes(sample) >> shift))
                .collect(),
        }
    };
    let mut most = 0.0_f64;
    for plane in 0..info.n_planes() {
        let size = PlaneSize::of(&info, plane).expect("a plane");
        let [one, two] = [&one, &two].map(|frame| planes::rows(frame, plane, &size).expect("rows"));
        for (one, two) in one.zip(two) {
            let apart = samples(one)
                .into_iter()
                .zip(samples(two))
                .map(|(one, two)| (one - two).abs());
            most = apart.fold(most, f64::max);
        }
    }
    most
}

#[test]
fn frames_stay_on_the_gpu() {
    with_fake_driver("frames_stay_on_the_gpu", || {
        for format in formats() {
            let planes = u64::from(
                gst_video::VideoFormatInfo::from_format(gst_video::VideoFormat::from_string(format))
                    .n_planes(),
            );
            let frames = FRAMES as u64;
            let there = run(
                format,
                "cudaupload ! osdddeblur ! video/x-raw(memory:CUDAMemory)",
                |_| (),
            );
            // Up once, into the element's memory and out of it, and never down.
            assert_eq!(
                there.copies,
                [frames * planes, 0, 2 * frames * planes],
                "{format}"
            );
            assert!(
                there
                    .frames
                    .iter()
                    .all(|frame| is_cuda(frame.caps().expect("caps")))
            );
            let here = run(format, "osdddeblur", |_| ());
            let unchanged = run(format, "identity", |_| ());
            for (at, there) in there.frames.iter().enumerate() {
                let apart = farthest(there, &here.frames[at]);
                assert!(apart <= 3.0, "{format}: {apart} levels from what the CPU makes");
                assert!(
                    farthest(&unchanged.frames[at], &here.frames[at]) > 3.0,
                    "{format}: nothing to see"
                );
            }
        }
        assert_eq!(allocations(), 0);
    });
}

#[test]
fn frames_that_pass_are_not_touched() {
    with_fake_driver("frames_that_pass_are_not_touched", || {
        for format in ["NV12", "P010_10LE", "RGBA"] {
            let passed = run(
                format,
                "cudaupload ! osdddeblur strength=0 ! video/x-raw(memory:CUDAMemory)",
                |_| (),
            );
            assert_eq!(passed.copies[1..], [0, 0], "{format}");
            let unchanged = run(format, "identity", |_| ());
            for (passed, unchanged) in passed.frames.iter().zip(&unchanged.frames) {
                assert_eq!(farthest(passed, unchanged), 0.0, "{format}");
            }
        }
        assert_eq!(allocations(), 0);
    });
}

/// A context of GStreamer's that is not the primary one, for elements.
fn another_context() -> gst::Context {
    let gpu = Gpu::of(Device::Cuda(0)).expect("a GPU");
    // SAFETY: the library is there; what it makes is ours.
    unsafe {
        let library = libloading::Library::new("libgstcuda-1.0.so.0").expect("the library");
        let new: libloading::Symbol<unsafe extern "C" fn(u32) -> *mut gst::ffi::GstObject> =
            library.get(b"gst_cuda_context_new\0").expect("a function");
        let context = gst::Object::from_glib_full(new(0));
        gst::Context::from_glib_full((gpu.libraries.gst.context_for_elements)(context.as_ptr()))
    }
}

/// Late frames and those of `strength=0` wait for what is under way.
#[test]
fn frames_that_pass_behind_others_are_copied_within_the_gpu() {
    with_fake_driver("frames_that_pass_behind_others_are_copied_within_the_gpu", || {
        let description = "cudaupload ! osdddeblur name=deblur ! video/x-raw(memory:CUDAMemory)";
        let passed = run("NV12", description, |pipeline| {
            let deblur = pipeline.by_name("deblur").expect("an element");
            let pad = deblur.static_pad("sink").expect("a pad");
            let seen = std::sync::atomic::AtomicUsize::new(0);
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                    deblur.set_property("strength", 0.0);
                }
                gst::PadProbeReturn::Ok
            });
        });
        assert_eq!(passed.copies[1], 0);
        let unchanged = run("NV12", "identity", |_| ());
        for (passed, unchanged) in passed.frames.iter().zip(&unchanged.frames).skip(1) {
            assert_eq!(farthest(passed, unchanged), 0.0);
        }
        drop((passed, unchanged));
        assert_eq!(allocations(), 0);
    });
}

#[test]
fn buffers_that_are_too_small_are_an_error() {
    with_fake_driver("buffers_that_are_too_small_are_an_error", || {
        let gpu = Gpu::of(Device::Cuda(0)).expect("a GPU");
        let info = |width, height| {
            let info = VideoInfo::builder(gst_video::VideoFormat::Nv12, width, height);
            info.build().expect("a format")
        };
        let buffer = |info: &VideoInfo| {
            let (pool, _) = gpu.pool(&info.to_caps().expect("caps"), (0, 0)).expect("a pool");
            pool.set_active(true).expect("it starts");
            let buffer = pool.acquire_buffer(None).expect("a buffer");
            pool.set_active(false).expect("it stops");
            buffer
        };
        let (small, large) = (info(64, 48), info(320, 240));
        let read = |info: &VideoInfo, buffer: &gst::BufferRef| {
            let layout = std::sync::Arc::new(Layout::of(info).expect("a layout"));
            let mut frame = gpu.new_frame(&layout).expect("memory");
            assert!(gpu.has(buffer));
            gpu.read(buffer, &mut frame)
        };
        // Larger than it has to be is allowed: the rest is padding.
        read(&small, &buffer(&large)).expect("read");
        assert!(read(&large, &buffer(&small)).is_err());
        // Without a meta its planes are where the caps have them.
        let mut plain = gst::Buffer::new();
        plain
            .make_mut()
            .append_memory(buffer(&small).peek_memory(0).to_owned());
        assert!(read(&large, &plain).is_err());
        let (pool, _) = gpu.pool(&small.to_caps().expect("caps"), (0, 0)).expect("a pool");
        assert!(gpu.is_pool(&pool));
    });
}

#[test]
fn frames_of_another_context_go_through_the_cpu() {
    with_fake_driver("frames_of_another_context_go_through_the_cpu", || {
        let description = "cudaupload name=upload ! osdddeblur ! video/x-raw(memory:CUDAMemory)";
        let there = run("NV12", description, |pipeline| {
            pipeline
                .by_name("upload")
                .expect("an element")
                .set_context(&another_context());
        });
        assert!(there.copies[1] > 0, "nothing came down");
        let here = run("NV12", "osdddeblur", |_| ());
        for (there, here) in there.frames.iter().zip(&here.frames) {
            assert_eq!(farthest(there, here), 0.0);
        }
    });
}

#[test]
fn pictures_are_compared_on_the_cpu() {
    with_fake_driver("pictures_are_compared_on_the_cpu", || {
        for compare in ["split", "side-by-side"] {
            let description = format!("osdddeblur compare={compare}");
            let there = format!("cudaupload ! {description} ! video/x-raw(memory:CUDAMemory)");
            let (there, here) = (run("NV12", &there, |_| ()), run("NV12", &description, |_| ()));
            for (there, here) in there.frames.iter().zip(&here.frames) {
                assert_eq!(farthest(there, here), 0.0, "{compare}");
            }
        }
    });
}

#[test]
fn frames_come_back_from_the_gpu_where_nobody_else_has_one() {
    with_fake_driver("frames_come_back_from_the_gpu_where_nobody_else_has_one", || {
        // Downstream has no pool of the GPU's memory, and then one of its own.
        for sink in ["identity", "cudadownload"] {
            let there = run(
                "I420",
                &format!("cudaupload ! video/x-raw(memory:CUDAMemory) ! osdddeblur ! {sink}"),
                |_| (),
            );
            let here = run("I420", "osdddeblur", |_| ());
            for (there, here) in there.frames.iter().zip(&here.frames) {
                assert!(farthest(there, here) <= 3.0, "{sink}");
            }
        }
        assert_eq!(allocations(), 0);
    });
}

#[test]
fn a_gpu_that_copies_no_more_is_one_error() {
    with_fake_driver("a_gpu_that_copies_no_more_is_one_error", || {
        let lose: unsafe extern "C" fn(i32) = fake("fake_cuda_lose_device");
        let launch = "videotestsrc num-buffers=4 ! video/x-raw,format=NV12,width=64,height=48 ! cudaupload ! \
                      video/x-raw(memory:CUDAMemory) ! osdddeblur name=deblur ! fakesink";
        let pipeline = gst::parse::launch(launch).expect("a pipeline");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let deblur = pipeline.by_name("deblur").expect("an element");
        let bus = pipeline.bus().expect("a bus");
        let sink_pad = deblur.static_pad("sink").expect("a pad");
        sink_pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // SAFETY: as the fake driver has it.
            unsafe { lose(1) };
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).expect("it plays");
        let minute = gst::ClockTime::from_seconds(60);
        let first = bus
            .timed_pop_filtered(minute, &[gst::MessageType::Error])
            .expect("an error");
        assert_eq!(first.src(), Some(deblur.upcast_ref()));
        let gst::MessageView::Error(error) = first.view() else {
            panic!("{first:?}");
        };
        assert!(
            error.error().matches(gst::ResourceError::OpenReadWrite),
            "{error:?}"
        );
        // SAFETY: as above.
        unsafe { lose(0) };
        pipeline.set_state(gst::State::Null).expect("it stops");
        let own = bus
            .iter()
            .filter(|message| message.src() == Some(deblur.upcast_ref()));
        assert!(
            !own.into_iter()
                .any(|message| message.type_() == gst::MessageType::Error)
        );
        assert_eq!(allocations(), 0);
    });
}

#[test]
fn without_a_gpu_its_memory_is_not_offered() {
    if super::is_faked() {
        return;
    }
    gst::init().expect("GStreamer starts");
    let element: crate::OsddDeblur = glib::Object::builder().property("device", "cpu").build();
    for state in [gst::State::Null, gst::State::Paused] {
        element.set_state(state).expect("another state");
        for pad in [element.static_pad("sink"), element.static_pad("src")] {
            let caps = pad.expect("a pad").query_caps(None);
            assert!(!caps.is_empty());
            assert!(
                caps.iter_with_features()
                    .all(|(_, features)| !features.contains(FEATURE)),
                "{state:?}: {caps}"
            );
        }
    }
    element.set_state(gst::State::Null).expect("it stops");
}

#[test]
fn frames_stay_on_a_gpu_that_is_there() {
    gst::init().expect("GStreamer starts");
    let there = osdd::device::resolve(Device::Cuda(0)).is_ok() && Gpu::of(Device::Cuda(0)).is_some();
    if !there || gst::ElementFactory::find("cudaupload").is_none() {
        eprintln!("left out: there is no GPU, or GStreamer has no elements for it");
        return;
    }
    crate::plugin_register_static().expect("the element");
    for format in formats() {
        let there = "cudaupload ! osdddeblur device=cuda ! video/x-raw(memory:CUDAMemory)";
        let there = play(format, there, |_| ());
        let here = play(format, "osdddeblur device=cuda", |_| ());
        for (there, here) in there.iter().zip(&here) {
            let apart = farthest(there, here);
            assert!(
                apart <= 3.0,
                "{format}: {apart} levels from what comes by way of the CPU"
            );
        }
    }
}
