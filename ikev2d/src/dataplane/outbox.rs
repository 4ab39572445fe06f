// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sealed packets on their way out: those of one SA and one class leave together, in one system call where it can be.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use offload_api::frame::Frame;
use offload_api::wire::ip::{Facts, Ipv6Header};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

use super::policy::OutboundEntry;
use super::sockets::{Burst, Heading, MOST_OCTETS, MOST_PACKETS, MOST_SEGMENTS};
use super::{Encapsulation, Stream};

/// Packets that wait for one send at most.
const PACKETS: usize = 128;

/// Packets of one SA, and of one class, that wait to be sent.
pub(super) struct Outbox {
    udp: [Option<UdpSocket>; 2],
    raw: [Option<OwnedFd>; 2],
    ah: [Option<OwnedFd>; 2],
    entry: Option<Arc<OutboundEntry>>,
    /// DSCP and ECN of their outer headers.
    class: u8,
    frames: Vec<Frame>,
    burst: Burst,
}

/// What a flush has done: packets sent, and packets that the socket refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: u64,
    pub(super) refused: u64,
}

impl Outbox {
    /// From sockets of either family.
    pub(super) fn new(udp: Vec<UdpSocket>, raw: Vec<OwnedFd>, ah: Vec<OwnedFd>) -> Self {
        let mut both_udp = [None, None];
        for socket in udp {
            let v4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
            both_udp[usize::from(!v4)].get_or_insert(socket);
        }
        Self {
            udp: both_udp,
            raw: by_family(raw),
            ah: by_family(ah),
            entry: None,
            class: 0,
            frames: Vec::with_capacity(PACKETS),
            burst: Burst::new(),
        }
    }

    /// Whether a packet of this SA and class is to be preceded by a flush: packets of one SA are not
    /// reordered, so they wait for one class at a time.
    pub(super) fn must_flush(&self, entry: &Arc<OutboundEntry>, class: u8) -> bool {
        let other =
            |waiting: &Arc<OutboundEntry>| !Arc::ptr_eq(waiting, entry) || self.class != class;
        self.entry.as_ref().is_some_and(other) || self.frames.len() == PACKETS
    }

    /// Takes a packet in.
    pub(super) fn push(&mut self, entry: Arc<OutboundEntry>, class: u8, frame: Frame) {
        self.entry.get_or_insert(entry);
        self.class = class;
        self.frames.push(frame);
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> Sent {
        let Some(entry) = self.entry.take() else {
            return Sent::default();
        };
        let way = entry.way();
        let (local, remote) = way.path;
        if way.encapsulation == Encapsulation::Tcp {
            return self.flush_into(way.stream.as_deref());
        }
        let place = usize::from(!remote.is_ipv4());
        let fd = match way.encapsulation {
            Encapsulation::Udp | Encapsulation::UdpTransport => self
                .udp
                .get(place)
                .and_then(Option::as_ref)
                .map(AsFd::as_fd),
            Encapsulation::Native | Encapsulation::Transport => self
                .raw
                .get(place)
                .and_then(Option::as_ref)
                .map(AsFd::as_fd),
            Encapsulation::Tcp => None,
            Encapsulation::Ah => self.ah.get(place).and_then(Option::as_ref).map(AsFd::as_fd),
        };
        if way.encapsulation == Encapsulation::Ah && remote.is_ipv6() {
            // An IPv6 socket puts the same header on, save for what AH does not cover.
            for frame in &mut self.frames {
                if !frame.pull_front(Ipv6Header::LEN) {
                    frame.clear();
                }
            }
        }
        if matches!(
            way.encapsulation,
            Encapsulation::Transport | Encapsulation::UdpTransport
        ) {
            for frame in &mut self.frames {
                let header = Facts::of(frame).map_or(usize::MAX, |facts| facts.header_len);
                if !frame.pull_front(header) {
                    frame.clear();
                }
            }
        }
        let mut sent = Sent::default();
        if let Some(fd) = fd {
            let udp = matches!(
                way.encapsulation,
                Encapsulation::Udp | Encapsulation::UdpTransport
            );
            let remote = match udp {
                true => remote,
                false => SocketAddr::new(remote.ip(), 0),
            };
            let mut sender = Sender {
                burst: &mut self.burst,
                fd,
                heading: Heading {
                    local: local.ip(),
                    remote,
                    class: self.class,
                },
                sent: &mut sent,
            };
            match udp {
                true => sender.send_cut(&self.frames),
                false => sender.send_each(&self.frames),
            }
        } else {
            sent.refused = self.frames.len() as u64;
        }
        self.frames.clear();
        sent
    }

    /// Sends what waits by TCP: what it has no room for is lost.
    fn flush_into(&mut self, stream: Option<&Stream>) -> Sent {
        let sent = stream.map_or(0, |stream| stream.send_esp(&self.frames));
        let refused = self.frames.len() as u64 - sent;
        self.frames.clear();
        Sent { sent, refused }
    }
}

/// IPv4's first.
fn by_family(sockets: Vec<OwnedFd>) -> [Option<OwnedFd>; 2] {
    let mut both = [None, None];
    for socket in sockets {
        let v4 = socket_domain(&socket).is_ok_and(|of| of == AddressFamily::INET);
        both[usize::from(!v4)] = Some(socket);
    }
    both
}

/// One flush.
struct Sender<'flush> {
    burst: &'flush mut Burst,
    fd: BorrowedFd<'flush>,
    heading: Heading,
    sent: &'flush mut Sent,
}

