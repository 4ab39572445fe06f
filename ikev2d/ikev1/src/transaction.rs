// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Transactions: XAUTH (draft-beaulieu-ike-xauth-02), by which a user proves itself once phase 1 has ended,
//! and mode config (draft-dukes-ike-mode-cfg-02), by which it gets addresses. An ISAKMP SA that has them
//! before it is not up until they have ended well.

mod config;
mod user;

use std::collections::VecDeque;
use std::time::Instant;

use ikev2d_proto::config::Connection;
use ikev2d_proto::event::Path;
use ikev2d_proto::wire::configuration::Kind;
use ikev2d_proto::xauth::Xauth;
use zeroize::Zeroizing;

use crate::isakmp::{Isakmp, Last, State};
use crate::step::Ctx;
use crate::timers::repeat;
use crate::wire::transaction::Attributes;
use crate::wire::{Chain, Header, Payloads, exchange, payload};

/// Answers that are kept for a peer that has not heard them, at most.
const MOST_ANSWERS: usize = 8;

/// Transactions of an ISAKMP SA.
#[derive(Default)]
pub(crate) struct Transactions {
    asked: Option<Asked>,
    answered: VecDeque<Answered>,
    /// The peer believes in our user, or we in its, or there are none.
    is_user_proved: bool,
    /// Addresses are given, or there are none to give.
    is_configured: bool,
    /// How often the peer has asked for our user.
    asks: u32,
    /// The peer's user, once it is believed.
    user: Option<String>,
}

/// A transaction of ours whose answer is awaited.
struct Asked {
    id: u32,
    iv: Vec<u8>,
    what: What,
    last: Last,
}

/// What it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Who the peer's user is.
    User,
    /// Whether it is believed.
    Verdict {
        /// Its name, if it is.
        user: Option<String>,
    },
    /// Which addresses we get.
    Pull,
    /// Which the peer gets.
    Push,
}

/// A transaction of the peer's that is over.
struct Answered {
    id: u32,
    digest: [u8; 20],
    answer: Vec<u8>,
}

impl Transactions {
    /// When ours is repeated.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.asked.as_ref().and_then(|asked| asked.last.at)
    }

    /// Repeats ours if that is due; whether it stays without an answer.
    pub(crate) fn repeat(&mut self, ctx: &mut Ctx<'_>, path: Path) -> bool {
        let asked = self.asked.as_mut();
        asked.is_some_and(|asked| repeat(ctx, path, &mut asked.last))
    }
}

/// Whether a connection's peer gets addresses without asking.
fn pushes(connection: &Connection) -> bool {
    connection.ikev1.push && !connection.pools.is_empty()
}

impl Isakmp {
    /// The peer's user, once it has proved itself.
    pub(crate) fn user(&self) -> Option<&str> {
        self.transactions.user.as_deref()
    }

    /// Whose addresses the peer's are.
    fn owner(&self) -> String {
        let user = self.user().map(str::to_owned);
        user.unwrap_or_else(|| self.remote_id.to_string())
    }

    /// Does what comes next between phase 1 and quick modes.
    pub(crate) fn transact(&mut self, ctx: &mut Ctx<'_>) {
        if self.state != State::Transacting {
            return;
        }
        let connection = self.connection.clone();
        if !self.transactions.is_user_proved {
            match &connection.ikev1.xauth {
                None => self.transactions.is_user_proved = true,
                Some(Xauth::Server(_)) => return self.ask_user(ctx),
                // The peer asks.
                Some(Xauth::Client(_)) => return,
            }
        }
        if !self.transactions.is_configured {
            let takes = !connection.vips.is_empty();
            match (takes, connection.ikev1.push) {
                (true, false) => return self.pull(ctx),
                (true, true) => return,
                (false, _) if pushes(&connection) => return self.push(ctx),
                // One that pulls does so when it likes.
                (false, _) => self.transactions.is_configured = true,
            }
        }
        self.come_up(ctx);
    }

    /// A transaction ends the SA.
    fn transaction_failed(&mut self, ctx: &mut Ctx<'_>, reason: &str) {
        let connection = &self.connection.name;
        tracing::warn!(connection, peer = %self.remote_id, reason, "transaction fails");
        self.delete(ctx, reason);
    }

    /// Begins a transaction.
    fn begin_transaction(&mut self, ctx: &mut Ctx<'_>, what: What, kind: Kind, rest: &[u8]) {
        let identifier = ctx.random_u32() as u16;
        let mut body = crate::wire::transaction::begin(kind, identifier);
        body.extend(rest);
        let id = loop {
            let id = ctx.random_u32();
            if id != 0 && !self.seen.contains(&id) && !self.exchanges.contains_key(&id) {
                break id;
            }
        };
        let first = self
            .keys
            .as_ref()
            .and_then(|keys| keys.first_iv(ctx.crypto, id).ok());
        let Some((message, iv)) = first.and_then(|iv| self.sealed(ctx, id, iv, &body)) else {
            return self.transaction_failed(ctx, "cryptographic operation failed");
        };
        self.transactions.asked = Some(Asked {
            id,
            iv,
            what,
            last: Last {
                received: None,
                sent: Some(message.clone()),
                at: Some(ctx.now + ctx.config.retransmit_timeout),
                tries: 0,
            },
        });
        self.last_sent = ctx.now;
        ctx.transmit(self.path, message);
    }

    /// An attributes payload as a message, and the IV behind it.
    fn sealed(
        &self,
        ctx: &Ctx<'_>,
        id: u32,
        mut iv: Vec<u8>,
        body: &[u8],
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut chain = Chain::default();
        chain.push(payload::ATTRIBUTES, body);
        let header = self.header(exchange::TRANSACTION, id);
        let keys = self.keys.as_ref()?;
        let sealed = keys.seal_hashed(ctx.crypto, &mut iv, header, &[], &chain);
        Some((sealed.ok()?, iv))
    }

