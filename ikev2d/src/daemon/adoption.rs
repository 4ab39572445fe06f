// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs of an earlier process of this daemon that the accelerator still carries. Their IKE SAs are gone
//! with their keys, so this one sets them up again, and each child that comes takes its predecessor's
//! place: make before break. What nobody has taken the place of after a while is retired.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use offload_api::cache::SaName;
use offload_api::device::Accelerator;
use offload_api::failover::Adopted;
use offload_api::sa::Direction;

use super::Daemon;
use crate::install;

/// How long it takes packets that the peer has sent before it knew the successor.
const LINGER: Duration = Duration::from_secs(5);

/// What was adopted and has not gone yet.
#[derive(Default)]
pub(super) struct Adoption {
    orphans: Vec<Orphan>,
}

struct Orphan {
    adopted: Adopted,
    /// When it goes.
    until: Instant,
    /// Its successor is there.
    succeeded: bool,
}

impl Adoption {
    /// Each waits so long for its successor.
    pub(super) fn new(adopted: Vec<Adopted>, grace: Duration) -> Self {
        let until = Instant::now() + grace;
        let orphan = |adopted| Orphan {
            adopted,
            until,
            succeeded: false,
        };
        Self {
            orphans: adopted.into_iter().map(orphan).collect(),
        }
    }

    /// How many have no successor yet.
    pub(super) fn waiting(&self) -> usize {
        self.orphans.iter().filter(|o| !o.succeeded).count()
    }
}

impl Daemon {
    /// Sets up again what there was when the earlier process died, beside what is set up at every start.
    pub(super) fn start_adopted(&mut self) {
        if self.adoption.orphans.is_empty() {
            return;
        }
        let lost: HashSet<SaName> = self
            .adoption
            .orphans
            .iter()
            .map(|orphan| orphan.adopted.entry.name)
            .collect();
        let peers: BTreeSet<IpAddr> = self
            .adoption
            .orphans
            .iter()
            .filter(|orphan| orphan.adopted.entry.direction == Direction::Outbound)
            .map(|orphan| orphan.adopted.entry.destination)
            .collect();
        tracing::info!(
            sas = self.adoption.orphans.len(),
            ?peers,
            "the accelerator goes on with SAs of an earlier process"
        );
        let connections = self.endpoint.connections().to_vec();
        for connection in connections {
            for child in &connection.children {
                if !lost.contains(&install::name(&connection.name, &child.name))
                    || self.starts(&connection.name, &child.name)
                {
                    continue;
                }
                if let Err(error) = self.initiate(&connection.name, Some(&child.name)) {
                    // The peer will have to: its liveness checks get no answer.
                    tracing::warn!(connection = connection.name, child = child.name, %error, "is not set up again");
                }
            }
        }
    }

    /// A child is there: it has taken its predecessors' place.
    pub(super) fn succeed(&mut self, connection: &str, child: &str) {
        let name = install::name(connection, child);
        let now = Instant::now();
        for orphan in &mut self.adoption.orphans {
            let entry = &orphan.adopted.entry;
            if orphan.succeeded || entry.name != name {
                continue;
            }
            orphan.succeeded = true;
            orphan.until = match entry.direction {
                // One that lingers since an earlier restart has had its time.
                Direction::Inbound if !orphan.adopted.dying => now + LINGER,
                Direction::Inbound | Direction::Outbound => now,
            };
            let _ = self.devices.failover.replace(orphan.adopted.sa);
        }
        self.retire_orphans(now);
    }

    /// Retires those whose time has come.
    pub(super) fn retire_orphans(&mut self, now: Instant) {
        let failover = &self.devices.failover;
        self.adoption.orphans.retain(|orphan| {
            if now < orphan.until {
                return true;
            }
            let Adopted { sa, entry, .. } = &orphan.adopted;
            let retired = failover.retire(*sa);
            let (spi, direction) = (entry.spi, entry.direction);
            if orphan.succeeded {
                tracing::info!(%spi, ?direction, ?retired, "adopted SA has a successor: retired");
            } else {
                tracing::warn!(%spi, ?direction, ?retired, "adopted SA has found no successor: retired");
            }
            false
        });
    }
}
