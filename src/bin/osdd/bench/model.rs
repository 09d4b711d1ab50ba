//! The model alone: its parts, what it makes of the device beside a convolution and a matrix product, and what moving gamma
//! costs.

use std::time::Instant;

use anyhow::Result;
use osdd::device::resolve;
use osdd::model::{Arithmetic, Operations, OsddModel, Part, operations_per_pixel};
use osdd::nn::{Params, Products, channels_last, on_own_threads};
use osdd::weights::{EndPoints, Keep, Merged, load_model};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::median;
use crate::args::{BenchArgs, Size};
use crate::interrupt;

/// Passes of each kind, after two that do not count.
const PASSES: usize = 9;
const WARM_UP: usize = 2;

/// Medians over the passes.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ModelSample {
    /// What went through the model: the frame, or as much of it as a tile takes.
    pub width: usize,
    pub height: usize,
    pub encode_ms: f64,
    pub predict_ms: f64,
    pub decode_ms: f64,
    pub total_ms: f64,
    /// A pass after gamma has moved, less a pass.
    pub gamma_change_ms: f64,
    /// The model's multiplications and additions in its time, without norms, activations and copies.
    pub gflops: f64,
    /// What that would be at the convolutions' rates below, were there nothing else.
    pub limit_gflops: f64,
    /// The same of libtorch's 3x3 convolution of 64 channels, 128x128 pixels, channels-last.
    pub convolution_gflops: f64,
    /// The same of one with a kernel for each of 128 channels.
    pub depthwise_gflops: f64,
    /// The same of libtorch's product of two matrices of 1024x1024.
    pub matrix_gflops: f64,
}

pub(super) fn run(size: Size, args: &BenchArgs) -> Result<ModelSample> {
    let config = args.engine.config(args.gamma, 1.0)?;
    let (device, place) = resolve(config.device)?;
    let weights = load_model(&config.model)?;
    let arithmetic = Arithmetic::new(&weights.config, device, config.precision)?;
    let kind = arithmetic.kind;
    let multiple = weights.config.size_multiple();
    let merged = EndPoints::new(&weights, place, kind, Keep::EndPoints)?.merged(args.gamma)?;
    let params = Params::new(merged.tensors()).with_products(arithmetic.products);
    let model = OsddModel::new(&params, &weights.config)?;
    let side = |pixels: usize| match config.resolved_tile_size(arithmetic.large_tiles, place.is_cuda()) {
        0 => pixels,
        tile => pixels.min(tile),
    };
    let [width, height] = [size.width, size.height].map(|pixels| side(pixels).next_multiple_of(multiple));
    let operations = operations_per_pixel(&weights.config)?;
    let moved = if args.gamma < 0.5 { 1.0 } else { 0.0 };
    // By libtorch on all its threads, in the arithmetic that the model has there.
    let products = match arithmetic.products {
        Products::Bfloat16 if place == Device::Cpu => Kind::BFloat16,
        _ => kind,
    };
    let rates = Rates {
        convolution: convolution_rate(64, 1, (products, place))?,
        depthwise: convolution_rate(128, 128, (kind, place))?,
        matrix: matrix_rate((products, place))?,
    };
    let bench = Passes {
        model,
        merged,
        image: channels_last(&Tensor::rand(
            [1, 3, height as i64, width as i64],
            (Kind::Float, place),
        )),
        gammas: [moved, args.gamma],
    };
    match arithmetic.fused {
        true => on_own_threads(move || bench.measure(operations, rates)),
        false => bench.measure(operations, rates),
    }
}

/// Operations in a second.
struct Rates {
    convolution: f64,
    depthwise: f64,
    matrix: f64,
}

struct Passes {
    model: OsddModel,
    merged: Merged,
    image: Tensor,
    gammas: [f64; 2],
}

impl Passes {
    fn measure(mut self, operations: Operations, rates: Rates) -> Result<ModelSample> {
        let _no_grad = tch::no_grad_guard();
        let passes = self.passes(false)?;
        let after_moves = self.passes(true)?;
        let [encode, predict, decode] =
            [0, 1, 2].map(|part| median(passes.iter().map(|pass| pass[part]).collect()));
        let total = |passes: &[[f64; 3]]| median(passes.iter().map(|pass| pass.iter().sum()).collect());
        let (_, _, height, width) = self.image.size4()?;
        Ok(ModelSample {
            width: width as usize,
            height: height as usize,
            encode_ms: 1e3 * encode,
            predict_ms: 1e3 * predict,
            decode_ms: 1e3 * decode,
            total_ms: 1e3 * total(&passes),
            gamma_change_ms: 1e3 * (total(&after_moves) - total(&passes)).max(0.0),
            gflops: operations.total() * (width * height) as f64 / total(&passes) / 1e9,
            limit_gflops: {
                let seconds = operations.dense / rates.convolution + operations.depthwise / rates.depthwise;
                operations.total() / seconds / 1e9
            },
            convolution_gflops: rates.convolution / 1e9,
            depthwise_gflops: rates.depthwise / 1e9,
            matrix_gflops: rates.matrix / 1e9,
        })
    }

    /// Seconds in encoder, UNet and decoder of each pass; with `moving`, what moving gamma took counts to the encoder.
    fn passes(&mut self, moving: bool) -> Result<Vec<[f64; 3]>> {
        let mut passes = Vec::new();
        for i in 0..WARM_UP + PASSES {
            interrupt::check()?;
            let start = Instant::now();
            if moving {
                self.merged.set_gamma(self.gammas[i % 2])?;
            }
            let mut ends = [0.0; 3];
            let device = self.image.device();
            let _image = self.model.forward_in_parts(&self.image, &mut |part| {
                wait_for(device);
                ends[part as usize] = start.elapsed().as_secs_f64();
            });
            passes.push([ends[Part::Encode as usize], ends[1] - ends[0], ends[2] - ends[1]]);
        }
        self.merged.set_gamma(self.gammas[1])?;
        Ok(passes.split_off(WARM_UP))
    }
}

fn convolution_rate(channels: i64, groups: i64, options: (Kind, Device)) -> Result<f64> {
    let side = 128;
    let image = channels_last(&Tensor::rand([1, channels, side, side], options));
    let weight = channels_last(&Tensor::rand([channels, channels / groups, 3, 3], options));
    let operations = (2 * 9 * channels * channels / groups * side * side) as f64;
    // libtorch keeps some from oneDNN, which is its fastest on a CPU.
    let one_dnn = || image.f_mkldnn_convolution::<Tensor>(&weight, None, [1, 1], [1, 1], [1, 1], groups);
    let plain = || image.conv2d::<Tensor>(&weight, None, [1, 1], [1, 1], [1, 1], groups);
    match options.1 {
        Device::Cpu if tch::utils::has_mkldnn() && one_dnn().is_ok() => {
            rate(options.1, operations, || one_dnn().unwrap_or_else(|_| plain()))
        }
        _ => rate(options.1, operations, plain),
    }
}

fn matrix_rate(options: (Kind, Device)) -> Result<f64> {
    let side = 1024;
    let [one, two] = [0; 2].map(|_| Tensor::rand([side, side], options));
    rate(options.1, (2 * side * side * side) as f64, || one.matmul(&two))
}

/// Operations in a second.
fn rate(device: Device, operations: f64, work: impl Fn() -> Tensor) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let mut seconds = Vec::new();
    for _ in 0..WARM_UP + 3 * PASSES {
        interrupt::check()?;
        let start = Instant::now();
        let _made = work();
        wait_for(device);
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(operations / median(seconds.split_off(WARM_UP)))
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}
