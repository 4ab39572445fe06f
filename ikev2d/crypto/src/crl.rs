// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Revocation lists by HTTP (RFC 5280 §4.2.1.13, §5): fetched from where a certificate says, with their
//! deltas, and kept until the next one is due.

mod ffi;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::sha::Sha256;
use openssl::stack::StackRef;
use openssl::x509::store::X509StoreBuilderRef;
use openssl::x509::{DistPoint, X509Crl, X509Ref};
use thiserror::Error;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::FreshestCrl;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};

use crate::dates::unix;
use crate::fetch::{Fetch, Fetched, Fruitless, MOST_URIS, NotAsked, Servers, patience};

/// By how much an authority's clock may differ from ours.
const SKEW: Duration = Duration::from_secs(300);
/// Octets of a list, at most: some two hundred thousand entries.
const LIST_LIMIT: usize = 8 << 20;
/// Octets of all lists that are kept, and their number.
const KEPT_OCTETS: usize = 32 << 20;
const MOST_KEPT: usize = 256;
/// After this a list is fetched anew, whenever the next one is due: authorities publish early what they
/// revoke in a hurry.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// The same for one that does not say when the next one is due.
const REFRESH_UNDATED: Duration = Duration::from_secs(3600);

/// What was fetched is no list that counts.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrlError {
    /// There is none.
    #[error("no list: {what}")]
    Unreachable {
        /// What happened.
        what: String,
    },
    /// It is in neither DER nor PEM.
    #[error("no revocation list in DER or PEM")]
    Malformed,
    /// It is another authority's.
    #[error(
        "the list is not signed by the certificate's issuer (indirect lists are not supported)"
    )]
    Untrusted,
    /// It is signed with a broken hash.
    #[error("the list is signed with {algorithm}, which is broken")]
    Weak {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// The next one is due, or it is from the future.
    #[error("the list is out of date, or one of the two clocks is wrong")]
    OutOfDate,
    /// It has changes alone where a whole list is wanted, or is whole where changes are.
    #[error("the list is a delta in a list's place, or a list in a delta's")]
    WrongKind,
    /// There was a newer one already.
    #[error("the list is older than the one that was there before")]
    Older,
    /// The library refuses.
    #[error("OpenSSL refused to work on it")]
    Library,
}

impl From<ErrorStack> for CrlError {
    fn from(_: ErrorStack) -> Self {
        Self::Library
    }
}

impl From<NotAsked> for CrlError {
    fn from(why: NotAsked) -> Self {
        Self::Unreachable {
            what: why.to_string(),
        }
    }
}

/// A list whose issuer has signed it.
pub(crate) struct List {
    crl: X509Crl,
    octets: usize,
    issued: SystemTime,
    next: Option<SystemTime>,
    refresh: SystemTime,
    is_delta: bool,
    /// Where its deltas are.
    deltas: Vec<String>,
}

impl List {
    fn read(octets: &[u8], issuer: &X509Ref, at: SystemTime) -> Result<Self, CrlError> {
        let read = X509Crl::from_der(octets).or_else(|_| X509Crl::from_pem(octets));
        drop(ErrorStack::get());
        let crl = read.map_err(|_| CrlError::Malformed)?;
        let named = |name: &openssl::x509::X509NameRef| name.to_der().ok();
        if named(crl.issuer_name()) != named(issuer.subject_name()) {
            return Err(CrlError::Untrusted);
        }
        let digest = ffi::signed_with(&crl).signature_algorithms();
        let digest = digest.map(|both| both.digest);
        if let Some(broken) = digest.filter(|d| [Nid::SHA1, Nid::MD5].contains(d)) {
            let algorithm = broken.short_name().unwrap_or("a hash");
            return Err(CrlError::Weak { algorithm });
        }
        let signed = crl.verify(&*issuer.public_key()?);
        drop(ErrorStack::get());
        if !signed.unwrap_or_default() {
            return Err(CrlError::Untrusted);
        }
        let issued = unix(crl.last_update()).ok_or(CrlError::Malformed)?;
        let next = crl
            .next_update()
            .map(|next| unix(next).ok_or(CrlError::Malformed));
        let next = next.transpose()?;
        if issued > at + SKEW || next.is_some_and(|next| next <= at) {
            return Err(CrlError::OutOfDate);
        }
        let refresh = next.map_or(at + REFRESH_UNDATED, |next| next.min(at + REFRESH));
        let indicator = crl.extension::<ffi::DeltaIndicator>();
        let is_delta = indicator.map_err(|_| CrlError::Malformed)?.is_some();
        let points = crl.extension::<ffi::FreshestCrl>().ok().flatten();
        Ok(Self {
            octets: octets.len(),
            issued,
            next,
            refresh,
            is_delta,
            deltas: points.map_or_else(Vec::new, |(_, points)| addresses(&points)),
            crl,
        })
    }

