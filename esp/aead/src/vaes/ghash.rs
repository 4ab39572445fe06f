// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GHASH (SP 800-38D §6.4): products of blocks with powers of H, added up, and reduced together.
#![expect(unsafe_code, reason = "an empty sum is made of zeros")]

use core::arch::x86_64::*;

use super::schedule::{Block, Schedule, TABLE, four_from, power};
use super::text::{frame, in_order, load};
use crate::packet::Packet;

/// A sum of products that is still to be reduced: of low halves, of high ones, and of both halves' sums
/// (Karatsuba).
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub(super) low: __m512i,
    pub(super) high: __m512i,
    pub(super) both: __m512i,
}

impl Sum {
    // SAFETY: all-zero octets are a vector.
    pub(super) const NONE: Self = unsafe { std::mem::zeroed() };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn product(blocks: __m512i, powers: __m512i, middles: __m512i) -> Self {
        let halves = _mm512_xor_si512(blocks, _mm512_shuffle_epi32::<0x4e>(blocks));
        Self {
            low: _mm512_clmulepi64_epi128::<0x00>(blocks, powers),
            high: _mm512_clmulepi64_epi128::<0x11>(blocks, powers),
            both: _mm512_clmulepi64_epi128::<0x00>(halves, middles),
        }
    }

