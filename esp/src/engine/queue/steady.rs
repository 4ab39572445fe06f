// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bursts as most are: packets of AEADs, each in one frame, that bring no numbers of their own. One pass
//! goes in front of the cipher and one behind it, and what is alike for packets of one SA that follow
//! each other (its place in the table, its lock, numbers, counters) is done once for them. The answers
//! are those of the long way in [`super::burst`].

use std::time::Instant;

use arrayvec::ArrayVec;
use esp_aead::{open_burst, seal_burst};

use esp_framing::sa::SaState;
use esp_framing::table::{Entry, StateGuard, event_of};
use offload_api::queue::{Op, Status};
use offload_api::sa::{Direction, Mode, SaHandle};

use super::burst::{BURST, Clock, List, admit};
use super::{At, State, Work};
use crate::engine::totals::Totals;
use crate::engine::{MAX_PACKET, Shared, Table, lock};
use crate::sa_transform::SaTransform;
use crate::transform::Transform;

/// Packets of one SA that follow each other.
struct Run<'table> {
    sa: SaHandle,
    count: usize,
    entry: &'table Entry<SaTransform>,
    transform: &'table Transform,
    /// Whether they are counted already: what is sealed without limits is as good as counted.
    counted: bool,
}

/// Finds the runs of a burst of [`BURST`] at most, and tells whether it is one of those that go here.
// A list of them is as large as some packets' headers: it stays where it is made.
#[inline]
fn find_runs<'table>(
    ops: &[Op],
    table: &'table Table,
    runs: &mut ArrayVec<Run<'table>, BURST>,
) -> bool {
    for ops in ops.chunk_by(|a, b| a.sa == b.sa) {
        let Some(sa) = ops.first().map(|op| op.sa) else {
            return false;
        };
        let Ok(entry) = table.entry(sa) else {
            return false;
        };
        let Some(transform) = entry.transform.aead() else {
            return false;
        };
        let crypto = transform.mode() == Mode::Crypto;
        if !ops.iter().all(|op| is_plain(op, crypto)) {
            return false;
        }
        runs.push(Run {
            sa,
            count: ops.len(),
            entry,
            transform,
            counted: false,
        });
    }
    true
}

/// Whether a packet lies in one frame, and brings no number or IV of its own, but where that is all there is.
#[inline]
pub(super) fn is_plain(op: &Op, crypto: bool) -> bool {
    (!op.is_numbered() || crypto) && !op.frame.is_chained() && op.frame.len() <= MAX_PACKET
}

/// Each run with its packets.
fn each<'burst, 'runs, 'table>(
    runs: &'runs mut [Run<'table>],
    mut ops: &'burst mut [Op],
    mut states: &'burst mut [State],
) -> impl Iterator<
    Item = (
        &'runs mut Run<'table>,
        impl Iterator<Item = (&'burst mut Op, &'burst mut State)> + use<'burst>,
    ),
> + use<'burst, 'runs, 'table> {
    runs.iter_mut().map(move |run| {
        let (these, rest) = std::mem::take(&mut ops).split_at_mut(run.count);
        let (theirs, others) = std::mem::take(&mut states).split_at_mut(run.count);
        (ops, states) = (rest, others);
        (run, these.iter_mut().zip(theirs))
    })
}

/// Does all there is to do for a burst of [`BURST`] at most; false where it has to go the long way, and
/// nothing is done.
pub(super) fn run(
    shared: &Shared,
    table: &Table,
    ops: &mut [Op],
    states: &mut [State],
    clock: &mut Clock<'_>,
    totals: &mut Totals,
) -> bool {
    let mut runs = ArrayVec::new();
    if !find_runs(ops, table, &mut runs) {
        return false;
    }
    let now = if runs.iter().any(|run| run.entry.is_limited()) {
        clock.read()
    } else {
        clock.last()
    };
    let (mut sealed, mut opened) = {
        let (mut seals, mut opens) = (List::new(), List::new());
        for (run, packets) in each(&mut runs, ops, states) {
            let crypto = run.transform.mode() == Mode::Crypto;
            let sa = match run.transform.direction() {
                Direction::Inbound if !crypto => {
                    locate::<false>(run.entry, run.transform, packets, &mut opens, now)
                }
                direction => {
                    let mut sa = run.entry.state();
                    match direction {
                        Direction::Inbound => take(run, &mut sa, packets, &mut opens, now),
                        _ if crypto => take(run, &mut sa, packets, &mut seals, now),
                        _ => frame(run, &mut sa, packets, &mut seals, now),
                    }
                    Some(sa)
                }
            };
            if let Some(mut sa) = sa {
                tell(shared, run.sa, &mut sa);
            }
        }
        seal_burst(&mut seals);
        open_burst(&mut opens);
        (authentic(&seals), authentic(&opens))
    };
    for (run, packets) in each(&mut runs, ops, states) {
        match run.transform.direction() {
            Direction::Outbound if run.counted => {
                finish_counted(run.entry, packets, &mut sealed, totals);
            }
            direction => {
                let inbound = direction == Direction::Inbound;
                let results = if inbound { &mut opened } else { &mut sealed };
                let mut sa = run.entry.state();
                if inbound && !sa.is_limited() {
                    finish_opened(run, &mut sa, packets, results, totals);
                } else {
                    for (op, state) in packets {
                        finish(run, &mut sa, op, state, results, now, totals);
                    }
                }
                tell(shared, run.sa, &mut sa);
            }
        }
    }
    true
}

