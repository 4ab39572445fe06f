// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who is who: the last messages of phase 1, with HASH or SIG (RFC 2409 §5.1, §5.4).

use ikev2d_proto::config::{Identity, LocalAuth, RemoteAuth, SendCert};
use ikev2d_proto::credential::{Certificate, Claim, Hash, Job, JobError, JobResult, Scheme};
use ikev2d_proto::event::{Event, JobId, Path};
use zeroize::Zeroizing;

use super::{Failure, Isakmp};
use crate::isakmp::Waiting;
use crate::keys::phase1_hash;
use crate::step::Ctx;
use crate::suite::{End, Method, phase1};
use crate::wire::{Chain, Payloads, exchange, notify, payload, sa};

/// CERT encodings that IKEv1 and IKEv2 number alike.
const X509: u8 = Certificate::X509;

impl Isakmp {
    /// HASH_I or HASH_R.
    fn hash(&self, ctx: &Ctx<'_>, of_initiator: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let none = Failure::Unfitting("there are no keys");
        let keys = self.keys.as_ref().ok_or(none)?;
        let material = &self.material;
        let (i, r) = (&material.public_i[..], &material.public_r[..]);
        let (publics, cookies, id) = if of_initiator {
            ((i, r), (self.cky_i, self.cky_r), &material.id_i)
        } else {
            ((r, i), (self.cky_r, self.cky_i), &material.id_r)
        };
        let skeyid = &keys.skeyid.skeyid;
        let prf = keys.suite.method.hashes_by(keys.suite.prf);
        Ok(phase1_hash(
            ctx.crypto,
            prf,
            skeyid,
            publics,
            cookies,
            &material.sa_i,
            id,
        )?)
    }

    fn method(&self) -> Method {
        let suite = self.material.suite;
        suite.map_or(Method::SharedKey, |suite| suite.method)
    }

    /// Sends our proof. `begun` is what message 2 of aggressive mode has in front of it.
    pub(super) fn prove(&mut self, ctx: &mut Ctx<'_>, begun: Option<Chain>) -> Result<(), Failure> {
        let hash = self.hash(ctx, self.initiator)?;
        if !self.method().signs() {
            return self.send_proof(ctx, begun, payload::HASH, &hash);
        }
        let job = Job::new(None, Some(self.signature(&hash)?));
        self.begun = begun;
        let path = self.path;
        let iv = self.keys.as_ref().map(|keys| keys.iv.clone());
        self.submit(ctx, path, iv.unwrap_or_default(), job);
        Ok(())
    }

    fn submit(&mut self, ctx: &mut Ctx<'_>, path: Path, iv: Vec<u8>, work: Job) {
        let job = JobId(ctx.id());
        self.phase1.at = None;
        self.phase1.sent = None;
        self.material.waiting = Some(Waiting { job, path, iv });
        // A peer's share in what is done at once is bounded, ours not.
        let work = if self.initiator {
            work
        } else {
            work.for_peer()
        };
        let work = Box::new(work);
        ctx.event(Event::Job { job, work });
    }

    /// What our key is to sign.
    #[allow(clippy::type_complexity)]
    fn signature(
        &self,
        hash: &[u8],
    ) -> Result<
        (
            std::sync::Arc<dyn ikev2d_proto::credential::Signer>,
            Scheme,
            Vec<u8>,
        ),
        Failure,
    > {
        let LocalAuth::PublicKey(signer) = &self.connection.local_auth else {
            return Err(Failure::Unfitting("we have no key to sign with"));
        };
        Ok((signer.clone(), scheme(self.method()), hash.to_vec()))
    }

    fn send_proof(
        &mut self,
        ctx: &mut Ctx<'_>,
        begun: Option<Chain>,
        kind: u8,
        proof: &[u8],
    ) -> Result<(), Failure> {
        let in_the_clear = begun.is_some();
        let mut chain = begun.unwrap_or_default();
        let id = if self.initiator {
            self.material.id_i.clone()
        } else {
            if self.material.id_r.is_empty() {
                self.material.id_r = self.own_id();
            }
            self.material.id_r.clone()
        };
        // The initiator's went with message 1 of aggressive mode.
        if !(self.aggressive && self.initiator) {
            chain.push(payload::ID, &id);
        }
        if kind == payload::SIG {
            self.push_certificates(&mut chain);
        }
        chain.push(kind, proof);
        let (mode, last) = match (self.aggressive, self.initiator) {
            (false, true) => (exchange::MAIN, false),
            (false, false) => (exchange::MAIN, true),
            (true, true) => (exchange::AGGRESSIVE, true),
            (true, false) => (exchange::AGGRESSIVE, false),
        };
        if in_the_clear {
            self.push_certificate_requests(&mut chain);
            self.push_aggressive_end(ctx, &mut chain);
            self.material.expects = 3;
            let message = chain.into_message(self.header(mode, 0));
            // Who has asked asks again: a spoofed address hears of it once (CVE-2016-5361).
            self.send_phase1(ctx, message, false);
            return Ok(());
        }
        if self.aggressive {
            let suite = self.material.suite;
            if let Some(suite) = suite {
                self.push_nat(ctx, suite.prf, &mut chain);
            }
        }
        if self.initiator && self.initial_contact {
            let spi = self.spi();
            let notify = notify::Notify {
                protocol: sa::PROTO_ISAKMP,
                spi: &spi,
                kind: notify::INITIAL_CONTACT,
                data: &[],
            };
            chain.push(payload::NOTIFY, &notify.emit());
        }
        let header = self.header(mode, 0);
        let keys = self.keys.as_mut();
        let keys = keys.ok_or(Failure::Unfitting("there are no keys"))?;
        let mut iv = std::mem::take(&mut keys.iv);
        let octets = chain.octets().to_vec();
        let sealed = keys.seal(ctx.crypto, &mut iv, header, chain.first(), octets);
        keys.iv = iv;
        self.send_phase1(ctx, sealed?, !last);
        self.material.expects = 6;
        if last {
            self.establish(ctx);
        }
        Ok(())
    }

