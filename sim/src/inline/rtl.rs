// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ports of a card in RTL: frames go through its streams, and it says where each leaves. What is left to
//! do here is what a management processor has to: it learns who takes packets on, and bounds the frames with
//! unknown SPIs.

use std::net::IpAddr;
use std::time::Instant;

use fpga_regs::port::PortRole;
use tun_rs::VIRTIO_NET_HDR_LEN;

use super::steer;
use super::{Card, FRAMES, FramePort, Inline, MAX_FRAME, OFFSET, PortFacts, Unknown, add_sent};
use crate::rtl::Frames;

/// Frames of one port.
struct Batch {
    frames: Vec<Vec<u8>>,
    sizes: [usize; FRAMES],
    count: usize,
    taken: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            frames: (0..FRAMES).map(|_| vec![0; MAX_FRAME]).collect(),
            sizes: [0; FRAMES],
            count: 0,
            taken: 0,
        }
    }
}

impl Batch {
    /// Takes in what has come, up to so many frames; how many there are.
    fn fill(&mut self, port: &mut dyn FramePort, most: usize) -> usize {
        (self.count, self.taken) = (0, 0);
        let places = self.frames.iter_mut().zip(&mut self.sizes);
        for (frame, size) in places.take(most) {
            let Some(len) = port.receive(frame) else {
                break;
            };
            *size = len;
            self.count += 1;
        }
        self.count
    }

    fn next(&mut self) -> Option<&[u8]> {
        let number = self.taken;
        if number == self.count {
            return None;
        }
        self.taken += 1;
        self.frames.get(number)?.get(..*self.sizes.get(number)?)
    }
}

/// What one round of the ports needs.
#[derive(Default)]
pub(super) struct Round {
    wire: Batch,
    exception: Batch,
    /// MAC and IP addresses to which the host has sent frames.
    shown: Vec<([u8; 6], IpAddr)>,
}

/// Packets of the host port.
struct FromHost<'ports> {
    packets: &'ports [Vec<u8>],
    sizes: &'ports [usize],
    taken: usize,
}

struct Traffic<'ports> {
    from_wire: &'ports mut Batch,
    from_exception: &'ports mut Batch,
    from_host: FromHost<'ports>,
    wire: &'ports mut dyn FramePort,
    exception: &'ports mut dyn FramePort,
    to_host: &'ports mut [Vec<u8>],
    to_host_len: &'ports mut usize,
    shown: &'ports mut Vec<([u8; 6], IpAddr)>,
    unknown: &'ports mut Unknown,
    now: Instant,
    to_wire: PortFacts,
    /// `exceptions` are the wire's.
    to_exception: PortFacts,
    came_by_exception: PortFacts,
}

impl Frames for Traffic<'_> {
    fn next(&mut self, port: PortRole, frame: &mut Vec<u8>) -> bool {
        let octets = match port {
            PortRole::Wire => self.from_wire.next(),
            PortRole::Exception => {
                let octets = self.from_exception.next();
                if let Some(octets) = octets {
                    self.came_by_exception.receive(octets.len());
                    self.shown.extend(steer::destination(octets));
                }
                octets
            }
            PortRole::Host => {
                let number = self.from_host.taken;
                let len = self.from_host.sizes.get(number).copied().unwrap_or(0);
                let packet = self.from_host.packets.get(number);
                self.from_host.taken += 1;
                packet.and_then(|packet| packet.get(OFFSET..OFFSET + len))
            }
        };
        frame.extend_from_slice(octets.unwrap_or_default());
        octets.is_some()
    }

    fn leave(&mut self, port: PortRole, frame: &[u8], unknown: bool) {
        match port {
            PortRole::Wire => self.to_wire.send(frame.len(), self.wire.send(frame)),
            PortRole::Exception => {
                if unknown && !self.unknown.passes(self.now) {
                    return;
                }
                self.to_exception.exceptions += 1;
                let taken = self.exception.send(frame);
                self.to_exception.send(frame.len(), taken);
            }
            PortRole::Host => {
                if let Some(out) = self.to_host.get_mut(*self.to_host_len) {
                    out.clear();
                    out.resize(VIRTIO_NET_HDR_LEN, 0);
                    out.extend_from_slice(frame);
                    *self.to_host_len += 1;
                }
            }
        }
    }
}

