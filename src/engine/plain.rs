//! Plain frames on a GPU: from samples to tiles by one kernel, and from the model's tiles to samples by another.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::pass::{Forward, judged};
use super::pixels::{from_samples, from_tensor, to_samples, to_tensor};
use super::tiled::TiledPass;
use super::worker::guarded;
use super::{EngineConfig, StageTimes};
use crate::device::fetch;
use crate::frame::{Frame, PixelFormat};
use crate::nn::{FrameKernels, TilePlaces};
use crate::tile::TileGrid;
use crate::{ErrorKind, Result};

/// Finds the kernels for frames of a format; `None` where there are none.
pub(super) type Find = fn(Device, PixelFormat) -> Option<&'static FrameKernels>;

/// Where there is a GPU, and NVRTC, and they make the same as libtorch.
pub(super) fn on_gpu(device: Device, format: PixelFormat) -> Option<&'static FrameKernels> {
    static AGREED: Lazy<Mutex<HashMap<(usize, PixelFormat), bool>>> = Lazy::new(Mutex::default);
    let Device::Cuda(index) = device else {
        return None;
    };
    let kernels = FrameKernels::of(device, format.bytes_per_sample() == 2, format.channels())?;
    let mut agreed = AGREED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&agree) = agreed.get(&(index, format)) {
        return agree.then_some(kernels);
    }
    let agree = match guarded(|| agree(kernels, device, format)) {
        Ok(agree) => agree,
        // There may be memory the next time.
        Err(error) if error.kind() == ErrorKind::NoMemory => return None,
        Err(error) => {
            tracing::warn!("kernels for frames cannot be used: {error}");
            false
        }
    };
    if !agree {
        tracing::warn!("kernels for {format:?} frames are left alone; libtorch's operations serve");
    }
    agreed.insert((index, format), agree);
    agree.then_some(kernels)
}

/// Whether the kernels make of a small frame in overlapping tiles, one of them not finite, what libtorch's operations make of it.
///
/// # Errors
/// Too little memory, or a failure of the device.
fn agree(kernels: &FrameKernels, device: Device, format: PixelFormat) -> Result<bool> {
    let frame = noise(150, 77, format);
    let config = EngineConfig {
        tile_size: Some(64),
        tile_overlap: Some(16),
        tile_batch: 4,
        ..EngineConfig::default()
    };
    let (ours, theirs) = both(kernels, device, &frame, &config, 0.6, true)?;
    let most = if format.bytes_per_sample() == 1 { 1 } else { 2 };
    Ok(apart(&ours, &theirs) <= most && apart(&ours, &frame) > most)
}

