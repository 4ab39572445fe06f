// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Session resumption (RFC 5723): whoever comes back shows a ticket in IKE_SESSION_RESUME, and both go
//! on from the old IKE SA's keys, without a key exchange and with no other proof.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::auth::Auth;
use crate::config::Identity;
use crate::crypto::CryptoError;
use crate::event::reason;
use crate::exchange::init::{MOST_RESTARTS, NONCE_RANGE};
use crate::ike_sa::{Ctx, IkeSa, NONCE_LEN, Request, Sent, State, error_notify, find, notifies};
use crate::keymat::IkeKeys;
use crate::ticket::{Held, Presented, Session};
use crate::wire::{Chain, HEADER_LEN, Header, Payload, notify, payload, payloads};

/// Octets of a lifetime in front of a ticket.
const LIFE_LEN: usize = 4;

/// Octets of a ticket that we would send: it goes in one datagram, in the clear.
const MOST_TICKET: usize = 1024;

/// What an IKE SA goes on with.
pub(crate) enum Resumed {
    /// By a ticket of ours.
    Ours(Held),
    /// By a peer's.
    Peers(Presented),
}

impl Resumed {
    fn session(&self) -> &Session {
        match self {
            Self::Ours(held) => &held.session,
            Self::Peers(presented) => &presented.session,
        }
    }
}

impl IkeSa {
    /// Goes on with an earlier session, if there is a ticket for one.
    pub(crate) fn present_ticket(&mut self, ctx: &mut Ctx<'_>) {
        if self.connection.resumption.is_none() {
            return;
        }
        let held = ctx.out.tickets.take(ctx.now, &self.connection.name);
        // Both may be configured otherwise by now.
        let crypto = ctx.crypto;
        let fits = |held: &Held| {
            let fixed = held.session.suite.to_proposal();
            let mut ours = self.connection.proposals.iter();
            let known = |id: &Identity, session: &Identity| id.matches_by(crypto, session);
            known(&self.connection.remote_id, &held.session.gateway)
                && self.connection.local_id == held.session.client
                && ours.any(|ours| ours.choose_ike(&fixed).is_some())
        };
        let held = held.filter(fits);
        self.init.resumes = held.map(|held| Box::new(Resumed::Ours(held)));
    }

