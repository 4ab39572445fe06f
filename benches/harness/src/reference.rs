// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP in tunnel mode (RFC 4303) by OpenSSL's own functions, one packet at a time: it shares no code with
//! any engine, so that an engine's packets can be checked against it. Slow, and meant so.

use offload_api::sa::{Cipher, Integrity, Protocol, SaParams};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::{self, Crypter, Mode};
use thiserror::Error;

/// SPI and sequence number.
const HEADER: usize = 8;
/// Next header: an IPv4 packet (RFC 4303 §2.6).
const IPV4: u8 = 4;

/// Why the reference can't say anything.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// It is for ESP.
    #[error("{0} can't be checked: the reference knows ESP only")]
    Suite(offload_api::sa::Suite),
    /// OpenSSL's own failure.
    #[error("OpenSSL: {0}")]
    Openssl(#[from] ErrorStack),
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Its length is that of no packet of the suite.
    #[error("a length that no packet has")]
    Length,
    /// It has another SPI.
    #[error("a wrong SPI")]
    Spi,
    /// It is not authentic.
    #[error("a wrong ICV")]
    Icv,
    /// Its padding or next header is wrong.
    #[error("a wrong trailer")]
    Trailer,
    /// What it carries is something else than what was sealed.
    #[error("other octets than were sealed")]
    Octets,
    /// It has another sequence number than its completion tells.
    #[error("a wrong sequence number")]
    Sequence,
}

/// One SA.
pub struct Reference {
    sa: SaParams,
}

impl Reference {
    /// For an SA.
    ///
    /// # Errors
    /// It is none of ESP.
    pub fn new(sa: &SaParams) -> Result<Self, ReferenceError> {
        if sa.suite.protocol() != Protocol::Esp {
            return Err(ReferenceError::Suite(sa.suite));
        }
        Ok(Self { sa: sa.clone() })
    }

