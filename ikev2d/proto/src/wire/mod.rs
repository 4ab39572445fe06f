// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE messages on the wire (RFC 7296 §3).

pub mod configuration;
pub mod notify;
pub mod stream;

use thiserror::Error;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Octets of the header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Payloads of one message that are looked at.
const MOST_PAYLOADS: usize = 32;
/// Largest message.
pub const MAX_MESSAGE: usize = 65_535;

/// The message is malformed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// A length that does not fit.
    #[error("a length field does not fit the message")]
    Length,
    /// Too many payloads, proposals or selectors.
    #[error("too many parts")]
    TooMany,
    /// A payload that is not known and critical.
    #[error("unsupported critical payload {kind}")]
    Critical {
        /// Its type.
        kind: u8,
    },
    /// Another major version.
    #[error("IKE version {found:#04x}, expected 0x20")]
    Version {
        /// What it says.
        found: u8,
    },
    /// A value that makes no sense.
    #[error("malformed {what}")]
    Malformed {
        /// Which.
        what: &'static str,
    },
}

/// The IKE header (§3.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Initiator's SPI.
    pub spi_i: U64,
    /// Responder's SPI; 0 in the first message.
    pub spi_r: U64,
    /// Type of the first payload.
    pub next_payload: u8,
    /// 0x20.
    pub version: u8,
    /// [`exchange`].
    pub exchange: u8,
    /// `FLAG_…`.
    pub flags: u8,
    /// Message id.
    pub message_id: U32,
    /// Octets of the whole message.
    pub len: U32,
}

/// Sent by the original initiator.
pub const FLAG_INITIATOR: u8 = 0x08;
/// A response.
pub const FLAG_RESPONSE: u8 = 0x20;
/// Version 2.0.
pub const VERSION: u8 = 0x20;

/// Exchange types.
pub mod exchange {
    /// IKE_SA_INIT.
    pub const IKE_SA_INIT: u8 = 34;
    /// IKE_AUTH.
    pub const IKE_AUTH: u8 = 35;
    /// CREATE_CHILD_SA.
    pub const CREATE_CHILD_SA: u8 = 36;
    /// INFORMATIONAL.
    pub const INFORMATIONAL: u8 = 37;
    /// IKE_SESSION_RESUME (RFC 5723).
    pub const IKE_SESSION_RESUME: u8 = 38;
    /// IKE_INTERMEDIATE (RFC 9242).
    pub const IKE_INTERMEDIATE: u8 = 43;
    /// IKE_FOLLOWUP_KE (RFC 9370).
    pub const IKE_FOLLOWUP_KE: u8 = 44;
}

/// Payload types.
pub mod payload {
    /// Security association.
    pub const SA: u8 = 33;
    /// Key exchange.
    pub const KE: u8 = 34;
    /// Initiator's identity.
    pub const IDI: u8 = 35;
    /// Responder's identity.
    pub const IDR: u8 = 36;
    /// Certificate.
    pub const CERT: u8 = 37;
    /// Certificate request.
    pub const CERTREQ: u8 = 38;
    /// Authentication.
    pub const AUTH: u8 = 39;
    /// Nonce.
    pub const NONCE: u8 = 40;
    /// Notify.
    pub const NOTIFY: u8 = 41;
    /// Delete.
    pub const DELETE: u8 = 42;
    /// Traffic selectors, initiator's side.
    pub const TSI: u8 = 44;
    /// Traffic selectors, responder's side.
    pub const TSR: u8 = 45;
    /// Encrypted and authenticated.
    pub const SK: u8 = 46;
    /// Configuration.
    pub const CP: u8 = 47;
    /// A fragment, encrypted and authenticated (RFC 7383).
    pub const SKF: u8 = 53;
    /// A puzzle's solution (RFC 8019 §8.2).
    pub const PUZZLE_SOLUTION: u8 = 54;
    /// EAP (§3.16).
    pub const EAP: u8 = 48;
    /// Last type that RFC 7296 defines.
    pub const LAST_KNOWN: u8 = 48;
}

