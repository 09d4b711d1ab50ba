//! The classification networks whose features LPIPS and DISTS compare, as in torchvision's `features`.

use std::fmt;
use std::str::FromStr;

use tch::Tensor;

use crate::Result;
use crate::nn::{Conv2d, Params, channels_last};

/// A network that was trained to classify ImageNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// AlexNet (Krizhevsky 2014, "One weird trick"), five feature maps.
    Alex,
    /// VGG16 (Simonyan & Zisserman 2014), five feature maps.
    Vgg,
    /// SqueezeNet 1.1 (Iandola et al. 2016), seven feature maps.
    Squeeze,
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backbone::Alex => "alex",
            Backbone::Vgg => "vgg",
            Backbone::Squeeze => "squeeze",
        })
    }
}

impl FromStr for Backbone {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Backbone::Alex, Backbone::Vgg, Backbone::Squeeze]
            .into_iter()
            .find(|backbone| backbone.to_string() == name)
            .ok_or(())
    }
}

/// A row of a network's table. Its place there is its number in torchvision's `features`, where a ReLU and a tap
/// count too: a ReLU follows each convolution, and [`Row::Tap`] is no layer at all.
enum Row {
    /// Convolution and ReLU: width, kernel, stride, padding.
    Conv(i64, i64, i64, i64),
    /// SqueezeNet's module: width of the squeeze layer and of each of the two expand layers.
    Fire(i64, i64),
    Pool,
    /// Here a feature map leaves.
    Tap,
}

impl Backbone {
    #[rustfmt::skip]
    fn table(self) -> &'static [Row] {
        use Row::*;
        match self {
            Backbone::Alex => &[
                Conv(64, 11, 4, 2), Tap,
                Pool, Conv(192, 5, 1, 2), Tap,
                Pool, Conv(384, 3, 1, 1), Tap,
                Conv(256, 3, 1, 1), Tap,
                Conv(256, 3, 1, 1), Tap,
            ],
            Backbone::Vgg => &[
                Conv(64, 3, 1, 1), Conv(64, 3, 1, 1), Tap,
                Pool, Conv(128, 3, 1, 1), Conv(128, 3, 1, 1), Tap,
                Pool, Conv(256, 3, 1, 1), Conv(256, 3, 1, 1), Conv(256, 3, 1, 1), Tap,
                Pool, Conv(512, 3, 1, 1), Conv(512, 3, 1, 1), Conv(512, 3, 1, 1), Tap,
                Pool, Conv(512, 3, 1, 1), Conv(512, 3, 1, 1), Conv(512, 3, 1, 1), Tap,
            ],
            Backbone::Squeeze => &[
                Conv(64, 3, 2, 0), Tap,
                Pool, Fire(16, 64), Fire(16, 64), Tap,
                Pool, Fire(32, 128), Fire(32, 128), Tap,
                Pool, Fire(48, 192), Tap,
                Fire(48, 192), Tap,
                Fire(64, 256), Tap,
                Fire(64, 256), Tap,
            ],
        }
    }

    /// Channels of each feature map.
    pub(super) fn widths(self) -> Vec<i64> {
        let mut width = 3;
        let mut widths = Vec::new();
        for row in self.table() {
            match row {
                Row::Conv(out, ..) => width = *out,
                Row::Fire(_, expand) => width = 2 * expand,
                Row::Pool => {}
                Row::Tap => widths.push(width),
            }
        }
        widths
    }

    /// Maximum over 3x3 or 2x2 pixels with stride 2; SqueezeNet's keeps a partial window at the border.
    fn max_pool(self, x: &Tensor) -> Tensor {
        let (size, ceil) = match self {
            Backbone::Alex => (3, false),
            Backbone::Vgg => (2, false),
            Backbone::Squeeze => (3, true),
        };
        x.max_pool2d([size; 2], [2, 2], [0, 0], [1, 1], ceil)
    }
}

enum Layer {
    Conv(Conv2d),
    Fire {
        squeeze: Conv2d,
        expand1x1: Conv2d,
        expand3x3: Conv2d,
    },
    Pool,
    Tap,
}

