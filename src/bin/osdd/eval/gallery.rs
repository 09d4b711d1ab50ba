//! The pictures of the page: one crop of each shown image at full resolution, as it goes in, as it should be, and as each
//! model gives it.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, RgbImage};
use osdd::frame::Frame;

use super::figures::Method;
use super::pairs::{Files, Pair};
use crate::picture;

/// High enough that what one sees is the model's work.
const JPEG_QUALITY: u8 = 90;
/// Long side of the picture that shows where the crop is.
const OVERVIEW_SIDE: u32 = 160;
/// The search for the crop looks at the image this many times smaller, where noise is averaged away.
const SHRINK: u32 = 4;
/// Step of that search, in pixels of the small image.
const STEP: u32 = 4;

/// How much is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct GallerySize {
    /// Most images.
    pub images: usize,
    /// Widest crop in pixels; 0 for whole images.
    pub width: u32,
}

pub(super) struct Gallery {
    pub exhibits: Vec<Exhibit>,
}

/// One image in all its versions.
pub(super) struct Exhibit {
    /// Which of the measured images it is.
    pub image: usize,
    /// Of the whole image.
    pub size: (u32, u32),
    pub crop: Crop,
    /// The whole input, small, where the crop is only a part of it.
    pub overview: Option<String>,
    pub versions: Vec<Version>,
}

pub(super) struct Version {
    pub method: Method,
    /// `data:` URI of the crop.
    pub uri: String,
}

/// In pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crop {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Gallery {
    /// Inputs and truths of images taken evenly from `pairs`.
    ///
    /// # Errors
    /// An image cannot be read.
    pub fn open(pairs: &[Pair], size: GallerySize) -> Result<Self> {
        let exhibits = evenly(pairs.len(), size.images)
            .map(|image| Exhibit::open(image, &pairs[image], size.width))
            .collect::<Result<_>>()?;
        Ok(Self { exhibits })
    }

    /// What a model made of an image, where that is shown.
    ///
    /// # Errors
    /// The picture cannot be encoded.
    pub fn add(&mut self, image: usize, method: Method, frame: &Frame) -> Result<()> {
        match self.exhibits.iter_mut().find(|exhibit| exhibit.image == image) {
            Some(exhibit) => exhibit.add(method, &rgb(frame)?),
            None => Ok(()),
        }
    }
}

impl Exhibit {
    fn open(image: usize, pair: &Pair, width: u32) -> Result<Self> {
        let pixels = pair.read()?;
        let input = rgb(&pixels.input)?;
        let truth = pixels.truth.as_ref().map(rgb).transpose()?;
        let crop = most_detailed(truth.as_ref().unwrap_or(&input), width);
        let size = input.dimensions();
        let partial = size != (crop.width, crop.height);
        let overview = partial.then(|| {
            let whole = DynamicImage::from(input.clone());
            jpeg(
                &whole
                    .resize(OVERVIEW_SIDE, OVERVIEW_SIDE, FilterType::Triangle)
                    .into_rgb8(),
            )
        });
        let mut exhibit = Self {
            image,
            size,
            crop,
            overview: overview.transpose()?,
            versions: Vec::new(),
        };
        exhibit.add(Method::Input, &input)?;
        if let (Some(truth), Files::Both { .. }) = (truth, &pair.files) {
            exhibit.add(Method::Truth, &truth)?;
        }
        Ok(exhibit)
    }

    fn add(&mut self, method: Method, picture: &RgbImage) -> Result<()> {
        let Crop { x, y, width, height } = self.crop;
        let part = image::imageops::crop_imm(picture, x, y, width, height).to_image();
        self.versions.push(Version {
            method,
            uri: jpeg(&part)?,
        });
        Ok(())
    }
}

/// At most `wanted` of `count` indices, at equal distances.
fn evenly(count: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let wanted = wanted.min(count);
    (0..wanted).map(move |index| index * count / wanted)
}

fn rgb(frame: &Frame) -> Result<RgbImage> {
    Ok(picture::from_frame(frame.clone(), false)?.into_rgb8())
}

