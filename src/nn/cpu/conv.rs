//! Convolutions on rows that stay in the cache.

use pulp::{Arch, Simd, WithSimd};

use super::activate::{Activation, activate};
use super::amx::{Pixels16, convert_row, slack};
use super::lines::{LINE, Lines};
use super::panels::{
    Pairs, Panels, Pixels, Products, Sink, Store, load, store, will_be_read, will_be_written,
};
use super::rows::{Shape, Walk, share};
use super::{Layer, Map, lanes};

/// Pixels of a row that pass at a time.
const RUN: usize = 192;

/// What a convolution does with its input's rows and columns.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::nn) enum Kernel {
    /// 1x1.
    Point,
    /// 2x2, halving height and width, which are even.
    Halving,
    /// 3x3 with a border of zeros.
    Around,
}

/// What a convolution sees.
pub(in crate::nn) enum Input<'a> {
    /// Maps of the same size, joined channel by channel; one map for kernels other than 1x1.
    Maps(&'a [Map<'a>]),
    /// Images whose squares of that many pixels are the channels of one: for [`Kernel::Around`].
    Patches(Map<'a>, usize),
}

/// How the outputs lie.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::nn) enum Arrangement {
    /// `[B, H, W, C]`.
    Pixels,
    /// Each quarter of the channels becomes one of 2x2 pixels: `[B, 2 H, 2 W, C / 4]`.
    Doubled,
    /// The channels become squares of that many pixels.
    Patches(usize),
}

/// The parameters of a convolution, ready for use.
pub(in crate::nn) struct ConvWeights {
    kernel: Kernel,
    outputs: usize,
    /// With zeros up to whole vectors of outputs.
    panels: Panels,
    /// What comes before it; not with [`Kernel::Halving`].
    activation: Option<Activation>,
}

impl Kernel {
    /// Sources of its products where they are in bfloat16.
    fn sources(self) -> usize {
        match self {
            Kernel::Around => 3,
            Kernel::Point | Kernel::Halving => 1,
        }
    }
}

impl ConvWeights {
    /// `weight` is `[outputs, kernel, kernel, inputs]`. `None` where this CPU has no vectors, or a norm's channels are no
    /// multiple of them.
    pub fn new(
        kernel: Kernel,
        products: Products,
        layer: &Layer,
        activation: Option<Activation>,
    ) -> Option<Self> {
        let (lanes, outputs) = (lanes()?, layer.bias.len());
        let normed = activation.as_ref().map_or(0, |a| a.scale.len());
        if outputs == 0 || !normed.is_multiple_of(lanes) {
            return None;
        }
        let padded = outputs.next_multiple_of(lanes);
        let (mut weight, mut bias) = (layer.weight.to_vec(), layer.bias.to_vec());
        weight.resize(layer.weight.len() / outputs * padded, 0.0);
        bias.resize(padded, 0.0);
        Some(ConvWeights {
            kernel,
            outputs,
            panels: Panels::pack(
                lanes,
                Pairs::Neighbours,
                (products, kernel.sources()),
                &weight,
                None,
                &bias,
            ),
            activation,
        })
    }

    /// Whether the outputs can lie so.
    pub fn fits(&self, arrangement: Arrangement) -> bool {
        let lanes = lanes().unwrap_or(1);
        let unit = match arrangement {
            Arrangement::Pixels => lanes,
            Arrangement::Doubled => 4 * lanes,
            Arrangement::Patches(patch) => patch * patch,
        };
        self.outputs.is_multiple_of(unit)
    }

    /// `added` is a map of the output's size that is added to it, where the outputs are rearranged.
    pub fn forward(
        &self,
        input: &Input,
        arrangement: Arrangement,
        added: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let fits = |added: &[f32]| arrangement != Arrangement::Pixels && added.len() == output.len();
        assert!(added.is_none_or(fits));
        let (height, width) = match (self.kernel, input) {
            (Kernel::Halving, Input::Maps(maps)) => (maps[0].height / 2, maps[0].width / 2),
            (_, Input::Maps(maps)) => (maps[0].height, maps[0].width),
            (_, Input::Patches(map, patch)) => (map.height / patch, map.width / patch),
        };
        let row = width * self.outputs;
        let shape = Shape {
            height,
            row,
            stripe: row,
        };
        share(output, shape, |walk, scratch| {
            let image = height * row;
            Arch::new().dispatch(Rows {
                weights: self,
                input,
                arrangement,
                width,
                added: added.map(|added| &added[walk.image() * image..][..image]),
                walk,
                scratch,
            });
        });
    }
}

