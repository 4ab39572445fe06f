// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Identities (RFC 7296 §3.5): as they are written, as they are sent, and which patterns match them.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::crypto::Crypto;
use crate::wire::{Reader, WireError};

/// An identity (RFC 7296 §3.5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Whoever has the secret; for the peer only.
    Any,
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_DER_ASN1_DN: a distinguished name in DER.
    Dn(Vec<u8>),
    /// ID_KEY_ID, and every other type with its number.
    Opaque(u8, Vec<u8>),
}

const ID_IPV4: u8 = 1;
const ID_FQDN: u8 = 2;
const ID_EMAIL: u8 = 3;
const ID_IPV6: u8 = 5;
const ID_DN: u8 = 9;
/// Number of ID_KEY_ID.
pub const ID_KEY_ID: u8 = 11;

impl Identity {
    /// Reads strongSwan's notation: `%any`, an address, `user@host`, `@fqdn`, `keyid:…`, or a name.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() || text == "%any" {
            Self::Any
        } else if let Ok(address) = text.parse() {
            Self::Address(address)
        } else if let Some(key_id) = text.strip_prefix("keyid:") {
            Self::Opaque(ID_KEY_ID, key_id.as_bytes().to_vec())
        } else if let Some(name) = text.strip_prefix('@') {
            Self::Fqdn(name.to_owned())
        } else if text.contains('@') {
            Self::Email(text.to_owned())
        } else {
            Self::Fqdn(text.to_owned())
        }
    }

    /// Whom a peer calls itself by an EAP identity, in the same notation; never [`Any`](Self::Any), which
    /// is nobody's name.
    pub fn called(octets: &[u8]) -> Self {
        let text = std::str::from_utf8(octets).ok();
        let text = text.filter(|text| !text.chars().any(char::is_control));
        match text.map(Self::parse) {
            Some(Self::Any) | None => Self::Opaque(ID_KEY_ID, octets.to_vec()),
            Some(identity) => identity,
        }
    }

    /// Whether a peer's identity fits this configured one; names ignore case.
    pub fn matches(&self, peer: &Self) -> bool {
        match (self, peer) {
            (Self::Any, _) => true,
            (Self::Fqdn(a), Self::Fqdn(b)) | (Self::Email(a), Self::Email(b)) => {
                a.eq_ignore_ascii_case(b)
            }
            (a, b) => a == b,
        }
    }

    /// As [`matches`](Self::matches), with names compared as X.500 wants it.
    pub fn matches_by(&self, crypto: &dyn Crypto, peer: &Self) -> bool {
        match (self, peer) {
            (Self::Dn(a), Self::Dn(b)) => crypto.same_name(a, b),
            _ => self.matches(peer),
        }
    }

    /// Equal for identities that match each other by [`matches_by`](Self::matches_by).
    pub fn hash_by(&self, crypto: &dyn Crypto, hasher: &mut impl Hasher) {
        match self {
            Self::Fqdn(name) | Self::Email(name) => {
                name.bytes()
                    .for_each(|octet| hasher.write_u8(octet.to_ascii_lowercase()));
                hasher.write_u8(0xff);
            }
            Self::Dn(name) => crypto.name_key(name).hash(hasher),
            other => other.hash(hasher),
        }
    }

    /// Body of an ID payload.
    pub fn emit(&self) -> Vec<u8> {
        let (kind, data) = match self {
            Self::Any => (ID_KEY_ID, Vec::new()),
            Self::Address(IpAddr::V4(v4)) => (ID_IPV4, v4.octets().to_vec()),
            Self::Address(IpAddr::V6(v6)) => (ID_IPV6, v6.octets().to_vec()),
            Self::Fqdn(name) => (ID_FQDN, name.as_bytes().to_vec()),
            Self::Email(name) => (ID_EMAIL, name.as_bytes().to_vec()),
            Self::Dn(name) => (ID_DN, name.clone()),
            Self::Opaque(kind, data) => (*kind, data.clone()),
        };
        let mut out = vec![kind, 0, 0, 0];
        out.extend(data);
        out
    }

    /// From the body of an ID payload.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn read(body: &[u8]) -> Result<Self, WireError> {
        let malformed = WireError::Malformed { what: "identity" };
        let mut reader = Reader::new(body);
        let kind = reader.u8()?;
        reader.take(3)?;
        let data = reader.rest();
        let text = || {
            let text = std::str::from_utf8(data).map_err(|_| malformed)?;
            let plain = !text.is_empty() && text.chars().all(|c| !c.is_control());
            if plain {
                Ok(text.to_owned())
            } else {
                Err(malformed)
            }
        };
        Ok(match kind {
            ID_IPV4 => {
                let octets: [u8; 4] = data.try_into().map_err(|_| malformed)?;
                Self::Address(Ipv4Addr::from(octets).into())
            }
            ID_IPV6 => {
                let octets: [u8; 16] = data.try_into().map_err(|_| malformed)?;
                Self::Address(Ipv6Addr::from(octets).into())
            }
            ID_FQDN => Self::Fqdn(text()?),
            ID_EMAIL => Self::Email(text()?),
            ID_DN => Self::Dn(data.to_vec()),
            kind => Self::Opaque(kind, data.to_vec()),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Address(address) => address.fmt(f),
            Self::Fqdn(name) | Self::Email(name) => f.write_str(name),
            Self::Dn(name) => {
                f.write_str("dn:")?;
                name.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
            Self::Opaque(kind, data) => {
                write!(f, "{kind}:")?;
                data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
