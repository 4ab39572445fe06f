// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data side: doorbells polled, descriptors fetched, completions written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fpga_regs::admin::ErrorKind;
use fpga_regs::descriptor::{Completion, MAX_BUFFER, Submission};
use fpga_regs::registers::{Control, FatalCause};
use offload_api::queue::Status;
use zerocopy::{FromZeros, IntoBytes};

use crate::card::{Bell, Card, Core, DataQueue, Reset};
use crate::fault::{Fault, FaultPlan};
use crate::handshake::{self, Pages, post};
use crate::paced::Pacer;
use crate::rtl;
use crate::submission::{Place, complete, process};

/// Operations of a queue of the lowest priority before the next queue's turn; each step up doubles
/// them, so that queues that are all busy share the card 1 : 2 : 4 : 8.
pub(crate) const BURST: u32 = 32;
/// Empty rounds before the card sleeps; each yields the processor.
const IDLE_ROUNDS: u32 = 64;
/// How often SAs without traffic are looked at for limits by time.
const LIFETIME_TICK: Duration = Duration::from_millis(50);

/// Works until the card ends, at a pace where there is one.
pub(crate) fn run(cards: &[Arc<Card>], bell: &Bell, mut pacer: Option<Pacer>) {
    let mut buffer = vec![0; MAX_BUFFER as usize];
    let doorbells: Vec<_> = cards.iter().map(|card| &card.doorbells).collect();
    let mut idle = 0u32;
    let mut last_tick = Instant::now();
    while !bell.has_ended() {
        let mut worked = false;
        match &mut pacer {
            None => {
                for card in cards {
                    worked |= if card.is_rtl {
                        rtl::round(card)
                    } else {
                        round(card, &mut buffer)
                    };
                }
            }
            Some(pacer) => worked = pacer.round(cards, &mut buffer),
        }
        // Between bursts of a busy card, and after each look at an idle one.
        if !worked || idle == 0 {
            let now = Instant::now();
            if now.duration_since(last_tick) >= LIFETIME_TICK {
                last_tick = now;
                cards.iter().for_each(|card| card.lock().report(now));
            }
        }
        if worked {
            idle = 0;
            continue;
        }
        idle = idle.saturating_add(1);
        if cards.iter().any(|card| card.polls) {
            std::hint::spin_loop();
            continue;
        }
        if idle < IDLE_ROUNDS {
            std::thread::yield_now();
            continue;
        }
        let pause = pacer.as_ref().and_then(Pacer::idle_for);
        if pause.is_some_and(|pause| pause.is_zero()) {
            std::thread::yield_now();
            continue;
        }
        let blocked = pacer.as_ref().is_some_and(Pacer::is_blocked);
        let has_work = || !blocked && cards.iter().any(|card| pending(card));
        let held_back = || cards.iter().filter_map(|card| held_back(card));
        let due = || held_back().chain(pause).min();
        handshake::rest(&doorbells, has_work, || bell.sleep(due()));
        idle = 1;
    }
}

fn pending(card: &Card) -> bool {
    let rung = (0..card.doorbells.queues()).any(|queue| card.has_rung(queue));
    rung && running(&card.lock())
}

/// How long until a function's next held-back interrupt is due.
fn held_back(card: &Card) -> Option<Duration> {
    let core = card.lock();
    core.rtl_next_due()
        .or_else(|| core.irqs.next_due(Instant::now()))
}

pub(crate) fn running(core: &Core) -> bool {
    core.control.contains(Control::ENABLE) && core.fatal == FatalCause::None && !core.stalled
}

/// One turn for each queue of a function; whether there was anything to do.
pub(crate) fn round(card: &Card, buffer: &mut [u8]) -> bool {
    let mut worked = false;
    beat(card);
    for queue in 0..card.doorbells.queues() {
        if card.has_rung(queue) {
            worked |= turn(card, queue, buffer, None);
        }
    }
    fire_held_back(card);
    worked
}