    /// Takes in the peer's identity and proof.
    pub(super) fn proof(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        parts: &Payloads<'_>,
        iv: Vec<u8>,
    ) -> Result<(), Failure> {
        let third = self.aggressive && !self.initiator;
        if !third {
            let id = parts.one(payload::ID, "ID")?;
            self.remote_id = Identity::read(id)?;
            if self.initiator {
                self.material.id_r = id.to_vec();
            } else {
                self.material.id_i = id.to_vec();
            }
        }
        self.read_requests(parts);
        if third && let Some(suite) = self.material.suite {
            self.read_nat(ctx, suite.prf, parts);
        }
        let wrong = || Failure::Unfitting("the peer's HASH does not fit: is it the same key?");
        if self.method().signs() {
            return self.check_signature(ctx, path, parts, iv);
        }
        let expected = self.hash(ctx, !self.initiator)?;
        let hash = parts.one(payload::HASH, "HASH").map_err(|_| wrong())?;
        if !ctx.crypto.equal(&expected, hash) {
            ctx.out.auth_failures += 1;
            return Err(wrong());
        }
        self.believed(ctx, path, iv, None)
    }

    fn check_signature(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        parts: &Payloads<'_>,
        iv: Vec<u8>,
    ) -> Result<(), Failure> {
        let RemoteAuth::PublicKey(verifier) = &self.connection.remote_auth else {
            return Err(Failure::Unfitting("the peer must not sign"));
        };
        let certificates = parts.of(payload::CERT).filter_map(|body| {
            let (encoding, octets) = body.split_first()?;
            let octets = octets.to_vec();
            let encoding = *encoding;
            (encoding == X509).then_some(Certificate { encoding, octets })
        });
        let claim = Claim {
            identity: self.remote_id.clone(),
            certificates: certificates.collect(),
            schemes: vec![scheme(self.method())],
            signature: parts.one(payload::SIG, "SIG")?.to_vec(),
            octets: self.hash(ctx, !self.initiator)?.to_vec(),
        };
        let verify = Some((verifier.clone(), claim));
        // Who answers signs at once, and nothing for a peer that isn't believed.
        let answers = !self.aggressive && !self.initiator || self.aggressive && self.initiator;
        let sign = if answers {
            if !self.initiator {
                self.material.id_r = self.own_id();
            }
            let hash = self.hash(ctx, self.initiator)?;
            Some(self.signature(&hash)?)
        } else {
            None
        };
        self.submit(ctx, path, iv, Job::new(verify, sign));
        Ok(())
    }

    /// A job of ours is done.
    pub(crate) fn handle_job(&mut self, ctx: &mut Ctx<'_>, job: JobId, result: &JobResult) {
        let waiting = self.material.waiting.take_if(|waiting| waiting.job == job);
        let Some(waiting) = waiting else {
            return self.exchange_done(ctx, job, result);
        };
        let outcome = match result {
            Ok(signature) => {
                if let Some(begun) = self.begun.take() {
                    let signature = signature.clone().unwrap_or_default();
                    self.send_proof(ctx, Some(begun), payload::SIG, &signature)
                } else if self.material.expects == 4 {
                    // Message 5 of main mode.
                    let signature = signature.clone().unwrap_or_default();
                    self.send_proof(ctx, None, payload::SIG, &signature)
                } else {
                    self.believed(ctx, waiting.path, waiting.iv, signature.clone())
                }
            }
            // As if the message had been lost: the peer sends it again.
            Err(JobError::Busy) => return self.unhear(ctx),
            Err(error) => {
                if let JobError::Refused(_) = error {
                    ctx.out.auth_failures += 1;
                }
                let told = notify::AUTHENTICATION_FAILED;
                Err(Failure::refused(told, error.to_string()))
            }
        };
        if let Err(failure) = outcome {
            let digest = self.phase1.received.unwrap_or_default();
            self.failed(ctx, &failure, digest);
        }
    }

