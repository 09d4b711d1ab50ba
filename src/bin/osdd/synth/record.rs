//! What is written down about a pair.

use std::path::Path;

use osdd::data::{Blur, LocalKernel, Orientation, Recipe, Response, SourceId, Sources, Tap, Window};
use serde::{Deserialize, Serialize};

use super::jobs::Job;

/// How a pair was made; lengths in pixels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PairRecord {
    /// File name in `blurry/` and `sharp/`.
    pub name: String,
    pub kind: String,
    pub source: SourceRecord,
    pub width: usize,
    pub height: usize,
    /// Extent of the blur; for a rotation that of the corner that moves farthest, for layers see `objects`.
    pub extent_px: Option<f64>,
    /// Turning camera: focal length and principal point as seen from the crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<Camera>,
    /// Moving objects from back to front, and where each was cut out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<SourceRecord>,
    #[serde(default)]
    pub response: Response,
    pub saturation_gain: Option<f64>,
    /// Mirroring and transposition; the kernels are those before it.
    pub orientation: Orientation,
    pub noise_levels: f64,
    pub shot_noise_levels: f64,
    pub read_noise_levels: f64,
    pub jpeg_quality: Option<usize>,
    #[serde(default)]
    pub h264_qp: Option<usize>,
    #[serde(default)]
    pub chroma_subsampled: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SourceRecord {
    pub file: String,
    /// Frames of a clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Frames>,
    pub x: i64,
    pub y: i64,
    /// Pixels of the crop for each of the source.
    pub scale: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Frames {
    pub first: usize,
    pub count: usize,
    pub stride: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Camera {
    pub focal_px: f64,
    pub principal_point: [f64; 2],
}

/// `kernels/*.json`: the record and the exact kernels. A white dot at `(x, y)` of the sharp image becomes `weight` at
/// `(x + dx, y + dy)` in linear light.
#[derive(Serialize, Deserialize)]
pub(super) struct KernelFile<K = Vec<KernelRecord>> {
    pub pair: PairRecord,
    pub kernels: K,
}

#[derive(Serialize)]
pub(super) struct KernelRecord {
    /// `image`, `background` or `object`.
    layer: &'static str,
    /// Where it holds, in pixels of the crop; everywhere if null.
    at: Option<[f64; 2]>,
    taps: Vec<Tap>,
}

impl From<&LocalKernel> for KernelRecord {
    fn from(local: &LocalKernel) -> Self {
        Self {
            layer: local.layer,
            at: local.at,
            taps: local.kernel.taps().to_vec(),
        }
    }
}

impl PairRecord {
    pub fn new(job: &Job, recipe: &Recipe, sources: &Sources, clips: &[std::path::PathBuf]) -> Self {
        let source = |id, window| source_record(id, window, sources, clips);
        let (width, height) = recipe.size();
        let camera = match &recipe.blur {
            Blur::Rotation { rotation, .. } => Some(Camera {
                focal_px: rotation.focal_px,
                principal_point: rotation.principal_point,
            }),
            _ => None,
        };
        let objects = match &recipe.blur {
            Blur::Layered(layering) => layering.objects.as_slice(),
            _ => &[],
        };
        Self {
            name: format!("{}.png", job.stem()),
            kind: job.kind.name().to_owned(),
            source: source(recipe.source, &recipe.window),
            width,
            height,
            extent_px: recipe.extent_px(),
            camera,
            objects: objects
                .iter()
                .map(|object| source(object.source, &object.window))
                .collect(),
            response: recipe.response,
            saturation_gain: recipe.saturation_gain,
            orientation: recipe.orientation,
            noise_levels: recipe.noise_levels,
            shot_noise_levels: recipe.shot_noise_levels,
            read_noise_levels: recipe.read_noise_levels,
            jpeg_quality: recipe.jpeg_quality,
            h264_qp: recipe.h264_qp,
            chroma_subsampled: recipe.chroma_subsampled,
        }
    }
}

fn source_record(
    id: SourceId,
    window: &Window,
    sources: &Sources,
    clips: &[std::path::PathBuf],
) -> SourceRecord {
    let (file, frames) = match id {
        SourceId::Photo(index) => (file_name(sources.photos[index].path()), None),
        SourceId::Frame { clip, frame } => (
            file_name(Some(&clips[clip])),
            Some(Frames {
                first: frame,
                count: 1,
                stride: 1,
            }),
        ),
        SourceId::Exposure { clip, exposure } => {
            let frames = Frames {
                first: exposure.first,
                count: exposure.count,
                stride: exposure.stride,
            };
            (file_name(Some(&clips[clip])), Some(frames))
        }
        SourceId::Pair(index) => (sources.pairs[index].name.clone(), None),
    };
    SourceRecord {
        file,
        frames,
        x: window.x,
        y: window.y,
        scale: window.scale,
    }
}

/// Last part of a path.
pub(super) fn file_name(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}
