//! Convolutions on rows that stay in the cache.

use pulp::{Arch, Simd, WithSimd};

use super::activate::{Activation, activate};
use super::panels::{Pairs, Panels, Pixels, Sink, Store, store};
use super::{Layer, Map, at_least, in_parts, lanes};

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
    panels: Panels,
    /// What comes before it; not with [`Kernel::Halving`].
    activation: Option<Activation>,
}

impl ConvWeights {
    /// `weight` is `[outputs, kernel, kernel, inputs]`. `None` where a number of channels is no multiple of what this CPU
    /// computes at a time.
    pub fn new(kernel: Kernel, layer: &Layer, activation: Option<Activation>) -> Option<Self> {
        let (lanes, outputs) = (lanes()?, layer.bias.len());
        let normed = activation.as_ref().map_or(0, |a| a.scale.len());
        if !outputs.is_multiple_of(lanes) || !normed.is_multiple_of(lanes) {
            return None;
        }
        Some(ConvWeights {
            kernel,
            panels: Panels::pack(lanes, Pairs::Neighbours, layer.weight, None, layer.bias),
            activation,
        })
    }

    /// Whether the outputs can lie so.
    pub fn fits(&self, arrangement: Arrangement) -> bool {
        let unit = match arrangement {
            Arrangement::Pixels => 1,
            Arrangement::Doubled => 4 * lanes().unwrap_or(1),
            Arrangement::Patches(patch) => patch * patch,
        };
        self.outputs().is_multiple_of(unit)
    }

    fn outputs(&self) -> usize {
        self.panels.outputs()
    }

