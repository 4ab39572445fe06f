// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A key, expanded: the rounds of AES (FIPS 197) and powers of H, GHASH's key.
#![expect(unsafe_code, reason = "a vector of powers is read where they lie")]

use core::arch::x86_64::*;

use zeroize::Zeroize;

use super::ghash::multiply;
use super::text::{load, reversal, store};

/// Blocks between two reductions, a multiple of a [`GROUP`]'s.
pub(super) const SEGMENT: usize = 128;

/// Powers of H: of a segment's blocks, those of additional data and lengths around them, and as many more as let
/// a vector's four be read from one line of the cache where a body ends with a vector.
pub(super) const POWERS: usize = SEGMENT + 5;

/// Powers in a table: behind that of weight 1 are three that a vector's unused lanes are multiplied with.
pub(super) const TABLE: usize = POWERS + 3;

pub(super) type Block = [u8; 16];

/// A round's key in each lane. To spread it while it is loaded takes a turn from the cipher's instructions.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Spread([Block; 4]);

/// A key's rounds and powers.
// Apart from what others write: a processor takes cache lines by two.
#[repr(C, align(128))]
pub(crate) struct Schedule {
    /// H^POWERS down to H, then what the last vector's unused lanes are multiplied with.
    pub(super) powers: [Block; TABLE],
    /// Each power's halves added up, twice: what Karatsuba's third product takes.
    pub(super) middles: [Block; TABLE],
    pub(super) rounds: [Block; 15],
    pub(super) count: usize,
    /// The rounds as packets take them that go one by one. Small ones of many keys would read four times as many
    /// lines of the cache so.
    spread: [Spread; 15],
}

impl Schedule {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn spread(&self, round: usize) -> __m512i {
        // SAFETY: there are the 64 octets that are read, at a multiple of 64.
        unsafe { _mm512_load_si512(self.spread[round].0.as_ptr().cast()) }
    }
}

// A vector that ends a body begins with weight 5: its lengths come behind.
const _: () = assert!((POWERS - 5).is_multiple_of(4) && TABLE.is_multiple_of(4));

impl Drop for Schedule {
    fn drop(&mut self) {
        self.rounds.zeroize();
        for spread in &mut self.spread {
            spread.0.zeroize();
        }
        self.powers.zeroize();
        self.middles.zeroize();
    }
}

/// What the table has for this power of H; a weight is 1 to POWERS by every caller's arithmetic.
#[inline]
pub(super) fn power(table: &[Block; TABLE], weight: usize) -> &Block {
    debug_assert!((1..=POWERS).contains(&weight));
    &table[POWERS - weight]
}

/// What it has for this power and those below, for a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn four_from(table: &[Block; TABLE], weight: usize) -> __m512i {
    debug_assert!((1..=POWERS).contains(&weight));
    // SAFETY: the weight is 1 to POWERS, and three entries follow that of weight 1.
    unsafe { _mm512_loadu_si512(table.as_ptr().add(POWERS - weight).cast()) }
}

/// Powers and middles for a vector of a group whose first block has this weight. Of what lies behind weight
/// 1 nothing is meant: a vector that needs it, one of the first four, is zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn of_group(schedule: &Schedule, weight: usize, vector: usize) -> (__m512i, __m512i) {
    debug_assert!((1..=POWERS).contains(&weight) && (vector < 4 || 4 * vector + 4 <= weight));
    const { assert!(POWERS - 1 + 4 * 3 + 4 <= TABLE + 15) };
    // SAFETY: behind the powers come the middles, and behind those the rounds, 15 blocks; a vector that is not one of
    // the first four needs none of what is behind.
    unsafe {
        let powers = std::ptr::from_ref(schedule).cast::<Block>();
        let powers = powers.add(POWERS - weight).add(4 * vector);
        let middles = powers.add(TABLE);
        (
            _mm512_loadu_si512(powers.cast()),
            _mm512_loadu_si512(middles.cast()),
        )
    }
}

/// FIPS 197's key expansion; the S-box by instruction, so in constant time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn expand(key: &[u8]) -> Box<Schedule> {
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
        spread: [Spread([[0; 16]; 4]); 15],
        powers: [[0; 16]; TABLE],
        middles: [[0; 16]; TABLE],
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
    for (spread, round) in schedule.spread.iter_mut().zip(&schedule.rounds) {
        spread.0 = [*round; 4];
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
