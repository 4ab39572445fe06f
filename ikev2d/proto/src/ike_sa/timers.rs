// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What time brings: retransmissions, lifetimes, liveness, keepalives.

use std::time::{Duration, Instant};

use super::window::Outstanding;
use super::{Ctx, IkeSa, Phase, Request, Standing, State, Task};
use crate::config::{EndpointConfig, Tcp};
use crate::event::Transmit;
use crate::moment::Moment;

/// Retransmissions of a first message that somebody has refused: it may have been a forger (RFC 7296
/// §2.21.1), and then the peer answers one of them.
const REFUSED_TRIES: u32 = 1;
/// Retransmissions by UDP before TCP is tried (RFC 9329 §6.1).
const FALLBACK_TRIES: u32 = 2;

impl IkeSa {
    pub(crate) fn arm_rekey(&mut self, ctx: &Ctx<'_>) {
        let Some(time) = self.connection.rekey_time else {
            return;
        };
        let spread = self.connection.rand_time;
        self.rekey_at = Some((ctx.now + jittered(ctx, time, spread)).into());
        self.expire_at = Some((ctx.now + time + self.connection.over_time).into());
    }

    pub(crate) fn arm_reauth(&mut self, ctx: &Ctx<'_>) {
        let over_time = self.connection.over_time;
        let fresh = self.connection.reauth_time;
        let fresh = fresh.map(|time| ctx.now + time + over_time);
        // Who comes back with a ticket is as authenticated as before, and no longer.
        let session = self.resumed_session();
        let rekeyings = session.map_or(0, |session| session.rekeyings);
        let before = session.and_then(|session| session.authenticated_until);
        if rekeyings != 0 {
            self.reauth.rekeyings = rekeyings;
        }
        let last = fresh.into_iter().chain(before).min();
        if let Some(last) = last {
            let spread = self.connection.rand_time;
            let left = last.saturating_duration_since(ctx.now + over_time);
            self.reauth.at = Some(ctx.now + jittered(ctx, left, spread));
            self.reauth.expire_at = Some(last);
            let last = Moment::from(last);
            self.expire_at = Some(self.expire_at.map_or(last, |at| at.min(last)));
        }
    }

    /// Whether a NAT may forget us; it keeps TCP connections by itself (RFC 9329 §6.8).
    fn wants_keepalives(&self) -> bool {
        self.nat_local && self.path.stream.is_none()
    }

    /// Whether it does what is due to an IKE SA in use.
    fn is_in_use(&self) -> bool {
        self.state == State::Established && self.standing == Standing::Current
    }

    /// When the peer is to be asked whether it lives, if nothing else is asked of it.
    fn liveness_at(&self) -> Option<Instant> {
        let free = self.outstanding.is_none() && !self.is_asking();
        let idle = self.is_in_use() && free && self.tasks.is_empty();
        let delay = self.connection.dpd_delay.filter(|_| idle);
        delay.map(|delay| self.last_heard + delay)
    }