/// A bit for each packet, the first in the lowest.
#[inline]
pub(super) fn authentic(packets: &List<'_>) -> u32 {
    const { assert!(BURST <= u32::BITS as usize) };
    let bits = packets.iter().enumerate();
    bits.fold(0, |all, (n, packet)| {
        all | u32::from(packet.is_authentic()) << n
    })
}

#[inline]
pub(super) fn next(results: &mut u32) -> bool {
    let result = *results & 1 != 0;
    *results >>= 1;
    result
}

#[inline]
pub(super) fn tell(shared: &Shared, handle: SaHandle, sa: &mut SaState) {
    sa.take_notices(|notice| lock(&shared.events).push(event_of(handle, notice)));
}

/// Numbers packets, and puts ESP around them.
#[inline]
fn frame<'burst, 'table: 'burst>(
    run: &mut Run<'table>,
    sa: &mut SaState,
    packets: impl Iterator<Item = (&'burst mut Op, &'burst mut State)>,
    seals: &mut List<'burst>,
    now: Instant,
) {
    let transform = run.transform;
    if let Some(first) = sa.next_numbers(run.count as u64) {
        run.counted = true;
        let (mut last, mut count, mut octets) = (0, 0, 0);
        for ((op, state), sequence) in packets.zip(first..) {
            state.sequence = sequence;
            state.inner_len = op.frame.len() as u32;
            match transform.frame_aead(sequence, None, &mut op.frame) {
                Ok(packet) => {
                    last = sequence;
                    count += 1;
                    octets += u64::from(state.inner_len);
                    state.work = Work::Seal;
                    seals.push(packet);
                }
                Err(status) => refuse(sa, state, status),
            }
        }
        sa.count_run(last, count, octets);
        return;
    }
    for (op, state) in packets {
        state.inner_len = op.frame.len() as u32;
        match sa.next_number(now) {
            Ok(sequence) => {
                state.sequence = sequence;
                match transform.frame_aead(sequence, None, &mut op.frame) {
                    Ok(packet) => {
                        state.work = Work::Seal;
                        seals.push(packet);
                    }
                    Err(status) => refuse(sa, state, status),
                }
            }
            Err(status) => refuse(sa, state, status),
        }
    }
}

/// Takes packets that need nothing but the cipher.
#[inline]
fn take<'burst, 'table: 'burst>(
    run: &mut Run<'table>,
    sa: &mut SaState,
    packets: impl Iterator<Item = (&'burst mut Op, &'burst mut State)>,
    list: &mut List<'burst>,
    now: Instant,
) {
    let transform = run.transform;
    let seals = transform.direction() == Direction::Outbound;
    run.counted = seals && !sa.is_limited();
    let (mut last, mut count, mut octets) = (0, 0, 0);
    let limited = sa.is_limited();
    let common = transform.common();
    for (op, state) in packets {
        let len = op.frame.len();
        state.inner_len = len as u32;
        if limited && let Err(status) = sa.check_hard(now) {
            refuse(sa, state, status);
            continue;
        }
        let alike = match &common {
            Some(common) if !op.is_numbered() => common.front(&op.frame).map(|at| (common, at)),
            _ => None,
        };
        let taken = match alike {
            Some((common, front)) => {
                state.sequence = front.sequence().into();
                let packet = common.packet(front, &mut op.frame);
                packet.ok_or(Status::BadLength)
            }
            None => transform.take_crypto(op.explicit(), &mut op.frame, &mut state.sequence),
        };
        match taken {
            Ok(packet) => {
                state.work = if seals { Work::Seal } else { Work::Open(At(0)) };
                last = last.max(state.sequence);
                count += 1;
                octets += len as u64;
                list.push(packet);
            }
            Err(status) => refuse(sa, state, status),
        }
    }
    if run.counted {
        sa.count_run(last, count, octets);
    }
}

