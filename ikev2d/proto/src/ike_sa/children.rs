// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The child SAs of an IKE SA: their phases, their installation, what takes over from what.

use std::sync::Arc;
use std::time::Duration;

use super::{Ctx, FORGET, IkeSa, OVERLAP, Outputs, OwnSpi, Request, SUCCESSION, Task};
use crate::config::Identity;
use crate::event::{ChildId, ChildSa, Event, InstallId};
use crate::exchange::child::Asked;
use crate::exchange::resource::PEERS_TURN;
use crate::moment::Moment;
use crate::wire::Chain;

/// Where a child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In use.
    Installed,
    /// Our rekeying of it is under way.
    Rekeying,
    /// Another one has taken over, or it is one too many: the peer deletes it.
    Replaced,
    /// Our deletion of it is under way.
    Deleting,
}

/// Before what could not be installed is tried again.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

/// Connection, child and peer.
pub(crate) type ChildRole = (Arc<str>, Arc<str>, Identity);

/// A child SA.
pub(crate) struct Child {
    pub(crate) sa: Arc<ChildSa>,
    pub(crate) installed: Moment,
    pub(crate) rekey_at: Option<Moment>,
    pub(crate) phase: Phase,
    /// The peer may not have it yet: what is sent still goes through its predecessor.
    pub(crate) awaits_peer: bool,
    /// Its hard lifetime is over.
    pub(crate) expired: bool,
    /// The peer would allow the rest of what we asked for in further ones (§2.9).
    pub(crate) more_possible: bool,
    /// It is for what the peer has narrowed another one by.
    pub(crate) part: bool,
    /// Another member of our cluster has made it (RFC 6311): nothing passes it here. How often the peer could
    /// not rekey it for now.
    pub(crate) taken_up: Option<u8>,
    /// When it is no longer waited for.
    pub(crate) release_at: Option<Moment>,
    /// Whether it was told of.
    pub(crate) announced: bool,
    /// When we delete it ourselves, although that is the peer's to do.
    pub(crate) forget_at: Option<Moment>,
    /// The installation that is awaited.
    pub(crate) install: Option<InstallId>,
    /// It is that of the outbound SA.
    pub(crate) outbound: bool,
    /// What follows its installation, if we asked for it.
    pub(crate) after: Option<Box<After>>,
    /// Its SPI is its own as long as it is there.
    pub(crate) _spi: OwnSpi,
}

/// What follows the installation of a child that we asked for.
#[derive(Clone, Copy)]
pub(crate) struct After {
    /// The child that it replaces.
    pub(crate) rekeys: Option<ChildId>,
    /// The peer's child that stays instead, where both have rekeyed at once.
    pub(crate) winner: Option<ChildId>,
    /// The peer's child that goes.
    pub(crate) loser: Option<ChildId>,
    /// It is one more for the same traffic, which nobody has asked for.
    pub(crate) sibling: bool,
}

/// A response that waits for an installation.
pub(crate) struct Pending {
    pub(crate) install: InstallId,
    pub(crate) message_id: u32,
    pub(crate) exchange: u8,
    pub(crate) installed: Chain,
    pub(crate) failed: Chain,
    pub(crate) child: Child,
    pub(crate) rekeys: Option<ChildId>,
}

impl Child {
    /// It is to be sent through from now on.
    pub(crate) fn send(&mut self, out: &mut Outputs) -> Event {
        let install = InstallId(out.id());
        self.install = Some(install);
        self.outbound = true;
        self.awaits_peer = false;
        self.release_at = None;
        let child = self.sa.id;
        Event::InstallOutbound { install, child }
    }
}

impl IkeSa {
    /// What a child is to its peer: another peer's of the same configuration is another one.
    pub(crate) fn role_of(&self, child: &ChildSa) -> ChildRole {
        (
            child.connection.clone(),
            child.child.clone(),
            self.remote_id.clone(),
        )
    }

    pub(crate) fn child(&self, id: ChildId) -> Option<&Child> {
        self.children.iter().find(|child| child.sa.id == id)
    }

