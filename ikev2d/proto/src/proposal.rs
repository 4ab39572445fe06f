// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proposals: strongSwan's syntax, the SA payload (RFC 7296 §3.3), and the choice among them.

use std::fmt;

use thiserror::Error;

use crate::algorithm::{Encryption, Group, Integrity, Prf};
use crate::wire::{Reader, WireError};

const IKE: u8 = 1;
const ESP: u8 = 3;
const ENCR: u8 = 1;
const PRF: u8 = 2;
const INTEG: u8 = 3;
const DH: u8 = 4;
const ESN: u8 = 5;
/// Attribute type 14 in the TV format.
const KEY_LENGTH: u16 = 0x8000 | 14;
/// Most proposals of one payload, and most transforms of one proposal.
const MOST: usize = 64;

/// What is offered: alternatives of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Encryption.
    pub encryption: Vec<Encryption>,
    /// Pseudo-random functions (IKE only).
    pub prf: Vec<Prf>,
    /// Integrity; empty with AEADs.
    pub integrity: Vec<Integrity>,
    /// Key exchange; for ESP with PFS.
    pub groups: Vec<Group>,
    /// ESP: whether extended sequence numbers are offered, best first.
    pub esn: Vec<bool>,
}

/// What was chosen for an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeSuite {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; none with an AEAD.
    pub integrity: Option<Integrity>,
    /// Pseudo-random function.
    pub prf: Prf,
    /// Key exchange.
    pub group: Group,
}

/// What was chosen for a child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspSuite {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; none with an AEAD.
    pub integrity: Option<Integrity>,
    /// Key exchange for PFS.
    pub group: Option<Group>,
    /// Extended sequence numbers.
    pub esn: bool,
}

/// The text is no proposal.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseProposalError {
    /// A word that names no algorithm.
    #[error("unknown algorithm {word:?} in proposal {text:?}")]
    Unknown {
        /// The word.
        word: String,
        /// The whole.
        text: String,
    },
    /// Something is missing or too much.
    #[error("proposal {text:?} {what}")]
    Incomplete {
        /// The whole.
        text: String,
        /// What.
        what: &'static str,
    },
}

