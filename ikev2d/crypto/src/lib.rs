// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE's cryptography by OpenSSL.
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod aes_mac;
pub mod credential;
pub mod crl;
mod dates;
pub mod eap;
mod exchange;
pub mod fetch;
mod kem;
pub mod name;
pub mod ocsp;
mod paths;
mod random;
mod signature;
pub mod trust;

pub use openssl::pkey::{HasPublic, PKeyRef as KeyRef};
pub use openssl::x509::X509;

use std::sync::OnceLock;

use hmac::{Hmac, KeyInit, Mac};
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::hash::{Hasher, MessageDigest};
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::sha::Sha1;
use openssl::sign::Signer;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// A private key.
pub type PrivateKey = openssl::pkey::PKey<openssl::pkey::Private>;
/// A public key.
pub type PublicKey = openssl::pkey::PKey<openssl::pkey::Public>;

/// OpenSSL as [`Crypto`].
#[derive(Clone, Copy, Debug)]
pub struct OpensslCrypto {
    _checked: (),
}

impl OpensslCrypto {
    /// Checks that the random generator works.
    ///
    /// # Errors
    /// It does not: nothing must be started without entropy.
    pub fn new() -> Result<Self, CryptoError> {
        openssl::init();
        rand_bytes(&mut [0; 32]).map_err(failed)?;
        Ok(Self { _checked: () })
    }
}

fn failed(_: ErrorStack) -> CryptoError {
    CryptoError
}

/// HMACs of SHA-2 by RustCrypto: OpenSSL makes a key object and looks its algorithms up for each of these,
/// which takes longer than the hashing, and an IKE SA needs some twenty.
fn code(prf: Prf, key: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    fn hmac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| CryptoError)?;
        parts.iter().for_each(|part| mac.update(part));
        Ok(mac.finalize().into_bytes().to_vec())
    }
    let code = match prf {
        // Nobody is in a hurry with those of another time.
        Prf::HmacMd5 | Prf::HmacSha1 => openssl_hmac(prf_digest(prf)?, key, parts),
        Prf::HmacSha256 => hmac::<Hmac<Sha256>>(key, parts),
        Prf::HmacSha384 => hmac::<Hmac<Sha384>>(key, parts),
        Prf::HmacSha512 => hmac::<Hmac<Sha512>>(key, parts),
        Prf::Aes128Xcbc => return aes_mac::prf_xcbc(key, parts),
        Prf::Aes128Cmac => return aes_mac::prf_cmac(key, parts),
    };
    code.map(Zeroizing::new)
}

fn openssl_hmac(
    digest: MessageDigest,
    key: &[u8],
    parts: &[&[u8]],
) -> Result<Vec<u8>, CryptoError> {
    let key = PKey::hmac(key).map_err(failed)?;
    let mut signer = Signer::new(digest, &key).map_err(failed)?;
    for part in parts {
        signer.update(part).map_err(failed)?;
    }
    signer.sign_to_vec().map_err(failed)
}

fn prf_digest(prf: Prf) -> Result<MessageDigest, CryptoError> {
    Ok(match prf {
        Prf::HmacMd5 => MessageDigest::md5(),
        Prf::HmacSha1 => MessageDigest::sha1(),
        Prf::HmacSha256 => MessageDigest::sha256(),
        Prf::HmacSha384 => MessageDigest::sha384(),
        Prf::HmacSha512 => MessageDigest::sha512(),
        // Beneath these is no hash.
        Prf::Aes128Xcbc | Prf::Aes128Cmac => return Err(CryptoError),
    })
}

/// A cipher that is looked up once: by its function OpenSSL looks it up for every message.
fn found(
    once: &'static OnceLock<Option<Cipher>>,
    name: &str,
    function: fn() -> &'static CipherRef,
) -> &'static CipherRef {
    let found = once.get_or_init(|| Cipher::fetch(None, name, None).ok());
    found.as_deref().unwrap_or_else(function)
}

