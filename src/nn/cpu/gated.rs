//! The gated block in one pass over the picture.
//!
//! Layer by layer, every feature map goes to memory and back ten times, and the products wait for it. Here each row passes
//! through the whole block while it is in the cache: three rows of the widened map are all that the depthwise convolution
//! needs at a time.

use pulp::{Arch, Simd, WithSimd};

use super::activate::normalise;
use super::lines::Lines;
use super::panels::{
    Pairs, Panels, Pixels, Products, Store, StoreFetching, StoreGate, StoreSum, load, store,
};
use super::rows::{Shape, Walk, share};
use super::{Layer, Map, lanes};

/// Columns that pass at a time, in values of three widened rows: half of a usual second-level cache.
const RING_VALUES: usize = 100_000;
/// Columns that pass at a time at least, however wide the map.
const LEAST_COLUMNS: usize = 16;

/// The parameters of a block, ready for use.
pub(in crate::nn) struct GatedWeights {
    width: usize,
    eps: f32,
    /// The scales and shifts of both norms are part of the products after them.
    widen: Panels,
    /// `[3, 3, 2 width]`.
    depthwise: Lines,
    depthwise_bias: Vec<f32>,
    narrow: Panels,
    ff_widen: Panels,
    ff_narrow: Panels,
}

/// All of a block's layers.
pub(in crate::nn) struct GatedLayers<'a> {
    pub norm1: Layer<'a>,
    pub conv1: Layer<'a>,
    /// `[2 width, 3, 3]`.
    pub conv_dw: Layer<'a>,
    pub conv2: Layer<'a>,
    pub norm2: Layer<'a>,
    pub ff_proj: Layer<'a>,
    pub ff_out: Layer<'a>,
}

impl GatedWeights {
    /// `None` where the width is no multiple of what this CPU computes at a time.
    pub fn new(width: usize, eps: f64, products: Products, layers: &GatedLayers) -> Option<Self> {
        let lanes = lanes()?;
        if !width.is_multiple_of(lanes) {
            return None;
        }
        let normed = |norm: &Layer, layer: &Layer, pairs: Pairs| {
            let row = |output: usize| &layer.weight[output * width..][..width];
            let shift = |output: usize| row(output).iter().zip(norm.bias).map(|(w, b)| w * b).sum::<f32>();
            let bias: Vec<f32> = (0..2 * width)
                .map(|output| layer.bias[output] + shift(output))
                .collect();
            Panels::pack(
                lanes,
                pairs,
                (products, 1),
                layer.weight,
                Some(norm.weight),
                &bias,
            )
        };
        let plain = |layer: &Layer| {
            Panels::pack(
                lanes,
                Pairs::Neighbours,
                (products, 1),
                layer.weight,
                None,
                layer.bias,
            )
        };
        let taps = (0..9).flat_map(|tap| (0..2 * width).map(move |channel| (channel, tap)));
        Some(GatedWeights {
            width,
            eps: eps as f32,
            widen: normed(&layers.norm1, &layers.conv1, Pairs::Neighbours),
            depthwise: Lines::from(
                &*taps
                    .map(|(c, tap)| layers.conv_dw.weight[c * 9 + tap])
                    .collect::<Vec<_>>(),
            ),
            depthwise_bias: layers.conv_dw.bias.to_vec(),
            narrow: plain(&layers.conv2),
            ff_widen: normed(&layers.norm2, &layers.ff_proj, Pairs::Gates),
            ff_narrow: plain(&layers.ff_out),
        })
    }

    /// `input` and `output` are of the block's width.
    pub fn forward(&self, input: Map, output: &mut [f32]) {
        assert_eq!(input.channels, self.width);
        assert_eq!(output.len(), input.values.len());
        // Stripes of equal width that are small enough, each with a column more on both sides.
        let most = (RING_VALUES / (6 * self.width)).max(LEAST_COLUMNS) - 2;
        let stripes = input.width.div_ceil(most);
        let shape = Shape {
            height: input.height,
            row: input.width * self.width,
            stripe: input.width.div_ceil(stripes.max(1)) * self.width,
        };
        share(output, shape, |walk, scratch| {
            Arch::new().dispatch(Rows {
                weights: self,
                input: input.image(walk.image()),
                columns: shape.stripe / self.width,
                walk,
                scratch,
            });
        });
    }
}

