//! A frame as the engine is given it, wherever it is.

use osdd::Result;
use osdd::engine::{self, Arriving, FromFrame};
use osdd::frame::Frame;
use tch::{Device, Tensor};

use super::cuda::CudaFrame;

/// A frame of the element's own.
pub(crate) enum Picture {
    /// R'G'B' in the CPU's memory.
    Host(Frame),
    /// The pads' format in a GPU's memory.
    Cuda(CudaFrame),
}

impl engine::Picture for Picture {
    fn check(&self) -> Result<()> {
        match self {
            Self::Host(frame) => engine::Picture::check(frame),
            Self::Cuda(frame) => frame.check(),
        }
    }

    fn to_tensor(&self, device: Device) -> Result<Tensor> {
        match self {
            Self::Host(frame) => frame.to_tensor(device),
            Self::Cuda(frame) => frame.to_tensor(device),
        }
    }

    fn with_colours(&self, colours: &Tensor, before: &Tensor) -> Result<Arriving<Self>> {
        Ok(match self {
            Self::Host(frame) => frame.with_colours(colours, before)?.map(Self::Host),
            Self::Cuda(frame) => frame.with_colours(colours, before)?.map(Self::Cuda),
        })
    }

    fn as_frame(&self) -> Option<(&Frame, FromFrame<Self>)> {
        match self {
            Self::Host(frame) => Some((frame, Self::Host)),
            Self::Cuda(_) => None,
        }
    }

    fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            Self::Host(frame) => Self::Host(frame.try_clone()?),
            Self::Cuda(frame) => Self::Cuda(frame.try_clone()?),
        })
    }

    fn repeated(&self, last: Self) -> Option<Self> {
        match (self, last) {
            (Self::Host(frame), Self::Host(last)) => frame.repeated(last).map(Self::Host),
            (Self::Cuda(frame), Self::Cuda(last)) => frame.repeated(last).map(Self::Cuda),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use osdd::frame::PixelFormat;

    use super::*;

    #[test]
    fn a_frame_in_the_cpus_memory_is_a_plain_one() {
        let mut frame = Frame::new(3, 2, PixelFormat::Rgb8);
        frame.data[5] = 7;
        let picture = Picture::Host(frame.clone());
        let (plain, picture_of) = engine::Picture::as_frame(&picture).unwrap();
        assert_eq!(plain, &frame);
        assert!(matches!(picture_of(frame.clone()), Picture::Host(again) if again == frame));
    }
}
