//! Motion deblurring with a one-step diffusion model.
//!
//! An implementation of "One-Step Diffusion Model for Image Motion-Deblurring" (Liu et al., arXiv 2503.06537) on
//! libtorch. Most programs need [`engine::Engine`], which takes [`frame::Frame`]s and gives them back sharper.

pub mod compare;
pub mod config;
mod control_group;
pub mod data;
pub mod device;
pub mod engine;
mod error;
#[cfg(all(test, libtorch_headers))]
mod fake_gpu;
pub mod frame;
mod memory;
pub mod metrics;
pub mod model;
pub mod nn;
#[cfg(test)]
mod test_library;
pub mod threads;
pub mod tile;
pub mod train;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
