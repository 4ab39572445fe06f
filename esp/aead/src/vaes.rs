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

use core::arch::x86_64::*;

use zeroize::Zeroize;

use crate::Direction;
use crate::packet::Packet;

/// Blocks between two reductions, a multiple of a [`GROUP`]'s.
const SEGMENT: usize = 128;
/// Powers of H: of a segment's blocks, and those of additional data and lengths around them.
const POWERS: usize = SEGMENT + 2;
/// Vectors that a long packet has in flight.
const GROUP: usize = 8;
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
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.rounds.zeroize();
        self.powers.zeroize();
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

/// A sum of products that is still to be reduced.
#[derive(Clone, Copy)]
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    /// Begins with two products: of the block that comes in front (additional data, or what was
    /// hashed so far) in lane 0, and of the lengths in lane 1.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn new(front: __m128i, lengths: __m128i, schedule: &Schedule, weight: usize) -> Self {
        let blocks = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(front), lengths);
        let first = load(power(schedule, weight));
        let last = load(power(schedule, 1));
        let powers = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), last);
        let low = _mm256_clmulepi64_epi128::<0x00>(blocks, powers);
        let high = _mm256_clmulepi64_epi128::<0x11>(blocks, powers);
        let middle = _mm256_xor_si256(
            _mm256_clmulepi64_epi128::<0x01>(blocks, powers),
            _mm256_clmulepi64_epi128::<0x10>(blocks, powers),
        );
        Self {
            low: _mm512_zextsi256_si512(low),
            middle: _mm512_zextsi256_si512(middle),
            high: _mm512_zextsi256_si512(high),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add(&mut self, blocks: __m512i, powers: __m512i) {
        let low = _mm512_clmulepi64_epi128::<0x00>(blocks, powers);
        let high = _mm512_clmulepi64_epi128::<0x11>(blocks, powers);
        let one = _mm512_clmulepi64_epi128::<0x01>(blocks, powers);
        let two = _mm512_clmulepi64_epi128::<0x10>(blocks, powers);
        self.low = _mm512_xor_si512(self.low, low);
        self.high = _mm512_xor_si512(self.high, high);
        self.middle = _mm512_ternarylogic_epi64::<0x96>(self.middle, one, two);
    }

    /// Folds the lanes and reduces.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn reduce(&self) -> __m128i {
        let (low, middle, high) = (fold(self.low), fold(self.middle), fold(self.high));
        reduce(low, middle, high)
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

/// H to this power; a weight is 1 to POWERS by every caller's arithmetic.
#[inline]
fn power(schedule: &Schedule, weight: usize) -> &Block {
    debug_assert!((1..=POWERS).contains(&weight));
    &schedule.powers[POWERS - weight]
}

/// The powers from this one on downwards, for a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn powers(schedule: &Schedule, weight: usize) -> __m512i {
    debug_assert!((1..=POWERS).contains(&weight));
    // SAFETY: the weight is 1 to POWERS, and three entries follow that of weight 1.
    unsafe {
        let first = schedule.powers.as_ptr().add(POWERS - weight);
        _mm512_loadu_si512(first.cast())
    }
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

/// Counters that a vector adds to J0's, as they lie in memory; the sum stays below 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn steps(vector: usize) -> __m512i {
    let at = |lane: usize| ((4 * vector + lane + 1) as i32) << 24;
    #[rustfmt::skip]
    let steps = _mm512_set_epi32(
        at(3), 0, 0, 0, at(2), 0, 0, 0, at(1), 0, 0, 0, at(0), 0, 0, 0,
    );
    steps
}

/// Sets the tag, or compares it; a body that is not authentic is wiped.
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
        if !packet.authentic {
            packet.body.fill(0);
        }
    }
}

/// The octets of the last vector that the packet has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn tail_mask(len: usize, vectors: usize) -> u64 {
    _bzhi_u64(!0, (len - 64 * (vectors - 1)) as u32)
}

