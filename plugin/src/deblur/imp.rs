//! The subclass of GstBaseTransform: properties, states, caps, events and queries. What happens to frames is
//! in `flow`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{
    caps,
    convert::FrameConverter,
    cuda::{self, Gpu},
    error::{self, FrameError},
    latency::Latency,
    lock,
    pending::{OnGpu, Pending, Stream},
    picture::Picture,
    qos::Qos,
    queue::{MAX_PENDING, Queue},
    reports::{StatsMessage, Warned},
    settings::{self, Compare, Settings},
    stats::{Counters, LastMessage},
};
use crate::log::CAT;
use gst_base::{
    prelude::*,
    subclass::{base_transform::GenerateOutputSuccess, prelude::*},
};
use once_cell::sync::Lazy;
use osdd::engine::{EngineInfo, Stats};

/// The bits of an address that are zero where a frame starts: 32 bytes, as AVX2 reads.
const ALIGN: usize = 31;

/// The engine, for frames in any memory.
pub(super) type Engine = osdd::engine::Engine<Picture>;

/// Nothing here is locked while the engine works or a buffer is pushed.
#[derive(Default)]
pub struct OsddDeblur {
    pub(super) settings: Mutex<Settings>,
    /// There from start to stop.
    pub(super) engine: Mutex<Option<Arc<Engine>>>,
    /// What the engine of the run before had done, from stop to start.
    pub(super) ended: Mutex<Option<(Stats, EngineInfo)>>,
    /// Locked while a frame is converted.
    pub(super) stream: Mutex<Stream>,
    pub(super) queue: Queue,
    /// The model kept a live source waiting, and has not caught up.
    pub(super) held_up: AtomicBool,
    /// Late frames pass, and the latest QoS message says so.
    pub(super) lowered: AtomicBool,
    /// Of the frames that come in, and of those that are under way: where it changes, there are none.
    pub(super) segment: Mutex<Option<gst::FormattedSegment<gst::ClockTime>>>,
    /// Where the latest frame that was sent ends, in stream time.
    pub(super) position: Mutex<Option<gst::ClockTime>>,
    /// An error has been posted; nothing works before the next start.
    pub(super) failed: AtomicBool,
    /// Downstream understands GstVideoMeta.
    pub(super) downstream_reads_strides: AtomicBool,
    pub(super) latency: Latency,
    pub(super) qos: Qos,
    pub(super) counters: Counters,
    pub(super) last_message: LastMessage,
    pub(super) warned: Warned,
}

#[glib::object_subclass]
impl ObjectSubclass for OsddDeblur {
    const NAME: &'static str = "GstOsddDeblur";
    type Type = super::OsddDeblur;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for OsddDeblur {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(settings::properties);
        &PROPERTIES
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.end_with_source_pad();
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let widened = {
            let mut settings = lock(&self.settings);
            let wide = settings.compare == Compare::SideBySide;
            settings.set(pspec.name(), value);
            // Before another thread sets something else.
            if let Some(engine) = lock(&self.engine).as_ref() {
                settings.apply(engine);
            }
            wide != (settings.compare == Compare::SideBySide)
        };
        if widened {
            let obj = self.obj();
            if obj.sink_pad().has_current_caps() {
                // Before the source of the frames fails to.
                self.tell_if_too_wide();
            }
            obj.reconfigure_src();
            obj.reconfigure_sink();
        }
        gst::info!(CAT, imp = self, "{} = {value:?}", pspec.name());
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            name => lock(&self.settings).get(name),
        }
    }
}

impl GstObjectImpl for OsddDeblur {}

impl OsddDeblur {
    /// Whether an event can wait behind frames that are under way.
    fn has_room(&self) -> bool {
        (1..MAX_PENDING).contains(&self.queue.len())
    }

