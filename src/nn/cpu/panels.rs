//! Products of feature maps with small matrices of weights.
//!
//! The weights are packed in panels of two vectors of outputs, so that the innermost loop reads them in order; a block of
//! pixels stays in registers until it has seen all inputs (Goto & van de Geijn 2008).

use pulp::Simd;

use super::amx::{self, Pixels16, Tiles};
use super::lanes;
use super::lines::Lines;

/// A matrix of weights `[inputs, outputs]` and a bias, packed.
pub(super) struct Panels {
    /// For each panel and input one vector of each of its outputs; none where there are tiles.
    values: Lines,
    /// As the outputs lie in the panels.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
    /// The same weights for products in bfloat16, which are then taken.
    tiles: Option<Tiles>,
}

/// Arithmetic of the products; their sums are in float32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    #[default]
    Float32,
    /// Where the CPU multiplies it many times faster, else float32.
    Bfloat16,
}

impl Products {
    /// Whether this CPU gains by them.
    pub fn are_fast(self) -> bool {
        match self {
            Products::Float32 => true,
            Products::Bfloat16 => lanes() == Some(amx::ROWS) && amx::is_available(),
        }
    }
}

/// Which outputs share a panel.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pairs {
    /// Neighbouring vectors.
    Neighbours,
    /// A vector of the first half with that of the second, to be multiplied.
    Gates,
}

/// Where one input of a product lies: `inputs` values for each pixel, `stride` values from one pixel to the next.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    pub first: *const f32,
    pub stride: usize,
    pub inputs: usize,
}

/// What becomes of a product.
pub(super) trait Sink<S: Simd> {
    /// Takes `N` vectors of outputs, the first of which is that many vectors from the first of all.
    ///
    /// # Safety
    /// `pixel` and `vector` are within the product that the sink was made for.
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]);
}

