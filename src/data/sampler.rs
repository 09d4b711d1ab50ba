//! One training sample from its index.
//!
//! A sample is a pure function of sources, settings, seed and index: the same bytes on any machine, in any
//! order, on any number of threads. That makes a training run resumable from nothing but the index.

use rand_chacha::ChaCha8Rng;

use super::blur::{boost_highlights, convolve};
use super::degrade::{add_noise, quantise};
use super::image::Image8;
use super::kernel::Kernel;
use super::mix::{ExtentDistribution, MixConfig, SampleKind, Sources};
use super::planes::{Planes, Window};
use super::random::{chance, integer, log_uniform, sample_rng, uniform};
use super::trajectory::Trajectory;

/// Linear value above which a highlight may have been clipped; 243 of 255 encoded.
const HIGHLIGHT: f32 = 0.9;

/// Source pixels between the points where the detail of a crop is measured.
const DETAIL_STEP: usize = 4;

/// A blurry crop and its sharp truth, both `[3, size, size]`, RGB, encoded, in `[0, 1]` on 8-bit levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The network's input.
    pub blurry: Vec<f32>,
    /// What the network should make of it.
    pub sharp: Vec<f32>,
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
    let (blurry, sharp) = match kind {
        SampleKind::Trajectory | SampleKind::Light => trajectory_crops(rng, sources, config, kind),
        SampleKind::Clip => clip_crops(rng, sources, config),
        SampleKind::Pair => pair_crops(rng, sources, config),
        SampleKind::Sharp => {
            let image = draw_sharp(rng, sources, config);
            let sharp = Planes::read(image, &draw_window(rng, image, config), config.response);
            (sharp.clone(), sharp)
        }
    };
    let mut blurry = blurry.encoded(config.response);
    let mut sharp = sharp.encoded(config.response);
    if config.flip {
        let orientation = Orientation::draw(rng);
        blurry = orientation.applied(&blurry, config.crop_size);
        sharp = orientation.applied(&sharp, config.crop_size);
    }
    if kind != SampleKind::Pair {
        let sigma_levels = uniform(rng, 0.0, config.noise_levels);
        if sigma_levels > 0.0 {
            add_noise(&mut blurry, sigma_levels as f32, rng);
        }
    }
    quantise(&mut blurry);
    quantise(&mut sharp);
    Sample { blurry, sharp, kind }
}

/// Draws a kind in proportion to the weights.
fn draw_kind(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig) -> SampleKind {
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

/// A photograph, or now and then a frame of a clip: those are sharp too.
fn draw_sharp<'a>(rng: &mut ChaCha8Rng, sources: &'a Sources, config: &MixConfig) -> &'a Image8 {
    let from_clip = !sources.clips.is_empty() && chance(rng, config.clip_frame_share);
    if sources.photos.is_empty() || from_clip {
        let frames = pick(rng, &sources.clips).frames();
        pick(rng, frames)
    } else {
        pick(rng, &sources.photos)
    }
}

fn pick<'a, T>(rng: &mut ChaCha8Rng, items: &'a [T]) -> &'a T {
    &items[integer(rng, 0, items.len() - 1)]
}

/// Blurred along a random trajectory, and sharp.
fn trajectory_crops(
    rng: &mut ChaCha8Rng,
    sources: &Sources,
    config: &MixConfig,
    kind: SampleKind,
) -> (Planes, Planes) {
    let image = draw_sharp(rng, sources, config);
    let window = draw_window(rng, image, config);
    let kernel = draw_kernel(rng, config, kind);
    let margins = kernel.margins();
    let at_source = |margin: usize| (margin as f64 / window.scale).round() as i64;
    let wide = Window {
        x: window.x - at_source(margins.left),
        y: window.y - at_source(margins.top),
        width: window.width + margins.left + margins.right,
        height: window.height + margins.top + margins.bottom,
        ..window
    };
    let mut source = Planes::read(image, &wide, config.response);
    let sharp = source.cropped(margins.left, margins.top, window.width, window.height);
    if chance(rng, config.saturation_share) {
        let [low, high] = config.saturation_gain;
        boost_highlights(&mut source, HIGHLIGHT, uniform(rng, low, high) as f32);
    }
    (convolve(&source, &kernel), sharp)
}

