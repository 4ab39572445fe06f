// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SK payload: encrypted and authenticated messages (RFC 7296 §3.14, RFC 5282), and SKF, a
//! fragment of one (RFC 7383 §2.5). A puzzle's solution may stand in front (RFC 8019 §7.2.2).

use zerocopy::IntoBytes;

use crate::crypto::{Crypto, CryptoError};
use crate::keymat::IkeKeys;
use crate::proposal::IkeSuite;
use crate::wire::{Chain, HEADER_LEN, Header, exchange, payload};

const GENERIC_HEADER: usize = 4;
/// Number and total of a fragment.
const FRAGMENT_HEADER: usize = 4;

/// What a side's messages are sealed and opened with.
#[derive(Clone, Copy)]
pub(crate) struct Sealer<'a> {
    pub(crate) crypto: &'a dyn Crypto,
    pub(crate) suite: &'a IkeSuite,
    pub(crate) keys: &'a IkeKeys,
    /// Whose messages: the original initiator's, or the responder's.
    pub(crate) by_initiator: bool,
}

/// A fragment of a message, opened.
#[derive(Debug)]
pub(crate) struct Fragment {
    pub(crate) number: u16,
    pub(crate) total: u16,
    /// Type of the message's first payload; in the first fragment only.
    pub(crate) first: u8,
    /// Flags of its own payload.
    pub(crate) flags: u8,
    pub(crate) body: Vec<u8>,
}

/// A message, opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Type of the first payload inside.
    pub(crate) first: u8,
    /// Flags of the SK payload, or of the first fragment's.
    pub(crate) flags: u8,
    /// The payloads inside.
    pub(crate) body: Vec<u8>,
}

/// What stands in front of what is encrypted.
pub(crate) struct Front<'m> {
    /// A puzzle's solution.
    pub(crate) solution: Option<&'m [u8]>,
    /// Type of the payload behind.
    pub(crate) kind: u8,
    /// Where that begins.
    at: usize,
}

/// Reads it: a solution stands in IKE_AUTH alone, and nothing else anywhere.
pub(crate) fn front(message: &[u8]) -> Result<Front<'_>, CryptoError> {
    let header = Header::parse(message).map_err(|_| CryptoError)?;
    let kind = header.next_payload;
    if kind != payload::PUZZLE_SOLUTION || header.exchange != exchange::IKE_AUTH {
        return Ok(Front {
            solution: None,
            kind,
            at: HEADER_LEN,
        });
    }
    let rest = message.get(HEADER_LEN..).ok_or(CryptoError)?;
    let &[kind, _, high, low] = rest.first_chunk::<GENERIC_HEADER>().ok_or(CryptoError)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let solution = rest.get(GENERIC_HEADER..len).ok_or(CryptoError)?;
    Ok(Front {
        solution: Some(solution),
        kind,
        at: HEADER_LEN + len,
    })
}

