//! The contact sheet: a few pairs of each kind with their kernels, to see at a glance what was made.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::label;
use super::record::PairRecord;
use crate::output::PendingFile;

/// Pairs shown of each kind.
const OF_EACH: usize = 4;

/// Largest side of a picture in px; of larger ones the middle is shown, never scaled, so that blur keeps its size.
const CELL: u32 = 256;

const GAP: u32 = 4;

/// Writes `contact_sheet.png`: a row holds two pairs, each as blurry, sharp, kernel.
///
/// # Errors
/// A picture cannot be read or the sheet not be written.
pub(super) fn write(out: &Path, pairs: &[PairRecord]) -> Result<()> {
    let mut kinds: BTreeMap<&str, Vec<&PairRecord>> = BTreeMap::new();
    for pair in pairs {
        let shown = kinds.entry(&pair.kind).or_default();
        if shown.len() < OF_EACH {
            shown.push(pair);
        }
    }
    let rows: Vec<&[&PairRecord]> = kinds.values().flat_map(|pairs| pairs.chunks(2)).collect();
    let (width, height) = (CELL + GAP, CELL + GAP + label::LINE_PX);
    let mut sheet = RgbImage::from_pixel(6 * width + GAP, rows.len() as u32 * height + GAP, Rgb([40; 3]));
    for (row, pairs) in rows.iter().enumerate() {
        for (column, pair) in pairs.iter().enumerate() {
            let x = GAP + 3 * width * column as u32;
            let y = GAP + height * row as u32;
            label::write(&mut sheet, x, y, &caption(pair));
            for (i, folder) in ["blurry", "sharp", "kernels"].into_iter().enumerate() {
                let path = out.join(folder).join(&pair.name);
                // Averaged frames have no kernel.
                if path.is_file() {
                    let picture =
                        image::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    let cell = if folder == "kernels" {
                        enlarged(&picture)
                    } else {
                        middle(&picture)
                    };
                    let left = x + width * i as u32;
                    imageops::replace(&mut sheet, &cell, i64::from(left), i64::from(y + label::LINE_PX));
                }
            }
        }
    }
    let path = out.join("contact_sheet.png");
    let file = PendingFile::create(&path)?;
    sheet
        .save_with_format(file.temporary(), ImageFormat::Png)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

fn caption(pair: &PairRecord) -> String {
    let number = pair.name.split('_').next().unwrap_or_default();
    let mut text = format!("{number} {}", pair.kind);
    if let Some(extent) = pair.extent_px {
        text += &format!(" {extent:.1} px");
    }
    if let Some(frames) = pair.source.frames.as_ref().filter(|frames| frames.count > 1) {
        text += &format!(" {} frames", frames.count);
    }
    if let Some(gain) = pair.saturation_gain {
        text += &format!(" lights x{gain:.1}");
    }
    text
}

fn middle(picture: &DynamicImage) -> RgbImage {
    let (width, height) = (picture.width().min(CELL), picture.height().min(CELL));
    let (x, y) = ((picture.width() - width) / 2, (picture.height() - height) / 2);
    picture.crop_imm(x, y, width, height).into_rgb8()
}

fn enlarged(picture: &DynamicImage) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    let factor = (CELL / width.max(height)).clamp(1, 8);
    let large = picture.resize_exact(width * factor, height * factor, FilterType::Nearest);
    if large.width().max(large.height()) > CELL {
        return large.resize(CELL, CELL, FilterType::Triangle).into_rgb8();
    }
    large.into_rgb8()
}
