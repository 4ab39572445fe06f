// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Randomness that is the same in each run.

/// Numbers that look random, the same in each run (Vigna's SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// As many octets as one of `counts` says.
    pub(crate) fn octets_of(&mut self, counts: &[usize]) -> Vec<u8> {
        let count = counts[self.below(counts.len() as u64) as usize];
        self.octets(count)
    }
}