impl Sealer<'_> {
    fn keys(&self) -> (&[u8], &[u8]) {
        let (encryption, integrity) = (self.keys.encryption(), self.keys.integrity());
        if self.by_initiator {
            (encryption.0, integrity.0)
        } else {
            (encryption.1, integrity.1)
        }
    }

    fn block(&self) -> usize {
        if self.suite.encryption.is_aead() {
            1
        } else {
            // Of DES half of it would do; no more is wanted than whole blocks.
            16
        }
    }

    fn icv_len(&self) -> usize {
        let integrity = self.suite.integrity;
        integrity.map_or(self.suite.encryption.icv_len(), |integrity| {
            integrity.icv_len()
        })
    }

    /// Octets of a message with so much inside, behind so much of header.
    fn sealed_len(&self, head: usize, body: usize) -> usize {
        let padded = (body + 1).next_multiple_of(self.block());
        HEADER_LEN + head + self.suite.encryption.iv_len() + padded + self.icv_len()
    }

    /// Seals payloads into one message, or into fragments of at most so many octets; a solution goes in
    /// front, of the first fragment (RFC 7383 §2.5.3).
    pub(crate) fn seal_within(
        &self,
        header: Header,
        (front, chain): (&[u8], &Chain),
        most: usize,
    ) -> Result<Vec<Vec<u8>>, CryptoError> {
        let before = match front.is_empty() {
            true => 0,
            false => GENERIC_HEADER + front.len(),
        };
        if self.sealed_len(before + GENERIC_HEADER, chain.octets().len()) <= most {
            let head = [chain.first(), 0];
            let kind = payload::SK;
            let sealed = self.encrypt(header, (front, kind, head, &[]), chain.octets())?;
            return Ok(vec![sealed]);
        }
        let head = before + GENERIC_HEADER + FRAGMENT_HEADER;
        // What is left of whole blocks, less the octet that tells the padding.
        let room = most.saturating_sub(self.sealed_len(head, 0) - self.block());
        let room = (room / self.block() * self.block())
            .saturating_sub(1)
            .max(1);
        let parts = chain.octets().chunks(room);
        let total = u16::try_from(parts.len()).map_err(|_| CryptoError)?;
        let numbered = (1..=total).zip(parts);
        let sealed = numbered.map(|(number, part)| {
            let first = if number == 1 { chain.first() } else { 0 };
            let mut place = number.to_be_bytes().to_vec();
            place.extend(total.to_be_bytes());
            let front = if number == 1 { front } else { &[] };
            self.encrypt(header, (front, payload::SKF, [first, 0], &place), part)
        });
        sealed.collect()
    }

    fn encrypt(
        &self,
        mut header: Header,
        (front, kind, head, place): (&[u8], u8, [u8; 2], &[u8]),
        body: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (encryption_key, integrity_key) = self.keys();
        let mut iv = self.keys.next_iv()?.to_vec();
        // With an AEAD it must not come again, and may be foretold; else it must not.
        if !self.suite.encryption.is_aead() {
            iv.resize(self.suite.encryption.iv_len(), 0);
            self.crypto.random(&mut iv);
        }
        let mut body = body.to_vec();
        let padding = (body.len() + 1).next_multiple_of(self.block()) - body.len() - 1;
        body.extend(std::iter::repeat_n(0, padding));
        body.push(padding as u8);
        let payload_len = GENERIC_HEADER + place.len() + iv.len() + body.len() + self.icv_len();
        let mut before = Vec::new();
        header.next_payload = kind;
        if !front.is_empty() {
            header.next_payload = payload::PUZZLE_SOLUTION;
            let front_len = u16::try_from(GENERIC_HEADER + front.len()).map_err(|_| CryptoError)?;
            before.extend([kind, 0]);
            before.extend(front_len.to_be_bytes());
            before.extend(front);
        }
        header.len = ((HEADER_LEN + before.len() + payload_len) as u32).into();
        let mut message = header.as_bytes().to_vec();
        message.extend(before);
        message.extend(head);
        let payload_len = u16::try_from(payload_len).map_err(|_| CryptoError)?;
        message.extend(payload_len.to_be_bytes());
        message.extend(place);
        match self.suite.integrity {
            None => {
                let encryption = self.suite.encryption;
                self.crypto
                    .aead_seal(encryption, encryption_key, &iv, &message, &mut body)?;
                message.extend(iv);
                message.extend(body);
            }
            Some(integrity) => {
                let encryption = self.suite.encryption;
                self.crypto
                    .cbc(encryption, true, encryption_key, &iv, &mut body)?;
                message.extend(iv);
                message.extend(body);
                let icv = self
                    .crypto
                    .integrity(integrity, integrity_key, &[&message])?;
                message.extend(icv);
            }
        }
        Ok(message)
    }

    /// Opens a message.
    pub(crate) fn open(&self, message: &[u8]) -> Result<Opened, CryptoError> {
        let (opened, _) = self.decrypt(payload::SK, GENERIC_HEADER, message)?;
        Ok(opened)
    }

    /// Opens a fragment; its number lies within its total.
    pub(crate) fn open_fragment(&self, message: &[u8]) -> Result<Fragment, CryptoError> {
        let head = GENERIC_HEADER + FRAGMENT_HEADER;
        let (opened, place) = self.decrypt(payload::SKF, head, message)?;
        let &[a, b, c, d] = place else {
            return Err(CryptoError);
        };
        let (number, total) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if number == 0 || number > total {
            return Err(CryptoError);
        }
        Ok(Fragment {
            number,
            total,
            first: opened.first,
            flags: opened.flags,
            body: opened.body,
        })
    }

    /// What is inside, and what stands between the generic header and the IV.
    fn decrypt<'m>(
        &self,
        kind: u8,
        head_len: usize,
        message: &'m [u8],
    ) -> Result<(Opened, &'m [u8]), CryptoError> {
        let (encryption_key, integrity_key) = self.keys();
        let front = front(message)?;
        let (head, rest) = message
            .split_at_checked(front.at + head_len)
            .ok_or(CryptoError)?;
        let (_, own) = head.split_at_checked(front.at).ok_or(CryptoError)?;
        let &[first, flags, high, low, ref place @ ..] = own else {
            return Err(CryptoError);
        };
        let payload_len = usize::from(u16::from_be_bytes([high, low]));
        if front.kind != kind || payload_len != message.len() - front.at {
            return Err(CryptoError);
        }
        let iv_len = self.suite.encryption.iv_len();
        let (iv, body) = rest.split_at_checked(iv_len).ok_or(CryptoError)?;
        let mut body = body.to_vec();
        match self.suite.integrity {
            None => {
                let encryption = self.suite.encryption;
                self.crypto
                    .aead_open(encryption, encryption_key, iv, head, &mut body)?;
            }
            Some(integrity) => {
                let signed = message
                    .len()
                    .checked_sub(integrity.icv_len())
                    .ok_or(CryptoError)?;
                let (signed, icv) = message.split_at_checked(signed).ok_or(CryptoError)?;
                let expected = self.crypto.integrity(integrity, integrity_key, &[signed])?;
                if !self.crypto.equal(&expected, icv) {
                    return Err(CryptoError);
                }
                let len = body.len().checked_sub(icv.len()).ok_or(CryptoError)?;
                body.truncate(len);
                let encryption = self.suite.encryption;
                self.crypto
                    .cbc(encryption, false, encryption_key, iv, &mut body)?;
            }
        }
        let padding = usize::from(body.pop().ok_or(CryptoError)?);
        let len = body.len().checked_sub(padding).ok_or(CryptoError)?;
        body.truncate(len);
        Ok((Opened { first, flags, body }, place))
    }
}
