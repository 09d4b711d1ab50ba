//! Where there are no tiles for products in bfloat16: on other architectures and systems.

use pulp::Simd;

use super::panels::{Pixels, Sink};

pub(super) const ROWS: usize = 16;

pub(super) enum Tiles {}

#[allow(dead_code)]
#[derive(Clone, Copy)]
pub(super) struct Pixels16 {
    pub first: *const u16,
    pub stride: usize,
}

pub(super) fn is_available() -> bool {
    false
}

pub(super) fn slack(_: usize) -> usize {
    0
}

pub(super) unsafe fn convert_row(_: &[f32], _: *mut u16) {}

impl Tiles {
    pub fn pack(_: usize, _: usize, _: usize, _: impl Fn(usize, usize) -> f32) -> Option<Self> {
        None
    }

    pub unsafe fn multiply<S: Simd>(&self, _: S, _: &[f32], _: &[Pixels], _: usize, _: &impl Sink<S>) {
        match *self {}
    }

    pub unsafe fn multiply16<S: Simd>(&self, _: S, _: &[f32], _: &[Pixels16], _: usize, _: &impl Sink<S>) {
        match *self {}
    }
}
