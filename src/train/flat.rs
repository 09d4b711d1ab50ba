//! Many tensors in one buffer, so that one operation reaches all of them: an update of a thousand small tensors one by
//! one leaves a GPU waiting for its next kernel most of the time.

use tch::{Kind, Tensor};

use crate::Result;
use crate::nn::{Init, Params, TensorMap, from_memory_order, memory_order};

/// Named float32 tensors, each a view of one buffer; convolutions lie there in channels-last order.
pub(super) struct Flat {
    slots: Vec<Slot>,
    buffer: Tensor,
}

/// Where one tensor lies.
#[derive(Clone)]
pub(super) struct Slot {
    pub name: String,
    pub shape: Vec<i64>,
    pub offset: i64,
    pub length: i64,
}

impl Slot {
    /// Rows and columns of a weight taken as a matrix: outputs against everything else.
    pub fn matrix(&self) -> (i64, i64) {
        (self.shape[0], self.length / self.shape[0])
    }
}

impl Flat {
    /// Copies of these tensors, in the order of `key`, then of their names.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new<K: Ord>(tensors: &TensorMap, key: impl Fn(&str, &[i64]) -> K) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let mut entries: Vec<(&String, &Tensor)> = tensors.iter().collect();
        entries.sort_by_cached_key(|(name, t)| (key(name, &t.size()), (*name).clone()));
        let mut slots = Vec::with_capacity(entries.len());
        let mut offset = 0;
        for (name, tensor) in &entries {
            let length = tensor.numel() as i64;
            slots.push(Slot {
                name: (*name).clone(),
                shape: tensor.size(),
                offset,
                length,
            });
            offset += length;
        }
        let rows: Vec<Tensor> = entries.iter().map(|(_, t)| memory_order(&t.detach())).collect();
        Ok(Flat {
            slots,
            buffer: Tensor::f_cat(&rows, 0)?.f_to_kind(Kind::Float)?,
        })
    }

    /// The same layout in a buffer of its own, all zero.
    pub fn zeros_like(&self) -> Self {
        self.with(self.buffer.zeros_like())
    }

    /// The same layout and values in a buffer of its own.
    pub fn copy(&self) -> Self {
        self.with(self.buffer.copy())
    }

    fn with(&self, buffer: Tensor) -> Self {
        Flat {
            slots: self.slots.clone(),
            buffer,
        }
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// `[N]`, float32.
    pub fn buffer(&self) -> &Tensor {
        &self.buffer
    }

    /// The tensors by name; they share the buffer's memory and have no history.
    pub fn views(&self) -> TensorMap {
        let view = |slot: &Slot| (slot.name.clone(), self.view(slot));
        self.slots.iter().map(view).collect()
    }

    /// As [`Flat::views`], ready to be differentiated with respect to; of another kind than float32 they are copies.
    pub fn leaves(&self, kind: Kind) -> TensorMap {
        let buffer = self.buffer.detach().to_kind(kind);
        let leaf = |slot: &Slot| (slot.name.clone(), view(&buffer, slot).set_requires_grad(true));
        self.slots.iter().map(leaf).collect()
    }

    fn view(&self, slot: &Slot) -> Tensor {
        view(&self.buffer.detach(), slot)
    }

    /// One row of numbers, float32, from tensors in the order of [`Flat::slots`].
    pub fn gather(tensors: &[Tensor]) -> Tensor {
        let rows: Vec<Tensor> = tensors.iter().map(memory_order).collect();
        Tensor::cat(&rows, 0).to_kind(Kind::Float)
    }

    /// Takes the values of tensors of the same names.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(&mut self, tensors: &TensorMap) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for slot in &self.slots {
            let value = Params::new(tensors).get(&slot.name, &slot.shape, Init::Zeros)?;
            self.view(slot).f_copy_(&value)?;
        }
        Ok(())
    }
}

/// The part of a buffer that is one tensor's.
fn view(buffer: &Tensor, slot: &Slot) -> Tensor {
    from_memory_order(&buffer.narrow(0, slot.offset, slot.length), &slot.shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn views_read_back_what_went_in_and_write_through() {
        let options = (Kind::Float, Device::Cpu);
        let tensors = TensorMap::from([
            ("a.weight".to_owned(), Tensor::randn([4, 3, 2, 5], options)),
            ("b.bias".to_owned(), Tensor::randn([7], options)),
            ("c.weight".to_owned(), Tensor::randn([6, 2], options)),
        ]);
        // Vectors first.
        let mut flat = Flat::new(&tensors, |_, shape| shape.len()).unwrap();
        assert_eq!(flat.slots()[0].name, "b.bias");
        let views = flat.views();
        for (name, tensor) in &tensors {
            assert_eq!(&views[name], tensor, "{name}");
        }
        let in_order: Vec<Tensor> = flat
            .slots()
            .iter()
            .map(|s| tensors[&s.name].shallow_clone())
            .collect();
        assert_eq!(&Flat::gather(&in_order), flat.buffer());
        let _ = flat.buffer().shallow_clone().zero_();
        assert_eq!(views["a.weight"].abs().max().double_value(&[]), 0.0);
        flat.load(&tensors).unwrap();
        assert_eq!(views["c.weight"], tensors["c.weight"]);
        assert!(flat.load(&TensorMap::new()).is_err());
    }
}