/// Some rows of one image.
struct Rows<'a> {
    weights: &'a GatedWeights,
    input: Map<'a>,
    /// Of a stripe.
    columns: usize,
    walk: Walk<'a, f32>,
    scratch: &'a mut Lines,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.weights.width;
        let ring_row = (self.columns + 2) * 2 * width;
        let map = (self.columns + 2) * width;
        let scratch = self.scratch.at_least(3 * ring_row + 3 * map);
        let (ring, maps) = scratch.split_at_mut(3 * ring_row);
        let (normed, maps) = maps.split_at_mut(map);
        let (gated, mixed) = maps.split_at_mut(map);
        let upwards = self.walk.upwards();
        let mut stripe = Stripe {
            weights: self.weights,
            input: self.input,
            upwards,
            left: 0,
            right: 0,
            ring,
            ring_row,
            normed,
            gated,
            mixed,
        };
        for part in self.walk {
            stripe.left = part.start / width;
            stripe.right = stripe.left + part.values.len() / width;
            // Counted from the padding above the first row.
            let row = part.row + 1;
            let (behind, ahead) = match upwards {
                false => (row - 1, row + 1),
                true => (row + 1, row - 1),
            };
            if part.is_first {
                stripe.widen(simd, behind);
                stripe.widen(simd, row);
            }
            stripe.widen(simd, ahead);
            stripe.restore(simd, row, part.values);
        }
    }
}

/// Columns `left` to `right`, on their way through the rows, which are counted from the padding above the first.
struct Stripe<'a> {
    weights: &'a GatedWeights,
    input: Map<'a>,
    upwards: bool,
    left: usize,
    right: usize,
    /// Three rows of the widened map, with a column more on both sides.
    ring: &'a mut [f32],
    ring_row: usize,
    normed: &'a mut [f32],
    gated: &'a mut [f32],
    mixed: &'a mut [f32],
}

impl Stripe<'_> {
    /// `conv1(norm1(x))` of a row of the image, or the padding's zeros.
    #[inline(always)]
    fn widen<S: Simd>(&mut self, simd: S, row: usize) {
        let width = self.weights.width;
        let ring = &mut self.ring[row % 3 * self.ring_row..][..self.ring_row];
        let Some(row) = row.checked_sub(1).filter(|row| *row < self.input.height) else {
            ring.fill(0.0);
            return;
        };
        let (first, last) = (
            self.left.saturating_sub(1),
            (self.right + 1).min(self.input.width),
        );
        // Columns outside of the image are zero.
        let skipped = 1 - (self.left - first);
        let columns = last - first;
        ring[..skipped * 2 * width].fill(0.0);
        ring[(skipped + columns) * 2 * width..].fill(0.0);
        let input = self.input.columns(row, first..last);
        normalise(
            simd,
            input,
            self.weights.eps,
            &mut self.normed[..columns * width],
            width,
        );
        let next = match self.upwards {
            false => (row + 1).min(self.input.height - 1),
            true => row.saturating_sub(1),
        };
        let sink = StoreFetching {
            store: Store {
                first: ring[skipped * 2 * width..].as_mut_ptr(),
                stride: 2 * width,
                ahead: 0,
            },
            next: self.input.columns(next, first..last).as_ptr(),
        };
        // SAFETY: `normed` and the ring's row have that many columns.
        unsafe {
            let source = [pixels(self.normed, width)];
            self.weights.widen.multiply(simd, &source, columns, &sink);
        }
    }

    /// The block's output for a row of the image, of which the ring has the row before, itself and the row after.
    #[inline(always)]
    fn restore<S: Simd>(&mut self, simd: S, row: usize, output: &mut [f32]) {
        let (weights, width, columns) = (self.weights, self.weights.width, self.right - self.left);
        let input = self.input.columns(row - 1, self.left..self.right);
        let rows = [row - 1, row, row + 1]
            .map(|row| &self.ring[row % 3 * self.ring_row..][..(columns + 2) * 2 * width]);
        depthwise_gate(simd, weights, rows, &mut self.gated[..columns * width]);
        // SAFETY: all of these have `columns` pixels of `width`.
        unsafe {
            let sink = StoreSum {
                first: self.mixed.as_mut_ptr(),
                other: input.as_ptr(),
                stride: width,
            };
            weights
                .narrow
                .multiply(simd, &[pixels(self.gated, width)], columns, &sink);
            let mixed = &self.mixed[..columns * width];
            normalise(
                simd,
                mixed,
                weights.eps,
                &mut self.normed[..columns * width],
                width,
            );
            let sink = StoreGate {
                first: self.gated.as_mut_ptr(),
                stride: width,
                next: output.as_ptr(),
            };
            weights
                .ff_widen
                .multiply(simd, &[pixels(self.normed, width)], columns, &sink);
            let sink = StoreSum {
                first: output.as_mut_ptr(),
                other: self.mixed.as_ptr(),
                stride: width,
            };
            weights
                .ff_narrow
                .multiply(simd, &[pixels(self.gated, width)], columns, &sink);
        }
    }
}

