//! Convolution layers.

use tch::{Device, Kind, Tensor};

use super::cpu::{Activation, Arrangement, ConvWeights, Input, Kernel, Layer, Products};
use super::packed::{Packed, filled, innermost, map};
use super::wanted::go_on;
use super::{ImageNorm, Init, NormKind, Params, patchify, unpatchify};
use crate::Result;

/// What a convolution is computed of.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// Maps one above the other.
    Maps(&'a [&'a Tensor]),
    /// Squares of an image's pixels.
    Patches(&'a Tensor, i64),
    /// A map after its norm and SiLU.
    Activated(&'a ImageNorm, &'a Tensor),
}

/// Two-dimensional convolution with bias.
pub struct Conv2d {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
    products: Products,
    packed: Packed<ConvWeights>,
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
            products: p.products(),
            packed: Packed::default(),
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
        self.fused(Operand::Maps(&[x]), Arrangement::Pixels, None)
            .unwrap_or_else(|| self.with_bias(x, &self.bias))
    }

    /// As [`Conv2d::forward`] of the inputs one above the other, channel by channel.
    pub fn forward_joined(&self, inputs: &[&Tensor]) -> Tensor {
        self.fused(Operand::Maps(inputs), Arrangement::Pixels, None)
            .or_else(|| {
                on_gpu(inputs[0])
                    .then(|| self.as_product(inputs, &self.bias))
                    .flatten()
            })
            .unwrap_or_else(|| self.with_bias(&Tensor::cat(inputs, 1), &self.bias))
    }

    /// As [`Conv2d::forward`] of what [`patchify`] makes of an image.
    pub fn forward_patches(&self, image: &Tensor, patch: i64) -> Tensor {
        self.fused(Operand::Patches(image, patch), Arrangement::Pixels, None)
            .unwrap_or_else(|| self.forward(&patchify(image, patch)))
    }

    /// As [`Conv2d::forward`] of `SiLU(norm(x))`; where `patch` is more than one, [`unpatchify`] comes after it. To that `added` is
    /// added.
    pub fn forward_activated(
        &self,
        norm: &ImageNorm,
        x: &Tensor,
        patch: i64,
        added: Option<&Tensor>,
    ) -> Tensor {
        let arrangement = match patch {
            1 => Arrangement::Pixels,
            patch => Arrangement::Patches(patch as usize),
        };
        match (self.fused(Operand::Activated(norm, x), arrangement, added), added) {
            (Some(y), _) => y,
            (None, Some(added)) => self.forward_activated(norm, x, patch, None) + added,
            (None, None) => {
                let y = self.forward(&norm.forward_silu(x));
                if patch == 1 { y } else { unpatchify(&y, patch) }
            }
        }
    }

    /// Each quarter of the output's channels becomes one of 2x2 pixels, row by row: `[B, out / 4, 2 H, 2 W]`. To that `added` is
    /// added.
    pub fn forward_doubled(&self, x: &Tensor, added: Option<&Tensor>) -> Tensor {
        match (
            self.fused(Operand::Maps(&[x]), Arrangement::Doubled, added),
            added,
        ) {
            (Some(y), _) => y,
            (None, Some(added)) => self.forward_doubled(x, None) + added,
            (None, None) => unpatchify(&self.forward(x), 2),
        }
    }

    /// The convolution by kernels of our own, where that is possible: on a CPU, maps in float32, for inference.
    fn fused(&self, operand: Operand, arrangement: Arrangement, added: Option<&Tensor>) -> Option<Tensor> {
        let (inputs, patch) = match operand {
            Operand::Maps(inputs) => (inputs.to_vec(), 1),
            Operand::Patches(image, patch) => (vec![image], patch),
            Operand::Activated(_, x) => (vec![x], 1),
        };
        let (b, _, height, width) = inputs[0].size4().ok()?;
        let (outputs, _, kernel, _) = self.weight.size4().ok()?;
        let even = height % 2 == 0 && width % 2 == 0;
        let (kernel, scale) = match (kernel, self.stride, self.padding, self.groups) {
            (1, 1, 0, 1) if patch == 1 => (Kernel::Point, 1),
            (2, 2, 0, 1) if even && matches!(operand, Operand::Maps([_])) => (Kernel::Halving, 2),
            (3, 1, 1, 1) if inputs.len() == 1 => (Kernel::Around, patch),
            _ => return None,
        };
        let fits = |x: &&Tensor| {
            x.size4()
                .is_ok_and(|size| (size.0, size.2, size.3) == (b, height, width))
        };
        let channels: i64 = inputs.iter().map(|x| x.size()[1]).sum();
        if !inputs.iter().all(fits) || channels * patch * patch != self.weight.size()[1] {
            // libtorch says what is wrong.
            return None;
        }
        if height % scale != 0 || width % scale != 0 {
            return None;
        }
        let (height, width) = (height / scale, width / scale);
        let size = match arrangement {
            Arrangement::Pixels => [b, outputs, height, width],
            Arrangement::Doubled => [b, outputs / 4, 2 * height, 2 * width],
            Arrangement::Patches(patch) => {
                let patch = patch as i64;
                [b, outputs / (patch * patch), patch * height, patch * width]
            }
        };
        let norm = match operand {
            Operand::Activated(norm, _)
                if norm.kind != NormKind::Channel || norm.bias.size() != [channels] =>
            {
                return None;
            }
            Operand::Activated(norm, _) => Some(norm),
            _ => None,
        };
        let pack = |parameters: &[&[f32]]| {
            let layer = Layer {
                weight: parameters[0],
                bias: parameters[1],
            };
            let activation = norm.map(|norm| Activation {
                scale: parameters[2].to_vec(),
                shift: parameters[3].to_vec(),
                eps: norm.eps as f32,
            });
            ConvWeights::new(kernel, self.products, &layer, activation)
        };
        let mut parameters = vec![&self.weight, &self.bias];
        parameters.extend(norm.iter().flat_map(|norm| [&norm.weight, &norm.bias]));
        if added.is_some_and(|added| added.size() != size || arrangement == Arrangement::Pixels) {
            return None;
        }
        let all: Vec<&Tensor> = inputs.iter().copied().chain(added).collect();
        self.packed.with(&all, &parameters, pack, |weights| {
            if !weights.fits(arrangement) {
                return None;
            }
            let inputs: Vec<Tensor> = inputs.iter().map(|x| innermost(x)).collect();
            let maps: Vec<_> = inputs.iter().map(map).collect();
            let input = match patch {
                1 => Input::Maps(&maps),
                patch => Input::Patches(maps[0], patch as usize),
            };
            let added = added.map(innermost);
            let added = added.as_ref().map(|added| map(added).values);
            Some(filled(size, |output| {
                weights.forward(&input, arrangement, added, output);
            }))
        })
    }

    /// The output plus `shift` `[1, out]` at every pixel, for the cost of the convolution alone.
    pub fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Tensor {
        self.with_bias(x, &(&self.bias + shift.view([-1])))
    }

    /// A 1x1 convolution on a GPU as matrix products, one for each input: they add the bias and each other's sums in passing, which
    /// cuDNN leaves to passes of their own.
    fn as_product(&self, inputs: &[&Tensor], bias: &Tensor) -> Option<Tensor> {
        let (outputs, channels, kernel, _) = self.weight.size4().ok()?;
        let pointwise = (kernel, self.stride, self.padding, self.groups) == (1, 1, 0, 1);
        let (b, _, height, width) = inputs[0].size4().ok()?;
        let alike = |x: &&Tensor| {
            let size = x.size4();
            size.is_ok_and(|(images, _, rows, columns)| (images, rows, columns) == (b, height, width))
        };
        let rows_fit = (1..=i64::from(i32::MAX)).contains(&(b * height * width));
        if !pointwise || !rows_fit || !inputs.iter().all(alike) {
            return None;
        }
        let given: i64 = inputs.iter().map(|x| x.size()[1]).sum();
        if given != channels {
            return None;
        }
        let weight = self.weight.reshape([outputs, channels]);
        let mut first = 0;
        let mut sum: Option<Tensor> = None;
        for x in inputs {
            let own = x.size()[1];
            let rows = x.permute([0, 2, 3, 1]).reshape([-1, own]);
            let weight = weight.narrow(1, first, own);
            sum = Some(match sum {
                None => rows.linear(&weight, Some(bias)),
                Some(mut sum) => sum.addmm_(&rows, &weight.tr()),
            });
            first += own;
        }
        Some(sum?.view([b, height, width, outputs]).permute([0, 3, 1, 2]))
    }

    /// On x86-64 by oneDNN where it can. libtorch keeps small inputs from it and, on one thread, 1x1 convolutions: rules from a
    /// time when that was slower. Today its own kernels are several times slower there.
    fn with_bias(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        go_on();
        if on_gpu(x)
            && let Some(product) = self.as_product(&[x], bias)
        {
            return product;
        }
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

fn on_gpu(x: &Tensor) -> bool {
    x.device().is_cuda()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Initializer, channels_last};

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

    #[test]
    fn a_product_for_each_input_is_the_convolution_of_all_and_learns_the_same() {
        let init = Initializer::new(2);
        let conv = Conv2d::new(&Params::new(&init).pp("joined"), 24, 10, 1).unwrap();
        let maps = |channels: i64, columns: i64| {
            let x = Tensor::arange(2 * channels * 3 * columns, (Kind::Float, Device::Cpu)).sin();
            channels_last(&x.view([2, channels, 3, columns])).set_requires_grad(true)
        };
        for widths in [&[24][..], &[16, 8]] {
            let inputs: Vec<Tensor> = widths.iter().map(|&width| maps(width, 5)).collect();
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            let gradients =
                |y: &Tensor| Tensor::run_backward(&[y.square().sum(Kind::Float)], &inputs, false, false);
            let ours = conv.as_product(&inputs, &conv.bias).unwrap();
            let theirs = Tensor::cat(&inputs, 1).conv2d(&conv.weight, Some(&conv.bias), [1], [0], [1], 1);
            let pairs = gradients(&ours).into_iter().zip(gradients(&theirs));
            for (one, two) in pairs.chain([(ours, theirs)]) {
                assert_eq!(one.size(), two.size());
                assert!((&one - &two).abs().max().double_value(&[]) < 1e-5);
            }
        }
        let (wide, narrow) = (maps(16, 5), maps(8, 4));
        assert!(
            conv.as_product(&[&wide, &narrow], &conv.bias).is_none(),
            "maps of other sizes"
        );
        assert!(
            conv.as_product(&[&wide], &conv.bias).is_none(),
            "too few channels"
        );
    }
}
