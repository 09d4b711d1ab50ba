//! The one pass over the data: each tensor is read, checked, converted, written and summed.

use std::fs::File;
use std::io::{BufReader, Read};

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::manifest::{FileRecord, MADE_HERE, TensorRecord, hexadecimal};
use super::plan::{Origin, Plan, Planned, our_name};
use super::shards::Shards;
use super::source::{SourceFile, kind};
use super::{ImportProgress, Watch, unreadable, wrong};
use crate::config::WeightsDtype;
use crate::weights::file::dtypes;
use crate::{Error, Result};

/// What has been read and written.
pub(super) struct Done {
    pub files: Vec<FileRecord>,
    /// Sorted by name.
    pub tensors: Vec<TensorRecord>,
}

/// Checks all of `sources`, and writes into `shards` where there are any. `None` when `watch` broke it off.
pub(super) fn run(
    plan: &Plan,
    sources: &[SourceFile],
    dtype: WeightsDtype,
    shards: Option<&mut Shards>,
    watch: Watch,
) -> Result<Option<Done>> {
    let _no_grad = tch::no_grad_guard();
    let mut progress = ImportProgress {
        bytes: 0,
        total_bytes: sources.iter().map(|file| file.bytes).sum(),
        tensors: 0,
    };
    let mut writer = Writer { shards, dtype };
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for source in sources {
        let mut data = Summed::open(source)?;
        for (theirs, info) in &source.tensors {
            let bytes = data.take(info.data_offsets.1 - info.data_offsets.0)?;
            let name = our_name(source.part, theirs);
            let planned = plan.get(&name).expect("the plan has every tensor of the source");
            let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
            let value = Tensor::f_from_data_size(&bytes, &shape, kind(info.dtype))?;
            drop(bytes);
            if value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                return Err(Error::TensorNotFinite {
                    name: theirs.clone(),
                    file: source.path.display().to_string(),
                });
            }
            let more = match planned.origin {
                Origin::Widened => ", with more input channels that weigh zero",
                _ => "",
            };
            let origin = format!("{}: {theirs}{more}", source.relative);
            tensors.push(writer.put(planned, fit(&value, planned)?, origin)?);
            progress.bytes = files.iter().map(|file: &FileRecord| file.bytes).sum::<u64>()
                + source.data_start
                + info.data_offsets.1 as u64;
            progress.tensors += 1;
            if watch(progress).is_break() {
                return Ok(None);
            }
        }
        files.push(data.finish()?);
    }
    for planned in &plan.tensors {
        if let Origin::Made(made) = &planned.origin {
            let value = made.tensor(&planned.name, &planned.shape)?;
            tensors.push(writer.put(planned, value, format!("{MADE_HERE}: {}", made.describe()))?);
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(Done { files, tensors }))
}

/// The value in our shape: zeros for input channels that it lacks.
fn fit(value: &Tensor, planned: &Planned) -> Result<Tensor> {
    Ok(match planned.origin {
        Origin::Widened => {
            let more = planned.shape[1] - value.size()[1];
            value.f_constant_pad_nd([0, 0, 0, 0, 0, more])?
        }
        _ => value.f_view(planned.shape.as_slice())?,
    })
}

/// Converts, sums and stores.
struct Writer<'a> {
    shards: Option<&'a mut Shards>,
    dtype: WeightsDtype,
}

impl Writer<'_> {
    fn put(&mut self, planned: &Planned, value: Tensor, source: String) -> Result<TensorRecord> {
        let (_, kind) = dtypes(self.dtype);
        let narrowed = kind == Kind::Half && value.kind() != Kind::Half;
        let value = value.f_to_kind(kind)?;
        if narrowed && value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::OutOfRange {
                name: "dtype",
                value: "f16".into(),
                range: format!("tensor '{}' has values beyond it; take bf16 or f32", planned.name),
            });
        }
        let mut bytes = vec![0; value.numel() * kind.elt_size_in_bytes()];
        value.f_contiguous()?.f_copy_data_u8(&mut bytes, value.numel())?;
        let file = match &mut self.shards {
            Some(shards) => Some(shards.write(&planned.name, &bytes)?),
            None => None,
        };
        Ok(TensorRecord {
            name: planned.name.clone(),
            source,
            file,
            shape: planned.shape.clone(),
            dtype: self.dtype,
            sha256: hexadecimal(&Sha256::digest(&bytes)),
        })
    }
}

/// A weight file that is read once from beginning to end, with its checksum.
struct Summed<'a> {
    source: &'a SourceFile,
    reader: BufReader<File>,
    sum: Sha256,
}

impl<'a> Summed<'a> {
    /// Stands at the first tensor's data.
    fn open(source: &'a SourceFile) -> Result<Self> {
        let file = File::open(&source.path).map_err(|e| unreadable(&source.path, e))?;
        let mut summed = Summed {
            source,
            reader: BufReader::new(file),
            sum: Sha256::new(),
        };
        summed.take(source.data_start as usize)?;
        Ok(summed)
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|e| unreadable(&self.source.path, e))?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn finish(self) -> Result<FileRecord> {
        let sha256 = hexadecimal(&self.sum.finalize());
        let expected = self.source.expected_sha256.as_ref();
        if let Some(expected) = expected.filter(|expected| **expected != sha256) {
            return Err(wrong(
                &self.source.path,
                format!("its SHA-256 is {sha256}, not {expected} as on the hub; download the file again"),
            ));
        }
        Ok(FileRecord {
            path: self.source.relative.clone(),
            bytes: self.source.bytes,
            sha256,
            as_on_the_hub: expected.is_some(),
        })
    }
}
