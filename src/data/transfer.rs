//! Between 8-bit encoded values and linear light.
//!
//! A sensor integrates light, so blur is computed on linear values; images are stored with a response curve.
//! sRGB (IEC 61966-2-1) is what images say they are; a pure power of 2.2 is the usual stand-in for an unknown camera
//! response (Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring", 2017). Data sets
//! of averaged frames follow others: GoPro's plain `blur` images are means of the encoded values, and those of REDS
//! (Nah et al. 2019), with a curve measured of the camera, are close to an exponential one.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Response curve of the camera that made an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// The sRGB curve: linear toe, then a power of 2.4.
    #[default]
    Srgb,
    /// A power of 2.2 over the whole range.
    Gamma22,
    /// Encoded values are light.
    Linear,
    /// Light grows by the same factor with each level, as on film: `(e^(5 v) - 1) / (e^5 - 1)`.
    Exponential,
}

/// How many times light grows by a factor of e over the range of [`Response::Exponential`].
const GROWTH: f64 = 5.0;

impl Response {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Srgb, Self::Gamma22, Self::Linear, Self::Exponential];

    /// Linear light of an encoded value, both in `[0, 1]`; exact to float64.
    pub fn decode(self, encoded: f64) -> f64 {
        match self {
            Self::Srgb if encoded <= 0.04045 => encoded / 12.92,
            Self::Srgb => libm::pow((encoded + 0.055) / 1.055, 2.4),
            Self::Gamma22 => libm::pow(encoded, 2.2),
            Self::Linear => encoded,
            Self::Exponential => libm::expm1(GROWTH * encoded) / libm::expm1(GROWTH),
        }
    }

    /// Encoded value of linear light, both in `[0, 1]`; exact to float64.
    pub fn encode(self, linear: f64) -> f64 {
        match self {
            Self::Srgb if linear <= 0.003_130_8 => linear * 12.92,
            Self::Srgb => 1.055 * libm::pow(linear, 1.0 / 2.4) - 0.055,
            Self::Gamma22 => libm::pow(linear, 1.0 / 2.2),
            Self::Linear => linear,
            Self::Exponential => libm::log1p(linear * libm::expm1(GROWTH)) / GROWTH,
        }
    }

    /// The tables of this curve, computed once per process.
    pub fn tables(self) -> &'static TransferTables {
        static SRGB: LazyLock<TransferTables> = LazyLock::new(|| TransferTables::new(Response::Srgb));
        static GAMMA22: LazyLock<TransferTables> = LazyLock::new(|| TransferTables::new(Response::Gamma22));
        static LINEAR: LazyLock<TransferTables> = LazyLock::new(|| TransferTables::new(Response::Linear));
        static EXPONENTIAL: LazyLock<TransferTables> =
            LazyLock::new(|| TransferTables::new(Response::Exponential));
        match self {
            Self::Srgb => &SRGB,
            Self::Gamma22 => &GAMMA22,
            Self::Linear => &LINEAR,
            Self::Exponential => &EXPONENTIAL,
        }
    }
}

/// Intervals of the encoding table.
const ENCODE_STEPS: usize = 4096;

/// Look-up tables of one response curve.
///
/// They are computed in float64 by `libm`, whose powers are the same on every machine, and rounded.
pub struct TransferTables {
    decode: [f32; 256],
    /// Encoded values over the square root of the linear value: the curves are close to a straight line
    /// there, while over the linear value itself the power of 1/2.2 rises infinitely steeply at zero. One
    /// entry more than needed lets 1.0 interpolate without a special case.
    encode: Box<[f32; ENCODE_STEPS + 2]>,
}

impl TransferTables {
    fn new(response: Response) -> Self {
        let decode = std::array::from_fn(|level| response.decode(level as f64 / 255.0) as f32);
        let mut encode = Box::new([0.0; ENCODE_STEPS + 2]);
        for (step, value) in encode.iter_mut().enumerate() {
            let root = step as f64 / ENCODE_STEPS as f64;
            *value = response.encode(root * root) as f32;
        }
        Self { decode, encode }
    }

    /// Linear light in `[0, 1]` of an 8-bit level.
    #[inline]
    pub fn decode(&self, level: u8) -> f32 {
        self.decode[level as usize]
    }

    /// Encoded value in `[0, 1]` of linear light, which is clipped to `[0, 1]` first; within 1e-4 of the
    /// curve.
    #[inline]
    pub fn encode(&self, linear: f32) -> f32 {
        let position = linear.clamp(0.0, 1.0).sqrt() * ENCODE_STEPS as f32;
        let step = position as usize;
        let (low, high) = (self.encode[step], self.encode[step + 1]);
        low + (high - low) * (position - step as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_survive_the_round_trip() {
        for response in Response::ALL {
            let tables = response.tables();
            for level in 0..=255u8 {
                let back = tables.encode(tables.decode(level)) * 255.0;
                assert!(
                    (back - f32::from(level)).abs() < 0.0255,
                    "{response:?} {level} -> {back}"
                );
            }
        }
    }

    #[test]
    fn encoding_follows_the_curve_to_1e_4() {
        for response in Response::ALL {
            let tables = response.tables();
            for step in 0..=200_000 {
                // Cubed, to visit the steep dark end densely.
                let linear = (f64::from(step) / 200_000.0).powi(3);
                let error = (f64::from(tables.encode(linear as f32)) - response.encode(linear)).abs();
                assert!(error < 1e-4, "{response:?} at {linear}: {error}");
            }
        }
    }

    #[test]
    fn encoding_clips() {
        let tables = Response::Srgb.tables();
        assert_eq!(tables.encode(-0.5), 0.0);
        assert!((tables.encode(7.0) - 1.0).abs() < 1e-6);
    }
}
