//! Where layers take their parameters from: a checked set of tensors, an initialiser, or a list of shapes.
//!
//! A layer names each parameter once, with its shape, as in `p.get("weight", &[out, in], init)`. The same code
//! then loads a model strictly, creates one for training, or only counts its parameters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::cpu::Products;
use crate::{Error, Result};

/// Values of a parameter that is created for training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform in ±1/sqrt(fan_in), PyTorch's default for convolutions and linear layers.
    FanIn(i64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// For a 1x1 convolution that joins two feature maps, the first of this many channels: output channel j starts as the
    /// sum of channel j of both.
    Sum(i64),
}

impl Init {
    /// Float32 on the CPU. Random numbers follow from `seed` and the parameter's name alone: the same on every machine,
    /// whatever else is created before or beside it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn values(self, seed: u64, name: &str, shape: &[i64]) -> Result<Tensor> {
        let options = (Kind::Float, Device::Cpu);
        let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name);
        let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
        let mut random = |draw: &dyn Fn(&mut ChaCha8Rng) -> f32| -> Result<Tensor> {
            let count = shape.iter().product::<i64>();
            let numbers: Vec<f32> = (0..count).map(|_| draw(&mut rng)).collect();
            Ok(Tensor::f_from_slice(&numbers)?.f_view(shape)?)
        };
        match self {
            Init::Zeros => Ok(Tensor::f_zeros(shape, options)?),
            Init::Ones => Ok(Tensor::f_ones(shape, options)?),
            Init::FanIn(fan_in) => {
                let bound = (1.0 / (fan_in as f64).sqrt()) as f32;
                random(&|rng| bound * (2.0 * rng.random::<f32>() - 1.0))
            }
            Init::Sum(first) => {
                let (outputs, inputs) = (shape[0], shape[1]);
                let is_summed = |i: i64| i % inputs == i / inputs || i % inputs == first + i / inputs;
                let values: Vec<f32> = (0..outputs * inputs).map(|i| f32::from(is_summed(i))).collect();
                Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
            }
            // Twelve uniform numbers have a variance of one; `ln` and `cos` would differ between machines.
            Init::Normal(std) => {
                random(&|rng| std as f32 * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0))
            }
        }
    }
}

/// Something that answers a layer's request for a parameter.
pub trait Source {
    /// The tensor called `name`, of exactly `shape`.
    ///
    /// # Errors
    /// A missing tensor or one of another shape.
    fn fetch(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor>;
}

/// A [`Source`] and a position in its tree of names.
pub struct Params<'a> {
    source: &'a dyn Source,
    path: String,
    products: Products,
}

impl<'a> Params<'a> {
    /// The root of `source`'s names.
    pub fn new(source: &'a dyn Source) -> Self {
        Params {
            source,
            path: String::new(),
            products: Products::default(),
        }
    }

    /// The same place, for layers whose products are of this arithmetic where they are fused for the CPU.
    pub fn with_products(self, products: Products) -> Self {
        Params { products, ..self }
    }

    /// Arithmetic of the products of layers that are fused for the CPU.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The subtree `name`; its segment becomes part of every tensor's name.
    pub fn pp(&self, name: impl Display) -> Params<'a> {
        let path = if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        };
        Params {
            source: self.source,
            path,
            products: self.products,
        }
    }

    /// The parameter `name` here, checked against `shape`.
    ///
    /// # Errors
    /// See [`Source::fetch`].
    pub fn get(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let full = format!("{}.{name}", self.path);
        self.source.fetch(full.trim_start_matches('.'), shape, init)
    }
}

/// Named tensors, for instance those of a loaded model.
pub type TensorMap = BTreeMap<String, Tensor>;

impl Source for TensorMap {
    fn fetch(&self, name: &str, shape: &[i64], _init: Init) -> Result<Tensor> {
        let tensor = self.get(name).ok_or_else(|| Error::TensorMissing {
            name: name.into(),
            file: "memory".into(),
        })?;
        if tensor.size() != shape {
            return Err(Error::TensorShape {
                name: name.into(),
                file: "memory".into(),
                expected: shape.into(),
                got: tensor.size(),
            });
        }
        Ok(tensor.shallow_clone())
    }
}

/// Creates every parameter that is asked for, in float32 on the CPU; each may be asked for once, else it panics.
#[derive(Default)]
pub struct Initializer {
    seed: u64,
    made: RefCell<TensorMap>,
}

impl Initializer {
    pub fn new(seed: u64) -> Self {
        Initializer {
            seed,
            made: RefCell::default(),
        }
    }

    /// All parameters made so far.
    pub fn into_tensors(self) -> TensorMap {
        self.made.into_inner()
    }
}

impl Source for Initializer {
    fn fetch(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let tensor = init.values(self.seed, name, shape)?;
        let earlier = self
            .made
            .borrow_mut()
            .insert(name.to_owned(), tensor.shallow_clone());
        // The layers of the first request would hold other values than what is trained and saved.
        assert!(earlier.is_none(), "{name} was created twice");
        Ok(tensor)
    }
}

/// Records names and shapes without allocating any parameter.
#[derive(Default)]
pub struct Shapes {
    seen: RefCell<BTreeMap<String, Vec<i64>>>,
}

impl Shapes {
    /// Name and shape of every parameter that was asked for.
    pub fn into_map(self) -> BTreeMap<String, Vec<i64>> {
        self.seen.into_inner()
    }
}

impl Source for Shapes {
    fn fetch(&self, name: &str, shape: &[i64], _init: Init) -> Result<Tensor> {
        self.seen.borrow_mut().insert(name.into(), shape.into());
        // One element seen through zero strides: the right shape, no memory.
        let one = Tensor::f_zeros([1], (Kind::Float, Device::Cpu))?;
        Ok(one.f_expand(shape, false)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_starts_have_their_spread_and_follow_from_seed_and_name() {
        let made = |init: Init, seed, name| init.values(seed, name, &[100, 100]).unwrap();
        let uniform = made(Init::FanIn(16), 0, "a");
        assert!((uniform.std(true).double_value(&[]) - 0.25 / 3f64.sqrt()).abs() < 0.003);
        assert!(uniform.abs().max().double_value(&[]) <= 0.25);
        let normal = made(Init::Normal(0.02), 0, "a");
        assert!((normal.std(true).double_value(&[]) - 0.02).abs() < 0.0005);
        let sum = Init::Sum(3).values(0, "a", &[2, 5, 1, 1]).unwrap();
        let expected = [1.0f32, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        assert_eq!(sum.view([10]), Tensor::from_slice(&expected));
        assert!(normal.mean(Kind::Float).double_value(&[]).abs() < 0.001);
        assert_eq!(normal, made(Init::Normal(0.02), 0, "a"));
        assert_ne!(normal, made(Init::Normal(0.02), 0, "b"));
        assert_ne!(normal, made(Init::Normal(0.02), 1, "a"));
    }
}
