//! Which models there are, and where: built in, or in a folder.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::Weights;
use super::file::{NamedBytes, check_complete};
use crate::config::ModelConfig;
use crate::model::operations_per_pixel;
use crate::{Error, Result};

/// `nano` is part of every binary, so that nothing has to be found on disk.
const NANO_CONFIG: &str = include_str!("../../models/nano/config.json");
const NANO_WEIGHTS: &[u8] = include_bytes!("../../models/nano/model.safetensors");

/// A model that can be named.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    pub name: String,
    /// `built in`, or the folder.
    pub origin: String,
    /// Numbers in all tensors, adapters included.
    pub parameters: u64,
    /// Size of the weight files.
    pub bytes: u64,
    /// Operations of one pass over 256x256 pixels in GFLOP, by the configuration; none where that cannot be read.
    pub gflop: Option<f64>,
    /// FNV-1a of the weight files, 64 bits in hexadecimal.
    pub checksum: String,
}

/// Where a model's name leads.
enum Place {
    BuiltIn,
    Folder(PathBuf),
}

/// Folders that hold models by name: `$OSDD_MODELS`, then `osdd/models` in the user's data folder.
fn model_folders() -> Vec<PathBuf> {
    let own = std::env::var_os("OSDD_MODELS").map(PathBuf::from);
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let shared = data.or(home).map(|folder| folder.join("osdd/models"));
    own.into_iter().chain(shared).collect()
}

fn find(name: &str) -> Result<Place> {
    if name == "nano" {
        return Ok(Place::BuiltIn);
    }
    let by_name = model_folders().into_iter().map(|folder| folder.join(name));
    let plain = !name.is_empty() && !name.contains('/');
    for dir in std::iter::once(PathBuf::from(name)).chain(by_name.filter(|_| plain)) {
        let path = dir.join("config.json");
        match path.metadata() {
            Ok(config) if config.is_file() => return Ok(Place::Folder(dir)),
            Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::Io { path, source });
            }
            _ => {}
        }
    }
    Err(Error::ModelNotFound {
        name: name.into(),
        reason: why_not_found(name).into(),
    })
}

fn why_not_found(name: &str) -> &'static str {
    match name {
        "small" => {
            "its weights are not installed: run 'make install', or give the folder models/small of the sources"
        }
        "sd21" => {
            "this preset's weights are made by 'osdd import' from Stable Diffusion 2.1-base; give the folder they are in"
        }
        _ => {
            "it is neither a preset (nano is built in; 'osdd models' lists the others) nor a folder with a config.json, here or in $OSDD_MODELS or ~/.local/share/osdd/models"
        }
    }
}

/// Loads a model by the name of a preset or by its folder.
///
/// # Errors
/// [`Error::ModelNotFound`], and each way in which a model can be broken.
pub fn load_model(name: &str) -> Result<Weights> {
    match find(name)? {
        Place::BuiltIn => Weights::from_bytes(NANO_CONFIG, "nano/config.json (built in)", &built_in()),
        Place::Folder(dir) => Weights::from_dir(&dir),
    }
}

/// A model's configuration, without its weights.
///
/// # Errors
/// [`Error::ModelNotFound`], a file that cannot be read, or a configuration that is broken.
pub fn load_config(name: &str) -> Result<ModelConfig> {
    match find(name)? {
        Place::BuiltIn => ModelConfig::from_json(NANO_CONFIG, "nano/config.json (built in)"),
        Place::Folder(dir) => Weights::config_of(&dir),
    }
}

/// What a model's name stands for, without loading it: `nano`, or the folder with links resolved.
///
/// # Errors
/// [`Error::ModelNotFound`].
pub fn identity(name: &str) -> Result<String> {
    Ok(match find(name)? {
        Place::BuiltIn => "nano".into(),
        Place::Folder(dir) => dir.canonicalize().unwrap_or(dir).display().to_string(),
    })
}

/// [`identity`], and size and time of a folder's files: another value where the model was replaced.
pub(super) fn version(name: &str) -> Result<String> {
    let mut version = identity(name)?;
    if let Place::Folder(dir) = find(name)? {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut stamps: Vec<_> = files
            .filter_map(|file| Some((file.file_name(), file.metadata().ok()?)))
            .map(|(name, data)| format!("{name:?} {} {:?}", data.len(), data.modified().ok()))
            .collect();
        stamps.sort();
        version += &stamps.concat();
    }
    Ok(version)
}

fn built_in() -> [NamedBytes<'static>; 1] {
    [(
        "nano/model.safetensors (built in)".into(),
        Cow::Borrowed(NANO_WEIGHTS),
    )]
}

/// The built-in model and those in the model folders that their names lead to; one that is broken or incomplete is left out with a
/// warning.
pub fn installed_models() -> Vec<ModelInfo> {
    let built_in = ModelConfig::from_json(NANO_CONFIG, "nano/config.json (built in)")
        .map(|config| info("nano", "built in", &config, &built_in()));
    let mut models = Vec::from_iter(built_in);
    for folder in model_folders() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        let mut dirs: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        dirs.sort();
        for dir in dirs.iter().filter(|dir| dir.join("config.json").is_file()) {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            if models.iter().any(|other| other.name == name) {
                tracing::warn!("model {} left out: another {name} is found first", dir.display());
                continue;
            }
            match installed(dir, &name) {
                Ok(model) => models.push(model),
                Err(error) => tracing::warn!("model {} left out: {error}", dir.display()),
            }
        }
    }
    models
}

fn installed(dir: &Path, name: &str) -> Result<ModelInfo> {
    let config = Weights::config_of(dir)?;
    let files = weight_files(dir).map_err(|source| Error::Io {
        path: dir.to_owned(),
        source,
    })?;
    check_complete(&config, &files)?;
    Ok(info(name, &dir.display().to_string(), &config, &files))
}

fn weight_files(dir: &Path) -> std::io::Result<Vec<NamedBytes<'static>>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push((path.display().to_string(), Cow::Owned(std::fs::read(&path)?)));
        }
    }
    files.sort();
    Ok(files)
}

fn info(name: &str, origin: &str, config: &ModelConfig, files: &[NamedBytes]) -> ModelInfo {
    let tensors = |(_, bytes): &NamedBytes| {
        let header = safetensors::SafeTensors::deserialize(bytes);
        header.map_or(0, |file| {
            file.iter()
                .map(|(_, t)| t.shape().iter().product::<usize>() as u64)
                .sum()
        })
    };
    let bytes = files.iter().flat_map(|(_, bytes)| bytes.iter());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ModelInfo {
        name: name.into(),
        origin: origin.into(),
        parameters: files.iter().map(tensors).sum(),
        bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        gflop: operations_per_pixel(config)
            .ok()
            .map(|operations| operations.total() * 65536.0 / 1e9),
        checksum: format!("{hash:016x}"),
    }
}