    /// The same, if it is a delta, or none.
    fn of_kind(self, is_delta: bool) -> Result<Self, CrlError> {
        match self.is_delta == is_delta {
            true => Ok(self),
            false => Err(CrlError::WrongKind),
        }
    }

    fn is_in_time(&self, at: SystemTime) -> bool {
        self.next.is_none_or(|next| at < next)
    }

    /// Whether it counts on where it can't be had anew: what is due to be looked at again may be in its
    /// time still.
    fn counts_on(&self, at: SystemTime) -> bool {
        self.next.is_some() && self.is_in_time(at)
    }
}

/// Puts lists where the library looks for them.
pub(crate) fn add_to(
    store: &mut X509StoreBuilderRef,
    lists: &[Arc<List>],
) -> Result<(), ErrorStack> {
    lists.iter().try_for_each(|list| ffi::add(store, &list.crl))
}

/// Where a certificate's lists are, as far as it says.
pub(crate) fn points(certificate: &X509Ref) -> Vec<String> {
    let points = certificate.crl_distribution_points();
    drop(ErrorStack::get());
    points.map_or_else(Vec::new, |points| addresses(&points))
}

fn addresses(points: &StackRef<DistPoint>) -> Vec<String> {
    let names = points
        .iter()
        .filter_map(|point| point.distpoint()?.fullname());
    let uris = names.flatten().filter_map(|name| name.uri());
    uris.map(ToOwned::to_owned).collect()
}

/// Where the deltas are of a certificate's lists, as far as it says itself (RFC 5280 §4.2.1.15).
fn deltas(certificate: &X509Ref) -> Vec<String> {
    let read = |der: &[u8]| {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let (_, FreshestCrl(points)) = certificate.tbs_certificate.get().ok()??;
        let names = points
            .into_iter()
            .filter_map(|point| point.distribution_point);
        let full = names.filter_map(|name| match name {
            DistributionPointName::FullName(names) => Some(names),
            DistributionPointName::NameRelativeToCRLIssuer(_) => None,
        });
        let uris = full.flatten().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
            _ => None,
        });
        Some(uris.collect())
    };
    let der = certificate.to_der().ok();
    der.and_then(|der| read(&der)).unwrap_or_default()
}

type Key = [u8; 32];

/// Fetches lists, and keeps them.
pub struct Lists {
    fetch: Box<dyn Fetch>,
    known: Mutex<Known>,
    /// Somebody has done fetching.
    done: Condvar,
    fetched: Fetched,
}

#[derive(Default)]
struct Known {
    lists: HashMap<Key, Arc<List>>,
    /// Those that are being fetched.
    fetching: HashSet<Key>,
    servers: Servers,
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lists({:?})", self.fetch)
    }
}

/// One that fetches a list; others wait until this goes.
struct Turn<'l>(&'l Lists, Key);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.known().fetching.remove(&self.1);
        self.0.done.notify_all();
    }
}

impl Lists {
    /// Fetches by this.
    pub fn new(fetch: impl Fetch + 'static) -> Self {
        Self {
            fetch: Box::new(fetch),
            known: Mutex::default(),
            done: Condvar::new(),
            fetched: Fetched::default(),
        }
    }

