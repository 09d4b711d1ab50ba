// Writes the folder of libtorch into the plugin and the tests (rpath), so that they start without LD_LIBRARY_PATH. An rpath
// does not travel from a dependency to what links it, so the root's build.rs does the same, with this file.

use std::env;
use std::path::Path;

pub fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Without LIBTORCH torch-sys takes a libtorch of the system, which the loader finds by itself.
    let Some(libtorch) = env::var_os("LIBTORCH") else {
        return;
    };
    // The real folder, not the `.libtorch` link: an installed file must outlive the checkout it was built in.
    let Ok(lib) = Path::new(&libtorch).join("lib").canonicalize() else {
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // RPATH, unlike RUNPATH, also serves the libraries that libtorch itself loads.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
}
