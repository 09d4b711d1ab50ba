//! Libraries in C++ that tests build and load: stand-ins for what a machine without a GPU lacks.

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::process::Command;

/// A loaded library; it is never unloaded.
pub struct TestLibrary(*mut c_void);

impl TestLibrary {
    /// Compiles a source file of this crate with these options besides.
    pub fn build(source: &str, options: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("library.so");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-w"]);
        compiler.args(options).arg("-o").arg(&library);
        let compiled = compiler
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
            .status();
        assert!(compiled.unwrap().success(), "{source}");
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: a library that was just built; it is never unloaded.
        unsafe {
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!library.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            TestLibrary(library)
        }
    }

    /// The address of one of its functions.
    pub fn find(&self, name: &CStr) -> *mut c_void {
        // SAFETY: looks a name up in a loaded library.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }
}
