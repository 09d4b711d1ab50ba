//! Threads that libraries count on: where the system gives no more, libgomp ends the process, and GStreamer's tasks and converters
//! (1.22) wait for ever for those that never began. So they are tried first.

use std::ffi::c_void;
use std::ptr::null_mut;

/// Locks the mutex that it is given, and lets it go. Nothing here asks for memory: each thread that does has the C library keep a pool
/// of its own.
extern "C" fn wait(gate: *mut c_void) -> *mut c_void {
    let gate = gate.cast::<libc::pthread_mutex_t>();
    // SAFETY: `are_given` keeps it until this has ended.
    unsafe {
        libc::pthread_mutex_lock(gate);
        libc::pthread_mutex_unlock(gate);
    }
    null_mut()
}

/// Whether the system gives so many threads at a time.
pub fn are_given(count: usize) -> bool {
    let mut gate = libc::PTHREAD_MUTEX_INITIALIZER;
    let gate = &raw mut gate;
    let mut threads: Vec<libc::pthread_t> = Vec::with_capacity(count.min(1024));
    // SAFETY: the mutex is there until all threads have been joined, each once, and is locked by whoever lets it go.
    unsafe {
        libc::pthread_mutex_lock(gate);
        while threads.len() < count {
            let mut thread = std::mem::zeroed();
            if libc::pthread_create(&mut thread, std::ptr::null(), wait, gate.cast()) != 0 {
                break;
            }
            threads.push(thread);
        }
        libc::pthread_mutex_unlock(gate);
        for thread in &threads {
            libc::pthread_join(*thread, null_mut());
        }
        libc::pthread_mutex_destroy(gate);
    }
    threads.len() == count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_threads_are_given() {
        assert!(are_given(0) && are_given(1) && are_given(8));
    }
}
