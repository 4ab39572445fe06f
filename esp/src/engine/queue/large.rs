// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A large burst of one SA. What goes by order, the numbers of what is sealed and the window of what is opened, is done
//! for all of it in one pass that looks at no packet, and each core does all else for its share. What is done packet by
//! packet on one core costs as much as half of the cipher's pass where the packets are more than its cache holds.

use std::time::Instant;

use esp_aead::{open_burst, seal_burst};

use esp_framing::table::Entry;
use offload_api::queue::{Op, Status};
use offload_api::sa::{Direction, Mode, SaHandle};

use super::burst::{BURST, List};
use super::steady::{authentic, finish_counted, is_plain, locate, next, refuse, tell};
use super::{State, Work};
use crate::engine::totals::Totals;
use crate::engine::{Shared, Table};
use crate::sa_transform::SaTransform;
use crate::transform::Transform;

pub(super) struct OneSa<'table> {
    sa: SaHandle,
    entry: &'table Entry<SaTransform>,
    transform: &'table Transform,
    /// The first packet's number, of what is sealed.
    first: u64,
    now: Instant,
}

impl<'table> OneSa<'table> {
    /// Numbers and counts what is sealed; nothing where the burst has to go the long way.
    pub(super) fn new(ops: &[Op], table: &'table Table, now: Instant) -> Option<Self> {
        let sa = ops.first()?.sa;
        let entry = table.entry(sa).ok()?;
        let transform = entry.transform.aead()?;
        if transform.mode() == Mode::Crypto {
            return None;
        }
        let mut octets = 0;
        for op in ops {
            if op.sa != sa || !is_plain(op, false) {
                return None;
            }
            octets += op.frame.len() as u64;
        }
        let mut state = entry.state();
        let first = match transform.direction() {
            Direction::Outbound => {
                let count = ops.len() as u64;
                let first = state.next_numbers(count)?;
                state.count_run(first + (count - 1), count, octets);
                first
            }
            Direction::Inbound if state.is_limited() => return None,
            Direction::Inbound => 0,
        };
        drop(state);
        Some(Self {
            sa,
            entry,
            transform,
            first,
            now,
        })
    }

    /// Seals or opens packets, of which the first is at this place in the burst; what was done, but for what only
    /// [`finish`](Self::finish) knows.
    pub(super) fn work(&self, at: usize, ops: &mut [Op], states: &mut [State]) -> Totals {
        let mut totals = Totals::default();
        let mut numbers = self.first + at as u64..;
        for (ops, states) in ops.chunks_mut(BURST).zip(states.chunks_mut(BURST)) {
            match self.transform.direction() {
                Direction::Outbound => self.seal(&mut numbers, ops, states, &mut totals),
                Direction::Inbound => self.open(ops, states),
            }
        }
        totals
    }

    fn seal(
        &self,
        numbers: &mut impl Iterator<Item = u64>,
        ops: &mut [Op],
        states: &mut [State],
        totals: &mut Totals,
    ) {
        let mut results = {
            let mut seals = List::new();
            for ((op, state), sequence) in ops.iter_mut().zip(&mut *states).zip(numbers) {
                *state = State::to_seal(op, sequence);
                match self.transform.frame_aead(sequence, None, &mut op.frame) {
                    Ok(packet) => seals.push(packet),
                    Err(status) => {
                        self.entry
                            .state()
                            .take_back(state.inner_len as usize, status);
                        state.work = Work::Ended(status);
                    }
                }
            }
            seal_burst(&mut seals);
            authentic(&seals)
        };
        let packets = ops.iter_mut().zip(states);
        finish_counted(self.entry, packets, &mut results, totals);
    }

    /// Opens packets; the window is not moved yet.
    fn open(&self, ops: &mut [Op], states: &mut [State]) {
        states.fill(State::NEW);
        let mut results = {
            let mut opens = List::new();
            let packets = ops.iter_mut().zip(&mut *states);
            drop(locate::<true>(
                self.entry,
                self.transform,
                packets,
                &mut opens,
                self.now,
            ));
            open_burst(&mut opens);
            authentic(&opens)
        };
        for (op, state) in ops.iter_mut().zip(states) {
            if let Work::Open(at) = state.work {
                let located = state.located(at);
                let opened = next(&mut results).then_some(()).ok_or(Status::BadIcv);
                match self.transform.finish_aead(located, opened, &mut op.frame) {
                    Ok(next_header) => {
                        state.work = Work::Done;
                        state.next_header = next_header;
                        state.inner_len = op.frame.len() as u32;
                        state.complete(op, Status::Ok);
                        continue;
                    }
                    Err(status) => refuse(&mut self.entry.state(), state, status),
                }
            }
            state.complete_refused(op);
        }
    }

    /// Moves the window and counts, in order, when all are opened; tells what there is to tell.
    pub(super) fn finish(
        &self,
        shared: &Shared,
        ops: &mut [Op],
        states: &[State],
        totals: &mut Totals,
    ) {
        let mut sa = self.entry.state();
        if self.transform.direction() == Direction::Inbound {
            let (mut last, mut count, mut octets) = (0, 0, 0);
            for (op, state) in ops.iter_mut().zip(states) {
                if let Work::Done = state.work {
                    match sa.accept_inbound(state.sequence) {
                        Ok(()) => {
                            last = last.max(state.sequence);
                            count += 1;
                            octets += u64::from(state.inner_len);
                        }
                        Err(status) => {
                            sa.count_error(status);
                            state.complete(op, status);
                        }
                    }
                }
            }
            sa.count_run(last, count, octets);
            totals.errors += ops.len() as u64 - count;
            totals.add_run(true, count, octets);
        }
        tell(shared, self.sa, &mut sa);
    }
}