/// Some rows of outputs of one image.
struct Rows<'a> {
    weights: &'a ConvWeights,
    input: &'a Input<'a>,
    arrangement: Arrangement,
    width: usize,
    /// Of the image.
    added: Option<&'a [f32]>,
    walk: Walk<'a, f32>,
    scratch: &'a mut Lines,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, outputs) = (self.width, self.weights.outputs);
        let padded_outputs = self.weights.panels.outputs();
        let activation = self.weights.activation.as_ref();
        let around = self.weights.kernel == Kernel::Around;
        let channels = self.weights.panels.inputs() / if around { 9 } else { 1 };
        let rounds = around && self.weights.panels.tiles::<S>().is_some();
        let shape = RingShape::new(width, channels, around || activation.is_some(), rounds);
        let scratch = self.scratch.at_least(shape.length() + width * padded_outputs);
        let (ring, made) = scratch.split_at_mut(shape.length());
        let mut ring = Ring::new(ring, shape);
        let (image, upwards) = (self.walk.image(), self.walk.upwards());
        let mut sources = Vec::with_capacity(3);
        let places: Vec<usize> = match self.arrangement {
            Arrangement::Doubled => doubled_places(outputs, S::F32_LANES, width),
            _ => Vec::new(),
        };
        for part in self.walk {
            let (row, output) = (part.row, part.values);
            let added = self
                .added
                .map(|added| &added[row * output.len()..][..output.len()]);
            sources.clear();
            match (self.weights.kernel, self.input) {
                (Kernel::Point, Input::Maps(_)) if activation.is_some() => {
                    ring.pad(simd, self.input, image, Some(row), activation, 0);
                    sources.push(Pixels {
                        first: ring.row(0)[channels..].as_ptr(),
                        stride: channels,
                        inputs: channels,
                    });
                }
                (Kernel::Point, Input::Maps(maps)) => sources.extend(maps.iter().map(|map| Pixels {
                    first: map.image(image).columns(row, 0..width).as_ptr(),
                    stride: map.channels,
                    inputs: map.channels,
                })),
                // The two columns lie side by side.
                (Kernel::Halving, Input::Maps(maps)) => sources.extend((0..2).map(|y| Pixels {
                    first: maps[0].image(image).columns(2 * row + y, 0..2 * width).as_ptr(),
                    stride: 2 * maps[0].channels,
                    inputs: 2 * maps[0].channels,
                })),
                // So do the three of a window.
                (Kernel::Around, _) => {
                    // Counted from the padding above the first row.
                    let (behind, next) = if upwards { (row + 2, row) } else { (row, row + 2) };
                    let new = if part.is_first {
                        &[behind, row + 1, next][..]
                    } else {
                        &[next]
                    };
                    for padded in new {
                        let above = padded.checked_sub(1);
                        ring.pad(simd, self.input, image, above, activation, padded % 3);
                    }
                    sources.extend((0..3).map(|y| Pixels {
                        first: ring.row((row + y) % 3).as_ptr(),
                        stride: channels,
                        inputs: 3 * channels,
                    }));
                }
                (_, Input::Patches(..)) => unreachable!("patches are for 3x3"),
            }
            // SAFETY: output and what is made have `width` pixels of all outputs (output, unless they are rearranged, has whole
            // vectors of them), the sources what they need for them.
            unsafe {
                let panels = &self.weights.panels;
                let ahead = panels.ahead::<S>();
                let mut sources = match rounds {
                    false => Sources::Float32(&mut sources),
                    true => Sources::Bfloat16([0, 1, 2].map(|y| Pixels16 {
                        first: ring.rounded((row + y) % 3).as_ptr().cast(),
                        stride: channels,
                    })),
                };
                match self.arrangement {
                    Arrangement::Pixels => multiply_row(simd, panels, &mut sources, width, |column| Store {
                        first: output.as_mut_ptr().add(column * outputs),
                        stride: outputs,
                        ahead,
                    }),
                    Arrangement::Doubled => {
                        let added = added.map(<[f32]>::as_ptr);
                        multiply_row(simd, panels, &mut sources, width, |column| StoreDoubled {
                            first: output.as_mut_ptr(),
                            added,
                            places: &places,
                            column,
                            stride: outputs / 2,
                            ahead,
                        })
                    }
                    Arrangement::Patches(patch) => {
                        multiply_row(simd, panels, &mut sources, width, |column| Store {
                            first: made.as_mut_ptr().add(column * padded_outputs),
                            stride: padded_outputs,
                            ahead: 0,
                        });
                        unpatch(made, padded_outputs, patch, outputs / patch, added, output);
                    }
                }
            }
        }
    }
}

