// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The failover's own handles.

use std::sync::Arc;

use super::sa::Sa;
use crate::sa::SaHandle;

/// Slots with generations.
#[derive(Default)]
pub(super) struct SaTable {
    slots: Vec<(u32, Option<Arc<Sa>>)>,
    free: Vec<u32>,
}

impl SaTable {
    pub(super) fn insert(&mut self, sa: Arc<Sa>) -> SaHandle {
        if let Some(index) = self.free.pop()
            && let Some((generation, slot)) = self.slots.get_mut(index as usize)
        {
            *slot = Some(sa);
            return SaHandle {
                index,
                generation: *generation,
            };
        }
        self.slots.push((0, Some(sa)));
        SaHandle {
            index: (self.slots.len() - 1) as u32,
            generation: 0,
        }
    }

    pub(super) fn find(&self, handle: SaHandle) -> Option<&Arc<Sa>> {
        let (generation, slot) = self.slots.get(handle.index as usize)?;
        slot.as_ref().filter(|_| *generation == handle.generation)
    }

    pub(super) fn remove(&mut self, handle: SaHandle) -> Option<Arc<Sa>> {
        let (generation, slot) = self.slots.get_mut(handle.index as usize)?;
        if *generation != handle.generation {
            return None;
        }
        let sa = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(sa)
    }

    /// SAs from slot `first` on, over so many slots.
    pub(super) fn range(&self, first: usize, slots: usize) -> Vec<(SaHandle, Arc<Sa>)> {
        self.slots
            .iter()
            .enumerate()
            .skip(first)
            .take(slots)
            .filter_map(|(index, (generation, slot))| {
                let handle = SaHandle {
                    index: index as u32,
                    generation: *generation,
                };
                slot.as_ref().map(|sa| (handle, sa.clone()))
            })
            .collect()
    }

    pub(super) fn all(&self) -> Vec<(SaHandle, Arc<Sa>)> {
        self.range(0, self.slots.len())
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
