// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's ports (`ipa_ports.sv`): frames in and out, and what the management writes for them: SPIs, the
//! way of each SA's packets on the wire, rules.

use std::net::IpAddr;

use super::{HostMemory, Ports, RtlCard, Stuck};
use crate::{Input, Model, Output};

/// Rules that it holds, of each direction (`ipa_card_pkg::MaxRules`).
pub const MAX_RULES: usize = 256;

const BEAT: usize = 64;
const RULE: usize = 82;

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Ethernet frames: ESP, and what the exception port brings.
    Wire = 0,
    /// IP packets in the clear.
    Host = 1,
    /// Ethernet frames that are left to the host.
    Exception = 2,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Wire, Self::Host, Self::Exception];
}

/// What is behind the ports.
pub trait PortTraffic {
    /// Puts the next frame that has come by a port into `frame`, which is empty; false if there is none.
    fn next(&mut self, port: Port, frame: &mut Vec<u8>) -> bool;

    /// A frame leaves by a port; by the exception port one that is ESP with an unknown SPI.
    fn leave(&mut self, port: Port, frame: &[u8], unknown: bool);
}

/// A rule (`rule_t`).
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Packets are protected, else dropped.
    pub protect: bool,
    /// Protocol, 0 for any.
    pub protocol: u8,
    /// Index and generation.
    pub sa: (u32, u32),
    /// First and last source address.
    pub source: (IpAddr, IpAddr),
    /// First and last destination address.
    pub destination: (IpAddr, IpAddr),
    /// First and last source port.
    pub source_ports: (u16, u16),
    /// First and last destination port.
    pub destination_ports: (u16, u16),
}

impl Rule {
    fn octets(&self) -> [u8; RULE] {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let mut octets = [0; RULE];
        let addresses = [
            self.source.0,
            self.source.1,
            self.destination.0,
            self.destination.1,
        ];
        for (place, address) in octets.chunks_exact_mut(16).zip(addresses) {
            place.copy_from_slice(&number(address).to_le_bytes());
        }
        let ports = [
            self.source_ports.0,
            self.source_ports.1,
            self.destination_ports.0,
            self.destination_ports.1,
        ];
        for (place, port) in octets[64..72].chunks_exact_mut(2).zip(ports) {
            place.copy_from_slice(&port.to_le_bytes());
        }
        octets[72..76].copy_from_slice(&self.sa.0.to_le_bytes());
        octets[76..80].copy_from_slice(&self.sa.1.to_le_bytes());
        octets[80] = self.protocol;
        octets[81] = u8::from(self.source.0.is_ipv6()) | u8::from(self.protect) << 1;
        octets
    }
}

/// What the ports have done since reset (`port_counts_t`, `path_counts_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Frames of the wire.
    pub wire_received: u64,
    /// Their octets.
    pub wire_received_bytes: u64,
    /// ESP with an unknown SPI.
    pub unknown_spi: u64,
    /// Packets of the host port.
    pub host_received: u64,
    /// Their octets.
    pub host_received_bytes: u64,
    /// Those longer than the card takes.
    pub host_too_big: u64,
    /// Those that no rule leads anywhere.
    pub host_no_rule: u64,
    /// Those that their SA refused.
    pub host_refused: u64,
    /// What was opened and no rule of its SA permits.
    pub wire_no_rule: u64,
    /// What its SA refused.
    pub wire_refused: u64,
    /// Sealed packets too big for the wire.
    pub too_big: u64,
    /// Sealed packets without a way on the wire.
    pub no_neighbour: u64,
}

/// Frames that are on their way through the ports.
#[derive(Debug, Default)]
pub(super) struct Streams {
    incoming: [Incoming; 3],
    leaving: [Vec<u8>; 3],
}

#[derive(Debug, Default)]
struct Incoming {
    frame: Vec<u8>,
    /// Octets of it that have gone in.
    sent: usize,
    /// A beat is offered.
    offered: bool,
}

struct In {
    valid: Input,
    ready: Output,
    last: Input,
    bytes: Input,
    data: Input,
}

struct Out {
    valid: Output,
    ready: Input,
    last: Output,
    bytes: Output,
    data: Output,
}

