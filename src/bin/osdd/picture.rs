//! Image files to frames and back, with what a viewer needs to show the result like the original: depth, transparency,
//! gray, colour profile, orientation.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::codecs::bmp::{BmpDecoder, BmpEncoder};
use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::codecs::tiff::{TiffDecoder, TiffEncoder};
use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageEncoder, ImageFormat, Limits};
use osdd::frame::{Frame, PixelFormat};

use crate::{report, tiff};

const JPEG_QUALITY: u8 = 95;
/// A panorama of 300 megapixels with 16 bits fits; a decompression bomb does not.
const MAX_DECODED_BYTES: u64 = 4 << 30;

pub(crate) fn can_read(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Jpeg, Png, Tiff, WebP};
    matches!(format, Png | Jpeg | WebP | Tiff | Bmp)
}

pub(crate) fn can_write(format: ImageFormat) -> bool {
    can_read(format)
}

/// What an image file says besides its pixels.
pub(crate) struct Origin {
    gray: bool,
    format: ImageFormat,
    icc_profile: Option<Vec<u8>>,
    exif: Option<Vec<u8>>,
    orientation: Orientation,
}

/// A picture as it lies in its file, or turned as it is to be seen.
///
/// # Errors
/// The file cannot be read or decoded, or holds more than one still picture.
pub(crate) fn read(path: &Path, upright: bool) -> Result<(Frame, Origin)> {
    decode(path)
        .and_then(|(mut image, mut origin)| {
            if upright {
                origin.turn(&mut image);
            }
            if origin.format == ImageFormat::Jpeg && is_cut_short(&std::fs::read(path)?) {
                report::warning(format_args!(
                    "{} is cut short: the lower part of the picture is missing",
                    path.display()
                ));
            }
            Ok((to_frame(&image)?, origin))
        })
        .with_context(|| format!("cannot read {}", path.display()))
}

/// What a JPEG segment holds behind EXIF's six letters.
const JPEG_EXIF_BYTES: usize = 65_527;
/// A WebP picture's side.
const WEBP_SIDE: usize = 16_383;

/// Whether `format` holds a frame.
///
/// # Errors
/// Why not.
pub(crate) fn check(frame: &Frame, format: ImageFormat) -> Result<()> {
    match format {
        ImageFormat::Jpeg => ensure!(
            is_opaque(frame),
            "JPEG holds no transparency; choose png, webp or tiff"
        ),
        ImageFormat::WebP => ensure!(
            frame.width.max(frame.height) <= WEBP_SIDE,
            "WebP holds at most {WEBP_SIDE} pixels a side; choose png or tiff"
        ),
        _ => {}
    }
    Ok(())
}

impl Origin {
    /// Turns a picture as it is to be seen, and says so no more.
    fn turn(&mut self, image: &mut DynamicImage) {
        image.apply_orientation(self.orientation);
        self.orientation = Orientation::NoTransforms;
        if let Some(exif) = &mut self.exif {
            let _ = Orientation::remove_from_exif_chunk(exif);
        }
    }

    /// Encodes `frame` into `path`, whatever its extension, as `format`.
    ///
    /// # Errors
    /// The format cannot hold the picture, or the file cannot be written.
    pub fn write(mut self, frame: Frame, path: &Path, format: ImageFormat) -> Result<()> {
        check(&frame, format)?;
        let mut image = adapt(from_frame(frame, self.gray)?, format);
        // The same format can say again how the picture is to be turned; another might not, so the pixels turn.
        let keeps_exif = matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP);
        if !(keeps_exif && self.exif.is_some() && format == self.format) {
            self.turn(&mut image);
        }
        let mut exif = self.exif;
        if format == ImageFormat::Jpeg && exif.as_ref().is_some_and(|exif| exif.len() > JPEG_EXIF_BYTES) {
            report::warning("JPEG holds 64 KB of EXIF, and this is more: it is left out");
            exif = None;
        }
        let icc_profile = self.icc_profile.filter(|profile| profile_fits(profile, &image));
        let mut file = BufWriter::new(File::create(path)?);
        let writer = &mut file;
        match format {
            ImageFormat::Png => {
                let encoder =
                    PngEncoder::new_with_quality(writer, CompressionType::Default, FilterType::Adaptive);
                encode(encoder, &image, icc_profile, exif)?;
            }
            ImageFormat::Jpeg => {
                encode(
                    JpegEncoder::new_with_quality(writer, JPEG_QUALITY),
                    &image,
                    icc_profile,
                    exif,
                )?;
            }
            ImageFormat::WebP => encode(WebPEncoder::new_lossless(writer), &image, icc_profile, exif)?,
            ImageFormat::Tiff => encode(TiffEncoder::new(writer), &image, icc_profile, exif)?,
            ImageFormat::Bmp => encode(BmpEncoder::new(writer), &image, icc_profile, exif)?,
            other => bail!("{other:?} images cannot be written"),
        }
        file.flush()?;
        Ok(())
    }
}

