// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The MSI-X table and its pending bits (PCI Local Bus 3.0 §6.8.2), as a driver reads and writes them.

use std::time::Instant;

use crate::irq::Vectors;

/// Octets of an entry.
const ENTRY: usize = 16;
/// Offset of the entry's control word; bit 0 masks.
const CONTROL: usize = 12;

/// A BAR with table and pending bits. What is masked and pending is the vectors' own matter.
pub(crate) struct MsixTable {
    octets: Vec<u8>,
    vectors: usize,
    pending: usize,
}

impl MsixTable {
    pub(crate) fn new(vectors: u16, size: u64, pending: u64) -> Self {
        Self {
            octets: vec![0; size as usize],
            vectors: vectors.into(),
            pending: pending as usize,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.octets.fill(0);
    }

    pub(crate) fn read(&mut self, irqs: &Vectors, offset: u64, data: &mut [u8]) {
        self.update(irqs);
        let from = self.octets.get(offset as usize..).unwrap_or_default();
        data.iter_mut()
            .zip(from)
            .for_each(|(octet, value)| *octet = *value);
    }

    /// Masks and unmasks the vectors whose control word is written.
    pub(crate) fn write(&mut self, irqs: &mut Vectors, offset: u64, data: &[u8]) {
        self.update(irqs);
        // The pending bits are the function's.
        let table = self.octets.get_mut(..self.pending).unwrap_or_default();
        let into = table.get_mut(offset as usize..).unwrap_or_default();
        into.iter_mut()
            .zip(data)
            .for_each(|(octet, value)| *octet = *value);
        let written = offset as usize..offset as usize + data.len();
        for vector in 0..self.vectors {
            let at = vector * ENTRY + CONTROL;
            if written.contains(&at)
                && let Some(octet) = self.octets.get(at)
            {
                irqs.set_masked(vector, octet & 1 != 0, Instant::now());
            }
        }
    }

    fn update(&mut self, irqs: &Vectors) {
        for vector in 0..self.vectors {
            let at = vector * ENTRY + CONTROL;
            if let Some(octet) = self.octets.get_mut(at) {
                *octet = irqs.is_masked(vector).into();
            }
        }
        let pending = self.octets.get_mut(self.pending..);
        let words = pending.unwrap_or_default().chunks_exact_mut(8);
        for (word, from) in words.zip((0..self.vectors).step_by(64)) {
            word.copy_from_slice(&irqs.pending(from).to_le_bytes());
        }
    }
}
