//! Weights for a γ between the two adapters, in memory that a model built from them follows.

use tch::{Device, Kind, Tensor};

use super::Weights;
use super::adapter::{adapted_modules, delta};
use crate::Result;
use crate::nn::{TensorMap, from_memory_order, memory_order};

/// How both ends of the dial are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Both as they are: moving γ is one pass over one buffer.
    #[default]
    EndPoints,
    /// The weights without adapters, and the adapters' factors: a third less memory, and a product for each module to move γ.
    Factors,
}

/// Both ends of the dial, packed for merging: shared by all engines of a process, never written.
pub struct EndPoints {
    /// Parameters without adapters.
    fixed: TensorMap,
    /// Of those with adapters.
    layout: Vec<Part>,
    ends: Ends,
}

/// A parameter in the flat buffers.
#[derive(Clone)]
struct Part {
    name: String,
    shape: Vec<i64>,
    offset: i64,
}

impl Part {
    fn length(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Its numbers, with a row for each output.
    fn rows(&self, flat: &Tensor) -> Result<Tensor> {
        let rows = [self.shape[0], -1];
        Ok(flat.f_narrow(0, self.offset, self.length())?.f_view(rows)?)
    }
}

/// [`Keep`], with its tensors; flat buffers have all parts one after the other.
enum Ends {
    EndPoints { flat_r: Tensor, flat_s: Tensor },
    Factors { flat: Tensor, factors: Vec<Factors> },
}

/// `B` scaled, `[out, rank]`, and `A` in the order of the weights in memory, `[rank, in]`, of each adapter that there is.
struct Factors {
    r: Option<(Tensor, Tensor)>,
    s: Option<(Tensor, Tensor)>,
}

impl Factors {
    fn share(&self) -> Self {
        let share = |part: &Option<(Tensor, Tensor)>| {
            let part = part.as_ref();
            part.map(|(b, a)| (b.shallow_clone(), a.shallow_clone()))
        };
        Factors {
            r: share(&self.r),
            s: share(&self.s),
        }
    }

    /// `γ B_r A_r + (1-γ) B_s A_s` as two factors.
    fn at(&self, gamma: f64) -> Result<Option<(Tensor, Tensor)>> {
        let parts = [(&self.r, gamma), (&self.s, 1.0 - gamma)];
        let parts = parts
            .iter()
            .filter_map(|(part, share)| Some((part.as_ref()?, *share)));
        let (mut b, mut a) = (Vec::new(), Vec::new());
        for ((its_b, its_a), share) in parts {
            b.push(its_b.f_mul_scalar(share)?);
            a.push(its_a.shallow_clone());
        }
        Ok(match b.is_empty() {
            true => None,
            false => Some((Tensor::f_cat(&b, 1)?, Tensor::f_cat(&a, 0)?)),
        })
    }
}

impl EndPoints {
    /// Packs a model for `device` and `kind`. A missing adapter counts as zero.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn new(weights: &Weights, device: Device, kind: Kind, keep: Keep) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let place = |t: &Tensor| -> Result<Tensor> { Ok(t.f_to_device(device)?.f_to_kind(kind)?) };
        let lora = &weights.config.lora;
        let adapted = adapted_modules(&weights.config)?;
        let length: i64 = adapted.values().map(|shape| shape.iter().product::<i64>()).sum();
        let buffer = || Tensor::f_zeros([length], (kind, device));
        let mut ends = match keep {
            Keep::EndPoints => Ends::EndPoints {
                flat_r: buffer()?,
                flat_s: buffer()?,
            },
            Keep::Factors => Ends::Factors {
                flat: buffer()?,
                factors: Vec::new(),
            },
        };
        let mut fixed = TensorMap::new();
        let mut layout = Vec::new();
        let mut offset = 0;
        for (name, weight) in &weights.base {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let Some(shape) = adapted.get(module).filter(|_| name.ends_with(".weight")) else {
                let packed = from_memory_order(&memory_order(weight), &weight.size());
                fixed.insert(name.clone(), place(&packed)?);
                continue;
            };
            let length = weight.numel() as i64;
            let copy = |flat: &Tensor, weight: &Tensor| -> Result<()> {
                flat.f_narrow(0, offset, length)?.f_copy_(&memory_order(weight))?;
                Ok(())
            };
            match &mut ends {
                Ends::EndPoints { flat_r, flat_s } => {
                    for (flat, set) in [(flat_r, &weights.lora_r), (flat_s, &weights.lora_s)] {
                        let change = set.as_ref().map(|set| delta(set, module, shape, lora));
                        copy(
                            flat,
                            &change.map_or_else(|| weight.shallow_clone(), |change| weight + change),
                        )?;
                    }
                }
                Ends::Factors { flat, factors } => {
                    copy(flat, weight)?;
                    let of = |set: &Option<TensorMap>| -> Result<Option<(Tensor, Tensor)>> {
                        let Some(set) = set else {
                            return Ok(None);
                        };
                        let a = &set[&format!("{module}.lora_A.weight")];
                        let b = &set[&format!("{module}.lora_B.weight")];
                        let b = b.flatten(1, -1) * (lora.alpha / lora.rank as f64);
                        Ok(Some((place(&b)?, place(&memory_order(a).view([lora.rank, -1]))?)))
                    };
                    factors.push(Factors {
                        r: of(&weights.lora_r)?,
                        s: of(&weights.lora_s)?,
                    });
                }
            }
            layout.push(Part {
                name: name.clone(),
                shape: shape.clone(),
                offset,
            });
            offset += length;
        }
        Ok(EndPoints { fixed, layout, ends })
    }

