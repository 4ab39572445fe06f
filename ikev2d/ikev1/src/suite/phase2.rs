// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Phase 2 (RFC 2407 §4.4 and §4.5): what ESP and AH are negotiated with.

use ikev2d_proto::algorithm::{Encryption, Group, Integrity};
use ikev2d_proto::proposal::{EspSuite, Proposal};

use super::{Life, MOST, has_number};
use crate::wire::attribute::push;
use crate::wire::sa::{self, PROTO_AH, PROTO_ESP, Transform};

pub(super) mod attribute {
    pub(crate) const LIFE_TYPE: u16 = 1;
    pub(crate) const LIFE: u16 = 2;
    pub(crate) const GROUP: u16 = 3;
    pub(crate) const MODE: u16 = 4;
    pub(crate) const INTEGRITY: u16 = 5;
    pub(crate) const KEY_LENGTH: u16 = 6;
    pub(crate) const ESN: u16 = 11;
}

/// How packets are encapsulated (RFC 2407 §4.5, RFC 3947 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Transport mode.
    pub transport: bool,
    /// In UDP.
    pub udp: bool,
    /// With the numbers of the drafts before RFC 3947.
    pub draft: bool,
}

impl Encapsulation {
    fn number(self) -> u32 {
        let mode = if self.transport { 2 } else { 1 };
        match (self.udp, self.draft) {
            (false, _) => mode,
            (true, false) => mode + 2,
            (true, true) => mode + 61442,
        }
    }

    fn fits(self, number: u64) -> bool {
        // Whether it is in UDP follows from the NAT, whatever a peer says of it.
        if self.transport { TRANSPORT } else { TUNNEL }.contains(&number)
    }
}

/// Tunnel mode by its numbers: as it is, in UDP, in UDP by the drafts.
const TUNNEL: [u64; 3] = [1, 3, 61443];
/// The same of transport mode.
const TRANSPORT: [u64; 3] = [2, 4, 61444];

