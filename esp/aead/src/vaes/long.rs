// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that fill the processor by themselves: while some vectors go through the rounds, those before
//! are hashed; the last ones of a packet that is sealed, while the next packet begins. Packets that follow
//! each other are one piece of code, so that what goes from one to the next stays in registers.
#![expect(unsafe_code, reason = "vector loads and stores")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors are unrolled by their index"
)]

use core::arch::x86_64::*;

use super::ghash::Sum;
use super::medium::go_together;
use super::schedule::{SEGMENT, Schedule, of_group};
use super::text::{fetch, finish, frame, in_order, load, put, reversal, rounds, tail_mask, wipe};
use super::{Item, SMALL};
use crate::Direction;
use crate::packet::Packet;

/// Vectors that a long packet has in flight.
const GROUP: usize = 4;

/// Those of a packet that is sealed and longer yet: what is sealed is hashed after its rounds, and with few vectors
/// in flight a processor that takes two at once (Zen 5) runs out of what it could go on with meanwhile.
const WIDE: usize = 2 * GROUP;

/// While a packet is opened, this one behind it comes into the cache. What is sealed has its headers and trailer written
/// just before, by which the processor finds the rest by itself.
const AHEAD: usize = 4;

/// Where a long packet stands.
struct Stream<'key> {
    schedule: &'key Schedule,
    /// The nonce, with no counter, and the first round's key, in each lane.
    whitened: __m512i,
    /// The next vector's counter blocks, as they go into the first round, but for the lowest octet of their counters.
    above: __m512i,
    /// The next vector's number.
    next: u32,
    body: *mut u8,
    /// In the packet [`AHEAD`] what the body is in this one.
    ahead: *const u8,
    sum: Sum,
    lengths: __m128i,
    /// Of the next block that is hashed, in its segment.
    weight: usize,
    /// Blocks of later segments.
    later: usize,
    /// Vectors of ciphertext that are not hashed yet, octets reversed.
    pending: [__m512i; WIDE],
}

impl Stream<'_> {
    /// Begins a segment: of what is left, with what comes in front of it, at this weight beside that of
    /// its first block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn segment(&mut self, front: __m128i, blocks: usize, beside: isize) {
        // The last segment's blocks have the lengths behind them. Others are left multiplied by H once
        // more, so that their powers lie in whole lines of the cache.
        let (lengths, weight, later) = if blocks <= SEGMENT {
            (self.lengths, blocks + 1, 0)
        } else {
            (_mm_setzero_si128(), SEGMENT + 1, blocks - SEGMENT)
        };
        self.sum = Sum::new(
            front,
            lengths,
            self.schedule,
            weight.saturating_add_signed(beside),
        );
        self.weight = weight;
        self.later = later;
    }

    /// So many pending vectors were hashed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn hashed(&mut self, vectors: usize) {
        self.weight -= 4 * vectors;
        if self.weight == 1 && self.later != 0 {
            let front = self.sum.reduce();
            self.segment(front, self.later, -1);
        }
    }

    /// The next N vectors as they go into the first round: counter blocks (SP 800-38D §6.5) that have its key
    /// already. EDGE: the last has J0 in the lanes of `ride`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn count<const N: usize, const EDGE: bool>(&mut self, ride: u16) -> [__m512i; N] {
        let first = self.next;
        self.next = first.wrapping_add(N as u32);
        let mut all = [self.above; N];
        for n in 0..N {
            all[n] = _mm512_xor_si512(all[n], lowest(first as usize + n));
        }
        if self.next.is_multiple_of(64) {
            // Groups begin at multiples of their size, so that more than the lowest octet changes only here, in
            // the middle of the last vector.
            let above = self.next.wrapping_mul(4).swap_bytes() as i32;
            self.above = _mm512_xor_si512(self.whitened, _mm512_maskz_set1_epi32(0x8888, above));
            let last = _mm512_xor_si512(self.above, lowest(63));
            all[N - 1] = _mm512_mask_mov_epi32(all[N - 1], 0xff00, last);
        }
        if EDGE {
            let j0 = _mm_set_epi32(1 << 24, 0, 0, 0);
            let j0 = _mm512_xor_si512(_mm512_broadcast_i32x4(j0), self.whitened);
            all[N - 1] = _mm512_mask_mov_epi32(all[N - 1], ride, j0);
        }
        all
    }
}

