//! A whole frame through a model that sees tiles.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::blend::Blend;
use super::budget::{Beside, Budget};
use super::cut::Cut;
use super::pass::{Forward, pass};
use super::reuse::Reuse;
use super::sharp::Sharp;
use super::{EngineConfig, StageTimes};
use crate::Result;
use crate::device::{self, fetch};
use crate::memory;
use crate::nn::{TilePlaces, channels_last, copied};
use crate::tile::{Tile, TileGrid, reflect};

/// Cuts frames into tiles, runs them in batches and joins the results; remembers the geometry of the last size.
pub(super) struct TiledPass {
    cut: Cut,
    multiple: usize,
    device: Device,
    reuse_threshold: f64,
    skip_sharp: f64,
    budget: Option<Budget>,
    plan: Option<Plan>,
}

/// A frame put together again.
pub(super) struct Joined {
    /// `[1, 3, H, W]`, float32.
    pub image: Tensor,
    pub tiles: usize,
    /// Which of these are the model's, as numbers from [`fetch`]: the others show the input, because it gave numbers that are not
    /// finite. `None` where there are none.
    pub finite: Option<Tensor>,
    /// Tiles that show what they showed before.
    pub tiles_reused: usize,
    /// Tiles that show the input because it is sharp; `tiles` has what is neither.
    pub tiles_skipped: usize,
}

/// Everything that depends on a frame's size only.
pub(super) struct Plan {
    pub(super) grid: TileGrid,
    /// How this size is cut, for want of memory perhaps smaller than others.
    pub(super) cut: Cut,
    tiles: Vec<Tile>,
    /// Tiles are on their way: if memory runs out now, smaller ones help; what a frame takes as a whole, they do not change.
    pub(super) passing: bool,
    pub(super) forward: Forward,
    reuse: Option<Reuse>,
    sharp: Option<Sharp>,
    /// Reflected source rows and columns where the frame is padded.
    rows: Option<Tensor>,
    columns: Option<Tensor>,
    blend: Blend,
    /// Where plain frames have needed it.
    pub(super) places: Option<TilePlaces>,
}

impl TiledPass {
    pub fn new(
        config: &EngineConfig,
        large_tiles: bool,
        multiple: usize,
        device: Device,
        budget: Option<Budget>,
    ) -> Self {
        TiledPass {
            cut: Cut::new(config, large_tiles, device),
            multiple,
            device,
            reuse_threshold: config.reuse_threshold,
            skip_sharp: config.skip_sharp,
            budget,
            plan: None,
        }
    }

