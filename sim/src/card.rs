// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One function of the card, shared by its control side (registers, admin queue) and the card's data
//! side. A card of several functions has one of these for each, and nothing between them but the
//! data thread: none can name another's memory, queues or SAs.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use esp::sa::SaNotice;
use fpga_regs::admin::{ErrorKind, ErrorRecord};
use fpga_regs::descriptor::{Completion, Event, EventKind, Submission};
use fpga_regs::queue::{QueueDescription, QueueState};
use fpga_regs::registers::{Control, FatalCause};
use offload_api::event::Limit;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use zerocopy::IntoBytes;

use crate::capture::Tap;
use crate::dma::{DmaFault, DmaMap};
use crate::doorbell::Doorbells;
use crate::fault::{Fault, FaultPlan};
use crate::handshake::{self, post};
use crate::inline::InlineState;
use crate::irq::Vectors;
use crate::mailbox::Mailbox;
use crate::paced::Held;
use crate::rtl::{BusTiming, Engine};
use crate::sas::SaTable;

/// Largest packet, sealed or not.
pub(crate) const MAX_PACKET: u32 = 64 << 10;
/// Largest ring.
pub(crate) const MAX_DEPTH: u32 = 4096;
/// Highest priority of a queue.
pub(crate) const MAX_PRIORITY: u8 = 3;
/// Longest sleep of the data side.
const TICK: Duration = Duration::from_millis(50);

/// What a function is given of its card.
#[derive(Clone, Debug)]
pub(crate) struct FunctionConfig {
    pub(crate) number: u16,
    /// Functions of the card.
    pub(crate) of: u16,
    pub(crate) queues: u16,
    pub(crate) max_sas: u32,
    pub(crate) faults: FaultPlan,
    /// It never sleeps.
    pub(crate) polls: bool,
    /// It seals and opens nothing.
    pub(crate) null_crypto: bool,
    /// Completions are held until they are due.
    pub(crate) paced: bool,
    /// Its data path is the RTL, with this bus.
    pub(crate) rtl: Option<BusTiming>,
}

/// A function of the card.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) doorbells: Doorbells,
    core: Mutex<Core>,
    bell: Arc<Bell>,
    /// Counts up while the data side serves this function.
    pub(crate) heartbeat: AtomicU32,
    /// It has faults to inject: only then need an access to its registers ask for the core first.
    pub(crate) is_faulty: bool,
    /// The heart stands still, on purpose.
    pub(crate) frozen: AtomicBool,
    /// Its data side never sleeps.
    pub(crate) polls: bool,
    /// Its data path is the RTL.
    pub(crate) is_rtl: bool,
    /// Descriptors taken, for each queue: what the data side compares doorbells with, without a lock.
    taken: Box<[AtomicU32]>,
}

/// Whose reset it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// By a register, or by a message around which the bus keeps its own state.
    Driver,
    /// A function-level reset, or a driver that is gone: the MSI-X table goes back to power-on, too.
    Bus,
}

/// Wakes and ends the card's data side.
#[derive(Debug)]
pub(crate) struct Bell {
    wake: OwnedFd,
    ended: AtomicBool,
}

/// Everything behind a function's registers.
pub(crate) struct Core {
    pub(crate) number: u16,
    /// Functions of the card.
    pub(crate) of: u16,
    pub(crate) dma: DmaMap,
    pub(crate) control: Control,
    pub(crate) admin: Ring,
    pub(crate) events: Ring,
    pub(crate) events_head: u32,
    pub(crate) events_dropped: u32,
    pub(crate) queues: Vec<Option<DataQueue>>,
    pub(crate) sas: SaTable,
    pub(crate) counters: CardCounters,
    pub(crate) fatal: FatalCause,
    pub(crate) fatal_info: u64,
    pub(crate) errors: ErrorLog,
    pub(crate) irqs: Vectors,
    pub(crate) mailbox: Mailbox,
    pub(crate) faults: FaultPlan,
    pub(crate) polls: bool,
    pub(crate) null_crypto: bool,
    pub(crate) stalled: bool,
    /// Every register reads as all ones, on purpose.
    pub(crate) vanished: bool,
    /// A reset is due, on purpose.
    pub(crate) resets_itself: bool,
    /// There while packets are captured.
    pub(crate) tap: Option<Tap>,
    /// There at a pace.
    pub(crate) held: Option<Held>,
    /// There where the data path is the RTL.
    pub(crate) rtl: Option<Box<Engine>>,
    /// There in inline mode.
    pub(crate) inline: Option<InlineState>,
    pub(crate) latch: u32,
    table_full_told: Option<Instant>,
    started: Instant,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// A pair of rings (or, for events, one).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ring {
    pub(crate) submissions: u64,
    pub(crate) completions: u64,
    pub(crate) depth: u32,
    /// Entries taken.
    pub(crate) head: u32,
    /// Entries written.
    pub(crate) produced: u32,
}

