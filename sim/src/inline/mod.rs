// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode: packets from port to port, through the SAs of the card's first function.
//!
//! Out: a packet of the host port finds a rule, its SA seals it, and it leaves by the wire port. In:
//! ESP of the wire port finds its SA by SPI and destination, is opened, must fit a rule of that SA
//! (RFC 4301 §5.2), and goes to the host port. Everything else passes between wire and exception
//! port unchanged.

#[cfg(all(test, feature = "rtl"))]
mod lockstep;
pub(crate) mod neighbours;
#[cfg(feature = "rtl")]
mod rtl;
pub(crate) mod rules;
mod steer;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esp::packet::SlicePacket;
use fpga_regs::port::{PortDescription, PortRole, RuleAction};
use offload_api::queue::Status;
use offload_api::sa::Direction;
use offload_api::wire::ip::Facts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::VIRTIO_NET_HDR_LEN;
use zerocopy::FromZeros;

use crate::card::{Bell, Card, Core};
use crate::pace::Pace;
use crate::paced::SPIN;
use crate::port::paced::Paced;
use crate::port::tun::{self, BURST, OFFSET, PacketPort, Received, buffer_len};
use crate::port::{self, FramePort, MAX_FRAME, PortSpec};
use crate::submission::{open, seal};
use neighbours::Neighbours;
use rules::{MAX_RULES, RuleTable};
use steer::{ETHERNET, IPV4, IPV6, Way};

/// Where the ports of a card lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineConfig {
    /// Protected packets.
    pub wire: PortSpec,
    /// Packets in the clear: an interface of the host.
    pub host: PortSpec,
    /// What the card leaves to the host: another interface of the host.
    pub exception: PortSpec,
}

/// What commands and data path share, behind the function's lock.
#[derive(Default)]
pub(crate) struct InlineState {
    pub(crate) rules: RuleTable,
    ports: [PortFacts; 3],
}

/// A port's facts and counters.
#[derive(Clone, Copy, Default)]
struct PortFacts {
    mac: [u8; 6],
    mtu: u32,
    received: u64,
    received_bytes: u64,
    sent: u64,
    sent_bytes: u64,
    no_rule: u64,
    unknown_spi: u64,
    refused: u64,
    too_big: u64,
    no_neighbour: u64,
    send_errors: u64,
    exceptions: u64,
}

impl PortFacts {
    fn receive(&mut self, len: usize) {
        self.received += 1;
        self.received_bytes += len as u64;
    }

    fn send(&mut self, len: usize, taken: bool) {
        if taken {
            self.sent += 1;
            self.sent_bytes += len as u64;
        } else {
            self.send_errors += 1;
        }
    }
}

impl InlineState {
    /// Of a card that holds so many rules.
    fn new(rules: usize) -> Self {
        Self {
            rules: RuleTable::new(rules),
            ports: Default::default(),
        }
    }

    /// Back to power-on.
    pub(crate) fn reset(&mut self) {
        self.rules.clear();
        for port in &mut self.ports {
            *port = PortFacts {
                mac: port.mac,
                mtu: port.mtu,
                ..PortFacts::default()
            };
        }
    }

    pub(crate) fn describe(&self, role: PortRole) -> PortDescription {
        let facts = self.port(role);
        PortDescription {
            role: role as u8,
            link: 1,
            mac: facts.mac,
            mtu: facts.mtu.into(),
            received: facts.received.into(),
            received_bytes: facts.received_bytes.into(),
            sent: facts.sent.into(),
            sent_bytes: facts.sent_bytes.into(),
            no_rule: facts.no_rule.into(),
            unknown_spi: facts.unknown_spi.into(),
            refused: facts.refused.into(),
            too_big: facts.too_big.into(),
            no_neighbour: facts.no_neighbour.into(),
            send_errors: facts.send_errors.into(),
            exceptions: facts.exceptions.into(),
            ..PortDescription::new_zeroed()
        }
    }

    fn port(&self, role: PortRole) -> PortFacts {
        self.ports.get(role as usize).copied().unwrap_or_default()
    }