/// Whether nothing can be seen through a frame.
fn is_opaque(frame: &Frame) -> bool {
    let opaque = |pixel: usize, sample: usize| {
        let pixels = frame.data.chunks_exact(pixel);
        pixels
            .into_iter()
            .all(|pixel| pixel.ends_with(&[0xff, 0xff][..sample]))
    };
    match frame.format {
        PixelFormat::Rgb8 | PixelFormat::Rgb16 => true,
        PixelFormat::Rgba8 => opaque(4, 1),
        PixelFormat::Rgba16 => opaque(8, 2),
    }
}

/// Whether the data of a JPEG file breaks off: its decoder then makes up the rest. Behind the first scan's header nothing looks like
/// the marker that ends the picture; thumbnails lie before it.
fn is_cut_short(file: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = file.get(at..at + 4) {
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        if marker == 0xda {
            let data = file.get(at..).unwrap_or_default();
            return !data.windows(2).any(|bytes| bytes == [0xff, 0xd9]);
        }
    }
    // Something else is wrong with it, or unusual; that is the decoder's to say.
    false
}

/// The pixels of an image for measurements: upright, colour only, 16 bits where the file has them.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_rgb(path: &Path) -> Result<DynamicImage> {
    let (mut image, origin) = decode(path).with_context(|| format!("cannot read {}", path.display()))?;
    image.apply_orientation(origin.orientation);
    Ok(match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => image.into_rgb16().into(),
        image => image.into_rgb8().into(),
    })
}

fn decode(path: &Path) -> Result<(DynamicImage, Origin)> {
    let reader = image::ImageReader::open(path)?.with_guessed_format()?;
    let format = reader.format().context("not an image that osdd knows")?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let file = reader.into_inner();
    match format {
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, limits.clone())?;
            ensure!(!decoder.is_apng()?, "an animated PNG; make a video of it first");
            finish(decoder, format, limits)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file)?;
            ensure!(
                !decoder.has_animation(),
                "an animated WebP; make a video of it first"
            );
            finish(decoder, format, limits)
        }
        ImageFormat::Jpeg => finish(JpegDecoder::new(file)?, format, limits),
        ImageFormat::Tiff => {
            let tags = tiff::tags(BufReader::new(File::open(path)?)).unwrap_or_default();
            ensure!(!tags.has_more_pages, "it has several pages; split it first");
            let (image, mut origin) = finish(TiffDecoder::new(file)?, format, limits)?;
            origin.icc_profile = tags.icc_profile.or(origin.icc_profile);
            Ok((image, origin))
        }
        ImageFormat::Bmp => finish(BmpDecoder::new(file)?, format, limits),
        other => bail!("{other:?} images are not supported"),
    }
}

fn finish(
    mut decoder: impl ImageDecoder,
    format: ImageFormat,
    limits: Limits,
) -> Result<(DynamicImage, Origin)> {
    decoder.set_limits(limits)?;
    let origin = Origin {
        gray: !decoder.color_type().has_color(),
        format,
        icc_profile: decoder.icc_profile().unwrap_or_default(),
        exif: decoder.exif_metadata().unwrap_or_default(),
        orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    Ok((DynamicImage::from_decoder(decoder)?, origin))
}

/// # Errors
/// The pixels are floating-point numbers.
pub(crate) fn to_frame(image: &DynamicImage) -> Result<Frame> {
    let (format, image) = match image {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) => {
            (PixelFormat::Rgb8, &image.to_rgb8().into())
        }
        DynamicImage::ImageLumaA8(_) | DynamicImage::ImageRgba8(_) => {
            (PixelFormat::Rgba8, &image.to_rgba8().into())
        }
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_) => {
            (PixelFormat::Rgb16, &image.to_rgb16().into())
        }
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => {
            (PixelFormat::Rgba16, &image.to_rgba16().into())
        }
        _ => bail!("the pixels are floating-point numbers; convert the image to 16 bits first"),
    };
    let image: &DynamicImage = image;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Frame::from_data(
        width,
        height,
        format,
        image.as_bytes().to_vec(),
    )?)
}

