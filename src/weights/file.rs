//! Reading and writing safetensors, with every check before a tensor reaches a layer.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use super::adapter::{Adapter, lora_shapes};
use crate::config::{ModelConfig, WeightsDtype};
use crate::model::parameter_shapes;
use crate::nn::TensorMap;
use crate::{Error, Result};

/// A model's configuration and tensors, checked against each other; float32 on the CPU.
pub struct Weights {
    pub config: ModelConfig,
    /// Parameters without adapters.
    pub base: TensorMap,
    /// LoRA_r, trained for fidelity on real pairs.
    pub lora_r: Option<TensorMap>,
    /// LoRA_s, trained for detail on synthetic pairs.
    pub lora_s: Option<TensorMap>,
}

/// File of a model's configuration.
const CONFIG_FILE: &str = "config.json";

/// Weights of more bytes than this are saved in several files.
const LEAST_FILE: usize = 15_900_000;
/// Their number, at most.
const MOST_FILES: usize = 4;

/// One safetensors file in memory: its name for errors, and its bytes.
pub(crate) type NamedBytes<'a> = (String, Cow<'a, [u8]>);

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

impl Weights {
    /// Reads `config.json` and every `*.safetensors` of a folder.
    ///
    /// # Errors
    /// A file that cannot be read, and each way in which tensors do not fit the configuration.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config_path = dir.join("config.json");
        let json = read(&config_path)?;
        let entries = fs::read_dir(dir).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })?;
        let mut paths: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        if paths.is_empty() {
            return Err(Error::Config {
                file: config_path.display().to_string(),
                reason: "there are no .safetensors files beside it".into(),
            });
        }
        if let Some(missing) = missing_part(&paths) {
            return Err(Error::Config {
                file: missing.display().to_string(),
                reason: "this part of the weights is missing".into(),
            });
        }
        let mut files = Vec::new();
        for path in paths {
            files.push((path.display().to_string(), Cow::Owned(read(&path)?)));
        }
        let json = String::from_utf8_lossy(&json);
        Self::from_bytes(&json, &config_path.display().to_string(), &files)
    }

    /// The configuration of a model's folder, without its weights.
    pub(super) fn config_of(dir: &Path) -> Result<ModelConfig> {
        let path = dir.join("config.json");
        let json = read(&path)?;
        ModelConfig::from_json(&String::from_utf8_lossy(&json), &path.display().to_string())
    }

    /// As [`Weights::from_dir`], from memory.
    pub(super) fn from_bytes(json: &str, config_file: &str, files: &[NamedBytes]) -> Result<Self> {
        let config = ModelConfig::from_json(json, config_file)?;
        let mut found = read_tensors(files)?;
        let dtype = dtypes(config.weights_dtype);
        let all = files
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let base = take_all(&mut found, "", &parameter_shapes(&config)?, dtype, &all)?;
        let lora = lora_shapes(&config)?;
        let mut take_lora = |adapter: Adapter| {
            let prefix = format!("{}.", adapter.prefix());
            if !found.keys().any(|name| name.starts_with(&prefix)) {
                return Ok(None);
            }
            take_all(&mut found, &prefix, &lora, dtype, &all).map(Some)
        };
        let (lora_r, lora_s) = (take_lora(Adapter::R)?, take_lora(Adapter::S)?);
        nothing_left(found)?;
        Ok(Weights {
            config,
            base,
            lora_r,
            lora_s,
        })
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which is made if need be. More than 16 MB, which is much for a
    /// repository, become up to four files, `model-00001-of-00004.safetensors` and so on. Files of these names that were there go.
    ///
    /// # Errors
    /// A file that cannot be written; the old ones are then intact.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let (_, kind) = dtypes(self.config.weights_dtype);
        let mut tensors = BTreeMap::new();
        let mut add = |prefix: &str, map: &TensorMap| {
            for (name, tensor) in map {
                tensors.insert(format!("{prefix}{name}"), tensor.to_kind(kind));
            }
        };
        add("", &self.base);
        for (adapter, lora) in [(Adapter::R, &self.lora_r), (Adapter::S, &self.lora_s)] {
            if let Some(lora) = lora {
                add(&format!("{}.", adapter.prefix()), lora);
            }
        }
        let files = in_files(tensors);
        let json = serde_json::to_string_pretty(&self.config).expect("a config is plain data");
        let names: Vec<&str> = files.keys().map(String::as_str).chain([CONFIG_FILE]).collect();
        let new = |name: &str| dir.join(format!("{name}.new"));
        let written = files
            .iter()
            .try_for_each(|(name, tensors)| save_safetensors(&new(name), tensors, None))
            .and_then(|()| write_atomically(&new(CONFIG_FILE), json.as_bytes()))
            .and_then(|()| replace(dir, &names).map_err(io(dir)));
        if written.is_err() {
            names.iter().for_each(|name| drop(fs::remove_file(new(name))));
        }
        written
    }
}