    /// Two products: of the block that comes in front (additional data, or what was hashed so far) in
    /// lane 0, and of the lengths in lane 1.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(
        front: __m128i,
        lengths: __m128i,
        schedule: &Schedule,
        weight: usize,
    ) -> Self {
        let pair = |a, b| _mm512_zextsi256_si512(_mm256_set_m128i(b, a));
        let powers = [power(&schedule.powers, weight), power(&schedule.powers, 1)];
        let middles = [
            power(&schedule.middles, weight),
            power(&schedule.middles, 1),
        ];
        Self::product(
            pair(front, lengths),
            pair(load(powers[0]), load(powers[1])),
            pair(load(middles[0]), load(middles[1])),
        )
    }

    /// As [`new`](Self::new) for two packets: the second's in lanes 2 and 3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn of_two(a: (&Schedule, &Packet<'_>), b: (&Schedule, &Packet<'_>)) -> Self {
        let four = |a, b, c, d| {
            let low = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
            _mm512_inserti64x4::<1>(low, _mm256_set_m128i(d, c))
        };
        let weight = |packet: &Packet<'_>| packet.body.len().div_ceil(16) + 2;
        let weights = (weight(a.1), weight(b.1));
        let of = |table: [&[Block; TABLE]; 2]| {
            four(
                load(power(table[0], weights.0)),
                load(power(table[0], 1)),
                load(power(table[1], weights.1)),
                load(power(table[1], 1)),
            )
        };
        let (frames, other) = (frame(a.1), frame(b.1));
        Self::product(
            four(frames.0, frames.1, other.0, other.1),
            of([&a.0.powers, &b.0.powers]),
            of([&a.0.middles, &b.0.middles]),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn of(blocks: __m512i, schedule: &Schedule, weight: usize) -> Self {
        let powers = four_from(&schedule.powers, weight);
        let middles = four_from(&schedule.middles, weight);
        Self::product(blocks, powers, middles)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add(&mut self, blocks: __m512i, schedule: &Schedule, weight: usize) {
        self.add_one(&Self::of(blocks, schedule, weight));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add_one(&mut self, product: &Self) {
        self.low = _mm512_xor_si512(self.low, product.low);
        self.high = _mm512_xor_si512(self.high, product.high);
        self.both = _mm512_xor_si512(self.both, product.both);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add_two(&mut self, a: &Self, b: &Self) {
        self.low = _mm512_ternarylogic_epi64::<0x96>(self.low, a.low, b.low);
        self.high = _mm512_ternarylogic_epi64::<0x96>(self.high, a.high, b.high);
        self.both = _mm512_ternarylogic_epi64::<0x96>(self.both, a.both, b.both);
    }

    /// Keeps its making where it is.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn in_order(&mut self) {
        let mut sums = [self.low, self.high, self.both];
        in_order(&mut sums);
        [self.low, self.high, self.both] = sums;
    }

    /// Folds the lanes and reduces.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn reduce(&self) -> __m128i {
        let (low, high, both) = (fold(self.low), fold(self.high), fold(self.both));
        reduce(low, _mm_ternarylogic_epi64::<0x96>(low, high, both), high)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn fold(lanes: __m512i) -> __m128i {
    let two = _mm256_xor_si256(
        _mm512_castsi512_si256(lanes),
        _mm512_extracti64x4_epi64::<1>(lanes),
    );
    _mm_xor_si128(
        _mm256_castsi256_si128(two),
        _mm256_extracti128_si256::<1>(two),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn reduce(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
    let polynomial = polynomial();
    let carry = _mm_clmulepi64_si128::<0x01>(polynomial, low);
    let middle = _mm_ternarylogic_epi64::<0x96>(middle, carry, _mm_shuffle_epi32::<0x4e>(low));
    let carry = _mm_clmulepi64_si128::<0x01>(polynomial, middle);
    _mm_ternarylogic_epi64::<0x96>(high, carry, _mm_shuffle_epi32::<0x4e>(middle))
}

/// Reduces each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn reduce_lanes(low: __m512i, both: __m512i, high: __m512i) -> __m512i {
    let polynomial = _mm512_broadcast_i32x4(polynomial());
    let middle = _mm512_ternarylogic_epi64::<0x96>(low, both, high);
    let carry = _mm512_clmulepi64_epi128::<0x01>(polynomial, low);
    let turned = _mm512_shuffle_epi32::<0x4e>(low);
    let middle = _mm512_ternarylogic_epi64::<0x96>(middle, carry, turned);
    let carry = _mm512_clmulepi64_epi128::<0x01>(polynomial, middle);
    let turned = _mm512_shuffle_epi32::<0x4e>(middle);
    _mm512_ternarylogic_epi64::<0x96>(high, carry, turned)
}

/// Adds the halves of two vectors, side by side, to what has the same places already.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn halves(a: __m512i, b: __m512i, there: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(
        _mm512_shuffle_i64x2::<0x44>(a, b),
        _mm512_shuffle_i64x2::<0xee>(a, b),
        there,
    )
}

/// Folds and reduces four sums at once, each into its lane. `fronts` are [of two](Sum::of_two) each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn reduce_four([a, b, c, d]: &[Sum; 4], fronts: &[Sum; 2]) -> __m512i {
    let fold = |a, b, c, d, ab, cd| {
        let (ab, cd) = (halves(a, b, ab), halves(c, d, cd));
        _mm512_xor_si512(
            _mm512_shuffle_i64x2::<0x88>(ab, cd),
            _mm512_shuffle_i64x2::<0xdd>(ab, cd),
        )
    };
    reduce_lanes(
        fold(a.low, b.low, c.low, d.low, fronts[0].low, fronts[1].low),
        fold(
            a.both,
            b.both,
            c.both,
            d.both,
            fronts[0].both,
            fronts[1].both,
        ),
        fold(
            a.high,
            b.high,
            c.high,
            d.high,
            fronts[0].high,
            fronts[1].high,
        ),
    )
}

/// As [`reduce_four`] for two, into lanes 0 and 2.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn reduce_two([a, b]: &[Sum; 2], front: &Sum) -> __m512i {
    let fold = |a, b, front| {
        let ab = halves(a, b, front);
        _mm512_xor_si512(ab, _mm512_shuffle_i64x2::<0xb1>(ab, ab))
    };
    reduce_lanes(
        fold(a.low, b.low, front.low),
        fold(a.both, b.both, front.both),
        fold(a.high, b.high, front.high),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128::<0x00>(a, b);
    let middle = _mm_xor_si128(
        _mm_clmulepi64_si128::<0x01>(a, b),
        _mm_clmulepi64_si128::<0x10>(a, b),
    );
    let high = _mm_clmulepi64_si128::<0x11>(a, b);
    reduce(low, middle, high)
}

/// x^128's reduction (SP 800-38D §6.3) in the reflected domain.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn polynomial() -> __m128i {
    _mm_set_epi64x(0xc200_0000_0000_0000_u64 as i64, 1)
}
