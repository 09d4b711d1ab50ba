//! Layers fused for the CPU against the same layers by libtorch, which weights that are trained still go through.

use osdd::config::ModelConfig;
use osdd::model::OsddModel;
use osdd::nn::{
    Conv2d, ImageNorm, Initializer, NormKind, Params, Products, Source, TensorMap, channels_last,
};
use osdd::weights::{EndPoints, Keep, Merged, load_model};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The same values, to be trained: layers by libtorch.
fn trained(tensors: &TensorMap) -> TensorMap {
    let copies = tensors
        .iter()
        .map(|(name, t)| (name.clone(), t.copy().set_requires_grad(true)));
    copies.collect()
}

/// nano's configuration, and its weights at this gamma.
fn nano(gamma: f64) -> (ModelConfig, Merged) {
    let weights = load_model("nano").unwrap();
    let end_points = EndPoints::new(&weights, Device::Cpu, Kind::Float, Keep::EndPoints).unwrap();
    (weights.config, end_points.merged(gamma).unwrap())
}

fn error(one: &Tensor, two: &Tensor) -> f64 {
    assert_eq!(one.size(), two.size());
    (one - two).abs().max().double_value(&[])
}

#[test]
fn nano_is_the_same_at_any_size_and_gamma() {
    let (config, mut merged) = nano(0.3);
    let fused = OsddModel::new(&Params::new(merged.tensors()), &config).unwrap();
    tch::manual_seed(5);
    let _no_grad = tch::no_grad_guard();
    // Odd sizes at every level, maps of less than a block of pixels, several images, many rows.
    for (size, gamma) in [
        ([1, 3, 8, 8], 0.3),
        ([2, 3, 72, 104], 0.3),
        ([1, 3, 200, 24], 1.0),
        ([1, 3, 16, 800], 0.0),
    ] {
        merged.set_gamma(gamma).unwrap();
        let plain = trained(merged.tensors());
        let plain = OsddModel::new(&Params::new(&plain), &config).unwrap();
        let x = channels_last(&(Tensor::rand(size, CPU) * 2.0 - 1.0));
        let (got, expected) = (fused.forward(&x), plain.forward(&x));
        let difference = error(&got, &expected);
        assert!(difference < 2e-5, "{size:?}: {difference:.1e}");
        assert!(error(&got, &x) > 1e-3, "it does something");
    }
}

/// Of two models that differ in rounding alone: the largest difference, and the decibels of the whole, where 1 is full scale.
fn rounding(one: &Tensor, two: &Tensor) -> (f64, f64) {
    let mean = ((one - two) / 2.0).square().mean(Kind::Float).double_value(&[]);
    (error(one, two) / 2.0, -10.0 * mean.log10())
}

/// On a CPU without such instructions both are the same.
#[test]
fn nano_is_nearly_the_same_with_products_in_bfloat16() {
    let (config, merged) = nano(0.3);
    let [exact, rounded] = [Products::Float32, Products::Bfloat16].map(|products| {
        let params = Params::new(merged.tensors()).with_products(products);
        OsddModel::new(&params, &config).unwrap()
    });
    tch::manual_seed(7);
    let _no_grad = tch::no_grad_guard();
    for size in [[1, 3, 32, 32], [2, 3, 96, 64], [1, 3, 64, 416]] {
        // Nothing that a camera sees, and the hardest: noise that the model changes everywhere.
        let x = channels_last(&(Tensor::rand(size, CPU) * 2.0 - 1.0));
        let (worst, psnr) = rounding(&exact.forward(&x), &rounded.forward(&x));
        assert!(
            worst < 4.0 / 255.0 && psnr > 52.0,
            "{size:?}: {worst:.4}, {psnr:.1} dB"
        );
        assert_eq!(psnr.is_finite(), Products::Bfloat16.are_fast(), "{size:?}");
    }
}

