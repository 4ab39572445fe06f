// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a child SA is sent through: it takes over from those before it, and gives way to them where an engine
//! or the peer does not have it.

use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::event::{ChildId, ChildSa, Event, InstallId};

use super::{AGAIN, OVERLAP};
use crate::isakmp::{Child, Isakmp, Phase};
use crate::step::Ctx;

impl Isakmp {
    /// Both SAs of a child are there: traffic goes through it from now on.
    pub(crate) fn child_is_up(&mut self, ctx: &mut Ctx<'_>, id: ChildId) {
        let Some(new) = self.children.iter().find(|child| child.sa.id == id) else {
            return;
        };
        let (old, rank) = (new.sa.replaces, rank(&new.sa));
        let others = self.children.iter().filter(|other| {
            other.sa.id != id
                && other.is_used()
                && other.phase != Phase::Replaced
                && other.is_like(&new.sa)
        });
        let mut winners = others.filter(|other| {
            Some(other.sa.id) != old && other.sa.replaces == old && rank > self::rank(&other.sa)
        });
        // Both ends have begun at once: both keep the same one of the two. Should the peer have had that one
        // when it answered, it lets it go: so the other one stays a little longer.
        if let Some(winner) = winners.next().map(|winner| winner.sa.id) {
            tracing::debug!(child = id.0, winner = winner.0, "one child SA too many");
            self.replace(ctx, id, winner, 2 * OVERLAP);
            if let Some(loser) = self.child_mut(id) {
                loser.lost_to = Some(winner);
            }
            return;
        }
        let install = InstallId(ctx.id());
        if let Some(new) = self.child_mut(id) {
            new.outbound = Some(install);
        }
        ctx.event(Event::InstallOutbound { install, child: id });
    }

    /// What was done about the installation of an outbound SA.
    pub(super) fn answered_outbound(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: ChildId,
        failure: Option<&str>,
    ) {
        if let Some(reason) = failure {
            return self.not_sent(ctx, id, reason);
        }
        let ike = self.id;
        let Some(new) = self.child_mut(id) else {
            return;
        };
        new.outbound = None;
        if new.announced || new.phase == Phase::Replaced {
            return self.let_go(ctx);
        }
        new.announced = true;
        let Some(new) = self.children.iter().find(|child| child.sa.id == id) else {
            return;
        };
        let others = self.children.iter().filter(|other| {
            other.sa.id != id
                && other.is_used()
                && other.phase != Phase::Replaced
                && other.is_like(&new.sa)
        });
        let others: Vec<ChildId> = others.map(|other| other.sa.id).collect();
        if others.is_empty() {
            ctx.event(Event::ChildUp { ike, child: id });
        }
        for old in others {
            self.replace(ctx, old, id, OVERLAP);
        }
        self.let_go(ctx);
    }

    /// Whether a child SA's heir is about to be sent through: then it goes when that is known, so that the
    /// shell hears of the change and not of an end.
    pub(crate) fn waits_for_heir(&mut self, id: ChildId, why: &'static str) -> bool {
        let mut heirs = self.children.iter();
        let waits = heirs.any(|heir| heir.outbound.is_some() && heir.sa.replaces == Some(id));
        if let Some(child) = self.child_mut(id).filter(|_| waits) {
            child.leaves = Some(why);
            (child.rekey_at, child.until, child.expire_at) = (None, None, None);
        }
        waits
    }

    /// Those that have waited for it go.
    fn let_go(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(at) = self.children.iter().position(|c| c.leaves.is_some()) {
            let child = self.children.remove(at);
            let why = child.leaves.unwrap_or_default();
            self.retired(ctx, child, why);
        }
    }

