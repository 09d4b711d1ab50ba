//! A batch through the model.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::nn::while_wanted;

/// The model: maps `[B, 3, h, w]` to the same shape.
pub(super) type Forward = Box<dyn Fn(&Tensor) -> Tensor + Send>;

/// A batch that went through the model.
pub(super) struct Passed {
    /// `[B, 3, h, w]`, float32. A tile in which a number was not finite is as it came.
    pub images: Tensor,
    /// `[B, 1, 1, 1]`: which tiles are the model's.
    pub finite: Tensor,
}

/// The model's output for a batch `x`. `None` once nobody wants it, which a CPU asks before each layer; a GPU is asked for all at once.
///
/// # Errors
/// Too little memory.
///
/// # Panics
/// Where the model panics.
pub(super) fn pass(model: &Forward, x: &Tensor, wanted: &dyn Fn() -> bool) -> Result<Option<Passed>> {
    let judged = match x.device() {
        _ if !wanted() => None,
        Device::Cpu => while_wanted(wanted, || judged(model, x)).transpose()?,
        _ => Some(judged(model, x)?),
    };
    let Some((y, finite)) = judged else {
        return Ok(None);
    };
    // On a GPU the answer stays there until the frame is done: reading it would wait for all that is queued.
    let images = if finite.device() == Device::Cpu && finite.f_all()?.f_int64_value(&[])? == 1 {
        y
    } else {
        y.f_where_self(&finite, x)?
    };
    Ok(Some(Passed { images, finite }))
}

/// As [`pass`], with the model's numbers whatever they are.
///
/// # Errors
/// Too little memory.
///
/// # Panics
/// Where the model panics.
pub(super) fn judged(model: &Forward, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let y = model(x).f_to_kind(Kind::Float)?;
    // A sum is finite where all its terms are.
    let sums = y.f_sum_dim_intlist([1, 2, 3].as_slice(), true, Kind::Float)?;
    let finite = sums.f_isfinite()?;
    Ok((y, finite))
}
