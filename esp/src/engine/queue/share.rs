// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Large bursts, shared out to cores.

use std::sync::{Mutex, OnceLock, PoisonError};

use offload_api::queue::Op;

use super::State;
use crate::engine::helpers::Helpers;
use crate::engine::totals::Totals;
use crate::engine::{Table, lock};

/// Octets of an AEAD's burst from which waking other cores pays: another wakes some 30 µs later, and its
/// waking costs this one 8, in which time a core seals some hundred thousand octets. `benches/` measures it.
const PARALLEL_FROM: usize = 1 << 20;
/// How much longer an octet takes of what is no AEAD.
const NO_AEAD: usize = 4;
/// What is left is so many turns of each core: they end together, though one begins late.
const TURNS: usize = 4;
/// Packets of a turn: few enough that nobody waits long for the last one, and as many as follow each other in memory
/// long enough that the processor sees it and asks for them itself, which it does better than we can, most of all where
/// cores share no cache.
const LEAST: usize = 16;
const MOST: usize = 256;

/// Whether a burst is worth other cores' waking, by its first packet's SA.
pub(super) fn is_large(ops: &[Op], table: &Table) -> bool {
    let entry = ops.first().and_then(|op| table.entry(op.sa).ok());
    let weight = match entry.map(|entry| entry.transform.aead()) {
        Some(None) => NO_AEAD,
        _ => 1,
    };
    // No more of them are looked at than it takes.
    let mut missing = PARALLEL_FROM / weight;
    ops.iter().any(|op| {
        missing = missing.saturating_sub(op.frame.packet_len());
        missing == 0
    })
}

/// Has each core do its share of a burst, as many packets that follow each other at a time as are left for it, which is
/// told what was prepared and where they are in the burst; adds up what was done.
pub(super) fn share_out<'burst, P: Send + Sync>(
    helpers: &Helpers,
    ops: &'burst mut [Op],
    states: &'burst mut [State],
    prepare: impl FnOnce(&mut [Op], &mut [State]) -> P,
    each: impl Fn(&P, usize, &mut [Op], &mut [State]) -> Totals + Sync,
) -> (Option<P>, Totals) {
    let cores = helpers.count() + 1;
    let rest = Mutex::new(None);
    let prepared = OnceLock::new();
    let all = Mutex::new(Totals::default());
    let next = || {
        let mut rest = lock(&rest);
        let (at, ops, states): (usize, &mut [Op], &mut [State]) = rest.take()?;
        let count = (ops.len() / (TURNS * cores)).clamp(LEAST, MOST);
        let count = count.min(ops.len());
        let (ops, other_ops) = ops.split_at_mut(count);
        let (states, other_states) = states.split_at_mut(count);
        *rest = (!other_ops.is_empty()).then_some((at + count, other_ops, other_states));
        Some((at, ops, states))
    };
    let first = || {
        prepared.get_or_init(|| prepare(ops, states));
        *lock(&rest) = Some((0, ops, states));
    };
    helpers.along(first, || {
        let mut totals = Totals::default();
        while let Some((at, ops, states)) = next()
            && let Some(prepared) = prepared.get()
        {
            totals.merge(&each(prepared, at, ops, states));
        }
        lock(&all).merge(&totals);
    });
    let totals = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    (prepared.into_inner(), totals)
}
