// Writes the folder of libtorch into programs, tests and examples, and compiles what tch lacks.

use std::env;
use std::path::Path;

#[path = "plugin/build.rs"]
mod rpath;

fn main() {
    rpath::main();
    println!("cargo:rerun-if-changed=src/memory.cpp");
    println!("cargo:rustc-check-cfg=cfg(osdd_allocator)");
    // Where a libtorch has no headers, there is no shim, and libtorch's own ways do.
    let libtorch = env::var_os("LIBTORCH").unwrap_or_default();
    let include = Path::new(&libtorch).join("include");
    if include.join("c10/core/Allocator.h").exists() {
        cc::Build::new()
            .cpp(true)
            .std("c++20")
            .include(include)
            .file("src/memory.cpp")
            .warnings(false)
            .compile("osdd_memory");
        println!("cargo:rustc-cfg=osdd_allocator");
    }
}