/// Finds ESP in packets, and looks at the window: locked where a packet is not right of it, or is
/// refused. LARGE changes nothing here, but gives each caller its own code, which the compiler takes in where it is
/// called once.
#[inline]
pub(super) fn locate<'burst, 'table: 'burst, const LARGE: bool>(
    entry: &'table Entry<SaTransform>,
    transform: &'table Transform,
    packets: impl Iterator<Item = (&'burst mut Op, &'burst mut State)>,
    opens: &mut List<'burst>,
    now: Instant,
) -> Option<StateGuard<'table>> {
    let mut held: Option<StateGuard<'table>> = None;
    for (op, state) in packets {
        state.inner_len = op.frame.len() as u32;
        let found = transform.locate(&op.frame).and_then(|located| {
            state.work = Work::Open(At(located.esp as u32));
            state.sequence = match entry.ahead(located.sequence_low) {
                Some(sequence) => sequence,
                None => held
                    .get_or_insert_with(|| entry.state())
                    .check_inbound(located.sequence_low, now)?,
            };
            transform.packet_aead(located, state.sequence, &mut op.frame)
        });
        match found {
            Ok(packet) => opens.push(packet),
            Err(status) => refuse(held.get_or_insert_with(|| entry.state()), state, status),
        }
    }
    held
}

#[cold]
pub(super) fn refuse(sa: &mut SaState, state: &mut State, status: Status) {
    sa.count_error(status);
    state.work = Work::Ended(status);
}

/// What is sealed, and counted already.
#[inline]
pub(super) fn finish_counted<'burst>(
    entry: &Entry<SaTransform>,
    packets: impl Iterator<Item = (&'burst mut Op, &'burst mut State)>,
    results: &mut u32,
    totals: &mut Totals,
) {
    let (mut count, mut octets, mut failed) = (0, 0, 0);
    for (op, state) in packets {
        if let Work::Seal = state.work {
            let status = sealed(op, next(results));
            if status.is_ok() {
                count += 1;
                octets += u64::from(state.inner_len);
                state.complete(op, status);
                continue;
            }
            entry.state().take_back(state.inner_len as usize, status);
            state.work = Work::Ended(status);
        }
        failed += 1;
        state.complete_refused(op);
    }
    totals.errors += failed;
    totals.add_run(false, count, octets);
}

/// Takes ESP off what is authentic, moves the window, and counts, for an SA without limits.
#[inline]
fn finish_opened<'burst>(
    run: &Run<'_>,
    sa: &mut SaState,
    packets: impl Iterator<Item = (&'burst mut Op, &'burst mut State)>,
    results: &mut u32,
    totals: &mut Totals,
) {
    let windowed = run.transform.mode() != Mode::Crypto;
    let (mut last, mut octets, mut failed) = (0, 0, 0);
    for (op, state) in packets {
        let Work::Open(at) = state.work else {
            // Refused, and counted so.
            failed += 1;
            state.complete_refused(op);
            continue;
        };
        let located = state.located(at);
        let opened = next(results).then_some(()).ok_or(Status::BadIcv);
        let opened = run
            .transform
            .finish_aead(located, opened, &mut op.frame)
            .and_then(|next_header| {
                state.next_header = next_header;
                if windowed {
                    sa.accept_inbound(state.sequence)?;
                }
                Ok(())
            });
        let status = match opened {
            Ok(()) => {
                last = last.max(state.sequence);
                octets += op.frame.len() as u64;
                Status::Ok
            }
            Err(status) => {
                sa.count_error(status);
                failed += 1;
                status
            }
        };
        state.complete(op, status);
    }
    let count = run.count as u64 - failed;
    sa.count_run(last, count, octets);
    totals.errors += failed;
    totals.add_run(true, count, octets);
}

/// Whether a sealed packet may leave.
#[inline]
fn sealed(op: &Op, authentic: bool) -> Status {
    if !authentic {
        return Status::NoSpace;
    }
    // What is sealed without an outer header could grow beyond.
    if op.frame.len() > MAX_PACKET {
        return Status::BadLength;
    }
    Status::Ok
}

/// Takes ESP off what is authentic, moves the window, and counts.
#[inline]
fn finish(
    run: &Run<'_>,
    sa: &mut SaState,
    op: &mut Op,
    state: &mut State,
    results: &mut u32,
    now: Instant,
    totals: &mut Totals,
) {
    let result = match state.work {
        Work::Seal => match sealed(op, next(results)) {
            Status::Ok => Ok(0),
            status => Err(status),
        },
        Work::Open(at) => {
            let located = state.located(at);
            let opened = next(results).then_some(()).ok_or(Status::BadIcv);
            run.transform.finish_aead(located, opened, &mut op.frame)
        }
        Work::Ended(status) => {
            totals.errors += 1;
            return state.complete(op, status);
        }
        // Nobody worked on it: it is neither sealed nor authentic.
        Work::New | Work::Done => Err(Status::Aborted),
    };
    let status = match result {
        Ok(next_header) => {
            state.next_header = next_header;
            admit(op, state, run.entry, sa, now, totals)
        }
        Err(status) => {
            sa.count_error(status);
            status
        }
    };
    totals.errors += u64::from(!status.is_ok());
    state.complete(op, status);
}
