//! One training sample from its index.
//!
//! A sample is a pure function of sources, settings, seed and index: the same bytes on any machine, in any
//! order, on any number of threads. That makes a training run resumable from nothing but the index.

use rand_chacha::ChaCha8Rng;

use super::crop::Framing;
use super::mix::{MixConfig, SampleKind, Sources};
use super::random::{sample_rng, uniform};
use super::recipe::Recipe;

/// A blurry crop and its sharp truth, both `[3, height, width]`, RGB, encoded, in `[0, 1]` on 8-bit levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The network's input.
    pub blurry: Vec<f32>,
    /// What the network should make of it.
    pub sharp: Vec<f32>,
    /// Width in px; the configured crop size, unless a whole image was asked for.
    pub width: usize,
    /// Height in px.
    pub height: usize,
    /// How the blurry crop was made.
    pub kind: SampleKind,
}

/// Makes sample `index`.
///
/// # Panics
/// If [`MixConfig::check_sources`] refuses these sources.
pub fn sample(sources: &Sources, config: &MixConfig, index: u64) -> Sample {
    let rng = &mut sample_rng(config.seed, index);
    let kind = draw_kind(rng, sources, config);
    Recipe::draw(rng, sources, config, kind, Framing::Random).render(rng)
}

/// Draws a kind in proportion to the weights.
///
/// # Panics
/// If no kind has both a weight and a source.
pub fn draw_kind(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig) -> SampleKind {
    let weights = SampleKind::ALL.map(|kind| config.effective_weight(kind, sources));
    let mut point = uniform(rng, 0.0, weights.iter().sum());
    let mut drawn = None;
    for (kind, weight) in SampleKind::ALL.into_iter().zip(weights) {
        if weight > 0.0 {
            drawn = Some(kind);
            if point < weight {
                break;
            }
            point -= weight;
        }
    }
    drawn.expect("the sources were checked: at least one kind can be made")
}

#[cfg(test)]
mod tests {
    use super::super::clip::Clip;
    use super::super::image::Image8;
    use super::super::mix::MixWeights;
    use super::super::pairs::Pair;
    use super::super::random::integer;
    use super::super::transfer::Response;
    use super::*;

    fn texture(width: usize, height: usize, seed: u64) -> Image8 {
        let mut rng = sample_rng(seed, 0);
        let data = (0..width * height * 3)
            .map(|_| integer(&mut rng, 0, 255) as u8)
            .collect();
        Image8::new(width, height, data).unwrap()
    }

    fn sources() -> Sources {
        let blurry = texture(70, 80, 8);
        Sources {
            photos: [texture(90, 70, 1), texture(30, 20, 2)].into_iter().collect(),
            clips: vec![Clip::new((0..15).map(|i| texture(64, 64, 10 + i)).collect()).unwrap()],
            pairs: vec![Pair::new("p".into(), blurry, texture(70, 80, 9)).unwrap()],
        }
    }

    fn only(kind: SampleKind) -> MixConfig {
        let mut weights = MixWeights::NONE;
        *weights.get_mut(kind) = 1.0;
        MixConfig {
            crop_size: 48,
            weights,
            noise_levels: 0.0,
            ..MixConfig::default()
        }
    }

    #[test]
    fn the_same_index_gives_the_same_bytes() {
        let (sources, config) = (
            sources(),
            MixConfig {
                crop_size: 40,
                ..MixConfig::default()
            },
        );
        for index in 0..30 {
            assert_eq!(sample(&sources, &config, index), sample(&sources, &config, index));
        }
        assert_ne!(
            sample(&sources, &config, 1).sharp,
            sample(&sources, &config, 2).sharp
        );
        let other = MixConfig {
            seed: 1,
            ..config.clone()
        };
        assert_ne!(
            sample(&sources, &config, 1).sharp,
            sample(&sources, &other, 1).sharp
        );
    }

    #[test]
    fn every_kind_has_its_shape_and_lies_on_levels() {
        for kind in SampleKind::ALL {
            let config = MixConfig {
                noise_levels: 5.0,
                ..only(kind)
            };
            for index in 0..10 {
                let made = sample(&sources(), &config, index);
                assert_eq!(made.kind, kind);
                for values in [&made.blurry, &made.sharp] {
                    assert_eq!(values.len(), 3 * 48 * 48);
                    assert!(
                        values
                            .iter()
                            .all(|v| (0.0..=1.0).contains(v) && (v * 255.0).fract().abs() < 1e-3
                                || ((v * 255.0).fract() - 1.0).abs() < 1e-3)
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_motion_is_its_own_truth() {
        for kind in [SampleKind::Sharp, SampleKind::Defocus] {
            for index in 0..20 {
                let made = sample(&sources(), &only(kind), index);
                assert_eq!(made.blurry, made.sharp);
            }
        }
    }

    #[test]
    fn portraits_before_a_background_out_of_focus_are_their_own_truth() {
        let portrait = |background_defocus_share| MixConfig {
            object_motion_share: 0.0,
            background_motion_share: 0.0,
            background_defocus_share,
            defocus_radius_px: [4.0, 8.0],
            ..only(SampleKind::Layered)
        };
        // The difference of neighbours: noise loses most of it out of focus.
        let detail = |defocus_share| {
            let made = (0..20).map(|index| sample(&sources(), &portrait(defocus_share), index));
            made.map(|made| {
                assert!(made.blurry == made.sharp);
                let pairs = made.sharp.windows(2);
                pairs
                    .map(|pair| f64::from((pair[1] - pair[0]).abs()))
                    .sum::<f64>()
            })
            .sum::<f64>()
        };
        assert!(detail(1.0) < 0.8 * detail(0.0));
        let moving = MixConfig {
            object_motion_share: 1.0,
            ..portrait(1.0)
        };
        let differs = |index| {
            let made = sample(&sources(), &moving, index);
            made.blurry != made.sharp
        };
        assert!((0..10).any(differs));
    }

    #[test]
    fn blurred_crops_stay_in_register_with_their_truth() {
        // A bright field left of a dark one: blur must not move the edge, at any scale.
        let data = (0..200 * 200)
            .flat_map(|i| [if i % 200 < 100 { 180 } else { 40 }; 3])
            .collect();
        let sources = Sources {
            photos: [Image8::new(200, 200, data).unwrap()].into_iter().collect(),
            ..Sources::default()
        };
        let config = MixConfig {
            flip: false,
            crop_candidates: 1,
            crop_size: 96,
            ..only(SampleKind::Light)
        };
        let linear = |values: &[f32]| {
            values
                .iter()
                .map(|v| Response::Srgb.decode(f64::from(*v)))
                .sum::<f64>()
        };
        for index in 0..40 {
            let made = sample(&sources, &config, index);
            // Energy that crosses the crop's borders with a kernel of 3 px: none where the edge is inside.
            let edge_inside =
                made.sharp[0] > 0.6 && made.sharp[5] > 0.6 && made.sharp[90] < 0.3 && made.sharp[95] < 0.3;
            if edge_inside {
                let shift_px = (linear(&made.blurry) - linear(&made.sharp)) / (3.0 * 96.0 * 0.437);
                assert!(shift_px.abs() < 0.1, "sample {index}: {shift_px} px");
            }
        }
    }

    #[test]
    fn kinds_follow_their_weights() {
        let (sources, config) = (sources(), MixConfig::default());
        let n = 4000;
        let clips = (0..n)
            .filter(|i| draw_kind(&mut sample_rng(1, *i), &sources, &config) == SampleKind::Clip)
            .count();
        assert!((clips as f64 / n as f64 - 0.35).abs() < 0.03, "{clips}");
    }
}
