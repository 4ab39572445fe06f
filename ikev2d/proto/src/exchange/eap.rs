// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP in IKE_AUTH (RFC 7296 §2.16): the responder proves itself first, then the initiator by EAP; then
//! both show in AUTH that they have the method's key. Nothing stands before that.

use crate::auth::Auth;
use crate::credential::JobError;
use crate::crypto::CryptoError;
use crate::eap::{
    Back, Client, ClientConfig, ClientTurn, Converse as _, Elsewhere, Msk, Server, ServerConfig,
    ServerTurn,
};
use crate::exchange::signature::{Kept, Waiting};
use crate::ike_sa::{Ctx, IkeSa, Request, error_notify, find};
use crate::keymat::psk_auth;
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// EAP goes on, or has ended and its key is to be shown.
pub(crate) enum EapState {
    /// We are authenticated. The conversation is away while a job makes our turn.
    Client {
        talk: Option<Client>,
        /// The responder's identity, as sent.
        id_body: Vec<u8>,
        msk: Option<Msk>,
    },
    /// We authenticate.
    Server {
        talk: Option<Server>,
        /// The first request, which asks for the rest.
        first: Kept,
        /// The initiator's identity, as sent.
        id_body: Vec<u8>,
        msk: Option<Msk>,
    },
}

impl IkeSa {
    /// A side's code by the key of EAP.
    fn eap_code(
        &self,
        ctx: &Ctx<'_>,
        by_initiator: bool,
        id_body: &[u8],
        msk: &Msk,
    ) -> Result<Vec<u8>, CryptoError> {
        let suite = self.suite.as_ref().ok_or(CryptoError)?;
        let octets = self.signed_octets(ctx, (by_initiator, true), id_body)?;
        let code = psk_auth(ctx.crypto, suite.prf, msk, &octets)?;
        Ok(code.to_vec())
    }

    /// Whether AUTH shows that its sender has EAP's key.
    fn shows_key(
        &self,
        ctx: &Ctx<'_>,
        by_initiator: bool,
        id_body: &[u8],
        msk: &Msk,
        parts: &[Payload<'_>],
    ) -> bool {
        let auth = find(parts, payload::AUTH).map(Auth::read);
        let Some(Ok(Auth::SharedKey(code))) = auth else {
            return false;
        };
        let expected = self.eap_code(ctx, by_initiator, id_body, msk);
        expected.is_ok_and(|expected| ctx.crypto.equal(&expected, code))
    }

    /// The responder has proved itself: answers its EAP.
    pub(crate) fn answer_eap(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: ClientConfig,
        parts: &[Payload<'_>],
    ) {
        let (Some(id_body), Some(packet)) = (find(parts, payload::IDR), find(parts, payload::EAP))
        else {
            return self.abandon(ctx, "the peer does not begin EAP".to_owned());
        };
        self.eap = Some(Box::new(EapState::Client {
            talk: Some(Client::new(config)),
            id_body: id_body.to_vec(),
            msk: None,
        }));
        self.talk_eap(ctx, packet);
    }

    pub(crate) fn handle_eap_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        if let Some(error) = error_notify(parts) {
            let name = notify::name(error.kind);
            return self.die(ctx, &format!("the peer refused us: {name}"));
        }
        let Some(EapState::Client { id_body, msk, .. }) = self.eap.as_deref() else {
            return self.die(ctx, "EAP the wrong way round");
        };
        let early = find(parts, payload::AUTH).is_some();
        match (msk, find(parts, payload::EAP)) {
            (Some(msk), _) => {
                if self.shows_key(ctx, false, id_body, msk, parts) {
                    self.finish_response(ctx, parts);
                } else {
                    let reason = "the peer does not show the key of EAP".to_owned();
                    self.abandon(ctx, reason);
                }
            }
            (None, Some(packet)) if !early => self.talk_eap(ctx, packet),
            _ => self.abandon(ctx, "the peer breaks off EAP".to_owned()),
        }
    }

    /// Our turn as the one who is authenticated.
    fn talk_eap(&mut self, ctx: &mut Ctx<'_>, packet: &[u8]) {
        let Some(EapState::Client { talk, .. }) = self.eap.as_deref_mut() else {
            return;
        };
        let Some(mut conversation) = talk.take() else {
            return self.die(ctx, "EAP is elsewhere");
        };
        if conversation.is_slow() {
            let (talk, job) = Elsewhere::send(conversation, packet);
            let job = ctx.job(job);
            self.waiting = Some(Box::new(Waiting::EapClient { job, talk }));
            return;
        }
        let turn = conversation.handle(packet);
        self.eap_client_back(ctx, Some((conversation, Some(turn))));
    }

    /// Our turn is made.
    pub(crate) fn eap_client_back(&mut self, ctx: &mut Ctx<'_>, back: Option<Back<Client>>) {
        let Some((conversation, Some(turn))) = back else {
            return self.abandon(ctx, JobError::Panicked.to_string());
        };
        let Some(EapState::Client { talk, msk, .. }) = self.eap.as_deref_mut() else {
            return;
        };
        *talk = Some(conversation);
        let mut chain = Chain::default();
        match turn {
            Ok(ClientTurn::Say(answer)) => chain.push(payload::EAP, &answer),
            Ok(ClientTurn::Success(key)) => {
                *msk = Some(key.clone());
                let code = self.eap_code(ctx, true, &self.local_id().emit(), &key);
                match code {
                    Ok(code) => chain.push(payload::AUTH, &Auth::emit_shared_key(&code)),
                    Err(error) => return self.die(ctx, &error.to_string()),
                }
            }
            Err(error) => return self.abandon(ctx, error.to_string()),
        }
        let sent = self.request(ctx, exchange::IKE_AUTH, chain, Request::Auth);
        if sent.is_err() {
            self.die(ctx, "IKE_AUTH could not be made");
        }
    }

    /// Proves who we are, unless EAP does so for both (RFC 5998), and asks the initiator to do so by EAP.
    pub(crate) fn begin_eap(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
        config: ServerConfig,
        own_auth: Option<&[u8]>,
    ) {
        let id_body = find(parts, payload::IDI).unwrap_or_default();
        // What stands behind type and reserved octets: the name as it is written.
        let name = id_body.get(4..).unwrap_or_default();
        let mut first = [0];
        ctx.crypto.random(&mut first);
        match Server::begin(config, (name, &self.remote_id), first[0]) {
            Ok((talk, request)) => {
                let mut chain = match own_auth {
                    Some(own_auth) => self.own_proof(own_auth),
                    None => {
                        let mut chain = Chain::default();
                        chain.push(payload::IDR, &self.local_id().emit());
                        chain
                    }
                };
                chain.push(payload::EAP, &request);
                self.eap = Some(Box::new(EapState::Server {
                    talk: Some(talk),
                    first: Kept::new(parts),
                    id_body: id_body.to_vec(),
                    msk: None,
                }));
                self.respond(ctx, exchange::IKE_AUTH, id, chain);
            }
            Err(error) => {
                let kind = notify::AUTHENTICATION_FAILED;
                self.refuse_auth(ctx, id, kind, &error.to_string());
            }
        }
    }

    pub(crate) fn handle_eap_request(&mut self, ctx: &mut Ctx<'_>, id: u32, parts: &[Payload<'_>]) {
        let failed = notify::AUTHENTICATION_FAILED;
        let Some(EapState::Server {
            talk, id_body, msk, ..
        }) = self.eap.as_deref_mut()
        else {
            return self.refuse_auth(ctx, id, failed, "EAP the wrong way round");
        };
        let remote = &self.remote_id;
        if let Some(msk) = msk.clone() {
            let id_body = std::mem::take(id_body);
            if !self.shows_key(ctx, true, &id_body, &msk, parts) {
                let reason = format!("peer {remote} does not show the key of EAP");
                return self.refuse_auth(ctx, id, failed, &reason);
            }
            return self.finish_eap(ctx, id, &msk);
        }
        let packet = find(parts, payload::EAP).filter(|_| find(parts, payload::AUTH).is_none());
        let Some(packet) = packet else {
            let reason = format!("peer {remote} breaks off EAP");
            return self.refuse_auth(ctx, id, failed, &reason);
        };
        let Some(mut conversation) = talk.take() else {
            return self.refuse_auth(ctx, id, failed, "EAP is elsewhere");
        };
        if conversation.is_slow() {
            let (talk, job) = Elsewhere::send(conversation, packet);
            let job = ctx.job(job.for_peer());
            self.waiting = Some(Box::new(Waiting::EapServer { job, id, talk }));
            return;
        }
        let turn = conversation.handle(packet);
        self.eap_server_back(ctx, id, Some((conversation, Some(turn))));
    }

