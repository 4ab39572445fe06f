// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The functional model and the RTL, side by side: the same descriptors and memory to both, over random
//! packets of mixed SAs, sizes, directions and errors, and buses that hesitate. Completions, memory,
//! usage, counters and events must be the same.
//!
//! `RTL_PACKETS=100000` for a longer run, `RTL_SEED` for another one.
#![allow(clippy::unwrap_used)]

mod raw;
#[path = "lockstep/traffic.rs"]
mod traffic;

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::context::{FLAG_ESN, FLAG_EXPLICIT, FLAG_OUTBOUND, FLAG_TRANSPORT, Outer, Usage};
use fpga_regs::descriptor::{Completion, Event, EventKind, PHASE, Submission};
use fpga_regs::registers::{
    CardFeatures, Control, admin_queue, control, doorbell, event_queue, identity, interrupt,
    statistics,
};
use offload_api::queue::Status;
use offload_api::sa::Cipher;
use sim::BusTiming;
use zerocopy::IntoBytes;

use raw::*;
use traffic::*;

/// Buffers of a batch.
const BATCH: usize = 48;

/// Both cards.
struct Pair {
    cards: [Raw; 2],
    /// Events of each seen so far.
    events: [u64; 2],
}

impl Pair {
    fn both<T: PartialEq + std::fmt::Debug>(&mut self, mut ask: impl FnMut(&mut Raw) -> T) -> T {
        let [functional, rtl] = &mut self.cards;
        let (expected, found) = (ask(functional), ask(rtl));
        assert_eq!(found, expected, "RTL (left), functional model (right)");
        expected
    }

    fn usage(&mut self, sa: (u32, u32)) -> Usage {
        let asked = self.both(|raw| {
            let mut ask = command(Opcode::SaUsage, sa.0);
            ask.generation = sa.1.into();
            ask.payload = (IOVA + PAYLOAD).into();
            ask.payload_len = (size_of::<Usage>() as u32).into();
            let status = raw.command(ask).status;
            assert_eq!(status, CommandStatus::Ok as u8);
            raw.octets(PAYLOAD, size_of::<Usage>())
        });
        let mut usage = [0; size_of::<Usage>()];
        usage.copy_from_slice(&asked);
        zerocopy::transmute!(usage)
    }

    /// Gives an SA other outer headers.
    fn move_ends(&mut self, sa: (u32, u32), outer: &Outer) {
        let status = self.both(|raw| {
            raw.poke(PAYLOAD, outer.as_bytes());
            let mut ask = command(Opcode::SaOuter, sa.0);
            ask.generation = sa.1.into();
            ask.payload = (IOVA + PAYLOAD).into();
            ask.payload_len = (size_of::<Outer>() as u32).into();
            raw.command(ask).status
        });
        assert_eq!(status, CommandStatus::Ok as u8);
    }

    /// All events so far must be the same, but for their times. How many refused packets are told
    /// together is a matter of time, and so is whether a hard limit is told before it refuses one.
    fn compare_events(&mut self) {
        let [expected, found] = [0, 1].map(|card| {
            let mut told = Vec::new();
            while let Some(event) = self.next_event(card) {
                let timely = [
                    EventKind::BadIcvBurst,
                    EventKind::ReplayBurst,
                    EventKind::HardBytes,
                    EventKind::HardPackets,
                ];
                if !timely.iter().any(|kind| *kind as u8 == event.kind) {
                    told.push(event);
                }
            }
            told
        });
        let octets = |events: &[Event]| -> Vec<Vec<u8>> {
            events
                .iter()
                .map(|event| event.as_bytes().to_vec())
                .collect()
        };
        assert_eq!(
            octets(&found),
            octets(&expected),
            "RTL (left), functional model (right)"
        );
        let dropped = self.both(|raw| raw.read_register(event_queue::DROPPED));
        assert_eq!(dropped, 0);
    }

    fn next_event(&mut self, card: usize) -> Option<Event> {
        let (raw, position) = (&self.cards[card], &mut self.events[card]);
        let phase = if (*position / DEPTH).is_multiple_of(2) {
            PHASE
        } else {
            0
        };
        let at = EVENTS + *position % DEPTH * size_of::<Event>() as u64;
        let mut event: Event = raw.peek(at);
        if event.kind == 0 || event.phase != phase {
            return None;
        }
        *position += 1;
        raw.register(event_queue::HEAD, (*position & 0xffff) as u32);
        event.time = 0.into();
        event.phase = 0;
        Some(event)
    }
}

