//! A GPU's streams, as libtorch has them: whose work waits for whose, and memory that goes there and back meanwhile.

use std::ffi::c_void;
#[cfg(libtorch_headers)]
use std::ffi::{CStr, c_char};

use tch::Tensor;

#[cfg(libtorch_headers)]
use crate::Error;
use crate::Result;

/// While it is there, what its thread does on a GPU goes to a stream of its own: neither it nor other users of the GPU wait for each
/// other. The thread's current GPU is that one, then and later. Streams are given on from thread to thread, because libtorch keeps
/// memory for each that it has ever seen; the thread that takes one is to drop it.
pub(crate) struct OwnStream {
    #[cfg(libtorch_headers)]
    index: i8,
}

impl OwnStream {
    /// `None` on a CPU, and where the headers of libtorch were missing when this was built.
    pub fn take(device: tch::Device) -> Option<Self> {
        #[cfg(libtorch_headers)]
        if let tch::Device::Cuda(index) = device {
            unsafe extern "C" {
                fn osdd_take_stream(index: i8) -> bool;
            }
            let index = index as i8;
            // SAFETY: takes a number; the streams are libtorch's.
            if unsafe { osdd_take_stream(index) } {
                return Some(OwnStream { index });
            }
            tracing::debug!("no stream of one's own on {device:?}");
        }
        let _ = device;
        None
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        #[cfg(libtorch_headers)]
        {
            unsafe extern "C" {
                fn osdd_give_stream_back(index: i8);
            }
            // SAFETY: takes a number; this thread has a stream of its own there.
            unsafe { osdd_give_stream_back(self.index) };
        }
    }
}

/// The driver's handle of the stream that this thread's work on a GPU goes to; null is the default one.
pub(crate) fn current_stream(index: usize) -> *mut c_void {
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
pub(crate) fn with_message<T>(call: impl FnOnce(*mut c_char, usize) -> Option<T>) -> Result<T> {
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
            fn osdd_synchronize(index: i8, message: *mut c_char, capacity: usize) -> bool;
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

/// A tensor that the shim has made; `None` where it has not.
///
/// # Safety
/// It is a new one, and has no other owner.
#[cfg(libtorch_headers)]
unsafe fn made(tensor: *mut c_void) -> Option<Tensor> {
    // SAFETY: the caller vouches for it.
    (!tensor.is_null()).then(|| unsafe { Tensor::from_ptr(tensor.cast()) })
}

/// A copy on `device`, on a GPU through memory that the system does not move where it can be had, so that this thread does not wait:
/// `tensor` may change or go at once.
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
        if let Some(copy) = unsafe { made(osdd_upload(tensor.as_ptr().cast(), index as i8)) } {
            return Ok(copy);
        }
    }
    if device == tch::Device::Cpu {
        return Ok(tensor.f_detach_copy()?);
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
        // SAFETY: as above.
        if let Some(copy) = unsafe { made(osdd_fetch(tensor.as_ptr().cast())) } {
            return Ok(copy);
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
    use super::{c_char, c_void};

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

#[cfg(all(test, libtorch_headers))]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_thread_has_a_stream_of_its_own_where_it_asks_for_one() {
        let Some(fake) = crate::fake_gpu::FakeGpu::installed() else {
            return;
        };
        let gpu = tch::Device::Cuda(0);
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            let own = || {
                assert!(current_stream(0).is_null(), "the default stream");
                let stream = OwnStream::take(gpu);
                let before = fake.synchronized();
                synchronize(gpu).unwrap();
                assert!(fake.synchronized() > before);
                let here = current_stream(0) as usize;
                both.wait();
                drop(stream);
                assert!(current_stream(0).is_null());
                here
            };
            let threads = [scope.spawn(own), scope.spawn(own)];
            let [one, two] = threads.map(|thread| thread.join().unwrap());
            assert!(one != 0 && two != 0 && one != two);
            // Not one more for each thread that there ever was.
            let later = scope.spawn(|| {
                let _streams = [OwnStream::take(gpu), OwnStream::take(gpu)];
                current_stream(0) as usize
            });
            assert!([one, two].contains(&later.join().unwrap()));
        });
        assert!(current_stream(0).is_null());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _stream = OwnStream::take(gpu);
                fake.lose(current_stream(0));
                let error = synchronize(gpu).unwrap_err();
                assert_eq!(error.kind(), crate::ErrorKind::Device, "{error}");
            });
        });
        synchronize(tch::Device::Cpu).unwrap();
    }
}
