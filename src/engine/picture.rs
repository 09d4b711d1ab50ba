//! What the engine restores.

use tch::{Device, Tensor};

use super::pixels::{from_tensor, to_tensor};
use crate::Result;
use crate::device::Fence;
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

    /// The same picture with the `colours`, which are as [`to_tensor`](Picture::to_tensor) gives them but for values out of range.
    /// `before` is what that gave of this picture. It need not have been made yet, see [`Arriving`].
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    fn with_colours(&self, colours: &Tensor, before: &Tensor) -> Result<Arriving<Self>>;

    /// Where it is nothing but a frame in the CPU's memory: that, and what another such frame is as a picture. On a GPU the engine may
    /// then take the frame's samples, and never ask for [`to_tensor`](Picture::to_tensor) and
    /// [`with_colours`](Picture::with_colours).
    fn as_frame(&self) -> Option<(&Frame, FromFrame<Self>)> {
        None
    }

    /// The same picture again.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    fn try_clone(&self) -> Result<Self>;

    /// `last`, an earlier output, as the output for this picture, in which no tile has changed. `None` where their layouts differ.
    fn repeated(&self, last: Self) -> Option<Self>;
}

/// What a frame is as a picture.
pub type FromFrame<P> = fn(Frame) -> P;

/// A picture that is under way on a device, so that the next one can begin there meanwhile.
pub struct Arriving<P> {
    /// `None` where it is here.
    fence: Option<Fence>,
    rest: Box<dyn FnOnce() -> Result<P> + Send>,
}

impl<P: Send + 'static> Arriving<P> {
    /// Nothing is under way.
    pub fn here(picture: P) -> Self {
        Arriving {
            fence: None,
            rest: Box::new(|| Ok(picture)),
        }
    }

    /// `rest` makes it once what this thread has asked of `device` so far is done.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn behind(device: Device, rest: impl FnOnce() -> Result<P> + Send + 'static) -> Result<Self> {
        Ok(Arriving {
            fence: Fence::behind(device)?,
            rest: Box::new(rest),
        })
    }

    /// Whether the device is done with it.
    pub fn is_here(&self) -> bool {
        self.fence.as_ref().is_none_or(Fence::is_reached)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn arrive(self) -> Result<P> {
        if let Some(fence) = &self.fence {
            fence.wait()?;
        }
        (self.rest)()
    }

    /// What becomes of it.
    pub fn map<Q>(self, change: impl FnOnce(P) -> Q + Send + 'static) -> Arriving<Q> {
        let rest = self.rest;
        Arriving {
            fence: self.fence,
            rest: Box::new(|| rest().map(change)),
        }
    }
}

impl Picture for Frame {
    fn check(&self) -> Result<()> {
        Frame::check(self)
    }

    fn to_tensor(&self, device: Device) -> Result<Tensor> {
        to_tensor(self, device)
    }

    fn with_colours(&self, colours: &Tensor, _before: &Tensor) -> Result<Arriving<Self>> {
        from_tensor(colours, self)
    }

    fn as_frame(&self) -> Option<(&Frame, FromFrame<Self>)> {
        Some((self, |frame| frame))
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
