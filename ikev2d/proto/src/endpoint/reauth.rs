// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reauthentication takes two IKE SAs: the one that is there, and the one that replaces it.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::table::Table;
use crate::event::IkeId;
use crate::ike_sa::{Ctx, Handover, IkeSa, State, Task};

/// Begins what is asked for, and ends what is done.
pub(super) fn go_on(sas: &mut Table, ctx: &mut Ctx<'_>) {
    for id in std::mem::take(&mut ctx.out.reauths) {
        begin(sas, ctx, id, None);
    }
    for (id, gateway, asked) in std::mem::take(&mut ctx.out.redirected) {
        begin(sas, ctx, id, Some((gateway, asked)));
    }
    for id in std::mem::take(&mut ctx.out.reauthenticated) {
        ctx.out.reauthentications += 1;
        if let Some(old) = sas.get_mut(&id) {
            old.tasks.clear();
            old.tasks.push_back(Task::DeleteIke {
                reason: "reauthenticated".to_owned(),
            });
            old.pump(ctx);
        }
    }
    for id in std::mem::take(&mut ctx.out.reauth_failed) {
        if let Some(old) = sas.get_mut(&id) {
            old.reauth_failed(ctx);
        }
    }
}

/// What is under way for an IKE SA goes on for the one that has taken over from it.
pub(super) fn follow(sas: &mut Table, ctx: &mut Ctx<'_>, handover: &Handover) {
    let out = &mut *ctx.out;
    let asked = out.reauths.iter_mut();
    let ended = out.reauthenticated.iter_mut().chain(&mut out.reauth_failed);
    for old in asked.chain(ended) {
        if *old == handover.old {
            *old = handover.new;
        }
    }
    for id in sas.replacing() {
        let reauth = sas.get_mut(&id).and_then(|sa| sa.reauth.as_deref_mut());
        let replaced = reauth.and_then(|reauth| reauth.of.as_mut());
        if let Some(old) = replaced.filter(|old| **old == handover.old) {
            *old = handover.new;
        }
    }
}

/// Sets up what is to replace an IKE SA, at another gateway if the peer has named one (RFC 5685).
fn begin(
    sas: &mut Table,
    ctx: &mut Ctx<'_>,
    id: IkeId,
    elsewhere: Option<(IpAddr, VecDeque<Task>)>,
) {
    let Some(old) = sas.get(&id) else {
        return;
    };
    let (gateway, asked) = elsewhere.unzip();
    let mut path = old.path;
    let behind_nat = path.remote.port() != ctx.config.nat_port;
    // A peer that has come by TCP can be reached on its own stream alone.
    let on_its_stream = path.stream.is_some() && !old.moves;
    if !on_its_stream {
        path.local.set_port(ctx.config.ike_port);
    }
    match gateway {
        _ if on_its_stream => {}
        Some(gateway) => path.remote = (gateway, old.connection.remote_port).into(),
        None if old.nat_remote && behind_nat => {}
        None => path.remote.set_port(old.connection.remote_port),
    }
    // The policy as it is today, if the connection is still there.
    let name = &old.connection.name;
    let connection = ctx.connections.iter().find(|c| c.name == *name);
    let connection = connection.unwrap_or(&old.connection).clone();
    let tasks: Vec<Task> = old
        .children
        .iter()
        // Parts are asked for again when the peer narrows again: one stands for all.
        .filter(|child| {
            let mut others = old.children.iter().filter(|c| c.sa.child == child.sa.child);
            !child.part || !others.any(|other| !other.part || other.sa.id.0 < child.sa.id.0)
        })
        .filter(|child| child.sa.replaces.is_none_or(|id| old.child(id).is_none()))
        .filter(|child| {
            connection
                .children
                .iter()
                .any(|c| *c.name == *child.sa.child)
        })
        // Those beside the first for the same traffic follow it.
        .filter(|child| !old.has_elder(child))
        .map(|child| Task::Child {
            name: child.sa.child.to_string(),
            rekeys: None,
            group: None,
            not_before: None,
        })
        .chain(asked.unwrap_or_default())
        .collect();
    let had = old.assigned.own.clone();
    let spi_i = ctx.random_u64();
    let mut new = IkeSa::new(ctx, connection, true, (spi_i, 0), path);
    // Nothing is lost with one that carries nothing.
    let goes = gateway.is_some() && old.children.is_empty();
    new.reauth.of = (!goes).then_some(id);
    new.init.redirected_from = gateway.map(|_| old.path.remote.ip());
    if !had.is_empty() {
        new.assigned.wanted = had;
    }
    new.tasks.extend(tasks);
    let begun = match on_its_stream {
        true => new.start_init(ctx),
        false => new.begin_init(ctx),
    };
    if begun.is_err() {
        ctx.out.reauth_failed.push(id);
        return;
    }
    sas.insert(new);
    if let Some(old) = sas.get_mut(&id).filter(|_| goes) {
        let reason = "redirected".to_owned();
        old.tasks.push_back(Task::DeleteIke { reason });
        old.pump(ctx);
    }
}

/// What waited for a child of another IKE SA to go sends from now on: told before that one's end.
pub(super) fn release(sas: &mut Table, ctx: &mut Ctx<'_>, before: usize) {
    let mut at = before;
    for (connection, child, peer) in std::mem::take(&mut ctx.out.gone) {
        for id in sas.waiting() {
            let Some(sa) = sas
                .get_mut(&id)
                .filter(|sa| sa.state != State::Dead && sa.remote_id == peer)
            else {
                continue;
            };
            let waiting = sa
                .children
                .iter_mut()
                .filter(|c| c.awaits_peer && c.sa.connection == connection && c.sa.child == child);
            // What replaces a child of its own IKE SA waits for that one.
            for released in waiting.filter(|c| c.sa.replaces.is_none()) {
                let event = released.send(&mut *ctx.out);
                let at_most = ctx.out.events.len();
                ctx.out.events.insert(at.min(at_most), event);
                at += 1;
            }
        }
    }
}
