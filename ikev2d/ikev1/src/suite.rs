// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proposals of both phases: configured ones as transforms, and the choice among a peer's
//! (RFC 2409 appendix A, RFC 2407 §4.4 and §4.5).

use std::time::Duration;

use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::config::{Connection, LocalAuth, RemoteAuth};
use ikev2d_proto::credential::{Hash, Scheme};
use ikev2d_proto::proposal::{EspSuite, Proposal};
use ikev2d_proto::xauth::Xauth;

use crate::wire::attribute::{Attribute, push};
use crate::wire::sa::{self, KEY_IKE, PROTO_AH, PROTO_ESP, PROTO_ISAKMP, Transform};

mod attribute1 {
    pub(super) const ENCRYPTION: u16 = 1;
    pub(super) const HASH: u16 = 2;
    pub(super) const AUTH: u16 = 3;
    pub(super) const GROUP: u16 = 4;
    pub(super) const LIFE_TYPE: u16 = 11;
    pub(super) const LIFE: u16 = 12;
    pub(super) const KEY_LENGTH: u16 = 14;
}

mod attribute2 {
    pub(super) const LIFE_TYPE: u16 = 1;
    pub(super) const LIFE: u16 = 2;
    pub(super) const GROUP: u16 = 3;
    pub(super) const MODE: u16 = 4;
    pub(super) const INTEGRITY: u16 = 5;
    pub(super) const KEY_LENGTH: u16 = 6;
    pub(super) const ESN: u16 = 11;
}

/// Seconds, in both phases.
const SECONDS: u64 = 1;
/// Kilobytes, in both phases.
const KILOBYTES: u64 = 2;
/// Transforms that we offer, at most: their count is an octet, and datagrams are to stay small.
const MOST: usize = 60;

/// How the peers prove who they are (RFC 2409 appendix A, RFC 4754).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// A preshared key.
    SharedKey = 1,
    /// RSA signatures.
    Rsa = 3,
    /// ECDSA with SHA-256 on P-256.
    Ecdsa256 = 9,
    /// ECDSA with SHA-384 on P-384.
    Ecdsa384 = 10,
    /// ECDSA with SHA-512 on P-521.
    Ecdsa521 = 11,
}

impl Method {
    const ALL: [Self; 5] = [
        Self::SharedKey,
        Self::Rsa,
        Self::Ecdsa256,
        Self::Ecdsa384,
        Self::Ecdsa521,
    ];

    /// Its number, with or without a user who proves itself behind it
    /// (draft-beaulieu-ike-xauth-02 §7.2, which has two of the methods).
    fn number(self, user: Option<End>) -> Option<u16> {
        Some(match (self, user) {
            (method, None) => method as u16,
            (Self::SharedKey, Some(End::Initiator)) => 65001,
            (Self::SharedKey, Some(End::Responder)) => 65002,
            (Self::Rsa, Some(End::Initiator)) => 65005,
            (Self::Rsa, Some(End::Responder)) => 65006,
            _ => return None,
        })
    }

    fn from_wire(number: u64) -> Option<(Self, Option<End>)> {
        let all = Self::ALL.into_iter().flat_map(|method| {
            let users = [None, Some(End::Initiator), Some(End::Responder)];
            users.map(|user| (method, user))
        });
        let mut all = all.into_iter();
        all.find(|(method, user)| method.number(*user).is_some_and(|n| u64::from(n) == number))
    }

