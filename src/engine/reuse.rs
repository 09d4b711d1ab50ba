//! Tiles that show what they showed before.
//!
//! A tile is compared with the input that its last output was made of, not with the last frame: slow changes add up until they
//! are seen. It is made anew after [`REFRESH`] frames at most, and tiles of one age take turns at that.

use pulp::Arch;
use tch::Tensor;

use super::pixels::is_plain;
use super::tiled::cut_out;
use crate::Result;
use crate::nn::copied;
use crate::tile::Tile;

/// Frames for which a tile may be shown again.
const REFRESH: u32 = 250;

/// The last outputs of a frame's tiles.
pub(super) struct Reuse {
    /// Largest difference of a value that counts as none, in [-1, 1].
    threshold: f64,
    gamma: f64,
    kept: Vec<Option<Kept>>,
    /// All of the last frame, joined.
    frame: Option<Tensor>,
}

struct Kept {
    input: Tensor,
    output: Tensor,
    frames: u32,
}

impl Reuse {
    /// For frames of that many tiles; the threshold is in 8-bit levels.
    pub fn new(levels: f64, tiles: usize) -> Self {
        Reuse {
            // A little more, so that rounding does not make a difference of exactly that many levels too large.
            threshold: levels * 2.0 / 255.0 + 1e-5,
            gamma: f64::NAN,
            kept: (0..tiles).map(|_| None).collect(),
            frame: None,
        }
    }

    /// The indices of the tiles of `padded` that have to go through the model.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn changed(&mut self, padded: &Tensor, tiles: &[Tile], gamma: f64) -> Result<Vec<usize>> {
        if gamma != self.gamma {
            self.gamma = gamma;
            self.kept.iter_mut().for_each(|kept| *kept = None);
        }
        let mut changed = vec![true; tiles.len()];
        let mut candidates = Vec::new();
        let mut differences = Vec::new();
        for (i, (kept, tile)) in self.kept.iter().zip(tiles).enumerate() {
            if let Some(kept) = kept.as_ref().filter(|kept| kept.frames < REFRESH) {
                if let Some(differs) = differs_here(padded, tile, &kept.input, self.threshold as f32) {
                    changed[i] = differs;
                    continue;
                }
                let difference = cut_out(padded, tile)?.f_sub(&kept.input)?.f_abs_()?.f_max()?;
                candidates.push(i);
                differences.push(difference);
            }
        }
        if !candidates.is_empty() {
            // One answer for all: on a GPU each would wait for what is queued.
            let differences = Vec::<f32>::try_from(Tensor::f_stack(&differences, 0)?)?;
            for (i, difference) in candidates.into_iter().zip(differences) {
                changed[i] = difference.is_nan() || f64::from(difference) > self.threshold;
            }
        }
        for (kept, changed) in self.kept.iter_mut().zip(&changed) {
            if let (Some(kept), false) = (kept, changed) {
                kept.frames += 1;
            }
        }
        Ok((0..tiles.len()).filter(|&i| changed[i]).collect())
    }

    /// The output that tile `i` had last.
    pub fn output(&self, i: usize) -> &Tensor {
        &self.kept[i]
            .as_ref()
            .expect("only tiles that did not change are asked for")
            .output
    }

    /// Remembers what came of tile `i`, `[1, 3, h, w]`.
    ///
    /// # Errors
    /// Too little memory.
    pub fn keep(&mut self, i: usize, padded: &Tensor, tile: &Tile, output: Tensor) -> Result<()> {
        // Tiles that were made together shall not all be made anew together.
        let frames = match self.kept[i] {
            Some(_) => 0,
            None => REFRESH * i as u32 / self.kept.len() as u32,
        };
        self.kept[i] = Some(Kept {
            // A copy: a part would keep the whole frame.
            input: copied(&cut_out(padded, tile)?)?,
            output,
            frames,
        });
        Ok(())
    }

    /// Tile `i` failed, and is tried again with the next frame.
    pub fn forget(&mut self, i: usize) {
        self.kept[i] = None;
    }

    /// The last frame, for one in which nothing has changed.
    pub fn frame(&self) -> Option<&Tensor> {
        self.frame.as_ref()
    }

    /// Some tiles have changed since.
    pub fn forget_frame(&mut self) {
        self.frame = None;
    }

    pub fn keep_frame(&mut self, joined: &Tensor) {
        self.frame = Some(joined.shallow_clone());
    }
}

/// Whether any sample of a tile of `padded` differs from `kept`, `[1, 3, h, w]`, by more than `threshold`, or is not a number. `None`
/// where that is libtorch's work: on a GPU, and for images that are not channels-last.
fn differs_here(padded: &Tensor, tile: &Tile, kept: &Tensor, threshold: f32) -> Option<bool> {
    if !is_plain(padded) || !is_plain(kept) {
        return None;
    }
    // SAFETY: float32, on the CPU and without gaps; nobody writes to either.
    let [samples, before] = [padded, kept]
        .map(|image| unsafe { std::slice::from_raw_parts(image.data_ptr().cast::<f32>(), image.numel()) });
    let (stride, length) = (3 * padded.size()[3] as usize, 3 * tile.width);
    let rows = samples[tile.y * stride..].chunks(stride);
    Some(Arch::new().dispatch(
        #[inline(always)]
        || {
            for (row, before) in rows.zip(before.chunks_exact(length)) {
                if row_differs(&row[3 * tile.x..][..length], before, threshold) {
                    return true;
                }
            }
            false
        },
    ))
}

#[inline(always)]
fn row_differs(row: &[f32], before: &[f32], threshold: f32) -> bool {
    let mut differs = false;
    for (value, before) in row.iter().zip(before) {
        // So, a difference that is not a number is one.
        let same = (value - before).abs() <= threshold;
        differs |= !same;
    }
    differs
}
