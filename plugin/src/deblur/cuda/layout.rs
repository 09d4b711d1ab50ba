//! Raw formats as tensors: the samples of a frame in a GPU's memory to R'G'B' and, after the model, what it changed back to
//! samples.
//!
//! As on the CPU (see `difference`), nothing but the model changes a frame: its samples are those that came in plus the model's
//! change in their terms, so that what the model leaves alone keeps its bits. Only libtorch's operations are used, which compute the
//! same on a CPU; that is how they are tested.

use gst_video::{
    VideoChromaSite, VideoColorMatrix, VideoColorRange, VideoFormatFlags, VideoFormatInfo, VideoInfo,
};
use osdd::Result;
use tch::{Kind, Tensor};

use crate::deblur::formats::with_known_colorimetry;
use crate::deblur::planes::{self, PlaneSize};

/// Of the element's formats, those that GStreamer has in a GPU's memory, since 1.22 and since 1.24.
#[rustfmt::skip]
const FORMATS: [&str; 24] = [
    "NV12", "I420", "YV12", "NV21", "Y42B", "YUY2", "UYVY", "Y444",
    "RGB", "BGR", "RGBx", "BGRx", "GBR", "RGBA", "BGRA", "ARGB", "ABGR", "GBRA",
    "P010_10LE", "I420_10LE", "I422_10LE", "I422_12LE", "P016_LE", "Y444_16LE",
];
const FORMATS_SINCE_1_24: [&str; 6] = [
    "P012_LE",
    "I420_12LE",
    "Y444_10LE",
    "Y444_12LE",
    "GBR_10LE",
    "GBR_12LE",
];

/// Those that there are. A pool for any other ends the program.
pub(crate) fn formats() -> impl Iterator<Item = &'static str> {
    let (major, minor, ..) = gst::version();
    let more: &[&str] = match (major, minor) < (1, 24) {
        true => &[],
        false => &FORMATS_SINCE_1_24,
    };
    FORMATS.iter().chain(more).copied()
}

/// Where the samples of one colour are in memory, and what their numbers mean.
pub(super) struct Samples {
    width: i64,
    height: i64,
    /// In bytes, as are the steps from one sample, and from one line, to the next.
    offset: i64,
    step: i64,
    stride: i64,
    /// Two bytes each, with `shift` bits of no meaning below.
    wide: bool,
    shift: i64,
    /// The largest number.
    max: i64,
    /// The number that stands for 0, and how many are between that and 1.
    zero: f64,
    scale: f64,
    /// Of axis 0, the lines, and axis 1: one sample for two pixels, and whether it lies on the first of them or between.
    halved: [bool; 2],
    cosited: [bool; 2],
}

impl Samples {
    fn of(info: &VideoInfo, component: u8) -> Option<Self> {
        let format: VideoFormatInfo = info.format_info();
        let at = usize::from(component);
        let (depth, shift) = (*format.depth().get(at)?, *format.shift().get(at)?);
        let (w_sub, h_sub) = (*format.w_sub().get(at)?, *format.h_sub().get(at)?);
        if !(8..=16).contains(&depth) || w_sub > 1 || h_sub > 1 {
            return None;
        }
        let within = match (depth > 8, info.comp_poffset(component) as usize) {
            // GStreamer (1.22) counts samples of two bytes in P010 and P016.
            (true, samples) if samples % 2 == 1 => 2 * samples,
            (_, bytes) => bytes,
        };
        let site = info.chroma_site();
        let chroma = component > 0 && !info.is_rgb();
        let unit = f64::from(1_u32 << (depth - 8));
        let max = (1_i64 << depth) - 1;
        let (zero, scale) = match (info.colorimetry().range(), chroma) {
            (VideoColorRange::Range16_235, false) => (16.0 * unit, 219.0 * unit),
            (VideoColorRange::Range16_235, true) => (128.0 * unit, 224.0 * unit),
            (_, false) => (0.0, max as f64),
            (_, true) => (128.0 * unit, max as f64),
        };
        Some(Self {
            width: info.comp_width(component).into(),
            height: info.comp_height(component).into(),
            offset: (info.offset()[info.comp_plane(component) as usize] + within) as i64,
            step: info.comp_pstride(component).into(),
            stride: info.comp_stride(component).into(),
            wide: depth > 8,
            shift: shift.into(),
            max,
            zero,
            scale,
            halved: [h_sub == 1, w_sub == 1],
            cosited: [
                site.contains(VideoChromaSite::V_COSITED),
                site.contains(VideoChromaSite::H_COSITED),
            ],
        })
    }