/// A frame of every level that samples can have, or nearly so.
fn noise(width: usize, height: usize, format: PixelFormat) -> Frame {
    let mut frame = Frame::new(width, height, format);
    let mut state = 1_u32;
    for byte in &mut frame.data {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    frame
}

/// A frame by the kernels and by libtorch, with a model whose output depends on the place in a tile; where it is `broken`, every second
/// tile of a batch is not finite.
fn both(
    kernels: &FrameKernels,
    device: Device,
    frame: &Frame,
    config: &EngineConfig,
    strength: f64,
    broken: bool,
) -> Result<(Frame, Frame)> {
    let model = || -> Result<Forward> {
        Ok(Box::new(move |x| {
            let [batch, _, height, width] = x.size()[..] else {
                panic!("a batch has four dimensions")
            };
            let ramp = Tensor::arange(height * width, (Kind::Float, x.device())) / (height * width) as f64;
            let y = x * 0.9 + ramp.view([1, 1, height, width]) * 0.4;
            for tile in (1..batch).step_by(2).filter(|_| broken) {
                let _ = y.get(tile).get(2).get(0).get(0).fill_(f64::NAN);
            }
            y
        }))
    };
    let mut pass = TiledPass::new(config, true, 8, device, None);
    let mut times = StageTimes::default();
    let input = to_tensor(frame, device)?;
    let joined = pass.run(&input, 1.0, &model, &|| true, &mut times)?;
    let image = joined.expect("it is wanted").image;
    let theirs = from_tensor(&input.f_lerp(&image, strength)?, frame)?.arrive()?;
    let samples = to_samples(frame, device)?;
    let plain = pass.run_plain((kernels, &samples), strength, &model, &|| true, &mut times)?;
    let samples = plain.expect("it is wanted").samples;
    Ok((from_samples(&samples, frame)?.arrive()?, theirs))
}

/// By how many levels two frames of a format differ at most.
fn apart(one: &Frame, two: &Frame) -> i32 {
    let levels = |frame: &Frame| -> Vec<i32> {
        let bytes = frame.data.iter();
        match frame.format.bytes_per_sample() {
            1 => bytes.map(|&sample| sample.into()).collect(),
            _ => {
                let (samples, _) = frame.data.as_chunks::<2>();
                let samples = samples.iter();
                samples.map(|&sample| u16::from_ne_bytes(sample).into()).collect()
            }
        }
    };
    let pairs = levels(one).into_iter().zip(levels(two));
    pairs.map(|(one, two)| (one - two).abs()).max().unwrap_or(0)
}

/// What a plain frame has become.
pub(super) struct Plain {
    /// `[H, W, channels]`, as the frame's own.
    pub samples: Tensor,
    pub tiles: usize,
    /// As [`Joined::finite`](super::tiled::Joined::finite).
    pub finite: Tensor,
}

/// Where the tiles of a grid lie, on `device`.
///
/// # Errors
/// Too little memory.
fn places(grid: &TileGrid, device: Device) -> Result<TilePlaces> {
    let tiles: Vec<_> = grid.tiles().collect();
    let (rows, columns) = (grid.rows(), grid.cols());
    let lefts = tiles[..columns].iter().map(|tile| tile.x as i32);
    let tops = tiles.iter().step_by(columns).map(|tile| tile.y as i32);
    let origins = tiles.iter().flat_map(|tile| [tile.x as i32, tile.y as i32]);
    let numbers = |numbers: Vec<i32>, shape: &[i64]| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&numbers)?
            .f_view(shape)?
            .f_to_device(device)?)
    };
    let weights = |windows: Vec<Vec<f32>>| -> Result<Tensor> {
        let shape = [windows.len() as i64, -1];
        Ok(Tensor::f_from_slice(&windows.concat())?
            .f_view(shape)?
            .f_to_device(device)?)
    };
    Ok(TilePlaces {
        size: [grid.tile_height() as i64, grid.tile_width() as i64],
        origins: numbers(origins.collect(), &[-1, 2])?,
        edges: [
            numbers(lefts.collect(), &[columns as i64])?,
            numbers(tops.collect(), &[rows as i64])?,
        ],
        weights: [weights(grid.col_windows())?, weights(grid.row_windows())?],
    })
}