/// Whether transport mode is in an offer.
pub(crate) fn offers_transport(offer: &[sa::Proposal<'_>]) -> bool {
    let transforms = offer.iter().flat_map(|proposal| &proposal.transforms);
    let mut modes = transforms.filter_map(|t| t.number_of(attribute::MODE));
    modes.any(|mode| TRANSPORT.contains(&mode))
}

/// ESP transform id and key length of a cipher, where IKEv1 has them (RFC 4106 §8.2 for GCM, RFC 4543 §9 for
/// GMAC).
fn esp_number(encryption: Encryption) -> Option<(u8, Option<u16>)> {
    match encryption {
        Encryption::Des => Some((2, None)),
        Encryption::TripleDes => Some((3, None)),
        Encryption::Null => Some((11, None)),
        Encryption::AesCbc(bits) => Some((12, Some(bits))),
        Encryption::AesCcm8(bits) => Some((14, Some(bits))),
        Encryption::AesCcm12(bits) => Some((15, Some(bits))),
        Encryption::AesCcm16(bits) => Some((16, Some(bits))),
        Encryption::AesGcm8(bits) => Some((18, Some(bits))),
        Encryption::AesGcm12(bits) => Some((19, Some(bits))),
        Encryption::AesGcm16(bits) => Some((20, Some(bits))),
        Encryption::NullAesGmac(bits) => Some((23, Some(bits))),
        Encryption::ChaCha20Poly1305 => None,
    }
}

/// Number of an integrity algorithm, where IKEv1 has it.
fn integrity_number(integrity: Integrity) -> Option<u32> {
    Some(match integrity {
        Integrity::HmacSha256 => 5,
        Integrity::HmacSha384 => 6,
        Integrity::HmacSha512 => 7,
        Integrity::HmacMd5 => 1,
        Integrity::HmacSha1 => 2,
        Integrity::AesXcbc => 9,
        Integrity::Aes128Gmac => 11,
        Integrity::Aes192Gmac => 12,
        Integrity::Aes256Gmac => 13,
        // RFC 4494 has a number of IKEv2's alone.
        Integrity::AesCmac => return None,
    })
}

/// Everything that a child's proposals allow, best first.
pub fn phase2(proposals: &[Proposal]) -> Vec<EspSuite> {
    let mut all = Vec::new();
    for proposal in proposals {
        let groups: Vec<Option<Group>> = if proposal.groups.is_empty() {
            vec![None]
        } else {
            let groups = proposal.groups.iter().copied();
            groups.filter(|g| has_number(*g)).map(Some).collect()
        };
        let ah = proposal.is_ah();
        let ciphers: &[Encryption] = match ah {
            true => &[Encryption::Null],
            false => &proposal.encryption,
        };
        for encryption in ciphers.iter().copied() {
            if esp_number(encryption).is_none() {
                continue;
            }
            let integrities: Vec<Option<Integrity>> = if encryption.is_aead() {
                vec![None]
            } else {
                let known = proposal.integrity.iter().copied();
                let known = known.filter(|i| integrity_number(*i).is_some());
                known.map(Some).collect()
            };
            for integrity in integrities {
                for (group, esn) in groups
                    .iter()
                    .flat_map(|group| proposal.esn.iter().map(move |esn| (*group, *esn)))
                {
                    let suite = EspSuite {
                        ah,
                        encryption,
                        integrity,
                        group,
                        esn,
                        additional: Default::default(),
                    };
                    if !all.contains(&suite) {
                        all.push(suite);
                    }
                }
            }
        }
    }
    all
}

/// Protocol of a child SA.
pub(crate) fn protocol(suite: &EspSuite) -> u8 {
    if suite.ah { PROTO_AH } else { PROTO_ESP }
}

/// Transform id and key length of a suite, in its protocol. AH's ids are those of its codes (RFC 2407
/// §4.4.3), but for MD5 and SHA-1, which had theirs before there was HMAC.
fn transform_number(suite: &EspSuite) -> Option<(u8, Option<u16>)> {
    if !suite.ah {
        return esp_number(suite.encryption);
    }
    Some(match suite.integrity? {
        Integrity::HmacMd5 => (2, None),
        Integrity::HmacSha1 => (3, None),
        other => (u8::try_from(integrity_number(other)?).ok()?, None),
    })
}

/// Body of an SA payload that offers these; what is of one protocol is one proposal.
pub fn emit_phase2(
    suites: &[EspSuite],
    spi: u32,
    encapsulation: Encapsulation,
    life: Life,
) -> Vec<u8> {
    let spi = spi.to_be_bytes();
    let offered = suites.get(..MOST).unwrap_or(suites);
    let runs: Vec<(u8, Vec<sa::Out>)> = offered
        .chunk_by(|one, other| one.ah == other.ah)
        .map(|run| {
            let protocol = run.first().map_or(PROTO_ESP, protocol);
            let transforms = (1..).zip(run).filter_map(|(number, suite)| {
                let (id, bits) = transform_number(suite)?;
                let mut out = Vec::new();
                if let Some(bits) = bits {
                    push(&mut out, attribute::KEY_LENGTH, bits.into());
                }
                if let Some(number) = suite.integrity.and_then(integrity_number) {
                    push(&mut out, attribute::INTEGRITY, number);
                }
                if let Some(group) = suite.group {
                    push(&mut out, attribute::GROUP, group as u32);
                }
                push(&mut out, attribute::MODE, encapsulation.number());
                if suite.esn {
                    push(&mut out, attribute::ESN, 1);
                }
                life.push(&mut out, (attribute::LIFE_TYPE, attribute::LIFE));
                Some((number, id, out))
            });
            (protocol, transforms.collect())
        })
        .collect();
    let proposals: Vec<_> = (1..)
        .zip(&runs)
        .map(|(number, (protocol, transforms))| (number, *protocol, &spi[..], &transforms[..]))
        .collect();
    sa::emit_all(&proposals)
}

/// A choice in phase 2.
#[derive(Debug)]
pub struct Chosen2<'octets> {
    /// Its suite.
    pub suite: EspSuite,
    /// The peer's SPI.
    pub spi: u32,
    /// Proposal's and transform's numbers, id, and the attributes as they came.
    pub echo: (u8, u8, u8, &'octets [u8]),
    /// How long the peer wants it to live.
    pub life: Life,
}

impl Chosen2<'_> {
    /// Body of the SA payload that tells it, with our SPI.
    pub fn emit(&self, spi: u32) -> Vec<u8> {
        let (proposal, number, id, raw) = self.echo;
        let transform = (number, id, raw.to_vec());
        let protocol = protocol(&self.suite);
        sa::emit(proposal, protocol, &spi.to_be_bytes(), &[transform])
    }
}

