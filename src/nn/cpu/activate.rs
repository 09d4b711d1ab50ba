//! Normalisation of each pixel's channels, and SiLU.

use pulp::Simd;

/// Scale and shift of a norm that a SiLU follows.
pub(in crate::nn) struct Activation {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub eps: f32,
}

/// Each pixel less its mean, over its standard deviation.
#[inline(always)]
pub(super) fn normalise<S: Simd>(simd: S, input: &[f32], eps: f32, output: &mut [f32], width: usize) {
    let share = 1.0 / width as f32;
    for (input, output) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let (input, _) = S::as_simd_f32s(input);
        let (output, _) = S::as_mut_simd_f32s(output);
        let (mut sum, mut squares) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
        for x in input {
            sum = simd.add_f32s(sum, *x);
        }
        let mean = simd.splat_f32s(simd.reduce_sum_f32s(sum) * share);
        for x in input {
            let x = simd.sub_f32s(*x, mean);
            squares = simd.mul_add_f32s(x, x, squares);
        }
        let variance = simd.reduce_sum_f32s(squares) * share;
        let factor = simd.splat_f32s(1.0 / (variance + eps).sqrt());
        for (x, y) in input.iter().zip(output) {
            *y = simd.mul_f32s(simd.sub_f32s(*x, mean), factor);
        }
    }
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
