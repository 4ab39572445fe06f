// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the ipa card.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::descriptor::{
    Completion, FLAG_EXPLICIT, FLAG_GATHER, GatherEntry, OP_PROCESS, Submission,
};
use fpga_regs::registers::{control, doorbell};
use offload_api::error::{DeviceError, OpenQueueError};
use offload_api::queue::{Arm, Done, Op, QueuePair, Status};
use zerocopy::FromZeros;

use super::flights::{Flights, Landing};
use super::life::{Life, QueueMemory};
use super::watchdog::Pulse;
use crate::handshake::{self, MappedPage, Page};
use crate::ring::{CompletionRing, SubmissionRing};

/// Entries of a gather list that the driver makes, at most.
pub(super) const MAX_GATHER: usize = 16;
/// Gather lists of a queue pair, at most: more packets in several frames wait for their turn.
pub(super) const MAX_LISTS: u32 = 256;

/// Tells the card of a packet in several frames.
pub(super) type GatherList = [GatherEntry; MAX_GATHER];

/// Where a packet lies, as the card is told.
struct Buffer {
    at: u64,
    len: u32,
    /// Octets of the packet.
    packet: u32,
    entries: u16,
}

pub(super) struct IpaQueue {
    life: Arc<Life>,
    number: u16,
    depth: u32,
    memory: QueueMemory,
    submissions: SubmissionRing<Submission>,
    completions: Arc<CompletionRing<Completion>>,
    lists: SubmissionRing<GatherList>,
    flights: Flights,
    /// Refused before they reached the card.
    refused: Vec<Done>,
    /// Submissions so far.
    tail: u32,
    /// As far as the card knows.
    rung: u32,
    /// Completions so far.
    head: u32,
    pulse: Arc<Pulse>,
    /// The pool of the last frame, and where the card sees it.
    last_pool: Option<(u32, u64)>,
    is_shut: bool,
}

impl IpaQueue {
    pub(super) fn open(life: Arc<Life>, depth: u32) -> Result<Self, OpenQueueError> {
        life.check()?;
        let max = life.capabilities.max_queues;
        let none_free = || OpenQueueError::NoneFree { max };
        let (number, memory) = life.take_queue(depth).ok_or_else(none_free)?;
        let lists = QueueMemory::lists(depth);
        let arena = &life.arena;
        let submissions = SubmissionRing::new(arena, memory.submissions, depth);
        let completions = CompletionRing::new(arena, memory.completions, depth);
        let submissions = submissions.ok_or_else(none_free)?;
        let completions = completions.ok_or_else(none_free)?;
        let list_ring = SubmissionRing::new(arena, memory.gather, lists).ok_or_else(none_free)?;
        let completions = Arc::new(completions);
        let arguments = [submissions.iova(), completions.iova(), depth.into(), 0, 0];
        let answer = life.command(Opcode::CreateQueue, number.into(), 0, arguments, &[])?;
        if answer.status != CommandStatus::Ok {
            life.put_queue(number, depth, memory);
            let what = format!("queue {number} refused: {:?}", answer.status);
            return Err(DeviceError::Protocol { what }.into());
        }
        let pulse = Arc::new(Pulse::new(completions.clone()));
        life.watch_over(&pulse);
        Ok(Self {
            life,
            number,
            depth,
            memory,
            submissions,
            completions,
            lists: list_ring,
            flights: Flights::new(depth, lists as u16),
            refused: Vec::new(),
            tail: 0,
            rung: 0,
            head: 0,
            pulse,
            last_pool: None,
            is_shut: false,
        })
    }

