// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One worker: reads what is there, has it sealed and opened, writes what is done, sleeps when there
//! is nothing.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use offload_api::frame::{Frame, FramePool};
use offload_api::queue::{Arm, Done, Op, QueuePair, Status};
use offload_api::wire::esp::{Header, NEXT_HEADER_DUMMY};
use offload_api::wire::ip::{Facts, Ipv4Header, PROTOCOL_IPV4, PROTOCOL_IPV6};
use offload_api::wire::natt::{self, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use tun_rs::{GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::acquire::AcquireGate;
use super::policy::{InboundEntry, OutboundEntry};
use super::sockets::{self, MOST_OCTETS, MOST_SEGMENTS, Receiver};
use super::to_tun::TunPacket;
use super::{Encapsulation, Shared, Upcall};

/// Operations that one round takes in from each side.
const BURST: usize = 128;
/// Reads of a socket in one round.
const READS: usize = 32;
/// How long a sleeper sleeps at most: a lost interrupt is made good after that.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// As above, when nothing is in flight.
const SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// Room in front of a packet that goes to the TUN.
const TUN_OFFSET: usize = VIRTIO_NET_HDR_LEN;

pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    tun: SyncDevice,
    udp: Vec<UdpSocket>,
    raw: Vec<OwnedFd>,
    queue: Box<dyn QueuePair>,
    pool: FramePool,
    receiver: Receiver,
    /// What a TUN read is split into.
    tun_buffers: Vec<TunBuffer>,
    tun_sizes: Vec<usize>,
    tun_raw: Vec<u8>,
    gro: GROTable,
    to_tun: Vec<TunPacket>,
    to_tun_len: usize,
    ops: Vec<Op>,
    done: Vec<Done>,
    /// What each operation in flight belongs to, by its cookie.
    flights: Vec<Option<Flight>>,
    free: Vec<u64>,
    /// Sealed packets of one send.
    batch: Vec<Frame>,
    batch_entry: Option<Arc<OutboundEntry>>,
    batch_octets: usize,
    ports: Vec<u16>,
    /// Frames are short: the TUN and raw sockets are not read.
    starved: bool,
    acquires: AcquireGate,
}

enum Flight {
    Out(Arc<OutboundEntry>),
    In(Arc<InboundEntry>, SocketAddr),
}

/// A frame that the TUN writes into.
struct TunBuffer(Frame);

impl AsRef<[u8]> for TunBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for TunBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Worker {
    pub(super) fn new(
        number: usize,
        shared: Arc<Shared>,
        tun: SyncDevice,
        (udp, raw): (Vec<UdpSocket>, Vec<OwnedFd>),
        queue: Box<dyn QueuePair>,
        pool: FramePool,
    ) -> io::Result<Self> {
        let ports: Result<Vec<u16>, io::Error> = udp
            .iter()
            .map(|socket| socket.local_addr().map(|address| address.port()))
            .collect();
        Ok(Self {
            ports: ports?,
            number,
            shared,
            tun,
            udp,
            raw,
            queue,
            pool,
            receiver: Receiver::new(),
            tun_buffers: Vec::with_capacity(IDEAL_BATCH_SIZE),
            tun_sizes: vec![0; IDEAL_BATCH_SIZE],
            tun_raw: vec![0; (1 << 16) + VIRTIO_NET_HDR_LEN],
            gro: GROTable::default(),
            to_tun: (0..BURST).map(|_| TunPacket::default()).collect(),
            to_tun_len: 0,
            ops: Vec::with_capacity(4 * BURST),
            done: Vec::with_capacity(4 * BURST),
            flights: Vec::new(),
            free: Vec::new(),
            batch: Vec::with_capacity(MOST_SEGMENTS),
            batch_entry: None,
            batch_octets: 0,
            starved: false,
            acquires: AcquireGate::default(),
        })
    }

    pub(super) fn run(&mut self) {
        while !self.shared.stop.load(std::sync::atomic::Ordering::Acquire) {
            let mut worked = false;
            // Back-pressure: what is not taken in waits in the kernel, or is dropped and counted there.
            if self.ops.is_empty() {
                worked |= self.read_tun();
                worked |= self.read_udp();
                worked |= self.read_raw();
            }
            if !self.ops.is_empty() {
                if self.queue.enqueue(&mut self.ops).is_err() {
                    self.give_up();
                }
                // What a lost device brings home is found below.
                let _ = self.queue.kick();
            }
            worked |= self.finish();
            if !worked {
                self.sleep();
            }
        }
    }

    /// Drops what a device that is gone did not take.
    fn give_up(&mut self) {
        for op in self.ops.drain(..) {
            if let Some(flight) = self.flights.get_mut(op.cookie as usize) {
                *flight = None;
                self.free.push(op.cookie);
            }
            self.shared.counters.refusal(Status::Aborted);
        }
    }

    fn read_tun(&mut self) -> bool {
        while self.tun_buffers.len() < IDEAL_BATCH_SIZE {
            let Some(mut frame) = self.pool.alloc() else {
                break;
            };
            let room = frame
                .tailroom()
                .saturating_sub(offload_api::frame::TAILROOM);
            if frame.push_back(room).is_none() {
                break;
            }
            self.tun_buffers.push(TunBuffer(frame));
        }
        // One large packet of the kernel's becomes up to so many: it waits until there is room.
        self.starved = self.tun_buffers.len() < IDEAL_BATCH_SIZE;
        if self.starved {
            return false;
        }
        let sizes = &mut self.tun_sizes;
        let read = self
            .tun
            .recv_multiple(&mut self.tun_raw, &mut self.tun_buffers, sizes, 0);
        let Ok(count) = read else { return false };
        self.shared
            .counters
            .tun_received
            .fetch_add(count as u64, Relaxed);
        let policy = self.shared.policy.load_full();
        // Taken off the end, so that the buffers behind stay where they are; the order is restored.
        let mut packets = self.tun_buffers.drain(..count);
        for at in 0..count {
            let Some(TunBuffer(mut frame)) = packets.next() else {
                break;
            };
            frame.truncate(self.tun_sizes.get(at).copied().unwrap_or(0));
            let Ok(facts) = Facts::of(&frame) else {
                self.shared.counters.malformed.fetch_add(1, Relaxed);
                continue;
            };
            let Some(entry) = policy.outbound(&facts) else {
                self.shared.counters.no_policy.fetch_add(1, Relaxed);
                let (source, destination) = (facts.source, facts.destination);
                if self.acquires.passes(source, destination, Instant::now()) {
                    self.shared.counters.acquires.fetch_add(1, Relaxed);
                    let heard = (self.shared.upcall)(Upcall::Acquire {
                        source,
                        destination,
                    });
                    if !heard {
                        self.acquires.forget_last();
                    }
                }
                continue;
            };
            let flight = Flight::Out(entry.clone());
            let cookie = book(&mut self.flights, &mut self.free, flight);
            self.ops.push(Op {
                sa: entry.sa,
                frame,
                cookie,
                explicit: None,
            });
        }
        true
    }

    fn read_udp(&mut self) -> bool {
        let mut worked = false;
        for at in 0..self.udp.len() {
            for _ in 0..READS {
                let (Some(socket), Some(port)) = (self.udp.get(at), self.ports.get(at)) else {
                    break;
                };
                let Ok(Some(received)) = self.receiver.receive(socket) else {
                    break;
                };
                worked = true;
                let policy = self.shared.policy.load();
                for datagram in received.octets.chunks(received.segment) {
                    match natt::classify(datagram) {
                        Kind::Esp => {
                            let shared = &self.shared;
                            shared.counters.esp_received.fetch_add(1, Relaxed);
                            let entry = Header::parse(datagram)
                                .and_then(|header| policy.inbound(header.spi.get()));
                            let Some(entry) = entry else {
                                shared.counters.unknown_spi.fetch_add(1, Relaxed);
                                continue;
                            };
                            let Some(mut frame) =
                                self.pool.alloc().filter(|_| self.ops.len() < 4 * BURST)
                            else {
                                shared.counters.overload.fetch_add(1, Relaxed);
                                continue;
                            };
                            if !frame.fill(datagram) {
                                shared.counters.refused.fetch_add(1, Relaxed);
                                continue;
                            }
                            let flight = Flight::In(entry.clone(), received.remote);
                            let cookie = book(&mut self.flights, &mut self.free, flight);
                            self.ops.push(Op {
                                sa: entry.sa,
                                frame,
                                cookie,
                                explicit: None,
                            });
                        }
                        Kind::Ike(message) => {
                            let unspecified = match received.remote {
                                SocketAddr::V4(_) => [0; 4].into(),
                                SocketAddr::V6(_) => [0; 16].into(),
                            };
                            let local = received.local.unwrap_or(unspecified);
                            (self.shared.upcall)(Upcall::Ike {
                                local: SocketAddr::new(local, *port),
                                remote: received.remote,
                                datagram: message.to_vec(),
                            });
                        }
                        Kind::Keepalive | Kind::Runt => {
                            self.shared.counters.ignored.fetch_add(1, Relaxed);
                        }
                    }
                }
                if self.ops.len() >= BURST {
                    break;
                }
            }
        }
        worked
    }

    fn read_raw(&mut self) -> bool {
        let mut worked = false;
        for socket in &self.raw {
            for _ in 0..READS {
                // Straight into a frame; without one, packets wait in the kernel.
                let Some(mut frame) = self.pool.alloc() else {
                    self.starved = true;
                    break;
                };
                let room = frame.tailroom();
                let Some(room) = frame.push_back(room) else {
                    break;
                };
                let Ok(Some((len, sender))) = sockets::receive_raw(socket, room) else {
                    break;
                };
                worked = true;
                self.shared.counters.esp_received.fetch_add(1, Relaxed);
                let Some(len) = len else {
                    self.shared.counters.refused.fetch_add(1, Relaxed);
                    continue;
                };
                frame.truncate(len);
                // IPv4 raw sockets deliver the IP header, IPv6 ones do not.
                if sender.is_ipv4() {
                    let words = frame.first().map_or(0, |octet| octet & 0x0f);
                    let skip = (usize::from(words) * 4).max(Ipv4Header::LEN);
                    if !frame.pull_front(skip) {
                        frame.clear();
                    }
                }
                let policy = self.shared.policy.load();
                let header = Header::parse(&frame);
                let entry = header.and_then(|header| policy.inbound(header.spi.get()));
                let Some(entry) = entry else {
                    self.shared.counters.unknown_spi.fetch_add(1, Relaxed);
                    continue;
                };
                let flight = Flight::In(entry.clone(), SocketAddr::new(sender, 0));
                let cookie = book(&mut self.flights, &mut self.free, flight);
                self.ops.push(Op {
                    sa: entry.sa,
                    frame,
                    cookie,
                    explicit: None,
                });
                if self.ops.len() >= BURST {
                    break;
                }
            }
        }
        worked
    }

    /// Sends what is done on its way.
    fn finish(&mut self) -> bool {
        let _ = self.queue.dequeue(&mut self.done, 4 * BURST);
        if self.done.is_empty() {
            return false;
        }
        let mut finished = std::mem::take(&mut self.done);
        for done in finished.drain(..) {
            let flight = self
                .flights
                .get_mut(done.cookie as usize)
                .and_then(Option::take);
            let Some(flight) = flight else { continue };
            self.free.push(done.cookie);
            if !done.status.is_ok() {
                self.shared.counters.refusal(done.status);
                continue;
            }
            match flight {
                Flight::Out(entry) => self.send(entry, done.frame),
                Flight::In(entry, remote) => self.deliver(&entry, remote, done),
            }
        }
        self.done = finished;
        self.flush_batch();
        self.flush_tun();
        true
    }

    /// Collects packets of one SA and size for one send.
    fn send(&mut self, entry: Arc<OutboundEntry>, frame: Frame) {
        entry.count(frame.len());
        if entry.encapsulation == Encapsulation::Native {
            let (local, remote) = entry.path();
            let domain = match remote {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let fits = |socket: &&OwnedFd| socket_domain(socket).is_ok_and(|of| of == domain);
            let socket = self.raw.iter().find(fits);
            let (from, to) = (local.ip(), remote.ip());
            let sent = socket.map(|socket| sockets::send_raw(socket, &frame, from, to));
            self.count_sent(matches!(sent, Some(Ok(()))), 1);
            return;
        }
        let same = self
            .batch_entry
            .as_ref()
            .is_some_and(|batch| Arc::ptr_eq(batch, &entry));
        let segment = self.batch.first().map_or(0, |first| first.len());
        let full = self.batch.len() == MOST_SEGMENTS
            || self.batch_octets + frame.len() > MOST_OCTETS
            || frame.len() > segment
            // A shorter one ends its send.
            || self.batch.last().is_some_and(|last| last.len() < segment);
        if !same || full {
            self.flush_batch();
        }
        self.batch_entry = Some(entry);
        self.batch_octets += frame.len();
        self.batch.push(frame);
    }

    fn flush_batch(&mut self) {
        let (Some(entry), Some(first)) = (self.batch_entry.take(), self.batch.first()) else {
            return;
        };
        let segment = first.len();
        let (local, remote) = entry.path();
        let v4 = remote.is_ipv4();
        let fits = |socket: &&UdpSocket| socket.local_addr().is_ok_and(|a| a.is_ipv4() == v4);
        if let Some(socket) = self.udp.iter().find(fits) {
            let parts: Vec<IoSlice<'_>> =
                self.batch.iter().map(|frame| IoSlice::new(frame)).collect();
            let send =
                |parts: &[IoSlice<'_>]| sockets::send(socket, parts, segment, local.ip(), remote);
            match send(&parts) {
                // A path without segmentation offload: one by one.
                Err(error) if parts.len() > 1 && error.kind() != io::ErrorKind::WouldBlock => {
                    for part in &parts {
                        self.count_sent(send(&[*part]).is_ok(), 1);
                    }
                }
                sent => self.count_sent(sent.is_ok(), parts.len()),
            }
        } else {
            self.count_sent(false, self.batch.len());
        }
        self.batch.clear();
        self.batch_octets = 0;
    }

    fn count_sent(&self, sent: bool, count: usize) {
        let counters = &self.shared.counters;
        let counter = if sent {
            &counters.esp_sent
        } else {
            &counters.send_errors
        };
        counter.fetch_add(count as u64, Relaxed);
    }

    fn deliver(&mut self, entry: &InboundEntry, remote: SocketAddr, done: Done) {
        let counters = &self.shared.counters;
        if done.next_header == NEXT_HEADER_DUMMY {
            counters.dummies.fetch_add(1, Relaxed);
            return;
        }
        let Ok(facts) = Facts::of(&done.frame) else {
            counters.malformed.fetch_add(1, Relaxed);
            return;
        };
        // A device's word that the trailer fits is not enough: it says what the peer meant.
        let announced = if facts.source.is_ipv4() {
            PROTOCOL_IPV4
        } else {
            PROTOCOL_IPV6
        };
        if done.next_header != announced || !entry.permits(&facts) {
            counters.selector_mismatch.fetch_add(1, Relaxed);
            return;
        }
        entry.count(done.frame.len());
        if remote.port() != 0
            && let Some(child) = entry.came_from(remote, done.sequence, Instant::now())
            && !(self.shared.upcall)(Upcall::PeerMoved { child, remote })
        {
            entry.was_not_heard();
        }
        if self.to_tun_len == self.to_tun.len() {
            self.flush_tun();
        }
        if let Some(packet) = self.to_tun.get_mut(self.to_tun_len) {
            packet.set(done.frame);
            self.to_tun_len += 1;
        }
    }

    fn flush_tun(&mut self) {
        if self.to_tun_len == 0 {
            return;
        }
        let count = std::mem::take(&mut self.to_tun_len);
        let packets = self.to_tun.get_mut(..count).unwrap_or_default();
        let written = self.tun.send_multiple(&mut self.gro, packets, TUN_OFFSET);
        packets.iter_mut().for_each(TunPacket::clear);
        let counters = &self.shared.counters;
        let counter = if written.is_ok() {
            &counters.tun_sent
        } else {
            &counters.send_errors
        };
        counter.fetch_add(count as u64, Relaxed);
    }

    fn sleep(&mut self) {
        let busy = self.queue.in_flight() != 0 || !self.ops.is_empty();
        let Some(wake) = self.shared.wakes.get(self.number) else {
            return;
        };
        let device = match self.queue.arm() {
            Ok(Arm::Wait(fd)) => Some(fd),
            Ok(Arm::Ready) => return,
            // Gone, and nothing to bring home: nothing tells when it is back.
            Err(_) => None,
        };
        let busy = busy || device.is_none() || self.starved;
        let mut fds = Vec::with_capacity(8);
        fds.push(PollFd::new(wake, PollFlags::IN));
        fds.extend(device.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if self.ops.is_empty() {
            // What can't be read now must not wake.
            if !self.starved {
                fds.push(PollFd::from_borrowed_fd(self.tun.as_fd(), PollFlags::IN));
            }
            fds.extend(
                self.udp
                    .iter()
                    .map(|socket| PollFd::new(socket, PollFlags::IN)),
            );
            let raw = self.raw.iter().filter(|_| !self.starved);
            fds.extend(raw.map(|socket| PollFd::new(socket, PollFlags::IN)));
        }
        let _ = poll(&mut fds, Some(if busy { &NAP } else { &SLEEP }));
    }
}

fn book(flights: &mut Vec<Option<Flight>>, free: &mut Vec<u64>, flight: Flight) -> u64 {
    let cookie = free.pop().unwrap_or_else(|| {
        flights.push(None);
        (flights.len() - 1) as u64
    });
    if let Some(place) = flights.get_mut(cookie as usize) {
        *place = Some(flight);
    }
    cookie
}