    /// Takes in a message of a transaction.
    pub(crate) fn handle_transaction(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        let id = header.message_id.get();
        let digest = ctx.crypto.sha1(&[message]);
        let known = self.transactions.answered.iter();
        let mut known = known
            .filter(|answered| answered.id == id && answered.digest == digest)
            .map(|answered| answered.answer.clone());
        if let Some(answer) = known.next() {
            // The peer has not heard our answer.
            ctx.out.retransmits += 1;
            return ctx.transmit(self.path, answer);
        }
        let asked = self.transactions.asked.as_ref();
        let asked = asked.filter(|asked| asked.id == id);
        let is_ours = asked.is_some();
        if id == 0 || !is_ours && (self.seen.contains(&id) || self.exchanges.contains_key(&id)) {
            return;
        }
        let Some(keys) = &self.keys else { return };
        let iv = match asked {
            Some(asked) => Ok(asked.iv.clone()),
            None => keys.first_iv(ctx.crypto, id),
        };
        let opened = iv.and_then(|iv| keys.open(ctx.crypto, &iv, message));
        let Ok((octets, iv)) = opened else {
            ctx.out.malformed += 1;
            return;
        };
        let parts = Payloads::parse(header.next_payload, &octets, true);
        let authentic = parts
            .ok()
            .filter(|parts| self.is_authentic(ctx, id, &[], parts, &octets));
        let attributes = authentic.and_then(|parts| {
            let body = parts.one(payload::ATTRIBUTES, "attributes").ok()?;
            Attributes::parse(body).ok()
        });
        let Some(attributes) = attributes else {
            ctx.out.malformed += 1;
            tracing::info!(
                connection = self.connection.name,
                "transaction is malformed or not authentic: it is passed over"
            );
            return;
        };
        self.heard(ctx, path);
        if is_ours {
            return self.take_answer(ctx, &attributes);
        }
        if attributes.kind == Kind::Request && !self.may_ask(&attributes) {
            // It comes before its time; it will come again.
            return;
        }
        self.note_seen(ctx, id);
        let (kind, rest, then) = match attributes.kind {
            Kind::Request => self.requested(ctx, &attributes),
            Kind::Set => self.set(ctx, &attributes),
            Kind::Reply | Kind::Ack => return,
        };
        let mut body = crate::wire::transaction::begin(kind, attributes.identifier);
        body.extend(&rest[..]);
        let body = Zeroizing::new(body);
        if let Some((answer, _)) = self.sealed(ctx, id, iv, &body) {
            self.last_sent = ctx.now;
            ctx.transmit(self.path, answer.clone());
            if self.transactions.answered.len() == MOST_ANSWERS {
                self.transactions.answered.pop_front();
            }
            self.transactions
                .answered
                .push_back(Answered { id, digest, answer });
        }
        match then {
            Ok(()) => self.transact(ctx),
            Err(reason) => self.transaction_failed(ctx, &reason),
        }
    }

    /// The answer to ours.
    fn take_answer(&mut self, ctx: &mut Ctx<'_>, attributes: &Attributes<'_>) {
        let awaited = |asked: &mut Asked| {
            let kind = match asked.what {
                What::User | What::Pull => Kind::Reply,
                What::Verdict { .. } | What::Push => Kind::Ack,
            };
            // The message id ties it to ours; strongSwan does not repeat the identifier.
            kind == attributes.kind
        };
        let Some(asked) = self.transactions.asked.take_if(awaited) else {
            ctx.out.malformed += 1;
            return;
        };
        let done = match asked.what {
            What::User => return self.judge_user(ctx, attributes),
            What::Verdict { user: Some(user) } => {
                self.transactions.user = Some(user);
                self.transactions.is_user_proved = true;
                Ok(())
            }
            What::Verdict { user: None } => Err("the user's name or password is wrong".to_owned()),
            What::Pull => self.take_addresses(ctx, attributes),
            What::Push => {
                self.transactions.is_configured = true;
                Ok(())
            }
        };
        match done {
            Ok(()) => self.transact(ctx),
            Err(reason) => self.transaction_failed(ctx, &reason),
        }
    }

    /// Whether a request comes in its time. One for addresses comes when the peer's user is believed: from
    /// a peer that has heard so, even if we have not heard that it has.
    fn may_ask(&mut self, asked: &Attributes<'_>) -> bool {
        if user::is_about_users(asked) || self.transactions.is_user_proved {
            return true;
        }
        let told = |asked: &mut Asked| matches!(asked.what, What::Verdict { user: Some(_) });
        let Some(told) = self.transactions.asked.take_if(told) else {
            return false;
        };
        if let What::Verdict { user } = told.what {
            self.transactions.user = user;
            self.transactions.is_user_proved = true;
        }
        true
    }

    /// The peer wants to know something: our answer, and what it leads to.
    fn requested(&mut self, ctx: &mut Ctx<'_>, asked: &Attributes<'_>) -> Response {
        if user::is_about_users(asked) {
            return self.tell_user(asked);
        }
        (Kind::Reply, self.reply_config(ctx, asked).into(), Ok(()))
    }

    /// The peer sets something.
    fn set(&mut self, ctx: &mut Ctx<'_>, given: &Attributes<'_>) -> Response {
        if user::is_about_users(given) {
            return self.hear_verdict(given);
        }
        let (rest, then) = self.accept_addresses(ctx, given);
        (Kind::Ack, rest.into(), then)
    }
}

/// Kind and attributes of an answer, and whether the SA goes on.
type Response = (Kind, Zeroizing<Vec<u8>>, Result<(), String>);
