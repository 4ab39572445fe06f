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

    /// SAs to send through that have come so far.
    pub(in super::super) fn come(&self) -> u64 {
        let bound = self.bound.load();
        let all = bound.values().map(Arc::as_ref).chain([&self.outbound]);
        all.map(|outbound| outbound.come.load(Ordering::Acquire))
            .sum()
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
    }

    pub(in super::super) fn add_outbound(&self, entry: &Arc<OutboundEntry>) {
        match entry.interface {
            InterfaceId::MAIN => self.outbound.add(entry),
            bound => self.bound_to(bound).add(entry),
        }
        self.outbound_of.insert(entry.child, entry);
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
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::AtomicBool;

    use offload_api::sa::SaHandle;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::super::{Encapsulation, InboundSa, OutboundSa, Overhead, Way};
    use super::super::is_drained;
    use super::*;

    const ENDS: (SocketAddr, SocketAddr) = (
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4500),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 4500),
    );
    const SA: SaHandle = SaHandle {
        index: 1,
        generation: 1,
    };

    fn range(start: [u8; 4], end: [u8; 4]) -> TrafficSelector {
        TrafficSelector {
            start: start.into(),
            end: end.into(),
            protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
        }
    }

    fn outbound(child: u64, to: TrafficSelector) -> Arc<OutboundEntry> {
        with_selectors(child, vec![(range([0; 4], [255; 4]), to)])
    }

    fn with_selectors(
        child: u64,
        selectors: Vec<(TrafficSelector, TrafficSelector)>,
    ) -> Arc<OutboundEntry> {
        shared(child, selectors, None)
    }

    fn shared(
        child: u64,
        selectors: Vec<(TrafficSelector, TrafficSelector)>,
        share: Option<Share>,
    ) -> Arc<OutboundEntry> {
        bound(child, selectors, share, InterfaceId::MAIN)
    }

    fn bound(
        child: u64,
        selectors: Vec<(TrafficSelector, TrafficSelector)>,
        share: Option<Share>,
        interface: InterfaceId,
    ) -> Arc<OutboundEntry> {
        let suite = offload_api::sa::Suite::new(
            offload_api::sa::Cipher::Aes128Gcm,
            offload_api::sa::Integrity::None,
        );
        Arc::new(OutboundEntry::new(&OutboundSa {
            spi: Spi::new(0x1000).unwrap(),
            sa: SA,
            selectors: selectors.into(),
            way: Way {
                path: ENDS,
                encapsulation: Encapsulation::Udp,
                overhead: Overhead::of(suite.unwrap(), true),
                stream: None,
            },
            tfc_padding: 0,
            child,
            share,
            interface,
        }))
    }

    fn chosen(policy: &Policy, destination: [u8; 4]) -> Option<u64> {
        chosen_by(policy, destination, 0)
    }

    fn chosen_by(policy: &Policy, destination: [u8; 4], worker: usize) -> Option<u64> {
        let facts = Facts {
            source: [10, 0, 0, 1].into(),
            destination: destination.into(),
            protocol: 17,
            ports: None,
            ..Facts::of(&[
                0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
            ])
            .unwrap()
        };
        policy
            .outbound(InterfaceId::MAIN, &facts, worker)
            .map(|entry| entry.child)
    }

    /// The newest that fits, however it is found: the same as looking at all of them.
    #[test]
    fn among_thousands_the_newest_that_fits_is_used() {
        let policy = Policy::default();
        let selectors = |child: u64| {
            let [.., a, b] = (child as u32 / 2).to_be_bytes();
            match child % 5 {
                0 => range([10, a, 0, 0], [10, a, 255, 255]),
                // No network.
                1 if child % 100 == 1 => range([10, a, b, 3], [10, a, b, 77]),
                2 => range([10, 0, 0, 0], [10, 255, 255, 255]),
                _ => range([10, a, b, 9], [10, a, b, 9]),
            }
        };
        let count = 2000;
        let all: Vec<_> = (0..count).map(|n| outbound(n, selectors(n))).collect();
        let mut there: Vec<bool> = vec![false; all.len()];
        let compare = |policy: &Policy, there: &[bool]| {
            for destination in [
                [10, 0, 5, 9],
                [10, 2, 77, 9],
                [10, 3, 0, 1],
                [10, 1, 3, 10],
                [11, 0, 0, 1],
            ] {
                let to = IpAddr::from(destination);
                let by_hand = (0..count).rev().find(|n| {
                    let selector = selectors(*n);
                    there[*n as usize] && (selector.start..=selector.end).contains(&to)
                });
                assert_eq!(chosen(policy, destination), by_hand, "{to}");
            }
        };
        for (n, entry) in all.iter().enumerate() {
            policy.add_outbound(entry);
            there[n] = true;
            if n % 97 == 0 || n < 20 {
                compare(&policy, &there);
            }
        }
        for n in (0..all.len()).filter(|n| n % 3 != 0) {
            let removed = policy.remove_outbound(n as u64).unwrap();
            assert!(Arc::ptr_eq(&removed, &all[n]));
            there[n] = false;
            if n % 97 == 0 || n > all.len() - 20 {
                compare(&policy, &there);
            }
        }
        for n in (0..all.len()).filter(|n| n % 3 == 0) {
            policy.remove_outbound(n as u64).unwrap();
        }
        assert_eq!(chosen(&policy, [10, 0, 5, 9]), None);
        assert!(policy.outbound.lengths.load().is_empty());
        // Nothing keeps one that was taken out.
        assert!(all.iter().all(is_drained));
    }

    /// B21: each worker has its own of those for the same traffic, and the first as long as it has none;
    /// other SAs do not come in between, however many there are.
    #[test]
    fn each_worker_sends_through_its_own_sa() {
        for others in [0, 50] {
            let policy = Policy::default();
            for n in 0..others {
                policy.add_outbound(&outbound(
                    1000 + n,
                    range([11, 0, n as u8, 0], [11, 0, n as u8, 255]),
                ));
            }
            let to = || {
                vec![(
                    range([0; 4], [255; 4]),
                    range([10, 2, 0, 0], [10, 2, 255, 255]),
                )]
            };
            let share = |group, worker| Some(Share { group, worker });
            let by_workers = |policy: &Policy| -> Vec<_> {
                let workers = 0..4;
                workers
                    .map(|worker| chosen_by(policy, [10, 2, 0, 1], worker).unwrap_or(0))
                    .collect()
            };
            policy.add_outbound(&shared(1, to(), share(7, 0)));
            assert_eq!(by_workers(&policy), [1, 1, 1, 1]);
            policy.add_outbound(&shared(2, to(), share(7, 1)));
            policy.add_outbound(&shared(3, to(), share(7, 3)));
            // Of a peer with more workers than we have: nobody sends through it.
            policy.add_outbound(&shared(4, to(), share(7, 9)));
            assert_eq!(by_workers(&policy), [1, 2, 1, 3]);
            // Rekeyed, and its predecessor gone.
            policy.add_outbound(&shared(5, to(), share(7, 1)));
            assert_eq!(by_workers(&policy), [1, 5, 1, 3]);
            policy.remove_outbound(2).unwrap();
            assert_eq!(by_workers(&policy), [1, 5, 1, 3]);
            // One of another configuration for the same traffic is newer: it takes over as a whole.
            policy.add_outbound(&shared(6, to(), None));
            assert_eq!(by_workers(&policy), [6, 6, 6, 6]);
            policy.add_outbound(&shared(8, to(), share(8, 0)));
            policy.add_outbound(&shared(9, to(), share(8, 2)));
            assert_eq!(by_workers(&policy), [8, 8, 9, 8]);
            for gone in [6, 8, 9] {
                policy.remove_outbound(gone).unwrap();
            }
            // Without the first one, better another worker's than none.
            policy.remove_outbound(1).unwrap();
            assert_eq!(by_workers(&policy), [5, 5, 5, 5]);
        }
    }

    fn address(v6: bool, host: u16) -> IpAddr {
        match v6 {
            false => IpAddr::from((0x0a00_0000 + u32::from(host)).to_be_bytes()),
            true => IpAddr::from((0x2001_0db8 << 96 | u128::from(host)).to_be_bytes()),
        }
    }

    /// A family whose hosts are few, so that packets meet selectors and selectors one another.
    fn host() -> impl Strategy<Value = (bool, u16)> {
        (any::<bool>(), 0_u16..1024)
    }

    fn selector() -> impl Strategy<Value = TrafficSelector> {
        let shorter = prop_oneof![Just(0_u8), 1..12_u8, Just(16), Just(32)];
        let width = prop_oneof![Just(None), (1_u16..80).prop_map(Some)];
        let ports = prop_oneof![
            3 => Just((0, u16::MAX)),
            1 => (0_u16..4).prop_map(|port| (port, port)),
            1 => Just((1, 3)),
            // OPAQUE (RFC 4301 §4.4.1.2).
            1 => Just((u16::MAX, 0)),
        ];
        let protocol = prop_oneof![3 => Just(0_u8), 1 => Just(6), 1 => Just(17)];
        (host(), shorter, width, protocol, ports).prop_map(
            |((v6, host), shorter, width, protocol, (start_port, end_port))| {
                let bits = if v6 { 128 } else { 32 } - shorter;
                let (start, end) = match (width, network(address(v6, host), bits).unwrap()) {
                    (Some(width), _) => (address(v6, host), address(v6, host + width)),
                    (None, IpNet::V4(net)) => (net.network().into(), net.broadcast().into()),
                    (None, IpNet::V6(net)) => (net.network().into(), net.broadcast().into()),
                };
                TrafficSelector {
                    start,
                    end,
                    protocol,
                    start_port,
                    end_port,
                }
            },
        )
    }

    fn packet() -> impl Strategy<Value = Facts> {
        let ports = proptest::option::of((0_u16..5, 0_u16..5));
        let protocol = prop_oneof![Just(1_u8), Just(6), Just(17)];
        (host(), 0_u16..1024, protocol, ports).prop_map(|((v6, to), from, protocol, ports)| Facts {
            source: address(v6, from),
            destination: address(v6, to),
            protocol,
            ports,
            ..Facts::of(&[
                0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
            ])
            .unwrap()
        })
    }

    /// One selector in two lets every source pass: else few packets would meet any.
    fn pair() -> impl Strategy<Value = (TrafficSelector, TrafficSelector)> {
        (selector(), selector(), any::<bool>()).prop_map(|(mut from, to, anybody)| {
            if anybody {
                let v6 = to.start.is_ipv6();
                from.start = if v6 { [0; 16].into() } else { [0; 4].into() };
                from.end = if v6 {
                    [255; 16].into()
                } else {
                    [255; 4].into()
                };
            }
            (from, to)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// RFC 4301 §4.4.1's ordered database, newest first: whatever is indexed, the SA is the one that
        /// looking at all of them in that order gives, by addresses of both families, protocol and ports.
        #[test]
        fn the_index_gives_what_looking_at_all_gives(
            selectors in vec((vec(pair(), 0..4), any::<Index>(), 0_u8..4), 1..70),
            packets in vec(packet(), 40),
        ) {
            let policy = Policy::default();
            let mut linear: Vec<Arc<OutboundEntry>> = Vec::new();
            let compare = |linear: &[Arc<OutboundEntry>]| {
                for facts in &packets {
                    let by_hand = linear.iter().rev().find(|entry| entry.takes(facts));
                    let found = policy.outbound(InterfaceId::MAIN, facts, 0);
                    prop_assert_eq!(
                        found.map(|entry| entry.child),
                        by_hand.map(|entry| entry.child),
                        "{:?}",
                        facts
                    );
                }
                Ok(())
            };
            for (child, (selectors, gone, step)) in (0..).zip(selectors) {
                let entry = with_selectors(child, selectors);
                policy.add_outbound(&entry);
                linear.push(entry);
                if step == 0 {
                    let gone = linear.remove(gone.index(linear.len()));
                    let removed = policy.remove_outbound(gone.child);
                    prop_assert!(removed.is_some_and(|removed| Arc::ptr_eq(&removed, &gone)));
                }
                if step < 2 {
                    compare(&linear)?;
                }
            }
            compare(&linear)?;
        }
    }

    /// The one that leaves is in the index and the one that comes in the list, or the other way round: a
    /// packet meanwhile goes through one of them.
    #[test]
    fn a_packet_finds_an_sa_while_it_is_replaced() {
        let policy = Policy::default();
        let to = range([10, 0, 0, 9], [10, 0, 0, 9]);
        // No network, and so in the list.
        let wide = range([10, 0, 0, 3], [10, 0, 0, 77]);
        (0..8).for_each(|child| policy.add_outbound(&outbound(child, range([11; 4], [11; 4]))));
        policy.add_outbound(&outbound(100, to));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut missed = 0;
                while !done.load(Ordering::Relaxed) {
                    missed += u64::from(chosen(&policy, [10, 0, 0, 9]).is_none());
                }
                missed
            });
            for child in 101..20_000 {
                let to = if child % 2 == 0 { to } else { wide };
                policy.add_outbound(&outbound(child, to));
                policy.remove_outbound(child - 1);
            }
            done.store(true, Ordering::Relaxed);
            assert_eq!(reader.join().unwrap(), 0);
        });
    }

    /// B42: of the same selectors, the interface decides.
    #[test]
    fn packets_go_through_sas_of_their_interface_alone() {
        let [blue, red, grey] = [1, 2, 3].map(InterfaceId::numbered);
        let all = || {
            let all = range([0; 4], [255; 4]);
            vec![(all, all)]
        };
        let policy = Policy::default();
        let facts = Facts::of(&[
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
        ])
        .unwrap();
        let chosen = |from| policy.outbound(from, &facts, 0).map(|entry| entry.child);
        policy.add_outbound(&bound(1, all(), None, blue));
        policy.add_outbound(&bound(2, all(), None, red));
        assert_eq!(policy.come(), 2);
        let seen = [blue, red, grey, InterfaceId::MAIN].map(chosen);
        assert_eq!(seen, [Some(1), Some(2), None, None]);
        policy.add_outbound(&bound(3, all(), None, blue));
        policy.add_outbound(&outbound(4, range([0; 4], [255; 4])));
        let seen = [blue, red, grey, InterfaceId::MAIN].map(chosen);
        assert_eq!(seen, [Some(3), Some(2), None, Some(4)]);
        policy.remove_outbound(3);
        assert_eq!(chosen(blue), Some(1));
        policy.set_traps(vec![Trap {
            interface: grey,
            local: all()[0].0,
            remote: all()[0].1,
        }]);
        assert!(policy.traps(grey, &facts) && !policy.traps(blue, &facts));
        policy.forget_interface(red);
        assert_eq!(chosen(red), None);
        assert!(policy.remove_outbound(2).is_some());
    }

    #[test]
    fn a_removed_entry_is_drained_when_nobody_holds_it() {
        let entry = Arc::new(InboundEntry::new(&InboundSa {
            spi: Spi::new(0x1000).unwrap(),
            sa: SA,
            selectors: Arc::default(),
            remote: ENDS.1,
            transport: None,
            original: None,
            child: 9,
            interface: InterfaceId::MAIN,
        }));
        let policy = Policy::default();
        policy.add_inbound(&entry);
        let flight = policy.inbound(0x1000);
        drop(policy.remove_inbound(entry.spi));
        assert!(policy.inbound(0x1000).is_none());
        assert!(policy.inbound_of(9).is_none());
        assert!(!is_drained(&entry));
        drop(flight);
        assert!(is_drained(&entry));
    }
}
