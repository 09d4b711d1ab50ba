// Writes the folder of libtorch into programs, tests and examples, and compiles what tch lacks.

use std::env;
use std::path::Path;

#[path = "plugin/build.rs"]
mod rpath;

const SOURCES: [&str; 4] = [
    "src/device/libtorch.cpp",
    "src/engine/graph.cpp",
    "src/memory.cpp",
    "src/nn/cuda/function.cpp",
];

fn main() {
    rpath::main();
    for file in SOURCES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rustc-check-cfg=cfg(libtorch_headers)");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    // As torch-sys finds them.
    let headers = env::var_os("LIBTORCH_INCLUDE").or_else(|| env::var_os("LIBTORCH"));
    let include = Path::new(&headers.unwrap_or_default()).join("include");
    let needed = ["c10/core/Allocator.h", "torch/csrc/autograd/custom_function.h"];
    if needed.iter().all(|header| include.join(header).exists()) {
        cc::Build::new()
            .cpp(true)
            .std("c++20")
            .include(include.join("torch/csrc/api/include"))
            .include(&include)
            .files(SOURCES)
            .warnings(false)
            .compile("osdd_libtorch");
        println!("cargo:rustc-cfg=libtorch_headers");
        println!("cargo:rustc-env=OSDD_LIBTORCH_INCLUDE={}", include.display());
    } else {
        println!(
            "cargo:warning=no headers in $LIBTORCH/include: tensors get their memory in libtorch's own, slower way, float32 on a GPU is TF32, and training there is slower"
        );
    }
}
