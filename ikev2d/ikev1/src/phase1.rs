// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Phase 1: main mode (RFC 2409 §5, six messages, identities encrypted) and aggressive mode (three, in the
//! clear).

mod begin;
mod proof;

use ikev2d_proto::errand::Errand;
use ikev2d_proto::event::{Event, Ikev1KeyLog, Path};
use ikev2d_proto::wire::WireError;
use thiserror::Error;

use crate::isakmp::{Isakmp, State};
use crate::keys::Nonces;
use crate::slow::{Then, Undone};
use crate::step::Ctx;
use crate::wire::{Chain, FLAG_ENCRYPTED, HEADER_LEN, Header, Payloads, exchange, notify, payload};

/// A message of phase 1 leads nowhere.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// It makes no sense: it is passed over, and the right one may still come.
    #[error("{0}")]
    Malformed(#[from] WireError),
    /// It does not fit what is known by now: passed over as well.
    #[error("{0}")]
    Unfitting(&'static str),
    /// It ends phase 1.
    #[error("{reason}")]
    Refused {
        /// What the peer is told.
        notify: u16,
        /// What our log says.
        reason: String,
    },
    /// Not yet: its key exchange is to be done elsewhere.
    #[error("its key exchange takes long")]
    Elsewhere(Errand),
}

impl Failure {
    pub(super) fn refused(notify: u16, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Refused { notify, reason }
    }
}

impl From<ikev2d_proto::crypto::CryptoError> for Failure {
    fn from(_: ikev2d_proto::crypto::CryptoError) -> Self {
        Self::Unfitting("cryptographic operation failed")
    }
}

impl From<Undone> for Failure {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Elsewhere(errand) => Self::Elsewhere(errand),
            Undone::Failed => ikev2d_proto::crypto::CryptoError.into(),
        }
    }
}

impl Isakmp {
    /// Takes in a message of phase 1 for this SA.
    pub(crate) fn handle_phase1(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        let digest = ctx.crypto.sha1(&[message]);
        if self.phase1.received == Some(digest) {
            // The peer has not heard our answer.
            if let Some(sent) = self.phase1.sent.clone() {
                ctx.out.retransmits += 1;
                ctx.transmit(self.path, sent);
            }
            return;
        }
        let mode = if self.aggressive {
            exchange::AGGRESSIVE
        } else {
            exchange::MAIN
        };
        if self.state != State::Connecting
            || self.material.waiting.is_some()
            || self.holds_phase1()
            || header.exchange != mode
            || header.message_id.get() != 0
        {
            return;
        }
        match self.step(ctx, path, header, message) {
            Ok(()) => self.phase1.received = Some(digest),
            Err(Failure::Elsewhere(errand)) => {
                self.send_out(ctx, errand, Then::Phase1(path, message.to_vec()));
            }
            Err(failure) => self.failed(ctx, &failure, digest),
        }
    }

    pub(super) fn failed(&mut self, ctx: &mut Ctx<'_>, failure: &Failure, digest: [u8; 20]) {
        let connection = &self.connection.name;
        match failure {
            Failure::Elsewhere(_) => {}
            Failure::Malformed(_) | Failure::Unfitting(_) => {
                ctx.out.malformed += 1;
                tracing::info!(connection, %failure, "message of phase 1 is passed over");
            }
            Failure::Refused { notify, reason } => {
                tracing::warn!(connection, peer = %self.path.remote, reason, "phase 1 fails");
                self.phase1.received = Some(digest);
                let reason = reason.clone();
                self.tell_unproved(ctx, *notify);
                self.die(ctx, &reason);
            }
        }
    }

    fn step(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) -> Result<(), Failure> {
        let encrypted = header.flags & FLAG_ENCRYPTED != 0;
        let body = message.get(HEADER_LEN..).ok_or(WireError::Length)?;
        let (opened, iv) = match (&self.keys, encrypted) {
            (Some(keys), true) => {
                let (octets, iv) = keys.open(ctx.crypto, &keys.iv, message)?;
                (Some(octets), iv)
            }
            (None, true) => return Err(Failure::Unfitting("it is encrypted too early")),
            (_, false) => (None, Vec::new()),
        };
        let octets = opened.as_ref().map_or(body, |octets| &octets[..]);
        let parts = Payloads::parse(header.next_payload, octets, encrypted)?;
        // What anybody could have added is no word of the peer's.
        self.material.initial_contact = encrypted && has_initial_contact(&parts);
        match (self.aggressive, self.material.expects) {
            (false, 2) => {
                self.cky_r = header.spi_r.get();
                self.main_3(ctx, &parts)
            }
            (false, 3) => self.main_4(ctx, &parts),
            (false, 4) => self.main_5(ctx, &parts),
            (false, 5 | 6) if !encrypted => Err(Failure::Unfitting("it is not encrypted")),
            (false, 5 | 6) => self.proof(ctx, path, &parts, iv),
            (true, 2) => {
                self.cky_r = header.spi_r.get();
                self.aggressive_3(ctx, path, &parts)
            }
            (true, 3) => self.proof(ctx, path, &parts, iv),
            _ => Err(Failure::Unfitting("no message is awaited")),
        }
    }

