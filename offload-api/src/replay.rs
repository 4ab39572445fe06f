// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The anti-replay window (RFC 4303 §3.4.3, a ring as RFC 6479's) with extended sequence numbers
//! (RFC 4303 appendix A).

/// Most packets a window can cover.
pub const WINDOW_MAX: u32 = 4096;

/// A sliding window over full 64-bit sequence numbers.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Highest number accepted; 0 before the first packet.
    top: u64,
    /// Packets covered; 0 is off.
    size: u32,
    /// Bit `n % (512 * len)` tells whether number `n` was seen.
    ring: Box<[Line]>,
}

/// Words of a ring, in a cache line of their own: another core may work on what lies beside.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

/// What the window says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before.
    Fresh,
    /// Seen before.
    Replayed,
    /// Left of the window (or number 0).
    TooOld,
}

impl ReplayWindow {
    /// A window over `size` packets: 0 is off, anything else is rounded up to a multiple of 32 and
    /// capped at [`WINDOW_MAX`].
    pub fn new(size: u32) -> Self {
        let size = size.min(WINDOW_MAX).next_multiple_of(32);
        // No more lines than it spans, since thousands of SAs have one; a power of two for cheap indexing.
        let lines = match size {
            0 => 0,
            size => (size as usize).div_ceil(512).next_power_of_two(),
        };
        Self {
            top: 0,
            size,
            ring: vec![Line::default(); lines].into(),
        }
    }

    /// Packets covered.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Highest number accepted.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// The full number of a packet that carries these low 32 bits (RFC 4303 appendix A2.2): the one
    /// nearest to the window. Without ESN the high half is 0.
    #[inline]
    pub fn full_number(&self, low: u32, esn: bool) -> u64 {
        full_number(self.top, self.size, low, esn)
    }

    /// Whether a number may be accepted; changes nothing (the check before the ICV).
    #[inline]
    pub fn check(&self, sequence: u64) -> Verdict {
        if sequence == 0 {
            return Verdict::TooOld;
        }
        if self.size == 0 || sequence > self.top {
            return Verdict::Fresh;
        }
        if self.top - sequence >= u64::from(self.size) {
            return Verdict::TooOld;
        }
        if self.bit(sequence) {
            Verdict::Replayed
        } else {
            Verdict::Fresh
        }
    }

    /// Accepts a number whose packet has passed the ICV, if it still may be (two packets of one
    /// burst can carry the same number).
    #[inline]
    pub fn accept(&mut self, sequence: u64) -> Verdict {
        if sequence > self.top {
            // Its own bit is set in any case.
            if sequence != self.top + 1 {
                self.clear_between(self.top + 1, sequence);
            }
            self.top = sequence;
            self.set(sequence);
            return Verdict::Fresh;
        }
        let verdict = self.check(sequence);
        if verdict == Verdict::Fresh {
            self.set(sequence);
        }
        verdict
    }

    /// What it has seen, for another engine.
    pub fn snapshot(&self) -> ReplaySnapshot {
        let mut seen = vec![0u64; (self.size as usize).div_ceil(64)];
        for back in 0..u64::from(self.size) {
            let Some(sequence) = self.top.checked_sub(back) else {
                break;
            };
            if sequence != 0
                && self.bit(sequence)
                && let Some(word) = seen.get_mut((back / 64) as usize)
            {
                *word |= 1 << (back % 64);
            }
        }
        ReplaySnapshot {
            top: self.top,
            seen,
        }
    }

    /// Marks as seen what another engine has seen; never unmarks. Numbers below the snapshot's own
    /// window count as seen, since nobody can tell.
    pub fn merge(&mut self, snapshot: &ReplaySnapshot) {
        if self.size == 0 || snapshot.top == 0 {
            self.top = self.top.max(snapshot.top);
            return;
        }
        if snapshot.top > self.top {
            self.advance(snapshot.top);
        }
        for back in 0..u64::from(self.size) {
            let Some(sequence) = self.top.checked_sub(back).filter(|&s| s != 0) else {
                break;
            };
            if sequence <= snapshot.top && snapshot.has(sequence) {
                self.set(sequence);
            }
        }
    }

    /// Moves its right edge there: the bits of the numbers on the way are those of numbers that it leaves
    /// behind.
    fn advance(&mut self, sequence: u64) {
        self.clear_between(self.top + 1, sequence);
        self.top = sequence;
    }

    fn clear_between(&mut self, first: u64, last: u64) {
        if last - first >= 512 * self.ring.len() as u64 {
            return self.ring.fill(Line::default());
        }
        let (from, to) = (first / 64, last / 64);
        for word in from..=to {
            let low = if word == from { first % 64 } else { 0 };
            let high = if word == to { last % 64 } else { 63 };
            self.clear(word, u64::MAX << low & u64::MAX >> (63 - high));
        }
    }

