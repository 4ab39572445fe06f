// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-GCM (NIST SP 800-38D) with VAES, VPCLMULQDQ and AVX-512.
//!
//! Up to four small packets, each of a key of its own, go through the rounds in lockstep, so that the
//! processor has other packets' work to do while one waits for a round. Larger ones of as many vectors,
//! up to eight, that follow each other go as a whole each, and any others in lockstep up to four vectors
//! and by groups of vectors from there on. Time depends on lengths alone, never on keys or data: no table
//! is looked up by either, and no branch is taken on them before the tag is known to match or not.
//!
//! A vector is 64 octets, four blocks. GHASH is a sum of products with powers of H (each block's lies
//! in the table so that a vector's four are one load), reduced once for each [`schedule::SEGMENT`].
#![expect(unsafe_code, reason = "code for one kind of processor")]

mod ghash;
mod lockstep;
mod long;
mod medium;
mod schedule;
mod text;

use lockstep::{lockstep, tail};
use long::long;
use medium::{go_together, medium};
pub(crate) use schedule::Schedule;

use crate::Direction;
use crate::packet::Packet;

/// Vectors of a packet that still goes in lockstep with others.
const SMALL: usize = 4;

/// Packets in lockstep.
const LANES: usize = 4;

/// A packet and the schedule of its key.
type Item<'a, 'packet> = (&'a Schedule, &'a mut Packet<'packet>);

/// Whether this processor has what the kernel is made of.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("bmi2")
}

/// A proof that [`available`] was asked and said yes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Available(());

impl Available {
    pub(crate) fn detect() -> Option<Self> {
        available().then_some(Self(()))
    }

    /// Expands a key of 16 or 32 octets.
    pub(crate) fn expand(self, key: &[u8]) -> Box<Schedule> {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { schedule::expand(key) }
    }

