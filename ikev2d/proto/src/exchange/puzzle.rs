// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An initiator that is asked for a cookie, and may be set a puzzle with it (RFC 8019 §7.1.2). It is
//! solved elsewhere; nobody has authenticated it, so there is a bound to how hard it may be and how long
//! it may take, and whatever else comes meanwhile is heard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::credential::{Job, Work};
use crate::event::JobId;
use crate::exchange::signature::Waiting;
use crate::ike_sa::{Ctx, IkeSa, notifies};
use crate::puzzle::Puzzle;
use crate::wire::{Payload, notify};

/// A puzzle that is being solved.
pub(crate) struct Solving {
    pub(crate) job: JobId,
    until: Instant,
    cookie: Vec<u8>,
    solution: Arc<OnceLock<Vec<u8>>>,
    stop: Stop,
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
        let limits = ctx.config.puzzle_solving;
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
            return self.begin_with(ctx, cookie, Vec::new());
        };
        // It is sent no more: the answer would be the same.
        self.take_init_request();
        let stop = Stop(Arc::default());
        let solution: Arc<OnceLock<Vec<u8>>> = Arc::default();
        let (there, string) = (solution.clone(), cookie.clone());
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
            cookie,
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
            cookie,
            solution,
            stop,
            ..
        } = solving;
        drop(stop);
        let solution = solution.get().cloned().unwrap_or_default();
        self.begin_with(ctx, cookie, solution);
    }

    /// It has taken too long.
    pub(crate) fn begin_unsolved(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(Waiting::Puzzle(solving)) = self.waiting.take().map(|waiting| *waiting) {
            tracing::info!(
                ike = self.id.0,
                "the peer's puzzle takes too long to be solved"
            );
            self.begin_with(ctx, solving.cookie, Vec::new());
        }
    }

    fn begin_with(&mut self, ctx: &mut Ctx<'_>, cookie: Vec<u8>, solution: Vec<u8>) {
        self.init.cookie = cookie;
        self.init.solution = solution;
        self.restart(ctx);
    }
}
