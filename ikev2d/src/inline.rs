// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane that is none: the accelerator moves packets from port to port, and the daemon sets
//! its rules.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use offload_api::device::Accelerator;
use offload_api::error::SaError;
use offload_api::failover::Failover;
use offload_api::inline::{Inline, Port, PortRole, Rule, RuleHandle};
use offload_api::sa::{Amend, OuterHeaders, SaHandle, Spi, UdpEncapsulation};

use crate::dataplane::{InboundSa, OutboundSa, Selectors};

/// Rules of the accelerator, by what they were set for.
pub(crate) struct InlinePlane {
    failover: Failover,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    inbound: HashMap<u32, Entry>,
    /// SPIs of what comes in, by child.
    spis: HashMap<u64, u32>,
    /// By child, older ones first.
    outbound: BTreeMap<u64, Entry>,
}

impl Entries {
    fn inbound_of(&self, child: u64) -> Option<&Entry> {
        self.inbound.get(self.spis.get(&child)?)
    }

    /// All, in an order in which their rules may be set: of those that fit the newest counts.
    fn in_order(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.inbound.values_mut().chain(self.outbound.values_mut())
    }
}

struct Entry {
    sa: SaHandle,
    child: u64,
    selectors: Selectors,
    inbound: bool,
    rules: Vec<RuleHandle>,
}

impl InlinePlane {
    /// For an accelerator in inline mode; nothing where it is not.
    pub(crate) fn new(failover: Failover) -> Option<Self> {
        failover.inline()?;
        Some(Self {
            failover,
            entries: Mutex::default(),
        })
    }

    /// Lets an SA's packets through to the host.
    ///
    /// # Errors
    /// The accelerator refused a rule.
    pub(crate) fn add_inbound(&self, sa: &InboundSa) -> Result<(), SaError> {
        let entry = self.set(sa.sa, sa.child, sa.selectors.clone(), true)?;
        let mut entries = self.entries();
        entries.spis.insert(sa.child, sa.spi.value());
        entries.inbound.insert(sa.spi.value(), entry);
        Ok(())
    }

    /// Leads the host's packets through an SA: the newest counts, so that rekeying switches at once.
    ///
    /// # Errors
    /// The accelerator refused a rule.
    pub(crate) fn add_outbound(&self, sa: &OutboundSa) -> Result<(), SaError> {
        let entry = self.set(sa.sa, sa.child, sa.selectors.clone(), false)?;
        self.entries().outbound.insert(sa.child, entry);
        Ok(())
    }

    pub(crate) fn remove_inbound(&self, spi: Spi) {
        let entry = {
            let mut entries = self.entries();
            let entry = entries.inbound.remove(&spi.value());
            if let Some(entry) = &entry {
                entries.spis.remove(&entry.child);
            }
            entry
        };
        self.unset(entry);
    }

    pub(crate) fn remove_outbound(&self, child: u64) {
        let entry = self.entries().outbound.remove(&child);
        self.unset(entry);
    }

    /// The peer of a child SA is elsewhere.
    pub(crate) fn update_path(&self, child: u64, path: (SocketAddr, SocketAddr), udp: bool) {
        let entries = self.entries();
        let outbound = entries.outbound.get(&child);
        let inbound = entries.inbound_of(child);
        let ends = [(outbound, path), (inbound, (path.1, path.0))];
        for (entry, (source, destination)) in ends {
            let Some(entry) = entry else { continue };
            let outer = outer(source, destination, udp);
            if let Err(error) = self.failover.amend(entry.sa, &Amend::Outer(outer)) {
                tracing::warn!(child, %error, "the accelerator does not follow the peer");
            }
        }
    }

    /// Sets every rule anew in an accelerator that has come back.
    pub(crate) fn restore(&self) {
        for entry in self.entries().in_order() {
            match self.set(
                entry.sa,
                entry.child,
                entry.selectors.clone(),
                entry.inbound,
            ) {
                Ok(fresh) => entry.rules = fresh.rules,
                Err(error) => {
                    tracing::error!(child = entry.child, %error, "rules are not set again");
                }
            }
        }
    }

    /// Packets and octets of a child SA, in and out, by the accelerator's count.
    pub(crate) fn traffic(&self, child: u64) -> ((u64, u64), (u64, u64)) {
        let entries = self.entries();
        let count = |entry: Option<&Entry>| {
            let usage = entry.map(|entry| self.failover.device_usage(entry.sa));
            let usage = usage.and_then(Result::ok).unwrap_or_default();
            (usage.packets, usage.bytes)
        };
        (
            count(entries.inbound_of(child)),
            count(entries.outbound.get(&child)),
        )
    }

    /// What the ports have done.
    pub(crate) fn ports(&self) -> Vec<Port> {
        self.failover.ports().unwrap_or_default()
    }

    fn set(
        &self,
        sa: SaHandle,
        child: u64,
        selectors: Selectors,
        inbound: bool,
    ) -> Result<Entry, SaError> {
        let mut entry = Entry {
            sa,
            child,
            inbound,
            rules: Vec::new(),
            selectors,
        };
        for (ours, peers) in entry.selectors.clone().iter() {
            let (source, destination) = match inbound {
                true => (peers, ours),
                false => (ours, peers),
            };
            // Two address families have nothing in common.
            if source.start.is_ipv4() != destination.start.is_ipv4() {
                continue;
            }
            let rule = Rule {
                sa,
                inbound,
                priority: 0,
                source: *source,
                destination: *destination,
            };
            match self.failover.add_rule(&rule) {
                Ok(rule) => entry.rules.push(rule),
                Err(error) => {
                    self.unset(Some(entry));
                    return Err(error);
                }
            }
        }
        Ok(entry)
    }

    fn unset(&self, entry: Option<Entry>) {
        for rule in entry.into_iter().flat_map(|entry| entry.rules) {
            // Where the accelerator is gone, so is the rule.
            let _ = self.failover.remove_rule(rule);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outer headers of packets from one end to another.
pub(crate) fn outer(source: SocketAddr, destination: SocketAddr, udp: bool) -> OuterHeaders {
    OuterHeaders {
        source: source.ip(),
        destination: destination.ip(),
        udp: udp.then(|| UdpEncapsulation {
            source_port: source.port(),
            destination_port: destination.port(),
        }),
    }
}

/// A port's name in answers.
pub(crate) fn role(role: PortRole) -> &'static str {
    match role {
        PortRole::Wire => "wire",
        PortRole::Host => "host",
        PortRole::Exception => "exception",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A16: in a device that has come back traffic goes through the newest child SA, as before.
    #[test]
    fn rules_are_set_again_from_the_oldest_on() {
        let mut entries = Entries::default();
        let children = [7, 3, 40, 12, 1, 25, 8, 30];
        for child in children {
            let entry = Entry {
                sa: SaHandle {
                    index: 0,
                    generation: 0,
                },
                child,
                selectors: Selectors::default(),
                inbound: false,
                rules: Vec::new(),
            };
            entries.outbound.insert(child, entry);
        }
        let order = entries.in_order().map(|entry| entry.child);
        assert!(order.is_sorted());
    }
}