/// Puts `NAME.new` in the place of each file, and takes away what an earlier save has left beside them; all or nothing, but for a
/// crash in between: then the earlier files are there as `NAME.old`.
fn replace(dir: &Path, names: &[&str]) -> std::io::Result<()> {
    let path = |name: &str, ending: &str| dir.join(format!("{name}{ending}"));
    let mut earlier: Vec<String> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    earlier.retain(|name| is_ours(name) || name == CONFIG_FILE);
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    let aside = earlier.iter().map(|name| (path(name, ""), path(name, ".old")));
    let inward = names.iter().map(|name| (path(name, ".new"), path(name, "")));
    for (from, to) in aside.chain(inward) {
        if let Err(error) = fs::rename(&from, &to) {
            for (from, to) in moved.iter().rev() {
                let _ = fs::rename(to, from);
            }
            return Err(error);
        }
        moved.push((from, to));
    }
    earlier
        .iter()
        .try_for_each(|name| fs::remove_file(path(name, ".old")))
}

/// Tensors by the name of the file that they go into: one, or four of about the same size, or fewer of [`LEAST_FILE`] bytes.
fn in_files(tensors: TensorMap) -> BTreeMap<String, TensorMap> {
    let bytes = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
    let total: usize = tensors.values().map(bytes).sum();
    let most = total.div_ceil(MOST_FILES).max(LEAST_FILE);
    let mut files = vec![TensorMap::new()];
    let mut filled = 0;
    for (name, tensor) in tensors {
        let size = bytes(&tensor);
        if filled + size > most && filled > 0 && files.len() < MOST_FILES {
            files.push(TensorMap::new());
            filled = 0;
        }
        filled += size;
        files.last_mut().expect("there is one").insert(name, tensor);
    }
    let count = files.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => part_name(i + 1, count),
    };
    let named = files.into_iter().enumerate();
    named.map(|(i, tensors)| (name(i), tensors)).collect()
}

/// The name of a part of weights, of so many.
fn part_name(index: usize, count: usize) -> String {
    format!("model-{index:05}-of-{count:05}.safetensors")
}

/// Which part of weights a file is by its name, and of how many.
fn part_of(name: &str) -> Option<(usize, usize)> {
    let numbers = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (index, count) = numbers.split_once("-of-")?;
    let number = |digits: &str| {
        let whole = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        whole.then(|| digits.parse().ok()).flatten()
    };
    Some((number(index)?, number(count)?))
}

/// Of weights in parts, the first that is not among the files of a folder.
fn missing_part(paths: &[PathBuf]) -> Option<PathBuf> {
    let parts = paths
        .iter()
        .filter_map(|path| Some((path, part_of(path.file_name()?.to_str()?)?)));
    for (path, (_, count)) in parts {
        let mut wanted = (1..=count).map(|index| path.with_file_name(part_name(index, count)));
        if let Some(missing) = wanted.find(|wanted| !paths.contains(wanted)) {
            return Some(missing);
        }
    }
    None
}

/// Whether [`Weights::save`] gives files such names.
fn is_ours(name: &str) -> bool {
    name == "model.safetensors" || part_of(name).is_some()
}

