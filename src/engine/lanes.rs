//! The model on several tiles at a time.
//!
//! On a CPU libtorch spreads each layer over the cores and waits for all of them before the next. The layers of a small model
//! are short: the waiting costs time even on an idle machine, and beside another busy process nearly all of it. Tiles need
//! not wait for each other, so each goes its whole way on one thread, its lane.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// More lanes would need more memory than they are worth: each has the activations of one batch.
const MOST_LANES: usize = 16;

/// The model: maps `[B, 3, h, w]` to the same shape.
pub(super) type Forward = Box<dyn Fn(&Tensor) -> Tensor + Send>;

/// A batch that went through the model.
pub(super) struct Passed {
    /// `[B, 3, h, w]`, float32. A tile in which a number was not finite is as it came.
    pub images: Tensor,
    /// `[B, 1, 1, 1]`: which tiles are the model's.
    pub finite: Tensor,
}

/// Threads that each run the model, or the caller's own.
///
/// After an error it must not be used again: batches may still be on their way.
pub(super) struct Lanes {
    own: Option<Forward>,
    threads: Vec<JoinHandle<()>>,
    batches: Option<Sender<(usize, Tensor)>>,
    /// The other end, for what no lane shall take any more.
    left: Receiver<(usize, Tensor)>,
    passed: Receiver<(usize, thread::Result<Result<Passed>>)>,
}

impl Lanes {
    /// For frames of that many batches, on that many cores, or (`None`) on a device that needs none; `model` is called once a
    /// lane.
    ///
    /// # Errors
    /// Those of `model`, or no thread to be had.
    pub fn new(batches: usize, cores: Option<usize>, model: &dyn Fn() -> Result<Forward>) -> Result<Self> {
        // Restores when the last lane has counted, or has ended.
        let _counting = cores.map(|_| Counting::new());
        let lanes = batches.min(cores.unwrap_or(1)).min(MOST_LANES);
        let (send_batch, receive_batch) = bounded(2 * lanes);
        let (send_passed, receive_passed) = bounded(2 * lanes);
        let mut new = Lanes {
            own: None,
            threads: Vec::new(),
            batches: Some(send_batch),
            left: receive_batch.clone(),
            passed: receive_passed,
        };
        let Some(cores) = cores else {
            new.own = Some(model()?);
            return Ok(new);
        };
        if lanes == 1 {
            new.own = Some(model()?);
            tch::set_num_threads(cores as i32);
            return Ok(new);
        }
        // What the caller does meanwhile must not wait for cores that the lanes have.
        tch::set_num_threads(1);
        let (ready, started) = bounded::<()>(0);
        for i in 0..lanes {
            let (model, batches, passed) = (model()?, receive_batch.clone(), send_passed.clone());
            let ready = ready.clone();
            let share = cores / lanes + usize::from(i < cores % lanes);
            let lane = thread::Builder::new().name(format!("osdd-lane-{i}"));
            let lane = lane.spawn(move || {
                // What is set before libtorch has looked at this thread would be overwritten then.
                tch::get_num_threads();
                tch::set_num_threads(share as i32);
                drop(ready);
                let _no_grad = tch::no_grad_guard();
                for (index, batch) in batches {
                    let done = catch_unwind(AssertUnwindSafe(|| pass(&model, &batch)));
                    if passed.send((index, done)).is_err() {
                        return;
                    }
                }
            });
            new.threads
                .push(lane.map_err(|e| Error::Worker(format!("no thread to be had: {e}")))?);
        }
        drop(ready);
        // Disconnects when the last lane has counted its threads.
        let _ = started.recv();
        Ok(new)
    }

