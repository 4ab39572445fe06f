// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the data plane counts.

use std::sync::atomic::{AtomicU64, Ordering};

use offload_api::queue::Status;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// What the data plane has done.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DataplaneStats { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(super) fn read(&self) -> DataplaneStats {
                DataplaneStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Packets read from the TUN.
    tun_received,
    /// Packets written to the TUN.
    tun_sent,
    /// ESP packets received.
    esp_received,
    /// ESP packets sent.
    esp_sent,
    /// Outbound packets that no SA fits.
    no_policy,
    /// Inbound packets outside of their SA's selectors (RFC 4301 §5.2).
    selector_mismatch,
    /// Inbound packets with an SPI that nobody has, or whose SA did not come in time, or was waited for by too many.
    unknown_spi,
    /// Inbound packets that waited for their SA until it was there.
    early,
    /// Received packets dropped for want of a frame or room in a queue. What the TUN brings waits in
    /// the kernel then, which counts its own drops at the interface.
    overload,
    /// Packets that came back aborted from a lost device.
    aborted,
    /// Packets that failed their integrity check.
    bad_icv,
    /// Packets refused as replayed or too old.
    replayed,
    /// Packets refused for another reason.
    refused,
    /// Packets that are no IP packets.
    malformed,
    /// Dummy packets (RFC 4303 §2.6), discarded.
    dummies,
    /// Packets that no SA takes, asked for at the daemon's policy.
    acquires,
    /// Packets that waited for the SA they had asked for, and went through it.
    awaited,
    /// Packets that waited for an SA that did not come in time; they count in `no_policy`, too.
    awaited_in_vain,
    /// Packets that a socket or the TUN refused.
    send_errors,
    /// Packets from the TUN that are too large for their SA's path and may not be fragmented.
    too_big,
    /// Those whose senders were told so.
    too_big_answered,
    /// Opened packets without ECN whose outer header told of congestion (RFC 6040 §4.2), dropped.
    ecn_dropped,
    /// SYNs whose segment size was lowered.
    mss_clamped,
    /// NAT keepalives and datagrams that are neither ESP nor IKE.
    ignored,
}

impl Counters {
    pub(crate) fn refusal(&self, status: Status) {
        let counter = match status {
            Status::Aborted => &self.aborted,
            Status::BadIcv => &self.bad_icv,
            Status::Replayed | Status::TooOld => &self.replayed,
            _ => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
