// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the engines' handles to the failover's own, by which events tell of an SA.

use std::collections::HashMap;

use crate::event::Engine;
use crate::sa::SaHandle;

/// A device's numbers are its own choice. Those of software are a table's places: a list by them takes a
/// third of a map's room.
#[derive(Default)]
pub(super) struct Names {
    device: HashMap<SaHandle, SaHandle>,
    /// By the index alone: which generation it is shows the SA itself.
    software: Vec<Option<SaHandle>>,
}

impl Names {
    pub(super) fn insert(&mut self, engine: Engine, theirs: SaHandle, ours: SaHandle) {
        if engine == Engine::Device {
            self.device.insert(theirs, ours);
            return;
        }
        let index = theirs.index as usize;
        if index >= self.software.len() {
            self.software.resize(index + 1, None);
        }
        if let Some(place) = self.software.get_mut(index) {
            *place = Some(ours);
        }
    }

    pub(super) fn remove(&mut self, engine: Engine, theirs: SaHandle) {
        if engine == Engine::Device {
            self.device.remove(&theirs);
        } else if let Some(place) = self.software.get_mut(theirs.index as usize) {
            *place = None;
        }
    }

    /// Ours; for software perhaps that of a later SA in the same place.
    pub(super) fn find(&self, engine: Engine, theirs: SaHandle) -> Option<SaHandle> {
        match engine {
            Engine::Device => self.device.get(&theirs).copied(),
            _ => self.software.get(theirs.index as usize).copied().flatten(),
        }
    }
}
