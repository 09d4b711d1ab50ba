//! The memory of tensors on the CPU.
//!
//! A network asks for the same sizes with every frame or batch. What is freed is kept for them (`memory.cpp`, an allocator
//! for libtorch), for the whole process.

/// From now on, what tensors on the CPU free is kept for others of about the same size; with what is in use that is at most twice
/// as much as was in use at once. Blocks from before go back to where they came from. Where the headers of libtorch were
/// missing when this was built, and where `device` is not a CPU, nothing changes.
pub(crate) fn keep_freed(device: tch::Device) {
    if device != tch::Device::Cpu {
        return;
    }
    #[cfg(libtorch_headers)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: takes no arguments, and passes on what the allocator before it gave.
        ONCE.call_once(|| unsafe { osdd_cache_cpu_memory() });
    }
}

/// Gives back what is kept and not in use.
pub(crate) fn release() {
    // SAFETY: takes no arguments, and locks what it changes.
    #[cfg(libtorch_headers)]
    unsafe {
        osdd_release_cpu_memory();
    }
}

/// What `work` gives, and how many more bytes of tensors there were at a time than before; other threads' count too. `None` where
/// nobody counts, see [`keep_freed`].
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    #[cfg(libtorch_headers)]
    {
        // SAFETY: both take no arguments, and lock what they read.
        let before = unsafe { osdd_watch_cpu_memory() };
        let result = work();
        let most = unsafe { osdd_watched_cpu_memory() };
        (result, Some(most.saturating_sub(before) as u64))
    }
    #[cfg(not(libtorch_headers))]
    (work(), None)
}

/// Bytes that this process can still use without others being put on the disk or ended: what the system has free, or its control
/// group or its own limit of addresses (`ulimit -v`) if that is less. `None` where the system does not tell.
pub(crate) fn available() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    if system.total_memory() == 0 {
        return None;
    }
    // Files that are kept in memory do not count: they make room.
    let group = system.cgroup_limits();
    let group = group.map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let least = system.available_memory().min(group.unwrap_or(u64::MAX));
    Some(least.min(addresses_left().unwrap_or(u64::MAX)))
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
pub(crate) struct ReleasedAtEnd;

impl Drop for ReleasedAtEnd {
    fn drop(&mut self) {
        release();
    }
}

#[cfg(libtorch_headers)]
unsafe extern "C" {
    fn osdd_cache_cpu_memory();
    fn osdd_release_cpu_memory();
    fn osdd_watch_cpu_memory() -> usize;
    fn osdd_watched_cpu_memory() -> usize;
}
