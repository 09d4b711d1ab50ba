//! The threads on which our own layers run.

use std::sync::Mutex;
use std::thread;

use once_cell::sync::Lazy;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// As many threads as libtorch would use, but no more than a container's share of the processors; one set for the whole process.
static POOL: Lazy<Option<ThreadPool>> = Lazy::new(|| {
    // A thread that is new to libtorch has its default, which knows what OMP_NUM_THREADS says, and nothing of shares.
    let default = on_a_new_thread(tch::get_num_threads)?;
    let share = match std::env::var_os("OMP_NUM_THREADS") {
        Some(_) => i32::MAX,
        None => thread::available_parallelism()
            .map_or(i32::MAX, |share| share.get().try_into().unwrap_or(i32::MAX)),
    };
    let threads = default.min(share).max(1);
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .thread_name(|i| format!("osdd-cpu-{i}"))
        .start_handler(|_| {
            // What little libtorch does between our layers is done sooner than threads are woken for it. Only what is set
            // after libtorch has looked at a thread lasts.
            tch::get_num_threads();
            tch::set_num_threads(1);
        })
        .build();
    if let Ok(pool) = &pool {
        pool.broadcast(|_| ());
    }
    // When all have started, threads that are new to libtorch shall have its default again.
    on_a_new_thread(move || tch::set_num_threads(default));
    pool.ok()
});

/// Whole pieces of work take turns: else a thread that waits for its own would take up another's in between.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `work` on one of the threads that fused layers for the CPU spread over, which saves handing every layer over; here,
/// where there are none to be had. libtorch itself has one thread there, and gradients are on. One such piece of work runs at
/// a time in a process, so it must not wait for another.
///
/// # Panics
/// Where `work` does.
pub fn on_own_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        // On a thread of other people's, too, it stays: while that waited here, it could take up work that wants the turn.
        Some(pool) if rayon::current_thread_index().is_none() => {
            let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
            pool.install(work)
        }
        _ => work(),
    }
}

/// Runs `work` on one of these threads, beside what they do for others, as [`on_own_threads`] does. It must not spread over them.
///
/// # Panics
/// Where `work` does.
pub fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// How many threads may share a layer: one where libtorch may use but one, as in a part of a batch that is trained on.
pub(super) fn threads() -> usize {
    let inside = || {
        POOL.as_ref()
            .is_some_and(|pool| pool.current_thread_index().is_some())
    };
    match rayon::current_thread_index().is_some() && inside() || tch::get_num_threads() > 1 {
        true => POOL.as_ref().map_or(1, ThreadPool::current_num_threads),
        false => 1,
    }
}

fn on_a_new_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    thread::Builder::new().spawn(work).ok()?.join().ok()
}
