//! Frames in the memory of the GPU that the model runs on: they come from a decoder and go to an encoder or a screen without
//! passing through the CPU's memory.
//!
//! libtorch works in a GPU's primary context. GStreamer is given that context for its elements, so that both can use the same
//! memory. Frames of any other context are mapped, and so copied, into the CPU's memory by GStreamer.

mod frame;
mod layout;
mod library;

use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr;
use std::sync::Mutex;

use glib::translate::FromGlibPtrFull;
use gst::prelude::*;
use once_cell::sync::Lazy;
use osdd::engine::Device;

use super::error::FrameError;
use super::lock;
use crate::log::CAT;
pub(crate) use frame::CudaFrame;
pub(crate) use layout::{Layout, formats};
use library::{Copy2D, CudaMemory, CudaPool, Handle, Libraries, MAP_CUDA, Place};

/// The caps feature of frames in a GPU's memory.
pub(crate) const FEATURE: &str = "memory:CUDAMemory";
/// The type of the context that elements for CUDA ask each other for.
pub(crate) const CONTEXT_TYPE: &str = "gst.cuda.context";

/// Whether frames of these caps are in a GPU's memory.
pub(crate) fn is_cuda(caps: &gst::CapsRef) -> bool {
    caps.features(0)
        .is_some_and(|features| features.contains(FEATURE))
}

/// A GPU whose memory libtorch and GStreamer share. There is one for the whole process, since buffers may outlive elements.
pub(crate) struct Gpu {
    libraries: &'static Libraries,
    primary: Handle,
    /// For copies: ordered as GStreamer's own are, and beside the model, which has a stream of its own.
    stream: Handle,
    /// GStreamer's own for the primary context.
    context: gst::Object,
    /// libtorch's name for the memory.
    device: tch::Device,
}

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Gpu {}
unsafe impl Sync for Gpu {}

/// Why something did not work, for the log.
type Reason = String;

fn check(code: c_int, what: &str) -> Result<(), Reason> {
    match code {
        0 => Ok(()),
        code => Err(format!("{what} gave the error {code}")),
    }
}

impl Gpu {
    /// The GPU of `device`; `None` for a CPU and where GStreamer has no support for CUDA, which is logged once.
    pub fn of(device: Device) -> Option<&'static Gpu> {
        static GPUS: Lazy<Mutex<HashMap<usize, Option<&'static Gpu>>>> = Lazy::new(Mutex::default);

