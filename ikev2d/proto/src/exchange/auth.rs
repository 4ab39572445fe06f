// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_AUTH by preshared keys and signatures (RFC 7296 §1.2, §2.15), and the first child SA.

use std::sync::Arc;

use crate::auth::Auth;
use crate::config::{
    Childless, Connection, Identity, LocalAuth, RemoteAuth, SendCert, Unique, find_secret,
};
use crate::credential::{Claim, Job, JobError, JobResult, Scheme, Signer, Verifier};
use crate::crypto::CryptoError;
use crate::event::{Event, InstallId};
use crate::exchange::child::ChildOffer;
use crate::exchange::ppk;
use crate::exchange::signature::{Kept, OwnAuth, Waiting, certificates, push_certificate_request};
use crate::ike_sa::{Ctx, IkeSa, Pending, Request, Task, error_notify, find, notifies};
use crate::keymat::psk_auth;
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// Octets of an AUTH payload before its data.
const AUTH_HEADER: usize = 4;

/// Whether AUTH is the initiator's, and whether with a PPK where one is mixed in.
type Side = (bool, bool);

/// A claim, and who is to judge it.
type Check = (Arc<dyn Verifier>, Claim);

/// Our AUTH payload, or what a job needs to make it.
enum Own {
    Made(Vec<u8>),
    Sign(Arc<dyn Signer>, Scheme, Vec<u8>),
}

fn offers_mobike(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::MOBIKE_SUPPORTED)
}

impl IkeSa {
    /// Sends the request, at once or when it is signed.
    pub(crate) fn start_auth(&mut self, ctx: &mut Ctx<'_>) {
        self.init.auth_id = self.next_request();
        if let Err(reason) = self.mix_own_ppk(ctx) {
            return self.die(ctx, &reason);
        }
        self.make_auth(ctx, true, None);
    }

    /// Makes AUTH, with the keys as they are now or as they were before a PPK was mixed in.
    fn make_auth(&mut self, ctx: &mut Ctx<'_>, mixed: bool, made: Option<Vec<u8>>) {
        let id = self.local_id.emit();
        let remote = self.connection.remote_id.clone();
        match self.own_auth(ctx, (true, mixed), &id, &remote) {
            Ok(Own::Made(body)) => self.auth_made(ctx, made, body),
            Ok(Own::Sign(signer, scheme, octets)) => {
                let job = ctx.job(Job {
                    sign: Some((signer, scheme, octets)),
                    ..Job::default()
                });
                self.waiting = Some(Waiting::Request { job, scheme, made });
            }
            Err(reason) => self.die(ctx, &reason),
        }
    }

    /// Sends the request, or makes one more AUTH for a responder without our PPK (RFC 8784 §3).
    fn auth_made(&mut self, ctx: &mut Ctx<'_>, before: Option<Vec<u8>>, body: Vec<u8>) {
        match before {
            Some(mixed) => self.send_auth(ctx, &mixed, body.get(AUTH_HEADER..)),
            None if self.ppk && !self.connection.ppk_required => {
                self.make_auth(ctx, false, Some(body));
            }
            None => self.send_auth(ctx, &body, None),
        }
    }

