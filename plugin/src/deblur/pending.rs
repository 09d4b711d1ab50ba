//! What waits for its turn to leave, and how frames are copied in and out.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::buffer::BufferMetaForeachAction;
use gst::prelude::*;

use gst_video::video_meta::tags;
use osdd::compare;

use super::{
    convert::FrameConverter,
    cuda::{CudaFrame, Gpu, Layout},
    error::FrameError,
    fields,
    picture::Picture,
    settings::{Compare, Settings},
};

/// Everything of a buffer but its memory, for the output that is made from it.
///
/// The input itself is not kept: upstream's pool may own only a few buffers and would wait for them forever.
pub(crate) struct Metadata(gst::Buffer);

impl Metadata {
    /// # Errors
    ///
    /// A meta cannot be copied.
    pub fn of(buffer: &gst::BufferRef) -> Result<Self, glib::BoolError> {
        let mut kept = gst::Buffer::new();
        let metadata = kept.make_mut();
        let flags =
            gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        buffer.copy_into(metadata, flags, ..)?;
        // These describe or hold the memory that stays behind.
        while let Some(meta) = metadata.meta_mut::<gst_video::VideoMeta>() {
            meta.remove()
                .map_err(|_| glib::bool_error!("cannot leave out a video meta"))?;
        }
        while let Some(meta) = metadata.meta_mut::<gst::ParentBufferMeta>() {
            meta.remove()
                .map_err(|_| glib::bool_error!("cannot leave out a parent buffer meta"))?;
        }
        Ok(Self(kept))
    }

    /// Leaves out what describes the size or the direction of a picture that is to become the left half of a wider one.
    /// Regions of interest lie in it as they did.
    pub fn forget_whole_picture(&mut self) {
        let regions = gst_video::VideoRegionOfInterestMeta::meta_api();
        self.0.make_mut().foreach_meta_mut(|meta| {
            let tagged = meta.has_tag::<tags::Size>() || meta.has_tag::<tags::Orientation>();
            ControlFlow::Continue(if tagged && meta.api() != regions {
                BufferMetaForeachAction::Remove
            } else {
                BufferMetaForeachAction::Keep
            })
        });
    }

    /// What the model has worked on is no filler.
    pub fn unset_gap(&mut self) {
        self.0.make_mut().unset_flags(gst::BufferFlags::GAP);
    }

    /// Marks the buffer as the first after a gap.
    pub fn set_discont(&mut self) {
        self.0.make_mut().set_flags(gst::BufferFlags::DISCONT);
    }

    /// # Errors
    ///
    /// A meta cannot be copied.
    pub fn copy_to(&self, buffer: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        let flags =
            gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        self.0.copy_into(buffer, flags, ..)
    }
}

/// What is kept of a frame while the model works on it.
pub(crate) struct Kept {
    pub metadata: Metadata,
    /// What it is to look like.
    pub view: View,
    /// The time that it took to convert it for the model.
    pub converted_in: Duration,
    /// Its samples, where the converter wants them.
    pub original: Option<Vec<u8>>,
    /// The model got its fields apart.
    pub fields: bool,
}

/// One thing in the order of the stream.
pub(crate) enum Pending {
    /// A frame that the engine works on, under the engine's number for it.
    InEngine { id: u64, kept: Kept },
    /// A frame that leaves as it came.
    Untouched(gst::Buffer),
    /// A frame that leaves as it came, but compared with itself.
    Compared { frame: Picture, kept: Kept },
    /// A serialized event.
    Event(gst::Event),
}

/// How input and output are shown together where the output is as wide as the input, and whether they are named.
#[derive(Clone, Copy)]
pub(crate) struct View {
    /// Where the picture is parted, from the left in 0..=1.
    pub split_at: Option<f64>,
    pub labels: bool,
}

impl View {
    pub fn of(settings: &Settings) -> Self {
        Self {
            split_at: (settings.compare == Compare::Split).then_some(settings.compare_position),
            labels: settings.compare_labels,
        }
    }
}

/// What frames are converted with: by the streaming thread on their way in, by the source pad's on their way out.
#[derive(Default)]
pub(crate) struct Stream {
    pub converter: Option<FrameConverter>,
    /// The output shows input and output side by side.
    pub wide: bool,
    /// A frame was left out, so the next one is marked.
    pub discont: bool,
    spare: Vec<Vec<u8>>,
    gpu: Option<OnGpu>,
}

/// Where frames that are in a GPU's memory stay there.
pub(crate) struct OnGpu {
    gpu: &'static Gpu,
    /// How they lie in memory of the element's own.
    layout: Arc<Layout>,
    spare: Vec<CudaFrame>,
    /// For copies of frames that pass, once there are some.
    pool: Option<gst::BufferPool>,
}

