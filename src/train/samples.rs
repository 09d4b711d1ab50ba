//! A picture of what the model does, to be looked at while it trains.

use tch::{Kind, Tensor};

use super::ValidationSet;
use super::validate::Restorer;
use crate::Result;
use crate::data::Image8;

/// Largest side of a crop in pixels.
const SIDE: i64 = 320;

/// One row for each set with images: the middle of its first image, blurry, restored and sharp. None without images.
pub(super) fn sheet(sets: &[ValidationSet], restorer: &Restorer) -> Result<Option<Image8>> {
    let mut rows = Vec::new();
    for (blurry, sharp) in sets.iter().filter_map(|set| set.tensors().next()) {
        let (blurry, sharp) = (middle(&blurry), middle(&sharp));
        let restored = restorer.restore(&blurry, &sharp);
        rows.push(Tensor::cat(&[blurry, restored, sharp], 3));
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let width = rows.iter().map(|row| row.size()[3]).max().unwrap_or_default();
    let padded = rows
        .iter()
        .map(|row| row.constant_pad_nd([0, width - row.size()[3]]));
    let sheet = Tensor::cat(&padded.collect::<Vec<_>>(), 2);
    Ok(Some(to_image(&sheet)?))
}

fn middle(image: &Tensor) -> Tensor {
    let (_, _, height, width) = image.size4().expect("an image has four dimensions");
    let (h, w) = (height.min(SIDE), width.min(SIDE));
    image.narrow(2, (height - h) / 2, h).narrow(3, (width - w) / 2, w)
}

/// `[1, 3, H, W]` in [0, 1] to 8 bits.
fn to_image(x: &Tensor) -> Result<Image8> {
    let (_, _, height, width) = x.size4().expect("an image has four dimensions");
    let levels = (x.clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8);
    let pixels = levels.permute([0, 2, 3, 1]).contiguous().view([-1]);
    Ok(Image8::new(
        width as usize,
        height as usize,
        Vec::try_from(pixels)?,
    )?)
}