impl Proposal {
    /// IKE proposals that are offered when none are configured.
    pub fn ike_default() -> Vec<Self> {
        use Encryption::*;
        let groups = Group::ALL.to_vec();
        let prf = vec![Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
        vec![
            Self {
                encryption: vec![AesGcm16(256), AesGcm16(128), ChaCha20Poly1305],
                prf: prf.clone(),
                groups: groups.clone(),
                ..Self::default()
            },
            Self {
                encryption: vec![AesCbc(256), AesCbc(192), AesCbc(128)],
                prf,
                integrity: vec![
                    Integrity::HmacSha256,
                    Integrity::HmacSha384,
                    Integrity::HmacSha512,
                ],
                groups,
                esn: Vec::new(),
            },
        ]
    }

    /// ESP proposals that are offered when none are configured.
    pub fn esp_default() -> Vec<Self> {
        use Encryption::*;
        vec![
            Self {
                encryption: vec![AesGcm16(256), AesGcm16(128), ChaCha20Poly1305],
                esn: vec![true, false],
                ..Self::default()
            },
            Self {
                encryption: vec![AesCbc(256), AesCbc(192), AesCbc(128)],
                integrity: vec![
                    Integrity::HmacSha256,
                    Integrity::HmacSha384,
                    Integrity::HmacSha512,
                ],
                esn: vec![true, false],
                ..Self::default()
            },
        ]
    }

    /// Reads an IKE proposal such as `aes256gcm16-prfsha384-x25519` or `aes128-sha256-modp2048`.
    ///
    /// # Errors
    /// [`ParseProposalError`].
    pub fn parse_ike(text: &str) -> Result<Self, ParseProposalError> {
        let mut proposal = Self::parse(text)?;
        let error = |what| ParseProposalError::Incomplete {
            text: text.to_owned(),
            what,
        };
        if proposal.prf.is_empty() {
            // As in strongSwan: the integrity algorithm names the PRF.
            proposal.prf = proposal
                .integrity
                .iter()
                .map(|integrity| match integrity {
                    Integrity::HmacSha256 => Prf::HmacSha256,
                    Integrity::HmacSha384 => Prf::HmacSha384,
                    Integrity::HmacSha512 => Prf::HmacSha512,
                })
                .collect();
        }
        if proposal.prf.is_empty() {
            return Err(error("has no PRF (add prfsha256, prfsha384 or prfsha512)"));
        }
        if proposal.groups.is_empty() {
            return Err(error(
                "has no key exchange (add x25519, ecp256, modp2048, …)",
            ));
        }
        if !proposal.esn.is_empty() {
            return Err(error("has esn, which is for ESP only"));
        }
        Ok(proposal)
    }

    /// Reads an ESP proposal such as `aes128gcm16-esn` or `aes256-sha256-modp2048`.
    ///
    /// # Errors
    /// [`ParseProposalError`].
    pub fn parse_esp(text: &str) -> Result<Self, ParseProposalError> {
        let mut proposal = Self::parse(text)?;
        if !proposal.prf.is_empty() {
            let what = "has a PRF, which is for IKE only";
            return Err(ParseProposalError::Incomplete {
                text: text.to_owned(),
                what,
            });
        }
        if proposal.esn.is_empty() {
            proposal.esn = vec![false];
        }
        Ok(proposal)
    }

    fn parse(text: &str) -> Result<Self, ParseProposalError> {
        let mut proposal = Self::default();
        for word in text.split('-') {
            proposal
                .add(word)
                .ok_or_else(|| ParseProposalError::Unknown {
                    word: word.to_owned(),
                    text: text.to_owned(),
                })?;
        }
        let error = |what| {
            Err(ParseProposalError::Incomplete {
                text: text.to_owned(),
                what,
            })
        };
        let aeads = proposal.encryption.iter().filter(|e| e.is_aead()).count();
        if proposal.encryption.is_empty() {
            error("has no encryption algorithm")
        } else if aeads != 0 && aeads != proposal.encryption.len() {
            error("mixes AEAD and other ciphers (use two proposals)")
        } else if aeads != 0 && !proposal.integrity.is_empty() {
            error("has an integrity algorithm beside an AEAD (use prfsha… for the PRF)")
        } else if aeads == 0 && proposal.integrity.is_empty() {
            error("has no integrity algorithm (add sha256, sha384 or sha512)")
        } else {
            Ok(proposal)
        }
    }

    fn add(&mut self, word: &str) -> Option<()> {
        use Encryption::*;
        match word {
            "null" => self.encryption.push(Null),
            "aes128" => self.encryption.push(AesCbc(128)),
            "aes192" => self.encryption.push(AesCbc(192)),
            "aes256" => self.encryption.push(AesCbc(256)),
            "aes128gcm16" | "aes128gcm128" | "aes128gcm" => self.encryption.push(AesGcm16(128)),
            "aes256gcm16" | "aes256gcm128" | "aes256gcm" => self.encryption.push(AesGcm16(256)),
            "chacha20poly1305" => self.encryption.push(ChaCha20Poly1305),
            "sha256" | "sha2_256" => self.integrity.push(Integrity::HmacSha256),
            "sha384" | "sha2_384" => self.integrity.push(Integrity::HmacSha384),
            "sha512" | "sha2_512" => self.integrity.push(Integrity::HmacSha512),
            "prfsha256" => self.prf.push(Prf::HmacSha256),
            "prfsha384" => self.prf.push(Prf::HmacSha384),
            "prfsha512" => self.prf.push(Prf::HmacSha512),
            "x25519" | "curve25519" => self.groups.push(Group::X25519),
            "ecp256" => self.groups.push(Group::Ecp256),
            "ecp384" => self.groups.push(Group::Ecp384),
            "ecp521" => self.groups.push(Group::Ecp521),
            "modp2048" => self.groups.push(Group::Modp2048),
            "modp3072" => self.groups.push(Group::Modp3072),
            "modp4096" => self.groups.push(Group::Modp4096),
            "esn" => self.esn.push(true),
            "noesn" => self.esn.push(false),
            _ => return None,
        }
        Some(())
    }

    fn best<T: Copy + PartialEq>(ours: &[T], theirs: &[T]) -> Option<T> {
        ours.iter()
            .copied()
            .find(|algorithm| theirs.contains(algorithm))
    }

    /// The best of this configured proposal that an offer has.
    pub fn choose_ike(&self, offer: &Self) -> Option<IkeSuite> {
        let encryption = Self::best(&self.encryption, &offer.encryption)?;
        let integrity = if encryption.is_aead() {
            None
        } else {
            Some(Self::best(&self.integrity, &offer.integrity)?)
        };
        Some(IkeSuite {
            encryption,
            integrity,
            prf: Self::best(&self.prf, &offer.prf)?,
            group: Self::best(&self.groups, &offer.groups)?,
        })
    }

    /// As [`choose_ike`](Self::choose_ike), for ESP. With `first` the exchange has no key exchange of
    /// its own (IKE_AUTH), and groups don't count (RFC 7296 §1.2).
    pub fn choose_esp(&self, offer: &Self, first: bool) -> Option<EspSuite> {
        let encryption = Self::best(&self.encryption, &offer.encryption)?;
        let integrity = if encryption.is_aead() {
            None
        } else {
            Some(Self::best(&self.integrity, &offer.integrity)?)
        };
        let group = if first || (self.groups.is_empty() && offer.groups.is_empty()) {
            None
        } else {
            Some(Self::best(&self.groups, &offer.groups)?)
        };
        let theirs: &[bool] = if offer.esn.is_empty() {
            &[false]
        } else {
            &offer.esn
        };
        let esn = Self::best(&self.esn, theirs)?;
        Some(EspSuite {
            encryption,
            integrity,
            group,
            esn,
        })
    }

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
        all
    }
}