/// The best of ours that an offer has. Proposals that want two protocols, one around the other, are passed over.
pub fn choose2<'o>(
    ours: &[EspSuite],
    offer: &[sa::Proposal<'o>],
    encapsulation: Encapsulation,
) -> Option<Chosen2<'o>> {
    let alone = |number: u8| offer.iter().filter(|p| p.number == number).count() == 1;
    ours.iter().find_map(|suite| {
        offer
            .iter()
            .filter(|proposal| proposal.protocol == protocol(suite) && alone(proposal.number))
            .find_map(|proposal| {
                let spi = u32::from_be_bytes(proposal.spi.try_into().ok()?);
                if spi < 256 {
                    return None;
                }
                let fits = |t: &&Transform<'_>| is_suite(t, suite, encapsulation);
                let transform = proposal.transforms.iter().find(fits)?;
                Some(Chosen2 {
                    suite: *suite,
                    spi,
                    echo: (
                        proposal.number,
                        transform.number,
                        transform.id,
                        transform.raw,
                    ),
                    life: Life::read(&transform.attributes),
                })
            })
    })
}

fn is_suite(transform: &Transform<'_>, suite: &EspSuite, encapsulation: Encapsulation) -> bool {
    let Some((id, bits)) = transform_number(suite) else {
        return false;
    };
    let is = |kind, number: Option<u64>| transform.number_of(kind) == number;
    transform.id == id
        && is(attribute::KEY_LENGTH, bits.map(u64::from))
        && is(
            attribute::INTEGRITY,
            suite.integrity.and_then(integrity_number).map(u64::from),
        )
        && is(attribute::GROUP, suite.group.map(|group| group as u64))
        && is(attribute::ESN, suite.esn.then_some(1))
        && transform
            .number_of(attribute::MODE)
            .is_some_and(|number| encapsulation.fits(number))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn suites(texts: &[&str]) -> Vec<EspSuite> {
        let parsed = texts.iter().map(|text| Proposal::parse_esp(text).unwrap());
        phase2(&parsed.collect::<Vec<_>>())
    }

    const TUNNEL: Encapsulation = Encapsulation {
        transport: false,
        udp: false,
        draft: false,
    };

    #[test]
    fn the_responders_best_is_chosen_and_sent_back_as_it_came() {
        let offer = suites(&["aes128-sha256-sha512", "aes256gcm16"]);
        let life = Life {
            time: Some(Duration::from_secs(90_000)),
            kilobytes: Some(4_608_000),
        };
        let body = emit_phase2(&offer, 0x1234, TUNNEL, life);
        let parsed = sa::parse(&body).unwrap();
        let chosen = choose2(&suites(&["aes256gcm16", "aes128-sha512"]), &parsed, TUNNEL).unwrap();
        assert_eq!(chosen.suite.encryption, Encryption::AesGcm16(256));
        assert_eq!((chosen.spi, chosen.life), (0x1234, life));
        let answer = chosen.emit(0x5678);
        let answer = sa::parse(&answer).unwrap();
        assert_eq!(answer[0].transforms[0].raw, chosen.echo.3);
        assert!(choose2(&suites(&["aes192-sha256"]), &parsed, TUNNEL).is_none());
        let transport = Encapsulation {
            transport: true,
            ..TUNNEL
        };
        assert!(choose2(&offer, &parsed, transport).is_none());
    }

    /// S47: AH has a proposal of its own, by RFC 2407's numbers, and is never taken for ESP.
    #[test]
    fn ah_is_offered_beside_esp_and_never_taken_for_it() {
        let mut ours = phase2(&[Proposal::parse_ah("sha256-sha1-aes128gmac").unwrap()]);
        let esp = suites(&["null-sha256"]);
        ours.extend(&esp);
        let body = emit_phase2(&ours, 0x1234, TUNNEL, Life::default());
        let parsed = sa::parse(&body).unwrap();
        let protocols: Vec<u8> = parsed.iter().map(|p| p.protocol).collect();
        assert_eq!(protocols, [PROTO_AH, PROTO_ESP]);
        let ids = parsed[0].transforms.iter();
        let ids = ids.map(|t| (t.id, t.number_of(attribute::INTEGRITY)));
        let expected = [(5, Some(5)), (3, Some(2)), (11, Some(11))];
        assert_eq!(ids.collect::<Vec<_>>(), expected);
        let chosen = choose2(&ours, &parsed, TUNNEL).unwrap();
        assert!(chosen.suite.ah);
        assert_eq!(sa::parse(&chosen.emit(1)).unwrap()[0].protocol, PROTO_AH);
        let chosen = choose2(&esp, &parsed, TUNNEL).unwrap();
        assert!(!chosen.suite.ah);
        let alone = emit_phase2(&ours[..3], 0x1234, TUNNEL, Life::default());
        assert!(choose2(&esp, &sa::parse(&alone).unwrap(), TUNNEL).is_none());
    }

    /// B47, B51: by the numbers of RFC 4543 §9 and RFC 3566 §5; AES-CMAC has none.
    #[test]
    fn gmac_and_xcbc_have_numbers_and_cmac_has_none() {
        let ours = suites(&["aes256gmac", "aes128-aescmac-aesxcbc", "null-aescmac"]);
        let body = emit_phase2(&ours, 0x1234, TUNNEL, Life::default());
        let parsed = sa::parse(&body).unwrap();
        let numbers = parsed[0].transforms.iter().map(|t| {
            let number = |kind| t.number_of(kind);
            (
                t.id,
                number(attribute::KEY_LENGTH),
                number(attribute::INTEGRITY),
            )
        });
        let expected = [(23, Some(256), None), (12, Some(128), Some(9))];
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        for suite in &ours {
            assert_eq!(choose2(&[*suite], &parsed, TUNNEL).unwrap().suite, *suite);
        }
        assert!(choose2(&suites(&["aes128gmac"]), &parsed, TUNNEL).is_none());
        let ah = phase2(&[Proposal::parse_ah("aescmac-aesxcbc").unwrap()]);
        let body = emit_phase2(&ah, 0x1234, TUNNEL, Life::default());
        let transform = &sa::parse(&body).unwrap()[0].transforms[0];
        assert_eq!(
            (transform.id, transform.number_of(attribute::INTEGRITY)),
            (9, Some(9))
        );
        assert_eq!(ah.len(), 1);
    }

    /// S20: seconds and kilobytes stand beside each other, each behind its unit, in either order.
    #[test]
    fn lifetimes_have_two_units() {
        let life = Life {
            time: Some(Duration::from_secs(3600)),
            kilobytes: Some(100_000),
        };
        let octets = life.emit();
        let mut attributes = crate::wire::attribute::parse(&octets).unwrap();
        assert_eq!(Life::read(&attributes), life);
        attributes.rotate_left(2);
        assert_eq!(Life::read(&attributes), life);
        // A duration without its unit is none.
        assert_eq!(Life::read(&attributes[1..2]), Life::default());
        let longer = Life {
            time: None,
            kilobytes: Some(100_001),
        };
        assert_eq!(life.shorter_than(longer), life);
        assert_eq!(longer.shorter_than(life), Life::default());
    }

    /// S53: a group where none is wanted, and none where one is, don't fit.
    #[test]
    fn forward_secrecy_is_agreed_or_nothing() {
        let (with, without) = (
            suites(&["aes128-sha256-ecp256"]),
            suites(&["aes128-sha256"]),
        );
        for (ours, theirs) in [(&with, &without), (&without, &with)] {
            let body = emit_phase2(theirs, 0x1234, TUNNEL, Life::default());
            assert!(choose2(ours, &sa::parse(&body).unwrap(), TUNNEL).is_none());
        }
    }
}