    /// `image` `[1, 3, H, W]`, float32 in [-1, 1]; `model` makes what the tiles go through, once a size, and gives the
    /// same for the same `gamma`. `None` once the frame is not `wanted` any more.
    ///
    /// # Errors
    /// A size that cannot be tiled, a failure of `model`, or too little memory.
    pub fn run(
        &mut self,
        image: &Tensor,
        gamma: f64,
        model: &dyn Fn() -> Result<Forward>,
        wanted: &dyn Fn() -> bool,
        times: &mut StageTimes,
    ) -> Result<Option<Joined>> {
        let (_, _, height, width) = image.size4()?;
        let device = self.device;
        let plan = self.plan_for(width as usize, height as usize, model)?;
        plan.passing = false;
        let start = Instant::now();
        let mut padded = image.shallow_clone();
        if let Some(rows) = &plan.rows {
            padded = select(&padded, 1, rows)?;
        }
        if let Some(columns) = &plan.columns {
            padded = select(&padded, 2, columns)?;
        }
        let Plan {
            tiles, reuse, sharp, ..
        } = plan;
        let mut changed = match reuse {
            Some(reuse) => reuse.changed(&padded, tiles, gamma)?,
            None => (0..tiles.len()).collect(),
        };
        if let (Some(_), Some(sharp)) = (&reuse, &sharp) {
            changed.extend((0..tiles.len()).filter(|&tile| sharp.is_fading(tile)));
            changed.sort_unstable();
            changed.dedup();
        }
        let (blurred, skipped) = match sharp {
            Some(sharp) => sharp.part(&padded, tiles, &changed)?,
            None => (changed, Vec::new()),
        };
        let mut finite = Vec::new();
        let joined = match reuse.as_ref().and_then(Reuse::frame) {
            Some(frame) if blurred.is_empty() && skipped.is_empty() => frame.shallow_clone(),
            _ => match plan.join(&padded, &blurred, &skipped, wanted, &mut finite, times)? {
                Some(joined) => joined,
                None => return Ok(None),
            },
        };
        let finite = match finite.is_empty() {
            true => None,
            false => Some(fetch(
                &Tensor::f_cat(&finite, 0)?.f_view(-1)?.f_to_kind(Kind::Int64)?,
            )?),
        };
        if let Some(reuse) = &mut plan.reuse {
            reuse.keep_frame(&joined);
            if let Some(finite) = &finite {
                device::synchronize(device)?;
                let finite = Vec::<i64>::try_from(finite)?;
                let failed = blurred.iter().zip(finite).filter(|(_, finite)| *finite == 0);
                failed.for_each(|(&tile, _)| reuse.forget(tile));
            }
        }
        // The model's share is added where it runs.
        times.blend += start.elapsed().saturating_sub(times.model);
        Ok(Some(Joined {
            image: joined.f_narrow(2, 0, height)?.f_narrow(3, 0, width)?,
            tiles: blurred.len(),
            finite,
            tiles_reused: plan.tiles.len() - blurred.len() - skipped.len(),
            tiles_skipped: skipped.len(),
        }))
    }

    /// Gives back what is kept, and makes what runs at a time smaller, after memory has run out. False where that would not help any
    /// more.
    pub fn shrink(&mut self) -> bool {
        let smaller = self.plan.take().filter(|plan| plan.passing);
        let smaller = smaller.and_then(|plan| plan.cut.smaller(&plan.grid, self.multiple));
        memory::release();
        let Some(cut) = smaller else {
            return false;
        };
        tracing::warn!(
            "memory has run out; from now on {} tiles of at most {} px at a time",
            cut.batch,
            cut.tile_size
        );
        self.cut = cut;
        true
    }

    /// Whether every tile of a frame goes through the model.
    pub fn makes_all(&self) -> bool {
        self.reuse_threshold == 0.0 && self.skip_sharp == 0.0
    }

    pub(super) fn plan_for(
        &mut self,
        width: usize,
        height: usize,
        model: &dyn Fn() -> Result<Forward>,
    ) -> Result<&mut Plan> {
        let fits = |plan: &Plan| (plan.grid.width(), plan.grid.height()) == (width, height);
        if !self.plan.as_ref().is_some_and(fits) {
            // The last size's memory is given back first.
            if self.plan.take().is_some() {
                memory::release();
            }
            let beside = Beside::new(self.reuse_threshold > 0.0, self.device);
            let (grid, cut) = self
                .cut
                .fitted(width, height, self.multiple, self.budget.as_ref(), beside)?;
            let reuse = (self.reuse_threshold > 0.0).then(|| Reuse::new(self.reuse_threshold, grid.len()));
            let sharp = (self.skip_sharp > 0.0).then(|| Sharp::new(self.skip_sharp, grid.len()));
            self.plan = Some(Plan::new(grid, cut, model()?, (reuse, sharp), self.device)?);
        }
        Ok(self.plan.as_mut().expect("made above"))
    }
}