    /// Seals a packet; it starts with the ESP header.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn seal(&self, sequence: u32, packet: &[u8]) -> Result<Vec<u8>, ReferenceError> {
        let suite = self.sa.suite;
        let mut sealed = self.sa.spi.value().to_be_bytes().to_vec();
        sealed.extend(sequence.to_be_bytes());
        // Unique is enough for an AEAD, and any value does for octets to measure with.
        let mut iv = [0; 16];
        iv[..8].copy_from_slice(&u64::from(sequence).to_be_bytes());
        sealed.extend(&iv[..suite.iv_len()]);
        let mut plain = packet.to_vec();
        let whole = (packet.len() + 2).next_multiple_of(suite.alignment());
        let padding = whole - packet.len() - 2;
        plain.extend(1..=padding as u8);
        plain.extend([padding as u8, IPV4]);
        if let Some(cipher) = self.aead() {
            let (aad, nonce) = (self.header(sequence.into()), self.nonce(&iv));
            let mut tag = [0; 16];
            let key = &self.sa.keys.cipher;
            let body = symm::encrypt_aead(cipher, key, Some(&nonce), &aad, &plain, &mut tag)?;
            sealed.extend(body);
            sealed.extend(tag);
        } else {
            sealed.extend(self.cipher(Mode::Encrypt, &iv, &plain)?);
            let icv = self.icv(&sealed, 0)?;
            sealed.extend(icv);
        }
        Ok(sealed)
    }

    /// Whether a packet is what sealing this one with this number makes.
    ///
    /// # Errors
    /// OpenSSL's, where it is not a verdict.
    pub fn check(
        &self,
        sealed: &[u8],
        packet: &[u8],
        sequence: u64,
    ) -> Result<Result<(), Flaw>, ReferenceError> {
        let suite = self.sa.suite;
        let overhead = HEADER + suite.iv_len();
        let body_end = sealed.len().saturating_sub(suite.icv_len());
        let (Some(header), Some(iv), Some(body), Some(icv)) = (
            sealed.first_chunk::<HEADER>(),
            sealed.get(HEADER..overhead),
            sealed.get(overhead..body_end),
            sealed.get(body_end..),
        ) else {
            return Ok(Err(Flaw::Length));
        };
        if body.is_empty() || body.len() % suite.alignment() != 0 {
            return Ok(Err(Flaw::Length));
        }
        let [spi @ .., s0, s1, s2, s3] = *header;
        if spi != self.sa.spi.value().to_be_bytes() {
            return Ok(Err(Flaw::Spi));
        }
        if u32::from_be_bytes([s0, s1, s2, s3]) != sequence as u32 {
            return Ok(Err(Flaw::Sequence));
        }
        let plain = if let Some(cipher) = self.aead() {
            let (aad, nonce) = (self.header(sequence), self.nonce(iv));
            let key = &self.sa.keys.cipher;
            // A wrong tag is an error without a reason in OpenSSL's queue.
            match symm::decrypt_aead(cipher, key, Some(&nonce), &aad, body, icv) {
                Ok(plain) => plain,
                Err(error) if error.errors().is_empty() => return Ok(Err(Flaw::Icv)),
                Err(error) => return Err(error.into()),
            }
        } else {
            let expected = self.icv(sealed.get(..body_end).unwrap_or_default(), sequence)?;
            if expected.len() != icv.len() || !memcmp::eq(&expected, icv) {
                return Ok(Err(Flaw::Icv));
            }
            self.cipher(Mode::Decrypt, iv, body)?
        };
        Ok(trailer(&plain, packet))
    }

    /// What ESP authenticates in front of an AEAD's text: SPI and the number, the whole of it where it
    /// is extended (RFC 4106 §5).
    fn header(&self, sequence: u64) -> Vec<u8> {
        let mut header = self.sa.spi.value().to_be_bytes().to_vec();
        let skipped = if self.sa.esn { 0 } else { 4 };
        header.extend(sequence.to_be_bytes().into_iter().skip(skipped));
        header
    }

    fn nonce(&self, iv: &[u8]) -> Vec<u8> {
        let iv = iv.get(..8).unwrap_or_default();
        [&self.sa.keys.salt[..], iv].concat()
    }

    fn aead(&self) -> Option<symm::Cipher> {
        match self.sa.suite.cipher() {
            Cipher::Aes128Gcm => Some(symm::Cipher::aes_128_gcm()),
            Cipher::Aes256Gcm => Some(symm::Cipher::aes_256_gcm()),
            Cipher::ChaCha20Poly1305 => Some(symm::Cipher::chacha20_poly1305()),
            _ => None,
        }
    }

    fn cipher(&self, mode: Mode, iv: &[u8], text: &[u8]) -> Result<Vec<u8>, ReferenceError> {
        let cipher = match self.sa.suite.cipher() {
            Cipher::Aes128Cbc => symm::Cipher::aes_128_cbc(),
            Cipher::Aes192Cbc => symm::Cipher::aes_192_cbc(),
            Cipher::Aes256Cbc => symm::Cipher::aes_256_cbc(),
            _ => return Ok(text.to_vec()),
        };
        let iv = iv.get(..16).unwrap_or_default();
        let mut crypter = Crypter::new(cipher, mode, &self.sa.keys.cipher, Some(iv))?;
        crypter.pad(false);
        let mut out = vec![0; text.len() + cipher.block_size()];
        let mut len = crypter.update(text, &mut out)?;
        len += crypter.finalize(out.get_mut(len..).unwrap_or_default())?;
        out.truncate(len);
        Ok(out)
    }

    /// The HMAC over everything and an extended number's upper half (RFC 4303 §2.2.1).
    fn icv(&self, sealed: &[u8], sequence: u64) -> Result<Vec<u8>, ReferenceError> {
        let digest = match self.sa.suite.integrity() {
            Integrity::HmacSha384 => MessageDigest::sha384(),
            Integrity::HmacSha512 => MessageDigest::sha512(),
            _ => MessageDigest::sha256(),
        };
        let key = PKey::hmac(&self.sa.keys.integrity)?;
        let mut signer = Signer::new(digest, &key)?;
        signer.update(sealed)?;
        if self.sa.esn {
            signer.update(&((sequence >> 32) as u32).to_be_bytes())?;
        }
        let mut icv = signer.sign_to_vec()?;
        icv.truncate(self.sa.suite.icv_len());
        Ok(icv)
    }
}