/// A kernel of the configured extent.
fn draw_kernel(rng: &mut ChaCha8Rng, config: &MixConfig, kind: SampleKind) -> Kernel {
    let extent_px = match (kind, config.extent_distribution) {
        (SampleKind::Light, _) => uniform(rng, config.light_extent_px[0], config.light_extent_px[1]),
        (_, ExtentDistribution::Uniform) => uniform(rng, config.extent_px[0], config.extent_px[1]),
        (_, ExtentDistribution::LogUniform) => log_uniform(rng, config.extent_px[0], config.extent_px[1]),
    };
    let trajectory = if chance(rng, config.pan_share) {
        Trajectory::pan(rng, extent_px)
    } else {
        Trajectory::shake(rng, extent_px)
    };
    Kernel::render(&trajectory)
}

/// The mean of an exposure of a clip, and its middle frame.
fn clip_crops(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig) -> (Planes, Planes) {
    let clip = pick(rng, &sources.clips);
    let exposure = clip.draw_exposure(rng, config.clip_frames, config.clip_stride);
    let truth = clip.sharp(&exposure);
    let window = draw_window(rng, truth, config);
    let blurry = Planes::read_mean(&clip.exposed(&exposure), &window, config.response);
    (blurry, Planes::read(truth, &window, config.response))
}

/// The same window of both images of a real pair.
fn pair_crops(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig) -> (Planes, Planes) {
    let pair = pick(rng, &sources.pairs);
    let window = draw_window(rng, &pair.sharp, config);
    let read = |image| Planes::read(image, &window, config.response);
    (read(&pair.blurry), read(&pair.sharp))
}

/// A random scale and, of several random places, the one with most detail: a crop of sky teaches nothing
/// about blur.
fn draw_window(rng: &mut ChaCha8Rng, image: &Image8, config: &MixConfig) -> Window {
    let size = config.crop_size;
    let wanted = if chance(rng, config.scale_share) {
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

/// One of the eight symmetries of the square.
#[derive(Clone, Copy)]
struct Orientation {
    mirror_x: bool,
    mirror_y: bool,
    transpose: bool,
}

impl Orientation {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            mirror_x: chance(rng, 0.5),
            mirror_y: chance(rng, 0.5),
            transpose: chance(rng, 0.5),
        }
    }

    /// `values` is `[3, size, size]`.
    fn applied(self, values: &[f32], size: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(values.len());
        let place = |mirrored: bool, i: usize| if mirrored { size - 1 - i } else { i };
        for plane in values.chunks_exact(size * size) {
            for y in (0..size).map(|y| place(self.mirror_y, y)) {
                if self.transpose {
                    out.extend((0..size).map(|x| plane[place(self.mirror_x, x) * size + y]));
                } else if self.mirror_x {
                    out.extend(plane[y * size..][..size].iter().rev());
                } else {
                    out.extend_from_slice(&plane[y * size..][..size]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::clip::Clip;
    use super::super::mix::MixWeights;
    use super::super::pairs::Pair;
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
            photos: vec![texture(90, 70, 1), texture(30, 20, 2)],
            clips: vec![Clip::new((0..15).map(|i| texture(64, 64, 10 + i)).collect()).unwrap()],
            pairs: vec![Pair::new("p".into(), blurry, texture(70, 80, 9)).unwrap()],
        }
    }

    fn only(kind: SampleKind) -> MixConfig {
        let weight = |k| if k == kind { 1.0 } else { 0.0 };
        let [trajectory, clip, pair, sharp, light] = SampleKind::ALL.map(weight);
        let weights = MixWeights {
            trajectory,
            clip,
            pair,
            sharp,
            light,
        };
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
    fn the_sharp_kind_is_the_identity() {
        for index in 0..20 {
            let made = sample(&sources(), &only(SampleKind::Sharp), index);
            assert_eq!(made.blurry, made.sharp);
        }
    }

    #[test]
    fn blurred_crops_stay_in_register_with_their_truth() {
        // A bright field left of a dark one: blur must not move the edge, at any scale.
        let data = (0..200 * 200)
            .flat_map(|i| [if i % 200 < 100 { 180 } else { 40 }; 3])
            .collect();
        let sources = Sources {
            photos: vec![Image8::new(200, 200, data).unwrap()],
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
                .map(|v| config.response.decode(f64::from(*v)))
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
    fn transposing_and_mirroring_are_what_they_say() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let identity = Orientation {
            mirror_x: false,
            mirror_y: false,
            transpose: false,
        };
        assert_eq!(identity.applied(&values, 2), values);
        let transposed = Orientation {
            transpose: true,
            ..identity
        };
        assert_eq!(transposed.applied(&values, 2)[..4], [0.0, 2.0, 1.0, 3.0]);
        let mirrored = Orientation {
            mirror_x: true,
            ..identity
        };
        assert_eq!(mirrored.applied(&values, 2)[..4], [1.0, 0.0, 3.0, 2.0]);
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