impl Plan {
    fn new(
        grid: TileGrid,
        cut: Cut,
        forward: Forward,
        (reuse, sharp): (Option<Reuse>, Option<Sharp>),
        device: Device,
    ) -> Result<Self> {
        let reflected = |len: usize, padded: usize| -> Result<Option<Tensor>> {
            let index: Vec<i64> = (0..padded).map(|i| reflect(i as isize, len) as i64).collect();
            Ok((len != padded)
                .then(|| Tensor::f_from_slice(&index))
                .transpose()?)
        };
        let place = |t: Option<Tensor>| t.map(|t| t.f_to_device(device)).transpose();
        Ok(Plan {
            tiles: grid.tiles().collect(),
            passing: false,
            forward,
            reuse,
            sharp,
            rows: place(reflected(grid.height(), grid.padded_height())?)?,
            columns: place(reflected(grid.width(), grid.padded_width())?)?,
            cut,
            blend: Blend::new(&grid, device)?,
            places: None,
            grid,
        })
    }

    /// Passes the `blurred` tiles through the model and joins them with the `sharp` ones as they are and the others' last outputs.
    /// Adds to `finite`, `[B, 1, 1, 1]` a batch, which of the blurred ones are the model's. `None` once the frame is not `wanted`.
    fn join(
        &mut self,
        padded: &Tensor,
        blurred: &[usize],
        sharp: &[usize],
        wanted: &dyn Fn() -> bool,
        finite: &mut Vec<Tensor>,
        times: &mut StageTimes,
    ) -> Result<Option<Tensor>> {
        let Plan {
            tiles,
            cut,
            reuse,
            forward,
            blend,
            sharp: judge,
            ..
        } = self;
        let alone = tiles.len() == 1;
        let mut joined = match alone {
            true => padded.shallow_clone(),
            false => padded.f_zeros_like()?,
        };
        if let Some(reuse) = reuse {
            // If this does not come to its end, there is none.
            reuse.forget_frame();
            let anew = |i: usize| blurred.binary_search(&i).is_ok() || sharp.binary_search(&i).is_ok();
            for i in (0..tiles.len()).filter(|&i| !anew(i)) {
                match alone {
                    true => joined = reuse.output(i).shallow_clone(),
                    false => blend.add(&joined, &tiles[i], reuse.output(i))?,
                }
            }
        }
        for &i in sharp {
            let output = cut_out(padded, &tiles[i])?;
            if !alone {
                blend.add(&joined, &tiles[i], &output)?;
            }
            if let Some(reuse) = reuse {
                reuse.keep(i, padded, &tiles[i], channels_last(&output))?;
            }
        }
        self.passing = true;
        for (done, group) in blurred.chunks(cut.batch).enumerate() {
            let pieces = group.iter().map(|&i| cut_out(padded, &tiles[i]));
            let pieces = match &pieces.collect::<Result<Vec<_>>>()?[..] {
                // The model brings it into its own order in memory anyway.
                [one] => one.shallow_clone(),
                several => Tensor::f_cat(several, 0)?,
            };
            let start = Instant::now();
            let Some(passed) = pass(forward, &pieces, wanted)? else {
                if let Some(reuse) = reuse {
                    blurred[done * cut.batch..].iter().for_each(|&i| reuse.forget(i));
                }
                self.passing = false;
                return Ok(None);
            };
            times.model += start.elapsed();
            finite.push(passed.finite);
            for (at, &i) in group.iter().enumerate() {
                let mut output = passed.images.f_narrow(0, at as i64, 1)?;
                let shown = judge.as_ref().map_or(1.0, |judge| judge.shown(i));
                if shown < 1.0 {
                    output = cut_out(padded, &tiles[i])?.f_lerp(&output, shown)?;
                }
                match alone {
                    true => joined = output.shallow_clone(),
                    false => blend.add(&joined, &tiles[i], &output)?,
                }
                if let Some(reuse) = reuse {
                    // A part would keep the whole batch.
                    let output = if group.len() > 1 { copied(&output)? } else { output };
                    reuse.keep(i, padded, &tiles[i], output)?;
                }
            }
        }
        self.passing = false;
        Ok(Some(joined))
    }
}

