// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The IKE SAs, and the ways to find one: none of them looks at all the others. Whoever changes an IKE
//! SA need not know of them: what was lent is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::config::{EndpointConfig, Identity};
use crate::crypto::Crypto;
use crate::event::{ChildId, IkeId, InstallId, JobId, StreamId};
use crate::ike_sa::{IkeSa, State};

/// Every IKE SA, by its number and by all that it is asked for by.
#[derive(Default)]
pub(crate) struct Table {
    sas: BTreeMap<IkeId, Box<Entry>>,
    /// Lent, and not looked at since.
    lent: BTreeSet<IkeId>,
    /// By the SPI that is ours.
    spis: HashMap<u64, IkeId>,
    /// Those that a peer began, by the key of its SPI and address.
    firsts: HashMap<Key, IkeId>,
    due: BTreeSet<(Key, IkeId)>,
    /// What the times when they are due are reckoned from, in nanoseconds.
    epoch: Option<Instant>,
    /// By the stream that carries them.
    streams: BTreeSet<(StreamId, IkeId)>,
    connecting: BTreeSet<IkeId>,
    /// Those of them that peers began, by network.
    half_open: HashMap<IpAddr, usize>,
    half_open_total: usize,
    /// Established ones, by the key of the two identities.
    ends: BTreeSet<(Key, IkeId)>,
    /// By the key of the connection's name.
    connections: BTreeSet<(Key, IkeId)>,
    /// Those with a child that waits for another IKE SA's to go.
    waiting: BTreeSet<IkeId>,
    /// Those that are to replace another one.
    replacing: BTreeSet<IkeId>,
    children: HashMap<ChildId, IkeId>,
    installs: HashMap<InstallId, IkeId>,
    jobs: HashMap<JobId, IkeId>,
    keys: RandomState,
}

struct Entry {
    sa: IkeSa,
    marks: Marks,
}

/// A hash, or a time; never zero, so that having none takes no room.
type Key = NonZeroU64;

fn key(hash: u64) -> Key {
    Key::new(hash).unwrap_or(Key::MIN)
}

/// By what an IKE SA is found: as it was when it was last looked at.
#[derive(Clone, Copy, Default)]
struct Marks {
    spi: u64,
    first: Option<Key>,
    due: Option<Key>,
    stream: Option<StreamId>,
    connecting: bool,
    half_open: Option<IpAddr>,
    ends: Option<Key>,
    connection: Option<Key>,
    waiting: bool,
    replacing: bool,
}

/// Who is counted together before anything is known of them: one host has a whole IPv6 network of 64
/// bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Brings an index from one mark to another.
fn mark<K: Ord>(index: &mut BTreeSet<K>, before: Option<K>, after: Option<K>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        index.remove(&before);
    }
    index.extend(after);
}

/// The same for one that has a place for each key; another IKE SA may have taken it meanwhile.
fn place<K: Copy + Eq + Hash>(
    index: &mut HashMap<K, IkeId>,
    id: IkeId,
    before: Option<K>,
    after: Option<K>,
) {
    if before == after {
        return;
    }
    if let Some(before) = before
        && index.get(&before) == Some(&id)
    {
        index.remove(&before);
    }
    if let Some(after) = after {
        index.insert(after, id);
    }
}

impl Table {
    pub(crate) fn get(&self, id: &IkeId) -> Option<&IkeSa> {
        self.sas.get(id).map(|entry| &entry.sa)
    }

    pub(crate) fn get_mut(&mut self, id: &IkeId) -> Option<&mut IkeSa> {
        let entry = self.sas.get_mut(id)?;
        self.lent.insert(*id);
        Some(&mut entry.sa)
    }

