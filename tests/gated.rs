//! The gated block against plain PyTorch: `tests/fixtures/make_gated_fixture.py` made the numbers.

use std::path::Path;

use osdd::nn::{
    Block2D, BlockKind, BlockShape, Downsample2D, Initializer, NormKind, Params, Source, TensorMap,
    Upsample2D,
};
use tch::{Kind, Tensor};

fn fixture() -> TensorMap {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gated.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn assert_close(got: &Tensor, expected: &Tensor) {
    assert_eq!(got.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]);
    let error = (got - expected).abs().max().double_value(&[]) / scale;
    assert!(error < 1e-5, "relative error {error:.2e}");
}

fn shape(in_channels: i64, out_channels: i64, skip_channels: i64, temb_channels: Option<i64>) -> BlockShape {
    BlockShape {
        in_channels,
        out_channels,
        skip_channels,
        temb_channels,
        norm: NormKind::Channel,
        eps: 1e-6,
    }
}

#[test]
fn a_block_matches_pytorch() {
    let file = fixture();
    let block = |name, shape| Block2D::new(&Params::new(&file).pp(name), BlockKind::Gated, shape).unwrap();
    let plain = block("plain", shape(6, 6, 0, None)).forward(&file["fixture.plain.input0"], None, None);
    assert_close(&plain, &file["fixture.plain.output0"]);
    let input = |i: usize| &file[&format!("fixture.joining.input{i}")];
    let joining = block("joining", shape(6, 8, 5, Some(4)));
    let shift = joining.shift(input(2));
    let output = joining.forward(input(0), Some(input(1)), shift.as_ref());
    assert_close(&output, &file["fixture.joining.output0"]);
    assert_close(
        &joining.forward_residual(input(0), input(1), shift.as_ref()),
        &output,
    );
}

#[test]
fn resampling_matches_pytorch_also_at_odd_sizes() {
    let file = fixture();
    let p = Params::new(&file).pp("resampler");
    let x = &file["fixture.resampler.input0"];
    let down = Downsample2D::new(&p.pp("down"), BlockKind::Gated, 4, 4, true).unwrap();
    assert_close(&down.forward(x), &file["fixture.resampler.output0"]);
    let up = Upsample2D::new(&p.pp("up"), BlockKind::Gated, 4, 4).unwrap();
    assert_close(&up.forward(x, None), &file["fixture.resampler.output1"]);
    let cut = file["fixture.resampler.output1"].narrow(2, 0, 9).narrow(3, 0, 13);
    assert_close(&up.to_size(x, 9, 13), &cut);
}

/// Deep models start from here: the signal passes from end to end before anything is learned.
#[test]
fn an_untrained_block_passes_on_the_sum_of_input_and_skip() {
    let init = Initializer::new(3);
    let made =
        |source: &dyn Source| Block2D::new(&Params::new(source), BlockKind::Gated, shape(5, 4, 3, None));
    made(&init).unwrap();
    // From what would be saved and trained, not from what the first block holds.
    let block = made(&init.into_tensors()).unwrap();
    let options = (Kind::Float, tch::Device::Cpu);
    let (x, skip) = (
        Tensor::randn([1, 5, 6, 6], options),
        Tensor::randn([1, 3, 6, 6], options),
    );
    let sum = x.narrow(1, 0, 4) + skip.constant_pad_nd([0, 0, 0, 0, 0, 1]);
    assert_close(&block.forward(&x, Some(&skip), None), &sum);
}
