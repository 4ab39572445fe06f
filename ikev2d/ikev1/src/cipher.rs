// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Encryption of messages (RFC 2409 appendix B): CBC, whose IV goes on from message to message.

use ikev2d_proto::crypto::{Crypto, CryptoError};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use crate::keys::{Nonces, Skeyid};
use crate::suite::Phase1;
use crate::wire::{Chain, FLAG_ENCRYPTED, HEADER_LEN, Header, with_hash};

/// Keys of an ISAKMP SA.
pub(crate) struct Keys {
    pub(crate) suite: Phase1,
    pub(crate) skeyid: Skeyid,
    pub(crate) cipher: Zeroizing<Vec<u8>>,
    /// IV of the next message of phase 1; at its end, what every other exchange begins from.
    pub(crate) iv: Vec<u8>,
}

impl Keys {
    pub(crate) fn derive(
        crypto: &dyn Crypto,
        suite: Phase1,
        psk: Option<&[u8]>,
        nonces: Nonces<'_>,
        secret: &[u8],
        cookies: (u64, u64),
        publics: (&[u8], &[u8]),
    ) -> Result<Self, CryptoError> {
        let skeyid = Skeyid::derive(crypto, suite.prf, psk, nonces, secret, cookies)?;
        let cipher = skeyid.cipher_key(crypto, &suite)?;
        let mut iv = crypto.hash(suite.prf, &[publics.0, publics.1])?;
        iv.truncate(suite.encryption.iv_len());
        Ok(Self {
            suite,
            skeyid,
            cipher,
            iv,
        })
    }

    /// First IV of an exchange after phase 1.
    pub(crate) fn first_iv(
        &self,
        crypto: &dyn Crypto,
        message_id: u32,
    ) -> Result<Vec<u8>, CryptoError> {
        let id = message_id.to_be_bytes();
        let mut iv = crypto.hash(self.suite.prf, &[&self.iv, &id])?;
        iv.truncate(self.suite.encryption.iv_len());
        Ok(iv)
    }

    /// prf(SKEYID_a, parts): the HASH of every message after phase 1.
    pub(crate) fn authenticate(
        &self,
        crypto: &dyn Crypto,
        parts: &[&[u8]],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        crypto.prf(self.suite.prf, &self.skeyid.a, parts)
    }

    /// A message of an exchange after phase 1, its HASH over `before` and all its payloads.
    pub(crate) fn seal_hashed(
        &self,
        crypto: &dyn Crypto,
        iv: &mut Vec<u8>,
        header: Header,
        before: &[&[u8]],
        chain: &Chain,
    ) -> Result<Vec<u8>, CryptoError> {
        let id = header.message_id.get().to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![&id];
        parts.extend(before);
        parts.push(chain.octets());
        let hash = self.authenticate(crypto, &parts)?;
        let (first, octets) = with_hash(&hash, chain);
        self.seal(crypto, iv, header, first, octets)
    }

    /// Encrypts payloads; `iv` goes on.
    pub(crate) fn seal(
        &self,
        crypto: &dyn Crypto,
        iv: &mut Vec<u8>,
        mut header: Header,
        first: u8,
        mut octets: Vec<u8>,
    ) -> Result<Vec<u8>, CryptoError> {
        let block = self.suite.encryption.iv_len();
        octets.resize(octets.len().next_multiple_of(block), 0);
        crypto.cbc(self.suite.encryption, true, &self.cipher, iv, &mut octets)?;
        *iv = last_block(&octets, block)?;
        header.next_payload = first;
        header.flags |= FLAG_ENCRYPTED;
        header.len = ((HEADER_LEN + octets.len()) as u32).into();
        let mut message = header.as_bytes().to_vec();
        message.extend(octets);
        Ok(message)
    }

    /// Decrypts what is behind the header. What comes out is not authenticated yet; the IV that comes
    /// with it is to be taken over only when it is, so that a forged message breaks nothing.
    pub(crate) fn open(
        &self,
        crypto: &dyn Crypto,
        iv: &[u8],
        message: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), CryptoError> {
        let octets = message.get(HEADER_LEN..).ok_or(CryptoError)?;
        // It may hold a user's password.
        let mut octets = Zeroizing::new(octets.to_vec());
        let next = last_block(&octets, self.suite.encryption.iv_len())?;
        crypto.cbc(self.suite.encryption, false, &self.cipher, iv, &mut octets)?;
        Ok((octets, next))
    }
}

fn last_block(octets: &[u8], block: usize) -> Result<Vec<u8>, CryptoError> {
    let at = octets.len().checked_sub(block).ok_or(CryptoError)?;
    Ok(octets.get(at..).ok_or(CryptoError)?.to_vec())
}
