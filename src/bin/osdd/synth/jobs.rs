//! What is made: one job for each pair, known before any pixel is.

use osdd::data::{Framing, MixConfig, Recipe, SampleKind, SourceId, Sources, Window, draw_kind, sample_rng};
use rand_chacha::ChaCha8Rng;

use super::settings::Settings;

/// One pair.
pub(super) struct Job {
    /// Position in the list, and the random stream that everything about the pair is drawn from.
    pub index: u64,
    pub kind: SampleKind,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// Anywhere in the sources.
    Random(Framing),
    At(SourceId, Framing),
}

/// All crops of every image and of successive exposures of every clip, or as many random ones as were asked for.
pub(super) fn list(sources: &Sources, settings: &Settings) -> Vec<Job> {
    let places = match settings.count {
        Some(count) => {
            let framing = if settings.crop > 0 {
                Framing::Random
            } else {
                Framing::Whole
            };
            vec![Place::Random(framing); count as usize]
        }
        None => every_place(sources, settings),
    };
    let jobs = places.into_iter().enumerate().map(|(index, place)| {
        let index = index as u64;
        Job {
            index,
            kind: draw(&mut rng(index, settings), sources, settings, place),
            place,
        }
    });
    jobs.collect()
}

impl Job {
    /// The recipe, and the generator that its noise comes from.
    pub fn recipe(&self, sources: &Sources, settings: &Settings) -> (Recipe, ChaCha8Rng) {
        let (mut rng, mix) = (rng(self.index, settings), &settings.mix);
        let kind = draw(&mut rng, sources, settings, self.place);
        let recipe = match self.place {
            Place::Random(framing) => Recipe::draw(&mut rng, sources, mix, kind, framing),
            Place::At(source, framing) => Recipe::draw_from(&mut rng, sources, mix, kind, source, framing),
        };
        (recipe, rng)
    }

    /// Name of the pair's files, without extension.
    pub fn stem(&self) -> String {
        format!("{:06}_{}", self.index, self.kind.name())
    }
}

fn rng(index: u64, settings: &Settings) -> ChaCha8Rng {
    sample_rng(settings.mix.seed, index)
}

fn draw(rng: &mut ChaCha8Rng, sources: &Sources, settings: &Settings, place: Place) -> SampleKind {
    match place {
        Place::Random(_) => draw_kind(rng, sources, &settings.mix),
        Place::At(SourceId::Exposure { .. }, _) => SampleKind::Clip,
        Place::At(..) => draw_kind(rng, sources, &of_photos(&settings.mix)),
    }
}

/// The mix without what is not made from a single image.
fn of_photos(mix: &MixConfig) -> MixConfig {
    let mut mix = mix.clone();
    mix.weights.clip = 0.0;
    mix.weights.pair = 0.0;
    mix
}

fn every_place(sources: &Sources, settings: &Settings) -> Vec<Place> {
    let mix = &settings.mix;
    let mut places = Vec::new();
    if of_photos(mix).check_sources(sources).is_ok() {
        for (index, picture) in sources.photos.iter().enumerate() {
            for framing in framings(picture.size(), settings) {
                let place = Place::At(SourceId::Photo(index), framing);
                places.extend(std::iter::repeat_n(place, settings.variants as usize));
            }
        }
    }
    if mix.weights.clip > 0.0 {
        for (clip, frames) in sources.clips.iter().enumerate() {
            // A stream that no pair uses.
            let rng = &mut sample_rng(mix.seed, u64::MAX - clip as u64);
            let framings = framings(frames.frames()[0].size(), settings);
            for exposure in frames.successive_exposures(rng, mix.clip_frames, mix.clip_stride) {
                let source = SourceId::Exposure { clip, exposure };
                places.extend(framings.iter().map(|&framing| Place::At(source, framing)));
            }
        }
    }
    places
}

/// The crops that cover an image, row by row; none if it is smaller than one.
fn framings((width, height): (usize, usize), settings: &Settings) -> Vec<Framing> {
    let side = settings.crop;
    if side == 0 {
        return vec![Framing::Whole];
    }
    let columns = starts(width, side, settings.overlap);
    let windows = starts(height, side, settings.overlap).into_iter().flat_map(|y| {
        columns.iter().map(move |&x| {
            Framing::At(Window {
                x: x as i64,
                y: y as i64,
                width: side,
                height: side,
                scale: 1.0,
            })
        })
    });
    windows.collect()
}

/// Evenly spread starts of crops that cover `length` and overlap by at least `overlap`.
fn starts(length: usize, side: usize, overlap: usize) -> Vec<usize> {
    let Some(rest) = length.checked_sub(side) else {
        return Vec::new();
    };
    let steps = rest.div_ceil(side - overlap);
    (0..=steps)
        .map(|step| (rest * step).checked_div(steps).unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::starts;

    #[test]
    fn crops_cover_the_image_and_overlap() {
        assert_eq!(starts(512, 512, 64), [0]);
        assert!(starts(511, 512, 64).is_empty());
        assert_eq!(starts(1280, 512, 64), [0, 384, 768]);
        for length in 512..2100 {
            let starts = starts(length, 512, 64);
            assert_eq!((starts[0], starts[starts.len() - 1] + 512), (0, length));
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= 448));
        }
    }
}
