// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets of three to eight vectors that follow each other: all vectors of one go through the rounds
//! together. Meanwhile is hashed what is opened, or what was sealed of the packet before.
#![expect(unsafe_code, reason = "vector loads and stores")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors are unrolled by their index"
)]

use core::arch::x86_64::*;
use core::ops::RangeInclusive;

use super::Item;
use super::ghash::Sum;
use super::long::lowest;
use super::schedule::Schedule;
use super::text::{fetch, finish, frame, in_order, load, put, reversal, rounds, tail_mask, wipe};
use crate::Direction;
use crate::packet::Packet;

/// Vectors of a packet that goes through the rounds as a whole. Two packets of two are as fast in lockstep.
const MEDIUM: RangeInclusive<usize> = 3..=8;

/// Whether a packet goes here with the one behind it: they have as many vectors, J0 rides in the last of both or
/// of neither, and their keys have one length.
#[inline]
pub(super) fn go_together(
    packet: &Packet<'_>,
    behind: &[Packet<'_>],
    direction: Direction,
) -> bool {
    let len = packet.body.len();
    let is_long = |packet: &Packet<'_>| Some(packet.key.table(direction)?.is_long());
    MEDIUM.contains(&len.div_ceil(64))
        && behind.first().is_some_and(|next| {
            let other = next.body.len();
            len.div_ceil(64) == other.div_ceil(64)
                && rides(len) == rides(other)
                && is_long(packet).is_some_and(|long| is_long(next) == Some(long))
        })
}

/// Whether the last vector has a lane to spare.
#[inline]
fn rides(len: usize) -> bool {
    !len.div_ceil(16).is_multiple_of(4)
}

/// Takes the packets in front that are like the first and whose tables are made, as the first's has to be,
/// and tells how many they were.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn medium<const R: usize, const SEAL: bool>(packets: &mut [Packet<'_>]) -> usize {
    let len = packets.first().map_or(0, |packet| packet.body.len());
    match (len.div_ceil(64), rides(len)) {
        (3, false) => run::<R, SEAL, 3, false>(packets),
        (3, true) => run::<R, SEAL, 3, true>(packets),
        (4, false) => run::<R, SEAL, 4, false>(packets),
        (4, true) => run::<R, SEAL, 4, true>(packets),
        (5, false) => run::<R, SEAL, 5, false>(packets),
        (5, true) => run::<R, SEAL, 5, true>(packets),
        (6, false) => run::<R, SEAL, 6, false>(packets),
        (6, true) => run::<R, SEAL, 6, true>(packets),
        (7, false) => run::<R, SEAL, 7, false>(packets),
        (7, true) => run::<R, SEAL, 7, true>(packets),
        (_, false) => run::<R, SEAL, 8, false>(packets),
        (_, true) => run::<R, SEAL, 8, true>(packets),
    }
}

/// What is hashed before the body, and the weight of the body's first block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn begin(schedule: &Schedule, packet: &Packet<'_>) -> (Sum, usize) {
    let weight = packet.body.len().div_ceil(16) + 1;
    let (additional, lengths) = frame(packet);
    let mut sum = Sum::new(additional, lengths, schedule, weight + 1);
    sum.in_order();
    (sum, weight)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn product(blocks: __m512i, schedule: &Schedule, weight: usize) -> Sum {
    let mut product = Sum::of(blocks, schedule, weight);
    product.in_order();
    product
}

/// V vectors as they go into the first round: counter blocks (SP 800-38D §6.5) that have its key already.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn counters<const V: usize, const RIDE: bool>(whitened: __m512i, j0: __m128i) -> [__m512i; V] {
    let mut all = [whitened; V];
    for v in 0..V {
        let mut lowest = lowest(v);
        if RIDE && v == V - 1 {
            lowest = _mm512_mask_mov_epi32(lowest, 0xf000, _mm512_broadcast_i32x4(j0));
        }
        all[v] = _mm512_xor_si512(whitened, lowest);
    }
    all
}

