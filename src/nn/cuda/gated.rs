//! The gated block on a GPU, forward and backward.

use tch::{Kind, Tensor};

use super::kernels::{Kernels, Normed, Size};
use crate::nn::memory_order;

/// Bytes of the largest piece that a kernel reads at once.
pub(super) const ALIGNMENT: usize = 32;

/// Parameters of the block, see [`Parameters::new`].
pub(super) const PARAMETERS: usize = 14;

/// The block's parameters as its kernels and matrix products want them.
struct Parameters {
    norm1: [Tensor; 2],
    conv1: [Tensor; 2],
    conv_dw: [Tensor; 2],
    conv2: [Tensor; 2],
    norm2: [Tensor; 2],
    ff_proj: [Tensor; 2],
    ff_out: [Tensor; 2],
}

impl Parameters {
    /// Weight and bias of norm1, conv1, conv_dw, conv2, norm2, ff.net.0.proj and ff.net.2, in this order.
    fn new(tensors: &[Tensor]) -> Self {
        assert_eq!(tensors.len(), PARAMETERS);
        let vectors = |i: usize| [2 * i, 2 * i + 1].map(|i| aligned(&memory_order(&tensors[i])));
        let matrix = |i: usize| {
            let weight = &tensors[2 * i];
            let [outputs, inputs] = [0, 1].map(|dimension| weight.size()[dimension]);
            [weight.reshape([outputs, inputs]), aligned(&tensors[2 * i + 1])]
        };
        Parameters {
            norm1: vectors(0),
            conv1: matrix(1),
            conv_dw: vectors(2),
            conv2: matrix(3),
            norm2: vectors(4),
            ff_proj: matrix(5),
            ff_out: matrix(6),
        }
    }
}

/// Without gaps and at an address from which the kernels can read their pieces: parameters in training are parts of one buffer.
pub(super) fn aligned(x: &Tensor) -> Tensor {
    let x = x.contiguous();
    match (x.data_ptr() as usize).is_multiple_of(ALIGNMENT) {
        true => x,
        false => x.copy(),
    }
}

/// `[B, C, H, W]` as `[B * H * W, C]`, and how to get back.
fn rows(x: &Tensor) -> (Tensor, Size) {
    let (batch, channels, height, width) = x.size4().expect("a feature map has four dimensions");
    let rows = aligned(&x.permute([0, 2, 3, 1])).view([-1, channels]);
    (rows, Size([batch, height, width]))
}

fn maps(rows: &Tensor, Size([batch, height, width]): Size) -> Tensor {
    rows.view([batch, height, width, -1]).permute([0, 3, 1, 2])
}

/// The block's output. `inputs` are `x` `[B, C, H, W]` and the parameters.
pub(super) fn output(kernels: &Kernels, inputs: &[Tensor]) -> Tensor {
    pass(kernels, inputs, None)
}

/// The block's output, then what [`backward`] needs beside the inputs.
pub(super) fn forward(kernels: &Kernels, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut kept = Vec::new();
    let output = pass(kernels, inputs, Some(&mut kept));
    std::iter::once(output).chain(kept).collect()
}

/// `kept` gets every map in between, in order; without it each is freed as soon as nothing needs it.
fn pass(kernels: &Kernels, inputs: &[Tensor], mut kept: Option<&mut Vec<Tensor>>) -> Tensor {
    let (x, size) = rows(&inputs[0]);
    let p = Parameters::new(&inputs[1..]);
    let (conv2_bias, out_bias) = (&p.conv2[1], &p.ff_out[1]);
    let training = kept.is_some();
    let mut keep = |map: Tensor| {
        if let Some(kept) = &mut kept {
            kept.push(map);
        }
    };
    // The biases of the two convolutions that end in sums go into the sum at once; what the second norm must not see of them,
    // it takes off.
    let more = Some([conv2_bias, out_bias]);
    let Normed { normed: n1, raised } = kernels.norm(&x, None, &p.norm1[0], &p.norm1[1], more);
    let h = n1.linear(&p.conv1[0], Some(&p.conv1[1]));
    keep(n1);
    let g1 = kernels.gate_depthwise(&h, &p.conv_dw[0], &p.conv_dw[1], size);
    keep(h);
    let mut y = raised.expect("it was asked for");
    let _ = y.addmm_(&g1, &p.conv2[0].tr());
    keep(g1);
    keep(y.shallow_clone());
    let second = kernels.norm(&y, Some(out_bias), &p.norm2[0], &p.norm2[1], None);
    let n2 = second.normed;
    let f = n2.linear(&p.ff_proj[0], Some(&p.ff_proj[1]));
    keep(n2);
    let g2 = kernels.gate(&f);
    keep(f);
    let weight = p.ff_out[0].tr();
    let sum = match training {
        true => y.addmm(&g2, &weight),
        false => y.addmm_(&g2, &weight),
    };
    keep(g2);
    maps(&sum, size)
}

