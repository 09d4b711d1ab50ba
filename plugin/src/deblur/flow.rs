//! Frames on their way through: into the engine, out of it in order, and what drains or discards them.

use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, Instant};

use gst_base::{prelude::*, subclass::prelude::*};
use osdd::engine::{Engine, Output, SendError};
use osdd::frame::Frame;

use super::convert::FrameConverter;
use super::error::{self, FrameError};
use super::imp::OsddDeblur;
use super::lock;
use super::pending::{Kept, Pending, View};
use super::qos::Late;
use super::reports::StatsMessage;
use super::settings::LatePolicy;
use super::stats::count;
use crate::log::CAT;

/// Frames and events that may wait for the engine before the element waits too.
pub(super) const MAX_PENDING: usize = 16;

/// As many as may wait where a live source may not.
const MAX_PENDING_HURRIED: usize = 32;

/// How long to look for the next output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all, unless far too many frames wait already.
    No,
    /// Until the engine can take another frame.
    ForRoom,
    /// Until everything is out.
    ForAll,
}

/// What is first in the queue.
enum Front {
    InEngine { waiting: usize },
    Other(Pending),
}

impl OsddDeblur {
    pub(super) fn running_engine(&self) -> Result<Arc<Engine>, gst::FlowError> {
        if self.flushing.load(Ordering::SeqCst) {
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
        count(&self.counters.frames_in);
        self.post_stats(StatsMessage::WhenDue);

        let segment = self.obj().segment();
        let segment = segment.downcast_ref::<gst::ClockTime>();
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
        let late = match self.qos.late(running_time) {
            None => self.no_time(&engine, settings.late_policy, running_time)?,
            late => late,
        };
        if late.is_some() {
            count(&self.counters.frames_late);
        }
        match (late, settings.late_policy) {
            (Some(late), LatePolicy::Drop) => {
                let stream_time = segment.and_then(|segment| segment.to_stream_time(input.pts()));
                self.leave_out(&input, &late, stream_time);
            }
            (Some(_), LatePolicy::Passthrough) => self.pass(input, view)?,
            _ if settings.strength == 0.0 || self.is_hdr() => self.pass(input, view)?,
            _ => {
                // One gamma for one frame, whatever the controller says by the time that the engine gets to
                // it.
                let values = controlled.then_some((settings.gamma, settings.strength));
                self.send(&engine, &input, view, values)?;
            }
        }
        Ok(())
    }

    fn is_hdr(&self) -> bool {
        let stream = lock(&self.stream);
        stream.converter.as_ref().is_some_and(FrameConverter::is_hdr)
    }

    fn leave_out(&self, input: &gst::BufferRef, late: &Late, stream_time: Option<gst::ClockTime>) {
        count(&self.counters.frames_dropped);
        self.mark_next();
        let frames = |counter: &std::sync::atomic::AtomicU64| {
            gst::format::Buffers::from_u64(counter.load(Ordering::Relaxed))
        };
        let message = gst::message::Qos::builder(false)
            .src(&*self.obj())
            .running_time_if_some(late.running_time)
            .stream_time_if_some(stream_time)
            .timestamp_if_some(input.pts())
            .duration_if_some(input.duration())
            .values(late.jitter, late.proportion, 1_000_000)
            .stats(
                frames(&self.counters.frames_out),
                frames(&self.counters.frames_dropped),
            )
            .build();
        self.post(message);
    }

    /// Lets a frame leave as it came, after the frames before it.
    fn pass(&self, input: gst::Buffer, view: View) -> Result<(), gst::FlowError> {
        let passed = lock(&self.stream).pass(input, view);
        passed.map_err(|error| self.bad_frame(&error))?;
        count(&self.counters.frames_passed);
        Ok(())
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
        while engine.in_flight() >= engine.depth() {
            let Some(output) = self.next_output(Wait::ForRoom)? else {
                break;
            };
            self.push(output)?;
        }
        let copied = lock(&self.stream).copy_in(input, view);
        let (frame, kept) = copied.map_err(|error| self.bad_frame(&error))?;
        let sent = match values {
            Some((gamma, strength)) => engine.send_with(frame, gamma, strength),
            None => engine.send(frame),
        };
        match sent {
            Ok(id) => {
                let frame = Pending::InEngine { id, kept };
                lock(&self.stream).pending.push_back(frame);
                Ok(())
            }
            Err(SendError::Failed(_, error)) => Err(self.engine_failed(&error)),
            // A flush can come in between, nothing else fills the engine.
            Err(SendError::Full(_)) => Err(gst::FlowError::Flushing),
        }
    }

    /// The next buffer to send, in the order of the input; the events before it have been sent.
    pub(super) fn next_output(&self, wait: Wait) -> Result<Option<gst::Buffer>, gst::FlowError> {
        loop {
            match self.front() {
                None => return Ok(None),
                Some(Front::Other(Pending::Event(event))) => {
                    self.parent_sink_event(event);
                }
                Some(Front::Other(Pending::Untouched(buffer))) => return self.fit_layout(buffer).map(Some),
                Some(Front::Other(Pending::Compared { frame, kept })) => {
                    let copied = frame.try_clone();
                    let input = copied.map_err(|error| self.bad_frame(&error.into()))?;
                    return self.finish(frame, input, kept).map(|(buffer, _)| Some(buffer));
                }
                // `front` leaves those in the engine where they are.
                Some(Front::Other(Pending::InEngine { .. })) => return Ok(None),
                Some(Front::InEngine { waiting }) => {
                    let engine = self.running_engine()?;
                    let blocking = match wait {
                        Wait::No => waiting > MAX_PENDING_HURRIED,
                        Wait::ForRoom => waiting > MAX_PENDING || engine.in_flight() >= engine.depth(),
                        Wait::ForAll => true,
                    };
                    let received = if blocking {
                        engine.receive()
                    } else {
                        engine.try_receive()
                    };
                    return match received.map_err(|error| self.engine_failed(&error))? {
                        Some(output) => self.received(output).map(Some),
                        None if blocking => Err(gst::FlowError::Flushing),
                        None => Ok(None),
                    };
                }
            }
        }
    }

    fn front(&self) -> Option<Front> {
        let mut stream = lock(&self.stream);
        match stream.pending.front()? {
            Pending::InEngine { .. } => Some(Front::InEngine {
                waiting: stream.pending.len(),
            }),
            _ => stream.pending.pop_front().map(Front::Other),
        }
    }

    fn received(&self, output: Output) -> Result<gst::Buffer, gst::FlowError> {
        let sent = lock(&self.stream).pending.pop_front();
        let Some(Pending::InEngine { id, kept }) =
            sent.filter(|sent| matches!(sent, Pending::InEngine { id, .. } if *id == output.id))
        else {
            // What a flush discarded has come back.
            return Err(gst::FlowError::Flushing);
        };
        gst::trace!(
            CAT,
            imp = self,
            "frame {id} done in {:?} with gamma {}",
            output.times.total,
            output.gamma
        );
        if output.tiles_failed > 0 {
            self.warn_of_failed_tiles();
        }
        let converted_in = kept.converted_in;
        let (buffer, converted_out) = self.finish(output.frame, output.input, kept)?;
        let conversion = converted_in + converted_out;
        let depth = self.depth();
        if self
            .latency
            .measured(output.times.total, conversion, depth, Instant::now())
        {
            self.post(gst::message::Latency::builder().src(&*self.obj()).build());
        }
        self.warn_if_slow();
        Ok(buffer)
    }

    /// Makes the output buffer of a frame, and says how long that took. `input` is what the engine was given for it.
    fn finish(
        &self,
        frame: Frame,
        input: Frame,
        kept: Kept,
    ) -> Result<(gst::Buffer, Duration), gst::FlowError> {
        let mut buffer = self.output_buffer()?;
        // Waiting for a buffer of downstream's is not the element's time.
        let start = Instant::now();
        let copied = lock(&self.stream).copy_out(frame, input, kept, buffer.make_mut());
        let time = start.elapsed();
        copied.map_err(|error| self.bad_frame(&error))?;
        count(&self.counters.frames_out);
        Ok((buffer, time))
    }

    /// A buffer that leaves as it came, copied where downstream cannot read its strides.
    fn fit_layout(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
        count(&self.counters.frames_out);
        if self.downstream_reads_strides.load(Ordering::SeqCst) {
            return Ok(buffer);
        }
        let plain = lock(&self.stream).converter.as_ref().is_none_or(|converter| {
            let info = converter.src_info();
            buffer
                .meta::<gst_video::VideoMeta>()
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
            .map(|converter| converter.src_info().size());
        gst::Buffer::with_size(size.ok_or(gst::FlowError::NotNegotiated)?)
            .map_err(|error| self.bad_frame(&FrameError::NoMemory(error.to_string())))
    }

    /// Sends a frame. BaseTransform does not send any: it would mark whatever leaves next as the first after a gap, where
    /// the frame that it means has just come in.
    pub(super) fn push(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let segment = self.obj().segment();
        if let (Some(segment), Some(pts)) = (segment.downcast_ref::<gst::ClockTime>(), buffer.pts()) {
            let end = pts.saturating_add(buffer.duration().unwrap_or(gst::ClockTime::ZERO));
            let end = segment.stop().map_or(end, |stop| end.min(stop));
            *lock(&self.position) = segment.to_stream_time(end);
        }
        self.obj().src_pad().push(buffer)
    }

    /// Sends everything that is under way. Only for the streaming thread.
    pub(super) fn drain(&self) -> Result<(), gst::FlowError> {
        let drained = loop {
            match self.next_output(Wait::ForAll) {
                Ok(None) => break Ok(()),
                Ok(Some(output)) => {
                    if let Err(error) = self.push(output) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if drained.is_err() {
            self.discard();
        }
        drained
    }

    /// Forgets everything that is under way. Only for the streaming thread, or when there is none.
    pub(super) fn discard(&self) {
        if let Some(engine) = lock(&self.engine).as_ref() {
            engine.flush();
        }
        let discarded = std::mem::take(&mut lock(&self.stream).pending);
        // Upstream will not send these again.
        for pending in discarded {
            if let Pending::Event(event) = pending
                && event.is_sticky()
            {
                let _ = self.obj().src_pad().store_sticky_event(&event);
            }
        }
        *lock(&self.position) = None;
    }

    /// Wakes the streaming thread where it waits for the engine and keeps it from waiting again.
    pub(super) fn unblock(&self) {
        self.flushing.store(true, Ordering::SeqCst);
        if let Some(engine) = lock(&self.engine).as_ref() {
            engine.flush();
        }
    }

    /// Posts the engine's error, the first time.
    fn engine_failed(&self, error: &osdd::Error) -> gst::FlowError {
        let (model, device) = {
            let settings = lock(&self.settings);
            (settings.model.clone(), settings.device.clone())
        };
        self.fail(error::message(error, &model, &device))
    }

    /// Posts why a buffer cannot be converted, the first time.
    fn bad_frame(&self, error: &FrameError) -> gst::FlowError {
        self.fail(error.message())
    }

    /// Posts an error, the first time.
    pub(super) fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        if self.flushing.load(Ordering::SeqCst) {
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
