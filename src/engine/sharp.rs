//! Tiles that are sharp as they come.

use tch::{Kind, Tensor};

use super::tiled::cut_out;
use crate::Result;
use crate::tile::Tile;

/// Length of the mean filter that a tile is blurred with once more, in pixels.
const FILTER: i64 = 9;

/// Differences of neighbours below this, in [-1, 1], belong to a plain surface: there is nothing to sharpen.
const PLAIN: f64 = 1.0 / 255.0;

/// A tile that was judged sharp stays so until its blur is this many times the threshold, so that it does not come and go.
const HOLD: f64 = 1.1;

/// How much more or less of the model a tile shows with each frame after its judgement has changed, so that nothing switches.
const STEP: f64 = 0.25;

/// Which tiles of a frame's size were judged sharp last.
pub(super) struct Sharp {
    threshold: f64,
    tiles: Vec<Judged>,
}

#[derive(Clone, Copy, Default)]
struct Judged {
    sharp: bool,
    /// How much of the model is shown, 0 to 1; `None` before the first frame.
    shown: Option<f64>,
}

impl Judged {
    fn follow(&mut self, sharp: bool) {
        let wanted = if sharp { 0.0 } else { 1.0 };
        self.sharp = sharp;
        self.shown = Some(match self.shown {
            None => wanted,
            Some(shown) => shown + (wanted - shown).clamp(-STEP, STEP),
        });
    }
}

impl Sharp {
    pub fn new(threshold: f64, tiles: usize) -> Self {
        Sharp {
            threshold,
            tiles: vec![Judged::default(); tiles],
        }
    }

    /// Whether a tile is on its way from one to the other, though it may not change.
    pub fn is_fading(&self, tile: usize) -> bool {
        self.tiles[tile]
            .shown
            .is_some_and(|shown| shown > 0.0 && shown < 1.0)
    }

    /// How much of the model a tile shows, 0 to 1.
    pub fn shown(&self, tile: usize) -> f64 {
        self.tiles[tile].shown.unwrap_or(1.0)
    }

    /// Parts the `candidates`, indices of tiles of `padded`, into those that need the model and those that are sharp.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn part(
        &mut self,
        padded: &Tensor,
        tiles: &[Tile],
        candidates: &[usize],
    ) -> Result<(Vec<usize>, Vec<usize>)> {
        if candidates.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let blurs = candidates.iter().map(|&i| blur(&cut_out(padded, &tiles[i])?));
        // One answer for all: on a GPU each would wait for what is queued.
        let blurs = Tensor::f_stack(&blurs.collect::<Result<Vec<_>>>()?, 0)?;
        let blurs = Vec::<f32>::try_from(blurs.f_to_kind(Kind::Float)?)?;
        for (&i, blur) in candidates.iter().zip(blurs) {
            let tile = &mut self.tiles[i];
            let hold = if tile.sharp { HOLD } else { 1.0 };
            tile.follow(f64::from(blur) < self.threshold * hold);
        }
        Ok(candidates.iter().partition(|&&i| self.shown(i) > 0.0))
    }
}

