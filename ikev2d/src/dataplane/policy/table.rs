// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which SA a packet goes through, among some or among tens of thousands.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use offload_api::sa::{Spi, TrafficSelector};
use offload_api::wire::ip::Facts;

use super::super::{InterfaceId, Share, Trap, Way};
use super::shards::Shards;
use super::{InboundEntry, OutboundEntry, fits};

/// SAs that are looked at one after another, before there is an index.
const FEW: usize = 8;

/// The SAs of the data plane. Workers read while others change it.
#[derive(Default)]
pub(in super::super) struct Policy {
    inbound: Shards<u32, InboundEntry>,
    inbound_of: Shards<u64, InboundEntry>,
    /// SAs that have come and are found.
    come: AtomicU64,
    outbound_of: Shards<u64, OutboundEntry>,
    outbound: Outbound,
    /// Those that are bound to further interfaces.
    bound: ArcSwap<HashMap<InterfaceId, Arc<Outbound>>>,
    /// What traffic may ask for an SA, and wait for it.
    traps: ArcSwap<Vec<Trap>>,
}

/// SAs to send through. The newest whose selectors fit is used.
#[derive(Default)]
struct Outbound {
    /// Those without a place in the index, newest first.
    listed: ArcSwap<Vec<Ranked>>,
    /// The others, by the network that they lead to.
    by_network: Shards<IpNet, Ranked>,
    /// Lengths of those networks' prefixes.
    lengths: ArcSwap<Vec<Length>>,
    /// How many networks have each.
    counts: Mutex<BTreeMap<Length, usize>>,
    next: AtomicU64,
    /// SAs that have come and are found.
    come: AtomicU64,
}

/// An address family (IPv6 or not) and a prefix length.
type Length = (bool, u8);

/// An SA, and how late it came.
#[derive(Clone)]
struct Ranked {
    rank: u64,
    entry: Arc<OutboundEntry>,
}

impl Policy {
    /// What a worker sends a packet through.
    pub(in super::super) fn outbound(
        &self,
        from: InterfaceId,
        facts: &Facts,
        worker: usize,
    ) -> Option<Arc<OutboundEntry>> {
        match from {
            InterfaceId::MAIN => self.outbound.find(facts, worker),
            bound => self.bound.load().get(&bound)?.find(facts, worker),
        }
    }

    /// SAs that have come so far.
    pub(in super::super) fn come(&self) -> u64 {
        self.come.load(Ordering::Acquire)
    }

    pub(in super::super) fn set_traps(&self, traps: Vec<Trap>) {
        self.traps.store(Arc::new(traps));
    }

    /// Whether a packet may ask for an SA.
    pub(in super::super) fn traps(&self, from: InterfaceId, facts: &Facts) -> bool {
        let traps = self.traps.load();
        let here = traps.iter().filter(|trap| trap.interface == from);
        fits(here.map(|trap| (&trap.local, &trap.remote)), facts)
    }

    pub(in super::super) fn inbound(&self, spi: u32) -> Option<Arc<InboundEntry>> {
        self.inbound.find(&spi, |_| true)
    }

    pub(in super::super) fn add_inbound(&self, entry: &Arc<InboundEntry>) {
        self.inbound.insert(entry.spi.value(), entry);
        self.inbound_of.insert(entry.child, entry);
        self.come.fetch_add(1, Ordering::Release);
    }

    pub(in super::super) fn add_outbound(&self, entry: &Arc<OutboundEntry>) {
        match entry.interface {
            InterfaceId::MAIN => self.outbound.add(entry),
            bound => self.bound_to(bound).add(entry),
        }
        self.outbound_of.insert(entry.child, entry);
        self.come.fetch_add(1, Ordering::Release);
    }

    pub(in super::super) fn remove_inbound(&self, spi: Spi) -> Option<Arc<InboundEntry>> {
        let entry = self.inbound(spi.value())?;
        self.inbound.remove(&spi.value(), &entry);
        self.inbound_of.remove(&entry.child, &entry);
        Some(entry)
    }