    /// A set of parameters of one's own, merged for γ.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn merged(&self, gamma: f64) -> Result<Merged> {
        let ends = self.ends.share();
        let flat = ends.flat().f_empty_like()?;
        let mut tensors: TensorMap = self
            .fixed
            .iter()
            .map(|(k, v)| (k.clone(), v.shallow_clone()))
            .collect();
        for part in &self.layout {
            let its = flat.f_narrow(0, part.offset, part.length())?;
            tensors.insert(part.name.clone(), from_memory_order(&its, &part.shape));
        }
        ends.merge(&self.layout, gamma, &flat)?;
        Ok(Merged {
            layout: self.layout.clone(),
            ends,
            flat,
            tensors,
            gamma,
        })
    }
}

impl Ends {
    /// The same tensors once more.
    fn share(&self) -> Self {
        match self {
            Ends::EndPoints { flat_r, flat_s } => Ends::EndPoints {
                flat_r: flat_r.shallow_clone(),
                flat_s: flat_s.shallow_clone(),
            },
            Ends::Factors { flat, factors } => Ends::Factors {
                flat: flat.shallow_clone(),
                factors: factors.iter().map(Factors::share).collect(),
            },
        }
    }

    /// A buffer of the size that is merged into.
    fn flat(&self) -> &Tensor {
        match self {
            Ends::EndPoints { flat_r: flat, .. } | Ends::Factors { flat, .. } => flat,
        }
    }

    /// Writes the weights for γ.
    fn merge(&self, layout: &[Part], gamma: f64, merged: &Tensor) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        match self {
            Ends::EndPoints { flat_r, flat_s } => {
                let _ = flat_s.f_lerp_scalar_out(merged, flat_r, gamma)?;
            }
            Ends::Factors { flat, factors } => {
                for (part, factors) in layout.iter().zip(factors) {
                    let (base, mut merged) = (part.rows(flat)?, part.rows(merged)?);
                    match factors.at(gamma)? {
                        Some((b, a)) => drop(base.f_addmm_out(&merged, &b, &a)?),
                        None => merged.f_copy_(&base)?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Parameters at one γ; moving γ writes them in place, so a model built from them follows.
pub struct Merged {
    layout: Vec<Part>,
    ends: Ends,
    flat: Tensor,
    tensors: TensorMap,
    gamma: f64,
}

impl Merged {
    pub fn tensors(&self) -> &TensorMap {
        &self.tensors
    }

    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// `W(γ) = (1-γ) W_s + γ W_r`; nothing to do where γ has not changed.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn set_gamma(&mut self, gamma: f64) -> Result<()> {
        if gamma != self.gamma {
            self.ends.merge(&self.layout, gamma, &self.flat)?;
            self.gamma = gamma;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::load_model;

    #[test]
    fn factors_give_what_end_points_give() {
        let whole = load_model("nano").unwrap();
        let sets = [(true, true), (true, false), (false, true), (false, false)];
        for (r, s) in sets {
            let mut weights = load_model("nano").unwrap();
            weights.lora_r = weights.lora_r.filter(|_| r);
            weights.lora_s = weights.lora_s.filter(|_| s);
            let [mut expected, mut merged] = [Keep::EndPoints, Keep::Factors].map(|keep| {
                let ends = EndPoints::new(&weights, Device::Cpu, Kind::Float, keep).unwrap();
                ends.merged(0.5).unwrap()
            });
            for gamma in [0.5, 0.0, 0.3, 1.0] {
                expected.set_gamma(gamma).unwrap();
                merged.set_gamma(gamma).unwrap();
                assert_eq!(merged.tensors().len(), whole.base.len());
                for (name, expected) in expected.tensors() {
                    let merged = &merged.tensors()[name];
                    assert_eq!(merged.stride(), expected.stride(), "{name}");
                    let same = merged.allclose(expected, 1e-5, 1e-6, false);
                    assert!(same, "{name} at {gamma}, with {r} and {s}");
                }
            }
        }
    }
}
