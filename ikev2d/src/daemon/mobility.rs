// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks whether this host has come to another address, and takes IKE SAs along (RFC 4555).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::event::IkeId;

use super::Daemon;
use crate::net;

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);

/// When to look next.
#[derive(Default)]
pub(super) struct Mobility {
    due: Option<Instant>,
}

impl Daemon {
    /// Moves the IKE SAs whose packets would leave from elsewhere by now.
    pub(super) fn look_for_moves(&mut self, now: Instant) {
        if self.mobility.due.is_some_and(|due| now < due) {
            return;
        }
        self.mobility.due = Some(now + EVERY);
        let moved: Vec<(IkeId, IpAddr)> = self
            .endpoint
            .ike_sas()
            .filter(|sa| sa.initiator && sa.mobike && sa.state == "ESTABLISHED")
            .filter_map(|sa| {
                let source = net::source_towards(sa.path.remote)?;
                (source != sa.path.local.ip()).then_some((sa.id, source))
            })
            .collect();
        for (ike, source) in moved {
            tracing::info!(ike = ike.0, from = %source, "moves along with this host's address");
            let _ = self.endpoint.move_to(now, ike, source);
        }
    }
}