    /// What a connection can do. Both ends prove themselves in the same way; with signatures each end's
    /// own key must be of the method's kind.
    pub fn of(connection: &Connection) -> Vec<Self> {
        match (&connection.local_auth, &connection.remote_auth) {
            (LocalAuth::SharedKey, RemoteAuth::SharedKey) => vec![Self::SharedKey],
            (LocalAuth::PublicKey(signer), RemoteAuth::PublicKey(_)) => {
                let mut all = Vec::new();
                for scheme in signer.schemes() {
                    let method = match scheme {
                        Scheme::RsaPkcs1(_) | Scheme::RsaUntold(_) => Self::Rsa,
                        Scheme::EcdsaFixed(Hash::Sha256) => Self::Ecdsa256,
                        Scheme::EcdsaFixed(Hash::Sha384) => Self::Ecdsa384,
                        Scheme::EcdsaFixed(Hash::Sha512) => Self::Ecdsa521,
                        _ => continue,
                    };
                    if !all.contains(&method) {
                        all.push(method);
                    }
                }
                all
            }
            _ => Vec::new(),
        }
    }

    /// Whether a signature, rather than a shared secret, proves it.
    pub fn signs(self) -> bool {
        self != Self::SharedKey
    }
}

/// An end of an ISAKMP SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who has begun.
    Initiator,
    /// Who has answered.
    Responder,
}

/// What was chosen for an ISAKMP SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase1 {
    /// Encryption: never an AEAD.
    pub encryption: Encryption,
    /// The hash, named by the PRF that it is beneath.
    pub prf: Prf,
    /// Key exchange.
    pub group: Group,
    /// Authentication.
    pub method: Method,
    /// Whose user proves itself by XAUTH behind it.
    pub user: Option<End>,
}

/// Whether a group is IKEv1's as well: what came after RFC 5903 is IKEv2's alone, but for the brainpool
/// curves (RFC 6932).
pub fn has_number(group: Group) -> bool {
    (group as u16) < 25 || (27..=30).contains(&(group as u16))
}

/// Number of a hash.
fn hash_number(prf: Prf) -> u32 {
    match prf {
        Prf::HmacMd5 => 1,
        Prf::HmacSha1 => 2,
        Prf::HmacSha256 => 4,
        Prf::HmacSha384 => 5,
        Prf::HmacSha512 => 6,
    }
}

fn hash_of(number: u64) -> Option<Prf> {
    Prf::ALL
        .into_iter()
        .find(|prf| u64::from(hash_number(*prf)) == number)
}

/// Number and key length of a cipher in phase 1.
fn cipher_number(encryption: Encryption) -> Option<(u32, Option<u16>)> {
    match encryption {
        Encryption::Des => Some((1, None)),
        Encryption::TripleDes => Some((5, None)),
        Encryption::AesCbc(bits) => Some((7, Some(bits))),
        _ => None,
    }
}

/// The integrity algorithm that stands for a hash where people look.
pub(crate) fn integrity_of(prf: Prf) -> Integrity {
    match prf {
        Prf::HmacMd5 => Integrity::HmacMd5,
        Prf::HmacSha1 => Integrity::HmacSha1,
        Prf::HmacSha256 => Integrity::HmacSha256,
        Prf::HmacSha384 => Integrity::HmacSha384,
        Prf::HmacSha512 => Integrity::HmacSha512,
    }
}

/// Everything that a connection's proposals allow in phase 1, best first, where we are this end.
pub fn phase1(connection: &Connection, own: End) -> Vec<Phase1> {
    let mut methods = Method::of(connection);
    let user = connection
        .ikev1
        .xauth
        .as_ref()
        .map(|xauth| match (xauth, own) {
            (Xauth::Client(_), own) => own,
            (Xauth::Server(_), End::Initiator) => End::Responder,
            (Xauth::Server(_), End::Responder) => End::Initiator,
        });
    methods.retain(|method| method.number(user).is_some());
    let mut all = Vec::new();
    for proposal in &connection.proposals {
        let hashes = proposal.integrity.iter().map(|i| Prf::beside(*i));
        let hashes: Vec<Prf> = hashes.collect();
        for encryption in proposal.encryption.iter().copied() {
            if cipher_number(encryption).is_none() {
                continue;
            }
            for (prf, group) in hashes
                .iter()
                .flat_map(|prf| proposal.groups.iter().map(move |group| (*prf, *group)))
            {
                for method in methods.iter().copied() {
                    let suite = Phase1 {
                        encryption,
                        prf,
                        group,
                        method,
                        user,
                    };
                    if has_number(group) && !all.contains(&suite) {
                        all.push(suite);
                    }
                }
            }
        }
    }
    all
}

