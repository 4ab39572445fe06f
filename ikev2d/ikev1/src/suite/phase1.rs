// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Phase 1 (RFC 2409 appendix A): methods, ciphers, hashes and groups.

use std::time::Duration;

use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::config::{Connection, LocalAuth, RemoteAuth};
use ikev2d_proto::credential::{Hash, Scheme};
use ikev2d_proto::xauth::Xauth;

use super::{Life, MOST};
use crate::wire::attribute::push;
use crate::wire::sa::{self, KEY_IKE, PROTO_ISAKMP, Transform};

mod attribute {
    pub(super) const ENCRYPTION: u16 = 1;
    pub(super) const HASH: u16 = 2;
    pub(super) const AUTH: u16 = 3;
    pub(super) const GROUP: u16 = 4;
    pub(super) const LIFE_TYPE: u16 = 11;
    pub(super) const LIFE: u16 = 12;
    pub(super) const KEY_LENGTH: u16 = 14;
}

/// How the peers prove who they are (RFC 2409 appendix A, RFC 4754).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// A preshared key.
    SharedKey = 1,
    /// DSS signatures.
    Dss = 2,
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
    const ALL: [Self; 6] = [
        Self::SharedKey,
        Self::Dss,
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
                        Scheme::Dss => Self::Dss,
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

    /// What HASH_I and HASH_R are made with: DSS signs SHA-1's output and no other (RFC 2409 §5.1).
    pub(crate) fn hashes_by(self, negotiated: Prf) -> Prf {
        match self {
            Self::Dss => Prf::HmacSha1,
            _ => negotiated,
        }
    }

    /// Its word, if it is of another time.
    pub(crate) fn weak(self) -> Option<&'static str> {
        (self == Self::Dss).then_some("dsa")
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

/// Number of a hash; of none where a PRF is made otherwise.
fn hash_number(prf: Prf) -> Option<u32> {
    Some(match prf {
        Prf::HmacMd5 => 1,
        Prf::HmacSha1 => 2,
        Prf::HmacSha256 => 4,
        Prf::HmacSha384 => 5,
        Prf::HmacSha512 => 6,
        Prf::Aes128Xcbc | Prf::Aes128Cmac => return None,
    })
}

/// Whether phase 1 knows a proposal's integrity algorithm, by its hash.
pub fn has_hash(integrity: Integrity) -> bool {
    hash_number(Prf::beside(integrity)).is_some()
}

fn hash_of(number: u64) -> Option<Prf> {
    Prf::ALL
        .into_iter()
        .find(|prf| hash_number(*prf).map(u64::from) == Some(number))
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
        Prf::Aes128Xcbc => Integrity::AesXcbc,
        Prf::Aes128Cmac => Integrity::AesCmac,
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
        let hashes: Vec<Prf> = hashes.filter(|prf| hash_number(*prf).is_some()).collect();
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
            push(&mut out, attribute::ENCRYPTION, number);
            if let Some(bits) = bits {
                push(&mut out, attribute::KEY_LENGTH, bits.into());
            }
        }
        if let Some(number) = hash_number(self.prf) {
            push(&mut out, attribute::HASH, number);
        }
        push(&mut out, attribute::GROUP, self.group as u32);
        if let Some(method) = self.method.number(self.user) {
            push(&mut out, attribute::AUTH, method.into());
        }
        Life::of_time(life).push(&mut out, (attribute::LIFE_TYPE, attribute::LIFE));
        out
    }

    /// Out of a transform, where we know all of it.
    fn read(transform: &Transform<'_>) -> Option<Self> {
        let bits = transform.number_of(attribute::KEY_LENGTH);
        let encryption = match (transform.number_of(attribute::ENCRYPTION)?, bits) {
            (1, None) => Encryption::Des,
            (5, None) => Encryption::TripleDes,
            (7, Some(bits @ (128 | 192 | 256))) => Encryption::AesCbc(bits as u16),
            _ => return None,
        };
        let group = transform.number_of(attribute::GROUP)?;
        let group = Group::from_wire(u16::try_from(group).ok()?)?;
        let (method, user) = Method::from_wire(transform.number_of(attribute::AUTH)?)?;
        Some(Self {
            encryption,
            prf: hash_of(transform.number_of(attribute::HASH)?)?,
            group,
            method,
            user,
        })
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
                        (attribute::LIFE_TYPE, attribute::LIFE),
                    )
                    .time,
                })
            })
    })
}
