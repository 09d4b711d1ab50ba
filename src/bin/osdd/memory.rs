//! What the allocator does with the memory of tensors that are gone.

/// Keeps it for the next tensors. Left alone, glibc maps every large block anew and gives it back when it is freed, and the
/// kernel clears it page by page: a tenth of the time of training a small model.
pub(crate) fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator. Values that it refuses change nothing.
    unsafe {
        // The largest that glibc takes.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
