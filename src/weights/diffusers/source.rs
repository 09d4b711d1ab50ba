//! The weight files of a diffusers folder: their headers, and the checksums that their download promised.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::Kind;

use super::layout::{check_link, check_pointer};
use super::{unreadable, wrong};
use crate::config::WeightsDtype;
use crate::{Error, Result};

/// safetensors' own limit for a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One safetensors file, of which only the header is in memory.
pub(super) struct SourceFile {
    /// `unet` or `vae`.
    pub part: &'static str,
    pub path: PathBuf,
    /// Its path in the model's folder, for the record.
    pub relative: String,
    /// Where the tensors' data begin.
    pub data_start: u64,
    pub bytes: u64,
    /// Name and place of each tensor, in the order of the data.
    pub tensors: Vec<(String, TensorInfo)>,
    /// SHA-256 in hexadecimal, where the hub's client has left it.
    pub expected_sha256: Option<String>,
}

impl SourceFile {
    /// # Errors
    /// A file that is not a whole safetensors file, or holds other numbers than we take.
    pub fn open(part: &'static str, path: &Path, root: &Path, allow_fp16: bool) -> Result<Self> {
        check_link(path)?;
        let mut file = File::open(path).map_err(|e| unreadable(path, e))?;
        let bytes = file.metadata().map_err(|e| unreadable(path, e))?.len();
        let broken = |reason: String| Error::NotSafetensors {
            file: path.display().to_string(),
            reason,
        };
        let mut start = Vec::new();
        let read = Read::by_ref(&mut file).take(64).read_to_end(&mut start);
        read.map_err(|e| unreadable(path, e))?;
        check_pointer(path, &start)?;
        let Some(length) = start.first_chunk().map(|chunk| u64::from_le_bytes(*chunk)) else {
            return Err(broken(format!("it has {bytes} bytes; download the file again")));
        };
        if length > MAX_HEADER_BYTES || start.get(8) != Some(&b'{') {
            return Err(broken(
                "it does not begin with a header; download the file again".into(),
            ));
        }
        let data_start = 8 + length;
        let stopped = |needed: u64| {
            broken(format!(
                "{bytes} of {needed} bytes are there, the download has stopped; download the file again"
            ))
        };
        if bytes < data_start {
            return Err(stopped(data_start));
        }
        let mut header = start.split_off(8);
        header.truncate(length as usize);
        let rest = length - header.len() as u64;
        let read = file.take(rest).read_to_end(&mut header);
        read.map_err(|e| unreadable(path, e))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| broken(format!("its header is damaged ({e}); download the file again")))?;
        let needed = data_start + metadata.data_len() as u64;
        if bytes < needed {
            return Err(stopped(needed));
        }
        if bytes > needed {
            return Err(broken(format!(
                "{} bytes follow its last tensor; download the file again",
                bytes - needed
            )));
        }
        let tensors = metadata.offset_keys().into_iter().map(|name| {
            let info = metadata.info(&name).expect("a key has its entry").clone();
            (name, info)
        });
        let file = SourceFile {
            part,
            relative: path.strip_prefix(root).unwrap_or(path).display().to_string(),
            expected_sha256: expected_sha256(path, root),
            path: path.to_owned(),
            data_start,
            bytes,
            tensors: tensors.collect(),
        };
        file.check_dtypes(allow_fp16)?;
        Ok(file)
    }

    fn check_dtypes(&self, allow_fp16: bool) -> Result<()> {
        for (name, info) in &self.tensors {
            match info.dtype {
                Dtype::F32 | Dtype::BF16 => {}
                Dtype::F16 if allow_fp16 => {}
                Dtype::F16 => {
                    return Err(wrong(
                        &self.path,
                        "this is an fp16 variant, whose rounding cannot be undone; take the full-precision file, or \
                         accept the loss with --allow-fp16",
                    ));
                }
                other => {
                    return Err(Error::TensorDtype {
                        name: name.clone(),
                        file: self.path.display().to_string(),
                        expected: "F32 or BF16".into(),
                        got: format!("{other:?}"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// libtorch's name for a dtype that [`SourceFile::open`] has let through.
pub(super) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        _ => Kind::Float,
    }
}

/// The dtype of all tensors, if they have one in common.
pub(super) fn common_dtype(files: &[SourceFile]) -> Option<WeightsDtype> {
    let mut dtypes = files
        .iter()
        .flat_map(|file| file.tensors.iter().map(|(_, info)| info.dtype));
    let first = dtypes.next()?;
    dtypes.all(|dtype| dtype == first).then_some(match first {
        Dtype::F16 => WeightsDtype::F16,
        Dtype::BF16 => WeightsDtype::Bf16,
        _ => WeightsDtype::F32,
    })
}

/// The hub's client names the large files of its cache after their SHA-256; beside a download into a plain folder it
/// notes commit, SHA-256 and time, which count until the file changes.
fn expected_sha256(path: &Path, root: &Path) -> Option<String> {
    let sha256 = |text: &str| {
        let hexadecimal = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hexadecimal.then(|| text.to_ascii_lowercase())
    };
    let blob = path.canonicalize().ok()?;
    let in_blobs = blob.parent()?.file_name().is_some_and(|name| name == "blobs");
    if let Some(sum) = sha256(blob.file_name()?.to_str()?).filter(|_| in_blobs) {
        return Some(sum);
    }
    let mut note = root.join(".cache/huggingface/download").into_os_string();
    note.push(format!("/{}.metadata", path.strip_prefix(root).ok()?.display()));
    let note = std::fs::read_to_string(note).ok()?;
    let mut lines = note.lines().map(str::trim);
    let (_commit, etag, noted) = (lines.next()?, lines.next()?, lines.next()?.parse::<f64>().ok()?);
    let modified = path.metadata().ok()?.modified().ok()?;
    let modified = modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64();
    // The client itself allows a second.
    sha256(etag).filter(|_| modified - 1.0 <= noted)
}
