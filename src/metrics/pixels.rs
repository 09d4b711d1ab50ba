//! Frames as numbers.

use tch::{Device, Kind, Tensor};

use crate::frame::{Frame, PixelFormat};
use crate::{Error, Result};

/// What torchvision's networks expect of R, G and B in [0, 1]: their mean and standard deviation over ImageNet.
/// LPIPS gives the same figures for values in [-1, 1].
pub(super) const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
pub(super) const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Below this the backbones run out of pixels to pool.
const NETWORK_MIN_SIDE: usize = 32;

/// Checks that two frames can be compared pixel by pixel.
///
/// # Errors
/// [`Error::FramesDiffer`] for different sizes or formats, [`Error::FrameSize`] for data that does not fit.
pub(super) fn check_pair(a: &Frame, b: &Frame) -> Result<()> {
    if (a.width, a.height, a.format) != (b.width, b.height, b.format) {
        return Err(Error::FramesDiffer(format!(
            "{}x{} {:?} against {}x{} {:?}",
            a.width, a.height, a.format, b.width, b.height, b.format
        )));
    }
    a.check()?;
    b.check()
}

/// Checks that a frame is large enough for a metric.
///
/// # Errors
/// [`Error::OutOfRange`] for a frame with a side below `min`.
pub(super) fn check_size(frame: &Frame, metric: &str, min: usize) -> Result<()> {
    if frame.width.min(frame.height) < min {
        return Err(Error::OutOfRange {
            name: "image size",
            value: format!("{}x{}", frame.width, frame.height),
            range: format!("{metric} needs at least {min}x{min} pixels"),
        });
    }
    Ok(())
}

/// R, G and B of every pixel in [0, 1], without alpha.
pub(super) fn samples(frame: &Frame) -> impl Iterator<Item = f64> + '_ {
    let (channels, scale) = (frame.format.channels(), frame.format.full_scale());
    let wide = matches!(frame.format, PixelFormat::Rgb16 | PixelFormat::Rgba16);
    let count = frame.width * frame.height * channels;
    (0..count).filter(move |i| i % channels < 3).map(move |i| {
        let value = if wide {
            u16::from_ne_bytes([frame.data[2 * i], frame.data[2 * i + 1]]) as f64
        } else {
            frame.data[i] as f64
        };
        value / scale
    })
}

/// Two comparable frames for a network, each `[1, 3, H, W]`, float32 in [0, 1], on `device`.
///
/// # Errors
/// See [`check_pair`] and [`check_size`]; a failure of libtorch.
pub(super) fn pair(a: &Frame, b: &Frame, metric: &str, device: Device) -> Result<[Tensor; 2]> {
    check_pair(a, b)?;
    check_size(a, metric, NETWORK_MIN_SIDE)?;
    Ok([tensor(a, device)?, tensor(b, device)?])
}

fn tensor(frame: &Frame, device: Device) -> Result<Tensor> {
    let values: Vec<f32> = samples(frame).map(|v| v as f32).collect();
    let rows = Tensor::f_from_slice(&values)?.f_view([1, frame.height as i64, frame.width as i64, 3])?;
    Ok(rows
        .f_to_device(device)?
        .f_permute([0, 3, 1, 2])?
        .f_contiguous()?)
}

/// One number for each of R, G and B, `[1, 3, 1, 1]`.
pub(super) fn per_channel(values: &[f32; 3], device: Device) -> Tensor {
    Tensor::from_slice(values)
        .view([1, 3, 1, 1])
        .to_kind(Kind::Float)
        .to_device(device)
}
