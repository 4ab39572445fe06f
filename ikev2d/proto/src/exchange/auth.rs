// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_AUTH by preshared keys and signatures (RFC 7296 §1.2, §2.15), and the first child SA.

mod answer;

use std::sync::Arc;

use crate::auth::Auth;
use crate::config::{
    Childless, Connection, Identity, LocalAuth, RemoteAuth, SendCert, find_secret,
};
use crate::credential::{Certificate, Claim, Job, JobError, JobResult, Scheme, Signer, Verifier};
use crate::crypto::CryptoError;
use crate::exchange::child::{Asked, ChildOffer};
use crate::exchange::signature::{Kept, Waiting, certificates, push_certificate_request};
use crate::exchange::{ppk, redirect, resource};
use crate::ike_sa::{Ctx, IkeSa, Request, Task, error_notify, find, notifies};
use crate::keymat::psk_auth;
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// Octets of an AUTH payload before its data.
const AUTH_HEADER: usize = 4;

/// Whether AUTH is the initiator's, and whether with a PPK where one is mixed in.
type Side = (bool, bool);

/// A claim, and who is to judge it.
pub(crate) type Check = (Arc<dyn Verifier>, Claim);

/// Our AUTH payload, or what a job needs to make it.
enum Own {
    Made(Vec<u8>),
    Sign(Arc<dyn Signer>, Scheme, Vec<u8>),
}

fn offers_mobike(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::MOBIKE_SUPPORTED)
}

fn offers_eap_alone(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::EAP_ONLY_AUTHENTICATION)
}

impl IkeSa {
    /// Sends the request, at once or when it is signed.
    pub(crate) fn start_auth(&mut self, ctx: &mut Ctx<'_>) {
        self.init.auth_id = self.next_request();
        if let Err(reason) = self.mix_own_ppk(ctx) {
            return self.die(ctx, &reason);
        }
        if matches!(self.connection.local_auth, LocalAuth::Eap(_)) {
            // No AUTH asks for EAP (§2.16).
            return self.send_auth(ctx, None, None);
        }
        self.make_auth(ctx, true, None);
    }

    /// Makes AUTH, with the keys as they are now or as they were before a PPK was mixed in.
    fn make_auth(&mut self, ctx: &mut Ctx<'_>, mixed: bool, made: Option<Vec<u8>>) {
        let id = self.local_id().emit();
        let remote = self.connection.remote_id.clone();
        match self.own_auth(ctx, (true, mixed), &id, &remote) {
            Ok(Own::Made(body)) => self.auth_made(ctx, made, body),
            Ok(Own::Sign(signer, scheme, octets)) => {
                let job = ctx.job(Job {
                    sign: Some((signer, scheme, octets)),
                    ..Job::default()
                });
                self.waiting = Some(Box::new(Waiting::Request { job, scheme, made }));
            }
            Err(reason) => self.die(ctx, &reason),
        }
    }