fn pixels(map: &[f32], width: usize) -> Pixels {
    Pixels {
        first: map.as_ptr(),
        stride: width,
        inputs: width,
    }
}

/// `gate(conv_dw(h))` of one row; `rows` are the one before, itself and the one after, each with a column more on both sides.
#[inline(always)]
fn depthwise_gate<S: Simd>(simd: S, weights: &GatedWeights, rows: [&[f32]; 3], output: &mut [f32]) {
    let (width, lanes) = (weights.width, S::F32_LANES);
    let columns = output.len() / width;
    let mut column = 0;
    // SAFETY: the rows have two columns more than the output, and vectors divide the width.
    unsafe {
        while column < columns {
            // Four pixels share what is loaded of the weights.
            if column + 4 <= columns {
                for channel in (0..width).step_by(lanes) {
                    depthwise_gate_at::<S, 4>(simd, weights, rows, output, column, channel);
                }
                column += 4;
            } else {
                for channel in (0..width).step_by(lanes) {
                    depthwise_gate_at::<S, 1>(simd, weights, rows, output, column, channel);
                }
                column += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn depthwise_gate_at<S: Simd, const COLUMNS: usize>(
    simd: S,
    weights: &GatedWeights,
    rows: [&[f32]; 3],
    output: &mut [f32],
    column: usize,
    channel: usize,
) {
    let width = weights.width;
    // SAFETY: the caller's.
    unsafe {
        let mut halves = [[simd.splat_f32s(0.0); COLUMNS]; 2];
        for (half, sums) in halves.iter_mut().enumerate() {
            let channel = channel + half * width;
            *sums = [load(simd, weights.depthwise_bias.as_ptr().add(channel)); COLUMNS];
            for (y, row) in rows.iter().enumerate() {
                for x in 0..3 {
                    let weight = load(
                        simd,
                        weights.depthwise.as_ptr().add((3 * y + x) * 2 * width + channel),
                    );
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let value = load(simd, row.as_ptr().add((column + i + x) * 2 * width + channel));
                        *sum = simd.mul_add_f32s(weight, value, *sum);
                    }
                }
            }
        }
        let [first, second] = halves;
        for (i, (first, second)) in first.into_iter().zip(second).enumerate() {
            let product = simd.mul_f32s(first, second);
            store(
                simd,
                output.as_mut_ptr().add((column + i) * width + channel),
                product,
            );
        }
    }
}
