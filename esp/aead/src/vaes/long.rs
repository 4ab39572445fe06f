// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that fill the processor by themselves: while some vectors go through the rounds, those before
//! are hashed.
#![expect(unsafe_code, reason = "vector loads and stores")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors are unrolled by their index"
)]

use core::arch::x86_64::*;

use super::Item;
use super::ghash::Sum;
use super::schedule::{SEGMENT, Schedule};
use super::text::{fetch, finish, frame, in_order, load, put, reversal, tail_mask, wipe};

/// Vectors that a long packet has in flight.
const GROUP: usize = 4;

/// Where a long packet stands.
struct Stream<'key> {
    schedule: &'key Schedule,
    /// The nonce, with no counter, after the first round key.
    whitened: __m512i,
    /// The next vector's counters, as numbers.
    counters: __m512i,
    body: *mut u8,
    sum: Sum,
    lengths: __m128i,
    /// Of the next block that is hashed, in its segment.
    weight: usize,
    /// Blocks of later segments.
    later: usize,
    /// Vectors of ciphertext that are not hashed yet, octets reversed.
    pending: [__m512i; GROUP],
}

impl Stream<'_> {
    /// Begins a segment: of what is left, with what comes in front of it, `ahead` blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn segment(&mut self, front: __m128i, blocks: usize, ahead: usize) {
        // The last segment's blocks have the lengths behind them.
        let (lengths, weight, later) = if blocks <= SEGMENT {
            (self.lengths, blocks + 1, 0)
        } else {
            (_mm_setzero_si128(), SEGMENT, blocks - SEGMENT)
        };
        self.sum = Sum::new(front, lengths, self.schedule, weight + ahead);
        self.weight = weight;
        self.later = later;
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn hash(&mut self, vector: __m512i, at: usize) {
        self.sum.add(vector, self.schedule, self.weight - 4 * at);
        let mut sums = [self.sum.low, self.sum.high, self.sum.both];
        in_order(&mut sums);
        [self.sum.low, self.sum.high, self.sum.both] = sums;
    }

    /// So many vectors were hashed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn hashed(&mut self, vectors: usize) {
        self.weight = self.weight.saturating_sub(4 * vectors);
        if self.weight == 0 && self.later != 0 {
            let front = self.sum.reduce();
            self.segment(front, self.later, 0);
        }
    }
}

/// N vectors through the rounds; meanwhile P earlier ones are hashed. EDGE: the last is the packet's last, of which `mask` is there, and `ride` the lane in which
/// J0 goes along; PAD: it goes by itself. Its stream is returned.
///
/// # Safety
/// That much of the body is left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn step<
    const R: usize,
    const SEAL: bool,
    const N: usize,
    const P: usize,
    const EDGE: bool,
    const PAD: bool,
