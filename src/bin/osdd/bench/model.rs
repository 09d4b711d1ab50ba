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

/// Rounds, after some that do not count.
const ROUNDS: usize = 9;
const WARM_UP: usize = 2;
/// That the model is measured against something at a time, at most.
const MOST_SECONDS: f64 = 1.0;

/// Medians over the rounds.
#[derive(Clone, Default, Serialize, Deserialize)]
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
    /// The limit's time over the model's: the median of the rounds' ratios.
    pub share_of_limit: f64,
    /// Operations in a second of libtorch's 3x3 convolution of 64 channels, channels-last.
    pub convolution_gflops: f64,
    /// The same of one with a kernel for each of 128 channels.
    pub depthwise_gflops: f64,
    /// The same of libtorch's product of two matrices.
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
    let mut model = OsddModel::new(&params, &weights.config)?;
    model.fold();
    let side = |pixels: usize| match config.resolved_tile_size(arithmetic.large_tiles, place.is_cuda()) {
        0 => pixels,
        tile => pixels.min(tile),
    };
    let [width, height] = [size.width, size.height].map(|pixels| side(pixels).next_multiple_of(multiple));
    let moved = if args.gamma < 0.5 { 1.0 } else { 0.0 };
    // In the arithmetic that the model has there.
    let products = match arithmetic.products {
        Products::Bfloat16 if place == Device::Cpu => Kind::BFloat16,
        _ => kind,
    };
    let image = Tensor::rand([1, 3, height as i64, width as i64], (Kind::Float, place));
    let mut bench = Bench {
        passes: Passes {
            model,
            merged,
            image: channels_last(&image),
            gammas: [moved, args.gamma],
        },
        fused: arithmetic.fused,
        convolution: Yardstick::convolution(64, 1, (products, place)),
        depthwise: Yardstick::convolution(128, 128, (kind, place)),
        matrix: Yardstick::matrix((products, place)),
    };
    bench.measure(operations_per_pixel(&weights.config)?, (width * height) as f64)
}

struct Bench {
    passes: Passes,
    /// By threads of our own.
    fused: bool,
    convolution: Yardstick,
    depthwise: Yardstick,
    matrix: Yardstick,
}

/// What one round found: seconds, and operations in a second.
struct Round {
    parts: [f64; 3],
    after_move: f64,
    convolution: f64,
    depthwise: f64,
    matrix: f64,
}

impl Round {
    fn total(&self) -> f64 {
        self.parts.iter().sum()
    }

    /// Seconds a pixel that the convolutions alone would take at libtorch's rates.
    fn limit(&self, operations: Operations) -> f64 {
        operations.dense / self.convolution + operations.depthwise / self.depthwise
    }
}

impl Bench {
    fn measure(&mut self, operations: Operations, pixels: f64) -> Result<ModelSample> {
        let mut rounds: Vec<Round> = Vec::new();
        for _ in 0..WARM_UP + ROUNDS {
            let seconds = rounds.last().map_or(0.0, Round::total);
            rounds.push(self.round(seconds)?);
        }
        rounds.drain(..WARM_UP);
        let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let total = of(&Round::total);
        let (_, _, height, width) = self.passes.image.size4()?;
        Ok(ModelSample {
            width: width as usize,
            height: height as usize,
            encode_ms: 1e3 * of(&|round| round.parts[0]),
            predict_ms: 1e3 * of(&|round| round.parts[1]),
            decode_ms: 1e3 * of(&|round| round.parts[2]),
            total_ms: 1e3 * total,
            gamma_change_ms: 1e3 * of(&|round| round.after_move - round.total()).max(0.0),
            gflops: operations.total() * pixels / total / 1e9,
            limit_gflops: operations.total() / of(&|round| round.limit(operations)) / 1e9,
            share_of_limit: of(&|round| round.limit(operations) * pixels / round.total()),
            convolution_gflops: of(&|round| round.convolution) / 1e9,
            depthwise_gflops: of(&|round| round.depthwise) / 1e9,
            matrix_gflops: of(&|round| round.matrix) / 1e9,
        })
    }

