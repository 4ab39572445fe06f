// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCSP answers about our own certificates, for peers that ask for them (RFC 4806): fetched ahead, so that
//! nobody waits for a responder.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ikev2d_proto::credential::Statuses;
use openssl::error::ErrorStack;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use super::{Ocsp, Query, SKEW, Status, key, responders};
use crate::name;

/// How long the responders for one certificate may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// How soon a fruitless question is put again.
const AGAIN: Duration = Duration::from_secs(60);
/// An answer is fetched anew after half of its time, and after this at the latest.
const AT_LATEST: Duration = Duration::from_secs(3600);

/// Certificates of ours that responders are named for.
pub struct OwnStatuses {
    ocsp: Arc<Ocsp>,
    subjects: Vec<Subject>,
}

struct Subject {
    certificate: X509,
    issuer: X509,
    uris: Vec<String>,
    key: [u8; 32],
}

/// What is known of one.
#[derive(Clone, Default)]
pub(super) struct Said {
    /// The answer, and until when it counts.
    answer: Option<(Vec<u8>, SystemTime)>,
    /// When to ask next.
    next: Option<SystemTime>,
}

impl fmt::Debug for OwnStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnStatuses({} certificates)", self.subjects.len())
    }
}

impl OwnStatuses {
    /// Of those of these certificates whose issuer is among them or the authorities, and has a responder by
    /// configuration or by the certificate's own word.
    pub fn new(
        ocsp: Arc<Ocsp>,
        certificates: &[X509],
        authorities: &[X509],
        configured: &[(X509, Vec<String>)],
    ) -> Self {
        let all = || certificates.iter().chain(authorities);
        let subjects = certificates.iter().filter_map(|certificate| {
            let issuer = all().find(|issuer| has_issued(issuer, certificate))?;
            let uris = responders(configured, certificate, issuer);
            (!uris.is_empty()).then_some(())?;
            Some(Subject {
                key: key(certificate, issuer).ok()?,
                certificate: certificate.clone(),
                issuer: issuer.clone(),
                uris,
            })
        });
        let subjects = subjects.collect();
        drop(ErrorStack::get());
        Self { ocsp, subjects }
    }

    /// Whether nobody is named for any of them.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// What is known then. A responder that is silent takes nothing back.
    fn ask(&self, subject: &Subject, known: Said, at: SystemTime) -> Said {
        let deadline = Instant::now() + PATIENCE;
        // Without a nonce, which would be ours and never the peer's.
        let asked = Query::without_nonce(&subject.certificate, &subject.issuer)
            .map_err(|error| error.to_string())
            .and_then(|query| {
                let fetched = self.ocsp.fetch(&query, &subject.uris, at, deadline);
                fetched.map_err(|error| error.to_string())
            });
        let whose = name::text(subject.certificate.subject_name());
        let (answer, pause) = match asked {
            Ok((octets, Status::Good(until))) => {
                let until = until.checked_sub(SKEW).unwrap_or(at);
                let left = until.duration_since(at).unwrap_or_default();
                tracing::debug!(whose, "an OCSP answer about our own certificate is there");
                let pause = (left / 2).clamp(AGAIN, AT_LATEST);
                (Some((octets, until)), pause)
            }
            Ok((_, Status::Revoked)) => {
                tracing::warn!(
                    whose,
                    "our own certificate is revoked, its OCSP responder says"
                );
                (None, AT_LATEST)
            }
            Err(why) => {
                tracing::debug!(whose, why, "no OCSP answer about our own certificate");
                (known.answer, AGAIN)
            }
        };
        let next = Some(at + pause);
        Said { answer, next }
    }

    fn renew_at(&self, at: SystemTime) {
        for subject in &self.subjects {
            let known = self.ocsp.own().get(&subject.key).cloned();
            let known = known.unwrap_or_default();
            if known.next.is_none_or(|next| at >= next) {
                let said = self.ask(subject, known, at);
                self.ocsp.own().insert(subject.key, said);
            }
        }
    }

    fn answers_at(&self, at: SystemTime) -> Vec<Vec<u8>> {
        let own = self.ocsp.own();
        let said = self.subjects.iter().filter_map(|s| own.get(&s.key));
        let answers = said.filter_map(|said| said.answer.as_ref());
        let good = answers.filter(|(_, until)| at < *until);
        good.map(|(octets, _)| octets.clone()).collect()
    }
}

impl Statuses for OwnStatuses {
    fn renew(&self) {
        self.renew_at(SystemTime::now());
    }

    fn answers(&self) -> Vec<Vec<u8>> {
        self.answers_at(SystemTime::now())
    }
}

impl Ocsp {
    pub(super) fn own(&self) -> MutexGuard<'_, HashMap<[u8; 32], Said>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one is another's issuer; none is its own.
fn has_issued(issuer: &X509Ref, certificate: &X509Ref) -> bool {
    let key = issuer.public_key();
    issuer.issued(certificate) == X509VerifyResult::OK
        && certificate.issued(certificate) != X509VerifyResult::OK
        && key.is_ok_and(|key| certificate.verify(&key).unwrap_or(false))
}
