//! Training data: sharp images, clips and real pairs become seeded batches of blurry and sharp crops.
//!
//! [`Sources`] holds images, [`sample()`] makes one crop from its index, [`Loader`] makes batches on other threads. A
//! sample is drawn as a [`Recipe`], then rendered; blur is computed in linear light: [`Trajectory`] to [`Kernel`] to
//! convolution, a path of camera poses ([`Rotation`]), moving layers ([`Layering`]), or the mean of the frames of a
//! [`Clip`]. Plain vectors only: no tensor library.

mod blob;
mod blur;
mod clip;
mod crop;
mod degrade;
mod error;
mod image;
mod interpolate;
mod kernel;
mod layers;
mod loader;
mod mix;
mod orientation;
mod pairs;
mod picture;
mod planes;
mod random;
mod recipe;
mod render;
mod rotation;
mod sampler;
mod trajectory;
mod transfer;
mod video;

pub use self::blur::{boost_highlights, convolve};
pub use self::clip::{Clip, Exposure};
pub use self::crop::Framing;
pub use self::degrade::{add_noise, add_sensor_noise, compress_jpeg, quantise};
pub use self::error::DataError;
pub use self::image::Image8;
pub(crate) use self::image::image_paths;
pub use self::interpolate::Filter;
pub use self::kernel::{Kernel, Margins, Tap};
pub use self::loader::{Batch, Loader};
pub use self::mix::{ExtentDistribution, MixConfig, MixWeights, SampleKind, Sources};
pub use self::orientation::Orientation;
pub use self::pairs::{Pair, PairFolder};
pub use self::picture::{Picture, PictureFolder, Pictures, memory_for_images};
pub use self::planes::{Planes, Window};
pub use self::random::sample_rng;
pub use self::recipe::{Blur, Layering, MovingObject, Recipe, SourceId};
pub use self::render::LocalKernel;
pub use self::rotation::Rotation;
pub use self::sampler::{Sample, draw_kind, sample};
pub use self::trajectory::{CameraShake, Trajectory};
pub use self::transfer::{Response, TransferTables};
pub use self::video::{compress_h264, subsample_chroma};
