//! Normalisation of each pixel's channels, and SiLU.

use pulp::Simd;

use super::panels::{load, store};

/// Scale and shift of a norm that a SiLU follows.
pub(in crate::nn) struct Activation {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub eps: f32,
}

/// Numbers in the largest vector there is.
const MOST_LANES: usize = 16;

/// Each pixel less its mean, over its standard deviation.
#[inline(always)]
pub(super) fn normalise<S: Simd>(simd: S, input: &[f32], eps: f32, output: &mut [f32], width: usize) {
    assert!(input.len() == output.len() && input.len().is_multiple_of(width));
    assert!(width > 0 && width.is_multiple_of(S::F32_LANES));
    let (input, output, pixels) = (input.as_ptr(), output.as_mut_ptr(), input.len() / width);
    // SAFETY: both have that many pixels.
    unsafe {
        match width / S::F32_LANES {
            2 => normalise_pixels::<S, 2>(simd, input, eps, output, width, pixels),
            4 => normalise_pixels::<S, 4>(simd, input, eps, output, width, pixels),
            _ => normalise_pixels::<S, 0>(simd, input, eps, output, width, pixels),
        }
    }
}

/// Pixels of `VECTORS` vectors, which is faster where they are few, or of any number of them where that is 0.
///
/// # Safety
/// `input` can be read and `output` written for so many pixels of `width` numbers.
#[inline(always)]
unsafe fn normalise_pixels<S: Simd, const VECTORS: usize>(
    simd: S,
    input: *const f32,
    eps: f32,
    output: *mut f32,
    width: usize,
    pixels: usize,
) {
    const { assert!(S::F32_LANES <= MOST_LANES) };
    let vectors = if VECTORS == 0 {
        width / S::F32_LANES
    } else {
        VECTORS
    };
    let share = simd.splat_f32s(1.0 / width as f32);
    // As many pixels at a time as a vector has numbers: one of these for the statistics of each.
    for first in (0..pixels).step_by(S::F32_LANES) {
        let count = S::F32_LANES.min(pixels - first);
        let mut sums = [simd.splat_f32s(0.0); MOST_LANES];
        let mut squares = [simd.splat_f32s(0.0); MOST_LANES];
        let mut origins = [0.0; MOST_LANES];
        // SAFETY: the caller's.
        unsafe {
            for i in 0..count {
                // Counted from some number of the pixel's, so that squares of a distant mean do not hide the variance: even its
                // farthest from the mean is so at most by the root of the variance times their number.
                let pixel = input.add((first + i) * width);
                origins[i] = *pixel;
                let origin = simd.splat_f32s(*pixel);
                let mut sum = simd.splat_f32s(0.0);
                let mut square = simd.splat_f32s(0.0);
                for vector in 0..vectors {
                    let x = simd.sub_f32s(load(simd, pixel.add(vector * S::F32_LANES)), origin);
                    sum = simd.add_f32s(sum, x);
                    square = simd.mul_add_f32s(x, x, square);
                }
                sums[i] = sum;
                squares[i] = square;
            }
            let offsets = simd.mul_f32s(totals(simd, sums), share);
            let squares = simd.mul_f32s(totals(simd, squares), share);
            let variances = simd.sub_f32s(squares, simd.mul_f32s(offsets, offsets));
            // Rounding may leave less than nothing; what is no number stays so.
            let variances = simd.abs_f32s(variances);
            let deviations = simd.sqrt_f32s(simd.add_f32s(variances, simd.splat_f32s(eps)));
            let factors = simd.div_f32s(simd.splat_f32s(1.0), deviations);
            let means = simd.add_f32s(offsets, load(simd, origins.as_ptr()));
            let (means, factors) = (numbers::<S>(&means), numbers::<S>(&factors));
            for i in 0..count {
                let (mean, factor) = (simd.splat_f32s(means[i]), simd.splat_f32s(factors[i]));
                for vector in 0..vectors {
                    let at = (first + i) * width + vector * S::F32_LANES;
                    let x = load(simd, input.add(at));
                    let centred = simd.sub_f32s(x, mean);
                    store(simd, output.add(at), simd.mul_f32s(centred, factor));
                }
            }
        }
    }
}

#[inline(always)]
fn numbers<S: Simd>(vector: &S::f32s) -> &[f32] {
    pulp::bytemuck::cast_slice(std::slice::from_ref(vector))
}