    /// The samples as they are in `memory`, `[lines, columns]`, without a copy. Two bytes are a signed number.
    fn view(&self, memory: &Tensor) -> Result<Tensor> {
        let bytes = if self.wide { 2 } else { 1 };
        let memory = match self.wide {
            true => memory.f_view_dtype(Kind::Int16)?,
            false => memory.shallow_clone(),
        };
        let strides = [self.stride / bytes, self.step / bytes];
        Ok(memory.f_as_strided([self.height, self.width], strides, self.offset / bytes)?)
    }

    /// The numbers, int32.
    pub fn numbers(&self, memory: &Tensor) -> Result<Tensor> {
        let raw = self.view(memory)?.f_to_kind(Kind::Int)?;
        match self.wide {
            true => Ok(raw
                .f_bitwise_right_shift_tensor_scalar(self.shift)?
                .f_bitwise_and(self.max)?),
            false => Ok(raw),
        }
    }

    #[cfg(test)]
    pub fn max(&self) -> i64 {
        self.max
    }

    /// What they mean, `[H, W]` for every pixel of a frame of that size.
    fn values(&self, memory: &Tensor, [height, width]: [i64; 2]) -> Result<Tensor> {
        let numbers = self.numbers(memory)?.f_to_kind(Kind::Float)?;
        let mut values = numbers.f_sub_scalar(self.zero)?.f_mul_scalar(1.0 / self.scale)?;
        for axis in (0..2).filter(|&axis| self.halved[axis]) {
            values = doubled(&values, axis as i64, self.cosited[axis])?;
        }
        Ok(values.f_narrow(0, 0, height)?.f_narrow(1, 0, width)?)
    }

    /// Adds a change of every pixel's value to the samples.
    fn change(&self, memory: &Tensor, change: &Tensor) -> Result<()> {
        let mut change = change.shallow_clone();
        for axis in (0..2).filter(|&axis| self.halved[axis]) {
            change = halved(&change, axis as i64, self.cosited[axis])?;
        }
        let steps = change.f_mul_scalar(self.scale)?.f_round()?.f_to_kind(Kind::Int)?;
        let before = self.numbers(memory)?;
        let after = (before.f_add(&steps)?).f_clamp(0, self.max)?;
        let difference = after
            .f_sub(&before)?
            .f_bitwise_left_shift_tensor_scalar(self.shift)?;
        // Two bytes wrap around as they should: the sum is that of unsigned numbers.
        let mut samples = self.view(memory)?;
        let sum = samples.f_to_kind(Kind::Int)?.f_add(&difference)?;
        samples.f_copy_(&sum.f_to_kind(samples.kind())?)?;
        Ok(())
    }
}

/// Twice as many, linearly interpolated; the ends are repeated.
fn doubled(samples: &Tensor, axis: i64, cosited: bool) -> Result<Tensor> {
    let count = samples.size()[axis as usize];
    let first = samples.f_narrow(axis, 0, 1)?;
    let last = samples.f_narrow(axis, count - 1, 1)?;
    let before = Tensor::f_cat(&[&first, &samples.f_narrow(axis, 0, count - 1)?], axis)?;
    let after = Tensor::f_cat(&[&samples.f_narrow(axis, 1, count - 1)?, &last], axis)?;
    let (even, odd) = match cosited {
        true => (samples.shallow_clone(), samples.f_lerp(&after, 0.5)?),
        false => (samples.f_lerp(&before, 0.25)?, samples.f_lerp(&after, 0.25)?),
    };
    let mut size = samples.size();
    size[axis as usize] *= 2;
    Ok(Tensor::f_stack(&[even, odd], axis + 1)?.f_reshape(size)?)
}

/// Half as many, filtered as [`doubled`] interpolates; the ends are repeated.
fn halved(values: &Tensor, axis: i64, cosited: bool) -> Result<Tensor> {
    let count = values.size()[axis as usize];
    let last = values.f_narrow(axis, count - 1, 1)?;
    let even = values.f_slice(axis, 0, count, 2)?;
    let next = Tensor::f_cat(&[values, &last], axis)?.f_slice(axis, 1, count + 1, 2)?;
    if !cosited {
        return Ok(even.f_lerp(&next, 0.5)?);
    }
    let first = values.f_narrow(axis, 0, 1)?;
    let previous = Tensor::f_cat(&[&first, values], axis)?.f_slice(axis, 0, count, 2)?;
    Ok(even.f_lerp(&previous.f_lerp(&next, 0.5)?, 0.5)?)
}

