//! Layers of the model on libtorch tensors, named and shaped as in diffusers.
//!
//! Activations are `[B, C, H, W]`, in channels-last memory wherever they come from a frame. Layers may use tch and
//! nothing above them.

mod attention;
mod basic;
mod block;
mod conv;
mod cpu;
mod cuda;
mod gated;
mod norm;
mod packed;
mod params;
mod resnet;
mod sample;
mod transformer;
mod wanted;

pub use attention::{Attention, AttnBlock};
pub(crate) use basic::copied;
pub use basic::{Linear, channels_last};
pub(crate) use basic::{from_memory_order, memory_order};
pub use block::{Block2D, BlockKind, BlockShape};
pub use conv::Conv2d;
pub(crate) use cpu::on_one_thread;
pub use cpu::{Products, on_own_threads};
pub(crate) use cpu::{by_rows, lanes as cpu_lanes};
pub(crate) use cuda::{FrameKernels, TilePlaces};
pub use gated::GatedBlock2D;
pub use norm::{ImageNorm, LayerNorm, NormKind};
pub use params::{Init, Initializer, Params, Shapes, Source, TensorMap};
pub use resnet::ResnetBlock2D;
pub use sample::{Downsample2D, Upsample2D, patchify, unpatchify};
pub use transformer::{Transformer2DModel, TransformerShape};
pub(crate) use wanted::while_wanted;
