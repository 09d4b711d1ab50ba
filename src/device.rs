//! Which device a model runs on, and in which arithmetic; CUDA is found at run time.

use std::ffi::CStr;
#[cfg(libtorch_headers)]
use std::ffi::c_void;
use std::fmt;
use std::str::FromStr;

use once_cell::sync::Lazy;
use tch::Tensor;

use crate::{Error, Result};

/// A device by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The first GPU, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok().map(Device::Cuda);
        let device = match text {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(number),
        };
        device.ok_or_else(|| Error::OutOfRange {
            name: "device",
            value: text.into(),
            range: "auto, cpu, cuda or cuda:N".into(),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// GPUs that libtorch can use. Its CUDA half is a library of its own, which registers itself when it is loaded; a
/// machine without it runs the same binary.
static CUDA_DEVICES: Lazy<usize> = Lazy::new(|| {
    let name = c"libtorch_cuda.so";
    // SAFETY: loading a library by name; its initialisers are libtorch's own, and it is never unloaded.
    let loaded = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if loaded.is_null() {
        // SAFETY: a string of the loader's, or nothing; it is copied.
        let reason = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
        let reason = reason.map(CStr::to_string_lossy).unwrap_or_default();
        // Where there is no such library, there is nothing to say.
        if !reason.starts_with("libtorch_cuda.so: cannot open") {
            tracing::warn!("no GPU: libtorch's library for CUDA does not load: {reason}");
        }
        return 0;
    }
    if !tch::Cuda::is_available() {
        return 0;
    }
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
});

/// The device that `device` stands for on this machine.
///
/// # Errors
/// [`Error::Device`] for a GPU that is not there.
pub fn resolve(device: Device) -> Result<(Device, tch::Device)> {
    match device {
        Device::Cpu => Ok((Device::Cpu, tch::Device::Cpu)),
        Device::Auto if *CUDA_DEVICES == 0 => Ok((Device::Cpu, tch::Device::Cpu)),
        Device::Auto => Ok((Device::Cuda(0), tch::Device::Cuda(0))),
        Device::Cuda(index) if index < *CUDA_DEVICES => Ok((device, tch::Device::Cuda(index))),
        Device::Cuda(_) => Err(Error::Device {
            device: device.to_string(),
            reason: match *CUDA_DEVICES {
                0 => "no CUDA was found; use cpu or auto, or have PyTorch's libraries for CUDA of the same version in LD_LIBRARY_PATH".into(),
                n => format!("there are {n}, numbered from cuda:0"),
            },
        }),
    }
}

/// From now on float32 on a GPU is that and not TF32, which libtorch takes by default; for the whole process. Nothing changes
/// where the headers of libtorch were missing when this was built.
pub(crate) fn exact_float32() {
    #[cfg(libtorch_headers)]
    {
        unsafe extern "C" {
            fn osdd_exact_float32();
        }
        // SAFETY: takes no arguments, and sets a flag of libtorch's.
        unsafe { osdd_exact_float32() };
    }
}

/// From now on what this thread does on a GPU goes to a stream of its own: neither it nor other users of the GPU wait for each other.
/// Where the headers of libtorch were missing when this was built, and on a CPU, nothing changes.
pub(crate) fn own_stream(device: tch::Device) {
    #[cfg(libtorch_headers)]
    if let tch::Device::Cuda(index) = device {
        unsafe extern "C" {
            fn osdd_own_stream(index: i8) -> bool;
        }
        // SAFETY: takes a number; the streams are libtorch's.
        if !unsafe { osdd_own_stream(index as i8) } {
            tracing::debug!("no stream of one's own on {device:?}");
        }
    }
    #[cfg(not(libtorch_headers))]
    let _ = device;
}

/// The driver's handle of the stream that this thread's work on a GPU goes to; null is the default one.
pub(crate) fn current_stream(index: usize) -> *mut std::ffi::c_void {
    #[cfg(libtorch_headers)]
    {
        unsafe extern "C" {
            fn osdd_current_stream(index: i8) -> *mut c_void;
        }
        // SAFETY: takes a number; the stream is libtorch's, and is never destroyed.
        unsafe { osdd_current_stream(index as i8) }
    }
    #[cfg(not(libtorch_headers))]
    {
        let _ = index;
        std::ptr::null_mut()
    }
}

/// What `call` gives, or where that is nothing, the message that it has written.
#[cfg(libtorch_headers)]
pub(crate) fn with_message<T>(call: impl FnOnce(*mut std::ffi::c_char, usize) -> Option<T>) -> Result<T> {
    let mut message = [0; 512];
    match call(message.as_mut_ptr(), message.len()) {
        Some(given) => Ok(given),
        None => {
            let bytes = message.map(|c| c as u8);
            let text = CStr::from_bytes_until_nul(&bytes)
                .unwrap_or_default()
                .to_string_lossy();
            Err(Error::from_libtorch(&text, Error::Torch))
        }
    }
}

/// Waits until what this thread has asked of `device` is done; on a CPU it is.
///
/// # Errors
/// [`Error::DeviceLost`], or what else has gone wrong there meanwhile.
pub fn synchronize(device: tch::Device) -> Result<()> {
    let tch::Device::Cuda(index) = device else {
        return Ok(());
    };
    #[cfg(libtorch_headers)]
    {
        unsafe extern "C" {
            fn osdd_synchronize(index: i8, message: *mut std::ffi::c_char, capacity: usize) -> bool;
        }
        // SAFETY: writes a message that ends within the buffer, whose last byte stays zero.
        with_message(|message, capacity| {
            unsafe { osdd_synchronize(index as i8, message, capacity) }.then_some(())
        })
    }
    #[cfg(not(libtorch_headers))]
    {
        tch::Cuda::synchronize(index as i64);
        Ok(())
    }
}

/// A copy in memory that the system does not move, which a GPU reads and writes at its bus's full speed, and while it computes.
/// Where the headers of libtorch were missing when this was built, and where there is no GPU, in ordinary memory.
///
/// # Errors
/// Too little memory.
pub(crate) fn pinned(tensor: &Tensor) -> Result<Tensor> {
    #[cfg(libtorch_headers)]
    {
        unsafe extern "C" {
            fn osdd_pinned(tensor: *const c_void) -> *mut c_void;
        }
        // SAFETY: reads a tensor; what comes back has memory of its own, and one owner.
        unsafe {
            let copy = osdd_pinned(tensor.as_ptr().cast());
            if !copy.is_null() {
                return Ok(Tensor::from_ptr(copy.cast()));
            }
        }
    }
    Ok(tensor.f_detach_copy()?)
}

/// A copy on `device`, for which this thread does not wait: `tensor` may change or go at once.
///
/// # Errors
/// Too little memory, or a failure of the device.
pub(crate) fn upload(tensor: &Tensor, device: tch::Device) -> Result<Tensor> {
    #[cfg(libtorch_headers)]
    if let tch::Device::Cuda(index) = device {
        unsafe extern "C" {
            fn osdd_upload(tensor: *const c_void, index: i8) -> *mut c_void;
        }
        // SAFETY: reads a tensor; what comes back has memory of its own, and one owner.
        unsafe {
            let copy = osdd_upload(tensor.as_ptr().cast(), index as i8);
            if !copy.is_null() {
                return Ok(Tensor::from_ptr(copy.cast()));
            }
        }
    }
    // Says what is wrong, where it is not memory of that kind.
    Ok(tensor.f_to_device(device)?)
}

/// A copy in the CPU's memory, which is there once a [`Fence`] behind it is reached. `tensor` has no gaps.
///
/// # Errors
/// Too little memory, or a failure of the device.
pub(crate) fn fetch(tensor: &Tensor) -> Result<Tensor> {
    #[cfg(libtorch_headers)]
    if tensor.device().is_cuda() {
        unsafe extern "C" {
            fn osdd_fetch(tensor: *const c_void) -> *mut c_void;
        }
        // SAFETY: reads a tensor; what comes back has memory of its own, and one owner.
        unsafe {
            let copy = osdd_fetch(tensor.as_ptr().cast());
            if !copy.is_null() {
                return Ok(Tensor::from_ptr(copy.cast()));
            }
        }
    }
    Ok(tensor.f_to_device(tch::Device::Cpu)?)
}

/// A mark behind what this thread has asked of a device: it is reached when all of that is done.
#[derive(Debug)]
pub struct Fence(#[cfg(libtorch_headers)] *mut c_void);

// SAFETY: an event of libtorch's, which belongs to no thread.
unsafe impl Send for Fence {}

#[cfg(libtorch_headers)]
mod fence {
    use std::ffi::{c_char, c_void};

    unsafe extern "C" {
        pub fn osdd_fence(index: i8, message: *mut c_char, capacity: usize) -> *mut c_void;
        pub fn osdd_fence_is_reached(fence: *const c_void) -> bool;
        pub fn osdd_fence_wait(fence: *const c_void, message: *mut c_char, capacity: usize) -> bool;
        pub fn osdd_fence_free(fence: *mut c_void);
    }
}

impl Fence {
    /// `None` where all is done already, as on a CPU.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn behind(device: tch::Device) -> Result<Option<Self>> {
        #[cfg(libtorch_headers)]
        if let tch::Device::Cuda(index) = device {
            // SAFETY: what is written ends within the buffer, whose last byte stays zero.
            return with_message(|message, capacity| {
                let fence = unsafe { fence::osdd_fence(index as i8, message, capacity) };
                (!fence.is_null()).then_some(Some(Fence(fence)))
            });
        }
        synchronize(device)?;
        Ok(None)
    }

    /// Whether [`wait`](Self::wait) returns at once.
    pub fn is_reached(&self) -> bool {
        #[cfg(libtorch_headers)]
        // SAFETY: it is there as long as this is.
        return unsafe { fence::osdd_fence_is_reached(self.0) };
        #[cfg(not(libtorch_headers))]
        true
    }

    /// # Errors
    /// [`Error::DeviceLost`], or what else has gone wrong there meanwhile.
    pub fn wait(&self) -> Result<()> {
        #[cfg(libtorch_headers)]
        // SAFETY: as above; what is written ends within the buffer, whose last byte stays zero.
        return with_message(|message, capacity| {
            unsafe { fence::osdd_fence_wait(self.0, message, capacity) }.then_some(())
        });
        #[cfg(not(libtorch_headers))]
        Ok(())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        #[cfg(libtorch_headers)]
        // SAFETY: made by `osdd_fence`, and freed once.
        unsafe {
            fence::osdd_fence_free(self.0)
        };
    }
}

/// Arithmetic of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 on CUDA; on the CPU fp32, or bf16 for a model like `nano` where that is faster, see [`crate::model::Arithmetic`].
    #[default]
    Auto,
    Fp32,
    Bf16,
    Fp16,
}

impl Precision {
    const NAMES: [(&'static str, Precision); 4] = [
        ("auto", Precision::Auto),
        ("fp32", Precision::Fp32),
        ("bf16", Precision::Bf16),
        ("fp16", Precision::Fp16),
    ];

    /// What this stands for on a device, never [`Precision::Auto`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for fp16 on a CPU, where it is many times slower than fp32 and models leave its range.
    pub fn resolve(self, device: Device) -> Result<(Self, tch::Kind)> {
        match (self, device) {
            (Self::Auto, Device::Cuda(_)) | (Self::Bf16, _) => Ok((Self::Bf16, tch::Kind::BFloat16)),
            (Self::Auto | Self::Fp32, _) => Ok((Self::Fp32, tch::Kind::Float)),
            (Self::Fp16, Device::Cuda(_)) => Ok((Self::Fp16, tch::Kind::Half)),
            (Self::Fp16, _) => Err(Error::OutOfRange {
                name: "precision",
                value: self.to_string(),
                range: "auto, fp32 or bf16 on a CPU".into(),
            }),
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, precision)| *precision)
            .ok_or_else(|| Error::OutOfRange {
                name: "precision",
                value: text.into(),
                range: "auto, fp32, bf16 or fp16".into(),
            })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMES.iter().find(|(_, precision)| precision == self);
        f.write_str(found.map_or("auto", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        let error = resolve(Device::Cuda(99)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Device);
        assert!(resolve(Device::Auto).is_ok());
    }

    #[test]
    fn precision_reads_what_it_writes() {
        for (name, precision) in Precision::NAMES {
            assert_eq!(name.parse::<Precision>().unwrap(), precision);
            assert_eq!(precision.to_string(), name);
        }
        assert!("int8".parse::<Precision>().is_err());
        assert!(Precision::Fp16.resolve(Device::Cuda(0)).is_ok());
        let error = Precision::Fp16.resolve(Device::Cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "precision cannot be fp16: it is auto, fp32 or bf16 on a CPU"
        );
    }

    #[cfg(libtorch_headers)]
    #[test]
    fn a_thread_has_a_stream_of_its_own_where_it_asks_for_one() {
        let Some(fake) = crate::fake_gpu::FakeGpu::installed() else {
            return;
        };
        let gpu = tch::Device::Cuda(0);
        std::thread::scope(|scope| {
            let own = || {
                assert!(current_stream(0).is_null(), "the default stream");
                own_stream(gpu);
                let before = fake.synchronized();
                synchronize(gpu).unwrap();
                assert!(fake.synchronized() > before);
                current_stream(0) as usize
            };
            let [one, two] = [scope.spawn(own), scope.spawn(own)].map(|thread| thread.join().unwrap());
            assert!(one != 0 && two != 0 && one != two);
        });
        assert!(current_stream(0).is_null());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                own_stream(gpu);
                fake.lose(current_stream(0));
                let error = synchronize(gpu).unwrap_err();
                assert_eq!(error.kind(), crate::ErrorKind::Device, "{error}");
            });
        });
        synchronize(tch::Device::Cpu).unwrap();
    }
}
