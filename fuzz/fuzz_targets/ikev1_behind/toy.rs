// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cryptography without any, which is the same for the same input.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use ikev2d_proto::algorithm::{Group, Prf};
use ikev2d_proto::crypto::{CryptoError, KeyExchange};
use zeroize::Zeroizing;

use crate::permissive::{Beneath, Permissive};

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(1) };
}

/// From the beginning.
pub(crate) fn reset() {
    RANDOM.with(|state| state.set(0x9e37_79b9_7f4a_7c15));
}

/// Numbers that are the same for the same input.
pub(crate) fn random() -> u64 {
    RANDOM.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    })
}

/// So many octets that depend on these.
fn digest(len: usize, parts: &[&[u8]]) -> Vec<u8> {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for octet in parts.iter().copied().flatten() {
        state = (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(state.to_be_bytes());
        state = state.wrapping_mul(0x0100_0000_01b3) ^ (state >> 29);
    }
    out.truncate(len);
    out
}

/// What is beneath the cryptography that lets everything pass.
pub(crate) struct Toy;

struct Exchange(Vec<u8>);

impl KeyExchange for Exchange {
    fn public(&self) -> &[u8] {
        &self.0
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        match peer.len() == self.0.len() {
            true => Ok(Zeroizing::new(vec![7; 32])),
            false => Err(CryptoError),
        }
    }
}

impl Beneath for Toy {
    fn random(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let octets = random().to_be_bytes();
            chunk.copy_from_slice(&octets[..chunk.len()]);
        }
    }

    fn generate(&self, _: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        let mut public = vec![0; 64];
        self.random(&mut public);
        Ok(Box::new(Exchange(public)))
    }

    fn prf(&self, _: Prf, key: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let all: Vec<&[u8]> = [&[key], parts].concat();
        Ok(Zeroizing::new(digest(32, &all)))
    }

    fn hash(&self, _: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        Ok(digest(32, parts))
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        digest(20, parts).try_into().unwrap_or_default()
    }
}

pub(crate) static CRYPTO: LazyLock<Arc<Permissive<Toy>>> =
    LazyLock::new(|| Arc::new(Permissive(Toy)));
