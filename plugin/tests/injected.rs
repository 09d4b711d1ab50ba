//! Faults of libtorch in the middle of a stream, in the plugin as it was built: a device that is lost, a panic in the engine,
//! memory that runs out. Each is one error or none, frames before it come out, and the next start is clean.
//!
//! `injected/faults.cpp` makes them. It has to be there before libtorch is, so each test runs itself again in a process of its own.

mod common;

use std::ffi::{CStr, c_char, c_void};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

/// In the environment of the process that has `faults.cpp`.
const IN_CHILD: &str = "OSDD_TEST_INJECTED";

/// More calls than there are.
const FOREVER: u64 = u64::MAX;

/// As libtorch says it, with its C++ stack.
const LOST: &CStr = c"CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
Exception raised from c10_cuda_check_implementation at CUDAException.cpp:44 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string)";
const BROKEN: &CStr =
    c"The size of tensor a (8) must match the size of tensor b (7) at non-singleton dimension 3
Exception raised from infer_size_impl at ExpandUtils.cpp:31 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string)";
const NO_CPU_MEMORY: &CStr =
    c"DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes.";
const NO_GPU_MEMORY: &CStr = c"CUDA out of memory. Tried to allocate 2.00 GiB.";

/// Whether this is the process with faults. Where it is not, the test of this name runs, and passes, in one that is.
fn in_child(test: &str) -> bool {
    if std::env::var_os(IN_CHILD).is_some() {
        gst::init().expect("GStreamer starts");
        return true;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Without the ending that GStreamer takes for a plugin's.
    let faults = folder.path().join("faults");
    let compiled = Command::new("c++")
        .args(["-std=c++17", "-Wall", "-shared", "-fPIC", "-o"])
        .arg(&faults)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injected/faults.cpp"))
        .output();
    let Ok(compiled) = compiled else {
        println!("skipped: there is no C++ compiler");
        return false;
    };
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");

    let this = std::env::current_exe().expect("this test's file");
    let plugin = this.with_file_name("libgstosdd.so");
    symlink(plugin, folder.path().join("libgstosdd.so")).expect("a link");
    let output = Command::new(this)
        .args(["--exact", test, "--nocapture"])
        .env(IN_CHILD, "1")
        .env("LD_PRELOAD", &faults)
        .env("GST_PLUGIN_PATH", folder.path())
        .env("GST_REGISTRY", folder.path().join("registry.bin"))
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// A function in `faults.cpp`.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: looks a name up.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!address.is_null(), "faults.cpp is not in this process");
    address
}

/// From now on `times` calls of one of libtorch's functions throw `text`, after the next `after` of them.
fn inject(function: &CStr, after: u64, times: u64, text: &CStr) {
    type Inject = unsafe extern "C" fn(*const c_char, u64, u64, *const c_char);
    // SAFETY: the function has this type, and copies what it is given.
    unsafe {
        let inject = std::mem::transmute::<*mut c_void, Inject>(symbol(c"osdd_inject_fault"));
        inject(function.as_ptr(), after, times, text.as_ptr());
    }
}

/// From now on the system gives so many threads at a time beside those that there are.
fn limit_threads(more: i64) {
    // SAFETY: the function has this type.
    let limit = unsafe {
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn(i64)>(symbol(c"osdd_limit_threads"))
    };
    // SAFETY: it takes any number.
    unsafe { limit(more) };
}

/// Nothing throws any more.
fn mend() {
    inject(c"", 0, 0, c"");
}

/// Whether a message is the element's, not the source's, which says that it was refused, or the pipeline's.
fn is_deblurs(message: &gst::Message) -> bool {
    message.src().is_some_and(|src| src.name() == "deblur")
}

/// Number and bytes of each.
type Frames = Vec<(u64, Vec<u8>)>;

/// A pipeline of nine frames, and those that have come out.
struct Stream {
    pipeline: gst::Pipeline,
    deblur: gst::Element,
    frames: Arc<Mutex<Frames>>,
}

/// What came of playing.
struct Played {
    frames: Frames,
    /// The element's, each with its debug text.
    errors: Vec<(glib::Error, String)>,
    tiles_run: u64,
}

impl Stream {
    /// Frames of a size, through the element with these properties, to a sink with those.
    fn new((width, height): (u32, u32), properties: &str, sink: &str) -> Self {
        let description = format!(
            "videotestsrc num-buffers=9 pattern=ball \
             ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 \
             ! osdddeblur name=deblur {properties} ! fakesink name=sink {sink}"
        );
        let pipeline = gst::parse::launch(&description).expect("the launch line is understood");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&frames);
        let pad = pipeline.by_name("sink").and_then(|sink| sink.static_pad("sink"));
        let pad = pad.expect("a sink pad");
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
            let buffer = probe.buffer().expect("a buffer");
            let number = buffer.pts().expect("a timestamp").mseconds() / 40;
            seen.lock().expect("the frames").push((number, bytes(buffer)));
            gst::PadProbeReturn::Ok
        });
        let deblur = pipeline.by_name("deblur").expect("osdddeblur is in it");
        Stream {
            pipeline,
            deblur,
            frames,
        }
    }

    /// Injects a fault when the next frame comes to the element: the model has been loaded by then.
    fn inject_later(&self, function: &'static CStr, after: u64, times: u64, text: &'static CStr) {
        let pad = self.deblur.static_pad("sink").expect("a sink pad");
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            inject(function, after, times, text);
            gst::PadProbeReturn::Remove
        });
    }

    /// From NULL to PLAYING, until the stream ends or its source has learned of an error, and to NULL.
    fn play(&self) -> Played {
        self.frames.lock().expect("the frames").clear();
        let bus = self.pipeline.bus().expect("a bus");
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let mut messages = Vec::new();
        if self.pipeline.set_state(gst::State::Playing).is_ok() {
            while messages.last().is_none_or(is_deblurs) {
                let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(900), &wanted);
                messages.push(message.expect("the pipeline neither ends nor fails"));
            }
        }
        let tiles_run = stat(&self.deblur, "tiles-run");
        // When all threads have stopped, nothing more is said.
        self.pipeline.set_state(gst::State::Ready).expect("it stops");
        messages.extend(std::iter::from_fn(|| bus.pop_filtered(&wanted)));
        self.pipeline.set_state(gst::State::Null).expect("it stops");
        let errors = messages.iter().filter(|message| is_deblurs(message));
        let errors = errors.filter_map(|message| match message.view() {
            gst::MessageView::Error(error) => {
                Some((error.error(), error.debug().unwrap_or_default().to_string()))
            }
            _ => None,
        });
        Played {
            errors: errors.collect(),
            frames: std::mem::take(&mut *self.frames.lock().expect("the frames")),
            tiles_run,
        }
    }

    /// After NULL the element works as if nothing had been.
    fn check_works(&self) {
        let played = self.play();
        assert!(played.errors.is_empty(), "{:?}", played.errors);
        assert_eq!(played.numbers(), (0..9).collect::<Vec<_>>());
    }
}

