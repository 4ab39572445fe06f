// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One life of a card, from its opening to its loss or reset. Queue pairs and handles belong to a
//! life and die with it.

mod capabilities;
mod watch;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fpga_regs::admin::{CommandStatus, Opcode, SaAdded};
use fpga_regs::descriptor::{Completion, Event, Submission};
use fpga_regs::registers::{
    ABI_VERSION, CardFeatures, CardStatus, Control, DOORBELL_BAR, DOORBELL_PAGE, MAGIC_VALUE,
    REGISTER_BAR, control, event_queue, identity,
};
use offload_api::capability::{Capabilities, Features};
use offload_api::device::Counters;
use offload_api::error::DeviceError;
use offload_api::frame::FramePool;
use offload_api::sa::SaHandle;
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::message::REGION_CONFIG;

use self::capabilities::{check_identity, read_capabilities};
use super::admin::{AdminQueue, Answer};
use super::queue::{GatherList, MAX_LISTS};
use super::watchdog::{Pulse, Watch};
use super::{NullCrypto, STATISTICS};
use crate::bar::Registers;
use crate::dma::{DmaArena, DmaSlice, IovaAllocator};
use crate::handshake::Doze;
use crate::let_go::LetGo;
use crate::lock;
use crate::patience;
use crate::ring::CompletionRing;
use crate::transport::{MappedRegion, Transport};

/// Entries of the event ring.
const EVENTS: u32 = 256;
/// Memory for rings: 64 queues of 4096 entries at 96 octets and 256 gather lists of 256 octets, and the
/// admin and event rings.
const ARENA: usize = 32 << 20;
/// How long a reset or an enable may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// How a life begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With nothing: the card is reset.
    Afresh,
    /// With the SAs that the card carries for a driver that has died.
    Again,
}

/// ABI version from which on a card can be detached from its driver.
const DETACHABLE: u32 = 0x0001_0002;

pub(super) struct Life {
    number: u64,
    pub(super) transport: Box<dyn Transport>,
    pub(super) capabilities: Capabilities,
    pub(super) firmware: String,
    pub(super) arena: Arc<DmaArena>,
    pub(super) doorbells: MappedRegion,
    /// The card may sleep: see the ABI's `SLEEPING`.
    pub(super) sleeps: bool,
    /// It takes keys by registers.
    pub(super) key_mailbox: bool,
    iovas: IovaAllocator,
    pub(super) admin: Mutex<AdminQueue>,
    events: Mutex<EventRing>,
    /// Pools that are mapped, with their IOVAs: held, so that their memory lives.
    pools: RwLock<HashMap<u32, (FramePool, u64)>>,
    /// The card's full generation of each SA index.
    generations: Box<[AtomicU32]>,
    queues: Mutex<QueueNumbers>,
    lost: Mutex<Option<String>>,
    is_lost: AtomicBool,
    /// One for each vector; vector 0 is the events'.
    vectors: Vec<OwnedFd>,
    last_counters: Mutex<Counters>,
    /// Whether the lost device was proved to write our memory no more; found out once.
    let_go: LetGo,
    pub(super) aborted: AtomicU64,
    pub(super) bogus: AtomicU64,
    /// Queues to watch.
    pulses: Mutex<Vec<(Weak<Pulse>, Watch)>>,
    /// The watchdog lies down until it is roused.
    doze: Doze,
    /// Rung when the card is lost, the life is over, or the watchdog is needed.
    watch_bell: OwnedFd,
    watch: Mutex<Option<JoinHandle<()>>>,
}

struct EventRing {
    ring: CompletionRing<Event>,
    head: u32,
}

struct QueueNumbers {
    free: Vec<u16>,
    /// Ring memory of queues that were closed, by depth, for the next ones.
    rings: Vec<(u32, QueueMemory)>,
}

/// Ring memory of a queue pair.
#[derive(Clone, Copy)]
pub(super) struct QueueMemory {
    pub(super) submissions: DmaSlice,
    pub(super) completions: DmaSlice,
    /// Gather lists.
    pub(super) gather: DmaSlice,
}

