// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ISAKMP SAs, and the ways to find one: none of them looks at all the others. Whoever changes an SA
//! need not know of them: what was lent is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::network;
use ikev2d_proto::event::{ChildId, IkeId, InstallId, JobId};

use crate::isakmp::{Isakmp, State};

/// Every ISAKMP SA, by its number and by all that it is asked for by.
#[derive(Default)]
pub(super) struct Table {
    sas: BTreeMap<IkeId, Entry>,
    /// Lent, and not looked at since.
    lent: BTreeSet<IkeId>,
    /// Those to be forgotten.
    dead: BTreeSet<IkeId>,
    /// By both cookies; where the responder's is not known yet it is 0.
    cookies: HashMap<(u64, u64), IkeId>,
    /// Those that a peer began, by its cookie and address.
    firsts: HashMap<(u64, IpAddr), IkeId>,
    due: BTreeSet<(Instant, IkeId)>,
    /// Those that peers began and have not brought to an end, by network.
    half_open: HashMap<IpAddr, usize>,
    half_open_total: usize,
    /// Octets that those keep which are not established.
    kept: usize,
    peers: BTreeSet<(IpAddr, IkeId)>,
    /// By the key of the connection's name.
    connections: BTreeSet<(u64, IkeId)>,
    /// Proved ones, by the key of the connection's name and the peer's identity.
    ends: BTreeSet<(u64, IkeId)>,
    /// Those that are to replace another one.
    replacing: BTreeSet<(IkeId, IkeId)>,
    children: HashMap<ChildId, IkeId>,
    installs: HashMap<InstallId, IkeId>,
    jobs: HashMap<JobId, IkeId>,
    keys: RandomState,
}

struct Entry {
    sa: Isakmp,
    marks: Marks,
}

/// By what an SA is found: as it was when it was last looked at.
#[derive(Default)]
struct Marks {
    cookies: Option<(u64, u64)>,
    first: Option<(u64, IpAddr)>,
    due: Option<Instant>,
    half_open: Option<IpAddr>,
    kept: usize,
    peer: Option<IpAddr>,
    connection: Option<u64>,
    ends: Option<u64>,
    replaces: Option<IkeId>,
    children: Vec<ChildId>,
    installs: Vec<InstallId>,
    jobs: Vec<JobId>,
}

impl Marks {
    fn of(sa: &Isakmp, config: &EndpointConfig, keys: &RandomState, crypto: &dyn Crypto) -> Self {
        let remote = sa.path.remote.ip();
        let connecting = matches!(sa.state, State::Connecting | State::Transacting);
        Self {
            cookies: Some(sa.cookies()),
            first: (!sa.initiator).then_some((sa.cky_i, remote)),
            due: sa.timeout(config),
            half_open: sa.is_half_open().then(|| network(remote)),
            kept: sa.kept(),
            peer: Some(remote),
            connection: Some(keys.hash_one(&sa.connection.name)),
            ends: sa.is_proved().then(|| key_of_ends(sa, keys, crypto)),
            replaces: sa.replaces.filter(|_| connecting),
            children: sa.children.iter().map(|child| child.sa.id).collect(),
            installs: sa
                .children
                .iter()
                .flat_map(|child| [child.install, child.outbound])
                .flatten()
                .collect(),
            jobs: {
                let waiting = sa.material.waiting.as_ref().map(|waiting| waiting.job);
                waiting.into_iter().chain(sa.elsewhere.jobs()).collect()
            },
        }
    }
}

/// The same for SAs whose ends may be the same.
fn key_of_ends(sa: &Isakmp, keys: &RandomState, crypto: &dyn Crypto) -> u64 {
    let mut hasher = keys.build_hasher();
    sa.connection.name.hash(&mut hasher);
    sa.remote_id.hash_by(crypto, &mut hasher);
    hasher.finish()
}

/// Brings an index from one mark to another.
fn mark<K: Ord>(index: &mut BTreeSet<K>, before: Option<K>, after: Option<K>) {
    if before != after {
        if let Some(before) = before {
            index.remove(&before);
        }
        index.extend(after);
    }
}

/// The same for one that has a place for each key; another SA may have taken it meanwhile.
fn place<K: Eq + Hash + Copy>(index: &mut HashMap<K, IkeId>, id: IkeId, before: &[K], after: &[K]) {
    if before == after {
        return;
    }
    for key in before {
        if index.get(key) == Some(&id) && !after.contains(key) {
            index.remove(key);
        }
    }
    index.extend(after.iter().map(|key| (*key, id)));
}

impl Table {
    pub(super) fn get(&self, id: IkeId) -> Option<&Isakmp> {
        self.sas.get(&id).map(|entry| &entry.sa)
    }

    pub(super) fn get_mut(&mut self, id: IkeId) -> Option<&mut Isakmp> {
        let entry = self.sas.get_mut(&id)?;
        self.lent.insert(id);
        Some(&mut entry.sa)
    }

