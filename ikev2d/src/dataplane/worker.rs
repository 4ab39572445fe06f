// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One worker: reads what is there, has it sealed and opened, writes what is done, sleeps when there
//! is nothing.

mod receive;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use offload_api::busy_poll::BusyPoll;
use offload_api::frame::{Frame, FramePool};
use offload_api::queue::{Done, Op, QueuePair, Status};
use offload_api::sa::SaHandle;
use offload_api::wire::esp::NEXT_HEADER_DUMMY;
use offload_api::wire::ip::{Facts, PROTOCOL_IPV4, PROTOCOL_IPV6};
use tun_rs::SyncDevice;

use super::acquire::AcquireGate;
use super::early::{self, Arrival};
use super::from_tun::{FromTun, MOST_PACKETS};
use super::interfaces::{InterfaceId, Queues};
use super::mail;
use super::mtu::{self, AnswerGate};
use super::original;
use super::outbox::{Outbox, Sent};
use super::padding;
use super::policy::{InboundEntry, OutboundEntry};
use super::ready::{Ready, SOCKETS, Source};
use super::sockets::{Burst, Receiver};
use super::to_tun::ToTun;
use super::waiting::Waiting;
use super::{MssClamp, Shared, Upcall};

/// Operations that one round takes in from each side.
pub(super) const BURST: usize = 128;
/// Operations that one round takes in from each source of ESP, however many the TUN has brought: a busy
/// TUN must not keep what comes in waiting.
pub(super) const SHARE: usize = BURST / 2;
/// Operations that a round may grow to: what one read of each source brings must find room.
const ROOM: usize = 8 * BURST;
/// Reads of a socket in one round.
pub(super) const READS: usize = 32;
/// Packets of IP protocol 50 that are read at once.
const RAW_READ: usize = 32;

/// What a worker is made of.
pub(super) struct Parts {
    pub(super) number: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) tun: SyncDevice,
    /// To send with: every worker has all of them.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) raw: Vec<OwnedFd>,
    pub(super) ah: Vec<OwnedFd>,
    /// To read: a socket has one reader, or the order of its packets would be lost.
    pub(super) reads_udp: Vec<UdpSocket>,
    pub(super) reads_raw: Vec<OwnedFd>,
    pub(super) reads_ah: Vec<OwnedFd>,
    pub(super) queue: Box<dyn QueuePair>,
    pub(super) pool: FramePool,
    /// For how long it asks for more before it sleeps.
    pub(super) busy_poll: Duration,
    /// To wait for further interfaces with.
    pub(super) epoll: OwnedFd,
}

pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) tun: Arc<SyncDevice>,
    pub(super) interfaces: Queues,
    pub(super) udp: Vec<(UdpSocket, u16)>,
    pub(super) raw: Vec<OwnedFd>,
    pub(super) ah: Vec<OwnedFd>,
    pub(super) ah_control: Vec<u8>,
    raw_burst: Burst,
    raw_frames: Vec<Frame>,
    /// Packets that TCP has brought.
    mail: VecDeque<Frame>,
    pub(super) queue: Box<dyn QueuePair>,
    pub(super) pool: FramePool,
    receiver: Receiver,
    from_tun: FromTun,
    to_tun: ToTun,
    /// Where its packets go.
    to: InterfaceId,
    outbox: Outbox,
    pub(super) ops: Vec<Op>,
    done: Vec<Done>,
    /// What each operation in flight belongs to, by its cookie.
    flights: Vec<Option<Flight>>,
    free: Vec<u64>,
    /// Frames are short: the TUN and raw sockets are not read.
    pub(super) starved: bool,
    /// What is worth a read.
    pub(super) ready: Ready,
    pub(super) acquires: AcquireGate,
    pub(super) waiting: Waiting<InterfaceId>,
    /// Those that came before their SA, with its SPI.
    pub(super) early: Waiting<(u32, Arrival)>,
    answers: AnswerGate,
    pub(super) poll: BusyPoll,
}

pub(super) enum Flight {
    /// With the outer header's class.
    Out(Arc<OutboundEntry>, u8),
    /// With the peer's address, and the outer header's class, where it is known.
    In(Arc<InboundEntry>, SocketAddr, Option<u8>),
}

