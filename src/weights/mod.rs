//! Weights on disk and in memory: strict loading, the dual adapter, presets, one copy a process.

mod adapter;
mod diffusers;
mod file;
mod merge;
mod preset;
mod shared;

pub use adapter::{Adapter, adapted_modules, lora_shapes, merge_functional};
pub use diffusers::{
    DiffusersFolder, FileRecord, ImportOptions, ImportProgress, Manifest, TensorRecord, Watch, verify_import,
};
pub(crate) use file::take_exactly;
pub use file::{Weights, load_safetensors, save_safetensors};
pub use merge::{EndPoints, Keep, Merged};
pub use preset::{ModelInfo, identity, installed_models, load_config, load_model};
pub(crate) use shared::{SharedModel, shared_model};
