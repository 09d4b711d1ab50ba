//! What an engine does to the process it runs in: libtorch's threads and memory. One test, because that is shared.

use osdd::device::Device;
use osdd::engine::{Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};
use tch::{Kind, Tensor};

/// Restores one frame with a new engine.
fn restore(tile_size: usize, width: usize, height: usize) -> Engine {
    let config = EngineConfig {
        device: Device::Cpu,
        tile_size: Some(tile_size),
        tile_overlap: Some(0),
        ..EngineConfig::default()
    };
    let engine = Engine::new(config).unwrap();
    engine.send(Frame::new(width, height, PixelFormat::Rgb8)).unwrap();
    engine.receive().unwrap();
    engine
}

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4 / 1024
}

#[test]
fn an_engine_shares_the_process_with_others() {
    // Of libtorch's own allocator, and freed under ours: oneDNN's tensors ask for the allocator only then.
    let early = Tensor::ones([1, 64, 32, 32], (Kind::Float, tch::Device::Cpu)).to_mkldnn();

    // Threads that use libtorch for the first time start with what was set for the process.
    let fresh = || std::thread::spawn(tch::get_num_threads).join().unwrap();
    tch::set_num_threads(3);
    assert_eq!(fresh(), 3);
    for tile_size in [64, 0] {
        let engine = restore(tile_size, 128, 64);
        assert_eq!(fresh(), 3, "tiles of {tile_size}");
        drop(engine);
    }
    assert_eq!(tch::get_num_threads(), 3);

    drop(early);
    if !cfg!(libtorch_headers) {
        return;
    }
    // What a tensor frees is the next one's of that size; a request that cannot be met is an error.
    let tensor = || Tensor::zeros([1_234_567], (Kind::Uint8, tch::Device::Cpu));
    let first = tensor().data_ptr();
    assert_eq!(tensor().data_ptr(), first);
    assert_eq!(first.align_offset(64), 0);
    let error = Tensor::f_zeros([1 << 50], (Kind::Float, tch::Device::Cpu)).unwrap_err();
    assert!(error.to_string().contains("can't allocate memory"), "{error}");

    // An engine that has ended leaves nothing behind.
    drop(restore(0, 64, 64));
    let before = resident_mib();
    let engine = restore(0, 768, 512);
    let running = resident_mib();
    drop(engine);
    let after = resident_mib();
    assert!(
        running > before + 40,
        "{before} to {running} MiB: what is there to give back?"
    );
    assert!(
        after < before + 10,
        "{before} MiB before, {running} while running, {after} after"
    );

    // One that runs takes no new memory for a frame, of which each has 169 pages, and the model's maps some thousands.
    let engine = Engine::new(EngineConfig {
        device: Device::Cpu,
        ..EngineConfig::default()
    });
    let engine = engine.unwrap();
    let mut frame = Frame::new(640, 360, PixelFormat::Rgb8);
    let mut faults = vec![page_faults()];
    for _ in 0..20 {
        engine.send(frame).unwrap();
        frame = engine.receive().unwrap().unwrap().input;
        faults.push(page_faults());
    }
    let taken = faults[20] - faults[8];
    assert!(taken < 1000, "{taken} new pages for 12 frames");
    let first = faults[1] - faults[0];
    assert!(first > 1000, "{first} new pages for the first: what is counted?");
}

/// Pages that the system has given this process so far.
fn page_faults() -> i64 {
    // SAFETY: fills what is all zeros.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage.ru_minflt
    }
}
