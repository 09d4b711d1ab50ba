//! Products in bfloat16 on the tiles of Intel's AMX: many times as many a cycle as in float32.
//!
//! Rust has no stable intrinsics for it, so a block of 32x32 products is written in assembly (Intel's Software Developer's
//! Manual, volume 1, chapter 18). Sums are in float32.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;

use once_cell::sync::Lazy;
use pulp::Simd;

use super::panels::{Pixels, Sink, load, loads};

/// Pixels, and outputs, of a block: two tiles each.
const BLOCK: usize = 32;
/// Pixels, and outputs, of a tile.
pub(super) const ROWS: usize = 16;
/// Inputs that a tile takes.
const INPUTS: usize = 32;
/// Sources that a product may have.
const MOST_SOURCES: usize = 3;

/// A row of a tile: numbers in bfloat16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Row([u16; INPUTS]);

/// Sums of a block: for each half of its pixels and each half of its outputs a tile.
#[repr(C, align(64))]
struct Sums([[[f32; ROWS]; ROWS]; 4]);

impl Sums {
    /// Those of a pixel for one half of the outputs.
    #[inline(always)]
    fn of(&self, pixel: usize, half: usize) -> *const f32 {
        self.0[pixel / ROWS * 2 + half][pixel % ROWS].as_ptr()
    }
}

/// A matrix of weights `[inputs, outputs]` in tiles.
pub(super) struct Tiles {
    /// For each 16 outputs and each 32 inputs of a source a tile: rows of two inputs, for each output both.
    rows: Vec<Row>,
    /// Sources of inputs, equally many each.
    sources: usize,
    /// Tiles of inputs of all sources.
    depth: usize,
    outputs: usize,
}

/// Pixels in bfloat16, `stride` numbers from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Pixels16 {
    pub first: *const u16,
    pub stride: usize,
}

/// Numbers that must be there behind a row of pixels, `stride` numbers each: blocks are read whole. [`convert_row`] makes those
/// zero that meet weights of zero; the others come to nothing.
pub(super) fn slack(stride: usize) -> usize {
    BLOCK * stride + INPUTS
}

/// Whether this CPU has AMX with bfloat16, and the system lets this process use it, which the first call asks for.
pub(super) fn is_available() -> bool {
    /// Bits of EDX in CPUID's leaf 7.
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    /// A request of Linux's `arch_prctl`, and the number of what tiles hold.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    static AVAILABLE: Lazy<bool> = Lazy::new(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            // SAFETY: the first asks the CPU what it has; the second asks Linux for room for tiles when it stops a thread.
            && unsafe {
                __cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
                    && libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
            }
    });
    *AVAILABLE
}

