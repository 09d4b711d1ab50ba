//! Weights on disk and in memory: strict loading, the dual adapter, presets, one copy a process.

mod adapter;
mod file;
mod preset;
mod shared;

pub use adapter::{Adapter, EndPoints, Merged, adapted_modules, lora_shapes, merge_functional};
pub(crate) use file::take_exactly;
pub use file::{Weights, save_safetensors};
pub use preset::{ModelInfo, identity, installed_models, load_model};
pub(crate) use shared::shared_model;
