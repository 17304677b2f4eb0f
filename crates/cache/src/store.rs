//! The remembered values: one short ring per site, and an account of every byte.
//!
//! The policy's [`history_depth`](crate::Policy::history_depth) is the liveness analysis: what
//! nobody will read is freed at once, so a feature lives from the step that computed it to the last
//! step that reads it, not until it is overwritten.

use std::collections::VecDeque;

use candle_core::{CpuStorage, Result, Storage, Tensor};

use crate::policy::History;

/// A value and the step that computed it.
struct Remembered {
    step: usize,
    value: Tensor,
    bytes: usize,
}

/// Values of one site, newest first.
#[derive(Default)]
struct Ring {
    entries: VecDeque<Remembered>,
    /// How many of them the policy may read; the others are kept to measure drift.
    needed: usize,
}

impl Ring {
    fn bytes(&self) -> Bytes {
        let all: usize = self.entries.iter().map(|entry| entry.bytes).sum();
        let needed: usize = self.entries.iter().take(self.needed).map(|entry| entry.bytes).sum();
        Bytes { needed, measuring: all - needed }
    }
}

/// An amount of memory, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bytes {
    /// Values that a policy may read.
    pub(crate) needed: usize,
    /// Values kept only to measure drift.
    pub(crate) measuring: usize,
}

/// How many values of a site to keep.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keep {
    /// For the policy.
    pub(crate) needed: usize,
    /// For the drift statistics.
    pub(crate) measuring: bool,
}

/// Values of all sites, by the ledger's index of the site.
#[derive(Default)]
pub(crate) struct Store {
    rings: Vec<Ring>,
    held: Bytes,
    peak: Bytes,
}

impl Store {
    /// Remembers a value as the site's newest and forgets what `keep` does not ask for.
    pub(crate) fn put(&mut self, index: usize, step: usize, value: &Tensor, keep: Keep) -> Result<()> {
        if keep.needed == 0 && !keep.measuring {
            self.trim(index, keep);
            return Ok(());
        }
        let value = own(value)?;
        let bytes = value.elem_count() * value.dtype().size_in_bytes();
        self.change(index, |ring| {
            let older = ring.needed.min(keep.needed.saturating_sub(1));
            ring.entries.truncate(older);
            ring.entries.push_front(Remembered { step, value, bytes });
            ring.needed = keep.needed.min(older + 1);
        });
        Ok(())
    }

    /// Forgets what `keep` does not ask for. A value kept only for measuring stays that: a policy
    /// that asks for more later must not depend on whether drift is measured.
    pub(crate) fn trim(&mut self, index: usize, keep: Keep) {
        self.change(index, |ring| {
            ring.needed = ring.needed.min(keep.needed);
            ring.entries.truncate(ring.needed.max(usize::from(keep.measuring)));
        });
    }

    /// The site's `age`-th newest value.
    pub(crate) fn get(&self, index: usize, age: usize) -> Option<&Tensor> {
        self.rings.get(index)?.entries.get(age).map(|entry| &entry.value)
    }

    /// Steps of the values that the policy asked to keep, newest first.
    pub(crate) fn history(&self, index: usize) -> History {
        self.rings
            .get(index)
            .map(|ring| ring.entries.iter().take(ring.needed).map(|entry| entry.step).collect())
            .unwrap_or_default()
    }

