// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine with a pool and a queue, and the packets and SAs that the sections share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capability::Features;
use crate::device::Accelerator;
use crate::error::InstallError;
use crate::event::Event;
use crate::frame::{Frame, FramePool, FramePoolConfig};
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::sa::{
    Amend, Direction, Grant, KeyMaterial, Mode, Numbering, SaHandle, SaParams, Spi, Suite,
};
use crate::wire::ip::checksum;

/// How long an engine may take for anything.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Operations in flight on the rig's queue.
pub(super) const DEPTH: u32 = 64;
const SLOTS: u32 = 128;
/// Room for a jumbo packet.
const SLOT_SIZE: u32 = 9408;

pub(super) struct Rig {
    pub(super) engine: Arc<dyn Accelerator>,
    pub(super) pool: FramePool,
    queue: Box<dyn QueuePair>,
}

/// A completion whose frame is back in the pool.
pub(super) struct Outcome {
    pub(super) sa: SaHandle,
    pub(super) status: Status,
    pub(super) sequence: u64,
    pub(super) next_header: u8,
    pub(super) octets: Vec<u8>,
}

impl Outcome {
    fn of(done: &Done) -> Self {
        Self {
            sa: done.sa,
            status: done.status,
            sequence: done.sequence,
            next_header: done.next_header,
            octets: done.frame.segments().flatten().copied().collect(),
        }
    }
}

impl Rig {
    pub(super) fn new(engine: Arc<dyn Accelerator>) -> Self {
        let pool = FramePool::new(FramePoolConfig {
            slots: SLOTS,
            slot_size: SLOT_SIZE,
            ..FramePoolConfig::default()
        })
        .unwrap();
        engine.register_pool(&pool).unwrap();
        engine
            .register_pool(&pool)
            .expect("registering a pool again is no error");
        let queue = engine.open_queue(&QueueConfig { depth: DEPTH }).unwrap();
        Self {
            engine,
            pool,
            queue,
        }
    }

    /// After a reset: queues are gone, and pools are registered anew.
    pub(super) fn open_queue_again(&mut self) {
        self.engine.register_pool(&self.pool).unwrap();
        let config = QueueConfig { depth: DEPTH };
        let queue = self.engine.open_queue(&config).unwrap();
        assert!(std::mem::replace(&mut self.queue, queue).close().is_empty());
    }

    /// Brings everything home.
    pub(super) fn end(self) {
        assert_eq!(self.queue.in_flight(), 0);
        assert!(self.queue.close().is_empty());
        assert_home(&self.pool);
    }

    /// Installs an SA within the capabilities; one outside must be refused for the reason that the
    /// capabilities give.
    pub(super) fn install(&self, sa: &SaParams) -> Option<SaHandle> {
        match self.engine.capabilities().check(sa) {
            Ok(()) => Some(self.engine.install(sa).expect("within the capabilities")),
            Err(reason) => {
                let refused = self.engine.install(sa);
                assert_eq!(refused, Err(InstallError::Unsupported(reason)));
                None
            }
        }
    }

    /// The first suite that there is, with both ends installed.
    pub(super) fn pair(&self) -> (SaHandle, SaHandle) {
        let install = |direction| self.install(&self.params(direction)).unwrap();
        (install(Direction::Outbound), install(Direction::Inbound))
    }

    /// Parameters that the engine carries: its first suite in tunnel mode without outer headers
    /// where it can, in transport mode else.
    pub(super) fn params(&self, direction: Direction) -> SaParams {
        let capabilities = self.engine.capabilities();
        let suite = *capabilities.suites.first().expect("a suite");
        let mut sa = params(direction, suite);
        if !capabilities.features.contains(Features::TUNNEL) {
            sa.mode = Mode::Transport;
        }
        sa.replay_window = sa.replay_window.min(capabilities.replay_window_max);
        sa
    }

    pub(super) fn has(&self, feature: Features) -> bool {
        self.engine.capabilities().features.contains(feature)
    }

    pub(super) fn frame(&self, packet: &[u8]) -> Frame {
        let mut frame = self.pool.alloc().expect("a free frame");
        assert!(frame.fill(packet));
        frame
    }

    pub(super) fn op(&self, sa: SaHandle, packet: &[u8]) -> Op {
        Op::new(sa, self.frame(packet), 0)
    }

    /// Runs operations in one burst and tells how they ended, in the same order.
    pub(super) fn burst(&mut self, mut ops: Vec<Op>) -> Vec<Outcome> {
        let count = ops.len();
        for (op, cookie) in ops.iter_mut().zip(0..) {
            op.cookie = cookie;
        }
        let taken = self.queue.enqueue(&mut ops).unwrap();
        assert_eq!(taken, count, "there is room");
        self.queue.kick().unwrap();
        let interrupts = self.has(Features::INTERRUPTS);
        let mut done = collect(&mut *self.queue, count, interrupts);
        check_order(&done);
        done.sort_by_key(|done| done.cookie);
        let cookies = done.iter().zip(0..).all(|(done, n)| done.cookie == n);
        assert!(cookies, "each cookie comes back once");
        done.iter().map(Outcome::of).collect()
    }

    /// Runs one operation on each packet, in bursts as large as the queue.
    pub(super) fn each(&mut self, sa: SaHandle, packets: &[Vec<u8>]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for packets in packets.chunks(DEPTH as usize) {
            let ops = packets.iter().map(|packet| self.op(sa, packet)).collect();
            outcomes.extend(self.burst(ops));
        }
        outcomes
    }