    /// An unencrypted notification: all that can be said before there are keys.
    pub(crate) fn tell_unproved(&mut self, ctx: &mut Ctx<'_>, kind: u16) {
        let (cky_i, cky_r) = self.cookies();
        unproved(ctx, self.path, (cky_i, cky_r), kind);
    }

    /// Our nonce and public value, in a new exchange of the chosen group. A responder answers what it has
    /// read.
    fn exchange(&mut self, ctx: &Ctx<'_>, chain: &mut Chain) -> Result<(), Failure> {
        let suite = self.material.suite;
        let suite = suite.ok_or(Failure::Unfitting("nothing is chosen"))?;
        let public = if self.initiator {
            let own = self.own_exchange(ctx, suite.group)?;
            let public = own.public().to_vec();
            self.material.exchange = Some(own);
            public
        } else {
            let peer = std::mem::take(&mut self.material.public_i);
            let answer = self.answer_exchange(ctx, suite.group, &peer);
            self.material.public_i = peer;
            let (public, secret) = answer.map_err(|undone| match undone {
                Undone::Failed => not_of_group(),
                undone => undone.into(),
            })?;
            self.material.secret = Some(secret);
            public
        };
        let nonce = ctx.random(crate::isakmp::NONCE_LEN);
        chain.push(payload::KE, &public);
        chain.push(payload::NONCE, &nonce);
        let material = &mut self.material;
        if self.initiator {
            (material.public_i, material.nonce_i) = (public, nonce);
        } else {
            (material.public_r, material.nonce_r) = (public, nonce);
        }
        Ok(())
    }

    /// The peer's.
    fn read_exchange(&mut self, parts: &Payloads<'_>) -> Result<(), Failure> {
        let public = parts.one(payload::KE, "KE")?.to_vec();
        let nonce = nonce(parts)?.to_vec();
        let material = &mut self.material;
        if self.initiator {
            (material.public_r, material.nonce_r) = (public, nonce);
        } else {
            (material.public_i, material.nonce_i) = (public, nonce);
        }
        Ok(())
    }

    /// Keys out of both public values.
    fn derive(&mut self, ctx: &mut Ctx<'_>, psk: Option<&[u8]>) -> Result<(), Failure> {
        let none = || Failure::Unfitting("no keys were exchanged");
        let suite = self.material.suite.ok_or_else(none)?;
        let secret = match &self.material.exchange {
            Some(own) => {
                let peer = &self.material.public_r;
                if own.is_due(ctx.crypto, peer) {
                    return Err(Failure::Elsewhere(Errand {
                        agree: Some((own.clone(), peer.clone())),
                        ..Errand::default()
                    }));
                }
                own.agree(peer).map_err(|_| not_of_group())?
            }
            None => self.material.secret.take().ok_or_else(none)?,
        };
        let material = &self.material;
        let nonces = Nonces {
            initiator: &material.nonce_i,
            responder: &material.nonce_r,
        };
        self.keys = Some(crate::cipher::Keys::derive(
            ctx.crypto,
            suite,
            psk,
            nonces,
            &secret,
            self.cookies(),
            (&material.public_i, &material.public_r),
        )?);
        if let (true, Some(keys)) = (ctx.config.key_log, &self.keys) {
            let (cky_i, key) = (self.cky_i, keys.cipher.clone());
            ctx.event(Event::Ikev1Keys(Box::new(Ikev1KeyLog { cky_i, key })));
        }
        Ok(())
    }

    pub(super) fn read_requests(&mut self, parts: &Payloads<'_>) {
        self.peer.read(parts);
        self.material.asked |= parts.of(payload::CERTREQ).next().is_some();
    }
}

fn not_of_group() -> Failure {
    Failure::refused(17, "the peer's public value is not one of the group's")
}

fn has_initial_contact(parts: &Payloads<'_>) -> bool {
    parts
        .of(payload::NOTIFY)
        .filter_map(|body| notify::Notify::parse(body).ok())
        .any(|notify| notify.kind == notify::INITIAL_CONTACT)
}

/// RFC 2409 §5: 8 to 256 octets.
pub(crate) fn nonce<'m>(parts: &Payloads<'m>) -> Result<&'m [u8], WireError> {
    let nonce = parts.one(payload::NONCE, "nonce")?;
    if (8..=256).contains(&nonce.len()) {
        Ok(nonce)
    } else {
        Err(WireError::Malformed { what: "nonce" })
    }
}

/// Sends a notification in the clear.
pub(crate) fn unproved(ctx: &mut Ctx<'_>, path: Path, (cky_i, cky_r): (u64, u64), kind: u16) {
    ctx.count_told(kind);
    let mut chain = Chain::default();
    let notify = notify::Notify {
        protocol: crate::wire::sa::PROTO_ISAKMP,
        spi: &[],
        kind,
        data: &[],
    };
    chain.push(payload::NOTIFY, &notify.emit());
    let message = chain.into_message(Header {
        spi_i: cky_i.into(),
        spi_r: cky_r.into(),
        next_payload: 0,
        version: crate::wire::VERSION,
        exchange: exchange::INFORMATIONAL,
        flags: 0,
        message_id: ctx.random_u32().max(1).into(),
        len: 0.into(),
    });
    ctx.transmit(path, message);
}
