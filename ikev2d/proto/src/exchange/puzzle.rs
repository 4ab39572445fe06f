// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An initiator that is asked for a cookie, and may be set a puzzle with it (RFC 8019 §7.1.2), and
//! another one for IKE_AUTH (§7.2). They are solved elsewhere; nobody has authenticated them, so there is a
//! bound to how hard one may be and how long it may take, and whatever else comes meanwhile is heard.
//! The responder decrypts no first IKE_AUTH request that does not solve what it has set.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::credential::{Job, Work};
use crate::event::JobId;
use crate::exchange::signature::Waiting;
use crate::ike_sa::{Ctx, IkeSa, State, notifies};
use crate::puzzle::Puzzle;
use crate::wire::{Header, Payload, exchange, notify};

/// A puzzle that is being solved.
pub(crate) struct Solving {
    pub(crate) job: JobId,
    until: Instant,
    of: Of,
    solution: Arc<OnceLock<Vec<u8>>>,
    stop: Stop,
}

/// What it is solved for.
enum Of {
    /// A first message with this cookie.
    Cookie(Vec<u8>),
    /// IKE_AUTH.
    Auth,
}

/// Stops the work when nobody waits for it.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The puzzle of a response, if it is one that could be solved.
pub(crate) fn of(parts: &[Payload<'_>]) -> Option<Puzzle> {
    let mut notifies = notifies(parts);
    let set = notifies.find(|notify| notify.kind == notify::PUZZLE)?;
    Puzzle::read(set.data)
}

impl IkeSa {
    /// Begins again with a cookie, once its puzzle is solved. One that is too hard is left, and we may be
    /// let in by luck (§7.1.4).
    pub(crate) fn take_cookie(
        &mut self,
        ctx: &mut Ctx<'_>,
        cookie: Vec<u8>,
        puzzle: Option<Puzzle>,
    ) {
        if self.solving_until().is_some() {
            return;
        }
        // It is sent no more: the answer would be the same.
        self.take_init_request();
        self.solve(ctx, puzzle, cookie.clone(), Of::Cookie(cookie));
    }

    /// Goes on to IKE_AUTH, once the puzzle for that is solved (§7.2.2).
    pub(crate) fn solve_for_auth(&mut self, ctx: &mut Ctx<'_>, puzzle: Option<Puzzle>) {
        let string = self.auth_string();
        self.solve(ctx, puzzle, string, Of::Auth);
    }

    /// Has a puzzle solved over a string, and goes on without a solution if it is not to be.
    fn solve(&mut self, ctx: &mut Ctx<'_>, puzzle: Option<Puzzle>, string: Vec<u8>, of: Of) {
        let limits = ctx.config.puzzle_solving;
        // §7.1.1.2: its function is one of those that we have offered.
        let offered = |puzzle: &Puzzle| {
            let mut ours = self.connection.proposals.iter();
            ours.any(|ours| ours.prf.contains(&puzzle.prf))
        };
        let puzzle = puzzle.filter(offered);
        let accepted = puzzle.and_then(|puzzle| puzzle.accepted(&limits));
        let Some(puzzle) = accepted else {
            if let Some(Puzzle { difficulty, .. }) = puzzle {
                let (ike, most) = (self.id.0, limits.difficulty);
                tracing::info!(
                    ike,
                    difficulty,
                    most,
                    "the peer's puzzle is too hard to be solved"
                );
            }
            return self.proceed_with(ctx, of, Vec::new());
        };
        let stop = Stop(Arc::default());
        let solution: Arc<OnceLock<Vec<u8>>> = Arc::default();
        let there = solution.clone();
        let (crypto, stopped) = (ctx.shared_crypto.clone(), stop.0.clone());
        let work: Work = Arc::new(move || {
            if let Some(solved) = puzzle.solve(&*crypto, &string, &stopped) {
                let _ = there.set(solved);
            }
        });
        let job = ctx.job(Job::puzzle(work));
        let (ike, bits) = (self.id.0, puzzle.difficulty);
        tracing::debug!(ike, bits, "the peer sets a puzzle");
        self.waiting = Some(Box::new(Waiting::Puzzle(Solving {
            job,
            until: ctx.now + limits.time,
            of,
            solution,
            stop,
        })));
    }

    /// When a puzzle is given up that is being solved.
    pub(crate) fn solving_until(&self) -> Option<Instant> {
        match self.waiting.as_deref() {
            Some(Waiting::Puzzle(solving)) => Some(solving.until),
            _ => None,
        }
    }

    pub(crate) fn stop_solving(&mut self) {
        if self.solving_until().is_some() {
            self.waiting = None;
        }
    }

    pub(crate) fn puzzle_solved(&mut self, ctx: &mut Ctx<'_>, solving: Solving) {
        let Solving {
            of, solution, stop, ..
        } = solving;
        drop(stop);
        let solution = solution.get().cloned().unwrap_or_default();
        self.proceed_with(ctx, of, solution);
    }

    /// It has taken too long.
    pub(crate) fn begin_unsolved(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(Waiting::Puzzle(solving)) = self.waiting.take().map(|waiting| *waiting) {
            tracing::info!(
                ike = self.id.0,
                "the peer's puzzle takes too long to be solved"
            );
            self.proceed_with(ctx, solving.of, Vec::new());
        }
    }

    fn proceed_with(&mut self, ctx: &mut Ctx<'_>, of: Of, solution: Vec<u8>) {
        self.init.solution = solution;
        match of {
            Of::Cookie(cookie) => {
                self.init.cookie = cookie;
                self.restart(ctx);
            }
            Of::Auth => self.start_additional(ctx),
        }
    }

    /// What a puzzle for IKE_AUTH is over: Nr and SPIr (§7.2.2).
    fn auth_string(&self) -> Vec<u8> {
        [&self.init.nonce_r[..], &self.spi_r.to_be_bytes()].concat()
    }

    /// The solution in front of a message of ours: of the first IKE_AUTH request, if it was set a puzzle.
    pub(crate) fn front_of(&self, header: &Header) -> &[u8] {
        let asks = self.initiator && self.state == State::Connecting;
        let auth = header.exchange == exchange::IKE_AUTH && self.keys.is_some();
        let before = header.message_id.get().checked_sub(1);
        let first = before.map(|id| id as usize) == Some(self.init.additional_done);
        match asks && auth && first {
            true => &self.init.solution,
            false => &[],
        }
    }

    /// Whether a message may be decrypted: where a puzzle was set, once somebody has solved it (§7.2.3).
    pub(crate) fn lets_in(&mut self, ctx: &mut Ctx<'_>, solution: Option<&[u8]>) -> bool {
        let Some(puzzle) = self.init.auth_puzzle else {
            return true;
        };
        let string = self.auth_string();
        let solves = |solution: &[u8]| puzzle.is_solved_by(ctx.crypto, &string, solution);
        if solution.is_some_and(solves) {
            self.init.auth_puzzle = None;
            return true;
        }
        ctx.out.puzzles_unsolved += 1;
        false
    }
}
