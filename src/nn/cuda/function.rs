//! The block as one function to libtorch's automatic differentiation, which tch has no words for: `function.cpp` asks back here.

use tch::Tensor;

use super::gated::{self, kernels_for};
#[cfg(libtorch_headers)]
use super::kernels::Kernels;

/// The gated block of `x` and its parameters, see [`gated::forward`], `eps` added to the variances of its norms. `None` where the
/// kernels are not to be had.
pub(in crate::nn) fn forward(x: &Tensor, parameters: &[&Tensor], eps: f64) -> Option<Tensor> {
    if !x.device().is_cuda() {
        return None;
    }
    let inputs: Vec<Tensor> = std::iter::once(x)
        .chain(parameters.iter().copied())
        .map(Tensor::shallow_clone)
        .collect();
    // What is made from a tensor is to be differentiated only while libtorch notes operations down.
    let recorded = |t: &Tensor| t.requires_grad() && t.unsqueeze(0).requires_grad();
    let backward = inputs.iter().any(recorded);
    if !backward {
        let kernels = kernels_for(&inputs, eps, backward)?;
        return Some(gated::output(kernels, &inputs));
    }
    #[cfg(libtorch_headers)]
    return Some(differentiable(kernels_for(&inputs, eps, backward)?, &inputs));
    #[cfg(not(libtorch_headers))]
    None
}

#[cfg(libtorch_headers)]
mod shim {
    use std::ffi::{c_char, c_int, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tch::Tensor;

    use super::{Kernels, gated};

    /// Room for outputs on the other side.
    const MOST_OUTPUTS: usize = 16;

    /// Tensors of the other side, which keeps them.
    type Given = *const *const c_void;

    unsafe extern "C" {
        /// The output as a new tensor; null where it failed, with a message.
        pub fn osdd_gated_block(
            kernels: *const c_void,
            inputs: Given,
            count: usize,
            message: *mut c_char,
            capacity: usize,
        ) -> *mut c_void;
    }

    /// # Safety
    /// `tensors` has `count` of them.
    unsafe fn borrowed(tensors: Given, count: usize) -> Vec<Tensor> {
        // SAFETY: as the caller promises; each is counted once more while we have it.
        (0..count)
            .map(|i| unsafe { Tensor::clone_from_ptr((*tensors.add(i)).cast_mut().cast()) })
            .collect()
    }

    /// Writes what `work` makes into `outputs`, as tensors that the other side frees; gives their number, or -1 and a message.
    ///
    /// # Safety
    /// `inputs` has `count` tensors, `outputs` room for [`MOST_OUTPUTS`] and `message` for `capacity` characters.
    unsafe fn answer(
        (inputs, count): (Given, usize),
        work: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
        outputs: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int {
        let made = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: as the caller promises.
            let made = work(&unsafe { borrowed(inputs, count) });
            assert!(made.len() <= MOST_OUTPUTS, "{} outputs", made.len());
            made
        }));
        match made {
            Ok(made) => {
                let count = made.len();
                for (i, mut tensor) in made.into_iter().enumerate() {
                    // SAFETY: there is room for all that the block makes.
                    unsafe { *outputs.add(i) = tensor.as_mut_ptr().cast() };
                    std::mem::forget(tensor);
                }
                count as c_int
            }
            Err(panic) => {
                let owned = panic.downcast_ref::<String>().map(String::as_str);
                let text = owned.or_else(|| panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("a block failed");
                let length = text.len().min(capacity - 1);
                // SAFETY: the buffer has that room, and ends with a zero.
                unsafe {
                    std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, length);
                    *message.add(length) = 0;
                }
                -1
            }
        }
    }

    /// One direction of the block. Backward, `inputs` are the gradient, then what was saved.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn osdd_gated_pass(
        kernels: *const c_void,
        backward: bool,
        inputs: Given,
        count: usize,
        outputs: *mut *mut c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int {
        // SAFETY: what `osdd_gated_block` was given comes back, and kernels are never freed.
        unsafe {
            let kernels = &*kernels.cast::<Kernels>();
            let work = |inputs: &[Tensor]| {
                let _no_grad = tch::no_grad_guard();
                match backward {
                    true => gated::backward(kernels, &inputs[0], &inputs[1..]),
                    false => gated::forward(kernels, inputs),
                }
            };
            answer((inputs, count), work, outputs, message, capacity)
        }
    }
}

/// The block for inputs that are to be differentiated by.
#[cfg(libtorch_headers)]
pub(super) fn differentiable(kernels: &'static Kernels, inputs: &[Tensor]) -> Tensor {
    let pointers: Vec<_> = inputs.iter().map(|t| t.as_ptr().cast()).collect();
    let mut message = [0 as std::ffi::c_char; 1024];
    // SAFETY: the tensors outlive the call; kernels are never freed; the tensor that comes back has no other owner.
    unsafe {
        let output = shim::osdd_gated_block(
            std::ptr::from_ref(kernels).cast(),
            pointers.as_ptr(),
            pointers.len(),
            message.as_mut_ptr(),
            message.len(),
        );
        if output.is_null() {
            let message = std::ffi::CStr::from_ptr(message.as_ptr()).to_string_lossy();
            panic!("{message}");
        }
        Tensor::from_ptr(output.cast())
    }
}
