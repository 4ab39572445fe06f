// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration payload (RFC 7296 §3.15).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Reader, WireError};

/// Attributes of one payload, at most.
const MOST: usize = 256;

/// What a payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// CFG_REQUEST.
    Request = 1,
    /// CFG_REPLY.
    Reply = 2,
    /// CFG_SET.
    Set = 3,
    /// CFG_ACK.
    Ack = 4,
}

/// An attribute; without a value it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// INTERNAL_IP4_ADDRESS.
    Ip4Address(Option<Ipv4Addr>),
    /// INTERNAL_IP4_NETMASK.
    Ip4Netmask(Option<Ipv4Addr>),
    /// INTERNAL_IP4_DNS.
    Ip4Dns(Option<Ipv4Addr>),
    /// INTERNAL_IP4_NBNS.
    Ip4Nbns(Option<Ipv4Addr>),
    /// INTERNAL_IP4_DHCP.
    Ip4Dhcp(Option<Ipv4Addr>),
    /// APPLICATION_VERSION.
    ApplicationVersion(Vec<u8>),
    /// INTERNAL_IP6_ADDRESS, with its prefix length.
    Ip6Address(Option<(Ipv6Addr, u8)>),
    /// INTERNAL_IP6_DNS.
    Ip6Dns(Option<Ipv6Addr>),
    /// INTERNAL_IP6_DHCP.
    Ip6Dhcp(Option<Ipv6Addr>),
    /// INTERNAL_IP4_SUBNET: address and mask.
    Ip4Subnet(Option<(Ipv4Addr, Ipv4Addr)>),
    /// SUPPORTED_ATTRIBUTES.
    Supported(Vec<u16>),
    /// INTERNAL_IP6_SUBNET, with its prefix length.
    Ip6Subnet(Option<(Ipv6Addr, u8)>),
    /// Any other: reserved (5, 9 and 11, which RFC 4306 had), unknown, or private.
    Other(u16, Vec<u8>),
}

/// Numbers of the attributes that are known.
pub const KNOWN: [u16; 12] = [1, 2, 3, 4, 6, 7, 8, 10, 12, 13, 14, 15];

/// What is told of ourselves where it is asked for: what we know of, and what we are (RFC 7296 §2.20,
/// §3.15.1).
pub fn about_us(asked: &[Attribute], application_version: &str) -> Vec<Attribute> {
    let asks = |wanted: fn(&Attribute) -> bool| asked.iter().any(wanted);
    let supported = asks(|attribute| matches!(attribute, Attribute::Supported(_)));
    let version = asks(|attribute| matches!(attribute, Attribute::ApplicationVersion(_)));
    let ours = || application_version.as_bytes().to_vec();
    let told = [
        supported.then(|| Attribute::Supported(KNOWN.to_vec())),
        version.then(|| Attribute::ApplicationVersion(ours())),
    ];
    told.into_iter().flatten().collect()
}

fn v4(value: &[u8]) -> Result<Option<Ipv4Addr>, WireError> {
    match value {
        [] => Ok(None),
        value => {
            let octets: [u8; 4] = value.try_into().map_err(|_| WireError::Length)?;
            Ok(Some(octets.into()))
        }
    }
}

fn v6(value: &[u8]) -> Result<Option<Ipv6Addr>, WireError> {
    match value {
        [] => Ok(None),
        value => {
            let octets: [u8; 16] = value.try_into().map_err(|_| WireError::Length)?;
            Ok(Some(octets.into()))
        }
    }
}

fn v6_prefix(value: &[u8]) -> Result<Option<(Ipv6Addr, u8)>, WireError> {
    match value.split_last() {
        None => Ok(None),
        Some((bits @ 0..=128, address)) => Ok(v6(address)?.map(|address| (address, *bits))),
        Some(_) => Err(WireError::Malformed {
            what: "prefix length",
        }),
    }
}

