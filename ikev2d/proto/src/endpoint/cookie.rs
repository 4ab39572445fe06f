// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cookies (RFC 7296 §2.6): a code over what an initiator repeats, so that no state is kept of it. The
//! secret lives for a while only, so that cookies can't be gathered and spent at once.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::algorithm::Prf;
use crate::crypto::Crypto;

/// How long a secret makes cookies; those of the one before are good still.
const PERIOD: Duration = Duration::from_secs(30);

/// What a cookie is over.
pub(super) struct Seen<'m> {
    nonce: &'m [u8],
    address: IpAddr,
    spi_i: u64,
}

impl<'m> Seen<'m> {
    pub(super) fn new(nonce: &'m [u8], address: IpAddr, spi_i: u64) -> Self {
        Self {
            nonce,
            address,
            spi_i,
        }
    }
}

/// The present secret and the one before it, with the present one's number.
pub(super) struct Cookies {
    secrets: [Zeroizing<[u8; 32]>; 2],
    number: u8,
    since: Option<Instant>,
}

fn secret(crypto: &dyn Crypto) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    crypto.random(&mut secret[..]);
    secret
}

impl Cookies {
    pub(super) fn new(crypto: &dyn Crypto) -> Self {
        Self {
            secrets: [secret(crypto), secret(crypto)],
            number: 0,
            since: None,
        }
    }

    /// Whether it is time to change the secret.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        age.is_none_or(|age| age >= PERIOD)
    }

    /// Changes the secret when it is time.
    pub(super) fn rotate(&mut self, crypto: &dyn Crypto, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let periods = now.saturating_duration_since(since).as_secs() / PERIOD.as_secs();
        self.since = since.checked_add(PERIOD * periods as u32);
        for _ in 0..periods.min(2) {
            self.secrets.swap(0, 1);
            self.secrets[0] = secret(crypto);
            self.number = self.number.wrapping_add(1);
        }
    }

    /// A cookie: which secret, and the code.
    pub(super) fn make(&self, crypto: &dyn Crypto, seen: &Seen<'_>) -> Vec<u8> {
        let mut cookie = vec![self.number];
        cookie.extend(code(crypto, &self.secrets[0][..], seen).unwrap_or_default());
        cookie
    }

    /// Whether a cookie is one of ours, and not too old.
    pub(super) fn are_good(&self, crypto: &dyn Crypto, seen: &Seen<'_>, cookie: &[u8]) -> bool {
        let Some((number, given)) = cookie.split_first() else {
            return false;
        };
        let secret = match self.number.wrapping_sub(*number) {
            0 => &self.secrets[0][..],
            1 => &self.secrets[1][..],
            _ => return false,
        };
        code(crypto, secret, seen).is_some_and(|code| crypto.equal(&code, given))
    }
}

fn code(crypto: &dyn Crypto, secret: &[u8], seen: &Seen<'_>) -> Option<Vec<u8>> {
    let (v4, v6);
    let address: &[u8] = match seen.address {
        IpAddr::V4(address) => {
            v4 = address.octets();
            &v4
        }
        IpAddr::V6(address) => {
            v6 = address.octets();
            &v6
        }
    };
    let parts: [&[u8]; 3] = [seen.nonce, address, &seen.spi_i.to_be_bytes()];
    let code = crypto.prf(Prf::HmacSha256, secret, &parts).ok()?;
    Some(code.to_vec())
}
