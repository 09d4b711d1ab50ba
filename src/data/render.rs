//! The pixels of a sample, from its recipe.

use rand_chacha::ChaCha8Rng;

use super::blur::{boost_highlights, convolve};
use super::degrade::{add_noise, add_sensor_noise, compress_jpeg, quantise};
use super::image::Image8;
use super::interpolate::Filter;
use super::kernel::{Kernel, Margins};
use super::layers::Object;
use super::planes::Planes;
use super::recipe::{Blur, Layering, Recipe, SourceId};
use super::sampler::Sample;
use super::trajectory::Trajectory;
use super::video::{compress_h264, subsample_chroma};

/// Linear value above which a highlight may have been clipped; 243 of 255 encoded.
const HIGHLIGHT: f32 = 0.9;

/// A kernel that holds for a part of the image.
#[derive(Clone, Debug)]
pub struct LocalKernel {
    /// What moves: `image`, `background` or `object`.
    pub layer: &'static str,
    /// Where it holds, in px of the sample before [`Recipe::orientation`]; everywhere if none.
    pub at: Option<[f64; 2]>,
    /// The kernel.
    pub kernel: Kernel,
}

impl Recipe {
    /// Makes the sample. `rng` is the one that drew the recipe: the noise comes from it.
    pub fn render(&self, rng: &mut ChaCha8Rng) -> Sample {
        let (mut blurry, sharp) = self.linear();
        if self.shot_noise_levels > 0.0 || self.read_noise_levels > 0.0 {
            let (shot, read) = (self.shot_noise_levels as f32, self.read_noise_levels as f32);
            add_sensor_noise(&mut blurry.data, shot, read, rng);
        }
        let size = (self.window.width, self.window.height);
        let finished = |planes: &Planes| self.orientation.applied(&planes.encoded(self.response), size);
        let (mut blurry, mut sharp) = (finished(&blurry), finished(&sharp));
        if self.noise_levels > 0.0 {
            add_noise(&mut blurry, self.noise_levels as f32, rng);
        }
        quantise(&mut blurry);
        quantise(&mut sharp);
        let (width, height) = self.size();
        if let Some(qp) = self.h264_qp {
            compress_h264(&mut blurry, width, height, qp as u8);
        } else if self.chroma_subsampled {
            subsample_chroma(&mut blurry, width, height);
        }
        if let Some(quality) = self.jpeg_quality {
            compress_jpeg(&mut blurry, width, height, quality as u8);
        }
        Sample {
            blurry,
            sharp,
            width,
            height,
            kind: self.kind,
        }
    }

    /// Blurry and sharp in linear light.
    fn linear(&self) -> (Planes, Planes) {
        let response = self.response;
        let read = |image: &Image8| Planes::read(image, &self.window, response);
        let size = (self.window.width, self.window.height);
        match &self.blur {
            Blur::None => {
                let sharp = read(&self.images[0]);
                (sharp.clone(), sharp)
            }
            Blur::Recorded => match self.source {
                SourceId::Exposure { exposure, .. } => {
                    let blurry = Planes::read_mean(&self.images, &self.window, response);
                    (blurry, read(&self.images[exposure.middle()]))
                }
                _ => (read(&self.images[0]), read(&self.images[1])),
            },
            Blur::Uniform { kernel, .. } => {
                let (source, sharp) = self.with_margins(kernel.margins());
                (convolve(&source, kernel), sharp)
            }
            Blur::Defocus { kernel, .. } => {
                let (source, _) = self.with_margins(kernel.margins());
                let unfocused = convolve(&source, kernel);
                (unfocused.clone(), unfocused)
            }
            Blur::Rotation { rotation, .. } => {
                let (source, sharp) = self.with_margins(rotation.margins(size));
                (rotation.blur(&source, size, self.filter()), sharp)
            }
            Blur::Layered(layering) => self.layered(layering),
        }
    }

    /// The window with its margins, highlights restored; and the window as it is.
    fn with_margins(&self, margins: Margins) -> (Planes, Planes) {
        let source = Planes::read(&self.images[0], &self.window.widened(margins), self.response);
        let sharp = source.cropped(margins.left, margins.top, self.window.width, self.window.height);
        (self.restored(source), sharp)
    }

