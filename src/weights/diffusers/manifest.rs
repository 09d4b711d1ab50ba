//! The record of an import, `import.json`, and a later check of a model against it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::source::SourceFile;
use super::{ImportProgress, Watch, unreadable, wrong};
use crate::config::WeightsDtype;
use crate::weights::file::dtypes;
use crate::{Error, Result};

pub(super) const FILE: &str = "import.json";

/// How [`TensorRecord::source`] begins where diffusers has no such tensor.
pub(super) const MADE_HERE: &str = "made here";

/// Of `import.json`.
pub(super) const FORMAT: u32 = 1;

/// What was imported from where, tensor by tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Version of osdd that wrote the model.
    pub osdd: String,
    /// The folder in diffusers' layout.
    pub source: String,
    /// Its parts that are not taken over.
    pub unused: Vec<String>,
    /// Its weight files.
    pub files: Vec<FileRecord>,
    /// The tensors of our model, sorted by name.
    pub tensors: Vec<TensorRecord>,
}

/// A weight file of the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// In the folder.
    pub path: String,
    pub bytes: u64,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// The hub's client had noted a checksum with the download, and it is this one.
    pub as_on_the_hub: bool,
}

/// A tensor of our model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorRecord {
    pub name: String,
    /// File and name in the source, or how it was made.
    pub source: String,
    /// The file of our model; `None` after a check, which writes none.
    pub file: Option<String>,
    pub shape: Vec<i64>,
    pub dtype: WeightsDtype,
    /// Of the bytes as stored by us, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The tensors of one part, `unet`, `vae` or `prompt`: those from the source, and those made here.
    pub fn count(&self, part: &str) -> (usize, usize) {
        let own = |record: &&TensorRecord| record.name.split('.').next() == Some(part);
        let (made, taken): (Vec<_>, Vec<_>) = self
            .tensors
            .iter()
            .filter(own)
            .partition(|record| record.source.starts_with(MADE_HERE));
        (taken.len(), made.len())
    }
}

/// Reads an imported model again and compares each of its tensors with `import.json`: name, shape, dtype and checksum.
/// `None` when `watch` broke it off.
///
/// Tensors that came later, such as adapters, are no concern of this.
///
/// # Errors
/// A folder without that record, and the first tensor that is not as it was.
pub fn verify_import(dir: &Path, watch: Watch) -> Result<Option<Manifest>> {
    let path = dir.join(FILE);
    let json = std::fs::read(&path).map_err(|e| unreadable(&path, e))?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|e| wrong(&path, format!("not a record of an import: {e}")))?;
    if manifest.format != FORMAT {
        return Err(wrong(
            &path,
            format!("format {} is of another version of osdd", manifest.format),
        ));
    }
    let mut by_file: BTreeMap<&str, BTreeMap<&str, &TensorRecord>> = BTreeMap::new();
    for record in &manifest.tensors {
        let file = record.file.as_deref().unwrap_or_default();
        by_file
            .entry(file)
            .or_default()
            .insert(record.name.as_str(), record);
    }
    let mut sources = Vec::new();
    for name in by_file.keys() {
        sources.push(SourceFile::open("model", &dir.join(name), dir, true)?);
    }
    let mut progress = ImportProgress {
        bytes: 0,
        total_bytes: sources.iter().map(|file| file.bytes).sum(),
        tensors: 0,
    };
    for (source, mut records) in sources.iter().zip(by_file.into_values()) {
        let broke_off = verify_file(source, &mut records, &mut progress, watch)?.is_break();
        if broke_off {
            return Ok(None);
        }
        if let Some((name, _)) = records.pop_first() {
            return Err(Error::TensorMissing {
                name: name.into(),
                file: source.path.display().to_string(),
            });
        }
    }
    Ok(Some(manifest))
}

/// Takes each tensor that is as it was out of `records`.
fn verify_file(
    source: &SourceFile,
    records: &mut BTreeMap<&str, &TensorRecord>,
    progress: &mut ImportProgress,
    watch: Watch,
) -> Result<ControlFlow<()>> {
    let file = File::open(&source.path).map_err(|e| unreadable(&source.path, e))?;
    let mut reader = BufReader::new(file);
    let mut read = |length: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        reader
            .read_exact(&mut bytes)
            .map_err(|e| unreadable(&source.path, e))?;
        Ok(bytes)
    };
    read(source.data_start as usize)?;
    progress.bytes += source.data_start;
    for (name, info) in &source.tensors {
        let bytes = read(info.data_offsets.1 - info.data_offsets.0)?;
        progress.bytes += bytes.len() as u64;
        if let Some(record) = records.remove(name.as_str()) {
            compare(source, name, info.dtype, &info.shape, &bytes, record)?;
            progress.tensors += 1;
        }
        if watch(*progress).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn compare(
    source: &SourceFile,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    bytes: &[u8],
    record: &TensorRecord,
) -> Result<()> {
    let file = source.path.display().to_string();
    let got: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    if got != record.shape {
        return Err(Error::TensorShape {
            name: name.into(),
            file,
            expected: record.shape.clone(),
            got,
        });
    }
    let (expected, _) = dtypes(record.dtype);
    if dtype != expected {
        return Err(Error::TensorDtype {
            name: name.into(),
            file,
            expected: format!("{expected:?}"),
            got: format!("{dtype:?}"),
        });
    }
    if hexadecimal(&Sha256::digest(bytes)) != record.sha256 {
        return Err(wrong(
            &source.path,
            format!("tensor '{name}' is no longer what was imported: its checksum differs from {FILE}"),
        ));
    }
    Ok(())
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
