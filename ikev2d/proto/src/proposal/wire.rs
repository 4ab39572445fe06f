// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA payload (RFC 7296 §3.3, RFC 9370 §2.2.2).

use super::{AH, ESP, MOST_ADDITIONAL, Proposal};
use crate::algorithm::{Encryption, Group, Integrity, Prf};
use crate::wire::{Reader, WireError};

const IKE: u8 = 1;
const ENCR: u8 = 1;
const PRF: u8 = 2;
const INTEG: u8 = 3;
const DH: u8 = 4;
const ESN: u8 = 5;
/// ADDKE1 to ADDKE7 (RFC 9370 §2.2.2).
const ADDITIONAL: std::ops::RangeInclusive<u8> = 6..=12;
/// Attribute type 14 in the TV format.
const KEY_LENGTH: u16 = 0x8000 | 14;
/// Most proposals of one payload, and most transforms of one proposal.
const MOST: usize = 64;

impl Proposal {
    fn transforms(&self) -> Vec<(u8, u16, Option<u16>)> {
        let mut all = Vec::new();
        all.extend(self.encryption.iter().map(|e| {
            let (id, bits) = e.to_wire();
            (ENCR, id, bits)
        }));
        all.extend(self.prf.iter().map(|prf| (PRF, *prf as u16, None)));
        all.extend(
            self.integrity
                .iter()
                .map(|integrity| (INTEG, *integrity as u16, None)),
        );
        all.extend(self.groups.iter().map(|group| (DH, *group as u16, None)));
        all.extend(self.esn.iter().map(|esn| (ESN, u16::from(*esn), None)));
        for (kind, any) in ADDITIONAL.zip(&self.additional) {
            let ids = any
                .iter()
                .map(|method| method.map_or(0, |group| group as u16));
            all.extend(ids.map(|id| (kind, id, None)));
        }
        all
    }
}

/// A proposal of an SA payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireProposal {
    pub(crate) number: u8,
    pub(crate) spi: Vec<u8>,
    pub(crate) proposal: Proposal,
}

/// Emits an SA payload's body.
pub(crate) fn emit(proposals: &[(u8, Proposal)], ike: bool, spi: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, (number, proposal)) in proposals.iter().enumerate() {
        let transforms = proposal.transforms();
        let mut body = Vec::new();
        for (at, (kind, id, bits)) in transforms.iter().enumerate() {
            let len: u16 = if bits.is_some() { 12 } else { 8 };
            body.push(if at + 1 == transforms.len() { 0 } else { 3 });
            body.push(0);
            body.extend(len.to_be_bytes());
            body.extend([*kind, 0]);
            body.extend(id.to_be_bytes());
            if let Some(bits) = bits {
                body.extend(KEY_LENGTH.to_be_bytes());
                body.extend(bits.to_be_bytes());
            }
        }
        out.push(if at + 1 == proposals.len() { 0 } else { 2 });
        out.push(0);
        out.extend(((8 + spi.len() + body.len()) as u16).to_be_bytes());
        out.extend([
            *number,
            match proposal.is_ah() {
                _ if ike => IKE,
                true => AH,
                false => ESP,
            },
            spi.len() as u8,
            transforms.len() as u8,
        ]);
        out.extend(spi);
        out.extend(body);
    }
    out
}

/// Parses an SA payload's body. Proposals for another protocol, or with a transform type that is
/// mandatory and unknown, are left out: they can't be chosen.
pub(crate) fn parse(body: &[u8], ike: bool) -> Result<Vec<WireProposal>, WireError> {
    let mut reader = Reader::new(body);
    let mut proposals = Vec::new();
    for _ in 0..MOST {
        let more = reader.u8()?;
        reader.u8()?;
        let len = usize::from(reader.u16()?)
            .checked_sub(4)
            .ok_or(WireError::Length)?;
        let mut inner = Reader::new(reader.take(len)?);
        let (number, protocol, spi_len, count) =
            (inner.u8()?, inner.u8()?, inner.u8()?, inner.u8()?);
        let spi = inner.take(spi_len.into())?.to_vec();
        let mut proposal = Proposal::default();
        let mut usable = match protocol {
            IKE => ike,
            AH | ESP => !ike,
            _ => false,
        };
        let mut esn_seen = false;
        let mut additional_seen = [false; MOST_ADDITIONAL];
        for _ in 0..count {
            inner.u8()?;
            inner.u8()?;
            let len = usize::from(inner.u16()?)
                .checked_sub(4)
                .ok_or(WireError::Length)?;
            let mut transform = Reader::new(inner.take(len)?);
            let kind = transform.u8()?;
            transform.u8()?;
            let id = transform.u16()?;
            let mut bits = None;
            let mut known = true;
            while !transform.is_empty() {
                match transform.u16()? {
                    KEY_LENGTH => bits = Some(transform.u16()?),
                    tv if tv & 0x8000 != 0 => {
                        transform.u16()?;
                        known = false;
                    }
                    _ => {
                        let len = transform.u16()?;
                        transform.take(len.into())?;
                        known = false;
                    }
                }
            }
            // A transform with unknown attributes is unknown (RFC 7296 §3.3.6).
            match kind {
                kind if !known && ADDITIONAL.contains(&kind) => usable = false,
                _ if !known => {}
                ENCR => proposal.encryption.extend(Encryption::from_wire(id, bits)),
                PRF => proposal.prf.extend(Prf::from_wire(id)),
                INTEG => proposal.integrity.extend(Integrity::from_wire(id)),
                DH => proposal.groups.extend(Group::from_wire(id)),
                ESN => {
                    esn_seen = true;
                    if id <= 1 {
                        proposal.esn.push(id == 1);
                    }
                }
                kind if ADDITIONAL.contains(&kind) => {
                    let at = usize::from(kind - ADDITIONAL.start());
                    let method = match id {
                        0 => Some(None),
                        id => Group::from_wire(id).map(Some),
                    };
                    if let Some((any, seen)) = proposal
                        .additional
                        .get_mut(at)
                        .zip(additional_seen.get_mut(at))
                    {
                        *seen = true;
                        any.extend(method);
                    }
                }
                _ => usable = false,
            }
        }
        if !inner.is_empty() {
            return Err(WireError::Length);
        }
        // AH encrypts nothing; and ESP with nothing that is known must not pass for AH.
        usable &= ike || (protocol == AH) == proposal.is_ah();
        usable &= ike || !esn_seen || !proposal.esn.is_empty();
        // One of which every method is unknown can't be left out.
        let known = proposal.additional.iter().zip(additional_seen);
        usable &= known
            .into_iter()
            .all(|(any, seen)| !seen || !any.is_empty());
        if usable {
            proposals.push(WireProposal {
                number,
                spi,
                proposal,
            });
        }
        match more {
            0 if reader.is_empty() => return Ok(proposals),
            2 => {}
            _ => return Err(WireError::Length),
        }
    }
    Err(WireError::TooMany)
}
