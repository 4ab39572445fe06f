// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine in memory that follows the rules of grants and windows, keeps a record of every number
//! that it uses, and can die in several ways. After a reset it gives out the same handles and queue
//! numbers again, as a card does.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::cache::CacheReader;
use crate::capability::{Capabilities, Features};
use crate::carried::CarriedSa;
use crate::device::{Accelerator, AcceleratorInfo, Counters, Health};
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::event::Event;
use crate::frame::FramePool;
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::replay::{ReplayWindow, Verdict};
use crate::sa::{
    Amend, Direction, GrantCursor, Lifetimes, Mode, Numbering, SaHandle, SaParams, SaUsage, Spi,
    Suite,
};

/// A small generator, so that a seed tells everything.
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What all engines of a test have done.
#[derive(Default)]
pub(super) struct Ledger {
    /// Every (SPI, number) that was sealed with, by any engine, delivered or not.
    sealed: HashSet<(u32, u64)>,
    pub(super) violations: Vec<String>,
    /// Numbers that were compared with the recorded grant.
    pub(super) checked: u64,
    /// Where grants are recorded.
    pub(super) cache: Option<CacheReader>,
    pub(super) by_engine: HashMap<&'static str, u64>,
}

impl Ledger {
    /// The highest number that an SA was sealed with.
    pub(super) fn highest(&self, spi: Spi) -> u64 {
        let of = self.sealed.iter().filter(|(of, _)| *of == spi.value());
        of.map(|(_, number)| *number).max().unwrap_or(0)
    }

    fn seal(&mut self, engine: &'static str, spi: Spi, sequence: u64) {
        *self.by_engine.entry(engine).or_default() += 1;
        if !self.sealed.insert((spi.value(), sequence)) {
            self.violations
                .push(format!("{engine}: {spi} used {sequence} again"));
        }
        // The SAs have no outer headers; without a destination all would be looked at.
        let destination = Some(Ipv6Addr::UNSPECIFIED.into());
        let record = self.cache.as_ref().and_then(|cache| {
            let record = cache.find(spi, Direction::Outbound, destination);
            record.ok()
        });
        // A lost device that lives may go on with an SA that was retired since.
        let Some(granted) = record.map(|record| record.granted) else {
            return;
        };
        self.checked += 1;
        if sequence > granted {
            self.violations.push(format!(
                "{engine}: {spi} used {sequence}, recorded are {granted}"
            ));
        }
    }
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Every call fails at once.
    Gone,
    /// Takes everything, does nothing; commands time out.
    Hung,
    /// Works, but knows no SA any more.
    Amnesiac,
}

struct Sa {
    spi: Spi,
    direction: Direction,
    cookie: u64,
    esn: bool,
    explicit: bool,
    cursor: GrantCursor,
    window: ReplayWindow,
    lifetimes: Lifetimes,
    usage: SaUsage,
}

struct State {
    mood: Mood,
    life: u64,
    /// Slots with generations, which begin anew with each life.
    sas: Vec<(u32, Option<Sa>)>,
    random: Random,
    queues: u16,
    pools: HashSet<u32>,
    commands: Commands,
    /// What it says that the number of every packet is that it opens.
    opens_as: Option<u64>,
    /// The number that it says, and puts into the header, of what it seals.
    seals_as: Option<u64>,
}

/// Commands about SAs, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) installs: u32,
    pub(super) amends: u32,
}

/// What happens while the device is at a command that installs many.
type Meanwhile = Box<dyn FnOnce() + Send>;

pub(super) struct Fake {
    name: &'static str,
    capabilities: Capabilities,
    state: Arc<Mutex<State>>,
    ledger: Arc<Mutex<Ledger>>,
    /// Works at the kick, as software does.
    inline: bool,
    meanwhile: Mutex<Option<Meanwhile>>,
    while_asked: Mutex<Option<Meanwhile>>,
    while_reset: Mutex<Option<Meanwhile>>,
}

impl Fake {
    pub(super) fn device(ledger: &Arc<Mutex<Ledger>>, seed: u64) -> Arc<Self> {
        Self::new("device", false, ledger, seed)
    }

    pub(super) fn software(ledger: &Arc<Mutex<Ledger>>, seed: u64) -> Arc<Self> {
        Self::new("software", true, ledger, seed)
    }