/// Where the products of a row come from.
enum Sources<'a> {
    Float32(&'a mut [Pixels]),
    Bfloat16([Pixels16; 3]),
}

/// Products of a row of pixels, some at a time; `sink` takes those from a column on. The sources go on to the row's end.
///
/// # Safety
/// As [`Panels::multiply`] or [`Panels::multiply16`], for `width` pixels.
#[inline(always)]
unsafe fn multiply_row<S: Simd, T: Sink<S>>(
    simd: S,
    panels: &Panels,
    sources: &mut Sources,
    width: usize,
    mut sink: impl FnMut(usize) -> T,
) {
    match sources {
        Sources::Float32(sources) => {
            for column in (0..width).step_by(RUN) {
                let pixels = RUN.min(width - column);
                // SAFETY: the caller's.
                unsafe {
                    panels.multiply(simd, sources, pixels, &sink(column));
                    for source in &mut **sources {
                        source.first = source.first.add(pixels * source.stride);
                    }
                }
            }
        }
        // SAFETY: the caller's.
        Sources::Bfloat16(sources) => unsafe { panels.multiply16(simd, sources, width, &sink(0)) },
    }
}

/// Rows of inputs between zeros, three of them where a window goes over them; then perhaps in bfloat16 too.
struct Ring<'a> {
    shape: RingShape,
    rows: &'a mut [f32],
    rounded: &'a mut [f32],
}

/// Lengths in float32.
#[derive(Clone, Copy)]
struct RingShape {
    row: usize,
    rounded_row: usize,
}

impl RingShape {
    fn new(width: usize, channels: usize, used: bool, rounds: bool) -> Self {
        let row = if used { (width + 2) * channels } else { 0 };
        let rounded_row = if rounds {
            (row + slack(channels)).div_ceil(2)
        } else {
            0
        };
        RingShape { row, rounded_row }
    }

    /// From one row to the next: whole lines.
    fn strides(self) -> [usize; 2] {
        [self.row, self.rounded_row].map(|length| length.next_multiple_of(LINE))
    }

    fn length(self) -> usize {
        3 * self.strides().iter().sum::<usize>()
    }
}

impl<'a> Ring<'a> {
    fn new(memory: &'a mut [f32], shape: RingShape) -> Self {
        let (rows, rounded) = memory.split_at_mut(3 * shape.strides()[0]);
        Ring { shape, rows, rounded }
    }

    fn row(&self, slot: usize) -> &[f32] {
        &self.rows[slot * self.shape.strides()[0]..][..self.shape.row]
    }

    /// A row in bfloat16, two numbers in place of one.
    fn rounded(&self, slot: usize) -> &[f32] {
        &self.rounded[slot * self.shape.strides()[1]..][..self.shape.rounded_row]
    }

    /// Takes in a row, or zeros where there is none.
    #[inline(always)]
    fn pad<S: Simd>(
        &mut self,
        simd: S,
        input: &Input,
        image: usize,
        row: Option<usize>,
        activation: Option<&Activation>,
        slot: usize,
    ) {
        let RingShape {
            row: length,
            rounded_row,
        } = self.shape;
        let [stride, rounded_stride] = self.shape.strides();
        let padded = &mut self.rows[slot * stride..][..length];
        input.pad(simd, image, row, activation, padded);
        if rounded_row > 0 {
            let rounded = &mut self.rounded[slot * rounded_stride..][..rounded_row];
            // SAFETY: the CPU converts, since there are weights in bfloat16; there is room for the row and the slack.
            unsafe { convert_row(padded, rounded.as_mut_ptr().cast()) };
        }
    }
}