impl Panels {
    /// `lanes` is the length of a vector and divides the number of outputs, with [`Pairs::Gates`] half of them. `weight` is
    /// `[outputs, inputs]`, of which each input is multiplied by its `scale`, where there are any. Products in bfloat16 are of one
    /// source with [`Panels::multiply`], else of that many with [`Panels::multiply16`].
    pub fn pack(
        lanes: usize,
        pairs: Pairs,
        (products, sources): (Products, usize),
        weight: &[f32],
        scale: Option<&[f32]>,
        bias: &[f32],
    ) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        let vectors: Vec<usize> = (0..outputs / lanes)
            .map(|v| match pairs {
                Pairs::Neighbours => v * lanes,
                Pairs::Gates => (v / 2) * lanes + (v % 2) * (outputs / 2),
            })
            .collect();
        let order: Vec<usize> = vectors.iter().flat_map(|first| *first..first + lanes).collect();
        let weight_of = |input: usize, output: usize| {
            weight[output * inputs + input] * scale.map_or(1.0, |scale| scale[input])
        };
        let tiles = match (products, lanes) {
            (Products::Bfloat16, amx::ROWS) => Tiles::pack(sources, inputs, outputs, |input, output| {
                weight_of(input, order[output])
            }),
            _ => None,
        };
        let mut values = vec![0.0; if tiles.is_some() { 0 } else { weight.len() }];
        let panels = values.chunks_mut(2 * lanes * inputs).zip(vectors.chunks(2));
        for (panel, vectors) in panels {
            let width = vectors.len() * lanes;
            let firsts = vectors.iter().flat_map(|first| *first..first + lanes);
            for (column, output) in firsts.enumerate() {
                for input in 0..inputs {
                    panel[input * width + column] = weight_of(input, output);
                }
            }
        }
        Panels {
            tiles,
            values: Lines::from(&*values),
            bias: order.iter().map(|output| bias[*output]).collect(),
            inputs,
            outputs,
        }
    }

    /// Whether products are in bfloat16, with these vectors.
    pub fn tiles<S: Simd>(&self) -> Option<&Tiles> {
        self.tiles.as_ref().filter(|_| S::F32_LANES == amx::ROWS)
    }

    /// As [`Panels::multiply`], of as many sources in bfloat16 as the weights were packed for; in float32 there are none.
    ///
    /// # Safety
    /// As [`Tiles::multiply16`].
    #[inline(always)]
    pub unsafe fn multiply16<S: Simd>(
        &self,
        simd: S,
        sources: &[Pixels16],
        pixels: usize,
        sink: &impl Sink<S>,
    ) {
        if let Some(tiles) = self.tiles::<S>() {
            // SAFETY: the caller's.
            unsafe { tiles.multiply16(simd, &self.bias, sources, pixels, sink) }
        }
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How many pixels ahead of the products the places for them are best fetched: in float32 about a block, in bfloat16 not at all.
    pub fn ahead<S: Simd>(&self) -> usize {
        match self.tiles::<S>() {
            Some(_) => 0,
            None => 12,
        }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `pixels` products, each of the inputs of all `sources` one after another.
    ///
    /// # Safety
    /// `sources` can be read for that many pixels and have as many inputs as the matrix; they have been packed for the lanes of
    /// `S`.
    #[inline(always)]
    pub unsafe fn multiply<S: Simd>(&self, simd: S, sources: &[Pixels], pixels: usize, sink: &impl Sink<S>) {
        assert_eq!(sources.iter().map(|s| s.inputs).sum::<usize>(), self.inputs);
        if let Some(tiles) = self.tiles::<S>() {
            // SAFETY: the caller's.
            unsafe { tiles.multiply(simd, &self.bias, sources, pixels, sink) };
            return;
        }
        // SAFETY: the caller's.
        unsafe {
            // Two vectors for each pixel of a block, two of weights and one of an input have to fit into the registers.
            match S::REGISTER_COUNT {
                32.. => self.blocks::<S, 12>(simd, sources, pixels, sink),
                _ => self.blocks::<S, 6>(simd, sources, pixels, sink),
            }
        }
    }

    #[inline(always)]
    unsafe fn blocks<S: Simd, const BLOCK: usize>(
        &self,
        simd: S,
        sources: &[Pixels],
        pixels: usize,
        sink: &impl Sink<S>,
    ) {
        let vectors = self.outputs / S::F32_LANES;
        // SAFETY: the caller's, and blocks end within `pixels`.
        unsafe {
            for vector in (0..vectors).step_by(2) {
                if vector + 1 == vectors {
                    self.panel::<S, BLOCK, 1>(simd, sources, pixels, vector, sink);
                } else {
                    self.panel::<S, BLOCK, 2>(simd, sources, pixels, vector, sink);
                }
            }
        }
    }

    /// The panel whose first vector is `vector`, for all pixels.
    #[inline(always)]
    unsafe fn panel<S: Simd, const BLOCK: usize, const N: usize>(
        &self,
        simd: S,
        sources: &[Pixels],
        pixels: usize,
        vector: usize,
        sink: &impl Sink<S>,
    ) {
        // SAFETY: the caller's, and blocks end within `pixels`.
        unsafe {
            let mut pixel = 0;
            while pixel + BLOCK <= pixels {
                self.block::<S, BLOCK, N>(simd, sources, pixel, vector, sink);
                pixel += BLOCK;
            }
            while pixel < pixels && pixels >= 4 {
                // What is made twice is the same both times.
                pixel = pixel.min(pixels - 4);
                self.block::<S, 4, N>(simd, sources, pixel, vector, sink);
                pixel += 4;
            }
            for pixel in pixel..pixels {
                self.block::<S, 1, N>(simd, sources, pixel, vector, sink);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const BLOCK: usize, const N: usize>(
        &self,
        simd: S,
        sources: &[Pixels],
        pixel: usize,
        vector: usize,
        sink: &impl Sink<S>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let lanes = S::F32_LANES;
            let bias = loads::<S, N>(simd, self.bias.as_ptr().add(vector * lanes));
            let mut sums = [bias; BLOCK];
            let mut weights = self.values.as_ptr().add(vector * lanes * self.inputs);
            for source in sources {
                let first = source.first.add(pixel * source.stride);
                // Where a pixel lies is found once for four of its inputs.
                let (mut input, mut many) = (0, [first; BLOCK]);
                for (i, pixel) in many.iter_mut().enumerate() {
                    *pixel = first.add(i * source.stride);
                }
                while input + 4 <= source.inputs {
                    for step in 0..4 {
                        let weight = loads::<S, N>(simd, weights.add(step * N * lanes));
                        for (sums, pixel) in sums.iter_mut().zip(many) {
                            let x = simd.splat_f32s(*pixel.add(input + step));
                            for (sum, weight) in sums.iter_mut().zip(weight) {
                                *sum = simd.mul_add_f32s(x, weight, *sum);
                            }
                        }
                    }
                    weights = weights.add(4 * N * lanes);
                    input += 4;
                }
                while input < source.inputs {
                    let weight = loads::<S, N>(simd, weights);
                    for (sums, pixel) in sums.iter_mut().zip(many) {
                        let x = simd.splat_f32s(*pixel.add(input));
                        for (sum, weight) in sums.iter_mut().zip(weight) {
                            *sum = simd.mul_add_f32s(x, weight, *sum);
                        }
                    }
                    weights = weights.add(N * lanes);
                    input += 1;
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                sink.put(simd, pixel + i, vector, sums);
            }
        }
    }
}

/// Has the processor fetch a cache line that will soon be read: into the second-level cache, as there is much between. Any place
/// will do, also one that is not the program's.
#[inline(always)]
pub(super) fn will_be_read(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it has no effect but on caches.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// The same of one that will soon be written, which other cores then give up.
#[inline(always)]
pub(super) fn will_be_written(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; processors that do not know it do nothing. The intrinsic only makes it where all that run the program do.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Keeps products as they are: `stride` values from one pixel to the next.
pub(super) struct Store {
    pub first: *mut f32,
    pub stride: usize,
    /// How many pixels ahead the place is fetched, as does for maps that come from memory; 0: not at all.
    pub ahead: usize,
}

impl<S: Simd> Sink<S> for Store {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        for (n, output) in outputs.into_iter().enumerate() {
            let at = pixel * self.stride + (vector + n) * S::F32_LANES;
            if self.ahead > 0 {
                will_be_written(self.first.wrapping_add(at + self.ahead * self.stride));
            }
            // SAFETY: the caller's.
            unsafe { store(simd, self.first.add(at), output) };
        }
    }
}

/// As [`Store`]; meanwhile a map of half as many channels, which is needed next, is fetched.
pub(super) struct StoreFetching {
    pub store: Store,
    pub next: *const f32,
}

impl<S: Simd> Sink<S> for StoreFetching {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        let at = pixel * (self.store.stride / 2) + vector / 2 * S::F32_LANES;
        will_be_read(self.next.wrapping_add(at));
        // SAFETY: the caller's.
        unsafe { self.store.put(simd, pixel, vector, outputs) };
    }
}

/// Adds another feature map, laid out alike.
pub(super) struct StoreSum {
    pub first: *mut f32,
    pub other: *const f32,
    pub stride: usize,
}

impl<S: Simd> Sink<S> for StoreSum {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        for (n, output) in outputs.into_iter().enumerate() {
            let at = pixel * self.stride + (vector + n) * S::F32_LANES;
            // SAFETY: the caller's.
            unsafe {
                let sum = simd.add_f32s(output, load(simd, self.other.add(at)));
                store(simd, self.first.add(at), sum);
            }
        }
    }
}

/// Multiplies both vectors of a panel: for [`Pairs::Gates`].
pub(super) struct StoreGate {
    pub first: *mut f32,
    pub stride: usize,
    /// Laid out alike; what is to be written next.
    pub next: *const f32,
}

impl<S: Simd> Sink<S> for StoreGate {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, simd: S, pixel: usize, vector: usize, outputs: [S::f32s; N]) {
        let at = pixel * self.stride + vector / 2 * S::F32_LANES;
        will_be_written(self.next.wrapping_add(at));
        // SAFETY: the caller's.
        unsafe {
            store(
                simd,
                self.first.add(at),
                simd.mul_f32s(outputs[0], outputs[N - 1]),
            )
        };
    }
}

/// # Safety
/// `N` vectors can be read from there.
#[inline(always)]
pub(super) unsafe fn loads<S: Simd, const N: usize>(simd: S, from: *const f32) -> [S::f32s; N] {
    // Neither here nor elsewhere by closures: those do not get the vector instructions of the function around them.
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (n, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *vector = unsafe { load(simd, from.add(n * S::F32_LANES)) };
    }
    vectors
}

/// # Safety
/// A whole vector can be read from there.
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(_: S, from: *const f32) -> S::f32s {
    // SAFETY: the caller's.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// # Safety
/// A whole vector can be written there.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(_: S, to: *mut f32, values: S::f32s) {
    // SAFETY: the caller's.
    unsafe { to.cast::<S::f32s>().write_unaligned(values) }
}

#[cfg(test)]
mod tests {
    use pulp::{Scalar, WithSimd};

    use super::*;

    /// Products of two joined inputs, by every kind of vectors that this machine has, against the sum written out.
    struct Check {
        pixels: usize,
        outputs: usize,
        pairs: Pairs,
        products: Products,
    }

    impl WithSimd for Check {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (outputs, inputs) = (self.outputs, [6, 45]);
            let weight = |output: usize, input: usize| ((output * 31 + input * 17) % 23) as f32 - 11.0;
            let value = |pixel: usize, input: usize| ((pixel * 7 + input * 5) % 19) as f32 - 9.0;
            let weights: Vec<f32> = (0..outputs)
                .flat_map(|o| (0..51).map(move |i| weight(o, i)))
                .collect();
            let bias: Vec<f32> = (0..outputs).map(|output| output as f32).collect();
            let panels = Panels::pack(
                S::F32_LANES,
                self.pairs,
                (self.products, 1),
                &weights,
                None,
                &bias,
            );
            let maps = [0, 6].map(|from| -> Vec<f32> {
                let inputs = from..from + if from == 0 { 6 } else { 45 };
                (0..self.pixels)
                    .flat_map(|p| inputs.clone().map(move |i| value(p, i)))
                    .collect()
            });
            let sources: Vec<Pixels> = maps
                .iter()
                .zip(inputs)
                .map(|(map, inputs)| Pixels {
                    first: map.as_ptr(),
                    stride: inputs,
                    inputs,
                })
                .collect();
            let width = if self.pairs == Pairs::Gates {
                outputs / 2
            } else {
                outputs
            };
            let mut made = vec![0.0; self.pixels * width];
            let (first, stride) = (made.as_mut_ptr(), width);
            // SAFETY: maps and output have that many pixels of that many values.
            unsafe {
                match self.pairs {
                    Pairs::Gates => {
                        let next = first;
                        panels.multiply(simd, &sources, self.pixels, &StoreGate { first, stride, next })
                    }
                    Pairs::Neighbours => panels.multiply(
                        simd,
                        &sources,
                        self.pixels,
                        &Store {
                            first,
                            stride,
                            ahead: 0,
                        },
                    ),
                }
            }
            // Whole numbers: exact in any order.
            let sum =
                |p: usize, o: usize| o as f32 + (0..51).map(|i| weight(o, i) * value(p, i)).sum::<f32>();
            for (i, made) in made.into_iter().enumerate() {
                let (pixel, output) = (i / width, i % width);
                let expected = match self.pairs {
                    Pairs::Gates => sum(pixel, output) * sum(pixel, output + width),
                    Pairs::Neighbours => sum(pixel, output),
                };
                assert_eq!(
                    made,
                    expected,
                    "{} lanes, pixel {pixel}, output {output}",
                    S::F32_LANES
                );
            }
        }
    }

    #[test]
    fn products_are_right_whatever_the_vectors() {
        // The numbers are few enough bits for bfloat16 too.
        let products = [Products::Float32, Products::Bfloat16];
        let counts = [1, 3, 4, 5, 12, 13, 30, 32, 50];
        for (pixels, products) in counts
            .iter()
            .flat_map(|n| products.map(|products| (*n, products)))
        {
            for (outputs, pairs) in [
                (16, Pairs::Neighbours),
                (48, Pairs::Neighbours),
                (32, Pairs::Gates),
            ] {
                let check = || Check {
                    pixels,
                    outputs,
                    pairs,
                    products,
                };
                Simd::vectorize(Scalar, check());
                #[cfg(target_arch = "x86_64")]
                {
                    if let Some(simd) = pulp::x86::V3::try_new() {
                        Simd::vectorize(simd, check());
                    }
                    if let Some(simd) = pulp::x86::V4::try_new() {
                        Simd::vectorize(simd, check());
                    }
                }
                pulp::Arch::new().dispatch(check());
            }
        }
    }
}
