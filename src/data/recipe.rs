//! Everything that is drawn at random for a sample, before any pixel is made of it.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::blob::Blob;
use super::clip::Exposure;
use super::crop::Framing;
use super::image::Image8;
use super::kernel::{Kernel, Margins};
use super::layers::{Layers, Object};
use super::mix::{ExtentDistribution, MixConfig, SampleKind, Sources};
use super::orientation::Orientation;
use super::planes::Window;
use super::random::{chance, integer, log_uniform, uniform};
use super::rotation::Rotation;
use super::trajectory::Trajectory;
use super::transfer::Response;

/// Which image of the [`Sources`], by position in their lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceId {
    /// A photograph.
    Photo(usize),
    /// A single frame of a clip.
    Frame {
        /// The clip.
        clip: usize,
        /// The frame.
        frame: usize,
    },
    /// Frames of a clip.
    Exposure {
        /// The clip.
        clip: usize,
        /// The frames.
        #[serde(flatten)]
        exposure: Exposure,
    },
    /// A real pair.
    Pair(usize),
}

/// How one sample is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its kind.
    pub kind: SampleKind,
    /// What it is made from.
    pub source: SourceId,
    /// Where on the source it lies.
    pub window: Window,
    /// What moves, and how.
    pub blur: Blur,
    /// Curve by which the source is turned into light, and the result back.
    pub response: Response,
    /// Brightness of full scale, linear, where highlights are restored before blurring.
    pub saturation_gain: Option<f64>,
    /// Mirroring and transposition, after the blur.
    pub orientation: Orientation,
    /// Standard deviation of the noise added to the encoded image, in 8-bit levels.
    pub noise_levels: f64,
    /// Standard deviation of photon noise at full scale, in 8-bit levels of linear light.
    pub shot_noise_levels: f64,
    /// Standard deviation of noise in the dark, in 8-bit levels of linear light.
    pub read_noise_levels: f64,
    /// Quality of the JPEG compression, if any.
    pub jpeg_quality: Option<usize>,
    /// Quantiser of the H.264 compression, if any; then there is no JPEG.
    pub h264_qp: Option<usize>,
    /// Whether colour is stored at half the resolution; H.264 always does that.
    pub chroma_subsampled: bool,
    /// The source's pixels: one image, the frames of an exposure, or blurry and sharp of a pair.
    pub(super) images: Vec<Arc<Image8>>,
}

/// What moves during the exposure.
#[derive(Clone, Debug)]
pub enum Blur {
    /// Nothing: the blurry image is the sharp one.
    None,
    /// The whole image along one trajectory.
    Uniform {
        /// Extent of the trajectory in px.
        extent_px: f64,
        /// Its kernel.
        kernel: Kernel,
    },
    /// The camera turns.
    Rotation {
        /// Extent of the way of the window's farthest-moving corner in px.
        extent_px: f64,
        /// The poses.
        rotation: Rotation,
    },
    /// Objects in front of a background.
    Layered(Layering),
    /// Nothing moves: both images are blurred by a lens out of focus.
    Defocus {
        /// Radius of the disc in px.
        radius_px: f64,
        /// The disc.
        kernel: Kernel,
    },
    /// What moved in front of the camera that took the frames, or the pair.
    Recorded,
}

/// The layers of a sample, from back to front.
#[derive(Clone, Debug)]
pub struct Layering {
    /// Path of the background.
    pub background: Trajectory,
    /// The disc that a point of the background becomes, where that is out of focus.
    pub defocus: Option<Kernel>,
    /// The objects.
    pub objects: Vec<MovingObject>,
    pub(super) layers: Layers,
}

/// An object of a layered sample.
#[derive(Clone, Debug)]
pub struct MovingObject {
    /// Image that it is cut out of.
    pub source: SourceId,
    /// Where on that image.
    pub window: Window,
    /// Middle of the object in the sample, in px.
    pub centre: [i64; 2],
    /// Its path.
    pub path: Trajectory,
    pub(super) blob: Blob,
    pub(super) image: Arc<Image8>,
}

impl Layering {
    /// Room that the background needs around the window.
    pub(super) fn margins(&self) -> Margins {
        let defocus = self.defocus.as_ref().map(Kernel::margins).unwrap_or_default();
        self.layers.margins() + defocus
    }
}

