// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an IKE SA still has to do, and the requests that this makes.

use std::time::Instant;

use super::{Ctx, IkeSa, State};
use crate::algorithm::Group;
use crate::config::ChildConfig;
use crate::crypto::KeyExchange;
use crate::event::ChildId;
use crate::wire::{Chain, exchange};

/// What a request of ours asked for.
pub(crate) enum Request {
    Init,
    Auth,
    CreateChild(Box<ChildRequest>),
    RekeyIke(Box<RekeyRequest>),
    DeleteIke { reason: String },
    DeleteChild(ChildId),
    Liveness,
}

pub(crate) struct ChildRequest {
    pub(crate) config: ChildConfig,
    pub(crate) spi_in: u32,
    pub(crate) nonce: Vec<u8>,
    pub(crate) exchange: Option<(Group, Box<dyn KeyExchange>)>,
    pub(crate) rekeys: Option<ChildId>,
}

pub(crate) struct RekeyRequest {
    pub(crate) spi: u64,
    pub(crate) nonce: Vec<u8>,
    pub(crate) group: Group,
    pub(crate) exchange: Box<dyn KeyExchange>,
}

/// What to do when the window is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Child {
        name: String,
        rekeys: Option<ChildId>,
        group: Option<Group>,
        not_before: Option<Instant>,
    },
    RekeyIke {
        group: Option<Group>,
        not_before: Option<Instant>,
    },
    DeleteIke {
        reason: String,
    },
    DeleteChild(ChildId),
    Liveness,
}

impl IkeSa {
    /// Starts the next task when the window is free.
    pub(crate) fn pump(&mut self, ctx: &mut Ctx<'_>) {
        while self.outstanding.is_none()
            && matches!(self.state, State::Established | State::Deleting)
        {
            let now = ctx.now;
            let ready = |task: &Task| match task {
                Task::Child { not_before, .. } | Task::RekeyIke { not_before, .. } => {
                    not_before.is_none_or(|at| at <= now)
                }
                _ => true,
            };
            let Some(at) = self.tasks.iter().position(ready) else {
                return;
            };
            let Some(task) = self.tasks.remove(at) else {
                return;
            };
            let started = match task {
                Task::Child {
                    name,
                    rekeys,
                    group,
                    ..
                } => self.start_child(ctx, &name, rekeys, group),
                Task::RekeyIke { group, .. } => self.start_rekey(ctx, group),
                Task::DeleteIke { reason } => self.start_delete(ctx, reason),
                Task::DeleteChild(child) => self.start_delete_child(ctx, child),
                Task::Liveness => {
                    let chain = Chain::default();
                    self.request(ctx, exchange::INFORMATIONAL, &chain, Request::Liveness)
                }
            };
            if started.is_err() {
                tracing::error!(ike = self.id.0, "a request could not be made");
            }
        }
    }

    /// Asks for a child's rekeying.
    pub(crate) fn rekey_child(&mut self, id: ChildId) {
        if let Some(child) = self.children.iter_mut().find(|c| c.sa.id == id && !c.busy) {
            child.busy = true;
            let name = child.sa.child.clone();
            let task = Task::Child {
                name,
                rekeys: Some(id),
                group: None,
                not_before: None,
            };
            self.tasks.push_back(task);
        }
    }
}