fn jpeg(picture: &RgbImage) -> Result<String> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(picture)?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

/// The part, at most `width` wide and two thirds as high, where neighbouring pixels differ most: blur is hard to judge in
/// the sky.
fn most_detailed(picture: &RgbImage, width: u32) -> Crop {
    let (full_width, full_height) = picture.dimensions();
    let mut crop = Crop {
        x: 0,
        y: 0,
        width: full_width,
        height: full_height,
    };
    if width == 0 {
        return crop;
    }
    crop.width = width.min(full_width);
    crop.height = (width * 2 / 3).clamp(1, full_height);
    let (room_x, room_y) = (full_width - crop.width, full_height - crop.height);
    let small = |side: u32| side.div_ceil(SHRINK);
    let luma = DynamicImage::from(picture.clone())
        .resize_exact(small(full_width), small(full_height), FilterType::Triangle)
        .into_luma8();
    let sums = Sums::of_detail(&luma);
    let positions = |room: u32| (0..=room / SHRINK).step_by(STEP as usize);
    let detail = |(x, y): &(u32, u32)| {
        sums.over(Crop {
            x: *x,
            y: *y,
            width: small(crop.width).min(luma.width() - x),
            height: small(crop.height).min(luma.height() - y),
        })
    };
    let best = positions(room_y)
        .flat_map(|y| positions(room_x).map(move |x| (x, y)))
        .max_by_key(detail);
    if let Some((x, y)) = best {
        (crop.x, crop.y) = (x * SHRINK, y * SHRINK);
    }
    crop
}

/// Summed-area table: an entry is the sum over everything above and to the left of it.
struct Sums {
    stride: usize,
    sums: Vec<u64>,
}

impl Sums {
    /// Of the absolute differences to the right and downwards.
    fn of_detail(luma: &GrayImage) -> Self {
        let (width, height) = luma.dimensions();
        let stride = width as usize + 1;
        let mut sums = vec![0; stride * (height as usize + 1)];
        let at = |x: u32, y: u32| luma.get_pixel(x.min(width - 1), y.min(height - 1))[0];
        for y in 0..height {
            let mut row = 0;
            for x in 0..width {
                let here = at(x, y);
                row += u64::from(here.abs_diff(at(x + 1, y))) + u64::from(here.abs_diff(at(x, y + 1)));
                let below = (y as usize + 1) * stride + x as usize + 1;
                sums[below] = sums[below - stride] + row;
            }
        }
        Self { stride, sums }
    }

    fn over(&self, crop: Crop) -> u64 {
        let at = |x: u32, y: u32| self.sums[y as usize * self.stride + x as usize];
        let (right, bottom) = (crop.x + crop.width, crop.y + crop.height);
        at(right, bottom) + at(crop.x, crop.y) - at(crop.x, bottom) - at(right, crop.y)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_crop_is_where_the_detail_is() {
        let picture = RgbImage::from_fn(300, 200, |x, y| {
            let textured = (160..240).contains(&x) && (96..140).contains(&y);
            Rgb([if textured && (x / 8 + y / 8) % 2 == 0 {
                255
            } else {
                90
            }; 3])
        });
        let crop = most_detailed(&picture, 90);
        assert_eq!((crop.width, crop.height), (90, 60));
        assert!(
            (144..=160).contains(&crop.x) && (80..=96).contains(&crop.y),
            "{crop:?}"
        );
        let small = most_detailed(&picture, 1000);
        assert_eq!((small.width, small.height), (300, 200));
        assert_eq!(most_detailed(&picture, 0), small);
    }

    #[test]
    fn images_are_taken_evenly() {
        let chosen = |count, wanted| evenly(count, wanted).collect::<Vec<_>>();
        assert_eq!(chosen(3, 12), [0, 1, 2]);
        assert_eq!(chosen(100, 4), [0, 25, 50, 75]);
        assert!(chosen(5, 0).is_empty());
    }
}
