//! Frames to tensors and back.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::frame::{Frame, PixelFormat};

/// R, G and B as `[1, 3, H, W]`, float32, in [-1, 1], channels-last, on `device`.
pub(super) fn to_tensor(frame: &Frame, device: Device) -> Result<Tensor> {
    let samples = samples(frame)?.f_to_device(device)?;
    let wide = matches!(frame.format, PixelFormat::Rgb16 | PixelFormat::Rgba16);
    let rgb = samples.f_narrow(3, 0, 3)?;
    let rgb = if wide {
        // libtorch has few operations on unsigned 16-bit numbers: read them as signed and undo the wrap.
        rgb.f_to_kind(Kind::Int)?.f_bitwise_and(0xffff)?
    } else {
        rgb
    };
    let scale = 2.0 / frame.format.full_scale();
    let mut values = rgb.f_to_kind(Kind::Float)?.f_contiguous()?;
    Ok(values
        .f_mul_scalar_(scale)?
        .f_sub_scalar_(1.0)?
        .f_permute([0, 3, 1, 2])?)
}

/// A frame like `input` with the colours of `tensor` (as [`to_tensor`] gives them, clamped here) and its own alpha.
pub(super) fn from_tensor(tensor: &Tensor, input: &Frame) -> Result<Frame> {
    let half = input.format.full_scale() / 2.0;
    let mut levels = tensor.f_permute([0, 2, 3, 1])?.f_add_scalar(1.0)?;
    levels = levels.f_mul_scalar_(half)?;
    levels = levels.f_round_()?.f_clamp_(0.0, input.format.full_scale())?;
    levels = match input.format {
        PixelFormat::Rgb8 | PixelFormat::Rgba8 => levels.f_to_kind(Kind::Uint8)?,
        PixelFormat::Rgb16 | PixelFormat::Rgba16 => levels.f_to_kind(Kind::Int)?.f_to_kind(Kind::Int16)?,
    };
    levels = levels.f_to_device(Device::Cpu)?;
    if input.format.channels() == 4 {
        let alpha = samples(input)?.f_narrow(3, 3, 1)?;
        levels = Tensor::f_cat(&[levels, alpha], 3)?;
    }
    let levels = levels.f_contiguous()?;
    let mut frame = Frame::new(input.width, input.height, input.format);
    levels.f_copy_data_u8(&mut frame.data, levels.numel())?;
    Ok(frame)
}

/// The frame's own memory as `[1, H, W, channels]`; 16-bit samples as signed numbers. It must not outlive the frame.
fn samples(frame: &Frame) -> Result<Tensor> {
    let channels = frame.format.channels() as i64;
    let (width, height) = (frame.width as i64, frame.height as i64);
    let kind = match frame.format.bytes_per_sample() {
        1 => Kind::Uint8,
        _ => Kind::Int16,
    };
    let size = [1, height, width, channels];
    let strides = [height * width * channels, width * channels, channels, 1];
    // SAFETY: `Frame::check` has made sure that `data` holds exactly this many samples.
    Ok(unsafe { Tensor::f_from_blob(frame.data.as_ptr(), &size, &strides, kind, Device::Cpu)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_round_trip() {
        for format in [
            PixelFormat::Rgb8,
            PixelFormat::Rgba8,
            PixelFormat::Rgb16,
            PixelFormat::Rgba16,
        ] {
            let mut frame = Frame::new(7, 5, format);
            for (i, byte) in frame.data.iter_mut().enumerate() {
                *byte = (i * 37 + i / 9) as u8;
            }
            let tensor = to_tensor(&frame, Device::Cpu).unwrap();
            assert_eq!(tensor.size(), [1, 3, 5, 7]);
            assert!(tensor.abs().max().double_value(&[]) <= 1.0);
            assert_eq!(from_tensor(&tensor, &frame).unwrap(), frame, "{format:?}");
        }
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        let frame = Frame::new(2, 1, PixelFormat::Rgb8);
        let tensor = Tensor::from_slice(&[-3.0f32, 9.0, -1.0, 1.0, 0.0, 0.004]).view([1, 3, 1, 2]);
        assert_eq!(
            from_tensor(&tensor, &frame).unwrap().data,
            [0, 0, 128, 255, 255, 128]
        );
    }
}
