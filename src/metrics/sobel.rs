//! Sobel edges, for EA-DISTS (section 3.3 of the paper): DISTS of the images plus DISTS of their edges.

use tch::{Device, Kind, Tensor};

/// Sobel's kernels (1, 2, 1, without a division) on one device, and the grey they are applied to (BT.601 weights).
pub(crate) struct Sobel {
    /// `[1, 3, 1, 1]`.
    luma: Tensor,
    /// Horizontal and vertical, `[2, 1, 3, 3]`.
    kernels: Tensor,
}

impl Sobel {
    pub fn new(device: Device) -> Self {
        #[rustfmt::skip]
        let kernels = [
            -1.0f32, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0,
            -1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0,
        ];
        let luma = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).view([1, 3, 1, 1]);
        Sobel {
            luma: luma.to_device(device),
            kernels: Tensor::from_slice(&kernels).view([2, 1, 3, 3]).to_device(device),
        }
    }

    /// `[B, 3, H, W]` to `[B, 2, H, W]`. Border pixels are repeated outwards, so that a flat image has no edges.
    pub fn gradient(&self, x: &Tensor) -> Tensor {
        let grey =
            (x.to_kind(Kind::Float) * &self.luma).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        grey.replication_pad2d([1, 1, 1, 1])
            .conv2d(&self.kernels, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)
    }

    /// `sqrt(gx² + gy² + 1e-6)`, the same in all three channels; of `[B, 3, H, W]` in [0, 1] it reaches 4 * sqrt(2). The
    /// small constant keeps the gradient of the root finite.
    pub fn magnitude(&self, x: &Tensor) -> Tensor {
        let squares = self.gradient(x).square();
        let squares = squares.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        (squares + 1e-6).sqrt().expand_as(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_an_edge_and_a_flat_image_none() {
        let x = Tensor::zeros([1, 3, 5, 8], (Kind::Float, Device::Cpu));
        let _ = x.narrow(3, 4, 4).fill_(0.5);
        let edges = Sobel::new(Device::Cpu).magnitude(&x);
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
        Sobel::new(Device::Cpu).magnitude(&x).sum(Kind::Float).backward();
        assert_eq!(x.grad().isfinite().all().int64_value(&[]), 1);
    }
}
