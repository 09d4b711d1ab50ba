//! Layers by kernels of our own on a GPU.
//!
//! libtorch computes a gated block as some twenty passes over its maps, and most of their time is reading and writing them. Here
//! the matrix products are libtorch's, and everything between them is one kernel each (`gated.cu`), forward and backward.
//! Group normalisation with SiLU reads its map twice and writes it once (`group_norm.cu`); frames become tiles, and tiles frames, in one
//! pass each (`frame.cu`).
//! Kernels are compiled by NVRTC when a width, or a kind of frame, is first met; where that is not to be had, libtorch's layers serve.

mod driver;
#[cfg(test)]
mod emulated;
mod frame;
mod function;
mod gated;
mod group_norm;
mod kernels;

pub(crate) use frame::{FrameKernels, TilePlaces};
pub(super) use function::forward;
pub(super) use group_norm::group_norm;

#[cfg(all(test, libtorch_headers))]
mod tests {
    use std::ffi::c_void;

    use tch::{Device, Kind, Tensor};

    use super::emulated::Emulated;
    use super::function::differentiable;
    use super::gated;
    use super::group_norm::GroupNorm;
    use super::kernels::{Kernel, Kernels, Launch};
    use crate::device;
    use crate::nn::{BlockShape, GatedBlock2D, Initializer, NormKind, Params, TensorMap, channels_last};

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
            let defines = Kernels::defines(width, 1e-6, kind == Kind::BFloat16, true);
            let kernels = Kernels::new(width, Box::new(Emulated::new(defines)));
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

    /// Maps with values far from zero, as those of autoencoders are, and a norm's parameters.
    fn norm_case(width: i64, [batch, height, columns]: [i64; 3], kind: Kind) -> [Tensor; 3] {
        tch::manual_seed(width);
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let maps = random(&[batch, width, height, columns]) * 2.0 + random(&[batch, width, 1, 1]) * 3.0;
        let [x, weight, bias] = [channels_last(&maps), random(&[width]), random(&[width])];
        [x, weight, bias].map(|t| t.to_kind(kind))
    }

    /// What libtorch makes of it in float32.
    fn normed([x, weight, bias]: &[Tensor; 3], groups: i64, silu: bool) -> Tensor {
        let [x, weight, bias] = [x, weight, bias].map(|t| t.to_kind(Kind::Float));
        let y = x.group_norm(groups, Some(weight), Some(bias), 1e-6, false);
        if silu { y.silu() } else { y }
    }

    #[test]
    fn kernels_compute_group_norms() {
        // Groups of 4 and of 10 channels, which are no whole pieces, and of 32; more pixels than threads and fewer.
        for (width, groups, size, kind, most) in [
            (128, 32, [2, 33, 17], Kind::Float, 1e-5),
            (320, 32, [1, 5, 7], Kind::Float, 1e-5),
            (64, 2, [3, 1, 1], Kind::Float, 1e-5),
            (2560, 32, [1, 3, 2], Kind::Float, 1e-5),
            (128, 32, [1, 24, 24], Kind::BFloat16, 5e-3),
        ] {
            let mut defines = GroupNorm::defines(width, groups, 1e-6, kind == Kind::BFloat16);
            defines.push("-DGROUP_NORM".into());
            let kernels = GroupNorm::new(width, Box::new(Emulated::new(defines)));
            let case = norm_case(width, size, kind);
            for silu in [false, true] {
                let expected = normed(&case, groups, silu);
                let output = kernels.forward(&case[0], &case[1], &case[2], silu);
                assert_eq!((output.size(), output.kind()), (expected.size(), kind));
                assert!(output.permute([0, 2, 3, 1]).is_contiguous(), "channels-last");
                let error = relative(&output, &expected);
                assert!(error < most, "{width} {kind:?}, SiLU {silu}: {error}");
            }
        }
    }

    #[test]
    fn a_gpu_computes_group_norms() {
        let Ok((_, gpu)) = device::resolve(device::Device::Cuda(0)) else {
            eprintln!("left out: there is no GPU");
            return;
        };
        for (width, kind, most) in [(128, Kind::Float, 1e-5), (320, Kind::BFloat16, 5e-3)] {
            let case = norm_case(width, [2, 120, 67], kind);
            let [x, weight, bias] = [0, 1, 2].map(|i| case[i].to_device(gpu));
            for silu in [false, true] {
                let output = super::group_norm(&x, 32, [&weight, &bias], 1e-6, silu);
                let output = output.expect("NVRTC and the driver are there");
                let error = relative(&output.to_device(Device::Cpu), &normed(&case, 32, silu));
                assert!(error < most, "{width} {kind:?}, SiLU {silu}: {error}");
            }
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