    /// Passes `count` batches, made by `batch` from their index, through the model and hands them to `take` in order.
    ///
    /// # Errors
    /// Those of the closures, or too little memory.
    ///
    /// # Panics
    /// Where the model panics.
    pub fn run(
        &self,
        count: usize,
        mut batch: impl FnMut(usize) -> Result<Tensor>,
        mut take: impl FnMut(usize, Passed) -> Result<()>,
    ) -> Result<()> {
        if let Some(model) = &self.own {
            return (0..count).try_for_each(|i| take(i, pass(model, &batch(i)?)?));
        }
        let batches = self.batches.as_ref().expect("open until it is dropped");
        let (mut sent, mut taken) = (0, 0);
        let mut early = BTreeMap::new();
        while taken < count {
            // Never more under way than both channels hold, so that no send waits.
            while sent < count && sent < taken + 2 * self.threads.len() {
                batches.send((sent, batch(sent)?)).map_err(|_| ended())?;
                sent += 1;
            }
            let (index, passed) = self.passed.recv().map_err(|_| ended())?;
            early.insert(
                index,
                passed.unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic))?,
            );
            while let Some(passed) = early.remove(&taken) {
                take(taken, passed)?;
                taken += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.batches = None;
        self.left.try_iter().for_each(drop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ended() -> Error {
    Error::Worker("a lane has ended".into())
}

/// The model's output for a batch `x`.
fn pass(model: &Forward, x: &Tensor) -> Result<Passed> {
    let y = model(x).f_to_kind(Kind::Float)?;
    // A sum is finite where all its terms are.
    let sums = y.f_sum_dim_intlist([1, 2, 3].as_slice(), true, Kind::Float)?;
    let finite = sums.f_isfinite()?;
    // On a GPU the answer stays there until the frame is done: reading it would wait for all that is queued.
    let images = if finite.device() == Device::Cpu && finite.f_all()?.f_int64_value(&[])? == 1 {
        y
    } else {
        y.f_where_self(&finite, x)?
    };
    Ok(Passed { images, finite })
}

/// How many threads libtorch may use here.
pub(super) fn cores() -> usize {
    let _alone = THREAD_COUNT.lock().unwrap_or_else(|e| e.into_inner());
    tch::get_num_threads().max(1) as usize
}

/// libtorch's number of threads is each thread's own, but threads that use libtorch for the first time start with what was set
/// last anywhere. While this exists, nobody else here sets or asks; then the start is what it was before.
struct Counting {
    default: Option<i32>,
    _alone: MutexGuard<'static, ()>,
}

static THREAD_COUNT: Mutex<()> = Mutex::new(());

impl Counting {
    fn new() -> Self {
        let _alone = THREAD_COUNT.lock().unwrap_or_else(|e| e.into_inner());
        Counting {
            default: on_a_new_thread(tch::get_num_threads),
            _alone,
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(default) = self.default {
            on_a_new_thread(move || tch::set_num_threads(default));
        }
    }
}

/// `None` where there is no thread to be had.
fn on_a_new_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    thread::Builder::new().spawn(work).ok()?.join().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(value: usize) -> Tensor {
        Tensor::full([1, 3, 4, 4], value as f64, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn batches_come_back_in_order_whatever_they_take() {
        for lanes in [1, 2, 3] {
            let model = || -> Result<Forward> {
                Ok(Box::new(|x| {
                    // The first of each three takes longest.
                    if (x.double_value(&[0, 0, 0, 0]) as usize).is_multiple_of(3) {
                        thread::sleep(std::time::Duration::from_millis(5));
                    }
                    x + 0.5
                }))
            };
            let lanes = Lanes::new(5, Some(lanes), &model).unwrap();
            for count in [1, 2, 20] {
                let mut seen = Vec::new();
                let take = |i: usize, passed: Passed| {
                    seen.push((i, passed.images.double_value(&[0, 2, 3, 3])));
                    Ok(())
                };
                lanes.run(count, |i| Ok(batch(i)), take).unwrap();
                let expected: Vec<_> = (0..count).map(|i| (i, i as f64 + 0.5)).collect();
                assert_eq!(seen, expected);
            }
        }
    }

    #[test]
    fn a_lane_uses_its_share_of_the_cores() {
        let threads = || -> Result<Forward> { Ok(Box::new(|x| x * 0.0 + tch::get_num_threads() as f64)) };
        for (batches, cores, expected) in [(6, 2, 1), (2, 6, 3), (1, 2, 2)] {
            let lanes = Lanes::new(batches, Some(cores), &threads).unwrap();
            let take = |_: usize, passed: Passed| {
                assert_eq!(passed.images.double_value(&[0, 0, 0, 0]), f64::from(expected));
                Ok(())
            };
            lanes.run(1, |i| Ok(batch(i)), take).unwrap();
        }
    }

    #[test]
    fn a_panic_in_a_lane_is_the_callers() {
        let model = || -> Result<Forward> { Ok(Box::new(|_| panic!("broken"))) };
        let lanes = Lanes::new(2, Some(2), &model).unwrap();
        let run = || lanes.run(2, |i| Ok(batch(i)), |_, _| Ok(()));
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"broken"));
    }
}
