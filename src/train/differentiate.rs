//! One batch forward through the model, through the losses, and backward.
//!
//! On a CPU the layers of a small model on small crops are too short to be spread over cores one by one. So where the loss
//! is made of pixels alone, a batch is cut into one share a core instead, and each goes its whole way on a thread of its own.

use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use tch::{Device, Tensor};

use super::echo::Lesson;
use super::flat::Flat;
use super::loss::{LossTerms, Losses};
use super::subject::{Network, Subject};
use crate::Result;

/// Means over one batch, or sums of such means.
pub(super) struct Differentiated {
    /// Flat, in the order of the optimizer's parameters.
    pub gradient: Tensor,
    pub discriminator: Option<Tensor>,
    pub loss: LossTerms,
}

impl Differentiated {
    pub fn plus(self, other: Self) -> Self {
        let discriminator = self.discriminator.zip(other.discriminator);
        Differentiated {
            gradient: self.gradient + other.gradient,
            discriminator: discriminator.map(|(a, b)| a + b),
            loss: self.loss.plus(&other.loss),
        }
    }

    fn times(self, factor: f64) -> Self {
        Differentiated {
            gradient: self.gradient * factor,
            discriminator: self.discriminator.map(|gradient| gradient * factor),
            loss: self.loss.times(factor),
        }
    }
}

/// A part of a batch and all that its thread needs: tensors can move between threads, not be shared.
struct Share {
    network: Network,
    losses: Losses,
    inputs: Vec<Tensor>,
    lesson: Lesson,
}

impl Share {
    fn differentiate(&self) -> Result<Differentiated> {
        let Lesson {
            blurry,
            sharp,
            taught,
        } = &self.lesson;
        let passed = self.network.forward(blurry, sharp);
        let loss = self.losses.compute(&passed.image, sharp, taught.as_ref());
        let gradients = Tensor::f_run_backward(&[&loss.total], &self.inputs, false, false)?;
        Ok(Differentiated {
            gradient: Flat::gather(&gradients),
            discriminator: None,
            loss,
        })
    }
}

/// Loss and gradients of a batch in this many shares.
///
/// # Errors
/// A failure of the device.
pub(super) fn in_shares(
    subject: &Subject,
    parameters: &Flat,
    losses: &Losses,
    kind: tch::Kind,
    lesson: &Lesson,
    shares: usize,
) -> Result<Differentiated> {
    let batch_size = lesson.blurry.size()[0] as f64;
    let parts = lesson.chunks(shares).map(|lesson| {
        // Leaves of its own, on the same memory: the threads' graphs then have nothing in common.
        let leaves = parameters.leaves(subject.leaf_kind(kind));
        let inputs = parameters
            .slots()
            .iter()
            .map(|slot| leaves[&slot.name].shallow_clone());
        Ok(Share {
            inputs: inputs.collect(),
            network: subject.network(&leaves, kind)?,
            losses: Losses::new(losses.config(), Path::new(""), Device::Cpu)?,
            lesson,
        })
    });
    let parts = parts.collect::<Result<Vec<Share>>>()?;
    let done: Vec<Result<Differentiated>> = thread::scope(|scope| {
        let started: Vec<_> = parts
            .into_iter()
            .map(|share| {
                scope.spawn(move || {
                    tch::set_num_threads(1);
                    let weight = share.lesson.blurry.size()[0] as f64 / batch_size;
                    share.differentiate().map(|done| done.times(weight))
                })
            })
            .collect();
        let joined = started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.collect()
    });
    let mut done = done.into_iter();
    let first = done.next().expect("a batch has at least one share")?;
    done.try_fold(first, |sum, share| Ok(sum.plus(share?)))
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::config::ModelConfig;
    use crate::train::{LossConfig, TrainConfig};

    #[test]
    fn shares_of_any_size_add_up_to_the_batch() {
        let read = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("models/nano")
                .join(name);
            std::fs::read_to_string(path).unwrap()
        };
        let model = ModelConfig::from_json(&read("config.json"), "nano").unwrap();
        let train = TrainConfig::from_json(&read("train/base.json"), "base").unwrap();
        let (subject, initial) = Subject::new(&train, model, None, None, Device::Cpu).unwrap();
        let parameters = Flat::new(&initial, |_, _| ()).unwrap();
        let terms = LossConfig {
            l1: 1.0,
            fft: 0.5,
            teacher: 0.5,
            ..LossConfig::default()
        };
        let losses = Losses::new(terms, Path::new(""), Device::Cpu).unwrap();
        let images = || Tensor::rand([5, 3, 32, 32], (Kind::Float, Device::Cpu));
        let lesson = Lesson {
            blurry: images(),
            sharp: images(),
            taught: Some(images()),
        };
        let cut = |shares| in_shares(&subject, &parameters, &losses, Kind::Float, &lesson, shares).unwrap();
        let whole = cut(1);
        for shares in [2, 3, 5] {
            let done = cut(shares);
            let error = (&done.gradient - &whole.gradient).norm() / whole.gradient.norm();
            assert!(error.double_value(&[]) < 1e-4, "{shares} shares: {error:?}");
            let norm = Tensor::zeros([], (Kind::Float, Device::Cpu));
            let (a, b) = (done.loss.values(1.0, &norm), whole.loss.values(1.0, &norm));
            assert!((a.1 - b.1).abs() < 1e-6);
            assert_eq!(
                a.0.iter().map(|term| term.0).collect::<Vec<_>>(),
                ["l1", "fft", "teacher"]
            );
            assert!(a.0.iter().zip(&b.0).all(|(a, b)| (a.1 - b.1).abs() < 1e-6));
        }
    }
}
