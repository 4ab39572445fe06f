// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCSP (RFC 6960): what is asked of a responder, how its answer is judged, what is remembered of it.

mod ffi;
mod own;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ocsp::{
    OcspBasicResponse, OcspCertId, OcspCertStatus, OcspFlag, OcspRequest, OcspResponse,
    OcspResponseStatus,
};
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509Ref};
use thiserror::Error;

use crate::dates::unix;
pub use crate::fetch::Fetch;
use crate::fetch::{Fetched, Fruitless, MOST_URIS, Servers, patience};
use crate::trust::{SECURITY_LEVEL, same};
pub use own::OwnStatuses;

/// By how much a responder's clock may differ from ours.
const SKEW: Duration = Duration::from_secs(300);
/// How long an answer is remembered, at most, whatever it says itself.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Answers that are remembered.
const MOST_REMEMBERED: usize = 1024;
/// Octets of a response, at most. Common ones have some two thousand.
const RESPONSE_LIMIT: usize = 64 << 10;
/// What a responder says that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not revoked, as far as this is known until then.
    Good(SystemTime),
    /// Revoked.
    Revoked,
}

/// A responder's answer says nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OcspError {
    /// There is none.
    #[error("no answer: {what}")]
    Unreachable {
        /// What happened.
        what: String,
    },
    /// It is no OCSP response.
    #[error("a malformed OCSP response")]
    Malformed,
    /// The responder refuses.
    #[error("the OCSP responder refuses (status {status})")]
    Refused {
        /// RFC 6960 §4.2.1.
        status: i32,
    },
    /// Nobody signed it who may.
    #[error(
        "the OCSP response is not signed by the certificate's issuer, nor by whom that has delegated"
    )]
    Untrusted,
    /// It is signed with a broken hash.
    #[error("the OCSP response is signed with {algorithm}, which is broken")]
    Weak {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// It answers somebody else's request.
    #[error("the OCSP response has another request's nonce")]
    Nonce,
    /// It is about other certificates.
    #[error("the OCSP response does not speak of this certificate")]
    Unrelated,
    /// It is too old, or from the future.
    #[error("the OCSP response is out of date, or one of the two clocks is wrong")]
    OutOfDate,
    /// The responder does not know the certificate.
    #[error("the OCSP responder does not know the certificate")]
    Unknown,
    /// The library refuses.
    #[error("OpenSSL refused to work on it")]
    Library,
}

impl From<ErrorStack> for OcspError {
    fn from(_: ErrorStack) -> Self {
        Self::Library
    }
}

/// A question about one certificate.
pub struct Query {
    request: OcspRequest,
    id: OcspCertId,
    issuer: X509,
    nonce: bool,
}

impl Query {
    /// Whether an issuer has revoked a certificate, with a nonce of its own.
    ///
    /// # Errors
    /// [`OcspError::Library`].
    pub fn new(certificate: &X509Ref, issuer: &X509Ref) -> Result<Self, OcspError> {
        let mut query = Self::without_nonce(certificate, issuer)?;
        let mut nonce = [0; 32];
        rand_bytes(&mut nonce)?;
        ffi::add_nonce(&mut query.request, nonce)?;
        query.nonce = true;
        Ok(query)
    }

    /// The same without a nonce: for an answer that others shall see, or that a peer brings along.
    pub(crate) fn without_nonce(
        certificate: &X509Ref,
        issuer: &X509Ref,
    ) -> Result<Self, OcspError> {
        // SHA-1 here names, it proves nothing; it is what every responder knows (RFC 5019 §2.1.1).
        let id = || OcspCertId::from_cert(MessageDigest::sha1(), certificate, issuer);
        let mut request = OcspRequest::new()?;
        request.add_id(id()?)?;
        Ok(Self {
            request,
            id: id()?,
            issuer: issuer.to_owned(),
            nonce: false,
        })
    }

    /// What is sent.
    ///
    /// # Errors
    /// [`OcspError::Library`].
    pub fn octets(&self) -> Result<Vec<u8>, OcspError> {
        Ok(self.request.to_der()?)
    }

    /// What an answer says at a time. One that names the certificate as revoked counts even if it is
    /// old: who was revoked once stays so.
    ///
    /// # Errors
    /// [`OcspError`]: it says nothing.
    pub fn judge(&self, answer: &[u8], at: SystemTime) -> Result<Status, OcspError> {
        let judged = self.judged(answer, at);
        drop(ErrorStack::get());
        judged
    }

