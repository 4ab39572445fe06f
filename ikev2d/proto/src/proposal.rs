// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proposals: strongSwan's syntax, the SA payload (RFC 7296 §3.3), and the choice among them.

mod alike;
mod standing;
mod wire;

use std::fmt;

use thiserror::Error;

pub(crate) use wire::{WireProposal, emit, parse};

use crate::algorithm::{Encryption, Group, Integrity, Prf};

/// Protocols (RFC 7296 §3.3.1).
const AH: u8 = 2;
const ESP: u8 = 3;
/// Additional key exchanges of one proposal.
const MOST_ADDITIONAL: usize = 7;

/// What is offered: alternatives of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Encryption; a child's without is AH's.
    pub encryption: Vec<Encryption>,
    /// Pseudo-random functions (IKE only).
    pub prf: Vec<Prf>,
    /// Integrity; empty with AEADs.
    pub integrity: Vec<Integrity>,
    /// Key exchange; for ESP with PFS.
    pub groups: Vec<Group>,
    /// Additional key exchanges, one after another (RFC 9370); `None` is that it may be left out.
    pub additional: [Vec<Option<Group>>; MOST_ADDITIONAL],
    /// ESP: whether extended sequence numbers are offered, best first.
    pub esn: Vec<bool>,
}

/// What was chosen of one additional key exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Additional {
    /// It is not spoken of.
    #[default]
    Absent,
    /// It is left out (NONE).
    LeftOut,
    /// By this method.
    Method(Group),
}

/// What was chosen of all of them.
pub type AdditionalGroups = [Additional; MOST_ADDITIONAL];

/// The methods of the additional key exchanges that take place, in their order.
pub fn methods(additional: &AdditionalGroups) -> impl Iterator<Item = Group> + '_ {
    additional.iter().filter_map(|additional| match additional {
        Additional::Method(group) => Some(*group),
        Additional::Absent | Additional::LeftOut => None,
    })
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
    /// Additional ones.
    pub additional: AdditionalGroups,
}

