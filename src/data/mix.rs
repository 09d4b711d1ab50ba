//! What a training run is fed with: the kinds of samples, how often, and how strong the blur is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clip::Clip;
use super::error::DataError;
use super::image::Image8;
use super::pairs::Pair;
use super::picture::Pictures;
use super::transfer::Response;

/// How the blurry image of a sample is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleKind {
    /// A sharp image convolved along a random trajectory.
    Trajectory,
    /// Frames of a high-frame-rate clip, averaged.
    Clip,
    /// A real pair.
    Pair,
    /// The sharp image itself: what is sharp must stay as it is.
    Sharp,
    /// A trajectory of a few pixels: what is nearly sharp needs little.
    Light,
    /// A sharp image seen by a turning camera: the blur varies over the image.
    Rotation,
    /// Objects that move in front of a background, each on its own trajectory.
    Layered,
    /// An image out of focus, which is its own truth: that is not motion and must stay as it is.
    Defocus,
}

impl SampleKind {
    /// Every kind, in the order of their weights.
    pub const ALL: [Self; 8] = [
        Self::Trajectory,
        Self::Clip,
        Self::Pair,
        Self::Sharp,
        Self::Light,
        Self::Rotation,
        Self::Layered,
        Self::Defocus,
    ];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectory => "trajectory",
            Self::Clip => "clip",
            Self::Pair => "pair",
            Self::Sharp => "sharp",
            Self::Light => "light",
            Self::Rotation => "rotation",
            Self::Layered => "layered",
            Self::Defocus => "defocus",
        }
    }
}

/// Relative frequencies of the kinds; they need not sum to one. A kind that is left out, or has no source, counts as zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "none")]
pub struct MixWeights {
    /// Weight of [`SampleKind::Trajectory`].
    pub trajectory: f64,
    /// Weight of [`SampleKind::Clip`].
    pub clip: f64,
    /// Weight of [`SampleKind::Pair`].
    pub pair: f64,
    /// Weight of [`SampleKind::Sharp`].
    pub sharp: f64,
    /// Weight of [`SampleKind::Light`].
    pub light: f64,
    /// Weight of [`SampleKind::Rotation`].
    pub rotation: f64,
    /// Weight of [`SampleKind::Layered`].
    pub layered: f64,
    /// Weight of [`SampleKind::Defocus`].
    pub defocus: f64,
}

fn none() -> MixWeights {
    MixWeights::NONE
}

impl MixWeights {
    /// Zero for every kind.
    pub const NONE: Self = Self {
        trajectory: 0.0,
        clip: 0.0,
        pair: 0.0,
        sharp: 0.0,
        light: 0.0,
        rotation: 0.0,
        layered: 0.0,
        defocus: 0.0,
    };

    /// The weight of a kind.
    pub fn get(&self, kind: SampleKind) -> f64 {
        let mut copy = *self;
        *copy.get_mut(kind)
    }

    /// The weight of a kind, to be changed.
    pub fn get_mut(&mut self, kind: SampleKind) -> &mut f64 {
        match kind {
            SampleKind::Trajectory => &mut self.trajectory,
            SampleKind::Clip => &mut self.clip,
            SampleKind::Pair => &mut self.pair,
            SampleKind::Sharp => &mut self.sharp,
            SampleKind::Light => &mut self.light,
            SampleKind::Rotation => &mut self.rotation,
            SampleKind::Layered => &mut self.layered,
            SampleKind::Defocus => &mut self.defocus,
        }
    }
}

impl Default for MixWeights {
    fn default() -> Self {
        Self {
            trajectory: 0.4,
            clip: 0.35,
            pair: 0.1,
            sharp: 0.05,
            light: 0.1,
            ..Self::NONE
        }
    }
}

/// Distribution of the extent of trajectories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtentDistribution {
    /// Every extent in px equally likely.
    #[default]
    Uniform,
    /// Every octave equally likely: more weak blur.
    LogUniform,
}