#[repr(C, align(64))]
struct Octets([u8; 64]);

/// The lowest octets of vectors' counters, of which 64 vectors use up all; a body's first block has counter 2. In the
/// last of them the octets above change.
static LOWEST: [Octets; 64] = {
    let mut all = [const { Octets([0; 64]) }; 64];
    let mut block = 0;
    while block < 4 * all.len() {
        all[block / 4].0[block % 4 * 16 + 15] = (block as u8).wrapping_add(2);
        block += 1;
    }
    all
};

/// Asks for the octets there to come into this core's cache, to be changed.
#[inline(always)]
fn ask_for(octets: *const u8) {
    // SAFETY: a hint, which changes nothing and faults nowhere.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) octets, options(nostack, preserves_flags, readonly));
    }
}

/// Of one of the first vectors of a packet, or of 64 vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn lowest(vector: usize) -> __m512i {
    // SAFETY: there are the 64 octets that are read, at a multiple of 64.
    unsafe { _mm512_load_si512(LOWEST[vector % LOWEST.len()].0.as_ptr().cast()) }
}

/// What is left to do for a packet that is through the rounds: its last vectors are hashed while the next
/// one's first go through them.
struct Rest<'a, 'packet> {
    item: Option<Item<'a, 'packet>>,
    sum: Sum,
    weight: usize,
    /// Those that are not there are zeros.
    pending: [__m512i; GROUP],
    pad: __m128i,
}

impl Rest<'_, '_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn none() -> Self {
        Self {
            item: None,
            sum: Sum::NONE,
            weight: 1,
            pending: [_mm512_setzero_si512(); GROUP],
            pad: _mm_setzero_si128(),
        }
    }

    /// Finishes it with no packet behind it.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish_alone<const SEAL: bool>(&mut self) {
        if let Some((schedule, _)) = self.item {
            let mut sum = self.sum;
            for at in 0..GROUP {
                sum.add_one(&product(&self.pending, at, schedule, self.weight));
            }
            self.finish::<SEAL>(&sum);
        }
    }

    /// When all of it is in the sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish<const SEAL: bool>(&mut self, sum: &Sum) {
        if let Some((_, packet)) = self.item.take() {
            finish::<SEAL>(packet, sum.reduce(), self.pad);
        }
    }
}

/// Of one vector of a group whose first block has this weight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn product(pending: &[__m512i], at: usize, schedule: &Schedule, weight: usize) -> Sum {
    let (powers, middles) = of_group(schedule, weight, at);
    let mut product = Sum::product(pending[at], powers, middles);
    product.in_order();
    product
}

/// What is hashed while vectors go through the rounds.
mod hash {
    pub(super) const NOTHING: usize = 0;
    /// The group before them.
    pub(super) const OWN: usize = 1;
    /// The wide group before them.
    pub(super) const WIDE: usize = 2;
    /// What is left of the packet before.
    pub(super) const REST: usize = 3;
}

/// N vectors through the rounds; meanwhile earlier ones are hashed. EDGE: the last is the packet's last, of
/// which `mask` is there, and `ride` the lane in which J0 goes along; PAD: it goes by itself. Its stream is
/// returned. W, whether the packet goes in wide groups, changes nothing here, but gives each its own code, which
/// the compiler takes in where it is called once.
///
/// # Safety
/// That much of the body is left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn step<
    const R: usize,
    const SEAL: bool,
    const N: usize,
    const HASH: usize,
    const EDGE: bool,
    const PAD: bool,
    const W: bool,