impl Joined {
    /// Tiles that show the input because the model gave numbers for them that are not finite, once all of it is there.
    ///
    /// # Errors
    /// None in practice.
    pub fn failed(finite: Option<&Tensor>) -> Result<usize> {
        let finite = finite.map(Vec::<i64>::try_from).transpose()?;
        Ok(finite.map_or(0, |finite| finite.iter().filter(|&&finite| finite == 0).count()))
    }
}

/// Rows (axis 1) or columns (axis 2 of `[1, H, W, 3]`) of a channels-last image, which it stays.
fn select(image: &Tensor, axis: i64, index: &Tensor) -> Result<Tensor> {
    let pixels = image.f_permute([0, 2, 3, 1])?;
    Ok(pixels.f_index_select(axis, index)?.f_permute([0, 3, 1, 2])?)
}

/// The tile's part of a padded frame, without a copy.
pub(super) fn cut_out(frame: &Tensor, tile: &Tile) -> Result<Tensor> {
    let rows = frame.f_narrow(2, tile.y as i64, tile.height as i64)?;
    Ok(rows.f_narrow(3, tile.x as i64, tile.width as i64)?)
}

#[cfg(test)]
mod tests {
    use super::super::pixels::is_plain;
    use super::*;

    /// A frame that is wanted to its end.
    fn run(pass: &mut TiledPass, image: &Tensor, model: &dyn Fn() -> Result<Forward>) -> Result<Joined> {
        let joined = pass.run(image, 1.0, model, &|| true, &mut StageTimes::default())?;
        Ok(joined.expect("nobody has said otherwise"))
    }