/// The image of a frame; of its luma where `gray`.
///
/// # Errors
/// The frame's data does not fit its size.
pub(crate) fn from_frame(frame: Frame, gray: bool) -> Result<DynamicImage> {
    let (width, height) = (u32::try_from(frame.width)?, u32::try_from(frame.height)?);
    let words = |data: Vec<u8>| {
        data.chunks_exact(2)
            .map(|two| u16::from_ne_bytes([two[0], two[1]]))
            .collect::<Vec<_>>()
    };
    let image = match frame.format {
        PixelFormat::Rgb8 => ImageBuffer::from_raw(width, height, frame.data).map(DynamicImage::ImageRgb8),
        PixelFormat::Rgba8 => ImageBuffer::from_raw(width, height, frame.data).map(DynamicImage::ImageRgba8),
        PixelFormat::Rgb16 => {
            ImageBuffer::from_raw(width, height, words(frame.data)).map(DynamicImage::ImageRgb16)
        }
        PixelFormat::Rgba16 => {
            ImageBuffer::from_raw(width, height, words(frame.data)).map(DynamicImage::ImageRgba16)
        }
    }
    .context("the engine gave a frame of the wrong size")?;
    Ok(match frame.format {
        _ if !gray => image,
        PixelFormat::Rgb8 => image.into_luma8().into(),
        PixelFormat::Rgba8 => image.into_luma_alpha8().into(),
        PixelFormat::Rgb16 => image.into_luma16().into(),
        PixelFormat::Rgba16 => image.into_luma_alpha16().into(),
    })
}

/// The nearest that the output format holds.
fn adapt(image: DynamicImage, format: ImageFormat) -> DynamicImage {
    let image = match format {
        ImageFormat::Png | ImageFormat::Tiff => image,
        ImageFormat::Jpeg if image.color().has_color() => image.into_rgb8().into(),
        ImageFormat::Jpeg => image.into_luma8().into(),
        _ => match image {
            DynamicImage::ImageLuma16(_) => image.into_luma8().into(),
            DynamicImage::ImageLumaA16(_) => image.into_luma_alpha8().into(),
            DynamicImage::ImageRgb16(_) => image.into_rgb8().into(),
            DynamicImage::ImageRgba16(_) => image.into_rgba8().into(),
            image => image,
        },
    };
    match image {
        // The TIFF encoder knows no gray with alpha.
        DynamicImage::ImageLumaA8(_) if format == ImageFormat::Tiff => image.into_rgba8().into(),
        DynamicImage::ImageLumaA16(_) if format == ImageFormat::Tiff => image.into_rgba16().into(),
        image => image,
    }
}

/// A CMYK photo has become RGB by now; its profile would spoil it.
fn profile_fits(profile: &[u8], image: &DynamicImage) -> bool {
    let space: &[u8] = if image.color().has_color() {
        b"RGB "
    } else {
        b"GRAY"
    };
    profile.get(16..20) == Some(space)
}