/// How blurred an image `[1, 3, h, w]` is, 0 (sharp) to 1: the share of the differences of neighbouring pixels that a mean filter
/// leaves, along the axis where that is more (Crete et al., "The Blur Effect", 2007). What is blurred has little to lose.
fn blur(image: &Tensor) -> Result<Tensor> {
    let gray = image.f_mean_dim([1i64].as_slice(), true, Kind::Float)?;
    let along = |axis: i64| -> Result<Tensor> {
        let (size, padding) = match axis {
            2 => ([FILTER, 1], [FILTER / 2, 0]),
            _ => ([1, FILTER], [0, FILTER / 2]),
        };
        let filtered = gray.f_avg_pool2d(size, [1, 1], padding, false, false, None)?;
        let differences = |image: &Tensor| -> Result<Tensor> {
            let steps = image.size()[axis as usize] - 1;
            let (first, second) = (image.f_narrow(axis, 0, steps)?, image.f_narrow(axis, 1, steps)?);
            Ok(second.f_sub(&first)?.f_abs_()?)
        };
        let (before, after) = (differences(&gray)?, differences(&filtered)?);
        let edges = before.f_ge(PLAIN)?.f_to_kind(Kind::Float)?;
        let lost = before.f_sub(&after)?.f_clamp_min_(0.0)?;
        let lost = lost.f_mul(&edges)?.f_mean(Kind::Float)?;
        let all = before.f_mul(&edges)?.f_mean(Kind::Float)?;
        Ok(all.f_sub(&lost)?.f_div(&all.f_clamp_min(1e-12)?)?)
    };
    Ok(along(2)?.f_maximum(&along(3)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Rectangles of many shades.
    fn scene() -> Tensor {
        tch::manual_seed(3);
        let coarse = Tensor::rand([1, 3, 16, 16], (Kind::Float, Device::Cpu));
        coarse.upsample_nearest2d([128, 128], None, None) * 2.0 - 1.0
    }

    fn shaken(image: &Tensor, length: i64) -> Tensor {
        image.avg_pool2d([1, length], [1, 1], [0, length / 2], false, false, None)
    }

    fn measured(image: &Tensor) -> f64 {
        blur(image).unwrap().double_value(&[])
    }

    #[test]
    fn more_motion_is_more_blur_along_either_axis() {
        let sharp = scene();
        let values = [1, 3, 7, 15].map(|length| measured(&shaken(&sharp, length)));
        assert!(values.is_sorted(), "{values:?}");
        assert!(values[0] < 0.3 && values[2] > 0.5, "{values:?}");
        let turned = shaken(&sharp, 7).transpose(2, 3);
        assert!((measured(&turned) - values[2]).abs() < 0.01);
        assert_eq!(measured(&sharp.full_like(0.3)), 0.0, "nothing to sharpen");
        // A wide surface around it does not hide what is blurred.
        let alone = shaken(&sharp, 15).narrow(2, 40, 12).narrow(3, 40, 24);
        let alone = alone.constant_pad_nd([200, 200, 200, 200]);
        assert!(measured(&alone) > 0.4, "{}", measured(&alone));
        let faint = measured(&(shaken(&sharp, 7) * 0.1));
        assert!(
            (faint - values[2]).abs() < 0.05,
            "contrast does not count: {faint}"
        );
    }

    #[test]
    fn tiles_do_not_come_and_go() {
        let tile = Tile {
            row: 0,
            col: 0,
            x: 0,
            y: 0,
            width: 128,
            height: 128,
        };
        let image = shaken(&scene(), 3);
        let at = measured(&image);
        let judged = |sharp: &mut Sharp, image: &Tensor| {
            let mut skipped = Vec::new();
            // As many frames as a change takes.
            for _ in 0..4 {
                let parts = sharp.part(image, &[tile], &[0]).unwrap();
                assert_eq!(parts.0.len() + parts.1.len(), 1);
                skipped = parts.1;
            }
            assert!(!sharp.is_fading(0));
            skipped.len() == 1
        };
        let mut state = Sharp::new(at / 1.05, 1);
        assert!(!judged(&mut state, &image), "not sharp enough to begin with");
        assert!(judged(&mut state, &scene()));
        assert!(judged(&mut state, &image), "but to go on");
        assert!(!judged(&mut state, &shaken(&scene(), 15)));
    }

    #[test]
    fn a_judgement_that_changes_is_followed_in_steps() {
        let mut tile = Judged::default();
        let shown = [true, false, false, true, false, false, false, false].map(|sharp| {
            tile.follow(sharp);
            tile.shown.unwrap()
        });
        assert_eq!(shown, [0.0, 0.25, 0.5, 0.25, 0.5, 0.75, 1.0, 1.0]);
    }
}