impl IkeSuite {
    /// As a proposal of exactly this.
    pub fn to_proposal(self) -> Proposal {
        Proposal {
            encryption: vec![self.encryption],
            prf: vec![self.prf],
            integrity: self.integrity.into_iter().collect(),
            groups: vec![self.group],
            esn: Vec::new(),
        }
    }
}

impl EspSuite {
    /// As a proposal of exactly this.
    pub fn to_proposal(self) -> Proposal {
        Proposal {
            encryption: vec![self.encryption],
            prf: Vec::new(),
            integrity: self.integrity.into_iter().collect(),
            groups: self.group.into_iter().collect(),
            esn: vec![self.esn],
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.encryption.iter().map(|e| match e {
            Encryption::Null => "null".to_owned(),
            Encryption::AesCbc(bits) => format!("aes{bits}"),
            Encryption::AesGcm16(bits) => format!("aes{bits}gcm16"),
            Encryption::ChaCha20Poly1305 => "chacha20poly1305".to_owned(),
        }));
        words.extend(self.integrity.iter().map(|i| match i {
            Integrity::HmacSha256 => "sha256".to_owned(),
            Integrity::HmacSha384 => "sha384".to_owned(),
            Integrity::HmacSha512 => "sha512".to_owned(),
        }));
        words.extend(
            self.prf
                .iter()
                .map(|p| format!("prfsha{}", p.output_len() * 8)),
        );
        words.extend(self.groups.iter().map(|group| match group {
            Group::X25519 => "x25519".to_owned(),
            Group::Ecp256 => "ecp256".to_owned(),
            Group::Ecp384 => "ecp384".to_owned(),
            Group::Ecp521 => "ecp521".to_owned(),
            Group::Modp2048 => "modp2048".to_owned(),
            Group::Modp3072 => "modp3072".to_owned(),
            Group::Modp4096 => "modp4096".to_owned(),
        }));
        if self.esn.first() == Some(&true) {
            words.push("esn".to_owned());
        }
        f.write_str(&words.join("-"))
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
            if ike { IKE } else { ESP },
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
        let mut usable = protocol == if ike { IKE } else { ESP };
        let mut esn_seen = false;
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
                _ => usable = false,
            }
        }
        if !inner.is_empty() {
            return Err(WireError::Length);
        }
        usable &= ike || !esn_seen || !proposal.esn.is_empty();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_survive_the_wire() {
        for text in [
            "aes256gcm16-prfsha384-x25519",
            "aes128-aes256-sha256-prfsha256-modp2048-ecp256",
        ] {
            let proposal = Proposal::parse_ike(text).unwrap();
            let body = emit(
                &[
                    (1, proposal.clone()),
                    (2, Proposal::ike_default()[0].clone()),
                ],
                true,
                &[],
            );
            let back = parse(&body, true).unwrap();
            assert_eq!(back[0].proposal, proposal);
            assert_eq!(back.len(), 2);
            assert_eq!(
                Proposal::parse_ike(&proposal.to_string()).unwrap(),
                proposal
            );
        }
        let proposal = Proposal::parse_esp("aes128gcm16-esn-noesn").unwrap();
        let back = parse(&emit(&[(1, proposal.clone())], false, &[1, 2, 3, 4]), false).unwrap();
        assert_eq!(
            (&back[0].proposal, &back[0].spi[..]),
            (&proposal, &[1, 2, 3, 4][..])
        );
        assert!(
            parse(&emit(&[(1, proposal)], false, &[0; 4]), true)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_is_wrong_with_a_proposal_is_told() {
        for (text, part) in [
            ("aes256gcm16-x25519", "no PRF"),
            ("aes256gcm16-prfsha256", "no key exchange"),
            ("aes128-x25519", "no integrity"),
            ("aes128gcm16-sha256-x25519", "beside an AEAD"),
            ("rot13-sha256-x25519", "rot13"),
        ] {
            let error = Proposal::parse_ike(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Proposal::parse_esp("aes128gcm16-prfsha256").is_err());
    }

    #[test]
    fn the_configured_order_decides() {
        let ours = Proposal::parse_ike("aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256").unwrap();
        let offer = Proposal::parse_ike("aes128gcm16-aes256gcm16-prfsha256-ecp256-x25519").unwrap();
        let chosen = ours.choose_ike(&offer).unwrap();
        assert_eq!(
            (chosen.encryption, chosen.group),
            (Encryption::AesGcm16(256), Group::X25519)
        );
        let other = Proposal::parse_ike("aes128-sha256-modp2048").unwrap();
        assert_eq!(ours.choose_ike(&other), None);
    }
}