    pub(crate) fn insert(&mut self, sa: IkeSa) {
        let id = sa.id;
        let marks = Marks::default();
        self.lent.insert(id);
        self.sas.insert(id, Box::new(Entry { sa, marks }));
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: &IkeId) -> Option<IkeSa> {
        let entry = self.sas.remove(id)?;
        self.lent.remove(id);
        self.index(*id, &entry.marks, &Marks::default());
        Some(entry.sa)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &IkeSa> {
        self.sas.values().map(|entry| &entry.sa)
    }

    /// The one whose SPI of ours this is.
    pub(crate) fn by_spi(&self, spi: u64) -> Option<&IkeSa> {
        self.get(self.spis.get(&spi)?)
    }

    /// The one that a peer began with this SPI from there.
    pub(crate) fn by_first(&self, spi_i: u64, remote: SocketAddr) -> Option<&IkeSa> {
        let sa = self.get(self.firsts.get(&self.first_key(spi_i, remote))?)?;
        (sa.spi_i == spi_i && sa.path.remote == remote).then_some(sa)
    }

    pub(crate) fn of_child(&self, child: ChildId) -> Option<IkeId> {
        let has = |sa: &IkeSa| sa.has_child(child);
        let known = self.children.get(&child).copied();
        known.filter(|id| self.get(id).is_some_and(has))
    }

    pub(crate) fn of_install(&mut self, install: InstallId) -> Option<IkeId> {
        let known = self.installs.remove(&install)?;
        let awaits = |sa: &IkeSa| {
            let mut children = sa.children.iter();
            let pending = sa.pending.as_ref();
            pending.is_some_and(|pending| pending.install == install)
                || children.any(|child| child.install == Some(install))
        };
        if self.get(&known).is_some_and(awaits) {
            return Some(known);
        }
        // Another IKE SA has taken over meanwhile.
        self.values().find(|sa| awaits(sa)).map(|sa| sa.id)
    }

    pub(crate) fn of_job(&mut self, job: JobId) -> Option<IkeId> {
        self.jobs.remove(&job)
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<IkeId> {
        let now = self.since_epoch(now);
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, id)| *id).collect()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let (at, _) = self.due.first()?;
        Some(self.epoch? + Duration::from_nanos(at.get()))
    }

