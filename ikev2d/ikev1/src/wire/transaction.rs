// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The attributes payload of a transaction (draft-dukes-ike-mode-cfg-02 §3.2).

use ikev2d_proto::wire::configuration::{Attribute as Given, Kind};

use super::attribute::{self, Attribute};
use super::{Reader, WireError};

/// Attributes of XAUTH (draft-beaulieu-ike-xauth-02 §6.2).
pub mod xauth {
    /// How the user proves itself.
    pub const TYPE: u16 = 16520;
    /// Its name.
    pub const USER_NAME: u16 = 16521;
    /// Its password.
    pub const USER_PASSWORD: u16 = 16522;
    /// A text for people.
    pub const MESSAGE: u16 = 16524;
    /// What came of it.
    pub const STATUS: u16 = 16527;
    /// Those that are known.
    pub const ALL: [u16; 5] = [TYPE, USER_NAME, USER_PASSWORD, MESSAGE, STATUS];
    /// [`TYPE`]: name and password.
    pub const GENERIC: u32 = 0;
    /// [`STATUS`]: the user is believed.
    pub const OK: u32 = 1;
    /// [`STATUS`]: it is not.
    pub const FAIL: u32 = 0;
}

/// What INTERNAL_IP6_ADDRESS has behind an address in IKEv2, and in no IKEv1 that keeps to the draft.
const HOST_PREFIX: u8 = 128;
const IP6_ADDRESS: u16 = 8;

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes<'octets> {
    /// What it does.
    pub kind: Kind,
    /// What ties request and reply together.
    pub identifier: u16,
    /// Its attributes.
    pub all: Vec<Attribute<'octets>>,
}

impl<'octets> Attributes<'octets> {
    /// Reads a body.
    ///
    /// # Errors
    /// Lengths that don't fit, an unknown kind, or too many attributes.
    pub fn parse(body: &'octets [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let kind = match reader.u8()? {
            1 => Kind::Request,
            2 => Kind::Reply,
            3 => Kind::Set,
            4 => Kind::Ack,
            _ => {
                let what = "kind of transaction";
                return Err(WireError::Malformed { what });
            }
        };
        reader.u8()?;
        let identifier = reader.u16()?;
        let all = attribute::parse(reader.rest())?;
        Ok(Self {
            kind,
            identifier,
            all,
        })
    }

    /// The only attribute of a type.
    pub fn one(&self, kind: u16) -> Option<&Attribute<'octets>> {
        let mut found = self.all.iter().filter(|a| a.kind == kind);
        found.next().filter(|_| found.next().is_none())
    }

    /// Those of mode config that can be read, which are numbered as in IKEv2.
    pub fn given(&self) -> Vec<Given> {
        let read = |attribute: &Attribute<'_>| {
            let mut value = attribute.value.to_vec();
            if attribute.kind == IP6_ADDRESS && value.len() == 16 {
                value.push(HOST_PREFIX);
            }
            Given::read(attribute.kind, &value).ok()
        };
        self.all.iter().filter_map(read).collect()
    }
}

/// Begins a body.
pub fn begin(kind: Kind, identifier: u16) -> Vec<u8> {
    let mut out = vec![kind as u8, 0];
    out.extend(identifier.to_be_bytes());
    out
}

/// Adds an attribute of mode config.
pub fn push_given(out: &mut Vec<u8>, given: &Given) {
    let (number, mut value) = given.emit();
    if number == IP6_ADDRESS {
        value.truncate(16);
    }
    attribute::push_octets(out, number, &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S60 to S75 in IKEv1: written out by hand from the drafts' figures.
    #[test]
    fn octets_are_as_the_drafts_draw_them() {
        let body = [
            1, 0, 0x12, 0x34, // ISAKMP_CFG_REQUEST, reserved, identifier
            0xc0, 0x88, 0, 0, // XAUTH_TYPE in the short form: generic
            0x40, 0x89, 0, 5, b'c', b'a', b'r', b'o', b'l', // XAUTH_USER_NAME
            0, 1, 0, 0, // INTERNAL_IP4_ADDRESS()
            0, 3, 0, 4, 192, 0, 2, 53,
        ];
        let read = Attributes::parse(&body).unwrap();
        assert_eq!((read.kind, read.identifier), (Kind::Request, 0x1234));
        assert_eq!(read.one(xauth::TYPE).unwrap().number(), Some(0));
        assert_eq!(read.one(xauth::USER_NAME).unwrap().value, b"carol");
        assert_eq!(read.one(xauth::USER_PASSWORD), None);
        let given = read.given();
        assert!(given.contains(&Given::Ip4Address(None)));
        assert!(given.contains(&Given::Ip4Dns(Some([192, 0, 2, 53].into()))));
        let mut again = begin(Kind::Request, 0x1234);
        attribute::push(&mut again, xauth::TYPE, xauth::GENERIC);
        attribute::push_octets(&mut again, xauth::USER_NAME, b"carol");
        push_given(&mut again, &Given::Ip4Address(None));
        push_given(&mut again, &Given::Ip4Dns(Some([192, 0, 2, 53].into())));
        assert_eq!(again, body);
    }

    /// An IPv6 address has 16 octets here; 17 are taken too.
    #[test]
    fn addresses_of_both_lengths_are_read() {
        let address = std::net::Ipv6Addr::from(0x2001_0db8u128 << 96);
        let given = Given::Ip6Address(Some((address, HOST_PREFIX)));
        let mut body = begin(Kind::Reply, 7);
        push_given(&mut body, &given);
        assert_eq!(body.len(), 4 + 4 + 16);
        assert_eq!(Attributes::parse(&body).unwrap().given()[0], given);
        let mut long = begin(Kind::Reply, 7);
        attribute::push_octets(&mut long, 8, &[&address.octets()[..], &[128]].concat());
        assert_eq!(Attributes::parse(&long).unwrap().given(), [given]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for body in [
            &[][..],
            &[1, 0, 0],
            &[0, 0, 0, 1],
            &[5, 0, 0, 1],
            &[1, 0, 0, 1, 0],
            &[1, 0, 0, 1, 0, 1, 0, 9, 10],
        ] {
            assert!(Attributes::parse(body).is_err(), "{body:?}");
        }
        // Twice is none.
        let twice = [1, 0, 0, 1, 0xc0, 0x8f, 0, 1, 0xc0, 0x8f, 0, 1];
        assert_eq!(Attributes::parse(&twice).unwrap().one(xauth::STATUS), None);
    }
}
