// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entry point for fuzzing: a hostile card at the driver. What its registers read, what it claims to
//! be, what it answers to commands, its events, and its completions are the fuzzer's.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fpga_regs::admin::{Command, CommandCompletion, Opcode};
use fpga_regs::descriptor::{Completion, Event, PHASE, Submission};
use fpga_regs::registers::{
    ABI_VERSION, CardFeatures, CardStatus, Control, DEVICE_ID, MAGIC_VALUE, REGISTER_BAR,
    VENDOR_ID, admin_queue, control, event_queue, identity,
};
use offload_api::device::Accelerator;
use offload_api::error::DeviceError;
use offload_api::frame::{FramePool, FramePoolConfig, PoolMemory};
use offload_api::inline::{Rule, RuleHandle};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair};
use offload_api::sa::{
    Amend, Direction, Grant, KeyMaterial, Numbering, SaHandle, SaParams, Spi, Suite,
    TrafficSelector,
};
use rustix::fs::{MemfdFlags, SealFlags};
use vfio_user::message::REGION_CONFIG;
use zerocopy::{FromZeros, IntoBytes};

use crate::ipa::IpaCard;
use crate::transport::{MappedRegion, Transport};

/// Frames that the driver may give away.
const FRAMES: u32 = 8;
/// Entries of the card's event ring, by the driver's choice.
const EVENTS: u32 = 256;
/// Entries of the driver's admin rings.
const ADMIN: u32 = 16;
/// From this octet on the card lies.
const LIE: u8 = 0xf0;

/// A card whose every word is taken from octets; when they are used up it tells the truth.
struct Hostile {
    state: Mutex<State>,
    doorbells: OwnedFd,
}

#[derive(Default)]
struct State {
    octets: Vec<u8>,
    at: usize,
    registers: std::collections::HashMap<u64, u32>,
    memory: Vec<(u64, MappedRegion, usize)>,
    heartbeat: u32,
    answers: u32,
    events: u32,
    /// Rings and depth of the last queue, and completions in it.
    queue: (u64, u64, u32),
    completions: u32,
}

/// A driver's connection to it.
struct Connection(Arc<Hostile>);

impl State {
    fn next(&mut self) -> Option<u8> {
        let octet = self.octets.get(self.at).copied();
        self.at += 1;
        octet
    }