    pub(crate) fn child_mut(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.sa.id == id)
    }

    /// Whether a child is there, or waits for its installation.
    pub(crate) fn has_child(&self, id: ChildId) -> bool {
        let pending = self.pending.as_ref();
        self.child(id).is_some() || pending.is_some_and(|pending| pending.child.sa.id == id)
    }

    /// The child that has taken over from another, or will.
    pub(crate) fn successor(&self, id: ChildId) -> Option<ChildId> {
        let mut children = self.children.iter();
        children
            .find(|child| child.sa.replaces == Some(id))
            .map(|child| child.sa.id)
    }

    /// Tells that a child has taken over from another.
    pub(crate) fn take_over(&mut self, ctx: &mut Ctx<'_>, old: ChildId, new: ChildId) {
        let (ike, forget_at) = (self.id, Some((ctx.now + FORGET).into()));
        let told = self.child_mut(old).is_some_and(|child| {
            child.rekey_at = None;
            if child.phase != Phase::Deleting {
                child.phase = Phase::Replaced;
                child.forget_at = forget_at;
            }
            child.announced
        });
        if let Some(child) = self.child_mut(new)
            && !std::mem::replace(&mut child.announced, true)
        {
            ctx.event(if told {
                Event::ChildRekeyed { old, new }
            } else {
                Event::ChildUp { ike, child: new }
            });
        }
    }

    /// A child that a collision has made one too many: its creator, the peer, deletes it (§2.8.1).
    pub(crate) fn make_redundant(&mut self, ctx: &Ctx<'_>, id: ChildId) {
        let forget_at = Some((ctx.now + FORGET).into());
        if let Some(child) = self.child_mut(id) {
            child.phase = Phase::Replaced;
            child.awaits_peer = false;
            child.rekey_at = None;
            child.forget_at = forget_at;
        }
    }

    /// A child is there from now on.
    pub(crate) fn adopt_child(&mut self, ctx: &mut Ctx<'_>, child: Child) {
        ctx.out.add_child(&self.role_of(&child.sa));
        // Mostly there is one for good.
        self.children.reserve_exact(1);
        self.children.push(child);
    }

    /// Whether another IKE SA has a child of the same configuration: the peer reauthenticates, and has
    /// that one until it has this one.
    fn has_elsewhere(&self, ctx: &Ctx<'_>, child: &Child) -> bool {
        let here = self
            .children
            .iter()
            .filter(|c| (&c.sa.connection, &c.sa.child) == (&child.sa.connection, &child.sa.child));
        ctx.out.live_like(&self.role_of(&child.sa)) > here.count()
    }

    /// Asks for a child's deletion.
    pub(crate) fn delete_child(&mut self, id: ChildId) {
        if let Some(child) = self.child_mut(id).filter(|c| c.phase != Phase::Deleting) {
            child.phase = Phase::Deleting;
            child.rekey_at = None;
            child.forget_at = None;
            self.tasks.push_front(Task::DeleteChild(id));
        }
    }

    /// A child that may carry nothing more.
    pub(crate) fn child_expired(&mut self, ctx: &mut Ctx<'_>, id: ChildId) {
        let Some(child) = self.child_mut(id) else {
            return;
        };
        match child.phase {
            Phase::Rekeying => child.expired = true,
            Phase::Installed => {
                child.expired = true;
                self.end_expired(ctx, id);
            }
            Phase::Replaced | Phase::Deleting => {}
        }
    }

    /// Tells of its end at once, and the peer.
    pub(crate) fn end_expired(&mut self, ctx: &mut Ctx<'_>, id: ChildId) {
        let told = self
            .child_mut(id)
            .is_some_and(|child| std::mem::take(&mut child.announced));
        self.delete_child(id);
        if told {
            let reason = crate::event::reason::EXPIRED.to_owned();
            ctx.event(Event::ChildDown { child: id, reason });
        }
    }

    /// Asks for a child's rekeying.
    pub(crate) fn rekey_child(&mut self, id: ChildId) {
        if let Some(child) = self.child_mut(id).filter(|c| c.phase == Phase::Installed) {
            child.phase = Phase::Rekeying;
            let name = child.sa.child.to_string();
            let task = Task::Child {
                name,
                rekeys: Some(id),
                group: None,
                not_before: None,
            };
            self.tasks.push_back(task);
        }
    }

    /// Removes a child; what waited for its end sends from now on.
    pub(crate) fn drop_child(&mut self, ctx: &mut Ctx<'_>, id: ChildId, reason: &str) {
        let Some(at) = self.children.iter().position(|c| c.sa.id == id) else {
            return;
        };
        let gone = self.children.swap_remove(at);
        // What took its place when it was rekeyed mostly stays alone.
        self.children.shrink_to_fit();
        self.release(ctx, |child| child.sa.replaces == Some(id));
        let role = self.role_of(&gone.sa);
        ctx.out.lost_child(&role);
        ctx.out.gone.push(role);
        ctx.event(Event::RetireChild { child: id });
        if gone.announced {
            let reason = reason.to_owned();
            ctx.event(Event::ChildDown { child: id, reason });
        }
        // What it was to replace goes on.
        let Some(old) = gone.sa.replaces else { return };
        let phase = self.child(old).map(|child| child.phase);
        let lived = matches!(gone.phase, Phase::Installed | Phase::Rekeying);
        if phase == Some(Phase::Replaced) && lived
            || phase == Some(Phase::Rekeying) && gone.after.is_some()
        {
            self.go_on_with(ctx, old);
        }
    }

    /// A child stays in use that was to be replaced.
    fn go_on_with(&mut self, ctx: &Ctx<'_>, id: ChildId) {
        let by_time = |this: &Self, child: &Child| {
            let config = this.child_config(&child.sa.child);
            config.is_some_and(|config| config.rekey_time.is_some())
        };
        let rekeyed = self.child(id).is_some_and(|child| by_time(self, child));
        let rekey_at = rekeyed.then(|| (ctx.now + AGAIN + ctx.shortened(AGAIN, 1.0)).into());
        if let Some(child) = self.child_mut(id) {
            child.phase = Phase::Installed;
            child.forget_at = None;
            child.rekey_at = rekey_at;
        }
    }

    /// Sends through those that have waited for the peer.
    pub(crate) fn release(&mut self, ctx: &mut Ctx<'_>, which: impl Fn(&Child) -> bool) {
        for child in self
            .children
            .iter_mut()
            .filter(|c| c.awaits_peer && which(c))
        {
            let event = child.send(&mut *ctx.out);
            ctx.event(event);
        }
    }

    /// Children that wait for a sign that the peer has them.
    pub(crate) fn awaiting_peer(&self) -> Vec<ChildId> {
        let waiting = self.children.iter().filter(|child| child.awaits_peer);
        waiting.map(|child| child.sa.id).collect()
    }

    /// Takes in what was done about an installation.
    pub(crate) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        install: InstallId,
        failure: Option<&str>,
    ) {
        let awaited = |pending: &mut Box<Pending>| pending.install == install;
        if let Some(pending) = self.pending.take_if(awaited) {
            self.answer_pending(ctx, *pending, failure);
        } else if let Some(child) = self
            .children
            .iter_mut()
            .find(|c| c.install == Some(install))
        {
            child.install = None;
            let (id, outbound) = (child.sa.id, std::mem::take(&mut child.outbound));
            let after = match outbound {
                true => child.after.take().map(|after| *after),
                false => child.after.as_deref().copied(),
            };
            match (outbound, failure) {
                (true, Some(reason)) => self.unsent(ctx, id, after, reason),
                (true, None) => self.sent(ctx, id, after),
                (false, _) => self.requested(ctx, id, after, failure),
            }
        }
        self.pump(ctx);
    }

    /// A child that we asked for is there, or can't be: what it was to replace goes only if it is.
    fn requested(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: ChildId,
        after: Option<After>,
        failure: Option<&str>,
    ) {
        let rekeys = after.and_then(|after| after.rekeys);
        let winner = after.and_then(|after| after.winner);
        if let (Some(redundant), None) = (after.and_then(|after| after.loser), winner) {
            self.make_redundant(ctx, redundant);
        }
        if let (Some(old), Some(winner)) = (rekeys, winner) {
            self.take_over(ctx, old, winner);
            return self.delete_child(id);
        }
        if let Some(reason) = failure {
            tracing::warn!(reason, "child SA could not be installed");
            let name = self.child(id).map(|child| child.sa.child.to_string());
            if let Some(child) = self.child_mut(id) {
                child.announced = false;
                child.after = None;
            }
            self.delete_child(id);
            let asked = Asked {
                name: name.unwrap_or_default(),
                rekeys,
                sibling: after.is_some_and(|after| after.sibling),
            };
            return self.child_failed(ctx, &asked, reason.to_owned());
        }
        if let Some(child) = self.child_mut(id) {
            let event = child.send(&mut *ctx.out);
            ctx.event(event);
        }
    }

    /// A child is sent through: if we asked for it, what it replaces goes.
    fn sent(&mut self, ctx: &mut Ctx<'_>, id: ChildId, after: Option<After>) {
        let Some(after) = after else { return };
        match after.rekeys {
            Some(old) => {
                self.take_over(ctx, old, id);
                self.delete_child(old);
            }
            None => {
                let ike = self.id;
                ctx.event(Event::ChildUp { ike, child: id });
                self.ask_for_siblings(id, None);
            }
        }
    }

    /// A child can't be sent through. It goes, since the peer would send through it and hear nothing;
    /// what it was to replace goes on, or where that has gone already, another one is asked for.
    fn unsent(&mut self, ctx: &mut Ctx<'_>, id: ChildId, after: Option<After>, reason: &str) {
        tracing::warn!(reason, "child SA could not be installed");
        let Some(child) = self.child_mut(id) else {
            return;
        };
        let (name, replaces) = (child.sa.child.to_string(), child.sa.replaces);
        let told = std::mem::take(&mut child.announced);
        let again = ctx.now + AGAIN;
        let part = self.task_for_part(id, Some(again));
        self.delete_child(id);
        let reason = reason.to_owned();
        if let Some(after) = after {
            let asked = Asked {
                name,
                rekeys: after.rekeys,
                sibling: after.sibling,
            };
            return self.child_failed(ctx, &asked, reason);
        }
        let stays = replaces.filter(|old| {
            let phase = self.child(*old).map(|child| child.phase);
            phase == Some(Phase::Replaced)
        });
        match stays {
            Some(old) => {
                self.go_on_with(ctx, old);
                let ike = self.id;
                if told {
                    ctx.event(Event::ChildRekeyed { old: id, new: old });
                }
                let child = old;
                ctx.event(Event::RekeyFailed { ike, child, reason });
            }
            None => {
                if told {
                    ctx.event(Event::ChildDown { child: id, reason });
                }
                if replaces.is_some() {
                    self.tasks.push_back(part.unwrap_or(Task::Child {
                        name,
                        rekeys: None,
                        group: None,
                        not_before: Some(again),
                    }));
                }
            }
        }
    }

    fn answer_pending(&mut self, ctx: &mut Ctx<'_>, pending: Pending, failure: Option<&str>) {
        let Pending {
            message_id,
            exchange: kind,
            installed,
            failed,
            mut child,
            rekeys,
            ..
        } = pending;
        let id = child.sa.id;
        if let Some(reason) = failure {
            tracing::warn!(reason, "child SA could not be installed");
            self.respond(ctx, kind, message_id, failed);
            ctx.event(Event::RetireChild { child: id });
            if let Some(Request::CreateChild(mine)) = self.asking_mut() {
                mine.collision.take_if(|theirs| theirs.new == id);
            }
            return;
        }
        self.respond(ctx, kind, message_id, installed);
        child.install = None;
        let ike = self.id;
        match rekeys {
            // The peer sends through the old SA until it has the new one.
            Some(old) => {
                child.awaits_peer = true;
                self.adopt_child(ctx, child);
                // A rekeying of ours that has not begun yet is done by the peer's.
                self.tasks.retain(
                    |task| !matches!(task, Task::Child { rekeys: Some(id), .. } if *id == old),
                );
                let collides = matches!(self.asking(), Some(Request::CreateChild(mine))
                    if mine.collision.as_ref().is_some_and(|theirs| theirs.new == id));
                if !collides {
                    self.take_over(ctx, old, id);
                }
            }
            None => {
                child.announced = true;
                // With reauthentication the peer still has another one, and this one in a moment; so it
                // has after its death, if it can take up what its accelerator carries.
                let wait = match self.succeeds {
                    // Who shows a ticket has given up what it had (RFC 5723 §1).
                    _ if self.resumed_session().is_some() => None,
                    true => Some(SUCCESSION),
                    false => self.has_elsewhere(ctx, &child).then_some(OVERLAP),
                };
                child.awaits_peer = wait.is_some();
                child.release_at = wait.map(|wait| (ctx.now + wait).into());
                let sends = wait.is_none().then(|| child.send(&mut *ctx.out));
                self.adopt_child(ctx, child);
                sends.into_iter().for_each(|event| ctx.event(event));
                ctx.event(Event::ChildUp { ike, child: id });
                // The peer may need fewer than we do: it asks for its own first.
                self.ask_for_siblings(id, Some(ctx.now + PEERS_TURN));
            }
        }
    }
}