    pub fn forward(&self, input: &Input, arrangement: Arrangement, output: &mut [f32]) {
        let (height, width) = match (self.kernel, input) {
            (Kernel::Halving, Input::Maps(maps)) => (maps[0].height / 2, maps[0].width / 2),
            (_, Input::Maps(maps)) => (maps[0].height, maps[0].width),
            (_, Input::Patches(map, patch)) => (map.height / patch, map.width / patch),
        };
        let row_length = width * self.outputs();
        in_parts(output, height, row_length, |image, first, output, scratch| {
            Arch::new().dispatch(Rows {
                weights: self,
                input,
                arrangement,
                image,
                width,
                first,
                output,
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
    image: usize,
    width: usize,
    first: usize,
    output: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, outputs) = (self.width, self.weights.outputs());
        let activation = self.weights.activation.as_ref();
        let around = self.weights.kernel == Kernel::Around;
        let channels = self.weights.panels.inputs() / if around { 9 } else { 1 };
        // Three rows of inputs between zeros, or one, and one of outputs that have still to be rearranged.
        let padded = if around || activation.is_some() {
            (width + 2) * channels
        } else {
            0
        };
        let scratch = at_least(self.scratch, 3 * padded + width * outputs);
        let (ring, made) = scratch.split_at_mut(3 * padded);
        if around {
            for ahead in 0..2 {
                let row = (self.first + ahead).checked_sub(1);
                let row_of_ring = &mut ring[ahead * padded..][..padded];
                self.input.pad(simd, self.image, row, activation, row_of_ring);
            }
        }
        let mut sources = Vec::with_capacity(3);
        for (i, output) in self.output.chunks_exact_mut(width * outputs).enumerate() {
            let row = self.first + i;
            sources.clear();
            match (self.weights.kernel, self.input) {
                (Kernel::Point, Input::Maps(_)) if activation.is_some() => {
                    self.input
                        .pad(simd, self.image, Some(row), activation, &mut ring[..padded]);
                    sources.push(Pixels {
                        first: ring[channels..].as_ptr(),
                        stride: channels,
                        inputs: channels,
                    });
                }
                (Kernel::Point, Input::Maps(maps)) => sources.extend(maps.iter().map(|map| Pixels {
                    first: map.image(self.image).columns(row, 0..width).as_ptr(),
                    stride: map.channels,
                    inputs: map.channels,
                })),
                // The two columns lie side by side.
                (Kernel::Halving, Input::Maps(maps)) => sources.extend((0..2).map(|y| {
                    Pixels {
                        first: maps[0]
                            .image(self.image)
                            .columns(2 * row + y, 0..2 * width)
                            .as_ptr(),
                        stride: 2 * maps[0].channels,
                        inputs: 2 * maps[0].channels,
                    }
                })),
                // So do the three of a window.
                (Kernel::Around, _) => {
                    let next = &mut ring[(i + 2) % 3 * padded..][..padded];
                    self.input.pad(simd, self.image, Some(row + 1), activation, next);
                    sources.extend((0..3).map(|y| Pixels {
                        first: ring[(i + y) % 3 * padded..].as_ptr(),
                        stride: channels,
                        inputs: 3 * channels,
                    }));
                }
                (_, Input::Patches(..)) => unreachable!("patches are for 3x3"),
            }
            // SAFETY: output and what is made have `width` pixels of all outputs, the sources what they need for them.
            unsafe {
                let panels = &self.weights.panels;
                match self.arrangement {
                    Arrangement::Pixels => multiply_row(simd, panels, &mut sources, width, |column| Store {
                        first: output.as_mut_ptr().add(column * outputs),
                        stride: outputs,
                    }),
                    Arrangement::Doubled => {
                        multiply_row(simd, panels, &mut sources, width, |column| StoreDoubled {
                            first: output.as_mut_ptr(),
                            column,
                            width,
                            channels: outputs / 4,
                        })
                    }
                    Arrangement::Patches(patch) => {
                        multiply_row(simd, panels, &mut sources, width, |column| Store {
                            first: made.as_mut_ptr().add(column * outputs),
                            stride: outputs,
                        });
                        unpatch(made, patch, outputs, output);
                    }
                }
            }
        }
    }
}

/// Products of a row of pixels, some at a time; `sink` takes those from a column on. The sources go on to the row's end.
///
/// # Safety
/// As [`Panels::multiply`], for `width` pixels.
#[inline(always)]
unsafe fn multiply_row<S: Simd, T: Sink<S>>(
    simd: S,
    panels: &Panels,
    sources: &mut [Pixels],
    width: usize,
    mut sink: impl FnMut(usize) -> T,
) {
    for column in (0..width).step_by(RUN) {
        let pixels = RUN.min(width - column);
        // SAFETY: the caller's.
        unsafe {
            panels.multiply(simd, sources, pixels, &sink(column));
            for source in &mut *sources {
                source.first = source.first.add(pixels * source.stride);
            }
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

/// A row of pixels whose channels are squares, as rows of images.
fn unpatch(made: &[f32], patch: usize, channels: usize, output: &mut [f32]) {
    let length = channels / patch;
    let row_length = output.len() / patch;
    for (y, row) in output.chunks_exact_mut(row_length).enumerate() {
        for (values, made) in row.chunks_exact_mut(length).zip(made.chunks_exact(channels)) {
            values.copy_from_slice(&made[y * length..][..length]);
        }
    }
}

/// Puts each quarter of the outputs into a pixel of its own: row and column of 2x2, then channel.
struct StoreDoubled {
    /// Of the first of both rows.
    first: *mut f32,
    column: usize,
    /// Of the map before it is doubled.
    width: usize,
    channels: usize,
}

impl<S: Simd> Sink<S> for StoreDoubled {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        for (n, output) in outputs.into_iter().enumerate() {
            let channel = (vector + n) * S::F32_LANES;
            let (quarter, channel) = (channel / self.channels, channel % self.channels);
            let column = 2 * (self.column + pixel) + quarter % 2;
            let at = (quarter / 2 * 2 * self.width + column) * self.channels + channel;
            // SAFETY: the caller's.
            unsafe { store(simd, self.first.add(at), output) };
        }
    }
}