impl Phase1 {
    fn attributes(&self, life: Duration) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some((number, bits)) = cipher_number(self.encryption) {
            push(&mut out, attribute1::ENCRYPTION, number);
            if let Some(bits) = bits {
                push(&mut out, attribute1::KEY_LENGTH, bits.into());
            }
        }
        push(&mut out, attribute1::HASH, hash_number(self.prf));
        push(&mut out, attribute1::GROUP, self.group as u32);
        if let Some(method) = self.method.number(self.user) {
            push(&mut out, attribute1::AUTH, method.into());
        }
        Life::of_time(life).push(&mut out, (attribute1::LIFE_TYPE, attribute1::LIFE));
        out
    }

    /// Out of a transform, where we know all of it.
    fn read(transform: &Transform<'_>) -> Option<Self> {
        let bits = transform.number_of(attribute1::KEY_LENGTH);
        let encryption = match (transform.number_of(attribute1::ENCRYPTION)?, bits) {
            (1, None) => Encryption::Des,
            (5, None) => Encryption::TripleDes,
            (7, Some(bits @ (128 | 192 | 256))) => Encryption::AesCbc(bits as u16),
            _ => return None,
        };
        let group = transform.number_of(attribute1::GROUP)?;
        let group = Group::from_wire(u16::try_from(group).ok()?)?;
        let (method, user) = Method::from_wire(transform.number_of(attribute1::AUTH)?)?;
        Some(Self {
            encryption,
            prf: hash_of(transform.number_of(attribute1::HASH)?)?,
            group,
            method,
            user,
        })
    }
}

/// How long an SA is said to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// By time.
    pub time: Option<Duration>,
    /// By what has passed.
    pub kilobytes: Option<u64>,
}

impl Life {
    /// By time alone.
    pub fn of_time(time: Duration) -> Self {
        let time = Some(time);
        Self {
            time,
            ..Self::default()
        }
    }

