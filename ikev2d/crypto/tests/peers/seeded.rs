// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OpenSSL with predictable nonces, so that a schedule can be played again.

use std::sync::{Arc, Mutex};

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use zeroize::Zeroizing;

/// Inputs of the PRF, as they come.
pub(crate) type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

pub(crate) struct SeededCrypto {
    inner: OpensslCrypto,
    state: Mutex<u64>,
    seen: Option<Seen>,
    few_spis: bool,
}

impl SeededCrypto {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            inner: OpensslCrypto::new().unwrap(),
            state: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            seen: None,
            few_spis: false,
        }
    }

    /// With what its PRF is given.
    pub(crate) fn watched(seen: Seen) -> Self {
        Self {
            seen: Some(seen),
            ..Self::new(1)
        }
    }

    /// One whose numbers of four octets, as SPIs of children are, repeat themselves soon.
    pub(crate) fn with_few_spis(seed: u64) -> Self {
        Self {
            few_spis: true,
            ..Self::new(seed)
        }
    }
}

impl Crypto for SeededCrypto {
    fn random(&self, out: &mut [u8]) {
        let mut state = self.state.lock().unwrap();
        for octet in &mut *out {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *octet = (*state >> 32) as u8;
        }
        if let ([a, b, c, d], true) = (out, self.few_spis) {
            (*a, *b, *c, *d) = (7, 7, 7, *d & 3);
        }
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        self.inner.generate(group)
    }

    fn answer(
        &self,
        group: Group,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
        self.inner.answer(group, peer)
    }

    fn prf(
        &self,
        prf: Prf,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if let Some(seen) = &self.seen {
            seen.lock().unwrap().push(parts.concat());
        }
        self.inner.prf(prf, key, parts)
    }

    fn integrity(
        &self,
        integrity: Integrity,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, CryptoError> {
        self.inner.integrity(integrity, key, parts)
    }

    fn aead_seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.inner.aead_seal(encryption, key, iv, aad, data)
    }

    fn aead_open(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.inner.aead_open(encryption, key, iv, aad, data)
    }

    fn cbc(
        &self,
        encryption: Encryption,
        encrypt: bool,
        key: &[u8],
        iv: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.inner.cbc(encryption, encrypt, key, iv, data)
    }

    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        self.inner.hash(beneath, parts)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.inner.sha1(parts)
    }
}
