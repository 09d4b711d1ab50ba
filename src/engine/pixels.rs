//! Frames to tensors and back.

use pulp::Arch;
use tch::{Device, Kind, Tensor};

use super::Arriving;
use crate::Result;
use crate::device::{fetch, upload};
use crate::frame::{Frame, PixelFormat, reserve};
use crate::nn::{by_rows, on_own_threads};

/// R, G and B as `[1, 3, H, W]`, float32, in [-1, 1], channels-last, on `device`.
pub(super) fn to_tensor(frame: &Frame, device: Device) -> Result<Tensor> {
    if device == Device::Cpu {
        return to_tensor_in_one_pass(frame);
    }
    let wide = matches!(frame.format, PixelFormat::Rgb16 | PixelFormat::Rgba16);
    let rgb = to_samples(frame, device)?.f_narrow(2, 0, 3)?;
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
        .f_permute([2, 0, 1])?
        .f_unsqueeze(0)?)
}

/// A frame's samples on `device`, `[H, W, channels]`; those of 16 bits as signed numbers.
pub(super) fn to_samples(frame: &Frame, device: Device) -> Result<Tensor> {
    upload(&samples(frame)?, device)
}

/// A frame like `input` with `samples` as [`to_samples`] gives them.
pub(super) fn from_samples(samples: &Tensor, input: &Frame) -> Result<Arriving<Frame>> {
    let (mut frame, fetched) = (new_like(input)?, fetch(samples)?);
    Arriving::behind(samples.device(), move || {
        write_samples(&fetched, &mut frame);
        Ok(frame)
    })
}

/// A frame like `input` with the colours of `tensor` (as [`to_tensor`] gives them, clamped here) and its own alpha.
pub(super) fn from_tensor(tensor: &Tensor, input: &Frame) -> Result<Arriving<Frame>> {
    if tensor.device() == Device::Cpu && tensor.kind() == Kind::Float {
        return Ok(Arriving::here(from_tensor_in_one_pass(tensor, input)?));
    }
    let mut frame = like(input)?;
    let levels = fetch(&levels(tensor, input.format)?)?;
    Arriving::behind(tensor.device(), move || {
        write_samples(&levels, &mut frame);
        Ok(frame)
    })
}

/// A frame for the colours of one like `input`, whose alpha it has.
fn like(input: &Frame) -> Result<Frame> {
    match input.format.channels() {
        4 => input.try_clone(),
        _ => new_like(input),
    }
}

/// A black frame of the same size and format.
fn new_like(input: &Frame) -> Result<Frame> {
    let mut data = Vec::new();
    reserve(&mut data, input.data.len())?;
    data.resize(input.data.len(), 0);
    Frame::from_data(input.width, input.height, input.format, data)
}

/// Colours `[1, 3, H, W]` as samples, `[H, W, 3]`; of 16 bits as signed numbers.
fn levels(tensor: &Tensor, format: PixelFormat) -> Result<Tensor> {
    let half = format.full_scale() / 2.0;
    let mut levels = tensor.f_squeeze_dim(0)?.f_permute([1, 2, 0])?.f_add_scalar(1.0)?;
    levels = levels.f_mul_scalar_(half)?;
    levels = levels.f_round_()?.f_clamp_(0.0, format.full_scale())?;
    levels = match format {
        PixelFormat::Rgb8 | PixelFormat::Rgba8 => levels.f_to_kind(Kind::Uint8)?,
        PixelFormat::Rgb16 | PixelFormat::Rgba16 => levels.f_to_kind(Kind::Int)?.f_to_kind(Kind::Int16)?,
    };
    Ok(levels.f_contiguous()?)
}

/// Writes samples that are on the CPU into a frame; where they are colours alone, alpha stays.
fn write_samples(samples: &Tensor, frame: &mut Frame) {
    let sample = frame.format.bytes_per_sample();
    // SAFETY: on the CPU and without gaps; it has that many bytes, and nobody writes them meanwhile.
    let bytes =
        unsafe { std::slice::from_raw_parts(samples.data_ptr().cast::<u8>(), samples.numel() * sample) };
    let colours = samples.size()[2] as usize * sample;
    let (pixel, stride) = (frame.format.bytes_per_pixel(), frame.stride());
    let width = frame.width;
    on_own_threads(|| {
        by_rows(&mut frame.data, stride, |row, pixels| {
            let bytes = &bytes[row * width * colours..];
            if pixel == colours {
                pixels.copy_from_slice(&bytes[..pixels.len()]);
                return;
            }
            for (pixel, bytes) in pixels.chunks_exact_mut(pixel).zip(bytes.chunks_exact(colours)) {
                pixel[..colours].copy_from_slice(bytes);
            }
        });
    });
}

/// Whether an image `[1, 3, H, W]` lies in the CPU's memory as float32, pixel by pixel without gaps.
pub(super) fn is_plain(image: &Tensor) -> bool {
    let here = image.device() == Device::Cpu && image.kind() == Kind::Float;
    here && image.permute([0, 2, 3, 1]).is_contiguous()
}