    /// The GPU that the model runs on, or is going to; `None` for a CPU, and where GStreamer has no support for CUDA.
    fn gpu(&self) -> Option<&'static Gpu> {
        let running = lock(&self.engine).as_ref().map(|engine| engine.info().device);
        let device = match running {
            Some(device) => device,
            None => {
                let device = lock(&self.settings).device.parse().ok()?;
                osdd::device::resolve(device).ok()?.0
            }
        };
        Gpu::of(device)
    }

    /// Whether frames may be in a GPU's memory. Before the start caps do not look for one: it takes seconds.
    fn takes_cuda(&self) -> bool {
        let runs = lock(&self.engine).is_some();
        match runs {
            true => self.gpu().is_some(),
            false => lock(&self.settings).device != "cpu",
        }
    }

    /// A pool of the GPU's memory: downstream's, or one of the element's own.
    fn decide_on_gpu(
        &self,
        gpu: &'static Gpu,
        caps: &gst::Caps,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        let proposed = query.allocation_pools().next();
        let limits = proposed.as_ref().map_or((0, 0), |&(_, _, min, max)| (min, max));
        let is_there = proposed.is_some();
        let downstreams = proposed
            .and_then(|(pool, size, ..)| Some((pool?, size)))
            .filter(|(pool, _)| gpu.is_pool(pool));
        let (pool, size) = match downstreams {
            Some(pool) => pool,
            None => gpu
                .pool(caps, limits)
                .map_err(|error| gst::loggable_error!(CAT, "no pool of the GPU's memory: {error}"))?,
        };
        match is_there {
            true => query.set_nth_allocation_pool(0, Some(&pool), size, limits.0, limits.1),
            false => query.add_allocation_pool(Some(&pool), size, limits.0, limits.1),
        }
        self.parent_decide_allocation(query)
    }

    /// Says why frames cannot go on, where it is because pictures side by side are wider than others.
    fn tell_if_too_wide(&self) {
        if lock(&self.settings).compare != Compare::SideBySide {
            return;
        }
        let obj = self.obj();
        let taken = obj.src_pad().peer_query_caps(Some(&caps::TEMPLATE));
        let given = obj.sink_pad().peer_query_caps(Some(&caps::TEMPLATE));
        if !given.can_intersect(&caps::side_by_side(gst::PadDirection::Src, &taken)) {
            let _ = self.fail(gst::error_msg!(
                gst::CoreError::Negotiation,
                ("Pictures side by side are twice as wide as the input, which the elements after osdddeblur do not take. Leave the width open there, or set \"compare\" to split."),
                ["{given} is not half as wide as {taken}"]
            ));
        }
    }

    /// A click as upstream sees it: beside the output the input is shown, and both are the same picture.
    fn on_input(&self, event: gst::Event) -> gst::Event {
        let width = self.obj().sink_pad().current_caps();
        let width = width.and_then(|caps| caps.structure(0)?.get::<i32>("width").ok());
        let (Some(structure), Some(width)) = (event.structure(), width) else {
            return event;
        };
        match structure.get::<f64>("pointer_x") {
            Ok(x) if lock(&self.settings).compare == Compare::SideBySide && x >= f64::from(width) => {
                let mut moved = structure.to_owned();
                moved.set("pointer_x", x - f64::from(width));
                gst::event::Navigation::builder(moved)
                    .seqnum(event.seqnum())
                    .build()
            }
            _ => event,
        }
    }
}

impl ElementImpl for OsddDeblur {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "One-step diffusion deblurring",
                "Filter/Effect/Video",
                "Removes motion blur from video with a one-step diffusion model",
                "The osdd developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static PAD_TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .into_iter()
                .filter_map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps::TEMPLATE).ok()
                })
                .collect()
        });
        &PAD_TEMPLATES
    }
}

