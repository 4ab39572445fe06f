// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SA, proposal and transform payloads (RFC 2408 §3.4 to §3.6, RFC 2407 §4.6.1).

use super::attribute::{self, Attribute};
use super::{Reader, WireError, payload};

/// DOI of IPsec.
pub const DOI_IPSEC: u32 = 1;
const SIT_IDENTITY_ONLY: u32 = 1;
/// Protocol of phase 1.
pub const PROTO_ISAKMP: u8 = 1;
/// Protocol of AH.
pub const PROTO_AH: u8 = 2;
/// Protocol of ESP.
pub const PROTO_ESP: u8 = 3;
/// The only transform of phase 1: IKE.
pub const KEY_IKE: u8 = 1;
/// Proposals of one payload, and transforms of one proposal, at most.
const MOST: usize = 64;

/// A proposal.
#[derive(Clone, Debug)]
pub struct Proposal<'octets> {
    /// Proposals of one number belong together.
    pub number: u8,
    /// Protocol.
    pub protocol: u8,
    /// SPI of the sender.
    pub spi: &'octets [u8],
    /// Alternatives, best first.
    pub transforms: Vec<Transform<'octets>>,
}

/// A transform.
#[derive(Clone, Debug)]
pub struct Transform<'octets> {
    /// Its number in the proposal.
    pub number: u8,
    /// Its id.
    pub id: u8,
    /// Its attributes as they came: who chooses sends them back unchanged (RFC 2408 §4.2).
    pub raw: &'octets [u8],
    /// Its attributes.
    pub attributes: Vec<Attribute<'octets>>,
}

impl Transform<'_> {
    /// The number that an attribute has. Given twice, it has none.
    pub fn number_of(&self, kind: u16) -> Option<u64> {
        let mut found = self.attributes.iter().filter(|a| a.kind == kind);
        match (found.next(), found.next()) {
            (Some(attribute), None) => attribute.number(),
            _ => None,
        }
    }
}

/// Parses an SA payload's body.
///
/// # Errors
/// Another DOI or situation, lengths that don't fit, or too many parts.
pub fn parse(body: &[u8]) -> Result<Vec<Proposal<'_>>, WireError> {
    let mut reader = Reader::new(body);
    let mut word = || -> Result<u32, WireError> {
        let (high, low) = (reader.u16()?, reader.u16()?);
        Ok(u32::from(high) << 16 | u32::from(low))
    };
    let (doi, situation) = (word()?, word()?);
    if (doi, situation) != (DOI_IPSEC, SIT_IDENTITY_ONLY) {
        let what = "DOI or situation";
        return Err(WireError::Malformed { what });
    }
    let mut proposals = Vec::new();
    let mut more = true;
    while more {
        if proposals.len() == MOST {
            return Err(WireError::TooMany);
        }
        let (next, mut inner) = nested(&mut reader, payload::PROPOSAL)?;
        more = next;
        let (number, protocol) = (inner.u8()?, inner.u8()?);
        let (spi_len, count) = (inner.u8()?, inner.u8()?);
        let spi = inner.take(spi_len.into())?;
        let mut transforms = Vec::new();
        for at in 0..count {
            if transforms.len() == MOST {
                return Err(WireError::TooMany);
            }
            let (next, mut of) = nested(&mut inner, payload::TRANSFORM)?;
            if next != (at + 1 != count) {
                let what = "count of transforms";
                return Err(WireError::Malformed { what });
            }
            let (number, id) = (of.u8()?, of.u8()?);
            of.take(2)?;
            let raw = of.rest();
            let attributes = attribute::parse(raw)?;
            transforms.push(Transform {
                number,
                id,
                raw,
                attributes,
            });
        }
        if !inner.is_empty() {
            return Err(WireError::Length);
        }
        proposals.push(Proposal {
            number,
            protocol,
            spi,
            transforms,
        });
    }
    if reader.is_empty() {
        Ok(proposals)
    } else {
        Err(WireError::Length)
    }
}

/// A payload inside a payload, and whether another one of its kind follows.
fn nested<'o>(reader: &mut Reader<'o>, kind: u8) -> Result<(bool, Reader<'o>), WireError> {
    let next = reader.u8()?;
    if next != 0 && next != kind {
        let what = "chain of proposals";
        return Err(WireError::Malformed { what });
    }
    reader.u8()?;
    let len = usize::from(reader.u16()?)
        .checked_sub(4)
        .ok_or(WireError::Length)?;
    Ok((next != 0, Reader::new(reader.take(len)?)))
}

/// A transform to be sent: its number, its id, its attributes.
pub type Out = (u8, u8, Vec<u8>);

/// Emits an SA payload's body with one proposal.
pub fn emit(number: u8, protocol: u8, spi: &[u8], transforms: &[Out]) -> Vec<u8> {
    emit_all(&[(number, protocol, spi, transforms)])
}

/// The same with several: number, protocol, SPI, and transforms of each.
pub fn emit_all(proposals: &[(u8, u8, &[u8], &[Out])]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(DOI_IPSEC.to_be_bytes());
    out.extend(SIT_IDENTITY_ONLY.to_be_bytes());
    for (at, (number, protocol, spi, transforms)) in proposals.iter().enumerate() {
        let mut inner = Vec::new();
        for (at, (number, id, attributes)) in transforms.iter().enumerate() {
            let last = at + 1 == transforms.len();
            inner.extend([if last { 0 } else { payload::TRANSFORM }, 0]);
            inner.extend(((8 + attributes.len()) as u16).to_be_bytes());
            inner.extend([*number, *id, 0, 0]);
            inner.extend(attributes);
        }
        let last = at + 1 == proposals.len();
        out.extend([if last { 0 } else { payload::PROPOSAL }, 0]);
        out.extend(((8 + spi.len() + inner.len()) as u16).to_be_bytes());
        out.extend([*number, *protocol, spi.len() as u8, transforms.len() as u8]);
        out.extend(*spi);
        out.extend(inner);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_survive_the_wire_and_no_truncation_does() {
        let body = emit(
            1,
            PROTO_ESP,
            &[1, 2, 3, 4],
            &[(1, 12, vec![0x80, 6, 0, 128]), (2, 20, vec![0x80, 6, 1, 0])],
        );
        let parsed = parse(&body).unwrap();
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].spi, [1, 2, 3, 4]);
        assert_eq!(parsed[0].transforms[1].id, 20);
        assert_eq!(parsed[0].transforms[1].number_of(6), Some(256));
        for len in 0..body.len() {
            assert!(parse(&body[..len]).is_err(), "{len}");
        }
        for at in 0..body.len() {
            for value in [0, 1, 3, 4, 127, 255] {
                let mut bad = body.clone();
                bad[at] = value;
                let _ = parse(&bad);
            }
        }
    }
}