>(
    stream: &mut Stream<'_>,
    rest: &mut Rest<'_, '_>,
    mask: u64,
    ride: u16,
) -> __m128i {
    let keys = stream.schedule;
    let mut pad = _mm_xor_si128(
        _mm512_castsi512_si128(stream.whitened),
        _mm_set_epi32(1 << 24, 0, 0, 0),
    );
    let reversal = _mm512_broadcast_i32x4(reversal());
    let mut state = stream.count::<N, EDGE>(ride);
    let (mut sum, pending, schedule, weight) = match (HASH, &rest.item) {
        (hash::REST, Some((schedule, _))) => (rest.sum, &rest.pending[..], *schedule, rest.weight),
        _ => (
            stream.sum,
            &stream.pending[..],
            stream.schedule,
            stream.weight,
        ),
    };
    let hashed = if HASH == hash::WIDE { WIDE } else { GROUP };
    let mut held = Sum::NONE;
    rounds!(R, r => {
        let all = keys.spread(r);
        for n in 0..N {
            state[n] = _mm512_aesenc_epi128(state[n], all);
        }
        in_order(&mut state);
        if PAD {
            pad = _mm_aesenc_si128(pad, _mm512_castsi512_si128(all));
        }
        for k in 0..hashed {
            if HASH != hash::NOTHING && r == 1 + k * (R - 1) / hashed {
                let product = product(pending, k, schedule, weight);
                if k % 2 == 0 {
                    held = product;
                } else {
                    sum.add_two(&held, &product);
                }
            }
        }
    });
    match HASH {
        hash::OWN | hash::WIDE => {
            stream.sum = sum;
            stream.hashed(hashed);
        }
        hash::REST => rest.finish::<SEAL>(&sum),
        _ => {}
    }
    let all = keys.spread(R);
    if PAD {
        pad = _mm_aesenclast_si128(pad, _mm512_castsi512_si128(all));
    }
    for n in 0..N {
        let cut = EDGE && n == N - 1;
        // SAFETY: the caller gives N vectors, of the last what the mask has.
        let (data, out) = unsafe {
            let at = stream.body.add(64 * n);
            let data = fetch(at, cut, mask);
            // The last round adds its key, and with it the text.
            let out = _mm512_aesenclast_epi128(state[n], _mm512_xor_si512(all, data));
            put(at, out, cut, mask);
            (data, out)
        };
        if cut {
            // Nothing of the text is in that lane.
            pad = _mm512_extracti32x4_epi32::<3>(out);
        }
        let text = match (SEAL, cut) {
            (true, true) => _mm512_maskz_mov_epi8(mask, out),
            (true, false) => out,
            (false, _) => data,
        };
        stream.pending[n] = _mm512_shuffle_epi8(text, reversal);
    }
    if !SEAL {
        for n in 0..N {
            ask_for(stream.ahead.wrapping_add(64 * n));
        }
        stream.ahead = stream.ahead.wrapping_add(64 * N);
    }
    // SAFETY: within the body, or at its end.
    stream.body = unsafe { stream.body.add(64 * if EDGE { 0 } else { N }) };
    pad
}

/// The first N vectors through the rounds, and what is left of the packet before. J0 goes by itself where it has no
/// lane to ride in, and its stream is returned.
///
/// # Safety
/// The body has that much.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn begin<const R: usize, const SEAL: bool, const N: usize, const W: bool>(
    stream: &mut Stream<'_>,
    rest: &mut Rest<'_, '_>,
    ride: u16,
) -> __m128i {
    // SAFETY: the caller's.
    unsafe {
        match (SEAL && rest.item.is_some(), ride) {
            (true, 0) => step::<R, SEAL, N, { hash::REST }, false, true, W>(stream, rest, 0, 0),
            (true, _) => step::<R, SEAL, N, { hash::REST }, false, false, W>(stream, rest, 0, 0),
            (_, 0) => step::<R, SEAL, N, { hash::NOTHING }, false, true, W>(stream, rest, 0, 0),
            _ => step::<R, SEAL, N, { hash::NOTHING }, false, false, W>(stream, rest, 0, 0),
        }
    }
}

/// Whether a packet goes in wide groups: when behind the first there is more than a group.
const fn is_wide(seal: bool, len: usize) -> bool {
    seal && len > 64 * (WIDE + GROUP)
}

/// Whether the hash of a packet's last vectors is left for the next packet. What is opened is hashed as it
/// is read, so nothing waits at its end; a packet whose last group is one vector gains less than it costs,
/// since all of a group is hashed.
const fn leaves_rest(seal: bool, vectors: usize) -> bool {
    seal && vectors % GROUP != 1
}