        let (index, memory) = libtorch_memory(device)?;
        *lock(&GPUS)
            .entry(index)
            .or_insert_with(|| match Self::new(index, memory) {
                Ok(gpu) => Some(Box::leak(Box::new(gpu))),
                Err(reason) => {
                    gst::info!(CAT, "frames cannot stay on {device}: {reason}");
                    None
                }
            })
    }

    fn new(index: usize, device: tch::Device) -> Result<Self, Reason> {
        let libraries = library::libraries()?;
        let driver = &libraries.driver;
        let (mut number, mut primary, mut stream) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: fills variables of ours. The primary context is never released.
        let context = unsafe {
            check(
                (driver.get_device)(&raw mut number, index as c_int),
                "cuDeviceGet",
            )?;
            let retained = (driver.retain_primary_context)(&raw mut primary, number);
            check(retained, "cuDevicePrimaryCtxRetain")?;
            within(libraries, primary, || {
                const DEFAULT: u32 = 0;
                check((driver.create_stream)(&raw mut stream, DEFAULT), "cuStreamCreate")
            })?;
            let context = (libraries.gst.wrap_context)(primary, number);
            if context.is_null() {
                return Err("gst_cuda_context_new_wrapped failed".into());
            }
            gst::Object::from_glib_full(context)
        };
        // It lives as long as the process.
        context.set_object_flags(gst::ObjectFlags::MAY_BE_LEAKED);
        Ok(Gpu {
            libraries,
            primary,
            stream,
            context,
            device,
        })
    }

    /// For elements that ask for one.
    pub fn context(&self) -> gst::Context {
        // SAFETY: a context object of the library's; the result is ours.
        unsafe {
            let context = (self.libraries.gst.context_for_elements)(self.context.as_ptr());
            gst::Context::from_glib_full(context)
        }
    }

    /// A pool of buffers in this GPU's memory; set up for frames of `caps`, with the size of its buffers.
    ///
    /// # Errors
    /// The library does not know the format, or there is too little memory.
    pub fn pool(
        &self,
        caps: &gst::Caps,
        (min, max): (u32, u32),
    ) -> Result<(gst::BufferPool, u32), glib::BoolError> {
        let size = gst_video::VideoInfo::from_caps(caps)?.size();
        // SAFETY: a context object of the library's; the result is ours.
        let pool =
            unsafe { gst::BufferPool::from_glib_full((self.libraries.gst.new_pool)(self.context.as_ptr())) };
        let mut config = pool.config();
        config.set_params(Some(caps), size as u32, min, max);
        config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META.as_str());
        pool.set_config(config)?;
        // Rows are wider than the caps say.
        let size = pool.config().params().map_or(size as u32, |(_, size, ..)| size);
        Ok((pool, size))
    }

    /// Whether this is a pool of the library's with buffers in this context.
    pub fn is_pool(&self, pool: &gst::BufferPool) -> bool {
        pool.type_().name() == "GstCudaBufferPool" && {
            let pool: *mut gst::ffi::GstBufferPool = pool.as_ptr();
            // SAFETY: by its type it begins like this, and it keeps its context.
            unsafe {
                (self.libraries.gst.handle_of_context)((*pool.cast::<CudaPool>()).context) == self.primary
            }
        }
    }

    /// Whether a buffer is in this GPU's memory, and in this context.
    pub fn has(&self, buffer: &gst::BufferRef) -> bool {
        if buffer.n_memory() != 1 {
            return false;
        }
        let memory = buffer.peek_memory(0).as_mut_ptr();
        // SAFETY: a memory that the buffer keeps; only the library's own have a context.
        unsafe {
            let gst = &self.libraries.gst;
            (gst.is_memory)(memory) != 0
                && (gst.handle_of_context)((*memory.cast::<CudaMemory>()).context) == self.primary
        }
    }

    /// Maps a buffer that [is here](Self::has), once nobody else works on it.
    fn map<'a>(&self, buffer: &'a gst::BufferRef, access: Access) -> Result<Mapped<'a>, FrameError> {
        let memory = buffer.peek_memory(0);
        let pointer = memory.as_mut_ptr();
        let mut map = std::mem::MaybeUninit::uninit();
        // SAFETY: a memory that the buffer keeps; the map is filled where it succeeds.
        unsafe {
            if gst::ffi::gst_memory_map(pointer, map.as_mut_ptr(), access as u32 | MAP_CUDA) == 0 {
                return Err(FrameError::Gpu("gst_memory_map failed".into()));
            }
            if let Some(sync) = self.libraries.sync_memory {
                sync(pointer);
            }
            Ok(Mapped {
                memory,
                map: map.assume_init(),
            })
        }
    }

    /// Waits until nothing is under way.
    fn wait(&self) -> Result<(), Reason> {
        within(self.libraries, self.primary, || {
            // SAFETY: in a context.
            check(
                unsafe { (self.libraries.driver.synchronize_context)() },
                "cuCtxSynchronize",
            )
        })
    }

    /// Copies rows within this GPU's memory, and waits until they are there.
    fn copy(&self, copies: &[Copy2D]) -> Result<(), Reason> {
        let driver = &self.libraries.driver;
        within(self.libraries, self.primary, || {
            // SAFETY: whoever calls has mapped both places, which have these rows.
            let mut asked = copies
                .iter()
                .map(|copy| unsafe { (driver.copy_2d)(copy, self.stream) });
            let asked = asked.find(|&code| code != 0).unwrap_or_default();
            // Those before one that failed are under way. SAFETY: a stream of ours.
            let done = unsafe { (driver.synchronize_stream)(self.stream) };
            check(asked, "cuMemcpy2DAsync")?;
            check(done, "cuStreamSynchronize")
        })
    }
}

/// Does something in a context.
fn within<T>(
    libraries: &Libraries,
    context: Handle,
    work: impl FnOnce() -> Result<T, Reason>,
) -> Result<T, Reason> {
    let driver = &libraries.driver;
    // SAFETY: a context that lives as long as the process; what is pushed is popped.
    unsafe {
        check((driver.push_context)(context), "cuCtxPushCurrent")?;
        let done = work();
        check((driver.pop_context)(&mut ptr::null_mut()), "cuCtxPopCurrent")?;
        done
    }
}

/// What a buffer is mapped for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read = gst::ffi::GST_MAP_READ as isize,
    Write = gst::ffi::GST_MAP_WRITE as isize,
}

/// A buffer's memory in the GPU, while it is mapped.
struct Mapped<'a> {
    memory: &'a gst::MemoryRef,
    map: gst::ffi::GstMapInfo,
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // SAFETY: mapped by `Gpu::map`.
        unsafe { gst::ffi::gst_memory_unmap(self.memory.as_mut_ptr(), &raw mut self.map) };
    }
}

/// Number of the GPU that a model is on, and libtorch's name for its memory.
fn libtorch_memory(device: Device) -> Option<(usize, tch::Device)> {
    #[cfg(test)]
    if tests::is_faked() {
        return Some((0, tch::Device::Cpu));
    }
    match device {
        Device::Cuda(index) => Some((index, tch::Device::Cuda(index))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
