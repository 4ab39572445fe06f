// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptors and the three ports of a card in RTL at once, through the same SAs. Which of them is first is not
//! determined: the functional model is given each SA's packets in the order of the numbers that the RTL gave
//! them, and what it makes of them must be the same.

use std::collections::BTreeMap;

use fpga_cosim::card::{HostMemory, Port, PortTraffic, QueueSetup};
use fpga_regs::descriptor::{Completion, OP_PROCESS, Submission};
use offload_api::queue::Status;

use super::*;

/// Entries of the queue's rings, of which one round uses fewer.
pub(super) const DEPTH: usize = 128;
const SUBMISSIONS: usize = 0;
const COMPLETIONS: usize = SUBMISSIONS + DEPTH * size_of::<Submission>();
const BUFFERS: usize = COMPLETIONS + DEPTH * size_of::<Completion>();
const BUFFER: usize = 2048;
/// Octets in front of a packet in its buffer.
const HEADROOM: usize = 128;
/// The pairs without limits that are reached.
const USED: std::ops::Range<usize> = 1..PAIRS - 1;

/// The driver's memory.
pub(super) struct Memory(Vec<u8>);

impl Memory {
    /// With rings and buffers, of which the card is told.
    pub(super) fn with_queue(rig: &Rig) -> Self {
        let mut memory = Self(vec![0; BUFFERS + DEPTH * BUFFER]);
        let setup = QueueSetup {
            submissions: SUBMISSIONS as u64,
            completions: COMPLETIONS as u64,
            depth_log2: DEPTH.trailing_zeros() as u8,
            priority: 0,
        };
        let mut core = rig.card.lock();
        let card = &mut core.rtl.as_mut().unwrap().card;
        card.set_queue(0, Some(&setup), &mut memory);
        drop(core);
        memory
    }

    fn put(&mut self, at: usize, octets: &[u8]) -> bool {
        let place = self.0.get_mut(at..at + octets.len());
        place.map(|place| place.copy_from_slice(octets)).is_some()
    }
}

impl HostMemory for Memory {
    fn read(&mut self, iova: u64, into: &mut [u8]) -> bool {
        let at = iova as usize;
        let place = self.0.get(at..at + into.len());
        place.map(|place| into.copy_from_slice(place)).is_some()
    }
    fn write(&mut self, iova: u64, octets: &[u8]) -> bool {
        self.put(iova as usize, octets)
    }
    fn post(&mut self, iova: u64, entry: &[u8; 32]) -> bool {
        self.put(iova as usize, entry)
    }
}

#[derive(Default)]
pub(super) struct Traffic {
    coming: [VecDeque<Vec<u8>>; 3],
    left: [Vec<Vec<u8>>; 3],
}

impl PortTraffic for Traffic {
    fn next(&mut self, port: Port, frame: &mut Vec<u8>) -> bool {
        let next = self.coming[port as usize].pop_front();
        next.map(|next| *frame = next).is_some()
    }
    fn leave(&mut self, port: Port, frame: &[u8], _: bool) {
        self.left[port as usize].push(frame.to_vec());
    }
}

/// What a descriptor asks for.
pub(super) struct Asked {
    pub(super) pair: usize,
    pub(super) seals: bool,
    pub(super) octets: Vec<u8>,
}

/// What an SA has sealed under one of its numbers.
struct Sealed {
    /// By a port, else by a descriptor.
    by_port: bool,
    clear: Vec<u8>,
    /// Without an Ethernet header.
    octets: Vec<u8>,
}