    fn new(name: &'static str, inline: bool, ledger: &Arc<Mutex<Ledger>>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            capabilities: Capabilities {
                suites: vec![Suite::AES_128_GCM],
                features: Features::all(),
                replay_window_max: 4096,
                max_sas: 64,
                max_queues: 8,
                max_depth: 1024,
                max_packet: 9000,
                max_gather: 16,
            },
            state: Arc::new(Mutex::new(State {
                mood: Mood::Well,
                life: 0,
                sas: Vec::new(),
                random: Random::new(seed),
                queues: 0,
                pools: HashSet::new(),
                commands: Commands::default(),
                opens_as: None,
                seals_as: None,
            })),
            ledger: ledger.clone(),
            inline,
            meanwhile: Mutex::default(),
            while_asked: Mutex::default(),
            while_reset: Mutex::default(),
        })
    }

    /// It opens packets and says that they had that number.
    pub(super) fn opens_as(&self, number: u64) {
        self.state.lock().unwrap().opens_as = Some(number);
    }

    /// It seals all packets with that number.
    pub(super) fn seals_as(&self, number: u64) {
        self.state().seals_as = Some(number);
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        let mut state = self.state();
        state.mood = mood;
        if mood == Mood::Amnesiac {
            for slot in &mut state.sas {
                *slot = (slot.0 + 1, None);
            }
        }
    }

    pub(super) fn mood(&self) -> Mood {
        self.state().mood
    }

    pub(super) fn commands(&self) -> Commands {
        self.state().commands
    }

    /// Does something while the device is at its next command that installs many.
    pub(super) fn meanwhile(&self, what: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(what));
    }

    /// Does something while the device is asked the next time how it is.
    pub(super) fn while_asked(&self, what: impl FnOnce() + Send + 'static) {
        *self.while_asked.lock().unwrap() = Some(Box::new(what));
    }

    /// Does something while the device is reset the next time.
    pub(super) fn while_reset(&self, what: impl FnOnce() + Send + 'static) {
        *self.while_reset.lock().unwrap() = Some(Box::new(what));
    }

    /// Whether it can reach a pool's memory.
    pub(super) fn knows(&self, pool: &FramePool) -> bool {
        self.state().pools.contains(&pool.id())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn command(&self) -> Result<MutexGuard<'_, State>, DeviceError> {
        let state = self.state();
        match state.mood {
            Mood::Well | Mood::Amnesiac => Ok(state),
            Mood::Gone => Err(gone()),
            Mood::Hung => Err(DeviceError::Timeout {
                waited_for: "command",
                millis: 0,
            }),
        }
    }
}

fn gone() -> DeviceError {
    DeviceError::Gone {
        reason: "killed".into(),
    }
}

fn find(sas: &mut [(u32, Option<Sa>)], handle: SaHandle) -> Result<&mut Sa, SaError> {
    let (generation, sa) = sas.get_mut(handle.index as usize).ok_or(SaError::Stale)?;
    let same = *generation == handle.generation;
    sa.as_mut().filter(|_| same).ok_or(SaError::Stale)
}

impl Accelerator for Fake {
    fn info(&self) -> AcceleratorInfo {
        AcceleratorInfo {
            name: self.name.into(),
            product: self.name.into(),
            driver: String::new(),
            firmware: String::new(),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.command()?.pools.insert(pool.id());
        Ok(())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let mut state = self.command()?;
        if state.queues == self.capabilities.max_queues {
            return Err(OpenQueueError::NoneFree {
                max: self.capabilities.max_queues,
            });
        }
        state.queues += 1;
        let seed = state.random.below(u64::MAX);
        Ok(Box::new(FakeQueue {
            name: self.name,
            inline: self.inline,
            state: self.state.clone(),
            ledger: self.ledger.clone(),
            life: state.life,
            depth: config.depth as usize,
            random: Random::new(seed),
            waiting: VecDeque::new(),
            working: VecDeque::new(),
            done: VecDeque::new(),
            idle: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        }))
    }

    fn install(&self, params: &SaParams) -> Result<SaHandle, InstallError> {
        self.install_as(params, 0)
    }

    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        let before = self.commands();
        let told = sas.iter().map(|(sa, cookie)| self.install_as(sa, *cookie));
        let told = told.collect();
        self.state().commands.installs = before.installs + 1;
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        told
    }

    fn install_as(&self, params: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        let mut state = self.command()?;
        state.commands.installs += 1;
        let grant = match params.numbering {
            Numbering::Granted(grant) => grant,
            Numbering::Explicit => None,
        };
        let mut window = ReplayWindow::new(params.replay_window);
        if let Some(seen) = &params.replay_state {
            window.merge(seen);
        }
        let sa = Sa {
            spi: params.spi,
            direction: params.direction,
            cookie,
            esn: params.esn,
            explicit: params.numbering == Numbering::Explicit,
            cursor: GrantCursor::new(grant),
            window,
            lifetimes: params.lifetimes,
            usage: SaUsage::default(),
        };
        let index = match state.sas.iter().position(|(_, sa)| sa.is_none()) {
            Some(index) => index,
            None => {
                state.sas.push((0, None));
                state.sas.len() - 1
            }
        };
        state.sas[index].1 = Some(sa);
        Ok(SaHandle {
            index: index as u32,
            generation: state.sas[index].0,
        })
    }