    /// Any model that works pixel by pixel must not notice tiles.
    #[test]
    fn a_pointwise_model_gives_the_same_with_tiles() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(16),
            tile_batch: 3,
            ..EngineConfig::default()
        };
        let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
        for (width, height) in [(1, 1), (5, 200), (64, 64), (65, 130), (201, 77)] {
            let image = Tensor::rand([1, 3, height, width], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
            let image = channels_last(&image);
            let model = || -> Result<Forward> { Ok(Box::new(|x| x * -0.5)) };
            let joined = run(&mut pass, &image, &model).unwrap();
            let error = (joined.image + &image * 0.5).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{width}x{height}: {error}");
            assert_eq!(joined.tiles > 1, width > 64 || height > 64);
            assert_eq!(Joined::failed(joined.finite.as_ref()).unwrap(), 0);
        }
    }

    #[test]
    fn tiles_that_are_not_finite_show_the_input_and_are_counted() {
        for (width, bad) in [(64, 1), (192, 2)] {
            let config = EngineConfig {
                tile_size: Some(64),
                tile_overlap: Some(0),
                tile_batch: 2,
                ..EngineConfig::default()
            };
            let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
            let image = Tensor::rand([1, 3, 64, width], (Kind::Float, Device::Cpu));
            // One value of the leftmost tiles, which are all -1 without it.
            let model = || -> Result<Forward> {
                Ok(Box::new(move |x| {
                    let y = x * 0.0 - 1.0;
                    for i in 0..x.size()[0] {
                        let first = x.double_value(&[i, 0, 0, 0]);
                        let value = [f64::NAN, f64::INFINITY];
                        if first < bad as f64 {
                            let _ = y.get(i).get(1).get(5).get(7).fill_(value[first as usize]);
                        }
                    }
                    y
                }))
            };
            // So that the model can tell which tile it has.
            for tile in 0..width / 64 {
                let _ = image.narrow(3, 64 * tile, 64).narrow(1, 0, 1).fill_(tile as f64);
            }
            let joined = run(&mut pass, &image, &model).unwrap();
            assert_eq!(Joined::failed(joined.finite.as_ref()).unwrap(), bad as usize);
            for (tile, failed) in [(0, true), (1, bad == 2), (2, false)] {
                if 64 * (tile + 1) > width {
                    continue;
                }
                let part = |t: &Tensor| t.narrow(3, 64 * tile, 64);
                let expected = if failed {
                    part(&image)
                } else {
                    part(&image.full_like(-1.0))
                };
                assert!(
                    part(&joined.image).allclose(&expected, 0.0, 1e-6, false),
                    "tile {tile}"
                );
            }
        }
    }

    #[test]
    fn a_frame_that_nobody_wants_ends_with_its_tile_and_leaves_nothing_stale() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(16),
            reuse_threshold: 2.0,
            ..EngineConfig::default()
        };
        let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
        let model = || -> Result<Forward> { Ok(Box::new(|x| x * -0.5)) };
        let mut run = |image: &Tensor, tiles: usize| {
            let left = std::cell::Cell::new(tiles);
            let wanted = || left.replace(left.get().saturating_sub(1)) > 0;
            pass.run(image, 1.0, &model, &wanted, &mut StageTimes::default())
                .unwrap()
        };
        let [dark, light] =
            [0.0, 0.5].map(|value| Tensor::full([1, 3, 64, 160], value, (Kind::Float, Device::Cpu)));
        // Each tile asks twice: before it, and whether its output may be kept.
        assert_eq!(run(&dark, 6).unwrap().tiles, 3);
        assert!(run(&light, 5).is_none());
        // Two of its tiles are kept, the frame that is kept is not made of them.
        let joined = run(&light, 6).unwrap();
        assert_eq!((joined.tiles, joined.tiles_reused), (1, 2));
        let error = (joined.image + &light * 0.5).abs().max().double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn only_tiles_that_changed_are_made_anew_where_that_is_asked_for() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(16),
            reuse_threshold: 2.0,
            ..EngineConfig::default()
        };
        let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
        // Whatever is made anew gets darker and darker.
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicI32::new(0));
        let mut run = |image: &Tensor, gamma: f64| {
            let model = || -> Result<Forward> {
                let runs = runs.clone();
                Ok(Box::new(move |x| {
                    x * 0.0 - f64::from(runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                }))
            };
            let joined = pass
                .run(image, gamma, &model, &|| true, &mut StageTimes::default())
                .unwrap()
                .unwrap();
            (joined.tiles, joined.tiles_reused, joined.image.copy())
        };
        let still = Tensor::zeros([1, 3, 64, 160], (Kind::Float, Device::Cpu));
        let (made, reused, first) = run(&still, 1.0);
        assert_eq!((made, reused), (3, 0));
        let level = 2.0 / 255.0;
        let (made, reused, second) = run(&(&still + 1.9 * level), 1.0);
        assert_eq!((made, reused), (0, 3));
        assert_eq!(second, first);
        // A change in the last tile alone; slow changes add up.
        let moved = &still + 1.9 * level;
        let _ = moved.narrow(3, 150, 4).g_add_scalar_(2.0 * level);
        let (made, reused, third) = run(&moved, 1.0);
        assert_eq!((made, reused), (1, 2));
        assert_eq!(third.narrow(3, 0, 90), first.narrow(3, 0, 90));
        assert_ne!(third.narrow(3, 130, 30), first.narrow(3, 130, 30));
        assert_eq!(run(&moved, 0.5).0, 3, "another gamma");
        assert_eq!(run(&still.narrow(3, 0, 64), 0.5).0, 1, "another size");
        assert_eq!(run(&moved, 0.5).0, 3);
        // Nothing is shown for ever, and what becomes old does so one by one.
        let made: Vec<usize> = (0..=250).map(|_| run(&moved, 0.5).0).collect();
        assert_eq!((made.iter().sum::<usize>(), made.iter().max()), (3, Some(&1)));
    }

    #[test]
    fn a_frame_that_was_lost_is_joined_again_of_what_is_kept() {
        for width in [64, 160] {
            let config = EngineConfig {
                tile_size: Some(64),
                tile_overlap: Some(0),
                tile_batch: 4,
                reuse_threshold: 2.0,
                ..EngineConfig::default()
            };
            let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
            let image = channels_last(&Tensor::rand([1, 3, 64, width], (Kind::Float, Device::Cpu)));
            let before = image.copy();
            let model = || -> Result<Forward> { Ok(Box::new(|x| x * 0.5)) };
            let first = run(&mut pass, &image, &model).unwrap();
            let reuse = pass.plan.as_mut().unwrap().reuse.as_mut().unwrap();
            // Each tile by itself: as parts of a batch they would follow one another without a gap.
            let place = |i| reuse.output(i).data_ptr() as usize;
            assert!((1..first.tiles).all(|i| place(i) != place(i - 1) + 4 * reuse.output(0).numel()));
            assert!(is_plain(reuse.output(0)));
            reuse.forget_frame();
            let again = run(&mut pass, &image, &model).unwrap();
            assert_eq!((again.tiles, again.image, image), (0, first.image, before));
        }
    }

    #[test]
    fn only_what_tiles_take_is_made_smaller() {
        let config = EngineConfig {
            tile_size: Some(512),
            tile_overlap: Some(16),
            ..EngineConfig::default()
        };
        let mut tiles = TiledPass::new(&config, true, 8, Device::Cpu, None);
        let image = Tensor::zeros([1, 3, 256, 256], (Kind::Float, Device::Cpu));
        let run = |tiles: &mut TiledPass, model: fn(&Tensor) -> Tensor| {
            let model = || -> Result<Forward> { Ok(Box::new(model)) };
            let run = || run(tiles, &image, &model).is_ok();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(false)
        };
        assert!(run(&mut tiles, |x| x * 0.5));
        assert!(
            !tiles.shrink(),
            "all tiles are done: the frame itself is too much"
        );
        assert!(!run(&mut tiles, |_| panic!("can't allocate memory")));
        assert!(tiles.shrink(), "they were on their way");
        assert_eq!(tiles.cut.tile_size, 128);
    }

    #[test]
    fn sharp_tiles_show_the_input_and_are_counted() {
        let config = EngineConfig {
            tile_size: Some(64),
            tile_overlap: Some(0),
            skip_sharp: 0.3,
            reuse_threshold: 1.0,
            ..EngineConfig::default()
        };
        let mut pass = TiledPass::new(&config, true, 8, Device::Cpu, None);
        // Noise in the middle, one soft wave at both ends.
        tch::manual_seed(5);
        let wave = Tensor::arange(192, (Kind::Float, Device::Cpu)) * 0.1;
        let image = wave
            .sin()
            .view([1, 1, 1, 192])
            .expand([1, 3, 64, 192], false)
            .contiguous();
        let _ = image.narrow(3, 64, 64).uniform_(-1.0, 1.0);
        let model = || -> Result<Forward> { Ok(Box::new(|x| x * 0.5)) };
        let joined = run(&mut pass, &image, &model).unwrap();
        assert_eq!(
            (joined.tiles, joined.tiles_skipped, joined.tiles_reused),
            (2, 1, 0)
        );
        for (tile, factor) in [(0, 0.5), (1, 1.0), (2, 0.5)] {
            let part = |t: &Tensor| t.narrow(3, 64 * tile, 64);
            let expected = part(&image) * factor;
            assert!(
                part(&joined.image).allclose(&expected, 0.0, 1e-6, false),
                "tile {tile}"
            );
        }
        let again = run(&mut pass, &image, &model).unwrap();
        assert_eq!((again.tiles, again.tiles_skipped, again.tiles_reused), (0, 0, 3));
        assert_eq!(again.image, joined.image);
        // What becomes sharp is left alone in steps, though the picture stands still meanwhile.
        let _ = image.narrow(3, 0, 64).uniform_(-1.0, 1.0);
        for (factor, tiles) in [(0.625, 1), (0.75, 1), (0.875, 1), (1.0, 0), (1.0, 0)] {
            let joined = run(&mut pass, &image, &model).unwrap();
            assert_eq!(joined.tiles, tiles);
            let part = |t: &Tensor| t.narrow(3, 0, 64);
            assert!(part(&joined.image).allclose(&(part(&image) * factor), 0.0, 1e-6, false));
        }
    }
}