    /// Sends the first message: with a ticket, or without one.
    pub(crate) fn start(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CryptoError> {
        let Some(Resumed::Ours(held)) = self.init.resumes.as_deref() else {
            return self.start_init(ctx);
        };
        let ticket = held.ticket.clone();
        if self.init.nonce_i.is_empty() {
            self.init.nonce_i = ctx.random(NONCE_LEN);
        }
        let mut chain = Chain::default();
        if !self.init.cookie.is_empty() {
            chain.notify(notify::COOKIE, &self.init.cookie);
        }
        chain.push(payload::NONCE, &self.init.nonce_i);
        chain.notify(notify::TICKET_OPAQUE, &ticket);
        self.push_nat_detection(ctx, &mut chain);
        if self.connection.fragmentation {
            chain.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        let message = chain.into_message(self.resume_header(false));
        self.init.message_i = message.clone();
        self.rewind();
        self.post(ctx, 0, Sent::clear(message), Request::Init);
        Ok(())
    }

    pub(crate) fn handle_resume_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        message: &[u8],
    ) {
        let fits = self.initiator
            && self.state == State::Connecting
            && header.message_id.get() == 0
            && self.keys.is_none()
            && header.spi_i.get() == self.spi_i;
        let Some(Resumed::Ours(held)) = self.init.resumes.as_deref().filter(|_| fits) else {
            return;
        };
        let session = held.session.clone();
        let octets = message.get(HEADER_LEN..).unwrap_or_default();
        let Ok(parts) = payloads(header.next_payload, octets) else {
            return;
        };
        ctx.out.notified.took(&parts);
        let restarts = self.init.restarts < MOST_RESTARTS;
        let mut cookies = notifies(&parts).filter(|n| n.kind == notify::COOKIE);
        let cookie = cookies.find(|n| (1..=64).contains(&n.data.len()));
        if let Some(cookie) = cookie.filter(|_| restarts) {
            self.init.cookie = cookie.data.to_vec();
            return self.restart(ctx);
        }
        // Anybody may have said so; what comes then is as good, and slower.
        let refused =
            |n: notify::Notify<'_>| n.kind == notify::TICKET_NACK || n.kind < notify::FIRST_STATUS;
        if notifies(&parts).any(refused) {
            tracing::info!(ike = self.id.0, "the peer does not take our ticket");
            self.init.resumes = None;
            self.init.nonce_i.clear();
            return self.restart(ctx);
        }
        let nonce = find(&parts, payload::NONCE).filter(|n| NONCE_RANGE.contains(&n.len()));
        let Some(nonce) = nonce.filter(|_| header.spi_r.get() != 0) else {
            return;
        };
        self.detect_nat(ctx, &parts, header.spi_r.get());
        self.detect_fragmentation(&parts);
        self.spi_r = header.spi_r.get();
        self.init.nonce_r = nonce.to_vec();
        self.init.message_r = message.to_vec();
        if self.take_keys(ctx, &session).is_err() {
            return self.die(ctx, "key derivation failed");
        }
        self.take_init_request();
        self.float(ctx);
        self.init.auth_id = self.next_request();
        match self.resumed_auth(ctx, true) {
            Ok(auth) => self.send_auth(ctx, Some(&Auth::emit_shared_key(&auth)), None),
            Err(_) => self.die(ctx, "IKE_AUTH could not be made"),
        }
    }

    /// Answers a ticket that is good.
    pub(crate) fn answer_resume(
        &mut self,
        ctx: &mut Ctx<'_>,
        (parts, nonce): (&[Payload<'_>], &[u8]),
        ticket: Presented,
        message: &[u8],
    ) -> Result<(), CryptoError> {
        self.init.nonce_i = nonce.to_vec();
        self.init.nonce_r = ctx.random(NONCE_LEN);
        // The first message's hash is over a responder SPI of zero.
        self.detect_nat(ctx, parts, 0);
        self.detect_fragmentation(parts);
        let mut chain = Chain::default();
        chain.push(payload::NONCE, &self.init.nonce_r);
        self.push_nat_detection(ctx, &mut chain);
        if self.fragmentation {
            chain.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        let response = chain.into_message(self.resume_header(true));
        self.init.message_i = message.to_vec();
        self.init.message_r = response.clone();
        self.take_keys(ctx, &ticket.session)?;
        self.init.resumes = Some(Box::new(Resumed::Peers(ticket)));
        self.respond_with(ctx, 0, Sent::clear(response));
        Ok(())
    }

    /// SKEYSEED = prf(SK_d of the old IKE SA, "Resumption" | Ni | Nr) (§5.1).
    fn take_keys(&mut self, ctx: &mut Ctx<'_>, session: &Session) -> Result<(), CryptoError> {
        let nonces = (&self.init.nonce_i[..], &self.init.nonce_r[..]);
        let spis = (self.spi_i, self.spi_r);
        let before = Some((session.suite.prf, &session.d[..]));
        let secret = (&b"Resumption"[..], &[][..]);
        let keys = IkeKeys::derive(ctx.crypto, &session.suite, secret, nonces, spis, before)?;
        self.keys = Some(keys);
        self.suite = Some(session.suite);
        // Those of the old IKE SA are in its keys.
        self.init.additional_done = usize::MAX;
        self.log_keys(ctx);
        Ok(())
    }

    /// A side's proof that it has the keys: prf(SK_px, octets of RFC 7296 §2.15) (§5.2).
    fn resumed_auth(&self, ctx: &Ctx<'_>, by_initiator: bool) -> Result<Vec<u8>, CryptoError> {
        let (suite, keys) = self.suite.zip(self.keys.as_ref()).ok_or(CryptoError)?;
        let resumed = self.init.resumes.as_deref().ok_or(CryptoError)?;
        let session = resumed.session();
        let (id_body, sk_p) = match by_initiator {
            true => (session.id_body.clone(), keys.auth().0),
            false => (session.gateway.emit(), keys.auth().1),
        };
        let octets = self.signed_octets(ctx, (by_initiator, true), &id_body)?;
        let code = ctx.crypto.prf(suite.prf, sk_p, &[&octets])?;
        Ok(code.to_vec())
    }

    /// Whether a peer's identity and AUTH are those of the session.
    fn proves_resumed(&self, ctx: &Ctx<'_>, by_initiator: bool, parts: &[Payload<'_>]) -> bool {
        let Some(session) = self.init.resumes.as_deref().map(Resumed::session) else {
            return false;
        };
        let (kind, id_body) = match by_initiator {
            true => (payload::IDI, session.id_body.clone()),
            false => (payload::IDR, session.gateway.emit()),
        };
        let same = find(parts, kind).is_some_and(|body| body == id_body);
        let auth = find(parts, payload::AUTH).and_then(|body| Auth::read(body).ok());
        match (auth, self.resumed_auth(ctx, by_initiator)) {
            (Some(Auth::SharedKey(code)), Ok(expected)) => {
                same && ctx.crypto.equal(&expected, code)
            }
            _ => false,
        }
    }

    pub(crate) fn handle_resumed_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let failed = notify::AUTHENTICATION_FAILED;
        let proved = self.proves_resumed(ctx, true, parts);
        let Some(Resumed::Peers(ticket)) = self.init.resumes.as_deref().filter(|_| proved) else {
            let reason = "peer fails to prove that a ticket is its own";
            return self.refuse_auth(ctx, id, failed, reason);
        };
        // Good for one time, however often it was shown meanwhile.
        let fresh = ctx.out.tickets.spend(ctx.now, ticket);
        let session = ticket.session.clone();
        let own = self.resumed_auth(ctx, false);
        let (Ok(own), true) = (own, fresh) else {
            return self.refuse_auth(ctx, id, failed, "a ticket is used again");
        };
        let connection = self.connection.clone();
        self.adopt_connection(connection, session.client);
        self.other_id = Some(Box::new(session.gateway));
        ctx.out.resumptions += 1;
        self.finish_auth(ctx, id, parts, &Auth::emit_shared_key(&own));
        // It is in the keys already, and not spoken of again.
        self.ppk = session.ppk;
    }

    pub(crate) fn handle_resumed_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        if let (Some(error), None) = (error_notify(parts), find(parts, payload::AUTH)) {
            let name = notify::name(error.kind);
            return self.die(ctx, &format!("the peer refused us: {name}"));
        }
        if !self.proves_resumed(ctx, false, parts) {
            let reason = "the peer fails to prove that it has given our ticket".to_owned();
            return self.abandon(ctx, reason);
        }
        let Some(session) = self.init.resumes.as_deref().map(Resumed::session) else {
            return;
        };
        (self.remote_id, self.ppk) = (session.gateway.clone(), session.ppk);
        ctx.out.resumptions += 1;
        self.finish_response(ctx, parts);
    }

    fn session(
        &self,
        (client, id_body): (&Identity, &[u8]),
        gateway: &Identity,
    ) -> Option<Session> {
        let (suite, keys) = self.suite.zip(self.keys.as_ref())?;
        Some(Session {
            connection: self.connection.name.clone(),
            client: client.clone(),
            id_body: id_body.to_vec(),
            gateway: gateway.clone(),
            suite,
            d: Zeroizing::new(keys.d().to_vec()),
            ppk: self.ppk,
            authenticated_until: self.reauth.expire_at,
            rekeyings: self.reauth.rekeyings,
        })
    }

    /// The session that it goes on with.
    pub(crate) fn resumed_session(&self) -> Option<&Session> {
        self.init.resumes.as_deref().map(Resumed::session)
    }

    /// For how long a ticket may be good: no longer than the peers' authentication.
    fn ticket_life(&self, ctx: &Ctx<'_>) -> Option<Duration> {
        let life = self.connection.resumption?;
        let end = self.reauth.expire_at;
        let left = end.map(|end| end.saturating_duration_since(ctx.now));
        Some(left.map_or(life, |left| left.min(life)))
    }

    /// The answer to a request for a ticket (§4.1).
    pub(crate) fn give_ticket(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
    ) -> Option<(u16, Vec<u8>)> {
        let asked = notifies(parts).any(|notify| notify.kind == notify::TICKET_REQUEST);
        if !asked {
            return None;
        }
        let life = self.ticket_life(ctx);
        let seconds = life.and_then(|life| u32::try_from(life.as_secs()).ok());
        let seconds = seconds.filter(|seconds| *seconds != 0);
        let id_body = find(parts, payload::IDI)?;
        let session = self.session((&self.remote_id, id_body), self.local_id());
        let sealed = seconds.zip(session).and_then(|(seconds, session)| {
            let life = Duration::from_secs(seconds.into());
            let (ike, tickets) = ((self.id, life), &mut ctx.out.tickets);
            let ticket = tickets.give(ctx.crypto, ctx.now, ike, &session)?;
            Some([&seconds.to_be_bytes()[..], &ticket].concat())
        });
        Some(match sealed {
            Some(data) => (notify::TICKET_LT_OPAQUE, data),
            None => (notify::TICKET_NACK, Vec::new()),
        })
    }

    /// Keeps the ticket that a peer gives, for no longer than we would.
    pub(crate) fn keep_ticket(&self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        // The session that an older one is for has been replaced.
        ctx.out.tickets.outdate(&self.connection.name);
        let mut notifies = notifies(parts);
        let given = notifies.find(|notify| notify.kind == notify::TICKET_LT_OPAQUE);
        let given = given.and_then(|given| given.data.split_at_checked(LIFE_LEN));
        let (Some((seconds, ticket)), Some(most)) = (given, self.ticket_life(ctx)) else {
            return;
        };
        let seconds = <[u8; LIFE_LEN]>::try_from(seconds).map_or(0, u32::from_be_bytes);
        let life = Duration::from_secs(seconds.into()).min(most);
        // What we are asked for would be another name than what we are: it could not be shown again.
        let client = (self.local_id(), &self.local_id().emit()[..]);
        if let Some(session) = self.session(client, &self.remote_id)
            && (1..=MOST_TICKET).contains(&ticket.len())
        {
            let ike = (self.id, life);
            ctx.out.tickets.hold(ctx.now, ike, ticket, session);
        }
    }

    /// With an IKE SA that is deleted goes its ticket; that of one whose peer is only out of reach stays
    /// (§4.3.4).
    pub(crate) fn leave_tickets(&mut self, ctx: &mut Ctx<'_>, why: &str) {
        if why == reason::NO_ANSWER {
            // Of a ticket that was shown to nobody, the next attempt is the first.
            if self.keys.is_none()
                && let Some(resumed) = self.init.resumes.take()
                && let Resumed::Ours(held) = *resumed
            {
                ctx.out.tickets.put_back(ctx.now, held);
            }
            return ctx.out.tickets.leave(self.id);
        }
        ctx.out.tickets.revoke(ctx.now, self.id);
        ctx.out.tickets.drop_of(self.id);
    }
}
