// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a packet gives to the kernel and gets from it: counters, what is hashed around the body, the
//! body's vectors, and the tag.
#![expect(unsafe_code, reason = "vector loads and stores")]

use core::arch::asm;
use core::arch::x86_64::*;

use super::schedule::Block;
use crate::packet::Packet;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn load(block: &Block) -> __m128i {
    // SAFETY: a block has the 16 octets that are read, at any alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn store(block: &mut Block, value: __m128i) {
    // SAFETY: a block has the 16 octets that are written, at any alignment.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}

/// Reverses a block's octets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn reversal() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// J0 (SP 800-38D §7.1) of a 96-bit nonce.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn first_counter(packet: &Packet<'_>) -> __m128i {
    _mm_or_si128(load(&packet.nonce), _mm_set_epi32(1 << 24, 0, 0, 0))
}

/// Additional data and lengths as GHASH takes them, octets reversed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn frame(packet: &Packet<'_>) -> (__m128i, __m128i) {
    let additional = _mm_shuffle_epi8(load(&packet.aad), reversal());
    let bits = (packet.body.len() * 8) as i64;
    let lengths = _mm_set_epi64x(i64::from(packet.aad_len) * 8, bits);
    (additional, lengths)
}

/// Sets the tag, or compares it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn finish<const SEAL: bool>(packet: &mut Packet<'_>, hash: __m128i, pad: __m128i) {
    let tag = _mm_xor_si128(_mm_shuffle_epi8(hash, reversal()), pad);
    if SEAL {
        store(packet.tag, tag);
        packet.authentic = true;
    } else {
        let difference = _mm_xor_si128(tag, load(packet.tag));
        packet.authentic = _mm_testz_si128(difference, difference) == 1;
    }
}

/// As [`finish`] for four, each of its lane, and [`wipe`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn finish_four<const SEAL: bool>(
    packets: [&mut Packet<'_>; 4],
    hashes: __m512i,
    pads: [__m128i; 4],
) {
    let four = |[a, b, c, d]: [__m128i; 4]| {
        let low = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
        _mm512_inserti64x4::<1>(low, _mm256_set_m128i(d, c))
    };
    let turned = _mm512_shuffle_epi8(hashes, _mm512_broadcast_i32x4(reversal()));
    let tags = _mm512_xor_si512(turned, four(pads));
    let [a, b, c, d] = packets;
    if SEAL {
        store(a.tag, _mm512_castsi512_si128(tags));
        store(b.tag, _mm512_extracti32x4_epi32::<1>(tags));
        store(c.tag, _mm512_extracti32x4_epi32::<2>(tags));
        store(d.tag, _mm512_extracti32x4_epi32::<3>(tags));
        for packet in [a, b, c, d] {
            packet.authentic = true;
        }
    } else {
        let given = four([load(a.tag), load(b.tag), load(c.tag), load(d.tag)]);
        let wrong = _mm512_cmpneq_epi64_mask(tags, given);
        let packets = [a, b, c, d];
        if wrong == 0 {
            for packet in packets {
                packet.authentic = true;
            }
        } else {
            for (n, packet) in packets.into_iter().enumerate() {
                packet.authentic = wrong >> (2 * n) & 3 == 0;
                wipe::<SEAL>(packet);
            }
        }
    }
}

/// Wipes what is not authentic.
#[inline]
pub(super) fn wipe<const SEAL: bool>(packet: &mut Packet<'_>) {
    if !SEAL && !packet.authentic {
        crate::openssl_evp::wipe(packet);
    }
}

/// The octets of the last vector that the packet has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn tail_mask(len: usize, vectors: usize) -> u64 {
    _bzhi_u64(!0, (len - 64 * (vectors - 1)) as u32)
}

/// Reads a vector, or what the mask has of it.
///
/// # Safety
/// There are 64 octets, or those of the mask where it is `cut`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn fetch(at: *const u8, cut: bool, mask: u64) -> __m512i {
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
pub(super) unsafe fn put(at: *mut u8, value: __m512i, cut: bool, mask: u64) {
    // SAFETY: the caller's.
    unsafe {
        if cut {
            _mm512_mask_storeu_epi8(at.cast(), mask, value);
        } else {
            _mm512_storeu_si512(at.cast(), value);
        }
    }
}

/// A body for each round but the last: as code of its own, where a loop would stay one and ask in each
/// round what else it has to do.
macro_rules! rounds {
    ($count:ident, $round:ident => $body:block) => {
        rounds!(@each $count, $round, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@each $count:ident, $round:ident, $body:block, $($at:literal)*) => {
        $(
            if $at < $count {
                let $round = $at;
                $body
            }
        )*
    };
}
pub(super) use rounds;

/// Keeps the order in which vectors are worked on: left to itself the compiler takes one vector after
/// the other through all rounds, and the processor waits for each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn in_order(vectors: &mut [__m512i]) {
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
