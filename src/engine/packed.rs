//! Plain frames on a GPU: from samples to tiles, and from the model's tiles to samples, by a kernel each.

use std::time::Instant;

use tch::{Device, Tensor};

use super::StageTimes;
use super::pass::{Forward, judged};
use super::tiled::TiledPass;
use crate::Result;
use crate::device::fetch;
use crate::frame::PixelFormat;
use crate::nn::{FrameKernels, TilePlaces};
use crate::tile::TileGrid;

/// Finds the kernels for frames of a format; `None` where there are none.
pub(super) type Find = fn(Device, PixelFormat) -> Option<&'static FrameKernels>;

/// Where there is a GPU, and NVRTC.
pub(super) fn on_gpu(device: Device, format: PixelFormat) -> Option<&'static FrameKernels> {
    FrameKernels::of(device, format.bytes_per_sample() == 2, format.channels())
}

/// What a plain frame has become.
pub(super) struct Packed {
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
pub(super) fn places(grid: &TileGrid, device: Device) -> Result<TilePlaces> {
    let tiles: Vec<_> = grid.tiles().collect();
    let row = |row: usize| &tiles[row * grid.cols()..][..grid.cols()];
    let lefts = row(0).iter().map(|tile| tile.x as i32);
    let tops = (0..grid.rows()).map(|at| row(at)[0].y as i32);
    let origins = tiles.iter().flat_map(|tile| [tile.x as i32, tile.y as i32]);
    let numbers =
        |numbers: Vec<i32>| -> Result<Tensor> { Ok(Tensor::f_from_slice(&numbers)?.f_to_device(device)?) };
    let weights = |windows: Vec<Vec<f32>>| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&windows.concat())?.f_to_device(device)?)
    };
    Ok(TilePlaces {
        size: [grid.tile_height() as i64, grid.tile_width() as i64],
        origins: numbers(origins.collect())?,
        edges: [numbers(lefts.collect())?, numbers(tops.collect())?],
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
    /// Where a kernel fails.
    pub fn run_packed(
        &mut self,
        (kernels, samples): (&FrameKernels, &Tensor),
        strength: f64,
        model: &dyn Fn() -> Result<Forward>,
        wanted: &dyn Fn() -> bool,
        times: &mut StageTimes,
    ) -> Result<Option<Packed>> {
        let (height, width, _) = samples.size3()?;
        let start = Instant::now();
        let plan = self.plan_for(width as usize, height as usize, model)?;
        plan.passing = false;
        let places = match plan.places.take() {
            Some(places) => places,
            None => places(&plan.grid, samples.device())?,
        };
        let places = &*plan.places.insert(places);
        let (count, batch) = (plan.grid.len(), plan.cut.batch);
        let (mut outputs, mut finite) = (Vec::new(), Vec::new());
        plan.passing = true;
        for first in (0..count).step_by(batch) {
            if !wanted() {
                return Ok(None);
            }
            let tiles = kernels.tiles(samples, places, first, batch.min(count - first));
            let began = Instant::now();
            let (output, its) = judged(&plan.forward, &tiles)?;
            times.model += began.elapsed();
            outputs.push(output);
            finite.push(its);
        }
        plan.passing = false;
        let joined = |parts: &[Tensor]| -> Result<Tensor> {
            Ok(match parts {
                [one] => one.shallow_clone(),
                several => Tensor::f_cat(several, 0)?,
            })
        };
        let (outputs, finite) = (joined(&outputs)?, joined(&finite)?.f_view(-1)?);
        let samples = kernels.frame(samples, places, &outputs, &finite, strength);
        let finite = fetch(&finite.f_to_kind(tch::Kind::Int64)?)?;
        times.blend += start.elapsed().saturating_sub(times.model);
        Ok(Some(Packed {
            samples,
            tiles: count,
            finite,
        }))
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::super::EngineConfig;
    use super::super::pixels::{from_samples, from_tensor, to_samples, to_tensor};
    use super::*;
    use crate::frame::Frame;

    fn noise(width: usize, height: usize, format: PixelFormat) -> Frame {
        let mut frame = Frame::new(width, height, format);
        let mut state = 1_u32;
        for byte in &mut frame.data {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        frame
    }

    /// Samples as numbers.
    fn levels(frame: &Frame) -> Vec<i32> {
        match frame.format.bytes_per_sample() {
            1 => frame.data.iter().map(|&sample| sample.into()).collect(),
            _ => {
                let (samples, _) = frame.data.as_chunks::<2>();
                samples
                    .iter()
                    .map(|&sample| u16::from_ne_bytes(sample).into())
                    .collect()
            }
        }
    }

    /// Every second tile is not finite where `broken`; the others depend on where they are.
    fn model(broken: bool) -> Result<Forward> {
        Ok(Box::new(move |x| {
            let (batch, _, height, width) = x.size4().unwrap();
            let ramp = Tensor::arange(height * width, (Kind::Float, x.device())) / (height * width) as f64;
            let y = x * 0.9 + ramp.view([1, 1, height, width]) * 0.4;
            for tile in (1..batch).step_by(2).filter(|_| broken) {
                let _ = y.get(tile).get(2).get(0).get(0).fill_(f64::NAN);
            }
            y
        }))
    }

    #[test]
    fn kernels_make_what_libtorch_makes_of_a_frame() {
        use PixelFormat::{Rgb8, Rgb16, Rgba8, Rgba16};
        for (format, most) in [(Rgb8, 1), (Rgba8, 1), (Rgb16, 2), (Rgba16, 2)] {
            let kernels = FrameKernels::emulated(format.bytes_per_sample() == 2, format.channels());
            // One tile and several, with and without padding; a pixel, and a row.
            for (width, height, strength, broken) in [
                (64, 64, 1.0, false),
                (1, 1, 1.0, false),
                (3, 70, 0.4, false),
                (150, 77, 1.0, false),
                (201, 130, 0.7, true),
            ] {
                let frame = noise(width, height, format);
                let config = EngineConfig {
                    tile_size: Some(64),
                    tile_overlap: Some(16),
                    tile_batch: 4,
                    ..EngineConfig::default()
                };
                let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
                let mut times = StageTimes::default();
                let input = to_tensor(&frame, Device::Cpu).unwrap();
                let model = || model(broken);
                let joined = pass.run(&input, 1.0, &model, &|| true, &mut times);
                let joined = joined.unwrap().unwrap();
                let mixed = input.lerp(&joined.image, strength);
                let expected = from_tensor(&mixed, &frame).unwrap().arrive().unwrap();
                assert_ne!(expected, frame);

                let samples = to_samples(&frame, Device::Cpu).unwrap();
                let packed = pass.run_packed((&kernels, &samples), strength, &model, &|| true, &mut times);
                let packed = packed.unwrap().unwrap();
                let made = from_samples(&packed.samples, &frame).unwrap().arrive().unwrap();
                let name = format!("{format:?} {width}x{height}");
                assert_eq!(
                    (packed.tiles, Some(packed.finite)),
                    (joined.tiles, joined.finite),
                    "{name}"
                );
                let pairs = levels(&made).into_iter().zip(levels(&expected));
                let apart = pairs.map(|(one, two)| (one - two).abs()).max();
                assert!(apart.unwrap() <= most, "{name}: {apart:?}");
                if format.channels() == 4 {
                    let alpha =
                        |frame: &Frame| levels(frame).into_iter().skip(3).step_by(4).collect::<Vec<_>>();
                    assert_eq!(alpha(&made), alpha(&frame), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_gpu_makes_what_the_cpu_makes() {
        let Ok((_, gpu)) = crate::device::resolve(crate::device::Device::Cuda(0)) else {
            eprintln!("left out: there is no GPU");
            return;
        };
        for format in [PixelFormat::Rgb8, PixelFormat::Rgba16] {
            let frame = noise(301, 170, format);
            let config = EngineConfig {
                tile_size: Some(64),
                tile_overlap: Some(16),
                tile_batch: 3,
                ..EngineConfig::default()
            };
            let emulated = FrameKernels::emulated(format.bytes_per_sample() == 2, format.channels());
            let made = [Device::Cpu, gpu].map(|device| {
                let kernels = on_gpu(device, format).unwrap_or(&emulated);
                assert_eq!(
                    std::ptr::eq(kernels, &emulated),
                    device == Device::Cpu,
                    "NVRTC is there"
                );
                let mut pass = TiledPass::new(&config, true, 8, device, None);
                let samples = to_samples(&frame, device).unwrap();
                let times = &mut StageTimes::default();
                let packed = pass.run_packed((kernels, &samples), 0.8, &|| model(true), &|| true, times);
                let samples = packed.unwrap().unwrap().samples;
                levels(&from_samples(&samples, &frame).unwrap().arrive().unwrap())
            });
            let apart = made[0].iter().zip(&made[1]).map(|(one, two)| (one - two).abs());
            assert!(apart.max().unwrap() <= 2, "{format:?}");
        }
    }

    #[test]
    fn a_frame_that_nobody_wants_ends_with_its_tiles() {
        let kernels = FrameKernels::emulated(false, 3);
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(0),
            tile_batch: 1,
            ..EngineConfig::default()
        };
        let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
        let samples = to_samples(&noise(192, 64, PixelFormat::Rgb8), Device::Cpu).unwrap();
        let left = std::cell::Cell::new(2);
        let wanted = || left.replace(left.get() - 1) > 0;
        let times = &mut StageTimes::default();
        let packed = pass.run_packed((&kernels, &samples), 1.0, &|| model(false), &wanted, times);
        assert!(packed.unwrap().is_none());
        assert_eq!(left.get(), -1, "asked before each tile");
    }
}
