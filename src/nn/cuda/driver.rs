//! The CUDA driver and the run-time compiler, found when they are first asked for: the same program runs without them.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use once_cell::sync::Lazy;

use super::kernels::{Kernel, Launch};
use crate::device;

/// A handle of the driver's.
type Handle = *mut c_void;

/// How an error begins that less work at a time may mend; libtorch's begin so too.
pub(super) const OUT_OF_MEMORY: &str = "CUDA out of memory";

const CUDA_ERROR_OUT_OF_MEMORY: c_int = 2;
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY: [c_int; 2] = [75, 76];

/// Declares a table of C functions that are looked up by name in a library.
macro_rules! functions {
    ($table:ident { $($name:ident($($argument:ty),*);)* }) => {
        #[allow(non_snake_case)]
        struct $table { $($name: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl $table {
            /// # Safety
            /// The library's functions of these names are as declared.
            unsafe fn find(library: Handle) -> Option<Self> {
                Some($table {
                    $($name: {
                        let name = CString::new(stringify!($name)).ok()?;
                        // SAFETY: the caller vouches for the types.
                        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
                        if found.is_null() {
                            return None;
                        }
                        unsafe { std::mem::transmute::<Handle, unsafe extern "C" fn($($argument),*) -> c_int>(found) }
                    },)*
                })
            }
        }
    };
}

functions!(Driver {
    cuInit(c_uint);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    cuCtxPushCurrent_v2(Handle);
    cuCtxPopCurrent_v2(*mut Handle);
    cuModuleLoadData(*mut Handle, *const c_void);
    cuModuleGetFunction(*mut Handle, Handle, *const c_char);
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    cuGetErrorName(c_int, *mut *const c_char);
});

functions!(Compiler {
    nvrtcCreateProgram(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    nvrtcCompileProgram(Handle, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(Handle, *mut usize);
    nvrtcGetProgramLog(Handle, *mut c_char);
    nvrtcGetCUBINSize(Handle, *mut usize);
    nvrtcGetCUBIN(Handle, *mut c_char);
    nvrtcDestroyProgram(*mut Handle);
});

static DRIVER: Lazy<Option<Driver>> = Lazy::new(|| {
    let library = open("libcuda.so.1")?;
    // SAFETY: the driver's interface, which stays as it is from version to version.
    let driver = unsafe { Driver::find(library)? };
    (unsafe { (driver.cuInit)(0) } == 0).then_some(driver)
});

static COMPILER: Lazy<Option<Compiler>> = Lazy::new(|| {
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
    let beside = folder_of_runtime();
    let beside = beside
        .iter()
        .flat_map(|folder| names.map(|name| format!("{folder}/{name}")));
    // First what libtorch itself compiles with: functions are looked for in a library's dependencies too.
    let paths = std::iter::once("libcaffe2_nvrtc.so".to_owned()).chain(beside);
    let mut libraries = paths
        .chain(names.map(str::to_owned))
        .filter_map(|path| open(&path));
    // SAFETY: the compiler's interface, the same in these versions.
    libraries.find_map(|library| unsafe { Compiler::find(library) })
});

fn open(path: &str) -> Option<Handle> {
    let path = CString::new(path).ok()?;
    // SAFETY: loads a library; its initialisers are its own affair, and it is never unloaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    (!library.is_null()).then_some(library)
}

/// Where the CUDA runtime that libtorch uses was loaded from: its compiler is in the same place.
fn folder_of_runtime() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("/libcudart.so"))?;
    let path = &line[line.find('/')?..];
    Some(path.rsplit_once('/')?.0.to_owned())
}

/// Kernels in the memory of a GPU.
pub(super) struct Module {
    driver: &'static Driver,
    /// The GPU's number.
    index: usize,
    context: Handle,
    multiprocessors: c_int,
    functions: Vec<(Kernel, Handle)>,
}

// SAFETY: handles of the driver's that any thread may use.
unsafe impl Send for Module {}
unsafe impl Sync for Module {}

impl Module {
    /// Compiles `source` for a GPU, by its number, with these definitions.
    ///
    /// # Errors
    /// What is missing, or what the compiler says.
    pub fn compile(
        device: usize,
        source: &str,
        defines: &[String],
        kernels: &[Kernel],
    ) -> Result<Self, String> {
        let driver = DRIVER.as_ref().ok_or("no CUDA driver")?;
        let index = device;
        let (number, mut device, mut context) = (index as c_int, 0, ptr::null_mut());
        // SAFETY: fills variables of ours. The primary context is libtorch's too, and is kept as long as the process lives.
        unsafe {
            check(
                driver,
                "cuDeviceGet",
                (driver.cuDeviceGet)(&raw mut device, number),
            )?;
            let code = (driver.cuDevicePrimaryCtxRetain)(&raw mut context, device);
            check(driver, "cuDevicePrimaryCtxRetain", code)?;
        }
        let [major, minor] = CAPABILITY.map(|which| attribute(driver, device, which));
        let mut options = vec![format!("--gpu-architecture=sm_{}{}", major?, minor?)];
        options.extend_from_slice(defines);
        let binary = compile(source, &options)?;
        let _entered = Entered::new(driver, context)?;
        let mut module = ptr::null_mut();
        // SAFETY: loads what the compiler made; the driver copies it.
        check(driver, "cuModuleLoadData", unsafe {
            (driver.cuModuleLoadData)(&raw mut module, binary.as_ptr().cast())
        })?;
        // Those of gradients may have been left out.
        let functions = kernels.iter().filter_map(|&kernel| {
            let mut function = ptr::null_mut();
            // SAFETY: the module is loaded and stays.
            let code =
                unsafe { (driver.cuModuleGetFunction)(&raw mut function, module, kernel.name().as_ptr()) };
            (code == 0).then_some((kernel, function))
        });
        Ok(Module {
            driver,
            index,
            context,
            multiprocessors: attribute(driver, device, MULTIPROCESSORS)?,
            functions: functions.collect(),
        })
    }
}

impl Launch for Module {
    fn multiprocessors(&self) -> i64 {
        self.multiprocessors.into()
    }

    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        threads: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        let function = self.functions.iter().find(|(of, _)| *of == kernel);
        let (_, function) = *function.ok_or_else(|| format!("{kernel:?} was not compiled"))?;
        let _entered = Entered::new(self.driver, self.context)?;
        // After what libtorch was asked for on this thread.
        let stream = device::current_stream(self.index);
        // SAFETY: the caller vouches for the arguments.
        let code = unsafe {
            (self.driver.cuLaunchKernel)(
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(self.driver, "cuLaunchKernel", code)
    }
}

/// A GPU's context, the one that libtorch uses, as this thread's; what was before comes back when it is dropped.
struct Entered(&'static Driver);

impl Entered {
    fn new(driver: &'static Driver, context: Handle) -> Result<Self, String> {
        // SAFETY: a context that is kept.
        let code = unsafe { (driver.cuCtxPushCurrent_v2)(context) };
        check(driver, "cuCtxPushCurrent", code)?;
        Ok(Entered(driver))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut context = ptr::null_mut();
        // SAFETY: takes off what was put on top.
        unsafe { (self.0.cuCtxPopCurrent_v2)(&raw mut context) };
    }
}

fn attribute(driver: &Driver, device: c_int, which: c_int) -> Result<c_int, String> {
    let mut value = 0;
    // SAFETY: fills a variable of ours.
    let code = unsafe { (driver.cuDeviceGetAttribute)(&raw mut value, which, device) };
    check(driver, "cuDeviceGetAttribute", code)?;
    Ok(value)
}

fn check(driver: &Driver, what: &str, code: c_int) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: gives a string of the driver's own, or nothing.
    let known = unsafe { (driver.cuGetErrorName)(code, &raw mut name) } == 0 && !name.is_null();
    let name = match known {
        // SAFETY: a string that ends with a zero and stays.
        true => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
        false => code.to_string(),
    };
    match code {
        CUDA_ERROR_OUT_OF_MEMORY => Err(format!("{OUT_OF_MEMORY}: {what}")),
        _ => Err(format!("CUDA error: {what}: {name}")),
    }
}

/// Machine code of `source`.
fn compile(source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let compiler = COMPILER.as_ref().ok_or("no NVRTC, CUDA's run-time compiler")?;
    let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let (source, name) = (text(source)?, c"osdd.cu");
    let options = options
        .iter()
        .map(|option| text(option))
        .collect::<Result<Vec<_>, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = ptr::null_mut();
    // SAFETY: strings and variables of ours, which outlive the calls; buffers have the sizes that were asked for.
    unsafe {
        let no_headers = ptr::null();
        let made = (compiler.nvrtcCreateProgram)(
            &raw mut program,
            source.as_ptr(),
            name.as_ptr(),
            0,
            no_headers,
            no_headers,
        );
        if made != 0 {
            return Err(format!("nvrtcCreateProgram: {made}"));
        }
        let code = (compiler.nvrtcCompileProgram)(program, pointers.len() as c_int, pointers.as_ptr());
        let mut size = 0;
        let result = if code == 0 {
            let sized = (compiler.nvrtcGetCUBINSize)(program, &raw mut size);
            let mut binary = vec![0u8; size];
            match sized == 0 && size > 0 && (compiler.nvrtcGetCUBIN)(program, binary.as_mut_ptr().cast()) == 0
            {
                true => Ok(binary),
                false => Err("NVRTC gave no machine code".to_owned()),
            }
        } else {
            (compiler.nvrtcGetProgramLogSize)(program, &raw mut size);
            let mut log = vec![0u8; size];
            (compiler.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast());
            let log = String::from_utf8_lossy(&log);
            Err(format!("NVRTC: {code}: {}", log.trim_end_matches('\0').trim()))
        };
        (compiler.nvrtcDestroyProgram)(&raw mut program);
        result
    }
}
