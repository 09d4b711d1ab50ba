//! Sobel edges, for EA-DISTS (section 3.3 of the paper): DISTS of the images plus DISTS of their edges.

use tch::{Kind, Tensor};

/// Gradient magnitude `sqrt(gx² + gy² + 1e-6)` of the grey image (BT.601 weights), the same in all three channels.
///
/// `x` is `[B, 3, H, W]` in [0, 1]; so is the result, though it can reach 4 * sqrt(2). The kernels are the usual 1, 2, 1
/// without a division; border pixels are repeated outwards, so that a flat image has no edges. The small constant keeps
/// the gradient of the root finite there.
pub(crate) fn sobel_magnitude(x: &Tensor) -> Tensor {
    let x = x.to_kind(Kind::Float);
    let luma = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).view([1, 3, 1, 1]);
    #[rustfmt::skip]
    let kernels = [
        -1.0f32, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0,
        -1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0,
    ];
    let kernels = Tensor::from_slice(&kernels)
        .view([2, 1, 3, 3])
        .to_device(x.device());
    let grey = (&x * luma.to_device(x.device())).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let gradient =
        grey.replication_pad2d([1, 1, 1, 1])
            .conv2d(&kernels, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
    let squares = gradient
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    (squares + 1e-6).sqrt().expand_as(&x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_step_has_an_edge_and_a_flat_image_none() {
        let x = Tensor::zeros([1, 3, 5, 8], (Kind::Float, Device::Cpu));
        let _ = x.narrow(3, 4, 4).fill_(0.5);
        let edges = sobel_magnitude(&x);
        assert_eq!(edges.size(), [1, 3, 5, 8]);
        // 0.5 * (1 + 2 + 1) on both sides of the step, at the border too; the constant's root elsewhere.
        let at = |channel, row, column| edges.double_value(&[0, channel, row, column]);
        for (channel, row) in [(0, 0), (1, 2), (2, 4)] {
            assert!((at(channel, row, 3) - 2.0).abs() < 1e-4 && (at(channel, row, 4) - 2.0).abs() < 1e-4);
            assert!((at(channel, row, 0) - 1e-3).abs() < 1e-6 && (at(channel, row, 7) - 1e-3).abs() < 1e-6);
        }
    }

    #[test]
    fn the_gradient_is_finite_on_a_flat_image() {
        let x = Tensor::full([1, 3, 8, 8], 0.5, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        sobel_magnitude(&x).sum(Kind::Float).backward();
        assert_eq!(x.grad().isfinite().all().int64_value(&[]), 1);
    }
}