    /// Passes over what came last, for which nobody has time.
    fn unhear(&mut self, ctx: &mut Ctx<'_>) {
        self.phase1.received = None;
        if self.begun.take().is_some() {
            // Message 1 of aggressive mode, which begins an SA: another one, when it comes again.
            self.die(ctx, "too many signatures at once");
        }
    }

    /// The peer has proved that it is who it says; now whether that is whom we want.
    fn believed(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        iv: Vec<u8>,
        signature: Option<Vec<u8>>,
    ) -> Result<(), Failure> {
        if !self.choose_by_identity(ctx) {
            ctx.out.auth_failures += 1;
            let told = notify::AUTHENTICATION_FAILED;
            let (is, wanted) = (&self.remote_id, &self.connection.remote_id);
            let reason = format!("the peer is {is}, and not {wanted}");
            return Err(Failure::refused(told, reason));
        }
        if let Some(keys) = &mut self.keys
            && !iv.is_empty()
        {
            keys.iv = iv;
        }
        if !self.initiator {
            // What it came from has been proved with it.
            self.path = path;
        }
        match (self.aggressive, self.initiator) {
            (false, true) | (true, false) => {
                // Nothing of ours is owed any more.
                self.phase1.sent = None;
                self.establish(ctx);
                Ok(())
            }
            (true, true) | (false, false) => {
                if self.aggressive {
                    self.float(ctx);
                }
                match signature {
                    Some(signature) => self.send_proof(ctx, None, payload::SIG, &signature),
                    None => {
                        if !self.initiator {
                            self.material.id_r = self.own_id();
                        }
                        let hash = self.hash(ctx, self.initiator)?;
                        self.send_proof(ctx, None, payload::HASH, &hash)
                    }
                }
            }
        }
    }

    /// Several connections may be between the same addresses: the peer's identity tells which one is
    /// meant. What was agreed upon by now must be the same there.
    fn choose_by_identity(&mut self, ctx: &Ctx<'_>) -> bool {
        let remote = &self.remote_id;
        if self.connection.remote_id.matches_by(ctx.crypto, remote) {
            return true;
        }
        if self.initiator {
            return false;
        }
        let (local, peer) = (self.path.local.ip(), self.path.remote.ip());
        let suite = self.material.suite;
        let own_secret = self.psk(ctx, None).ok().flatten();
        let other = ctx.connections.iter().find(|other| {
            let secret = crate::endpoint::secret_of(ctx, other, peer);
            let same_secret = match (&own_secret, &secret) {
                (Some(a), Some(b)) => ctx.crypto.equal(&a.secret, &b.secret),
                _ => suite.is_some_and(|suite| suite.method.signs()),
            };
            other.remote_id.matches_by(ctx.crypto, remote)
                && other.local_id == self.connection.local_id
                && other.ikev1.aggressive == self.aggressive
                && same_secret
                && !suite.is_some_and(|suite| suite.method.signs())
                && crate::endpoint::addresses_match(other, local, peer)
                && suite.is_some_and(|suite| phase1(other, End::Responder).contains(&suite))
        });
        let other = other.cloned();
        let found = other.is_some();
        if let Some(other) = other {
            self.connection = other;
        }
        found
    }

    fn push_certificates(&self, chain: &mut Chain) {
        let LocalAuth::PublicKey(signer) = &self.connection.local_auth else {
            return;
        };
        let wanted = match self.connection.send_cert {
            SendCert::Always => true,
            SendCert::IfAsked => self.material.asked,
            SendCert::Never => false,
        };
        for certificate in signer.certificates().iter().filter(|_| wanted) {
            if certificate.encoding == X509 {
                let body = [&[X509][..], &certificate.octets].concat();
                chain.push(payload::CERT, &body);
            }
        }
    }

    /// Asks for the peer's certificate, by any authority (RFC 2408 §3.10: an empty name).
    pub(super) fn push_certificate_requests(&self, chain: &mut Chain) {
        if self.method().signs() {
            chain.push(payload::CERTREQ, &[X509]);
        }
    }
}

/// How a method signs.
fn scheme(method: Method) -> Scheme {
    match method {
        Method::SharedKey | Method::Rsa => Scheme::RsaBare,
        Method::Dss => Scheme::Dss,
        Method::Ecdsa256 => Scheme::EcdsaBare(Hash::Sha256),
        Method::Ecdsa384 => Scheme::EcdsaBare(Hash::Sha384),
        Method::Ecdsa521 => Scheme::EcdsaBare(Hash::Sha512),
    }
}