impl Attribute {
    /// Reads an attribute's value.
    ///
    /// # Errors
    /// A length that does not fit.
    pub fn read(number: u16, value: &[u8]) -> Result<Self, WireError> {
        Ok(match number {
            1 => Self::Ip4Address(v4(value)?),
            2 => Self::Ip4Netmask(v4(value)?),
            3 => Self::Ip4Dns(v4(value)?),
            4 => Self::Ip4Nbns(v4(value)?),
            6 => Self::Ip4Dhcp(v4(value)?),
            7 => Self::ApplicationVersion(value.to_vec()),
            8 => Self::Ip6Address(v6_prefix(value)?),
            10 => Self::Ip6Dns(v6(value)?),
            12 => Self::Ip6Dhcp(v6(value)?),
            13 => Self::Ip4Subnet(match value.split_at_checked(4) {
                Some((address, mask)) => v4(address)?.zip(v4(mask)?),
                None if value.is_empty() => None,
                None => return Err(WireError::Length),
            }),
            14 => Self::Supported(match value.as_chunks::<2>() {
                (numbers, []) => numbers.iter().map(|n| u16::from_be_bytes(*n)).collect(),
                _ => return Err(WireError::Length),
            }),
            15 => Self::Ip6Subnet(v6_prefix(value)?),
            other => Self::Other(other, value.to_vec()),
        })
    }

    /// Its number and value.
    pub fn emit(&self) -> (u16, Vec<u8>) {
        let v4 = |address: &Option<Ipv4Addr>| address.map_or(Vec::new(), |a| a.octets().to_vec());
        let v6 = |address: &Option<Ipv6Addr>| address.map_or(Vec::new(), |a| a.octets().to_vec());
        let prefix = |prefix: &Option<(Ipv6Addr, u8)>| {
            prefix.map_or(Vec::new(), |(a, bits)| [&a.octets()[..], &[bits]].concat())
        };
        match self {
            Self::Ip4Address(address) => (1, v4(address)),
            Self::Ip4Netmask(mask) => (2, v4(mask)),
            Self::Ip4Dns(address) => (3, v4(address)),
            Self::Ip4Nbns(address) => (4, v4(address)),
            Self::Ip4Dhcp(address) => (6, v4(address)),
            Self::ApplicationVersion(text) => (7, text.clone()),
            Self::Ip6Address(address) => (8, prefix(address)),
            Self::Ip6Dns(address) => (10, v6(address)),
            Self::Ip6Dhcp(address) => (12, v6(address)),
            Self::Ip4Subnet(net) => {
                let octets = |(a, mask): (Ipv4Addr, Ipv4Addr)| [a.octets(), mask.octets()].concat();
                (13, net.map_or(Vec::new(), octets))
            }
            Self::Supported(numbers) => {
                (14, numbers.iter().flat_map(|n| n.to_be_bytes()).collect())
            }
            Self::Ip6Subnet(net) => (15, prefix(net)),
            Self::Other(number, value) => (*number, value.clone()),
        }
    }
}

/// Reads a payload's body.
///
/// # Errors
/// Lengths that do not fit, an unknown kind, or too many attributes.
pub fn parse(body: &[u8]) -> Result<(Kind, Vec<Attribute>), WireError> {
    let mut reader = Reader::new(body);
    let kind = match reader.u8()? {
        1 => Kind::Request,
        2 => Kind::Reply,
        3 => Kind::Set,
        4 => Kind::Ack,
        _ => {
            let what = "kind of configuration";
            return Err(WireError::Malformed { what });
        }
    };
    reader.take(3)?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        if attributes.len() == MOST {
            return Err(WireError::TooMany);
        }
        // The first bit is reserved.
        let number = reader.u16()? & 0x7fff;
        let len = reader.u16()?;
        attributes.push(Attribute::read(number, reader.take(len.into())?)?);
    }
    Ok((kind, attributes))
}