impl TiledPass {
    /// As [`run`](Self::run), from a frame's samples `[H, W, channels]` on the device, which are mixed in where `strength` is below one.
    /// Every tile goes through the model.
    ///
    /// # Errors
    /// A size that cannot be tiled, a failure of `model`, or too little memory.
    ///
    /// # Panics
    /// Where the model panics or the driver says no.
    pub fn run_plain(
        &mut self,
        (kernels, samples): (&FrameKernels, &Tensor),
        strength: f64,
        model: &dyn Fn() -> Result<Forward>,
        wanted: &dyn Fn() -> bool,
        times: &mut StageTimes,
    ) -> Result<Option<Plain>> {
        let (height, width, _) = samples.size3()?;
        let plan = self.plan_for(width as usize, height as usize, model)?;
        plan.passing = false;
        let start = Instant::now();
        let places = match plan.places.take() {
            Some(places) => places,
            None => places(&plan.grid, samples.device())?,
        };
        let places = &*plan.places.insert(places);
        let (count, batch) = (plan.grid.len(), plan.cut.batch);
        let mut outputs: Option<Tensor> = None;
        let mut finite = Vec::new();
        plan.passing = true;
        for first in (0..count).step_by(batch) {
            if !wanted() {
                plan.passing = false;
                return Ok(None);
            }
            let its = batch.min(count - first);
            let tiles = kernels.tiles(samples, places, first, its)?;
            let began = Instant::now();
            let (output, its_finite) = judged(&plan.forward, &tiles)?;
            times.model += began.elapsed();
            finite.push(its_finite);
            if its == count {
                outputs = Some(output);
                break;
            }
            let outputs = match &outputs {
                Some(outputs) => outputs,
                // For all of them at once, in the order in memory that the kernel wants.
                None => {
                    let [height, width] = places.size;
                    let size = [count as i64, height, width, 3];
                    let all = Tensor::f_empty(size, (Kind::Float, samples.device()))?;
                    outputs.insert(all.f_permute([0, 3, 1, 2])?)
                }
            };
            outputs.f_narrow(0, first as i64, its as i64)?.f_copy_(&output)?;
        }
        plan.passing = false;
        let outputs = outputs.expect("there is a tile");
        let finite = Tensor::f_cat(&finite, 0)?.f_view(-1)?;
        let samples = kernels.frame(samples, places, &outputs, &finite, strength)?;
        let finite = fetch(&finite.f_to_kind(Kind::Int64)?)?;
        times.blend += start.elapsed().saturating_sub(times.model);
        Ok(Some(Plain {
            samples,
            tiles: count,
            finite,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(batch: usize) -> EngineConfig {
        EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(16),
            tile_batch: batch,
            ..EngineConfig::default()
        }
    }

    #[test]
    fn kernels_make_what_libtorch_makes_of_a_frame() {
        use PixelFormat::{Rgb8, Rgb16, Rgba8, Rgba16};
        for (format, most) in [(Rgb8, 1), (Rgba8, 1), (Rgb16, 2), (Rgba16, 2)] {
            let wide = format.bytes_per_sample() == 2;
            let kernels = FrameKernels::emulated(wide, format.channels(), false);
            assert!(agree(&kernels, Device::Cpu, format).unwrap());
            // One tile and several, in one batch and in more, with and without padding; a pixel, and a row.
            for (width, height, batch, strength, broken) in [
                (64, 64, 4, 1.0, false),
                (1, 1, 1, 1.0, false),
                (3, 70, 2, 0.4, false),
                (150, 77, 100, 1.0, true),
                (201, 130, 4, 0.7, true),
            ] {
                let frame = noise(width, height, format);
                let made = both(&kernels, Device::Cpu, &frame, &config(batch), strength, broken);
                let (ours, theirs) = made.unwrap();
                let name = format!("{format:?} {width}x{height}");
                assert!(apart(&ours, &theirs) <= most && ours != frame, "{name}");
                if format.channels() == 4 {
                    let pixel = format.bytes_per_pixel();
                    let alpha = |frame: &Frame| -> Vec<Vec<u8>> {
                        let pixels = frame.data.chunks(pixel);
                        pixels.map(|samples| samples[pixel / 4 * 3..].to_vec()).collect()
                    };
                    assert_eq!(alpha(&ours), alpha(&frame), "{name}");
                }
            }
        }
    }

    #[test]
    fn kernels_that_make_something_else_are_found_out() {
        let broken = FrameKernels::emulated(false, 3, true);
        assert!(!agree(&broken, Device::Cpu, PixelFormat::Rgb8).unwrap());
        let other = guarded(|| agree(&broken, Device::Cpu, PixelFormat::Rgba8));
        assert!(other.unwrap_err().to_string().contains("other samples"));
    }

    #[test]
    fn a_gpu_has_kernels_that_agree() {
        let Ok((_, gpu)) = crate::device::resolve(crate::device::Device::Cuda(0)) else {
            eprintln!("left out: there is no GPU");
            return;
        };
        for format in [PixelFormat::Rgb8, PixelFormat::Rgba16] {
            assert!(on_gpu(gpu, format).is_some(), "{format:?}");
        }
    }

    #[test]
    fn a_frame_that_nobody_wants_ends_with_its_tiles_and_only_these_are_made_smaller() {
        let kernels = FrameKernels::emulated(false, 3, false);
        let samples = to_samples(&noise(256, 256, PixelFormat::Rgb8), Device::Cpu).unwrap();
        // Whether a frame was made, how often it was asked for, and whether smaller tiles would help.
        let run = |tile_size: usize, tiles: usize, model: fn(&Tensor) -> Tensor| {
            let config = EngineConfig {
                tile_size: Some(tile_size),
                ..config(1)
            };
            let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
            let asked = std::cell::Cell::new(0);
            let wanted = || asked.replace(asked.get() + 1) < tiles;
            let model = || -> Result<Forward> { Ok(Box::new(model)) };
            let times = &mut StageTimes::default();
            let made = guarded(|| pass.run_plain((&kernels, &samples), 1.0, &model, &wanted, times));
            (made.map(|plain| plain.is_some()).ok(), asked.get(), pass.shrink())
        };
        assert_eq!(run(128, 2, |x| x * 0.5), (Some(false), 3, false));
        assert_eq!(
            run(512, 1, |x| x * 0.5),
            (Some(true), 1, false),
            "all tiles are done"
        );
        assert_eq!(run(512, 1, |_| panic!("can't allocate memory")), (None, 1, true));
    }
}
