// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode: the card's own ports, and the rules that lead packets between them and its SAs.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Ports of a card in inline mode; a port's number is its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortRole {
    /// Ethernet, protected: ESP, and what comes by the exception port.
    Wire = 0,
    /// IP packets in the clear, to and from the host.
    Host = 1,
    /// Ethernet frames that the card leaves to the host: IKE, neighbour discovery, whatever it does
    /// not know.
    Exception = 2,
}

impl PortRole {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Wire, Self::Host, Self::Exception];

    /// The role with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|role| *role as u32 == code)
    }
}

/// A rule, 96 octets. Addresses and ports are of the packet in the clear; an IPv4 address is in the
/// first four octets. Among rules that fit, the highest priority counts, then the newest.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Rule {
    /// The higher goes first.
    pub priority: U32,
    /// 0: packets from the host port; 1: packets that an SA has opened.
    pub inbound: u8,
    /// [`RuleAction`].
    pub action: u8,
    /// 4 or 6.
    pub version: u8,
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// SA of [`RuleAction::Protect`].
    pub sa_index: U32,
    /// Its generation.
    pub sa_generation: U32,
    /// First source address.
    pub source_start: [u8; 16],
    /// Last source address.
    pub source_end: [u8; 16],
    /// First destination address.
    pub destination_start: [u8; 16],
    /// Last destination address.
    pub destination_end: [u8; 16],
    /// First source port.
    pub source_port_start: U16,
    /// Last source port.
    pub source_port_end: U16,
    /// First destination port.
    pub destination_port_start: U16,
    /// Last destination port.
    pub destination_port_end: U16,
    /// Zero.
    pub reserved: U64,
}

/// What becomes of a packet that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RuleAction {
    /// Outbound: sealed by the rule's SA and sent on the wire. Inbound: what that SA has opened goes
    /// to the host.
    Protect = 0,
    /// Dropped and counted.
    Discard = 1,
}

impl RuleAction {
    /// The action with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Protect, Self::Discard]
            .into_iter()
            .find(|action| *action as u8 == code)
    }
}

/// A port and what it has done, 128 octets. Counters are since reset.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PortDescription {
    /// [`PortRole`].
    pub role: u8,
    /// 1: up.
    pub link: u8,
    /// MAC address; zero for the host port.
    pub mac: [u8; 6],
    /// Octets of the largest IP packet.
    pub mtu: U32,
    /// Zero.
    pub reserved0: U32,
    /// Packets received.
    pub received: U64,
    /// Their octets.
    pub received_bytes: U64,
    /// Packets sent.
    pub sent: U64,
    /// Their octets.
    pub sent_bytes: U64,
    /// Received: no rule fits, or one that discards.
    pub no_rule: U64,
    /// Received by the wire port: an SPI that no SA has.
    pub unknown_spi: U64,
    /// Received: refused by the SA (replay, ICV, format, limits, no number).
    pub refused: U64,
    /// To be sent: too large for the port. Received by the host port: too large for the card.
    pub too_big: U64,
    /// To be sent on the wire: nobody is known who would take it on.
    pub no_neighbour: U64,
    /// To be sent: the port did not take it.
    pub send_errors: U64,
    /// Received by the wire port: left to the exception port.
    pub exceptions: U64,
    /// Zero.
    pub reserved1: [U64; 3],
}

const _: () = assert!(size_of::<Rule>() == 96);
const _: () = assert!(size_of::<PortDescription>() == 128);
