// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The hash slice: hashes that go on from a state in the content descriptor.

use qat_regs::descriptor::hash;

/// A digest, and how much of it there is.
pub(super) type Digest = ([u8; 64], usize);

/// HMAC by the states after the two pads' blocks (RFC 2104 §4). Nothing for a hash that is not
/// there, or states of another size.
pub(super) fn hmac(algorithm: u32, inner: &[u8], outer: &[u8], data: &[u8]) -> Option<Digest> {
    let block = match algorithm {
        hash::SHA384 | hash::SHA512 => 128,
        _ => 64,
    };
    let (digest, len) = resume(algorithm, inner, block, data)?;
    resume(algorithm, outer, block, digest.get(..len)?)
}

/// A hash that goes on from a state after so many octets.
pub(super) fn resume(algorithm: u32, state: &[u8], before: u128, data: &[u8]) -> Option<Digest> {
    let bits = (before + data.len() as u128) * 8;
    let mut digest = [0; 64];
    let len = match algorithm {
        hash::SHA1 => {
            let mut words: [u32; 5] = words(state)?;
            blocks::<64>(data, bits, |block| {
                sha1::block_api::compress(&mut words, std::slice::from_ref(block));
            });
            put(&mut digest, words.map(u32::to_be_bytes).as_flattened());
            20
        }
        hash::SHA224 | hash::SHA256 => {
            let mut words: [u32; 8] = words(state)?;
            blocks::<64>(data, bits, |block| {
                sha2::block_api::compress256(&mut words, std::slice::from_ref(block));
            });
            put(&mut digest, words.map(u32::to_be_bytes).as_flattened());
            if algorithm == hash::SHA224 { 28 } else { 32 }
        }
        hash::SHA384 | hash::SHA512 => {
            let mut words = wide_words(state)?;
            blocks::<128>(data, bits, |block| {
                sha2::block_api::compress512(&mut words, std::slice::from_ref(block));
            });
            put(&mut digest, words.map(u64::to_be_bytes).as_flattened());
            if algorithm == hash::SHA384 { 48 } else { 64 }
        }
        _ => return None,
    };
    Some((digest, len))
}

fn put(digest: &mut [u8; 64], octets: &[u8]) {
    for (into, from) in digest.iter_mut().zip(octets) {
        *into = *from;
    }
}

fn words<const N: usize>(state: &[u8]) -> Option<[u32; N]> {
    let (words, _) = state.as_chunks::<4>();
    let words = words.get(..N)?;
    Some(std::array::from_fn(|n| {
        words.get(n).map_or(0, |word| u32::from_be_bytes(*word))
    }))
}

fn wide_words(state: &[u8]) -> Option<[u64; 8]> {
    let (words, _) = state.as_chunks::<8>();
    let words = words.get(..8)?;
    Some(std::array::from_fn(|n| {
        words.get(n).map_or(0, |word| u64::from_be_bytes(*word))
    }))
}

/// The message's blocks with its end: a one, zeros, and its length (FIPS 180-4 §5.1).
fn blocks<const BLOCK: usize>(data: &[u8], bits: u128, mut compress: impl FnMut(&[u8; BLOCK])) {
    let (whole, rest) = data.as_chunks::<BLOCK>();
    whole.iter().for_each(&mut compress);
    let mut last = [0; BLOCK];
    for (into, from) in last.iter_mut().zip(rest.iter().chain(&[0x80])) {
        *into = *from;
    }
    let length = BLOCK / 8;
    if rest.len() + 1 + length > BLOCK {
        compress(&last);
        last = [0; BLOCK];
    }
    let octets = bits.to_be_bytes();
    for (into, from) in last.iter_mut().rev().zip(octets.iter().rev()).take(length) {
        *into = *from;
    }
    compress(&last);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 §5.3: initial states.
    const SHA256: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    const SHA1: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    const SHA512: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];

    #[test]
    fn messages_of_every_length_hash_as_openssl_hashes_them() {
        let data: Vec<u8> = (0..400u32).map(|n| (n * 7) as u8).collect();
        for len in 0..data.len() {
            let data = &data[..len];
            let (digest, size) = resume(
                hash::SHA256,
                SHA256.map(u32::to_be_bytes).as_flattened(),
                0,
                data,
            )
            .unwrap();
            assert_eq!(digest[..size], openssl::sha::sha256(data));
            let (digest, size) = resume(
                hash::SHA1,
                SHA1.map(u32::to_be_bytes).as_flattened(),
                0,
                data,
            )
            .unwrap();
            assert_eq!(digest[..size], openssl::sha::sha1(data));
            let (digest, size) = resume(
                hash::SHA512,
                SHA512.map(u64::to_be_bytes).as_flattened(),
                0,
                data,
            )
            .unwrap();
            assert_eq!(digest[..size], openssl::sha::sha512(data));
        }
    }

    #[test]
    fn a_state_that_is_too_short_or_a_hash_that_is_not_there_is_refused() {
        assert!(resume(hash::SHA256, &[0; 31], 0, b"").is_none());
        assert!(resume(hash::SHA512, &[0; 63], 0, b"").is_none());
        assert!(resume(hash::GHASH, &[0; 64], 0, b"").is_none());
    }
}
