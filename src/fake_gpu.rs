//! What tests see of a GPU where there is none: `fake_gpu.cpp`.

use std::ffi::c_void;

use once_cell::sync::Lazy;

use crate::device;
use crate::test_library::TestLibrary;

/// Libtorch's allocator and streams for GPUs, which only count, for all tests of this process.
pub struct FakeGpu {
    take: extern "C" fn(i64),
    reserved: extern "C" fn() -> i64,
    synchronized: extern "C" fn() -> i64,
    capture_mode: extern "C" fn() -> i64,
    lose: extern "C" fn(i64),
    reach: extern "C" fn(i64),
    lose_events: extern "C" fn(),
}

impl FakeGpu {
    /// Bytes that it has.
    pub const TOTAL: u64 = 1000;

    /// `None` where there is a GPU, which stays what it is.
    pub fn installed() -> Option<&'static Self> {
        static FAKE: Lazy<Option<FakeGpu>> = Lazy::new(|| match device::resolve(device::Device::Cuda(0)) {
            Ok(_) => {
                eprintln!("left out: there is a GPU, which a fake cannot stand for");
                None
            }
            Err(_) => Some(FakeGpu::install()),
        });
        FAKE.as_ref()
    }

    fn install() -> Self {
        type Take = extern "C" fn(i64);
        type Tell = extern "C" fn() -> i64;
        let include = ["-I", env!("OSDD_LIBTORCH_INCLUDE")].map(String::from);
        let library = TestLibrary::build("src/fake_gpu.cpp", &include);
        // SAFETY: functions as declared there.
        unsafe {
            let install = std::mem::transmute::<*mut c_void, Take>(library.find(c"fake_gpu_install"));
            install(Self::TOTAL as i64);
            FakeGpu {
                take: std::mem::transmute::<*mut c_void, Take>(library.find(c"fake_gpu_take")),
                reserved: std::mem::transmute::<*mut c_void, Tell>(library.find(c"fake_gpu_reserved")),
                synchronized: std::mem::transmute::<*mut c_void, Tell>(
                    library.find(c"fake_gpu_synchronized"),
                ),
                capture_mode: std::mem::transmute::<*mut c_void, Tell>(
                    library.find(c"fake_gpu_capture_mode"),
                ),
                lose: std::mem::transmute::<*mut c_void, Take>(library.find(c"fake_gpu_lose")),
                reach: std::mem::transmute::<*mut c_void, Take>(library.find(c"fake_gpu_reach")),
                lose_events: std::mem::transmute::<*mut c_void, extern "C" fn()>(
                    library.find(c"fake_gpu_lose_events"),
                ),
            }
        }
    }

    /// As if tensors had so many bytes more.
    pub fn take(&self, bytes: i64) {
        (self.take)(bytes);
    }

    /// Bytes that tensors have, or that are kept for them.
    pub fn reserved(&self) -> i64 {
        (self.reserved)()
    }

    /// How often a stream has been waited for.
    pub fn synchronized(&self) -> i64 {
        (self.synchronized)()
    }

    /// How the graph that was begun last records; -1 where there is none.
    pub fn capture_mode(&self) -> i64 {
        (self.capture_mode)()
    }

    /// From now on waiting for the stream of this handle fails.
    pub fn lose(&self, stream: *mut c_void) {
        (self.lose)(stream as i64);
    }

    /// The first so many events of this process are reached.
    pub fn reach(&self, events: i64) {
        (self.reach)(events);
    }

    /// From now on waiting for an event fails.
    pub fn lose_events(&self) {
        (self.lose_events)();
    }
}
