//! The threads on which our own layers run.

use std::thread;

use once_cell::sync::Lazy;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// As many threads as libtorch would use, one set for the whole process.
static POOL: Lazy<Option<ThreadPool>> = Lazy::new(|| {
    // A thread that is new to libtorch has its default.
    let threads = on_a_new_thread(tch::get_num_threads)?.max(1);
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .thread_name(|i| format!("osdd-cpu-{i}"))
        .start_handler(|_| {
            // What little libtorch does between our layers is done sooner than threads are woken for it. Only what is set
            // after libtorch has looked at a thread lasts.
            tch::get_num_threads();
            tch::set_num_threads(1);
        })
        .build()
        .ok()?;
    // When all have started, threads that are new to libtorch shall have its default again.
    pool.broadcast(|_| ());
    on_a_new_thread(move || tch::set_num_threads(threads));
    Some(pool)
});

/// Runs `work` on one of the threads that fused layers for the CPU spread over, which saves handing every layer over; here,
/// where there are none to be had. libtorch itself has one thread there, and gradients are on.
///
/// # Panics
/// Where `work` does.
pub fn on_own_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// How many threads that are.
pub(super) fn threads() -> usize {
    POOL.as_ref().map_or(1, ThreadPool::current_num_threads)
}

fn on_a_new_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    thread::Builder::new().spawn(work).ok()?.join().ok()
}
