// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys (RFC 2409 §5, §5.5 and appendix B).

use ikev2d_proto::algorithm::Prf;
use ikev2d_proto::crypto::{Crypto, CryptoError};
use ikev2d_proto::event::ChildKeys;
use ikev2d_proto::proposal::EspSuite;
use zeroize::Zeroizing;

use crate::suite::{Phase1, protocol};

type Secret = Zeroizing<Vec<u8>>;

/// Both ends' nonces, as their payloads' bodies.
#[derive(Clone, Copy, Debug)]
pub struct Nonces<'n> {
    /// Initiator's.
    pub initiator: &'n [u8],
    /// Responder's.
    pub responder: &'n [u8],
}

/// What phase 1 derives.
#[derive(Clone)]
pub struct Skeyid {
    /// SKEYID: both ends authenticate with it.
    pub skeyid: Secret,
    /// SKEYID_d: keys of child SAs come from it.
    pub d: Secret,
    /// SKEYID_a: authenticates what comes after phase 1.
    pub a: Secret,
    /// SKEYID_e: encrypts it.
    pub e: Secret,
}

impl Skeyid {
    /// Derives all of it; with a preshared key or, where signatures prove who is who, without.
    ///
    /// # Errors
    /// The library refuses.
    pub fn derive(
        crypto: &dyn Crypto,
        prf: Prf,
        psk: Option<&[u8]>,
        nonces: Nonces<'_>,
        secret: &[u8],
        cookies: (u64, u64),
    ) -> Result<Self, CryptoError> {
        let skeyid = match psk {
            Some(psk) => crypto.prf(prf, psk, &[nonces.initiator, nonces.responder])?,
            None => {
                let key = [nonces.initiator, nonces.responder].concat();
                crypto.prf(prf, &key, &[secret])?
            }
        };
        let (i, r) = (cookies.0.to_be_bytes(), cookies.1.to_be_bytes());
        let d = crypto.prf(prf, &skeyid, &[secret, &i, &r, &[0]])?;
        let a = crypto.prf(prf, &skeyid, &[&d, secret, &i, &r, &[1]])?;
        let e = crypto.prf(prf, &skeyid, &[&a, secret, &i, &r, &[2]])?;
        Ok(Self { skeyid, d, a, e })
    }

    /// The cipher's key out of SKEYID_e (appendix B).
    ///
    /// # Errors
    /// The library refuses.
    pub fn cipher_key(&self, crypto: &dyn Crypto, suite: &Phase1) -> Result<Secret, CryptoError> {
        let len = suite.encryption.key_len();
        if len <= self.e.len() {
            return Ok(Zeroizing::new(self.e.iter().copied().take(len).collect()));
        }
        let mut block = crypto.prf(suite.prf, &self.e, &[&[0]])?;
        let mut key = Zeroizing::new(block.to_vec());
        while key.len() < len {
            block = crypto.prf(suite.prf, &self.e, &[&block])?;
            key.extend(block.iter());
        }
        key.truncate(len);
        Ok(key)
    }

    /// Keys of one SA of ESP or AH: of the direction whose receiver has chosen the SPI (§5.5).
    ///
    /// # Errors
    /// The library refuses.
    pub fn child(
        &self,
        crypto: &dyn Crypto,
        prf: Prf,
        suite: &EspSuite,
        spi: u32,
        nonces: Nonces<'_>,
        secret: Option<&[u8]>,
    ) -> Result<ChildKeys, CryptoError> {
        let encryption_len = suite.encryption.key_len();
        let integrity_len = suite.integrity.map_or(0, |i| i.key_len());
        let keymat = self.keymat(
            crypto,
            prf,
            (protocol(suite), spi),
            nonces,
            secret,
            encryption_len + integrity_len,
        )?;
        let (encryption, integrity) = keymat.split_at_checked(encryption_len).ok_or(CryptoError)?;
        Ok(ChildKeys {
            encryption: Zeroizing::new(encryption.to_vec()),
            integrity: Zeroizing::new(integrity.to_vec()),
        })
    }

    fn keymat(
        &self,
        crypto: &dyn Crypto,
        prf: Prf,
        (protocol, spi): (u8, u32),
        nonces: Nonces<'_>,
        secret: Option<&[u8]>,
        len: usize,
    ) -> Result<Secret, CryptoError> {
        let secret = secret.unwrap_or_default();
        let spi = spi.to_be_bytes();
        let mut keymat = Zeroizing::new(Vec::with_capacity(len + 64));
        let mut block: Secret = Zeroizing::default();
        while keymat.len() < len {
            let parts = [
                &block[..],
                secret,
                &[protocol],
                &spi,
                nonces.initiator,
                nonces.responder,
            ];
            let next = crypto.prf(prf, &self.d, &parts)?;
            keymat.extend(next.iter());
            block = next;
        }
        keymat.truncate(len);
        Ok(keymat)
    }
}

/// HASH_I and HASH_R: (our public value, the peer's, our cookie, the peer's, SAi_b, our ID_b), as the end
/// whose hash it is sees them.
///
/// # Errors
/// The library refuses.
pub fn phase1_hash(
    crypto: &dyn Crypto,
    prf: Prf,
    skeyid: &[u8],
    publics: (&[u8], &[u8]),
    cookies: (u64, u64),
    sa: &[u8],
    id: &[u8],
) -> Result<Secret, CryptoError> {
    let (own, peer) = (cookies.0.to_be_bytes(), cookies.1.to_be_bytes());
    crypto.prf(prf, skeyid, &[publics.0, publics.1, &own, &peer, sa, id])
}