    pub(in super::super) fn remove_outbound(&self, child: u64) -> Option<Arc<OutboundEntry>> {
        let entry = self.outbound_of(child)?;
        self.outbound_of.remove(&child, &entry);
        match entry.interface {
            InterfaceId::MAIN => self.outbound.remove(&entry),
            bound => self.bound_to(bound).remove(&entry),
        }
        Some(entry)
    }

    /// An interface is gone, and so is what was sent through SAs that are bound to it.
    pub(in super::super) fn forget_interface(&self, interface: InterfaceId) {
        self.bound.rcu(|bound| {
            let mut next = HashMap::clone(bound);
            next.remove(&interface);
            next
        });
    }

    /// SAs that are bound to an interface.
    fn bound_to(&self, interface: InterfaceId) -> Arc<Outbound> {
        if let Some(outbound) = self.bound.load().get(&interface) {
            return outbound.clone();
        }
        let made = Arc::new(Outbound::default());
        self.bound.rcu(|bound| {
            let mut next = HashMap::clone(bound);
            next.entry(interface).or_insert_with(|| made.clone());
            next
        });
        let bound = self.bound.load();
        bound.get(&interface).cloned().unwrap_or(made)
    }

    pub(in super::super) fn move_child(&self, child: u64, way: &Way) {
        if let Some(entry) = self.inbound_of(child) {
            entry.follow(way.path.1);
        }
        if let Some(entry) = self.outbound_of(child) {
            entry.follow(way);
        }
    }

    /// What each child SA has carried, in and out.
    pub(in super::super) fn traffic(&self) -> HashMap<u64, [(u64, u64); 2]> {
        let mut all: HashMap<u64, [(u64, u64); 2]> = HashMap::new();
        self.inbound_of.each(|child, entry| {
            let [inbound, _] = all.entry(*child).or_default();
            *inbound = entry.traffic();
        });
        self.outbound_of.each(|child, entry| {
            let [_, outbound] = all.entry(*child).or_default();
            *outbound = entry.traffic();
        });
        all
    }

    pub(in super::super) fn inbound_of(&self, child: u64) -> Option<Arc<InboundEntry>> {
        self.inbound_of.find(&child, |_| true)
    }

    pub(in super::super) fn outbound_of(&self, child: u64) -> Option<Arc<OutboundEntry>> {
        self.outbound_of.find(&child, |_| true)
    }
}

impl Outbound {
    /// An SA may be replaced while the one place is looked at and then the other: who finds none looks
    /// again if one has come meanwhile.
    fn find(&self, facts: &Facts, worker: usize) -> Option<Arc<OutboundEntry>> {
        let mut come = self.come.load(Ordering::Acquire);
        loop {
            let found = self.find_once(facts, worker);
            let before = std::mem::replace(&mut come, self.come.load(Ordering::Acquire));
            if found.is_some() || come == before {
                return found;
            }
        }
    }

    fn find_once(&self, facts: &Facts, worker: usize) -> Option<Arc<OutboundEntry>> {
        let for_all = |share: Option<Share>| share.is_none_or(|share| share.worker == 0);
        let Some(first) = self.newest(facts, for_all) else {
            // Only those of single workers are left: better another's than none.
            return self.newest(facts, |_| true);
        };
        let Some(Share { group, .. }) = first.share().filter(|_| worker != 0) else {
            return Some(first);
        };
        let own = |share: Option<Share>| {
            share.is_some_and(|share| (share.group, usize::from(share.worker)) == (group, worker))
        };
        Some(self.newest(facts, own).unwrap_or(first))
    }