/// Packets of one shape: of [`vectors_of`] vectors each, of as many rounds, and their last vector
/// either has a lane left for J0, or none has (RIDE).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn lockstep<const R: usize, const SEAL: bool, const N: usize, const V: usize, const RIDE: bool>(
    items: [Item<'_, '_>; N],
) {
    let schedules = items.each_ref().map(|item| item.0);
    let packets = items.map(|item| item.1);
    let mut state = [[_mm512_setzero_si512(); V]; N];
    let mut pads = [_mm_setzero_si128(); N];
    for n in 0..N {
        let whitened = _mm_xor_si128(first_counter(&*packets[n]), load(&schedules[n].rounds[0]));
        let all = _mm512_broadcast_i32x4(whitened);
        // J0's counter is 1, in whose place steps(v) are exclusive-ored: 1 ^ (1 ^ c) is c.
        for v in 0..V {
            let one = _mm512_broadcast_i32x4(_mm_set_epi32(1 << 24, 0, 0, 0));
            let next = _mm512_add_epi32(steps(v), one);
            let mut turn = _mm512_xor_si512(next, one);
            if RIDE && v == V - 1 {
                turn = _mm512_maskz_mov_epi32(0x0fff, turn);
            }
            state[n][v] = _mm512_xor_si512(all, turn);
        }
        pads[n] = whitened;
    }
    for r in 1..R {
        for n in 0..N {
            let round = load(&schedules[n].rounds[r]);
            let all = _mm512_broadcast_i32x4(round);
            for v in 0..V {
                state[n][v] = _mm512_aesenc_epi128(state[n][v], all);
            }
            if !RIDE {
                pads[n] = _mm_aesenc_si128(pads[n], round);
            }
        }
    }
    let reversal = _mm512_broadcast_i32x4(reversal());
    let mut sums = [Sum {
        low: _mm512_setzero_si512(),
        middle: _mm512_setzero_si512(),
        high: _mm512_setzero_si512(),
    }; N];
    for n in 0..N {
        let round = load(&schedules[n].rounds[R]);
        let all = _mm512_broadcast_i32x4(round);
        let len = packets[n].body.len();
        let blocks = len.div_ceil(16);
        let (additional, lengths) = frame(&*packets[n]);
        sums[n] = Sum::new(additional, lengths, schedules[n], blocks + 2);
        let body = packets[n].body.as_mut_ptr();
        for v in 0..V {
            let stream = _mm512_aesenclast_epi128(state[n][v], all);
            let last = v == V - 1;
            // SAFETY: vectors before the last lie within the body, whose length is above 64·(V-1);
            // of the last the mask has the body's octets alone.
            let hashed = unsafe {
                let at = body.add(64 * v).cast::<i8>();
                if last {
                    let mask = tail_mask(len, V);
                    let data = _mm512_maskz_loadu_epi8(mask, at);
                    let out = _mm512_xor_si512(stream, data);
                    _mm512_mask_storeu_epi8(at, mask, out);
                    if SEAL {
                        _mm512_maskz_mov_epi8(mask, out)
                    } else {
                        data
                    }
                } else {
                    let data = _mm512_loadu_si512(at.cast());
                    let out = _mm512_xor_si512(stream, data);
                    _mm512_storeu_si512(at.cast(), out);
                    if SEAL { out } else { data }
                }
            };
            if last && RIDE {
                pads[n] = _mm512_extracti32x4_epi32::<3>(stream);
            }
            let hashed = _mm512_shuffle_epi8(hashed, reversal);
            sums[n].add(hashed, powers(schedules[n], blocks + 1 - 4 * v));
        }
        if !RIDE {
            pads[n] = _mm_aesenclast_si128(pads[n], round);
        }
    }
    for (n, packet) in packets.into_iter().enumerate() {
        finish::<SEAL>(packet, sums[n].reduce(), pads[n]);
    }
}

/// Where a long packet stands.
struct Stream<'key> {
    schedule: &'key Schedule,
    /// The nonce, with no counter, after the first round key.
    whitened: __m512i,
    /// The next vector's counters, as numbers.
    counters: __m512i,
    sum: Sum,
}

/// Some vectors at once. EDGE: the last is the packet's last, of which `mask` is there, and `ride` the
/// lane in which J0 goes along; its stream is returned.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn group<const R: usize, const SEAL: bool, const N: usize, const EDGE: bool>(
    stream: &mut Stream<'_>,
    rounds: &[__m512i; 15],
    body: *mut u8,
    weight: usize,
    mask: u64,
    ride: u16,
) -> __m128i {
    let mut state = [_mm512_setzero_si512(); N];
    // Reverses the counter's word alone.
    let turn = _mm512_broadcast_i32x4(_mm_set_epi8(
        12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    ));
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
        for n in 0..N {
            state[n] = _mm512_aesenc_epi128(state[n], rounds[r]);
        }
    }
    let reversal = _mm512_broadcast_i32x4(reversal());
    let mut pad = _mm_setzero_si128();
    for n in 0..N {
        let keys = _mm512_aesenclast_epi128(state[n], rounds[R]);
        // SAFETY: the caller gives a body of N vectors, or of N-1 and what the mask has.
        let hashed = unsafe {
            let at = body.add(64 * n).cast::<i8>();
            if EDGE && n == N - 1 {
                pad = _mm512_extracti32x4_epi32::<3>(keys);
                let data = _mm512_maskz_loadu_epi8(mask, at);
                let out = _mm512_xor_si512(keys, data);
                _mm512_mask_storeu_epi8(at, mask, out);
                if SEAL {
                    _mm512_maskz_mov_epi8(mask, out)
                } else {
                    data
                }
            } else {
                let data = _mm512_loadu_si512(at.cast());
                let out = _mm512_xor_si512(keys, data);
                _mm512_storeu_si512(at.cast(), out);
                if SEAL { out } else { data }
            }
        };
        let hashed = _mm512_shuffle_epi8(hashed, reversal);
        stream
            .sum
            .add(hashed, powers(stream.schedule, weight - 4 * n));
    }
    pad
}

