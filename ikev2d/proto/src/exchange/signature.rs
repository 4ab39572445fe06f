// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What signatures need around IKE_AUTH: certificates and requests for them (RFC 7296 §3.6, §3.7), the
//! hashes that a peer can verify (RFC 7427 §4), and waiting for slow work.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::RemoteAuth;
use crate::credential::{
    Certificate, HASH_IDENTITY, Hash, Job, JobResult, Scheme, Signer, Verifier,
};
use crate::eap::{Client, Elsewhere, Server};
use crate::endpoint::addresses_match;
use crate::event::{Event, JobId, Path};
use crate::exchange::puzzle::Solving;
use crate::ike_sa::{Ctx, IkeSa, notifies};
use crate::wire::{Chain, Payload, notify, payload};

/// Certificates of one message that are looked at.
const MOST_CERTIFICATES: usize = 10;
/// Authorities that are named in a request.
const MOST_AUTHORITIES: usize = 100;

/// What IKE_AUTH waits for.
pub(crate) enum Waiting {
    /// Our signature, to send the request.
    Request {
        job: JobId,
        scheme: Scheme,
        /// The one with a PPK, if it is made already and this is the one without (RFC 8784 §3).
        made: Option<Vec<u8>>,
    },
    /// The responder's signature being verified.
    Response { job: JobId, response: Kept },
    /// The initiator's being verified, or ours being made, to send the response.
    Answer {
        job: JobId,
        id: u32,
        request: Kept,
        own: OwnAuth,
    },
    /// A puzzle being solved, to begin (RFC 8019).
    Puzzle(Solving),
    /// Our turn in EAP, as the initiator.
    EapClient { job: JobId, talk: Elsewhere<Client> },
    /// The same as the responder, to answer a request.
    EapServer {
        job: JobId,
        id: u32,
        talk: Elsewhere<Server>,
    },
}

/// Payloads that outlive their message.
#[derive(Default)]
pub(crate) struct Kept(Vec<(u8, Vec<u8>)>);

impl Kept {
    pub(crate) fn new(parts: &[Payload<'_>]) -> Self {
        Self(
            parts
                .iter()
                .map(|part| (part.kind, part.body.to_vec()))
                .collect(),
        )
    }

    pub(crate) fn parts(&self) -> Vec<Payload<'_>> {
        self.0
            .iter()
            .map(|(kind, body)| Payload { kind: *kind, body })
            .collect()
    }
}

/// Our AUTH payload: made, or to be made by a job with this scheme.
pub(crate) enum OwnAuth {
    Made(Vec<u8>),
    Signed(Scheme),
}

/// What the peer can do with signatures.
#[derive(Default)]
pub(crate) struct PeerAbility {
    hashes: BTreeSet<u16>,
    asks_certificates: bool,
    asks_status: bool,
}

impl PeerAbility {
    /// Takes in what a message says of it.
    pub(crate) fn note(&mut self, parts: &[Payload<'_>]) {
        for notify in notifies(parts) {
            if notify.kind == notify::SIGNATURE_HASH_ALGORITHMS {
                let numbers = notify.data.as_chunks::<2>().0.iter();
                self.hashes.extend(numbers.map(|n| u16::from_be_bytes(*n)));
            }
        }
        let requests = parts.iter().filter(|part| part.kind == payload::CERTREQ);
        for asked in requests.filter_map(|part| part.body.first()) {
            match *asked {
                Certificate::X509 | Certificate::RAW_PUBLIC_KEY => self.asks_certificates = true,
                // Whichever responders it names: those that its authority has delegated it takes anyway
                // (RFC 4806 §3.1).
                Certificate::OCSP_CONTENT => self.asks_status = true,
                _ => {}
            }
        }
    }

    pub(crate) fn speaks_rfc_7427(&self) -> bool {
        !self.hashes.is_empty()
    }

    pub(crate) fn asks_certificates(&self) -> bool {
        self.asks_certificates
    }

    /// Whether it wants to know what OCSP responders say of our certificates (RFC 4806).
    pub(crate) fn asks_status(&self) -> bool {
        self.asks_status
    }

    /// The best scheme of a signer that the peer can verify.
    pub(crate) fn choose(&self, signer: &dyn Signer) -> Option<Scheme> {
        signer
            .schemes()
            .iter()
            .copied()
            // IKEv2's own DSS (method 3) is nothing that we have.
            .filter(|scheme| *scheme != Scheme::Dss)
            .find(|scheme| match scheme.announced() {
                Some(number) => self.hashes.contains(&number),
                None => true,
            })
    }
}

/// What we can verify.
pub(crate) fn push_hash_algorithms(chain: &mut Chain) {
    let numbers = Hash::GOOD.map(|hash| hash as u16);
    let data: Vec<u8> = numbers
        .into_iter()
        .chain([HASH_IDENTITY])
        .flat_map(u16::to_be_bytes)
        .collect();
    chain.notify(notify::SIGNATURE_HASH_ALGORITHMS, &data);
}

/// Asks for certificates of authorities that these believe.
pub(crate) fn push_certificate_request<'v>(
    chain: &mut Chain,
    verifiers: impl Iterator<Item = &'v Arc<dyn Verifier>>,
) {
    let (mut any, mut status) = (false, false);
    let mut authorities = BTreeSet::new();
    for verifier in verifiers {
        any = true;
        status |= verifier.asks_for_status();
        authorities.extend(verifier.authorities());
    }
    if any {
        let mut body = vec![Certificate::X509];
        body.extend(authorities.into_iter().take(MOST_AUTHORITIES).flatten());
        chain.push(payload::CERTREQ, &body);
    }
    if status {
        // No responder is believed but the issuer and whom that has delegated (RFC 4806 §3.1).
        chain.push(payload::CERTREQ, &[Certificate::OCSP_CONTENT]);
    }
}