fn aead(encryption: Encryption) -> Result<&'static CipherRef, CryptoError> {
    use Encryption::*;
    static GCM: [OnceLock<Option<Cipher>>; 3] = [const { OnceLock::new() }; 3];
    let [gcm128, gcm192, gcm256] = &GCM;
    Ok(match encryption {
        AesGcm8(128) | AesGcm12(128) | AesGcm16(128) => {
            found(gcm128, "AES-128-GCM", Cipher::aes_128_gcm)
        }
        AesGcm8(192) | AesGcm12(192) | AesGcm16(192) => {
            found(gcm192, "AES-192-GCM", Cipher::aes_192_gcm)
        }
        AesGcm8(256) | AesGcm12(256) | AesGcm16(256) => {
            found(gcm256, "AES-256-GCM", Cipher::aes_256_gcm)
        }
        AesCcm8(128) | AesCcm12(128) | AesCcm16(128) => Cipher::aes_128_ccm(),
        AesCcm8(192) | AesCcm12(192) | AesCcm16(192) => Cipher::aes_192_ccm(),
        AesCcm8(256) | AesCcm12(256) | AesCcm16(256) => Cipher::aes_256_ccm(),
        ChaCha20Poly1305 => Cipher::chacha20_poly1305(),
        _ => return Err(CryptoError),
    })
}

/// RFC 5282 §4: the key's end is the salt, the nonce's front.
fn split_salt<'k>(
    encryption: Encryption,
    key: &'k [u8],
    iv: &[u8],
) -> Result<(&'k [u8], Vec<u8>), CryptoError> {
    let salt = if encryption.is_ccm() { 3 } else { 4 };
    let at = key.len().checked_sub(salt).ok_or(CryptoError)?;
    let (key, salt) = key.split_at(at);
    Ok((key, [salt, iv].concat()))
}

impl Crypto for OpensslCrypto {
    fn random(&self, out: &mut [u8]) {
        if random::fill(out).is_err() {
            // The generator worked at start-up; without it nothing may go on.
            tracing_abort();
        }
    }

    fn is_slow(&self, group: Group) -> bool {
        exchange::is_slow(group)
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        exchange::generate(group).map_err(failed)
    }

    fn answer(
        &self,
        group: Group,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
        if kem::is_kem(group) {
            return kem::encapsulate(group, peer);
        }
        let exchange = self.generate(group)?;
        let secret = exchange.agree(peer)?;
        Ok((exchange.public().to_vec(), secret))
    }

    fn prf(
        &self,
        prf: Prf,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        code(prf, key, parts)
    }

    fn integrity(
        &self,
        integrity: Integrity,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, CryptoError> {
        let mut code = match integrity {
            Integrity::HmacMd5 => code(Prf::HmacMd5, key, parts)?,
            Integrity::HmacSha1 => code(Prf::HmacSha1, key, parts)?,
            Integrity::HmacSha256 => code(Prf::HmacSha256, key, parts)?,
            Integrity::HmacSha384 => code(Prf::HmacSha384, key, parts)?,
            Integrity::HmacSha512 => code(Prf::HmacSha512, key, parts)?,
            Integrity::AesXcbc => aes_mac::xcbc(key, parts)?,
            Integrity::AesCmac => aes_mac::cmac(key, parts)?,
            // AH's: not IKE's.
            Integrity::Aes128Gmac | Integrity::Aes192Gmac | Integrity::Aes256Gmac => {
                return Err(CryptoError);
            }
        };
        code.truncate(integrity.icv_len());
        Ok(std::mem::take(&mut *code))
    }

    fn aead_seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let (key, nonce) = split_salt(encryption, key, iv)?;
        let cipher = aead(encryption)?;
        let len = data.len();
        let mut tag = vec![0; encryption.icv_len()];
        let mut run = || -> Result<(), ErrorStack> {
            let mut context = CipherCtx::new()?;
            context.encrypt_init(Some(cipher), None, None)?;
            if encryption.is_ccm() {
                context.set_iv_length(nonce.len())?;
                context.set_tag_length(tag.len())?;
            }
            context.encrypt_init(None, Some(key), Some(&nonce))?;
            if encryption.is_ccm() {
                context.set_data_len(len)?;
            }
            context.cipher_update(aad, None)?;
            context.cipher_update_inplace(data, len)?;
            if !encryption.is_ccm() {
                context.cipher_final(&mut [])?;
            }
            context.tag(&mut tag)
        };
        run().map_err(failed)?;
        data.extend(tag);
        Ok(())
    }

