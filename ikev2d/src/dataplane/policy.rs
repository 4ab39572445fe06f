// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a packet goes through: the entries of the policy, and what each has seen.

mod shards;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offload_api::sa::{SaHandle, Spi, TrafficSelector};
use offload_api::wire::ip::Facts;

use super::mtu::PathMtu;
use super::{InboundSa, InterfaceId, OutboundSa, Selectors, Share, Way};
pub(super) use table::Policy;

/// An SA that is received through.
#[derive(Debug)]
pub struct InboundEntry {
    pub(super) sa: SaHandle,
    pub(super) spi: Spi,
    pub(super) child: u64,
    pub(super) interface: InterfaceId,
    pub(super) transport: Option<IpAddr>,
    /// In a box, as all that few have.
    pub(super) original: Option<Box<(IpAddr, IpAddr)>>,
    selectors: Selectors,
    whereabouts: Mutex<Whereabouts>,
    traffic: Traffic,
}

/// Where the peer sends from.
#[derive(Debug)]
struct Whereabouts {
    /// Where packets are sent to.
    known: SocketAddr,
    /// Highest sequence number so far: an older packet may have been under way since before a move.
    newest: u64,
    /// Another place that was told of, and when.
    told: Option<Box<(SocketAddr, Instant)>>,
}

/// How long a move that was told of is not told of again.
const TOLD_PAUSE: Duration = Duration::from_secs(1);

/// An SA that is sent through.
#[derive(Debug)]
pub struct OutboundEntry {
    pub(super) sa: SaHandle,
    pub(super) child: u64,
    pub(super) interface: InterfaceId,
    selectors: Selectors,
    way: Mutex<Way>,
    share: Option<Box<Share>>,
    path_mtu: Mutex<PathMtu>,
    /// Octets that an inner packet may have.
    limit: AtomicUsize,
    /// Octets that one is padded to; 0 is none.
    pub(super) tfc_padding: u16,
    traffic: Traffic,
}

/// What an entry has carried.
#[derive(Debug, Default)]
struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    fn count(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (
            self.packets.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Whether a packet goes from one of a pair's sides to the other.
fn fits<'a>(
    mut pairs: impl Iterator<Item = (&'a TrafficSelector, &'a TrafficSelector)>,
    facts: &Facts,
) -> bool {
    let (source_port, destination_port) =
        facts.ports.map_or((None, None), |(source, destination)| {
            (Some(source), Some(destination))
        });
    pairs.any(|(from, to)| {
        from.contains(facts.source, facts.protocol, source_port)
            && to.contains(facts.destination, facts.protocol, destination_port)
    })
}

/// Whether an entry that was taken out of the policy is used by no packet any more: whoever asks
/// holds the last reference.
pub fn is_drained<E>(entry: &Arc<E>) -> bool {
    Arc::strong_count(entry) == 1
}

impl InboundEntry {
    pub(super) fn new(sa: &InboundSa) -> Self {
        Self {
            sa: sa.sa,
            spi: sa.spi,
            child: sa.child,
            interface: sa.interface,
            transport: sa.transport,
            original: sa.original.map(Box::new),
            selectors: sa.selectors.clone(),
            whereabouts: Mutex::new(Whereabouts {
                known: sa.remote,
                newest: 0,
                told: None,
            }),
            traffic: Traffic::default(),
        }
    }

    /// Whether an opened packet may come through this SA.
    pub(super) fn permits(&self, facts: &Facts) -> bool {
        let from_peer = self.selectors.iter().map(|(ours, peers)| (peers, ours));
        fits(from_peer, facts)
    }

    /// The peer is there from now on.
    pub(super) fn follow(&self, remote: SocketAddr) {
        let mut seen = self.whereabouts();
        (seen.known, seen.told) = (remote, None);
    }

    /// Notes where an authenticated packet came from; the child, if its peer seems to have moved
    /// and that is to be told.
    pub(super) fn came_from(&self, remote: SocketAddr, sequence: u64, now: Instant) -> Option<u64> {
        let mut seen = self.whereabouts();
        if sequence <= seen.newest {
            return None;
        }
        seen.newest = sequence;
        if seen.known == remote {
            seen.told = None;
            return None;
        }
        let lately = |told: &(SocketAddr, Instant)| {
            told.0 == remote && now.saturating_duration_since(told.1) < TOLD_PAUSE
        };
        if seen.told.as_deref().is_some_and(lately) {
            return None;
        }
        seen.told = Some(Box::new((remote, now)));
        Some(self.child)
    }

    /// A move was told of and not heard: the next packet tells again.
    pub(super) fn was_not_heard(&self) {
        self.whereabouts().told = None;
    }

    fn whereabouts(&self) -> MutexGuard<'_, Whereabouts> {
        self.whereabouts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.traffic.count(bytes);
    }

    /// Packets and octets so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.traffic.read()
    }
}

impl OutboundEntry {
    pub(super) fn new(sa: &OutboundSa) -> Self {
        Self {
            sa: sa.sa,
            child: sa.child,
            interface: sa.interface,
            selectors: sa.selectors.clone(),
            way: Mutex::new(sa.way.clone()),
            share: sa.share.map(Box::new),
            path_mtu: Mutex::default(),
            limit: AtomicUsize::new(usize::MAX),
            tfc_padding: sa.tfc_padding,
            traffic: Traffic::default(),
        }
    }

