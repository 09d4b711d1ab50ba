//! What is on its way out, in the order of the stream: the streaming thread puts it in, the source pad's thread sends it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use super::lock;
use super::pending::Pending;

/// Frames and events that may be on their way before the element takes no more.
pub(super) const MAX_PENDING: usize = 32;

/// A queue between two threads, which a flush empties.
///
/// The engine is given frames under this lock, so that what is in it is in the queue, too.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    /// The thread that sends what was first, while it does, and how many flushes there had been when it began.
    sender: Option<(ThreadId, u64)>,
    flushes: u64,
    /// Nothing is taken and nothing sent.
    flushing: bool,
    /// Neither will anything be again.
    stopping: bool,
    /// Why something could not be sent, for the next frame of upstream's.
    failure: Option<gst::FlowError>,
}

impl State {
    fn len(&self) -> usize {
        self.pending.len() + usize::from(self.sender.is_some())
    }

    fn check(&self) -> Result<(), gst::FlowError> {
        if self.flushing || self.stopping {
            return Err(gst::FlowError::Flushing);
        }
        self.failure.map_or(Ok(()), Err)
    }
}

/// What the source pad's thread is to do.
pub(super) enum Next {
    Send(Pending),
    /// Nothing has come in time.
    Nothing,
    Stop,
}

impl Queue {
    /// As before the first frame.
    pub fn reset(&self) {
        *lock(&self.state) = State::default();
    }

    /// Frames and events that are on their way.
    pub fn len(&self) -> usize {
        lock(&self.state).len()
    }

    pub fn is_flushing(&self) -> bool {
        let state = lock(&self.state);
        state.flushing || state.stopping
    }

    /// Lets nobody wait from now on.
    pub fn flush(&self) {
        {
            let mut state = lock(&self.state);
            state.flushing = true;
            state.flushes += 1;
        }
        self.changed.notify_all();
    }

    /// As [`flush`](Self::flush), and ends the source pad's thread.
    pub fn stop(&self) {
        lock(&self.state).stopping = true;
        self.changed.notify_all();
    }