    fn aead_open(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let (key, nonce) = split_salt(encryption, key, iv)?;
        let cipher = aead(encryption)?;
        let len = data.len().checked_sub(encryption.icv_len());
        let len = len.ok_or(CryptoError)?;
        let tag = data.split_off(len);
        let mut run = || -> Result<(), ErrorStack> {
            let mut context = CipherCtx::new()?;
            context.decrypt_init(Some(cipher), None, None)?;
            if encryption.is_ccm() {
                context.set_iv_length(nonce.len())?;
                context.set_tag(&tag)?;
            }
            context.decrypt_init(None, Some(key), Some(&nonce))?;
            if encryption.is_ccm() {
                // Whether the tag fits is told with the text.
                context.set_data_len(len)?;
                context.cipher_update(aad, None)?;
                return context.cipher_update_inplace(data, len).map(drop);
            }
            context.set_tag(&tag)?;
            context.cipher_update(aad, None)?;
            context.cipher_update_inplace(data, len)?;
            context.cipher_final(&mut []).map(drop)
        };
        let result = run().map_err(failed);
        if result.is_err() {
            data.clear();
        }
        result
    }

    fn cbc(
        &self,
        encryption: Encryption,
        encrypt: bool,
        key: &[u8],
        iv: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let cipher = match encryption {
            Encryption::AesCbc(128) => Cipher::aes_128_cbc(),
            Encryption::AesCbc(192) => Cipher::aes_192_cbc(),
            Encryption::AesCbc(256) => Cipher::aes_256_cbc(),
            Encryption::Des | Encryption::TripleDes => Cipher::des_ede3_cbc(),
            _ => return Err(CryptoError),
        };
        let mut key = Zeroizing::new(key.to_vec());
        if encryption == Encryption::Des {
            // With one key three times EDE3 is DES, which OpenSSL itself keeps in a provider apart.
            *key = key.repeat(3);
        }
        let (len, block) = (data.len(), encryption.iv_len());
        let keyed = key.len() == cipher.key_length() && iv.len() == block;
        if len == 0 || !len.is_multiple_of(block) || !keyed {
            return Err(CryptoError);
        }
        // Slack that the `openssl` crate asks for.
        data.resize(len + block, 0);
        let mut run = || -> Result<(), ErrorStack> {
            let mut context = CipherCtx::new()?;
            if encrypt {
                context.encrypt_init(Some(cipher), Some(&key), Some(iv))?;
            } else {
                context.decrypt_init(Some(cipher), Some(&key), Some(iv))?;
            }
            context.set_padding(false);
            context.cipher_update_inplace(data, len).map(drop)
        };
        let result = run().map_err(failed);
        data.truncate(len);
        result
    }

    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        let digest = prf_digest(beneath)?;
        let run = || -> Result<Vec<u8>, ErrorStack> {
            let mut hasher = Hasher::new(digest)?;
            for part in parts {
                hasher.update(part)?;
            }
            Ok(hasher.finish()?.to_vec())
        };
        run().map_err(failed)
    }

    fn name_key(&self, der: &[u8]) -> u64 {
        name::key(der)
    }

    fn same_name(&self, a: &[u8], b: &[u8]) -> bool {
        name::same(a, b)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        let mut hash = Sha1::new();
        for part in parts {
            hash.update(part);
        }
        hash.finish()
    }
}

fn tracing_abort() -> ! {
    eprintln!("the random generator has failed");
    std::process::abort()
}
