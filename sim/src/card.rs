// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's state, shared by its control side (registers, admin queue) and its data side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use esp::sa::{SaNotice, SaState};
use esp::transform::Transform;
use fpga_regs::context::suite_bit;
use fpga_regs::descriptor::{Completion, Event, EventKind, PHASE, Submission};
use fpga_regs::registers::{
    ABI_VERSION, CardFeatures, CardStatus, Control, FatalCause, MAGIC_VALUE, admin_queue, control,
    event_queue, identity, statistics,
};
use offload_api::event::Limit;
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::Suite;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use zerocopy::IntoBytes;

use crate::CardConfig;
use crate::dma::{DmaFault, DmaMap};
use crate::doorbell::Doorbells;
use crate::fault::FaultPlan;

/// Largest packet, sealed.
pub(crate) const MAX_PACKET: u32 = 16 << 10;
/// Largest ring.
pub(crate) const MAX_DEPTH: u32 = 4096;

#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) doorbells: Doorbells,
    pub(crate) core: Mutex<Core>,
    wake: OwnedFd,
    ended: AtomicBool,
}

/// Everything behind the registers.
pub(crate) struct Core {
    pub(crate) dma: DmaMap,
    pub(crate) control: Control,
    pub(crate) admin: Ring,
    pub(crate) events: Ring,
    events_head: u32,
    events_dropped: u32,
    pub(crate) queues: Vec<Option<Ring>>,
    pub(crate) sas: SaTable,
    pub(crate) counters: CardCounters,
    pub(crate) fatal: FatalCause,
    fatal_info: u64,
    pub(crate) heartbeat: u32,
    pub(crate) irqs: Vec<Option<OwnedFd>>,
    pub(crate) faults: FaultPlan,
    pub(crate) stalled: bool,
    latch: u32,
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
        if (self.produced / self.depth.max(1)).is_multiple_of(2) {
            PHASE
        } else {
            0
        }
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

/// SAs by index, each with its generation.
pub(crate) struct SaTable {
    slots: Vec<(u32, Option<CardSa>)>,
    free: Vec<u32>,
    capacity: u32,
    live: u32,
}

pub(crate) struct CardSa {
    pub(crate) transform: Transform,
    pub(crate) state: SaState,
}

impl SaTable {
    fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            capacity,
            live: 0,
        }
    }

    pub(crate) fn insert(&mut self, sa: CardSa) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u64) < u64::from(self.capacity) => {
                self.slots.push((1, None));
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        *slot = Some(sa);
        self.live += 1;
        Some((index, *generation))
    }

    pub(crate) fn find(&mut self, index: u32, generation: u32) -> Option<&mut CardSa> {
        let (current, slot) = self.slots.get_mut(index as usize)?;
        slot.as_mut().filter(|_| *current == generation)
    }

    /// Keys are zeroised as the SA drops.
    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> Option<CardSa> {
        let (current, slot) = self.slots.get_mut(index as usize)?;
        if *current != generation {
            return None;
        }
        let sa = slot.take()?;
        *current = current.wrapping_add(1);
        self.free.push(index);
        self.live -= 1;
        Some(sa)
    }

    fn clear(&mut self) {
        for (index, (generation, slot)) in self.slots.iter_mut().enumerate() {
            if slot.take().is_some() {
                *generation = generation.wrapping_add(1);
                self.free.push(index as u32);
            }
        }
        self.live = 0;
    }

    fn notices(&mut self, now: Instant, out: &mut Vec<(u32, u32, SaNotice)>) {
        for (index, (generation, slot)) in self.slots.iter_mut().enumerate() {
            if let Some(sa) = slot {
                sa.state.check_time(now);
                sa.state
                    .take_notices(|notice| out.push((index as u32, *generation, notice)));
            }
        }
    }
}