/// A queue pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataQueue {
    pub(crate) ring: Ring,
    pub(crate) priority: u8,
    /// Why it stopped.
    pub(crate) failed: Option<ErrorKind>,
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) errors: u64,
    pub(crate) interrupts: u64,
    pub(crate) bytes: u64,
}

impl DataQueue {
    pub(crate) fn new(ring: Ring, priority: u8) -> Self {
        Self {
            ring,
            priority,
            failed: None,
            submitted: 0,
            completed: 0,
            errors: 0,
            interrupts: 0,
            bytes: 0,
        }
    }

    pub(crate) fn describe(&self) -> QueueDescription {
        let state = match self.failed {
            None => QueueState::Running,
            Some(_) => QueueState::Failed,
        };
        QueueDescription {
            depth: self.ring.depth.into(),
            priority: self.priority,
            state: state as u8,
            error: self.failed.map_or(0, |kind| kind as u8),
            reserved0: 0,
            submitted: self.submitted.into(),
            completed: self.completed.into(),
            errors: self.errors.into(),
            interrupts: self.interrupts.into(),
            bytes: self.bytes.into(),
            reserved1: 0.into(),
            reserved2: 0.into(),
        }
    }
}

/// Octets of an entry of a submission ring, for commands as for packets.
const SUBMISSION_LEN: u64 = size_of::<Submission>() as u64;
/// Octets of an entry of a completion ring, for commands, packets and events.
const COMPLETION_LEN: u64 = size_of::<Completion>() as u64;

impl Ring {
    /// Whether its last entries still have an address.
    pub(crate) fn fits(&self) -> bool {
        let end = |base: u64, len: u64| base.checked_add(u64::from(self.depth) * len);
        end(self.submissions, SUBMISSION_LEN).is_some()
            && end(self.completions, COMPLETION_LEN).is_some()
    }

    /// Phase bit of the entry to be written next.
    pub(crate) fn phase(&self) -> u8 {
        handshake::phase(self.produced, self.depth)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CardCounters {
    pub(crate) sealed: u64,
    pub(crate) sealed_bytes: u64,
    pub(crate) opened: u64,
    pub(crate) opened_bytes: u64,
    pub(crate) errors: u64,
    pub(crate) dma_faults: u64,
    pub(crate) bad_descriptors: u64,
}

/// The last errors, and how many there were.
#[derive(Default)]
pub(crate) struct ErrorLog {
    records: VecDeque<ErrorRecord>,
    pub(crate) noted: u32,
}

impl ErrorLog {
    /// Newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &ErrorRecord> {
        self.records.iter().rev()
    }

    fn note(&mut self, record: ErrorRecord) {
        self.noted = self.noted.wrapping_add(1);
        if self.records.len() == ErrorRecord::KEPT {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: AtomicBool::new(false),
        })
    }

    /// Ends the data side.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sleeps until rung, for so long, or for the rest of a tick.
    pub(crate) fn sleep(&self, due: Option<Duration>) {
        let time = due.unwrap_or(TICK).min(TICK);
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&time));
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
    }
}