/// Settings of the sampler. Ranges are `[low, high]`, both included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Seed of the run. Sample `index` is a function of the sources, these settings and `index` alone.
    pub seed: u64,
    /// Side of the square crops in px.
    pub crop_size: usize,
    /// Frequencies of the kinds.
    pub weights: MixWeights,
    /// Extent of trajectories in px; of rotations at the corner of the crop that moves farthest.
    pub extent_px: [f64; 2],
    /// Extent of the trajectories of [`SampleKind::Light`] in px, always uniform.
    pub light_extent_px: [f64; 2],
    /// How extents are drawn from `extent_px`.
    pub extent_distribution: ExtentDistribution,
    /// Share of trajectories that are nearly straight pans instead of camera shake.
    pub pan_share: f64,
    /// Focal length of rotating cameras, relative to the longer side of the image: 0.7 is a wide angle of 71 degrees, 1.5
    /// one of 37.
    pub focal_length: [f64; 2],
    /// Rotation about the optical axis, relative to that sideways.
    pub roll: [f64; 2],
    /// Moving objects in a layered sample.
    pub layer_objects: [usize; 2],
    /// Radius of such an object, relative to the shorter side of the crop.
    pub layer_radius: [f64; 2],
    /// Share of those objects that move; the others are at rest.
    pub object_motion_share: f64,
    /// Share of layered samples whose background moves too.
    pub background_motion_share: f64,
    /// Share of layered samples whose background is out of focus, as behind a portrait; it is to stay so.
    pub background_defocus_share: f64,
    /// Radius of the disc that a point becomes out of focus, in px; every octave equally likely.
    pub defocus_radius_px: [f64; 2],
    /// Frames of a clip that are averaged; an even draw is rounded up to odd.
    pub clip_frames: [usize; 2],
    /// Step between averaged frames of a clip.
    pub clip_stride: [usize; 2],
    /// Share of clip frames among the sharp images that trajectories blur, when there are photographs too.
    pub clip_frame_share: f64,
    /// Scale at which a source is read: below 1 it is shrunk, which makes it sharper and its detail finer.
    pub scale: [f64; 2],
    /// Share of samples that are read at a scale from `scale`; the others are read as they are.
    pub scale_share: f64,
    /// The same of clips and pairs, whose blur and sharpness are real; `None` is [`scale_share`](Self::scale_share).
    pub recorded_scale_share: Option<f64>,
    /// Largest standard deviation of the noise in 8-bit levels, drawn uniformly from 0. Real pairs have their
    /// own noise and get none.
    pub noise_levels: f64,
    /// Largest standard deviation of photon noise at full scale, in 8-bit levels of linear light, drawn uniformly from 0;
    /// it falls with the square root of the light.
    pub shot_noise_levels: f64,
    /// Largest standard deviation of the sensor's noise in the dark, in 8-bit levels of linear light, drawn uniformly from
    /// 0. One such level in the dark is 13 in an sRGB file.
    pub read_noise_levels: f64,
    /// Share of samples that are compressed as JPEG after all else. Real pairs never are.
    pub jpeg_share: f64,
    /// Quality of that, 1 to 100.
    pub jpeg_quality: [usize; 2],
    /// Share of samples that a video encoder compresses after all else, instead of JPEG. Real pairs never are.
    pub h264_share: f64,
    /// Quantiser of that, 12 to 51.
    pub h264_qp: [usize; 2],
    /// Share of the other samples whose colour has half the resolution (4:2:0). Real pairs stay as they are.
    pub chroma_subsampling_share: f64,
    /// Share of synthetic blur whose highlights are restored above full scale before blurring, then
    /// clipped.
    pub saturation_share: f64,
    /// Brightness that full scale stands for in those, linear.
    pub saturation_gain: [f64; 2],
    /// Moves crops of trajectory samples inwards where blur would reach over the image's border, which is mirrored
    /// otherwise. Rotations, layers and defocus always do.
    pub keep_inside: bool,
    /// Random mirroring and transposition.
    pub flip: bool,
    /// Crops drawn at most, of which the one with most detail is kept; how many is drawn for each sample.
    pub crop_candidates: usize,
    /// Response curves of the sources, and how often each is taken. Whose camera it was nobody knows.
    pub response_weights: BTreeMap<Response, f64>,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            crop_size: 160,
            weights: MixWeights::default(),
            extent_px: [3.0, 30.0],
            light_extent_px: [0.5, 3.0],
            extent_distribution: ExtentDistribution::Uniform,
            pan_share: 0.3,
            focal_length: [0.7, 1.5],
            roll: [0.0, 4.0],
            layer_objects: [1, 3],
            layer_radius: [0.12, 0.4],
            object_motion_share: 1.0,
            background_motion_share: 0.5,
            background_defocus_share: 0.0,
            defocus_radius_px: [1.0, 8.0],
            clip_frames: [7, 13],
            clip_stride: [1, 1],
            clip_frame_share: 0.1,
            scale: [0.5, 1.0],
            scale_share: 0.5,
            recorded_scale_share: None,
            noise_levels: 3.0,
            shot_noise_levels: 0.0,
            read_noise_levels: 0.0,
            jpeg_share: 0.0,
            jpeg_quality: [60, 95],
            h264_share: 0.0,
            h264_qp: [16, 36],
            chroma_subsampling_share: 0.0,
            saturation_share: 0.1,
            saturation_gain: [1.5, 8.0],
            keep_inside: false,
            flip: true,
            crop_candidates: 3,
            response_weights: [(Response::Srgb, 1.0)].into(),
        }
    }
}

