//! Frames on their way through: into the engine on the streaming thread, out of it in order on the source pad's, and what
//! drains or discards them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, Instant};

use gst_base::{prelude::*, subclass::prelude::*};
use osdd::engine::{Output, Picture as _};

use super::convert::FrameConverter;
use super::error::{self, FrameError};
use super::imp::{Engine, OsddDeblur};
use super::pending::{Kept, Pending, View};
use super::picture::Picture;
use super::queue::{MAX_PENDING, Next};
use super::reports::StatsMessage;
use super::settings::LatePolicy;
use super::stats::count;
use super::{layout, lock};
use crate::log::CAT;

/// How long the source pad's thread sleeps where nothing happens; then it looks whether a message with statistics is due.
const LOOK_UP: Duration = Duration::from_secs(1);

impl OsddDeblur {
    pub(super) fn running_engine(&self) -> Result<Arc<Engine>, gst::FlowError> {
        if self.queue.is_flushing() {
            return Err(gst::FlowError::Flushing);
        }
        if self.failed.load(Ordering::SeqCst) {
            return Err(gst::FlowError::Error);
        }
        lock(&self.engine).clone().ok_or(gst::FlowError::Flushing)
    }

    /// Takes a buffer from upstream: to the engine, past it, or nowhere.
    pub(super) fn accept(&self, input: gst::Buffer) -> Result<(), gst::FlowError> {
        let engine = self.running_engine()?;
        self.queue.take_failure()?;
        self.start_sending()?;
        count(&self.counters.frames_in);
        self.post_stats(StatsMessage::WhenDue);

        let segment = lock(&self.segment).clone();
        let segment = segment.as_ref();
        let controlled = self.obj().has_active_control_bindings();
        if let (true, Some(time)) = (
            controlled,
            segment.and_then(|segment| segment.to_stream_time(input.pts())),
        ) {
            // Fails only where a control source has no value for this time: the property keeps its own.
            let _ = self.obj().sync_values(time);
        }
        let settings = lock(&self.settings).clone();
        let view = View::of(&settings);

        let running_time = segment.and_then(|segment| segment.to_running_time(input.pts()));
        let needs_model = settings.strength != 0.0 && !self.is_hdr();
        let late = match needs_model {
            true => self.late_for_model(&engine, settings.late_policy, running_time)?,
            false => self.qos.late(running_time, gst::ClockTime::ZERO),
        };
        if late.is_some() {
            count(&self.counters.frames_late);
        }
        let stream_time = || segment.and_then(|segment| segment.to_stream_time(input.pts()));
        match (late, settings.late_policy) {
            (Some(late), LatePolicy::Drop) => self.leave_out(&input, &late, stream_time()),
            (Some(late), LatePolicy::Passthrough) if self.is_full_behind_model(&engine) => {
                self.leave_out(&input, &late, stream_time());
            }
            (Some(late), LatePolicy::Passthrough) => {
                self.lower_quality(&input, &late, stream_time());
                self.pass(input, view)?;
            }
            _ if !needs_model => self.pass(input, view)?,
            _ => {
                // One gamma for one frame, whatever the controller says by the time that the engine gets to
                // it.
                let values = controlled.then_some((settings.gamma, settings.strength));
                self.restore_quality(&input, running_time, stream_time());
                self.send(&engine, &input, view, values)?;
            }
        }
        Ok(())
    }

    fn is_hdr(&self) -> bool {
        let stream = lock(&self.stream);
        stream.converter.as_ref().is_some_and(FrameConverter::is_hdr)
    }

    /// Lets a frame leave as it came, after the frames before it.
    fn pass(&self, input: gst::Buffer, view: View) -> Result<(), gst::FlowError> {
        self.queue.wait(None, |waiting| waiting < MAX_PENDING)?;
        // Nothing else comes in meanwhile.
        let at_once = self.queue.len() == 0;
        let passed = lock(&self.stream).pass(input, view, at_once);
        let passed = passed.map_err(|error| self.bad_frame(&error))?;
        count(&self.counters.frames_passed);
        if at_once {
            self.send_out(passed)
        } else {
            self.queue.put(|| Ok(passed))
        }
    }

    /// Starts the source pad's thread, if it does not run.
    fn start_sending(&self) -> Result<(), gst::FlowError> {
        let element = self.obj();
        let src_pad = element.src_pad();
        if src_pad.task_state() == gst::TaskState::Started {
            return Ok(());
        }
        let element = element.downgrade();
        let send = move || {
            if let Some(element) = element.upgrade() {
                element.imp().send_next();
            }
        };
        let started = osdd::threads::are_given(1) && src_pad.start_task(send).is_ok();
        match started {
            true => Ok(()),
            false => Err(self.fail(error::no_threads("for the one that sends frames"))),
        }
    }

    /// A frame was left out: the next one is the first after a gap.
    pub(super) fn mark_next(&self) {
        lock(&self.stream).discont = true;
    }