    fn judged(&self, answer: &[u8], at: SystemTime) -> Result<Status, OcspError> {
        let response = OcspResponse::from_der(answer).map_err(|_| OcspError::Malformed)?;
        if response.status() != OcspResponseStatus::SUCCESSFUL {
            let status = response.status().as_raw();
            return Err(OcspError::Refused { status });
        }
        let basic = response.basic().map_err(|_| OcspError::Malformed)?;
        // A peer brings answers about all of its certificates: this costs less than a signature.
        if !self.nonce && basic.find_status(&self.id).is_none() {
            return Err(OcspError::Unrelated);
        }
        self.check_signature(&basic, at)?;
        if self.nonce && !ffi::nonce_fits(&self.request, &basic) {
            return Err(OcspError::Nonce);
        }
        let found = basic.find_status(&self.id).ok_or(OcspError::Unrelated)?;
        match found.status {
            OcspCertStatus::GOOD => {}
            OcspCertStatus::REVOKED => return Ok(Status::Revoked),
            _ => return Err(OcspError::Unknown),
        }
        let unix = |time| unix(time).ok_or(OcspError::Malformed);
        let this = unix(ffi::comparable(found.this_update))?;
        // Without the next update there is always a newer one (RFC 6960 §2.4): good for now.
        let next = found.next_update().map(ffi::comparable);
        let until = next.map_or(Ok(this), unix)? + SKEW;
        if this > at + SKEW || until < at {
            return Err(OcspError::OutOfDate);
        }
        Ok(Status::Good(until))
    }

    /// The issuer itself, or a responder with a certificate for it (OCSPSigning) directly from the
    /// issuer (RFC 6960 §4.2.2.2). Nobody else is believed, an authority above the issuer neither.
    fn check_signature(&self, basic: &OcspBasicResponse, at: SystemTime) -> Result<(), OcspError> {
        let algorithm = ffi::signed_with(basic).ok_or(OcspError::Malformed)?;
        let digest = algorithm.signature_algorithms().map(|both| both.digest);
        if let Some(broken) = digest.filter(|d| [Nid::SHA1, Nid::MD5].contains(d)) {
            let algorithm = broken.short_name().unwrap_or("a hash");
            return Err(OcspError::Weak { algorithm });
        }
        let mut store = X509StoreBuilder::new()?;
        store.add_cert(self.issuer.clone())?;
        let mut parameters = X509VerifyParam::new()?;
        parameters.set_auth_level(SECURITY_LEVEL);
        parameters.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        parameters.set_time(seconds(at));
        store.set_param(&parameters)?;
        let mut known = Stack::new()?;
        known.push(self.issuer.clone())?;
        let verified = basic.verify(&known, &store.build(), OcspFlag::NO_EXPLICIT);
        verified.map_err(|_| OcspError::Untrusted)
    }
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Asks responders, and remembers what they said.
pub struct Ocsp {
    fetch: Box<dyn Fetch>,
    known: Mutex<Known>,
    /// About our own certificates.
    own: Mutex<HashMap<[u8; 32], own::Said>>,
    fetched: Fetched,
}

#[derive(Default)]
struct Known {
    /// By issuer and serial number: what was said, and until when it counts.
    answers: HashMap<[u8; 32], (Status, SystemTime)>,
    servers: Servers,
}

impl fmt::Debug for Ocsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ocsp({:?})", self.fetch)
    }
}

impl Ocsp {
    /// Asks by this.
    pub fn new(fetch: impl Fetch + 'static) -> Self {
        Self {
            fetch: Box::new(fetch),
            known: Mutex::default(),
            own: Mutex::default(),
            fetched: Fetched::default(),
        }
    }

    /// Answers so far.
    pub fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// The status of a certificate at a time, from memory, from what the peer has brought along (RFC 4806),
    /// or from the first of these responders that can tell. Nobody is asked after the deadline.
    ///
    /// # Errors
    /// What was wrong with each of them.
    pub fn status(
        &self,
        (certificate, issuer): (&X509Ref, &X509Ref),
        (brought, uris): (&[&[u8]], &[String]),
        at: SystemTime,
        deadline: Instant,
    ) -> Result<Status, Fruitless<OcspError>> {
        let ours = |error: OcspError| Fruitless(vec![("OCSP".to_owned(), error)]);
        let key = key(certificate, issuer).map_err(ours)?;
        if let Some((status, until)) = self.known().answers.get(&key)
            && at < *until
        {
            return Ok(*status);
        }
        let mut useless = Vec::new();
        if !brought.is_empty() {
            let query = Query::without_nonce(certificate, issuer).map_err(ours)?;
            for answer in brought {
                match query.judge(answer, at) {
                    Ok(status) => {
                        self.known().remember(key, status, at);
                        return Ok(status);
                    }
                    Err(OcspError::Unrelated) => {}
                    Err(error) => useless.push(("the peer's own OCSP answer".to_owned(), error)),
                }
            }
        }
        let query = Query::new(certificate, issuer).map_err(ours)?;
        match self.fetch(&query, uris, at, deadline) {
            Ok((_, status)) => {
                self.known().remember(key, status, at);
                Ok(status)
            }
            Err(fruitless) => {
                useless.extend(fruitless.0);
                Err(Fruitless(useless))
            }
        }
    }

