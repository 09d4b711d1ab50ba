//! How good an image is: against a reference ([`psnr()`], [`ssim()`], [`Lpips`], [`Dists`]) or alone ([`Niqe`],
//! [`mean_gradient`]).
//!
//! Each is equal to the package that the field reports it with: `lpips`, `DISTS_pytorch` and pyiqa. All look at R, G and
//! B, scaled to [0, 1] by the format's full scale; alpha does not count. [`Lpips`] and [`Dists`] are differentiable
//! losses inside the library; `scripts/convert_metrics.py` makes their weight files.

mod aggd;
mod backbone;
mod dists;
mod file;
mod gradient;
mod lpips;
mod niqe;
mod pixels;
mod plane;
mod psnr;
mod sobel;
mod ssim;

pub use backbone::Backbone;
pub use dists::Dists;
pub use gradient::mean_gradient;
pub use lpips::Lpips;
pub use niqe::Niqe;
pub use psnr::psnr;
pub(crate) use sobel::Sobel;
pub use ssim::ssim;
