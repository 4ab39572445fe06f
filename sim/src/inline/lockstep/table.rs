// SPDX-License-Identifier: Apache-2.0 OR MIT
//! As many SAs as the RTL holds, in both models: each seals and opens, by the ports and by descriptors, and has
//! keys, numbers, windows, ways and SPIs of its own, so that two indexes that were one place somewhere would
//! show. Some are retired, and others take their places, in the other direction. At last no key is left.

use std::collections::BTreeSet;

use fpga_cosim::card::{Outbound, SaConfig, Told};
use fpga_regs::admin::CommandStatus;
use fpga_regs::registers::Control;
use offload_api::queue::Status;

use super::both::{Asked, DEPTH, Memory, Traffic, run};
use super::*;
use crate::card::Reset;
use crate::rtl::{MAX_RULES, MAX_SAS};

const SAS: u32 = MAX_SAS;
/// Each is an outbound SA and an inbound one that opens what the former seals.
const PAIRS: usize = SAS as usize / 2;
/// Pairs that have rules at once: one in each direction.
const GROUP: usize = MAX_RULES / 2;
const WINDOW: u32 = 128;

/// A pair's two octets.
fn octets(pair: usize) -> [u8; 2] {
    (pair as u16).to_be_bytes()
}

fn outer(pair: usize) -> Outer {
    let [high, low] = octets(pair);
    let mut outer = Outer::new_zeroed();
    outer.version = 4;
    outer.source[..4].copy_from_slice(&[192, 0, 2, 1]);
    outer.destination[..4].copy_from_slice(&[198, 18 + (high >> 4), high & 15, low]);
    outer
}

fn mac(pair: usize) -> [u8; 6] {
    let [high, low] = octets(pair);
    [2, 0, 1, 0, high, low]
}

/// An SA of a pair, with a key and an SPI that differ from those of all others, and of its other times.
fn context(pair: usize, time: u8, outbound: bool) -> SaContext {
    let mut sa = SaContext::new_zeroed();
    let suite = [Suite::AES_128_GCM, Suite::AES_256_GCM][pair % 2];
    let mut seed = u64::from(time) << 32 | pair as u64;
    sa.spi = (random(&mut seed) as u32 | 0x100).to_le_bytes();
    (sa.cipher, sa.integrity) = (suite.cipher() as u8, suite.integrity() as u8);
    let len = if pair.is_multiple_of(2) { 16 } else { 32 };
    for word in sa.cipher_key[..len].chunks_exact_mut(8) {
        word.copy_from_slice(&random(&mut seed).to_le_bytes());
    }
    sa.salt = (random(&mut seed) as u32).to_le_bytes();
    sa.flags = FLAG_OUTER;
    sa.outer.copy_from_slice(outer(pair).as_bytes());
    sa.lifetimes = [0xff; 48];
    if outbound {
        sa.flags |= FLAG_OUTBOUND;
        // All words of the windows are met.
        sa.grant_first = (1 + 37 * pair as u64).to_le_bytes();
        sa.grant_last = (1u64 << 20).to_le_bytes();
    } else {
        sa.replay_window = WINDOW.to_le_bytes();
    }
    sa
}

fn ends(pair: usize) -> [[u8; 4]; 2] {
    let [high, low] = octets(pair);
    [[10, high, low, 5], [11, high, low, 7]]
}

fn rule(pair: usize, inbound: bool, sa: (u32, u32)) -> port::Rule {
    let [source, destination] = ends(pair);
    let mut rule = port::Rule::new_zeroed();
    rule.version = 4;
    rule.inbound = inbound.into();
    (rule.sa_index, rule.sa_generation) = (sa.0.into(), sa.1.into());
    rule.source_start[..4].copy_from_slice(&source);
    rule.source_end[..4].copy_from_slice(&source);
    rule.destination_start[..4].copy_from_slice(&destination);
    rule.destination_end[..4].copy_from_slice(&destination);
    rule.source_port_end = u16::MAX.into();
    rule.destination_port_end = u16::MAX.into();
    rule
}