impl OnGpu {
    /// `None` where frames of this kind cannot stay there.
    pub fn new(gpu: &'static Gpu, info: &gst_video::VideoInfo) -> Option<Self> {
        Some(Self {
            gpu,
            layout: Arc::new(Layout::of(info)?),
            spare: Vec::new(),
            pool: None,
        })
    }

    /// Keeps memory for another frame.
    fn keep(&mut self, frame: CudaFrame) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(frame);
        }
    }

    /// A buffer for a frame.
    fn buffer(&mut self) -> Result<gst::Buffer, FrameError> {
        let pool = match &self.pool {
            Some(pool) => pool,
            None => {
                let (pool, _) = self.gpu.pool(&self.layout.info().to_caps()?, (0, 0))?;
                pool.set_active(true)?;
                self.pool.insert(pool)
            }
        };
        let buffer = pool.acquire_buffer(None);
        buffer.map_err(|error| FrameError::NoMemory(format!("a buffer in the GPU's memory: {error}")))
    }
}

impl Drop for OnGpu {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            // Its buffers that are elsewhere come back first.
            let _ = pool.set_active(false);
        }
    }
}

/// Spare frames beyond this many are given back: what one frame of the engine needs, and two wide ones.
const MAX_SPARE: usize = 5;

impl Stream {
    /// Copies a buffer for the engine, and what its output will need of it.
    ///
    /// # Errors
    ///
    /// There are no caps yet, or the buffer does not fit them.
    pub fn copy_in(&mut self, input: &gst::BufferRef, view: View) -> Result<(Picture, Kept), FrameError> {
        let room = match self.stays(view) {
            true => self.room_on_gpu(input)?,
            false => None,
        };
        let start = Instant::now();
        let (picture, original, fields) = match room {
            Some((gpu, mut frame)) => {
                gpu.read(input, &mut frame)?;
                (Picture::Cuda(frame), None, false)
            }
            None => self.convert_in(input)?,
        };
        let mut metadata = Metadata::of(input)?;
        metadata.unset_gap();
        if self.wide {
            metadata.forget_whole_picture();
        }
        if std::mem::take(&mut self.discont) {
            metadata.set_discont();
        }
        Ok((
            picture,
            Kept {
                metadata,
                view,
                converted_in: start.elapsed(),
                original,
                fields,
            },
        ))
    }

    /// Where a frame is to stay in the GPU's memory and there is none to spare: what makes some, which waits for the model and is
    /// not for who holds this.
    pub fn lacks_room_on_gpu(
        &self,
        input: &gst::BufferRef,
        view: View,
    ) -> Option<(&'static Gpu, Arc<Layout>)> {
        let on_gpu = self.gpu.as_ref().filter(|_| self.stays(view))?;
        let lacks = on_gpu.spare.is_empty() && on_gpu.gpu.has(input);
        lacks.then(|| (on_gpu.gpu, on_gpu.layout.clone()))
    }

    /// Takes over what was made.
    pub fn add_room_on_gpu(&mut self, frame: CudaFrame) {
        if let Some(on_gpu) = &mut self.gpu {
            on_gpu.keep(frame);
        }
    }

    /// Whether a frame of a GPU's memory is not needed elsewhere: pictures are compared in the CPU's.
    fn stays(&self, view: View) -> bool {
        !self.wide && view.split_at.is_none()
    }

    /// Where a frame is in the GPU's memory and can stay there, memory for it.
    fn room_on_gpu(
        &mut self,
        input: &gst::BufferRef,
    ) -> Result<Option<(&'static Gpu, CudaFrame)>, FrameError> {
        let Some(OnGpu {
            gpu, layout, spare, ..
        }) = &mut self.gpu
        else {
            return Ok(None);
        };
        if !gpu.has(input) {
            return Ok(None);
        }
        let frame = match spare.pop() {
            Some(frame) => frame,
            None => gpu.new_frame(layout)?,
        };
        Ok(Some((gpu, frame)))
    }

    /// A frame converted, its samples where the converter wants them, and whether its fields are apart.
    fn convert_in(&mut self, input: &gst::BufferRef) -> Result<(Picture, Option<Vec<u8>>, bool), FrameError> {
        let (first, second) = (self.take_spare(), self.take_spare());
        let converter = self
            .converter
            .as_ref()
            .ok_or_else(|| glib::bool_error!("a frame before its caps"))?;
        let fields = converter.has_fields(input);
        let (mut frame, original) = converter.read_frame(input, [first, second])?;
        if fields {
            let apart = fields::separate(&frame, self.take_spare())?;
            self.keep_spare(std::mem::replace(&mut frame, apart).data);
        }
        Ok((Picture::Host(frame), original, fields))
    }

