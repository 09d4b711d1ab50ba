//! GStreamer's library for CUDA (1.22 and later) and the driver, found at run time: the same plugin works without them.
//!
//! There are no Rust bindings for the library. What is declared here is of its interface since 1.22; of its structures, the
//! contexts of a memory and of a pool are the only fields that are read.

use std::ffi::{c_int, c_uint, c_void};

use libloading::Library;
use once_cell::sync::Lazy;

/// A handle of the driver's: a context or a stream.
pub(super) type Handle = *mut c_void;

/// `CUDA_MEMCPY2D`: a copy of rows between two places, each in the CPU's or in a GPU's memory.
#[repr(C)]
pub(super) struct Copy2D {
    pub from: Place,
    pub to: Place,
    pub row_bytes: usize,
    pub rows: usize,
}

/// One end of a [`Copy2D`].
#[repr(C)]
pub(super) struct Place {
    x_in_bytes: usize,
    y: usize,
    memory_type: c_uint,
    host: *mut c_void,
    device: u64,
    array: *mut c_void,
    pitch: usize,
}

impl Place {
    const DEVICE: c_uint = 2;

    /// In a GPU's memory.
    pub fn on_device(address: *mut c_void, pitch: usize) -> Self {
        Self {
            x_in_bytes: 0,
            y: 0,
            memory_type: Self::DEVICE,
            host: std::ptr::null_mut(),
            device: address as u64,
            array: std::ptr::null_mut(),
            pitch,
        }
    }
}

/// The beginning of `GstCudaMemory`.
#[repr(C)]
pub(super) struct CudaMemory {
    pub memory: gst::ffi::GstMemory,
    pub context: *mut gst::ffi::GstObject,
}

/// The beginning of `GstCudaBufferPool`.
#[repr(C)]
pub(super) struct CudaPool {
    pub pool: gst::ffi::GstBufferPool,
    pub context: *mut gst::ffi::GstObject,
}

/// Flag of a mapping that gives the address in the GPU's memory: `GST_MAP_CUDA`.
pub(super) const MAP_CUDA: c_uint = gst::ffi::GST_MAP_FLAG_LAST << 1;

/// Declares a table of functions that are looked up by name.
macro_rules! functions {
    ($(#[$about:meta])* $table:ident { $($name:ident = $symbol:literal($($argument:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$about])*
        pub(super) struct $table { $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl $table {
            /// # Safety
            /// The library's functions of these names are as declared, and it is never unloaded.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: as the caller promises.
                unsafe { Ok($table { $($name: *library.get(concat!($symbol, "\0").as_bytes())?,)* }) }
            }
        }
    };
}

functions! {
    /// Functions of `libgstcuda-1.0`.
    Gst {
        load_driver = "gst_cuda_load_library"() -> c_int;
        init_memory = "gst_cuda_memory_init_once"();
        is_memory = "gst_is_cuda_memory"(*mut gst::ffi::GstMemory) -> c_int;
        wrap_context = "gst_cuda_context_new_wrapped"(Handle, c_int) -> *mut gst::ffi::GstObject;
        handle_of_context = "gst_cuda_context_get_handle"(*mut gst::ffi::GstObject) -> Handle;
        context_for_elements = "gst_context_new_cuda_context"(*mut gst::ffi::GstObject) -> *mut gst::ffi::GstContext;
        new_pool = "gst_cuda_buffer_pool_new"(*mut gst::ffi::GstObject) -> *mut gst::ffi::GstBufferPool;
    }
}

functions! {
    /// Functions of the driver. They give 0, or the number of an error.
    Driver {
        init = "cuInit"(c_uint) -> c_int;
        get_device = "cuDeviceGet"(*mut c_int, c_int) -> c_int;
        retain_primary_context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int) -> c_int;
        push_context = "cuCtxPushCurrent_v2"(Handle) -> c_int;
        pop_context = "cuCtxPopCurrent_v2"(*mut Handle) -> c_int;
        synchronize_context = "cuCtxSynchronize"() -> c_int;
        create_stream = "cuStreamCreate"(*mut Handle, c_uint) -> c_int;
        synchronize_stream = "cuStreamSynchronize"(Handle) -> c_int;
        copy_2d = "cuMemcpy2DAsync_v2"(*const Copy2D, Handle) -> c_int;
    }
}

/// What there is from GStreamer 1.24 on, where memory may still be written to on a stream of its own.
pub(super) type SyncMemory = unsafe extern "C" fn(*mut gst::ffi::GstMemory);

/// Both libraries, loaded and ready.
pub(super) struct Libraries {
    pub gst: Gst,
    pub driver: Driver,
    pub sync_memory: Option<SyncMemory>,
}

static LIBRARIES: Lazy<Result<Libraries, String>> = Lazy::new(|| {
    // SAFETY: libraries whose functions are as declared; the result lives as long as the process, and so do they.
    unsafe {
        let open = |name: &str| Library::new(name).map_err(|error| error.to_string());
        let library = open("libgstcuda-1.0.so.0")?;
        let gst = Gst::find(&library).map_err(|error| error.to_string())?;
        let sync_memory = library.get(b"gst_cuda_memory_sync\0").ok().map(|found| *found);
        std::mem::forget(library);
        if (gst.load_driver)() == 0 {
            return Err("GStreamer's library for CUDA does not find the driver".into());
        }
        (gst.init_memory)();
        let library = open("libcuda.so.1")?;
        let driver = Driver::find(&library).map_err(|error| error.to_string())?;
        std::mem::forget(library);
        // Mostly it has been before.
        if (driver.init)(0) != 0 {
            return Err("the driver does not start".into());
        }
        Ok(Libraries {
            gst,
            driver,
            sync_memory,
        })
    }
});

/// # Errors
/// Why they cannot be used.
pub(super) fn libraries() -> Result<&'static Libraries, &'static str> {
    LIBRARIES.as_ref().map_err(String::as_str)
}