/// What a run has met.
#[derive(Default)]
struct Met {
    /// How often each status.
    statuses: [usize; 32],
    /// Good packets in several pieces.
    in_pieces: usize,
}

/// Runs so many packets through both cards.
fn compare(packets: usize, seed: u64, timing: BusTiming) -> Met {
    let mut random = Random(seed);
    let rigs = rigs(timing);
    let cards = rigs.each_ref().map(|rig| Raw::enabled(rig).with_queue());
    let mut pair = Pair {
        cards,
        events: [0; 2],
    };
    let mut sas = Vec::new();
    for number in 0..12 {
        let mut flags = 0;
        for flag in [FLAG_TRANSPORT, FLAG_ESN] {
            flags |= flag * u8::from(random.once_in(2));
        }
        let numbered = random.once_in(4);
        let outer = outer(&mut random);
        for outbound in [true, false] {
            let own = match (outbound, numbered) {
                (true, true) => FLAG_OUTBOUND | FLAG_EXPLICIT,
                (true, false) => FLAG_OUTBOUND,
                (false, _) => 0,
            };
            let mut context = context(&mut random, number, flags | own, outer.as_ref());
            if number == 11 {
                // Limits that are reached.
                let limits: [u64; 6] = [6000, 12, u64::MAX, 15_000, 30, u64::MAX];
                for (place, limit) in context.lifetimes.chunks_exact_mut(8).zip(limits) {
                    place.copy_from_slice(&limit.to_le_bytes());
                }
                context.grant_last = 40u64.to_le_bytes();
            }
            // Some keys come by the mailbox.
            let key = &context.cipher_key[..key_len(&context)];
            let place = match random.once_in(3) {
                true => pair.both(|raw| {
                    raw.leave_key(key, context.salt);
                    let (status, place) = raw.add_by_mailbox(&context);
                    assert_eq!(status, CommandStatus::Ok as u8);
                    place
                }),
                false => pair.both(|raw| raw.add(&context)),
            };
            sas.push(Sa {
                place,
                outbound,
                transport: flags & FLAG_TRANSPORT != 0,
                numbered: outbound && numbered,
                outer,
                pair: number,
            });
        }
    }
    let mut pool: Vec<(usize, Vec<u8>)> = Vec::new();
    let Met {
        mut statuses,
        mut in_pieces,
    } = Met::default();
    let mut done = 0;
    while done < packets {
        let count = 1 + random.below(BATCH);
        let mut sealing = Vec::new();
        for slot in 0..count {
            let (submission, buffer, list, seals) = operation(&mut random, slot, &sas, &pool);
            let at = BUFFERS + (slot * BUFFER) as u64;
            for raw in &mut pair.cards {
                raw.poke(at, &buffer);
                if let Some(list) = &list {
                    raw.poke(list.at, &list.octets);
                }
                let entry = u64::from(raw.tail) % DEPTH * size_of::<Submission>() as u64;
                raw.poke(SUBMISSIONS + entry, submission.as_bytes());
                raw.tail += 1;
            }
            let pieces = list.map_or_else(|| vec![(at, BUFFER)], |list| list.pieces);
            sealing.push((pieces, seals));
        }
        for raw in &mut pair.cards {
            raw.ring(0, doorbell::TAIL, raw.tail);
        }
        for (pieces, seals) in sealing {
            let octets = pair.both(|raw| raw.await_completion().as_bytes().to_vec());
            let mut completion = [0; size_of::<Completion>()];
            completion.copy_from_slice(&octets);
            let completion: Completion = zerocopy::transmute!(completion);
            statuses[usize::from(completion.status)] += 1;
            let good = completion.status <= Status::OkSoftExpired as u8;
            in_pieces += usize::from(good && pieces.len() > 1);
            if let Some(number) = seals.filter(|_| good) {
                let whole = pieces
                    .iter()
                    .map(|(at, len)| pair.cards[0].octets(*at, *len));
                let from = completion.offset.get() as usize;
                let sealed = whole.flatten().skip(from);
                let sealed = sealed.take(completion.len.get() as usize).collect();
                if pool.len() < 400 {
                    pool.push((number, sealed));
                } else {
                    let place = random.below(pool.len());
                    pool[place] = (number, sealed);
                }
            }
        }
        let memory = SIZE as usize - BUFFERS as usize;
        let [functional, rtl] = &pair.cards;
        assert!(
            functional.octets(BUFFERS, memory) == rtl.octets(BUFFERS, memory),
            "memory differs after {done} packets"
        );
        done += count;
        pair.compare_events();
        if random.once_in(8) {
            let sa = sas[random.below(sas.len())];
            pair.usage(sa.place);
        }
        if random.once_in(30) {
            let number = random.below(12);
            if let Some(outer) = outer(&mut random) {
                // Some packets come late.
                pool.retain(|(pair, _)| *pair != number || random.once_in(3));
                for sa in sas.iter_mut().filter(|sa| sa.pair == number) {
                    pair.move_ends(sa.place, &outer);
                    sa.outer = Some(outer);
                }
            }
        }
    }
    for sa in &sas {
        pair.usage(sa.place);
    }
    for counter in [
        statistics::SEALED,
        statistics::SEALED_BYTES,
        statistics::OPENED,
        statistics::OPENED_BYTES,
        statistics::ERRORS,
        statistics::DMA_FAULTS,
        statistics::BAD_DESCRIPTORS,
    ] {
        pair.both(|raw| raw.read_register(counter));
    }
    let told: Vec<_> = Status::ALL
        .iter()
        .map(|status| (*status, statuses[*status as usize]))
        .filter(|(_, count)| *count != 0)
        .collect();
    println!("{done} packets, {in_pieces} good ones in pieces, seed {seed}, {timing:?}: {told:?}");
    assert!(sas.iter().any(|sa| sa.transport) && sas.iter().any(|sa| !sa.transport));
    for rig in rigs {
        rig.end();
    }
    Met {
        statuses,
        in_pieces,
    }
}