    /// Runs one operation.
    pub(super) fn one(&mut self, sa: SaHandle, packet: &[u8]) -> Outcome {
        let op = self.op(sa, packet);
        self.burst(vec![op]).pop().unwrap()
    }

    /// How one operation ends.
    pub(super) fn status(&mut self, sa: SaHandle, packet: &[u8]) -> Status {
        self.one(sa, packet).status
    }

    /// Seals packets that must pass.
    pub(super) fn seal(&mut self, sa: SaHandle, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let outcomes = self.each(sa, packets).into_iter();
        outcomes
            .map(|outcome| {
                assert_eq!(outcome.status, Status::Ok, "sealing");
                outcome.octets
            })
            .collect()
    }

    /// Seals one packet under this number, out of a grant of its own.
    pub(super) fn seal_as(&mut self, sa: SaHandle, number: u64, packet: &[u8]) -> Vec<u8> {
        let grant = Grant {
            first: number,
            last: number,
        };
        self.engine.amend(sa, &Amend::Grant(grant)).unwrap();
        let outcome = self.one(sa, packet);
        assert_eq!((outcome.status, outcome.sequence), (Status::Ok, number));
        outcome.octets
    }

    /// Waits for an event that fits.
    pub(super) fn await_event(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let start = Instant::now();
        let mut events = Vec::new();
        while !events.iter().any(&fits) {
            assert!(start.elapsed() < DEADLINE, "no event {what} in {events:?}");
            let before = events.len();
            let count = self.engine.poll_events(&mut events);
            assert_eq!(events.len() - before, count);
            if count == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        events
    }
}

/// Every frame is back and none was given up.
pub(super) fn assert_home(pool: &FramePool) {
    let config = pool.config();
    assert_eq!(pool.quarantined(), 0, "frames were given up");
    assert_eq!(
        pool.available(),
        config.slots as usize,
        "frames are missing"
    );
}

/// Waits for so many completions, asleep between them as a consumer is.
pub(super) fn collect(queue: &mut dyn QueuePair, count: usize, interrupts: bool) -> Vec<Done> {
    let start = Instant::now();
    let mut done = Vec::new();
    let mut slept_out = false;
    while done.len() < count {
        let left = DEADLINE.saturating_sub(start.elapsed());
        assert!(!left.is_zero(), "{} of {count} completed", done.len());
        let missing = count - done.len();
        let came = queue.dequeue(&mut done, missing).unwrap();
        if came != 0 {
            assert!(!slept_out, "a completion came without waking its sleeper");
            continue;
        }
        match queue.arm().unwrap() {
            Arm::Ready => {}
            Arm::Wait(fd) if interrupts => {
                let timeout = Timespec::try_from(left / 2).unwrap();
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                slept_out = poll(&mut fds, Some(&timeout)).unwrap() == 0;
            }
            Arm::Wait(_) => std::thread::yield_now(),
        }
    }
    for done in &done {
        let empty = done.frame.packet_len() == 0;
        assert!(
            done.status.is_ok() || empty,
            "{:?} left octets in the frame",
            done.status
        );
    }
    done
}

/// Completions of each SA come in the order of submission.
pub(super) fn check_order(done: &[Done]) {
    let mut last = HashMap::new();
    for done in done {
        let before = last.insert(done.sa, done.cookie);
        assert!(before < Some(done.cookie), "completions out of order");
    }
}

/// An SA in tunnel mode without outer headers, with window and grant.
pub(super) fn params(direction: Direction, suite: Suite) -> SaParams {
    let outbound = direction == Direction::Outbound;
    let octets = |len: usize, seed: u8| -> Vec<u8> {
        (0..len)
            .map(|n| seed.wrapping_add((n as u8).wrapping_mul(7)))
            .collect()
    };
    let encryption = octets(suite.cipher_key_len() + suite.salt_len(), 0x31);
    let integrity = octets(suite.integrity_key_len(), 0xc5);
    SaParams {
        esn: false,
        replay_window: if outbound { 0 } else { 64 },
        numbering: Numbering::Granted(outbound.then_some(Grant {
            first: 1,
            last: 1 << 20,
        })),
        ..SaParams::tunnel(
            Spi::new(0xc0de_0001).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &encryption, &integrity).unwrap(),
        )
    }
}

/// Ends of the inner packets (RFC 5737, RFC 3849).
pub(super) fn ends(ipv6: bool) -> (IpAddr, IpAddr) {
    if ipv6 {
        let end = |n| IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, n]);
        (end(1), end(2))
    } else {
        (
            IpAddr::from([198, 51, 100, 1]),
            IpAddr::from([198, 51, 100, 2]),
        )
    }
}

/// An IP packet with this protocol and so many octets behind its header.
pub(super) fn packet(ipv6: bool, protocol: u8, payload_len: usize) -> Vec<u8> {
    let len = payload_len as u16;
    let mut packet = if ipv6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 63];
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header
    } else {
        let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 63, protocol, 0, 0];
        header[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        header
    };
    let (source, destination) = ends(ipv6);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => packet.extend(address.octets()),
            IpAddr::V6(address) => packet.extend(address.octets()),
        }
    }
    if !ipv6 {
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend((0..payload_len).map(|n| (n as u8).wrapping_mul(29) ^ (n >> 8) as u8));
    packet
}

/// So many small packets, all different in length.
pub(super) fn packets(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| packet(false, 17, 8 + n)).collect()
}