/// Whether a decrypted text is the packet with a proper trailer (RFC 4303 §2.4 to §2.6).
fn trailer(plain: &[u8], packet: &[u8]) -> Result<(), Flaw> {
    let [rest @ .., padding, next] = plain else {
        return Err(Flaw::Length);
    };
    let len = rest.len().checked_sub(usize::from(*padding));
    let (content, pad) = len
        .and_then(|len| rest.split_at_checked(len))
        .ok_or(Flaw::Trailer)?;
    let counts = pad.iter().zip(1u8..).all(|(octet, n)| *octet == n);
    if *next != IPV4 || !counts {
        return Err(Flaw::Trailer);
    }
    if content == packet {
        Ok(())
    } else {
        Err(Flaw::Octets)
    }
}

#[cfg(test)]
mod tests {
    use offload_api::sa::{Direction, KeyMaterial, Spi, Suite};

    use super::*;
    use crate::packet;

    /// Packets that scapy has sealed.
    const VECTORS: &str = include_str!("../../../offload-api/src/conformance/vectors/scapy.json");
    /// Octets of an outer IPv4 header, which the reference has not.
    const OUTER: usize = 20;

    #[test]
    fn it_knows_the_packets_of_an_independent_implementation() {
        let vectors: Vec<serde_json::Value> = serde_json::from_str(VECTORS).unwrap();
        let mut checked = std::collections::BTreeSet::new();
        for vector in &vectors {
            let octets = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
            let (plain, sealed) = (octets("plain"), octets("sealed"));
            if vector["mode"] != "tunnel4" || plain[0] >> 4 != 4 {
                continue;
            }
            let name = vector["suite"].as_str().unwrap();
            let suite = Suite::from_name(name).unwrap();
            let keys = KeyMaterial::from_keymat(suite, &octets("key"), &octets("integrity_key"));
            let spi = Spi::new(vector["spi"].as_u64().unwrap() as u32).unwrap();
            let sa = SaParams {
                esn: vector["esn"] == true,
                ..SaParams::tunnel(spi, Direction::Outbound, suite, keys.unwrap())
            };
            let reference = Reference::new(&sa).unwrap();
            let sequence = vector["sequence"].as_u64().unwrap();
            let found = reference.check(&sealed[OUTER..], &plain, sequence).unwrap();
            assert_eq!(found, Ok(()), "{name}");
            checked.insert((name, sa.esn));
        }
        assert_eq!(checked.len(), Suite::all().count() * 2);
    }

    #[test]
    fn it_agrees_with_itself_and_finds_every_flipped_bit() {
        for suite in Suite::all() {
            let sa = packet::sa(Direction::Outbound, suite, 3);
            let reference = Reference::new(&sa).unwrap();
            let plain = packet::inner(61);
            let sealed = reference.seal(7, &plain).unwrap();
            assert_eq!(
                reference.check(&sealed, &plain, 7).unwrap(),
                Ok(()),
                "{suite}"
            );
            for bit in 0..sealed.len() * 8 {
                let mut bad = sealed.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    reference.check(&bad, &plain, 7).unwrap().is_err(),
                    "{suite}: bit {bit}"
                );
            }
            let mut other = plain.clone();
            other[60] ^= 1;
            assert_eq!(
                reference.check(&sealed, &other, 7).unwrap(),
                Err(Flaw::Octets)
            );
            for len in 0..sealed.len() {
                assert!(reference.check(&sealed[..len], &plain, 7).unwrap().is_err());
            }
        }
    }
}
