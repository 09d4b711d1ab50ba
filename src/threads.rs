//! Threads that libraries count on: where the system gives no more, libgomp ends the process, and GStreamer's tasks and converters
//! (1.22) wait for ever for those that never began. So they are tried first.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// Whether the system gives so many threads at a time.
pub fn are_given(count: usize) -> bool {
    let gate = Mutex::new(());
    let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
    scope(|scope| {
        let closed = gate.lock();
        let begun = (0..count).all(|_| Builder::new().spawn_scoped(scope, wait).is_ok());
        drop(closed);
        begun
    })
}