impl Played {
    fn numbers(&self) -> Vec<u64> {
        self.frames.iter().map(|(number, _)| *number).collect()
    }

    /// The element's one error, and its debug text.
    fn error(&self) -> (&glib::Error, &str) {
        assert_eq!(self.errors.len(), 1, "{:?}", self.errors);
        let (error, debug) = &self.errors[0];
        (error, debug)
    }
}

#[test]
fn a_lost_device_is_one_error_at_each_start_until_it_is_back() {
    if !in_child("a_lost_device_is_one_error_at_each_start_until_it_is_back") {
        return;
    }
    let stream = Stream::new((64, 48), "depth=1", "");
    stream.inject_later(c"isfinite", 3, FOREVER, LOST);
    // In the middle of the stream, and where the model is loaded.
    for numbers in [&[0, 1, 2][..], &[]] {
        let played = stream.play();
        assert_eq!(played.numbers(), numbers);
        let (error, debug) = played.error();
        assert!(error.matches(gst::ResourceError::OpenReadWrite), "{error}");
        assert!(error.message().contains("cannot be used"), "{error}");
        assert!(debug.contains("device-side assert triggered"), "{debug}");
        assert!(!debug.contains("frame #0"), "{debug}");
    }
    mend();
    stream.check_works();
}

#[test]
fn a_panic_in_the_engine_is_one_error_and_the_next_start_is_clean() {
    if !in_child("a_panic_in_the_engine_is_one_error_and_the_next_start_is_clean") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_model(folder.path(), small_config(), 1);
    // On the threads of fused layers, and on the engine's own.
    for model in ["nano", folder.path().to_str().expect("UTF-8")] {
        let stream = Stream::new((64, 48), &format!("depth=1 model={model}"), "");
        stream.inject_later(c"sub", 3, 1, BROKEN);
        let played = stream.play();
        assert_eq!(played.numbers(), [0, 1, 2], "{model}");
        let (error, debug) = played.error();
        assert!(error.matches(gst::LibraryError::Failed), "{error}");
        assert!(error.message().contains("Deblurring stopped"), "{error}");
        assert!(debug.contains("The size of tensor a (8) must match"), "{debug}");
        stream.check_works();
    }
}