/// Two cards, the second of which is the RTL.
fn rigs(timing: BusTiming) -> [Rig; 2] {
    [
        Rig::with(|config| config.max_sas = 64),
        Rig::with(|config| {
            config.max_sas = 64;
            config.rtl = Some(timing);
        }),
    ]
}

#[test]
fn registers_read_and_do_the_same_in_both_models() {
    // What the two are to differ in, and what moves by itself.
    let own = [
        identity::BUILD,
        identity::BUILD + 4,
        identity::SUITES,
        identity::SUITES + 4,
        identity::FEATURES,
        identity::MAX_PACKET,
        identity::MAX_WINDOW,
        identity::MAX_GATHER,
        identity::TIME,
        identity::TIME + 4,
        control::HEARTBEAT,
    ];
    let registers: Vec<u64> = (0..0x60)
        .chain(0x1000..0x1020)
        // Of the vectors that this card has.
        .chain(interrupt::MODERATION..interrupt::MODERATION + 12)
        .chain(0x3000..0x3020)
        .chain(0x4000..0x4050)
        .chain(0x5000..0x5020)
        .chain(0x6000..0x6030)
        // Nothing is there, nor is it the same as something else.
        .chain([
            0x60, 0x7000, 0x8000, 0x9000, 0xb010, 0x4_0000, 0x4_1000, 0xf_fffc,
        ])
        .filter(|at| at % 4 == 0 && !own.contains(at))
        .collect();
    let rigs = rigs(BusTiming::default());
    let cards = rigs.each_ref().map(Raw::attach);
    let mut pair = Pair {
        cards,
        events: [0; 2],
    };
    let mut random = Random(1);
    let actions = [
        Control::ENABLE,
        Control::empty(),
        Control::RESET,
        Control::DETACH,
        Control::ENABLE | Control::ZEROISE,
        Control::ENABLE | Control::DETACH,
        Control::ENABLE | Control::RESET,
    ];
    for round in 0..300 {
        match random.below(4) {
            0 => {
                let action = actions[random.below(actions.len())].bits() | 0xabc0;
                pair.both(|raw| raw.register(control::CONTROL, action));
            }
            // Rings with which it may be enabled.
            1 => pair.both(|raw| {
                raw.wide(admin_queue::SUBMISSION_BASE, IOVA + ADMIN);
                raw.wide(admin_queue::COMPLETION_BASE, IOVA + ADMIN_DONE);
                raw.register(admin_queue::DEPTH, DEPTH as u32);
            }),
            _ => {
                let at = registers[random.below(registers.len())];
                let value = random.next() as u32;
                // The doorbell of commands that are not there is another test's.
                if ![control::CONTROL, admin_queue::TAIL].contains(&at) {
                    pair.both(|raw| raw.register(at, value));
                }
            }
        }
        for at in &registers {
            let values = pair.cards.each_ref().map(|raw| raw.read_register(*at));
            assert_eq!(values[1], values[0], "{at:#x} in round {round}");
        }
    }
    // What the RTL says of itself.
    let rtl = &pair.cards[1];
    let wide = |at| u64::from(rtl.read_register(at)) | u64::from(rtl.read_register(at + 4)) << 32;
    assert_eq!(wide(identity::BUILD).to_le_bytes(), *b"rtl 0.1\0");
    let suites = [Cipher::Aes128Gcm, Cipher::Aes256Gcm]
        .map(|cipher| 1u64 << fpga_regs::context::suite_bit(cipher as u8, 0));
    assert_eq!(wide(identity::SUITES), suites[0] | suites[1]);
    let features = CardFeatures::ESN
        | CardFeatures::TUNNEL
        | CardFeatures::TRANSPORT
        | CardFeatures::OUTER_HEADERS
        | CardFeatures::OUTER_IPV6
        | CardFeatures::UDP_ENCAPSULATION
        | CardFeatures::EXPLICIT_NUMBERING
        | CardFeatures::LIFETIMES
        | CardFeatures::SLEEPS
        | CardFeatures::MODERATION
        | CardFeatures::PRIORITIES
        | CardFeatures::KEY_MAILBOX;
    assert_eq!(rtl.read_register(identity::FEATURES), features.bits());
    for (limit, value) in [
        (identity::MAX_PACKET, 16_384),
        (identity::MAX_WINDOW, 1024),
        (identity::MAX_GATHER, 16),
    ] {
        assert_eq!(rtl.read_register(limit), value);
    }
    let before = wide(identity::TIME);
    assert!(wide(identity::TIME) > before);
    for rig in rigs {
        rig.end();
    }
}

