//! Frames as they cross the engine's boundary: plain memory, no tensors.

use std::fmt;

use crate::{Error, Result};

/// Layout of a pixel. Samples are interleaved; 16-bit ones are native-endian, full scale 65535.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PixelFormat {
    Rgb8,
    Rgba8,
    Rgb16,
    Rgba16,
}

impl PixelFormat {
    /// Samples per pixel: 3, or 4 with alpha.
    pub fn channels(self) -> usize {
        match self {
            PixelFormat::Rgb8 | PixelFormat::Rgb16 => 3,
            PixelFormat::Rgba8 | PixelFormat::Rgba16 => 4,
        }
    }

    /// Bytes per sample: 1 or 2.
    pub fn bytes_per_sample(self) -> usize {
        match self {
            PixelFormat::Rgb8 | PixelFormat::Rgba8 => 1,
            PixelFormat::Rgb16 | PixelFormat::Rgba16 => 2,
        }
    }

    /// Bytes per pixel.
    pub fn bytes_per_pixel(self) -> usize {
        self.channels() * self.bytes_per_sample()
    }

    /// The largest value of a sample, which stands for 1.0.
    pub fn full_scale(self) -> f64 {
        match self.bytes_per_sample() {
            1 => 255.0,
            _ => 65535.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            PixelFormat::Rgb8 => "RGB, 8 bits",
            PixelFormat::Rgba8 => "RGBA, 8 bits",
            PixelFormat::Rgb16 => "RGB, 16 bits",
            PixelFormat::Rgba16 => "RGBA, 16 bits",
        }
    }
}

/// An image of packed rows: full-range R'G'B' as displayed. Alpha, where there is one, is carried through untouched.
#[derive(Clone, PartialEq)]
pub struct Frame {
    pub width: usize,
    pub height: usize,
    pub format: PixelFormat,
    /// `height` rows of `width * bytes_per_pixel` bytes.
    pub data: Vec<u8>,
}

/// Makes room for `length` bytes in all in memory that is filled afterwards.
///
/// # Errors
/// [`Error::NoMemory`], where Rust's own collections would end the process.
pub fn reserve(memory: &mut Vec<u8>, length: usize) -> Result<()> {
    let more = length.saturating_sub(memory.len());
    memory.try_reserve_exact(more).map_err(|_| Error::NoMemory {
        device: "cpu".into(),
        reason: format!("{length} bytes for a frame"),
    })
}

/// Without the pixels.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({}x{} {})", self.width, self.height, self.format.name())
    }
}

impl Frame {
    /// A black (and transparent) frame.
    pub fn new(width: usize, height: usize, format: PixelFormat) -> Self {
        Frame {
            width,
            height,
            format,
            data: vec![0; width * height * format.bytes_per_pixel()],
        }
    }

    /// A frame from packed rows.
    ///
    /// # Errors
    /// [`Error::FrameSize`] if `data` has not exactly the bytes of such a frame.
    pub fn from_data(width: usize, height: usize, format: PixelFormat, data: Vec<u8>) -> Result<Self> {
        let frame = Frame {
            width,
            height,
            format,
            data,
        };
        frame.check()?;
        Ok(frame)
    }

    /// The same frame again.
    ///
    /// # Errors
    /// [`Error::NoMemory`]
    pub fn try_clone(&self) -> Result<Self> {
        let mut data = Vec::new();
        reserve(&mut data, self.data.len())?;
        data.extend_from_slice(&self.data);
        Ok(Frame { data, ..*self })
    }

    /// Takes over the alpha of a frame of the same layout; nothing where there is none.
    pub(crate) fn take_alpha(&mut self, other: &Frame) {
        let (colour, pixel) = match self.format {
            PixelFormat::Rgb8 | PixelFormat::Rgb16 => return,
            PixelFormat::Rgba8 => (3, 4),
            PixelFormat::Rgba16 => (6, 8),
        };
        let pixels = self.data.chunks_exact_mut(pixel);
        for (to, from) in pixels.zip(other.data.chunks_exact(pixel)) {
            to[colour..].copy_from_slice(&from[colour..]);
        }
    }

    /// Whether size and format are those of `other`.
    pub(crate) fn has_layout_of(&self, other: &Frame) -> bool {
        (self.width, self.height, self.format) == (other.width, other.height, other.format)
    }

    /// Bytes per row.
    pub fn stride(&self) -> usize {
        self.width * self.format.bytes_per_pixel()
    }

    /// Whether the data fits the size.
    pub(crate) fn check(&self) -> Result<()> {
        let expected = self.stride() * self.height;
        if expected == 0 || self.data.len() != expected {
            return Err(Error::FrameSize {
                width: self.width,
                height: self.height,
                format: self.format.name(),
                expected,
                got: self.data.len(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_fit_the_size() {
        assert!(Frame::from_data(3, 2, PixelFormat::Rgb8, vec![0; 18]).is_ok());
        assert!(Frame::from_data(3, 2, PixelFormat::Rgb16, vec![0; 18]).is_err());
        assert!(Frame::from_data(0, 2, PixelFormat::Rgb8, vec![]).is_err());
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let mut memory = vec![1, 2, 3];
        reserve(&mut memory, 100).unwrap();
        assert!(memory.capacity() >= 100);
        let error = reserve(&mut memory, isize::MAX as usize).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NoMemory);
        assert_eq!(memory, [1, 2, 3]);
    }

    #[test]
    fn a_clone_is_the_same_frame() {
        let frame = Frame::from_data(1, 2, PixelFormat::Rgb8, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(frame.try_clone().unwrap(), frame);
    }
}
