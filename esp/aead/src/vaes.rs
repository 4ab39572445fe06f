// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-GCM (NIST SP 800-38D) with VAES, VPCLMULQDQ and AVX-512.
//!
//! Up to four small packets, each of a key of its own, go through the rounds in lockstep, so that the
//! processor has other packets' work to do while one waits for a round. Time depends on lengths alone,
//! never on keys or data: no table is looked up by either, and no branch is taken on them before the
//! tag is known to match or not.
//!
//! A vector is 64 octets, four blocks. GHASH is a sum of products with powers of H (each block's lies
//! in the table so that a vector's four are one load), reduced once for each [`SEGMENT`].
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and code for one kind of processor"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over vectors are unrolled by their index"
)]

use core::arch::asm;
use core::arch::x86_64::*;

use zeroize::Zeroize;

use crate::Direction;
use crate::packet::Packet;

/// Blocks between two reductions, a multiple of a [`GROUP`]'s.
const SEGMENT: usize = 128;
/// Powers of H: of a segment's blocks, and those of additional data and lengths around them.
const POWERS: usize = SEGMENT + 2;
/// Vectors that a long packet has in flight.
const GROUP: usize = 4;
/// Vectors of a packet that still goes in lockstep with others.
const SMALL: usize = 4;
/// Packets in lockstep.
const LANES: usize = 4;

type Block = [u8; 16];
/// A packet and the schedule of its key.
type Item<'a, 'packet> = (&'a Schedule, &'a mut Packet<'packet>);

/// A key's rounds and powers.
#[repr(C, align(64))]
pub(crate) struct Schedule {
    rounds: [Block; 15],
    count: usize,
    /// H^POWERS down to H, then what the last vector's unused lanes are multiplied with.
    powers: [Block; POWERS + 4],
    /// Each power's halves added up, twice: what Karatsuba's third product takes.
    middles: [Block; POWERS + 4],
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.rounds.zeroize();
        self.powers.zeroize();
        self.middles.zeroize();
    }
}

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
        unsafe { expand(key) }
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn load(block: &Block) -> __m128i {
    // SAFETY: a block has the 16 octets that are read, at any alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn store(block: &mut Block, value: __m128i) {
    // SAFETY: a block has the 16 octets that are written, at any alignment.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}

/// x^128's reduction (SP 800-38D §6.3) in the reflected domain.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn polynomial() -> __m128i {
    _mm_set_epi64x(0xc200_0000_0000_0000_u64 as i64, 1)
}

/// Reverses a block's octets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn reversal() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// A sum of products that is still to be reduced: of low halves, of high ones, and of both halves' sums
/// (Karatsuba).
#[derive(Clone, Copy)]
struct Sum {
    low: __m512i,
    high: __m512i,
    both: __m512i,
}

