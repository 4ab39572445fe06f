// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths that were valid: what a peer sent before need not be read and verified again, as long as every
//! certificate of its path is in its time. Whether one is revoked, whose it is, and what is signed with
//! its key are never kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use openssl::asn1::Asn1Time;
use openssl::sha::Sha256;
use openssl::x509::X509Ref;

use crate::trust::Believed;

/// Paths that are kept at most: anybody may send certificates that are valid, and whose key it lacks.
const MOST: usize = 1024;

type Key = [u8; 32];

/// The paths of one trust.
#[derive(Default)]
pub(crate) struct Paths(Mutex<HashMap<Key, Believed>>);

/// Of all that was sent, in its order.
fn key(sent: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    for certificate in sent {
        hash.update(&(certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    hash.finish()
}

fn is_in_time(certificate: &X509Ref, now: &Asn1Time) -> bool {
    certificate.not_before() < *now && *now < certificate.not_after()
}

impl Paths {
    /// The path of certificates as they were sent, if it was valid and is in its time.
    pub(crate) fn find(&self, sent: &[&[u8]]) -> Option<Believed> {
        if sent.is_empty() {
            return None;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(sent);
        let found = all.get(&key)?;
        let now = Asn1Time::days_from_now(0).ok()?;
        if found.chain.iter().all(|one| is_in_time(one, &now)) {
            return Some(found.clone());
        }
        all.remove(&key);
        None
    }

    /// Keeps one that is valid; where there are too many, in another one's place.
    pub(crate) fn keep(&self, sent: &[&[u8]], believed: &Believed) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            // The map's order is random by itself.
            let any = all.keys().next().copied();
            any.and_then(|any| all.remove(&any));
        }
        all.insert(key(sent), believed.clone());
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509;

    use super::*;

    fn certificate(from: i64, until: i64) -> X509 {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let day = |days: i64| Asn1Time::from_unix(now + days * 86_400).unwrap();
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_not_before(&day(from)).unwrap();
        builder.set_not_after(&day(until)).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn path(chain: &[X509]) -> Believed {
        Believed {
            chain: chain.to_vec(),
            ..Believed::default()
        }
    }

    /// A04: what was valid yesterday is verified again today, an authority's certificate, too.
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
            paths.keep(&[b"sent"], &path(&chain));
            assert_eq!(paths.find(&[b"sent"]).is_some(), found);
            assert_eq!(paths.len(), usize::from(found));
        }
    }

    /// Nothing else than exactly what was sent is known, and only so much of it.
    #[test]
    fn paths_are_told_apart_and_bounded() {
        let (paths, path) = (Paths::default(), path(&[certificate(-1, 1)]));
        paths.keep(&[b"ab", b"c"], &path);
        assert!(paths.find(&[b"ab", b"c"]).is_some());
        for other in [
            &[&b"a"[..], b"bc"][..],
            &[b"abc"],
            &[b"c", b"ab"],
            &[b"ab"],
            &[],
        ] {
            assert!(paths.find(other).is_none());
        }
        for number in 0..2 * MOST {
            paths.keep(&[&number.to_be_bytes()], &path);
        }
        assert_eq!(paths.len(), MOST);
    }
}