    /// A time as the index has it; what is before the epoch is due as soon as can be.
    fn since_epoch(&self, at: Instant) -> Key {
        let since = self.epoch.map(|epoch| at.saturating_duration_since(epoch));
        let nanos = since.unwrap_or_default().as_nanos();
        key(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Those that a stream carries.
    pub(crate) fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = &IkeSa> {
        let range = (stream, IkeId(0))..=(stream, IkeId(u64::MAX));
        self.streams.range(range).filter_map(|(_, id)| self.get(id))
    }

    /// Peers' half-open ones: of an address's network, and all.
    pub(crate) fn half_open(&self, address: IpAddr) -> (usize, usize) {
        let of_network = self.half_open.get(&network(address));
        (
            of_network.copied().unwrap_or_default(),
            self.half_open_total,
        )
    }

    pub(crate) fn half_open_total(&self) -> usize {
        self.half_open_total
    }

    pub(crate) fn connecting(&self) -> impl Iterator<Item = &IkeSa> {
        self.connecting.iter().filter_map(|id| self.get(id))
    }

    /// Established ones that may be between two identities.
    pub(crate) fn between(
        &self,
        crypto: &dyn Crypto,
        local: &Identity,
        remote: &Identity,
    ) -> impl Iterator<Item = &IkeSa> {
        let key = self.ends_key(crypto, local, remote);
        let range = self.ends.range((key, IkeId(0))..=(key, IkeId(u64::MAX)));
        range.filter_map(|(_, id)| self.get(id))
    }

    pub(crate) fn of_connection(&self, name: &str) -> impl Iterator<Item = &IkeSa> {
        let key = key(self.keys.hash_one(name));
        let range = self
            .connections
            .range((key, IkeId(0))..=(key, IkeId(u64::MAX)));
        let found = range.filter_map(|(_, id)| self.get(id));
        found.filter(move |sa| sa.connection.name == name)
    }

    /// Those whose children may wait for other IKE SAs' to go.
    pub(crate) fn waiting(&self) -> Vec<IkeId> {
        self.waiting.iter().chain(&self.lent).copied().collect()
    }

    /// Those that may be there to replace another one.
    pub(crate) fn replacing(&self) -> Vec<IkeId> {
        self.replacing.iter().chain(&self.lent).copied().collect()
    }

    fn first_key(&self, spi_i: u64, remote: SocketAddr) -> Key {
        key(self.keys.hash_one((spi_i, remote)))
    }

    /// Whoever may be anybody is to be found by everybody.
    fn ends_key(&self, crypto: &dyn Crypto, local: &Identity, remote: &Identity) -> Key {
        let mut hasher = self.keys.build_hasher();
        local.hash_by(crypto, &mut hasher);
        remote.hash_by(crypto, &mut hasher);
        key(hasher.finish())
    }

    /// Looks at what was lent.
    pub(crate) fn tidy(&mut self, crypto: &dyn Crypto, config: &EndpointConfig) {
        for id in self.lent.clone() {
            let Some(entry) = self.sas.get(&id) else {
                continue;
            };
            self.epoch.get_or_insert(entry.sa.created.into());
            let (before, after) = (entry.marks, self.marks(&entry.sa, crypto, config));
            let sa = &entry.sa;
            let pending = sa.pending.iter().map(|pending| &pending.child);
            let children: Vec<ChildId> = pending
                .chain(&sa.children)
                .map(|child| child.sa.id)
                .collect();
            let installs = sa.children.iter().filter_map(|child| child.install);
            let installs = installs.chain(sa.pending.iter().map(|pending| pending.install));
            self.installs.extend(installs.map(|install| (install, id)));
            let jobs = sa.waiting.iter().map(|waiting| waiting.job());
            let jobs = jobs.chain(sa.exchange_jobs());
            self.jobs.extend(jobs.map(|job| (job, id)));
            self.children
                .extend(children.into_iter().map(|child| (child, id)));
            self.index(id, &before, &after);
            if let Some(entry) = self.sas.get_mut(&id) {
                entry.marks = after;
            }
        }
    }

    /// As [`tidy`](Self::tidy); takes out the dead.
    pub(crate) fn bury(&mut self, crypto: &dyn Crypto, config: &EndpointConfig) -> Vec<IkeSa> {
        self.tidy(crypto, config);
        let dead = |id: &IkeId| self.get(id).is_some_and(|sa| sa.state == State::Dead);
        let dead: Vec<IkeId> = self.lent.iter().copied().filter(dead).collect();
        let dead = dead.iter().filter_map(|id| self.remove(id)).collect();
        self.lent.clear();
        dead
    }

    /// Forgets a child.
    pub(crate) fn forget_child(&mut self, child: ChildId) {
        self.children.remove(&child);
    }

    fn marks(&self, sa: &IkeSa, crypto: &dyn Crypto, config: &EndpointConfig) -> Marks {
        if sa.state == State::Dead {
            return Marks::default();
        }
        let connecting = sa.state == State::Connecting;
        let waits = |child: &crate::ike_sa::Child| child.awaits_peer && child.sa.replaces.is_none();
        let established = sa.established.is_some();
        Marks {
            spi: sa.own_spi(),
            first: (!sa.initiator).then(|| self.first_key(sa.spi_i, sa.path.remote)),
            due: sa.timeout(config).map(|at| self.since_epoch(at)),
            stream: sa.path.stream,
            connecting,
            half_open: (connecting && !sa.initiator).then(|| network(sa.path.remote.ip())),
            ends: established.then(|| self.ends_key(crypto, sa.local_id(), &sa.remote_id)),
            connection: Some(key(self.keys.hash_one(&*sa.connection.name))),
            waiting: sa.children.iter().any(waits),
            replacing: sa.reauth.of.is_some(),
        }
    }

    fn index(&mut self, id: IkeId, before: &Marks, after: &Marks) {
        let spi = |marks: &Marks| (marks.spi != 0).then_some(marks.spi);
        place(&mut self.spis, id, spi(before), spi(after));
        place(&mut self.firsts, id, before.first, after.first);
        let by = |key: Option<Key>| key.map(|key| (key, id));
        mark(&mut self.ends, by(before.ends), by(after.ends));
        let connections = (by(before.connection), by(after.connection));
        mark(&mut self.connections, connections.0, connections.1);
        let due = |marks: &Marks| marks.due.map(|at| (at, id));
        mark(&mut self.due, due(before), due(after));
        let stream = |marks: &Marks| marks.stream.map(|stream| (stream, id));
        mark(&mut self.streams, stream(before), stream(after));
        let is = |flag: bool| flag.then_some(id);
        let connecting = (is(before.connecting), is(after.connecting));
        mark(&mut self.connecting, connecting.0, connecting.1);
        mark(&mut self.waiting, is(before.waiting), is(after.waiting));
        let replacing = (is(before.replacing), is(after.replacing));
        mark(&mut self.replacing, replacing.0, replacing.1);
        if before.half_open != after.half_open {
            if let Some(network) = before.half_open {
                self.half_open_total = self.half_open_total.saturating_sub(1);
                if let Some(count) = self.half_open.get_mut(&network) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.half_open.remove(&network);
                    }
                }
            }
            if let Some(network) = after.half_open {
                self.half_open_total += 1;
                *self.half_open.entry(network).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever has one IPv6 address has 2^64 of them.
    #[test]
    fn addresses_of_an_ipv6_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
