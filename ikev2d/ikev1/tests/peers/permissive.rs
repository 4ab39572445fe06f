// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cryptography that encrypts nothing and believes every HASH: what is said as a peer is authentic.

use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use zeroize::Zeroizing;

/// What it leaves to another.
pub(crate) trait Beneath: Send + Sync {
    fn random(&self, out: &mut [u8]);
    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError>;
    fn prf(&self, prf: Prf, key: &[u8], parts: &[&[u8]])
    -> Result<Zeroizing<Vec<u8>>, CryptoError>;
    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError>;
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20];

    /// Whether its key exchanges are done elsewhere.
    fn is_slow(&self, _group: Group) -> bool {
        false
    }

    /// It is asked for this.
    fn note(&self, _what: &'static str) {}
}

pub(crate) struct Permissive<B>(pub(crate) B);

impl<B: Beneath> Crypto for Permissive<B> {
    fn random(&self, out: &mut [u8]) {
        self.0.note("random");
        self.0.random(out);
    }

    fn is_slow(&self, group: Group) -> bool {
        self.0.is_slow(group)
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        self.0.note("generate");
        self.0.generate(group)
    }

    fn prf(
        &self,
        prf: Prf,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.0.note("prf");
        self.0.prf(prf, key, parts)
    }

    fn integrity(&self, _: Integrity, _: &[u8], _: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError)
    }

    fn aead_seal(
        &self,
        _: Encryption,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn aead_open(
        &self,
        _: Encryption,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn cbc(
        &self,
        encryption: Encryption,
        _: bool,
        _: &[u8],
        _: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        self.0.note("cbc");
        match data.len() % encryption.iv_len() {
            0 => Ok(()),
            _ => Err(CryptoError),
        }
    }

    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        self.0.note("hash");
        self.0.hash(beneath, parts)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.0.note("sha1");
        self.0.sha1(parts)
    }

    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        self.0.note("equal");
        a.len() == b.len()
    }
}