    /// Works again after a flush, once what was being sent is.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        // A seek from within what is being sent cannot wait for it.
        let here = std::thread::current().id();
        while !state.stopping && state.sender.is_some_and(|(sender, _)| sender != here) {
            state = self.wait_for_change(state, None);
        }
        state.flushing = false;
        state.failure = None;
    }

    /// Asked for each frame of upstream's, which so learns once what has become of those before, and where another stream
    /// begins.
    ///
    /// # Errors
    /// A flush, or why something could not be sent.
    pub fn take_failure(&self) -> Result<(), gst::FlowError> {
        let mut state = lock(&self.state);
        let checked = state.check();
        state.failure = None;
        checked
    }

    /// Puts in what `make` gives.
    ///
    /// # Errors
    /// As [`take_failure`](Self::take_failure), which is to be asked again, or what `make` says.
    pub fn put(&self, make: impl FnOnce() -> Result<Pending, gst::FlowError>) -> Result<(), gst::FlowError> {
        let mut state = lock(&self.state);
        state.check()?;
        let pending = make()?;
        state.pending.push_back(pending);
        self.changed.notify_all();
        Ok(())
    }

    /// What is first, or what else there is to do; after [`Next::Send`] comes [`sent`](Self::sent).
    pub fn take(&self, deadline: Instant) -> Next {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return Next::Stop;
            }
            if !state.flushing
                && let Some(pending) = state.pending.pop_front()
            {
                state.sender = Some((std::thread::current().id(), state.flushes));
                return Next::Send(pending);
            }
            if Instant::now() >= deadline {
                return Next::Nothing;
            }
            state = self.wait_for_change(state, Some(deadline));
        }
    }

    /// What was taken has been sent. Where it has not, `forget` is called and gives way to what else is pending, which comes back.
    pub fn sent(&self, result: Result<(), gst::FlowError>, forget: impl FnOnce()) -> VecDeque<Pending> {
        let mut state = lock(&self.state);
        // What a flush has interrupted is no failure, though the flush may be over.
        let flushed = state
            .sender
            .take()
            .is_none_or(|(_, flushes)| flushes != state.flushes);
        let mut forgotten = VecDeque::new();
        if let (Err(failure), false) = (result, flushed || state.stopping) {
            state.failure = Some(failure);
            forget();
            forgotten = std::mem::take(&mut state.pending);
        }
        self.changed.notify_all();
        forgotten
    }

    /// Takes out all that is pending, and calls `forget` before anything else comes in.
    pub fn discard(&self, forget: impl FnOnce()) -> VecDeque<Pending> {
        let mut state = lock(&self.state);
        forget();
        std::mem::take(&mut state.pending)
    }

    /// Has waiting threads look again.
    pub fn notify(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _state = lock(&self.state);
        self.changed.notify_all();
    }

    /// Waits until everything is out.
    ///
    /// # Errors
    /// As [`take_failure`](Self::take_failure), which is to be asked again.
    pub fn wait_until_empty(&self) -> Result<(), gst::FlowError> {
        self.wait(None, |len| len == 0).map(|_| ())
    }

    /// Waits until `enough`, which is told how many are on their way, or the deadline; says which. That the engine has done a frame
    /// is seen when the source pad's thread takes it, or at the deadline.
    ///
    /// # Errors
    /// As [`take_failure`](Self::take_failure), which is to be asked again.
    pub fn wait(
        &self,
        deadline: Option<Instant>,
        enough: impl Fn(usize) -> bool,
    ) -> Result<bool, gst::FlowError> {
        let mut state = lock(&self.state);
        loop {
            state.check()?;
            if enough(state.len()) {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            state = self.wait_for_change(state, deadline);
        }
    }

    fn wait_for_change<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match deadline {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let waited = self.changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Result<Pending, gst::FlowError> {
        gst::init().expect("GStreamer starts");
        Ok(Pending::Event(gst::event::Tag::new(gst::TagList::new())))
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_failure_is_said_once_and_empties_the_queue() {
        let queue = Queue::default();
        queue.put(event).expect("taken");
        queue.put(event).expect("taken");
        assert!(matches!(queue.take(now()), Next::Send(_)));
        assert_eq!(queue.len(), 2, "what is being sent counts");
        let mut forgotten = false;
        assert_eq!(queue.sent(Err(gst::FlowError::Eos), || forgotten = true).len(), 1);
        assert!(forgotten);
        // Events and whoever drains do not keep it from the next frame.
        assert_eq!(queue.put(event), Err(gst::FlowError::Eos));
        assert_eq!(queue.wait_until_empty(), Err(gst::FlowError::Eos));
        assert_eq!(queue.take_failure(), Err(gst::FlowError::Eos));
        assert_eq!(queue.take_failure(), Ok(()));
        assert_eq!(queue.wait_until_empty(), Ok(()));
    }

    #[test]
    fn nothing_moves_during_a_flush_and_all_of_it_after() {
        let queue = Queue::default();
        queue.put(event).expect("taken");
        queue.flush();
        assert!(matches!(queue.take(now()), Next::Nothing));
        assert_eq!(queue.put(event), Err(gst::FlowError::Flushing));
        assert_eq!(queue.wait(None, |_| false), Err(gst::FlowError::Flushing));
        assert_eq!(queue.discard(|| ()).len(), 1);
        queue.resume();
        queue.put(event).expect("taken");
        assert!(matches!(queue.take(now()), Next::Send(_)));
        // A failure that a flush has caused is none.
        queue.flush();
        assert!(queue.sent(Err(gst::FlowError::Flushing), || ()).is_empty());
        queue.resume();
        assert_eq!(queue.take_failure(), Ok(()));
        // Nor is one that comes when the flush is over already: a seek from within what was being sent.
        queue.put(event).expect("taken");
        assert!(matches!(queue.take(now()), Next::Send(_)));
        queue.flush();
        queue.resume();
        queue.put(event).expect("taken");
        assert!(queue.sent(Err(gst::FlowError::Flushing), || ()).is_empty());
        assert_eq!((queue.take_failure(), queue.len()), (Ok(()), 1));
        queue.stop();
        assert!(matches!(queue.take(now()), Next::Stop));
        assert_eq!(queue.take_failure(), Err(gst::FlowError::Flushing));
    }

    #[test]
    fn who_waits_is_woken_by_the_other_thread() {
        let queue = Queue::default();
        queue.put(event).expect("taken");
        assert_eq!(queue.wait(Some(now()), |len| len == 0), Ok(false));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.wait_until_empty());
            assert!(matches!(queue.take(now()), Next::Send(_)));
            queue.sent(Ok(()), || ());
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
            queue.put(event).expect("taken");
            let waiting = scope.spawn(|| queue.wait_until_empty());
            queue.flush();
            assert_eq!(waiting.join().expect("no panic"), Err(gst::FlowError::Flushing));
        });
    }
}