    fn port_mut(&mut self, role: PortRole) -> &mut PortFacts {
        match role {
            PortRole::Wire => &mut self.ports[0],
            PortRole::Host => &mut self.ports[1],
            PortRole::Exception => &mut self.ports[2],
        }
    }
}

/// Frames of the wire that one round takes in.
const FRAMES: usize = 64;
/// Empty rounds before the data path sleeps.
const IDLE_ROUNDS: u32 = 32;
/// Longest sleep.
const NAP: Duration = Duration::from_millis(50);
/// Sleep of ports that can't wake.
const SHORT_NAP: Duration = Duration::from_millis(1);
/// Frames with an unknown SPI that go to the host in a second: enough for INVALID_SPI (RFC 7296
/// §2.21).
const UNKNOWN_PER_SECOND: u32 = 10;

/// Since when frames with an unknown SPI are counted, and how many there were.
struct Unknown(Instant, u32);

impl Unknown {
    /// Whether one more goes to the host.
    fn passes(&mut self, now: Instant) -> bool {
        if now.duration_since(self.0) >= Duration::from_secs(1) {
            *self = Self(now, 0);
        }
        self.1 += 1;
        self.1 <= UNKNOWN_PER_SECOND
    }
}

/// The ports, open, and what the data path needs.
pub(crate) struct Inline {
    wire: Box<dyn FramePort>,
    host: Box<dyn PacketPort>,
    exception: Box<dyn FramePort>,
    mac: [u8; 6],
    /// Captures are played when there is a rule to play them by.
    replays: Option<fn(&Card) -> bool>,
    neighbours: Neighbours,
    unknown: Unknown,
    from_host: Vec<Vec<u8>>,
    sizes: Vec<usize>,
    from_wire: Vec<Vec<u8>>,
    to_host: Vec<Vec<u8>>,
    to_host_len: usize,
    /// Places in `from_host` of frames for the wire: buffer, start, end.
    to_wire: Vec<(usize, usize, usize)>,
    /// Of a card in RTL.
    #[cfg(feature = "rtl")]
    round: Option<Box<rtl::Round>>,
}