    /// The next octets, zeros where there are no more.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().unwrap_or(0))
    }

    /// The truth, or now and then something else.
    fn perhaps(&mut self, truth: u32) -> u32 {
        match self.next() {
            Some(LIE..) => u32::from_le_bytes(self.take()),
            _ => truth,
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        let truth = match offset {
            identity::MAGIC => MAGIC_VALUE,
            identity::VERSION => ABI_VERSION,
            identity::SUITES => u32::MAX >> 1,
            identity::FEATURES => (CardFeatures::all() - CardFeatures::SLEEPS).bits(),
            identity::MAX_SAS => 64,
            identity::MAX_QUEUES => 4,
            identity::MAX_DEPTH => 64,
            identity::MAX_PACKET => 9216,
            identity::MAX_WINDOW => 4096,
            identity::VECTORS => 5,
            control::STATUS => {
                let control = self.wrote(control::CONTROL);
                let enabled = control & Control::ENABLE.bits() != 0;
                if enabled { CardStatus::READY.bits() } else { 0 }
            }
            control::HEARTBEAT => {
                self.heartbeat += 1;
                self.heartbeat
            }
            _ => 1,
        };
        self.perhaps(truth)
    }

    fn wrote(&self, offset: u64) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    fn wrote_wide(&self, offset: u64) -> u64 {
        u64::from(self.wrote(offset + 4)) << 32 | u64::from(self.wrote(offset))
    }

    fn locate(&self, iova: u64) -> Option<(&MappedRegion, u64)> {
        let of = |(start, _, len): &&(u64, MappedRegion, usize)| {
            (*start..start + *len as u64).contains(&iova)
        };
        let (start, region, _) = self.memory.iter().find(of)?;
        Some((region, iova - start))
    }

    fn poke(&self, iova: u64, octets: &[u8]) {
        for (octets, at) in octets.as_chunks().0.iter().zip((iova..).step_by(4)) {
            if let Some((region, offset)) = self.locate(at) {
                region.write(offset, u32::from_le_bytes(*octets));
            }
        }
    }

    fn peek(&self, iova: u64, octets: &mut [u8]) {
        for (octets, at) in octets.as_chunks_mut().0.iter_mut().zip((iova..).step_by(4)) {
            if let Some((region, offset)) = self.locate(at) {
                *octets = region.read(offset).to_le_bytes();
            }
        }
    }

    /// Everything since the last doorbell is answered, each command once: a driver that waits for its
    /// deadline finds nothing.
    fn answer(&mut self, tail: u32) {
        let base = self.wrote_wide(admin_queue::SUBMISSION_BASE);
        while self.answers & 0xffff != tail {
            let at = u64::from(self.answers % ADMIN);
            let mut command = Command::new_zeroed();
            self.peek(
                base + at * size_of::<Command>() as u64,
                command.as_mut_bytes(),
            );
            if command.opcode == Opcode::CreateQueue as u8 {
                let [submissions, completions, depth, ..] = command.arguments;
                self.queue = (submissions.get(), completions.get(), depth.get() as u32);
                self.completions = 0;
            }
            for _ in 0..self.next().unwrap_or(0) % 4 {
                self.tell_event();
            }
            // Over the payload, and beyond it.
            for word in 0..u64::from(self.next().unwrap_or(0) % 32) {
                let octets: [u8; 4] = self.take();
                self.poke(command.payload.get() + word * 4, &octets);
            }
            let mut completion = CommandCompletion::new_zeroed();
            completion.id = command.id;
            completion.index = u32::from(self.next().unwrap_or(0) % 64).into();
            completion.generation = u32::from(self.next().unwrap_or(1)).into();
            match self.next().unwrap_or(0) {
                LIE.. => {
                    let octets: [u8; size_of::<CommandCompletion>()] = self.take();
                    completion = zerocopy::transmute!(octets);
                }
                status @ 0xe0.. => completion.status = status % 12,
                _ => {}
            }
            completion.phase = phase(self.answers, ADMIN);
            let base = self.wrote_wide(admin_queue::COMPLETION_BASE);
            self.poke(
                base + at * size_of::<Completion>() as u64,
                completion.as_bytes(),
            );
            self.answers = self.answers.wrapping_add(1);
        }
    }

    fn tell_event(&mut self) {
        let octets: [u8; size_of::<Event>()] = self.take();
        let mut event: Event = zerocopy::transmute!(octets);
        event.phase = phase(self.events, EVENTS);
        let at = u64::from(self.events % EVENTS) * size_of::<Event>() as u64;
        self.poke(self.wrote_wide(event_queue::BASE) + at, event.as_bytes());
        self.events += 1;
    }

    /// The next completion of the last queue.
    fn complete(&mut self) {
        let (submissions, completions, depth) = self.queue;
        if depth == 0 {
            return;
        }
        let at = u64::from(self.completions % depth);
        let mut submission = Submission::new_zeroed();
        let from = submissions + at * size_of::<Submission>() as u64;
        self.peek(from, submission.as_mut_bytes());
        let octets: [u8; size_of::<Completion>()] = self.take();
        let mut completion: Completion = zerocopy::transmute!(octets);
        if completion.reserved[0] < LIE {
            completion.slot = submission.slot;
            completion.slot_generation = submission.slot_generation;
        }
        completion.phase = phase(self.completions, depth);
        let to = completions + at * size_of::<Completion>() as u64;
        self.poke(to, completion.as_bytes());
        self.completions = self.completions.wrapping_add(1);
    }
}