impl Recipe {
    /// Draws a sample of the given kind from a random source.
    ///
    /// # Panics
    /// If the sources have nothing to make this kind from.
    pub fn draw(
        rng: &mut ChaCha8Rng,
        sources: &Sources,
        config: &MixConfig,
        kind: SampleKind,
        framing: Framing,
    ) -> Self {
        let (source, images) = match kind {
            SampleKind::Clip => {
                let clip = integer(rng, 0, sources.clips.len() - 1);
                let exposure = sources.clips[clip].draw_exposure(rng, config.clip_frames, config.clip_stride);
                let source = SourceId::Exposure { clip, exposure };
                (source, sources.clips[clip].exposed(&exposure))
            }
            SampleKind::Pair => {
                let (index, images) = sources.load_pair(integer(rng, 0, sources.pairs.len() - 1));
                (SourceId::Pair(index), images)
            }
            _ => {
                let (source, image) = draw_sharp(rng, sources, config);
                (source, vec![image])
            }
        };
        Self::finish(rng, sources, config, kind, source, images, framing)
    }

    /// Draws a sample of the given kind from a given photograph or exposure and window.
    ///
    /// # Panics
    /// If the sources do not have it, or it does not serve this kind.
    pub fn draw_from(
        rng: &mut ChaCha8Rng,
        sources: &Sources,
        config: &MixConfig,
        kind: SampleKind,
        source: SourceId,
        framing: Framing,
    ) -> Self {
        let (source, images) = match source {
            SourceId::Photo(index) => {
                let (index, image) = sources.photos.load(index);
                (SourceId::Photo(index), vec![image])
            }
            SourceId::Frame { clip, frame } => {
                let (frame, image) = sources.clips[clip].frames().load(frame);
                (SourceId::Frame { clip, frame }, vec![image])
            }
            SourceId::Exposure { clip, exposure } => (source, sources.clips[clip].exposed(&exposure)),
            SourceId::Pair(index) => {
                let (index, images) = sources.load_pair(index);
                (SourceId::Pair(index), images)
            }
        };
        Self::finish(rng, sources, config, kind, source, images, framing)
    }

    /// Draws all that is left when kind and source are known. The order of the draws must not change: it decides about
    /// the bytes of every sample.
    fn finish(
        rng: &mut ChaCha8Rng,
        sources: &Sources,
        config: &MixConfig,
        kind: SampleKind,
        source: SourceId,
        images: Vec<Arc<Image8>>,
        framing: Framing,
    ) -> Self {
        let truth = match source {
            SourceId::Exposure { exposure, .. } => &images[exposure.middle()],
            SourceId::Pair(_) => &images[1],
            SourceId::Photo(_) | SourceId::Frame { .. } => &images[0],
        };
        let scale_share = match kind {
            SampleKind::Clip | SampleKind::Pair => config.recorded_scale_share.unwrap_or(config.scale_share),
            _ => config.scale_share,
        };
        let window = framing.window(rng, truth, config, scale_share);
        let (blur, window) = draw_blur(rng, sources, config, kind, truth, window, framing);
        let saturation_gain = draw_saturation(rng, config, kind, &blur);
        let orientation = if config.flip {
            Orientation::draw(rng)
        } else {
            Orientation::default()
        };
        let mut recipe = Self {
            kind,
            source,
            window,
            blur,
            response: Response::default(),
            saturation_gain,
            orientation,
            noise_levels: 0.0,
            shot_noise_levels: 0.0,
            read_noise_levels: 0.0,
            jpeg_quality: None,
            h264_qp: None,
            chroma_subsampled: false,
            images,
        };
        if kind != SampleKind::Pair {
            recipe.noise_levels = uniform(rng, 0.0, config.noise_levels);
            if config.shot_noise_levels > 0.0 {
                recipe.shot_noise_levels = uniform(rng, 0.0, config.shot_noise_levels);
            }
            if config.read_noise_levels > 0.0 {
                recipe.read_noise_levels = uniform(rng, 0.0, config.read_noise_levels);
            }
            if config.jpeg_share > 0.0 && chance(rng, config.jpeg_share) {
                recipe.jpeg_quality = Some(integer(rng, config.jpeg_quality[0], config.jpeg_quality[1]));
            }
            if config.h264_share > 0.0 && chance(rng, config.h264_share) {
                recipe.h264_qp = Some(integer(rng, config.h264_qp[0], config.h264_qp[1]));
                recipe.jpeg_quality = None;
            } else if config.chroma_subsampling_share > 0.0 {
                recipe.chroma_subsampled = chance(rng, config.chroma_subsampling_share);
            }
        }
        recipe.response = draw_response(rng, config);
        if matches!(recipe.response, Response::Linear | Response::Exponential) {
            // The curves of averaged frames, which have hardly any left. In the light of a curve that is no camera's it would be
            // far too weak or too strong.
            (recipe.shot_noise_levels, recipe.read_noise_levels) = (0.0, 0.0);
        }
        recipe
    }

