//! Halving and doubling of the resolution.

use tch::Tensor;

use super::{BlockKind, Conv2d, Params};
use crate::Result;

/// Strided convolution that halves height and width.
pub struct Downsample2D {
    conv: Conv2d,
    padding: Padding,
}

/// Zeros around the image, beside those of the convolution itself.
enum Padding {
    None,
    /// Right and bottom.
    End,
    /// Right and bottom, where the size is odd.
    ToEven,
}

impl Downsample2D {
    /// 3x3, for resnet blocks: the UNet pads every side by one pixel; the autoencoder (`pad_end`) only right and bottom.
    /// 2x2 for gated blocks; an odd size is padded by one pixel.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, kind: BlockKind, inputs: i64, outputs: i64, pad_end: bool) -> Result<Self> {
        let p = p.pp("conv");
        Ok(match kind {
            BlockKind::Resnet => Downsample2D {
                conv: Conv2d::new(&p, inputs, outputs, 3)?.strided(2, if pad_end { 0 } else { 1 }),
                padding: if pad_end { Padding::End } else { Padding::None },
            },
            BlockKind::Gated => Downsample2D {
                conv: Conv2d::new(&p, inputs, outputs, 2)?.strided(2, 0),
                padding: Padding::ToEven,
            },
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (_, _, height, width) = x.size4().expect("a feature map has four dimensions");
        let (right, bottom) = match self.padding {
            Padding::None => (0, 0),
            Padding::End => (1, 1),
            Padding::ToEven => (width % 2, height % 2),
        };
        match (right, bottom) {
            (0, 0) => self.conv.forward(x),
            _ => self.conv.forward(&x.constant_pad_nd([0, right, 0, bottom])),
        }
    }
}

/// Doubling of height and width.
pub enum Upsample2D {
    /// Nearest neighbours, then a 3x3 convolution.
    Nearest(Conv2d),
    /// A 1x1 convolution to four times the channels, which become 2x2 pixels each (Shi et al. 2016).
    Shuffle(Conv2d),
}

impl Upsample2D {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, kind: BlockKind, inputs: i64, outputs: i64) -> Result<Self> {
        let p = p.pp("conv");
        Ok(match kind {
            BlockKind::Resnet => Upsample2D::Nearest(Conv2d::new(&p, inputs, outputs, 3)?),
            BlockKind::Gated => Upsample2D::Shuffle(Conv2d::new(&p, inputs, 4 * outputs, 1)?),
        })
    }

    /// `added`, a map of the doubled size, is added to the result.
    pub fn forward(&self, x: &Tensor, added: Option<&Tensor>) -> Tensor {
        match (self, added) {
            (Upsample2D::Shuffle(conv), added) => conv.forward_doubled(x, added),
            (Upsample2D::Nearest(_), _) => {
                let (_, _, height, width) = x.size4().expect("a feature map has four dimensions");
                let y = self.to_size(x, height * 2, width * 2);
                match added {
                    Some(added) => y + added,
                    None => y,
                }
            }
        }
    }

    /// To this size, where halving had rounded up.
    pub fn to_size(&self, x: &Tensor, height: i64, width: i64) -> Tensor {
        match self {
            Upsample2D::Nearest(conv) => conv.forward(&x.upsample_nearest2d([height, width], None, None)),
            Upsample2D::Shuffle(conv) => {
                let doubled = conv.forward_doubled(x, None);
                doubled.narrow(2, 0, height).narrow(3, 0, width)
            }
        }
    }
}

/// `[B, C, H, W]` to `[B, patch² C, H/patch, W/patch]`, channels-last, channel order (row, column, C).
pub fn patchify(x: &Tensor, patch: i64) -> Tensor {
    let (b, c, h, w) = x.size4().expect("an image has four dimensions");
    x.permute([0, 2, 3, 1])
        .reshape([b, h / patch, patch, w / patch, patch * c])
        .transpose(2, 3)
        .reshape([b, h / patch, w / patch, patch * patch * c])
        .permute([0, 3, 1, 2])
}

/// The inverse of [`patchify`].
pub fn unpatchify(x: &Tensor, patch: i64) -> Tensor {
    let (b, c, h, w) = x.size4().expect("a feature map has four dimensions");
    let c = c / (patch * patch);
    x.permute([0, 2, 3, 1])
        .reshape([b, h, w, patch, patch * c])
        .transpose(2, 3)
        .reshape([b, h * patch, w * patch, c])
        .permute([0, 3, 1, 2])
}
