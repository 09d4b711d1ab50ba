//! Real motion blur: consecutive frames of a high-frame-rate clip, averaged in linear light.
//!
//! The protocol of the GoPro dataset (Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic
//! Scene Deblurring", 2017): the mean of 7 to 13 successive 240 fps frames is the blurry image, the middle
//! one its sharp truth.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::error::DataError;
use super::image::Image8;
use super::picture::{Picture, Pictures};
use super::random::integer;

/// Consecutive sharp frames of one scene, all of one size.
#[derive(Clone, Debug)]
pub struct Clip {
    frames: Pictures,
}

/// Frames that make up one exposure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// Index of the first frame.
    pub first: usize,
    /// Frames averaged, odd: the middle frame then lies in the middle of the exposure in time.
    pub count: usize,
    /// Step between averaged frames.
    pub stride: usize,
}

impl Exposure {
    /// Position of the sharp truth among the averaged frames.
    pub fn middle(&self) -> usize {
        self.count / 2
    }
}

impl Clip {
    /// A clip from frames in order of time.
    ///
    /// # Errors
    /// [`DataError::ClipTooShort`] without frames, [`DataError::ClipFrameSize`] when a frame's size differs
    /// from the first.
    pub fn new<P: Into<Picture>>(frames: Vec<P>) -> Result<Self, DataError> {
        let frames: Pictures = frames.into_iter().collect();
        let Some(first) = frames.first() else {
            return Err(DataError::ClipTooShort { frames: 0, needed: 1 });
        };
        let expected = first.size();
        if let Some(index) = frames.iter().position(|frame| frame.size() != expected) {
            return Err(DataError::ClipFrameSize {
                index,
                got: frames[index].size(),
                expected,
            });
        }
        Ok(Self { frames })
    }

    /// All frames in order of time.
    pub fn frames(&self) -> &Pictures {
        &self.frames
    }

    /// Draws an exposure of `count` frames (rounded up to odd) at a step within `stride`, both inclusive
    /// ranges, anywhere in the clip. What does not fit is shortened, never below one frame.
    pub fn draw_exposure(&self, rng: &mut ChaCha8Rng, count: [usize; 2], stride: [usize; 2]) -> Exposure {
        let frames = self.frames.len();
        let count = (integer(rng, count[0], count[1]) | 1).min((frames - 1) | 1);
        let longest = if count > 1 {
            (frames - 1) / (count - 1)
        } else {
            stride[1]
        };
        let stride = integer(rng, stride[0], stride[1]).min(longest).max(1);
        let first = integer(rng, 0, frames - 1 - (count - 1) * stride);
        Exposure { first, count, stride }
    }

    /// Exposures one after the other from the first frame to the last, each of a drawn number of frames and step, as the
    /// GoPro dataset was made. What is left at the end and too short for `count` is not used.
    pub fn successive_exposures(
        &self,
        rng: &mut ChaCha8Rng,
        count: [usize; 2],
        stride: [usize; 2],
    ) -> Vec<Exposure> {
        let mut exposures = Vec::new();
        let mut first = 0;
        loop {
            let exposure = Exposure {
                first,
                count: integer(rng, count[0], count[1]) | 1,
                stride: integer(rng, stride[0], stride[1]),
            };
            let end = first + (exposure.count - 1) * exposure.stride + 1;
            if end > self.frames.len() {
                return exposures;
            }
            exposures.push(exposure);
            first = end;
        }
    }

    /// The frames of an exposure; for one that cannot be read the next in the clip.
    ///
    /// # Panics
    /// If the exposure reaches past the end of the clip, or no frame can be read.
    pub fn exposed(&self, exposure: &Exposure) -> Vec<Arc<Image8>> {
        (0..exposure.count)
            .map(|i| self.frames.load(exposure.first + i * exposure.stride).1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::planes::{Planes, Window};
    use super::super::random::sample_rng;
    use super::super::transfer::Response;
    use super::*;

    fn frame(level: u8) -> Image8 {
        Image8::new(8, 6, vec![level; 8 * 6 * 3]).unwrap()
    }

    const WHOLE: Window = Window {
        x: 0,
        y: 0,
        width: 8,
        height: 6,
        scale: 1.0,
    };

    #[test]
    fn identical_frames_average_to_themselves() {
        let pattern: Vec<u8> = (0..144).map(|v| (v * 7) as u8).collect();
        let clip = Clip::new(vec![Image8::new(8, 6, pattern.clone()).unwrap(); 13]).unwrap();
        let exposure = Exposure {
            first: 0,
            count: 13,
            stride: 1,
        };
        let mean =
            Planes::read_mean(&clip.exposed(&exposure), &WHOLE, Response::Srgb).encoded(Response::Srgb);
        for (i, value) in mean.iter().enumerate() {
            let level = pattern[(i % 48) * 3 + i / 48];
            assert_eq!((value * 255.0).round() as u8, level);
        }
    }

    #[test]
    fn the_mean_is_taken_in_linear_light() {
        let clip = Clip::new(vec![frame(0), frame(0), frame(255), frame(255)]).unwrap();
        let exposure = Exposure {
            first: 0,
            count: 4,
            stride: 1,
        };
        let mean =
            Planes::read_mean(&clip.exposed(&exposure), &WHOLE, Response::Srgb).encoded(Response::Srgb);
        // Half the light is encoded as 188, not as 128.
        assert_eq!((mean[0] * 255.0).round(), 188.0);
    }

    #[test]
    fn exposures_stay_inside_and_their_middle_is_the_truth() {
        for frames in [1, 2, 3, 12, 13, 40] {
            let clip = Clip::new((0..frames).map(|i| frame(i as u8)).collect()).unwrap();
            for index in 0..100 {
                let exposure = clip.draw_exposure(&mut sample_rng(0, index), [7, 13], [1, 3]);
                assert_eq!(exposure.count % 2, 1);
                let levels: Vec<u8> = clip
                    .exposed(&exposure)
                    .iter()
                    .map(|frame| frame.data[0])
                    .collect();
                let last = exposure.first + (exposure.count - 1) * exposure.stride;
                assert_eq!(usize::from(levels[exposure.middle()]) * 2, exposure.first + last);
                assert!(frames < 13 || exposure.count >= 7);
            }
        }
    }

    #[test]
    fn successive_exposures_share_no_frame() {
        let clip = Clip::new((0..50).map(frame).collect()).unwrap();
        let exposures = clip.successive_exposures(&mut sample_rng(1, 0), [7, 13], [1, 1]);
        assert!((3..=7).contains(&exposures.len()));
        for pair in exposures.windows(2) {
            assert_eq!(pair[0].first + pair[0].count, pair[1].first);
        }
        assert!(
            exposures
                .iter()
                .all(|e| e.count % 2 == 1 && e.first + e.count <= 50)
        );
    }

    #[test]
    fn frames_of_different_sizes_are_refused() {
        let odd = Image8::new(2, 2, vec![0; 12]).unwrap();
        assert!(matches!(
            Clip::new(vec![frame(1), odd]),
            Err(DataError::ClipFrameSize { index: 1, .. })
        ));
        assert!(Clip::new(Vec::<Image8>::new()).is_err());
    }
}