    fn layered(&self, layering: &Layering) -> (Planes, Planes) {
        let (background, bright_background) = self.backgrounds(layering);
        let pictures = layering
            .objects
            .iter()
            .map(|object| Planes::read(&object.image, &object.window, self.response));
        let pictures: Vec<Planes> = pictures.collect();
        let cut = |pictures: Vec<Planes>| -> Vec<Object> {
            let pairs = pictures.into_iter().zip(&layering.objects);
            pairs
                .map(|(picture, object)| Object::cut(picture, &object.blob, object.centre))
                .collect()
        };
        let sharp = layering.layers.sharp(&background, &cut(pictures.clone()));
        // What is at rest is its own truth.
        let bright = pictures
            .into_iter()
            .zip(&layering.objects)
            .map(|(picture, object)| {
                if object.path.moves() {
                    self.restored(picture)
                } else {
                    picture
                }
            });
        let objects = cut(bright.collect());
        (
            layering.layers.blur(&bright_background, &objects, self.filter()),
            sharp,
        )
    }

    /// The background of layers as it is in the truth, and with its highlights restored. Out of focus they are the same:
    /// there light that is brighter than white belongs to the truth.
    fn backgrounds(&self, layering: &Layering) -> (Planes, Planes) {
        let source = Planes::read(
            &self.images[0],
            &self.window.widened(layering.margins()),
            self.response,
        );
        match &layering.defocus {
            Some(kernel) => {
                let unfocused = convolve(&self.restored(source), kernel);
                (unfocused.clone(), unfocused)
            }
            None if layering.background.moves() => (source.clone(), self.restored(source)),
            None => (source.clone(), source),
        }
    }

    fn restored(&self, mut planes: Planes) -> Planes {
        if let Some(gain) = self.saturation_gain {
            boost_highlights(&mut planes, HIGHLIGHT, gain as f32);
        }
        planes
    }

    /// Next to a lamp ten times as bright as white, a sharp filter would leave dark rims.
    fn filter(&self) -> Filter {
        match self.saturation_gain {
            Some(_) => Filter::Bilinear,
            None => Filter::CatmullRom,
        }
    }

    /// The kernels of the blur: one where it is uniform, a grid of `grid` x `grid` where it varies, one for each layer;
    /// none for recorded blur and where nothing is blurred.
    pub fn kernels(&self, grid: usize) -> Vec<LocalKernel> {
        let whole = |kernel: &Kernel| LocalKernel {
            layer: "image",
            at: None,
            kernel: kernel.clone(),
        };
        match &self.blur {
            Blur::None | Blur::Recorded => Vec::new(),
            Blur::Uniform { kernel, .. } | Blur::Defocus { kernel, .. } => vec![whole(kernel)],
            Blur::Rotation { rotation, .. } => {
                let place = |i: usize, length: usize| (i as f64 + 0.5) / grid as f64 * length as f64 - 0.5;
                let local = |i: usize| {
                    let (column, row) = (i % grid, i / grid);
                    let at = [place(column, self.window.width), place(row, self.window.height)];
                    let kernel = Kernel::render(&rotation.way_of(at));
                    LocalKernel {
                        layer: "image",
                        at: Some(at),
                        kernel,
                    }
                };
                (0..grid * grid).map(local).collect()
            }
            Blur::Layered(layering) => {
                let local = |layer, at, path: &Trajectory| LocalKernel {
                    layer,
                    at,
                    kernel: Kernel::render(path),
                };
                let objects = layering.objects.iter().map(|object| {
                    let at = object.centre.map(|place| place as f64);
                    local("object", Some(at), &object.path)
                });
                std::iter::once(local("background", None, &layering.background))
                    .chain(objects)
                    .collect()
            }
        }
    }

    /// Extent of the blur in px, where one number tells it.
    pub fn extent_px(&self) -> Option<f64> {
        match &self.blur {
            Blur::Uniform { extent_px, .. } | Blur::Rotation { extent_px, .. } => Some(*extent_px),
            Blur::Defocus { radius_px, .. } => Some(2.0 * radius_px),
            Blur::None => Some(0.0),
            Blur::Layered(_) | Blur::Recorded => None,
        }
    }
}
