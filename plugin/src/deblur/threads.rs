//! Threads that GStreamer counts on: where the system gives no more, GstTask and GstVideoConverter (1.22) wait for ever for
//! those that never began. So they are tried first.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, available_parallelism, scope};

/// Converters of one element that may be at work at a time, on the way in and on the way out.
const CONVERTERS: usize = 4;

/// Whether the system gives so many threads at a time.
pub(super) fn are_given(count: usize) -> bool {
    let gate = Mutex::new(());
    let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
    scope(|scope| {
        let closed = gate.lock();
        let begun = (0..count).all(|_| Builder::new().spawn_scoped(scope, wait).is_ok());
        drop(closed);
        begun
    })
}

/// Threads for each GstVideoConverter of an element, the caller's among them.
pub(super) fn of_converter() -> u32 {
    // More are not faster.
    let threads = available_parallelism().map_or(1, |threads| threads.get().min(4));
    if threads > 1 && are_given(CONVERTERS * (threads - 1) + 1) {
        threads as u32
    } else {
        1
    }
}