fn phase(position: u32, depth: u32) -> u8 {
    if (position / depth).is_multiple_of(2) {
        PHASE
    } else {
        0
    }
}

impl Hostile {
    fn new(octets: &[u8]) -> std::io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let doorbells = rustix::fs::memfd_create("doorbells", flags)?;
        rustix::fs::ftruncate(&doorbells, 64 << 12)?;
        rustix::fs::fcntl_add_seals(&doorbells, SealFlags::SHRINK)?;
        let octets = octets.to_vec();
        let state = State {
            octets,
            ..State::default()
        };
        let state = Mutex::new(state);
        Ok(Self { state, doorbells })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection: its rings are elsewhere.
    fn connect(self: &Arc<Self>) -> Box<dyn Transport> {
        let mut state = self.lock();
        let (octets, at) = (std::mem::take(&mut state.octets), state.at);
        *state = State {
            octets,
            at,
            ..State::default()
        };
        Box::new(Connection(self.clone()))
    }
}

impl Transport for Connection {
    fn name(&self) -> &'static str {
        "hostile"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.0.lock();
        let value = match (region, offset) {
            (REGION_BAR, _) => state.register(offset),
            (REGION_CONFIG, 0) => state.perhaps(u32::from(DEVICE_ID) << 16 | u32::from(VENDOR_ID)),
            _ => state.perhaps(0),
        };
        for (into, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *into = from;
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if let (REGION_BAR, Ok(octets)) = (region, data.try_into()) {
            let mut state = self.0.lock();
            let value = u32::from_le_bytes(octets);
            state.registers.insert(offset, value);
            if offset == admin_queue::TAIL {
                state.answer(value);
            }
        }
        Ok(())
    }

    fn map(&self, _: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        let map = MappedRegion::new(self.0.doorbells.as_fd(), offset, len);
        map.map_err(|error| host(&error))
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let map = MappedRegion::new(memory.fd, 0, memory.len).map_err(|error| host(&error))?;
        self.0.lock().memory.push((iova, map, memory.len));
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, _: usize) -> Result<(), DeviceError> {
        self.0.lock().memory.retain(|(start, ..)| *start != iova);
        Ok(())
    }

    fn enable_msix(&self, _: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&self) {}

    fn ended(&self) -> bool {
        false
    }
}

const REGION_BAR: u32 = REGISTER_BAR;

fn host(error: &std::io::Error) -> DeviceError {
    DeviceError::Host {
        what: "a mapping",
        error: error.to_string(),
    }
}

/// A driver works with a card that these octets speak for.
pub fn card(octets: &[u8]) {
    let Ok(hostile) = Hostile::new(octets).map(Arc::new) else {
        return;
    };
    let connect = {
        let hostile = hostile.clone();
        move || Ok(hostile.connect())
    };
    let Ok(card) = IpaCard::open("hostile".to_owned(), Box::new(connect)) else {
        return;
    };
    let config = FramePoolConfig {
        slots: FRAMES,
        ..FramePoolConfig::default()
    };
    let Ok(pool) = FramePool::new(config) else {
        return;
    };
    let _ = card.register_pool(&pool);
    let mut work = Work {
        card: &card,
        pool: &pool,
        sas: Vec::new(),
        queue: None,
        done: Vec::new(),
    };
    for _ in 0..64 {
        let Some(what) = hostile.lock().next() else {
            break;
        };
        work.step(what, &hostile);
    }
    if let Some(queue) = work.queue.take() {
        work.done.extend(queue.close());
    }
    work.done.clear();
    drop(card);
    let back = pool.available() + pool.quarantined() as usize;
    assert_eq!(back, FRAMES as usize);
}

struct Work<'a> {
    card: &'a IpaCard,
    pool: &'a FramePool,
    sas: Vec<SaHandle>,
    queue: Option<Box<dyn QueuePair>>,
    done: Vec<Done>,
}

