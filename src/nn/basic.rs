//! Linear and convolution layers.

use tch::{Device, Kind, Tensor};

use super::{Init, Params};
use crate::Result;

/// `y = x Wᵀ + b` on the last dimension.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` is `[out, in]`, `bias` `[out]`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, in_features: i64, out_features: i64, bias: bool) -> Result<Self> {
        let init = Init::FanIn(in_features);
        Ok(Linear {
            weight: p.get("weight", &[out_features, in_features], init)?,
            bias: if bias {
                Some(p.get("bias", &[out_features], init)?)
            } else {
                None
            },
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Two-dimensional convolution with bias.
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv2d {
    /// `weight` is `[out, in, kernel, kernel]`; stride 1, zero padding that keeps the size.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, in_channels: i64, out_channels: i64, kernel: i64) -> Result<Self> {
        let init = Init::FanIn(in_channels * kernel * kernel);
        Self::with_init(p, in_channels, out_channels, kernel, init)
    }

    /// As [`Conv2d::new`], but starts at zero when created for training.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn zeroed(p: &Params, in_channels: i64, out_channels: i64, kernel: i64) -> Result<Self> {
        Self::with_init(p, in_channels, out_channels, kernel, Init::Zeros)
    }

    /// A 1x1 convolution that joins a feature map of `first` channels with one of the other `in_channels - first`, and starts
    /// as their sum, channel by channel.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn joining(p: &Params, first: i64, in_channels: i64, out_channels: i64) -> Result<Self> {
        Self::with_init(p, in_channels, out_channels, 1, Init::Sum(first))
    }

    /// Each channel with a kernel of its own: `weight` is `[channels, 1, kernel, kernel]`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn depthwise(p: &Params, channels: i64, kernel: i64) -> Result<Self> {
        let one = Self::with_init(p, 1, channels, kernel, Init::FanIn(kernel * kernel))?;
        Ok(Conv2d {
            groups: channels,
            ..one
        })
    }

    fn with_init(p: &Params, in_channels: i64, out_channels: i64, k: i64, init: Init) -> Result<Self> {
        let bias = match init {
            Init::Sum(_) => Init::Zeros,
            init => init,
        };
        Ok(Conv2d {
            weight: p.get("weight", &[out_channels, in_channels, k, k], init)?,
            bias: p.get("bias", &[out_channels], bias)?,
            stride: 1,
            padding: k / 2,
            groups: 1,
        })
    }

    /// The same layer with another stride and padding.
    pub fn strided(self, stride: i64, padding: i64) -> Self {
        Conv2d {
            stride,
            padding,
            ..self
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.with_bias(x, &self.bias)
    }

    /// The output plus `shift` `[1, out]` at every pixel, for the cost of the convolution alone.
    pub fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Tensor {
        self.with_bias(x, &(&self.bias + shift.view([-1])))
    }

    /// On x86-64 by oneDNN where it can. libtorch keeps small inputs from it and, on one thread, 1x1 convolutions: rules from a
    /// time when that was slower. Today its own kernels are several times slower there.
    fn with_bias(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        if cfg!(target_arch = "x86_64")
            && x.device() == Device::Cpu
            && x.kind() == Kind::Float
            && tch::utils::has_mkldnn()
            && let Ok(y) =
                x.f_mkldnn_convolution(&self.weight, Some(bias), padding, stride, [1, 1], self.groups)
        {
            return y;
        }
        x.conv2d(&self.weight, Some(bias), stride, padding, [1, 1], self.groups)
    }
}

/// `x` `[B, C, H, W]` with its channels innermost in memory: a view where it already is, else a copy.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// A weight as one row of numbers in the order in which kernels read it: channels-last for convolutions.
pub(crate) fn memory_order(weight: &Tensor) -> Tensor {
    match weight.dim() {
        4 => weight.permute([0, 2, 3, 1]).reshape([-1]),
        _ => weight.reshape([-1]),
    }
}

/// The inverse of [`memory_order`], without a copy.
pub(crate) fn from_memory_order(row: &Tensor, shape: &[i64]) -> Tensor {
    match *shape {
        [out, inputs, height, width] => row.view([out, height, width, inputs]).permute([0, 3, 1, 2]),
        _ => row.view(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Initializer;

    #[test]
    fn convolutions_are_libtorchs_and_learn_the_same() {
        let init = Initializer::new(1);
        let p = Params::new(&init);
        let convs = [
            Conv2d::new(&p.pp("pointwise"), 24, 40, 1).unwrap(),
            Conv2d::new(&p.pp("plain"), 24, 40, 3).unwrap(),
            Conv2d::depthwise(&p.pp("depthwise"), 24, 3).unwrap(),
            Conv2d::new(&p.pp("halving"), 24, 40, 2).unwrap().strided(2, 0),
        ];
        for conv in convs {
            // Small enough, and on one thread, for libtorch's own kernels.
            tch::set_num_threads(1);
            let with_gradient = |convolve: &dyn Fn(&Tensor) -> Tensor| {
                let x = Tensor::arange(24 * 20 * 10, (Kind::Float, Device::Cpu)).sin();
                let x = channels_last(&x.view([1, 24, 20, 10])).set_requires_grad(true);
                let y = convolve(&x);
                let gradient = Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x], false, false);
                [y.detach(), gradient[0].shallow_clone()]
            };
            let (stride, padding) = ([conv.stride; 2], [conv.padding; 2]);
            let ours = with_gradient(&|x| conv.forward(x));
            let theirs = with_gradient(&|x| {
                x.conv2d(
                    &conv.weight,
                    Some(&conv.bias),
                    stride,
                    padding,
                    [1, 1],
                    conv.groups,
                )
            });
            for (one, two) in ours.iter().zip(theirs) {
                let error = (one - &two).abs().max().double_value(&[]);
                assert!(error < 1e-5 * two.abs().max().double_value(&[]), "{error}");
            }
        }
    }
}
