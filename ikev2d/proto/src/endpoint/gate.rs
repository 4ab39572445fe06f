// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where floods of first messages end (RFC 7296 §2.6): whoever receives may ask for cookies, or refuse
//! tickets that nobody takes (RFC 5723), before an endpoint sees anything, on any thread and without
//! keeping anything.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use zerocopy::IntoBytes;

use super::cookie::{Cookies, Seen};
use crate::crypto::Crypto;
use crate::exchange::init::NONCE_RANGE;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, HEADER_LEN, Header, VERSION, each_payload, exchange,
    notify, payload,
};

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is for the endpoint.
    Passes,
    /// The reply asks for a cookie, or refuses a ticket, and that was all.
    Answered,
    /// It is no first message that anybody could answer.
    Dropped,
}

/// An endpoint's gate. Threads that receive share it.
pub struct Gate {
    crypto: Arc<dyn Crypto>,
    /// Everybody is asked for a cookie.
    closed: AtomicBool,
    /// Some connection takes tickets.
    resumes: AtomicBool,
    cookies: RwLock<Cookies>,
    asked: AtomicU64,
    refused_tickets: AtomicU64,
    malformed: AtomicU64,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate {{ closed: {:?} }}", self.closed)
    }
}

/// Whether a message begins an exchange with nobody yet.
pub(super) fn is_first(header: &Header) -> bool {
    begins(header, exchange::IKE_SA_INIT)
}

/// Whether a message asks to go on with a session that nobody goes on with yet (RFC 5723).
pub(super) fn resumes_first(header: &Header) -> bool {
    begins(header, exchange::IKE_SESSION_RESUME)
}

fn begins(header: &Header, exchange: u8) -> bool {
    header.exchange == exchange
        && header.flags & (FLAG_INITIATOR | FLAG_RESPONSE) == FLAG_INITIATOR
        && header.spi_r.get() == 0
        && header.message_id.get() == 0
        && header.spi_i.get() != 0
}

impl Gate {
    pub(super) fn new(crypto: Arc<dyn Crypto>) -> Self {
        Self {
            cookies: RwLock::new(Cookies::new(&*crypto)),
            closed: AtomicBool::new(false),
            resumes: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            refused_tickets: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            crypto,
        }
    }

    /// Looks at a message from somewhere. What is to be sent back is in `reply` afterwards.
    pub fn meet(
        &self,
        now: Instant,
        remote: IpAddr,
        message: &[u8],
        reply: &mut Vec<u8>,
    ) -> Verdict {
        reply.clear();
        let closed = self.closed.load(Ordering::Relaxed);
        let resumes = self.resumes.load(Ordering::Relaxed);
        if !closed && resumes {
            return Verdict::Passes;
        }
        let Ok(header) = Header::parse(message) else {
            // The endpoint knows whom to tell of other versions.
            return Verdict::Passes;
        };
        let nacked = !resumes && resumes_first(&header);
        if !nacked && !(closed && (is_first(&header) || resumes_first(&header))) {
            return Verdict::Passes;
        }
        let Some((nonce, cookie)) = nonce_and_cookie(&header, message) else {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return Verdict::Dropped;
        };
        if nacked {
            // What is refused at once needs no cookie: the reply is shorter than the message.
            self.refused_tickets.fetch_add(1, Ordering::Relaxed);
            let mut chain = Chain::default();
            chain.notify(notify::TICKET_NACK, &[]);
            answer(&header, &chain, reply);
            return Verdict::Answered;
        }
        let seen = Seen::new(nonce, remote, header.spi_i.get());
        if cookie.is_some_and(|cookie| self.knows(now, &seen, cookie)) {
            return Verdict::Passes;
        }
        self.ask(now, &header, &seen, reply);
        Verdict::Answered
    }

    /// Whether a cookie is one of ours, and not too old.
    pub(super) fn knows(&self, now: Instant, seen: &Seen<'_>, cookie: &[u8]) -> bool {
        self.rotate(now);
        let cookies = self.cookies.read().unwrap_or_else(PoisonError::into_inner);
        cookies.are_good(&*self.crypto, seen, cookie)
    }

    /// The message that asks for a cookie.
    pub(super) fn ask(&self, now: Instant, header: &Header, seen: &Seen<'_>, reply: &mut Vec<u8>) {
        self.rotate(now);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let cookies = self.cookies.read().unwrap_or_else(PoisonError::into_inner);
        let mut chain = Chain::default();
        chain.notify(notify::COOKIE, &cookies.make(&*self.crypto, seen));
        answer(header, &chain, reply);
    }

    fn rotate(&self, now: Instant) {
        let due = |cookies: &Cookies| cookies.is_due(now);
        if due(&self.cookies.read().unwrap_or_else(PoisonError::into_inner)) {
            let mut cookies = self.cookies.write().unwrap_or_else(PoisonError::into_inner);
            cookies.rotate(&*self.crypto, now);
        }
    }

    /// Whether everybody is asked for a cookie from now on.
    pub(super) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Whether some connection takes tickets from now on.
    pub(super) fn resume(&self, resumes: bool) {
        self.resumes.store(resumes, Ordering::Relaxed);
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn refused_tickets(&self) -> u64 {
        self.refused_tickets.load(Ordering::Relaxed)
    }

    pub(super) fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }
}

/// Answers a message with these payloads.
fn answer(header: &Header, chain: &Chain, reply: &mut Vec<u8>) {
    let header = Header {
        version: VERSION,
        flags: FLAG_RESPONSE,
        next_payload: chain.first(),
        len: ((HEADER_LEN + chain.octets().len()) as u32).into(),
        ..*header
    };
    reply.extend_from_slice(header.as_bytes());
    reply.extend_from_slice(chain.octets());
}

/// What a first message must repeat, and what it was told to; nothing if it could not be answered anyway.
fn nonce_and_cookie<'m>(
    header: &Header,
    message: &'m [u8],
) -> Option<(&'m [u8], Option<&'m [u8]>)> {
    let (mut nonce, mut cookie) = (None, None);
    let (mut proposes, mut exchanges, mut ticket) = (false, false, false);
    let octets = message.get(HEADER_LEN..)?;
    each_payload(header.next_payload, octets, |part| match part.kind {
        payload::NONCE => nonce = nonce.or(Some(part.body)),
        payload::SA => proposes = true,
        payload::KE => exchanges = true,
        payload::NOTIFY => match notify::Notify::parse(part.body) {
            Ok(notify) if notify.kind == notify::COOKIE => cookie = cookie.or(Some(notify.data)),
            Ok(notify) if notify.kind == notify::TICKET_OPAQUE => ticket = true,
            _ => {}
        },
        _ => {}
    })
    .ok()?;
    let whole = match resumes_first(header) {
        true => ticket,
        false => proposes && exchanges,
    };
    let nonce = nonce.filter(|nonce| NONCE_RANGE.contains(&nonce.len()) && whole)?;
    Some((nonce, cookie))
}