    /// Sends the request, or makes one more AUTH for a responder without our PPK (RFC 8784 §3).
    fn auth_made(&mut self, ctx: &mut Ctx<'_>, before: Option<Vec<u8>>, body: Vec<u8>) {
        match before {
            Some(mixed) => self.send_auth(ctx, Some(&mixed), body.get(AUTH_HEADER..)),
            None if self.ppk && !self.connection.ppk_required => {
                self.make_auth(ctx, false, Some(body));
            }
            None => self.send_auth(ctx, Some(&body), None),
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

    pub(crate) fn send_auth(
        &mut self,
        ctx: &mut Ctx<'_>,
        auth: Option<&[u8]>,
        without_ppk: Option<&[u8]>,
    ) {
        let mut chain = Chain::default();
        chain.push(payload::IDI, &self.local_id().emit());
        self.push_certificates(&mut chain);
        if self.initial_contact {
            chain.notify(notify::INITIAL_CONTACT, &[]);
        }
        if self.connection.mobike {
            chain.notify(notify::MOBIKE_SUPPORTED, &[]);
        }
        self.push_sync_ability(&mut chain, true);
        if self.by_eap_alone() && self.init.resumes.is_none() {
            chain.notify(notify::EAP_ONLY_AUTHENTICATION, &[]);
        }
        if self.connection.resumption.is_some() {
            chain.notify(notify::TICKET_REQUEST, &[]);
        }
        if let RemoteAuth::PublicKey(verifier) = &self.connection.remote_auth
            && self.init.resumes.is_none()
        {
            push_certificate_request(&mut chain, [verifier].into_iter());
        }
        if self.connection.remote_id != Identity::Any {
            chain.push(payload::IDR, &self.connection.remote_id.emit());
        }
        if let Some(auth) = auth {
            chain.push(payload::AUTH, auth);
        }
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
        if let Some(mut config) = first.and_then(|name| self.child_config(&name)) {
            self.put_trigger_first(&mut config);
            let spi = ctx.new_spi();
            let resource = resource::first(&config);
            self.push_child_offer(&mut chain, &config, (spi.value(), resource), true, None);
            self.init.child_spi = Some(spi);
        }
        let sent = self.request(ctx, exchange::IKE_AUTH, chain, Request::Auth);
        if sent.is_err() {
            self.die(ctx, "IKE_AUTH could not be made");
        }
    }

    /// Whether EAP authenticates both ends (RFC 5998).
    fn by_eap_alone(&self) -> bool {
        let Connection {
            local_auth,
            remote_auth,
            ..
        } = &*self.connection;
        matches!(
            (local_auth, remote_auth),
            (LocalAuth::Eap(_), RemoteAuth::Eap(_))
        )
    }

    fn push_certificates(&self, chain: &mut Chain) {
        let LocalAuth::PublicKey(signer) = &self.connection.local_auth else {
            return;
        };
        if self.init.resumes.is_some() {
            return;
        }
        let send = match self.connection.send_cert {
            SendCert::Always => true,
            SendCert::IfAsked => self.init.peer.asks_certificates(),
            SendCert::Never => false,
        };
        for certificate in signer.certificates().iter().filter(|_| send) {
            let body = [&[certificate.encoding], &certificate.octets[..]].concat();
            chain.push(payload::CERT, &body);
        }
        if send
            && self.init.peer.asks_status()
            && let Some(statuses) = signer.statuses()
        {
            for answer in statuses.answers() {
                let body = [&[Certificate::OCSP_CONTENT], &answer[..]].concat();
                chain.push(payload::CERT, &body);
            }
        }
    }

    /// §2.15: a side's first message, the other's nonce, and its identity under its SK_p; then the
    /// IKE_INTERMEDIATE exchanges (RFC 9242 §3.3.2).
    pub(crate) fn signed_octets(
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
            Some(plain) => (&plain.pi[..], &plain.pr[..]),
            None => keys.auth(),
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
        let local = self.local_id();
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
            LocalAuth::Eap(_) => return Err("EAP is for initiators".to_owned()),
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
            (_, RemoteAuth::Eap(_)) => Err("who authenticates by EAP must begin".to_owned()),
            (Auth::SharedKey(_), RemoteAuth::PublicKey(_)) => {
                Err("it has a preshared key, remote.auth wants a public key".to_owned())
            }
            (Auth::Signature(..), RemoteAuth::SharedKey) => {
                Err("it has a public key, remote.auth wants a preshared key".to_owned())
            }
        }
    }

    pub(crate) fn refuse_auth(&mut self, ctx: &mut Ctx<'_>, id: u32, kind: u16, reason: &str) {
        if kind == notify::AUTHENTICATION_FAILED {
            ctx.out.auth_failures += 1;
        }
        self.respond_notify(ctx, exchange::IKE_AUTH, id, kind, &[]);
        self.die(ctx, reason);
    }

    fn refusal(&self, error: &JobError) -> String {
        match error {
            JobError::Refused(refusal) => {
                format!("peer {} failed to authenticate: {refusal}", self.remote_id)
            }
            _ => error.to_string(),
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

    pub(crate) fn handle_auth_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        if self.init.resumes.is_some() {
            return self.handle_resumed_response(ctx, parts);
        }
        if self.eap.is_some() {
            return self.handle_eap_response(ctx, parts);
        }
        let error = error_notify(parts);
        let auth = find(parts, payload::AUTH);
        // The EAP that comes then proves who the responder is, too (RFC 5998).
        let alone = self.by_eap_alone() && auth.is_none() && find(parts, payload::EAP).is_some();
        let (Some(id_body), true) = (find(parts, payload::IDR), auth.is_some() || alone) else {
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
        let Some(auth) = auth else {
            self.remote_id = remote;
            return self.accept_response(ctx, parts);
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
                self.waiting = Some(Box::new(Waiting::Response { job, response }));
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

    /// The responder is who it says. Only such a one gets to see what our EAP says.
    fn accept_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        match self.connection.local_auth.clone() {
            LocalAuth::Eap(config) => self.answer_eap(ctx, config, parts),
            _ => self.finish_response(ctx, parts),
        }
    }

    /// Both are who they say.
    pub(crate) fn finish_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        self.eap = None;
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.take_addresses(ctx, self.path, parts);
        self.take_sync_ability(parts);
        self.establish(ctx);
        self.keep_ticket(ctx, parts);
        let spi = self.init.child_spi.take();
        if redirect::target(parts).is_some() && self.connection.follow_redirects {
            // §6: without a child, and this IKE SA goes.
            return self.redirect_established(ctx, parts);
        }
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
            return self.forget_trigger(&name);
        };
        let nonces = (self.init.nonce_i.clone(), self.init.nonce_r.clone());
        let offer = ChildOffer {
            nonces,
            first: true,
            resource: resource::first(&config),
            ..ChildOffer::default()
        };
        self.complete_child(ctx, parts, config, spi, offer, None);
    }

    /// Without the addresses that we ask for nothing can be done: the children are given up, and the
    /// IKE SA is closed.
    fn go_unconfigured(&mut self, ctx: &mut Ctx<'_>, reason: &str) {
        for task in std::mem::take(&mut *self.tasks) {
            if let Task::Child { name, .. } = task {
                let asked = Asked {
                    name,
                    rekeys: None,
                    sibling: false,
                };
                self.child_not_made(ctx, &asked, None, reason.to_owned());
            }
        }
        let reason = reason.to_owned();
        self.tasks.push_back(Task::DeleteIke { reason });
    }

    /// A responder that is not who it should be. It believes that the IKE SA stands, and is told once
    /// that it doesn't (§2.21.2).
    pub(crate) fn abandon(&mut self, ctx: &mut Ctx<'_>, reason: String) {
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
