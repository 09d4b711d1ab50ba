//! Training data: sharp images, clips and real pairs become seeded batches of blurry and sharp crops.
//!
//! [`Sources`] holds 8-bit images in memory, [`sample()`] makes one crop from its index, [`Loader`] makes
//! batches on other threads. Blur is computed in linear light: [`Trajectory`] to [`Kernel`] to convolution,
//! or the mean of the frames of a [`Clip`]. Plain vectors only: no tensor library, no video decoder.

mod blur;
mod clip;
mod degrade;
mod error;
mod image;
mod kernel;
mod loader;
mod mix;
mod pairs;
mod planes;
mod random;
mod sampler;
mod trajectory;
mod transfer;

pub use self::blur::{boost_highlights, convolve};
pub use self::clip::{Clip, Exposure};
pub use self::degrade::{add_noise, quantise};
pub use self::error::DataError;
pub use self::image::{Folder, Image8};
pub use self::kernel::{Kernel, Margins, Tap};
pub use self::loader::{Batch, Loader};
pub use self::mix::{ExtentDistribution, MixConfig, MixWeights, SampleKind, Sources};
pub use self::pairs::{Pair, PairFolder};
pub use self::planes::{Planes, Window};
pub use self::random::sample_rng;
pub use self::sampler::{Sample, sample};
pub use self::trajectory::{CameraShake, Trajectory};
pub use self::transfer::{Response, TransferTables};