    /// Forgets all values; the peak stays.
    pub(crate) fn clear(&mut self) {
        self.rings.clear();
        self.held = Bytes::default();
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> Bytes {
        self.held
    }

    /// Most bytes ever held, for each purpose.
    pub(crate) fn peak(&self) -> Bytes {
        self.peak
    }

    /// Counts `bytes` that a policy holds beside the store into the peak.
    pub(crate) fn note_policy_bytes(&mut self, bytes: usize) {
        self.peak.needed = self.peak.needed.max(self.held.needed + bytes);
    }

    fn change(&mut self, index: usize, edit: impl FnOnce(&mut Ring)) {
        if self.rings.len() <= index {
            self.rings.resize_with(index + 1, Ring::default);
        }
        let Some(ring) = self.rings.get_mut(index) else { return };
        let before = ring.bytes();
        edit(ring);
        let after = ring.bytes();
        self.held.needed = self.held.needed + after.needed - before.needed;
        self.held.measuring = self.held.measuring + after.measuring - before.measuring;
        self.peak.needed = self.peak.needed.max(self.held.needed);
        self.peak.measuring = self.peak.measuring.max(self.held.measuring);
    }

    /// Bytes of the allocations behind all values, found from the storages themselves.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        let entries = self.rings.iter().flat_map(|ring| &ring.entries);
        entries.map(|entry| storage_len(&entry.value).unwrap() * entry.value.dtype().size_in_bytes()).sum()
    }
}

/// The value without gradient and without a larger tensor behind it: a view would keep the whole
/// allocation alive and make the account a lie.
pub(crate) fn own(value: &Tensor) -> Result<Tensor> {
    let value = value.detach();
    if value.is_contiguous() && storage_len(&value) == Some(value.elem_count()) {
        return Ok(value);
    }
    value.force_contiguous()
}

/// Elements of the allocation behind a tensor, where that can be told.
fn storage_len(value: &Tensor) -> Option<usize> {
    let (storage, _) = value.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Some(values.len()),
        Storage::Cpu(CpuStorage::F64(values)) => Some(values.len()),
        Storage::Cpu(CpuStorage::F16(values)) => Some(values.len()),
        Storage::Cpu(CpuStorage::BF16(values)) => Some(values.len()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    const ONE: Keep = Keep { needed: 1, measuring: false };

    #[test]
    fn a_view_is_stored_as_a_copy_of_its_own_size() {
        let whole = Tensor::zeros((4, 8, 16), DType::F32, &Device::Cpu).unwrap();
        let mut store = Store::default();
        // Contiguous, but a quarter of the allocation; and a transposed whole.
        store.put(0, 0, &whole.narrow(0, 1, 1).unwrap(), ONE).unwrap();
        store.put(1, 0, &whole.transpose(1, 2).unwrap(), ONE).unwrap();
        assert_eq!(store.held().needed, (128 + 512) * 4);
        assert_eq!(store.allocated(), store.held().needed);
        assert!(store.get(1, 0).unwrap().is_contiguous());
    }

    #[test]
    fn a_whole_tensor_is_shared_not_copied() {
        let whole = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(own(&whole).unwrap().id(), whole.id());
    }

    #[test]
    fn the_ring_keeps_the_newest_and_the_account_follows() {
        let value = Tensor::zeros(10, DType::F32, &Device::Cpu).unwrap();
        let mut store = Store::default();
        for step in [0, 2, 5, 6] {
            store.put(3, step, &value, Keep { needed: 3, measuring: true }).unwrap();
        }
        assert_eq!(store.history(3).steps(), [6, 5, 2]);
        assert_eq!(store.held(), Bytes { needed: 120, measuring: 0 });
        store.trim(3, Keep { needed: 0, measuring: true });
        assert_eq!(store.held(), Bytes { needed: 0, measuring: 40 });
        assert!(store.history(3).is_empty(), "a value kept for measuring is none of the policy's");
        store.trim(3, Keep { needed: 2, measuring: true });
        assert!(store.history(3).is_empty(), "and does not become one");
        store.trim(3, Keep::default());
        assert_eq!((store.held(), store.allocated()), (Bytes::default(), 0));
        assert_eq!(store.peak(), Bytes { needed: 120, measuring: 40 });
    }

    #[test]
    fn stored_values_carry_no_gradient() {
        let weight = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let mut store = Store::default();
        store.put(0, 0, &(weight.as_tensor() * 2.0).unwrap(), ONE).unwrap();
        assert!(!store.get(0, 0).unwrap().track_op());
    }
}