impl MixConfig {
    /// Checks every field against its legal range.
    ///
    /// # Errors
    /// [`DataError::Setting`] with the field, its value and the legal range.
    pub fn validate(&self) -> Result<(), DataError> {
        let illegal = |field, value, legal| Err(DataError::Setting { field, value, legal });
        for kind in SampleKind::ALL {
            let weight = self.weights.get(kind);
            if !(0.0..=1e6).contains(&weight) {
                return illegal("weights", format!("{} = {weight}", kind.name()), "each 0 to 1e6");
            }
        }
        let weights = || self.response_weights.values();
        if !(weights().all(|weight| (0.0..=1e6).contains(weight)) && weights().sum::<f64>() > 0.0) {
            return illegal(
                "response_weights",
                format!("{:?}", self.response_weights),
                "each 0 to 1e6, not all 0",
            );
        }
        let size = self.crop_size;
        if !(8..=4096).contains(&size) {
            return illegal("crop_size", size.to_string(), "8 to 4096 px");
        }
        let candidates = self.crop_candidates;
        if !(1..=100).contains(&candidates) {
            return illegal("crop_candidates", candidates.to_string(), "1 to 100");
        }
        for (field, [low, high], (least, most), legal) in [
            (
                "extent_px",
                self.extent_px,
                (0.1, 200.0),
                "low <= high, each 0.1 to 200 px",
            ),
            (
                "light_extent_px",
                self.light_extent_px,
                (0.1, 200.0),
                "low <= high, each 0.1 to 200 px",
            ),
            ("scale", self.scale, (0.1, 1.0), "low <= high, each 0.1 to 1"),
            (
                "saturation_gain",
                self.saturation_gain,
                (1.0, 1000.0),
                "low <= high, each 1 to 1000",
            ),
            (
                "focal_length",
                self.focal_length,
                (0.1, 100.0),
                "low <= high, each 0.1 to 100",
            ),
            ("roll", self.roll, (0.0, 100.0), "low <= high, each 0 to 100"),
            (
                "layer_radius",
                self.layer_radius,
                (0.01, 1.0),
                "low <= high, each 0.01 to 1",
            ),
            (
                "defocus_radius_px",
                self.defocus_radius_px,
                (0.1, 100.0),
                "low <= high, each 0.1 to 100 px",
            ),
        ] {
            if !(least <= low && low <= high && high <= most) {
                return illegal(field, format!("{:?}", [low, high]), legal);
            }
        }
        for (field, [low, high], most, legal) in [
            (
                "clip_frames",
                self.clip_frames,
                1000,
                "low <= high, each 1 to 1000",
            ),
            (
                "clip_stride",
                self.clip_stride,
                1000,
                "low <= high, each 1 to 1000",
            ),
            (
                "layer_objects",
                self.layer_objects,
                20,
                "low <= high, each 1 to 20",
            ),
            (
                "jpeg_quality",
                self.jpeg_quality,
                100,
                "low <= high, each 1 to 100",
            ),
        ] {
            if !(1 <= low && low <= high && high <= most) {
                return illegal(field, format!("{:?}", [low, high]), legal);
            }
        }
        let [low, high] = self.h264_qp;
        if !(12 <= low && low <= high && high <= 51) {
            return illegal(
                "h264_qp",
                format!("{:?}", self.h264_qp),
                "low <= high, each 12 to 51",
            );
        }
        for (field, value, most, legal) in [
            ("noise_levels", self.noise_levels, 255.0, "0 to 255"),
            ("shot_noise_levels", self.shot_noise_levels, 255.0, "0 to 255"),
            ("read_noise_levels", self.read_noise_levels, 255.0, "0 to 255"),
            ("pan_share", self.pan_share, 1.0, "0 to 1"),
            ("clip_frame_share", self.clip_frame_share, 1.0, "0 to 1"),
            ("scale_share", self.scale_share, 1.0, "0 to 1"),
            (
                "recorded_scale_share",
                self.recorded_scale_share.unwrap_or(0.0),
                1.0,
                "0 to 1",
            ),
            ("saturation_share", self.saturation_share, 1.0, "0 to 1"),
            ("jpeg_share", self.jpeg_share, 1.0, "0 to 1"),
            ("h264_share", self.h264_share, 1.0, "0 to 1"),
            (
                "chroma_subsampling_share",
                self.chroma_subsampling_share,
                1.0,
                "0 to 1",
            ),
            ("object_motion_share", self.object_motion_share, 1.0, "0 to 1"),
            (
                "background_motion_share",
                self.background_motion_share,
                1.0,
                "0 to 1",
            ),
            (
                "background_defocus_share",
                self.background_defocus_share,
                1.0,
                "0 to 1",
            ),
        ] {
            if !(0.0..=most).contains(&value) {
                return illegal(field, value.to_string(), legal);
            }
        }
        Ok(())
    }

