//! The memory of tensors.
//!
//! A network asks for the same sizes with every frame or batch. What is freed is kept for them, for the whole process: on the CPU by
//! an allocator of ours (`memory.cpp`), on a GPU by libtorch's.

#[cfg(libtorch_headers)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::Device;

use crate::control_group;

/// Libtorch has an allocator for GPUs, or is about to have: asking before is an error there.
#[cfg(libtorch_headers)]
static USES_GPU: AtomicBool = AtomicBool::new(false);

/// From now on, what tensors on the CPU free is kept for others of about the same size; with what is in use that is at most twice
/// as much as was in use at once. Blocks from before go back to where they came from. Where the headers of libtorch were
/// missing when this was built, nothing changes. On a GPU libtorch does so by itself.
pub(crate) fn keep_freed(device: Device) {
    #[cfg(libtorch_headers)]
    if device != Device::Cpu {
        USES_GPU.store(true, Ordering::Relaxed);
    } else {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: takes no arguments, and passes on what the allocator before it gave.
        ONCE.call_once(|| unsafe { osdd_cache_cpu_memory() });
    }
}

/// Gives back what is kept and not in use, on all devices.
pub(crate) fn release() {
    // SAFETY: both take no arguments, and lock what they change.
    #[cfg(libtorch_headers)]
    unsafe {
        osdd_release_cpu_memory();
        if USES_GPU.load(Ordering::Relaxed) {
            osdd_release_gpu_memory();
        }
    }
}

/// What `work` gives, and how many more bytes of tensors there were on `device` at a time than before; other threads' count too.
/// `None` where nobody counts, see [`keep_freed`].
pub(crate) fn peak<T>(device: Device, work: impl FnOnce() -> T) -> (T, Option<u64>) {
    #[cfg(libtorch_headers)]
    match device {
        Device::Cpu => {
            // SAFETY: both take no arguments, and lock what they read.
            let before = unsafe { osdd_watch_cpu_memory() };
            let result = work();
            let most = unsafe { osdd_watched_cpu_memory() };
            (result, Some(most.saturating_sub(before) as u64))
        }
        device => {
            let before = gpu_memory(device, true).map(|memory| memory.used);
            let result = work();
            let most = gpu_memory(device, false).map(|memory| memory.peak);
            let more = before.zip(most).map(|(before, most)| most.saturating_sub(before));
            (result, more)
        }
    }
    #[cfg(not(libtorch_headers))]
    {
        let _ = device;
        (work(), None)
    }
}

/// Most bytes that tensors have had at a time on a GPU, since the start or the last [`peak`]. `None` on a CPU, and where nobody counts.
pub(crate) fn gpu_peak(device: Device) -> Option<u64> {
    #[cfg(libtorch_headers)]
    return gpu_memory(device, false).map(|memory| memory.peak);
    #[cfg(not(libtorch_headers))]
    {
        let _ = device;
        None
    }
}

/// What libtorch's allocator says of a GPU, in bytes.
#[cfg(libtorch_headers)]
#[repr(C)]
#[derive(Default)]
struct GpuMemory {
    /// What the driver has free, and what the allocator keeps that is not in use.
    available: u64,
    used: u64,
    peak: u64,
}

/// `None` for what is no GPU. With `watch` the peak begins anew.
#[cfg(libtorch_headers)]
fn gpu_memory(device: Device, watch: bool) -> Option<GpuMemory> {
    let Device::Cuda(index) = device else {
        return None;
    };
    if !USES_GPU.load(Ordering::Relaxed) {
        return None;
    }
    let mut memory = GpuMemory::default();
    // SAFETY: fills a structure of ours, declared alike on both sides.
    unsafe { osdd_gpu_memory(i8::try_from(index).ok()?, watch, &raw mut memory) }.then_some(memory)
}

/// Bytes that tensors on `device` can still use: on a GPU, what its driver has free and what is kept for tensors; on a CPU, what this
/// process can use without others being put on the disk or ended, which is what the system has free, or its control groups or its own
/// limit of addresses (`ulimit -v`) if that is less. `None` where nobody tells.
pub(crate) fn available(device: Device) -> Option<u64> {
    if device != Device::Cpu {
        #[cfg(libtorch_headers)]
        return gpu_memory(device, false).map(|memory| memory.available);
        #[cfg(not(libtorch_headers))]
        return None;
    }
    let system = System::read()?;
    let least = system.available.min(control_group::left().memory);
    Some(least.min(addresses_left().unwrap_or(u64::MAX)))
}