    /// An engine refuses the outbound SA: what it was to take over from goes on, and the peer, who has the
    /// new one, is told that it is gone.
    fn not_sent(&mut self, ctx: &mut Ctx<'_>, id: ChildId, reason: &str) {
        let Some(gone) = self.remove_child(id) else {
            return;
        };
        tracing::warn!(
            child = &*gone.sa.child,
            reason,
            "nothing can be sent through a child SA"
        );
        self.tell_deleted(ctx, &[(gone.sa.suite, gone.sa.spi_in)]);
        let (ike, again) = (self.id, ctx.now + AGAIN);
        let mut before = self.children.iter_mut().rev();
        let before = before
            .find(|old| old.is_used() && old.phase != Phase::Replaced && old.is_like(&gone.sa));
        if let Some(old) = before {
            (old.phase, old.rekey_at) = (Phase::Installed, Some(again));
            let (child, reason) = (old.sa.id, reason.to_owned());
            ctx.event(Event::RekeyFailed { ike, child, reason });
        } else if gone.asked && !gone.announced {
            ctx.event(Event::InitiateFailed {
                connection: self.connection.name.clone(),
                child: Some(gone.sa.child.to_string()),
                reason: reason.to_owned(),
            });
        }
        self.retired(ctx, gone, reason);
        self.let_go(ctx);
    }

    /// Deletes a child SA for good, with those that it has taken over from: they go first, so that a peer
    /// does not go back to them.
    pub(crate) fn terminate_child(&mut self, ctx: &mut Ctx<'_>, id: ChildId) {
        const WHY: &str = "terminated";
        let Some(child) = self.children.iter().find(|child| child.sa.id == id) else {
            return;
        };
        let replaced = self.children.iter().filter(|old| {
            old.sa.id != id && old.phase == Phase::Replaced && old.is_like(&child.sa)
        });
        let replaced: Vec<ChildId> = replaced.map(|old| old.sa.id).collect();
        for id in replaced {
            self.delete_child(ctx, id, WHY);
        }
        self.delete_child(ctx, id, WHY);
    }

    /// One child SA takes over from another, which goes a moment later.
    fn replace(&mut self, ctx: &mut Ctx<'_>, old: ChildId, new: ChildId, moment: Duration) {
        let end = ctx.now + moment;
        let Some(child) = self.child_mut(old) else {
            return;
        };
        child.phase = Phase::Replaced;
        child.rekey_at = None;
        child.until = Some(end);
        if std::mem::replace(&mut child.announced, false) {
            ctx.event(Event::ChildRekeyed { old, new });
        }
    }

    /// Takes a child SA whose quick mode has ended after another ISAKMP SA, this one, had taken over from its own:
    /// the peer's message 1 was answered where nobody saw what it is to take over from.
    pub(crate) fn adopt(&mut self, mut child: Child) {
        let mut before = self.children.iter().rev();
        let before = before.find(|old| {
            old.phase != Phase::Replaced
                && old.is_used()
                && old.installed < child.installed
                && old.is_like(&child.sa)
        });
        let before = before.map(|old| old.sa.id);
        let sa = Arc::make_mut(&mut child.sa);
        sa.path = self.path;
        sa.replaces = sa.replaces.or(before);
        self.children.push(child);
    }

    /// The peer has let go of a child SA: one that has lost to it is the one that the peer keeps, and so is
    /// one that it was to take over from.
    pub(crate) fn go_back(&mut self, ctx: &mut Ctx<'_>, gone: &mut Child) {
        // The peer tries again first.
        let again = ctx.now + 2 * AGAIN;
        let id = gone.sa.id;
        let is_before =
            |child: &Child| child.lost_to == Some(id) || gone.sa.replaces == Some(child.sa.id);
        let mut before = self.children.iter_mut().rev();
        let Some(kept) = before.find(|child| is_before(child) && child.is_like(&gone.sa)) else {
            return;
        };
        let replaced = kept.phase == Phase::Replaced;
        (kept.phase, kept.lost_to, kept.until) = (Phase::Installed, None, None);
        kept.rekey_at = kept.expire_at.map(|end| end.min(again));
        if !replaced {
            return;
        }
        kept.announced = true;
        let (ike, new) = (self.id, kept.sa.id);
        let install = InstallId(ctx.id());
        kept.outbound = Some(install);
        ctx.event(Event::InstallOutbound {
            install,
            child: new,
        });
        ctx.event(match std::mem::take(&mut gone.announced) {
            true => Event::ChildRekeyed {
                old: gone.sa.id,
                new,
            },
            false => Event::ChildUp { ike, child: new },
        });
    }
}

/// Both ends order child SAs of one pair of selectors alike by it.
fn rank(sa: &ChildSa) -> (u32, u32) {
    (sa.spi_in.min(sa.spi_out), sa.spi_in.max(sa.spi_out))
}
