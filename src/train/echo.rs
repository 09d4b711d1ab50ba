//! Crops seen more than once (Choi et al., "Faster Neural Network Training with Data Echoing", 2019).
//!
//! A crop is made, and a large teacher asked about it, in several times what a step of a small model takes. So each batch comes
//! back, turned another way each time, long after the model has seen it.

use std::collections::VecDeque;

use tch::Tensor;

use super::feed::{Feed, Uploaded};
use crate::Result;

/// A square has no more symmetries.
pub(super) const MOST: u64 = 8;

/// New batches between a batch and its next echo.
const APART: usize = 16;

/// What a batch teaches: images `[B, 3, S, S]` in [0, 1].
pub(super) struct Lesson {
    pub blurry: Tensor,
    pub sharp: Tensor,
    /// What the teacher makes of the blurry ones.
    pub taught: Option<Tensor>,
}

impl Lesson {
    /// The same cut into parts, as equal as can be.
    pub fn chunks(&self, parts: usize) -> impl Iterator<Item = Lesson> {
        let cut = |images: &Tensor| images.chunk(parts as i64, 0);
        let (blurry, sharp) = (cut(&self.blurry), cut(&self.sharp));
        let taught = match &self.taught {
            Some(taught) => cut(taught).into_iter().map(Some).collect(),
            None => blurry.iter().map(|_| None).collect::<Vec<_>>(),
        };
        let parts = blurry.into_iter().zip(sharp).zip(taught);
        parts.map(|((blurry, sharp), taught)| Lesson {
            blurry,
            sharp,
            taught,
        })
    }

    /// The same in the symmetry of this number, 0 being the batch as it is.
    fn turned(&self, symmetry: usize) -> Self {
        let turn = |images: &Tensor| match symmetry {
            0 => images.shallow_clone(),
            _ => {
                let mirrored = [(1, 3), (2, 2)]
                    .into_iter()
                    .filter(|(bit, _)| symmetry & bit != 0);
                let axes: Vec<i64> = mirrored.map(|(_, axis)| axis).collect();
                let transposed = match symmetry & 4 {
                    0 => images.shallow_clone(),
                    _ => images.transpose(2, 3),
                };
                transposed.flip(axes).contiguous()
            }
        };
        Lesson {
            blurry: turn(&self.blurry),
            sharp: turn(&self.sharp),
            taught: self.taught.as_ref().map(turn),
        }
    }
}

/// What a teacher makes of blurry images, where there is one.
pub(super) type Teach<'a> = &'a dyn Fn(&Tensor) -> Option<Tensor>;

/// New batches and echoes of earlier ones, in turn.
pub(super) struct Echo {
    feed: Feed,
    /// How many times a batch is seen.
    times: usize,
    /// The newest first.
    lessons: VecDeque<Lesson>,
    /// What comes next: 0 is a new batch, n the n-th echo of an earlier one.
    turn: usize,
}

/// How many batches there are after `seen` lessons, to be made again where a run is resumed there.
pub(super) fn kept(times: u64, seen: u64) -> u64 {
    seen.div_ceil(times).min((times - 1) * APART as u64 + 1)
}

impl Echo {
    /// As it is after `seen` lessons; the feed begins with the first of the batches [`kept`].
    ///
    /// # Errors
    /// Those of the feed.
    pub fn new(feed: Feed, teach: Teach, times: u64, seen: u64) -> Result<Self> {
        let mut echo = Echo {
            feed,
            times: times as usize,
            lessons: VecDeque::new(),
            turn: (seen % times) as usize,
        };
        for _ in 0..kept(times, seen) {
            echo.take_new(teach)?;
        }
        Ok(echo)
    }

    /// The next batch, new or not.
    ///
    /// # Errors
    /// Those of the feed.
    pub fn next_lesson(&mut self, teach: Teach) -> Result<Lesson> {
        let symmetry = self.turn;
        self.turn = (self.turn + 1) % self.times;
        if symmetry == 0 {
            self.take_new(teach)?;
        }
        let apart = match self.lessons.len() {
            // At first there is nothing so old.
            young if young <= (self.times - 1) * APART => young / self.times,
            _ => APART,
        };
        Ok(self.lessons[symmetry * apart].turned(symmetry))
    }

