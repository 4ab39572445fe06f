// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs in the RTL's table: installed, and brought up to date in either direction around each command
//! that looks at one or changes it.

use std::time::Instant;

use esp::sa::{Moving, Told};
use fpga_cosim::card::{self, Ends, Inbound, Outbound, Refused, RtlCard, SaConfig, WINDOW_WORDS};
use offload_api::replay::{ReplaySnapshot, ReplayWindow};
use offload_api::sa::{
    Direction, GrantCursor, Mode, OuterHeaders, SaParams, SaUsage, UdpEncapsulation,
};

use super::engine::Memory;
use crate::card::Core;
use crate::context;
use crate::sas::CardSa;

fn config(sa: &CardSa, generation: u32, now: Instant) -> SaConfig {
    let limits = sa.state.lifetimes();
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let (soft_time, hard_time) = sa.state.expired(now);
    SaConfig {
        outbound: sa.transform.direction() == Direction::Outbound,
        transport: sa.transform.mode() == Mode::Transport,
        esn: sa.esn,
        numbered: sa.explicit,
        draining: sa.drain.is_some(),
        soft_time,
        hard_time,
        window: sa.state.window().size() as u16,
        generation,
        spi: sa.transform.spi().value(),
        soft: [limit(limits.soft.bytes), limit(limits.soft.packets)],
        hard: [limit(limits.hard.bytes), limit(limits.hard.packets)],
        outer: sa.transform.outer().map(ends),
    }
}

fn ends(outer: &OuterHeaders) -> Ends {
    let octets = context::write_outer(outer);
    let port = |udp: &UdpEncapsulation| [udp.source_port, udp.destination_port];
    Ends {
        v6: outer.source.is_ipv6(),
        source: octets.source,
        destination: octets.destination,
        udp: outer.udp.as_ref().map(port),
    }
}

fn told(told: Told) -> card::Told {
    [
        (told.soft, card::Told::SOFT),
        (told.hard, card::Told::HARD),
        (told.grant_low, card::Told::GRANT_LOW),
        (told.sequence_ending, card::Told::SEQUENCE_ENDING),
        (told.sequence_end, card::Told::SEQUENCE_END),
    ]
    .into_iter()
    .filter_map(|(was, flag)| was.then_some(flag))
    .collect()
}

fn untold(told: card::Told) -> Told {
    Told {
        soft: told.contains(card::Told::SOFT),
        hard: told.contains(card::Told::HARD),
        grant_low: told.contains(card::Told::GRANT_LOW),
        sequence_ending: told.contains(card::Told::SEQUENCE_ENDING),
        sequence_end: told.contains(card::Told::SEQUENCE_END),
    }
}

/// The window's bits as the RTL keeps them.
fn ring(window: &ReplayWindow) -> [u64; WINDOW_WORDS] {
    let mut words = [0; WINDOW_WORDS];
    let snapshot = window.snapshot();
    for back in 0..u64::from(window.size()) {
        let seen = snapshot.seen.get((back / 64) as usize);
        if seen.is_some_and(|word| word & 1 << (back % 64) != 0)
            && let Some(number) = snapshot.top.checked_sub(back)
            && let Some(word) = words.get_mut((number / 64) as usize % WINDOW_WORDS)
        {
            *word |= 1 << (number % 64);
        }
    }
    words
}

fn unring(top: u64, words: &[u64; WINDOW_WORDS], size: u32) -> ReplaySnapshot {
    let mut seen = vec![0; (size as usize).div_ceil(64)];
    for back in 0..u64::from(size) {
        let word = |number: u64| words.get((number / 64) as usize % WINDOW_WORDS);
        if let Some(number) = top.checked_sub(back)
            && word(number).is_some_and(|word| word & 1 << (number % 64) != 0)
            && let Some(word) = seen.get_mut((back / 64) as usize)
        {
            *word |= 1 << (back % 64);
        }
    }
    ReplaySnapshot { top, seen }
}

type Done = Result<(), card::Stuck>;

fn push(
    rtl: &mut RtlCard,
    memory: &mut Memory<'_>,
    (index, generation): (u32, u32),
    sa: &CardSa,
    with_window: bool,
) -> Done {
    let moving = sa.state.moving();
    let usage = moving.usage;
    let (next, last, ended) = moving.cursor.parts();
    if sa.transform.direction() == Direction::Outbound {
        let state = Outbound {
            packets: usage.packets,
            bytes: usage.bytes,
            number: usage.sequence,
            next,
            last,
            low_mark: moving.low_mark,
            ended,
            told: told(moving.told),
        };
        rtl.store(index, &state, memory)?;
    } else {
        let mut state = Inbound {
            packets: usage.packets,
            bytes: usage.bytes,
            number: usage.sequence,
            top: sa.state.window().top(),
            told: told(moving.told),
        };
        if with_window {
            rtl.store_window(index, &ring(sa.state.window()), memory)?;
        } else {
            state.top = rtl.load::<Inbound>(index, memory)?.top;
        }
        rtl.store(index, &state, memory)?;
    }
    let refused = Refused {
        bad_icv: usage.bad_icv,
        replayed: usage.replayed,
        errors: usage.errors,
    };
    rtl.store(index, &refused, memory)?;
    rtl.set_sa(index, Some(&config(sa, generation, Instant::now())), memory);
    Ok(())
}