/// Bytes after which the system ends a process that uses more on `device`: [`available`] and what can be swapped to the disk. Addresses
/// (`ulimit -v`) do not count, as the next is refused and nothing ended. `None` where too much is an error at once, as on a GPU, or
/// nobody tells.
pub(crate) fn utmost(device: Device) -> Option<u64> {
    if device != Device::Cpu {
        return None;
    }
    let system = System::read()?;
    let group = control_group::left();
    let group = group.memory.saturating_add(group.swap);
    Some(system.available.saturating_add(system.swap).min(group))
}

/// Bytes that are free.
struct System {
    available: u64,
    swap: u64,
}

impl System {
    fn read() -> Option<Self> {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        if system.total_memory() == 0 {
            return None;
        }
        Some(System {
            available: system.available_memory(),
            swap: system.free_swap(),
        })
    }
}

/// Bytes of addresses that this process may still ask for, where there is a limit.
fn addresses_left() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: fills a structure of ours.
        let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
        if !known || limit.rlim_cur == libc::RLIM_INFINITY {
            return None;
        }
        // The first of its numbers: the size of the address space, in pages.
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split(' ').next()?.parse().ok()?;
        // SAFETY: takes a number, and gives one.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        Some(limit.rlim_cur.saturating_sub(pages * page))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Gives back what is kept when it is dropped.
pub(crate) struct ReleasedAtEnd(());

/// How many there are.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

impl ReleasedAtEnd {
    pub fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        ReleasedAtEnd(())
    }
}

impl Drop for ReleasedAtEnd {
    fn drop(&mut self) {
        release();
        let last = ALIVE.fetch_sub(1, Ordering::Relaxed) == 1;
        // Of what each thread has freed, the C library keeps up to 17 MB for the next (measured with `nano` at 768x512). Others that are
        // at work would ask for it again at once.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if last {
            // SAFETY: takes a number.
            unsafe { libc::malloc_trim(0) };
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        let _ = last;
    }
}

#[cfg(libtorch_headers)]
unsafe extern "C" {
    fn osdd_cache_cpu_memory();
    fn osdd_release_cpu_memory();
    fn osdd_watch_cpu_memory() -> usize;
    fn osdd_watched_cpu_memory() -> usize;
    fn osdd_release_gpu_memory();
    fn osdd_gpu_memory(index: i8, watch: bool, memory: *mut GpuMemory) -> bool;
}

#[cfg(all(test, libtorch_headers))]
mod tests {
    use super::*;
    use crate::fake_gpu::FakeGpu;

    const GPU: Device = Device::Cuda(0);

    #[test]
    fn a_cpus_utmost_is_no_less_than_what_is_free_of_it() {
        let system = System::read().expect("the system tells");
        let most = utmost(Device::Cpu).expect("a CPU's is known");
        assert!(
            most > 0
                && most
                    <= system
                        .available
                        .saturating_add(system.swap)
                        .saturating_add(1 << 30)
        );
        assert_eq!(utmost(GPU), None);
    }

    #[test]
    fn a_gpus_memory_is_counted_and_given_back() {
        assert_eq!(available(GPU), None, "nobody has asked for a GPU");
        let Some(gpu) = FakeGpu::installed() else {
            return;
        };
        keep_freed(GPU);
        assert_eq!(available(GPU), Some(FakeGpu::TOTAL));
        gpu.take(300);
        let ((), most) = peak(GPU, || {
            gpu.take(250);
            gpu.take(-250);
        });
        assert_eq!(most, Some(250));
        assert_eq!(gpu_peak(GPU), Some(550));
        // What is kept for tensors can be used by them.
        assert_eq!(available(GPU), Some(FakeGpu::TOTAL - 300));
        release();
        assert_eq!(gpu.reserved(), 300);
        assert_eq!(available(GPU), Some(FakeGpu::TOTAL - 300));
        assert_eq!(gpu_peak(Device::Cpu), None);
    }
}