    #[inline]
    fn clear(&mut self, word: u64, mask: u64) {
        let (line, at) = self.place(word);
        if let Some(word) = self.ring.get_mut(line).and_then(|line| line.0.get_mut(at)) {
            *word &= !mask;
        }
    }

    /// The line of a word, and its place there.
    #[inline]
    fn place(&self, word: u64) -> (usize, usize) {
        let line = (word / 8) as usize & self.ring.len().wrapping_sub(1);
        (line, (word % 8) as usize)
    }

    #[inline]
    fn bit(&self, sequence: u64) -> bool {
        let (line, at) = self.place(sequence / 64);
        let word = self.ring.get(line).and_then(|line| line.0.get(at));
        word.is_some_and(|word| word & 1 << (sequence % 64) != 0)
    }

    #[inline]
    fn set(&mut self, sequence: u64) {
        let (line, at) = self.place(sequence / 64);
        if let Some(word) = self.ring.get_mut(line).and_then(|line| line.0.get_mut(at)) {
            *word |= 1 << (sequence % 64);
        }
    }
}

/// As [`ReplayWindow::full_number`], of a window over `size` packets up to `top`.
#[inline]
pub fn full_number(top: u64, size: u32, low: u32, esn: bool) -> u64 {
    if !esn {
        return u64::from(low);
    }
    let (top_high, top_low) = ((top >> 32) as u32, top as u32);
    let span = size.max(1) - 1;
    let high = if top_low >= span {
        // Case A: the window lies within one subspace.
        if low >= top_low - span {
            top_high
        } else {
            top_high.wrapping_add(1)
        }
    } else {
        // Case B: the window spans two subspaces. Numbers only grow, so before the first
        // 2^32 there is no subspace below.
        let bottom = top_low.wrapping_sub(span);
        if low >= bottom && top_high > 0 {
            top_high - 1
        } else {
            top_high
        }
    };
    u64::from(high) << 32 | u64::from(low)
}

/// The state of a window on its way from one engine to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaySnapshot {
    /// Highest number accepted.
    pub top: u64,
    /// Bit `n` of the words, little end first: whether `top - n` was seen.
    pub seen: Vec<u64>,
}

impl ReplaySnapshot {
    /// Whether a number at or below `top` was seen, or lies too far back to tell.
    fn has(&self, sequence: u64) -> bool {
        let back = self.top - sequence;
        match self.seen.get((back / 64) as usize) {
            Some(word) => word & (1 << (back % 64)) != 0,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The definition, straight from RFC 4303 §3.4.3.
    struct Model {
        size: u64,
        top: u64,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, sequence: u64) -> Verdict {
            if sequence == 0 || (sequence <= self.top && self.top - sequence >= self.size) {
                return Verdict::TooOld;
            }
            if !self.seen.insert(sequence) {
                return Verdict::Replayed;
            }
            self.top = self.top.max(sequence);
            Verdict::Fresh
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            size in prop_oneof![Just(32u32), Just(64), Just(96), Just(544), Just(1056), Just(4096)],
            steps in prop::collection::vec((0u8..8, 0u64..5000), 1..400),
        ) {
            let mut window = ReplayWindow::new(size);
            let mut model = Model { size: size.into(), top: 0, seen: HashSet::new() };
            for (kind, distance) in steps {
                let sequence = match kind {
                    0..=3 => model.top + 1 + distance % 3,
                    4 => model.top + distance,
                    5 => model.top + distance * 1000,
                    _ => model.top.saturating_sub(distance),
                };
                prop_assert_eq!(window.accept(sequence), model.accept(sequence));
                prop_assert_eq!(window.top(), model.top);
            }
        }

        #[test]
        fn a_snapshot_carries_every_number_over(
            size in prop_oneof![Just(32u32), Just(64), Just(1024), Just(4096)],
            numbers in prop::collection::vec(1u64..9000, 1..300),
        ) {
            let mut first = ReplayWindow::new(size);
            for &n in &numbers {
                first.accept(n);
            }
            let mut second = ReplayWindow::new(size);
            second.merge(&first.snapshot());
            for n in 1..9100 {
                prop_assert_eq!(first.check(n), second.check(n));
            }
        }

        #[test]
        fn extended_numbers_are_recovered_from_their_low_half(
            top in 1u64..=u64::MAX - (1 << 31),
            ahead in 0u64..1 << 30,
            back in 0u64..1024,
        ) {
            let mut window = ReplayWindow::new(1024);
            window.accept(top);
            for sequence in [top + ahead, top.saturating_sub(back)] {
                prop_assert_eq!(window.full_number(sequence as u32, true), sequence);
            }
        }
    }

    #[test]
    fn window_zero_checks_nothing() {
        let mut window = ReplayWindow::new(0);
        assert_eq!(window.accept(5), Verdict::Fresh);
        assert_eq!(window.accept(5), Verdict::Fresh);
    }
}
