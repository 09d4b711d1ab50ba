//! A frame in a GPU's memory, as the engine takes it.

use std::sync::Arc;

use gst_video::VideoMeta;
use osdd::Result;
use osdd::engine::{Landing, Picture};
use tch::{Device, Kind, Tensor};

use super::{Access, Copy2D, Gpu, Layout, Place};
use crate::deblur::error::FrameError;
use crate::deblur::planes;

/// A frame of the element's own, in the memory of the GPU that the model runs on.
pub(crate) struct CudaFrame {
    layout: Arc<Layout>,
    /// Its bytes as [`Layout`] has them.
    memory: Tensor,
}

/// Planes of a buffer: offset, and bytes from line to line.
fn buffer_planes(
    buffer: &gst::BufferRef,
    layout: &Layout,
) -> std::result::Result<Vec<(usize, usize)>, FrameError> {
    let info = layout.info();
    let Some(meta) = buffer.meta::<VideoMeta>() else {
        return Ok(layout
            .planes()
            .map(|(offset, stride, _)| (offset, stride))
            .collect());
    };
    let planes = meta.offset().iter().zip(meta.stride());
    let planes: Vec<_> = planes
        .map(|(&offset, &stride)| (offset, usize::try_from(stride).unwrap_or_default()))
        .collect();
    let same =
        meta.format() == info.format() && (meta.width(), meta.height()) == (info.width(), info.height());
    let within = layout
        .planes()
        .zip(&planes)
        .all(|((_, _, size), &(offset, stride))| {
            let end = stride
                .checked_mul(size.rows - 1)
                .and_then(|last| last.checked_add(offset + size.row_bytes));
            stride >= size.row_bytes && end.is_some_and(|end| end <= buffer.size())
        });
    match same && within && planes.len() == layout.planes().count() {
        true => Ok(planes),
        false => Err(glib::bool_error!("the video meta of a frame in a GPU's memory does not fit it").into()),
    }
}

impl Gpu {
    /// Copies a buffer's frame into memory of the element's own, `spare` where it fits. `None` where the buffer is elsewhere.
    ///
    /// # Errors
    /// The buffer does not fit its caps; too little memory, or a failure of the GPU.
    pub fn read(
        &'static self,
        buffer: &gst::BufferRef,
        layout: &Arc<Layout>,
        spare: Option<CudaFrame>,
    ) -> std::result::Result<Option<CudaFrame>, FrameError> {
        let Some(mapped) = self.map(buffer, Access::Read) else {
            return Ok(None);
        };
        let planes = buffer_planes(buffer, layout)?;
        let memory = match spare.filter(|spare| Arc::ptr_eq(&spare.layout, layout)) {
            Some(spare) => spare.memory,
            None => self.new_memory(layout)?,
        };
        let base = mapped.map.data.cast::<std::ffi::c_void>();
        let copies: Vec<_> = layout
            .planes()
            .zip(planes)
            .map(|((offset, stride, size), (at, pitch))| Copy2D {
                from: Place::on_device(base.wrapping_byte_add(at), pitch),
                to: Place::on_device(memory.data_ptr().wrapping_byte_add(offset), stride),
                row_bytes: size.row_bytes,
                rows: size.rows,
            })
            .collect();
        self.copy(&copies).map_err(FrameError::Gpu)?;
        Ok(Some(CudaFrame {
            layout: layout.clone(),
            memory,
        }))
    }

    /// Copies a frame into a buffer: in its GPU's memory, or where else the buffer is.
    ///
    /// # Errors
    /// The buffer does not fit its caps; too little memory, or a failure of the GPU.
    pub fn write(
        &'static self,
        frame: &CudaFrame,
        buffer: &mut gst::BufferRef,
    ) -> std::result::Result<(), FrameError> {
        let layout = &frame.layout;
        let Some(mapped) = self.map(buffer, Access::Write) else {
            return frame.download(buffer);
        };
        let base = mapped.map.data.cast::<std::ffi::c_void>();
        let copies: Vec<_> = layout
            .planes()
            .zip(buffer_planes(buffer, layout)?)
            .map(|((offset, stride, size), (at, pitch))| Copy2D {
                from: Place::on_device(frame.memory.data_ptr().wrapping_byte_add(offset), stride),
                to: Place::on_device(base.wrapping_byte_add(at), pitch),
                row_bytes: size.row_bytes,
                rows: size.rows,
            })
            .collect();
        self.copy(&copies).map_err(FrameError::Gpu)
    }

    /// Memory that nothing under way uses any more: what libtorch hands out may be free only once the model is done.
    fn new_memory(&self, layout: &Layout) -> std::result::Result<Tensor, FrameError> {
        let memory = Tensor::f_empty([layout.bytes() as i64], (Kind::Uint8, self.device));
        let memory = memory.map_err(osdd::Error::from)?;
        self.wait().map_err(FrameError::Gpu)?;
        Ok(memory)
    }
}

/// Waits until nothing is under way. A device that is lost is a panic, as elsewhere on the engine's thread.
fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
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
    /// The same again, which may not be there yet.
    fn copy(&self) -> Result<Self> {
        Ok(CudaFrame {
            layout: self.layout.clone(),
            memory: self.memory.f_detach_copy()?,
        })
    }

    /// Copies the frame into a buffer of the CPU's memory.
    fn download(&self, buffer: &mut gst::BufferRef) -> std::result::Result<(), FrameError> {
        let info = self.layout.info();
        let memory = self.memory.f_to_device(Device::Cpu).map_err(osdd::Error::from)?;
        let bytes = Vec::<u8>::try_from(&memory).map_err(osdd::Error::from)?;
        let from = gst::Buffer::from_slice(bytes);
        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(&from, info)?;
        let mut to = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, info)?;
        Ok(planes::copy(&from, &mut to)?)
    }
}

impl Picture for CudaFrame {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn to_tensor(&self, _: Device) -> Result<Tensor> {
        self.layout.to_rgb(&self.memory)
    }

    fn with_colours(&self, tensor: &Tensor, _: &mut Landing) -> Result<Self> {
        let changed = self.copy()?;
        let before = self.layout.to_rgb(&self.memory)?;
        self.layout
            .change(&changed.memory, &before, &tensor.f_to_kind(Kind::Float)?)?;
        wait_for(self.memory.device());
        Ok(changed)
    }

    fn try_clone(&self) -> Result<Self> {
        let copy = self.copy()?;
        wait_for(self.memory.device());
        Ok(copy)
    }

    fn repeated(&self, last: Self) -> Option<Self> {
        Arc::ptr_eq(&self.layout, &last.layout).then_some(last)
    }
}