impl Header {
    /// Reads the header and checks version and length.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let (header, _) = Self::read_from_prefix(message).map_err(|_| WireError::Length)?;
        if header.version >> 4 != 2 {
            return Err(WireError::Version {
                found: header.version,
            });
        }
        if header.len.get() as usize != message.len() {
            return Err(WireError::Length);
        }
        Ok(header)
    }

    /// Whether it is a response.
    pub fn is_response(&self) -> bool {
        self.flags & FLAG_RESPONSE != 0
    }
}

/// A payload: its type and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'message> {
    /// Type.
    pub kind: u8,
    /// Body, behind the generic header.
    pub body: &'message [u8],
}

/// Splits a chain of payloads.
///
/// # Errors
/// Lengths that do not fit, too many payloads, or an unknown critical one.
pub fn payloads(first: u8, octets: &[u8]) -> Result<Vec<Payload<'_>>, WireError> {
    let mut all = Vec::new();
    each_payload(first, octets, |payload| all.push(payload))?;
    Ok(all)
}

/// The same, one after another: what was seen counts only if the end is well.
pub(crate) fn each_payload<'m>(
    first: u8,
    octets: &'m [u8],
    mut each: impl FnMut(Payload<'m>),
) -> Result<(), WireError> {
    let mut reader = Reader::new(octets);
    let mut count = 0;
    let mut kind = first;
    while kind != 0 {
        if count == MOST_PAYLOADS {
            return Err(WireError::TooMany);
        }
        count += 1;
        let next = reader.u8()?;
        let critical = reader.u8()? & 0x80 != 0;
        let len = usize::from(reader.u16()?)
            .checked_sub(4)
            .ok_or(WireError::Length)?;
        let body = reader.take(len)?;
        if critical && !(payload::SA..=payload::LAST_KNOWN).contains(&kind) {
            return Err(WireError::Critical { kind });
        }
        each(Payload { kind, body });
        if kind == payload::SK {
            // What follows in the chain is inside it.
            break;
        }
        kind = next;
    }
    if reader.is_empty() {
        Ok(())
    } else {
        Err(WireError::Length)
    }
}

/// Builds a chain of payloads.
#[derive(Debug, Default)]
pub struct Chain {
    first: u8,
    octets: Vec<u8>,
    /// Where the next payload's type goes.
    last: Option<usize>,
}

impl Chain {
    /// Adds a payload.
    pub fn push(&mut self, kind: u8, body: &[u8]) {
        self.push_with(kind, 0, body);
    }

    /// Adds a payload with its critical bit and the reserved ones (§3.2), in one octet.
    pub(crate) fn push_with(&mut self, kind: u8, bits: u8, body: &[u8]) {
        match self.last {
            Some(at) => {
                if let Some(next) = self.octets.get_mut(at) {
                    *next = kind;
                }
            }
            None => self.first = kind,
        }
        self.last = Some(self.octets.len());
        self.octets.extend([0, bits]);
        self.octets.extend(((body.len() + 4) as u16).to_be_bytes());
        self.octets.extend(body);
    }

    /// Adds a notification without protocol and SPI.
    pub fn notify(&mut self, kind: u16, data: &[u8]) {
        self.push(payload::NOTIFY, &notify::emit(0, &[], kind, data));
    }

    /// Type of the first payload.
    pub fn first(&self) -> u8 {
        self.first
    }

    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// A whole message in the clear.
    pub fn into_message(self, mut header: Header) -> Vec<u8> {
        header.next_payload = self.first;
        header.len = ((HEADER_LEN + self.octets.len()) as u32).into();
        let mut message = header.as_bytes().to_vec();
        message.extend(self.octets);
        message
    }
}

/// Reads octets one after another; every step is checked.
#[derive(Clone, Debug)]
pub struct Reader<'octets> {
    rest: &'octets [u8],
}

impl<'octets> Reader<'octets> {
    /// From the front.
    pub fn new(octets: &'octets [u8]) -> Self {
        Self { rest: octets }
    }

    /// The next octets.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'octets [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next octet.
    ///
    /// # Errors
    /// There is none.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        let (octet, rest) = self.rest.split_first().ok_or(WireError::Length)?;
        self.rest = rest;
        Ok(*octet)
    }

    /// The next two octets.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        let (octets, rest) = self.rest.split_first_chunk().ok_or(WireError::Length)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*octets))
    }

    /// Everything that is left.
    pub fn rest(&self) -> &'octets [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
