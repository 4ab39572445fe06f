// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several IKE SAs between the same two identities (RFC 7296 §2.4).

use std::time::Duration;

use super::table::Table;
use crate::config::Unique;
use crate::crypto::Crypto;
use crate::event::IkeId;
use crate::ike_sa::{Ctx, Handover, IkeSa, Standing, State, Task};
use crate::moment::Moment;

/// How long an IKE SA stays whose peer has set up another one from the same address: it may be
/// reauthenticating, and deletes this one itself when its children are there.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Removes what newly authenticated IKE SAs replace.
pub(super) fn enforce(sas: &mut Table, ctx: &mut Ctx<'_>) {
    for _ in 0..ctx.out.initial_contact.len() {
        if let Some(winner) = ctx.out.initial_contact.pop_front() {
            initial_contact(sas, ctx, winner);
        }
    }
    if let Some(winner) = ctx.out.authenticated.take() {
        replace(sas, ctx, winner);
    }
    for id in std::mem::take(&mut ctx.out.probations) {
        end_probation(sas, ctx, id);
    }
}

/// A connection that allows one IKE SA only: what was there before stays.
fn end_probation(sas: &mut Table, ctx: &mut Ctx<'_>, id: IkeId) {
    let Some(sa) = sas.get(&id) else { return };
    let stays = |other: &IkeSa| {
        other.id != id
            && other.on_probation.is_none()
            && other.counted.is_some()
            && other.standing == Standing::Current
            && same_ends(ctx.crypto, sa, other)
    };
    let stays = sas
        .between(ctx.crypto, sa.local_id(), &sa.remote_id)
        .any(stays);
    if let Some(sa) = sas.get_mut(&id).filter(|_| stays) {
        sa.tasks.push_front(Task::DeleteIke {
            reason: "the peer has another one that stays".to_owned(),
        });
        sa.pump(ctx);
    }
}

/// Whether two IKE SAs are between the same two ends. What another connection believes of an identity
/// is no proof of it (RFC 7296 §2.4 speaks of authenticated ones).
fn same_ends(crypto: &dyn Crypto, a: &IkeSa, b: &IkeSa) -> bool {
    a.connection.name == b.connection.name
        && a.local_id().matches_by(crypto, b.local_id())
        && a.remote_id.matches_by(crypto, &b.remote_id)
}

/// A connection that knows one IKE SA only, whatever the peer says.
fn replace(sas: &mut Table, ctx: &mut Ctx<'_>, winner: IkeId) {
    let Some(new) = sas.get(&winner).filter(|sa| sa.state != State::Dead) else {
        return;
    };
    if new.connection.unique != Unique::Replace || ctx.out.initial_contact.contains(&winner) {
        return;
    }
    let address = new.path.remote.ip();
    let others = sas.between(ctx.crypto, new.local_id(), &new.remote_id);
    let others = others
        .filter(|sa| sa.id != winner && sa.counted.is_some() && same_ends(ctx.crypto, new, sa));
    let others: Vec<IkeId> = others.map(|sa| sa.id).collect();
    for id in others {
        let Some(sa) = sas.get_mut(&id) else { continue };
        if sa.path.remote.ip() != address || sa.standing != Standing::Current {
            sa.die(ctx, "the peer has set up another one");
        } else {
            let end = Moment::from(ctx.now + GRACE);
            sa.expire_at = Some(sa.expire_at.map_or(end, |at| at.min(end)));
            sa.rekey_at = None;
        }
    }
}

/// An IKE SA has replaced its endpoint's other ones with the same peer (RFC 7296 §2.4). They go when
/// its first child carries the traffic, so that none is lost where the peer has not lost theirs.
fn initial_contact(sas: &mut Table, ctx: &mut Ctx<'_>, winner: IkeId) {
    let Some(sa) = sas.get(&winner) else { return };
    let waits = sa.pending.is_some() || !sa.awaiting_peer().is_empty();
    // A later one has the last word.
    let later = |id: &IkeId| {
        sas.get(id)
            .is_some_and(|later| same_ends(ctx.crypto, sa, later))
    };
    if ctx.out.initial_contact.iter().any(later) {
        return;
    }
    let others = sas.between(ctx.crypto, sa.local_id(), &sa.remote_id);
    let others = others.filter(|other| {
        // What rekeyings have left or made is the winner's own, maybe; it has no children, and an end.
        let current = other.standing == Standing::Current;
        let live = other.id != winner && current && other.established.is_some();
        live && same_ends(ctx.crypto, sa, other)
    });
    let others: Vec<IkeId> = others.map(|other| other.id).collect();
    let mut succeeds = false;
    for id in others {
        let Some(other) = sas.get_mut(&id) else {
            continue;
        };
        if waits {
            succeeds |= !other.children.is_empty();
            if other.succeeds {
                // Its peer is dead again, and what carries the traffic is older still.
                for child in &mut other.children {
                    child.awaits_peer = false;
                    child.release_at = None;
                }
            }
        } else {
            other.die(ctx, "the peer made initial contact");
        }
    }
    if let Some(sa) = sas.get_mut(&winner) {
        sa.succeeds = succeeds;
    }
    if waits {
        ctx.out.initial_contact.push_back(winner);
    }
}

/// An IKE SA that has made initial contact was rekeyed before it has replaced the others: they are its
/// heir's to replace.
pub(super) fn follow(ctx: &mut Ctx<'_>, handover: &Handover) {
    for winner in &mut ctx.out.initial_contact {
        if *winner == handover.old {
            *winner = handover.new;
        }
    }
}