impl BaseTransformImpl for OsddDeblur {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    /// The model is loaded here, so that a pipeline with a model that is not there never starts.
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        // Of the run before, also where this one does not begin.
        self.counters.reset();
        *lock(&self.ended) = None;
        let settings = lock(&self.settings).clone();
        let engine = settings
            .engine_config()
            .and_then(Engine::of_pictures)
            .map_err(|error| error::message(&error, &settings.model, &settings.device))?;
        let info = engine.info();
        gst::info!(
            CAT,
            imp = self,
            "model {} on {} in {:?}",
            info.model,
            info.device,
            info.precision
        );

        {
            // What was set while the model was being loaded.
            let settings = lock(&self.settings);
            settings.apply(&engine);
            *lock(&self.engine) = Some(Arc::new(engine));
        }
        *lock(&self.stream) = Stream::default();
        *lock(&self.segment) = None;
        *lock(&self.position) = None;
        self.latency.reset();
        self.qos.reset();
        self.last_message.reset();
        self.warned.reset();
        self.held_up.store(false, Ordering::Relaxed);
        self.lowered.store(false, Ordering::Relaxed);
        self.failed.store(false, Ordering::SeqCst);
        self.queue.reset();
        if let Some(gpu) = self.gpu() {
            // For elements that cannot ask this one, as decoders that `decodebin` has not linked yet: bins pass it on.
            let context = gst::message::HaveContext::builder(gpu.context());
            self.post(context.src(&*self.obj()).build());
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        // The streaming thread may have started it again while its pad was being stopped.
        let _ = self.obj().src_pad().stop_task();
        self.queue.reset();
        *lock(&self.stream) = Stream::default();
        // Ends the engine's thread and gives the model back where no other element uses it.
        let engine = lock(&self.engine).take();
        *lock(&self.ended) = engine.map(|engine| (engine.stats(), engine.info().clone()));
        gst::info!(CAT, imp = self, "stopped");
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let other = match lock(&self.settings).compare {
            Compare::SideBySide => caps::side_by_side(direction, caps),
            Compare::Off | Compare::Split => caps.clone(),
        };
        let other = match self.takes_cuda() {
            true => other,
            false => caps::without_cuda(&other),
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&other, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn set_caps(&self, incaps: &gst::Caps, outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        // Frames of the old caps leave under the old caps. Where they cannot, the next buffer learns why.
        if let Err(error) = self.drain() {
            gst::debug!(CAT, imp = self, "draining before new caps: {error}");
        }
        let info = |caps: &gst::Caps| {
            gst_video::VideoInfo::from_caps(caps)
                .map_err(|error| gst::loggable_error!(CAT, "caps {caps} are not understood: {error}"))
        };
        let (sink_info, src_info) = (info(incaps)?, info(outcaps)?);
        let wide = src_info.width() != sink_info.width();
        if let Some(message) = caps::refusal(incaps, &sink_info, wide) {
            // Once, though every frame negotiates again.
            let _ = self.fail(message);
            return Err(gst::loggable_error!(CAT, "{incaps} are refused"));
        }
        let converter = FrameConverter::new(&sink_info, &src_info).map_err(|error| {
            if matches!(error, FrameError::NoMemory(_)) {
                let _ = self.fail(error.message());
            }
            gst::loggable_error!(CAT, "caps {incaps} cannot be converted: {error}")
        })?;
        if converter.is_hdr() {
            self.warn_of_hdr(incaps);
        }
        let gpu = self
            .gpu()
            .filter(|_| cuda::is_cuda(incaps) && cuda::is_cuda(outcaps));
        let gpu = gpu.and_then(|gpu| OnGpu::new(gpu, &sink_info));
        if cuda::is_cuda(incaps) && gpu.is_none() {
            gst::info!(CAT, imp = self, "frames of {incaps} go through the CPU's memory");
        }
        lock(&self.stream).set_converter(converter, wide, gpu);
        gst::debug!(CAT, imp = self, "caps {incaps} to {outcaps}");
        // An application that ignores latency messages never asks.
        let mut upstream = gst::query::Latency::new();
        if self.obj().sink_pad().peer_query(&mut upstream) {
            self.latency.set_live(upstream.result().0);
        }
        self.latency.set_rate_of(&sink_info);
        if self.latency.announces(self.frames_ahead(), Instant::now()) {
            self.post(gst::message::Latency::builder().src(&*self.obj()).build());
        }
        Ok(())
    }

    fn unit_size(&self, caps: &gst::Caps) -> Option<usize> {
        gst_video::VideoInfo::from_caps(caps).ok().map(|info| info.size())
    }

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.parent_propose_allocation(decide_query, query)?;
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        if query.allocation_params().next().is_none() {
            // Conversions are faster where rows start at a vector's address.
            let aligned = gst::AllocationParams::new(gst::MemoryFlags::empty(), ALIGN, 0, 0);
            query.add_allocation_param(None::<&gst::Allocator>, aligned);
        }
        // Frames that pass are upstream's own buffers, so its pool needs those that downstream keeps.
        let kept = decide_query.and_then(|decided| decided.allocation_pools().next());
        let (_, size, min, _) = kept.unwrap_or_default();
        let min = match lock(&self.settings).compare {
            Compare::SideBySide => 0,
            Compare::Off | Compare::Split => min,
        };
        let (caps, wants_pool) = query.get_owned();
        match self.gpu().zip(caps.filter(|caps| cuda::is_cuda(caps))) {
            Some((gpu, caps)) if wants_pool => {
                let pool = gpu.pool(&caps, (min, 0));
                let (pool, size) =
                    pool.map_err(|error| gst::loggable_error!(CAT, "no pool of the GPU's memory: {error}"))?;
                query.add_allocation_pool(Some(&pool), size, min, 0);
            }
            _ if min > 0 => query.add_allocation_pool(None::<&gst::BufferPool>, size, min, 0),
            _ => {}
        }
        Ok(())
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        // Frames of the old pool leave before it goes.
        if let Err(error) = self.drain() {
            gst::debug!(CAT, imp = self, "draining before new buffers: {error}");
        }
        let (caps, _) = query.get_owned();
        let on_gpu = caps.as_ref().is_some_and(|caps| cuda::is_cuda(caps));
        // In a GPU's memory rows are always further apart.
        let reads_strides = on_gpu || query.find_allocation_meta::<gst_video::VideoMeta>().is_some();
        self.downstream_reads_strides
            .store(reads_strides, Ordering::SeqCst);
        if let Some((gpu, caps)) = self.gpu().filter(|_| on_gpu).zip(caps.as_ref()) {
            return self.decide_on_gpu(gpu, caps, query);
        }
        let size = caps
            .as_ref()
            .and_then(|caps| self.unit_size(caps))
            .unwrap_or_default() as u32;
        let proposed = query.allocation_pools().next();
        let (pool, size, min, max) = match proposed {
            Some((ref pool, pool_size, min, max)) => (pool.clone(), size.max(pool_size), min, max),
            None => (None, size, 0, 0),
        };
        let pool = pool.unwrap_or_else(|| gst_video::VideoBufferPool::new().upcast());
        if reads_strides {
            let mut config = pool.config();
            config.set_params(caps.as_ref(), size, min, max);
            config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META.as_str());
            // A pool that refuses is configured, or replaced, by the parent.
            let _ = pool.set_config(config);
        }
        match proposed {
            Some(_) => query.set_nth_allocation_pool(0, Some(&pool), size, min, max),
            None => query.add_allocation_pool(Some(&pool), size, min, max),
        }
        self.parent_decide_allocation(query)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        use gst::EventView;

        match event.view() {
            EventView::FlushStart(_) => {
                self.queue.flush();
                self.flush_engine();
                self.parent_sink_event(event)
            }
            EventView::FlushStop(_) => {
                self.discard();
                self.qos.reset();
                self.queue.resume();
                // What was being sent has been.
                *lock(&self.segment) = None;
                *lock(&self.position) = None;
                self.parent_sink_event(event)
            }
            // `set_caps` drains, if the caps are others.
            EventView::Caps(_) => {
                let taken = self.parent_sink_event(event);
                if !taken {
                    self.tell_if_too_wide();
                }
                taken
            }
            // They keep their place in the queue, so that a stream full of them is not slowed down.
            EventView::Tag(_) | EventView::Toc(_) | EventView::Gap(_) | EventView::CustomDownstream(_)
                if self.has_room() =>
            {
                self.queue.put(|| Ok(Pending::Event(event))).is_ok()
            }
            _ if event.is_serialized() => {
                let drained = self.drain();
                if let Err(error) = drained {
                    gst::debug!(CAT, imp = self, "draining before {:?}: {error}", event.type_());
                }
                if matches!(
                    event.view(),
                    EventView::StreamStart(_) | EventView::Segment(_) | EventView::Eos(_)
                ) {
                    // What became of the frames before is nothing to those that follow.
                    let _ = self.queue.take_failure();
                    self.tell_at_the_end(drained);
                }
                match event.view() {
                    EventView::Eos(_) => self.post_stats(StatsMessage::Last),
                    EventView::Segment(segment) => {
                        *lock(&self.segment) = segment.segment().downcast_ref().cloned();
                        *lock(&self.position) = None;
                    }
                    _ => {}
                }
                self.parent_sink_event(event)
            }
            _ => self.parent_sink_event(event),
        }
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Qos(qos) => {
                let (_, proportion, diff, timestamp) = qos.get();
                self.qos.update(proportion, diff, timestamp);
                self.parent_src_event(event)
            }
            gst::EventView::Navigation(_) => self.parent_src_event(self.on_input(event)),
            _ => self.parent_src_event(event),
        }
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        // What is serialized comes after the frames before it; an allocation concerns none of them.
        if direction == gst::PadDirection::Sink
            && query.is_serialized()
            && query.type_() != gst::QueryType::Allocation
            && let Err(error) = self.drain()
        {
            gst::debug!(CAT, imp = self, "draining for a query: {error}");
        }
        match (direction, query.view_mut()) {
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(latency)) => {
                if !self.obj().sink_pad().peer_query(latency) {
                    return false;
                }
                let (live, min, max) = latency.result();
                self.latency.set_live(live);
                let added = self.latency.added(self.frames_ahead());
                gst::debug!(CAT, imp = self, "latency: live {live}, min {min} + {added}");
                latency.set(
                    live,
                    min.saturating_add(added),
                    max.map(|max| max.saturating_add(added)),
                );
                true
            }
            (_, gst::QueryViewMut::Context(context)) if context.context_type() == cuda::CONTEXT_TYPE => {
                match self.gpu() {
                    Some(gpu) => {
                        context.set_context(&gpu.context());
                        true
                    }
                    None => BaseTransformImplExt::parent_query(self, direction, query),
                }
            }
            (_, gst::QueryViewMut::Position(position)) if position.format() == gst::Format::Time => {
                let sent = *lock(&self.position);
                match sent {
                    Some(time) => {
                        position.set(time);
                        true
                    }
                    None => BaseTransformImplExt::parent_query(self, direction, query),
                }
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn submit_input_buffer(
        &self,
        is_discont: bool,
        inbuf: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Negotiates, and drops late frames where the user has switched on `qos`.
        let submitted = self.parent_submit_input_buffer(is_discont, inbuf);
        if submitted == Err(gst::FlowError::NotNegotiated) {
            self.tell_if_too_wide();
        }
        let submitted = submitted?;
        match self.take_queued_buffer() {
            Some(input) => {
                let accepted = self.accept(input);
                if accepted.is_err() {
                    // Said now, and not again.
                    let _ = self.queue.take_failure();
                }
                accepted?;
            }
            None => self.mark_next(),
        }
        Ok(submitted)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        // The source pad's thread sends it.
        Ok(GenerateOutputSuccess::NoOutput)
    }
}