/// What was chosen for a child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspSuite {
    /// AH (RFC 4302) instead of ESP.
    pub ah: bool,
    /// Encryption; none in AH.
    pub encryption: Encryption,
    /// Integrity; none with an AEAD.
    pub integrity: Option<Integrity>,
    /// Key exchange for PFS.
    pub group: Option<Group>,
    /// Additional ones.
    pub additional: AdditionalGroups,
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
        let groups = Group::DEFAULT.to_vec();
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
                ..Self::default()
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
            let integrity = proposal.integrity.iter();
            proposal.prf = integrity.map(|i| Prf::beside(*i)).collect();
        }
        if proposal.prf.is_empty() {
            return Err(error("has no PRF (add prfsha256, prfsha384 or prfsha512)"));
        }
        if proposal.groups.is_empty() {
            return Err(error(
                "has no key exchange (add x25519, ecp256, modp2048, …)",
            ));
        }
        if proposal.encryption.iter().any(|e| !e.encrypts()) {
            return Err(error("has null or a GMAC, and IKE must encrypt"));
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
        let error = |what| {
            Err(ParseProposalError::Incomplete {
                text: text.to_owned(),
                what,
            })
        };
        if !proposal.prf.is_empty() {
            return error("has a PRF, which is for IKE only");
        }
        if proposal.esn.is_empty() {
            proposal.esn = vec![false];
        }
        Ok(proposal)
    }

    /// Reads an AH proposal such as `sha256-esn` or `aes128gmac-modp2048`.
    ///
    /// # Errors
    /// [`ParseProposalError`].
    pub fn parse_ah(text: &str) -> Result<Self, ParseProposalError> {
        let mut proposal = Self::words(text, true)?;
        let error = |what| {
            Err(ParseProposalError::Incomplete {
                text: text.to_owned(),
                what,
            })
        };
        if !proposal.encryption.is_empty() {
            return error("has an encryption algorithm, and AH does not encrypt");
        }
        if !proposal.prf.is_empty() {
            return error("has a PRF, which is for IKE only");
        }
        if proposal.integrity.contains(&Integrity::HmacMd5) {
            return error("has MD5, which AH has not here");
        }
        if proposal.integrity.is_empty() {
            return error("has no integrity algorithm (add sha256, sha384, sha512 or aes128gmac)");
        }
        if proposal.esn.is_empty() {
            proposal.esn = vec![false];
        }
        Ok(proposal)
    }

    /// Whether a child's proposal is one of AH.
    pub fn is_ah(&self) -> bool {
        self.encryption.is_empty()
    }

    /// The words of AH's syntax, or of ESP's and IKE's: a GMAC is integrity in the one and a cipher in the
    /// other.
    fn words(text: &str, ah: bool) -> Result<Self, ParseProposalError> {
        let mut proposal = Self::default();
        for word in text.split('-') {
            proposal
                .add(word, ah)
                .ok_or_else(|| ParseProposalError::Unknown {
                    word: word.to_owned(),
                    text: text.to_owned(),
                })?;
        }
        Ok(proposal)
    }

    fn parse(text: &str) -> Result<Self, ParseProposalError> {
        let proposal = Self::words(text, false)?;
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
        } else if proposal.groups.is_empty() && proposal.additional.iter().any(|a| !a.is_empty()) {
            error("has additional key exchanges without a first one (add x25519, ecp256, …)")
        } else {
            Ok(proposal)
        }
    }

    fn add(&mut self, word: &str, ah: bool) -> Option<()> {
        use Encryption::*;
        match word {
            "des" => self.encryption.push(Des),
            "3des" => self.encryption.push(TripleDes),
            "null" => self.encryption.push(Null),
            "aes128" => self.encryption.push(AesCbc(128)),
            "aes192" => self.encryption.push(AesCbc(192)),
            "aes256" => self.encryption.push(AesCbc(256)),
            "chacha20poly1305" => self.encryption.push(ChaCha20Poly1305),
            "sha256" | "sha2_256" => self.integrity.push(Integrity::HmacSha256),
            "sha384" | "sha2_384" => self.integrity.push(Integrity::HmacSha384),
            "sha512" | "sha2_512" => self.integrity.push(Integrity::HmacSha512),
            "md5" => self.integrity.push(Integrity::HmacMd5),
            "sha1" | "sha" => self.integrity.push(Integrity::HmacSha1),
            "aesxcbc" => self.integrity.push(Integrity::AesXcbc),
            "aescmac" => self.integrity.push(Integrity::AesCmac),
            "aes128gmac" if ah => self.integrity.push(Integrity::Aes128Gmac),
            "aes192gmac" if ah => self.integrity.push(Integrity::Aes192Gmac),
            "aes256gmac" if ah => self.integrity.push(Integrity::Aes256Gmac),
            "prfmd5" => self.prf.push(Prf::HmacMd5),
            "prfsha1" => self.prf.push(Prf::HmacSha1),
            "prfsha256" => self.prf.push(Prf::HmacSha256),
            "prfsha384" => self.prf.push(Prf::HmacSha384),
            "prfsha512" => self.prf.push(Prf::HmacSha512),
            "prfaesxcbc" => self.prf.push(Prf::Aes128Xcbc),
            "prfaescmac" => self.prf.push(Prf::Aes128Cmac),
            "esn" => self.esn.push(true),
            "noesn" => self.esn.push(false),
            _ => match word.strip_prefix("ke") {
                Some(rest) => {
                    let (number, method) = rest.split_once('_')?;
                    let at = number.parse::<usize>().ok()?.checked_sub(1)?;
                    let method = match method {
                        "none" => None,
                        word => Some(Group::by_word(word)?),
                    };
                    self.additional.get_mut(at)?.push(method);
                }
                None => match Encryption::aead_by_word(word) {
                    Some(aead) => self.encryption.push(aead),
                    None => self.groups.push(Group::by_word(word)?),
                },
            },
        }
        Some(())
    }

    fn best<T: Copy + PartialEq>(ours: &[T], theirs: &[T]) -> Option<T> {
        ours.iter()
            .copied()
            .find(|algorithm| theirs.contains(algorithm))
    }

    /// The best additional key exchanges of both, each method once (RFC 9370 §2.2.2).
    fn best_additional(&self, offer: &Self, first: Group) -> Option<AdditionalGroups> {
        let mut chosen = AdditionalGroups::default();
        let mut taken = vec![first];
        for (at, place) in chosen.iter_mut().enumerate() {
            let (ours, theirs) = (self.additional.get(at)?, offer.additional.get(at)?);
            // What a side does not speak of it leaves out.
            let has = |all: &[Option<Group>], wanted: Option<Group>| match all {
                [] => wanted.is_none(),
                all => all.contains(&wanted),
            };
            let candidates = ours.iter().copied().chain(ours.is_empty().then_some(None));
            let mut candidates = candidates.filter(|group| has(theirs, *group));
            *place = match candidates.find(|group| group.is_none_or(|g| !taken.contains(&g)))? {
                Some(group) => {
                    taken.push(group);
                    Additional::Method(group)
                }
                None if theirs.is_empty() => Additional::Absent,
                None => Additional::LeftOut,
            };
        }
        Some(chosen)
    }

    /// Whether it may do without additional key exchanges.
    pub fn goes_without_additional(&self) -> bool {
        let mut all = self.additional.iter();
        all.all(|any| any.is_empty() || any.contains(&None))
    }

    /// The best of this configured proposal that an offer has.
    pub fn choose_ike(&self, offer: &Self) -> Option<IkeSuite> {
        let encryption = Self::best(&self.encryption, &offer.encryption)?;
        let integrity = if encryption.is_aead() {
            None
        } else {
            Some(Self::best(&self.integrity, &offer.integrity)?)
        };
        let group = Self::best(&self.groups, &offer.groups)?;
        Some(IkeSuite {
            encryption,
            integrity,
            prf: Self::best(&self.prf, &offer.prf)?,
            group,
            additional: self.best_additional(offer, group)?,
        })
    }

    /// As [`choose_ike`](Self::choose_ike), for ESP or AH. With `first` the exchange has no key exchange of
    /// its own (IKE_AUTH), and groups don't count (RFC 7296 §1.2).
    pub fn choose_esp(&self, offer: &Self, first: bool) -> Option<EspSuite> {
        let ah = self.is_ah();
        if ah != offer.is_ah() {
            return None;
        }
        let encryption = match ah {
            true => Encryption::Null,
            false => Self::best(&self.encryption, &offer.encryption)?,
        };
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
        let additional = match group {
            Some(group) => self.best_additional(offer, group)?,
            None => AdditionalGroups::default(),
        };
        let theirs: &[bool] = if offer.esn.is_empty() {
            &[false]
        } else {
            &offer.esn
        };
        let esn = Self::best(&self.esn, theirs)?;
        Some(EspSuite {
            ah,
            encryption,
            integrity,
            group,
            additional,
            esn,
        })
    }
}

