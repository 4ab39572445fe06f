// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Client puzzles (RFC 8019): four keys by which a PRF makes enough zero bits of a cookie. Who asks
//! checks them with four calls and keeps nothing; who is asked has to look for them.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::algorithm::Prf;
use crate::config::{PuzzleSolving, Puzzles};
use crate::crypto::Crypto;
use crate::proposal::{self, WireProposal};

/// Keys of a solution.
const KEYS: usize = 4;
/// Tries between two looks at whether it goes on.
const STRIDE: u64 = 256;

/// A puzzle, as a PUZZLE notification says it (§8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// By which function.
    pub prf: Prf,
    /// Zero bits at the end of what it makes, at least; 0 leaves it to the one who is asked.
    pub difficulty: u8,
}

impl Puzzle {
    /// Data of a notification.
    pub(crate) fn emit(self) -> [u8; 3] {
        let [high, low] = (self.prf as u16).to_be_bytes();
        [high, low, self.difficulty]
    }

    /// The same read; nothing for a function that we haven't.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let [high, low, difficulty] = *<&[u8; 3]>::try_from(data).ok()?;
        let prf = Prf::from_wire(u16::from_be_bytes([high, low]))?;
        Some(Self { prf, difficulty })
    }

    /// Whether this solves it for a string (§7.1.4): four keys of one length, none twice, each no longer
    /// than the function's own.
    pub fn is_solved_by(&self, crypto: &dyn Crypto, string: &[u8], solution: &[u8]) -> bool {
        let len = solution.len() / KEYS;
        if !solution.len().is_multiple_of(KEYS) || !(1..=self.prf.output_len()).contains(&len) {
            return false;
        }
        let keys: Vec<&[u8]> = solution.chunks_exact(len).collect();
        let twice = |(at, key)| keys.iter().skip(at + 1).any(|other| other == key);
        // What costs nothing comes first.
        !keys.iter().enumerate().any(twice) && keys.iter().all(|key| self.fits(crypto, string, key))
    }

    fn fits(&self, crypto: &dyn Crypto, string: &[u8], key: &[u8]) -> bool {
        let made = crypto.prf(self.prf, key, &[string]);
        made.is_ok_and(|made| zero_bits(&made) >= u32::from(self.difficulty))
    }

    /// Looks for a solution until it is told to stop.
    pub fn solve(&self, crypto: &dyn Crypto, string: &[u8], stop: &AtomicBool) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        for number in 0..u64::MAX {
            if number.is_multiple_of(STRIDE) && stop.load(Ordering::Relaxed) {
                return None;
            }
            let key = number.to_be_bytes();
            if self.fits(crypto, string, &key) {
                found.extend(key);
                if found.len() == KEYS * key.len() {
                    return Some(found);
                }
            }
        }
        None
    }

    /// As hard as somebody else's demand that leaves it to us, if we go along with it.
    pub(crate) fn accepted(self, solving: &PuzzleSolving) -> Option<Self> {
        /// Soon done, and more than nothing.
        const OWN: u8 = 8;
        let difficulty = match self.difficulty {
            0 => OWN.min(solving.difficulty),
            asked => asked,
        };
        let goes_along = solving.difficulty != 0 && difficulty <= solving.difficulty;
        goes_along.then_some(Self { difficulty, ..self })
    }

    /// For an initiator that offers these proposals, by a function that it has: whichever (§7.1.1.2), the
    /// best that there is.
    pub(crate) fn for_offer(difficulty: u8, offer: &[WireProposal]) -> Option<Self> {
        const FUNCTIONS: [Prf; 7] = [
            Prf::HmacSha256,
            Prf::HmacSha384,
            Prf::HmacSha512,
            Prf::HmacSha1,
            Prf::Aes128Cmac,
            Prf::Aes128Xcbc,
            Prf::HmacMd5,
        ];
        let offers = |prf: &Prf| offer.iter().any(|one| one.proposal.prf.contains(prf));
        let prf = FUNCTIONS.into_iter().find(offers)?;
        (difficulty != 0).then_some(Self { prf, difficulty })
    }

    /// The same for the body of an SA payload.
    pub(crate) fn for_body(difficulty: u8, body: Option<&[u8]>) -> Option<Self> {
        if difficulty == 0 {
            return None;
        }
        Self::for_offer(difficulty, &proposal::parse(body?, true).ok()?)
    }
}

impl Puzzles {
    /// How hard, with so many half-open IKE SAs; 0 is no puzzle. Twice as many are one bit more, which
    /// is twice the work.
    pub(crate) fn difficulty(&self, half_open: usize) -> u8 {
        let Some(threshold) = self.threshold.filter(|least| half_open >= *least) else {
            return 0;
        };
        let doubled = half_open
            .checked_div(threshold)
            .and_then(usize::checked_ilog2);
        let harder = u8::try_from(doubled.unwrap_or_default()).unwrap_or(u8::MAX);
        self.difficulty.saturating_add(harder).min(self.hardest)
    }
}

/// Zero bits at the end (§4).
fn zero_bits(octets: &[u8]) -> u32 {
    let mut bits = 0;
    for octet in octets.iter().rev() {
        bits += octet.trailing_zeros();
        if *octet != 0 {
            break;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bits_are_counted_from_the_end() {
        for (octets, bits) in [
            (&[][..], 0),
            (&[1], 0),
            (&[0x80], 7),
            (&[0], 8),
            (&[1, 0, 0], 16),
            (&[0xff, 0x10, 0], 12),
            (&[0, 0, 0xd4], 2),
        ] {
            assert_eq!(zero_bits(octets), bits, "{octets:?}");
        }
    }

    #[test]
    fn notifications_survive_the_wire() {
        let puzzle = Puzzle {
            prf: Prf::HmacSha384,
            difficulty: 17,
        };
        assert_eq!(puzzle.emit(), [0, 6, 17]);
        assert_eq!(Puzzle::read(&[0, 6, 17]), Some(puzzle));
        for bad in [&[][..], &[0, 6], &[0, 6, 17, 0], &[0, 99, 17]] {
            assert_eq!(Puzzle::read(bad), None);
        }
    }

    /// RFC 8019 §6: the more there are, the harder, within bounds; off by default.
    #[test]
    fn puzzles_are_as_hard_as_the_load_is_high() {
        assert_eq!(Puzzles::default().difficulty(usize::MAX), 0);
        let puzzles = Puzzles {
            threshold: Some(100),
            difficulty: 10,
            hardest: 13,
            ..Puzzles::default()
        };
        for (half_open, bits) in [(0, 0), (99, 0), (100, 10), (199, 10), (200, 11), (400, 12)] {
            assert_eq!(puzzles.difficulty(half_open), bits, "{half_open}");
        }
        assert_eq!(puzzles.difficulty(usize::MAX), 13);
        let always = Puzzles {
            threshold: Some(0),
            ..puzzles
        };
        assert_eq!(always.difficulty(0), 10);
        let solving = PuzzleSolving::default();
        let of = |difficulty| Puzzle {
            prf: Prf::HmacSha256,
            difficulty,
        };
        assert_eq!(of(0).accepted(&solving), Some(of(8)));
        assert_eq!(
            of(solving.difficulty).accepted(&solving),
            Some(of(solving.difficulty))
        );
        assert_eq!(of(solving.difficulty + 1).accepted(&solving), None);
        let none = PuzzleSolving {
            difficulty: 0,
            ..solving
        };
        assert_eq!(of(0).accepted(&none), None);
    }
}
