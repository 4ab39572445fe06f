// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Small packets, several at once, each of a key of its own.
#![expect(unsafe_code, reason = "vector loads and stores")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors are unrolled by their index"
)]

use core::arch::x86_64::*;

use super::Item;
use super::ghash::{Sum, reduce_four, reduce_two};
use super::text::{
    fetch, finish, finish_four, first_counter, frame, in_order, load, put, reversal, tail_mask,
    wipe,
};

/// How the last vector of a packet ends.
pub(super) mod tail {
    /// With the body: all its octets are there.
    pub(in super::super) const WHOLE: usize = 0;
    /// In its last block, of which octets are missing.
    pub(in super::super) const CUT: usize = 1;
    /// Before its last lane, in which J0 rides along.
    pub(in super::super) const RIDE: usize = 2;
}

/// What turns J0's counter, 1, into a vector's; counters stay below 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn steps(vector: usize) -> __m512i {
    let at = |lane: usize| ((4 * vector + lane + 2) as i32 ^ 1) << 24;
    #[rustfmt::skip]
    let steps = _mm512_set_epi32(
        at(3), 0, 0, 0, at(2), 0, 0, 0, at(1), 0, 0, 0, at(0), 0, 0, 0,
    );
    steps
}

/// Packets of one shape: of V vectors each, of as many rounds, their last vectors alike.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn lockstep<
    const R: usize,
    const SEAL: bool,
    const N: usize,
    const V: usize,
    const TAIL: usize,
>(
    items: [Item<'_, '_>; N],
) {
    let schedules = items.each_ref().map(|item| item.0);
    let mut packets = items.map(|item| item.1);
    let reversal = _mm512_broadcast_i32x4(reversal());
    let mut state = [[_mm512_setzero_si512(); V]; N];
    let mut pads = [_mm_setzero_si128(); N];
    let mut masks = [!0; N];
    for n in 0..N {
        let whitened = _mm_xor_si128(first_counter(packets[n]), load(&schedules[n].rounds[0]));
        let all = _mm512_broadcast_i32x4(whitened);
        for v in 0..V {
            let mut turn = steps(v);
            if TAIL == tail::RIDE && v == V - 1 {
                turn = _mm512_maskz_mov_epi32(0x0fff, turn);
            }
            state[n][v] = _mm512_xor_si512(all, turn);
        }
        pads[n] = whitened;
        if TAIL != tail::WHOLE {
            masks[n] = tail_mask(packets[n].body.len(), V);
        }
    }
    let mut sums = [Sum::NONE; N];
    let mut fronts = [Sum::NONE; 2];
    for r in 1..R {
        for n in 0..N {
            let round = load(&schedules[n].rounds[r]);
            let all = _mm512_broadcast_i32x4(round);
            for v in 0..V {
                state[n][v] = _mm512_aesenc_epi128(state[n][v], all);
            }
            in_order(&mut state[n]);
            if TAIL != tail::RIDE {
                pads[n] = _mm_aesenc_si128(pads[n], round);
            }
        }
        // Meanwhile what is known already is hashed.
        if r == 1 && N == 1 {
            let (additional, lengths) = frame(packets[0]);
            let weight = packets[0].body.len().div_ceil(16) + 2;
            sums[0] = Sum::new(additional, lengths, schedules[0], weight);
        }
        for pair in 0..N / 2 {
            if r == 1 + 2 * pair {
                let (a, b) = (2 * pair, 2 * pair + 1);
                fronts[pair] = Sum::of_two((schedules[a], packets[a]), (schedules[b], packets[b]));
            }
        }
        if !SEAL && V == 1 && r > 4 && r < 5 + N {
            let n = r - 5;
            let blocks = packets[n].body.len().div_ceil(16);
            // SAFETY: a shape's packets have V vectors, the last as far as its mask says.
            let data = unsafe { fetch(packets[n].body.as_ptr(), TAIL != tail::WHOLE, masks[n]) };
            sums[n].add(
                _mm512_shuffle_epi8(data, reversal),
                schedules[n],
                blocks + 1,
            );
        }
    }
    for n in 0..N {
        let round = load(&schedules[n].rounds[R]);
        let all = _mm512_broadcast_i32x4(round);
        let blocks = packets[n].body.len().div_ceil(16);
        let body = packets[n].body.as_mut_ptr();
        for v in 0..V {
            let cut = TAIL != tail::WHOLE && v == V - 1;
            let stream = _mm512_aesenclast_epi128(state[n][v], all);
            // SAFETY: as above.
            let (data, out) = unsafe {
                let at = body.add(64 * v);
                let data = fetch(at, cut, masks[n]);
                let out = _mm512_xor_si512(stream, data);
                put(at, out, cut, masks[n]);
                (data, out)
            };
            if TAIL == tail::RIDE && v == V - 1 {
                pads[n] = _mm512_extracti32x4_epi32::<3>(stream);
            }
            if SEAL || V != 1 {
                let text = match (SEAL, cut) {
                    (true, true) => _mm512_maskz_mov_epi8(masks[n], out),
                    (true, false) => out,
                    (false, _) => data,
                };
                let hashed = _mm512_shuffle_epi8(text, reversal);
                sums[n].add(hashed, schedules[n], blocks + 1 - 4 * v);
            }
        }
        if TAIL != tail::RIDE {
            pads[n] = _mm_aesenclast_si128(pads[n], round);
        }
    }
    match (&sums[..], &mut packets[..]) {
        (&[a, b, c, d], [e, f, g, h]) => {
            let hashes = reduce_four(&[a, b, c, d], &fronts);
            finish_four::<SEAL>([e, f, g, h], hashes, [pads[0], pads[1], pads[2], pads[3]]);
        }
        (&[a, b], [e, f]) => {
            let hashes = reduce_two(&[a, b], &fronts[0]);
            finish::<SEAL>(e, _mm512_castsi512_si128(hashes), pads[0]);
            finish::<SEAL>(f, _mm512_extracti32x4_epi32::<2>(hashes), pads[1]);
        }
        (sums, packets) => {
            for (n, packet) in packets.iter_mut().enumerate() {
                finish::<SEAL>(packet, sums[n].reduce(), pads[n]);
            }
        }
    }
    if N < 4 {
        for packet in packets {
            wipe::<SEAL>(packet);
        }
    }
}