/// Gradients by the inputs of [`forward`], of `gradient` by the output; `saved` are the inputs and what came after the output.
pub(super) fn backward(kernels: &Kernels, gradient: &Tensor, saved: &[Tensor]) -> Vec<Tensor> {
    let (inputs, made) = saved.split_at(1 + PARAMETERS);
    let [n1, h, g1, y, n2, f, g2] = made else {
        panic!("the forward pass keeps seven maps");
    };
    let (x, size) = rows(&inputs[0]);
    let p = Parameters::new(&inputs[1..]);
    let (dy, _) = rows(gradient);

    let d_ff_out = dy.tr().mm(g2);
    let (df, d_ff_proj_bias) = kernels.gate_backward(f, &dy.mm(&p.ff_out[0]));
    let d_ff_proj = df.tr().mm(n2);
    let dn2 = df.mm(&p.ff_proj[0]);
    let (dy1, [d_norm2, d_norm2_bias, d_out_bias]) =
        kernels.norm_backward(y, Some(&p.ff_out[1]), &p.norm2[0], &dn2, &dy);

    let d_conv2 = dy1.tr().mm(g1);
    let dg1 = dy1.mm(&p.conv2[0]);
    let (dh, d_conv1_bias, d_conv_dw) =
        kernels.gate_depthwise_backward(h, &p.conv_dw[0], &p.conv_dw[1], &dg1, size);
    let d_conv1 = dh.tr().mm(n1);
    let dn1 = dh.mm(&p.conv1[0]);
    let (dx, [d_norm1, d_norm1_bias, d_conv2_bias]) =
        kernels.norm_backward(&x, None, &p.norm1[0], &dn1, &dy1);

    let width = 2 * kernels.width();
    let taps = d_conv_dw.narrow(1, 0, 9).reshape([width, 1, 3, 3]);
    let gradients = [
        maps(&dx, size),
        d_norm1,
        d_norm1_bias,
        d_conv1,
        d_conv1_bias,
        taps,
        d_conv_dw.select(1, 9),
        d_conv2,
        d_conv2_bias,
        d_norm2,
        d_norm2_bias,
        d_ff_proj,
        d_ff_proj_bias,
        d_ff_out,
        d_out_bias,
    ];
    let of = |(gradient, input): (Tensor, &Tensor)| gradient.to_kind(input.kind()).reshape(input.size());
    gradients.into_iter().zip(inputs).map(of).collect()
}

/// The kernels for a block of these inputs, to be differentiated or not: see [`Kernels::of`].
pub(super) fn kernels_for(inputs: &[Tensor], eps: f64, backward: bool) -> Option<&'static Kernels> {
    let x = &inputs[0];
    let kind = x.kind();
    let alike = inputs
        .iter()
        .all(|t| t.kind() == kind && t.device() == x.device());
    let (batch, width, height, columns) = x.size4().ok()?;
    // More rows than that no matrix product takes.
    let pixels_fit = (1..=i64::from(i32::MAX)).contains(&(batch * height * columns));
    (alike && pixels_fit && matches!(kind, Kind::Float | Kind::BFloat16))
        .then(|| Kernels::of(x.device(), kind, width, eps, backward))
        .flatten()
}
