// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs on their way out: packets that are under way still use them.

use std::time::{Duration, Instant};

use ikev2d_proto::event::ChildSa;
use offload_api::device::Accelerator;
use offload_api::failover::Failover;
use offload_api::sa::{SaHandle, Spi};

use crate::plane::{Plane, Removed};

/// How long a removed SA still takes packets that are on their way.
const LINGER: Duration = Duration::from_secs(1);
/// How long its peer waits for an answer until the last packets through it are sent.
const LAST_PACKETS: Duration = Duration::from_millis(20);
/// How long packets inside the data plane may take to leave an SA that is to be retired.
const DRAIN: Duration = Duration::from_secs(5);
/// Between looks at that.
const DRAIN_TICK: Duration = Duration::from_millis(2);

/// A child that is retired: first nothing is sent through it any more, then it takes late packets for
/// a moment, then nothing is received through it.
pub(super) struct Leaving {
    sending: Drain,
    outbound: Option<SaHandle>,
    inbound: SaHandle,
    spi: Option<Spi>,
    /// Until when it takes what is on its way.
    until: Option<Instant>,
    receiving: Option<Drain>,
}

impl Leaving {
    /// Nothing is sent through it from now on.
    pub(super) fn new(
        plane: &Plane,
        sa: &ChildSa,
        (inbound, outbound): (SaHandle, Option<SaHandle>),
        now: Instant,
    ) -> Self {
        Self {
            sending: Drain {
                removed: plane.remove_outbound(sa.id.0),
                since: now,
            },
            outbound,
            inbound,
            spi: Spi::new(sa.spi_in),
            until: None,
            receiving: None,
        }
    }

    /// Whether packets are on their way through it.
    pub(super) fn is_sending(&self) -> bool {
        !self.sending.removed.is_drained()
    }

    /// Goes on with it; whether there is more to do.
    pub(super) fn goes_on(&mut self, plane: &Plane, failover: &Failover, now: Instant) -> bool {
        let Some(until) = self.until else {
            if self.sending.is_over(now) {
                if let Some(outbound) = self.outbound {
                    let _ = failover.retire(outbound);
                }
                self.sending.removed = Removed::Nothing;
                self.until = Some(now + LINGER);
            }
            return true;
        };
        if now < until {
            return true;
        }
        let spi = self.spi;
        let receiving = self.receiving.get_or_insert_with(|| Drain {
            removed: spi.map_or(Removed::Nothing, |spi| plane.remove_inbound(spi)),
            since: now,
        });
        if !receiving.is_over(now) {
            return true;
        }
        let _ = failover.retire(self.inbound);
        false
    }
}

/// Waits a moment until nothing is on its way through any of them.
pub(super) async fn sent(leaving: &[Leaving]) {
    let start = tokio::time::Instant::now();
    while leaving.iter().any(Leaving::is_sending) {
        if start.elapsed() > LAST_PACKETS {
            tracing::debug!("packets of a removed SA take long; its peer is answered before them");
            return;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

/// An entry that was taken out of the policy and that packets may still use.
struct Drain {
    removed: Removed,
    since: Instant,
}

impl Drain {
    /// Whether no packet uses it any more, or it has been waited for long enough.
    fn is_over(&self, now: Instant) -> bool {
        if self.removed.is_drained() {
            return true;
        }
        let stuck = now.saturating_duration_since(self.since) > DRAIN;
        if stuck {
            tracing::warn!("packets of a removed SA are stuck; it is retired under them");
        }
        stuck
    }
}

/// Waits until no packet uses an entry that was taken out of the policy.
pub(crate) async fn drained(removed: Removed) {
    let start = tokio::time::Instant::now();
    while !removed.is_drained() {
        if start.elapsed() > DRAIN {
            tracing::warn!("packets of a removed SA are stuck; it is retired under them");
            return;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
}