    /// A frame that leaves as it came; `at_once`, or when those before it have left.
    ///
    /// # Errors
    ///
    /// There are no caps yet, or the buffer does not fit them.
    pub fn pass(&mut self, mut input: gst::Buffer, view: View, at_once: bool) -> Result<Pending, FrameError> {
        Ok(if self.wide || view.split_at.is_some() {
            let (frame, kept) = self.copy_in(&input, view)?;
            Pending::Compared { frame, kept }
        } else {
            if !at_once {
                // While it waits, upstream's pool may need the original: see `Metadata`.
                input = self.copy_of(input)?;
            }
            if std::mem::take(&mut self.discont) {
                input.make_mut().set_flags(gst::BufferFlags::DISCONT);
            }
            Pending::Untouched(input)
        })
    }

    /// A buffer with the same frame.
    fn copy_of(&mut self, input: gst::Buffer) -> Result<gst::Buffer, FrameError> {
        let Some((gpu, mut frame)) = self.room_on_gpu(&input)? else {
            let copy = input.copy_deep();
            return copy.map_err(|error| FrameError::NoMemory(error.to_string()));
        };
        // GStreamer's own copy would allocate, and wait for all that the GPU does.
        gpu.read(&input, &mut frame)?;
        let on_gpu = self.gpu.as_mut();
        let on_gpu = on_gpu.ok_or_else(|| glib::bool_error!("a frame of a GPU before its caps"))?;
        let mut copy = on_gpu.buffer()?;
        gpu.write(&frame, copy.make_mut())?;
        on_gpu.keep(frame);
        Metadata::of(&input)?.copy_to(copy.make_mut())?;
        Ok(copy)
    }

    /// Copies a frame that leaves as it came into a buffer with another layout.
    ///
    /// # Errors
    ///
    /// One of the buffers does not fit the caps, or a meta cannot be copied.
    pub fn copy_across(&self, from: &gst::BufferRef, to: &mut gst::BufferRef) -> Result<(), FrameError> {
        let converter = self.converter.as_ref();
        let converter = converter.ok_or_else(|| glib::bool_error!("a frame before its caps"))?;
        Metadata::of(from)?.copy_to(to)?;
        converter.copy(from, to)
    }

    /// Makes the output of a frame of which the engine was given `input`.
    ///
    /// # Errors
    ///
    /// The frame or the buffer does not fit the caps.
    pub fn copy_out(
        &mut self,
        frame: Picture,
        input: Picture,
        kept: Kept,
        output: &mut gst::BufferRef,
    ) -> Result<(), FrameError> {
        kept.metadata.copy_to(output)?;
        let (mut frame, mut input) = match (frame, input) {
            (Picture::Host(frame), Picture::Host(input)) => (frame, input),
            (Picture::Cuda(frame), Picture::Cuda(input)) => {
                let on_gpu = self.gpu.as_mut();
                let on_gpu = on_gpu.ok_or_else(|| glib::bool_error!("a frame of a GPU before its caps"))?;
                on_gpu.gpu.write(&frame, output)?;
                on_gpu.keep(input);
                return Ok(());
            }
            _ => return Err(glib::bool_error!("a frame has come back in another memory").into()),
        };
        if kept.fields {
            for frame in [&mut frame, &mut input] {
                let woven = fields::weave(frame, self.take_spare())?;
                self.keep_spare(std::mem::replace(frame, woven).data);
            }
        }
        let border = if self.wide {
            let border = frame.width;
            let both = compare::side_by_side(&frame, &input, self.take_spare())?;
            self.keep_spare(std::mem::replace(&mut frame, both).data);
            if kept.original.is_some() {
                let twice = compare::side_by_side(&input, &input, self.take_spare())?;
                self.keep_spare(std::mem::replace(&mut input, twice).data);
            }
            Some(border)
        } else {
            kept.view
                .split_at
                .map(|position| compare::split(&mut frame, &input, position))
        };
        if let (Some(border), true) = (border, kept.view.labels) {
            compare::label(&mut frame, border);
        }
        let converter = self
            .converter
            .as_mut()
            .ok_or_else(|| glib::bool_error!("a frame before its caps"))?;
        for spare in converter.write_frame(frame, input, kept.original, output)? {
            self.keep_spare(spare);
        }
        Ok(())
    }

    fn take_spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn keep_spare(&mut self, data: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(data);
        }
    }

    /// Converts frames of new caps from now on, or leaves them on the GPU.
    pub fn set_converter(&mut self, converter: FrameConverter, wide: bool, gpu: Option<OnGpu>) {
        self.converter = Some(converter);
        self.wide = wide;
        self.spare = Vec::new();
        self.gpu = gpu;
    }
}
