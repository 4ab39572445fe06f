// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Further TUN interfaces, one for each route-based VPN: the host's routes lead packets to one, and only
//! SAs that are bound to it take them.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::ready::Source;
use super::worker::{BURST, READS, Worker};
use super::{Dataplane, DataplaneError};

/// Which TUN interface packets come from and go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(u16);

impl InterfaceId {
    /// The daemon's own, whose SAs routes of the daemon's lead to.
    pub const MAIN: Self = Self(0);

    #[cfg(test)]
    pub(super) fn numbered(number: u16) -> Self {
        Self(number)
    }
}

/// Those that there are, with a queue for each worker.
pub(super) struct Interfaces {
    all: Mutex<BTreeMap<InterfaceId, Vec<Arc<SyncDevice>>>>,
    /// How often that has changed.
    changes: AtomicU64,
    /// A number is given once, so that no SA is left bound to somebody else's interface.
    next: AtomicU16,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            changes: AtomicU64::new(0),
            next: AtomicU16::new(1),
        }
    }
}

impl Interfaces {
    fn all(&self) -> MutexGuard<'_, BTreeMap<InterfaceId, Vec<Arc<SyncDevice>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, queues: Vec<Arc<SyncDevice>>) -> Option<InterfaceId> {
        let next = |number: u16| number.checked_add(1);
        let number = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let id = InterfaceId(number.ok()?);
        self.all().insert(id, queues);
        self.changes.fetch_add(1, Ordering::Release);
        Some(id)
    }

    fn remove(&self, id: InterfaceId) {
        self.all().remove(&id);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Dataplane {
    /// Makes a further TUN interface. Packets that are routed to it go through SAs that are bound to it
    /// alone, and what those bring comes out of it.
    ///
    /// # Errors
    /// [`DataplaneError::Tun`].
    pub fn add_interface(&self, name: &str, mtu: u16) -> Result<InterfaceId, DataplaneError> {
        let made = || -> std::io::Result<InterfaceId> {
            let first = DeviceBuilder::new()
                .name(name)
                .mtu(mtu)
                .offload(true)
                .multi_queue(true)
                .build_sync()?;
            let mut queues = Vec::new();
            for _ in 1..self.shared.wakes.len() {
                queues.push(first.try_clone()?);
            }
            queues.push(first);
            for queue in &queues {
                queue.set_nonblocking(true)?;
            }
            let queues = queues.into_iter().map(Arc::new).collect();
            let added = self.shared.interfaces.add(queues);
            added.ok_or_else(|| std::io::Error::other("all numbers of interfaces were given"))
        };
        let id = made().map_err(|error| DataplaneError::Tun {
            name: name.to_owned(),
            error,
        })?;
        self.shared.wake();
        Ok(id)
    }

    /// Takes one away, as soon as the workers have let go of it.
    pub fn remove_interface(&self, id: InterfaceId) {
        self.shared.interfaces.remove(id);
        self.shared.policy.forget_interface(id);
        self.shared.wake();
    }
}

/// A worker's queues of them.
pub(super) struct Queues {
    number: usize,
    /// Which change was seen last.
    seen: u64,
    queues: HashMap<InterfaceId, Arc<SyncDevice>>,
    /// Tells which have packets: many are idle.
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    ready: Vec<InterfaceId>,
}

/// Interfaces that one round looks at; the kernel begins with others in the next.
const LOOKS: usize = 16;

impl Queues {
    pub(super) fn new(number: usize, epoll: OwnedFd) -> Self {
        Self {
            number,
            seen: 0,
            queues: HashMap::new(),
            epoll,
            events: Vec::with_capacity(LOOKS),
            ready: Vec::with_capacity(LOOKS),
        }
    }

    pub(super) fn get(&self, id: InterfaceId) -> Option<&Arc<SyncDevice>> {
        self.queues.get(&id)
    }

    /// What tells that one has packets, if there is one.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.queues.is_empty()).then(|| self.epoll.as_fd())
    }

    /// Takes in what has changed.
    fn follow(&mut self, interfaces: &Interfaces) {
        let changes = interfaces.changes.load(Ordering::Acquire);
        if changes == self.seen {
            return;
        }
        self.seen = changes;
        let all = interfaces.all();
        let epoll = &self.epoll;
        self.queues.retain(|id, queue| {
            let stays = all.contains_key(id);
            if !stays {
                let _ = epoll::delete(epoll, queue.as_fd());
            }
            stays
        });
        for (id, queues) in all.iter() {
            if let Some(queue) = queues.get(self.number)
                && !self.queues.contains_key(id)
            {
                let data = epoll::EventData::new_u64(id.0.into());
                match epoll::add(epoll, queue.as_fd(), data, epoll::EventFlags::IN) {
                    Ok(()) => {
                        self.queues.insert(*id, queue.clone());
                    }
                    Err(error) => tracing::error!(%error, "an interface can't be waited for"),
                }
            }
        }
    }

    /// Some that have packets, into a list of its own.
    fn look(&mut self) {
        self.ready.clear();
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, room, Some(&Timespec::default())).is_ok() {
            let ids = self.events.iter().map(|event| event.data.u64());
            let ids = ids.filter_map(|id| u16::try_from(id).ok());
            self.ready.extend(ids.map(InterfaceId));
        }
    }
}

impl Worker {
    /// Reads what was routed to one of these interfaces.
    pub(super) fn read_interfaces(&mut self) -> bool {
        self.interfaces.follow(&self.shared.interfaces);
        if self.interfaces.queues.is_empty() {
            self.ready.clear(Source::Interfaces);
        }
        if !self.ready.has(Source::Interfaces) {
            return false;
        }
        self.interfaces.look();
        let ready = std::mem::take(&mut self.interfaces.ready);
        let now = Instant::now();
        let most = self.ops.len() + BURST;
        let mut worked = false;
        for id in &ready {
            let Some(queue) = self.interfaces.get(*id).cloned() else {
                continue;
            };
            for _ in 0..READS {
                if self.ops.len() >= most || !self.read_once(&queue, *id, now) {
                    break;
                }
                worked = true;
            }
        }
        self.interfaces.ready = ready;
        if !worked && !self.starved {
            self.ready.clear(Source::Interfaces);
        }
        worked
    }
}