impl Inline {
    /// Opens the ports.
    pub(crate) fn open(config: &InlineConfig, pace: &Pace, card: &Card) -> io::Result<Self> {
        let about = |spec: &PortSpec| {
            let spec = spec.to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("port {spec}: {error}"))
        };
        let exception = port::open(&config.exception).map_err(about(&config.exception))?;
        let mut wire = port::open(&config.wire).map_err(about(&config.wire))?;
        if pace.is_set() {
            wire = Box::new(Paced::new(wire, pace));
        }
        let host = tun::open(&config.host, wire.mtu()).map_err(about(&config.host))?;
        // The host's interface gives the card its address, so that neighbours find both.
        let mac = exception.mac().or(wire.mac()).unwrap_or([2, 0, 0, 0, 0, 1]);
        let room = buffer_len(host.mtu());
        let replays = [&config.wire, &config.host]
            .into_iter()
            .any(|spec| matches!(spec, PortSpec::Pcap { read: Some(_), .. }));
        let mut core = card.lock();
        let mut state = InlineState::new(if card.is_rtl {
            crate::rtl::MAX_RULES
        } else {
            MAX_RULES
        });
        for (role, mac, mtu) in [
            (PortRole::Wire, mac, wire.mtu()),
            (PortRole::Host, [0; 6], host.mtu()),
            (PortRole::Exception, mac, exception.mtu()),
        ] {
            let facts = state.port_mut(role);
            (facts.mac, facts.mtu) = (mac, mtu);
        }
        core.inline = Some(state);
        drop(core);
        Ok(Self {
            wire,
            host,
            exception,
            mac,
            replays: replays.then_some(has_rules as fn(&Card) -> bool),
            neighbours: Neighbours::default(),
            unknown: Unknown(Instant::now(), 0),
            from_host: (0..BURST).map(|_| vec![0; room]).collect(),
            sizes: vec![0; BURST],
            from_wire: (0..FRAMES).map(|_| vec![0; MAX_FRAME]).collect(),
            to_host: (0..FRAMES)
                .map(|_| Vec::with_capacity(VIRTIO_NET_HDR_LEN + MAX_FRAME))
                .collect(),
            to_host_len: 0,
            to_wire: Vec::with_capacity(BURST),
            #[cfg(feature = "rtl")]
            round: card.is_rtl.then(Box::default),
        })
    }

    /// Works until the card ends.
    pub(crate) fn run(&mut self, card: &Arc<Card>, bell: &Bell) {
        let mut idle = 0;
        while !bell.has_ended() {
            let moves = self.replays.is_none_or(|due| due(card));
            if moves {
                self.replays = None;
            }
            if self.round(card, moves) {
                idle = 0;
            } else if idle < IDLE_ROUNDS {
                idle += 1;
                std::thread::yield_now();
            } else {
                self.sleep();
                idle = 0;
            }
        }
    }

    /// What has come by the ports; whether anything.
    fn round(&mut self, card: &Card, moves: bool) -> bool {
        // What does not forward drops, and counts, without its data path.
        #[cfg(feature = "rtl")]
        if self.round.is_some() && card.lock().forwards() {
            return self.rtl_round(card, moves);
        }
        let mut worked = false;
        if moves {
            worked |= self.out(card);
            worked |= self.inward(card);
        }
        worked | self.exceptions(card)
    }

    fn sleep(&self) {
        let fds: [Option<BorrowedFd<'_>>; 3] =
            [self.wire.fd(), self.host.fd(), self.exception.fd()];
        let mut nap = if fds.iter().all(Option::is_some) {
            NAP
        } else {
            SHORT_NAP
        };
        if let Some(due) = self.wire.due() {
            let left = due.saturating_duration_since(Instant::now());
            let Some(left) = left.checked_sub(SPIN) else {
                std::thread::yield_now();
                return;
            };
            nap = nap.min(left);
        }
        let nap = Timespec {
            tv_sec: 0,
            tv_nsec: nap.subsec_nanos().into(),
        };
        // What a full wire keeps the card from taking must not keep it awake.
        let full = !self.wire.is_ready();
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .flatten()
            .filter(|_| !full)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let _ = poll(&mut fds, Some(&nap));
    }

    /// Host port to wire port.
    fn out(&mut self, card: &Card) -> bool {
        if !self.wire.is_ready() {
            return false;
        }
        let received = self.host.receive(&mut self.from_host, &mut self.sizes);
        if received == Received::default() {
            return false;
        }
        let count = received.packets;
        let now = Instant::now();
        let mut core = card.lock();
        core.port(PortRole::Host).too_big += received.lost;
        let wire_mtu = self.wire.mtu() as usize;
        self.to_wire.clear();
        for number in 0..count.min(self.from_host.len()) {
            let (Some(buffer), Some(len)) =
                (self.from_host.get_mut(number), self.sizes.get(number))
            else {
                break;
            };
            let len = *len;
            core.port(PortRole::Host).receive(len);
            let Some((start, end)) = protect(&mut core, buffer, len, now) else {
                continue;
            };
            if end - start > wire_mtu {
                core.port(PortRole::Wire).too_big += 1;
                continue;
            }
            let outer = buffer.get(start..end).unwrap_or_default();
            let next = Facts::of(outer).ok().and_then(|facts| {
                Some((facts.destination, self.neighbours.find(facts.destination)?))
            });
            let Some((destination, mac)) = next else {
                core.port(PortRole::Wire).no_neighbour += 1;
                continue;
            };
            let kind = if destination.is_ipv4() { IPV4 } else { IPV6 };
            let Some(frame_start) = start.checked_sub(ETHERNET) else {
                core.port(PortRole::Wire).too_big += 1;
                continue;
            };
            if let Some(header) = buffer.get_mut(frame_start..start) {
                let octets = mac.iter().chain(&self.mac).chain(&kind);
                header
                    .iter_mut()
                    .zip(octets)
                    .for_each(|(octet, value)| *octet = *value);
            }
            self.to_wire.push((number, frame_start, end));
        }
        drop(core);
        let mut sent = PortFacts::default();
        for (number, start, end) in self.to_wire.drain(..) {
            let frame = self
                .from_host
                .get(number)
                .and_then(|buffer| buffer.get(start..end));
            if let Some(frame) = frame {
                sent.send(frame.len(), self.wire.send(frame));
            }
        }
        add_sent(card, PortRole::Wire, sent);
        true
    }

    /// Wire port to host port, or to the exception port.
    fn inward(&mut self, card: &Card) -> bool {
        let mut count = 0;
        for (buffer, size) in self.from_wire.iter_mut().zip(&mut self.sizes) {
            let Some(len) = self.wire.receive(buffer) else {
                break;
            };
            *size = len;
            count += 1;
        }
        if count == 0 {
            return false;
        }
        let now = Instant::now();
        let mut to_exception = PortFacts::default();
        let mut core = card.lock();
        self.to_host_len = 0;
        let unknown = &mut self.unknown;
        for number in 0..count {
            let (Some(buffer), Some(len)) =
                (self.from_wire.get_mut(number), self.sizes.get(number))
            else {
                break;
            };
            let frame = buffer.get(..*len).unwrap_or_default();
            core.port(PortRole::Wire).receive(frame.len());
            let (len, sa) = match steer::steer(frame) {
                Way::Keepalive => continue,
                Way::Esp { len, spi } => (len, core.sas.by_spi(spi)),
                Way::Host => (0, None),
            };
            if len != 0 && sa.is_none() {
                core.port(PortRole::Wire).unknown_spi += 1;
                if !unknown.passes(now) {
                    continue;
                }
            }
            let Some(sa) = sa else {
                core.port(PortRole::Wire).exceptions += 1;
                to_exception.send(frame.len(), self.exception.send(frame));
                continue;
            };
            let Some(packet) = unprotect(&mut core, sa, buffer, len, now) else {
                continue;
            };
            if let Some(out) = self.to_host.get_mut(self.to_host_len) {
                out.clear();
                out.resize(VIRTIO_NET_HDR_LEN, 0);
                out.extend_from_slice(buffer.get(packet.0..packet.1).unwrap_or_default());
                self.to_host_len += 1;
            }
        }
        drop(core);
        add_sent(card, PortRole::Exception, to_exception);
        self.send_to_host(card);
        true
    }

    /// Sends the packets that were put aside for the host port.
    fn send_to_host(&mut self, card: &Card) {
        let mut to_host = PortFacts::default();
        let packets = self.to_host.get_mut(..self.to_host_len).unwrap_or_default();
        if !packets.is_empty() {
            let lens: usize = packets
                .iter()
                .map(|packet| packet.len() - VIRTIO_NET_HDR_LEN)
                .sum();
            let all = packets.len();
            let taken = self.host.send(packets);
            to_host.sent = taken as u64;
            to_host.sent_bytes = if taken == all { lens as u64 } else { 0 };
            to_host.send_errors = (all - taken) as u64;
        }
        add_sent(card, PortRole::Host, to_host);
    }

    /// Exception port to wire port.
    fn exceptions(&mut self, card: &Card) -> bool {
        let (mut received, mut sent) = (PortFacts::default(), PortFacts::default());
        for _ in 0..FRAMES {
            if !self.wire.is_ready() {
                break;
            }
            let Some(buffer) = self.from_wire.first_mut() else {
                break;
            };
            let Some(len) = self.exception.receive(buffer) else {
                break;
            };
            let frame = buffer.get(..len).unwrap_or_default();
            if let Some((mac, destination)) = steer::destination(frame) {
                let peers = || card.lock().sas.outer_destinations();
                self.neighbours.learn(destination, mac, peers);
            }
            received.receive(len);
            sent.send(len, self.wire.send(frame));
        }
        if received.received == 0 {
            return false;
        }
        if let Some(state) = &mut card.lock().inline {
            let port = state.port_mut(PortRole::Exception);
            port.received += received.received;
            port.received_bytes += received.received_bytes;
        }
        add_sent(card, PortRole::Wire, sent);
        true
    }
}

