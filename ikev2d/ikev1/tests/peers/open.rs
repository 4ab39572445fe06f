// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a test says as a peer is authentic.

use std::sync::{Arc, Mutex};

use ikev1_proto::wire::{Chain, Header, payload};
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::{Group, Prf};
use ikev2d_proto::config::{Connection, EndpointConfig};
use ikev2d_proto::crypto::{Crypto as _, CryptoError, KeyExchange};
use ikev2d_proto::event::Path;
use zeroize::Zeroizing;

use super::Pair;
use super::permissive::{Beneath, Permissive};

/// OpenSSL's cryptography with every lock open.
pub(crate) type Open = Permissive<Noting>;

pub(crate) struct Noting {
    beneath: OpensslCrypto,
    /// Slow groups are.
    slow: bool,
    /// What was asked of it, in its order.
    calls: Mutex<Vec<&'static str>>,
}

impl Open {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(false)
    }

    /// One that has slow key exchanges done elsewhere.
    pub(crate) fn slow() -> Arc<Self> {
        Self::with(true)
    }

    fn with(slow: bool) -> Arc<Self> {
        Arc::new(Self(Noting {
            beneath: OpensslCrypto::new().unwrap(),
            slow,
            calls: Mutex::default(),
        }))
    }

    /// What was asked of it since this was last asked.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }
}

impl Beneath for Noting {
    fn is_slow(&self, group: Group) -> bool {
        self.slow && self.beneath.is_slow(group)
    }

    fn random(&self, out: &mut [u8]) {
        self.beneath.random(out);
    }

    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        self.beneath.generate(group)
    }

    fn prf(
        &self,
        prf: Prf,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.beneath.prf(prf, key, parts)
    }

    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        self.beneath.hash(beneath, parts)
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.beneath.sha1(parts)
    }

    fn note(&self, what: &'static str) {
        self.calls.lock().unwrap().push(what);
    }
}

impl Pair {
    /// Both sides have it.
    pub(crate) fn open(change: impl Fn(bool, &mut Connection, &mut EndpointConfig)) -> Self {
        Self::with_open(Open::new(), change)
    }

    pub(crate) fn with_open(
        crypto: Arc<Open>,
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        Self::with_both([crypto.clone(), crypto], change)
    }

    /// Says to the second side what the first could say behind phase 1; how many messages answer it.
    pub(crate) fn say(&mut self, exchange: u8, id: u32, parts: &[(u8, &[u8])]) -> usize {
        let mut chain = Chain::default();
        chain.push(payload::HASH, &[0; 32]);
        for (kind, body) in parts {
            chain.push(*kind, body);
        }
        let endpoint = &mut self.sides[1].endpoint;
        let sa = endpoint.ike_sas().next().unwrap();
        let (path, header) = (sa.path, header((sa.spi_i, sa.spi_r), exchange, id));
        let message = encrypted(chain.into_message(header));
        self.receive(path, &message)
    }

    /// A datagram reaches the second side; how many messages answer it.
    pub(crate) fn receive(&mut self, path: Path, message: &[u8]) -> usize {
        let endpoint = &mut self.sides[1].endpoint;
        endpoint.handle_datagram(self.now, path, message);
        let before = self.recorded.len();
        self.flush();
        let said = self.recorded[before..].iter().filter(|(by, _)| *by == 1);
        said.count()
    }
}

pub(crate) fn header(cookies: (u64, u64), exchange: u8, message_id: u32) -> Header {
    Header {
        spi_i: cookies.0.into(),
        spi_r: cookies.1.into(),
        next_payload: 0,
        version: 0x10,
        exchange,
        flags: 0,
        message_id: message_id.into(),
        len: 0.into(),
    }
}

/// A message as if it were encrypted: padded, and with its flag.
pub(crate) fn encrypted(mut message: Vec<u8>) -> Vec<u8> {
    message[19] |= 1;
    let len = 28 + (message.len() - 28).next_multiple_of(16);
    message.resize(len, 0);
    message[24..28].copy_from_slice(&(len as u32).to_be_bytes());
    message
}