    fn push(self, out: &mut Vec<u8>, (kind, duration): (u16, u16)) {
        let seconds = self.time.map(|time| (SECONDS, time.as_secs()));
        let kilobytes = self.kilobytes.map(|kilobytes| (KILOBYTES, kilobytes));
        for (unit, number) in seconds.into_iter().chain(kilobytes) {
            push(out, kind, unit as u32);
            push(out, duration, u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    /// As phase 2 writes it.
    pub fn emit(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.push(&mut out, (attribute2::LIFE_TYPE, attribute2::LIFE));
        out
    }

    /// Out of phase 2's attributes: each duration is in the unit in front of it.
    pub fn read(attributes: &[Attribute<'_>]) -> Self {
        Self::read_by(attributes, (attribute2::LIFE_TYPE, attribute2::LIFE))
    }

    fn read_by(attributes: &[Attribute<'_>], (kind, duration): (u16, u16)) -> Self {
        let mut life = Self::default();
        let mut unit = None;
        for attribute in attributes {
            if attribute.kind == kind {
                unit = attribute.number();
            } else if attribute.kind == duration {
                match unit.take() {
                    Some(SECONDS) => life.time = attribute.number().map(Duration::from_secs),
                    Some(KILOBYTES) => life.kilobytes = attribute.number(),
                    _ => {}
                }
            }
        }
        life
    }

    /// The parts of this one that end before those of another.
    pub fn shorter_than(self, other: Self) -> Self {
        fn less<T: Ord>(own: Option<T>, other: Option<T>) -> Option<T> {
            own.filter(|own| other.is_none_or(|other| *own < other))
        }
        Self {
            time: less(self.time, other.time),
            kilobytes: less(self.kilobytes, other.kilobytes),
        }
    }
}

/// Body of an SA payload that offers these.
pub fn emit_phase1(suites: &[Phase1], life: Duration) -> Vec<u8> {
    let transforms: Vec<sa::Out> = (1..)
        .zip(suites.iter().take(MOST))
        .map(|(number, suite)| (number, KEY_IKE, suite.attributes(life)))
        .collect();
    sa::emit(1, PROTO_ISAKMP, &[], &transforms)
}

/// A choice in phase 1.
#[derive(Debug)]
pub struct Chosen1<'octets> {
    /// Its suite.
    pub suite: Phase1,
    /// Proposal's and transform's numbers, and the attributes as they came.
    pub echo: (u8, u8, &'octets [u8]),
    /// How long the peer wants it to live.
    pub life: Option<Duration>,
}

impl Chosen1<'_> {
    /// Body of the SA payload that tells it.
    pub fn emit(&self) -> Vec<u8> {
        let (proposal, number, raw) = self.echo;
        sa::emit(
            proposal,
            PROTO_ISAKMP,
            &[],
            &[(number, KEY_IKE, raw.to_vec())],
        )
    }
}

/// The best of ours that an offer has.
pub fn choose1<'o>(ours: &[Phase1], offer: &[sa::Proposal<'o>]) -> Option<Chosen1<'o>> {
    ours.iter().find_map(|suite| {
        offer
            .iter()
            .filter(|proposal| proposal.protocol == PROTO_ISAKMP)
            .find_map(|proposal| {
                let fits =
                    |t: &&Transform<'_>| t.id == KEY_IKE && Phase1::read(t).as_ref() == Some(suite);
                let transform = proposal.transforms.iter().find(fits)?;
                Some(Chosen1 {
                    suite: *suite,
                    echo: (proposal.number, transform.number, transform.raw),
                    life: Life::read_by(
                        &transform.attributes,
                        (attribute1::LIFE_TYPE, attribute1::LIFE),
                    )
                    .time,
                })
            })
    })
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
        let (tunnel, transport) = ([1, 3, 61443], [2, 4, 61444]);
        if self.transport { transport } else { tunnel }.contains(&number)
    }
}

/// ESP transform id and key length of a cipher, where IKEv1 has them (RFC 4106 §8.2 for GCM).
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
        _ => None,
    }
}

fn integrity_number(integrity: Integrity) -> u32 {
    match integrity {
        Integrity::HmacSha256 => 5,
        Integrity::HmacSha384 => 6,
        Integrity::HmacSha512 => 7,
        Integrity::HmacMd5 => 1,
        Integrity::HmacSha1 => 2,
        Integrity::Aes128Gmac => 11,
        Integrity::Aes192Gmac => 12,
        Integrity::Aes256Gmac => 13,
    }
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
                proposal.integrity.iter().copied().map(Some).collect()
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
        other => (integrity_number(other) as u8, None),
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
                    push(&mut out, attribute2::KEY_LENGTH, bits.into());
                }
                if let Some(integrity) = suite.integrity {
                    push(&mut out, attribute2::INTEGRITY, integrity_number(integrity));
                }
                if let Some(group) = suite.group {
                    push(&mut out, attribute2::GROUP, group as u32);
                }
                push(&mut out, attribute2::MODE, encapsulation.number());
                if suite.esn {
                    push(&mut out, attribute2::ESN, 1);
                }
                life.push(&mut out, (attribute2::LIFE_TYPE, attribute2::LIFE));
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
        && is(attribute2::KEY_LENGTH, bits.map(u64::from))
        && is(
            attribute2::INTEGRITY,
            suite.integrity.map(|i| integrity_number(i).into()),
        )
        && is(attribute2::GROUP, suite.group.map(|group| group as u64))
        && is(attribute2::ESN, suite.esn.then_some(1))
        && transform
            .number_of(attribute2::MODE)
            .is_some_and(|number| encapsulation.fits(number))
}

#[cfg(test)]
mod tests {
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
        let ids = ids.map(|t| (t.id, t.number_of(attribute2::INTEGRITY)));
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
