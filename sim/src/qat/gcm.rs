// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-GCM by two slices, as older generations do it, and all of them for nonces that are not 12
//! octets long: the cipher slice counts, the hash slice hashes (NIST SP 800-38D §7).

use qat_regs::descriptor::{CipherConfig, hash, mode};
use qat_regs::message::{CryptoFlags, ResponseStatus, command};

use super::cipher::{self, Failure, SLACK};
use super::job::{Done, Work, reach};

/// Octets of a block, and of a whole tag.
const BLOCK: usize = 16;

pub(super) fn run(
    work: &Work<'_>,
    buffer: &mut Vec<u8>,
    done: &mut Done,
) -> Result<(), ResponseStatus> {
    let invalid = ResponseStatus::INVALID_PARAMETER;
    let control = &work.request.control;
    let ucs = work.flags.contains(CryptoFlags::UCS_SLICE);
    let at = usize::from(control.cipher_config_units) * 8;
    let (config, key) = work.cipher_config(at, ucs)?;
    let at = usize::from(control.hash_config_units) * 8;
    let algorithm = work.descriptor.get(at).ok_or(invalid)? & 0xf;
    if config.mode != mode::CTR || u32::from(algorithm) != hash::GHASH {
        return Err(ResponseStatus::UNSUPPORTED);
    }
    // Behind the hash's subkey, which the cipher library makes anew.
    let at = usize::from(control.state2_units) * 8 + BLOCK;
    let octets = work.descriptor.get(at..).unwrap_or_default();
    let (aad_len, _) = octets.split_first_chunk::<4>().ok_or(invalid)?;
    let aad_len = u32::from_be_bytes(*aad_len) as usize;
    if aad_len > usize::from(work.request.job.aad_padded) {
        return Err(invalid);
    }
    let mut aad = vec![0; aad_len];
    if aad_len != 0 {
        reach(work.memory.read(work.request.job.aad.get(), &mut aad))?;
    }
    work.load(buffer, true, false)?;
    let mut first = work.iv;
    if work.flags.contains(CryptoFlags::IV_12)
        && let Some(counter) = first.last_chunk_mut::<4>()
    {
        *counter = 1u32.to_be_bytes();
    }
    let data = work.ciphered(buffer)?;
    done.seals = work.request.command == command::CIPHER_HASH;
    let tag = if done.seals {
        count(config, key, next(first), data)?;
        tag(config, key, first, &aad, data)?
    } else {
        let tag = tag(config, key, first, &aad, data)?;
        count(config, key, next(first), data)?;
        tag
    };
    work.store(buffer, done)?;
    let len = usize::from(work.request.job.digest_len);
    work.settle(
        tag.get(..len)
            .filter(|tag| !tag.is_empty())
            .ok_or(invalid)?,
    )
}

/// The next counter block: its last 32 bits count (§6.2).
fn next(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    if let Some(counter) = block.last_chunk_mut::<4>() {
        *counter = u32::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
    }
    block
}

/// Counter mode whose counter has 32 bits; the library's has 128, so it ends before a carry.
fn count(
    config: CipherConfig,
    key: &[u8],
    first: [u8; BLOCK],
    data: &mut [u8],
) -> Result<(), Failure> {
    let len = data.len().checked_sub(SLACK).ok_or(Failure::Parameter)?;
    let counter = first
        .last_chunk::<4>()
        .map_or(0, |c| u32::from_be_bytes(*c));
    let blocks = len.div_ceil(BLOCK) as u64;
    if u64::from(counter) + blocks > 1 << 32 {
        return Err(Failure::Unsupported);
    }
    cipher::run(config, key, &first, data)
}

/// The tag over additional data and ciphertext under any first counter block. The library takes no
/// such block: the hash is taken out of a tag under the nonce zero.
fn tag(
    config: CipherConfig,
    key: &[u8],
    first: [u8; BLOCK],
    aad: &[u8],
    data: &[u8],
) -> Result<[u8; BLOCK], Failure> {
    let mut zero = [0; BLOCK];
    zero[BLOCK - 1] = 1;
    let mut text = data.to_vec();
    count(config, key, next(zero), &mut text)?;
    let aead = CipherConfig {
        mode: mode::AEAD,
        ..config
    };
    let mut hashed = [0; BLOCK];
    cipher::seal(aead, key, &[0; 12], aad, &mut text, &mut hashed)?;
    let ecb = CipherConfig {
        mode: mode::ECB,
        decrypts: false,
        ..config
    };
    for block in [zero, first] {
        let mut masked = [0; BLOCK + SLACK];
        masked[..BLOCK].copy_from_slice(&block);
        cipher::run(ecb, key, &[0; 16], &mut masked)?;
        for (octet, mask) in hashed.iter_mut().zip(masked) {
            *octet ^= mask;
        }
    }
    Ok(hashed)
}

#[cfg(test)]
mod tests {
    use qat_regs::descriptor::cipher::AES_128;

    use super::*;

    const CTR: CipherConfig = CipherConfig {
        algorithm: AES_128,
        mode: mode::CTR,
        decrypts: false,
        converts_key: false,
        tag_len: 16,
    };

    #[test]
    fn the_tag_by_parts_is_the_tag_of_the_whole() {
        let key = [7; 16];
        for len in [0, 1, 16, 100] {
            let mut whole = vec![0x55; len + SLACK];
            let mut data = whole.clone();
            let mut expected = [0; 16];
            let aead = CipherConfig {
                mode: mode::AEAD,
                ..CTR
            };
            cipher::seal(aead, &key, &[9; 12], b"abcd", &mut whole, &mut expected).unwrap();
            let mut first = [9; 16];
            first[12..].copy_from_slice(&[0, 0, 0, 1]);
            count(CTR, &key, next(first), &mut data).unwrap();
            assert_eq!(data[..len], whole[..len]);
            assert_eq!(tag(CTR, &key, first, b"abcd", &data).unwrap(), expected);
        }
    }
}
