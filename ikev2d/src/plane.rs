// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What moves packets: worker threads between a TUN interface and the ESP sockets, or the accelerator
//! itself.

use std::collections::HashMap;
use std::sync::Arc;

use ikev2d_proto::event::StreamId;
use offload_api::error::SaError;
use offload_api::sa::Spi;

use crate::dataplane::{
    Dataplane, DataplaneError, Encapsulation, InboundEntry, InboundSa, InterfaceId, OutboundEntry,
    OutboundSa, Trap, Way, is_drained,
};
use crate::inline::{self, InlinePlane};

/// A data plane. Cloning shares it.
#[derive(Clone)]
pub(crate) enum Plane {
    /// Worker threads.
    Tun(Arc<Dataplane>),
    /// The accelerator, by the name of its host port's interface.
    Inline(Arc<InlinePlane>, Arc<str>),
}

/// An SA that was taken out and may still be in use.
pub(crate) enum Removed {
    Inbound(Arc<InboundEntry>),
    Outbound(Arc<OutboundEntry>),
    Nothing,
}

impl Removed {
    /// Whether no packet uses it any more.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Inbound(entry) => is_drained(entry),
            Self::Outbound(entry) => is_drained(entry),
            Self::Nothing => true,
        }
    }
}

impl Plane {
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(..))
    }

    /// Sockets that read each port of ESP.
    pub(crate) fn sockets_of_port(&self) -> u32 {
        match self {
            Self::Tun(plane) => plane.sockets_of_port(),
            Self::Inline(..) => 1,
        }
    }

    /// Name of the interface for packets in the clear.
    pub(crate) fn interface(&self) -> &str {
        match self {
            Self::Tun(plane) => plane.tun_name(),
            Self::Inline(_, name) => name,
        }
    }

    /// Makes a further interface; an inline card, for which the configuration has none, makes none.
    pub(crate) fn add_interface(
        &self,
        name: &str,
        mtu: u16,
    ) -> Option<Result<InterfaceId, DataplaneError>> {
        match self {
            Self::Tun(plane) => Some(plane.add_interface(name, mtu)),
            Self::Inline(..) => None,
        }
    }

    pub(crate) fn remove_interface(&self, id: InterfaceId) {
        if let Self::Tun(plane) = self {
            plane.remove_interface(id);
        }
    }

    pub(crate) fn add_inbound(&self, sa: &InboundSa) -> Result<(), SaError> {
        match self {
            Self::Tun(plane) => {
                plane.add_inbound(sa);
                Ok(())
            }
            Self::Inline(plane, _) => plane.add_inbound(sa),
        }
    }

    pub(crate) fn add_outbound(&self, sa: &OutboundSa) -> Result<(), SaError> {
        match self {
            Self::Tun(plane) => {
                plane.add_outbound(sa);
                Ok(())
            }
            Self::Inline(plane, _) => plane.add_outbound(sa),
        }
    }

    pub(crate) fn remove_inbound(&self, spi: Spi) -> Removed {
        match self {
            Self::Tun(plane) => plane
                .remove_inbound(spi)
                .map_or(Removed::Nothing, Removed::Inbound),
            Self::Inline(plane, _) => {
                plane.remove_inbound(spi);
                Removed::Nothing
            }
        }
    }

    pub(crate) fn remove_outbound(&self, child: u64) -> Removed {
        match self {
            Self::Tun(plane) => plane
                .remove_outbound(child)
                .map_or(Removed::Nothing, Removed::Outbound),
            Self::Inline(plane, _) => {
                plane.remove_outbound(child);
                Removed::Nothing
            }
        }
    }

    /// The peer of a child SA is elsewhere.
    pub(crate) fn update_path(&self, child: u64, way: &Way) {
        match self {
            Self::Tun(plane) => plane.update_path(child, way),
            Self::Inline(plane, _) => {
                plane.update_path(child, way.path, way.encapsulation == Encapsulation::Udp);
            }
        }
    }

    /// Takes ESP that a TCP connection has brought.
    pub(crate) fn take_streamed(&self, stream: StreamId, packet: &[u8]) {
        if let Self::Tun(plane) = self {
            plane.take_streamed(stream, packet);
        }
    }

    /// Has it looked at.
    pub(crate) fn wake_for(&self, stream: StreamId) {
        if let Self::Tun(plane) = self {
            plane.wake_for(stream);
        }
    }

    /// Packets and octets of a child SA, in and out.
    pub(crate) fn traffic(&self, child: u64) -> ((u64, u64), (u64, u64)) {
        match self {
            Self::Tun(plane) => {
                let (inbound, outbound) = plane.entries(child);
                (
                    inbound.map_or((0, 0), |entry| entry.traffic()),
                    outbound.map_or((0, 0), |entry| entry.traffic()),
                )
            }
            Self::Inline(plane, _) => plane.traffic(child),
        }
    }

    /// Packets and octets of every child SA, in and out, where workers count them.
    pub(crate) fn all_traffic(&self) -> HashMap<u64, [(u64, u64); 2]> {
        match self {
            Self::Tun(plane) => plane.traffic(),
            Self::Inline(..) => HashMap::new(),
        }
    }

    /// Traffic that may ask for an SA and waits for it, where workers see it.
    pub(crate) fn set_traps(&self, traps: Vec<Trap>) {
        if let Self::Tun(plane) = self {
            plane.set_traps(traps);
        }
    }

    /// The accelerator has come back.
    pub(crate) fn device_returned(&self) {
        if let Self::Inline(plane, _) = self {
            plane.restore();
        }
    }

    /// What it has done, by name.
    pub(crate) fn statistics(&self) -> Vec<(String, u64)> {
        match self {
            Self::Tun(plane) => {
                let data = plane.stats();
                let named = [
                    ("tun-received", data.tun_received),
                    ("tun-sent", data.tun_sent),
                    ("esp-received", data.esp_received),
                    ("esp-sent", data.esp_sent),
                    ("no-policy", data.no_policy),
                    ("selector-mismatch", data.selector_mismatch),
                    ("malformed", data.malformed),
                    ("dummies", data.dummies),
                    ("acquires", data.acquires),
                    ("awaited", data.awaited),
                    ("awaited-in-vain", data.awaited_in_vain),
                    ("unknown-spi", data.unknown_spi),
                    ("early", data.early),
                    ("overload", data.overload),
                    ("aborted", data.aborted),
                    ("bad-icv", data.bad_icv),
                    ("replayed", data.replayed),
                    ("refused", data.refused),
                    ("send-errors", data.send_errors),
                    ("too-big", data.too_big),
                    ("too-big-answered", data.too_big_answered),
                    ("ecn-dropped", data.ecn_dropped),
                    ("mss-clamped", data.mss_clamped),
                    ("ignored", data.ignored),
                ];
                named.map(|(name, value)| (name.to_owned(), value)).to_vec()
            }
            Self::Inline(plane, _) => plane
                .ports()
                .iter()
                .flat_map(|port| {
                    let role = inline::role(port.role);
                    [
                        ("received", port.received),
                        ("received-bytes", port.received_bytes),
                        ("sent", port.sent),
                        ("sent-bytes", port.sent_bytes),
                        ("no-rule", port.no_rule),
                        ("unknown-spi", port.unknown_spi),
                        ("refused", port.refused),
                        ("too-big", port.too_big),
                        ("no-neighbour", port.no_neighbour),
                        ("send-errors", port.send_errors),
                        ("exceptions", port.exceptions),
                    ]
                    .map(|(name, value)| (format!("{role}-{name}"), value))
                })
                .collect(),
        }
    }
}