    /// Width and height of the sample in px.
    pub fn size(&self) -> (usize, usize) {
        self.orientation.turned((self.window.width, self.window.height))
    }
}

/// Draws nothing where there is one alone.
fn draw_response(rng: &mut ChaCha8Rng, config: &MixConfig) -> Response {
    let weights = || {
        config
            .response_weights
            .iter()
            .filter(|(_, weight)| **weight > 0.0)
    };
    let total: f64 = weights().map(|(_, weight)| weight).sum();
    let mut point = match weights().count() {
        0 | 1 => 0.0,
        _ => uniform(rng, 0.0, total),
    };
    let mut drawn = Response::default();
    for (response, weight) in weights() {
        drawn = *response;
        if point < *weight {
            break;
        }
        point -= weight;
    }
    drawn
}

/// A photograph, or now and then a frame of a clip: those are sharp too.
fn draw_sharp(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig) -> (SourceId, Arc<Image8>) {
    let from_clip = !sources.clips.is_empty() && chance(rng, config.clip_frame_share);
    if sources.photos.is_empty() || from_clip {
        let clip = integer(rng, 0, sources.clips.len() - 1);
        let frames = sources.clips[clip].frames();
        let (frame, image) = frames.load(integer(rng, 0, frames.len() - 1));
        (SourceId::Frame { clip, frame }, image)
    } else {
        let (index, image) = sources.photos.load(integer(rng, 0, sources.photos.len() - 1));
        (SourceId::Photo(index), image)
    }
}

/// What moves, and the window with room for it.
fn draw_blur(
    rng: &mut ChaCha8Rng,
    sources: &Sources,
    config: &MixConfig,
    kind: SampleKind,
    image: &Image8,
    window: Window,
    framing: Framing,
) -> (Blur, Window) {
    match kind {
        SampleKind::Sharp => (Blur::None, window),
        SampleKind::Clip | SampleKind::Pair => (Blur::Recorded, window),
        SampleKind::Trajectory | SampleKind::Light => {
            let extent_px = draw_extent(rng, config, kind);
            let kernel = Kernel::render(&draw_trajectory(rng, config, extent_px));
            let window = if config.keep_inside || framing != Framing::Random {
                framing.with_room(window, kernel.margins(), image)
            } else {
                window
            };
            (Blur::Uniform { extent_px, kernel }, window)
        }
        SampleKind::Rotation => {
            let extent_px = draw_extent(rng, config, kind);
            let (mut rotation, middle) = draw_rotation(rng, config, image, &window, extent_px);
            let margins = rotation.margins((window.width, window.height));
            let window = framing.with_room(window, margins, image);
            if framing == Framing::Whole {
                rotation.principal_point = middle_from(&window, middle);
            }
            (Blur::Rotation { extent_px, rotation }, window)
        }
        SampleKind::Layered => {
            let background = if chance(rng, config.background_motion_share) {
                let extent_px = draw_extent(rng, config, kind);
                draw_trajectory(rng, config, extent_px)
            } else {
                Trajectory::rest()
            };
            let out_of_focus =
                config.background_defocus_share > 0.0 && chance(rng, config.background_defocus_share);
            let defocus = out_of_focus.then(|| Kernel::disc(draw_radius(rng, config)));
            let [low, high] = config.layer_objects;
            let count = integer(rng, low, high);
            let objects: Vec<_> = (0..count)
                .map(|_| draw_object(rng, sources, config, &window))
                .collect();
            let paths: Vec<&Trajectory> = objects.iter().map(|object| &object.path).collect();
            let layers = Layers::new(&background, &paths);
            let layering = Layering {
                background,
                defocus,
                objects,
                layers,
            };
            let window = framing.with_room(window, layering.margins(), image);
            (Blur::Layered(layering), window)
        }
        SampleKind::Defocus => {
            let radius_px = draw_radius(rng, config);
            let kernel = Kernel::disc(radius_px);
            let window = framing.with_room(window, kernel.margins(), image);
            (Blur::Defocus { radius_px, kernel }, window)
        }
    }
}

