// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths that were valid: what a peer sent before need not be read and verified again, as long as every
//! certificate of its path is in its time. Whether one is revoked, whose it is, and what is signed with
//! its key are never kept.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::sha::Sha256;

use crate::trust::Believed;

/// Paths that are kept at most.
const MOST: usize = 1024;
/// Octets of all certificates that they came with, at most: the library makes several times as many of
/// them.
const OCTETS: usize = 2 << 20;

/// What was sent, all of it and in its order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    hash: [u8; 32],
    octets: usize,
}

impl Sent {
    /// These certificates, if there are any.
    pub(crate) fn new(certificates: &[&[u8]]) -> Option<Self> {
        let mut hash = Sha256::new();
        for certificate in certificates {
            hash.update(&(certificate.len() as u64).to_be_bytes());
            hash.update(certificate);
        }
        (!certificates.is_empty()).then(|| Self {
            hash: hash.finish(),
            octets: certificates.iter().map(|one| one.len()).sum(),
        })
    }
}

/// The paths of one trust.
#[derive(Default)]
pub(crate) struct Paths(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    paths: HashMap<Sent, Known>,
    octets: usize,
}

/// A path that was valid.
struct Known {
    believed: Believed,
    /// When all of it are in their time, in seconds since 1970.
    valid: Range<i64>,
}

impl Known {
    fn new(believed: &Believed) -> Result<Self, ErrorStack> {
        let (mut from, mut until) = (i64::MIN, i64::MAX);
        for one in &believed.chain {
            from = from.max(seconds(one.not_before())?);
            until = until.min(seconds(one.not_after())?);
        }
        Ok(Self {
            believed: believed.clone(),
            valid: from..until,
        })
    }

    fn is_in_time(&self) -> bool {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.valid.contains(&now)
    }
}

/// A time in seconds since 1970.
fn seconds(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

impl Kept {
    fn remove(&mut self, sent: Sent) {
        if self.paths.remove(&sent).is_some() {
            self.octets -= sent.octets;
        }
    }
}

impl Paths {
    /// The path of certificates as they were sent, if it was valid and is in its time.
    pub(crate) fn find(&self, sent: Sent) -> Option<Believed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.paths.get(&sent)?;
        if found.is_in_time() {
            return Some(found.believed.clone());
        }
        all.remove(sent);
        None
    }

    /// Keeps one that is valid, of a peer that has its key: anybody may send other people's certificates.
    /// Where there are too many, it is in others' place.
    pub(crate) fn keep(&self, sent: Sent, believed: &Believed) {
        if sent.octets > OCTETS {
            return;
        }
        let Ok(known) = Known::new(believed) else {
            return;
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(sent);
        while all.paths.len() >= MOST || all.octets + sent.octets > OCTETS {
            // The map's order is random by itself.
            let Some(any) = all.paths.keys().next().copied() else {
                break;
            };
            all.remove(any);
        }
        all.octets += sent.octets;
        all.paths.insert(sent, known);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let octets = all.paths.keys().map(|sent| sent.octets).sum::<usize>();
        assert_eq!(all.octets, octets);
        all.paths.len()
    }
}

#[cfg(test)]
mod tests {
    use ikev2d_proto::config::Identity;
    use ikev2d_proto::credential::{Certificate, Claim, Hash, Scheme, Verifier as _};
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::{PKey, Private};
    use openssl::x509::{X509, X509Name};

    use super::*;
    use crate::credential::SignaturePolicy;
    use crate::trust::{Revocation, Trust, TrustAnchors};

    fn certificate(from: i64, until: i64) -> X509 {
        issued(from, until).0
    }

    fn issued(from: i64, until: i64) -> (X509, PKey<Private>) {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let day = |days: i64| Asn1Time::from_unix(now + days * 86_400).unwrap();
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "Holder").unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_not_before(&day(from)).unwrap();
        builder.set_not_after(&day(until)).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        (builder.build(), key)
    }

    fn sent(certificates: &[&[u8]]) -> Sent {
        Sent::new(certificates).unwrap()
    }

    fn path(chain: &[X509]) -> Believed {
        Believed {
            chain: chain.to_vec(),
            ..Believed::default()
        }
    }

    /// A04, S102: what was valid yesterday is verified again today, an authority's certificate, too.
    #[test]
    fn a_path_out_of_its_time_is_forgotten() {
        let [good, over, early] = [(-1, 1), (-2, -1), (1, 2)].map(|(a, b)| certificate(a, b));
        for (chain, found) in [
            (vec![good.clone(), good.clone()], true),
            (vec![over.clone(), good.clone()], false),
            (vec![good.clone(), over], false),
            (vec![good, early], false),
        ] {
            let paths = Paths::default();
            paths.keep(sent(&[b"sent"]), &path(&chain));
            assert_eq!(paths.find(sent(&[b"sent"])).is_some(), found);
            assert_eq!(paths.len(), usize::from(found));
        }
    }

    /// Nothing else than exactly what was sent is known, and only so much of it.
    #[test]
    fn paths_are_told_apart_and_bounded() {
        let (paths, path) = (Paths::default(), path(&[certificate(-1, 1)]));
        paths.keep(sent(&[b"ab", b"c"]), &path);
        assert!(paths.find(sent(&[b"ab", b"c"])).is_some());
        for other in [&[&b"a"[..], b"bc"][..], &[b"abc"], &[b"c", b"ab"], &[b"ab"]] {
            assert!(paths.find(sent(other)).is_none());
        }
        assert!(Sent::new(&[]).is_none());
        for number in 0..2 * MOST {
            paths.keep(sent(&[&number.to_be_bytes()]), &path);
        }
        assert_eq!(paths.len(), MOST);
        let (paths, large) = (Paths::default(), vec![0; OCTETS / 4]);
        for number in 0..8 {
            paths.keep(sent(&[&[number], &large]), &path);
            assert_eq!(paths.len(), usize::from(number + 1).min(3));
        }
        paths.keep(sent(&[&vec![0; OCTETS + 1]]), &path);
        assert_eq!(paths.len(), 3);
    }

    /// A16: who lacks the key of a valid certificate has nothing kept, whatever else it sends along.
    #[test]
    fn only_who_has_the_key_is_remembered() {
        let (own, key) = issued(-1, 1);
        let anchors = TrustAnchors {
            certificates: vec![own.clone()],
            ..TrustAnchors::default()
        };
        let (off, policy) = (Revocation::Off, SignaturePolicy::default());
        let trust = Trust::new(anchors, off, policy).unwrap();
        let scheme = Scheme::Ecdsa(Hash::Sha256);
        let mut claim = Claim {
            identity: Identity::Dn(own.subject_name().to_der().unwrap()),
            certificates: [own, certificate(-1, 1)]
                .map(|one| Certificate {
                    encoding: Certificate::X509,
                    octets: one.to_der().unwrap(),
                })
                .to_vec(),
            schemes: vec![scheme],
            signature: vec![0; 64],
            octets: b"what is signed".to_vec(),
        };
        assert!(trust.verify(&claim).is_err());
        assert_eq!(trust.paths().len(), 0);
        claim.signature = crate::signature::sign(&key, scheme, &claim.octets).unwrap();
        for _ in 0..2 {
            trust.verify(&claim).unwrap();
            assert_eq!(trust.paths().len(), 1);
        }
    }
}
