// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OpenSSL with predictable nonces, so that a schedule can be played again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use zeroize::Zeroizing;

/// Inputs of the PRF, as they come.
pub(crate) type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// How many messages can't be sealed from now on.
pub(crate) type Fails = Arc<AtomicUsize>;

pub(crate) struct SeededCrypto {
    inner: OpensslCrypto,
    state: Mutex<u64>,
    seen: Option<Seen>,
    few_spis: bool,
    few_ivs: bool,
    /// The IVs that each key of an AEAD has had.
    ivs: Mutex<HashMap<Vec<u8>, HashSet<Vec<u8>>>>,
    /// What is to be sealed next fails.
    fails: Fails,
    opened: AtomicUsize,
    answered: AtomicUsize,
}

impl SeededCrypto {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            inner: OpensslCrypto::new().unwrap(),
            state: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            seen: None,
            few_spis: false,
            few_ivs: false,
            ivs: Mutex::default(),
            fails: Fails::default(),
            opened: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        }
    }

    /// With what its PRF is given.
    pub(crate) fn watched(seen: Seen) -> Self {
        Self {
            seen: Some(seen),
            ..Self::new(1)
        }
    }

    /// One that sometimes seals nothing.
    pub(crate) fn failing(seed: u64, fails: Fails) -> Self {
        Self {
            fails,
            ..Self::new(seed)
        }
    }

    /// One whose numbers of eight octets, as random IVs would be, repeat themselves soon.
    pub(crate) fn with_few_ivs(seed: u64) -> Self {
        Self {
            few_ivs: true,
            ..Self::new(seed)
        }
    }

    /// Messages that were sealed with AEADs.
    pub(crate) fn sealed(&self) -> usize {
        self.ivs.lock().unwrap().values().map(HashSet::len).sum()
    }

    /// Key exchanges that were answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Messages that were to be opened with AEADs.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Relaxed)
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
        match out {
            [a, b, c, d] if self.few_spis => (*a, *b, *c, *d) = (7, 7, 7, *d & 3),
            [head @ .., _, _] if self.few_ivs && head.len() == 6 => head.fill(7),
            _ => {}
        }
    }

    fn is_slow(&self, group: Group) -> bool {
        self.inner.is_slow(group)
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        self.inner.generate(group)
    }

    fn answer(
        &self,
        group: Group,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
        self.answered.fetch_add(1, Relaxed);
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
        let less = |left: usize| left.checked_sub(1);
        if self.fails.fetch_update(Relaxed, Relaxed, less).is_ok() {
            return Err(CryptoError);
        }
        // RFC 5282 §3.1, in every test there is.
        let mut ivs = self.ivs.lock().unwrap();
        let of_key = ivs.entry(key.to_vec()).or_default();
        assert!(of_key.insert(iv.to_vec()), "an IV comes again");
        drop(ivs);
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
        self.opened.fetch_add(1, Relaxed);
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

    fn same_name(&self, a: &[u8], b: &[u8]) -> bool {
        self.inner.same_name(a, b)
    }

    fn name_key(&self, name: &[u8]) -> u64 {
        self.inner.name_key(name)
    }

    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        self.inner.equal(a, b)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.inner.sha1(parts)
    }
}
