// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may use which sequence numbers (RFC 4303 §2.2).

use crate::error::InvalidSa;

/// Where an outbound SA's sequence numbers come from.
///
/// The sequence law: at any instant one engine owns an SA's numbers, and it uses only numbers of a
/// grant that was recorded before it could use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// The engine counts within its grant. `None`: installed, but it may not seal yet.
    Granted(Option<Grant>),
    /// Each operation brings its own number and IV: known answers and offline tools, never traffic.
    Explicit,
}

/// A block of sequence numbers, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// First number that may be used; never 0.
    pub first: u64,
    /// Last number that may be used.
    pub last: u64,
}

impl Grant {
    /// Checks order, the reserved zero and the end of the sequence space.
    ///
    /// # Errors
    /// [`InvalidSa::Grant`].
    pub fn check(self, esn: bool) -> Result<(), InvalidSa> {
        let end = if esn { u64::MAX } else { u64::from(u32::MAX) };
        if self.first == 0 || self.first > self.last || self.last > end {
            return Err(InvalidSa::Grant {
                first: self.first,
                last: self.last,
                end,
            });
        }
        Ok(())
    }
}

/// A cursor over granted numbers: what each engine keeps for an outbound SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantCursor {
    next: u64,
    /// Last usable number; 0 before the first grant, `next > last` when dry.
    last: u64,
    /// Number 2^64 - 1 is used or given up.
    ended: bool,
}

impl GrantCursor {
    /// A cursor that has nothing to give until [`extend`](Self::extend).
    pub fn new(grant: Option<Grant>) -> Self {
        let (next, last) = grant.map_or((1, 0), |grant| (grant.first, grant.last));
        Self {
            next,
            last,
            ended: false,
        }
    }

    /// A cursor as another engine kept it, by its [`parts`](Self::parts).
    pub fn from_parts(next: u64, last: u64, ended: bool) -> Self {
        Self { next, last, ended }
    }

    /// The next number, the last one that may be used, and whether the 64-bit space is used up.
    pub fn parts(&self) -> (u64, u64, bool) {
        (self.next, self.last, self.ended)
    }

    /// Takes in a further grant. One that continues the present one extends it; one that starts
    /// later abandons what is left, so that numbers only ever grow.
    ///
    /// # Errors
    /// The number that a grant must at least start at, when it lies behind.
    pub fn extend(&mut self, grant: Grant) -> Result<(), u64> {
        if grant.first <= self.last {
            return Err(self.last.saturating_add(1));
        }
        if self.last == 0 || grant.first != self.last + 1 {
            self.next = grant.first;
        }
        // Else it continues: a dry cursor stands at `grant.first` already.
        self.last = grant.last;
        Ok(())
    }

    /// Takes up to `count` consecutive numbers: the first and how many.
    #[inline]
    pub fn take(&mut self, count: u64) -> Option<(u64, u64)> {
        let taken = count.min(self.remaining());
        if taken == 0 {
            return None;
        }
        let first = self.next;
        match self.next.checked_add(taken) {
            Some(next) => self.next = next,
            // The very last number of the 64-bit space: dry for ever.
            None => self.ended = true,
        }
        Some((first, taken))
    }

    /// Gives up what is left; a later grant must still start past it.
    pub fn revoke(&mut self) {
        match self.last.checked_add(1) {
            Some(next) => self.next = next,
            None => self.ended = true,
        }
    }

    /// Numbers left.
    #[inline]
    pub fn remaining(&self) -> u64 {
        if self.next > self.last || self.ended {
            0
        } else {
            (self.last - self.next).saturating_add(1)
        }
    }

    /// The number that the next packet would get.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_never_gives_a_number_twice_nor_one_outside_its_grants() {
        let mut cursor = GrantCursor::new(Some(Grant { first: 1, last: 10 }));
        assert_eq!(cursor.take(4), Some((1, 4)));
        cursor
            .extend(Grant {
                first: 11,
                last: 20,
            })
            .unwrap();
        assert_eq!(cursor.take(100), Some((5, 16)));
        assert_eq!(cursor.take(1), None);
        assert_eq!(
            cursor.extend(Grant {
                first: 20,
                last: 40
            }),
            Err(21)
        );
        cursor
            .extend(Grant {
                first: 100,
                last: 101,
            })
            .unwrap();
        assert_eq!(cursor.take(1), Some((100, 1)));
        cursor
            .extend(Grant {
                first: 200,
                last: 200,
            })
            .unwrap();
        assert_eq!(cursor.take(2), Some((200, 1)));
    }

    #[test]
    fn the_end_of_the_64_bit_space_refuses_and_never_wraps() {
        let mut cursor = GrantCursor::new(Some(Grant {
            first: u64::MAX - 1,
            last: u64::MAX,
        }));
        assert_eq!(cursor.take(8), Some((u64::MAX - 1, 2)));
        assert_eq!(cursor.take(1), None);
        assert!(cursor.extend(Grant { first: 1, last: 5 }).is_err());
    }

    #[test]
    fn a_standby_cursor_starts_with_its_first_grant() {
        let mut cursor = GrantCursor::new(None);
        assert_eq!(cursor.take(1), None);
        cursor
            .extend(Grant {
                first: 65537,
                last: 131072,
            })
            .unwrap();
        assert_eq!(cursor.take(1), Some((65537, 1)));
    }
}
