//! Parameters as the CPU's fused layers want them.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use super::cpu::Map;
use super::memory_order;

/// What is made from parameters, once for each of their values: γ moves them in place.
pub(super) struct Packed<T>(RefCell<Option<Box<Made<T>>>>);

struct Made<T> {
    /// Of the parameters' places and versions.
    key: usize,
    weights: Option<T>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Packed(RefCell::default())
    }
}

impl<T> Packed<T> {
    /// Gives `then` what `pack` makes of the parameters. `None` where `inputs` or parameters are not for fused layers: not
    /// float32, not on a CPU, or to be differentiated; or where `pack` or `then` gives nothing.
    pub fn with<R>(
        &self,
        inputs: &[&Tensor],
        parameters: &[&Tensor],
        pack: impl FnOnce(&[&[f32]]) -> Option<T>,
        then: impl FnOnce(&T) -> Option<R>,
    ) -> Option<R> {
        let mut all = inputs.iter().chain(parameters);
        if !all.all(|t| t.device() == Device::Cpu && t.kind() == Kind::Float && !t.requires_grad()) {
            return None;
        }
        let mut packed = self.0.borrow_mut();
        let key = parameters.iter().fold(0usize, |key, t| {
            let mix = |key: usize, number: usize| key.wrapping_mul(0x9e37_79b9).wrapping_add(number);
            mix(mix(key, t.data_ptr() as usize), t.internal_version() as usize)
        });
        if packed.as_ref().is_none_or(|made| made.key != key) {
            let rows: Vec<Tensor> = parameters.iter().map(|t| memory_order(t).contiguous()).collect();
            let weights = pack(&rows.iter().map(values).collect::<Vec<_>>());
            *packed = Some(Box::new(Made { key, weights }));
        }
        then(packed.as_ref()?.weights.as_ref()?)
    }
}

/// `[B, C, H, W]` without gaps and with its channels innermost, as `[B, H, W, C]`.
pub(super) fn innermost(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous()
}

/// What [`innermost`] gave, as a slice.
pub(super) fn map(x: &Tensor) -> Map<'_> {
    let (_, height, width, channels) = x.size4().expect("a feature map has four dimensions");
    Map {
        values: values(x),
        height: height as usize,
        width: width as usize,
        channels: channels as usize,
    }
}

/// A feature map `[B, C, H, W]` that `fill` makes from nothing: it gets it as `[B, H, W, C]`.
pub(super) fn filled(size: [i64; 4], fill: impl FnOnce(&mut [f32])) -> Tensor {
    let [b, c, h, w] = size;
    let y = Tensor::empty([b, h, w, c], (Kind::Float, Device::Cpu));
    if y.numel() > 0 {
        // SAFETY: nobody else has this tensor yet; it has that many numbers.
        fill(unsafe { std::slice::from_raw_parts_mut(y.data_ptr().cast(), y.numel()) });
    }
    y.permute([0, 3, 1, 2])
}

/// The numbers of a tensor on the CPU, float32 and without gaps.
fn values(tensor: &Tensor) -> &[f32] {
    assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
    match tensor.numel() {
        0 => &[],
        // SAFETY: it has that many numbers, which live as long as it.
        count => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), count) },
    }
}
