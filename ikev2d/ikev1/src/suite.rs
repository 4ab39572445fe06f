// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proposals of both phases: configured ones as transforms, and the choice among a peer's
//! (RFC 2409 appendix A, RFC 2407 §4.4 and §4.5).

mod phase1;
mod phase2;

use std::time::Duration;

pub(crate) use phase1::integrity_of;
pub use phase1::{
    Chosen1, End, Method, Phase1, choose1, emit_phase1, has_hash, has_number, phase1,
};
pub use phase2::{Chosen2, Encapsulation, choose2, emit_phase2, phase2};
pub(crate) use phase2::{offers_transport, protocol};

use crate::wire::attribute::{Attribute, push};
use phase2::attribute as attribute2;

/// Seconds, in both phases.
const SECONDS: u64 = 1;
/// Kilobytes, in both phases.
const KILOBYTES: u64 = 2;
/// Lifetimes in seconds are taken for these at least: a peer that tells less would have us do nothing but
/// replace its SAs.
const SHORTEST: u64 = 30;
/// And for these at most, ten years: a number can be past all that a clock is set to.
const LONGEST: u64 = 10 * 365 * 24 * 3600;
/// Transforms that we offer, at most: their count is an octet, and datagrams are to stay small.
const MOST: usize = 60;

/// How long an SA is said to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// By time.
    pub time: Option<Duration>,
    /// By what has passed.
    pub kilobytes: Option<u64>,
}

impl Life {
    /// By time alone.
    pub fn of_time(time: Duration) -> Self {
        let time = Some(time);
        Self {
            time,
            ..Self::default()
        }
    }

    fn push(self, out: &mut Vec<u8>, (kind, duration): (u16, u16)) {
        // 0 would be no limit.
        let seconds = self.time.map(|time| (SECONDS, time.as_secs().max(1)));
        let kilobytes = self.kilobytes.map(|kilobytes| (KILOBYTES, kilobytes));
        for (unit, number) in seconds.into_iter().chain(kilobytes) {
            push(out, kind, unit as u32);
            push(out, duration, u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    /// As phase 2 writes it.
    pub fn emit(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.push(&mut out, (attribute2::LIFE_TYPE, attribute2::LIFE));
        out
    }

    /// Out of phase 2's attributes: each duration is in the unit in front of it.
    pub fn read(attributes: &[Attribute<'_>]) -> Self {
        Self::read_by(attributes, (attribute2::LIFE_TYPE, attribute2::LIFE))
    }

    fn read_by(attributes: &[Attribute<'_>], (kind, duration): (u16, u16)) -> Self {
        let mut life = Self::default();
        let mut unit = None;
        for attribute in attributes {
            if attribute.kind == kind {
                unit = attribute.number();
            } else if attribute.kind == duration {
                // Some say 0 for "no limit".
                let number = attribute.number().filter(|number| *number != 0);
                match unit.take() {
                    Some(SECONDS) => {
                        let seconds = number.map(|seconds| seconds.clamp(SHORTEST, LONGEST));
                        life.time = seconds.map(Duration::from_secs);
                    }
                    Some(KILOBYTES) => life.kilobytes = number,
                    _ => {}
                }
            }
        }
        life
    }

    /// The parts of this one that end before those of another.
    pub fn shorter_than(self, other: Self) -> Self {
        fn less<T: Ord>(own: Option<T>, other: Option<T>) -> Option<T> {
            own.filter(|own| other.is_none_or(|other| *own < other))
        }
        Self {
            time: less(self.time, other.time),
            kilobytes: less(self.kilobytes, other.kilobytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::attribute::{parse, push_octets};

    #[test]
    fn lifetimes_are_ones_that_a_clock_can_be_set_to() {
        for (octets, seconds) in [
            (&[0xff; 8][..], Some(LONGEST)),
            (&[0xff; 6], Some(LONGEST)),
            (&[0, 0, 0x0e, 0x10], Some(3600)),
            (&[0, 0, 0, 1], Some(SHORTEST)),
            (&[0; 4], None),
            (&[0; 8], None),
        ] {
            let mut out = Vec::new();
            push(&mut out, attribute2::LIFE_TYPE, SECONDS as u32);
            push_octets(&mut out, attribute2::LIFE, octets);
            let life = Life::read(&parse(&out).unwrap());
            assert_eq!(life.time, seconds.map(Duration::from_secs), "{octets:x?}");
            assert_eq!(life.kilobytes, None);
        }
    }
}