fn encode(
    mut encoder: impl ImageEncoder,
    image: &DynamicImage,
    icc: Option<Vec<u8>>,
    exif: Option<Vec<u8>>,
) -> Result<()> {
    // BMP holds neither, TIFF only the profile: those formats say so here and lose nothing that a viewer needs.
    if let Some(icc) = icc {
        let _ = encoder.set_icc_profile(icc);
    }
    if let Some(exif) = exif {
        let _ = encoder.set_exif_metadata(exif);
    }
    encoder.write_image(
        image.as_bytes(),
        image.width(),
        image.height(),
        image.color().into(),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: u32, height: u32) -> DynamicImage {
        ImageBuffer::from_fn(width, height, |x, y| {
            image::Rgb([(x * 9) as u8, (y * 9) as u8, 77])
        })
        .into()
    }

    #[test]
    fn every_layout_survives_a_frame() {
        let rgb = ramp(5, 3);
        for image in [
            DynamicImage::from(rgb.to_luma8()),
            rgb.to_luma_alpha8().into(),
            rgb.to_rgb8().into(),
            rgb.to_rgba8().into(),
            rgb.to_luma16().into(),
            rgb.to_luma_alpha16().into(),
            rgb.to_rgb16().into(),
            rgb.to_rgba16().into(),
        ] {
            let back = from_frame(to_frame(&image).unwrap(), !image.color().has_color()).unwrap();
            assert_eq!(back, image);
        }
    }

    /// A little-endian TIFF header with one entry, Orientation.
    fn exif(orientation: u16) -> Vec<u8> {
        let mut chunk = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        chunk.extend(orientation.to_le_bytes());
        chunk.extend([0; 6]);
        chunk
    }

    #[test]
    fn orientation_is_kept_by_the_same_format_and_applied_by_another() {
        use ImageFormat::{Bmp, Jpeg, Png, Tiff, WebP};

        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for source in [Png, Jpeg, WebP] {
            let image = ramp(8, 4);
            let origin = Origin {
                gray: false,
                format: source,
                icc_profile: None,
                exif: Some(exif(6)),
                orientation: Orientation::Rotate90,
            };
            origin.write(to_frame(&image).unwrap(), &from, source).unwrap();
            for target in [Png, Jpeg, WebP, Tiff, Bmp] {
                let (frame, origin) = read(&from, false).unwrap();
                assert_eq!(origin.orientation, Orientation::Rotate90, "{source:?}");
                origin.write(frame, &to, target).unwrap();
                let (frame, origin) = read(&to, false).unwrap();
                let kept = (8, Orientation::Rotate90);
                let applied = (4, Orientation::NoTransforms);
                let expected = if source == target { kept } else { applied };
                assert_eq!(
                    (frame.width, origin.orientation),
                    expected,
                    "{source:?} to {target:?}"
                );
            }
        }
    }

    #[test]
    fn a_comparison_is_upright() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("from.jpg");
        let origin = Origin {
            gray: false,
            format: ImageFormat::Jpeg,
            icc_profile: None,
            exif: Some(exif(6)),
            orientation: Orientation::Rotate90,
        };
        let frame = to_frame(&ramp(8, 4)).unwrap();
        origin.write(frame, &path, ImageFormat::Jpeg).unwrap();
        let (frame, origin) = read(&path, true).unwrap();
        assert_eq!((frame.width, frame.height), (4, 8));
        origin.write(frame, &path, ImageFormat::Jpeg).unwrap();
        let (frame, origin) = read(&path, false).unwrap();
        assert_eq!((frame.width, origin.orientation), (4, Orientation::NoTransforms));
    }

    #[test]
    fn a_jpeg_takes_what_is_opaque_and_as_much_exif_as_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("to.jpg");
        let origin = |exif| Origin {
            gray: false,
            format: ImageFormat::Png,
            icc_profile: None,
            exif,
            orientation: Orientation::NoTransforms,
        };
        let rgba: DynamicImage = ramp(8, 4).to_rgba8().into();
        let mut frame = to_frame(&rgba).unwrap();
        for length in [JPEG_EXIF_BYTES, JPEG_EXIF_BYTES + 1] {
            let mut chunk = exif(1);
            chunk.resize(length, 0);
            origin(Some(chunk))
                .write(frame.clone(), &path, ImageFormat::Jpeg)
                .unwrap();
            let (read, origin) = read(&path, false).unwrap();
            assert_eq!(read.width, 8);
            assert_eq!(origin.exif.is_some(), length == JPEG_EXIF_BYTES);
        }
        frame.data[7] = 254;
        let error = check(&frame, ImageFormat::Jpeg).unwrap_err();
        assert!(error.to_string().contains("transparency"));
        assert!(check(&frame, ImageFormat::WebP).is_ok());
    }

    #[test]
    fn a_colour_profile_is_kept_where_it_fits() {
        let mut profile = vec![0; 128];
        profile[16..20].copy_from_slice(b"RGB ");
        assert!(profile_fits(&profile, &ramp(2, 2)));
        assert!(!profile_fits(&profile, &ramp(2, 2).to_luma8().into()));
        profile[16..20].copy_from_slice(b"CMYK");
        assert!(!profile_fits(&profile, &ramp(2, 2)));
    }
}
