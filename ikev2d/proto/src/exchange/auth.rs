// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_AUTH with preshared keys (RFC 7296 §1.2, §2.15), and the first child SA.

use std::sync::Arc;

use crate::config::{Childless, Identity, Unique, find_secret};
use crate::crypto::CryptoError;
use crate::event::{Event, InstallId};
use crate::exchange::child::ChildOffer;
use crate::ike_sa::{Ctx, IkeSa, Pending, Request, State, Task, error_notify, find, notifies};
use crate::keymat::psk_auth;
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// Authentication method 2: shared key message integrity code.
const SHARED_KEY: u8 = 2;

fn offers_mobike(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::MOBIKE_SUPPORTED)
}

impl IkeSa {
    pub(crate) fn start_auth(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CryptoError> {
        let mut chain = Chain::default();
        let id = self.connection.local_id.emit();
        chain.push(payload::IDI, &id);
        if self.initial_contact {
            chain.notify(notify::INITIAL_CONTACT, &[]);
        }
        if self.connection.mobike {
            chain.notify(notify::MOBIKE_SUPPORTED, &[]);
        }
        if self.connection.remote_id != Identity::Any {
            chain.push(payload::IDR, &self.connection.remote_id.emit());
        }
        let auth = self.auth_of(ctx, true, &id, &self.connection.remote_id.clone())?;
        chain.push(payload::AUTH, &auth);
        // The first child asked for is made along with the IKE SA.
        let first = self.tasks.iter().find_map(|task| match task {
            Task::Child {
                name, rekeys: None, ..
            } => Some(name.clone()),
            _ => None,
        });
        let first = first.filter(|_| !self.goes_childless());
        if let Some(config) = first.and_then(|name| self.child_config(&name)) {
            self.init.child_spi = self.new_spi(ctx);
            self.push_child_offer(&mut chain, &config, self.init.child_spi, true, None);
        }
        self.request(ctx, exchange::IKE_AUTH, chain, Request::Auth)
    }

    /// The AUTH payload's body of one side.
    fn auth_of(
        &self,
        ctx: &Ctx<'_>,
        by_initiator: bool,
        id_body: &[u8],
        remote: &Identity,
    ) -> Result<Vec<u8>, CryptoError> {
        let local = &self.local_id;
        let secret = find_secret(ctx.secrets, local, remote).ok_or(CryptoError)?;
        let (suite, keys) = self
            .suite
            .as_ref()
            .zip(self.keys.as_ref())
            .ok_or(CryptoError)?;
        let (message, nonce, sk_p) = if by_initiator {
            (&self.init.message_i, &self.init.nonce_r, &keys.pi)
        } else {
            (&self.init.message_r, &self.init.nonce_i, &keys.pr)
        };
        let mac = psk_auth(
            ctx.crypto,
            suite.prf,
            &secret.secret,
            message,
            nonce,
            sk_p,
            id_body,
        )?;
        let mut body = vec![SHARED_KEY, 0, 0, 0];
        body.extend_from_slice(&mac);
        Ok(body)
    }

    pub(crate) fn handle_auth_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let refuse = |this: &mut Self, ctx: &mut Ctx<'_>, kind, reason: &str| {
            this.respond_notify(ctx, exchange::IKE_AUTH, id, kind, &[]);
            this.die(ctx, reason);
        };
        let (Some(id_body), Some(auth)) = (find(parts, payload::IDI), find(parts, payload::AUTH))
        else {
            let reason = "IKE_AUTH lacks identity or AUTH (EAP is not supported)";
            return refuse(self, ctx, notify::AUTHENTICATION_FAILED, reason);
        };
        let Ok(remote) = Identity::read(id_body) else {
            return refuse(self, ctx, notify::INVALID_SYNTAX, "malformed identity");
        };
        let childless = find(parts, payload::SA).is_none();
        let wanted = find(parts, payload::IDR).and_then(|body| Identity::read(body).ok());
        let ends = (self.path.local.ip(), self.path.remote.ip());
        let suite = self.suite;
        let connection = ctx.connections.iter().find(|connection| {
            crate::endpoint::addresses_match(connection, ends.0, ends.1)
                && connection.remote_id.matches(&remote)
                && wanted
                    .as_ref()
                    .is_none_or(|id| connection.local_id.matches(id) || *id == Identity::Any)
                && suite.is_some_and(|suite| {
                    let fixed = suite.to_proposal();
                    connection
                        .proposals
                        .iter()
                        .any(|p| p.choose_ike(&fixed).is_some())
                })
        });
        let Some(connection) = connection.cloned() else {
            ctx.out.auth_failures += 1;
            let reason = format!("no connection for peer {remote}");
            return refuse(self, ctx, notify::AUTHENTICATION_FAILED, &reason);
        };
        let refused = match connection.childless {
            Childless::Never => childless,
            Childless::Force => !childless,
            Childless::Allow | Childless::Prefer => false,
        };
        self.adopt_connection(connection, remote);
        let expected = self.auth_of(ctx, true, id_body, &self.remote_id.clone());
        let verified = expected.is_ok_and(|expected| ctx.crypto.equal(&expected, auth));
        if !verified {
            ctx.out.auth_failures += 1;
            let reason = format!("peer {} failed to authenticate", self.remote_id);
            return refuse(self, ctx, notify::AUTHENTICATION_FAILED, &reason);
        }
        if refused {
            let reason = "the policy on IKE SAs without a child (RFC 6023) forbids it";
            return refuse(self, ctx, notify::INVALID_SYNTAX, reason);
        }
        let local_body = self.local_id.emit();
        let Ok(own_auth) = self.auth_of(ctx, false, &local_body, &self.remote_id.clone()) else {
            return refuse(
                self,
                ctx,
                notify::AUTHENTICATION_FAILED,
                "AUTH could not be made",
            );
        };
        if self.connection.unique == Unique::Keep && ctx.out.present.contains_key(&self.ends()) {
            let reason = format!("peer {} is there already", self.remote_id);
            return refuse(self, ctx, notify::AUTHENTICATION_FAILED, &reason);
        }
        if self.connection.unique != Unique::Never
            && notifies(parts).any(|notify| notify.kind == notify::INITIAL_CONTACT)
        {
            ctx.out.initial_contact.push_back(self.id);
        }
        ctx.out.authenticated = Some(self.id);
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.establish(ctx);
        let mobike = self.mobike;
        let chain = || {
            let mut chain = Chain::default();
            chain.push(payload::IDR, &local_body);
            chain.push(payload::AUTH, &own_auth);
            if mobike {
                chain.notify(notify::MOBIKE_SUPPORTED, &[]);
            }
            chain
        };
        let mut installed = chain();
        if childless {
            // Childless (RFC 6023).
            return self.respond(ctx, exchange::IKE_AUTH, id, installed);
        }
        let nonces = (self.init.nonce_i.clone(), self.init.nonce_r.clone());
        let offer = ChildOffer {
            nonces,
            secret: None,
            chosen_group: None,
            first: true,
            collision: None,
        };
        match self.answer_child(ctx, parts, offer, None, &mut installed) {
            Ok(child) => {
                let mut failed = chain();
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
                let mut chain = chain();
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

    fn adopt_connection(&mut self, connection: Arc<crate::config::Connection>, remote: Identity) {
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
        let remote = match Identity::read(id_body) {
            Ok(remote) if self.connection.remote_id.matches(&remote) => remote,
            Ok(remote) => {
                ctx.out.auth_failures += 1;
                let expected = &self.connection.remote_id;
                let reason = format!("the peer is {remote}, expected {expected}");
                return self.abandon(ctx, reason);
            }
            Err(_) => return self.abandon(ctx, "malformed identity".to_owned()),
        };
        let expected = self.auth_of(ctx, false, id_body, &remote);
        if !expected.is_ok_and(|expected| ctx.crypto.equal(&expected, auth)) {
            ctx.out.auth_failures += 1;
            return self.abandon(ctx, format!("peer {remote} failed to authenticate"));
        }
        self.remote_id = remote;
        self.mobike = self.connection.mobike && offers_mobike(parts);
        self.establish(ctx);
        if self.init.child_spi == 0 {
            return;
        }
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
            secret: None,
            chosen_group: None,
            first: true,
            collision: None,
        };
        self.complete_child(ctx, parts, config, self.init.child_spi, offer, None);
    }

    /// An authenticated-looking responder that is not who it should be: no more is sent but a delete.
    fn abandon(&mut self, ctx: &mut Ctx<'_>, reason: String) {
        self.state = State::Connecting;
        self.die(ctx, &reason);
    }
}