/// As alternatives of one each.
fn offered(additional: &AdditionalGroups) -> [Vec<Option<Group>>; MOST_ADDITIONAL] {
    additional.map(|additional| match additional {
        Additional::Absent => Vec::new(),
        Additional::LeftOut => vec![None],
        Additional::Method(group) => vec![Some(group)],
    })
}

impl IkeSuite {
    /// As a proposal of exactly this.
    pub fn to_proposal(self) -> Proposal {
        Proposal {
            encryption: vec![self.encryption],
            prf: vec![self.prf],
            integrity: self.integrity.into_iter().collect(),
            groups: vec![self.group],
            additional: offered(&self.additional),
            esn: Vec::new(),
        }
    }
}

impl EspSuite {
    /// Its protocol in IKE (RFC 7296 §3.3.1).
    pub(crate) fn protocol(&self) -> u8 {
        if self.ah { AH } else { ESP }
    }

    /// As a proposal of exactly this.
    pub fn to_proposal(self) -> Proposal {
        Proposal {
            encryption: match self.ah {
                true => Vec::new(),
                false => vec![self.encryption],
            },
            prf: Vec::new(),
            integrity: self.integrity.into_iter().collect(),
            groups: self.group.into_iter().collect(),
            additional: offered(&self.additional),
            esn: vec![self.esn],
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.encryption.iter().map(|e| e.word().to_owned()));
        words.extend(self.integrity.iter().map(|i| i.word().to_owned()));
        words.extend(self.prf.iter().map(|p| p.word().to_owned()));
        words.extend(self.groups.iter().map(|group| group.word().to_owned()));
        for (number, any) in (1..).zip(&self.additional) {
            let method = |method: &Option<Group>| method.map_or("none", Group::word);
            words.extend(any.iter().map(|any| format!("ke{number}_{}", method(any))));
        }
        if self.esn.first() == Some(&true) {
            words.push("esn".to_owned());
        }
        f.write_str(&words.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B47, B51: what is read of a proposal is what was written.
    #[test]
    fn proposals_survive_the_wire() {
        for text in [
            "aes256gcm16-prfsha384-x25519",
            "aes128gcm8-aes192gcm12-aes192gcm16-prfsha256-x25519",
            "aes128ccm8-aes192ccm12-aes256ccm16-prfsha256-x25519",
            "aes128-aes256-sha256-prfsha256-modp2048-ecp256",
            "aes128-aesxcbc-aescmac-prfaescmac-prfaesxcbc-ecp256",
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
        for text in [
            "aes128gcm16-esn-noesn",
            "aes128gmac-aes192gmac-aes256gmac",
            "null-aes128-aesxcbc-aescmac",
        ] {
            let proposal = Proposal::parse_esp(text).unwrap();
            let back = parse(&emit(&[(1, proposal.clone())], false, &[1, 2, 3, 4]), false).unwrap();
            assert_eq!(
                (&back[0].proposal, &back[0].spi[..]),
                (&proposal, &[1, 2, 3, 4][..])
            );
            assert_eq!(proposal.to_string(), text.trim_end_matches("-noesn"));
        }
        let proposal = Proposal::parse_esp("aes128gcm16").unwrap();
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
            ("aes128gmac-prfsha256-x25519", "must encrypt"),
        ] {
            let error = Proposal::parse_ike(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Proposal::parse_esp("aes128gcm16-prfsha256").is_err());
    }

    /// S47: AH is chosen for AH alone, and nothing that ESP offers passes for it.
    #[test]
    fn ah_and_esp_are_never_taken_for_each_other() {
        let ah = "sha256-sha1-aes128gmac-aesxcbc-aescmac-esn-noesn-x25519";
        let ah = Proposal::parse_ah(ah).unwrap();
        let esp = Proposal::parse_esp("null-sha256-esn-noesn").unwrap();
        let back = parse(
            &emit(&[(1, ah.clone()), (2, esp.clone())], false, &[1, 2, 3, 4]),
            false,
        );
        let back = back.unwrap();
        assert_eq!((&back[0].proposal, &back[1].proposal), (&ah, &esp));
        assert_eq!(
            (ah.choose_esp(&esp, true), esp.choose_esp(&ah, true)),
            (None, None)
        );
        let suite = ah.choose_esp(&back[0].proposal, true).unwrap();
        assert!(suite.ah && suite.esn && suite.integrity == Some(Integrity::HmacSha256));
        assert!(suite.to_proposal().is_ah());

        // ESP with a cipher that nobody knows, and AH with one.
        let mut wire = emit(&[(1, esp)], false, &[0; 4]);
        assert_eq!((wire[5], wire[16]), (ESP, 1));
        wire[19] = 99;
        assert!(parse(&wire, false).unwrap().is_empty());
        wire[19] = 11;
        wire[5] = AH;
        assert!(parse(&wire, false).unwrap().is_empty());
        for (text, part) in [
            ("aes128-sha256", "encrypt"),
            ("esn", "no integrity"),
            ("sha256-prfsha256", "PRF"),
        ] {
            let error = Proposal::parse_ah(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        // One word, an integrity algorithm there and a cipher here, each with a number of its own.
        let gmac = Proposal::parse_esp("aes128gmac").unwrap();
        let encryption = [Encryption::NullAesGmac(128)];
        assert_eq!(
            (&gmac.encryption[..], &gmac.integrity[..]),
            (&encryption[..], &[][..])
        );
        assert_eq!(
            (ah.choose_esp(&gmac, true), gmac.choose_esp(&ah, true)),
            (None, None)
        );
        let error = Proposal::parse_esp("aes128-aes128gmac").unwrap_err();
        assert!(error.to_string().contains("mixes AEAD"), "{error}");
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
