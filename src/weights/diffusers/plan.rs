//! Where each tensor of our model comes from: one in the source, or made here.
//!
//! The eVAE starts equal to the plain VAE: the new input channels of a decoder level's first block weigh zero, and where
//! that block had no shortcut, the one it needs now is the identity. The skip blocks themselves start at random, or no
//! gradient would ever reach them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use safetensors::tensor::TensorInfo;
use tch::{Device, Kind, Tensor};

use super::source::SourceFile;
use crate::config::ModelConfig;
use crate::model::{OsddModel, parameter_shapes};
use crate::nn::{Init, Params, Shapes, Source};
use crate::{Error, Result};

/// A tensor of our model.
pub(super) struct Planned {
    pub name: String,
    pub shape: Vec<i64>,
    pub origin: Origin,
}

/// Where it comes from.
pub(super) enum Origin {
    /// As it is, but for the way in which its shape is written.
    Taken,
    /// With more input channels, which weigh zero.
    Widened,
    Made(Made),
}

/// What is not in diffusers' files.
pub(super) enum Made {
    /// As for training from nothing.
    Init(Init),
    /// A 1x1 convolution that passes its first channels on.
    Identity,
    Zeros,
}

impl Made {
    /// Float32 on the CPU. Random numbers follow from the tensor's name, so an import always gives the same bytes.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let options = (Kind::Float, Device::Cpu);
        match *self {
            Made::Init(init) => init.values(0, name, shape),
            Made::Zeros => Ok(Tensor::f_zeros(shape, options)?),
            Made::Identity => {
                let eye = Tensor::f_eye_m(shape[0], shape[1], options)?;
                Ok(eye.f_view(shape)?)
            }
        }
    }

    pub fn describe(&self) -> &'static str {
        match self {
            Made::Init(_) => "random start",
            Made::Identity => "identity",
            Made::Zeros => "zeros",
        }
    }
}

/// All tensors of our model, sorted by name.
pub(super) struct Plan {
    pub tensors: Vec<Planned>,
}

impl Plan {
    /// # Errors
    /// A tensor of the source that is missing, unexpected, there twice, or of another shape.
    pub fn new(config: &ModelConfig, sources: &[SourceFile]) -> Result<Self> {
        let mut plain = config.clone();
        plain.vae.skip_layers = 0;
        let plain = parameter_shapes(&plain)?;
        let mut found = collect(sources)?;
        for (name, shape) in plain.iter().filter(|(name, _)| !name.starts_with("prompt.")) {
            let Some((file, info)) = found.remove(name) else {
                return Err(missing(name, sources));
            };
            let got: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
            // Old files have the autoencoder's attention as 1x1 convolutions.
            let as_convolution = is_vae_attention(name) && got == [shape.as_slice(), &[1, 1]].concat();
            if got != *shape && !as_convolution {
                return Err(Error::TensorShape {
                    name: short(name).into(),
                    file: file.path.display().to_string(),
                    expected: shape.clone(),
                    got,
                });
            }
        }
        if let Some((name, (file, _))) = found.pop_first() {
            return Err(Error::TensorUnexpected {
                name: short(&name).into(),
                file: file.path.display().to_string(),
            });
        }
        let recorder = Recorder::default();
        OsddModel::new(&Params::new(&recorder), config)?;
        let tensors = recorder
            .seen
            .into_inner()
            .into_iter()
            .map(|(name, (shape, init))| {
                let origin = match plain.get(&name) {
                    Some(_) if name.starts_with("prompt.") => Origin::Made(Made::Init(init)),
                    Some(before) if *before == shape => Origin::Taken,
                    Some(_) => Origin::Widened,
                    None if name.ends_with(".conv_shortcut.weight") => Origin::Made(Made::Identity),
                    None if name.ends_with(".conv_shortcut.bias") => Origin::Made(Made::Zeros),
                    None => Origin::Made(Made::Init(init)),
                };
                Planned { name, shape, origin }
            });
        Ok(Plan {
            tensors: tensors.collect(),
        })
    }

    pub fn get(&self, name: &str) -> Option<&Planned> {
        let index = self
            .tensors
            .binary_search_by(|planned| planned.name.as_str().cmp(name));
        index.ok().map(|index| &self.tensors[index])
    }
}

type Found<'a> = BTreeMap<String, (&'a SourceFile, &'a TensorInfo)>;

fn collect(sources: &[SourceFile]) -> Result<Found<'_>> {
    let mut found: Found = BTreeMap::new();
    for file in sources {
        for (theirs, info) in &file.tensors {
            if let Some((other, _)) = found.insert(our_name(file.part, theirs), (file, info)) {
                return Err(Error::TensorTwice {
                    name: theirs.clone(),
                    first: other.path.display().to_string(),
                    second: file.path.display().to_string(),
                });
            }
        }
    }
    Ok(found)
}

/// Our names are diffusers' behind the part's name. Before 0.17, diffusers wrote the autoencoder's attention as `query`,
/// `key`, `value` and `proj_attn`; the files of Stable Diffusion 2.1 are from then.
pub(super) fn our_name(part: &str, theirs: &str) -> String {
    let name = format!("{part}.{theirs}");
    if !is_vae_attention(&name) {
        return name;
    }
    let renamed = [
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ];
    renamed.iter().fold(name, |name, (old, new)| {
        name.replace(&format!(".{old}."), &format!(".{new}."))
    })
}

fn is_vae_attention(name: &str) -> bool {
    name.starts_with("vae.") && name.contains(".mid_block.attentions.0.")
}

/// The name within the part, which is diffusers'.
fn short(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, short)| short)
}

fn missing(name: &str, sources: &[SourceFile]) -> Error {
    let own = sources.iter().filter(|file| name.starts_with(file.part));
    let files: Vec<String> = own.map(|file| file.path.display().to_string()).collect();
    Error::TensorMissing {
        name: short(name).into(),
        file: files.join(", "),
    }
}

/// Notes shape and start value of every parameter, without allocating any.
#[derive(Default)]
struct Recorder {
    seen: RefCell<BTreeMap<String, (Vec<i64>, Init)>>,
}

impl Source for Recorder {
    fn fetch(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.seen
            .borrow_mut()
            .insert(name.to_owned(), (shape.into(), init));
        Shapes::default().fetch(name, shape, init)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_the_autoencoders_attention() {
        for (theirs, ours) in [
            (
                "decoder.mid_block.attentions.0.query.weight",
                "vae.decoder.mid_block.attentions.0.to_q.weight",
            ),
            (
                "encoder.mid_block.attentions.0.proj_attn.bias",
                "vae.encoder.mid_block.attentions.0.to_out.0.bias",
            ),
            (
                "encoder.mid_block.attentions.0.to_k.bias",
                "vae.encoder.mid_block.attentions.0.to_k.bias",
            ),
            ("encoder.conv_in.weight", "vae.encoder.conv_in.weight"),
        ] {
            assert_eq!(our_name("vae", theirs), ours);
        }
        // Nothing of the kind is done to the UNet.
        let name = "mid_block.attentions.0.value.weight";
        assert_eq!(our_name("unet", name), format!("unet.{name}"));
    }

    #[test]
    fn an_identity_passes_its_first_channels_on() {
        let weight = Made::Identity.tensor("x", &[2, 3, 1, 1]).unwrap();
        let expected = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0]).view([2, 3, 1, 1]);
        assert_eq!(weight, expected);
    }
}