    fn carried(&self, from: u32, most: usize) -> Result<Vec<CarriedSa>, DeviceError> {
        let state = self.command()?;
        let slots = state.sas.iter().enumerate().skip(from as usize);
        let sas = slots.filter_map(|(index, (generation, sa))| {
            let sa = sa.as_ref()?;
            let next = sa.cursor.next();
            Some(CarriedSa {
                sa: SaHandle {
                    index: index as u32,
                    generation: *generation,
                },
                cookie: sa.cookie,
                spi: sa.spi,
                direction: sa.direction,
                mode: Mode::Tunnel,
                suite: Some(Suite::AES_128_GCM),
                esn: sa.esn,
                explicit: sa.explicit,
                replay_window: sa.window.size(),
                outer: None,
                lifetimes: sa.lifetimes,
                usage: sa.usage,
                age: Duration::ZERO,
                next,
                granted: (next + sa.cursor.remaining()).saturating_sub(1),
                draining: false,
            })
        });
        Ok(sas.take(most).collect())
    }

    fn amend(&self, handle: SaHandle, change: &Amend) -> Result<(), SaError> {
        let mut state = self.command()?;
        state.commands.amends += 1;
        let sa = find(&mut state.sas, handle)?;
        match change {
            Amend::Grant(grant) => {
                sa.cursor
                    .extend(*grant)
                    .map_err(|expected| SaError::GrantBehind {
                        expected,
                        found: grant.first,
                    })?;
            }
            Amend::Revoke => sa.cursor.revoke(),
            Amend::Replay(seen) => sa.window.merge(seen),
            Amend::Lifetimes(lifetimes) => sa.lifetimes = *lifetimes,
            Amend::Outer(_) => {}
        }
        Ok(())
    }

    fn retire(&self, handle: SaHandle) -> Result<SaUsage, SaError> {
        let mut state = self.command()?;
        let usage = find(&mut state.sas, handle)?.usage;
        let slot = &mut state.sas[handle.index as usize];
        *slot = (slot.0 + 1, None);
        Ok(usage)
    }

    fn usage(&self, handle: SaHandle) -> Result<SaUsage, SaError> {
        Ok(find(&mut self.command()?.sas, handle)?.usage)
    }

    fn poll_events(&self, _: &mut Vec<Event>) -> usize {
        0
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn health(&self) -> Health {
        let asked = self.while_asked.lock().unwrap().take();
        if let Some(asked) = asked {
            asked();
        }
        match self.state().mood {
            Mood::Well | Mood::Amnesiac => Health::Ok,
            mood => Health::Lost {
                reason: format!("{mood:?}"),
            },
        }
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let meanwhile = self.while_reset.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let mut state = self.state();
        if state.random.one_in(4) {
            return Err(gone());
        }
        state.mood = Mood::Well;
        state.life += 1;
        state.queues = 0;
        state.pools.clear();
        state.sas.clear();
        Ok(())
    }
}

struct FakeQueue {
    name: &'static str,
    inline: bool,
    state: Arc<Mutex<State>>,
    ledger: Arc<Mutex<Ledger>>,
    life: u64,
    depth: usize,
    random: Random,
    waiting: VecDeque<Op>,
    working: VecDeque<Op>,
    done: VecDeque<Done>,
    idle: OwnedFd,
}

impl FakeQueue {
    /// How the device is to this queue: dead once it was reset.
    fn mood(&self) -> Mood {
        let state = self.state.lock().unwrap();
        if state.life == self.life {
            state.mood
        } else {
            Mood::Gone
        }
    }

    fn work(&mut self, count: usize) {
        for _ in 0..count {
            let Some(op) = self.working.pop_front() else {
                return;
            };
            let done = self.perform(op);
            self.done.push_back(done);
        }
    }