#[test]
fn what_libtorch_says_in_a_panic_is_told_without_its_stack() {
    if !in_child("what_libtorch_says_in_a_panic_is_told_without_its_stack") {
        return;
    }
    for text in [BROKEN, LOST] {
        let stream = Stream::new((64, 48), "depth=1", "");
        stream.inject_later(c"sub", 3, 1, text);
        let played = stream.play();
        let (error, debug) = played.error();
        let first = text.to_str().expect("UTF-8").lines().next().expect("a line");
        assert!(debug.contains(first), "{debug}");
        for told in [error.message(), debug] {
            assert!(!told.contains("frame #0"), "{told}");
            assert!(!told.contains("unwrap"), "{told}");
        }
    }
}

/// The engine is ahead of such a sink: frames are done and wait when it fails.
#[test]
fn frames_before_a_fault_come_out_also_where_the_sink_waits_for_the_clock() {
    if !in_child("frames_before_a_fault_come_out_also_where_the_sink_waits_for_the_clock") {
        return;
    }
    for depth in [1, 2, 3, 8] {
        let stream = Stream::new((64, 48), &format!("depth={depth}"), "sync=true");
        stream.inject_later(c"isfinite", 5, 1, LOST);
        let played = stream.play();
        assert_eq!(played.numbers(), [0, 1, 2, 3, 4], "depth {depth}");
        let (error, _) = played.error();
        assert!(
            error.matches(gst::ResourceError::OpenReadWrite),
            "depth {depth}: {error}"
        );
        stream.check_works();
    }
}

#[test]
fn memory_that_runs_out_once_costs_no_frame() {
    if !in_child("memory_that_runs_out_once_costs_no_frame") {
        return;
    }
    // The second is where tch panics.
    for (function, text) in [
        (c"isfinite", NO_CPU_MEMORY),
        (c"sub", NO_CPU_MEMORY),
        (c"isfinite", NO_GPU_MEMORY),
    ] {
        // Smaller tiles do.
        let stream = Stream::new((256, 192), "", "");
        stream.inject_later(function, 3, 1, text);
        let played = stream.play();
        assert!(played.errors.is_empty(), "{:?}", played.errors);
        assert_eq!(played.numbers(), (0..9).collect::<Vec<_>>());
        assert!(played.tiles_run > 9, "{} tiles", played.tiles_run);

        // There are none: the same once more.
        let stream = Stream::new((64, 48), "", "");
        let good = stream.play();
        stream.inject_later(function, 3, 1, text);
        let played = stream.play();
        assert!(played.errors.is_empty(), "{:?}", played.errors);
        assert!(played.frames == good.frames);
        assert_eq!(played.tiles_run, 9);
    }
}

#[test]
fn memory_that_stays_short_is_one_error_and_the_next_start_is_clean() {
    if !in_child("memory_that_stays_short_is_one_error_and_the_next_start_is_clean") {
        return;
    }
    for text in [NO_CPU_MEMORY, NO_GPU_MEMORY] {
        let stream = Stream::new((256, 192), "depth=1", "");
        stream.inject_later(c"isfinite", 3, FOREVER, text);
        // In the middle of the stream, and where the model is loaded.
        for numbers in [&[0, 1, 2][..], &[]] {
            let played = stream.play();
            assert_eq!(played.numbers(), numbers);
            let (error, _) = played.error();
            assert!(error.matches(gst::ResourceError::NoSpaceLeft), "{error}");
            assert!(error.message().contains("tile-size"), "{error}");
        }
        mend();
        stream.check_works();
    }
}

#[test]
fn where_there_are_no_more_threads_it_does_with_those_or_is_one_error() {
    if !in_child("where_there_are_no_more_threads_it_does_with_those_or_is_one_error") {
        return;
    }
    for more in 0..8 {
        let stream = Stream::new((64, 48), "", "");
        // The model has been loaded, and nothing is known of the frames yet.
        let pad = stream.deblur.static_pad("sink").expect("a sink pad");
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, probe| {
            let caps = probe
                .event()
                .is_some_and(|event| event.type_() == gst::EventType::Caps);
            if !caps {
                return gst::PadProbeReturn::Ok;
            }
            limit_threads(more);
            gst::PadProbeReturn::Remove
        });
        let played = stream.play();
        if more == 0 {
            let (error, _) = played.error();
            assert!(error.matches(gst::CoreError::Thread), "{error}");
            assert!(played.frames.is_empty());
        } else {
            assert!(played.errors.is_empty(), "{more} threads: {:?}", played.errors);
            assert_eq!(played.numbers(), (0..9).collect::<Vec<_>>(), "{more} threads");
        }
        limit_threads(i64::MAX / 2);
        stream.check_works();
    }
}