impl QueueMemory {
    fn take(arena: &DmaArena, depth: u32) -> Option<Self> {
        let take = |count: u32, size: usize| arena.take(u64::from(count) * size as u64);
        Some(Self {
            submissions: take(depth, size_of::<Submission>())?,
            completions: take(depth, size_of::<Completion>())?,
            gather: take(Self::lists(depth), size_of::<GatherList>())?,
        })
    }

    /// Gather lists of a queue pair of this depth.
    pub(super) fn lists(depth: u32) -> u32 {
        depth.min(MAX_LISTS)
    }
}

fn host(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> DeviceError {
    move |error| DeviceError::Host {
        what,
        error: error.to_string(),
    }
}

impl Life {
    /// Brings a device up: identity, reset (or what an earlier driver had taken), memory, interrupts,
    /// admin queue.
    pub(super) fn begin(
        transport: Box<dyn Transport>,
        number: u64,
        start: Start,
        null_crypto: NullCrypto,
    ) -> Result<Arc<Self>, DeviceError> {
        check_identity(&*transport)?;
        // Memory space and bus mastering.
        transport.write(REGION_CONFIG, 4, &6u16.to_le_bytes())?;
        let registers = Registers::new(&*transport, REGISTER_BAR);
        let found = registers.read(identity::MAGIC)?;
        if found != MAGIC_VALUE {
            return Err(DeviceError::Protocol {
                what: format!("magic {found:#x}, expected IPA1"),
            });
        }
        let found = registers.read(identity::VERSION)?;
        if found >> 16 != ABI_VERSION >> 16 {
            let (major, expected) = (found >> 16, ABI_VERSION >> 16);
            return Err(DeviceError::Protocol {
                what: format!("ABI version {major}, this driver speaks {expected}"),
            });
        }
        match start {
            Start::Afresh => {
                registers.write(control::CONTROL, Control::RESET.bits())?;
                wait_status(&registers, "the reset", |status| {
                    !status.contains(CardStatus::RESETTING)
                })?;
            }
            Start::Again if found < DETACHABLE => {
                return Err(DeviceError::Protocol {
                    what: format!("ABI version {found:#x} can't be attached to, only reset"),
                });
            }
            Start::Again => {
                registers.write(control::CONTROL, Control::DETACH.bits())?;
                wait_status(&registers, "the card to detach", |status| {
                    !status.intersects(CardStatus::RESETTING | CardStatus::READY)
                })?;
                transport.dma_unmap_all()?;
            }
        }

        let features = CardFeatures::from_bits_retain(registers.read(identity::FEATURES)?);
        let capabilities = read_capabilities(&registers, features)?;
        if null_crypto == NullCrypto::Refused
            && capabilities.features.contains(Features::NULL_CRYPTO)
        {
            return Err(DeviceError::Protocol {
                what: "the card seals nothing: it is there for measuring only".to_owned(),
            });
        }
        let build = registers.read_wide(identity::BUILD)?.to_le_bytes();
        let firmware = String::from_utf8_lossy(&build)
            .trim_end_matches('\0')
            .to_owned();

        let iovas = IovaAllocator::avoiding(transport.reserved());
        let arena = Arc::new(DmaArena::new(ARENA, iovas.alloc(ARENA as u64))?);
        transport.dma_map(arena.iova(), arena.memory())?;
        let small = || DeviceError::Host {
            what: "ring memory",
            error: "used up".to_owned(),
        };
        let admin = AdminQueue::new(&arena).ok_or_else(small)?;
        admin.set_up(&registers)?;
        let slice = arena
            .take(u64::from(EVENTS) * size_of::<Event>() as u64)
            .ok_or_else(small)?;
        let events = CompletionRing::new(&arena, slice, EVENTS).ok_or_else(small)?;
        registers.write_wide(event_queue::BASE, events.iova())?;
        registers.write(event_queue::DEPTH, EVENTS)?;

        let vectors = registers.read(identity::VECTORS)?.clamp(1, 65);
        let make = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let vectors: Result<Vec<OwnedFd>, _> = (0..vectors).map(|_| make()).collect();
        let vectors = vectors.map_err(host("eventfd"))?;
        let borrowed: Vec<BorrowedFd<'_>> = vectors.iter().map(AsFd::as_fd).collect();
        transport.enable_msix(&borrowed)?;
        let pages = u64::from(capabilities.max_queues) * DOORBELL_PAGE;
        let doorbells = transport.map(DOORBELL_BAR, 0, pages as usize)?;
        registers.write(control::CONTROL, Control::ENABLE.bits())?;
        wait_status(&registers, "the card to start", |status| {
            status.contains(CardStatus::READY)
        })?;

        let life = Arc::new(Self {
            number,
            sleeps: features.contains(CardFeatures::SLEEPS),
            key_mailbox: features.contains(CardFeatures::KEY_MAILBOX),
            firmware,
            arena,
            doorbells,
            iovas,
            admin: Mutex::new(admin),
            events: Mutex::new(EventRing {
                ring: events,
                head: 0,
            }),
            pools: RwLock::default(),
            generations: (0..capabilities.max_sas)
                .map(|_| AtomicU32::new(0))
                .collect(),
            queues: Mutex::new(QueueNumbers {
                free: (0..capabilities.max_queues.min(vectors.len() as u16 - 1))
                    .rev()
                    .collect(),
                rings: Vec::new(),
            }),
            lost: Mutex::default(),
            is_lost: AtomicBool::new(false),
            vectors,
            last_counters: Mutex::default(),
            let_go: LetGo::default(),
            aborted: AtomicU64::new(0),
            bogus: AtomicU64::new(0),
            pulses: Mutex::default(),
            doze: Doze::default(),
            watch_bell: make().map_err(host("eventfd"))?,
            watch: Mutex::default(),
            capabilities,
            transport,
        });
        life.start_watch()?;
        Ok(life)
    }

    /// Marks the device as lost and wakes everybody who waits for it.
    pub(super) fn lose(&self, reason: &str) {
        if self.conclude(reason) {
            tracing::warn!(reason, "card lost");
        }
    }

    /// Marks this life as over and wakes everybody; false where it was over before.
    fn conclude(&self, reason: &str) -> bool {
        let mut lost = lock(&self.lost);
        if lost.is_some() {
            return false;
        }
        *lost = Some(reason.to_owned());
        self.is_lost.store(true, Ordering::Release);
        drop(lost);
        self.ring_watch_bell();
        self.wake();
        true
    }

    fn wake(&self) {
        for vector in &self.vectors {
            let _ = rustix::io::write(vector, &1u64.to_ne_bytes());
        }
    }

    pub(super) fn lost_reason(&self) -> Option<String> {
        lock(&self.lost).clone()
    }

    /// The error of a device that is lost.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        if self.is_lost.load(Ordering::Acquire) {
            let reason = self.lost_reason().unwrap_or_default();
            return Err(DeviceError::Gone { reason });
        }
        Ok(())
    }

    /// Notes what an error means for the device.
    pub(super) fn judge<T>(&self, result: Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Err(error) = &result
            && !matches!(error, DeviceError::Host { .. })
        {
            self.lose(&error.to_string());
        }
        result
    }

    pub(super) fn registers(&self) -> Registers<'_> {
        Registers::new(&*self.transport, REGISTER_BAR)
    }

    pub(super) fn command(
        &self,
        opcode: Opcode,
        index: u32,
        generation: u32,
        arguments: [u64; 5],
        payload: &[u8],
    ) -> Result<Answer, DeviceError> {
        self.check()?;
        let mut admin = lock(&self.admin);
        let result = admin.run(
            &self.registers(),
            opcode,
            index,
            generation,
            arguments,
            payload,
        );
        drop(admin);
        self.judge(result)
    }

    /// Adds SAs from their contexts; what became of each.
    pub(super) fn add_bulk(&self, contexts: &[u8]) -> Result<Vec<SaAdded>, DeviceError> {
        self.check()?;
        let result = lock(&self.admin).add_bulk(&self.registers(), contexts);
        self.judge(result)
    }

    pub(super) fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a loss is noted before its unmapping reads the pools, which must miss none.
        self.check()?;
        if pools.contains_key(&pool.id()) {
            return Ok(());
        }
        let memory = pool.memory();
        let iova = self.iovas.alloc(memory.len as u64);
        self.judge(self.transport.dma_map(iova, memory))?;
        pools.insert(pool.id(), (pool.clone(), iova));
        Ok(())
    }

    /// Where the device sees a pool.
    pub(super) fn pool_iova(&self, pool: &FramePool) -> Option<u64> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.get(&pool.id()).map(|(_, iova)| *iova)
    }

    /// Our handle for a new SA of the card. The upper half of its generation is this life's number,
    /// so that a handle of an earlier life is stale and not another SA's.
    pub(super) fn adopt(&self, index: u32, generation: u32) -> SaHandle {
        if let Some(known) = self.generations.get(index as usize) {
            known.store(generation, Ordering::Release);
        }
        self.make_handle(index, generation)
    }

    /// As [`adopt`](Self::adopt), for an SA that the card tells of: its word may be older than what has
    /// been installed there meanwhile, which stays.
    pub(super) fn meet(&self, index: u32, generation: u32) -> SaHandle {
        if let Some(known) = self.generations.get(index as usize) {
            let _ = known.compare_exchange(0, generation, Ordering::AcqRel, Ordering::Acquire);
        }
        self.make_handle(index, generation)
    }

    /// Ends a handle. The card may have given the place to another SA before this is reached, which stays.
    pub(super) fn forget(&self, sa: SaHandle) {
        if let (Some(known), Some(generation)) = (
            self.generations.get(sa.index as usize),
            self.card_generation(sa),
        ) {
            let _ = known.compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    fn make_handle(&self, index: u32, generation: u32) -> SaHandle {
        SaHandle {
            index,
            generation: (self.number as u32) << 16 | (generation & 0xffff),
        }
    }

    /// The card's generation for a live handle.
    #[inline]
    pub(super) fn card_generation(&self, sa: SaHandle) -> Option<u32> {
        let generation = self.generations.get(sa.index as usize)?;
        let generation = generation.load(Ordering::Acquire);
        (generation != 0 && self.make_handle(sa.index, generation) == sa).then_some(generation)
    }

    /// The handle for the card's own words.
    pub(super) fn handle(&self, index: u32, generation: u32) -> Option<SaHandle> {
        let handle = self.make_handle(index, generation);
        self.card_generation(handle).map(|_| handle)
    }

    pub(super) fn drain_events(&self, mut tell: impl FnMut(Event)) {
        let mut events = lock(&self.events);
        let mut any = false;
        // A hostile card could write for ever.
        for _ in 0..EVENTS {
            let Some(event) = events.ring.read(events.head) else {
                break;
            };
            events.head = events.head.wrapping_add(1);
            any = true;
            tell(event);
        }
        if any && self.check().is_ok() {
            let head = events.head & 0xffff;
            let _ = self.judge(self.registers().write_posted(event_queue::HEAD, head));
        }
    }

    /// Takes a queue number with ring memory.
    pub(super) fn take_queue(&self, depth: u32) -> Option<(u16, QueueMemory)> {
        let mut queues = lock(&self.queues);
        let number = queues.free.pop()?;
        let used = queues.rings.iter().position(|(d, _)| *d == depth);
        let memory = match used {
            Some(at) => Some(queues.rings.swap_remove(at).1),
            None => QueueMemory::take(&self.arena, depth),
        };
        if memory.is_none() {
            queues.free.push(number);
        }
        memory.map(|memory| (number, memory))
    }

    /// Gives a queue number back whose queue the card has deleted.
    pub(super) fn put_queue(&self, number: u16, depth: u32, memory: QueueMemory) {
        let mut queues = lock(&self.queues);
        queues.free.push(number);
        queues.rings.push((depth, memory));
    }

    pub(super) fn vector(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        self.vectors.get(usize::from(queue) + 1).map(AsFd::as_fd)
    }

    /// Deletes a queue; whether the card has provably let go of its frames.
    pub(super) fn delete_queue(&self, number: u16) -> bool {
        match self.command(Opcode::DeleteQueue, number.into(), 0, [0; 5], &[]) {
            // The card may have stopped the queue itself.
            Ok(answer) => matches!(answer.status, CommandStatus::Ok | CommandStatus::QueueState),
            Err(_) => false,
        }
    }

    /// Whether a lost device can't write our memory any more: its process has ended, or everything
    /// was unmapped and it said so.
    pub(super) fn has_let_go(&self) -> bool {
        self.let_go.find_out(&*self.transport, || self.unmap())
    }

    /// As [`has_let_go`](Self::has_let_go), without waiting: nothing while it is being found out.
    pub(super) fn knows_let_go(&self) -> Option<bool> {
        self.let_go.known(&*self.transport, || self.unmap())
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = *lock(&self.last_counters);
        if self.check().is_ok() {
            let registers = self.registers();
            // A card that has gone reads as all ones, and its watch tells only later.
            let read = STATISTICS.map(|register| {
                let value = registers.read_wide(register).ok();
                value.filter(|value| *value != u64::MAX)
            });
            if let [
                Some(sealed),
                Some(sealed_bytes),
                Some(opened),
                Some(opened_bytes),
                Some(errors),
                Some(sas),
            ] = read
            {
                counters = Counters {
                    sealed,
                    sealed_bytes,
                    opened,
                    opened_bytes,
                    errors,
                    sas,
                    ..Counters::default()
                };
                *lock(&self.last_counters) = counters;
            }
        } else {
            counters.sas = 0;
        }
        counters.aborted = self.aborted.load(Ordering::Relaxed);
        counters.bogus_completions = self.bogus.load(Ordering::Relaxed);
        counters
    }

    /// Ends this life: keys zeroised, nothing mapped, as far as the device still listens.
    pub(super) fn end(&self, reason: &str) {
        if self.check().is_ok() {
            let _ = self
                .registers()
                .write(control::CONTROL, Control::RESET.bits());
        }
        self.conclude(reason);
        // Before our own hang-up, which looks like the card's.
        self.has_let_go();
        self.transport.close();
    }

    /// Makes all memory unreachable; whether the device has confirmed it.
    fn unmap(&self) -> bool {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let mut confirmed = true;
        for (pool, iova) in pools.values() {
            confirmed &= self.transport.dma_unmap(*iova, pool.memory().len).is_ok();
        }
        confirmed
            & self
                .transport
                .dma_unmap(self.arena.iova(), self.arena.memory().len)
                .is_ok()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end("closed");
        self.ring_watch_bell();
        let watch = lock(&self.watch).take();
        // The watchdog itself may be the last to hold this life: a thread can't join itself.
        if let Some(watch) = watch
            && watch.thread().id() != std::thread::current().id()
        {
            let _ = watch.join();
        }
    }
}

fn wait_status(
    registers: &Registers<'_>,
    waited_for: &'static str,
    done: impl Fn(CardStatus) -> bool,
) -> Result<(), DeviceError> {
    let start = Instant::now();
    loop {
        let status = CardStatus::from_bits_retain(registers.read(control::STATUS)?);
        if status.contains(CardStatus::FATAL) {
            let cause = registers.read(control::ERROR_CAUSE)?;
            return Err(DeviceError::Fatal {
                cause: format!("cause {cause}"),
            });
        }
        if done(status) {
            return Ok(());
        }
        let deadline = patience::stretched(DEADLINE);
        if start.elapsed() > deadline {
            return Err(DeviceError::Timeout {
                waited_for,
                millis: deadline.as_millis() as u64,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