impl Inline {
    /// Lets what has come by the ports through the RTL; `moves` unless captures wait for rules. Whether there was
    /// anything.
    pub(super) fn rtl_round(&mut self, card: &Card, moves: bool) -> bool {
        let Some(round) = &mut self.round else {
            return false;
        };
        let Round {
            wire,
            exception,
            shown,
        } = &mut **round;
        let most = if moves { FRAMES } else { 0 };
        let mut came = wire.fill(self.wire.as_mut(), most);
        came += exception.fill(self.exception.as_mut(), FRAMES);
        let received = match moves {
            true => self.host.receive(&mut self.from_host, &mut self.sizes),
            false => Default::default(),
        };
        if came == 0 && received == Default::default() {
            return false;
        }
        shown.clear();
        self.to_host_len = 0;
        let mtu = self.wire.mtu();
        let mut traffic = Traffic {
            from_wire: wire,
            from_exception: exception,
            from_host: FromHost {
                packets: self.from_host.get(..received.packets).unwrap_or_default(),
                sizes: self.sizes.get(..received.packets).unwrap_or_default(),
                taken: 0,
            },
            wire: self.wire.as_mut(),
            exception: self.exception.as_mut(),
            to_host: &mut self.to_host,
            to_host_len: &mut self.to_host_len,
            shown,
            unknown: &mut self.unknown,
            now: Instant::now(),
            to_wire: PortFacts::default(),
            to_exception: PortFacts::default(),
            came_by_exception: PortFacts::default(),
        };
        let mut core = card.lock();
        core.rtl_pass((self.mac, mtu), &self.neighbours, &mut traffic);
        let Traffic {
            to_wire,
            to_exception,
            came_by_exception,
            ..
        } = traffic;
        for (mac, destination) in shown.drain(..) {
            let peers = || core.sas.outer_destinations();
            self.neighbours.learn(destination, mac, peers);
        }
        core.port(PortRole::Host).too_big += received.lost;
        core.port(PortRole::Wire).exceptions += to_exception.exceptions;
        let port = core.port(PortRole::Exception);
        port.received += came_by_exception.received;
        port.received_bytes += came_by_exception.received_bytes;
        drop(core);
        add_sent(card, PortRole::Wire, to_wire);
        add_sent(card, PortRole::Exception, to_exception);
        self.send_to_host(card);
        true
    }
}

impl super::InlineState {
    /// Adds what the RTL has counted since the last time.
    pub(crate) fn count(
        &mut self,
        now: &fpga_cosim::card::PortCounts,
        before: &fpga_cosim::card::PortCounts,
    ) {
        let wire = self.port_mut(PortRole::Wire);
        wire.received += now.wire_received - before.wire_received;
        wire.received_bytes += now.wire_received_bytes - before.wire_received_bytes;
        wire.unknown_spi += now.unknown_spi - before.unknown_spi;
        wire.no_rule += now.wire_no_rule - before.wire_no_rule;
        wire.refused += now.wire_refused - before.wire_refused;
        wire.too_big += now.too_big - before.too_big;
        wire.no_neighbour += now.no_neighbour - before.no_neighbour;
        let host = self.port_mut(PortRole::Host);
        host.received += now.host_received - before.host_received;
        host.received_bytes += now.host_received_bytes - before.host_received_bytes;
        host.no_rule += now.host_no_rule - before.host_no_rule;
        host.refused += now.host_refused - before.host_refused;
        host.too_big += now.host_too_big - before.host_too_big;
    }
}