    /// The newest that takes a packet, among those with such a share of the traffic.
    fn newest(
        &self,
        facts: &Facts,
        among: impl Fn(Option<Share>) -> bool,
    ) -> Option<Arc<OutboundEntry>> {
        let takes = |ranked: &Ranked| among(ranked.entry.share()) && ranked.entry.takes(facts);
        let listed = self.listed.load();
        let mut best = listed.iter().find(|ranked| takes(ranked));
        let mut found;
        for (v6, bits) in self.lengths.load().iter() {
            let network = network(facts.destination, *bits);
            let Some(network) = network.filter(|_| *v6 == facts.destination.is_ipv6()) else {
                continue;
            };
            if let Some(candidate) = self.by_network.find(&network, takes)
                && best.is_none_or(|best| best.rank < candidate.rank)
            {
                found = candidate;
                best = Some(&found);
            }
        }
        best.map(|ranked| ranked.entry.clone())
    }

    fn add(&self, entry: &Arc<OutboundEntry>) {
        self.place(entry);
        self.come.fetch_add(1, Ordering::Release);
    }

    fn place(&self, entry: &Arc<OutboundEntry>) {
        let rank = self.next.fetch_add(1, Ordering::Relaxed);
        let ranked = Ranked {
            rank,
            entry: entry.clone(),
        };
        let indexed = match networks(entry) {
            Some(networks) if self.listed.load().len() >= FEW => networks,
            _ => {
                self.listed.rcu(|listed| {
                    let mut next = Vec::with_capacity(listed.len() + 1);
                    next.push(ranked.clone());
                    next.extend_from_slice(listed);
                    next
                });
                return;
            }
        };
        let ranked = Arc::new(ranked);
        for network in indexed {
            self.by_network.insert(network, &ranked);
            self.count(length(&network), true);
        }
    }

    fn remove(&self, entry: &Arc<OutboundEntry>) {
        let is = |ranked: &Ranked| Arc::ptr_eq(&ranked.entry, entry);
        if self.listed.load().iter().any(is) {
            self.listed.rcu(|listed| {
                let others = listed.iter().filter(|ranked| !is(ranked));
                others.cloned().collect::<Vec<_>>()
            });
            return;
        }
        for network in networks(entry).unwrap_or_default() {
            if let Some(ranked) = self.by_network.find(&network, is) {
                self.by_network.remove(&network, &ranked);
                self.count(length(&network), false);
            }
        }
    }

    /// Notes that there is one more or one less of a length, and tells workers of the first and last.
    fn count(&self, length: Length, more: bool) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counts.len();
        let count = counts.entry(length).or_default();
        *count = if more { *count + 1 } else { *count - 1 };
        if *count == 0 {
            counts.remove(&length);
        }
        if counts.len() != before {
            self.lengths
                .store(Arc::new(counts.keys().copied().collect()));
        }
    }
}

fn length(network: &IpNet) -> Length {
    (network.addr().is_ipv6(), network.prefix_len())
}

fn network(address: IpAddr, bits: u8) -> Option<IpNet> {
    let network = match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, bits).ok()?.trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new(v6, bits).ok()?.trunc().into(),
    };
    Some(network)
}

/// Where an SA leads to, if each of these is one network.
fn networks(entry: &OutboundEntry) -> Option<Vec<IpNet>> {
    let mut networks = entry
        .destinations()
        .map(one_network)
        .collect::<Option<Vec<_>>>()?;
    networks.sort_unstable();
    networks.dedup();
    Some(networks)
}

fn one_network(selector: &TrafficSelector) -> Option<IpNet> {
    let bits = match (selector.start, selector.end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            let differ = start.to_bits() ^ end.to_bits();
            differ.leading_zeros() as u8
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            let differ = start.to_bits() ^ end.to_bits();
            differ.leading_zeros() as u8
        }
        _ => return None,
    };
    let network = network(selector.start, bits)?;
    let last = match network {
        IpNet::V4(v4) => IpAddr::from(v4.broadcast()),
        IpNet::V6(v6) => IpAddr::from(v6.broadcast()),
    };
    (network.addr() == selector.start && last == selector.end).then_some(network)
}

#[cfg(test)]
mod tests;