    pub(crate) fn signed_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        (scheme, made): (Scheme, Option<Vec<u8>>),
        result: &JobResult,
    ) {
        match result {
            Ok(Some(signature)) => {
                let body = Auth::emit_signature(scheme, signature);
                self.auth_made(ctx, made, body);
            }
            Ok(None) => self.die(ctx, "our signature was not made"),
            Err(error) => self.die(ctx, &error.to_string()),
        }
    }

    fn send_auth(&mut self, ctx: &mut Ctx<'_>, auth: &[u8], without_ppk: Option<&[u8]>) {
        let mut chain = Chain::default();
        chain.push(payload::IDI, &self.local_id.emit());
        self.push_certificates(&mut chain);
        if self.initial_contact {
            chain.notify(notify::INITIAL_CONTACT, &[]);
        }
        if self.connection.mobike {
            chain.notify(notify::MOBIKE_SUPPORTED, &[]);
        }
        if let RemoteAuth::PublicKey(verifier) = &self.connection.remote_auth {
            push_certificate_request(&mut chain, [verifier].into_iter());
        }
        if self.connection.remote_id != Identity::Any {
            chain.push(payload::IDR, &self.connection.remote_id.emit());
        }
        chain.push(payload::AUTH, auth);
        if let Some(id) = self.connection.ppk_id.as_ref().filter(|_| self.ppk) {
            chain.notify(notify::PPK_IDENTITY, &ppk::emit_identity(id));
        }
        if let Some(data) = without_ppk {
            chain.notify(notify::NO_PPK_AUTH, data);
        }
        self.push_configuration_request(&mut chain);
        // The first child asked for is made along with the IKE SA.
        let first = self.tasks.iter().find_map(|task| match task {
            Task::Child {
                name, rekeys: None, ..
            } => Some(name.clone()),
            _ => None,
        });
        let first = first.filter(|_| !self.goes_childless());
        if let Some(config) = first.and_then(|name| self.child_config(&name)) {
            let spi = ctx.new_spi();
            self.push_child_offer(&mut chain, &config, spi.value(), true, None);
            self.init.child_spi = Some(spi);
        }
        let sent = self.request(ctx, exchange::IKE_AUTH, chain, Request::Auth);
        if sent.is_err() {
            self.die(ctx, "IKE_AUTH could not be made");
        }
    }

    fn push_certificates(&self, chain: &mut Chain) {
        let LocalAuth::PublicKey(signer) = &self.connection.local_auth else {
            return;
        };
        let send = match self.connection.send_cert {
            SendCert::Always => true,
            SendCert::IfAsked => self.init.peer.asks_certificates(),
            SendCert::Never => false,
        };
        for certificate in signer.certificates().iter().filter(|_| send) {
            let body = [&[certificate.encoding], &certificate.octets[..]].concat();
            chain.push(payload::CERT, &body);
        }
    }

    /// §2.15: a side's first message, the other's nonce, and its identity under its SK_p; then the
    /// IKE_INTERMEDIATE exchanges (RFC 9242 §3.3.2).
    fn signed_octets(
        &self,
        ctx: &Ctx<'_>,
        (by_initiator, mixed): Side,
        id_body: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (suite, keys) = self
            .suite
            .as_ref()
            .zip(self.keys.as_ref())
            .ok_or(CryptoError)?;
        let (sk_pi, sk_pr) = match self.init.without_ppk.as_ref().filter(|_| !mixed) {
            Some(plain) => (&plain.pi, &plain.pr),
            None => (&keys.pi, &keys.pr),
        };
        let (message, nonce, sk_p) = if by_initiator {
            (&self.init.message_i, &self.init.nonce_r, sk_pi)
        } else {
            (&self.init.message_r, &self.init.nonce_i, sk_pr)
        };
        let maced_id = ctx.crypto.prf(suite.prf, sk_p, &[id_body])?;
        Ok([&message[..], nonce, &maced_id, &self.int_auth()].concat())
    }

    /// A side's code by the preshared key of the two identities.
    fn shared_key_code(
        &self,
        ctx: &Ctx<'_>,
        side: Side,
        id_body: &[u8],
        remote: &Identity,
    ) -> Result<Vec<u8>, String> {
        let local = &self.local_id;
        let secret = find_secret(ctx.secrets, local, remote)
            .ok_or_else(|| format!("no preshared key for {local} and {remote}"))?;
        let code = self.signed_octets(ctx, side, id_body).and_then(|octets| {
            let suite = self.suite.as_ref().ok_or(CryptoError)?;
            psk_auth(ctx.crypto, suite.prf, &secret.secret, &octets)
        });
        code.map(|code| code.to_vec())
            .map_err(|error| error.to_string())
    }

    fn own_auth(
        &self,
        ctx: &Ctx<'_>,
        side: Side,
        id_body: &[u8],
        remote: &Identity,
    ) -> Result<Own, String> {
        let signer = match &self.connection.local_auth {
            LocalAuth::SharedKey => {
                let code = self.shared_key_code(ctx, side, id_body, remote)?;
                return Ok(Own::Made(Auth::emit_shared_key(&code)));
            }
            LocalAuth::PublicKey(signer) => signer.clone(),
        };
        let scheme = self.init.peer.choose(&*signer).ok_or(
            "the peer can verify none of the signatures that our key and local.auth allow",
        )?;
        let octets = self
            .signed_octets(ctx, side, id_body)
            .map_err(|error| error.to_string())?;
        Ok(Own::Sign(signer, scheme, octets))
    }

    /// The peer's AUTH payload: believed at once, or a job to find out.
    fn check_peer(
        &self,
        ctx: &Ctx<'_>,
        by_initiator: bool,
        (id_body, remote): (&[u8], &Identity),
        auth: &Auth<'_>,
        parts: &[Payload<'_>],
    ) -> Result<Option<Check>, String> {
        match (auth, &self.connection.remote_auth) {
            (Auth::SharedKey(code), RemoteAuth::SharedKey) => {
                let expected = self.shared_key_code(ctx, (by_initiator, true), id_body, remote)?;
                if ctx.crypto.equal(&expected, code) {
                    Ok(None)
                } else {
                    Err("its preshared key is another".to_owned())
                }
            }
            (Auth::Signature(schemes, signature), RemoteAuth::PublicKey(verifier)) => {
                let octets = self
                    .signed_octets(ctx, (by_initiator, true), id_body)
                    .map_err(|error| error.to_string())?;
                let claim = Claim {
                    identity: remote.clone(),
                    certificates: certificates(parts),
                    schemes: schemes.clone(),
                    signature: signature.to_vec(),
                    octets,
                };
                Ok(Some((verifier.clone(), claim)))
            }
            (Auth::SharedKey(_), RemoteAuth::PublicKey(_)) => {
                Err("it has a preshared key, remote.auth wants a public key".to_owned())
            }
            (Auth::Signature(..), RemoteAuth::SharedKey) => {
                Err("it has a public key, remote.auth wants a preshared key".to_owned())
            }
        }
    }

    fn refuse_auth(&mut self, ctx: &mut Ctx<'_>, id: u32, kind: u16, reason: &str) {
        if kind == notify::AUTHENTICATION_FAILED {
            ctx.out.auth_failures += 1;
        }
        self.respond_notify(ctx, exchange::IKE_AUTH, id, kind, &[]);
        self.die(ctx, reason);
    }

    pub(crate) fn handle_auth_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let failed = notify::AUTHENTICATION_FAILED;
        if self.next_additional().is_some() {
            let reason = "IKE_AUTH came before the additional key exchanges";
            return self.refuse_auth(ctx, id, notify::INVALID_SYNTAX, reason);
        }
        self.init.auth_id = id;
        let (Some(id_body), Some(auth_body)) =
            (find(parts, payload::IDI), find(parts, payload::AUTH))
        else {
            let reason = "IKE_AUTH lacks identity or AUTH (EAP is not supported)";
            return self.refuse_auth(ctx, id, failed, reason);
        };
        let Ok(remote) = Identity::read(id_body) else {
            return self.refuse_auth(ctx, id, notify::INVALID_SYNTAX, "malformed identity");
        };
        let auth = match Auth::read(auth_body) {
            Ok(auth) => auth,
            Err(error) => return self.refuse_auth(ctx, id, failed, &error.to_string()),
        };
        let wanted = find(parts, payload::IDR).and_then(|body| Identity::read(body).ok());
        let Some(connection) = self.connection_for(ctx, &remote, wanted.as_ref(), &auth) else {
            let reason = format!("no connection for peer {remote} and its kind of authentication");
            return self.refuse_auth(ctx, id, failed, &reason);
        };
        self.adopt_connection(connection, remote);
        self.init.peer.note(parts);
        let remote = self.remote_id.clone();
        let without_ppk = match self.mix_peers_ppk(ctx, parts) {
            Ok(None) => Ok(None),
            Ok(Some(data)) => {
                let head = auth_body.get(..AUTH_HEADER).unwrap_or_default();
                Ok(Some([head, data].concat()))
            }
            Err(what) => Err(what),
        };
        let auth = match &without_ppk {
            Ok(None) => Ok(auth),
            Ok(Some(body)) => Auth::read(body).map_err(|error| error.to_string()),
            Err(what) => Err(what.clone()),
        };
        let checked =
            auth.and_then(|auth| self.check_peer(ctx, true, (id_body, &remote), &auth, parts));
        let verify = match checked {
            Ok(verify) => verify,
            Err(reason) => {
                let reason = format!("peer {remote} failed to authenticate: {reason}");
                return self.refuse_auth(ctx, id, failed, &reason);
            }
        };
        let local_body = self.local_id.emit();
        let (own, sign) = match self.own_auth(ctx, (false, true), &local_body, &remote) {
            Ok(Own::Made(body)) => (OwnAuth::Made(body), None),
            Ok(Own::Sign(signer, scheme, octets)) => {
                (OwnAuth::Signed(scheme), Some((signer, scheme, octets)))
            }
            Err(reason) => return self.refuse_auth(ctx, id, failed, &reason),
        };
        match own {
            OwnAuth::Made(body) if verify.is_none() => self.finish_auth(ctx, id, parts, &body),
            own => {
                let job = Job {
                    verify,
                    sign,
                    ..Job::default()
                };
                let job = ctx.job(job.for_peer());
                let request = Kept::new(parts);
                self.waiting = Some(Waiting::Answer {
                    job,
                    id,
                    request,
                    own,
                });
            }
        }
    }

    pub(crate) fn worked_answer(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
        own: OwnAuth,
        result: &JobResult,
    ) {
        match (own, result) {
            (OwnAuth::Made(body), Ok(_)) => self.finish_auth(ctx, id, parts, &body),
            (OwnAuth::Signed(scheme), Ok(Some(signature))) => {
                let body = Auth::emit_signature(scheme, signature);
                self.finish_auth(ctx, id, parts, &body);
            }
            (OwnAuth::Signed(_), Ok(None)) => {
                let reason = "our signature was not made";
                self.refuse_auth(ctx, id, notify::AUTHENTICATION_FAILED, reason);
            }
            // As if the request had been lost: the peer sends it again.
            (_, Err(JobError::Busy)) => {}
            (_, Err(error)) => {
                let reason = self.refusal(error);
                self.refuse_auth(ctx, id, notify::AUTHENTICATION_FAILED, &reason);
            }
        }
    }

    fn refusal(&self, error: &JobError) -> String {
        match error {
            JobError::Refused(refusal) => {
                format!("peer {} failed to authenticate: {refusal}", self.remote_id)
            }
            _ => error.to_string(),
        }
    }

    /// The first connection that fits the peer's identity and kind of authentication.
    fn connection_for(
        &self,
        ctx: &Ctx<'_>,
        remote: &Identity,
        wanted: Option<&Identity>,
        auth: &Auth<'_>,
    ) -> Option<Arc<Connection>> {
        let ends = (self.path.local.ip(), self.path.remote.ip());
        let suite = self.suite;
        let found = ctx.connections.iter().find(|connection| {
            crate::endpoint::addresses_match(connection, ends.0, ends.1)
                && connection.remote_id.matches_by(ctx.crypto, remote)
                && wanted.is_none_or(|id| {
                    connection.local_id.matches_by(ctx.crypto, id) || *id == Identity::Any
                })
                && matches!(
                    (auth, &connection.remote_auth),
                    (Auth::SharedKey(_), RemoteAuth::SharedKey)
                        | (Auth::Signature(..), RemoteAuth::PublicKey(_))
                )
                && suite.is_some_and(|suite| {
                    let fixed = suite.to_proposal();
                    connection
                        .proposals
                        .iter()
                        .any(|p| p.choose_ike(&fixed).is_some())
                })
        });
        found.cloned()
    }

    /// The peer is who it says: answers so, with the first child if one is asked for.
    fn finish_auth(&mut self, ctx: &mut Ctx<'_>, id: u32, parts: &[Payload<'_>], own_auth: &[u8]) {
        let childless = find(parts, payload::SA).is_none();
        let refused = match self.connection.childless {
            Childless::Never => childless,
            Childless::Force => !childless,
            Childless::Allow | Childless::Prefer => false,
        };
        if refused {
            let reason = "the policy on IKE SAs without a child (RFC 6023) forbids it";
            return self.refuse_auth(ctx, id, notify::INVALID_SYNTAX, reason);
        }
        let initial = notifies(parts).any(|notify| notify.kind == notify::INITIAL_CONTACT);
        if self.connection.unique == Unique::Keep
            && let Some(others) = ctx.out.present.get(&self.ends())
        {
            // Who reauthenticates comes from where it was, and does not say that it has lost all.
            if initial || !others.contains(&self.path.remote.ip()) {
                let reason = format!("peer {} is there already", self.remote_id);
                let kind = notify::AUTHENTICATION_FAILED;
                self.respond_notify(ctx, exchange::IKE_AUTH, id, kind, &[]);
                return self.die(ctx, &reason);
            }
            self.on_probation = Some(ctx.now + crate::endpoint::GRACE);
        }
        if self.connection.unique != Unique::Never && initial {
            ctx.out.initial_contact.push_back(self.id);
        }
        ctx.out.authenticated = Some(self.id);
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.establish(ctx);
        // Without an address the IKE SA stands without its child (§3.15.4).
        let (configured, unconfigured) = match self.answer_configuration(ctx, parts) {
            Ok(configured) => (configured, None),
            Err(kind) => (None, Some(kind)),
        };
        let chain = |this: &Self| {
            let mut chain = Chain::default();
            chain.push(payload::IDR, &this.local_id.emit());
            this.push_certificates(&mut chain);
            chain.push(payload::AUTH, own_auth);
            if this.ppk {
                chain.notify(notify::PPK_IDENTITY, &[]);
            }
            if this.mobike {
                chain.notify(notify::MOBIKE_SUPPORTED, &[]);
            }
            if let Some(body) = &configured {
                chain.push(payload::CP, body);
            }
            chain
        };
        let mut installed = chain(self);
        if let Some(kind) = unconfigured {
            installed.notify(kind, &[]);
            return self.respond(ctx, exchange::IKE_AUTH, id, installed);
        }
        if childless {
            // Childless (RFC 6023).
            return self.respond(ctx, exchange::IKE_AUTH, id, installed);
        }
        let nonces = (self.init.nonce_i.clone(), self.init.nonce_r.clone());
        let offer = ChildOffer {
            nonces,
            first: true,
            ..ChildOffer::default()
        };
        let chosen = self.answer_child(ctx, parts, None, true, &mut installed);
        match chosen.and_then(|chosen| self.make_answered(ctx, chosen, &offer, None)) {
            Ok(child) => {
                let mut failed = chain(self);
                failed.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
                let install = InstallId(ctx.out.id());
                let sa = Box::new(child.1);
                ctx.event(Event::InstallInbound { install, child: sa });
                self.pending = Some(Pending {
                    install,
                    message_id: id,
                    exchange: exchange::IKE_AUTH,
                    installed,
                    failed,
                    child: child.0,
                    rekeys: None,
                });
            }
            Err(kind) => {
                // The IKE SA stands without its child (§1.2).
                let mut chain = chain(self);
                chain.notify(kind, &[]);
                self.respond(ctx, exchange::IKE_AUTH, id, chain);
            }
        }
    }

    /// Whether children are made after IKE_AUTH only (RFC 6023 §3).
    fn goes_childless(&self) -> bool {
        match self.connection.childless {
            Childless::Force => true,
            Childless::Prefer => self.childless,
            Childless::Allow | Childless::Never => false,
        }
    }

    fn adopt_connection(&mut self, connection: Arc<Connection>, remote: Identity) {
        self.local_id = connection.local_id.clone();
        self.encap |= connection.encap;
        self.connection = connection;
        self.remote_id = remote;
    }

    pub(crate) fn handle_auth_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        let error = error_notify(parts);
        let (Some(id_body), Some(auth)) = (find(parts, payload::IDR), find(parts, payload::AUTH))
        else {
            let name = error.map_or("no AUTH", |notify| notify::name(notify.kind));
            return self.die(ctx, &format!("the peer refused us: {name}"));
        };
        let configured = &self.connection.remote_id;
        let remote = match Identity::read(id_body) {
            Ok(remote) if configured.matches_by(ctx.crypto, &remote) => remote,
            Ok(remote) => {
                let reason = format!("the peer is {remote}, expected {configured}");
                return self.abandon(ctx, reason);
            }
            Err(_) => return self.abandon(ctx, "malformed identity".to_owned()),
        };
        if let Err(what) = self.settle_ppk(parts) {
            let reason = format!("peer {remote} failed to authenticate: {what}");
            return self.abandon(ctx, reason);
        }
        let checked = Auth::read(auth)
            .map_err(|error| error.to_string())
            .and_then(|auth| self.check_peer(ctx, false, (id_body, &remote), &auth, parts));
        self.remote_id = remote;
        match checked {
            Ok(None) => self.accept_response(ctx, parts),
            Ok(verify) => {
                let job = ctx.job(Job {
                    verify,
                    ..Job::default()
                });
                let response = Kept::new(parts);
                self.waiting = Some(Waiting::Response { job, response });
            }
            Err(reason) => {
                let remote = &self.remote_id;
                let reason = format!("peer {remote} failed to authenticate: {reason}");
                self.abandon(ctx, reason);
            }
        }
    }

    pub(crate) fn verified_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        result: &JobResult,
    ) {
        match result {
            Ok(_) => self.accept_response(ctx, parts),
            Err(error) => {
                let reason = self.refusal(error);
                self.abandon(ctx, reason);
            }
        }
    }

    /// The responder is who it says.
    fn accept_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.establish(ctx);
        let spi = self.init.child_spi.take();
        if let Err(reason) = self.take_configuration(ctx, parts) {
            return self.go_unconfigured(ctx, reason);
        }
        let Some(spi) = spi else {
            return;
        };
        // The first child went along; others follow.
        let first = self
            .tasks
            .iter()
            .position(|task| matches!(task, Task::Child { rekeys: None, .. }));
        let Some(Task::Child { name, .. }) = first.and_then(|at| self.tasks.remove(at)) else {
            return;
        };
        let Some(config) = self.child_config(&name) else {
            return;
        };
        let nonces = (self.init.nonce_i.clone(), self.init.nonce_r.clone());
        let offer = ChildOffer {
            nonces,
            first: true,
            ..ChildOffer::default()
        };
        self.complete_child(ctx, parts, config, spi, offer, None);
    }

    /// Without the addresses that we ask for nothing can be done: the children are given up, and the
    /// IKE SA is closed.
    fn go_unconfigured(&mut self, ctx: &mut Ctx<'_>, reason: &str) {
        for task in std::mem::take(&mut self.tasks) {
            if let Task::Child { name, .. } = task {
                self.child_not_made(ctx, &name, None, None, reason.to_owned());
            }
        }
        let reason = reason.to_owned();
        self.tasks.push_back(Task::DeleteIke { reason });
    }

    /// A responder that is not who it should be. It believes that the IKE SA stands, and is told once
    /// that it doesn't (§2.21.2).
    fn abandon(&mut self, ctx: &mut Ctx<'_>, reason: String) {
        ctx.out.auth_failures += 1;
        let mut chain = Chain::default();
        chain.notify(notify::AUTHENTICATION_FAILED, &[]);
        let told = self.request(ctx, exchange::INFORMATIONAL, chain, Request::Liveness);
        if told.is_err() {
            tracing::debug!(ike = self.id.0, "the peer could not be told");
        }
        self.die(ctx, &reason);
    }
}
