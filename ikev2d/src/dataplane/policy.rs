// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which SA a packet goes through: an immutable table, replaced as a whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use offload_api::sa::{SaHandle, Spi, TrafficSelector};
use offload_api::wire::ip::Facts;

use super::{Encapsulation, InboundSa, OutboundSa};

/// The table.
#[derive(Clone, Default)]
pub(super) struct Policy {
    inbound: HashMap<u32, Arc<InboundEntry>>,
    /// Newest first.
    outbound: Vec<Arc<OutboundEntry>>,
}

/// An SA that is received through.
#[derive(Debug)]
pub struct InboundEntry {
    pub(super) sa: SaHandle,
    spi: Spi,
    child: u64,
    selectors: Vec<(TrafficSelector, TrafficSelector)>,
    remote: Mutex<SocketAddr>,
    traffic: Traffic,
}

/// An SA that is sent through.
#[derive(Debug)]
pub struct OutboundEntry {
    pub(super) sa: SaHandle,
    child: u64,
    selectors: Vec<(TrafficSelector, TrafficSelector)>,
    path: Mutex<(SocketAddr, SocketAddr)>,
    pub(super) encapsulation: Encapsulation,
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

fn fits(selectors: &[(TrafficSelector, TrafficSelector)], facts: &Facts) -> bool {
    let (source_port, destination_port) =
        facts.ports.map_or((None, None), |(source, destination)| {
            (Some(source), Some(destination))
        });
    selectors.is_empty()
        || selectors.iter().any(|(from, to)| {
            from.contains(facts.source, facts.protocol, source_port)
                && to.contains(facts.destination, facts.protocol, destination_port)
        })
}

impl InboundEntry {
    pub(super) fn new(sa: &InboundSa) -> Self {
        Self {
            sa: sa.sa,
            spi: sa.spi,
            child: sa.child,
            selectors: sa.selectors.clone(),
            remote: Mutex::new(sa.remote),
            traffic: Traffic::default(),
        }
    }

    /// Whether an opened packet may come through this SA.
    pub(super) fn permits(&self, facts: &Facts) -> bool {
        fits(&self.selectors, facts)
    }

    /// Notes where an authenticated packet came from; the child, if that is new.
    pub(super) fn came_from(&self, remote: SocketAddr) -> Option<u64> {
        let mut known = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == remote {
            return None;
        }
        *known = remote;
        Some(self.child)
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
            selectors: sa.selectors.clone(),
            path: Mutex::new(sa.path),
            encapsulation: sa.encapsulation,
            traffic: Traffic::default(),
        }
    }

    pub(super) fn path(&self) -> (SocketAddr, SocketAddr) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.traffic.count(bytes);
    }

    /// Packets and octets so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.traffic.read()
    }
}

impl Policy {
    pub(super) fn outbound(&self, facts: &Facts) -> Option<&Arc<OutboundEntry>> {
        self.outbound
            .iter()
            .find(|entry| fits(&entry.selectors, facts))
    }

    pub(super) fn inbound(&self, spi: u32) -> Option<&Arc<InboundEntry>> {
        self.inbound.get(&spi)
    }

    pub(super) fn with_inbound(&self, entry: Arc<InboundEntry>) -> Self {
        let mut next = self.clone();
        next.inbound.insert(entry.spi.value(), entry);
        next
    }

    pub(super) fn with_outbound(&self, entry: Arc<OutboundEntry>) -> Self {
        let mut next = self.clone();
        next.outbound.insert(0, entry);
        next
    }

    pub(super) fn without_inbound(&self, spi: Spi) -> Self {
        let mut next = self.clone();
        next.inbound.remove(&spi.value());
        next
    }

    pub(super) fn without_outbound(&self, child: u64) -> Self {
        let mut next = self.clone();
        next.outbound.retain(|entry| entry.child != child);
        next
    }

    pub(super) fn move_child(&self, child: u64, path: (SocketAddr, SocketAddr)) {
        for entry in self.outbound.iter().filter(|entry| entry.child == child) {
            *entry.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
        }
    }

    pub(super) fn of_child(
        &self,
        child: u64,
    ) -> (Option<Arc<InboundEntry>>, Option<Arc<OutboundEntry>>) {
        let inbound = self
            .inbound
            .values()
            .find(|entry| entry.child == child)
            .cloned();
        let outbound = self
            .outbound
            .iter()
            .find(|entry| entry.child == child)
            .cloned();
        (inbound, outbound)
    }
}
