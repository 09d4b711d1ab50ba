//! A frame in a GPU's memory, as the engine takes it.

use std::sync::Arc;

use osdd::device::synchronize;
use osdd::engine::{Arriving, Picture};
use tch::{Device, Kind, Tensor};

use super::{Access, Copy2D, Gpu, Layout, Place};
use crate::deblur::error::FrameError;
use crate::deblur::layout;
use crate::deblur::planes::{self, PlaneSize};

/// A frame of the element's own, in the memory of the GPU that the model runs on.
pub(crate) struct CudaFrame {
    layout: Arc<Layout>,
    /// Its bytes as [`Layout`] has them.
    memory: Tensor,
}

/// Planes of a buffer: offset, and bytes from line to line.
fn buffer_planes(buffer: &gst::BufferRef, layout: &Layout) -> Result<Vec<(usize, usize)>, FrameError> {
    let info = layout.info();
    let (planes, fits): (Vec<_>, _) = match layout::meta(buffer) {
        None => {
            let planes = layout.planes().map(|(offset, stride, _)| (offset, stride));
            (planes.collect(), true)
        }
        Some(meta) => {
            let planes = meta.offset().iter().zip(meta.stride());
            let planes =
                planes.map(|(&offset, &stride)| (offset, usize::try_from(stride).unwrap_or_default()));
            let larger = meta.width() >= info.width() && meta.height() >= info.height();
            (planes.collect(), meta.format() == info.format() && larger)
        }
    };
    let within = layout
        .planes()
        .zip(&planes)
        .all(|((_, _, size), &(offset, stride))| {
            let last = stride.checked_mul(size.rows - 1);
            let end = last.and_then(|last| last.checked_add(offset)?.checked_add(size.row_bytes));
            stride >= size.row_bytes && end.is_some_and(|end| end <= buffer.size())
        });
    match fits && within && planes.len() == layout.planes().count() {
        true => Ok(planes),
        false => Err(glib::bool_error!(
            "a frame in a GPU's memory is smaller than its caps or its video meta say"
        )
        .into()),
    }
}

impl Gpu {
    /// Memory for a frame. Waits until the model is done with what it works on: only then what libtorch hands out is free.
    ///
    /// # Errors
    /// Too little memory, or a failure of the GPU.
    pub fn new_frame(&self, layout: &Arc<Layout>) -> Result<CudaFrame, FrameError> {
        let memory = Tensor::f_empty([layout.bytes() as i64], (Kind::Uint8, self.device));
        let memory = memory.map_err(osdd::Error::from)?;
        self.wait().map_err(FrameError::Gpu)?;
        Ok(CudaFrame {
            layout: layout.clone(),
            memory,
        })
    }

    /// Copies the frame of a buffer that [is here](Self::has).
    ///
    /// # Errors
    /// The buffer does not fit its caps, or a failure of the GPU.
    pub fn read(&self, buffer: &gst::BufferRef, frame: &mut CudaFrame) -> Result<(), FrameError> {
        let planes = buffer_planes(buffer, &frame.layout)?;
        let mapped = self.map(buffer, Access::Read)?;
        let copies = frame.copies(&planes, mapped.map.data, |buffer, frame| (buffer, frame));
        self.copy(&copies).map_err(FrameError::Gpu)
    }

    /// Copies a frame into a buffer: in its GPU's memory, or where else the buffer is.
    ///
    /// # Errors
    /// The buffer does not fit its caps; too little memory, or a failure of the GPU.
    pub fn write(&self, frame: &CudaFrame, buffer: &mut gst::BufferRef) -> Result<(), FrameError> {
        if !self.has(buffer) {
            return frame.download(buffer);
        }
        let planes = buffer_planes(buffer, &frame.layout)?;
        let mapped = self.map(buffer, Access::Write)?;
        let copies = frame.copies(&planes, mapped.map.data, |buffer, frame| (frame, buffer));
        self.copy(&copies).map_err(FrameError::Gpu)
    }
}

#[cfg(test)]
impl CudaFrame {
    pub fn new(layout: Arc<Layout>, memory: Tensor) -> Self {
        CudaFrame { layout, memory }
    }

    pub fn memory(&self) -> &Tensor {
        &self.memory
    }
}

impl CudaFrame {
    /// One copy for each plane, between a buffer with its planes there and this frame, which `from_to` puts in order.
    fn copies(
        &self,
        planes: &[(usize, usize)],
        buffer: *mut u8,
        from_to: impl Fn(Place, Place) -> (Place, Place),
    ) -> Vec<Copy2D> {
        let own = self.memory.data_ptr();
        let copy = |((offset, stride, size), &(at, pitch)): ((usize, usize, PlaneSize), &(usize, usize))| {
            let there = Place::on_device(buffer.wrapping_add(at).cast(), pitch);
            let (from, to) = from_to(there, Place::on_device(own.wrapping_byte_add(offset), stride));
            Copy2D {
                from,
                to,
                row_bytes: size.row_bytes,
                rows: size.rows,
            }
        };
        self.layout.planes().zip(planes).map(copy).collect()
    }

    /// The same again, which may not be there yet.
    fn copy(&self) -> osdd::Result<Self> {
        Ok(CudaFrame {
            layout: self.layout.clone(),
            memory: self.memory.f_detach_copy()?,
        })
    }

    /// Copies the frame into a buffer of the CPU's memory, or one that is mapped there.
    fn download(&self, buffer: &mut gst::BufferRef) -> Result<(), FrameError> {
        let info = self.layout.info();
        let memory = self.memory.f_to_device(Device::Cpu).map_err(osdd::Error::from)?;
        let bytes = Vec::<u8>::try_from(&memory).map_err(osdd::Error::from)?;
        let from = gst::Buffer::from_slice(bytes);
        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(&from, info)?;
        layout::write(buffer, info, |buffer| {
            let mut to = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info)?;
            Ok(planes::copy(&from, &mut to)?)
        })
    }
}

impl Picture for CudaFrame {
    fn check(&self) -> osdd::Result<()> {
        Ok(())
    }

    fn to_tensor(&self, _: Device) -> osdd::Result<Tensor> {
        self.layout.to_rgb(&self.memory)
    }

    fn with_colours(&self, colours: &Tensor, before: &Tensor) -> osdd::Result<Arriving<Self>> {
        let changed = self.copy()?;
        self.layout
            .change(&changed.memory, before, &colours.f_to_kind(Kind::Float)?)?;
        Arriving::behind(self.memory.device(), || Ok(changed))
    }

    fn try_clone(&self) -> osdd::Result<Self> {
        let copy = self.copy()?;
        synchronize(self.memory.device())?;
        Ok(copy)
    }

    fn repeated(&self, last: Self) -> Option<Self> {
        Arc::ptr_eq(&self.layout, &last.layout).then_some(last)
    }
}
