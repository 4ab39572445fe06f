// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode: packets go through the device from port to port, and the host only controls it.
//!
//! A device in inline mode has three ports. The *wire* port carries ESP. The *host* port is an
//! interface of the host for packets in the clear. The *exception* port is another one, for whatever
//! the device leaves to the host: IKE above all, neighbour discovery, packets of unknown SPIs.
//! [`Rule`]s say which packets of the host port go through which SA, and which packets an inbound SA
//! may bring. There are no queue pairs and no frames, and nothing to fall back to: when the device
//! goes, so does its wire.

use crate::error::SaError;
use crate::sa::{SaHandle, TrafficSelector};

/// The rules and ports of a device in inline mode.
pub trait Inline: Send + Sync {
    /// Adds a rule. It goes with its SA.
    ///
    /// # Errors
    /// The SA is stale, the device has no room for the rule, or is gone.
    fn add_rule(&self, rule: &Rule) -> Result<RuleHandle, SaError>;

    /// Removes a rule. One that is gone already is no error.
    ///
    /// # Errors
    /// The device is gone.
    fn remove_rule(&self, rule: RuleHandle) -> Result<(), SaError>;

    /// The ports: wire, host, exception.
    ///
    /// # Errors
    /// The device is gone.
    fn ports(&self) -> Result<Vec<Port>, SaError>;
}

/// Leads packets that fit both selectors through an SA: outbound ones from the host port, or inbound
/// ones that it has opened, as the SA's direction says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The SA.
    pub sa: SaHandle,
    /// Whether the SA is an inbound one.
    pub inbound: bool,
    /// Of rules that fit the highest counts, then the newest.
    pub priority: u32,
    /// Where packets come from.
    pub source: TrafficSelector,
    /// Where they go.
    pub destination: TrafficSelector,
}

/// A rule in a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleHandle {
    /// Slot in the device's table.
    pub index: u32,
    /// How often the slot was used.
    pub generation: u32,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortRole {
    /// Protected packets.
    Wire,
    /// Packets in the clear.
    Host,
    /// What is left to the host.
    Exception,
}

/// A port and what it has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What it is for.
    pub role: PortRole,
    /// Whether its link is up.
    pub link: bool,
    /// Octets of the largest IP packet.
    pub mtu: u32,
    /// Packets received.
    pub received: u64,
    /// Their octets.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Their octets.
    pub sent_bytes: u64,
    /// Received, and no rule fits.
    pub no_rule: u64,
    /// Received with an SPI that no SA has.
    pub unknown_spi: u64,
    /// Received, and refused by the SA.
    pub refused: u64,
    /// Too large to be sent, or, at the host port, to be taken.
    pub too_big: u64,
    /// Nobody is known who would take it on.
    pub no_neighbour: u64,
    /// Not taken by the port.
    pub send_errors: u64,
    /// Left to the exception port.
    pub exceptions: u64,
}
