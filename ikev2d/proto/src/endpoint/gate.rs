// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where floods of first messages end (RFC 7296 §2.6): whoever receives may ask for cookies, or refuse
//! tickets that nobody takes (RFC 5723), before an endpoint sees anything, on any thread and without
//! keeping anything.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use zerocopy::IntoBytes;

use super::cookie::{Cookies, Seen};
use crate::crypto::Crypto;
use crate::exchange::init::NONCE_RANGE;
use crate::puzzle::Puzzle;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, HEADER_LEN, Header, VERSION, WireError, each_payload,
    exchange, notify, payload,
};

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is for the endpoint.
    Passes,
    /// The reply asks for a cookie, or refuses a ticket or a critical payload, and that was all.
    Answered,
    /// It is no first message that anybody could answer, or solves no puzzle.
    Dropped,
}

/// What a cookie and a solution are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// All that was asked for.
    Enough,
    /// Its sender is to be asked.
    Nothing,
    /// Its sender was asked for a solution, and has none, or a wrong one.
    Unsolved,
}

/// What a first message has for the gate.
#[derive(Clone, Copy, Default)]
pub(super) struct Shown<'m> {
    pub(super) cookie: Option<&'m [u8]>,
    pub(super) solution: Option<&'m [u8]>,
    /// Body of its SA payload; a ticket has none.
    pub(super) offer: Option<&'m [u8]>,
}

/// An endpoint's gate. Threads that receive share it.
pub struct Gate {
    crypto: Arc<dyn Crypto>,
    /// Everybody is asked for a cookie.
    closed: AtomicBool,
    /// Some connection takes tickets.
    resumes: AtomicBool,
    cookies: RwLock<Cookies>,
    /// Zero bits of the puzzles that are set; 0 for none.
    difficulty: AtomicU8,
    /// One in so many gets in without a solution.
    legacy: u16,
    asked: AtomicU64,
    puzzles: AtomicU64,
    unsolved: AtomicU64,
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
    pub(super) fn new(crypto: Arc<dyn Crypto>, legacy: u16) -> Self {
        Self {
            cookies: RwLock::new(Cookies::new(&*crypto)),
            closed: AtomicBool::new(false),
            resumes: AtomicBool::new(false),
            difficulty: AtomicU8::new(0),
            legacy,
            asked: AtomicU64::new(0),
            puzzles: AtomicU64::new(0),
            unsolved: AtomicU64::new(0),
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
        let (nonce, shown) = match nonce_and_shown(&header, message) {
            Ok(all) => all,
            Err(error) => {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                let WireError::Critical { kind } = error else {
                    return Verdict::Dropped;
                };
                // To say so takes less than to ask for a cookie (§2.5).
                let mut chain = Chain::default();
                chain.notify(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]);
                answer(&header, &chain, reply);
                return Verdict::Answered;
            }
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
        match self.judge(now, &seen, &shown) {
            Worth::Enough => Verdict::Passes,
            Worth::Unsolved => Verdict::Dropped,
            Worth::Nothing => {
                self.ask(now, &header, (&seen, &shown), reply);
                Verdict::Answered
            }
        }
    }

    /// What a first message has: a cookie of ours that is not too old, and a solution where puzzles are
    /// set (RFC 8019 §7.1.4). One that was set before they became harder will do.
    pub(super) fn judge(&self, now: Instant, seen: &Seen<'_>, shown: &Shown<'_>) -> Worth {
        self.rotate(now);
        let cookies = self.cookies.read().unwrap_or_else(PoisonError::into_inner);
        let crypto = &*self.crypto;
        let known = |cookie| Some((cookie, cookies.open(crypto, seen, cookie)?));
        let Some((cookie, puzzle)) = shown.cookie.and_then(known) else {
            return Worth::Nothing;
        };
        let sets = shown.offer.is_some() && self.difficulty.load(Ordering::Relaxed) != 0;
        let worth = match (puzzle, shown.solution) {
            _ if !sets => Worth::Enough,
            (Some(puzzle), Some(solution)) => match puzzle.is_solved_by(crypto, cookie, solution) {
                true => Worth::Enough,
                false => Worth::Unsolved,
            },
            (Some(_), None) => match cookies.draws(crypto, now, cookie, self.legacy) {
                true => Worth::Enough,
                false => Worth::Unsolved,
            },
            // It was asked for a cookie alone, or offers no function that a puzzle could be made with.
            (None, _) => match self.puzzle(shown) {
                Some(_) => Worth::Nothing,
                None => Worth::Enough,
            },
        };
        if worth == Worth::Unsolved {
            self.unsolved.fetch_add(1, Ordering::Relaxed);
        }
        worth
    }

    fn puzzle(&self, shown: &Shown<'_>) -> Option<Puzzle> {
        Puzzle::for_body(self.difficulty.load(Ordering::Relaxed), shown.offer)
    }

    /// The message that asks for a cookie, and sets a puzzle where that is called for.
    pub(super) fn ask(
        &self,
        now: Instant,
        header: &Header,
        (seen, shown): (&Seen<'_>, &Shown<'_>),
        reply: &mut Vec<u8>,
    ) {
        self.rotate(now);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let puzzle = self.puzzle(shown);
        let cookies = self.cookies.read().unwrap_or_else(PoisonError::into_inner);
        let mut chain = Chain::default();
        chain.notify(notify::COOKIE, &cookies.make(&*self.crypto, seen, puzzle));
        if let Some(puzzle) = puzzle {
            self.puzzles.fetch_add(1, Ordering::Relaxed);
            chain.notify(notify::PUZZLE, &puzzle.emit());
        }
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

    /// How hard puzzles are from now on; 0 for none.
    pub(super) fn set_difficulty(&self, difficulty: u8) {
        self.difficulty.store(difficulty, Ordering::Relaxed);
    }

    pub(super) fn sets_puzzles(&self) -> bool {
        self.difficulty.load(Ordering::Relaxed) != 0
    }

    /// Puzzles that were set, and messages that came without their solution.
    pub(super) fn puzzles(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.puzzles), read(&self.unsolved))
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

/// What a first message must repeat, and what it was told to; an error if it could not be answered with
/// anything else.
fn nonce_and_shown<'m>(
    header: &Header,
    message: &'m [u8],
) -> Result<(&'m [u8], Shown<'m>), WireError> {
    let mut shown = Shown::default();
    let (mut nonce, mut exchanges, mut ticket) = (None, false, false);
    let octets = message.get(HEADER_LEN..).ok_or(WireError::Length)?;
    each_payload(header.next_payload, octets, |part| match part.kind {
        payload::NONCE => nonce = nonce.or(Some(part.body)),
        payload::SA => shown.offer = shown.offer.or(Some(part.body)),
        payload::KE => exchanges = true,
        payload::PUZZLE_SOLUTION => shown.solution = shown.solution.or(Some(part.body)),
        payload::NOTIFY => match notify::Notify::parse(part.body) {
            Ok(notify) if notify.kind == notify::COOKIE => {
                shown.cookie = shown.cookie.or(Some(notify.data));
            }
            Ok(notify) if notify.kind == notify::TICKET_OPAQUE => ticket = true,
            _ => {}
        },
        _ => {}
    })?;
    let resumes = resumes_first(header);
    let whole = match resumes {
        true => ticket,
        false => shown.offer.is_some() && exchanges,
    };
    shown.offer = shown.offer.filter(|_| !resumes);
    let nonce = nonce.filter(|nonce| NONCE_RANGE.contains(&nonce.len()) && whole);
    let missing = WireError::Malformed {
        what: "first message",
    };
    Ok((nonce.ok_or(missing)?, shown))
}