impl Sum {
    // SAFETY: all-zero octets are a vector.
    const NONE: Self = unsafe { std::mem::zeroed() };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn product(blocks: __m512i, powers: __m512i, middles: __m512i) -> Self {
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
    fn new(front: __m128i, lengths: __m128i, schedule: &Schedule, weight: usize) -> Self {
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
    fn of_two(a: (&Schedule, &Packet<'_>), b: (&Schedule, &Packet<'_>)) -> Self {
        let four = |a, b, c, d| {
            let low = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
            _mm512_inserti64x4::<1>(low, _mm256_set_m128i(d, c))
        };
        let weight = |packet: &Packet<'_>| packet.body.len().div_ceil(16) + 2;
        let weights = (weight(a.1), weight(b.1));
        let of = |table: [&[Block; POWERS + 4]; 2]| {
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
    fn add(&mut self, blocks: __m512i, schedule: &Schedule, weight: usize) {
        let powers = four_from(&schedule.powers, weight);
        let middles = four_from(&schedule.middles, weight);
        let product = Self::product(blocks, powers, middles);
        self.low = _mm512_xor_si512(self.low, product.low);
        self.high = _mm512_xor_si512(self.high, product.high);
        self.both = _mm512_xor_si512(self.both, product.both);
    }

    /// Folds the lanes and reduces.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn reduce(&self) -> __m128i {
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
fn reduce_four([a, b, c, d]: &[Sum; 4], fronts: &[Sum; 2]) -> __m512i {
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
fn reduce_two([a, b]: &[Sum; 2], front: &Sum) -> __m512i {
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
fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128::<0x00>(a, b);
    let middle = _mm_xor_si128(
        _mm_clmulepi64_si128::<0x01>(a, b),
        _mm_clmulepi64_si128::<0x10>(a, b),
    );
    let high = _mm_clmulepi64_si128::<0x11>(a, b);
    reduce(low, middle, high)
}

/// What the table has for this power of H; a weight is 1 to POWERS by every caller's arithmetic.
#[inline]
fn power(table: &[Block; POWERS + 4], weight: usize) -> &Block {
    debug_assert!((1..=POWERS).contains(&weight));
    &table[POWERS - weight]
}

/// What it has for this power and those below, for a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn four_from(table: &[Block; POWERS + 4], weight: usize) -> __m512i {
    debug_assert!((1..=POWERS).contains(&weight));
    // SAFETY: the weight is 1 to POWERS, and three entries follow that of weight 1.
    unsafe { _mm512_loadu_si512(table.as_ptr().add(POWERS - weight).cast()) }
}

/// FIPS 197's key expansion; the S-box by instruction, so in constant time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn expand(key: &[u8]) -> Box<Schedule> {
    let words_of_key = key.len() / 4;
    let count = words_of_key + 6;
    let mut words = zeroize::Zeroizing::new([0u32; 60]);
    for (word, octets) in words.iter_mut().zip(key.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*octets);
    }
    let mut constant = 1u32;
    for i in words_of_key..4 * (count + 1) {
        let mut word = words[i - 1];
        if i % words_of_key == 0 {
            word = substitute(word.rotate_right(8)) ^ constant;
            constant = (constant << 1) ^ (0x11b & 0u32.wrapping_sub(constant >> 7));
        } else if words_of_key > 6 && i % words_of_key == 4 {
            word = substitute(word);
        }
        words[i] = words[i - words_of_key] ^ word;
    }
    let mut schedule = Box::new(Schedule {
        rounds: [[0; 16]; 15],
        count,
        powers: [[0; 16]; POWERS + 4],
        middles: [[0; 16]; POWERS + 4],
    });
    for (octets, word) in schedule
        .rounds
        .as_flattened_mut()
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(words.iter())
    {
        *octets = word.to_le_bytes();
    }
    let mut block = load(&schedule.rounds[0]);
    for round in &schedule.rounds[1..count] {
        block = _mm_aesenc_si128(block, load(round));
    }
    block = _mm_aesenclast_si128(block, load(&schedule.rounds[count]));
    let block = _mm_shuffle_epi8(block, reversal());
    // H·x, so that a product needs no shift afterwards.
    let carry = _mm_srai_epi32::<31>(_mm_shuffle_epi32::<0xd3>(block));
    let carry = _mm_and_si128(carry, _mm_set_epi64x(0xc200_0000_0000_0001_u64 as i64, 1));
    let h = _mm_xor_si128(_mm_add_epi64(block, block), carry);
    let mut current = h;
    for weight in 1..=POWERS {
        store(&mut schedule.powers[POWERS - weight], current);
        let halves = _mm_xor_si128(current, _mm_shuffle_epi32::<0x4e>(current));
        store(&mut schedule.middles[POWERS - weight], halves);
        current = multiply(current, h);
    }
    schedule
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn substitute(word: u32) -> u32 {
    let words = _mm_set1_epi32(word as i32);
    _mm_extract_epi32::<0>(_mm_aeskeygenassist_si128::<0>(words)) as u32
}

/// J0 (SP 800-38D §7.1) of a 96-bit nonce.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn first_counter(packet: &Packet<'_>) -> __m128i {
    _mm_or_si128(load(&packet.nonce), _mm_set_epi32(1 << 24, 0, 0, 0))
}

/// Additional data and lengths as GHASH takes them, octets reversed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn frame(packet: &Packet<'_>) -> (__m128i, __m128i) {
    let additional = _mm_shuffle_epi8(load(&packet.aad), reversal());
    let bits = (packet.body.len() * 8) as i64;
    let lengths = _mm_set_epi64x(i64::from(packet.aad_len) * 8, bits);
    (additional, lengths)
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

/// Sets the tag, or compares it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn finish<const SEAL: bool>(packet: &mut Packet<'_>, hash: __m128i, pad: __m128i) {
    let tag = _mm_xor_si128(_mm_shuffle_epi8(hash, reversal()), pad);
    if SEAL {
        store(packet.tag, tag);
        packet.authentic = true;
    } else {
        let difference = _mm_xor_si128(tag, load(packet.tag));
        packet.authentic = _mm_testz_si128(difference, difference) == 1;
    }
}

/// Wipes what is not authentic.
#[inline]
fn wipe<const SEAL: bool>(packet: &mut Packet<'_>) {
    if !SEAL && !packet.authentic {
        crate::openssl_evp::wipe(packet);
    }
}

/// The octets of the last vector that the packet has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn tail_mask(len: usize, vectors: usize) -> u64 {
    _bzhi_u64(!0, (len - 64 * (vectors - 1)) as u32)
}

/// How the last vector of a packet ends.
mod tail {
    /// With the body: all its octets are there.
    pub(super) const WHOLE: usize = 0;
    /// In its last block, of which octets are missing.
    pub(super) const CUT: usize = 1;
    /// Before its last lane, in which J0 rides along.
    pub(super) const RIDE: usize = 2;
}

/// Packets of one shape: of V vectors each, of as many rounds, their last vectors alike.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn lockstep<const R: usize, const SEAL: bool, const N: usize, const V: usize, const TAIL: usize>(
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
            finish::<SEAL>(e, _mm512_castsi512_si128(hashes), pads[0]);
            finish::<SEAL>(f, _mm512_extracti32x4_epi32::<1>(hashes), pads[1]);
            finish::<SEAL>(g, _mm512_extracti32x4_epi32::<2>(hashes), pads[2]);
            finish::<SEAL>(h, _mm512_extracti32x4_epi32::<3>(hashes), pads[3]);
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
    for packet in packets {
        wipe::<SEAL>(packet);
    }
}