impl Card {
    pub(crate) fn new(config: FunctionConfig, bell: Arc<Bell>) -> io::Result<Self> {
        let vectors = usize::from(config.queues) + 1;
        Ok(Self {
            doorbells: Doorbells::new(config.queues)?,
            is_faulty: !config.faults.is_empty(),
            polls: config.polls,
            is_rtl: config.rtl.is_some(),
            core: Mutex::new(Core {
                number: config.number,
                of: config.of,
                dma: DmaMap::default(),
                control: Control::empty(),
                admin: Ring::default(),
                events: Ring::default(),
                events_head: 0,
                events_dropped: 0,
                queues: vec![None; config.queues.into()],
                sas: SaTable::new(config.max_sas),
                counters: CardCounters::default(),
                fatal: FatalCause::None,
                fatal_info: 0,
                errors: ErrorLog::default(),
                irqs: Vectors::new(vectors),
                mailbox: Mailbox::default(),
                faults: config.faults,
                polls: config.polls,
                null_crypto: config.null_crypto,
                stalled: false,
                vanished: false,
                resets_itself: false,
                tap: None,
                held: config.paced.then(|| Held::new(config.queues)),
                rtl: config.rtl.and_then(Engine::new).map(Box::new),
                inline: None,
                latch: 0,
                table_full_told: None,
                started: Instant::now(),
            }),
            bell,
            heartbeat: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            taken: (0..config.queues).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function, unless its control side is at work on it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Core>> {
        self.core.try_lock().ok()
    }

    pub(crate) fn wake(&self) {
        self.bell.ring();
    }

    /// Whether a queue's doorbell tells of something that was not taken.
    pub(crate) fn has_rung(&self, queue: u16) -> bool {
        self.taken.get(usize::from(queue)).is_some_and(|taken| {
            taken.load(Ordering::Relaxed) != handshake::tail(&self.doorbells, queue)
        })
    }

    /// Notes how far a queue's descriptors were taken.
    pub(crate) fn set_taken(&self, queue: u16, head: u32) {
        if let Some(taken) = self.taken.get(usize::from(queue)) {
            taken.store(head, Ordering::Relaxed);
        }
    }

    /// Forgets the driver, for the next one: everything that leads to its memory. SAs and rules stay, and
    /// the ports go on with them.
    pub(crate) fn detach(&self) {
        let mut core = self.lock();
        core.control = Control::empty();
        core.admin = Ring::default();
        core.events = Ring::default();
        core.events_head = 0;
        core.mailbox.clear();
        core.delete_queues();
        self.doorbells.clear();
        self.taken
            .iter()
            .for_each(|taken| taken.store(0, Ordering::Relaxed));
    }

    /// Back to power-on: keys zeroised, queues gone; mappings and where interrupts lead are the bus's.
    pub(crate) fn reset(&self, reset: Reset) {
        let mut core = self.lock();
        core.control = Control::empty();
        core.admin = Ring::default();
        core.events = Ring::default();
        (core.events_head, core.events_dropped) = (0, 0);
        let Core { rtl, dma, .. } = &mut *core;
        if let Some(rtl) = rtl {
            rtl.reset(dma, reset);
        }
        core.delete_queues();
        core.sas.clear();
        if let Some(inline) = &mut core.inline {
            inline.reset();
        }
        core.counters = CardCounters::default();
        core.fatal = FatalCause::None;
        core.fatal_info = 0;
        core.errors = ErrorLog::default();
        core.irqs.reset();
        if reset == Reset::Bus {
            core.irqs.mask();
        }
        core.mailbox.clear();
        core.stalled = false;
        core.vanished = false;
        core.resets_itself = false;
        self.frozen.store(false, Ordering::Relaxed);
        self.doorbells.clear();
        self.taken
            .iter()
            .for_each(|taken| taken.store(0, Ordering::Relaxed));
    }
}

impl Core {
    /// All queue pairs go, and completions that are not due with them.
    fn delete_queues(&mut self) {
        self.rtl_delete_queues();
        self.queues.fill(None);
        if let Some(held) = &mut self.held {
            held.clear();
        }
    }

    /// Whether the ports go on. They need no driver: it may be dead, or on its way back.
    pub(crate) fn forwards(&self) -> bool {
        self.fatal == FatalCause::None && !self.stalled
    }

    pub(crate) fn time(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Starts or stops the queues, or zeroises.
    pub(crate) fn set_control(&mut self, value: Control) {
        let starts = value.contains(Control::ENABLE) && !self.control.contains(Control::ENABLE);
        self.control = value & Control::ENABLE;
        self.rtl_rest();
        if starts {
            let valid =
                |depth: u32, max: u32| depth.is_power_of_two() && (2..=max).contains(&depth);
            let events_valid = self.events.depth == 0 || valid(self.events.depth, 4096);
            let fit = self.admin.fits() && self.events.fits();
            if !valid(self.admin.depth, 256) || !events_valid || !fit {
                self.fail(FatalCause::Configuration, 0);
            } else if !self.dma.is_enabled() {
                self.fail(FatalCause::BusMaster, 0);
            }
            for ring in [&mut self.admin, &mut self.events] {
                (ring.head, ring.produced) = (0, 0);
            }
            self.events_head = 0;
        }
        if value.contains(Control::ZEROISE) {
            self.mailbox.clear();
            self.clear_sas();
            self.event(0, 0, EventKind::Zeroised, 0);
        }
    }

    /// Records the first fatal error.
    pub(crate) fn fail(&mut self, cause: FatalCause, info: u64) {
        if self.fatal == FatalCause::None {
            tracing::warn!(?cause, info, "fatal error");
            self.fatal = cause;
            self.fatal_info = info;
            self.note(ErrorKind::Fatal, ErrorRecord::NO_QUEUE, cause as u64);
        }
    }

    /// Counts an access that went wrong.
    pub(crate) fn fault(&mut self, queue: u32, fault: DmaFault) {
        self.counters.dma_faults += 1;
        self.note(ErrorKind::Dma, queue, fault.iova);
        tracing::debug!(iova = format_args!("{:#x}", fault.iova), "DMA fault");
    }

    /// Writes an error down.
    pub(crate) fn note(&mut self, kind: ErrorKind, queue: u32, detail: u64) {
        let record = ErrorRecord {
            time: self.time().into(),
            detail: detail.into(),
            queue: queue.into(),
            kind: kind as u8,
            reserved: [0; 11],
        };
        self.errors.note(record);
    }

    /// Stops a queue for an error of its own; the others go on.
    pub(crate) fn fail_queue(&mut self, queue: u16, kind: ErrorKind, detail: u64) {
        self.note(kind, queue.into(), detail);
        if let Some(Some(slot)) = self.queues.get_mut(usize::from(queue)) {
            slot.failed = Some(kind);
        }
        tracing::warn!(queue, ?kind, detail, "queue stopped");
        self.event(queue.into(), 0, EventKind::QueueError, kind as u64);
    }

    /// Tells that an SA found no room, at most once a second.
    pub(crate) fn table_full(&mut self, now: Instant) {
        let quiet = |told| now.saturating_duration_since(told) >= Duration::from_secs(1);
        if self.table_full_told.is_none_or(quiet) {
            self.table_full_told = Some(now);
            self.event(0, 0, EventKind::TableFull, self.sas.live().into());
        }
    }

    /// Reports what SAs have to say.
    pub(crate) fn report(&mut self, now: Instant) {
        let mut notices = Vec::new();
        self.rtl_pull_timed();
        self.sas.notices(now, &mut notices);
        self.rtl_push_timed();
        for (index, generation, notice) in notices {
            self.sa_event(index, generation, notice);
        }
    }

    /// Reports what an SA has to say after a packet; without memory of its own.
    pub(crate) fn tell(&mut self, index: u32, generation: u32) {
        let mut notices = [None; 8];
        if let Some(sa) = self.sas.find(index, generation) {
            let mut places = notices.iter_mut();
            sa.state.take_notices(|notice| {
                if let Some(place) = places.next() {
                    *place = Some(notice);
                }
            });
        }
        for notice in notices.into_iter().flatten() {
            self.sa_event(index, generation, notice);
        }
    }

    /// Every SA goes, and its keys and rules with it.
    pub(crate) fn clear_sas(&mut self) {
        let mut from = 0;
        while self.rtl.is_some()
            && let Some((index, ..)) = self.sas.next(from)
        {
            self.rtl_remove(index);
            from = index + 1;
        }
        self.sas.clear();
        if let Some(inline) = &mut self.inline {
            inline.rules.clear();
        }
    }

    /// Tells the driver of entries for a vector, by its moderation.
    pub(crate) fn raise(&mut self, vector: usize, entries: u32) {
        if self.rtl.is_some() {
            self.rtl_raise(vector, entries);
        } else {
            self.irqs.raise(vector, entries, Instant::now());
        }
    }

    /// Where a vector goes from now on.
    pub(crate) fn wire(&mut self, vector: usize, fd: Option<OwnedFd>) {
        self.rtl_wire(vector, fd.is_some());
        self.irqs.wire(vector, fd);
    }

    /// Masks all vectors, or ends that.
    pub(crate) fn set_all_masked(&mut self, masked: bool) {
        self.rtl_set_all_masked(masked);
        self.irqs.set_all_masked(masked, Instant::now());
    }

    /// Reports what an SA has to say.
    pub(crate) fn sa_event(&mut self, index: u32, generation: u32, notice: SaNotice) {
        let (kind, value) = match notice {
            SaNotice::Soft(Limit::Bytes) => (EventKind::SoftBytes, 0),
            SaNotice::Soft(Limit::Packets) => (EventKind::SoftPackets, 0),
            SaNotice::Soft(Limit::Time) => (EventKind::SoftTime, 0),
            SaNotice::Hard(Limit::Bytes) => (EventKind::HardBytes, 0),
            SaNotice::Hard(Limit::Packets) => (EventKind::HardPackets, 0),
            SaNotice::Hard(Limit::Time) => (EventKind::HardTime, 0),
            SaNotice::GrantLow(remaining) => (EventKind::GrantLow, remaining),
            SaNotice::SequenceEnding => (EventKind::SequenceEnding, 0),
            SaNotice::SequenceEnd => (EventKind::SequenceEnd, 0),
            SaNotice::BadIcv(count) => (EventKind::BadIcvBurst, count),
            SaNotice::Replayed(count) => (EventKind::ReplayBurst, count),
        };
        self.event(index, generation, kind, value);
    }

    /// Writes an event, or counts it as dropped.
    pub(crate) fn event(&mut self, index: u32, generation: u32, kind: EventKind, value: u64) {
        let used = (self.events.produced & 0xffff).wrapping_sub(self.events_head) & 0xffff;
        let runs = self.control.contains(Control::ENABLE) && self.fatal == FatalCause::None;
        if !runs || self.events.depth == 0 || used >= self.events.depth {
            self.events_dropped = self.events_dropped.saturating_add(1);
            return;
        }
        if self.faults.strikes(Fault::LoseEvent) {
            return;
        }
        let index = if self.faults.strikes(Fault::ForgeEvent) {
            index ^ 0x5a5a
        } else {
            index
        };
        let copies = 1 + u32::from(self.faults.strikes(Fault::DuplicateEvent));
        for _ in 0..copies {
            self.write_event(index, generation, kind, value);
        }
    }

    fn write_event(&mut self, index: u32, generation: u32, kind: EventKind, value: u64) {
        let event = Event {
            sa_index: index.into(),
            sa_generation: generation.into(),
            value: value.into(),
            time: self.time().into(),
            reserved: [0; 6],
            kind: kind as u8,
            phase: self.events.phase(),
        };
        let slot = u64::from(self.events.produced % self.events.depth);
        let at = self.events.completions + slot * size_of::<Event>() as u64;
        self.events.produced = self.events.produced.wrapping_add(1);
        match post(&self.dma, at, event.as_bytes()) {
            Ok(()) => {
                self.raise(0, 1);
            }
            Err(fault) => {
                self.fault(ErrorRecord::NO_QUEUE, fault);
                self.fail(FatalCause::EventDma, fault.iova);
            }
        }
    }
}