impl Sender<'_> {
    /// UDP: runs of one size, the last one shorter perhaps, are a message each that the kernel, or the
    /// network card, cuts into segments. Others are sent as they are, many in a call.
    fn send_cut(&mut self, mut frames: &[Frame]) {
        while !frames.is_empty() {
            let run = run_of(frames);
            if run > 1 {
                self.send_run(frames.get(..run).unwrap_or_default());
                frames = frames.get(run..).unwrap_or_default();
                continue;
            }
            let mut alone = 1;
            while alone < frames.len() && run_of(frames.get(alone..).unwrap_or_default()) == 1 {
                alone += 1;
            }
            self.send_each(frames.get(..alone).unwrap_or_default());
            frames = frames.get(alone..).unwrap_or_default();
        }
    }

    fn send_run(&mut self, run: &[Frame]) {
        let Some(Ok(segment)) = run.first().map(|first| u16::try_from(first.len())) else {
            return self.send_each(run);
        };
        let mut parts = [IoSlice::new(&[]); MOST_SEGMENTS];
        for (place, frame) in parts.iter_mut().zip(run) {
            *place = IoSlice::new(frame);
        }
        let parts = parts.get(..run.len()).unwrap_or_default();
        match again(|| self.burst.send_cut(self.fd, parts, segment, self.heading)) {
            Ok(_) => self.sent.sent += run.len() as u64,
            Err(error) if is_full(&error) => self.sent.refused += run.len() as u64,
            // Segments that the path is too narrow for, or a path without segmentation offload.
            Err(_) => self.send_each(run),
        }
    }

    /// Each packet as a message of its own.
    fn send_each(&mut self, frames: &[Frame]) {
        for frames in frames.chunks(MOST_PACKETS) {
            let mut parts = [[IoSlice::new(&[])]; MOST_PACKETS];
            for (place, frame) in parts.iter_mut().zip(frames) {
                *place = [IoSlice::new(frame)];
            }
            let mut rest = parts.get(..frames.len()).unwrap_or_default();
            while !rest.is_empty() {
                let taken = match again(|| self.burst.send_each(self.fd, rest, self.heading)) {
                    Ok(taken) => {
                        self.sent.sent += taken as u64;
                        taken.max(1)
                    }
                    Err(error) if is_full(&error) => {
                        self.sent.refused += rest.len() as u64;
                        rest.len()
                    }
                    // One that can't be sent does not cost the others.
                    Err(_) => {
                        self.sent.refused += 1;
                        1
                    }
                };
                rest = rest.get(taken..).unwrap_or_default();
            }
        }
    }
}

/// How many packets from the front make one message.
fn run_of(frames: &[Frame]) -> usize {
    let segment = frames.first().map_or(0, |first| first.len());
    let (mut run, mut octets, mut ended) = (0, 0, false);
    for frame in frames.iter().take(MOST_SEGMENTS) {
        if ended || frame.len() > segment || octets + frame.len() > MOST_OCTETS {
            break;
        }
        // A shorter one ends its message.
        ended = frame.len() < segment;
        octets += frame.len();
        run += 1;
    }
    run
}

/// Once more where the first try told of an ICMP error that an earlier packet met.
fn again(mut send: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match send() {
        Err(error) if is_of_the_past(&error) => send(),
        sent => sent,
    }
}

fn is_of_the_past(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable
    )
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