/// Reads a vector, or what the mask has of it.
///
/// # Safety
/// There are 64 octets, or those of the mask where it is `cut`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn fetch(at: *const u8, cut: bool, mask: u64) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        if cut {
            _mm512_maskz_loadu_epi8(mask, at.cast())
        } else {
            _mm512_loadu_si512(at.cast())
        }
    }
}

/// Writes a vector, or what the mask has of it.
///
/// # Safety
/// As for [`fetch`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn put(at: *mut u8, value: __m512i, cut: bool, mask: u64) {
    // SAFETY: the caller's.
    unsafe {
        if cut {
            _mm512_mask_storeu_epi8(at.cast(), mask, value);
        } else {
            _mm512_storeu_si512(at.cast(), value);
        }
    }
}

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
            if r == 1 + k * (R - 1) / GROUP {
                if k < P {
                    stream.hash(stream.pending[k], k);
                }
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
fn long<const R: usize, const SEAL: bool>((schedule, packet): Item<'_, '_>) {
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

/// Keeps the order in which vectors are worked on: left to itself the compiler takes one vector after
/// the other through all rounds, and the processor waits for each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn in_order(vectors: &mut [__m512i]) {
    for vector in vectors {
        // SAFETY: no instruction.
        unsafe {
            asm!(
                "/* {0} */",
                inout(zmm_reg) * vector,
                options(nomem, nostack, preserves_flags)
            )
        };
    }
}

/// What packets in lockstep must have in common: vectors, whether J0 rides, and rounds.
#[inline]
fn shape((schedule, packet): &Item<'_, '_>) -> usize {
    let len = packet.body.len();
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
    let long_key = schedule.count != 10;
    ((vectors - 1) * 3 + tail) * 2 + usize::from(long_key)
}

/// The shape of packets that go alone.
const LONG: usize = SMALL * 3 * 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn burst<const SEAL: bool>(packets: &mut [Packet<'_>]) {
    let mut waiting = [const { Waiting::NONE }; LONG];
    for packet in packets {
        packet.authentic = false;
        let direction = if SEAL {
            Direction::Seal
        } else {
            Direction::Open
        };
        let Some(schedule) = packet.key.schedule(direction) else {
            packet.body.fill(0);
            continue;
        };
        let item = (schedule, packet);
        let shape = shape(&item);
        if let Some(waiting) = waiting.get_mut(shape) {
            if let Some(full) = waiting.push(item) {
                by_shape::<SEAL, LANES>(shape, full);
            }
        } else {
            match schedule.count {
                10 => long::<10, SEAL>(item),
                _ => long::<14, SEAL>(item),
            }
        }
    }
    for (shape, waiting) in waiting.iter_mut().enumerate() {
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