    pub fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    fn take_new(&mut self, teach: Teach) -> Result<()> {
        let Uploaded { blurry, sharp, .. } = self.feed.next_batch()?;
        let taught = teach(&blurry);
        self.lessons.truncate((self.times - 1) * APART);
        self.lessons.push_front(Lesson {
            blurry,
            sharp,
            taught,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::data::{Loader, MixConfig, Sources};

    const SIDE: usize = 16;

    /// Lessons of one crop each, after `seen` of them.
    fn echo(times: u64, seen: u64) -> Echo {
        let sources = Sources::of_one_photo();
        let config = MixConfig {
            crop_size: SIDE,
            ..MixConfig::default()
        };
        let start = seen.div_ceil(times) - kept(times, seen);
        let loader = Loader::new(sources, config, 1, 1, start).unwrap();
        Echo::new(Feed::new(loader, SIDE, Device::Cpu).unwrap(), &teach, times, seen).unwrap()
    }

    fn teach(blurry: &Tensor) -> Option<Tensor> {
        Some(blurry * 0.5)
    }

    /// Which crop of how many, in which symmetry.
    fn recognised(lesson: &Lesson, crops: &[Tensor]) -> (usize, usize) {
        let taught = lesson.taught.as_ref().unwrap();
        assert!(taught == &(&lesson.blurry * 0.5));
        let turned = |crop: &Tensor, symmetry| {
            let plain = Lesson {
                blurry: crop.shallow_clone(),
                sharp: crop.shallow_clone(),
                taught: None,
            };
            plain.turned(symmetry).blurry
        };
        let all = crops.iter().enumerate();
        let mut all = all.flat_map(|(i, crop)| (0..8).map(move |symmetry| (i, crop, symmetry)));
        let found = all.find(|(_, crop, symmetry)| turned(crop, *symmetry) == lesson.blurry);
        found.map(|(i, _, symmetry)| (i, symmetry)).unwrap()
    }

    #[test]
    fn every_crop_comes_back_in_other_symmetries_and_much_later() {
        let mut once = echo(1, 0);
        let crops: Vec<Tensor> = (0..80)
            .map(|_| once.next_lesson(&teach).unwrap().blurry)
            .collect();
        let mut thrice = echo(3, 0);
        let seen: Vec<_> = (0..240)
            .map(|_| recognised(&thrice.next_lesson(&teach).unwrap(), &crops))
            .collect();
        assert_eq!(thrice.feed().next_index(), 80);
        // Before there is anything so old, echoes come sooner and are spread over what there is.
        for crop in 0..2 * APART {
            let times = seen.iter().filter(|(seen, _)| *seen == crop).count();
            assert!((1..=8).contains(&times), "crop {crop} was seen {times} times");
        }
        for crop in 2 * APART..80 - 2 * APART {
            let times: Vec<_> = (0..240).filter(|i| seen[*i].0 == crop).collect();
            let symmetries: Vec<_> = times.iter().map(|i| seen[*i].1).collect();
            assert_eq!(symmetries, [0, 1, 2]);
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3 * APART + 1));
        }
    }

    #[test]
    fn what_is_kept_is_made_again_when_a_run_is_resumed() {
        let mut straight = echo(3, 0);
        for seen in 0..120 {
            let expected = straight.next_lesson(&teach).unwrap();
            let mut resumed = echo(3, seen);
            let lesson = resumed.next_lesson(&teach).unwrap();
            assert!(
                lesson.blurry == expected.blurry && lesson.sharp == expected.sharp,
                "after {seen}"
            );
            assert_eq!(resumed.feed().next_index(), straight.feed().next_index());
        }
    }

    #[test]
    fn symmetries_are_all_different() {
        let lesson = |symmetry| {
            let image = Tensor::arange(12, (tch::Kind::Float, Device::Cpu)).view([1, 3, 2, 2]);
            let lesson = Lesson {
                blurry: image.shallow_clone(),
                sharp: image.shallow_clone(),
                taught: Some(image),
            };
            lesson.turned(symmetry)
        };
        let all: Vec<Lesson> = (0..MOST as usize).map(lesson).collect();
        for (i, one) in all.iter().enumerate() {
            assert!(one.blurry == one.sharp && Some(&one.blurry) == one.taught.as_ref());
            assert!(all[..i].iter().all(|other| other.blurry != one.blurry));
        }
    }
}