/// The tensors of `files`, which must be those of `shapes` and no others, all float32.
///
/// # Errors
/// Each way in which the tensors do not fit.
pub(crate) fn take_exactly(files: &[NamedBytes], shapes: &BTreeMap<String, Vec<i64>>) -> Result<TensorMap> {
    let mut found = read_tensors(files)?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let tensors = take_all(
        &mut found,
        "",
        shapes,
        dtypes(WeightsDtype::F32),
        &names.join(", "),
    )?;
    nothing_left(found)?;
    Ok(tensors)
}

fn nothing_left(mut found: BTreeMap<String, Found>) -> Result<()> {
    match found.pop_first() {
        Some((name, found)) => Err(Error::TensorUnexpected {
            name,
            file: found.file.to_owned(),
        }),
        None => Ok(()),
    }
}

struct Found<'a> {
    file: &'a str,
    dtype: Dtype,
    shape: Vec<i64>,
    data: &'a [u8],
}

/// Whether weights have every tensor of a model, without making them.
///
/// # Errors
/// A file that is not whole, a tensor that is missing or has another shape.
pub(super) fn check_complete(config: &ModelConfig, files: &[NamedBytes]) -> Result<()> {
    let found = read_tensors(files)?;
    let names = files.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>();
    for (name, shape) in parameter_shapes(config)? {
        match found.get(&name) {
            Some(tensor) if tensor.shape == shape => {}
            Some(tensor) => {
                return Err(Error::TensorShape {
                    name,
                    file: tensor.file.into(),
                    expected: shape,
                    got: tensor.shape.clone(),
                });
            }
            None => {
                return Err(Error::TensorMissing {
                    name,
                    file: names.join(", "),
                });
            }
        }
    }
    Ok(())
}

fn read_tensors<'a>(files: &'a [NamedBytes]) -> Result<BTreeMap<String, Found<'a>>> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for (file, bytes) in files {
        let parsed = SafeTensors::deserialize(bytes).map_err(|e| Error::NotSafetensors {
            file: file.clone(),
            reason: e.to_string(),
        })?;
        for (name, view) in parsed.iter() {
            if let Some(other) = found.get(name) {
                return Err(Error::TensorTwice {
                    name: name.into(),
                    first: other.file.into(),
                    second: file.clone(),
                });
            }
            let tensor = Found {
                file,
                dtype: view.dtype(),
                shape: view.shape().iter().map(|&n| n as i64).collect(),
                data: view.data(),
            };
            found.insert(name.into(), tensor);
        }
    }
    Ok(found)
}

/// Moves the tensors of `shapes` out of `found`, each checked and widened to float32.
fn take_all(
    found: &mut BTreeMap<String, Found>,
    prefix: &str,
    shapes: &BTreeMap<String, Vec<i64>>,
    (dtype, kind): (Dtype, Kind),
    files: &str,
) -> Result<TensorMap> {
    let mut tensors = TensorMap::new();
    for (short, shape) in shapes {
        let name = format!("{prefix}{short}");
        let Some(tensor) = found.remove(&name) else {
            return Err(Error::TensorMissing {
                name,
                file: files.into(),
            });
        };
        let file = tensor.file.to_owned();
        if tensor.dtype != dtype {
            return Err(Error::TensorDtype {
                name,
                file,
                expected: format!("{dtype:?}"),
                got: format!("{:?}", tensor.dtype),
            });
        }
        if tensor.shape != *shape {
            return Err(Error::TensorShape {
                name,
                file,
                expected: shape.clone(),
                got: tensor.shape,
            });
        }
        let value = Tensor::f_from_data_size(tensor.data, shape, kind)?.f_to_kind(Kind::Float)?;
        if value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::TensorNotFinite { name, file });
        }
        tensors.insert(short.clone(), value);
    }
    Ok(tensors)
}

/// Reads float32 tensors of these names and shapes, no more and no fewer, from one file.
///
/// # Errors
/// A file that cannot be read, and each way in which its tensors are not those.
pub fn load_safetensors(path: &Path, shapes: &BTreeMap<String, Vec<i64>>) -> Result<TensorMap> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    take_exactly(&[(path.display().to_string(), Cow::Owned(bytes))], shapes)
}

