//! Where on its source a sample is cut out.

use rand_chacha::ChaCha8Rng;

use super::image::Image8;
use super::kernel::Margins;
use super::mix::MixConfig;
use super::planes::Window;
use super::random::{chance, integer, uniform};

/// Source pixels between the points where the detail of a crop is measured.
const DETAIL_STEP: usize = 4;

/// How a sample gets its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// A square of the configured size, at a random scale and place.
    Random,
    /// This window, moved inwards where blur needs room around it.
    At(Window),
    /// The whole image, less what blur needs around the result.
    Whole,
}

impl Framing {
    /// The window before it is known how much room the blur needs.
    pub(super) fn window(
        &self,
        rng: &mut ChaCha8Rng,
        image: &Image8,
        config: &MixConfig,
        scale_share: f64,
    ) -> Window {
        match *self {
            Self::Random => draw_window(rng, image, config, scale_share),
            Self::At(window) => window,
            Self::Whole => Window {
                x: 0,
                y: 0,
                width: image.width,
                height: image.height,
                scale: 1.0,
            },
        }
    }

    /// The window with room for the blur inside the image, where the image is large enough.
    pub(super) fn with_room(&self, window: Window, margins: Margins, image: &Image8) -> Window {
        match self {
            Self::Random | Self::At(_) => window.moved_inside(margins, image.size()),
            Self::Whole => window.narrowed(margins),
        }
    }
}

/// A random scale and, of several random places, the one with most detail: a crop of sky teaches nothing
/// about blur.
fn draw_window(rng: &mut ChaCha8Rng, image: &Image8, config: &MixConfig, scale_share: f64) -> Window {
    let size = config.crop_size;
    let wanted = if chance(rng, scale_share) {
        uniform(rng, config.scale[0], config.scale[1])
    } else {
        1.0
    };
    // An image too small for that scale is shrunk less; one smaller than the crop is mirrored at its borders.
    let smallest = size as f64 / image.width.min(image.height) as f64;
    let scale = wanted.max(smallest).min(1.0);
    let covered = (size as f64 / scale).ceil() as usize;
    let candidates = integer(rng, 1, config.crop_candidates);
    let mut best: Option<(u64, usize, usize)> = None;
    for _ in 0..candidates {
        let x = integer(rng, 0, image.width.saturating_sub(covered));
        let y = integer(rng, 0, image.height.saturating_sub(covered));
        let detail = if candidates > 1 {
            detail(image, x, y, covered)
        } else {
            0
        };
        if best.is_none_or(|(most, ..)| detail > most) {
            best = Some((detail, x, y));
        }
    }
    let (_, x, y) = best.expect("at least one candidate");
    Window {
        x: x as i64,
        y: y as i64,
        width: size,
        height: size,
        scale,
    }
}

/// Sum of the absolute differences of green to the right and below, over a coarse grid of a square of source
/// pixels.
fn detail(image: &Image8, x: usize, y: usize, side: usize) -> u64 {
    let mut sum = 0;
    for row in (y..(y + side).min(image.height) - 1).step_by(DETAIL_STEP) {
        let (line, below) = (image.row(row), image.row(row + 1));
        for column in (x..(x + side).min(image.width) - 1).step_by(DETAIL_STEP) {
            let green = line[3 * column + 1];
            sum += u64::from(green.abs_diff(line[3 * column + 4]));
            sum += u64::from(green.abs_diff(below[3 * column + 1]));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_move_inside_only_where_there_is_room() {
        let margins = Margins {
            left: 4,
            right: 6,
            top: 2,
            bottom: 3,
        };
        let window = |x, y, scale| Window {
            x,
            y,
            width: 20,
            height: 20,
            scale,
        };
        let moved = |x, y, scale| {
            let Window { x, y, .. } = window(x, y, scale).moved_inside(margins, (64, 64));
            (x, y)
        };
        assert_eq!(moved(0, 0, 1.0), (4, 2));
        assert_eq!(moved(44, 44, 1.0), (38, 41));
        assert_eq!(moved(30, 17, 1.0), (30, 17));
        // At half scale the window covers 40 px and its margins twice theirs, the filter two more.
        assert_eq!(moved(0, 0, 0.5), (10, 6));
        assert_eq!(window(0, 0, 1.0).moved_inside(margins, (25, 64)).x, 0);
        let narrowed = window(0, 0, 1.0).narrowed(margins);
        assert_eq!(
            (narrowed.x, narrowed.y, narrowed.width, narrowed.height),
            (4, 2, 10, 15)
        );
    }
}
