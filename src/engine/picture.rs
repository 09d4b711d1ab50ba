//! What the engine restores.

use tch::{Device, Tensor};

use super::pixels::{Landing, from_tensor, to_tensor};
use crate::Result;
use crate::frame::Frame;

/// A picture that the engine can restore: a [`Frame`] in the CPU's memory, or one of the caller's own, such as a video frame in a
/// GPU's memory. Everything but [`check`](Picture::check) is called on the engine's thread, in the order of the frames.
pub trait Picture: Send + Sized + 'static {
    /// # Errors
    /// It is malformed.
    fn check(&self) -> Result<()>;

    /// R, G and B as `[1, 3, H, W]`, float32, in [-1, 1], channels-last, on `device`.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    fn to_tensor(&self, device: Device) -> Result<Tensor>;

    /// The same picture with the colours of `tensor`, which is as [`to_tensor`](Picture::to_tensor) gives it but for values out of
    /// range. Nothing of it may be under way on a GPU any more when it comes back.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    fn with_colours(&self, tensor: &Tensor, landing: &mut Landing) -> Result<Self>;

    /// The same picture again.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    fn try_clone(&self) -> Result<Self>;

    /// `last`, an earlier output, as the output for this picture, in which no tile has changed. `None` where their layouts differ.
    fn repeated(&self, last: Self) -> Option<Self>;
}

impl Picture for Frame {
    fn check(&self) -> Result<()> {
        Frame::check(self)
    }

    fn to_tensor(&self, device: Device) -> Result<Tensor> {
        to_tensor(self, device)
    }

    fn with_colours(&self, tensor: &Tensor, landing: &mut Landing) -> Result<Self> {
        from_tensor(tensor, self, landing)
    }

    fn try_clone(&self) -> Result<Self> {
        Frame::try_clone(self)
    }

    fn repeated(&self, mut last: Self) -> Option<Self> {
        if !last.has_layout_of(self) {
            return None;
        }
        last.take_alpha(self);
        Some(last)
    }
}