/// Packets of V vectors. RIDE: J0 goes along in the last one's last lane; otherwise by itself.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn run<const R: usize, const SEAL: bool, const V: usize, const RIDE: bool>(
    packets: &mut [Packet<'_>],
) -> usize {
    let direction = if SEAL {
        Direction::Seal
    } else {
        Direction::Open
    };
    let reversal = _mm512_broadcast_i32x4(reversal());
    // Of the packet that was sealed before: its body, octets reversed, and what its tag is hidden with.
    let mut pending = [_mm512_setzero_si512(); V];
    let mut pad_before = _mm_setzero_si128();
    let mut before: Option<Item<'_, '_>> = None;
    let mut count = 0;
    for packet in packets {
        let Some(table) = packet.key.table(direction) else {
            break;
        };
        // To make one here would have to put all that is in registers away.
        let Some(schedule) = table.made() else { break };
        let len = packet.body.len();
        if len.div_ceil(64) != V || rides(len) != RIDE || schedule.count != R {
            break;
        }
        count += 1;
        let mask = tail_mask(len, V);
        let body = packet.body.as_mut_ptr();
        let nonce = _mm_xor_si128(load(&packet.nonce), load(&schedule.rounds[0]));
        let j0 = _mm_set_epi32(1 << 24, 0, 0, 0);
        let mut state = counters::<V, RIDE>(_mm512_broadcast_i32x4(nonce), j0);
        let mut pad = _mm_xor_si128(nonce, j0);
        let (key, (mut sum, weight)) = match &before {
            Some((schedule, packet)) => (*schedule, begin(schedule, packet)),
            // In front of the first that is sealed are zeros.
            None => (schedule, begin(schedule, packet)),
        };
        let (mut first, mut second) = (Sum::NONE, Sum::NONE);
        rounds!(R, r => {
            let all = schedule.spread(r);
            for v in 0..V {
                state[v] = _mm512_aesenc_epi128(state[v], all);
            }
            in_order(&mut state);
            if !RIDE {
                pad = _mm_aesenc_si128(pad, _mm512_castsi512_si128(all));
            }
            for v in 0..V {
                if r == 1 + v * (R - 1) / V {
                    // Not before they are there: what waits takes the room of what could go on.
                    if SEAL && v != 0 && v % 2 == 0 {
                        sum.add_two(&first, &second);
                        sum.in_order();
                    }
                    let blocks = if SEAL {
                        pending[v]
                    } else {
                        // SAFETY: the body has V vectors, the last as far as the mask says.
                        let data = unsafe { fetch(body.add(64 * v), v == V - 1, mask) };
                        _mm512_shuffle_epi8(data, reversal)
                    };
                    let product = product(blocks, key, weight - 4 * v);
                    match v % 2 == 0 {
                        true => first = product,
                        false if SEAL => second = product,
                        false => sum.add_two(&first, &product),
                    }
                }
            }
        });
        match V.is_multiple_of(2) {
            true if SEAL => sum.add_two(&first, &second),
            true => {}
            false => sum.add_one(&first),
        }
        if let Some((_, packet)) = &mut before {
            finish::<SEAL>(packet, sum.reduce(), pad_before);
        }
        let all = schedule.spread(R);
        if !RIDE {
            pad = _mm_aesenclast_si128(pad, _mm512_castsi512_si128(all));
        }
        for v in 0..V {
            let cut = v == V - 1;
            // SAFETY: as above.
            let out = unsafe {
                let at = body.add(64 * v);
                let data = fetch(at, cut, mask);
                // The last round adds its key, and with it the text.
                let out = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(all, data));
                put(at, out, cut, mask);
                out
            };
            if RIDE && cut {
                // Nothing of the text is in that lane.
                pad = _mm512_extracti32x4_epi32::<3>(out);
            }
            if SEAL {
                let text = match cut {
                    true => _mm512_maskz_mov_epi8(mask, out),
                    false => out,
                };
                pending[v] = _mm512_shuffle_epi8(text, reversal);
            }
        }
        if SEAL {
            pad_before = pad;
            before = Some((schedule, packet));
        } else {
            finish::<SEAL>(packet, sum.reduce(), pad);
            wipe::<SEAL>(packet);
        }
    }
    if let Some((schedule, packet)) = before {
        let (mut sum, weight) = begin(schedule, packet);
        for v in 0..V {
            sum.add_one(&product(pending[v], schedule, weight - 4 * v));
        }
        finish::<SEAL>(packet, sum.reduce(), pad_before);
    }
    count
}