pub(crate) fn beat(card: &Card) {
    if !card.frozen.load(Ordering::Relaxed) {
        card.heartbeat.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn fire_held_back(card: &Card) {
    if let Some(mut core) = card.try_lock().filter(|core| core.irqs.holds_back()) {
        core.irqs.fire_due(Instant::now());
    }
}

/// A queue's turn; whether there was anything to do.
pub(crate) fn turn(card: &Card, queue: u16, buffer: &mut [u8], pacer: Option<&mut Pacer>) -> bool {
    // Held for a burst: commands and registers wait that long, and a deleted queue is at rest.
    let mut core = card.lock();
    let worked = running(&core) && serve(card, &mut core, queue, buffer, pacer);
    if std::mem::take(&mut core.resets_itself) {
        drop(core);
        card.reset(Reset::Driver);
    }
    worked
}

fn serve(
    card: &Card,
    core: &mut Core,
    number: u16,
    buffer: &mut [u8],
    mut pacer: Option<&mut Pacer>,
) -> bool {
    let tail = handshake::tail(&card.doorbells, number);
    let slot = core.queues.get(usize::from(number)).copied().flatten();
    let Some(mut queue) = slot.filter(|queue| queue.failed.is_none()) else {
        // Nobody's doorbell, or one that is answered no more: looked at once.
        card.set_taken(number, tail);
        return false;
    };
    let pending = tail.wrapping_sub(queue.ring.head);
    if pending == 0 {
        return false;
    }
    if pending > queue.ring.depth {
        core.counters.bad_descriptors += 1;
        core.fail_queue(number, ErrorKind::Doorbell, tail.into());
        card.set_taken(number, tail);
        return false;
    }
    match hold_up(card, core, number, tail) {
        Some(Halt::Deaf) => return false,
        Some(Halt::Dead) => return true,
        None => {}
    }
    let now = Instant::now();
    let burst = pacer.as_ref().map_or(BURST, |pacer| pacer.turn());
    let room = core
        .held
        .as_ref()
        .map_or(u32::MAX, |held| held.room(number));
    let mut written = 0;
    let mut held: Option<Completion> = None;
    for _ in 0..pending.min(burst << queue.priority).min(room) {
        let ring = &mut queue.ring;
        let slot = u64::from(ring.head % ring.depth);
        let mut submission = Submission::new_zeroed();
        let at = ring.submissions + slot * size_of::<Submission>() as u64;
        let fetched = core.dma.read(at, submission.as_mut_bytes());
        let place = Place {
            queue: number,
            position: ring.head,
        };
        ring.head = ring.head.wrapping_add(1);
        queue.submitted += 1;
        queue.bytes += u64::from(submission.len.get());
        let mut completion = match fetched {
            Ok(()) => process(core, place, &submission, buffer, now),
            Err(fault) => {
                core.fault(number.into(), fault);
                complete(&submission, Status::DmaFault)
            }
        };
        let due = pacer.as_mut().map(|pacer| {
            let octets = clear_octets(&submission, &completion);
            pacer.pass(octets, place.position)
        });
        if let Some(tap) = &mut core.tap {
            tap.show(due.unwrap_or_else(Instant::now));
        }
        if core.faults.strikes(Fault::DropCompletion) {
            continue;
        }
        spoil(&mut core.faults, &mut completion);
        let copies = 1 + usize::from(core.faults.strikes(Fault::DuplicateCompletion));
        if core.faults.strikes(Fault::ReorderCompletion) && held.is_none() {
            held = Some(completion);
            continue;
        }
        for completion in std::iter::repeat_n(completion, copies).chain(held.take()) {
            written += finish(core, number, &mut queue, completion, due);
        }
    }
    if let Some(completion) = held {
        let due = pacer.is_some().then_some(now);
        written += finish(core, number, &mut queue, completion, due);
    }
    if pacer.is_none() {
        tell(card, core, number, &mut queue, written, now);
    }
    card.set_taken(number, queue.ring.head);
    if let Some(slot) = core.queues.get_mut(usize::from(number)) {
        *slot = Some(queue);
    }
    true
}

/// Writes a completion, or holds it until it is due; how many were written.
fn finish(
    core: &mut Core,
    number: u16,
    queue: &mut DataQueue,
    completion: Completion,
    due: Option<Instant>,
) -> u32 {
    match (due, &mut core.held) {
        (Some(due), Some(held)) => {
            held.push(number, due, completion);
            0
        }
        _ => {
            write_completion(core, number, queue, completion);
            1
        }
    }
}

/// Tells the driver of completions, where it asked for that.
pub(crate) fn tell(
    card: &Card,
    core: &mut Core,
    number: u16,
    queue: &mut DataQueue,
    written: u32,
    now: Instant,
) {
    let vector = usize::from(number) + 1;
    let fired = if handshake::take_arm(&card.doorbells, number) {
        interrupt(core, vector, written, now)
    } else {
        core.irqs.accumulate(vector, written, now)
    };
    queue.interrupts += u64::from(fired);
}

/// Octets of a packet in the clear, whichever way it goes: what a rate counts.
fn clear_octets(submission: &Submission, completion: &Completion) -> u64 {
    let (taken, given) = (submission.len.get(), completion.len.get());
    let good = completion.status <= Status::OkSoftExpired as u8;
    if good { taken.min(given) } else { taken }.into()
}

/// Why a queue is not served now.
enum Halt {
    /// Its doorbell was not heard.
    Deaf,
    /// The data path does nothing any more.
    Dead,
}

/// What goes wrong before a burst.
fn hold_up(card: &Card, core: &mut Core, queue: u16, tail: u32) -> Option<Halt> {
    if core.faults.is_empty() {
        return None;
    }
    if core.faults.strikes(Fault::LoseDoorbell) {
        card.set_taken(queue, tail);
        return Some(Halt::Deaf);
    }
    if core.faults.strikes(Fault::LateDoorbell) || core.faults.strikes(Fault::DelayCompletion) {
        std::thread::sleep(LATE);
    }
    if core.faults.strikes(Fault::StrayDma) {
        let stray = core.dma.write(STRAY, &[0xee; 8]);
        stray.unwrap_or_else(|fault| core.fault(queue.into(), fault));
    }
    if core.faults.strikes(Fault::FreezeHeartbeat) {
        card.frozen.store(true, Ordering::Relaxed);
    }
    if core.faults.strikes(Fault::Hang) {
        card.frozen.store(true, Ordering::Relaxed);
        core.stalled = true;
    }
    if core.faults.strikes(Fault::VanishRegisters) {
        core.vanished = true;
        core.stalled = true;
    }
    core.stalled |= core.faults.strikes(Fault::Stall);
    core.resets_itself = core.faults.strikes(Fault::ResetItself);
    (core.stalled || core.resets_itself).then_some(Halt::Dead)
}

/// How late a late card is.
const LATE: Duration = Duration::from_millis(1);
/// Nobody maps memory there.
const STRAY: u64 = 0xdead_0000_0000;

/// What goes wrong with a completion.
fn spoil(faults: &mut FaultPlan, completion: &mut Completion) {
    if faults.is_empty() {
        return;
    }
    if faults.strikes(Fault::ForgeSlot) {
        completion.slot = (completion.slot.get() ^ 0x8000_0001).into();
    }
    if faults.strikes(Fault::ForgeGeneration) {
        completion.slot_generation = completion.slot_generation.get().wrapping_sub(1).into();
    }
    if faults.strikes(Fault::ForgeLength) {
        completion.len = 0xffff_fff0.into();
    }
    if faults.strikes(Fault::ForgeOffset) {
        completion.offset = 0xffff_ff00.into();
    }
    if faults.strikes(Fault::ForgeStatus) {
        completion.status = 0xee;
    }
    let good = completion.status <= Status::OkSoftExpired as u8;
    if good && faults.strikes(Fault::ForgeBadIcv) {
        completion.status = Status::BadIcv as u8;
    }
    if good && faults.strikes(Fault::ForgeSequence) {
        completion.sequence = completion.sequence.get().saturating_sub(1).max(1).into();
    }
    if good && faults.strikes(Fault::ForgeNextHeader) {
        completion.next_header ^= 0x15;
    }
}

pub(crate) fn write_completion(
    core: &mut Core,
    number: u16,
    queue: &mut DataQueue,
    mut completion: Completion,
) {
    let ring = &mut queue.ring;
    completion.phase = ring.phase();
    completion.position = (ring.produced as u16).into();
    let slot = u64::from(ring.produced % ring.depth);
    let at = ring.completions + slot * size_of::<Completion>() as u64;
    ring.produced = ring.produced.wrapping_add(1);
    queue.completed += 1;
    queue.errors += u64::from(completion.status > Status::OkSoftExpired as u8);
    if let Err(fault) = post(&core.dma, at, completion.as_bytes()) {
        core.fault(number.into(), fault);
    }
}

/// Fires a vector, unless that goes wrong. Whether it fired.
fn interrupt(core: &mut Core, vector: usize, completions: u32, now: Instant) -> bool {
    if core.faults.strikes(Fault::LoseInterrupt) {
        return false;
    }
    let vector = if core.faults.strikes(Fault::WrongVector) {
        vector % (core.irqs.count() as usize - 1) + 1
    } else {
        vector
    };
    if core.faults.strikes(Fault::StormInterrupt) {
        for _ in 0..1000 {
            core.irqs.fire(vector, now);
        }
    }
    if core.faults.strikes(Fault::DuplicateInterrupt) {
        core.irqs.fire(vector, now);
    }
    core.irqs.raise(vector, completions, now)
}