impl Work<'_> {
    /// One call of the contract, whatever the card makes of it.
    fn step(&mut self, what: u8, hostile: &Hostile) {
        let card = self.card;
        let last = self.sas.last().copied();
        let sa = last.unwrap_or(SaHandle {
            index: 0,
            generation: 0,
        });
        match what % 16 {
            0 | 1 => {
                if let Some(Ok(handle)) = outbound().map(|sa| card.install(&sa)) {
                    self.sas.push(handle);
                }
            }
            2 => {
                let _ = card.amend(sa, &Amend::Revoke);
                let _ = card.amend(
                    sa,
                    &Amend::Grant(Grant {
                        first: 90,
                        last: 99,
                    }),
                );
            }
            3 => drop(card.usage(sa)),
            4 => {
                let _ = card.retire(sa);
                self.sas.pop();
            }
            5 => {
                if let Some(queue) = self.queue.take() {
                    self.done.extend(queue.close());
                }
                self.queue = card.open_queue(&QueueConfig { depth: 4 }).ok();
            }
            6 | 7 => self.submit(sa),
            8 | 9 => {
                hostile.lock().complete();
                self.collect();
            }
            10 => {
                hostile.lock().tell_event();
                let mut events = Vec::new();
                assert!(card.poll_events(&mut events) <= EVENTS as usize);
            }
            11 => {
                let _ = card.inspect();
                let _ = card.heartbeat();
            }
            12 => {
                let _ = card.self_test();
                let _ = (card.counters(), card.health(), card.info());
            }
            13 => {
                let _ = card.reset();
                let _ = card.register_pool(self.pool);
                self.sas.clear();
                // The queue of the life before is of no use, and must say so.
                self.submit(sa);
                let _ = card.counters();
            }
            14 => {
                if let Some(inline) = card.inline() {
                    let any = TrafficSelector {
                        start: Ipv4Addr::UNSPECIFIED.into(),
                        end: Ipv4Addr::BROADCAST.into(),
                        protocol: 0,
                        start_port: 0,
                        end_port: u16::MAX,
                    };
                    let rule = Rule {
                        sa,
                        inbound: false,
                        priority: 1,
                        source: any,
                        destination: any,
                    };
                    let _ = inline.add_rule(&rule);
                    let _ = inline.ports();
                    let _ = inline.remove_rule(RuleHandle {
                        index: 0,
                        generation: 1,
                    });
                }
            }
            _ => {
                if let Some(queue) = &mut self.queue {
                    let _ = queue.arm();
                }
            }
        }
    }

    fn submit(&mut self, sa: SaHandle) {
        let (Some(queue), Some(mut frame)) = (&mut self.queue, self.pool.alloc()) else {
            return;
        };
        let _ = frame.fill(&[0x45; 64]);
        let mut ops = vec![Op::new(sa, frame, 1)];
        let _ = queue.enqueue(&mut ops);
        let _ = queue.kick();
    }

    fn collect(&mut self) {
        if let Some(queue) = &mut self.queue {
            let _ = queue.dequeue(&mut self.done, 8);
        }
        for done in self.done.drain(..) {
            assert!(done.status.is_ok() || done.frame.is_empty());
            assert!(done.frame.headroom() + done.frame.len() <= 2048);
        }
    }
}

fn outbound() -> Option<SaParams> {
    let suite = Suite::AES_256_GCM;
    let keys = KeyMaterial::from_keymat(suite, &[9; 36], &[]).ok()?;
    Some(SaParams {
        esn: false,
        numbering: Numbering::Granted(Some(Grant { first: 1, last: 80 })),
        ..SaParams::tunnel(Spi::new(0x1000)?, Direction::Outbound, suite, keys)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn whatever_a_card_says_the_driver_stays_whole(
            octets in prop::collection::vec(any::<u8>(), 0..4000),
        ) {
            super::card(&octets);
        }
    }
}
