//! safetensors files that are written tensor by tensor, in any order: the places are known beforehand.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use super::plan::Plan;
use super::unwritable;
use crate::config::WeightsDtype;
use crate::weights::file::dtypes;
use crate::{Error, Result};

/// A file holds at most this many bytes of tensors, so that it fits where 2 GB is the limit.
const MAX_SHARD_BYTES: usize = 2_000_000_000;

struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
}

/// The open files of one model.
pub(super) struct Shards {
    shards: Vec<Shard>,
    /// Shard and place in its data of each tensor.
    places: BTreeMap<String, (usize, (usize, usize))>,
}

impl Shards {
    /// Makes `model.safetensors`, or `model-00001-of-00002.safetensors` and so on, with headers and no data.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(dir: &Path, plan: &Plan, dtype: WeightsDtype) -> Result<Self> {
        let entries = plan.tensors.iter().map(|planned| {
            let shape: Vec<usize> = planned.shape.iter().map(|&n| n as usize).collect();
            (planned.name.as_str(), shape)
        });
        let (dtype, _) = dtypes(dtype);
        let groups = pack(entries, dtype.bitsize() / 8, MAX_SHARD_BYTES);
        let mut places = BTreeMap::new();
        let mut shards = Vec::new();
        let count = groups.len();
        for (index, group) in groups.into_iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
            };
            let path = dir.join(name);
            let tensors = group.into_iter().map(|(name, shape, data_offsets)| {
                places.insert(name.to_owned(), (index, data_offsets));
                let info = TensorInfo {
                    dtype,
                    shape,
                    data_offsets,
                };
                (name.to_owned(), info)
            });
            let failed = |reason: String| Error::NotSafetensors {
                file: path.display().to_string(),
                reason,
            };
            let metadata = Metadata::new(None, tensors.collect()).map_err(|e| failed(e.to_string()))?;
            let mut header = serde_json::to_vec(&metadata).map_err(|e| failed(e.to_string()))?;
            // Data are to begin at a multiple of eight; the format pads with spaces.
            header.resize(header.len().next_multiple_of(8), b' ');
            let data_start = 8 + header.len() as u64;
            let start = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
            let file = File::create(&path).map_err(|e| unwritable(&path, e))?;
            file.write_all_at(&start, 0)
                .and_then(|()| file.set_len(data_start + metadata.data_len() as u64))
                .map_err(|e| unwritable(&path, e))?;
            shards.push(Shard {
                path,
                file,
                data_start,
            });
        }
        Ok(Shards { shards, places })
    }

    /// Puts a tensor's bytes in their place, and gives the name of the file.
    ///
    /// # Errors
    /// A full disk, most likely.
    ///
    /// # Panics
    /// A tensor that is not in the plan, or has another size there.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<String> {
        let (index, (start, end)) = self.places[name];
        assert_eq!(end - start, bytes.len(), "{name}");
        let shard = &self.shards[index];
        let offset = shard.data_start + start as u64;
        shard
            .file
            .write_all_at(bytes, offset)
            .map_err(|e| unwritable(&shard.path, e))?;
        let name = shard.path.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// A full disk, most likely.
    pub fn finish(self) -> Result<()> {
        for shard in self.shards {
            shard.file.sync_all().map_err(|e| unwritable(&shard.path, e))?;
        }
        Ok(())
    }
}

type Entry<'a> = (&'a str, Vec<usize>, (usize, usize));

/// Consecutive tensors go into one group until it is full.
fn pack<'a>(
    entries: impl Iterator<Item = (&'a str, Vec<usize>)>,
    element_bytes: usize,
    limit: usize,
) -> Vec<Vec<Entry<'a>>> {
    let mut groups: Vec<Vec<Entry>> = Vec::new();
    let mut end = 0;
    for (name, shape) in entries {
        let bytes = shape.iter().product::<usize>() * element_bytes;
        if groups.is_empty() || end + bytes > limit {
            groups.push(Vec::new());
            end = 0;
        }
        let group = groups.last_mut().expect("one was just made");
        group.push((name, shape, (end, end + bytes)));
        end += bytes;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_full_but_not_too_full() {
        let entries = [
            ("a", vec![2, 2]),
            ("b", vec![3]),
            ("c", vec![2]),
            ("d", vec![100]),
        ];
        let groups = pack(entries.into_iter(), 4, 28);
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().map(|entry| entry.0).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"]]);
        assert_eq!(groups[0][1].2, (16, 28));
        assert_eq!(groups[1][0].2, (0, 8));
    }
}
