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
    #[cfg(osdd_allocator)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: takes no arguments, and passes on what the allocator before it gave.
        ONCE.call_once(|| unsafe { osdd_cache_cpu_memory() });
    }
}

/// Gives back what is kept and not in use.
pub(crate) fn release() {
    // SAFETY: takes no arguments, and locks what it changes.
    #[cfg(osdd_allocator)]
    unsafe {
        osdd_release_cpu_memory();
    }
}

/// Gives back what is kept when it is dropped.
pub(crate) struct ReleasedAtEnd;

impl Drop for ReleasedAtEnd {
    fn drop(&mut self) {
        release();
    }
}

#[cfg(osdd_allocator)]
unsafe extern "C" {
    fn osdd_cache_cpu_memory();
    fn osdd_release_cpu_memory();
}