fn pull(
    rtl: &mut RtlCard,
    memory: &mut Memory<'_>,
    index: u32,
    sa: &mut CardSa,
    with_window: bool,
) -> Done {
    let refused: Refused = rtl.load(index, memory)?;
    let mut moving = Moving {
        usage: SaUsage {
            bad_icv: refused.bad_icv,
            replayed: refused.replayed,
            errors: refused.errors,
            ..SaUsage::default()
        },
        ..sa.state.moving()
    };
    if sa.transform.direction() == Direction::Outbound {
        let state: Outbound = rtl.load(index, memory)?;
        moving.usage.packets = state.packets;
        moving.usage.bytes = state.bytes;
        moving.usage.sequence = state.number;
        moving.cursor = GrantCursor::from_parts(state.next, state.last, state.ended);
        moving.low_mark = state.low_mark;
        moving.told = untold(state.told);
    } else {
        let state: Inbound = rtl.load(index, memory)?;
        moving.usage.packets = state.packets;
        moving.usage.bytes = state.bytes;
        moving.usage.sequence = state.number;
        moving.told = untold(state.told);
        if with_window {
            let words = rtl.load_window(index, memory)?;
            let size = sa.state.window().size();
            sa.state.set_window(&unring(state.top, &words, size));
        }
    }
    sa.state.set_moving(&moving);
    Ok(())
}

impl Core {
    /// Something with an SA that is there.
    fn with_sa(
        &mut self,
        (index, generation): (u32, u32),
        work: impl FnOnce(&mut RtlCard, &mut Memory<'_>, &mut CardSa) -> Done,
    ) {
        if self.rtl.is_none() {
            return;
        }
        // What is under way ends while the SA is there to note it.
        self.rtl_rest();
        // Out of the table for as long as it takes, since both are wanted.
        let Some(mut sa) = self.sas.take(index, generation) else {
            return;
        };
        self.with_rtl(|rtl, memory| work(rtl, memory, &mut sa));
        self.sas.put_back(index, sa);
    }

    /// Installs an SA that was put into the table: keys first, so that nothing finds it without.
    pub(crate) fn rtl_add(&mut self, place: (u32, u32), params: &SaParams, by_mailbox: bool) {
        self.with_sa(place, |rtl, memory, sa| {
            if by_mailbox {
                rtl.set_key_from_mailbox(place.0, memory)?;
            } else {
                rtl.set_key(place.0, &params.keys.cipher, *params.keys.salt, memory)?;
            }
            push(rtl, memory, place, sa, true)
        });
        self.rtl_add_spi(place.0, params);
    }

    /// Takes an SA out of the table, and its keys, once nothing that is under way needs them.
    pub(crate) fn rtl_remove(&mut self, index: u32) {
        self.rtl_remove_spi(index);
        self.with_rtl(|rtl, memory| {
            rtl.set_sa(index, None, memory);
            rtl.erase_key(index, memory)
        });
    }

    /// Brings our view of an SA up to date.
    pub(crate) fn rtl_pull(&mut self, place: (u32, u32), with_window: bool) {
        self.with_sa(place, |rtl, memory, sa| {
            pull(rtl, memory, place.0, sa, with_window)
        });
    }

    /// Brings the RTL's view of an SA up to date.
    pub(crate) fn rtl_push(&mut self, place: (u32, u32), with_window: bool) {
        self.with_sa(place, |rtl, memory, sa| {
            push(rtl, memory, place, sa, with_window)
        });
    }

    /// Before limits by time are looked at.
    pub(crate) fn rtl_pull_timed(&mut self) {
        for place in self.timed() {
            self.rtl_pull(place, false);
        }
    }

    /// After limits by time were looked at.
    pub(crate) fn rtl_push_timed(&mut self) {
        for place in self.timed() {
            self.rtl_push(place, false);
        }
    }

    /// SAs with limits by time.
    fn timed(&self) -> Vec<(u32, u32)> {
        let mut places = Vec::new();
        let mut from = 0;
        while self.rtl.is_some()
            && let Some((index, generation, sa)) = self.sas.next(from)
        {
            let limits = sa.state.lifetimes();
            if limits.soft.time.is_some() || limits.hard.time.is_some() {
                places.push((index, generation));
            }
            from = index + 1;
        }
        places
    }
}