    /// Whether a packet may go through this SA.
    pub(super) fn takes(&self, facts: &Facts) -> bool {
        let from_us = self.selectors.iter().map(|(ours, peers)| (ours, peers));
        fits(from_us, facts)
    }

    /// Which part of its traffic it carries, if not all.
    pub(super) fn share(&self) -> Option<Share> {
        self.share.as_deref().copied()
    }

    /// Where packets may go that it takes.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &TrafficSelector> {
        self.selectors.iter().map(|(_, to)| to)
    }

    /// Its packets go this way from now on.
    pub(super) fn follow(&self, way: &Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way.clone();
        // What is known of the way before is no use for this one.
        *self.path_mtu.lock().unwrap_or_else(PoisonError::into_inner) = PathMtu::default();
    }

    pub(super) fn way(&self) -> Way {
        self.way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Octets that an inner packet may have to fit the path whole, as far as is known.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Asks the kernel for the path's MTU, if it was not asked lately.
    pub(super) fn look_at_path(&self, now: Instant) {
        // Another worker is asking.
        let Ok(mut path_mtu) = self.path_mtu.try_lock() else {
            return;
        };
        if let Some(limit) = path_mtu.ask(|| self.way(), now) {
            self.limit.store(limit, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, bytes: usize) {
        self.traffic.count(bytes);
    }

    /// Packets and octets so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.traffic.read()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use offload_api::sa::SaHandle;

    use super::*;

    const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4500);
    const THERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 61000);
    const SA: SaHandle = SaHandle {
        index: 1,
        generation: 1,
    };

    fn inbound(selectors: Vec<(TrafficSelector, TrafficSelector)>) -> InboundEntry {
        InboundEntry::new(&InboundSa {
            spi: Spi::new(0x1000).unwrap(),
            sa: SA,
            selectors: selectors.into_iter().map(|(from, to)| (to, from)).collect(),
            remote: HERE,
            transport: None,
            original: None,
            child: 9,
            interface: InterfaceId::MAIN,
        })
    }

    fn selector(network: [u8; 4], protocol: u8, port: Option<u16>) -> TrafficSelector {
        let [a, b, c, _] = network;
        TrafficSelector {
            start: IpAddr::from(network),
            end: IpAddr::from([a, b, c, 255]),
            protocol,
            start_port: port.unwrap_or(0),
            end_port: port.unwrap_or(u16::MAX),
        }
    }

    fn facts(source: [u8; 4], destination: [u8; 4], ports: Option<(u16, u16)>) -> Facts {
        Facts {
            source: source.into(),
            destination: destination.into(),
            protocol: 17,
            ports,
            ..Facts::of(&[
                0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
            ])
            .unwrap()
        }
    }

    /// S89.
    #[test]
    fn an_sa_without_selectors_carries_nothing() {
        let packet = facts([10, 0, 0, 1], [10, 0, 1, 1], None);
        assert!(!inbound(Vec::new()).permits(&packet));
    }

    /// S89, S92: what came through an SA passes by its selectors alone, and nothing else is sent through it.
    #[test]
    fn selectors_hold_for_both_sides_protocol_and_ports() {
        let pair = (
            selector([10, 0, 0, 0], 17, None),
            selector([10, 0, 1, 0], 17, Some(53)),
        );
        let entry = inbound(vec![pair]);
        assert!(entry.permits(&facts([10, 0, 0, 9], [10, 0, 1, 9], Some((1234, 53)))));
        assert!(!entry.permits(&facts([10, 0, 0, 9], [10, 0, 1, 9], Some((1234, 54)))));
        assert!(!entry.permits(&facts([10, 0, 0, 9], [10, 0, 1, 9], None)));
        assert!(!entry.permits(&facts([10, 0, 1, 9], [10, 0, 0, 9], Some((53, 53)))));
    }

    #[test]
    fn a_move_is_told_until_it_is_heard_and_followed() {
        let (entry, now) = (inbound(Vec::new()), Instant::now());
        assert_eq!(entry.came_from(HERE, 1, now), None);
        assert_eq!(entry.came_from(THERE, 2, now), Some(9));
        entry.was_not_heard();
        assert_eq!(entry.came_from(THERE, 3, now), Some(9));
        // Heard, and on its way.
        assert_eq!(entry.came_from(THERE, 4, now), None);
        // Heard, and lost on its way.
        assert_eq!(entry.came_from(THERE, 5, now + TOLD_PAUSE), Some(9));
        entry.follow(THERE);
        assert_eq!(entry.came_from(THERE, 6, now + TOLD_PAUSE * 3), None);
    }

    #[test]
    fn a_packet_from_before_a_move_does_not_move_the_peer_back() {
        let (entry, now) = (inbound(Vec::new()), Instant::now());
        assert_eq!(entry.came_from(THERE, 8, now), Some(9));
        entry.follow(THERE);
        assert_eq!(entry.came_from(HERE, 7, now), None);
        assert_eq!(entry.came_from(HERE, 8, now), None);
        // A newer one does.
        assert_eq!(entry.came_from(HERE, 9, now), Some(9));
    }
}