    /// Lists so far.
    pub fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// A list of an issuer from the first of these addresses that has one, with its delta; nothing is
    /// fetched after the deadline. Beside it, what was wrong with the addresses before, which are taken
    /// away. A list that is out of date and can't be had anew still tells whom it names.
    pub(crate) fn find(
        &self,
        (certificate, issuer): (&X509Ref, &X509Ref),
        uris: &mut std::slice::Iter<'_, String>,
        at: SystemTime,
        deadline: Instant,
    ) -> (Vec<Arc<List>>, Fruitless<CrlError>) {
        let (mut fruitless, mut found) = (Fruitless(Vec::new()), None);
        for uri in uris {
            let (list, error) = self.list((uri, false), issuer, at, deadline);
            let counts = list.is_some() && error.is_none();
            found = if counts { list } else { found.or(list) };
            if counts {
                break;
            }
            let error = error.map(|error| (uri.clone(), error));
            fruitless.0.extend(error);
        }
        // Whom a delta names is revoked, however old the list.
        let delta = found
            .as_deref()
            .and_then(|list| self.delta(certificate, issuer, list, at, deadline));
        (found.into_iter().chain(delta).collect(), fruitless)
    }

    /// The newest changes to a list. They are a service: without them the list itself counts. Those that
    /// are out of date and can't be had anew still tell whom they name.
    fn delta(
        &self,
        certificate: &X509Ref,
        issuer: &X509Ref,
        list: &List,
        at: SystemTime,
        deadline: Instant,
    ) -> Option<Arc<List>> {
        let mut uris = list.deltas.clone();
        uris.extend(deltas(certificate));
        uris.dedup();
        let mut last = None;
        for uri in uris.iter().take(MOST_URIS) {
            let (delta, error) = self.list((uri, true), issuer, at, deadline);
            if let Some(error) = error {
                tracing::debug!(uri, %error, "a delta of a revocation list was of no use");
            }
            if delta.as_ref().is_some_and(|delta| delta.is_in_time(at)) {
                return delta;
            }
            last = last.or(delta);
        }
        last
    }

    /// One list; an old one with what is wrong, if that does not count on.
    fn list(
        &self,
        (uri, is_delta): (&str, bool),
        issuer: &X509Ref,
        at: SystemTime,
        deadline: Instant,
    ) -> (Option<Arc<List>>, Option<CrlError>) {
        let instead = |old: Option<Arc<List>>, error: CrlError| {
            let error = (!old.as_ref().is_some_and(|old| old.counts_on(at))).then_some(error);
            (old, error)
        };
        let key = match key((uri, is_delta), issuer) {
            Ok(key) => key,
            Err(error) => return (None, Some(error.into())),
        };
        let mut known = self.known();
        let old = loop {
            let now = Instant::now();
            let old = known.lists.get(&key).cloned();
            if old.as_ref().is_some_and(|list| at < list.refresh) {
                return (old, None);
            }
            if !known.fetching.contains(&key) {
                break old;
            }
            // What another peer's check fetches, this one need not.
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return instead(old, NotAsked::Late.into());
            }
            let waited = self.done.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        let now = Instant::now();
        let begun = patience(uri, deadline, now);
        let begun = begun.and_then(|patience| known.servers.begin(uri, now).map(|()| patience));
        let patience = match begun {
            Ok(patience) => patience,
            Err(why) => return instead(old, why.into()),
        };
        known.fetching.insert(key);
        drop(known);
        let _turn = Turn(self, key);
        let got = self.fetch.get(uri, LIST_LIMIT, patience);
        let read = got
            .map_err(|what| CrlError::Unreachable { what })
            .and_then(|octets| List::read(&octets, issuer, at)?.of_kind(is_delta));
        let mut known = self.known();
        let kept = read.and_then(|list| known.keep(key, Arc::new(list), at));
        // Who sends what is none, however much of it, is left alone for a moment, too.
        known.servers.end(uri, kept.is_ok(), Instant::now());
        drop(known);
        self.fetched.count(kept.is_ok());
        match kept {
            Ok(list) => {
                tracing::debug!(uri, octets = list.octets, "a revocation list is here");
                (Some(list), None)
            }
            Err(error) => {
                match old.as_ref().is_some_and(|old| old.counts_on(at)) {
                    true => tracing::warn!(uri, %error, "a revocation list could not be had anew"),
                    false => tracing::debug!(uri, %error, "a revocation list was of no use"),
                }
                instead(old, error)
            }
        }
    }