fn draw_extent(rng: &mut ChaCha8Rng, config: &MixConfig, kind: SampleKind) -> f64 {
    match (kind, config.extent_distribution) {
        (SampleKind::Light, _) => uniform(rng, config.light_extent_px[0], config.light_extent_px[1]),
        (_, ExtentDistribution::Uniform) => uniform(rng, config.extent_px[0], config.extent_px[1]),
        (_, ExtentDistribution::LogUniform) => log_uniform(rng, config.extent_px[0], config.extent_px[1]),
    }
}

fn draw_radius(rng: &mut ChaCha8Rng, config: &MixConfig) -> f64 {
    log_uniform(rng, config.defocus_radius_px[0], config.defocus_radius_px[1])
}

fn draw_trajectory(rng: &mut ChaCha8Rng, config: &MixConfig, extent_px: f64) -> Trajectory {
    if chance(rng, config.pan_share) {
        Trajectory::pan(rng, extent_px)
    } else {
        Trajectory::shake(rng, extent_px)
    }
}

/// A turning camera whose optical axis meets the middle of the image, and that middle in px of the source.
fn draw_rotation(
    rng: &mut ChaCha8Rng,
    config: &MixConfig,
    image: &Image8,
    window: &Window,
    extent_px: f64,
) -> (Rotation, [f64; 2]) {
    let longer = image.width.max(image.height) as f64 * window.scale;
    let focal_px = longer * uniform(rng, config.focal_length[0], config.focal_length[1]);
    let roll = uniform(rng, config.roll[0], config.roll[1]);
    let pan = chance(rng, config.pan_share);
    let middle = [0.5 * (image.width - 1) as f64, 0.5 * (image.height - 1) as f64];
    let size = (window.width, window.height);
    let rotation = Rotation::draw(
        rng,
        pan,
        roll,
        focal_px,
        middle_from(window, middle),
        size,
        extent_px,
    );
    (rotation, middle)
}

/// A point of the source as seen from a window on it.
fn middle_from(window: &Window, [x, y]: [f64; 2]) -> [f64; 2] {
    [
        (x - window.x as f64) * window.scale,
        (y - window.y as f64) * window.scale,
    ]
}

/// An object somewhere in the window, cut out of another image, or of the same.
fn draw_object(rng: &mut ChaCha8Rng, sources: &Sources, config: &MixConfig, window: &Window) -> MovingObject {
    let shorter = window.width.min(window.height) as f64;
    let radius_px = shorter * uniform(rng, config.layer_radius[0], config.layer_radius[1]);
    let blob = Blob::draw(rng, radius_px);
    let centre = [
        integer(rng, 0, window.width - 1) as i64,
        integer(rng, 0, window.height - 1) as i64,
    ];
    let path = if config.object_motion_share >= 1.0 || chance(rng, config.object_motion_share) {
        let extent_px = draw_extent(rng, config, SampleKind::Layered);
        draw_trajectory(rng, config, extent_px)
    } else {
        Trajectory::rest()
    };
    let (source, image) = draw_sharp(rng, sources, config);
    let side = Object::side(&blob);
    // Shrunk like its background where the image is large enough for that.
    let smallest = side as f64 / image.width.min(image.height) as f64;
    let scale = window.scale.max(smallest).min(1.0);
    let covered = (side as f64 / scale).ceil() as usize;
    let object_window = Window {
        x: integer(rng, 0, image.width.saturating_sub(covered)) as i64,
        y: integer(rng, 0, image.height.saturating_sub(covered)) as i64,
        width: side,
        height: side,
        scale,
    };
    MovingObject {
        source,
        window: object_window,
        centre,
        path,
        blob,
        image,
    }
}

/// The gain of restored highlights. A lens out of focus shows best by its highlights, so those are always restored there.
fn draw_saturation(rng: &mut ChaCha8Rng, config: &MixConfig, kind: SampleKind, blur: &Blur) -> Option<f64> {
    let [low, high] = config.saturation_gain;
    let restored = match kind {
        SampleKind::Clip | SampleKind::Pair | SampleKind::Sharp => false,
        SampleKind::Defocus => true,
        _ if matches!(blur, Blur::Layered(Layering { defocus: Some(_), .. })) => true,
        _ => chance(rng, config.saturation_share),
    };
    restored.then(|| uniform(rng, low, high))
}