    pub(super) fn insert(&mut self, sa: Isakmp) {
        let id = sa.id;
        let marks = Marks::default();
        self.lent.insert(id);
        self.sas.insert(id, Entry { sa, marks });
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: IkeId) -> Option<Isakmp> {
        let entry = self.sas.remove(&id)?;
        self.lent.remove(&id);
        self.dead.remove(&id);
        self.index(id, &entry.marks, &Marks::default());
        Some(entry.sa)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Isakmp> {
        self.sas.values().map(|entry| &entry.sa)
    }

    /// Looks at what was lent.
    pub(super) fn settle(&mut self, config: &EndpointConfig, crypto: &dyn Crypto) {
        while let Some(id) = self.lent.pop_first() {
            let Some(entry) = self.sas.get_mut(&id) else {
                continue;
            };
            if entry.sa.state == State::Dead {
                self.dead.insert(id);
            }
            let after = Marks::of(&entry.sa, config, &self.keys, crypto);
            let before = std::mem::take(&mut entry.marks);
            self.index(id, &before, &after);
            if let Some(entry) = self.sas.get_mut(&id) {
                entry.marks = after;
            }
        }
    }

    fn index(&mut self, id: IkeId, before: &Marks, after: &Marks) {
        place(
            &mut self.cookies,
            id,
            before.cookies.as_slice(),
            after.cookies.as_slice(),
        );
        place(
            &mut self.firsts,
            id,
            before.first.as_slice(),
            after.first.as_slice(),
        );
        place(&mut self.children, id, &before.children, &after.children);
        place(&mut self.installs, id, &before.installs, &after.installs);
        place(&mut self.jobs, id, &before.jobs, &after.jobs);
        let with = |key: Option<u64>| key.map(|key| (key, id));
        mark(
            &mut self.connections,
            with(before.connection),
            with(after.connection),
        );
        mark(&mut self.ends, with(before.ends), with(after.ends));
        let due = |at: Option<Instant>| at.map(|at| (at, id));
        mark(&mut self.due, due(before.due), due(after.due));
        let peer = |address: Option<IpAddr>| address.map(|address| (address, id));
        mark(&mut self.peers, peer(before.peer), peer(after.peer));
        let replaces = |old: Option<IkeId>| old.map(|old| (old, id));
        mark(
            &mut self.replacing,
            replaces(before.replaces),
            replaces(after.replaces),
        );
        self.kept = (self.kept + after.kept).saturating_sub(before.kept);
        if before.half_open != after.half_open {
            if let Some(address) = before.half_open
                && let Some(count) = self.half_open.get_mut(&address)
            {
                self.half_open_total = self.half_open_total.saturating_sub(1);
                *count -= 1;
                if *count == 0 {
                    self.half_open.remove(&address);
                }
            }
            if let Some(address) = after.half_open {
                self.half_open_total += 1;
                *self.half_open.entry(address).or_default() += 1;
            }
        }
    }

    /// Those that have died since this was last asked.
    pub(super) fn take_dead(&mut self) -> BTreeSet<IkeId> {
        std::mem::take(&mut self.dead)
    }

    /// Whose a message is by its cookies. Before message 2 the responder's is not known.
    pub(super) fn by_cookies(&self, cky_i: u64, cky_r: u64) -> Option<IkeId> {
        if let Some(id) = self.cookies.get(&(cky_i, cky_r)) {
            return Some(*id);
        }
        let id = self.cookies.get(&(cky_i, 0))?;
        let sa = self.get(*id)?;
        let begun = sa.initiator && sa.state == State::Connecting && sa.material.expects == 2;
        begun.then_some(*id)
    }

    /// The SA that a peer has begun with a cookie.
    pub(super) fn by_first(&self, cky_i: u64, address: IpAddr) -> Option<IkeId> {
        self.firsts.get(&(cky_i, address)).copied()
    }

    /// Half-open SAs: all, and those of an address's network.
    pub(super) fn half_open(&self, address: IpAddr) -> (usize, usize) {
        let of_network = self.half_open.get(&network(address)).copied();
        (self.half_open_total, of_network.unwrap_or_default())
    }

    /// Octets that those keep which are not established, of messages that nothing vouches for yet.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn of_child(&self, child: ChildId) -> Option<IkeId> {
        self.children.get(&child).copied()
    }

    pub(super) fn of_install(&self, install: InstallId) -> Option<IkeId> {
        self.installs.get(&install).copied()
    }

    pub(super) fn of_job(&self, job: JobId) -> Option<IkeId> {
        self.jobs.get(&job).copied()
    }

    /// What has something to do by now.
    pub(super) fn due(&self, now: Instant) -> Vec<IkeId> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, id)| *id).collect()
    }

    /// When something is to be done next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A connection's SAs, and now and then one more.
    pub(super) fn of_connection(&self, name: &str) -> Vec<IkeId> {
        within(&self.connections, self.keys.hash_one(name))
    }

    /// The SAs that may be between the same ends as another one, with it.
    pub(super) fn of_ends(&self, sa: &Isakmp, crypto: &dyn Crypto) -> Vec<IkeId> {
        within(&self.ends, key_of_ends(sa, &self.keys, crypto))
    }

    /// The SAs with a peer's address.
    pub(super) fn of_peer(&self, address: IpAddr) -> Vec<IkeId> {
        within(&self.peers, address)
    }

    /// Whether one that is to replace another is under way.
    pub(super) fn is_being_replaced(&self, old: IkeId) -> bool {
        !within(&self.replacing, old).is_empty()
    }
}

fn within<K: Ord + Copy>(index: &BTreeSet<(K, IkeId)>, key: K) -> Vec<IkeId> {
    let range = index.range((key, IkeId(0))..=(key, IkeId(u64::MAX)));
    range.map(|(_, id)| *id).collect()
}
