// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asking for packets before they are worked on.

use arrayvec::ArrayVec;
use offload_api::frame::Whereabouts;
use offload_api::queue::Op;

use super::burst::BURST;

/// Octets that are worked on while as many come into the cache.
const NEAR: usize = 2 << 10;

/// Packets that are asked for while those in front of them are worked on.
pub(super) struct Ahead {
    whereabouts: ArrayVec<Whereabouts, BURST>,
    next: usize,
    /// Packets that are worked on together: many where they are small, since the AEAD takes those side by
    /// side.
    pub(super) group: usize,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            whereabouts: ArrayVec::new(),
            next: 0,
            group: BURST,
        }
    }
}

impl Ahead {
    /// Asks for the first, and remembers the others.
    pub(super) fn look_at(&mut self, ops: &[Op]) {
        let ops = ops.iter().take(BURST);
        self.whereabouts = ops.map(|op| op.frame.whereabouts()).collect();
        let octets: usize = self.whereabouts.iter().map(Whereabouts::octets).sum();
        let each = octets / self.whereabouts.len().max(1);
        self.group = (NEAR / each.max(1)).clamp(1, BURST);
        for _ in 0..2 * self.group {
            self.go_on();
        }
    }

    /// Asks for the next.
    #[inline]
    pub(super) fn go_on(&mut self) {
        if let Some(next) = self.whereabouts.get(self.next) {
            next.prefetch();
            self.next += 1;
        }
    }
}
