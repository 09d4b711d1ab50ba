//! Which frames are between `send` and `receive`.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::worker::{Job, Shared};
use super::{Output, Picture};
use crate::Result;

/// What the worker answers.
pub(super) struct Reply<P> {
    /// Flushes before the frame was sent: an older one than the current is stale.
    pub epoch: u64,
    pub result: Option<Result<Output<P>>>,
}

/// How long a caller waits for a result.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    No,
    Until(Instant),
    Forever,
}

/// Counts frames in flight, hands out results in order, and forgets them on a flush.
pub(super) struct Flight<P> {
    state: Mutex<State>,
    depth: usize,
    results: Receiver<Reply<P>>,
    /// To wake whoever waits for a result; `None` once the engine stops.
    wake: Mutex<Option<Sender<Reply<P>>>>,
}

struct State {
    next_id: u64,
    epoch: u64,
    count: usize,
    /// Callers that wait for a result.
    waiting: usize,
}

impl<P: Picture> Flight<P> {
    pub fn new(depth: usize, results: Receiver<Reply<P>>, wake: Sender<Reply<P>>) -> Self {
        Flight {
            state: Mutex::new(State {
                next_id: 0,
                epoch: 0,
                count: 0,
                waiting: 0,
            }),
            depth,
            results,
            wake: Mutex::new(Some(wake)),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Id and epoch for one more frame, or `None` when `depth` are in flight.
    pub fn take_off(&self) -> Option<(u64, u64)> {
        let mut state = self.state();
        if state.count >= self.depth {
            return None;
        }
        state.count += 1;
        state.next_id += 1;
        Some((state.next_id - 1, state.epoch))
    }

    /// Takes back a frame that could not be queued.
    pub fn cancel(&self, epoch: u64) {
        let mut state = self.state();
        if state.epoch == epoch {
            // Its id is not given again: another sender may have taken the next one meanwhile.
            state.count -= 1;
            self.wake_idle(&state);
        }
    }

    /// Wakes who waits for results when there are none to come.
    fn wake_idle(&self, state: &State) {
        if state.count > 0 || state.waiting == 0 {
            return;
        }
        if let Some(wake) = &*self.wake.lock().unwrap_or_else(|e| e.into_inner()) {
            for _ in 0..state.waiting {
                let epoch = state.epoch;
                // Full means that there is something to wake up for.
                let _ = wake.try_send(Reply { epoch, result: None });
            }
        }
    }

    pub fn count(&self) -> usize {
        self.state().count
    }

    /// Frames in flight that are done.
    pub fn landed(&self) -> usize {
        // A stale result may be among them.
        self.results.len().min(self.count())
    }

    /// The next result; `None` when nothing is in flight or nothing has come in time.
    pub fn land(&self, wait: Wait, shared: &Shared) -> Result<Option<Output<P>>> {
        loop {
            let mut state = self.state();
            if state.count == 0 {
                return Ok(None);
            }
            state.waiting += 1;
            drop(state);
            // `None` when nothing has come in time.
            let reply = match wait {
                Wait::No => match self.results.try_recv() {
                    Err(TryRecvError::Empty) => None,
                    reply => Some(reply.ok()),
                },
                Wait::Until(deadline) => match self.results.recv_deadline(deadline) {
                    Err(RecvTimeoutError::Timeout) => None,
                    reply => Some(reply.ok()),
                },
                Wait::Forever => Some(self.results.recv().ok()),
            };
            let mut state = self.state();
            state.waiting -= 1;
            let Some(reply) = reply else {
                return Ok(None);
            };
            let reply = reply.ok_or_else(|| shared.failure())?;
            if let Some(result) = reply.result.filter(|_| reply.epoch == state.epoch) {
                state.count -= 1;
                self.wake_idle(&state);
                return result.map(Some);
            }
        }
    }

    /// Forgets every frame in flight; gives their number.
    pub fn discard(&self, waiting: &Receiver<Job<P>>, shared: &Shared) -> usize {
        let mut state = self.state();
        let count = std::mem::take(&mut state.count);
        state.epoch += 1;
        shared.epoch.store(state.epoch, Ordering::Relaxed);
        while waiting.try_recv().is_ok() {}
        while self.results.try_recv().is_ok() {}
        self.wake_idle(&state);
        count
    }

    /// Lets go of the sending end, so that only the worker keeps the results open.
    pub fn close(&self) {
        self.wake.lock().unwrap_or_else(|e| e.into_inner()).take();
        while self.results.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::frame::Frame;

    #[test]
    fn what_was_sent_before_a_flush_is_wanted_no_more() {
        let shared = Shared::new(1.0, 1.0);
        let (wake, results) = crossbeam_channel::bounded(3);
        let (_jobs, waiting) = crossbeam_channel::bounded(1);
        let flight = Flight::<Frame>::new(1, results, wake);
        let is_wanted = |epoch| epoch == shared.epoch.load(Ordering::Relaxed);
        let (_, before) = flight.take_off().unwrap();
        assert!(is_wanted(before));
        assert_eq!(flight.discard(&waiting, &shared), 1);
        assert_eq!(flight.results.len(), 0, "nobody has to be woken");
        let (_, after) = flight.take_off().unwrap();
        assert!(!is_wanted(before) && is_wanted(after));
    }

    #[test]
    fn nobody_waits_for_a_frame_that_another_has_taken() {
        let shared = Shared::new(1.0, 1.0);
        let (replies, results) = crossbeam_channel::bounded(4);
        let flight = Flight::<Frame>::new(2, results, replies.clone());
        let (_, epoch) = flight.take_off().unwrap();
        std::thread::scope(|scope| {
            let waiting = [(); 2].map(|()| scope.spawn(|| flight.land(Wait::Forever, &shared)));
            while flight.state().waiting < 2 {
                std::thread::yield_now();
            }
            let result = Some(Err(Error::Worker("the one answer".to_owned())));
            replies.send(Reply { epoch, result }).unwrap();
            let landed = waiting.map(|waiting| waiting.join().unwrap());
            assert_eq!(landed.iter().filter(|landed| landed.is_err()).count(), 1);
            assert_eq!(
                landed.iter().filter(|landed| matches!(landed, Ok(None))).count(),
                1
            );
        });
    }
}