/// A packet of a pair, in the clear.
fn clear(seed: &mut u64, pair: usize) -> Vec<u8> {
    let [source, destination] = ends(pair);
    let len = below(seed, 200) as usize;
    let mut packet = vec![0x45, 0];
    packet.extend((28 + len as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.into_iter().chain(destination));
    packet.extend([3, 232, 7, 208, 0, 0, 0, 0]);
    packet.extend((0..len).map(|_| random(seed) as u8));
    packet
}

/// Indexes at the ends of what bits of an index can tell apart, and some more.
fn spread(seed: &mut u64) -> BTreeSet<u32> {
    let powers = (0..SAS.ilog2()).map(|bit| 1u32 << bit);
    let around = powers.flat_map(|power| [power - 1, power, power + 1]);
    let some: Vec<u32> = (0..24).map(|_| below(seed, SAS.into()) as u32).collect();
    around.chain([SAS - 1]).chain(some).collect()
}

/// Both models, and where each pair has its SAs: the outbound one, the inbound one.
struct Full {
    model: Rig,
    rtl: Rig,
    memory: Memory,
    tail: usize,
    places: Vec<(u32, u32)>,
    seed: u64,
}

impl Full {
    fn new() -> Self {
        let rtl = Rig::new(Some(BusTiming::default()));
        Self {
            model: Rig::new(None),
            memory: Memory::with_queue(&rtl),
            rtl,
            tail: 0,
            places: vec![(0, 0); 2 * PAIRS],
            seed: 5,
        }
    }

    fn both<T: PartialEq + std::fmt::Debug>(&self, ask: impl Fn(&Rig) -> T) -> T {
        let (expected, found) = (ask(&self.model), ask(&self.rtl));
        assert_eq!(found, expected, "RTL (left), functional model (right)");
        expected
    }

    fn add(&mut self, pair: usize, time: u8, outbound: bool) -> u32 {
        let place = self.both(|rig| rig.add(&context(pair, time, outbound)));
        self.places[2 * pair + usize::from(!outbound)] = place;
        place.0
    }

    fn retire(&self, place: (u32, u32)) {
        self.both(|rig| {
            let mut core = rig.card.lock();
            let was = core.sas.remove(place.0, place.1).is_some();
            core.rtl_remove(place.0);
            core.inline.as_mut().unwrap().rules.remove_sa(place);
            assert!(was);
        });
    }

    /// A round of each; what left must be the same.
    fn round(&mut self, host: &[Vec<u8>], wire: &[Vec<u8>]) -> [Vec<Vec<u8>>; 4] {
        for rig in [&self.model, &self.rtl] {
            rig.host.lock().coming.extend(host.iter().cloned());
            rig.wire.lock().coming.extend(wire.iter().cloned());
        }
        let (expected, found) = (self.model.round(), self.rtl.round());
        assert!(found == expected, "what left");
        expected
    }

    /// Descriptors to the RTL, and the same packets by the functional model's ports: what becomes of them.
    fn by_descriptors(
        &mut self,
        pairs: &[usize],
        packets: &[Vec<u8>],
        seals: bool,
    ) -> Vec<Vec<u8>> {
        let asked = pairs.iter().zip(packets).map(|(pair, octets)| Asked {
            pair: *pair,
            seals,
            octets: octets[if seals { 0 } else { ETHERNET }..].to_vec(),
        });
        let asked: Vec<_> = asked.collect();
        let done = self.run(&asked);
        let port = if seals {
            self.model.host.lock().coming.extend(packets.to_vec());
            0
        } else {
            self.model.wire.lock().coming.extend(packets.to_vec());
            2
        };
        let [sealed, _, opened, _] = self.model.round();
        let expected = if port == 0 { sealed } else { opened };
        assert_eq!(expected.len(), done.len());
        for ((expected, (status, octets)), pair) in expected.iter().zip(&done).zip(pairs) {
            assert_eq!(*status, Status::Ok, "pair {pair}");
            let skipped = if seals { ETHERNET } else { 0 };
            assert_eq!(octets[..], expected[skipped..], "pair {pair}");
        }
        expected
    }

    fn run(&mut self, asked: &[Asked]) -> Vec<(Status, Vec<u8>)> {
        let mut done = Vec::new();
        for asked in asked.chunks(DEPTH - 1) {
            let (memory, tail) = (&mut self.memory, &mut self.tail);
            let traffic = &mut Traffic::default();
            done.extend(run(&self.rtl, memory, tail, asked, &self.places, traffic));
        }
        done
    }

    /// Packets through both SAs of each of these pairs, by the ports and by descriptors; some come again.
    fn pass(&mut self, pairs: &[usize]) {
        for group in pairs.chunks(GROUP) {
            for pair in group {
                for inbound in [false, true] {
                    let place = self.places[2 * pair + usize::from(inbound)];
                    self.both(|rig| rig.add_rule(&rule(*pair, inbound, place)));
                }
            }
            let seed = &mut self.seed;
            let [first, second] = [(); 2].map(|()| {
                group
                    .iter()
                    .map(|pair| clear(seed, *pair))
                    .collect::<Vec<_>>()
            });
            let [sealed, ..] = self.round(&first, &[]);
            for (frame, pair) in sealed.iter().zip(group) {
                assert_eq!(frame[..6], mac(*pair), "pair {pair}");
                assert_eq!(frame[30..34], outer(*pair).destination[..4], "pair {pair}");
            }
            let later = self.by_descriptors(group, &second, true);
            // The other way around, so that the first are old, but not too old.
            let opened = self.by_descriptors(group, &later, false);
            assert!(opened == second, "by descriptors");
            let [_, _, opened, _] = self.round(&[], &sealed);
            assert!(opened == first, "by ports");
            let again: Vec<_> = later.into_iter().chain(sealed).collect();
            let [_, _, opened, _] = self.round(&[], &again);
            assert_eq!(opened.len(), 0, "replays");
            self.both(|rig| rig.card.lock().inline.as_mut().unwrap().rules.clear());
        }
    }

    /// Counters of the cards and of all SAs, and the windows.
    fn compare(&self) {
        let counters = |rig: &Rig| {
            let (_, card, usages) = rig.counters(&self.places);
            (card, usages)
        };
        self.both(counters);
        self.both(|rig| {
            let mut core = rig.card.lock();
            let windows = self.places.iter().skip(1).step_by(2).map(|place| {
                core.rtl_pull(*place, true);
                let sa = core.sas.find(place.0, place.1).unwrap();
                format!("{:?}", sa.state.window().snapshot())
            });
            windows.collect::<Vec<_>>()
        });
    }

    /// Seals the same packet by each SA of the RTL's table, without having installed a key: all of them do so with
    /// round keys of zeros, and with a hash key of zero, which makes the ICV the same whatever the packet is.
    fn assert_zeroised(&mut self) {
        self.memory = Memory::with_queue(&self.rtl);
        self.tail = 0;
        let config = SaConfig {
            outbound: true,
            transport: false,
            esn: false,
            numbered: false,
            draining: false,
            soft_time: false,
            hard_time: false,
            window: 0,
            generation: 1,
            spi: 0x100,
            soft: [u64::MAX; 2],
            hard: [u64::MAX; 2],
            outer: None,
        };
        let state = Outbound {
            packets: 0,
            bytes: 0,
            number: 0,
            next: 1,
            last: 9,
            low_mark: 0,
            ended: false,
            told: Told::empty(),
        };
        self.set_all(Some((&config, &state)));
        let places = (0..SAS).flat_map(|index| [(index, 1); 2]);
        let places = std::mem::replace(&mut self.places, places.collect());
        let mut seed = 3;
        let mut packets = [(); 2].map(|()| clear(&mut seed, 0));
        packets.iter_mut().for_each(|packet| packet.resize(228, 9));
        packets.iter_mut().for_each(|packet| packet[3] = 228);
        let asked = (0..SAS as usize).map(|index| Asked {
            pair: index,
            seals: true,
            octets: packets[usize::from(index == SAS as usize / 3)].clone(),
        });
        let asked: Vec<_> = asked.collect();
        let sealed = self.run(&asked);
        let (status, expected) = &sealed[0];
        assert_eq!(*status, Status::Ok);
        let icv = expected.len() - 16;
        for (index, (status, octets)) in sealed.iter().enumerate() {
            assert_eq!(*status, Status::Ok, "SA {index}");
            let other = index == SAS as usize / 3;
            assert_eq!(octets[..icv] != expected[..icv], other, "SA {index}");
            assert_eq!(octets[icv..], expected[icv..], "SA {index}");
        }
        self.places = places;
        self.set_all(None);
    }

    fn set_all(&mut self, sa: Option<(&SaConfig, &Outbound)>) {
        let mut core = self.rtl.card.lock();
        let card = &mut core.rtl.as_mut().unwrap().card;
        // Behind a reset only once keys are taken.
        card.erase_key(0, &mut self.memory).unwrap();
        for index in 0..SAS {
            if let Some((_, state)) = sa {
                card.store(index, state, &mut self.memory).unwrap();
            }
            card.set_sa(index, sa.map(|(config, _)| config), &mut self.memory);
        }
    }
}

#[test]
fn a_full_table_of_the_rtl_has_no_two_sas_in_one_place() {
    let mut full = Full::new();
    let all: Vec<usize> = (0..PAIRS).collect();
    // Outbound SAs below, their peers above, the first one's last.
    for pair in 0..PAIRS {
        assert_eq!(full.add(pair, 0, true), pair as u32);
    }
    for pair in (0..PAIRS).rev() {
        assert_eq!(full.add(pair, 0, false), SAS - 1 - pair as u32);
    }
    let more = context(PAIRS, 0, true);
    let refused = full.both(|rig| add_with_key(&mut rig.card.lock(), &more, Instant::now()));
    assert_eq!(refused, Err(CommandStatus::TableFull));
    // Told of neighbours in one round, with which it begins the next.
    for rig in [&mut full.model, &mut full.rtl] {
        for _ in 0..2 {
            let shown = all.iter().map(|pair| shows(&outer(*pair), mac(*pair)));
            rig.exception.lock().coming.extend(shown);
            rig.round();
        }
    }
    full.pass(&all);
    full.compare();

    // Both SAs of a pair go; the next two are in each other's places.
    let spread: BTreeSet<usize> = spread(&mut full.seed)
        .into_iter()
        .map(|index| index.min(SAS - 1 - index) as usize)
        .collect();
    for pairs in Vec::from_iter(spread).chunks(8) {
        let old = full.places.clone();
        let mut sealed = Vec::new();
        for pair in pairs {
            let [outbound, inbound] = [old[2 * pair], old[2 * pair + 1]];
            full.both(|rig| rig.add_rule(&rule(*pair, false, outbound)));
            let packet = clear(&mut full.seed, *pair);
            sealed.extend(full.round(&[packet], &[]).into_iter().next().unwrap());
            full.retire(outbound);
            full.retire(inbound);
        }
        // Neither finds an SA: not the frame, whose SPI is unknown, nor the rule, nor a descriptor.
        let packet = clear(&mut full.seed, pairs[0]);
        let [.., exceptions] = full.round(&[packet], &sealed);
        assert!(exceptions == sealed, "{exceptions:?}");
        let stale = pairs
            .iter()
            .flat_map(|pair| [(*pair, true), (*pair, false)]);
        let stale = stale.map(|(pair, seals)| Asked {
            pair,
            seals,
            octets: clear(&mut full.seed, pair),
        });
        let stale: Vec<_> = stale.collect();
        for (status, _) in full.run(&stale) {
            assert_eq!(status, Status::SaStale);
        }
        for pair in pairs.iter().rev() {
            let [outbound, inbound] = [old[2 * pair], old[2 * pair + 1]];
            assert_eq!(full.add(*pair, 1, true), inbound.0);
            assert_eq!(full.add(*pair, 1, false), outbound.0);
        }
    }
    full.pass(&all);

    full.both(|rig| rig.card.reset(Reset::Driver));
    full.assert_zeroised();
    // And SA by SA.
    full.both(|rig| {
        rig.card.reset(Reset::Driver);
        for pair in 0..40 {
            rig.add(&context(pair, 2, true));
        }
        rig.card.lock().set_control(Control::ZEROISE);
        assert_eq!(rig.card.lock().sas.live(), 0);
    });
    full.assert_zeroised();
}