/// The sum of each vector's numbers, of the first vector first: of as many vectors as one has numbers.
#[inline(always)]
fn totals<S: Simd>(simd: S, mut vectors: [S::f32s; MOST_LANES]) -> S::f32s {
    const PLACES: [u32; MOST_LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let places = S::as_simd_u32s(&PLACES).0[0];
    // Two vectors become one, in which places whose number has this bit are the second's; then the next bit.
    let mut bit = 1;
    while bit < S::F32_LANES {
        let unset = simd.equal_u32s(
            simd.and_u32s(places, simd.splat_u32s(bit as u32)),
            simd.splat_u32s(0),
        );
        for i in 0..S::F32_LANES / (2 * bit) {
            let (first, second) = (vectors[2 * i], vectors[2 * i + 1]);
            let kept = simd.select_f32s(unset, first, second);
            let moved = simd.rotate_right_f32s(simd.select_f32s(unset, second, first), bit);
            vectors[i] = simd.add_f32s(kept, moved);
        }
        bit *= 2;
    }
    vectors[0]
}

/// `SiLU(norm(x))` of each pixel.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, input: &[f32], activation: &Activation, output: &mut [f32]) {
    let width = activation.scale.len();
    normalise(simd, input, activation.eps, output, width);
    let (scale, _) = S::as_simd_f32s(&activation.scale);
    let (shift, _) = S::as_simd_f32s(&activation.shift);
    for output in output.chunks_exact_mut(width) {
        let (output, _) = S::as_mut_simd_f32s(output);
        for ((y, scale), shift) in output.iter_mut().zip(scale).zip(shift) {
            let x = simd.mul_add_f32s(*y, *scale, *shift);
            *y = simd.mul_f32s(x, sigmoid(simd, x));
        }
    }
}

/// `(1 + tanh(x / 2)) / 2`, tanh as a quotient of polynomials: right to some 1e-7.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ODD: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let half = simd.splat_f32s(0.5);
    // Beyond, tanh is one to the last bit.
    let x = simd.mul_f32s(x, half);
    let x = simd.max_f32s(simd.min_f32s(x, simd.splat_f32s(9.0)), simd.splat_f32s(-9.0));
    let square = simd.mul_f32s(x, x);
    let mut odd = simd.splat_f32s(ODD[0]);
    for coefficient in &ODD[1..] {
        odd = simd.mul_add_f32s(odd, square, simd.splat_f32s(*coefficient));
    }
    let mut even = simd.splat_f32s(EVEN[0]);
    for coefficient in &EVEN[1..] {
        even = simd.mul_add_f32s(even, square, simd.splat_f32s(*coefficient));
    }
    let tanh = simd.div_f32s(simd.mul_f32s(odd, x), even);
    simd.mul_add_f32s(tanh, half, half)
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;

    struct Check {
        pixels: usize,
        vectors: usize,
    }

    impl WithSimd for Check {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            const EPS: f64 = 1e-5;
            let width = self.vectors * S::F32_LANES;
            let value = |i: usize| ((i * 7919) % 1013) as f32 / 100.0 + (i / width) as f32;
            let input: Vec<f32> = (0..self.pixels * width).map(value).collect();
            let mut output = vec![0.0; input.len()];
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut input = input.clone();
                input[width - 1] = broken;
                normalise(simd, &input, EPS as f32, &mut output, width);
                let (first, others) = output.split_at(width);
                assert!(first.iter().all(|y| y.is_nan()) && others.iter().all(|y| y.is_finite()));
            }
            normalise(simd, &input, EPS as f32, &mut output, width);
            for (input, output) in input.chunks(width).zip(output.chunks(width)) {
                let mean = |of: &dyn Fn(f64) -> f64| {
                    input.iter().map(|x| of(f64::from(*x))).sum::<f64>() / width as f64
                };
                let centre = mean(&|x| x);
                let deviation = (mean(&|x| (x - centre).powi(2)) + EPS).sqrt();
                for (x, y) in input.iter().zip(output) {
                    let expected = (f64::from(*x) - centre) / deviation;
                    // A bit or two of the mean.
                    let most = 1e-5 + 2e-7 * centre.abs() / deviation;
                    assert!((f64::from(*y) - expected).abs() < most, "{y} for {expected}");
                }
            }
        }
    }

    #[test]
    fn every_pixel_gets_its_own_statistics() {
        for (pixels, vectors) in [1, 3, 15, 16, 17, 40]
            .into_iter()
            .flat_map(|n| [(n, 1), (n, 2), (n, 5)])
        {
            let check = || Check { pixels, vectors };
            Simd::vectorize(pulp::Scalar, check());
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                Simd::vectorize(simd, check());
            }
            pulp::Arch::new().dispatch(check());
        }
    }
}