impl Input<'_> {
    /// A row between zeros, or zeros where there is none.
    #[inline(always)]
    fn pad<S: Simd>(
        &self,
        simd: S,
        image: usize,
        row: Option<usize>,
        activation: Option<&Activation>,
        padded: &mut [f32],
    ) {
        let (map, height, channels) = match self {
            Input::Maps(maps) => (maps[0], maps[0].height, maps[0].channels),
            Input::Patches(map, patch) => (*map, map.height / patch, map.channels * patch * patch),
        };
        let inner = channels..padded.len() - channels;
        padded[..inner.start].fill(0.0);
        padded[inner.end..].fill(0.0);
        let padded = &mut padded[inner];
        let Some(row) = row.filter(|row| *row < height) else {
            padded.fill(0.0);
            return;
        };
        let map = map.image(image);
        match (self, activation) {
            (Input::Maps(_), Some(activation)) => {
                activate(simd, map.columns(row, 0..map.width), activation, padded);
            }
            (Input::Maps(_), None) => padded.copy_from_slice(map.columns(row, 0..map.width)),
            (Input::Patches(_, patch), _) => {
                let length = patch * map.channels;
                for y in 0..*patch {
                    let rows = map.columns(row * patch + y, 0..map.width).chunks_exact(length);
                    for (patch, values) in padded.chunks_exact_mut(channels).zip(rows) {
                        patch[y * length..][..length].copy_from_slice(values);
                    }
                }
            }
        }
    }
}

/// A row of pixels, `stride` values from one to the next, whose channels are squares of `patch` rows of `length` values, as rows
/// of images, to which others are added.
#[inline(always)]
fn unpatch(
    made: &[f32],
    stride: usize,
    patch: usize,
    length: usize,
    added: Option<&[f32]>,
    output: &mut [f32],
) {
    let row_length = output.len() / patch;
    for (y, row) in output.chunks_exact_mut(row_length).enumerate() {
        let squares = row.chunks_exact_mut(length).zip(made.chunks_exact(stride));
        let squares = squares.map(|(values, made)| (values, &made[y * length..][..length]));
        match added {
            Some(added) => {
                let added = added[y * row_length..].chunks_exact(length);
                for ((values, made), added) in squares.zip(added) {
                    for ((value, made), added) in values.iter_mut().zip(made).zip(added) {
                        *value = made + added;
                    }
                }
            }
            None => squares.for_each(|(values, made)| values.copy_from_slice(made)),
        }
    }
}

/// Where each vector of outputs goes, counted from its pixel's first, when each quarter of them becomes one of 2x2 pixels: row and
/// column of these, then channel. `width` is that of the map before it is doubled.
fn doubled_places(outputs: usize, lanes: usize, width: usize) -> Vec<usize> {
    let channels = outputs / 4;
    let place = |output: usize| {
        let (quarter, channel) = (output / channels, output % channels);
        (quarter / 2 * 2 * width + quarter % 2) * channels + channel
    };
    (0..outputs).step_by(lanes).map(place).collect()
}

/// Puts each quarter of the outputs into a pixel of its own.
struct StoreDoubled<'a> {
    /// Of the first of both rows, as what is added to them.
    first: *mut f32,
    added: Option<*const f32>,
    places: &'a [usize],
    column: usize,
    /// Values of two pixels beside each other.
    stride: usize,
    /// As in [`Store`].
    ahead: usize,
}

impl<S: Simd> Sink<S> for StoreDoubled<'_> {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        for (n, mut output) in outputs.into_iter().enumerate() {
            let at = (self.column + pixel) * self.stride + self.places[vector + n];
            let later = at + self.ahead * self.stride;
            if self.ahead > 0 {
                will_be_written(self.first.wrapping_add(later));
            }
            // SAFETY: the caller's.
            unsafe {
                if let Some(added) = self.added {
                    if self.ahead > 0 {
                        will_be_read(added.wrapping_add(later));
                    }
                    output = simd.add_f32s(output, load(simd, added.add(at)));
                }
                store(simd, self.first.add(at), output);
            }
        }
    }
}
