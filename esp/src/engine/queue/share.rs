// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Large bursts, shared out to cores.

use std::sync::{Mutex, PoisonError};

use offload_api::queue::Op;
use rayon::ThreadPool;

use super::State;
use super::burst::BURST;
use crate::engine::totals::Totals;
use crate::engine::{Table, lock};

/// Octets of an AEAD's burst from which waking other cores pays: another wakes some 30 µs later, and its
/// waking costs this one 8, in which time a core seals some hundred thousand octets. `benches/` measures it.
const PARALLEL_FROM: usize = 1 << 20;
/// How much longer an octet takes of what is no AEAD.
const NO_AEAD: usize = 4;
/// Packets that one core takes at a time, at least.
const LEAST: usize = 8;

/// Whether a burst is worth other cores' waking, by its first packet's SA.
pub(super) fn is_large(ops: &[Op], table: &Table) -> bool {
    let entry = ops.first().and_then(|op| table.entry(op.sa).ok());
    let weight = match entry.map(|entry| entry.transform.aead()) {
        Some(None) => NO_AEAD,
        _ => 1,
    };
    let octets: usize = ops.iter().map(|op| op.frame.packet_len()).sum();
    octets * weight >= PARALLEL_FROM
}

/// Has each core do its share of a burst, [`BURST`] packets at most at a time, which is told where they are in it, and
/// adds up what was done.
pub(super) fn share_out(
    pool: &ThreadPool,
    ops: &mut [Op],
    states: &mut [State],
    each: impl Fn(usize, &mut [Op], &mut [State]) -> Totals + Sync,
) -> Totals {
    let helpers = pool.current_num_threads();
    // Two turns each, so that one that begins late does less, and one that is too late nothing.
    let size = ops.len().div_ceil(2 * (helpers + 1)).clamp(LEAST, BURST);
    let rest = Mutex::new(
        (0..)
            .step_by(size)
            .zip(ops.chunks_mut(size).zip(states.chunks_mut(size))),
    );
    let all = Mutex::new(Totals::default());
    let next = || lock(&rest).next();
    let turns = || {
        let mut totals = Totals::default();
        while let Some((at, (ops, states))) = next() {
            totals.merge(&each(at, ops, states));
        }
        lock(&all).merge(&totals);
    };
    // This thread works along: it would wake late, and in its place is another that is awake.
    pool.in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| turns());
        }
        turns();
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}