    /// What the first of these responders says that can tell, whole and judged.
    fn fetch(
        &self,
        query: &Query,
        uris: &[String],
        at: SystemTime,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Status), Fruitless<OcspError>> {
        let mut fruitless = Fruitless(Vec::new());
        let octets = match query.octets() {
            Ok(octets) => octets,
            Err(error) => return Err(Fruitless(vec![("OCSP".to_owned(), error)])),
        };
        for uri in uris.iter().take(MOST_URIS) {
            let answer = self.ask(uri, &octets, deadline);
            let judged = answer.and_then(|answer| {
                let status = query.judge(&answer, at)?;
                Ok((answer, status))
            });
            self.fetched.count(judged.is_ok());
            match judged {
                Ok(judged) => return Ok(judged),
                Err(error) => {
                    tracing::debug!(uri, %error, "an OCSP responder was of no use");
                    fruitless.0.push((uri.clone(), error));
                }
            }
        }
        Err(fruitless)
    }

    fn ask(&self, uri: &str, octets: &[u8], deadline: Instant) -> Result<Vec<u8>, OcspError> {
        let failed = |what: String| OcspError::Unreachable { what };
        let now = Instant::now();
        let patience = patience(uri, deadline, now).map_err(|error| failed(error.to_string()))?;
        let begun = self.known().servers.begin(uri, now);
        begun.map_err(|error| failed(error.to_string()))?;
        let kind = "application/ocsp-request";
        let answer = self.fetch.post(uri, kind, octets, RESPONSE_LIMIT, patience);
        let mut known = self.known();
        known.servers.end(uri, answer.is_ok(), Instant::now());
        answer.map_err(failed)
    }

    /// Forgets what was said, and who was silent.
    pub fn forget(&self) {
        *self.known() = Known::default();
        self.own().clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn remember(&mut self, key: [u8; 32], status: Status, at: SystemTime) {
        let until = match status {
            Status::Good(until) => until.min(at + REMEMBERED),
            Status::Revoked => at + REMEMBERED,
        };
        if self.answers.len() >= MOST_REMEMBERED && !self.answers.contains_key(&key) {
            self.answers.retain(|_, (_, until)| at < *until);
            let soonest = self.answers.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(soonest) = soonest.map(|(key, _)| *key)
                && self.answers.len() >= MOST_REMEMBERED
            {
                self.answers.remove(&soonest);
            }
        }
        self.answers.insert(key, (status, until));
    }
}

/// Where to ask about a certificate: by configuration first, then where it says itself.
pub(crate) fn responders(
    configured: &[(X509, Vec<String>)],
    certificate: &X509Ref,
    issuer: &X509Ref,
) -> Vec<String> {
    let configured = configured.iter();
    let configured = configured.filter(|(authority, _)| same(authority, issuer));
    let mut uris: Vec<String> = configured.flat_map(|(_, uris)| uris.clone()).collect();
    let named = certificate.ocsp_responders();
    uris.extend(named.iter().flatten().map(|uri| uri.to_string()));
    drop(ErrorStack::get());
    uris
}

/// One certificate, however its signature is written.
fn key(certificate: &X509Ref, issuer: &X509Ref) -> Result<[u8; 32], OcspError> {
    let mut hash = Sha256::new();
    hash.update(&issuer.to_der()?);
    hash.update(&certificate.serial_number().to_bn()?.to_vec());
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Nothing;

    /// B30: whatever peers come by, memory stays bounded, and what lasts longest is kept.
    #[test]
    fn answers_are_remembered_within_bounds() {
        let mut known = Known::default();
        let at = SystemTime::now();
        for n in 0..4 * MOST_REMEMBERED as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            let until = at + Duration::from_secs(n % 3000 + 1);
            known.remember(key, Status::Good(until), at);
            assert!(known.answers.len() <= MOST_REMEMBERED);
        }
        known.remember([9; 32], Status::Good(at + REMEMBERED * 2), at);
        assert_eq!(known.answers[&[9; 32]].1, at + REMEMBERED);
    }

    /// `flush-certs`: what was said and who was silent is as if it had never been.
    #[test]
    fn what_is_forgotten_is_asked_for_again() {
        let ocsp = Ocsp::new(Nothing("nobody is there"));
        let deadline = Instant::now() + Duration::from_secs(600);
        let ask = || {
            ocsp.ask("http://nobody", &[], deadline)
                .unwrap_err()
                .to_string()
        };
        assert!(ask().contains("nobody is there"));
        assert!(ask().contains("a moment ago"));
        let at = SystemTime::now();
        ocsp.known().remember([7; 32], Status::Revoked, at);
        ocsp.forget();
        assert!(ocsp.known().answers.is_empty());
        assert!(ask().contains("nobody is there"));
    }
}