impl Tiles {
    /// `weight` gives the weight of an input, counted over all `sources`, for an output; the number of outputs is a multiple of
    /// [`ROWS`]. `None` where [`is_available`] says no.
    pub fn pack(
        sources: usize,
        inputs: usize,
        outputs: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Option<Self> {
        if !is_available() {
            return None;
        }
        assert!(inputs > 0 && inputs.is_multiple_of(sources) && outputs.is_multiple_of(ROWS));
        let inputs = inputs / sources;
        let depth = sources * inputs.div_ceil(INPUTS);
        let mut rows = vec![Row([0; INPUTS]); outputs / ROWS * depth * ROWS];
        let pairs = (0..outputs).flat_map(|output| (0..sources).map(move |source| (output, source)));
        for (output, source) in pairs {
            for input in 0..inputs {
                let tile = output / ROWS * depth + source * depth / sources + input / INPUTS;
                let row = &mut rows[tile * ROWS + input % INPUTS / 2];
                row.0[output % ROWS * 2 + input % 2] = bfloat16(weight(source * inputs + input, output));
            }
        }
        Some(Tiles {
            rows,
            sources,
            depth,
            outputs,
        })
    }

    /// `pixels` products with a bias, each of the inputs of all `sources` one after another; the weights were packed for one.
    ///
    /// # Safety
    /// `sources` can be read for that many pixels and have as many inputs as the matrix; `bias` has as many numbers as there are
    /// outputs, and vectors of `S` have [`ROWS`].
    #[inline(always)]
    pub unsafe fn multiply<S: Simd>(
        &self,
        simd: S,
        bias: &[f32],
        sources: &[Pixels],
        pixels: usize,
        sink: &impl Sink<S>,
    ) {
        thread_local! {
            static INPUT: Cell<Vec<Row>> = const { Cell::new(Vec::new()) };
        }
        assert_eq!(self.sources, 1);
        let mut input = INPUT.take();
        if input.len() < BLOCK * self.depth {
            input.resize(BLOCK * self.depth, Row([0; INPUTS]));
        }
        let converted = Pixels16 {
            first: input.as_ptr().cast(),
            stride: self.depth * INPUTS,
        };
        // SAFETY: the caller's; tiles are there, since there are weights for them; the input has two tiles of rows.
        unsafe {
            configure();
            let mut pixel = 0;
            while pixel < pixels {
                // What is made twice is the same both times.
                pixel = pixel.min(pixels.saturating_sub(BLOCK));
                let count = BLOCK.min(pixels - pixel);
                convert(sources, pixel, count, self.depth, input.as_mut_ptr());
                self.block(simd, bias, &[converted], 0, pixel..pixel + count, sink);
                pixel += BLOCK;
            }
            release();
        }
        INPUT.set(input);
    }

    /// As [`Tiles::multiply`], of pixels that are in bfloat16 already, in as many sources as the weights were packed for.
    ///
    /// # Safety
    /// The sources can be read for that many pixels, the last [`slack`] further; `bias` and `S` as there.
    #[inline(always)]
    pub unsafe fn multiply16<S: Simd>(
        &self,
        simd: S,
        bias: &[f32],
        sources: &[Pixels16],
        pixels: usize,
        sink: &impl Sink<S>,
    ) {
        assert!(sources.len() == self.sources && sources.len() <= MOST_SOURCES);
        // SAFETY: the caller's; tiles are there, since there are weights for them.
        unsafe {
            configure();
            for pixel in (0..pixels).step_by(BLOCK) {
                let end = (pixel + BLOCK).min(pixels);
                self.block(simd, bias, sources, pixel, pixel..end, sink);
            }
            release();
        }
    }

    /// All outputs of a block, which lies in the sources from pixel `first` on; `pixels` is what the sink calls it.
    ///
    /// # Safety
    /// As [`Tiles::multiply16`], with tiles configured.
    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        simd: S,
        bias: &[f32],
        sources: &[Pixels16],
        first: usize,
        pixels: Range<usize>,
        sink: &impl Sink<S>,
    ) {
        let mut sums = MaybeUninit::<Sums>::uninit();
        let sums = sums.as_mut_ptr();
        // SAFETY: the caller's; sums are made before they are read.
        unsafe {
            for output in (0..self.outputs).step_by(BLOCK) {
                let tiles = self.rows.as_ptr().add(output * self.depth);
                let (vector, bias) = (output / ROWS, bias.as_ptr().add(output));
                if output + ROWS < self.outputs {
                    self.products(sources, first, [tiles, tiles.add(ROWS * self.depth)], sums);
                    let bias = loads::<S, 2>(simd, bias);
                    for (i, pixel) in pixels.clone().enumerate() {
                        let first = simd.add_f32s(load(simd, (*sums).of(i, 0)), bias[0]);
                        let second = simd.add_f32s(load(simd, (*sums).of(i, 1)), bias[1]);
                        sink.put(simd, pixel, vector, [first, second]);
                    }
                } else {
                    // The last 16 outputs, alone, are made twice.
                    self.products(sources, first, [tiles; 2], sums);
                    let bias = load(simd, bias);
                    for (i, pixel) in pixels.clone().enumerate() {
                        let sum = simd.add_f32s(load(simd, (*sums).of(i, 0)), bias);
                        sink.put(simd, pixel, vector, [sum]);
                    }
                }
            }
        }
    }

    /// Two tiles of pixels times two of outputs, over all inputs. The sources have the same stride.
    ///
    /// # Safety
    /// As [`Tiles::block`]; `sums` can be written.
    #[inline(always)]
    unsafe fn products(&self, sources: &[Pixels16], first: usize, outputs: [*const Row; 2], sums: *mut Sums) {
        let mut firsts = [ptr::null(); MOST_SOURCES];
        for (place, source) in firsts.iter_mut().zip(sources) {
            *place = source.first.wrapping_add(first * source.stride);
        }
        // SAFETY: the caller's.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {upper}, [{firsts}]",
                "mov {lower}, {pixel}",
                "shl {lower}, 4",
                "add {lower}, {upper}",
                "mov {left}, {depth}",
                "3:",
                "tileloadd tmm4, [{upper} + {pixel}*1]",
                "tileloadd tmm6, [{first} + {row}*1]",
                "tileloadd tmm7, [{second} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{lower} + {pixel}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, 64",
                "add {lower}, 64",
                "add {first}, 1024",
                "add {second}, 1024",
                "dec {left}",
                "jnz 3b",
                "add {firsts}, 8",
                "dec {sources}",
                "jnz 2b",
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                "tilestored [{sums} + {row}*1 + 2048], tmm2",
                "tilestored [{sums} + {row}*1 + 3072], tmm3",
                firsts = inout(reg) firsts.as_ptr() => _,
                sources = inout(reg) sources.len() => _,
                depth = in(reg) self.depth / self.sources,
                left = out(reg) _,
                upper = out(reg) _,
                lower = out(reg) _,
                first = inout(reg) outputs[0] => _,
                second = inout(reg) outputs[1] => _,
                pixel = in(reg) sources[0].stride * size_of::<u16>(),
                row = in(reg) size_of::<Row>(),
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

/// The nearest bfloat16, of two the even one.
fn bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // Still one when cut off.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Makes all eight tiles 16 rows of 64 bytes.
///
/// # Safety
/// The CPU has AMX, and this process may use it.
#[inline(always)]
unsafe fn configure() {
    /// Palette 1; 64 bytes a row from byte 16 on, in two bytes each; 16 rows from byte 48 on.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);
    static CONFIGURATION: Configuration = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Configuration(bytes)
    };
    // SAFETY: the caller's; it is the format that palette 1 wants.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
    }
}