/// Emits a body.
pub fn emit(kind: Kind, attributes: &[Attribute]) -> Vec<u8> {
    let mut out = vec![kind as u8, 0, 0, 0];
    for attribute in attributes {
        let (number, value) = attribute.emit();
        out.extend(number.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S60 to S75: every attribute with and without a value, and each kind of payload.
    #[test]
    fn every_attribute_survives_the_wire() {
        use Attribute::*;
        let (a4, a6) = (
            Ipv4Addr::new(10, 3, 0, 1),
            Ipv6Addr::from(0x2001_0db8u128 << 96),
        );
        let all = vec![
            Ip4Address(Some(a4)),
            Ip4Netmask(Some(a4)),
            Ip4Dns(Some(a4)),
            Ip4Nbns(Some(a4)),
            Other(5, vec![1, 2, 3, 4]),
            Ip4Dhcp(Some(a4)),
            ApplicationVersion(b"1.0".to_vec()),
            Ip6Address(Some((a6, 64))),
            Other(9, vec![]),
            Ip6Dns(Some(a6)),
            Other(11, vec![7]),
            Ip6Dhcp(Some(a6)),
            Ip4Subnet(Some((a4, Ipv4Addr::new(255, 255, 0, 0)))),
            Supported(KNOWN.to_vec()),
            Ip6Subnet(Some((a6, 48))),
            Other(0x7001, b"private".to_vec()),
        ];
        let asked = vec![
            Ip4Address(None),
            Ip4Netmask(None),
            Ip4Dns(None),
            Ip4Nbns(None),
            Ip4Dhcp(None),
            ApplicationVersion(vec![]),
            Ip6Address(None),
            Ip6Dns(None),
            Ip6Dhcp(None),
            Ip4Subnet(None),
            Supported(vec![]),
            Ip6Subnet(None),
        ];
        for kind in [Kind::Request, Kind::Reply, Kind::Set, Kind::Ack] {
            for attributes in [&all, &asked, &vec![]] {
                let body = emit(kind, attributes);
                assert_eq!(parse(&body), Ok((kind, attributes.clone())));
            }
        }
    }

    /// RFC 7296 §3.15.1, written out by hand.
    #[test]
    fn octets_are_as_the_rfc_draws_them() {
        let body = [
            1, 0, 0, 0, // CFG_REQUEST
            0, 1, 0, 0, // INTERNAL_IP4_ADDRESS()
            0x80, 3, 0, 4, 192, 0, 2, 53, // a reserved bit, INTERNAL_IP4_DNS
            0, 13, 0, 8, 192, 0, 2, 0, 255, 255, 255, 192,
        ];
        let expected = vec![
            Attribute::Ip4Address(None),
            Attribute::Ip4Dns(Some(Ipv4Addr::new(192, 0, 2, 53))),
            Attribute::Ip4Subnet(Some((
                Ipv4Addr::new(192, 0, 2, 0),
                Ipv4Addr::new(255, 255, 255, 192),
            ))),
        ];
        assert_eq!(parse(&body), Ok((Kind::Request, expected)));
    }

    /// I09: attributes past the end, into the next one, of no length or of another one, and too many.
    #[test]
    fn what_is_malformed_is_refused() {
        for body in [
            &[][..],
            &[1, 0, 0],
            &[5, 0, 0, 0],
            &[1, 0, 0, 0, 0, 1, 0, 4, 10, 0, 0],
            &[1, 0, 0, 0, 0, 1, 0, 3, 10, 0, 0],
            &[1, 0, 0, 0, 0, 13, 0, 4, 10, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 13, 0, 5, 10, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 14, 0, 1, 1],
            &[1, 0, 0, 0, 0, 8, 0, 2, 1, 129],
        ] {
            assert!(parse(body).is_err(), "{body:?}");
        }
        let mut long = vec![1, 0, 0, 0];
        long.extend([0, 1, 0, 0].repeat(MOST + 1));
        assert_eq!(parse(&long), Err(WireError::TooMany));
    }
}
