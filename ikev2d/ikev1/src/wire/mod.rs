// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ISAKMP messages on the wire (RFC 2408 §3). Header and generic payload header have kept their shape in
//! IKEv2, so both versions share them.

pub mod attribute;
pub mod identity;
pub mod notify;
pub mod sa;
pub mod transaction;

pub use ikev2d_proto::wire::{Chain, HEADER_LEN, Header, Payload, Reader, WireError};
use zerocopy::FromBytes;

/// Version 1.0.
pub const VERSION: u8 = 0x10;
/// Everything behind the header is encrypted.
pub const FLAG_ENCRYPTED: u8 = 0x01;
/// The SA is not to be used before CONNECTED has come.
pub const FLAG_COMMIT: u8 = 0x02;
/// Authenticated and not encrypted.
pub const FLAG_AUTH_ONLY: u8 = 0x04;
/// Payloads of one message, at most.
const MOST_PAYLOADS: usize = 32;

/// Exchange types.
pub mod exchange {
    /// Identity protection: main mode.
    pub const MAIN: u8 = 2;
    /// Aggressive mode.
    pub const AGGRESSIVE: u8 = 4;
    /// Informational.
    pub const INFORMATIONAL: u8 = 5;
    /// Transaction: XAUTH and mode config.
    pub const TRANSACTION: u8 = 6;
    /// Quick mode.
    pub const QUICK: u8 = 32;
}

/// Payload types.
pub mod payload {
    /// Security association.
    pub const SA: u8 = 1;
    /// Proposal.
    pub const PROPOSAL: u8 = 2;
    /// Transform.
    pub const TRANSFORM: u8 = 3;
    /// Key exchange.
    pub const KE: u8 = 4;
    /// Identity.
    pub const ID: u8 = 5;
    /// Certificate.
    pub const CERT: u8 = 6;
    /// Certificate request.
    pub const CERTREQ: u8 = 7;
    /// Hash.
    pub const HASH: u8 = 8;
    /// Signature.
    pub const SIG: u8 = 9;
    /// Nonce.
    pub const NONCE: u8 = 10;
    /// Notification.
    pub const NOTIFY: u8 = 11;
    /// Deletion.
    pub const DELETE: u8 = 12;
    /// Vendor id.
    pub const VENDOR: u8 = 13;
    /// Attributes of mode config.
    pub const ATTRIBUTES: u8 = 14;
    /// Hash of an address (RFC 3947 §3.2).
    pub const NAT_D: u8 = 20;
    /// Original address (RFC 3947 §5.2).
    pub const NAT_OA: u8 = 21;
    /// Hash of an address, as the drafts before RFC 3947 number it.
    pub const NAT_D_DRAFT: u8 = 130;
    /// Original address, as the drafts number it.
    pub const NAT_OA_DRAFT: u8 = 131;
    /// A fragment of a message.
    pub const FRAGMENT: u8 = 132;
}

/// Reads the header and checks version and length.
///
/// # Errors
/// [`WireError`].
pub fn parse_header(message: &[u8]) -> Result<Header, WireError> {
    let (header, _) = Header::read_from_prefix(message).map_err(|_| WireError::Length)?;
    if header.version >> 4 != 1 {
        let found = header.version;
        return Err(WireError::Version { found });
    }
    if header.len.get() as usize != message.len() {
        return Err(WireError::Length);
    }
    Ok(header)
}

/// A chain of payloads.
#[derive(Debug)]
pub struct Payloads<'m> {
    /// In their order.
    pub all: Vec<Payload<'m>>,
    /// Octets of the chain; with a padded one there is more behind it.
    pub len: usize,
}

impl<'m> Payloads<'m> {
    /// Splits a chain. What was encrypted is padded to whole blocks (RFC 2408 leaves the padding to the
    /// cipher); what was not must end with its last payload.
    ///
    /// # Errors
    /// Lengths that don't fit, or too many payloads.
    pub fn parse(first: u8, octets: &'m [u8], padded: bool) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let mut all = Vec::new();
        let mut kind = first;
        while kind != 0 {
            if all.len() == MOST_PAYLOADS {
                return Err(WireError::TooMany);
            }
            let next = reader.u8()?;
            // RFC 2408 §3.2: zero. Garbage out of a wrong key seldom is.
            if reader.u8()? != 0 {
                return Err(WireError::Malformed { what: "payload" });
            }
            let len = usize::from(reader.u16()?)
                .checked_sub(4)
                .ok_or(WireError::Length)?;
            let body = reader.take(len)?;
            all.push(Payload { kind, body });
            kind = next;
        }
        let len = octets.len() - reader.rest().len();
        if padded || reader.is_empty() {
            Ok(Self { all, len })
        } else {
            Err(WireError::Length)
        }
    }

    /// Bodies of one type.
    pub fn of(&self, kind: u8) -> impl Iterator<Item = &'m [u8]> {
        self.all
            .iter()
            .filter(move |part| part.kind == kind)
            .map(|part| part.body)
    }

    /// The only payload of a type.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn one(&self, kind: u8, what: &'static str) -> Result<&'m [u8], WireError> {
        let mut of = self.of(kind);
        match (of.next(), of.next()) {
            (Some(body), None) => Ok(body),
            _ => Err(WireError::Malformed { what }),
        }
    }

    /// The only payload of a type, which need not be there.
    ///
    /// # Errors
    /// There is more than one.
    pub fn optional(&self, kind: u8, what: &'static str) -> Result<Option<&'m [u8]>, WireError> {
        let mut of = self.of(kind);
        match (of.next(), of.next()) {
            (body, None) => Ok(body),
            _ => Err(WireError::Malformed { what }),
        }
    }
}

/// A chain that begins with a HASH over all that follows.
pub(crate) fn with_hash(hash: &[u8], rest: &Chain) -> (u8, Vec<u8>) {
    let mut octets = vec![rest.first(), 0];
    octets.extend(((hash.len() + 4) as u16).to_be_bytes());
    octets.extend(hash);
    octets.extend(rest.octets());
    (payload::HASH, octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I01: lengths 0 to 3, beyond the end, a chain that leads into itself, 33 payloads.
    #[test]
    fn lengths_that_lie_are_refused() {
        for len in [0u8, 1, 2, 3, 9, 255] {
            let octets = [0, 0, 0, len, 1, 2, 3, 4];
            assert!(Payloads::parse(payload::VENDOR, &octets, false).is_err());
        }
        let good = [0, 0, 0, 8, 1, 2, 3, 4];
        assert!(Payloads::parse(payload::VENDOR, &good, false).is_ok());
        for len in 0..good.len() {
            assert!(Payloads::parse(payload::VENDOR, &good[..len], false).is_err());
        }
        let mut many = Chain::default();
        for _ in 0..MOST_PAYLOADS {
            many.push(payload::VENDOR, &[]);
        }
        assert!(Payloads::parse(many.first(), many.octets(), false).is_ok());
        many.push(payload::VENDOR, &[]);
        assert_eq!(
            Payloads::parse(many.first(), many.octets(), false).err(),
            Some(WireError::TooMany)
        );
    }

    #[test]
    fn padding_is_taken_only_where_it_may_be() {
        let octets = [0, 0, 0, 5, 7, 0, 0, 0];
        let padded = Payloads::parse(payload::HASH, &octets, true).unwrap();
        assert_eq!((padded.all.len(), padded.len), (1, 5));
        assert!(Payloads::parse(payload::HASH, &octets, false).is_err());
    }
}
