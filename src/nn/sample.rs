//! Halving and doubling of the resolution.

use tch::Tensor;

use super::{Conv2d, Params};
use crate::Result;

/// Strided 3x3 convolution that halves height and width.
pub struct Downsample2D {
    conv: Conv2d,
    pad_end: bool,
}

impl Downsample2D {
    /// The UNet pads every side by one pixel; the autoencoder (`pad_end`) only right and bottom.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, channels: i64, pad_end: bool) -> Result<Self> {
        let conv = Conv2d::new(&p.pp("conv"), channels, channels, 3)?;
        Ok(Downsample2D {
            conv: conv.strided(2, if pad_end { 0 } else { 1 }),
            pad_end,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        if self.pad_end {
            self.conv.forward(&x.constant_pad_nd([0, 1, 0, 1]))
        } else {
            self.conv.forward(x)
        }
    }
}

/// Nearest-neighbour doubling, then a 3x3 convolution.
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(p: &Params, channels: i64) -> Result<Self> {
        Ok(Upsample2D {
            conv: Conv2d::new(&p.pp("conv"), channels, channels, 3)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (_, _, height, width) = x.size4().expect("a feature map has four dimensions");
        self.to_size(x, height * 2, width * 2)
    }

    /// To this size, where halving had rounded up.
    pub fn to_size(&self, x: &Tensor, height: i64, width: i64) -> Tensor {
        self.conv
            .forward(&x.upsample_nearest2d([height, width], None, None))
    }
}
