//! Stable Diffusion 2.1-base in diffusers' layout becomes a model of ours.
//!
//! A folder is opened ([`DiffusersFolder::open`]), which reads its configurations and the headers of its weight files and
//! fails for every folder that is not what it should be; then its data are read once, checked and written.
//!
//! - `layout` finds the files, `family` tells other models from the one we want, `configs` makes our configuration,
//!   `source` reads weight files, `plan` says where each of our tensors comes from, `shards` writes them, `transfer` does
//!   the work tensor by tensor, `manifest` is the record that stays beside the weights.

mod configs;
mod family;
mod layout;
mod manifest;
mod plan;
mod shards;
mod source;
mod transfer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use manifest::{FileRecord, Manifest, TensorRecord, verify_import};

use self::layout::Layout;
use self::plan::Plan;
use self::source::SourceFile;
use super::file::write_atomically;
use crate::config::{ModelConfig, WeightsDtype};
use crate::{Error, Result};

/// The preset that an import fills with weights: what diffusers' files do not say (skips, prompt, timestep, adapters).
const SD21: &str = include_str!("../../../models/sd21/config.json");

/// What the caller may choose.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Dtype of the tensors that are written; `None` is that of the source, or float32 where it has several.
    pub dtype: Option<WeightsDtype>,
    /// Take half-precision files too. They are refused otherwise, because their rounding cannot be undone.
    pub allow_fp16: bool,
    /// Skips, prompt, timestep and adapters are taken from this configuration; `None` is the preset `sd21`.
    pub config: Option<ModelConfig>,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of the source that have been read, and that there are.
    pub bytes: u64,
    pub total_bytes: u64,
    pub tensors: u64,
}

/// Sees the progress after each tensor; `Break` ends the work, and nothing stays of it.
pub type Watch<'a> = &'a mut dyn FnMut(ImportProgress) -> ControlFlow<()>;

/// A folder in diffusers' layout whose files are all there and fit together; its data are not read yet.
pub struct DiffusersFolder {
    layout: Layout,
    config: ModelConfig,
    sources: Vec<SourceFile>,
    plan: Plan,
}

impl DiffusersFolder {
    /// Reads configurations and headers: some hundred kilobytes.
    ///
    /// `dir` is a folder with a `model_index.json`, or a model in the hub's cache (`models--...`).
    ///
    /// # Errors
    /// A folder of another model, an incomplete one, and every tensor that is missing, unexpected or of a wrong shape or
    /// dtype.
    pub fn open(dir: &Path, options: &ImportOptions) -> Result<Self> {
        let layout = Layout::find(dir, options.allow_fp16)?;
        let template = match &options.config {
            Some(config) => config.clone(),
            None => sd21(),
        };
        let mut config = configs::model_config(&layout, &template)?;
        let files = layout.weight_files();
        let sources = files
            .map(|(part, path)| SourceFile::open(part, &path, layout.root(), options.allow_fp16))
            .collect::<Result<Vec<_>>>()?;
        config.weights_dtype = options
            .dtype
            .or_else(|| source::common_dtype(&sources))
            .unwrap_or(WeightsDtype::F32);
        let plan = Plan::new(&config, &sources)?;
        Ok(DiffusersFolder {
            layout,
            config,
            sources,
            plan,
        })
    }

    /// The configuration of the model that [`DiffusersFolder::import`] writes; its name is `sd21` until then.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Each field in which the model differs from the preset `sd21`, as in `unet.cross_attention_dim: 16, not 1024`.
    pub fn differences(&self) -> Vec<String> {
        configs::differences(&self.config, &sd21())
    }

    /// Reads and checks everything, and writes nothing. `None` when `watch` broke it off.
    ///
    /// # Errors
    /// A file that cannot be read or has another checksum than its download, or a tensor with NaN or infinity.
    pub fn check(&self, watch: Watch) -> Result<Option<Manifest>> {
        let Some(done) = transfer::run(&self.plan, &self.sources, self.config.weights_dtype, None, watch)?
        else {
            return Ok(None);
        };
        Ok(Some(self.manifest(done)))
    }

    /// Writes a model folder: `config.json`, safetensors files and `import.json`. Either the whole folder appears or none.
    ///
    /// Tensors pass through memory one by one. `None` when `watch` broke it off.
    ///
    /// # Errors
    /// As [`DiffusersFolder::check`]; a folder that cannot be written, or exists and is not empty.
    pub fn import(&self, out: &Path, watch: Watch) -> Result<Option<Manifest>> {
        let folder = PendingFolder::create(out)?;
        let mut config = self.config.clone();
        if let Some(name) = out.file_name() {
            config.name = name.to_string_lossy().into_owned();
        }
        let mut shards = shards::Shards::create(&folder.temporary, &self.plan, config.weights_dtype)?;
        let dtype = config.weights_dtype;
        let Some(done) = transfer::run(&self.plan, &self.sources, dtype, Some(&mut shards), watch)? else {
            return Ok(None);
        };
        shards.finish()?;
        let manifest = self.manifest(done);
        let json = |value: serde_json::Result<String>| value.expect("plain data") + "\n";
        let write =
            |name: &str, text: String| write_atomically(&folder.temporary.join(name), text.as_bytes());
        write(manifest::FILE, json(serde_json::to_string_pretty(&manifest)))?;
        write("config.json", json(serde_json::to_string_pretty(&config)))?;
        folder.commit()?;
        Ok(Some(manifest))
    }

    fn manifest(&self, done: transfer::Done) -> Manifest {
        Manifest {
            format: manifest::FORMAT,
            osdd: env!("CARGO_PKG_VERSION").into(),
            source: self.layout.root().display().to_string(),
            unused: self.layout.unused().to_vec(),
            files: done.files,
            tensors: done.tensors,
        }
    }
}

fn sd21() -> ModelConfig {
    ModelConfig::from_json(SD21, "sd21/config.json (built in)").expect("the preset is valid")
}

/// A folder that gets its name when it is complete; dropped before, it is gone.
struct PendingFolder {
    path: PathBuf,
    temporary: PathBuf,
}

impl PendingFolder {
    fn create(path: &Path) -> Result<Self> {
        let wrong = |reason: &str| Error::Config {
            file: path.display().to_string(),
            reason: reason.into(),
        };
        if path.is_dir() {
            let mut entries = std::fs::read_dir(path).map_err(|e| unreadable(path, e))?;
            if entries.next().is_some() {
                return Err(wrong(
                    "this folder is not empty; name one for the imported model alone",
                ));
            }
        } else if path.exists() {
            return Err(wrong("this is a file; name a folder for the imported model"));
        }
        let name = path
            .file_name()
            .ok_or_else(|| wrong("the folder for the imported model needs a name"))?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(temporary_name);
        std::fs::create_dir_all(&temporary).map_err(|e| unwritable(&temporary, e))?;
        Ok(PendingFolder {
            path: path.to_owned(),
            temporary,
        })
    }

    fn commit(self) -> Result<()> {
        std::fs::rename(&self.temporary, &self.path).map_err(|e| unwritable(&self.path, e))
    }
}

impl Drop for PendingFolder {
    fn drop(&mut self) {
        // After a rename the temporary no longer exists, which is as good.
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

fn unwritable(path: &Path, source: std::io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

/// Something about a file or folder that one sentence explains.
fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Config {
        file: path.display().to_string(),
        reason: reason.into(),
    }
}