    /// The model and what it is measured against in turn, `seconds` each, which should be as long as a pass takes: what else the machine
    /// does slows both alike.
    fn round(&mut self, seconds: f64) -> Result<Round> {
        let seconds = seconds.min(MOST_SECONDS);
        let [convolution, depthwise, matrix] = [
            self.convolution.rate(seconds)?,
            self.depthwise.rate(seconds)?,
            self.matrix.rate(seconds)?,
        ];
        let passes = &mut self.passes;
        let (parts, after_move) = match self.fused {
            true => on_own_threads(|| passes.round()),
            false => passes.round(),
        }?;
        Ok(Round {
            parts,
            after_move,
            convolution,
            depthwise,
            matrix,
        })
    }
}

struct Passes {
    model: OsddModel,
    merged: Merged,
    image: Tensor,
    gammas: [f64; 2],
}

impl Passes {
    /// Seconds in encoder, UNet and decoder, and of a whole pass before which gamma moves.
    fn round(&mut self) -> Result<([f64; 3], f64)> {
        let _no_grad = tch::no_grad_guard();
        // libtorch's threads are still awake from what was before.
        self.pass(None)?;
        let parts = self.pass(None)?;
        let [there, back] = self.gammas;
        let after_move: f64 = self.pass(Some(there))?.iter().sum();
        self.merged.set_gamma(back)?;
        self.model.fold();
        wait_for(self.image.device());
        Ok((parts, after_move))
    }

    /// Seconds in encoder, UNet and decoder; what moving gamma took counts to the encoder.
    fn pass(&mut self, gamma: Option<f64>) -> Result<[f64; 3]> {
        interrupt::check()?;
        let start = Instant::now();
        if let Some(gamma) = gamma {
            self.merged.set_gamma(gamma)?;
            self.model.fold();
        }
        let mut ends = [0.0; 3];
        let device = self.image.device();
        let _image = self.model.forward_in_parts(&self.image, &mut |part| {
            wait_for(device);
            ends[part as usize] = start.elapsed().as_secs_f64();
        });
        Ok([ends[Part::Encode as usize], ends[1] - ends[0], ends[2] - ends[1]])
    }
}

/// An operation of libtorch's that the model is measured against, on all its threads.
struct Yardstick {
    work: Box<dyn Fn() -> Tensor>,
    operations: f64,
    device: Device,
}

impl Yardstick {
    /// 3x3, of images large enough that asking for it is no part of its time.
    fn convolution(channels: i64, groups: i64, options: (Kind, Device)) -> Self {
        let side: i64 = if options.1 == Device::Cpu { 128 } else { 512 };
        let image = channels_last(&Tensor::rand([1, channels, side, side], options));
        let weight = channels_last(&Tensor::rand([channels, channels / groups, 3, 3], options));
        let operations = (2 * 9 * channels * channels / groups * side * side) as f64;
        // libtorch keeps some from oneDNN, which is its fastest on a CPU.
        let one_dnn = move |image: &Tensor, weight: &Tensor| {
            image.f_mkldnn_convolution::<Tensor>(weight, None, [1, 1], [1, 1], [1, 1], groups)
        };
        let on_cpu = options.1 == Device::Cpu && tch::utils::has_mkldnn();
        let work: Box<dyn Fn() -> Tensor> = match on_cpu && one_dnn(&image, &weight).is_ok() {
            true => Box::new(move || one_dnn(&image, &weight).expect("it has done so before")),
            false => Box::new(move || image.conv2d::<Tensor>(&weight, None, [1, 1], [1, 1], [1, 1], groups)),
        };
        Yardstick {
            work,
            operations,
            device: options.1,
        }
    }

    /// A product of two square matrices.
    fn matrix(options: (Kind, Device)) -> Self {
        let side: i64 = if options.1 == Device::Cpu { 1024 } else { 4096 };
        let [one, two] = [0; 2].map(|_| Tensor::rand([side, side], options));
        Yardstick {
            work: Box::new(move || one.matmul(&two)),
            operations: (2 * side * side * side) as f64,
            device: options.1,
        }
    }

    /// Operations in a second, over at least so many seconds.
    fn rate(&self, seconds: f64) -> Result<f64> {
        let _no_grad = tch::no_grad_guard();
        let (start, mut times) = (Instant::now(), 0);
        loop {
            interrupt::check()?;
            let _made = (self.work)();
            wait_for(self.device);
            times += 1;
            let elapsed = start.elapsed().as_secs_f64();
            if elapsed >= seconds {
                return Ok(f64::from(times) * self.operations / elapsed);
            }
        }
    }
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}