>(
    stream: &mut Stream<'_>,
    mask: u64,
    ride: u16,
) -> __m128i {
    let keys = &stream.schedule.rounds;
    let mut pad = _mm512_castsi512_si128(stream.whitened);
    pad = _mm_xor_si128(pad, _mm_set_epi32(1 << 24, 0, 0, 0));
    let mut state = [_mm512_setzero_si512(); N];
    // Reverses the counter's word alone.
    let turn = _mm512_broadcast_i32x4(_mm_set_epi8(
        12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    ));
    let reversal = _mm512_broadcast_i32x4(reversal());
    let four = _mm512_broadcast_i32x4(_mm_set_epi32(4, 0, 0, 0));
    for n in 0..N {
        let mut counters = stream.counters;
        if EDGE && n == N - 1 {
            let one = _mm512_broadcast_i32x4(_mm_set_epi32(1, 0, 0, 0));
            counters = _mm512_mask_mov_epi32(counters, ride, one);
        }
        let turned = _mm512_shuffle_epi8(counters, turn);
        state[n] = _mm512_xor_si512(stream.whitened, turned);
        stream.counters = _mm512_add_epi32(stream.counters, four);
    }
    for r in 1..R {
        let round = load(&keys[r]);
        let all = _mm512_broadcast_i32x4(round);
        for n in 0..N {
            state[n] = _mm512_aesenc_epi128(state[n], all);
        }
        in_order(&mut state);
        if PAD {
            pad = _mm_aesenc_si128(pad, round);
        }
        for k in 0..GROUP {
            if k < P && r == 1 + k * (R - 1) / GROUP {
                stream.hash(stream.pending[k], k);
            }
        }
    }
    stream.hashed(P);
    let round = load(&keys[R]);
    let all = _mm512_broadcast_i32x4(round);
    if PAD {
        pad = _mm_aesenclast_si128(pad, round);
    }
    for n in 0..N {
        let keys = _mm512_aesenclast_epi128(state[n], all);
        let cut = EDGE && n == N - 1;
        if cut {
            pad = _mm512_extracti32x4_epi32::<3>(keys);
        }
        // SAFETY: the caller gives N vectors, of the last what the mask has.
        let (data, out) = unsafe {
            let at = stream.body.add(64 * n);
            let data = fetch(at, cut, mask);
            let out = _mm512_xor_si512(keys, data);
            put(at, out, cut, mask);
            (data, out)
        };
        let text = match (SEAL, cut) {
            (true, true) => _mm512_maskz_mov_epi8(mask, out),
            (true, false) => out,
            (false, _) => data,
        };
        stream.pending[n] = _mm512_shuffle_epi8(text, reversal);
    }
    // SAFETY: within the body, or at its end.
    stream.body = unsafe { stream.body.add(64 * if EDGE { 0 } else { N }) };
    pad
}

/// A packet of more than [`SMALL`] vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn long<const R: usize, const SEAL: bool>((schedule, packet): Item<'_, '_>) {
    let len = packet.body.len();
    let mut vectors = len.div_ceil(64);
    let blocks = len.div_ceil(16);
    let mask = tail_mask(len, vectors);
    let ride = if blocks.is_multiple_of(4) { 0 } else { 0xf000 };
    let (additional, lengths) = frame(packet);
    let zero = _mm512_setzero_si512();
    let nonce = _mm_xor_si128(load(&packet.nonce), load(&schedule.rounds[0]));
    let mut stream = Stream {
        schedule,
        whitened: _mm512_broadcast_i32x4(nonce),
        counters: _mm512_set_epi32(5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0),
        body: packet.body.as_mut_ptr(),
        sum: Sum::NONE,
        lengths,
        weight: 0,
        later: 0,
        pending: [zero; GROUP],
    };
    stream.segment(additional, blocks, 1);
    // SAFETY: the packet has more than SMALL vectors, and SMALL is not below GROUP.
    let alone = unsafe {
        match ride {
            0 => step::<R, SEAL, GROUP, 0, false, true>(&mut stream, 0, 0),
            _ => step::<R, SEAL, GROUP, 0, false, false>(&mut stream, 0, 0),
        }
    };
    vectors -= GROUP;
    while vectors > GROUP {
        // SAFETY: more than a group's vectors are left, of which the last alone may be cut.
        unsafe { step::<R, SEAL, GROUP, GROUP, false, false>(&mut stream, 0, 0) };
        vectors -= GROUP;
    }
    // SAFETY: so many vectors are left, and of the last what the mask has.
    let mut pad = unsafe {
        match vectors {
            1 => step::<R, SEAL, 1, GROUP, true, false>(&mut stream, mask, ride),
            2 => step::<R, SEAL, 2, GROUP, true, false>(&mut stream, mask, ride),
            3 => step::<R, SEAL, 3, GROUP, true, false>(&mut stream, mask, ride),
            _ => step::<R, SEAL, 4, GROUP, true, false>(&mut stream, mask, ride),
        }
    };
    for n in 0..GROUP {
        if n < vectors {
            stream.hash(stream.pending[n], n);
        }
    }
    if ride == 0 {
        pad = alone;
    }
    let hash = stream.sum.reduce();
    finish::<SEAL>(packet, hash, pad);
    wipe::<SEAL>(packet);
}