/// On a CPU, where libtorch would go over the frame once for every operation.
fn to_tensor_in_one_pass(frame: &Frame) -> Result<Tensor> {
    let size = [1, frame.height as i64, frame.width as i64, 3];
    let tensor = Tensor::f_empty(size, (Kind::Float, Device::Cpu))?;
    let scale = 2.0 / frame.format.full_scale() as f32;
    // SAFETY: nobody else has this tensor yet; it has that many numbers.
    let values = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) };
    let (width, bytes) = (3 * frame.width, frame.width * frame.format.bytes_per_pixel());
    by_rows(values, width, |row, values| {
        let samples = &frame.data[row * bytes..];
        Arch::new().dispatch(
            #[inline(always)]
            || match frame.format {
                PixelFormat::Rgb8 => values_of_bytes(values, samples, scale),
                PixelFormat::Rgb16 => values_of_words(values, samples, scale),
                PixelFormat::Rgba8 => {
                    for (values, pixel) in values.chunks_exact_mut(3).zip(samples.chunks_exact(4)) {
                        values_of_bytes(values, pixel, scale);
                    }
                }
                PixelFormat::Rgba16 => {
                    for (values, pixel) in values.chunks_exact_mut(3).zip(samples.chunks_exact(8)) {
                        values_of_words(values, pixel, scale);
                    }
                }
            },
        );
    });
    Ok(tensor.f_permute([0, 3, 1, 2])?)
}

#[inline(always)]
fn values_of_bytes(values: &mut [f32], samples: &[u8], scale: f32) {
    for (value, sample) in values.iter_mut().zip(samples) {
        *value = f32::from(*sample) * scale - 1.0;
    }
}

#[inline(always)]
fn values_of_words(values: &mut [f32], samples: &[u8], scale: f32) {
    for (value, sample) in values.iter_mut().zip(samples.as_chunks::<2>().0) {
        *value = f32::from(u16::from_ne_bytes(*sample)) * scale - 1.0;
    }
}

fn from_tensor_in_one_pass(tensor: &Tensor, input: &Frame) -> Result<Frame> {
    let rows = tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    let mut frame = like(input)?;
    let full = input.format.full_scale() as f32;
    // SAFETY: float32, on the CPU and without gaps.
    let values = unsafe { std::slice::from_raw_parts(rows.data_ptr().cast::<f32>(), rows.numel()) };
    let (width, bytes) = (3 * input.width, input.width * input.format.bytes_per_pixel());
    by_rows(&mut frame.data, bytes, |row, samples| {
        let values = &values[row * width..];
        Arch::new().dispatch(
            #[inline(always)]
            || match input.format {
                PixelFormat::Rgb8 => bytes_of_values(samples, values, full),
                PixelFormat::Rgb16 => words_of_values(samples, values, full),
                PixelFormat::Rgba8 => {
                    for (values, pixel) in values.chunks_exact(3).zip(samples.chunks_exact_mut(4)) {
                        bytes_of_values(pixel, values, full);
                    }
                }
                PixelFormat::Rgba16 => {
                    for (values, pixel) in values.chunks_exact(3).zip(samples.chunks_exact_mut(8)) {
                        words_of_values(pixel, values, full);
                    }
                }
            },
        );
    });
    Ok(frame)
}

#[inline(always)]
fn bytes_of_values(samples: &mut [u8], values: &[f32], full: f32) {
    for (sample, value) in samples.iter_mut().zip(values) {
        *sample = level(*value, full) as u8;
    }
}

#[inline(always)]
fn words_of_values(samples: &mut [u8], values: &[f32], full: f32) {
    for (sample, value) in samples.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *sample = (level(*value, full) as u16).to_ne_bytes();
    }
}

/// A value of [-1, 1] as a level, rounded to the nearest and halves to even.
#[inline(always)]
fn level(value: f32, full: f32) -> f32 {
    // From here on float32 has no room for fractions.
    const WHOLE: f32 = 12_582_912.0;
    ((value + 1.0) * (0.5 * full) + WHOLE - WHOLE).clamp(0.0, full)
}

/// The frame's own memory as `[H, W, channels]`; 16-bit samples as signed numbers. It must not outlive the frame.
fn samples(frame: &Frame) -> Result<Tensor> {
    let channels = frame.format.channels() as i64;
    let (width, height) = (frame.width as i64, frame.height as i64);
    let kind = match frame.format.bytes_per_sample() {
        1 => Kind::Uint8,
        _ => Kind::Int16,
    };
    let (size, strides) = ([height, width, channels], [width * channels, channels, 1]);
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
            let back = from_tensor(&tensor, &frame).unwrap().arrive().unwrap();
            assert_eq!(back, frame, "{format:?}");
            // As from a GPU.
            let levels = levels(&tensor, format).unwrap();
            let mut back = like(&frame).unwrap();
            write_samples(&levels.zeros_like(), &mut back);
            assert!(back.data[..3] == [0; 3] && back != frame);
            write_samples(&levels, &mut back);
            assert_eq!(back, frame, "{format:?}");
        }
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        let frame = Frame::new(2, 1, PixelFormat::Rgb8);
        let tensor = Tensor::from_slice(&[-3.0f32, 9.0, -1.0, 1.0, 0.0, 0.004]).view([1, 3, 1, 2]);
        assert_eq!(
            from_tensor(&tensor, &frame).unwrap().arrive().unwrap().data,
            [0, 0, 128, 255, 255, 128]
        );
    }
}