/// How resolution falls between a backbone's blocks.
pub(super) enum Pooling {
    /// As the network was trained.
    Max,
    /// DISTS's: the root of a weighted mean of squares, which does not alias. The filter is `[1, 1, 3, 3]`.
    L2(Tensor),
}

/// The convolutional part of a backbone.
pub(super) struct Features {
    backbone: Backbone,
    pooling: Pooling,
    layers: Vec<Layer>,
}

impl Features {
    /// Reads `features.*`, named as in torchvision.
    pub(super) fn new(p: &Params, backbone: Backbone, pooling: Pooling) -> Result<Self> {
        let p = p.pp("features");
        let (mut index, mut width) = (0, 3);
        let mut layers = Vec::new();
        for row in backbone.table() {
            let here = p.pp(index);
            layers.push(match *row {
                Row::Conv(out, kernel, stride, padding) => {
                    let conv = Conv2d::new(&here, width, out, kernel)?.strided(stride, padding);
                    (index, width) = (index + 2, out);
                    Layer::Conv(conv)
                }
                Row::Fire(squeeze, expand) => {
                    let fire = Layer::Fire {
                        squeeze: Conv2d::new(&here.pp("squeeze"), width, squeeze, 1)?,
                        expand1x1: Conv2d::new(&here.pp("expand1x1"), squeeze, expand, 1)?,
                        expand3x3: Conv2d::new(&here.pp("expand3x3"), squeeze, expand, 3)?,
                    };
                    (index, width) = (index + 1, 2 * expand);
                    fire
                }
                Row::Pool => {
                    index += 1;
                    Layer::Pool
                }
                Row::Tap => Layer::Tap,
            });
        }
        Ok(Features {
            backbone,
            pooling,
            layers,
        })
    }

    /// Feature maps of `x` `[B, 3, H, W]`, normalised as the network was trained; from fine to coarse.
    pub(super) fn forward(&self, x: &Tensor) -> Vec<Tensor> {
        // Twice as fast on a CPU as channels outermost.
        let mut x = channels_last(x);
        let mut maps = Vec::new();
        for layer in &self.layers {
            x = match layer {
                Layer::Conv(conv) => conv.forward(&x).relu(),
                Layer::Fire {
                    squeeze,
                    expand1x1,
                    expand3x3,
                } => {
                    let narrow = squeeze.forward(&x).relu();
                    let wide = [expand1x1.forward(&narrow), expand3x3.forward(&narrow)];
                    Tensor::cat(&wide, 1).relu()
                }
                Layer::Pool => match &self.pooling {
                    Pooling::Max => self.backbone.max_pool(&x),
                    Pooling::L2(filter) => l2_pool(&x, filter),
                },
                Layer::Tap => {
                    maps.push(x.shallow_clone());
                    x
                }
            };
        }
        maps
    }
}

/// `sqrt(filter * x²)` with stride 2 and zero padding, each channel on its own.
fn l2_pool(x: &Tensor, filter: &Tensor) -> Tensor {
    let channels = x.size()[1];
    let filters = filter.expand([channels, 1, 3, 3], false);
    let mean = x
        .square()
        .conv2d(&filters, None::<&Tensor>, [2, 2], [1, 1], [1, 1], channels);
    (mean + 1e-12).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Shapes;

    #[test]
    fn layers_are_named_as_in_torchvision() {
        let names = |backbone| {
            let shapes = Shapes::default();
            Features::new(&Params::new(&shapes), backbone, Pooling::Max).unwrap();
            shapes.into_map()
        };
        assert_eq!(names(Backbone::Alex)["features.10.weight"], [256, 256, 3, 3]);
        assert_eq!(names(Backbone::Vgg)["features.28.weight"], [512, 512, 3, 3]);
        let squeeze = names(Backbone::Squeeze);
        assert_eq!(squeeze["features.12.expand3x3.weight"], [256, 64, 3, 3]);
        assert_eq!(squeeze["features.6.squeeze.bias"], [32]);
    }

    #[test]
    fn names_read_back() {
        for name in ["alex", "vgg", "squeeze"] {
            assert_eq!(name.parse::<Backbone>().unwrap().to_string(), name);
        }
        assert!("vgg19".parse::<Backbone>().is_err());
    }
}