    /// Checks the settings, and that these sources can serve them.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate); [`DataError::NoSource`] when every kind has weight zero or no
    /// source; [`DataError::ClipTooShort`] when a clip is wanted for averaging and shorter than `clip_frames`
    /// at its low end.
    pub fn check_sources(&self, sources: &Sources) -> Result<(), DataError> {
        self.validate()?;
        if SampleKind::ALL
            .iter()
            .all(|kind| self.effective_weight(*kind, sources) == 0.0)
        {
            let Sources { photos, clips, pairs } = sources;
            return Err(DataError::NoSource {
                photos: photos.len(),
                clips: clips.len(),
                pairs: pairs.len(),
            });
        }
        if self.weights.clip > 0.0 {
            let needed = self.clip_frames[0] | 1;
            if let Some(short) = sources.clips.iter().find(|clip| clip.frames().len() < needed) {
                return Err(DataError::ClipTooShort {
                    frames: short.frames().len(),
                    needed,
                });
            }
        }
        Ok(())
    }

    /// The weight, or zero where the sources have nothing to make this kind from.
    pub(super) fn effective_weight(&self, kind: SampleKind, sources: &Sources) -> f64 {
        let has_source = match kind {
            SampleKind::Clip => !sources.clips.is_empty(),
            SampleKind::Pair => !sources.pairs.is_empty(),
            _ => !sources.photos.is_empty() || !sources.clips.is_empty(),
        };
        if has_source { self.weights.get(kind) } else { 0.0 }
    }
}

/// Everything samples are made from, shared between threads.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Sharp photographs.
    pub photos: Pictures,
    /// High-frame-rate clips of sharp frames.
    pub clips: Vec<Clip>,
    /// Real blurry and sharp pairs.
    pub pairs: Vec<Pair>,
}

#[cfg(test)]
impl Sources {
    /// For tests of what carries samples on: 60x60 pixels.
    pub(crate) fn of_one_photo() -> Arc<Self> {
        let data = (0..60 * 60 * 3).map(|i| (i * i % 251) as u8).collect();
        let photo = Image8::new(60, 60, data).unwrap();
        Arc::new(Sources {
            photos: [photo].into_iter().collect(),
            ..Sources::default()
        })
    }
}

impl Sources {
    /// Blurry and sharp of pair `index`, or of the next one that can be read; and its index.
    ///
    /// # Panics
    /// If none can be read.
    pub(super) fn load_pair(&self, index: usize) -> (usize, Vec<Arc<Image8>>) {
        let count = self.pairs.len();
        (0..count)
            .map(|step| (index + step) % count)
            .find_map(|index| {
                let Pair { blurry, sharp, .. } = &self.pairs[index];
                Some((index, vec![blurry.load()?, sharp.load()?]))
            })
            .expect("no pair of the data can be read any more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal() {
        MixConfig::default().validate().unwrap();
    }

    #[test]
    fn illegal_settings_are_named_with_their_range() {
        let config = MixConfig {
            extent_px: [9.0, 3.0],
            ..MixConfig::default()
        };
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(
            message,
            "data setting extent_px = [9.0, 3.0]: low <= high, each 0.1 to 200 px"
        );
        let config = MixConfig {
            noise_levels: f64::NAN,
            ..MixConfig::default()
        };
        assert!(config.validate().is_err());
    }

    #[test]
    fn a_mix_without_sources_is_refused() {
        let config = MixConfig::default();
        assert!(matches!(
            config.check_sources(&Sources::default()),
            Err(DataError::NoSource { .. })
        ));
        let photo = Image8::new(1, 1, vec![0; 3]).unwrap();
        let sources = Sources {
            photos: [photo].into_iter().collect(),
            ..Sources::default()
        };
        config.check_sources(&sources).unwrap();
        let only_pairs = MixWeights {
            pair: 1.0,
            ..MixWeights::NONE
        };
        let config = MixConfig {
            weights: only_pairs,
            ..config
        };
        assert!(config.check_sources(&sources).is_err());
    }

    #[test]
    fn unknown_fields_are_refused_and_missing_ones_default() {
        let parsed: MixConfig = serde_json::from_str(r#"{"crop_size": 96, "weights": {"clip": 2}}"#).unwrap();
        assert_eq!(
            (parsed.crop_size, parsed.weights.clip, parsed.pan_share),
            (96, 2.0, 0.3)
        );
        assert_eq!(parsed.weights.trajectory, 0.0, "one kind means that kind alone");
        assert!(serde_json::from_str::<MixConfig>(r#"{"crop": 96}"#).is_err());
    }
}
