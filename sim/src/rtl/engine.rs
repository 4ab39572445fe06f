// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The clock, and what comes of it: queues, completions, events.

use esp::sa::SaNotice;
use fpga_cosim::card::{
    CardEvent, Completed, Counters, HostMemory, HostTiming, Notices, QueueSetup, RtlCard, Stuck,
};
use fpga_regs::admin::ErrorKind;
use fpga_regs::registers::FatalCause;
use offload_api::event::Limit;
use offload_api::queue::Status;

use super::interrupts::Fired;
use super::ports::Told;
use super::{BusTiming, MAX_QUEUES};
use crate::card::{Card, Core, Reset, Ring};
use crate::datapath::running;
use crate::dma::DmaMap;
use crate::handshake::{self, Pages};

/// Clocks in one go, between looks at doorbells; commands and registers wait that long. And the heart beats in
/// between: where the processor is shared they take a hundred times as long, and a card is given up soon.
const CLOCKS: u32 = 64;
/// As many idle clocks, and nothing that was rung for is left.
const QUIET: u32 = 4 * MAX_QUEUES as u32;

/// The RTL.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) card: RtlCard,
    /// What was counted already.
    pub(super) seen: Counters,
    /// Bits of the queues with completions since their requests for interrupts were looked at.
    completed: u32,
    /// When each vector fired last.
    pub(super) fired: Fired,
    /// Idle clocks in a row.
    quiet: u32,
    /// What the ports were told.
    pub(super) told: Told,
}

impl Engine {
    pub(crate) fn new(timing: BusTiming) -> Option<Self> {
        let timing = HostTiming {
            latency: timing.latency,
            jitter: timing.jitter,
            hesitation: timing.hesitation,
            silence: timing.silence,
            patience: timing.patience,
            seed: timing.seed,
        };
        Some(Self {
            card: RtlCard::new(timing),
            seen: Counters::default(),
            completed: 0,
            fired: Fired::default(),
            quiet: QUIET,
            told: Told::default(),
        })
    }

    /// In the middle of whatever is under way.
    pub(crate) fn reset(&mut self, dma: &DmaMap, reset: Reset) {
        match reset {
            Reset::Driver => self.card.reset(&mut Memory(dma)),
            Reset::Bus => self.card.reset_with_table(&mut Memory(dma)),
        }
        self.seen = Counters::default();
        self.completed = 0;
        self.forget_fired();
        self.quiet = QUIET;
        self.told = Told::default();
    }
}

/// The driver's memory, to the RTL.
pub(super) struct Memory<'dma>(pub(super) &'dma DmaMap);

impl HostMemory for Memory<'_> {
    fn read(&mut self, iova: u64, into: &mut [u8]) -> bool {
        self.0.read(iova, into).is_ok()
    }

    fn write(&mut self, iova: u64, octets: &[u8]) -> bool {
        self.0.write(iova, octets).is_ok()
    }

    fn post(&mut self, iova: u64, entry: &[u8; 32]) -> bool {
        handshake::post(self.0, iova, entry).is_ok()
    }
}

/// Runs the clock of a card in RTL for a while; whether there was anything to do.
pub(crate) fn round(card: &Card) -> bool {
    crate::datapath::beat(card);
    let mut core = card.lock();
    let core = &mut *core;
    core.rtl_fire_due();
    if !running(core) {
        return false;
    }
    let now = core.time();
    let Core {
        rtl: Some(engine),
        dma,
        queues,
        ..
    } = core
    else {
        return false;
    };
    engine.card.set_running(true);
    engine.card.set_time(now);
    for queue in (0..card.doorbells.queues()).filter(|queue| card.has_rung(*queue)) {
        let tail = handshake::tail(&card.doorbells, queue);
        card.set_taken(queue, tail);
        let there = queues.get(usize::from(queue)).copied().flatten();
        if there.is_some_and(|there| there.failed.is_none()) {
            engine.card.ring(queue, tail, &mut Memory(dma));
            engine.quiet = 0;
        }
    }
    let worked = engine.quiet < QUIET;
    let mut left = CLOCKS;
    while left != 0 {
        let Core {
            rtl: Some(engine),
            dma,
            ..
        } = core
        else {
            break;
        };
        if engine.quiet >= QUIET {
            break;
        }
        left -= 1;
        engine.card.clock(&mut Memory(dma));
        engine.quiet = if engine.card.is_idle() {
            engine.quiet + 1
        } else {
            0
        };
        if engine.card.has_news() {
            settle(core);
        }
    }
    settle(core);
    let completed = core
        .rtl
        .as_mut()
        .map_or(0, |engine| std::mem::take(&mut engine.completed));
    core.rtl_forward_arms(card, completed);
    worked
}

