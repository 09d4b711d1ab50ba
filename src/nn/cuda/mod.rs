//! Layers by kernels of our own on a GPU.
//!
//! libtorch computes a gated block as some twenty passes over its maps, and most of their time is reading and writing them. Here
//! the matrix products are libtorch's, and everything between them is one kernel each (`gated.cu`), forward and backward.
//! Kernels are compiled by NVRTC when a width is first met; where that is not to be had, libtorch's layers serve.

mod driver;
mod function;
mod gated;
mod kernels;

pub(super) use function::forward;

#[cfg(all(test, libtorch_headers))]
mod tests {
    use std::ffi::{CString, c_char, c_int, c_uint, c_void};
    use std::path::Path;
    use std::process::Command;

    use tch::{Device, Kind, Tensor};

    use super::function::differentiable;
    use super::gated;
    use super::kernels::{Kernel, Kernels, Launch};
    use crate::device;
    use crate::nn::{BlockShape, GatedBlock2D, Initializer, NormKind, Params, TensorMap, channels_last};

    /// The kernels as functions of the CPU.
    struct Emulated(unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void) -> c_int);

    impl Emulated {
        fn new(width: i64, bf16: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let library = folder.path().join("kernels.so");
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nn/cuda/emulator.cpp");
            let mut compiler = Command::new("c++");
            compiler.args(["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-w"]);
            compiler.args(Kernels::defines(width, 1e-6, bf16, true));
            assert!(
                compiler
                    .arg(source)
                    .arg("-o")
                    .arg(&library)
                    .status()
                    .unwrap()
                    .success()
            );
            let path = CString::new(library.to_str().unwrap()).unwrap();
            // SAFETY: a library that was just built; it is never unloaded.
            unsafe {
                let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
                assert!(!library.is_null());
                let function = libc::dlsym(library, c"osdd_emulated".as_ptr());
                assert!(!function.is_null());
                Emulated(std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void) -> c_int,
                >(function))
            }
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

    /// A block's input and parameters, none of them zero; the block on them; and what comes from above.
    fn case(width: i64, size: [i64; 3], kind: Kind) -> (Vec<Tensor>, impl Fn(&[Tensor]) -> Tensor, Tensor) {
        let shape = BlockShape {
            in_channels: width,
            out_channels: width,
            skip_channels: 0,
            temb_channels: None,
            norm: NormKind::Channel,
            eps: 1e-6,
        };
        let init = Initializer::new(3);
        GatedBlock2D::new(&Params::new(&init), shape).unwrap();
        let tensors = init.into_tensors();
        let names = [
            "norm1",
            "conv1",
            "conv_dw",
            "conv2",
            "norm2",
            "ff.net.0.proj",
            "ff.net.2",
        ];
        let names: Vec<String> = names
            .iter()
            .flat_map(|name| [format!("{name}.weight"), format!("{name}.bias")])
            .collect();
        assert_eq!(names.len(), tensors.len());
        tch::manual_seed(width);
        let [batch, height, columns] = size;
        let maps = || {
            channels_last(&Tensor::randn(
                [batch, width, height, columns],
                (Kind::Float, Device::Cpu),
            ))
        };
        let leaf = |t: Tensor| t.to_kind(kind).detach().set_requires_grad(true);
        let mut inputs = vec![leaf(maps())];
        inputs.extend(names.iter().map(|name| {
            let start = &tensors[name];
            leaf(in_a_buffer(&(start + start.randn_like() * 0.1).to_kind(kind)))
        }));
        let block = move |inputs: &[Tensor]| {
            let named = names
                .iter()
                .cloned()
                .zip(inputs[1..].iter().map(Tensor::shallow_clone));
            let tensors: TensorMap = named.collect();
            GatedBlock2D::new(&Params::new(&tensors), shape)
                .unwrap()
                .forward(&inputs[0], None, None)
        };
        (inputs, block, maps().to_kind(kind))
    }

    /// The same numbers where training has them: in the middle of a buffer, after an odd number of others.
    fn in_a_buffer(values: &Tensor) -> Tensor {
        let buffer = Tensor::cat(
            &[
                Tensor::zeros([1], (values.kind(), values.device())),
                values.view([-1]),
            ],
            0,
        );
        buffer
            .narrow(0, 1, values.numel() as i64)
            .view(values.size().as_slice())
    }

    fn gradients(output: &Tensor, above: &Tensor, inputs: &[Tensor]) -> Vec<Tensor> {
        let loss = (output.to_kind(Kind::Float) * above.to_kind(Kind::Float)).sum(Kind::Float);
        Tensor::run_backward(&[loss], inputs, false, false)
    }

    fn relative(one: &Tensor, two: &Tensor) -> f64 {
        let [one, two] = [one, two].map(|t| t.to_kind(Kind::Double));
        ((one - &two).norm() / two.norm()).double_value(&[])
    }

    #[test]
    fn kernels_compute_the_block_and_its_gradients() {
        // Widths of one and of two turns of a group; one row, one column, sizes with and without whole strips, more strips than walkers.
        for (width, size, kind, most) in [
            (24, [2, 5, 7], Kind::Float, 1e-5),
            (8, [1, 1, 11], Kind::Float, 1e-5),
            (16, [2, 9, 1], Kind::Float, 1e-5),
            (272, [1, 17, 6], Kind::Float, 1e-5),
            (24, [1, 16, 9], Kind::BFloat16, 2e-2),
        ] {
            let kernels = Kernels::new(width, Box::new(Emulated::new(width, kind == Kind::BFloat16)));
            let kernels: &'static Kernels = Box::leak(Box::new(kernels));
            let (inputs, block, above) = case(width, size, kind);
            // What libtorch makes of it in float32.
            let exact: Vec<Tensor> = inputs
                .iter()
                .map(|t| t.to_kind(Kind::Float).detach().set_requires_grad(true))
                .collect();
            let expected = block(&exact);
            let output = differentiable(kernels, &inputs);
            assert_eq!((output.size(), output.kind()), (expected.size(), kind));
            let error = relative(&output, &expected);
            assert!(error < most, "{width} {kind:?}: output {error}");
            let ours = gradients(&output, &above, &inputs);
            let theirs = gradients(&expected, &above, &exact);
            for (i, (one, two)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!((one.size(), one.kind()), (inputs[i].size(), kind));
                let error = relative(one, two);
                assert!(error < most, "{width} {kind:?}: gradient {i}: {error}");
            }
            let _no_grad = tch::no_grad_guard();
            assert_eq!(gated::output(kernels, &inputs), output.detach());
        }
    }

    #[test]
    fn a_gpu_computes_the_block_and_its_gradients() {
        let Ok((_, gpu)) = device::resolve(device::Device::Cuda(0)) else {
            eprintln!("left out: there is no GPU");
            return;
        };
        device::exact_float32();
        for (width, size, kind, most) in [
            (80, [3, 37, 29], Kind::Float, 1e-5),
            (208, [2, 64, 40], Kind::BFloat16, 2e-2),
            (400, [4, 9, 30], Kind::BFloat16, 2e-2),
        ] {
            assert!(
                Kernels::of(gpu, kind, width, 1e-6, true).is_some(),
                "NVRTC and the driver are there"
            );
            let (inputs, block, above) = case(width, size, kind);
            let moved = |place: Device, kind: Kind| -> Vec<Tensor> {
                let moved = inputs.iter().map(|t| t.detach().to_device(place).to_kind(kind));
                let (x, parameters) = (moved.clone().take(1), moved.skip(1));
                let all = x.chain(parameters.map(|t| in_a_buffer(&t)));
                all.map(|t| t.set_requires_grad(true)).collect()
            };
            let (exact, there) = (moved(Device::Cpu, Kind::Float), moved(gpu, kind));
            let (expected, output) = (block(&exact), block(&there));
            let error = relative(&output.to_device(Device::Cpu), &expected);
            eprintln!("{width} channels {kind:?}: output differs by {error:.1e}");
            assert!(error < most, "{width} {kind:?}: output {error}");
            let ours = gradients(&output, &above.to_device(gpu), &there);
            for (i, (one, two)) in ours.iter().zip(gradients(&expected, &above, &exact)).enumerate() {
                let error = relative(&one.to_device(Device::Cpu), &two);
                assert!(error < most, "{width} {kind:?}: gradient {i}: {error}");
            }
        }
    }

    #[test]
    fn what_fails_in_the_graph_is_a_panic_with_its_reason() {
        struct Broken;
        impl Launch for Broken {
            fn multiprocessors(&self) -> i64 {
                1
            }
            fn launch(&self, _: Kernel, _: u32, _: u32, _: &mut [*mut c_void]) -> Result<(), String> {
                Err("CUDA error: cuLaunchKernel: of this test".into())
            }
        }
        let kernels: &'static Kernels = Box::leak(Box::new(Kernels::new(24, Box::new(Broken))));
        let (inputs, _, _) = case(24, [1, 4, 4], Kind::Float);
        let tried =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| differentiable(kernels, &inputs)));
        let panic = tried.err().unwrap();
        assert!(panic.downcast_ref::<String>().unwrap().contains("of this test"));
    }
}