impl Worker {
    pub(super) fn new(parts: Parts) -> Self {
        let port = |socket: &UdpSocket| socket.local_addr().map_or(0, |address| address.port());
        let sockets = parts.reads_udp.len() + parts.reads_raw.len() + parts.reads_ah.len();
        debug_assert!(
            sockets <= SOCKETS,
            "a worker can't wait for {sockets} sockets"
        );
        let udp = parts.reads_udp.into_iter().map(|socket| {
            let port = port(&socket);
            (socket, port)
        });
        Self {
            udp: udp.collect(),
            raw: parts.reads_raw,
            ah: parts.reads_ah,
            ah_control: super::ah::control(),
            raw_burst: Burst::new(),
            raw_frames: Vec::with_capacity(RAW_READ),
            mail: mail::room(),
            number: parts.number,
            shared: parts.shared,
            to_tun: ToTun::new(parts.tun.udp_gso()),
            to: InterfaceId::MAIN,
            from_tun: FromTun::new(),
            tun: Arc::new(parts.tun),
            interfaces: Queues::new(parts.number, parts.epoll),
            outbox: Outbox::new(parts.udp, parts.raw, parts.ah),
            queue: parts.queue,
            pool: parts.pool,
            receiver: Receiver::new(),
            ops: Vec::with_capacity(ROOM),
            done: Vec::with_capacity(ROOM),
            flights: Vec::with_capacity(ROOM),
            free: Vec::with_capacity(ROOM),
            starved: false,
            ready: Ready::NONE,
            acquires: AcquireGate::default(),
            waiting: Waiting::default(),
            early: Waiting::new(early::MOST),
            answers: AnswerGate::default(),
            poll: BusyPoll::new(parts.busy_poll),
        }
    }

    pub(super) fn run(&mut self) {
        let mut asked = true;
        let mut mailed = false;
        while !self.shared.stop.load(std::sync::atomic::Ordering::Acquire) {
            let mut worked = false;
            self.starved = self.pool.available() < MOST_PACKETS;
            // Back-pressure: what is not taken in waits in the kernel, or is dropped and counted there.
            if self.ops.is_empty() {
                // What is there in memory must not hide what the kernel has.
                if !asked && (mailed || !self.ready.is_empty()) {
                    self.look();
                }
                if !self.waiting.is_empty() {
                    self.look_at_waiting();
                }
                if !self.early.is_empty() {
                    self.look_at_early();
                }
                worked |= self.read_tun();
                worked |= self.read_interfaces();
                worked |= self.read_udp();
                mailed = self.read_mail();
                worked |= mailed;
                worked |= self.read_raw();
                worked |= self.read_ah();
            }
            if !self.ops.is_empty() {
                if self.queue.enqueue(&mut self.ops).is_err() {
                    self.give_up();
                }
                // What a lost device brings home is found below.
                let _ = self.queue.kick();
            }
            worked |= self.finish();
            asked = !worked;
            if worked {
                self.poll.found();
            } else if !self.asks_on() {
                let since = self.poll.sleeps();
                self.sleep();
                self.poll.slept(since);
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
        let (tun, now) = (self.tun.clone(), Instant::now());
        let mut worked = false;
        while self.ops.len() < BURST && self.ready.has(Source::Tun) && !self.starved {
            if self.read_once(&tun, InterfaceId::MAIN, now) {
                worked = true;
            } else if !self.starved {
                self.ready.clear(Source::Tun);
            }
        }
        worked
    }

    /// Reads a TUN queue once; whether anything was there.
    pub(super) fn read_once(&mut self, tun: &SyncDevice, from: InterfaceId, now: Instant) -> bool {
        // One large packet of the kernel's becomes up to so many: it waits until there is room.
        self.starved = self.pool.available() < MOST_PACKETS;
        if self.starved || !self.from_tun.read(tun, &self.pool) {
            return false;
        }
        let mut packets = self.from_tun.take();
        let counter = &self.shared.counters.tun_received;
        counter.fetch_add(packets.len() as u64, Relaxed);
        for frame in packets.drain(..) {
            self.seal(frame, from, now);
        }
        self.from_tun.give_back(packets);
        true
    }

    /// Leads a packet of an interface to its SA.
    fn seal(&mut self, frame: Frame, from: InterfaceId, now: Instant) {
        let Ok(facts) = Facts::of(&frame) else {
            self.shared.counters.malformed.fetch_add(1, Relaxed);
            return;
        };
        let policy = &self.shared.policy;
        match policy.outbound(from, &facts, self.number) {
            Some(entry) => self.seal_through(&entry, frame, &facts, now),
            None if policy.traps(from, &facts) => self.ask_for_sa(frame, from, &facts, now),
            None => {
                self.shared.counters.no_policy.fetch_add(1, Relaxed);
            }
        }
    }

    /// Has a packet sealed through its SA, if it fits the path.
    pub(super) fn seal_through(
        &mut self,
        entry: &Arc<OutboundEntry>,
        mut frame: Frame,
        facts: &Facts,
        now: Instant,
    ) {
        entry.look_at_path(now);
        let limit = entry.limit();
        if let Some(mtu) = mtu::too_big(facts, limit) {
            self.shared.counters.too_big.fetch_add(1, Relaxed);
            self.answer(&frame, entry.interface, facts, mtu, now);
            return;
        }
        self.clamp(&mut frame, facts, limit);
        if entry.tfc_padding != 0 {
            let most = limit.min(self.shared.mtu.into());
            padding::pad(&mut frame, most.min(entry.tfc_padding.into()));
        }
        let class = self.shared.copy_dscp.outer(facts.traffic_class);
        self.submit(entry.sa, frame, Flight::Out(entry.clone(), class));
    }

    /// Tells the sender of a packet that it is too large.
    fn answer(
        &mut self,
        packet: &[u8],
        from: InterfaceId,
        facts: &Facts,
        mtu: usize,
        now: Instant,
    ) {
        if !self.answers.passes(facts, mtu, now) {
            return;
        }
        let Some(mut frame) = self.pool.alloc() else {
            return;
        };
        let room = frame.tailroom();
        let Some(room) = frame.push_back(room) else {
            return;
        };
        let Some(answer) = mtu::answer(packet, facts, mtu, room) else {
            return;
        };
        let (len, about) = (answer.len(), Facts::of(answer));
        frame.truncate(len);
        if let Ok(about) = about {
            let counter = &self.shared.counters.too_big_answered;
            counter.fetch_add(1, Relaxed);
            self.give_to_tun(frame, &about, from);
            self.flush_tun();
        }
    }

    /// Lowers a SYN's segment size to what fits both ways.
    fn clamp(&self, packet: &mut [u8], facts: &Facts, limit: usize) {
        if self.shared.mss_clamp != MssClamp::Off
            && mtu::is_syn(packet, facts)
            && mtu::clamp(packet, facts, self.shared.mss_clamp, limit)
        {
            self.shared.counters.mss_clamped.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn submit(&mut self, sa: SaHandle, frame: Frame, flight: Flight) {
        let cookie = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            (self.flights.len() - 1) as u64
        });
        if let Some(place) = self.flights.get_mut(cookie as usize) {
            *place = Some(flight);
        }
        self.ops.push(Op::new(sa, frame, cookie));
    }

    /// Sends what is done on its way.
    fn finish(&mut self) -> bool {
        let _ = self.queue.dequeue(&mut self.done, ROOM);
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
                Flight::Out(entry, class) => self.send(entry, class, done.frame),
                Flight::In(entry, remote, class) => self.deliver(&entry, (remote, class), done),
            }
        }
        self.done = finished;
        self.flush_outbox();
        self.flush_tun();
        true
    }