fn has_rules(card: &Card) -> bool {
    let core = card.lock();
    core.inline
        .as_ref()
        .is_some_and(|state| !state.rules.is_empty())
}

impl Core {
    /// A port's counters. The data path runs only where there are ports.
    fn port(&mut self, role: PortRole) -> &mut PortFacts {
        self.inline
            .get_or_insert_with(InlineState::default)
            .port_mut(role)
    }
}

fn add_sent(card: &Card, role: PortRole, sent: PortFacts) {
    if sent.sent + sent.send_errors == 0 {
        return;
    }
    let mut core = card.lock();
    let port = core.port(role);
    port.sent += sent.sent;
    port.sent_bytes += sent.sent_bytes;
    port.send_errors += sent.send_errors;
}

/// Seals a packet at [`OFFSET`] by its rule's SA: where the outer packet lies in the buffer.
fn protect(core: &mut Core, buffer: &mut [u8], len: usize, now: Instant) -> Option<(usize, usize)> {
    if !core.forwards() {
        core.port(PortRole::Host).no_rule += 1;
        return None;
    }
    let packet = buffer.get(OFFSET..OFFSET + len)?;
    let rule = Facts::of(packet)
        .ok()
        .and_then(|facts| core.inline.as_ref()?.rules.outbound(&facts).cloned())
        .filter(|rule| rule.action == RuleAction::Protect);
    let Some(rule) = rule else {
        core.port(PortRole::Host).no_rule += 1;
        return None;
    };
    let (index, generation) = rule.sa;
    core.capture(rule.sa, None, packet);
    let mut packet = SlicePacket::new(buffer, OFFSET, len)?;
    let result = match core.sas.find(index, generation) {
        Some(sa) if sa.drain.is_none() => seal(sa, &mut packet, None, now).map(|sequence| {
            sa.state.count(sequence, len, now);
            (packet.extent(), sequence)
        }),
        _ => Err(Status::SaStale),
    };
    let place = match result {
        Ok(((start, sealed_len), sequence)) => {
            core.counters.sealed += 1;
            core.counters.sealed_bytes += len as u64;
            let end = start + sealed_len;
            let sealed = buffer.get(start..end).unwrap_or_default();
            core.capture(rule.sa, Some(sequence), sealed);
            Some((start, end))
        }
        Err(status) => {
            core.refuse(PortRole::Host, index, generation, status);
            None
        }
    };
    core.tell(index, generation);
    place
}

