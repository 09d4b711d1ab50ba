//! Which device a model runs on, and in which arithmetic; CUDA is found at run time.

mod stream;

use std::ffi::CStr;
use std::fmt;
use std::str::FromStr;

use once_cell::sync::Lazy;

#[cfg(libtorch_headers)]
pub(crate) use stream::with_message;
pub use stream::{Fence, synchronize};
pub(crate) use stream::{OwnStream, current_stream, fetch, upload};

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

/// Makes libtorch's CUDA half known, if there is one. Without it libtorch takes its first convolution on a CPU for the proof that
/// the process has no GPU.
pub(crate) fn find_gpus() {
    Lazy::force(&CUDA_DEVICES);
}

/// Every GPU, and the CPU.
pub fn all() -> Vec<Device> {
    let gpus = (0..*CUDA_DEVICES).map(Device::Cuda);
    gpus.chain([Device::Cpu]).collect()
}

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
}