    fn send(
        &self,
        engine: &Engine,
        input: &gst::BufferRef,
        view: View,
        values: Option<(f64, f64)>,
    ) -> Result<(), gst::FlowError> {
        let lacking = lock(&self.stream).lacks_room_on_gpu(input, view);
        let made = lacking.map(|(gpu, layout)| gpu.new_frame(&layout));
        let made = made.transpose().map_err(|error| self.bad_frame(&error))?;
        let copied = {
            let mut stream = lock(&self.stream);
            if let Some(frame) = made {
                stream.add_room_on_gpu(frame);
            }
            stream.copy_in(input, view)
        };
        let (frame, kept) = copied.map_err(|error| self.bad_frame(&error))?;
        let room = self.queue.wait(None, |waiting| {
            waiting < MAX_PENDING && engine.in_flight() < engine.depth()
        });
        let mut failure = None;
        let work = || {
            let sent = match values {
                Some((gamma, strength)) => engine.send_with(frame, gamma, strength),
                None => engine.send(frame),
            };
            match sent {
                Ok(id) => Ok(Pending::InEngine { id, kept }),
                Err(error) => {
                    failure = Some(error.into());
                    Err(gst::FlowError::Error)
                }
            }
        };
        let put = room.and_then(|_| self.queue.put(work));
        if put.is_err() {
            // This one does not leave.
            self.mark_next();
        }
        let Some(error) = failure else {
            return put;
        };
        // The engine has stopped with an earlier frame. Those before that leave, and the source pad's thread says why it has not.
        self.queue.wait_until_empty()?;
        Err(self.engine_failed(&error))
    }

    /// What the source pad's thread does, again and again.
    fn send_next(&self) {
        match self.queue.take(Instant::now() + LOOK_UP) {
            Next::Send(pending) => {
                // A panic must not leave others waiting for this thread.
                let sent = catch_unwind(AssertUnwindSafe(|| self.send_out(pending)));
                let sent = sent.unwrap_or_else(|_| {
                    Err(self.fail(gst::error_msg!(
                        gst::LibraryError::Failed,
                        ("Sending a frame failed."),
                        ["a panic; standard error says where"]
                    )))
                });
                if let Err(error) = sent {
                    gst::debug!(CAT, imp = self, "sending: {error}");
                    self.mark_next();
                }
                let forgotten = self.queue.sent(sent, || self.flush_engine());
                self.keep_sticky(forgotten);
            }
            Next::Nothing => self.post_stats(StatsMessage::WhenDue),
            Next::Stop => {
                let _ = self.obj().src_pad().pause_task();
            }
        }
    }

    /// Sends what is first, once it is done.
    fn send_out(&self, pending: Pending) -> Result<(), gst::FlowError> {
        let buffer = match pending {
            Pending::Event(event) => {
                // One that nobody handles is no failure.
                self.obj().src_pad().push_event(event);
                return Ok(());
            }
            Pending::Untouched(buffer) => self.fit_layout(buffer)?,
            Pending::Compared { frame, kept } => {
                let copied = frame.try_clone();
                let input = copied.map_err(|error| self.bad_frame(&error.into()))?;
                self.finish(frame, input, kept)?.0
            }
            Pending::InEngine { id, kept } => self.received(self.receive(id)?, kept)?,
        };
        self.push(buffer)?;
        count(&self.counters.frames_out);
        Ok(())
    }

    /// Waits for a frame in the engine.
    fn receive(&self, id: u64) -> Result<Output<Picture>, gst::FlowError> {
        loop {
            let engine = self.running_engine()?;
            let received = engine.receive_deadline(Instant::now() + LOOK_UP);
            match received.map_err(|error| self.engine_failed(&error))? {
                Some(output) => {
                    // There is room in the engine.
                    self.queue.notify();
                    // Only what a flush discarded comes out of turn.
                    return if output.id == id {
                        Ok(output)
                    } else {
                        Err(gst::FlowError::Flushing)
                    };
                }
                None if engine.in_flight() == 0 => return Err(gst::FlowError::Flushing),
                None => self.post_stats(StatsMessage::WhenDue),
            }
        }
    }

    fn received(&self, output: Output<Picture>, kept: Kept) -> Result<gst::Buffer, gst::FlowError> {
        gst::trace!(
            CAT,
            imp = self,
            "frame {} done in {:?} with gamma {}",
            output.id,
            output.times.total,
            output.gamma
        );
        if output.tiles_failed > 0 {
            self.warn_of_failed_tiles();
        }
        let converted_in = kept.converted_in;
        let (buffer, converted_out) = self.finish(output.frame, output.input, kept)?;
        let conversions = converted_in + converted_out;
        self.latency.measured(output.times.total, conversions);
        self.counters.converted(conversions);
        if self.latency.announces(self.frames_ahead(), Instant::now()) {
            self.post(gst::message::Latency::builder().src(&*self.obj()).build());
        }
        self.warn_if_slow();
        Ok(buffer)
    }