/// Opens the IP packet of a frame: where the inner packet lies in the buffer.
fn unprotect(
    core: &mut Core,
    (index, generation): (u32, u32),
    buffer: &mut [u8],
    len: usize,
    now: Instant,
) -> Option<(usize, usize)> {
    if !core.forwards() {
        core.port(PortRole::Wire).refused += 1;
        return None;
    }
    let sealed = buffer.get(ETHERNET..ETHERNET + len)?;
    core.capture((index, generation), None, sealed);
    let mut packet = SlicePacket::new(buffer, ETHERNET, len)?;
    let result = match core.sas.find(index, generation) {
        Some(sa) if sa.transform.direction() == Direction::Inbound => {
            open(sa, &mut packet, len, now).map(|(sequence, next_header)| {
                let extent = packet.extent();
                sa.state.count(sequence, extent.1, now);
                (extent, next_header, sequence)
            })
        }
        _ => Err(Status::SaStale),
    };
    let place = match result {
        Ok((_, offload_api::wire::esp::NEXT_HEADER_DUMMY, _)) => None,
        Ok(((start, len), _, sequence)) => {
            core.counters.opened += 1;
            core.counters.opened_bytes += len as u64;
            let inner = buffer.get(start..start + len)?;
            core.capture((index, generation), Some(sequence), inner);
            let permitted = Facts::of(inner).is_ok_and(|facts| {
                core.inline
                    .as_ref()
                    .is_some_and(|state| state.rules.permits((index, generation), &facts))
            });
            if permitted {
                Some((start, start + len))
            } else {
                core.port(PortRole::Wire).no_rule += 1;
                None
            }
        }
        Err(status) => {
            core.refuse(PortRole::Wire, index, generation, status);
            None
        }
    };
    core.tell(index, generation);
    place
}

impl Core {
    fn refuse(&mut self, role: PortRole, index: u32, generation: u32, status: Status) {
        self.counters.errors += 1;
        self.port(role).refused += 1;
        if let Some(sa) = self.sas.find(index, generation) {
            sa.state.count_error(status);
        }
    }
}
