// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Content that both ends can compute at any offset: SplitMix64 over the word's index.

/// An endless stream of octets determined by its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the octets of the stream from `offset` on.
    pub(crate) fn fill(&self, offset: u64, out: &mut [u8]) {
        let mut word = offset / 8;
        let skip = (offset % 8) as usize;
        let head = if skip == 0 {
            0
        } else {
            (8 - skip).min(out.len())
        };
        let (first, rest) = out.split_at_mut(head);
        if head > 0 {
            first.copy_from_slice(&self.word(word)[skip..skip + head]);
            word += 1;
        }
        let mut chunks = rest.chunks_exact_mut(8);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&self.word(word));
            word = word.wrapping_add(1);
        }
        let tail = chunks.into_remainder();
        tail.copy_from_slice(&self.word(word)[..tail.len()]);
    }

    fn word(&self, index: u64) -> [u8; 8] {
        let mut z = self
            .seed
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_stream_is_the_same_stream() {
        let pattern = Pattern::new(42);
        let mut whole = [0; 200];
        pattern.fill(0, &mut whole);
        for from in 0..60 {
            for length in 0..60 {
                let mut cut = vec![0; length];
                pattern.fill(from as u64, &mut cut);
                assert_eq!(cut, whole[from..from + length], "{from}+{length}");
            }
        }
    }

    #[test]
    fn it_is_splitmix64() {
        // First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for seed 1234567.
        let mut octets = [0; 24];
        Pattern::new(1_234_567).fill(0, &mut octets);
        let words: Vec<u64> = octets
            .chunks(8)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(
            words,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
