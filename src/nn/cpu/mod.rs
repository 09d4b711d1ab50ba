//! Layers fused for the CPU's caches, on plain slices: what libtorch does in many passes over memory.

mod activate;
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_amx.rs")]
mod amx;
mod conv;
mod gated;
mod lines;
mod panels;
mod pool;
mod rows;

use std::ops::Range;

pub(super) use activate::Activation;
pub(super) use conv::{Arrangement, ConvWeights, Input, Kernel};
pub(super) use gated::{GatedLayers, GatedWeights};
pub use panels::Products;
pub(crate) use pool::on_one_thread;
pub use pool::on_own_threads;
use pulp::{Arch, Simd, WithSimd};
pub(crate) use rows::by_rows;

/// Weight and bias of a layer, as PyTorch has them: outputs first.
pub(super) struct Layer<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// Feature maps `[B, height, width, channels]`.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub values: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl<'a> Map<'a> {
    fn image(self, index: usize) -> Map<'a> {
        let length = self.height * self.width * self.channels;
        Map {
            values: &self.values[index * length..][..length],
            ..self
        }
    }

    /// Some columns of a row of the first image.
    fn columns(&self, row: usize, columns: Range<usize>) -> &'a [f32] {
        let at = |column: usize| (row * self.width + column) * self.channels;
        &self.values[at(columns.start)..at(columns.end)]
    }
}

/// How many numbers this CPU takes at a time; `None` where that is too few for layers of our own to pay.
pub(crate) fn lanes() -> Option<usize> {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Some(Arch::new().dispatch(Lanes)).filter(|lanes| *lanes >= 4)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::rows::from_the_bottom;
    use crate::Result;
    use crate::nn::{
        BlockShape, Conv2d, GatedBlock2D, ImageNorm, Init, NormKind, Params, Products, Source, channels_last,
    };

    /// No layer is the identity, as some are at first.
    struct Random;

    impl Source for Random {
        fn fetch(&self, _: &str, shape: &[i64], _: Init) -> Result<Tensor> {
            Ok(Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.1)
        }
    }

    #[test]
    fn a_layer_is_the_same_from_the_bottom_up() {
        let _no_grad = tch::no_grad_guard();
        tch::manual_seed(3);
        for products in [Products::Float32, Products::Bfloat16] {
            let p = Params::new(&Random).with_products(products);
            let shape = BlockShape {
                in_channels: 32,
                out_channels: 32,
                skip_channels: 0,
                temb_channels: None,
                norm: NormKind::Channel,
                eps: 1e-6,
            };
            let block = GatedBlock2D::new(&p.pp("block"), shape).unwrap();
            let norm = ImageNorm::new(&p.pp("norm"), NormKind::Channel, 32, 1e-6).unwrap();
            let conv = |name, outputs, kernel| Conv2d::new(&p.pp(name), 32, outputs, kernel).unwrap();
            let (out, up) = (conv("out", 12, 3), conv("up", 64, 1));
            let halving = conv("halving", 48, 2).strided(2, 0);
            let patches = Conv2d::new(&p.pp("patches"), 12, 32, 3).unwrap();
            let random = |size| channels_last(&Tensor::randn(size, (Kind::Float, Device::Cpu)));
            // Wide enough for stripes.
            let (x, doubled) = (random([2, 32, 10, 1100]), random([2, 16, 20, 2200]));
            let image = random([2, 3, 20, 2200]);
            let layers = || {
                [
                    block.forward(&x, None, None),
                    out.forward_activated(&norm, &x, 2, Some(&image)),
                    up.forward_doubled(&x, Some(&doubled)),
                    halving.forward(&x),
                    patches.forward_patches(&image, 2),
                ]
            };
            for (up, down) in from_the_bottom(layers).iter().zip(&layers()) {
                assert_eq!(up, down);
            }
        }
    }
}
