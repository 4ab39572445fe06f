// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scrape of the metrics needs of the daemon's task: a copy of what it has, and no more.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use ikev2d_proto::config::Version;
use ikev2d_proto::event::ChildSa;

use super::Daemon;
use crate::metrics::{ChildSnapshot, ConnectionSnapshot, Scrape, Snapshot, Traffic};

/// Connecting and established IKE SAs.
type States = (usize, usize);

impl Daemon {
    /// Answers a scrape.
    pub(super) fn scrape(&mut self, scrape: Scrape) {
        self.counts.scrapes += 1;
        // Who has hung up needs none.
        let _ = scrape.send(self.snapshot());
    }

    fn snapshot(&self) -> Snapshot {
        let begun = Instant::now();
        let series = self.series();
        let mut states: HashMap<&str, States> = HashMap::new();
        let mut sas: HashMap<(&str, &str), usize> = HashMap::new();
        let mut children = Vec::new();
        let traffic = self.plane.all_traffic();
        let mut carried: BTreeMap<_, [Traffic; 2]> = BTreeMap::new();
        let listed = self.endpoint.connections().iter().take(series);
        let listed: Vec<_> = listed.collect();
        // An inline card is asked for each SA: too slow for sums over all.
        let summed = listed.iter().filter(|_| !self.plane.is_inline());
        for connection in summed {
            for child in &connection.children {
                let key = (connection.name.clone(), child.name.clone());
                let gone = self.counts.carried.get(&key).copied().unwrap_or_default();
                carried.insert(key, gone);
            }
        }
        for sa in self.endpoint.ike_sas() {
            let state = states.entry(sa.connection).or_default();
            match sa.state {
                "CONNECTING" => state.0 += 1,
                "ESTABLISHED" => state.1 += 1,
                _ => {}
            }
            for info in &sa.children {
                let child = info.sa;
                let key = (child.connection.to_string(), child.child.to_string());
                if let Some(sums) = carried.get_mut(&key)
                    && let Some(ways) = traffic.get(&child.id.0)
                {
                    for (sum, more) in sums.iter_mut().zip(ways) {
                        sum.add((*more).into());
                    }
                }
                let count = sas.entry((sa.connection, &*child.child));
                *count.or_default() += usize::from(info.state == "INSTALLED");
                if children.len() < series {
                    children.push(self.child_snapshot(child));
                }
            }
        }
        let connections = listed.iter().map(|connection| {
            let name = connection.name.as_str();
            let (connecting, established) = states.get(name).copied().unwrap_or_default();
            let of = |child: &str| sas.get(&(name, child)).copied().unwrap_or_default();
            let children = connection.children.iter();
            ConnectionSnapshot {
                name: name.to_owned(),
                version: match connection.version {
                    Version::V1 => "1",
                    Version::V2 => "2",
                    Version::Either => "1/2",
                },
                connecting,
                established,
                children: children.map(|c| (c.name.clone(), of(&c.name))).collect(),
            }
        });
        let now = SystemTime::now();
        let mut counts = self.counts.clone();
        counts.carried = carried;
        Snapshot {
            started: now.checked_sub(self.started.elapsed()).unwrap_or(now),
            stats: self.endpoint.stats(),
            notified: self.endpoint.notified(),
            counts,
            legacy: self.listed.legacy(),
            fetched: self.config.credentials.fetched(),
            plane: self.plane_statistics(),
            connections: connections.collect(),
            configured: self.endpoint.connections().len(),
            children,
            failover: self.devices.failover.clone(),
            held_up: begun.elapsed(),
        }
    }

    fn child_snapshot(&self, child: &ChildSa) -> ChildSnapshot {
        let (inbound, outbound) = self.installer.handles(child.id);
        ChildSnapshot {
            connection: child.connection.to_string(),
            child: child.child.to_string(),
            id: child.id.0,
            inbound,
            outbound,
        }
    }

    /// A child SA goes: what it has carried counts on.
    pub(super) fn count_carried(&mut self, sa: &ChildSa, traffic: ((u64, u64), (u64, u64))) {
        // Connections that clients load and unload must not pile up.
        let mut known = self.endpoint.connections().iter().take(self.series());
        if !self.plane.is_inline() && known.any(|known| *known.name == *sa.connection) {
            let key = (sa.connection.to_string(), sa.child.to_string());
            let [inbound, outbound] = self.counts.carried.entry(key).or_default();
            inbound.add(traffic.0.into());
            outbound.add(traffic.1.into());
        }
    }

    /// Connections, and child SAs, that have series of their own.
    fn series(&self) -> usize {
        let metrics = self.config.daemon.metrics.as_ref();
        metrics.map_or(0, |metrics| metrics.series)
    }
}
