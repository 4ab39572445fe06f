// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What time brings: retransmissions, lifetimes, liveness, keepalives.

use std::time::{Duration, Instant};

use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::event::{ChildId, Transmit, reason};

use crate::isakmp::{Isakmp, Last, Phase, State};
use crate::quick::Stage;
use crate::step::Ctx;

/// How long a user has to prove itself.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// Wait before the next repetition, shortened at random.
fn wait(ctx: &Ctx<'_>, tries: u32) -> Duration {
    let config = ctx.config;
    let wait = config
        .retransmit_timeout
        .mul_f64(config.retransmit_base.powi(tries as i32));
    ctx.jittered(wait, Some(wait.mul_f64(config.retransmit_jitter)))
}

/// Sends a message again, if it is due and there are tries left; whether there are none.
pub(crate) fn repeat(ctx: &mut Ctx<'_>, path: ikev2d_proto::event::Path, last: &mut Last) -> bool {
    if last.at.is_none_or(|at| ctx.now < at) {
        return false;
    }
    if last.tries >= ctx.config.retransmit_tries {
        last.at = None;
        return true;
    }
    last.tries += 1;
    last.at = Some(ctx.now + wait(ctx, last.tries));
    if let Some(sent) = last.sent.clone() {
        ctx.out.retransmits += 1;
        ctx.transmit(path, sent);
    }
    false
}

impl Isakmp {
    fn is_in_use(&self) -> bool {
        self.state == State::Established
    }

    fn liveness_at(&self) -> Option<Instant> {
        let asks = self.is_in_use() && self.peer.dpd && self.dpd.is_none();
        let delay = self.connection.dpd_delay.filter(|_| asks);
        delay.map(|delay| self.last_heard + delay)
    }

    fn keepalive_at(&self, config: &EndpointConfig) -> Option<Instant> {
        let due = self.is_in_use() && self.nat_local;
        due.then(|| self.last_sent + config.nat_keepalive)
    }

    fn half_open_until(&self, config: &EndpointConfig) -> Option<Instant> {
        match self.state {
            State::Connecting if !self.initiator => Some(self.created + config.half_open_timeout),
            // A user may have to look its password up.
            State::Transacting => Some(self.created + USER_TIMEOUT.max(config.half_open_timeout)),
            _ => None,
        }
    }

    /// When something is to be done next.
    pub(crate) fn timeout(&self, config: &EndpointConfig) -> Option<Instant> {
        let children = self
            .children
            .iter()
            .flat_map(|child| {
                let due = child.rekey_at.filter(|_| child.phase == Phase::Installed);
                [due, child.end()]
            })
            .filter(|_| self.is_in_use());
        let exchanges = self.exchanges.values();
        let exchanges = exchanges.flat_map(|e| {
            let used = match e.stage {
                Stage::Sent { until, .. } => Some(until),
                _ => None,
            };
            [e.last.at, Some(e.forget_at), used]
        });
        [
            self.phase1.at,
            self.transactions.due(),
            self.half_open_until(config),
            self.liveness_at(),
            self.dpd.as_ref().and_then(|dpd| dpd.at),
            self.keepalive_at(config),
            self.rekey_at.filter(|_| self.is_in_use()),
            self.expire_at.filter(|_| self.is_up()),
            self.delete_at,
            self.fragments.until(),
        ]
        .into_iter()
        .chain(children)
        .chain(exchanges)
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if due(self.fragments.until()) {
            self.fragments.clear();
        }
        if due(self.half_open_until(ctx.config)) {
            let why = match self.state {
                State::Transacting => "XAUTH or mode config has not ended in time",
                _ => "the peer has not ended phase 1 in time",
            };
            return self.die(ctx, why);
        }
        let unanswered = repeat(ctx, self.path, &mut self.phase1);
        if unanswered && !self.is_proved() {
            return self.die(ctx, reason::NO_ANSWER);
        }
        let mut transactions = std::mem::take(&mut self.transactions);
        let unanswered = transactions.repeat(ctx, self.path);
        self.transactions = transactions;
        if unanswered {
            return self.delete(ctx, reason::NO_ANSWER);
        }
        if due(self.delete_at) && !(self.exchanges.is_empty() && self.elsewhere.is_over()) {
            // What is under way on it, or may have to be repeated, needs its keys.
            self.delete_at = Some(now + crate::quick::OVERLAP);
        }
        if self.is_up() && (due(self.expire_at) || due(self.delete_at)) {
            return self.delete(ctx, "lifetime is over");
        }
        self.repeat_quick(ctx);
        if self.is_in_use() {
            if due(self.dpd.as_ref().and_then(|dpd| dpd.at)) {
                if self
                    .dpd
                    .as_ref()
                    .is_some_and(|dpd| dpd.tries >= ctx.config.retransmit_tries)
                {
                    return self.die(ctx, reason::NO_ANSWER);
                }
                ctx.out.retransmits += 1;
                self.ask_liveness(ctx);
            } else if due(self.liveness_at()) {
                self.ask_liveness(ctx);
            }
            if due(self.rekey_at) {
                self.rekey_at = None;
                ctx.out.renew.push(self.id);
            }
            self.renew_children(ctx);
        }
        if due(self.keepalive_at(ctx.config)) {
            self.last_sent = now;
            ctx.out.transmits.push_back(Transmit {
                path: self.path,
                payload: vec![0xff],
                keepalive: true,
            });
        }
    }

    fn repeat_quick(&mut self, ctx: &mut Ctx<'_>) {
        let mut unanswered = Vec::new();
        for (id, exchange) in &mut self.exchanges {
            if repeat(ctx, self.path, &mut exchange.last) {
                unanswered.push(*id);
            }
        }
        for id in unanswered {
            let Some(exchange) = self.exchanges.get_mut(&id) else {
                continue;
            };
            match std::mem::replace(&mut exchange.stage, Stage::Done) {
                Stage::Asked(asked) => {
                    self.quick_failed(ctx, &asked.name, asked.rekeys, reason::NO_ANSWER);
                }
                Stage::Answered { child, .. } => ctx.out.abandoned.push(child),
                Stage::Sent { child, .. } => ctx.out.up.push(child),
                _ => {}
            }
        }
        let now = ctx.now;
        let over = self.exchanges.iter().filter_map(|(id, exchange)| {
            let over = matches!(exchange.stage, Stage::Sent { until, .. } if now >= until);
            over.then_some(*id)
        });
        for id in over.collect::<Vec<u32>>() {
            self.use_child(ctx, id);
        }
        self.exchanges.retain(|_, exchange| {
            let waits = !matches!(exchange.stage, Stage::Done);
            if !waits && now < exchange.forget_at {
                return true;
            }
            if waits {
                exchange.forget_at = now + crate::quick::OVERLAP;
            }
            waits
        });
    }

    fn renew_children(&mut self, ctx: &mut Ctx<'_>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| ctx.now >= at);
        let expired = self.children.iter().filter(|child| due(child.end()));
        let expired: Vec<(ChildId, Phase)> = expired.map(|c| (c.sa.id, c.phase)).collect();
        let rekeyed = self.children.iter().filter(|child| due(child.rekey_at));
        let rekeyed: Vec<ChildId> = rekeyed.map(|c| c.sa.id).collect();
        for (id, phase) in expired {
            self.use_heirs(ctx, id, false);
            let why = match phase {
                Phase::Replaced => "it is replaced",
                _ => reason::EXPIRED,
            };
            self.delete_child(ctx, id, why);
        }
        for id in rekeyed {
            self.rekey_child(ctx, id);
        }
    }
}