    fn perform(&mut self, mut op: Op) -> Done {
        let mut state = self.state.lock().unwrap();
        if state.life != self.life {
            return aborted(op);
        }
        let (status, sequence) = match find(&mut state.sas, op.sa) {
            Err(_) => (Status::SaStale, 0),
            Ok(sa) => {
                let (status, sequence) = perform(sa, &mut op, |spi, sequence| {
                    self.ledger.lock().unwrap().seal(self.name, spi, sequence);
                });
                let inbound = sa.direction == Direction::Inbound;
                if status.is_ok() {
                    sa.usage.packets += 1;
                }
                let lie = if inbound {
                    state.opens_as
                } else {
                    state.seals_as
                };
                match lie {
                    Some(lie) if status.is_ok() => (status, lie),
                    _ => (status, sequence),
                }
            }
        };
        if !status.is_ok() {
            op.frame.clear();
        }
        op.complete(status, sequence, 4);
        op
    }
}

/// What ESP begins with, and the high half of the number.
pub(super) fn wire_header(spi: u32, sequence: u64) -> [u8; 12] {
    let mut header = [0; 12];
    header[..4].copy_from_slice(&spi.to_be_bytes());
    header[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
    header[8..].copy_from_slice(&((sequence >> 32) as u32).to_be_bytes());
    header
}

/// "Seals" by putting SPI and number in front, "opens" by checking and taking them off.
fn perform(sa: &mut Sa, op: &mut Op, mut seal: impl FnMut(Spi, u64)) -> (Status, u64) {
    if sa
        .lifetimes
        .hard
        .packets
        .is_some_and(|limit| sa.usage.packets >= limit)
    {
        return (Status::HardExpired, 0);
    }
    match sa.direction {
        Direction::Outbound => {
            let number = match (sa.explicit, op.explicit()) {
                (true, Some(explicit)) => Some(explicit.sequence),
                _ => sa.cursor.take(1).map(|(first, _)| first),
            };
            let Some(sequence) = number else {
                return (Status::SequenceExhausted, 0);
            };
            seal(sa.spi, sequence);
            let header = op.frame.push_front(12).unwrap();
            header.copy_from_slice(&wire_header(sa.spi.value(), sequence));
            (Status::Ok, sequence)
        }
        Direction::Inbound => {
            let Some((header, _)) = op.frame.split_first_chunk::<12>() else {
                return (Status::BadLength, 0);
            };
            if header[..4] != sa.spi.value().to_be_bytes() {
                return (Status::BadIcv, 0);
            }
            let half = |at| u64::from(u32::from_be_bytes(header[at..at + 4].try_into().unwrap()));
            let sequence = half(8) << 32 | half(4);
            let status = match sa.window.accept(sequence) {
                Verdict::Fresh => Status::Ok,
                Verdict::Replayed => Status::Replayed,
                Verdict::TooOld => Status::TooOld,
            };
            assert!(op.frame.pull_front(12));
            (status, sequence)
        }
    }
}

fn aborted(op: Op) -> Done {
    op.refused(Status::Aborted)
}

impl QueuePair for FakeQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        if self.mood() == Mood::Gone {
            return Err(gone());
        }
        let mut room = self.depth.saturating_sub(self.in_flight());
        if !self.inline && self.random.one_in(4) {
            // A ring may be smaller than what it was asked for.
            room = room.min(3);
        }
        let count = room.min(ops.len());
        self.waiting.extend(ops.drain(..count));
        Ok(count)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        if self.mood() == Mood::Gone {
            return Err(gone());
        }
        self.working.append(&mut self.waiting);
        if self.inline {
            self.work(usize::MAX);
        } else if matches!(self.mood(), Mood::Well | Mood::Amnesiac) {
            let some = self.random.below(8) as usize;
            self.work(some);
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        match self.mood() {
            Mood::Well | Mood::Amnesiac => {
                let some = self.random.below(12) as usize;
                self.work(some);
                let count = self.done.len().min(limit);
                done.extend(self.done.drain(..count));
            }
            Mood::Hung => {
                // Half of what it did shows, late.
                let count = (self.done.len() / 2).min(limit);
                done.extend(self.done.drain(..count));
            }
            Mood::Gone => {
                if self.random.one_in(2) {
                    return Err(gone());
                }
                while done.len() - before < limit {
                    let next = self.done.pop_front().or_else(|| {
                        let op = self.working.pop_front();
                        op.or_else(|| self.waiting.pop_front()).map(aborted)
                    });
                    match next {
                        Some(next) => done.push(next),
                        None if done.len() == before => return Err(gone()),
                        None => break,
                    }
                }
            }
        }
        Ok(done.len() - before)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        match self.mood() {
            Mood::Gone => Err(gone()),
            _ if self.done.is_empty() => Ok(Arm::Wait(self.idle.as_fd())),
            _ => Ok(Arm::Ready),
        }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.working.len() + self.done.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        let mood = self.mood();
        if mood == Mood::Well {
            self.state.lock().unwrap().queues -= 1;
        }
        let mut home: Vec<Done> = std::mem::take(&mut self.done).into();
        for op in std::mem::take(&mut self.working)
            .into_iter()
            .chain(std::mem::take(&mut self.waiting))
        {
            if mood == Mood::Hung && self.random.one_in(4) {
                // It might still be written: quarantined.
                drop(op.frame.into_device());
            } else {
                home.push(aborted(op));
            }
        }
        home
    }
}