/// Gives the tiles back, so that nobody has to keep what is in them.
///
/// # Safety
/// As [`configure`].
#[inline(always)]
unsafe fn release() {
    // SAFETY: the caller's.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
}

/// Some pixels' inputs, of all sources one after another and zeros behind them, in bfloat16: `depth` rows a pixel.
///
/// # Safety
/// The CPU has these instructions. The sources can be read for that many pixels from `first` on, and have no more inputs than fit;
/// `rows` can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn convert(sources: &[Pixels], first: usize, count: usize, depth: usize, rows: *mut Row) {
    // SAFETY: the caller's; masks keep to what is there.
    unsafe {
        for pixel in 0..count {
            let row = rows.add(pixel * depth).cast::<u16>();
            let mut at = 0;
            for source in sources {
                let from = source.first.add((first + pixel) * source.stride);
                let mut input = 0;
                while input + INPUTS <= source.inputs {
                    let low = _mm512_loadu_ps(from.add(input));
                    let high = _mm512_loadu_ps(from.add(input + 16));
                    let both = _mm512_cvtne2ps_pbh(high, low);
                    _mm512_storeu_epi16(
                        row.add(at + input).cast(),
                        std::mem::transmute::<__m512bh, __m512i>(both),
                    );
                    input += INPUTS;
                }
                let left = source.inputs - input;
                if left > 0 {
                    let mask = u32::MAX >> (INPUTS - left);
                    let low = _mm512_maskz_loadu_ps(mask as u16, from.add(input));
                    let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(input + 16));
                    let both = _mm512_cvtne2ps_pbh(high, low);
                    let both = std::mem::transmute::<__m512bh, __m512i>(both);
                    _mm512_mask_storeu_epi16(row.add(at + input).cast(), mask, both);
                }
                at += source.inputs;
            }
            let left = depth * INPUTS - at;
            if left > 0 {
                let mask = u32::MAX >> (INPUTS - left);
                _mm512_mask_storeu_epi16(row.add(at).cast(), mask, _mm512_setzero_si512());
            }
        }
    }
}

/// Numbers in bfloat16, and as many zeros behind them as a tile takes.
///
/// # Safety
/// The CPU has these instructions; `to` can be written for that many.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn convert_row(values: &[f32], to: *mut u16) {
    // SAFETY: the caller's; masks keep to what is there.
    unsafe {
        let from = values.as_ptr();
        for at in (0..values.len()).step_by(INPUTS) {
            let mask = u32::MAX >> (INPUTS - (values.len() - at).min(INPUTS));
            let low = _mm512_maskz_loadu_ps(mask as u16, from.add(at));
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(at + 16));
            let both = _mm512_cvtne2ps_pbh(high, low);
            // With zeros to the end of the vector.
            _mm512_storeu_epi16(to.add(at).cast(), std::mem::transmute::<__m512bh, __m512i>(both));
        }
        _mm512_storeu_epi16(to.add(values.len()).cast(), _mm512_setzero_si512());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_rounded_to_the_nearest_bfloat16() {
        let rounded = |value: f32| f32::from_bits(u32::from(bfloat16(value)) << 16);
        for value in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(rounded(value).to_bits(), value.to_bits());
        }
        for value in [0.1, -1e30, 3e-20, 1.999_999] {
            assert!((rounded(value) - value).abs() <= value.abs() / 256.0, "{value}");
        }
        // Halfway between two: to the even one.
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(rounded(1.0 + 1.1 / 256.0), 1.0 + 2.0 / 256.0);
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff, 0xffff_e000] {
            assert!(rounded(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
    }
}
