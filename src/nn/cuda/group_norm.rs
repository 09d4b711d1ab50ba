//! Group normalisation, with or without SiLU, in two passes over a map where libtorch makes some nine of them: it has none for
//! channels-last, and copies there and back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::gated::aligned;
use super::kernels::{Argument, Kernel, Launch, compiled, launch};

const SOURCE: &str = concat!(include_str!("numbers.cu"), include_str!("group_norm.cu"));

const KERNELS: [Kernel; 4] = [
    Kernel::ChannelSums,
    Kernel::GroupScales,
    Kernel::ScaleShift,
    Kernel::ScaleShiftSilu,
];

/// Threads of a block, where the channels allow.
const THREADS: i64 = 256;
/// Most threads that a block can have.
const MAX_THREADS: i64 = 1024;
/// Blocks to a multiprocessor.
const BLOCKS_EACH: i64 = 4;
/// Pixels that a thread takes at least.
const LEAST_PIXELS: i64 = 4;

/// Kernels for one width, kind and number of groups.
pub(super) struct GroupNorm {
    width: i64,
    launcher: Box<dyn Launch>,
}

impl GroupNorm {
    pub fn new(width: i64, launcher: Box<dyn Launch>) -> Self {
        GroupNorm { width, launcher }
    }

    /// What the source is compiled with.
    pub fn defines(width: i64, groups: i64, eps: f64, bf16: bool) -> Vec<String> {
        vec![
            format!("-DWIDTH={width}"),
            format!("-DOF_GROUP={}", width / groups),
            format!("-DEPS={eps:e}f"),
            format!("-DBF16={}", i32::from(bf16)),
        ]
    }

    /// The kernels where they are; `None` where libtorch has to do. A first call compiles.
    fn of(device: Device, kind: Kind, width: i64, groups: i64, eps: f64) -> Option<&'static Self> {
        type Made = HashMap<(usize, bool, i64, i64, u64), Option<&'static GroupNorm>>;
        static MADE: Lazy<Mutex<Made>> = Lazy::new(Mutex::default);
        let (Device::Cuda(index), Kind::BFloat16 | Kind::Float) = (device, kind) else {
            return None;
        };
        if width % 8 != 0 || width / 8 > MAX_THREADS || width % groups != 0 {
            return None;
        }
        let bf16 = kind == Kind::BFloat16;
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (index, bf16, width, groups, eps.to_bits());
        if let Some(kernels) = made.get(&key) {
            return *kernels;
        }
        let defines = Self::defines(width, groups, eps, bf16);
        // There may be memory the next time.
        let module = compiled(index, SOURCE, &defines, &KERNELS).ok()?;
        let kernels =
            module.map(|module| -> &Self { Box::leak(Box::new(Self::new(width, Box::new(module)))) });
        made.insert(key, kernels);
        kernels
    }

    fn run<const N: usize>(&self, kernel: Kernel, (blocks, threads): (i64, i64), arguments: [Argument; N]) {
        launch(&*self.launcher, kernel, blocks, threads, arguments);
    }

    /// `x` `[B, C, H, W]`; weight and bias of its kind.
    pub fn forward(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, silu: bool) -> Tensor {
        let (batch, _, height, width) = x.size4().expect("a feature map has four dimensions");
        let pixels = height * width;
        let x = aligned(&x.permute([0, 2, 3, 1]));
        let eighths = self.width / 8;
        let walkers = (THREADS / eighths).max(1);
        let threads = walkers * eighths;
        let most = (self.launcher.multiprocessors() * BLOCKS_EACH / batch).max(1);
        let slices = pixels.div_euclid(walkers * LEAST_PIXELS).clamp(1, most);
        let floats = |size: &[i64]| Tensor::empty(size, (Kind::Float, x.device()));

        let rows = floats(&[batch, slices * walkers, 2 * self.width]);
        let numbers = || [Argument::Number(pixels), Argument::Number(slices)];
        let [of_pixels, of_slices] = numbers();
        self.run(
            Kernel::ChannelSums,
            (batch * slices, threads),
            [(&x).into(), (&rows).into(), of_pixels, of_slices],
        );
        let sums = rows.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        let scales = floats(&[batch, 2 * self.width]);
        let (weight, bias) = (aligned(weight), aligned(bias));
        self.run(
            Kernel::GroupScales,
            (batch, threads),
            [
                (&sums).into(),
                (&weight).into(),
                (&bias).into(),
                (&scales).into(),
                Argument::Number(pixels),
            ],
        );
        let y = x.empty_like();
        let kernel = match silu {
            true => Kernel::ScaleShiftSilu,
            false => Kernel::ScaleShift,
        };
        let [of_pixels, of_slices] = numbers();
        self.run(
            kernel,
            (batch * slices, threads),
            [(&x).into(), (&scales).into(), (&y).into(), of_pixels, of_slices],
        );
        y.permute([0, 3, 1, 2])
    }
}

/// The norm of `x` `[B, C, H, W]`, and SiLU of it, where nothing is to be differentiated; `None` where libtorch has to do.
pub(in crate::nn) fn group_norm(
    x: &Tensor,
    groups: i64,
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    silu: bool,
) -> Option<Tensor> {
    if !x.device().is_cuda() || [x, weight, bias].iter().any(|t| t.requires_grad()) {
        return None;
    }
    let kernels = GroupNorm::of(x.device(), x.kind(), x.size()[1], groups, eps)?;
    (weight.kind() == x.kind()).then(|| kernels.forward(x, weight, bias, silu))
}
