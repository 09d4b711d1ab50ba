//! The comparison picture: the same detail before, after and (where it is known) in truth, pixel for pixel.

use std::path::Path;

use anyhow::{Context, Result};
use osdd::frame::{Frame, PixelFormat};

use crate::draw::{Canvas, Rgb, Shape, font};

const GUTTER: usize = 8;
const HEADER: usize = 34;

/// The same cut-out in each column, with a note for the lower left corner.
pub struct Row {
    pub panels: Vec<(Frame, String)>,
}

/// Cuts `width` x `height` pixels (or what the frame has) around `centre`, kept inside the frame.
pub fn crop(frame: &Frame, centre: (f32, f32), (width, height): (usize, usize)) -> Frame {
    let (width, height) = (width.min(frame.width), height.min(frame.height));
    let corner =
        |c: f32, size: usize, limit: usize| ((c - size as f32 / 2.0).max(0.0) as usize).min(limit - size);
    let (x, y) = (
        corner(centre.0, width, frame.width),
        corner(centre.1, height, frame.height),
    );
    let mut cut = Frame::new(width, height, PixelFormat::Rgb8);
    let stride = cut.stride();
    for (row, line) in cut.data.chunks_exact_mut(stride).enumerate() {
        let start = (y + row) * frame.stride() + x * 3;
        line.copy_from_slice(&frame.data[start..start + stride]);
    }
    cut
}

/// Writes a PNG with one column per title.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, titles: &[String], rows: &[Row]) -> Result<()> {
    let first = &rows.first().context("a picture needs a row")?.panels[0].0;
    let (width, height) = (first.width, first.height);
    let mut sheet = Canvas::new(
        GUTTER + titles.len() * (width + GUTTER),
        HEADER + rows.len() * (height + GUTTER),
    );
    let paper = Shape::rect(0.0, 0.0, sheet.width as f32, sheet.height as f32);
    sheet.fill_solid(&paper, Rgb::hex(0x16181c));
    for (column, title) in titles.iter().enumerate() {
        let x = GUTTER + column * (width + GUTTER);
        let size = font::fit(title, 12.0, width as f32);
        let centre = (x as f32 + width as f32 / 2.0, (HEADER as f32 - size) / 2.0);
        font::draw_centred(&mut sheet, title, centre, size, 1.9, Rgb::hex(0xf4ead2));
        for (row, Row { panels }) in rows.iter().enumerate() {
            let y = HEADER + row * (height + GUTTER);
            let (panel, note) = &panels[column];
            sheet.paste((x, y), &panel.data, panel.width);
            label(&mut sheet, (x as f32, (y + height) as f32), note);
        }
    }
    let partial = path.with_extension("partial");
    image::save_buffer_with_format(
        &partial,
        &sheet.to_rgb8(),
        sheet.width as u32,
        sheet.height as u32,
        image::ColorType::Rgb8,
        image::ImageFormat::Png,
    )
    .and_then(|()| Ok(std::fs::rename(&partial, path)?))
    .with_context(|| format!("cannot write {}", path.display()))
}

/// A small note whose lower left corner is `(x, y)`.
fn label(sheet: &mut Canvas, (x, y): (f32, f32), text: &str) {
    if text.is_empty() {
        return;
    }
    let plate = Shape::rect(x, y - 16.0, font::width(text, 8.0) + 12.0, 16.0);
    sheet.glow(&plate, 0.5, Rgb::hex(0x16181c), 0.85);
    font::draw(sheet, text, (x + 6.0, y - 12.0), 8.0, 1.3, Rgb::hex(0xf4ead2));
}