fn input(ports: &Ports, port: Port) -> In {
    match port {
        Port::Wire => In {
            valid: ports.wire_in_valid,
            ready: ports.wire_in_ready,
            last: ports.wire_in_last,
            bytes: ports.wire_in_bytes,
            data: ports.wire_in_data,
        },
        Port::Host => In {
            valid: ports.host_in_valid,
            ready: ports.host_in_ready,
            last: ports.host_in_last,
            bytes: ports.host_in_bytes,
            data: ports.host_in_data,
        },
        Port::Exception => In {
            valid: ports.exception_in_valid,
            ready: ports.exception_in_ready,
            last: ports.exception_in_last,
            bytes: ports.exception_in_bytes,
            data: ports.exception_in_data,
        },
    }
}

fn output(ports: &Ports, port: Port) -> Out {
    match port {
        Port::Wire => Out {
            valid: ports.wire_out_valid,
            ready: ports.wire_out_ready,
            last: ports.wire_out_last,
            bytes: ports.wire_out_bytes,
            data: ports.wire_out_data,
        },
        Port::Host => Out {
            valid: ports.host_out_valid,
            ready: ports.host_out_ready,
            last: ports.host_out_last,
            bytes: ports.host_out_bytes,
            data: ports.host_out_data,
        },
        Port::Exception => Out {
            valid: ports.exception_out_valid,
            ready: ports.exception_out_ready,
            last: ports.exception_out_last,
            bytes: ports.exception_out_bytes,
            data: ports.exception_out_data,
        },
    }
}

impl RtlCard {
    /// The card's own MAC address, and octets of the largest IP packet that the wire takes.
    pub fn set_ports(&mut self, mac: [u8; 6], mtu: u16) {
        self.model.set(self.ports.mac, &mac);
        self.model.put(self.ports.mtu, mtu.into());
    }