    /// Seals each packet: its body is encrypted, its tag set.
    pub(crate) fn seal(self, packets: &mut [Packet<'_>]) {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { burst::<true>(packets) }
    }

    /// Opens each packet: what has a wrong tag is wiped.
    pub(crate) fn open(self, packets: &mut [Packet<'_>]) {
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { burst::<false>(packets) }
    }
}

/// What packets in lockstep must have in common: vectors, whether J0 rides, and rounds.
#[inline]
fn shape(len: usize, long_key: bool) -> usize {
    // An empty body is a vector with nothing in it.
    let vectors = len.div_ceil(64).max(1);
    if vectors > SMALL {
        return LONG;
    }
    let tail = if !len.div_ceil(16).is_multiple_of(4) || len == 0 {
        tail::RIDE
    } else if len.is_multiple_of(64) {
        tail::WHOLE
    } else {
        tail::CUT
    };
    ((vectors - 1) * 3 + tail) * 2 + usize::from(long_key)
}

/// The shape of packets that go alone.
const LONG: usize = SMALL * 3 * 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn burst<const SEAL: bool>(mut packets: &mut [Packet<'_>]) {
    let direction = if SEAL {
        Direction::Seal
    } else {
        Direction::Open
    };
    // Made for a burst that needs them: they are as large as many packets' headers.
    let mut waiting = None;
    fn shape_of<'a>(packet: &Packet<'a>, direction: Direction) -> Option<(&'a Schedule, usize)> {
        let table = packet.key.table(direction)?;
        let shape = shape(packet.body.len(), table.is_long());
        Some((table.schedule(), shape))
    }
    while let Some((first, behind)) = packets.split_first() {
        if go_together(first, behind, direction)
            && let Some((schedule, _)) = shape_of(first, direction)
        {
            let count = match schedule.count {
                10 => medium::<10, SEAL>(packets),
                _ => medium::<14, SEAL>(packets),
            };
            debug_assert!(count != 0, "the first one's table is made");
            packets = packets.get_mut(count..).unwrap_or_default();
            continue;
        }
        // Mostly the next few are alike.
        if let [a, b, c, d, ..] = packets
            && let (Some(e), Some(f)) = (shape_of(a, direction), shape_of(b, direction))
            && let (Some(g), Some(h)) = (shape_of(c, direction), shape_of(d, direction))
            && e.1 == f.1
            && f.1 == g.1
            && g.1 == h.1
            && e.1 != LONG
        {
            by_shape::<SEAL, LANES>(e.1, [(e.0, a), (f.0, b), (g.0, c), (h.0, d)]);
            packets = &mut packets[LANES..];
            continue;
        }
        let Some(first) = packets.first() else {
            break;
        };
        let found = shape_of(first, direction);
        if let Some((schedule, LONG)) = found {
            let count = match schedule.count {
                10 => long::<10, SEAL>(packets),
                _ => long::<14, SEAL>(packets),
            };
            packets = packets.get_mut(count..).unwrap_or_default();
            continue;
        }
        let Some((packet, rest)) = packets.split_first_mut() else {
            break;
        };
        packets = rest;
        let Some((schedule, shape)) = found else {
            crate::openssl_evp::wipe(packet);
            continue;
        };
        let item = (schedule, packet);
        let waiting = waiting.get_or_insert_with(Waiting::of_each_shape);
        if let Some(full) = waiting.get_mut(shape).and_then(|of| of.push(item)) {
            by_shape::<SEAL, LANES>(shape, full);
        }
    }
    for (shape, waiting) in waiting.iter_mut().flatten().enumerate() {
        if waiting.count != 0 {
            for item in waiting.items.iter_mut().filter_map(Option::take) {
                by_shape::<SEAL, 1>(shape, [item]);
            }
        }
    }
}

/// Packets of a shape that are not enough yet.
struct Waiting<'a, 'packet> {
    items: [Option<Item<'a, 'packet>>; LANES],
    count: usize,
}

impl<'a, 'packet> Waiting<'a, 'packet> {
    const NONE: Self = Self {
        items: [const { None }; LANES],
        count: 0,
    };

    fn of_each_shape() -> [Self; LONG] {
        [const { Self::NONE }; LONG]
    }

    /// Takes one more, and gives all when they are enough.
    #[inline]
    fn push(&mut self, item: Item<'a, 'packet>) -> Option<[Item<'a, 'packet>; LANES]> {
        *self.items.get_mut(self.count)? = Some(item);
        self.count += 1;
        if self.count < LANES {
            return None;
        }
        self.count = 0;
        match std::mem::replace(&mut self.items, [const { None }; LANES]) {
            [Some(a), Some(b), Some(c), Some(d)] => Some([a, b, c, d]),
            _ => None,
        }
    }
}

/// Two by two: four of these have more vectors than there are registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn pairs<const R: usize, const SEAL: bool, const N: usize, const V: usize, const TAIL: usize>(
    items: [Item<'_, '_>; N],
) {
    let mut items = items.into_iter();
    while let Some(a) = items.next() {
        match items.next() {
            Some(b) => lockstep::<R, SEAL, 2, V, TAIL>([a, b]),
            None => lockstep::<R, SEAL, 1, V, TAIL>([a]),
        }
    }
}

/// Leads to the code that is made for a shape.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn by_shape<const SEAL: bool, const N: usize>(shape: usize, items: [Item<'_, '_>; N]) {
    match shape {
        0 => lockstep::<10, SEAL, N, 1, { tail::WHOLE }>(items),
        1 => lockstep::<14, SEAL, N, 1, { tail::WHOLE }>(items),
        2 => lockstep::<10, SEAL, N, 1, { tail::CUT }>(items),
        3 => lockstep::<14, SEAL, N, 1, { tail::CUT }>(items),
        4 => lockstep::<10, SEAL, N, 1, { tail::RIDE }>(items),
        5 => lockstep::<14, SEAL, N, 1, { tail::RIDE }>(items),
        6 => lockstep::<10, SEAL, N, 2, { tail::WHOLE }>(items),
        7 => lockstep::<14, SEAL, N, 2, { tail::WHOLE }>(items),
        8 => lockstep::<10, SEAL, N, 2, { tail::CUT }>(items),
        9 => lockstep::<14, SEAL, N, 2, { tail::CUT }>(items),
        10 => lockstep::<10, SEAL, N, 2, { tail::RIDE }>(items),
        11 => lockstep::<14, SEAL, N, 2, { tail::RIDE }>(items),
        12 => pairs::<10, SEAL, N, 3, { tail::WHOLE }>(items),
        13 => pairs::<14, SEAL, N, 3, { tail::WHOLE }>(items),
        14 => pairs::<10, SEAL, N, 3, { tail::CUT }>(items),
        15 => pairs::<14, SEAL, N, 3, { tail::CUT }>(items),
        16 => pairs::<10, SEAL, N, 3, { tail::RIDE }>(items),
        17 => pairs::<14, SEAL, N, 3, { tail::RIDE }>(items),
        18 => pairs::<10, SEAL, N, 4, { tail::WHOLE }>(items),
        19 => pairs::<14, SEAL, N, 4, { tail::WHOLE }>(items),
        20 => pairs::<10, SEAL, N, 4, { tail::CUT }>(items),
        21 => pairs::<14, SEAL, N, 4, { tail::CUT }>(items),
        22 => pairs::<10, SEAL, N, 4, { tail::RIDE }>(items),
        _ => pairs::<14, SEAL, N, 4, { tail::RIDE }>(items),
    }
}