    /// Collects packets of one SA and class for one send.
    fn send(&mut self, entry: Arc<OutboundEntry>, class: u8, frame: Frame) {
        entry.count(frame.len());
        if self.outbox.must_flush(&entry, class) {
            self.flush_outbox();
        }
        self.outbox.push(entry, class, frame);
    }

    fn flush_outbox(&mut self) {
        let Sent { sent, refused } = self.outbox.flush();
        let counters = &self.shared.counters;
        counters.esp_sent.fetch_add(sent, Relaxed);
        counters.send_errors.fetch_add(refused, Relaxed);
    }

    fn deliver(
        &mut self,
        entry: &InboundEntry,
        (remote, class): (SocketAddr, Option<u8>),
        mut done: Done,
    ) {
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
        let announced = match (entry.transport, facts.source) {
            (Some(_), _) => facts.protected_protocol,
            (None, IpAddr::V4(_)) => PROTOCOL_IPV4,
            (None, IpAddr::V6(_)) => PROTOCOL_IPV6,
        };
        if done.next_header != announced || !entry.permits(&facts) {
            counters.selector_mismatch.fetch_add(1, Relaxed);
            return;
        }
        if let Some(addresses) = entry.original.as_deref()
            && !original::mend_checksum(&mut done.frame, &facts, *addresses)
        {
            counters.malformed.fetch_add(1, Relaxed);
            return;
        }
        if let (None, Some(outer)) = (entry.transport, class)
            && !self.take_class(&mut done.frame, &facts, outer)
        {
            return;
        }
        entry.count(done.frame.len());
        if remote.port() != 0
            && let Some(child) = entry.came_from(remote, done.sequence, Instant::now())
            && !(self.shared.upcall)(Upcall::PeerMoved { child, remote })
        {
            entry.was_not_heard();
        }
        if mtu::is_syn(&done.frame, &facts)
            && let Some(back) = self.shared.policy.outbound_of(entry.child)
        {
            self.clamp(&mut done.frame, &facts, back.limit());
        }
        self.give_to_tun(done.frame, &facts, entry.interface);
    }

    fn give_to_tun(&mut self, frame: Frame, facts: &Facts, to: InterfaceId) {
        if self.to_tun.is_full() || self.to != to {
            self.flush_tun();
        }
        self.to = to;
        self.to_tun.push(frame, facts);
    }

    fn flush_tun(&mut self) {
        let tun = match self.to {
            InterfaceId::MAIN => Some(&self.tun),
            other => self.interfaces.get(other),
        };
        let (written, refused) = self.to_tun.flush(|parts| match tun {
            Some(tun) => tun.send_vectored(parts),
            None => Err(std::io::ErrorKind::NotFound.into()),
        });
        let counters = &self.shared.counters;
        counters.tun_sent.fetch_add(written, Relaxed);
        counters.send_errors.fetch_add(refused, Relaxed);
    }
}