    /// When something is to be done next.
    pub(crate) fn timeout(&self, config: &EndpointConfig) -> Option<Instant> {
        let half_open = (self.state == State::Connecting && !self.initiator)
            .then(|| self.created + config.half_open_timeout);
        let established = self.is_in_use();
        let keepalive =
            (established && self.wants_keepalives()).then(|| self.last_sent + config.nat_keepalive);
        let tasks = self.tasks.iter().filter_map(|task| match task {
            Task::Part(part) => part.not_before,
            Task::Child { not_before, .. }
            | Task::Sibling { not_before, .. }
            | Task::RekeyIke { not_before, .. } => *not_before,
            _ => None,
        });
        // As `pump` has it.
        let startable = established
            && self.outstanding.is_none()
            && !self.is_asking()
            && self.pending.is_none()
            && self.awaited.is_none()
            && !self.prepares_task();
        let tasks = tasks.min().filter(|_| startable);
        let children = self.children.iter().filter(|_| established);
        let children = children.flat_map(|child| {
            let times = [
                child.rekey_at.filter(|_| child.phase == Phase::Installed),
                child.forget_at,
                child.release_at.filter(|_| child.awaits_peer),
            ];
            times.map(|at| at.map(Instant::from))
        });
        let own = [
            self.rekey_at.filter(|_| established),
            self.expire_at.filter(|_| established),
            self.on_probation.filter(|_| established),
            self.forget_at,
        ];
        let own = own.into_iter().flatten().min().map(Instant::from);
        let answerless = self.outstanding.as_ref().filter(|_| !self.holds_response());
        [
            answerless.map(|outstanding| outstanding.at),
            half_open,
            self.liveness_at(),
            keepalive,
            tasks,
            own,
            self.reauth.at.filter(|_| established),
            self.reassembly.expires(),
            self.awaited.as_ref().map(|awaited| awaited.until),
            self.solving_until(),
            self.sync_due(),
        ]
        .into_iter()
        .chain(children)
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        if self.forget_at.is_some_and(|at| now >= at) {
            return self.die(ctx, "the peer has not deleted it");
        }
        if self.state == State::Connecting
            && !self.initiator
            && now >= self.created + ctx.config.half_open_timeout
        {
            return self.die(ctx, "the peer did not authenticate in time");
        }
        if self.expire_at.is_some_and(|at| now >= at) && self.state == State::Established {
            self.expire_at = None;
            self.tasks.push_front(Task::DeleteIke {
                reason: "lifetime is over".to_owned(),
            });
        }
        let held = self.holds_response();
        let due = |outstanding: &Outstanding| !held && now >= outstanding.at;
        if self.outstanding.as_deref().is_some_and(due) && (self.fall_back(ctx) || self.search(ctx))
        {
            return self.pump(ctx);
        }
        if let Some(outstanding) = self.outstanding.as_deref().filter(|o| due(o)) {
            let refusal = self.init.refusal.as_deref();
            let refusal = refusal.filter(|_| self.keys.is_none());
            let tries = ctx.config.retransmit_tries;
            if outstanding.tries >= refusal.map_or(tries, |_| tries.min(REFUSED_TRIES)) {
                let reason = refusal.map(str::to_owned);
                let reason = reason.as_deref();
                return self.die(ctx, reason.unwrap_or(crate::event::reason::NO_ANSWER));
            }
            self.retransmit(ctx);
        }
        if self.sync_due().is_some_and(|at| now >= at) && !self.ask_again(ctx) {
            return;
        }
        if self.reassembly.expires().is_some_and(|at| now >= at) {
            self.forget_fragments(&mut ctx.out.held);
        }
        self.awaited.take_if(|awaited| now >= awaited.until);
        if self.solving_until().is_some_and(|until| now >= until) {
            self.begin_unsolved(ctx);
        }
        if self.is_in_use() {
            if self.on_probation.is_some_and(|at| now >= at) {
                self.on_probation = None;
                ctx.out.probations.push(self.id);
            }
            if self.rekey_at.is_some_and(|at| now >= at) {
                self.rekey_at = None;
                self.renew(ctx);
            }
            if self.reauth.at.is_some_and(|at| now >= at) {
                self.reauthenticate(ctx);
            }
            self.release(ctx, |child| child.release_at.is_some_and(|at| now >= at));
            for at in 0..self.children.len() {
                let Some(child) = self.children.get_mut(at) else {
                    break;
                };
                let id = child.sa.id;
                if child.forget_at.is_some_and(|at| now >= at) {
                    self.delete_child(id);
                } else if child.rekey_at.is_some_and(|at| now >= at) {
                    child.rekey_at = None;
                    self.rekey_child(id);
                }
            }
            if self.liveness_at().is_some_and(|at| now >= at) {
                self.tasks.push_back(Task::Liveness);
            }
            if self.wants_keepalives() && now >= self.last_sent + ctx.config.nat_keepalive {
                self.last_sent = now.into();
                let path = self.path;
                let payload = vec![0xff];
                ctx.out.transmits.push_back(Transmit {
                    path,
                    payload,
                    keepalive: true,
                });
            }
        }
        self.pump(ctx);
    }
}

/// Whether a request by UDP has waited long enough for TCP to be tried: the first one of all, or one
/// that follows a change of the network (RFC 9329 §6.1, §8.4).
pub(super) fn falls_back(sa: &IkeSa, config: &EndpointConfig) -> bool {
    let tries = FALLBACK_TRIES.min(config.retransmit_tries);
    let waited = |outstanding: &Outstanding| {
        let moving = sa.mobike
            && (matches!(outstanding.request, Request::Move) || sa.tasks.contains(&Task::Move));
        let first = matches!(outstanding.request, Request::Init) && sa.keys.is_none();
        outstanding.tries >= tries && (first || moving)
    };
    sa.moves
        && sa.connection.tcp == Tcp::Fallback
        && sa.path.stream.is_none()
        && sa.outstanding.as_deref().is_some_and(waited)
}

/// A time shortened at random, so that both ends do not act at once (§2.8): by up to a tenth if
/// nothing else is said.
pub(crate) fn jittered(ctx: &Ctx<'_>, time: Duration, spread: Option<Duration>) -> Duration {
    match spread {
        None => ctx.shortened(time, 0.1),
        Some(spread) => {
            let spread = spread.min(time);
            time - ctx.shortened(spread, 1.0)
        }
    }
}