    /// Forgets the lists, and who was silent.
    pub fn forget(&self) {
        let mut known = self.known();
        known.lists.clear();
        known.servers = Servers::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps a list in its predecessor's place, which it must not be older than: somebody on the way
    /// could send one from before a revocation.
    fn keep(&mut self, key: Key, list: Arc<List>, at: SystemTime) -> Result<Arc<List>, CrlError> {
        let before = self.lists.remove(&key);
        if let Some(before) = before.filter(|before| before.issued > list.issued) {
            self.lists.insert(key, before);
            return Err(CrlError::Older);
        }
        self.lists.insert(key, list.clone());
        let octets = |all: &HashMap<Key, Arc<List>>| all.values().map(|l| l.octets).sum::<usize>();
        if self.lists.len() > MOST_KEPT || octets(&self.lists) > KEPT_OCTETS {
            self.lists.retain(|_, list| at < list.refresh);
        }
        while self.lists.len() > MOST_KEPT || octets(&self.lists) > KEPT_OCTETS {
            let others = self.lists.iter().filter(|(other, _)| **other != key);
            let soonest = others.min_by_key(|(_, list)| list.refresh);
            let Some(soonest) = soonest.map(|(key, _)| *key) else {
                break;
            };
            self.lists.remove(&soonest);
        }
        Ok(list)
    }
}

/// A list by where it is, of which kind, and whose it is.
fn key((uri, is_delta): (&str, bool), issuer: &X509Ref) -> Result<Key, ErrorStack> {
    let mut hash = Sha256::new();
    hash.update(&issuer.to_der()?);
    hash.update(&[u8::from(is_delta)]);
    hash.update(uri.as_bytes());
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::pkey::{PKey, Private};
    use openssl::x509::extension::{AuthorityKeyIdentifier, CrlNumber, SubjectKeyIdentifier};
    use openssl::x509::{X509, X509CrlBuilder, X509Name};

    use super::*;
    use crate::fetch::Nothing;

    struct Issuer(X509, PKey<Private>);

    impl Issuer {
        fn new() -> Self {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
            let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
            let mut name = X509Name::builder().unwrap();
            name.append_entry_by_text("CN", "Issuer").unwrap();
            let mut certificate = X509::builder().unwrap();
            certificate.set_subject_name(&name.build()).unwrap();
            certificate.set_pubkey(&key).unwrap();
            let context = certificate.x509v3_context(None, None);
            let own = SubjectKeyIdentifier::new().build(&context).unwrap();
            certificate.append_extension(own).unwrap();
            certificate.sign(&key, MessageDigest::sha256()).unwrap();
            Self(certificate.build(), key)
        }

        /// A list of these seconds from now.
        fn list(&self, from: i64, until: i64, digest: MessageDigest) -> Vec<u8> {
            let at = |seconds: i64| {
                let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
                Asn1Time::from_unix(now + seconds).unwrap()
            };
            let mut list = X509CrlBuilder::new().unwrap();
            list.set_issuer_name(self.0.subject_name()).unwrap();
            list.set_last_update(&at(from)).unwrap();
            list.set_next_update(&at(until)).unwrap();
            let context = X509::builder().unwrap();
            let context = context.x509v3_context(Some(&self.0), None);
            let signed_by = AuthorityKeyIdentifier::new().keyid(true).build(&context);
            list.append_extension(signed_by.unwrap()).unwrap();
            let number = CrlNumber::new(openssl::bn::BigNum::from_u32(1).unwrap()).unwrap();
            list.append_extension(number.build().unwrap()).unwrap();
            list.sign(&self.1, digest).unwrap();
            list.build().unwrap().to_der().unwrap()
        }
    }

    const DAY: i64 = 86_400;

    fn seconds(seconds: i64) -> Duration {
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// A list counts until the next one is due, and is looked for again after a day at the latest.
    #[test]
    fn lists_have_their_time() {
        let (issuer, at) = (Issuer::new(), SystemTime::now());
        let good = MessageDigest::sha256();
        let read = |from, until| List::read(&issuer.list(from, until, good), &issuer.0, at);
        let soon = read(-DAY, DAY / 2).unwrap();
        assert!(soon.refresh < at + seconds(DAY / 2 + 2) && soon.is_in_time(at));
        assert!(!soon.is_in_time(at + seconds(DAY)));
        assert_eq!(read(-DAY, 30 * DAY).unwrap().refresh, at + REFRESH);
        for (from, until) in [(-9 * DAY, -DAY), (DAY, 2 * DAY)] {
            assert_eq!(read(from, until).err(), Some(CrlError::OutOfDate));
        }
        let weak = issuer.list(-DAY, DAY, MessageDigest::sha1());
        let weak = List::read(&weak, &issuer.0, at);
        assert_eq!(weak.err(), Some(CrlError::Weak { algorithm: "SHA1" }));
    }

    /// However many there are, what is kept is bounded; nothing takes a newer one's place.
    #[test]
    fn lists_are_kept_within_bounds() {
        let (issuer, at) = (Issuer::new(), SystemTime::now());
        let good = MessageDigest::sha256();
        let read = |from| {
            let octets = issuer.list(from, DAY, good);
            Arc::new(List::read(&octets, &issuer.0, at).unwrap())
        };
        let (new, old) = (read(-1), read(-DAY));
        let mut known = Known::default();
        for n in 0..2 * MOST_KEPT {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            assert!(known.keep(key, new.clone(), at).is_ok());
            assert!(known.lists.len() <= MOST_KEPT && known.lists.contains_key(&key));
        }
        let mut large = List::read(&issuer.list(-1, DAY, good), &issuer.0, at).unwrap();
        large.octets = KEPT_OCTETS;
        assert!(known.keep([9; 32], Arc::new(large), at).is_ok());
        assert_eq!(known.lists.len(), 1, "its octets are all that there are");
        let mut known = Known::default();
        assert!(known.keep([1; 32], new.clone(), at).is_ok());
        let kept = known.keep([1; 32], old, at);
        assert_eq!(kept.err(), Some(CrlError::Older));
        assert!(Arc::ptr_eq(&known.lists[&[1; 32]], &new));
    }

    const BASE: &str = "http://lists.test/base.crl";
    const DELTA: &str = "http://lists.test/delta.crl";
    const OTHER_DELTA: &str = "http://other.test/delta.crl";

    impl Lists {
        /// Keeps a list that must be looked at again now, and is in its time still if `in_time`.
        fn put(
            &self,
            issuer: &Issuer,
            uri: &str,
            deltas: Option<&[&str]>,
            at: SystemTime,
            in_time: bool,
        ) {
            let octets = issuer.list(-DAY, 30 * DAY, MessageDigest::sha256());
            let mut list = List::read(&octets, &issuer.0, SystemTime::now()).unwrap();
            (list.is_delta, list.refresh) = (deltas.is_none(), at);
            list.deltas = deltas
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect();
            if !in_time {
                list.next = Some(at);
            }
            let key = key((uri, list.is_delta), &issuer.0).unwrap();
            assert!(self.known().keep(key, Arc::new(list), at).is_ok());
        }

        fn found(&self, issuer: &Issuer, at: SystemTime) -> Vec<(bool, bool)> {
            let deadline = Instant::now() + Duration::from_secs(4);
            let uris = [BASE.to_owned()];
            let (found, _) = self.find((&issuer.0, &issuer.0), &mut uris.iter(), at, deadline);
            let found = found.iter();
            found
                .map(|list| (list.is_delta, list.is_in_time(at)))
                .collect()
        }
    }

    /// B30: whom a delta names stays refused as long as its list counts, or tells whom it names: while
    /// the server is down, and while it is left alone for that.
    #[test]
    fn a_delta_goes_wherever_its_list_goes() {
        let at = SystemTime::now() + seconds(DAY);
        for in_time in [true, false] {
            let (issuer, lists) = (Issuer::new(), Lists::new(Nothing("down")));
            lists.put(&issuer, BASE, Some(&[DELTA]), at, in_time);
            lists.put(&issuer, DELTA, None, at, true);
            for attempt in ["asked", "left alone"] {
                let found = lists.found(&issuer, at);
                assert_eq!(found, [(false, in_time), (true, true)], "{attempt}");
            }
        }
    }

    /// A delta that is out of date keeps nobody from where the next one is.
    #[test]
    fn a_delta_is_looked_for_wherever_there_may_be_one() {
        let at = SystemTime::now() + seconds(DAY);
        let (issuer, lists) = (Issuer::new(), Lists::new(Nothing("down")));
        lists.put(&issuer, BASE, Some(&[DELTA, OTHER_DELTA]), at, true);
        lists.put(&issuer, DELTA, None, at, false);
        assert_eq!(lists.found(&issuer, at), [(false, true), (true, false)]);
        lists.put(&issuer, OTHER_DELTA, None, at, true);
        assert_eq!(lists.found(&issuer, at), [(false, true), (true, true)]);
    }
}