/// Writes tensors and some text to one file, through a temporary file beside it.
///
/// # Errors
/// A tensor of a dtype that cannot be stored, or a file that cannot be written; the old one is then intact.
pub fn save_safetensors(
    path: &Path,
    tensors: &TensorMap,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let mut bytes = Vec::new();
    for (name, tensor) in tensors {
        let tensor = tensor.detach().f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut data, tensor.numel())?;
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        bytes.push((name, stored_dtype(tensor.kind())?, shape, data));
    }
    let failed = |reason: String| Error::NotSafetensors {
        file: path.display().to_string(),
        reason,
    };
    let mut views = Vec::new();
    for (name, dtype, shape, data) in &bytes {
        let view = TensorView::new(*dtype, shape.clone(), data).map_err(|e| failed(e.to_string()))?;
        views.push((name.as_str(), view));
    }
    let file = safetensors::serialize(views, metadata).map_err(|e| failed(e.to_string()))?;
    write_atomically(path, &file)
}

/// Writes a file under a temporary name beside `path`, then renames it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::File::create(&temporary).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::Write {
            path: path.to_owned(),
            source,
        }
    })
}

fn stored_dtype(kind: Kind) -> Result<Dtype> {
    match kind {
        Kind::Float => Ok(Dtype::F32),
        Kind::Half => Ok(Dtype::F16),
        Kind::BFloat16 => Ok(Dtype::BF16),
        Kind::Int64 => Ok(Dtype::I64),
        Kind::Uint8 => Ok(Dtype::U8),
        other => Err(Error::Torch(format!("{other:?} tensors cannot be stored"))),
    }
}

/// The dtype in safetensors' and in libtorch's terms.
pub(super) fn dtypes(dtype: WeightsDtype) -> (Dtype, Kind) {
    match dtype {
        WeightsDtype::F32 => (Dtype::F32, Kind::Float),
        WeightsDtype::F16 => (Dtype::F16, Kind::Half),
        WeightsDtype::Bf16 => (Dtype::BF16, Kind::BFloat16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_weights_go_into_a_few_files() {
        let options = (Kind::Float, tch::Device::Cpu);
        // Of no memory: one number seen many times.
        let numbers = |count: i64| Tensor::zeros([1], options).expand([count], false);
        let named = |counts: &[i64]| -> TensorMap {
            let tensors = counts.iter().enumerate();
            tensors
                .map(|(i, &count)| (format!("t{i:02}"), numbers(count)))
                .collect()
        };
        let sizes = |counts: &[i64]| -> Vec<(String, usize)> {
            let files = in_files(named(counts)).into_iter();
            files.map(|(name, tensors)| (name, tensors.len())).collect()
        };
        assert_eq!(sizes(&[1_000_000; 3]), [("model.safetensors".to_owned(), 3)]);
        let of = |count: usize| move |i: usize| format!("model-{i:05}-of-{count:05}.safetensors");
        // 4 MB each: three to a file.
        let expected = [(of(2)(1), 3), (of(2)(2), 2)];
        assert_eq!(sizes(&[1_000_000; 5]), expected);
        let many = sizes(&[3_000_000; 40]);
        assert_eq!(many.iter().map(|(_, count)| count).sum::<usize>(), 40);
        assert_eq!(many[3], (of(4)(4), 10));
        assert!(many.iter().all(|(name, _)| is_ours(name)) && is_ours("model.safetensors"));
        let others = [
            "model-mine.safetensors",
            "model-00001-of-00002.bin",
            "model12345.safetensors",
            "model-00001.safetensors",
        ];
        assert!(!others.iter().any(|name| is_ours(name)));
    }

    #[test]
    fn a_part_that_is_missing_is_named() {
        let paths = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| Path::new("models").join(name)).collect()
        };
        let [first, third] = [
            "model-00001-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
        ];
        let second = "model-00002-of-00003.safetensors";
        assert_eq!(missing_part(&paths(&[first, third])), paths(&[second]).pop());
        assert_eq!(missing_part(&paths(&[first, second, third])), None);
        assert_eq!(
            missing_part(&paths(&["model.safetensors", "lora_s.safetensors"])),
            None
        );
    }
}