#[test]
fn layers_with_products_in_bfloat16_are_right_at_every_edge() {
    let random = Random(8);
    let trained = Trained(&random);
    let _no_grad = tch::no_grad_guard();
    let sizes = [(6, 70), (2, 2), (8, 34)];
    let maps = sizes.map(|(height, width)| {
        let values = Tensor::arange(2 * 48 * height * width, CPU).sin() * 3.0;
        channels_last(&values.view([2, 48, height, width]))
    });
    let forward = |p: Params, x: &Tensor| {
        let norm = ImageNorm::new(&p.pp("norm"), NormKind::Channel, 48, 1e-6).unwrap();
        let conv = |inputs, outputs, kernel| Conv2d::new(&p.pp(outputs), inputs, outputs, kernel).unwrap();
        // Fewer outputs than a vector, an odd number of vectors, and inputs that fill no tile.
        [
            conv(48, 12, 3).forward_activated(&norm, x, 2, None),
            conv(192, 48, 3).forward_patches(x, 2),
            conv(48, 32, 2).strided(2, 0).forward(x),
            conv(96, 16, 1).forward_joined(&[x, x]),
            conv(48, 64, 1).forward_doubled(x, None),
        ]
    };
    for x in &maps {
        let rounded = forward(Params::new(&random).with_products(Products::Bfloat16), x);
        for (i, (rounded, exact)) in rounded.iter().zip(forward(Params::new(&trained), x)).enumerate() {
            let difference = error(rounded, &exact) / exact.abs().max().double_value(&[]);
            assert!(difference < 0.005, "layer {i}, {:?}: {difference:.1e}", x.size());
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_image() {
    let (config, merged) = nano(1.0);
    let _no_grad = tch::no_grad_guard();
    for products in [Products::Float32, Products::Bfloat16] {
        let params = Params::new(merged.tensors()).with_products(products);
        let model = OsddModel::new(&params, &config).unwrap();
        let both = channels_last(&Tensor::arange(2 * 3 * 32 * 64, CPU).sin().view([2, 3, 32, 64]));
        let alone = model.forward(&channels_last(&both.narrow(0, 1, 1)));
        let _ = both.get(0).fill_(f64::NAN);
        let made = model.forward(&both);
        assert!(made.get(0).isnan().all().int64_value(&[]) == 1, "{products:?}");
        assert_eq!(made.narrow(0, 1, 1), alone, "{products:?}");
        // Nothing of it is left where threads keep their buffers.
        assert_eq!(
            model.forward(&channels_last(&both.narrow(0, 1, 1))),
            alone,
            "{products:?}"
        );
    }
}

#[test]
fn what_is_added_to_rearranged_outputs_is_added_in_its_place() {
    let random = Random(9);
    let trained = Trained(&random);
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(9);
    let x = channels_last(&Tensor::randn([2, 32, 9, 21], CPU));
    let doubled = channels_last(&Tensor::randn([2, 16, 18, 42], CPU));
    let image = channels_last(&Tensor::randn([2, 3, 18, 42], CPU));
    let [fused, plain] = [&random as &dyn Source, &trained].map(|source| {
        let p = Params::new(source);
        let norm = ImageNorm::new(&p.pp("norm"), NormKind::Channel, 32, 1e-6).unwrap();
        let up = Conv2d::new(&p.pp("up"), 32, 64, 1).unwrap();
        let out = Conv2d::new(&p.pp("out"), 32, 12, 3).unwrap();
        [
            up.forward_doubled(&x, Some(&doubled)),
            out.forward_activated(&norm, &x, 2, Some(&image)),
        ]
    });
    for ((fused, plain), added) in fused.iter().zip(&plain).zip([&doubled, &image]) {
        assert!(error(fused, plain) < 1e-4 * plain.abs().max().double_value(&[]));
        assert!(error(fused, added) > 1.0);
    }
}

#[test]
fn wide_maps_go_in_stripes() {
    let shape = osdd::nn::BlockShape {
        in_channels: 64,
        out_channels: 64,
        skip_channels: 0,
        temb_channels: None,
        norm: NormKind::Channel,
        eps: 1e-6,
    };
    // Values that say nothing about each other: a block starts as the identity.
    let random = Random(3);
    let block = osdd::nn::GatedBlock2D::new(&Params::new(&random), shape).unwrap();
    let trained = osdd::nn::GatedBlock2D::new(&Params::new(&Trained(&random)), shape).unwrap();
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(6);
    for (height, width) in [(3, 700), (20, 261), (1, 1), (9, 5)] {
        let x = channels_last(&Tensor::randn([1, 64, height, width], CPU));
        let difference = error(&block.forward(&x, None, None), &trained.forward(&x, None, None));
        assert!(difference < 5e-5, "{height}x{width}: {difference:.1e}");
    }
}

#[test]
fn activations_before_a_convolution_are_right_to_rounding() {
    let random = Random(4);
    let trained = Trained(&random);
    let [fused, plain] = [&random as &dyn Source, &trained].map(|source| {
        let p = Params::new(source);
        let norm = ImageNorm::new(&p.pp("norm"), NormKind::Channel, 32, 1e-6).unwrap();
        [3, 1].map(|kernel| {
            let conv = Conv2d::new(&p.pp(kernel), 32, 48, kernel).unwrap();
            let x = channels_last(&(Tensor::arange(2 * 32 * 11 * 7, CPU).sin() * 9.0).view([2, 32, 11, 7]));
            let patch = if kernel == 3 { 4 } else { 1 };
            tch::no_grad(|| conv.forward_activated(&norm, &x, patch, None))
        })
    });
    for (fused, plain) in fused.iter().zip(&plain) {
        let difference = error(fused, plain) / plain.abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{difference:.1e}");
    }
}

/// An initialiser whose values are all random.
struct Random(u64);

impl Source for Random {
    fn fetch(&self, name: &str, shape: &[i64], _: osdd::nn::Init) -> osdd::Result<Tensor> {
        Initializer::new(self.0).fetch(name, shape, osdd::nn::Init::Normal(0.3))
    }
}

/// The values of another source, to be trained.
struct Trained<'a>(&'a dyn Source);

impl Source for Trained<'_> {
    fn fetch(&self, name: &str, shape: &[i64], init: osdd::nn::Init) -> osdd::Result<Tensor> {
        Ok(self.0.fetch(name, shape, init)?.copy().set_requires_grad(true))
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_as_by_libtorch() {
    let random = Random(7);
    let p = Params::new(&random);
    let map = |size: [i64; 4]| Tensor::zeros(size, CPU);
    let refused = |work: &dyn Fn() -> Tensor| {
        let work = std::panic::AssertUnwindSafe(work);
        assert!(std::panic::catch_unwind(work).is_err());
    };
    let conv = Conv2d::new(&p.pp("conv"), 64, 64, 1).unwrap();
    refused(&|| conv.forward(&map([1, 128, 8, 8])));
    refused(&|| conv.forward_joined(&[&map([1, 32, 8, 8]), &map([1, 32, 8, 9])]));
    refused(&|| conv.forward_joined(&[&map([2, 32, 8, 8]), &map([1, 32, 8, 8])]));
    let patches = Conv2d::new(&p.pp("patches"), 48, 64, 3).unwrap();
    refused(&|| patches.forward_patches(&map([1, 3, 10, 8]), 4));
    let norm = ImageNorm::new(&p.pp("norm"), NormKind::Channel, 32, 1e-6).unwrap();
    refused(&|| conv.forward_activated(&norm, &map([1, 64, 8, 8]), 1, None));
}