/// A packet of more than [`SMALL`] vectors.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn long<const R: usize, const SEAL: bool>((schedule, packet): Item<'_, '_>) {
    let mut rounds = [_mm512_setzero_si512(); 15];
    for r in 0..=R {
        rounds[r] = _mm512_broadcast_i32x4(load(&schedule.rounds[r]));
    }
    let len = packet.body.len();
    let mut vectors = len.div_ceil(64);
    let mut blocks = len.div_ceil(16);
    let mask = tail_mask(len, vectors);
    let rides = blocks % 4 != 0;
    let (additional, lengths) = frame(packet);
    let zero = _mm_setzero_si128();

    let first = _mm512_set_epi32(5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0);
    // The last segment's blocks have the lengths behind them.
    let final_one = |blocks: usize| blocks <= SEGMENT;
    let begin = |front: __m128i, blocks: usize, ahead: usize| {
        if final_one(blocks) {
            Sum::new(front, lengths, schedule, blocks + 1 + ahead)
        } else {
            Sum::new(front, zero, schedule, SEGMENT + ahead)
        }
    };
    let mut stream = Stream {
        schedule,
        whitened: _mm512_xor_si512(_mm512_broadcast_i32x4(load(&packet.nonce)), rounds[0]),
        counters: _mm512_add_epi32(first, _mm512_setzero_si512()),
        sum: begin(additional, blocks, 1),
    };
    let mut body = packet.body.as_mut_ptr();
    while !final_one(blocks) {
        let mut weight = SEGMENT;
        while weight != 0 {
            // SAFETY: a segment of blocks is left, and groups of it.
            unsafe {
                group::<R, SEAL, GROUP, false>(&mut stream, &rounds, body, weight, 0, 0);
                body = body.add(64 * GROUP);
            }
            weight -= 4 * GROUP;
        }
        blocks -= SEGMENT;
        vectors -= SEGMENT / 4;
        stream.sum = begin(stream.sum.reduce(), blocks, 0);
    }
    let mut weight = blocks + 1;
    while vectors > GROUP {
        // SAFETY: more than a group's vectors are left, of which the last alone is not whole.
        unsafe {
            group::<R, SEAL, GROUP, false>(&mut stream, &rounds, body, weight, 0, 0);
            body = body.add(64 * GROUP);
        }
        weight -= 4 * GROUP;
        vectors -= GROUP;
    }
    let ride = if rides { 0xf000 } else { 0 };
    macro_rules! rest {
        ($count:literal) => {
            // SAFETY: so many vectors are left, and of the last what the mask has.
            unsafe {
                group::<R, SEAL, $count, true>(&mut stream, &rounds, body, weight, mask, ride)
            }
        };
    }
    let mut pad = match vectors {
        1 => rest!(1),
        2 => rest!(2),
        3 => rest!(3),
        4 => rest!(4),
        5 => rest!(5),
        6 => rest!(6),
        7 => rest!(7),
        _ => rest!(8),
    };
    if !rides {
        pad = _mm_xor_si128(first_counter(packet), load(&schedule.rounds[0]));
        for round in &schedule.rounds[1..R] {
            pad = _mm_aesenc_si128(pad, load(round));
        }
        pad = _mm_aesenclast_si128(pad, load(&schedule.rounds[R]));
    }
    let hash = stream.sum.reduce();
    finish::<SEAL>(packet, hash, pad);
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
    let rides = len == 0 || !len.div_ceil(16).is_multiple_of(4);
    let long_key = schedule.count != 10;
    (vectors - 1) << 2 | usize::from(rides) << 1 | usize::from(long_key)
}

/// The shape of packets that go alone.
const LONG: usize = SMALL << 2;

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

/// Leads to the code that is made for a shape.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
fn by_shape<const SEAL: bool, const N: usize>(shape: usize, packets: [Item<'_, '_>; N]) {
    match shape {
        0 => lockstep::<10, SEAL, N, 1, false>(packets),
        1 => lockstep::<14, SEAL, N, 1, false>(packets),
        2 => lockstep::<10, SEAL, N, 1, true>(packets),
        3 => lockstep::<14, SEAL, N, 1, true>(packets),
        4 => lockstep::<10, SEAL, N, 2, false>(packets),
        5 => lockstep::<14, SEAL, N, 2, false>(packets),
        6 => lockstep::<10, SEAL, N, 2, true>(packets),
        7 => lockstep::<14, SEAL, N, 2, true>(packets),
        8 => lockstep::<10, SEAL, N, 3, false>(packets),
        9 => lockstep::<14, SEAL, N, 3, false>(packets),
        10 => lockstep::<10, SEAL, N, 3, true>(packets),
        11 => lockstep::<14, SEAL, N, 3, true>(packets),
        12 => lockstep::<10, SEAL, N, 4, false>(packets),
        13 => lockstep::<14, SEAL, N, 4, false>(packets),
        14 => lockstep::<10, SEAL, N, 4, true>(packets),
        _ => lockstep::<14, SEAL, N, 4, true>(packets),
    }
}