/// A packet of a pair, that all its rules permit; octets 8 to 15 of the payload are some number.
fn clear(seed: &mut u64, pair: usize, outer: &Outer) -> Vec<u8> {
    let (v6, source, destination) = ends(pair, outer);
    let mut payload = vec![3, 232, 7, 208, 0, 0, 0, 0];
    payload.extend(random(seed).to_be_bytes());
    let len = match below(seed, 3) {
        0 => below(seed, 40),
        _ => below(seed, 1200),
    };
    payload.extend((0..len).map(|octet| octet as u8));
    let mut packet = Vec::new();
    if v6 {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([17, 64]);
    } else {
        packet.extend([0x45, 0]);
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    }
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// That number.
fn tag(packet: &[u8]) -> [u8; 8] {
    let at = if packet[0] >> 4 == 6 { 48 } else { 28 };
    packet[at..at + 8].try_into().unwrap()
}

/// Where ESP begins in a pair's sealed packets.
fn esp_at(outer: &Outer) -> usize {
    let ip = if outer.version == 6 { 40 } else { 20 };
    ip + if outer.source_port.get() == 0 { 0 } else { 8 }
}

/// Whose a sealed packet is, and its number.
fn whose(packet: &[u8], outers: &[Outer]) -> (usize, u32) {
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    let ours = |pair: &usize| {
        let at = esp_at(&outers[*pair]);
        packet.len() > at + 8 && word(at) == 0x2000_0000 + *pair as u32
    };
    let pair = USED.clone().find(ours).unwrap();
    (pair, word(esp_at(&outers[pair]) + 4))
}

/// Both kinds of traffic in one go, through SAs of which each pair has two; the completions, each with the
/// octets that it names.
pub(super) fn run(
    rig: &Rig,
    memory: &mut Memory,
    tail: &mut usize,
    asked: &[Asked],
    sas: &[(u32, u32)],
    traffic: &mut Traffic,
) -> Vec<(Status, Vec<u8>)> {
    for (number, asked) in asked.iter().enumerate() {
        let position = (*tail + number) % DEPTH;
        let buffer = BUFFERS + position * BUFFER;
        let mut submission = Submission::new_zeroed();
        submission.opcode = OP_PROCESS;
        submission.slot = (position as u32).into();
        let place = sas[2 * asked.pair + usize::from(!asked.seals)];
        (submission.sa_index, submission.sa_generation) = (place.0.into(), place.1.into());
        submission.buffer = (buffer as u64).into();
        submission.buffer_len = (BUFFER as u32).into();
        submission.offset = (HEADROOM as u32).into();
        submission.len = (asked.octets.len() as u32).into();
        let entry = SUBMISSIONS + position * size_of::<Submission>();
        assert!(memory.put(entry, submission.as_bytes()));
        assert!(memory.put(buffer + HEADROOM, &asked.octets));
    }
    let mut core = rig.card.lock();
    let card = &mut core.rtl.as_mut().unwrap().card;
    card.set_running(true);
    card.ring(0, (*tail + asked.len()) as u32, memory);
    card.pass(traffic, memory).unwrap();
    card.finish(memory).unwrap();
    // What the management has to do.
    core.rtl_rest();
    let completions = (0..asked.len()).map(|number| {
        let position = (*tail + number) % DEPTH;
        let at = COMPLETIONS + position * size_of::<Completion>();
        let mut octets = [0; size_of::<Completion>()];
        octets.copy_from_slice(&memory.0[at..at + size_of::<Completion>()]);
        let completion: Completion = zerocopy::transmute!(octets);
        assert_eq!(completion.slot.get() as usize, position, "out of order");
        assert_eq!(completion.position.get(), (*tail + number) as u16);
        let start = BUFFERS + position * BUFFER + completion.offset.get() as usize;
        let result = &memory.0[start..start + completion.len.get() as usize];
        let status = Status::from_code(completion.status).unwrap();
        (status, result.to_vec())
    });
    let completions = completions.collect();
    *tail += asked.len();
    completions
}

#[test]
fn descriptors_and_ports_share_the_rtls_sas() {
    let mut seed = from_env("RTL_SEED", 23);
    let frames: u64 = from_env("RTL_FRAMES", 1500);
    let timing = BusTiming {
        latency: 60,
        jitter: 40,
        hesitation: 60,
        seed,
        ..BusTiming::default()
    };
    let [mut model, mut rtl] = [Rig::new(None), Rig::new(Some(timing))];
    let outers: Vec<Outer> = (0..PAIRS).map(outer).collect();
    let mut sas = Vec::new();
    for (pair, outer) in outers.iter().enumerate() {
        for outbound in [true, false] {
            let context = context(pair, outbound, outer);
            let place = rtl.add(&context);
            assert_eq!(model.add(&context), place);
            let rule = rule(pair, outer, !outbound, place);
            model.add_rule(&rule);
            rtl.add_rule(&rule);
            sas.push(place);
        }
    }
    let mac = [2, 0, 0, 0, 1, 1];
    for rig in [&mut model, &mut rtl] {
        // Told of neighbours in one round, with which it begins the next.
        for _ in 0..2 {
            let shown = outers.iter().map(|outer| shows(outer, mac));
            rig.exception.lock().coming.extend(shown);
            rig.round();
        }
    }
    let mut memory = Memory::with_queue(&rtl);
    let mut fresh: Vec<((usize, u32), Vec<u8>)> = Vec::new();
    let mut last = [0; PAIRS];
    let (mut tail, mut done, mut changes, mut races) = (0, 0, 0, [0, 0]);
    let mut refused = [0u64; 2];
    while done < frames {
        let mut traffic = Traffic::default();
        let mut asked = Vec::new();
        let (mut by_host, mut by_wire, mut spoilt, mut twice) = (vec![], vec![], 0, 0);
        // To be sealed.
        for _ in 0..1 + below(&mut seed, ROUND) {
            let some = |seed: &mut u64| {
                let pair = USED.start + below(seed, USED.len() as u64) as usize;
                (pair, clear(seed, pair, &outers[pair]))
            };
            by_host.push(some(&mut seed));
            if below(&mut seed, 3) != 0 {
                let (pair, octets) = some(&mut seed);
                asked.push(Asked {
                    pair,
                    seals: true,
                    octets,
                });
            }
            done += 1;
        }
        // To be opened: what the round before has sealed, by one side or by both.
        let mut to_model = Vec::new();
        for ((pair, _), mut octets) in std::mem::take(&mut fresh) {
            let mut way = below(&mut seed, 8);
            if below(&mut seed, 8) == 0 {
                let from = esp_at(&outers[pair]) + 16;
                let at = from + below(&mut seed, (octets.len() - from) as u64) as usize;
                octets[at] ^= 4;
                spoilt += 1;
                way = 3 + way % 2;
            }
            let frame = {
                let kind = if outers[pair].version == 6 {
                    IPV6
                } else {
                    IPV4
                };
                [&[2; 12][..], &kind, &octets].concat()
            };
            let both = way == 1 || way == 2;
            if !way.is_multiple_of(2) || both {
                by_wire.push(frame.clone());
            }
            if way.is_multiple_of(2) || both {
                asked.push(Asked {
                    pair,
                    seals: false,
                    octets,
                });
            }
            to_model.push(frame.clone());
            if both {
                twice += 1;
                to_model.push(frame);
            }
        }
        // In any order, but those of an SA as they were.
        if below(&mut seed, 2) == 0 {
            asked.sort_by_key(|asked| (asked.seals, asked.pair));
        }
        let others = (0..below(&mut seed, 4)).map(|octet| vec![octet as u8; 60]);
        let others: Vec<_> = others.collect();
        let exceptions: Vec<_> = outers
            .iter()
            .take(3)
            .map(|outer| shows(outer, mac))
            .collect();
        traffic.coming = [
            by_wire.iter().chain(&others).cloned().collect(),
            by_host.iter().map(|(_, packet)| packet.clone()).collect(),
            exceptions.clone().into(),
        ];
        let completions = run(&rtl, &mut memory, &mut tail, &asked, &sas, &mut traffic);
        let [wire, host, exception] = traffic.left;

        // What was left to the host, and what came from there.
        let is_hosts = |frame: &Vec<u8>| frame[6..12] == HOST_MAC;
        let (left, sealed): (Vec<_>, Vec<_>) = wire.into_iter().partition(is_hosts);
        assert_eq!((left, exception), (exceptions, others), "after {done}");

        // Numbers: each once, without a gap, and in order of each side.
        let mut numbers: BTreeMap<(usize, u32), Sealed> = BTreeMap::new();
        let mut seen = [[0; PAIRS]; 2];
        let mut keep = |by_port: bool, of: usize, clear: &[u8], octets: &[u8]| {
            let (pair, number) = whose(octets, &outers);
            assert_eq!(pair, of, "another SA's packet, after {done}");
            let before = &mut seen[usize::from(by_port)][pair];
            assert!(
                *before < number,
                "out of order: {pair}, {number}, after {done}"
            );
            *before = number;
            let sealed = Sealed {
                by_port,
                clear: clear.to_vec(),
                octets: octets.to_vec(),
            };
            let other = numbers.insert((pair, number), sealed);
            assert!(other.is_none(), "twice: {pair}, {number}, after {done}");
        };
        assert_eq!(sealed.len(), by_host.len(), "after {done}");
        for (frame, (pair, clear)) in sealed.iter().zip(&by_host) {
            assert_eq!(frame[..6], mac);
            keep(true, *pair, clear, &frame[ETHERNET..]);
        }
        let mut by_descriptor = Vec::new();
        for (asked, (status, octets)) in asked.iter().zip(&completions) {
            if asked.seals {
                assert_eq!(*status, Status::Ok);
                keep(false, asked.pair, &asked.octets, octets);
            } else if status.is_ok() {
                by_descriptor.push(octets.clone());
            } else {
                let expected = [Status::BadIcv, Status::Replayed];
                assert!(expected.contains(status), "{status:?} after {done}");
                refused[usize::from(*status == Status::Replayed)] += 1;
                races[0] += usize::from(*status == Status::Replayed);
            }
        }
        let mut before: Option<(usize, bool)> = None;
        for ((pair, number), sealed) in &numbers {
            last[*pair] += 1;
            assert_eq!(*number, last[*pair], "a gap of pair {pair}, after {done}");
            let other = (*pair, !sealed.by_port);
            changes += usize::from(before == Some(other));
            before = Some((*pair, sealed.by_port));
        }

        // The functional model, in the order of the numbers.
        let packets = numbers.values().map(|sealed| sealed.clear.clone());
        model.host.lock().coming.extend(packets);
        model.wire.lock().coming.extend(to_model);
        let [expected_sealed, _, expected_opened, _] = model.round();
        assert_eq!(expected_sealed.len(), numbers.len(), "after {done}");
        for (frame, ((pair, number), sealed)) in expected_sealed.iter().zip(&numbers) {
            let octets = &frame[ETHERNET..];
            assert_eq!(octets, sealed.octets, "{pair}, {number} after {done}");
        }
        let opened = |packets: &[Vec<u8>]| {
            let mut packets = packets.to_vec();
            packets.sort();
            packets
        };
        let all = [host.clone(), by_descriptor.clone()].concat();
        assert!(opened(&all) == opened(&expected_opened), "after {done}");
        // Frames of the wire stay in order.
        let order: Vec<_> = expected_opened.iter().map(|packet| tag(packet)).collect();
        let of_pair = |packets: &[Vec<u8>], pair: usize| -> Vec<usize> {
            let (_, source, _) = ends(pair, &outers[pair]);
            let ours = |packet: &&Vec<u8>| packet.windows(source.len()).any(|at| at == source);
            let places = packets.iter().filter(ours).map(|packet| {
                let tag = tag(packet);
                order.iter().position(|other| *other == tag).unwrap()
            });
            places.collect()
        };
        for pair in USED {
            assert!(of_pair(&host, pair).is_sorted(), "{pair} after {done}");
        }
        assert_eq!(expected_opened.len() + spoilt + twice, {
            asked.iter().filter(|asked| !asked.seals).count() + by_wire.len()
        });
        races[1] += twice;
        fresh = numbers
            .into_iter()
            .map(|(whose, sealed)| (whose, sealed.octets))
            .collect();

        // Sums: of the cards, and of the SAs.
        let [(_, expected_card, expected_sas), (_, card, usages)] =
            [&model, &rtl].map(|rig| rig.counters(&sas));
        assert_eq!(
            (card, usages),
            (expected_card, expected_sas),
            "after {done}"
        );
    }
    let core = model.card.lock();
    let expected = core.inline.as_ref().unwrap().describe(PortRole::Wire);
    let core = rtl.card.lock();
    let counts = core.rtl.as_ref().unwrap().card.port_counts();
    let by_descriptors: u64 = refused.iter().sum();
    assert_eq!(counts.wire_refused + by_descriptors, expected.refused.get());
    // Both have been at work at once, and either has been first.
    assert!(changes as u64 > frames / 20, "{changes} of {frames}");
    assert!(races[0] > 0 && races[0] < races[1], "{races:?}");
}