    /// Makes the output buffer of a frame, and says how long that took. `input` is what the engine was given for it.
    fn finish(
        &self,
        frame: Picture,
        input: Picture,
        kept: Kept,
    ) -> Result<(gst::Buffer, Duration), gst::FlowError> {
        let mut buffer = self.output_buffer()?;
        // Waiting for a buffer of downstream's, or for a frame that is converted meanwhile, is not the element's time.
        let mut stream = lock(&self.stream);
        let start = Instant::now();
        let copied = stream.copy_out(frame, input, kept, buffer.make_mut());
        let time = start.elapsed();
        drop(stream);
        copied.map_err(|error| self.bad_frame(&error))?;
        Ok((buffer, time))
    }

    /// A buffer that leaves as it came, copied where downstream cannot read its strides.
    fn fit_layout(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
        if self.downstream_reads_strides.load(Ordering::SeqCst) {
            return Ok(buffer);
        }
        let plain = lock(&self.stream).converter.as_ref().is_none_or(|converter| {
            let info = converter.pad_info();
            layout::meta(&buffer)
                .is_none_or(|meta| meta.stride() == info.stride() && meta.offset() == info.offset())
        });
        if plain {
            return Ok(buffer);
        }
        let mut copy = self.output_buffer()?;
        let copied = lock(&self.stream).copy_across(&buffer, copy.make_mut());
        copied.map_err(|error| self.bad_frame(&error))?;
        Ok(copy)
    }

    fn output_buffer(&self) -> Result<gst::Buffer, gst::FlowError> {
        if let Some(pool) = self.obj().buffer_pool() {
            // BaseTransform does this only for the output that it makes itself. An active pool stays as it
            // is.
            pool.set_active(true).map_err(|error| {
                self.fail(gst::error_msg!(
                    gst::ResourceError::Settings,
                    ("The buffer pool of the element after osdddeblur does not start."),
                    ["{error}"]
                ))
            })?;
            return pool.acquire_buffer(None);
        }
        let size = lock(&self.stream)
            .converter
            .as_ref()
            .map(|converter| converter.pad_info().size());
        gst::Buffer::with_size(size.ok_or(gst::FlowError::NotNegotiated)?)
            .map_err(|error| self.bad_frame(&FrameError::NoMemory(error.to_string())))
    }

    /// Sends a frame. BaseTransform does not send any: it would mark whatever leaves next as the first after a gap, where
    /// the frame that it means has just come in.
    pub(super) fn push(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        if let (Some(segment), Some(pts)) = (&*lock(&self.segment), buffer.pts()) {
            let end = pts.saturating_add(buffer.duration().unwrap_or(gst::ClockTime::ZERO));
            let end = segment.stop().map_or(end, |stop| end.min(stop));
            *lock(&self.position) = segment.to_stream_time(end);
        }
        self.obj().src_pad().push(buffer)
    }

    /// Waits until everything that is under way has left. Only for the streaming thread.
    pub(super) fn drain(&self) -> Result<(), gst::FlowError> {
        self.queue.wait_until_empty()
    }

    /// No frame comes any more that upstream could learn from what became of the last ones.
    pub(super) fn tell_at_the_end(&self, drained: Result<(), gst::FlowError>) {
        use gst::FlowError::{Eos, Flushing, NotLinked};

        if let Err(error) = drained
            && !matches!(error, Eos | Flushing | NotLinked)
        {
            let _ = self.fail(gst::error_msg!(
                gst::StreamError::Failed,
                ("The last frames did not get through."),
                ["streaming stopped, reason {error}"]
            ));
        }
    }

    /// Forgets everything that is under way.
    pub(super) fn discard(&self) {
        let discarded = self.queue.discard(|| self.flush_engine());
        self.keep_sticky(discarded);
        *lock(&self.position) = None;
    }

    /// Upstream will not send these events again.
    fn keep_sticky(&self, discarded: VecDeque<Pending>) {
        for pending in discarded {
            if let Pending::Event(event) = pending
                && event.is_sticky()
            {
                let _ = self.obj().src_pad().store_sticky_event(&event);
            }
        }
    }

    /// Empties the engine, and wakes who waits for it.
    pub(super) fn flush_engine(&self) {
        if let Some(engine) = lock(&self.engine).as_ref() {
            engine.flush();
        }
    }

    /// Posts the engine's error, the first time.
    fn engine_failed(&self, error: &osdd::Error) -> gst::FlowError {
        let model = lock(&self.settings).model.clone();
        let running = lock(&self.engine).as_ref().map(|engine| engine.info().device);
        let device = running.unwrap_or_default().to_string();
        self.fail(error::message(error, &model, &device))
    }

    /// Posts why a buffer cannot be converted, the first time.
    fn bad_frame(&self, error: &FrameError) -> gst::FlowError {
        self.fail(error.message())
    }

    /// Posts an error, the first time.
    pub(super) fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        if self.queue.is_flushing() {
            return gst::FlowError::Flushing;
        }
        if !self.failed.swap(true, Ordering::SeqCst) {
            self.post_error_message(message);
        }
        gst::FlowError::Error
    }

    /// Posts a message; without a bus nobody wants it.
    pub(super) fn post(&self, message: gst::Message) {
        let _ = self.obj().post_message(message);
    }
}