/// How a frame lies in memory without gaps between planes, and what its samples mean.
pub(crate) struct Layout {
    info: VideoInfo,
    colours: [Samples; 3],
    /// Shares of red and blue in the luma; `None` for R'G'B'.
    red_and_blue: Option<(f64, f64)>,
}

impl Layout {
    /// `None` for a format whose samples are not single numbers, which are not wanted here, and for interlaced frames.
    pub fn of(info: &VideoInfo) -> Option<Self> {
        let known = with_known_colorimetry(info).ok()?;
        let flags = known.format_info().flags();
        if known.is_interlaced() || known.n_components() < 3 || flags.contains(VideoFormatFlags::COMPLEX) {
            return None;
        }
        let red_and_blue = match known.colorimetry().matrix() {
            _ if known.is_rgb() => None,
            // Luma and chroma as they are, as GStreamer does.
            VideoColorMatrix::Rgb | VideoColorMatrix::Unknown => return None,
            matrix => Some(matrix.kr_kb().ok()?),
        };
        let samples = |component| Samples::of(&known, component);
        Some(Self {
            colours: [samples(0)?, samples(1)?, samples(2)?],
            red_and_blue,
            info: known,
        })
    }

    /// Bytes of a frame.
    pub fn bytes(&self) -> usize {
        self.info.size()
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    #[cfg(test)]
    pub(super) fn samples(&self) -> &[Samples; 3] {
        &self.colours
    }

    /// Offset, bytes from line to line, and size of each plane.
    pub fn planes(&self) -> impl Iterator<Item = (usize, usize, PlaneSize)> {
        (0..self.info.n_planes()).filter_map(|plane| {
            let size = PlaneSize::of(&self.info, plane)?;
            let stride = planes::stride(self.info.stride(), plane);
            Some((self.info.offset()[plane as usize], stride, size))
        })
    }

    /// R'G'B' of the frame in `memory`, bytes, as the engine takes it: `[1, 3, H, W]`, float32, in [-1, 1], channels-last.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn to_rgb(&self, memory: &Tensor) -> Result<Tensor> {
        let size = [self.info.height().into(), self.info.width().into()];
        let values = |colour: &Samples| colour.values(memory, size);
        let [first, second, third] = [0, 1, 2].map(|colour| values(&self.colours[colour]));
        let (first, second, third) = (first?, second?, third?);
        let rgb = match self.red_and_blue {
            None => [first, second, third],
            Some((kr, kb)) => {
                let kg = 1.0 - kr - kb;
                let red = third.f_mul_scalar(2.0 * (1.0 - kr))?;
                let blue = second.f_mul_scalar(2.0 * (1.0 - kb))?;
                // What red and blue have more than luma, green has less.
                let green = red.f_mul_scalar(-kr / kg)?.f_add(&blue.f_mul_scalar(-kb / kg)?)?;
                [first.f_add(&red)?, first.f_add(&green)?, first.f_add(&blue)?]
            }
        };
        let pixels = Tensor::f_stack(&rgb, 2)?.f_clamp(0.0, 1.0)?;
        let pixels = pixels.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        Ok(pixels.f_unsqueeze(0)?.f_permute([0, 3, 1, 2])?)
    }

    /// Changes the frame in `memory` by as much as `after` differs from `before`, both as [`Self::to_rgb`] gives them.
    ///
    /// # Errors
    /// Too little memory, or a failure of the device.
    pub fn change(&self, memory: &Tensor, before: &Tensor, after: &Tensor) -> Result<()> {
        let change = after.f_clamp(-1.0, 1.0)?.f_sub(before)?.f_mul_scalar(0.5)?;
        let [red, green, blue] =
            [0, 1, 2].map(|colour| change.f_select(1, colour).and_then(|one| one.f_select(0, 0)));
        let (red, green, blue) = (red?, green?, blue?);
        let changes = match self.red_and_blue {
            None => [red, green, blue],
            Some((kr, kb)) => {
                let green = green.f_mul_scalar(1.0 - kr - kb)?;
                let luma = (red.f_mul_scalar(kr)?.f_add(&green)?).f_add(&blue.f_mul_scalar(kb)?)?;
                let blue = blue.f_sub(&luma)?.f_mul_scalar(0.5 / (1.0 - kb))?;
                let red = red.f_sub(&luma)?.f_mul_scalar(0.5 / (1.0 - kr))?;
                [luma, blue, red]
            }
        };
        for (colour, change) in self.colours.iter().zip(&changes) {
            colour.change(memory, change)?;
        }
        Ok(())
    }
}
