//! A metric's weights: one safetensors file of exactly the tensors that its network names, float32.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use tch::Device;

use crate::nn::{Params, Shapes, TensorMap};
use crate::weights::take_exactly;
use crate::{Error, Result};

/// What `scripts/convert_metrics.py` wrote, in memory.
pub(super) struct MetricFile {
    name: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl MetricFile {
    /// Reads a file that says of itself that it holds the weights of `metric`.
    pub(super) fn open(path: &Path, metric: &str) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let name = path.display().to_string();
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| Error::NotSafetensors {
            file: name.clone(),
            reason: e.to_string(),
        })?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = MetricFile {
            name,
            bytes,
            metadata,
        };
        file.expect("metric", metric)?;
        Ok(file)
    }

    /// An entry of the file's metadata.
    pub(super) fn text(&self, key: &str) -> Result<&str> {
        self.metadata
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| self.wrong(format!("its metadata has no '{key}'")))
    }

    /// Checks an entry of the file's metadata.
    pub(super) fn expect(&self, key: &str, value: &str) -> Result<()> {
        match self.text(key)? {
            found if found == value => Ok(()),
            found => Err(self.wrong(format!("its {key} is '{found}', not '{value}'"))),
        }
    }

    /// The error for a file that is not what was asked for.
    pub(super) fn wrong(&self, reason: String) -> Error {
        Error::Config {
            file: self.name.clone(),
            reason: format!("{reason}; scripts/convert_metrics.py writes the files that fit"),
        }
    }

    /// Builds a network on `device` from the file, which must hold the tensors that `build` asks for and no others.
    pub(super) fn build<T>(&self, device: Device, build: impl Fn(&Params) -> Result<T>) -> Result<T> {
        let shapes = Shapes::default();
        build(&Params::new(&shapes))?;
        let file = (self.name.clone(), Cow::Borrowed(self.bytes.as_slice()));
        let mut tensors: TensorMap = take_exactly(&[file], &shapes.into_map())?;
        for tensor in tensors.values_mut() {
            *tensor = tensor.f_to_device(device)?;
        }
        build(&Params::new(&tensors))
    }
}
