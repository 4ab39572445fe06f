// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cookies (RFC 7296 §2.6): a code over what an initiator repeats, so that no state is kept of it. The
//! secret lives for a while only, so that cookies can't be gathered and spent at once. A puzzle that comes
//! along (RFC 8019 §7.1.1) is in it, too.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::algorithm::Prf;
use crate::crypto::Crypto;
use crate::puzzle::Puzzle;

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

    /// A cookie: which secret, which puzzle, and the code.
    pub(super) fn make(
        &self,
        crypto: &dyn Crypto,
        seen: &Seen<'_>,
        puzzle: Option<Puzzle>,
    ) -> Vec<u8> {
        let puzzle = puzzle.map_or([0; 3], Puzzle::emit);
        let mut cookie = vec![self.number];
        cookie.extend(puzzle);
        cookie.extend(code(crypto, &self.secrets[0][..], seen, puzzle).unwrap_or_default());
        cookie
    }

    /// The puzzle that was set with a cookie, if it is one of ours, and not too old.
    pub(super) fn open(
        &self,
        crypto: &dyn Crypto,
        seen: &Seen<'_>,
        cookie: &[u8],
    ) -> Option<Option<Puzzle>> {
        let (number, rest) = cookie.split_first()?;
        let (puzzle, given) = rest.split_first_chunk::<3>()?;
        let secret = match self.number.wrapping_sub(*number) {
            0 => &self.secrets[0][..],
            1 => &self.secrets[1][..],
            _ => return None,
        };
        let code = code(crypto, secret, seen, *puzzle)?;
        crypto.equal(&code, given).then(|| Puzzle::read(puzzle))
    }

    /// Whether one who has a cookie but no solution is lucky at this moment: one in so many is, and the
    /// next repetition of its message may be.
    pub(super) fn draws(
        &self,
        crypto: &dyn Crypto,
        now: Instant,
        cookie: &[u8],
        one_in: u16,
    ) -> bool {
        const MOMENT: u64 = 2;
        let age = self.since.map(|since| now.saturating_duration_since(since));
        let moment = age.unwrap_or_default().as_secs() / MOMENT;
        let parts: [&[u8]; 3] = [b"legacy", &moment.to_be_bytes(), cookie];
        let drawn = crypto.prf(Prf::HmacSha256, &self.secrets[0][..], &parts);
        let drawn = drawn
            .ok()
            .and_then(|drawn| drawn.first_chunk::<8>().copied());
        one_in != 0 && drawn.is_some_and(|drawn| u64::from_be_bytes(drawn) % u64::from(one_in) == 0)
    }
}

fn code(crypto: &dyn Crypto, secret: &[u8], seen: &Seen<'_>, puzzle: [u8; 3]) -> Option<Vec<u8>> {
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
    let parts: [&[u8]; 4] = [seen.nonce, address, &seen.spi_i.to_be_bytes(), &puzzle];
    let code = crypto.prf(Prf::HmacSha256, secret, &parts).ok()?;
    Some(code.to_vec())
}