    #[inline]
    fn page(&self) -> MappedPage<'_> {
        MappedPage::new(&self.life.doorbells, self.number)
    }

    /// Wakes a simulated card that sleeps.
    fn wake(&self) -> Result<(), DeviceError> {
        if self.life.sleeps && handshake::must_wake(&self.page()) {
            let result = self.life.registers().write_posted(control::WAKE, 1);
            if let Err(error) = &result {
                self.life.lose(&error.to_string());
            }
            return result;
        }
        Ok(())
    }

    #[inline]
    fn pool_iova(&mut self, op: &Op) -> Option<u64> {
        let id = op.frame.pool().id();
        match self.last_pool {
            Some((known, iova)) if known == id => Some(iova),
            _ => {
                let iova = self.life.pool_iova(op.frame.pool())?;
                self.last_pool = Some((id, iova));
                Some(iova)
            }
        }
    }

    #[cold]
    fn refuse(&mut self, op: Op, status: Status) {
        self.refused.push(op.refused(status));
    }

    #[inline]
    fn submit(&mut self, op: Op) {
        let Some(generation) = self.life.card_generation(op.sa) else {
            return self.refuse(op, Status::SaStale);
        };
        let Some(pool) = self.pool_iova(&op) else {
            return self.refuse(op, Status::DmaFault);
        };
        if op.frame.is_chained() {
            return self.submit_chain(op, generation, pool);
        }
        let (start, size) = op.frame.extent();
        let buffer = Buffer {
            at: pool + start,
            len: size,
            packet: op.frame.len() as u32,
            entries: 0,
        };
        self.post(op, generation, buffer, None);
    }

    /// A packet in several frames: a list tells the card of them.
    #[cold]
    fn submit_chain(&mut self, op: Op, generation: u32, pool: u64) {
        let max = usize::from(self.life.capabilities.max_gather);
        if op.frame.segment_count() > max {
            return self.refuse(op, Status::BadGather);
        }
        let mut list = [GatherEntry::new_zeroed(); MAX_GATHER];
        let mut buffer = Buffer {
            at: 0,
            len: 0,
            packet: op.frame.packet_len() as u32,
            entries: 0,
        };
        for (entry, (start, len)) in list.iter_mut().zip(op.frame.pieces()) {
            entry.iova = (pool + start).into();
            entry.len = len.into();
            buffer.len = buffer.len.saturating_add(len);
            buffer.entries += 1;
        }
        self.post(op, generation, buffer, Some(&list));
    }

    // Both callers have it to themselves: an operation is moved as seldom as can be.
    #[inline(always)]
    fn post(&mut self, op: Op, generation: u32, mut buffer: Buffer, list: Option<&GatherList>) {
        let offset = op.frame.headroom() as u32;
        let (mut flags, sequence, iv) = match op.explicit() {
            Some(explicit) => (FLAG_EXPLICIT, explicit.sequence, explicit.iv),
            None => (0, 0, [0; 16]),
        };
        let Some(place) = self.flights.reserve(list.is_some()) else {
            return self.refuse(op, Status::NoSpace);
        };
        let sa = op.sa;
        // Moved once, from where it lies: see `Flights::accept`.
        self.flights.fill(place, op.frame, op.cookie, sa);
        if let Some((list, entries)) = place.list.zip(list) {
            let number = u32::from(list);
            self.lists.write(number, *entries);
            buffer.at = self.lists.iova_of(number);
            flags |= FLAG_GATHER;
        }
        let submission = Submission {
            opcode: OP_PROCESS,
            flags,
            entries: buffer.entries.into(),
            slot: place.slot.into(),
            slot_generation: place.generation.into(),
            sa_index: sa.index.into(),
            sa_generation: generation.into(),
            buffer_len: buffer.len.into(),
            buffer: buffer.at.into(),
            offset: offset.into(),
            len: buffer.packet.into(),
            sequence: sequence.into(),
            iv,
        };
        self.submissions.write(self.tail, submission);
        self.tail = self.tail.wrapping_add(1);
    }

    fn bring_home(&mut self, done: &mut Vec<Done>, let_go: bool) {
        let aborted = self.flights.bring_home(done, let_go);
        self.life.aborted.fetch_add(aborted, Ordering::Relaxed);
    }

    fn outstanding(&self) -> usize {
        self.flights.len()
    }

    /// Operations that the card was told of and that are not home.
    fn owed(&self) -> usize {
        let unrung = self.tail.wrapping_sub(self.rung) as usize;
        self.outstanding().saturating_sub(unrung)
    }
}

impl QueuePair for IpaQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        self.life.check()?;
        let accepted = self.flights.takes(ops);
        for op in ops.drain(..accepted) {
            self.submit(op);
        }
        Ok(accepted)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.life.check()?;
        if self.rung != self.tail {
            self.rung = self.tail;
            self.pulse.rings(self.rung, self.outstanding());
            handshake::ring(&self.page(), self.tail);
            self.life.rouse_watchdog();
            self.wake()?;
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        let refused = self.refused.len().min(limit);
        done.extend(self.refused.drain(..refused));
        let first = self.head;
        // A hostile card could forge for ever: no more than a ring at once.
        for _ in 0..self.depth {
            if done.len() - before >= limit {
                break;
            }
            let Some(completion) = self.completions.read(self.head) else {
                break;
            };
            self.head = self.head.wrapping_add(1);
            if self.flights.accept(&completion, done) != Landing::Home {
                self.life.bogus.fetch_add(1, Ordering::Relaxed);
            }
        }
        let alive = self.life.check();
        if self.head != first {
            self.pulse.consumes(self.head, self.owed());
            // The page may be another life's by now.
            if alive.is_ok() {
                self.page().write(doorbell::HEAD, self.head);
            }
        }
        if let Err(error) = alive {
            if self.outstanding() == 0 && done.len() == before {
                return Err(error);
            }
            // Until that is known, frames stay where they are, and traffic need not wait for it.
            if let Some(let_go) = self.life.knows_let_go() {
                self.bring_home(done, let_go);
            }
        }
        Ok(done.len() - before)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if self.life.check().is_err() || !self.refused.is_empty() {
            return Ok(Arm::Ready);
        }
        let Some(vector) = self.life.vector(self.number) else {
            return Ok(Arm::Ready);
        };
        let drain = || {
            let _ = rustix::io::read(vector, &mut [0; 8]);
        };
        let is_ready = || self.completions.is_ready(self.head) || self.life.check().is_err();
        if handshake::arm(&self.page(), drain, is_ready) {
            return Ok(Arm::Ready);
        }
        Ok(Arm::Wait(vector))
    }

    fn in_flight(&self) -> usize {
        self.outstanding() + self.refused.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        self.shut()
    }
}

impl Drop for IpaQueue {
    fn drop(&mut self) {
        if !self.is_shut {
            // One that is forgotten must not cost its frames, nor its number.
            drop(self.shut());
        }
    }
}

impl IpaQueue {
    fn shut(&mut self) -> Vec<Done> {
        self.is_shut = true;
        let mut done = std::mem::take(&mut self.refused);
        let was_lost = self.life.check().is_err();
        let deleted = self.life.delete_queue(self.number);
        if !was_lost {
            // What the card completed before the queue was deleted.
            let _ = self.dequeue(&mut done, self.depth as usize);
        }
        self.pulse.ends();
        let let_go = deleted || (self.outstanding() != 0 && self.life.has_let_go());
        self.bring_home(&mut done, let_go);
        if deleted && !was_lost {
            self.life.put_queue(self.number, self.depth, self.memory);
        }
        done
    }
}
