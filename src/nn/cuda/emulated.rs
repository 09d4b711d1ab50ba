//! The kernels on a machine without a GPU.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::kernels::{Kernel, Launch};
use crate::test_library::TestLibrary;

/// The kernels as functions of the CPU.
pub struct Emulated(unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void) -> c_int);

impl Emulated {
    /// Compiled with these definitions.
    pub fn new(defines: Vec<String>) -> Self {
        let library = TestLibrary::build("src/nn/cuda/emulator.cpp", &defines);
        let function = library.find(c"osdd_emulated");
        // SAFETY: as declared there.
        Emulated(unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void) -> c_int,
            >(function)
        })
    }
}

impl Launch for Emulated {
    fn multiprocessors(&self) -> i64 {
        2
    }

    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        threads: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        // SAFETY: as a GPU would be given them.
        let code = unsafe { (self.0)(kernel.name().as_ptr(), blocks, threads, arguments.as_mut_ptr()) };
        (code == 0)
            .then_some(())
            .ok_or_else(|| kernel.name().to_string_lossy().into_owned())
    }
}