/// Takes the packets in front that have more than [`SMALL`] vectors, keys of R rounds, and none behind them
/// with which they were quicker, and tells how many they were.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn long<const R: usize, const SEAL: bool>(packets: &mut [Packet<'_>]) -> usize {
    let direction = if SEAL {
        Direction::Seal
    } else {
        Direction::Open
    };
    let mut rest = Rest::none();
    let mut count = 0;
    let mut left = packets;
    while let Some((packet, behind)) = left.split_first_mut() {
        let Some(table) = packet.key.table(direction) else {
            break;
        };
        let schedule = table.schedule();
        let len = packet.body.len();
        if len <= 64 * SMALL || schedule.count != R || go_together(packet, behind, direction) {
            break;
        }
        left = behind;
        let ahead = match left.get(AHEAD - 1) {
            Some(next) => next.body.as_ptr(),
            None => packet.body.as_ptr(),
        };
        match is_wide(SEAL, len) {
            true => one::<R, SEAL, true>((schedule, packet), ahead, &mut rest),
            false => one::<R, SEAL, false>((schedule, packet), ahead, &mut rest),
        }
        count += 1;
    }
    rest.finish_alone::<SEAL>();
    count
}

/// A packet of more than [`SMALL`] vectors. What is in `rest` is finished, and its own last vectors' hash
/// may be left there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn one<'a, 'packet, const R: usize, const SEAL: bool, const W: bool>(
    (schedule, packet): Item<'a, 'packet>,
    ahead: *const u8,
    rest: &mut Rest<'a, 'packet>,
) {
    let len = packet.body.len();
    let mut vectors = len.div_ceil(64);
    let leaves = leaves_rest(SEAL, vectors);
    let blocks = len.div_ceil(16);
    let mask = tail_mask(len, vectors);
    let ride = if blocks.is_multiple_of(4) { 0 } else { 0xf000 };
    let (additional, lengths) = frame(packet);
    let zero = _mm512_setzero_si512();
    let nonce = load(&packet.nonce);
    let whitened = _mm512_broadcast_i32x4(_mm_xor_si128(nonce, load(&schedule.rounds[0])));
    let mut stream = Stream {
        schedule,
        whitened,
        above: whitened,
        next: 0,
        body: packet.body.as_mut_ptr(),
        ahead,
        sum: Sum::NONE,
        lengths,
        weight: 0,
        later: 0,
        pending: [zero; WIDE],
    };
    stream.segment(additional, blocks, 1);
    let this = &mut stream;
    // SAFETY: so many vectors are there: more than SMALL, which is not below GROUP, or as many as `is_wide` asks for.
    let alone = unsafe {
        match W {
            true => begin::<R, SEAL, WIDE, W>(this, rest, ride),
            false => begin::<R, SEAL, GROUP, W>(this, rest, ride),
        }
    };
    vectors -= if W { WIDE } else { GROUP };
    if W {
        while vectors > WIDE + GROUP {
            // SAFETY: more than a wide group's vectors are left.
            unsafe { step::<R, SEAL, WIDE, { hash::WIDE }, false, false, W>(this, rest, 0, 0) };
            vectors -= WIDE;
        }
        // SAFETY: more than a group's vectors are left: at first and after each wide group.
        unsafe { step::<R, SEAL, GROUP, { hash::WIDE }, false, false, W>(this, rest, 0, 0) };
        vectors -= GROUP;
    }
    while vectors > GROUP {
        // SAFETY: more than a group's vectors are left, of which the last alone may be cut.
        unsafe { step::<R, SEAL, GROUP, { hash::OWN }, false, false, W>(this, rest, 0, 0) };
        vectors -= GROUP;
    }
    // SAFETY: so many vectors are left, and of the last what the mask has.
    let pad = unsafe {
        match vectors {
            1 => step::<R, SEAL, 1, { hash::OWN }, true, false, W>(this, rest, mask, ride),
            2 => step::<R, SEAL, 2, { hash::OWN }, true, false, W>(this, rest, mask, ride),
            3 => step::<R, SEAL, 3, { hash::OWN }, true, false, W>(this, rest, mask, ride),
            _ => step::<R, SEAL, 4, { hash::OWN }, true, false, W>(this, rest, mask, ride),
        }
    };
    let pad = if ride == 0 { alone } else { pad };
    if leaves {
        for n in 0..GROUP {
            rest.pending[n] = if n < vectors { stream.pending[n] } else { zero };
        }
        rest.sum = stream.sum;
        rest.weight = stream.weight;
        rest.pad = pad;
        rest.item = Some((schedule, packet));
        return;
    }
    let mut sum = stream.sum;
    for n in 0..GROUP {
        if n < vectors {
            sum.add_one(&product(&stream.pending, n, schedule, stream.weight));
        }
    }
    finish::<SEAL>(packet, sum.reduce(), pad);
    wipe::<SEAL>(packet);
}
