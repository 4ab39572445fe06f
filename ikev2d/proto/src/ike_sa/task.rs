// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an IKE SA still has to do, and the requests that this makes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{AGAIN, Ctx, IkeSa, OwnSpi, Standing, State};
use crate::algorithm::Group;
use crate::config::ChildConfig;
use crate::crypto::CryptoError;
use crate::errand::OwnExchange;
use crate::event::{ChildId, IkeId};
use crate::exchange::followup::{AwaitedSa, Further};
use crate::ts::TrafficSelector;
use crate::wire::{Chain, exchange};

/// What a request of ours asked for.
pub(crate) enum Request {
    Init,
    /// With an additional key exchange (RFC 9370).
    Intermediate(Arc<OwnExchange>),
    Auth,
    CreateChild(Box<ChildRequest>),
    RekeyIke(Box<RekeyRequest>),
    DeleteIke {
        reason: String,
    },
    DeleteChild(ChildId),
    DeleteUnmade {
        /// Its SPI is taken until the answer comes.
        _unmade: Arc<Unmade>,
    },
    Liveness,
    Move,
    Addresses,
}

pub(crate) struct ChildRequest {
    pub(crate) config: ChildConfig,
    pub(crate) spi_in: OwnSpi,
    pub(crate) nonce: Vec<u8>,
    pub(crate) exchange: Option<Arc<OwnExchange>>,
    pub(crate) rekeys: Option<ChildId>,
    /// It has named one that it was to replace, which may be gone since.
    pub(crate) named: bool,
    /// Which of our resources it is for (RFC 9611).
    pub(crate) resource: Option<u16>,
    /// It is one more for the same traffic, which nobody has asked for.
    pub(crate) sibling: bool,
    /// It is for what the peer has narrowed another one by.
    pub(crate) part: bool,
    /// The additional key exchanges that go on.
    pub(crate) further: Option<Box<Further>>,
    /// The peer's rekeying of the same child, answered meanwhile.
    pub(crate) collision: Option<Collision<ChildId>>,
    /// SPIs of nothing we know that the peer has deleted meanwhile: one may be what it has made of this.
    pub(crate) deleted: Vec<u32>,
}

pub(crate) struct RekeyRequest {
    pub(crate) spi: u64,
    pub(crate) nonce: Vec<u8>,
    pub(crate) exchange: Arc<OwnExchange>,
    /// The additional key exchanges that go on.
    pub(crate) further: Option<Box<Further>>,
    /// The peer's rekeying of the same IKE SA, answered meanwhile.
    pub(crate) collision: Option<Collision<IkeId>>,
}

/// The peer's rekeying of what we are rekeying ourselves.
pub(crate) struct Collision<Id> {
    /// What came out of it.
    pub(crate) new: Id,
    /// The lower of its two nonces.
    pub(crate) lowest: Vec<u8>,
}

impl<Id> Collision<Id> {
    pub(crate) fn new(new: Id, nonces: (&[u8], &[u8])) -> Self {
        let lowest = nonces.0.min(nonces.1).to_vec();
        Self { new, lowest }
    }

    /// Whether our rekeying stays: the one with the lowest of all four nonces goes (§2.8.1).
    pub(crate) fn is_won(&self, ours: (&[u8], &[u8])) -> bool {
        ours.0.min(ours.1) > &self.lowest[..]
    }
}

/// An IKE SA's children and tasks are to go to another.
pub(crate) struct Handover {
    pub(crate) old: IkeId,
    pub(crate) new: IkeId,
    /// Whether the old one's deletion is ours to ask for.
    pub(crate) delete: bool,
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
    /// One more for the traffic of a child that is there (RFC 9611).
    Sibling {
        name: String,
        group: Option<Group>,
        not_before: Option<Instant>,
    },
    /// Ask for what the peer has narrowed a child by (§2.9).
    Part(Box<Part>),
    RekeyIke {
        group: Option<Group>,
        not_before: Option<Instant>,
    },
    DeleteIke {
        reason: String,
    },
    DeleteChild(ChildId),
    DeleteUnmade(Arc<Unmade>),
    Liveness,
    /// Tell the peer that we are elsewhere (RFC 4555 §3.5).
    Move,
    /// Tell the peer where else we are (RFC 4555 §3.6).
    Addresses,
    /// Tell the peer to go elsewhere (RFC 5685 §5).
    Redirect(IpAddr),
}

/// A child SA that the peer has made of an answer that we can make none of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unmade {
    /// What it is named by: nobody else has that until the peer knows it is gone.
    pub(crate) spi: OwnSpi,
    /// Those of our offer: which one the peer has chosen may be what can't be read.
    pub(crate) protocols: Vec<u8>,
}

/// A part of a child's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) child: String,
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
    pub(crate) group: Option<Group>,
    pub(crate) not_before: Option<Instant>,
}

