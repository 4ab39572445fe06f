// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Codes by AES-128: CMAC (RFC 4494), XCBC (RFC 3566), and the PRFs that they make (RFC 4615, RFC 4434).

use ikev2d_proto::crypto::CryptoError;
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use crate::failed;

const BLOCK: usize = 16;

type Code = Zeroizing<Vec<u8>>;

/// CMAC, whose key has 16 octets.
pub(crate) fn cmac(key: &[u8], parts: &[&[u8]]) -> Result<Code, CryptoError> {
    let run = || -> Result<Vec<u8>, ErrorStack> {
        let key = PKey::cmac(&openssl::symm::Cipher::aes_128_cbc(), key)?;
        let mut signer = Signer::new_without_digest(&key)?;
        for part in parts {
            signer.update(part)?;
        }
        signer.sign_to_vec()
    };
    run().map(Zeroizing::new).map_err(failed)
}

/// PRF_AES128_CMAC, whose key has any length (RFC 4615 §3).
pub(crate) fn prf_cmac(key: &[u8], parts: &[&[u8]]) -> Result<Code, CryptoError> {
    if key.len() == BLOCK {
        return cmac(key, parts);
    }
    cmac(&cmac(&[0; BLOCK], &[key])?, parts)
}

/// XCBC, whose key has 16 octets (RFC 3566 §4).
pub(crate) fn xcbc(key: &[u8], parts: &[&[u8]]) -> Result<Code, CryptoError> {
    if key.len() != BLOCK {
        return Err(CryptoError);
    }
    let mut keys = Zeroizing::new(Vec::with_capacity(4 * BLOCK));
    for number in 1..=3 {
        keys.extend([number; BLOCK]);
    }
    encrypt(Cipher::aes_128_ecb(), key, None, &mut keys)?;
    let (first, rest) = keys.split_at_checked(BLOCK).ok_or(CryptoError)?;
    let (second, third) = rest.split_at_checked(BLOCK).ok_or(CryptoError)?;

    let len: usize = parts.iter().map(|part| part.len()).sum();
    // Padding, and what `encrypt` wants.
    let mut message = Zeroizing::new(Vec::with_capacity(len + 2 * BLOCK));
    parts.iter().for_each(|part| message.extend(*part));
    let whole = len != 0 && len.is_multiple_of(BLOCK);
    let last_key = if whole { second } else { third };
    if !whole {
        message.push(0x80);
        message.resize((len + 1).next_multiple_of(BLOCK), 0);
    }
    let last = message.len().checked_sub(BLOCK).ok_or(CryptoError)?;
    for (octet, key) in message.iter_mut().skip(last).zip(last_key) {
        *octet ^= key;
    }
    encrypt(
        Cipher::aes_128_cbc(),
        first,
        Some(&[0; BLOCK]),
        &mut message,
    )?;
    Ok(Zeroizing::new(message.split_off(last)))
}

/// PRF_AES128_XCBC, whose key has any length (RFC 4434 §2).
pub(crate) fn prf_xcbc(key: &[u8], parts: &[&[u8]]) -> Result<Code, CryptoError> {
    let mut fitting = Zeroizing::new([0; BLOCK]);
    if key.len() > BLOCK {
        fitting.copy_from_slice(xcbc(&[0; BLOCK], &[key])?.get(..BLOCK).ok_or(CryptoError)?);
    } else {
        fitting
            .iter_mut()
            .zip(key)
            .for_each(|(octet, key)| *octet = *key);
    }
    xcbc(&fitting[..], parts)
}

/// Encrypts whole blocks in place.
fn encrypt(
    cipher: &CipherRef,
    key: &[u8],
    iv: Option<&[u8]>,
    blocks: &mut Code,
) -> Result<(), CryptoError> {
    let len = blocks.len();
    // Slack that the `openssl` crate asks for.
    blocks.resize(len + BLOCK, 0);
    let mut run = || -> Result<(), ErrorStack> {
        let mut context = CipherCtx::new()?;
        context.encrypt_init(Some(cipher), Some(key), iv)?;
        context.set_padding(false);
        context.cipher_update_inplace(blocks, len).map(drop)
    };
    let result = run().map_err(failed);
    blocks.truncate(len);
    result
}
