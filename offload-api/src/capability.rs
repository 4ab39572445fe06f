// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an engine can do, with its exact limits.

use bitflags::bitflags;

use crate::error::Unsupported;
use crate::sa::{Mode, Numbering, Protocol, SaParams, Suite};

/// What an engine can do. An SA outside of it is refused with the reason, never degraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Suites it can seal and open.
    pub suites: Vec<Suite>,
    /// Features beside the suites.
    pub features: Features,
    /// Largest anti-replay window in packets.
    pub replay_window_max: u32,
    /// SAs it can hold.
    pub max_sas: u32,
    /// Queue pairs that can be open at once.
    pub max_queues: u16,
    /// Operations in flight on one queue pair.
    pub max_depth: u32,
    /// Largest packet in octets, sealed or not; a larger one is refused as
    /// [`BadLength`](crate::queue::Status::BadLength).
    pub max_packet: u32,
    /// Frames that a packet may lie in ([`Frame::append`](crate::frame::Frame::append)); one in more
    /// is refused as [`BadGather`](crate::queue::Status::BadGather). 1 where it must be one.
    pub max_gather: u16,
}

impl Capabilities {
    /// Whether there is a suite of this protocol.
    pub fn has_protocol(&self, protocol: Protocol) -> bool {
        self.suites.iter().any(|suite| suite.protocol() == protocol)
    }

    /// Whether an SA can be installed.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn check(&self, sa: &SaParams) -> Result<(), Unsupported> {
        let protocol = sa.suite.protocol();
        if !self.has_protocol(protocol) {
            return Err(Unsupported::Protocol { protocol });
        }
        if !self.suites.contains(&sa.suite) {
            return Err(Unsupported::Suite { suite: sa.suite });
        }
        if sa.replay_window > self.replay_window_max {
            return Err(Unsupported::ReplayWindow {
                wanted: sa.replay_window,
                max: self.replay_window_max,
            });
        }
        let ipv6 = sa.outer.is_some_and(|outer| outer.source.is_ipv6());
        let udp = sa.outer.is_some_and(|outer| outer.udp.is_some());
        let needs = [
            (sa.esn, Features::ESN),
            (sa.mode == Mode::Tunnel, Features::TUNNEL),
            (sa.mode == Mode::Transport, Features::TRANSPORT),
            (sa.mode == Mode::Crypto, Features::CRYPTO),
            (sa.outer.is_some(), Features::OUTER_HEADERS),
            (ipv6, Features::OUTER_IPV6),
            (udp, Features::UDP_ENCAPSULATION),
            (sa.tfc_padding, Features::TFC_PADDING),
            (
                sa.numbering == Numbering::Explicit,
                Features::EXPLICIT_NUMBERING,
            ),
        ];
        for (needed, feature) in needs {
            if needed && !self.features.contains(feature) {
                return Err(Unsupported::Feature { feature });
            }
        }
        Ok(())
    }
}

bitflags! {
    /// Features of an engine.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u32 {
        /// Extended sequence numbers.
        const ESN = 1 << 0;
        /// Tunnel mode.
        const TUNNEL = 1 << 1;
        /// Transport mode.
        const TRANSPORT = 1 << 2;
        /// Writes and strips outer IP headers.
        const OUTER_HEADERS = 1 << 3;
        /// Outer IPv6.
        const OUTER_IPV6 = 1 << 4;
        /// ESP in UDP.
        const UDP_ENCAPSULATION = 1 << 5;
        /// Takes sequence number and IV from the operation.
        const EXPLICIT_NUMBERING = 1 << 6;
        /// Counts lifetimes itself and reports them as events.
        const LIFETIMES = 1 << 7;
        /// Interrupts, so that a consumer can sleep.
        const INTERRUPTS = 1 << 8;
        /// The work is done by this host's processors.
        const SOFTWARE = 1 << 9;
        /// Takes faults to inject (simulator).
        const FAULT_INJECTION = 1 << 10;
        /// Packets go through it from port to port: [`crate::inline`].
        const INLINE = 1 << 11;
        /// Leaves packets as they are, for measuring the way to it and back. It protects nothing.
        const NULL_CRYPTO = 1 << 12;
        /// It ciphers and hashes, and knows no SA: what else ESP wants is done by this host, by the
        /// driver (`hw_offload = crypto`).
        const LOOKASIDE = 1 << 16;
        /// The cryptography alone ([`Mode::Crypto`]).
        const CRYPTO = 1 << 17;
        /// Seals TFC padding behind the packet (RFC 4303 §2.7).
        const TFC_PADDING = 1 << 18;
    }
}