#[test]
fn both_models_do_the_same() {
    let knob = |name: &str, default: u64| {
        let value = std::env::var(name).ok();
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    let packets = knob("RTL_PACKETS", 12_000) as usize;
    let seed = knob("RTL_SEED", 1);
    let timings = [(4, 0, 0), (250, 0, 0), (40, 100, 64), (10, 30, 200)];
    let mut met = Met::default();
    std::thread::scope(|scope| {
        let pairs: Vec<_> = (seed..)
            .zip(timings)
            .map(|(own, (latency, jitter, hesitation))| {
                let timing = BusTiming {
                    latency,
                    jitter,
                    hesitation,
                    seed: seed + 7,
                    ..BusTiming::default()
                };
                scope.spawn(move || compare(packets / timings.len(), own, timing))
            })
            .collect();
        for pair in pairs {
            let own = pair.join().unwrap();
            met.in_pieces += own.in_pieces;
            met.statuses
                .iter_mut()
                .zip(own.statuses)
                .for_each(|(met, count)| *met += count);
        }
    });
    if packets >= 8000 {
        // What a run is good for: each of these was met.
        for status in [
            Status::Ok,
            Status::OkSoftExpired,
            Status::BadDescriptor,
            Status::BadGather,
            Status::DmaFault,
            Status::SaStale,
            Status::WrongNumbering,
            Status::HardExpired,
            Status::BadIcv,
            Status::Replayed,
            Status::BadLength,
            Status::BadIpHeader,
            Status::OuterMismatch,
            Status::NoSpace,
        ] {
            assert_ne!(met.statuses[status as usize], 0, "{status:?} never came");
        }
        assert!(met.in_pieces > 100);
    }
}