/// Does what the RTL leaves to its management: events first, then what was completed.
pub(super) fn settle(core: &mut Core) {
    while let Some(event) = core
        .rtl
        .as_mut()
        .and_then(|engine| engine.card.take_event())
    {
        match event {
            CardEvent::Notice { what, sa, left } => {
                for notice in Notices::ALL {
                    if what & 1 << notice as u16 != 0 {
                        core.sa_event(sa.0, sa.1, translate(notice, left));
                    }
                }
            }
            CardEvent::QueueFailed { queue, tail } => {
                core.fail_queue(queue, ErrorKind::Doorbell, tail.into());
            }
            CardEvent::Note {
                kind,
                queue,
                detail,
            } => {
                let kind = match kind {
                    1 => ErrorKind::Dma,
                    _ => ErrorKind::Descriptor,
                };
                core.note(kind, queue.into(), detail);
            }
        }
    }
    while let Some(done) = core
        .rtl
        .as_mut()
        .and_then(|engine| engine.card.take_completed())
    {
        if let Some(Some(queue)) = core.queues.get_mut(usize::from(done.queue)) {
            queue.completed += 1;
            queue.errors += u64::from(done.status > Status::OkSoftExpired as u8);
        }
        if let Some(engine) = &mut core.rtl {
            engine.completed |= 1 << done.queue;
        }
        note_refused(core, &done);
    }
    while let Some(done) = core
        .rtl
        .as_mut()
        .and_then(|engine| engine.card.take_passed())
    {
        note_refused(core, &done);
    }
    // One that the host had asked for before may have come of it.
    let now = core.time();
    core.deliver(now);
    let Some(engine) = &mut core.rtl else {
        return;
    };
    let (now, before) = (engine.card.counters(), engine.seen);
    engine.seen = now;
    let counters = &mut core.counters;
    counters.sealed += now.sealed - before.sealed;
    counters.sealed_bytes += now.sealed_bytes - before.sealed_bytes;
    counters.opened += now.opened - before.opened;
    counters.opened_bytes += now.opened_bytes - before.opened_bytes;
    counters.errors += now.errors - before.errors;
    counters.dma_faults += now.dma_faults - before.dma_faults;
    counters.bad_descriptors += now.bad_descriptors - before.bad_descriptors;
}

fn note_refused(core: &mut Core, done: &Completed) {
    if let Some(status) = Status::from_code(done.status)
        && !status.is_ok()
        && let Some(sa) = core.sas.find(done.sa.0, done.sa.1)
    {
        sa.state.note_refused(status);
    }
}

fn translate(notice: Notices, left: u64) -> SaNotice {
    match notice {
        Notices::HardBytes => SaNotice::Hard(Limit::Bytes),
        Notices::HardPackets => SaNotice::Hard(Limit::Packets),
        Notices::HardTime => SaNotice::Hard(Limit::Time),
        Notices::GrantLow => SaNotice::GrantLow(left),
        Notices::SequenceEnd => SaNotice::SequenceEnd,
        Notices::SequenceEnding => SaNotice::SequenceEnding,
        Notices::SoftBytes => SaNotice::Soft(Limit::Bytes),
        Notices::SoftPackets => SaNotice::Soft(Limit::Packets),
        Notices::SoftTime => SaNotice::Soft(Limit::Time),
    }
}

impl Core {
    /// Something for the RTL, with the driver's memory, and with nothing under way: a packet could
    /// undo what is written, or the other way around. The next round goes on.
    pub(super) fn with_rtl(
        &mut self,
        work: impl FnOnce(&mut RtlCard, &mut Memory<'_>) -> Result<(), Stuck>,
    ) {
        let Some(engine) = &mut self.rtl else {
            return;
        };
        let mut memory = Memory(&self.dma);
        engine.card.set_running(false);
        let rested = engine.card.rest(&mut memory);
        if rested
            .and_then(|()| work(&mut engine.card, &mut memory))
            .is_err()
        {
            self.fail(FatalCause::Configuration, u64::MAX);
        }
        settle(self);
    }

    /// Lets what was begun come to its end, and begins nothing while the queues are stopped.
    pub(crate) fn rtl_rest(&mut self) {
        self.with_rtl(|_, _| Ok(()));
    }

    pub(crate) fn rtl_delete_queues(&mut self) {
        self.with_rtl(|card, memory| {
            (0..MAX_QUEUES).for_each(|queue| card.set_queue(queue, None, memory));
            Ok(())
        });
    }

    /// Sets a queue up, or takes it away once it rests.
    pub(crate) fn rtl_set_queue(&mut self, queue: u16, rings: Option<(&Ring, u8)>) {
        self.with_rtl(|card, memory| {
            let setup = rings.map(|(ring, priority)| QueueSetup {
                submissions: ring.submissions,
                completions: ring.completions,
                depth_log2: ring.depth.trailing_zeros() as u8,
                priority,
            });
            card.set_queue(queue, setup.as_ref(), memory);
            Ok(())
        });
    }

    /// Brings a queue's counters up to date.
    pub(crate) fn rtl_look_at_queue(&mut self, queue: u16) {
        let Some(engine) = &mut self.rtl else {
            return;
        };
        let view = engine.card.queue(queue);
        if let Some(Some(queue)) = self.queues.get_mut(usize::from(queue)) {
            queue.submitted = view.completed.into();
            queue.bytes = view.bytes;
        }
    }

    /// Does all that was rung for until now.
    pub(crate) fn rtl_drain(&mut self, card: &Card) {
        let runs = running(self);
        self.with_rtl(|rtl, memory| {
            for queue in 0..card.doorbells.queues() {
                let tail = handshake::tail(&card.doorbells, queue);
                if card.has_rung(queue) {
                    card.set_taken(queue, tail);
                    rtl.ring(queue, tail, memory);
                }
            }
            rtl.set_running(runs);
            rtl.finish(memory)
        });
    }
}