    /// Lets an SPI lead to an SA, or no longer if it does; whether there was room.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn set_spi(
        &mut self,
        index: u32,
        spi: u32,
        leads: bool,
        memory: &mut dyn HostMemory,
    ) -> Result<bool, Stuck> {
        self.model.put(self.ports.sa_index, index.into());
        self.model.put(self.ports.spi, spi.into());
        self.model.put(self.ports.spi_add, leads.into());
        self.model.settle();
        self.until(memory, |card| card.model.high(card.ports.spi_ready))?;
        self.pulse(self.ports.spi_valid, memory);
        self.until(memory, |card| card.model.high(card.ports.spi_done))?;
        Ok(!self.model.high(self.ports.spi_full))
    }

    /// Who takes an outbound SA's packets on, on the wire.
    pub fn set_way(&mut self, index: u32, mac: Option<[u8; 6]>, memory: &mut dyn HostMemory) {
        self.model.put(self.ports.sa_index, index.into());
        self.model.put(self.ports.way_known, mac.is_some().into());
        self.model.set(self.ports.way_mac, &mac.unwrap_or_default());
        self.pulse(self.ports.way_write, memory);
    }

    /// The rules of a direction, in the order in which they count: [`MAX_RULES`] at most. Whether there were
    /// more.
    pub fn set_rules(
        &mut self,
        inbound: bool,
        rules: impl Iterator<Item = Rule>,
        memory: &mut dyn HostMemory,
    ) -> bool {
        let counts = [self.ports.outbound_rules, self.ports.inbound_rules];
        let mut count = 0;
        let mut more = false;
        self.model.put(self.ports.rule_inbound, inbound.into());
        for rule in rules {
            more = count == MAX_RULES;
            if more {
                break;
            }
            self.model.put(self.ports.rule_index, count as u64);
            self.model.set(self.ports.rule, &rule.octets());
            self.pulse(self.ports.rule_write, memory);
            count += 1;
        }
        self.model.put(counts[usize::from(inbound)], count as u64);
        more
    }

    /// Lets frames through until those that have come by the ports are used up and nothing of them is under way.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn pass(
        &mut self,
        traffic: &mut dyn PortTraffic,
        memory: &mut dyn HostMemory,
    ) -> Result<(), Stuck> {
        let mut quiet = 0;
        while quiet < super::PATIENCE {
            let mut offers = false;
            for port in Port::ALL {
                offers |= self.offer_beat(port, traffic);
            }
            if !offers && self.model.high(self.ports.ports_idle) {
                return Ok(());
            }
            let ready = Port::ALL.map(|port| {
                let ready = !self.host.hesitates();
                let lines = output(&self.ports, port);
                self.model.put(lines.ready, ready.into());
                ready
            });
            let mut moved = false;
            self.clock_with(memory, |card| {
                for (port, ready) in Port::ALL.into_iter().zip(ready) {
                    moved |= card.take_beats(port, ready, traffic);
                }
            });
            quiet = if moved { 0 } else { quiet + 1 };
        }
        Err(Stuck)
    }

    /// Offers the next beat of what came by a port, if there is one.
    fn offer_beat(&mut self, port: Port, traffic: &mut dyn PortTraffic) -> bool {
        let lines = input(&self.ports, port);
        let stream = &mut self.streams.incoming[port as usize];
        if stream.offered {
            return true;
        }
        if stream.sent == stream.frame.len() {
            stream.frame.clear();
            stream.sent = 0;
            // An empty frame is none.
            if !traffic.next(port, &mut stream.frame) || stream.frame.is_empty() {
                self.model.put(lines.valid, 0);
                return false;
            }
        }
        let left = &stream.frame[stream.sent..];
        let beat = &left[..left.len().min(BEAT)];
        self.model.put(lines.valid, 1);
        self.model
            .put(lines.last, (left.len() == beat.len()).into());
        self.model.put(lines.bytes, beat.len() as u64);
        self.model.set(lines.data, beat);
        stream.offered = true;
        true
    }

    /// What the coming edge moves; whether anything.
    fn take_beats(&mut self, port: Port, ready: bool, traffic: &mut dyn PortTraffic) -> bool {
        let mut moved = false;
        let lines = input(&self.ports, port);
        let stream = &mut self.streams.incoming[port as usize];
        if stream.offered && self.model.high(lines.ready) {
            stream.offered = false;
            stream.sent = stream.frame.len().min(stream.sent + BEAT);
            moved = true;
        }
        let lines = output(&self.ports, port);
        if ready && self.model.high(lines.valid) {
            let mut beat = [0; BEAT];
            self.model.copy(lines.data, &mut beat);
            let octets = (self.model.value(lines.bytes) as usize).min(BEAT);
            let frame = &mut self.streams.leaving[port as usize];
            frame.extend_from_slice(&beat[..octets]);
            if self.model.high(lines.last) {
                let unknown =
                    port == Port::Exception && self.model.high(self.ports.exception_out_unknown);
                traffic.leave(port, frame, unknown);
                frame.clear();
            }
            moved = true;
        }
        moved
    }

    /// A reset: what is half in or out is gone.
    pub(super) fn forget_frames(&mut self) {
        for port in Port::ALL {
            self.model.put(input(&self.ports, port).valid, 0);
            self.model.put(output(&self.ports, port).ready, 0);
            let stream = &mut self.streams.incoming[port as usize];
            stream.frame.clear();
            (stream.sent, stream.offered) = (0, false);
            self.streams.leaving[port as usize].clear();
        }
    }

    /// What the ports have done.
    pub fn port_counts(&self) -> PortCounts {
        let wire: [u64; 6] = words(&self.model, self.ports.wire_counts);
        let path: [u64; 9] = words(&self.model, self.ports.path_counts);
        PortCounts {
            wire_received: wire[0],
            wire_received_bytes: wire[1],
            unknown_spi: wire[3],
            host_received: path[0],
            host_received_bytes: path[1],
            host_too_big: path[2],
            host_no_rule: path[3],
            host_refused: path[4],
            wire_no_rule: path[5],
            wire_refused: path[6],
            too_big: path[7],
            no_neighbour: path[8],
        }
    }
}

fn words<const N: usize>(model: &Model, port: Output) -> [u64; N] {
    let mut octets = [0; 128];
    model.copy(port, &mut octets[..8 * N]);
    std::array::from_fn(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&octets[8 * at..8 * at + 8]);
        u64::from_le_bytes(word)
    })
}
