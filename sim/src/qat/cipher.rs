// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cipher slices, by OpenSSL.

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use qat_regs::descriptor::{CipherConfig, cipher, mode};

/// Octets behind the data that [`run`] needs: what the `openssl` crate asks for.
pub(super) const SLACK: usize = 16;

/// Octets of an algorithm's key.
pub(super) fn key_len(algorithm: u32) -> Option<usize> {
    match algorithm {
        cipher::AES_128 => Some(16),
        cipher::AES_192 => Some(24),
        cipher::AES_256 | cipher::CHACHA20_POLY1305 => Some(32),
        _ => None,
    }
}

fn find(config: CipherConfig) -> Option<&'static CipherRef> {
    Some(match (config.algorithm, config.mode) {
        (cipher::AES_128, mode::ECB) => Cipher::aes_128_ecb(),
        (cipher::AES_192, mode::ECB) => Cipher::aes_192_ecb(),
        (cipher::AES_256, mode::ECB) => Cipher::aes_256_ecb(),
        (cipher::AES_128, mode::CBC) => Cipher::aes_128_cbc(),
        (cipher::AES_192, mode::CBC) => Cipher::aes_192_cbc(),
        (cipher::AES_256, mode::CBC) => Cipher::aes_256_cbc(),
        (cipher::AES_128, mode::CTR) => Cipher::aes_128_ctr(),
        (cipher::AES_192, mode::CTR) => Cipher::aes_192_ctr(),
        (cipher::AES_256, mode::CTR) => Cipher::aes_256_ctr(),
        (cipher::AES_128, mode::AEAD) => Cipher::aes_128_gcm(),
        (cipher::AES_192, mode::AEAD) => Cipher::aes_192_gcm(),
        (cipher::AES_256, mode::AEAD) => Cipher::aes_256_gcm(),
        (cipher::CHACHA20_POLY1305, mode::CTR) => Cipher::chacha20_poly1305(),
        _ => return None,
    })
}

/// Why a cipher did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such cipher here.
    Unsupported,
    /// A length makes no sense.
    Parameter,
    /// The tag is another.
    Tag,
}

impl From<ErrorStack> for Failure {
    fn from(_: ErrorStack) -> Self {
        Self::Parameter
    }
}

/// Runs a cipher over all but the last [`SLACK`] octets, in place.
pub(super) fn run(
    config: CipherConfig,
    key: &[u8],
    iv: &[u8; 16],
    data: &mut [u8],
) -> Result<(), Failure> {
    let cipher = find(config).ok_or(Failure::Unsupported)?;
    let len = data.len().checked_sub(SLACK).ok_or(Failure::Parameter)?;
    if config.mode != mode::CTR && !len.is_multiple_of(16) {
        return Err(Failure::Parameter);
    }
    let iv = (config.mode != mode::ECB).then_some(&iv[..]);
    let mut context = CipherCtx::new()?;
    if config.decrypts && config.mode != mode::CTR {
        context.decrypt_init(Some(cipher), Some(key), iv)?;
    } else {
        context.encrypt_init(Some(cipher), Some(key), iv)?;
    }
    context.set_padding(false);
    context.cipher_update_inplace(data, len)?;
    Ok(())
}

/// Seals all but the last [`SLACK`] octets in place, and gives the tag.
pub(super) fn seal(
    config: CipherConfig,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    data: &mut [u8],
    tag: &mut [u8],
) -> Result<(), Failure> {
    let cipher = find(config).ok_or(Failure::Unsupported)?;
    let len = data.len().checked_sub(SLACK).ok_or(Failure::Parameter)?;
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(cipher), None, None)?;
    context.set_iv_length(nonce.len())?;
    context.encrypt_init(None, Some(key), Some(nonce))?;
    if !aad.is_empty() {
        context.cipher_update(aad, None)?;
    }
    context.cipher_update_inplace(data, len)?;
    context.cipher_final(&mut [0; SLACK])?;
    context.tag(tag)?;
    Ok(())
}

/// Opens all but the last [`SLACK`] octets in place. They are deciphered also where the tag is another.
pub(super) fn open(
    config: CipherConfig,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Failure> {
    let cipher = find(config).ok_or(Failure::Unsupported)?;
    let len = data.len().checked_sub(SLACK).ok_or(Failure::Parameter)?;
    let mut context = CipherCtx::new()?;
    context.decrypt_init(Some(cipher), None, None)?;
    context.set_iv_length(nonce.len())?;
    context.decrypt_init(None, Some(key), Some(nonce))?;
    context.set_tag(tag)?;
    if !aad.is_empty() {
        context.cipher_update(aad, None)?;
    }
    context.cipher_update_inplace(data, len)?;
    context
        .cipher_final(&mut [0; SLACK])
        .map(drop)
        .map_err(|_| Failure::Tag)
}