    /// The peer's packet has been judged.
    pub(crate) fn eap_server_back(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        back: Option<Back<Server>>,
    ) {
        let Some(EapState::Server { talk, msk, .. }) = self.eap.as_deref_mut() else {
            return;
        };
        let Some((conversation, turn)) = back else {
            let reason = JobError::Panicked.to_string();
            return self.refuse_auth(ctx, id, notify::AUTHENTICATION_FAILED, &reason);
        };
        let talk = talk.insert(conversation);
        // There was no room for it: as if the request had been lost, which the peer sends again.
        let Some(turn) = turn else { return };
        let (answer, error) = match turn {
            Ok(ServerTurn::Say(request)) => (request, None),
            Ok(ServerTurn::Success(success, key)) => {
                *msk = Some(key);
                (success, None)
            }
            Err(error) => (talk.failure(), Some(error)),
        };
        let mut chain = Chain::default();
        chain.push(payload::EAP, &answer);
        self.respond(ctx, exchange::IKE_AUTH, id, chain);
        if let Some(error) = error {
            ctx.out.auth_failures += 1;
            let reason = format!("peer {} failed to authenticate: {error}", self.remote_id);
            self.die(ctx, &reason);
        }
    }

    /// The initiator has shown the key: so do we, with what its first request asks for.
    fn finish_eap(&mut self, ctx: &mut Ctx<'_>, id: u32, msk: &Msk) {
        let failed = notify::AUTHENTICATION_FAILED;
        let code = self.eap_code(ctx, false, &self.local_id().emit(), msk);
        let code = match code {
            Ok(code) => code,
            Err(error) => return self.refuse_auth(ctx, id, failed, &error.to_string()),
        };
        let Some(EapState::Server { talk, first, .. }) = self.eap.as_deref_mut() else {
            return;
        };
        let first = std::mem::take(first);
        // Who was asked is whom EAP has authenticated, whatever IDi says.
        if let Some(peer) = talk.as_ref().and_then(Server::peer) {
            self.remote_id = peer;
        }
        let own_auth = Auth::emit_shared_key(&code);
        self.finish_auth(ctx, id, &first.parts(), &own_auth);
    }
}
