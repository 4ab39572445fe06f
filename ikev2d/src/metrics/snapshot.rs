// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon's task copies for a scrape.

use std::time::{Duration, SystemTime};

use ikev2d_proto::endpoint::Stats;
use ikev2d_proto::notified::Notified;
use offload_api::failover::Failover;
use offload_api::sa::SaHandle;

use super::Counts;

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

impl From<(u64, u64)> for Traffic {
    fn from((packets, bytes): (u64, u64)) -> Self {
        Self { packets, bytes }
    }
}

/// The daemon at one moment.
pub(crate) struct Snapshot {
    pub(crate) started: SystemTime,
    pub(crate) stats: Stats,
    pub(crate) notified: Notified,
    pub(crate) counts: Counts,
    /// SAs set up with algorithms of another time.
    pub(crate) legacy: u64,
    /// What revocation has fetched, by kind: of use, and of no use.
    pub(crate) fetched: [(&'static str, (u64, u64)); 2],
    /// The data plane's counters by name.
    pub(crate) plane: Vec<(String, u64)>,
    /// All that are configured, as far as they may have series.
    pub(crate) connections: Vec<ConnectionSnapshot>,
    /// All that are configured.
    pub(crate) configured: usize,
    /// As far as they may have series.
    pub(crate) children: Vec<ChildSnapshot>,
    /// The engines, which are asked later.
    pub(crate) failover: Failover,
    /// How long it took to copy all this.
    pub(crate) held_up: Duration,
}

/// A configured connection.
pub(crate) struct ConnectionSnapshot {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) connecting: usize,
    pub(crate) established: usize,
    /// Configured children, and how many SAs each has.
    pub(crate) children: Vec<(String, usize)>,
}

/// A child SA.
pub(crate) struct ChildSnapshot {
    pub(crate) connection: String,
    pub(crate) child: String,
    pub(crate) id: u64,
    pub(crate) inbound: Option<SaHandle>,
    pub(crate) outbound: Option<SaHandle>,
}
