//! Tiles into the frame that they make, each faded out towards its neighbours.

use pulp::Arch;
use tch::{Device, Tensor};

use super::pixels::is_plain;
use super::tiled::cut_out;
use crate::Result;
use crate::nn::by_rows;
use crate::tile::{Tile, TileGrid};

/// The weights of a grid's tiles, which sum to one at every pixel.
pub(super) struct Blend {
    /// Of each row of tiles, `[1, 1, h, 1]`, and of each column, `[1, 1, 1, w]`.
    rows: Vec<Tensor>,
    columns: Vec<Tensor>,
    /// The same as numbers, a column's three times, for R, G and B.
    row_weights: Vec<Vec<f32>>,
    column_weights: Vec<Vec<f32>>,
}

impl Blend {
    /// # Errors
    /// Too little memory.
    pub fn new(grid: &TileGrid, device: Device) -> Result<Self> {
        let (row_weights, column_weights) = (grid.row_windows(), grid.col_windows());
        let tensors = |windows: &[Vec<f32>], shape: [i64; 4]| -> Result<Vec<Tensor>> {
            let tensors = windows.iter().map(|window| {
                let tensor = Tensor::f_from_slice(window)?.f_view(shape)?;
                Ok(tensor.f_to_device(device)?)
            });
            tensors.collect()
        };
        let thrice = |window: &Vec<f32>| window.iter().flat_map(|weight| [*weight; 3]).collect();
        Ok(Blend {
            rows: tensors(&row_weights, [1, 1, -1, 1])?,
            columns: tensors(&column_weights, [1, 1, 1, -1])?,
            column_weights: column_weights.iter().map(thrice).collect(),
            row_weights,
        })
    }

    /// Adds a tile's `output`, `[1, 3, h, w]`, to the frame `joined`.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn add(&self, joined: &Tensor, tile: &Tile, output: &Tensor) -> Result<()> {
        if self.add_here(joined, tile, output).is_some() {
            return Ok(());
        }
        let weighted = output
            .f_mul(&self.rows[tile.row])?
            .f_mul_(&self.columns[tile.col])?;
        let _ = cut_out(joined, tile)?.f_add_(&weighted)?;
        Ok(())
    }

    /// On a CPU, where libtorch would go over the tile three times. `None` where that is libtorch's work: on a GPU, and for images that
    /// are not channels-last.
    fn add_here(&self, joined: &Tensor, tile: &Tile, output: &Tensor) -> Option<()> {
        if !is_plain(joined) || !is_plain(output) {
            return None;
        }
        let (stride, width) = (3 * joined.size()[3] as usize, 3 * tile.width);
        // SAFETY: float32, on the CPU and without gaps; nobody else reads or writes the frame meanwhile, and the output is not in it.
        let (samples, output) = unsafe {
            (
                std::slice::from_raw_parts_mut(joined.data_ptr().cast::<f32>(), joined.numel()),
                std::slice::from_raw_parts(output.data_ptr().cast::<f32>(), output.numel()),
            )
        };
        let (rows, columns) = (&self.row_weights[tile.row], &self.column_weights[tile.col]);
        let samples = &mut samples[tile.y * stride..][..tile.height * stride];
        by_rows(samples, stride, |row, samples| {
            let output = &output[row * width..][..width];
            Arch::new().dispatch(
                #[inline(always)]
                || add_row(&mut samples[3 * tile.x..][..width], output, rows[row], columns),
            );
        });
        Some(())
    }
}

#[inline(always)]
fn add_row(row: &mut [f32], output: &[f32], weight: f32, columns: &[f32]) {
    for ((sum, value), column) in row.iter_mut().zip(output).zip(columns) {
        *sum += value * weight * column;
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::nn::channels_last;

    #[test]
    fn tiles_are_added_as_libtorch_adds_them() {
        let grid = TileGrid::new(150, 100, 64, 16, 8).unwrap();
        let blend = Blend::new(&grid, Device::Cpu).unwrap();
        let size = [1, 3, grid.padded_height() as i64, grid.padded_width() as i64];
        let zeros = Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let (ours, theirs) = (channels_last(&zeros), zeros.copy());
        for tile in grid.tiles() {
            let tile_size = [1, 3, tile.height as i64, tile.width as i64];
            let output = channels_last(&Tensor::randn(tile_size, (Kind::Float, Device::Cpu)));
            assert!(blend.add_here(&ours, &tile, &output).is_some());
            // Not channels-last.
            assert!(blend.add_here(&theirs, &tile, &output).is_none());
            blend.add(&theirs, &tile, &output).unwrap();
        }
        let error = (&ours - &theirs).abs().max().double_value(&[]);
        assert!(error < 1e-6, "{error}");
        assert!(ours.abs().max().double_value(&[]) > 1.0);
    }
}