/// The certificates of a message.
pub(crate) fn certificates(parts: &[Payload<'_>]) -> Vec<Certificate> {
    parts
        .iter()
        .filter(|part| part.kind == payload::CERT)
        .filter_map(|part| {
            let (encoding, octets) = part.body.split_first()?;
            Some(Certificate {
                encoding: *encoding,
                octets: octets.to_vec(),
            })
        })
        .take(MOST_CERTIFICATES)
        .collect()
}

impl<'a> Ctx<'a> {
    /// Asks for slow work.
    pub(crate) fn job(&mut self, work: Job) -> JobId {
        let job = JobId(self.out.id());
        self.event(Event::Job {
            job,
            work: Box::new(work),
        });
        job
    }

    /// Whom the connections believe that may be used between two addresses.
    pub(crate) fn verifiers_between(
        &self,
        path: Path,
    ) -> impl Iterator<Item = &'a Arc<dyn Verifier>> {
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let connections = self.connections.iter();
        let between = connections.filter(move |c| addresses_match(c, local, remote));
        between.filter_map(|connection| match &connection.remote_auth {
            RemoteAuth::PublicKey(verifier) => Some(verifier),
            RemoteAuth::SharedKey | RemoteAuth::Eap(_) => None,
        })
    }
}

impl Waiting {
    /// The job that is waited for.
    pub(crate) fn job(&self) -> JobId {
        match self {
            Self::Request { job, .. }
            | Self::Response { job, .. }
            | Self::Answer { job, .. }
            | Self::EapClient { job, .. }
            | Self::EapServer { job, .. } => *job,
            Self::Puzzle(solving) => solving.job,
        }
    }
}

impl IkeSa {
    pub(crate) fn awaits(&self, wanted: JobId) -> bool {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.job());
        waiting
            .into_iter()
            .chain(self.exchange_jobs())
            .any(|job| job == wanted)
    }

    /// Goes on where a job was waited for.
    pub(crate) fn handle_job(&mut self, ctx: &mut Ctx<'_>, job: JobId, result: &JobResult) {
        if self
            .waiting
            .as_ref()
            .is_none_or(|waiting| waiting.job() != job)
        {
            return self.exchange_done(ctx, job, result);
        }
        match self.waiting.take().map(|waiting| *waiting) {
            Some(Waiting::Request { scheme, made, .. }) => {
                self.signed_request(ctx, (scheme, made), result);
            }
            Some(Waiting::Response { response, .. }) => {
                self.verified_response(ctx, &response.parts(), result);
            }
            Some(Waiting::Answer {
                id, request, own, ..
            }) => self.worked_answer(ctx, id, &request.parts(), own, result),
            Some(Waiting::Puzzle(solving)) => self.puzzle_solved(ctx, solving),
            Some(Waiting::EapClient { talk, .. }) => self.eap_client_back(ctx, talk.back()),
            Some(Waiting::EapServer { id, talk, .. }) => self.eap_server_back(ctx, id, talk.back()),
            None => {}
        }
    }
}