/// A task is not started.
pub(crate) enum NotStarted {
    /// Its key exchange is being made elsewhere.
    Later,
    /// The cryptography refuses.
    Crypto,
}

impl From<CryptoError> for NotStarted {
    fn from(_: CryptoError) -> Self {
        Self::Crypto
    }
}

impl Task {
    /// The same at another time, if it may wait.
    pub(crate) fn later(&self, at: Instant) -> Option<Self> {
        let mut later = self.clone();
        let not_before = match &mut later {
            Self::Child { not_before, .. }
            | Self::Sibling { not_before, .. }
            | Self::RekeyIke { not_before, .. } => not_before,
            Self::Part(part) => &mut part.not_before,
            _ => return None,
        };
        *not_before = Some(at);
        Some(later)
    }
}

impl IkeSa {
    /// Whether a child is being asked for, or is to be; its rekeying is another matter.
    pub(crate) fn asks_for(&self, child: &str) -> bool {
        let is =
            |task: &Task| matches!(task, Task::Child { name, rekeys: None, .. } if name == child);
        let asked = match self.asking() {
            Some(Request::CreateChild(asked)) => {
                asked.rekeys.is_none() && asked.config.name == child
            }
            _ => false,
        };
        asked || self.tasks.iter().any(is)
    }

    /// Starts the next task when the window is free.
    pub(crate) fn pump(&mut self, ctx: &mut Ctx<'_>) {
        while self.outstanding.is_none()
            && !self.is_asking()
            && matches!(self.state, State::Established | State::Deleting)
        {
            let now = ctx.now;
            let (current, pending) = (self.standing == Standing::Current, self.pending.is_some());
            let preparing = self.prepares_task();
            let awaited = self.awaited.as_ref().map(|awaited| &awaited.sa);
            let ready = |task: &Task| match task {
                Task::DeleteIke { .. } => true,
                // What another IKE SA takes over is not begun on this one.
                _ if !current => false,
                Task::Child { not_before, .. }
                | Task::Sibling { not_before, .. }
                | Task::RekeyIke { not_before, .. } => {
                    let free = !pending && awaited.is_none() && !preparing;
                    free && not_before.is_none_or(|at| at <= now)
                }
                Task::Part(part) => {
                    let free = !pending && awaited.is_none() && !preparing;
                    free && part.not_before.is_none_or(|at| at <= now)
                }
                // The heir would have to take them over in the middle.
                Task::DeleteChild(_) | Task::DeleteUnmade(_) | Task::Move => {
                    !matches!(awaited, Some(AwaitedSa::Ike(_)))
                }
                _ => true,
            };
            let ready = self.tasks.iter().position(ready);
            let Some(task) = ready.and_then(|at| self.tasks.remove(at)) else {
                break;
            };
            let same = task.clone();
            let started = match task {
                Task::Child {
                    name,
                    rekeys,
                    group,
                    ..
                } => self.start_child(ctx, &name, rekeys, group, false),
                Task::Sibling { name, group, .. } => self.start_sibling(ctx, &name, group),
                Task::Part(part) => self.start_part(ctx, *part),
                Task::RekeyIke { group, .. } => self.start_rekey(ctx, group),
                Task::DeleteIke { reason } => {
                    self.start_delete(ctx, reason).map_err(NotStarted::from)
                }
                Task::DeleteChild(child) => self
                    .start_delete_child(ctx, child)
                    .map_err(NotStarted::from),
                Task::DeleteUnmade(unmade) => self
                    .start_delete_unmade(ctx, unmade)
                    .map_err(NotStarted::from),
                Task::Move => self.start_move(ctx).map_err(NotStarted::from),
                Task::Addresses => self.start_addresses(ctx).map_err(NotStarted::from),
                Task::Redirect(gateway) => {
                    self.start_redirect(ctx, gateway).map_err(NotStarted::from)
                }
                Task::Liveness => {
                    let chain = Chain::default();
                    let request = Request::Liveness;
                    let sent = self.request(ctx, exchange::INFORMATIONAL, chain, request);
                    sent.map_err(NotStarted::from)
                }
            };
            match started {
                Ok(()) => {}
                Err(NotStarted::Later) => self.tasks.push_front(same),
                Err(NotStarted::Crypto) => {
                    tracing::error!(ike = self.id.0, "a request could not be made");
                    self.tasks.extend(same.later(now + AGAIN));
                }
            }
        }
        if self.tasks.is_empty() {
            self.tasks.clear();
        }
        self.finish_reauth(ctx);
        let authenticating = self.waiting.is_some() || matches!(self.asking(), Some(Request::Auth));
        if self.state == State::Established && self.pending.is_none() && !authenticating {
            self.init.clear();
            if let Some(keys) = &mut self.keys {
                keys.forget_authentication();
            }
        }
    }
}