impl Card {
    pub(crate) fn new(config: &CardConfig) -> io::Result<Self> {
        let vectors = usize::from(config.queues) + 1;
        Ok(Self {
            doorbells: Doorbells::new(config.queues)?,
            core: Mutex::new(Core {
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
                heartbeat: 0,
                irqs: (0..vectors).map(|_| None).collect(),
                faults: config.faults.clone(),
                stalled: false,
                latch: 0,
                started: Instant::now(),
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: AtomicBool::new(false),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the data side.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sleeps until woken, or for the rest of a tick.
    pub(crate) fn sleep(&self) {
        const TICK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&TICK));
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    /// Back to power-on: keys zeroised, queues gone; mappings and interrupts are the bus's.
    pub(crate) fn reset(&self) {
        let mut core = self.lock();
        core.control = Control::empty();
        core.admin = Ring::default();
        core.events = Ring::default();
        (core.events_head, core.events_dropped) = (0, 0);
        core.queues.fill(None);
        core.sas.clear();
        core.counters = CardCounters::default();
        core.fatal = FatalCause::None;
        core.fatal_info = 0;
        core.stalled = false;
        self.doorbells.clear();
    }
}

impl Core {
    /// Reads a register; a 64-bit one's low half latches its high one.
    pub(crate) fn read_register(&mut self, offset: u64) -> u32 {
        if offset % 8 == 4 && self.wide(offset - 4).is_some() {
            return self.latch;
        }
        if let Some(value) = self.wide(offset) {
            self.latch = (value >> 32) as u32;
            return value as u32;
        }
        match offset {
            identity::MAGIC => MAGIC_VALUE,
            identity::VERSION => ABI_VERSION,
            identity::FEATURES => features(!self.faults.is_empty()).bits(),
            identity::MAX_SAS => self.sas.capacity,
            identity::MAX_QUEUES => self.queues.len() as u32,
            identity::MAX_DEPTH => MAX_DEPTH,
            identity::MAX_PACKET => MAX_PACKET,
            identity::MAX_WINDOW => WINDOW_MAX,
            identity::VECTORS => self.irqs.len() as u32,
            control::CONTROL => self.control.bits(),
            control::STATUS => self.status().bits(),
            control::HEARTBEAT => self.heartbeat,
            control::ERROR_CAUSE => self.fatal as u32,
            admin_queue::DEPTH => self.admin.depth,
            event_queue::DEPTH => self.events.depth,
            event_queue::DROPPED => self.events_dropped,
            _ => 0,
        }
    }

    fn wide(&self, offset: u64) -> Option<u64> {
        Some(match offset {
            identity::BUILD => u64::from_le_bytes(*b"sim 0.1\0"),
            identity::SUITES => Suite::all().fold(0, |bits, suite| {
                bits | 1 << suite_bit(suite.cipher() as u8, suite.integrity() as u8)
            }),
            identity::TIME => self.time(),
            control::ERROR_INFO => self.fatal_info,
            admin_queue::SUBMISSION_BASE => self.admin.submissions,
            admin_queue::COMPLETION_BASE => self.admin.completions,
            event_queue::BASE => self.events.completions,
            statistics::SEALED => self.counters.sealed,
            statistics::SEALED_BYTES => self.counters.sealed_bytes,
            statistics::OPENED => self.counters.opened,
            statistics::OPENED_BYTES => self.counters.opened_bytes,
            statistics::ERRORS => self.counters.errors,
            statistics::DMA_FAULTS => self.counters.dma_faults,
            statistics::SAS => self.sas.live.into(),
            statistics::BAD_DESCRIPTORS => self.counters.bad_descriptors,
            _ => return None,
        })
    }

    fn time(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn status(&self) -> CardStatus {
        if self.fatal != FatalCause::None {
            CardStatus::FATAL
        } else if self.control.contains(Control::ENABLE) {
            CardStatus::READY
        } else {
            CardStatus::empty()
        }
    }

    /// Writes a register that has no action of its own.
    pub(crate) fn write_register(&mut self, offset: u64, value: u32) {
        // Rings are set up before the card is enabled, never under its feet.
        let idle = !self.control.contains(Control::ENABLE);
        let halves = [
            (admin_queue::SUBMISSION_BASE, &mut self.admin.submissions),
            (admin_queue::COMPLETION_BASE, &mut self.admin.completions),
            (event_queue::BASE, &mut self.events.completions),
        ];
        for (register, field) in halves {
            if idle && offset == register {
                *field = (*field & !0xffff_ffff) | u64::from(value);
            } else if idle && offset == register + 4 {
                *field = (*field & 0xffff_ffff) | u64::from(value) << 32;
            }
        }
        match offset {
            admin_queue::DEPTH if idle => self.admin.depth = value,
            event_queue::DEPTH if idle => self.events.depth = value,
            event_queue::HEAD => self.events_head = value & 0xffff,
            _ => {}
        }
    }

    /// Starts or stops the queues.
    pub(crate) fn set_control(&mut self, value: Control) {
        let starts = value.contains(Control::ENABLE) && !self.control.contains(Control::ENABLE);
        self.control = value & Control::ENABLE;
        if starts {
            let valid =
                |depth: u32, max: u32| depth.is_power_of_two() && (2..=max).contains(&depth);
            let events_valid = self.events.depth == 0 || valid(self.events.depth, 4096);
            let fit = self.admin.fits() && self.events.fits();
            if !valid(self.admin.depth, 256) || !events_valid || !fit {
                self.fail(FatalCause::Configuration, 0);
            }
            for ring in [&mut self.admin, &mut self.events] {
                (ring.head, ring.produced) = (0, 0);
            }
            self.events_head = 0;
        }
    }

    /// Records the first fatal error.
    pub(crate) fn fail(&mut self, cause: FatalCause, info: u64) {
        if self.fatal == FatalCause::None {
            tracing::warn!(?cause, info, "fatal error");
            self.fatal = cause;
            self.fatal_info = info;
        }
    }

    /// Counts an access that went wrong.
    pub(crate) fn fault(&mut self, fault: DmaFault) {
        self.counters.dma_faults += 1;
        tracing::debug!(iova = format_args!("{:#x}", fault.iova), "DMA fault");
    }

    /// Reports what SAs have to say.
    pub(crate) fn report(&mut self, now: Instant) {
        let mut notices = Vec::new();
        self.sas.notices(now, &mut notices);
        for (index, generation, notice) in notices {
            self.event(index, generation, notice);
        }
    }

    /// Writes an event, or counts it as dropped.
    pub(crate) fn event(&mut self, index: u32, generation: u32, notice: SaNotice) {
        let used = (self.events.produced & 0xffff).wrapping_sub(self.events_head) & 0xffff;
        if self.events.depth == 0 || used >= self.events.depth {
            self.events_dropped = self.events_dropped.saturating_add(1);
            return;
        }
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
            Ok(()) => self.interrupt(0),
            Err(fault) => {
                self.fault(fault);
                self.fail(FatalCause::EventDma, fault.iova);
            }
        }
    }

    /// Fires a vector.
    pub(crate) fn interrupt(&self, vector: usize) {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if let Some(Some(fd)) = self.irqs.get(vector) {
            // The driver chose the descriptor: one that is full and blocks would hold up the card.
            // Full means that the driver has interrupts to read already.
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
            if poll(&mut fds, Some(&NOW)) == Ok(1) && fds[0].revents().contains(PollFlags::OUT) {
                let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
            }
        }
    }
}

/// Writes an entry of a ring: everything but its last eight octets, then these with the phase, in
/// one store.
pub(crate) fn post(dma: &DmaMap, iova: u64, entry: &[u8]) -> Result<(), DmaFault> {
    let Some((body, last)) = entry.split_last_chunk::<8>() else {
        return Ok(());
    };
    dma.write(iova, body)?;
    dma.store_release(iova + body.len() as u64, u64::from_le_bytes(*last))
}

fn features(faults: bool) -> CardFeatures {
    let mut features = CardFeatures::all() - CardFeatures::MODERATION - CardFeatures::PRIORITIES;
    features.set(CardFeatures::FAULT_INJECTION, faults);
    features
}
