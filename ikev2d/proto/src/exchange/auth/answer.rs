// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The responder's side of IKE_AUTH.

use std::sync::Arc;

use super::{AUTH_HEADER, Own, offers_eap_alone, offers_mobike};
use crate::auth::Auth;
use crate::config::{Childless, Connection, Identity, LocalAuth, RemoteAuth, Unique};
use crate::credential::{Job, JobError, JobResult};
use crate::event::{Event, InstallId};
use crate::exchange::child::ChildOffer;
use crate::exchange::signature::{Kept, OwnAuth, Waiting};
use crate::exchange::{ppk, redirect};
use crate::ike_sa::{Ctx, FORGET, IkeSa, Pending, find, notifies};
use crate::wire::{Chain, Payload, exchange, notify, payload};

impl IkeSa {
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
        if self.eap.is_some() {
            return self.handle_eap_request(ctx, id, parts);
        }
        self.init.auth_id = id;
        if self.init.resumes.is_some() {
            return self.handle_resumed_request(ctx, id, parts);
        }
        let Some(id_body) = find(parts, payload::IDI) else {
            return self.refuse_auth(ctx, id, failed, "IKE_AUTH lacks an identity");
        };
        // Without AUTH the peer asks for EAP (§2.16).
        let auth_body = find(parts, payload::AUTH);
        let Ok(remote) = Identity::read(id_body) else {
            return self.refuse_auth(ctx, id, notify::INVALID_SYNTAX, "malformed identity");
        };
        let auth = match auth_body.map(Auth::read).transpose() {
            Ok(auth) => auth,
            Err(error) => return self.refuse_auth(ctx, id, failed, &error.to_string()),
        };
        let wanted = find(parts, payload::IDR).and_then(|body| Identity::read(body).ok());
        let offers_eap_alone = offers_eap_alone(parts);
        let kind = (auth.as_ref(), offers_eap_alone);
        let Some(connection) = self.connection_for(ctx, &remote, wanted.as_ref(), kind) else {
            let reason = format!("no connection for peer {remote} and its kind of authentication");
            return self.refuse_auth(ctx, id, failed, &reason);
        };
        self.adopt_connection(connection, remote);
        self.init.peer.note(parts);
        let remote = self.remote_id.clone();
        let Some((auth, auth_body)) = auth.zip(auth_body) else {
            if self.connection.ppk_required || ppk::has_identity(parts) {
                let reason = "PPKs and EAP together are not supported";
                return self.refuse_auth(ctx, id, failed, reason);
            }
            if self.by_eap_alone() {
                return self.authenticated(ctx, id, parts, None);
            }
            return self.answer_by_own_auth(ctx, id, parts, None);
        };
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
        self.answer_by_own_auth(ctx, id, parts, verify);
    }

    /// Makes our AUTH, and answers when it is there and the peer is believed.
    fn answer_by_own_auth(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
        verify: Option<super::Check>,
    ) {
        let failed = notify::AUTHENTICATION_FAILED;
        let (local_body, remote) = (self.local_id().emit(), self.remote_id.clone());
        let (own, sign) = match self.own_auth(ctx, (false, true), &local_body, &remote) {
            Ok(Own::Made(body)) => (OwnAuth::Made(body), None),
            Ok(Own::Sign(signer, scheme, octets)) => {
                (OwnAuth::Signed(scheme), Some((signer, scheme, octets)))
            }
            Err(reason) => return self.refuse_auth(ctx, id, failed, &reason),
        };
        match own {
            OwnAuth::Made(body) if verify.is_none() => {
                self.authenticated(ctx, id, parts, Some(&body));
            }
            own => {
                let job = Job {
                    verify,
                    sign,
                    ..Job::default()
                };
                let job = ctx.job(job.for_peer());
                let request = Kept::new(parts);
                self.waiting = Some(Box::new(Waiting::Answer {
                    job,
                    id,
                    request,
                    own,
                }));
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
            (OwnAuth::Made(body), Ok(_)) => self.authenticated(ctx, id, parts, Some(&body)),
            (OwnAuth::Signed(scheme), Ok(Some(signature))) => {
                let body = Auth::emit_signature(scheme, signature);
                self.authenticated(ctx, id, parts, Some(&body));
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

    /// The first connection that fits the peer's identity and kind of authentication.
    fn connection_for(
        &self,
        ctx: &Ctx<'_>,
        remote: &Identity,
        wanted: Option<&Identity>,
        (auth, eap_alone): (Option<&Auth<'_>>, bool),
    ) -> Option<Arc<Connection>> {
        let suite = self.suite;
        let found = ctx.connections.iter().find(|connection| {
            crate::endpoint::may_come(connection, self.path)
                && connection.remote_id.matches_by(ctx.crypto, remote)
                && wanted.is_none_or(|id| {
                    connection.local_id.matches_by(ctx.crypto, id) || *id == Identity::Any
                })
                && match (auth, &connection.remote_auth) {
                    (Some(Auth::SharedKey(_)), RemoteAuth::SharedKey)
                    | (Some(Auth::Signature(..)), RemoteAuth::PublicKey(_)) => true,
                    (None, RemoteAuth::Eap(_)) => {
                        eap_alone || !matches!(connection.local_auth, LocalAuth::Eap(_))
                    }
                    _ => false,
                }
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

    /// Our AUTH is made, and the peer's believed; or there is none yet, and EAP begins.
    fn authenticated(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
        own_auth: Option<&[u8]>,
    ) {
        match (self.connection.remote_auth.clone(), own_auth) {
            (RemoteAuth::Eap(config), own_auth) => {
                self.begin_eap(ctx, id, parts, config, own_auth);
            }
            (_, Some(own_auth)) => self.finish_auth(ctx, id, parts, own_auth),
            (_, None) => {
                let reason = "nothing proves who we are";
                self.refuse_auth(ctx, id, notify::AUTHENTICATION_FAILED, reason);
            }
        }
    }

    /// Who we are: the identity, certificates, and AUTH.
    pub(crate) fn own_proof(&self, own_auth: &[u8]) -> Chain {
        let mut chain = Chain::default();
        chain.push(payload::IDR, &self.local_id().emit());
        self.push_certificates(&mut chain);
        chain.push(payload::AUTH, own_auth);
        chain
    }

    /// The peer is who it says: answers so, with the first child if one is asked for.
    pub(crate) fn finish_auth(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
        own_auth: &[u8],
    ) {
        // Behind EAP the rest was said with the first answer (§2.16).
        let proved = self.eap.take().is_some();
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
            self.on_probation = Some((ctx.now + crate::endpoint::GRACE).into());
        }
        if self.connection.unique != Unique::Never && initial {
            ctx.out.initial_contact.push_back(self.id);
        }
        ctx.out.authenticated = Some(self.id);
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.take_sync_ability(parts);
        self.establish(ctx);
        if let Some(gateway) = self.redirects_peer_to() {
            // RFC 5685 §6: it deletes this IKE SA, which never has a child.
            let mut chain = match proved {
                true => Chain::default(),
                false => self.own_proof(own_auth),
            };
            if proved {
                chain.push(payload::AUTH, own_auth);
            }
            if self.ppk {
                chain.notify(notify::PPK_IDENTITY, &[]);
            }
            chain.notify(notify::REDIRECT, &redirect::emit(gateway, &[]));
            self.forget_at = Some((ctx.now + FORGET).into());
            return self.respond(ctx, exchange::IKE_AUTH, id, chain);
        }
        // Without an address the IKE SA stands without its child (§3.15.4).
        let (configured, unconfigured) = match self.answer_configuration(ctx, parts) {
            Ok(configured) => (configured, None),
            Err(kind) => (None, Some(kind)),
        };
        let ticket = self.give_ticket(ctx, parts);
        self.settle_addresses(ctx);
        let chain = |this: &Self| {
            let mut chain = if proved {
                let mut chain = Chain::default();
                chain.push(payload::AUTH, own_auth);
                chain
            } else {
                this.own_proof(own_auth)
            };
            if this.ppk {
                chain.notify(notify::PPK_IDENTITY, &[]);
            }
            if this.mobike {
                chain.notify(notify::MOBIKE_SUPPORTED, &[]);
                this.push_addresses(&mut chain);
            }
            this.push_sync_ability(&mut chain, false);
            if let Some((kind, data)) = &ticket {
                chain.notify(*kind, data);
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
        let chosen = self.answer_child(ctx, parts, (None, None), true, &mut installed);
        let chosen = chosen.map_err(|refused| refused.kind());
        match chosen.and_then(|chosen| self.make_answered(ctx, chosen, &offer, None)) {
            Ok(child) => {
                let mut failed = chain(self);
                failed.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
                let install = InstallId(ctx.out.id());
                let sa = Box::new(child.1);
                ctx.event(Event::InstallInbound { install, child: sa });
                self.pending = Some(Box::new(Pending {
                    install,
                    message_id: id,
                    exchange: exchange::IKE_AUTH,
                    installed,
                    failed,
                    child: child.0,
                    rekeys: None,
                }));
            }
            Err(kind) => {
                // The IKE SA stands without its child (§1.2).
                let mut chain = chain(self);
                chain.notify(kind, &[]);
                self.respond(ctx, exchange::IKE_AUTH, id, chain);
            }
        }
    }

    pub(crate) fn adopt_connection(&mut self, connection: Arc<Connection>, remote: Identity) {
        self.other_id = None;
        self.encap |= connection.encap;
        self.connection = connection;
        self.remote_id = remote;
    }
}
