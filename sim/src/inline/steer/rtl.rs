// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's RTL steers frames of the wire like the functional model (`ipa_port_steer`).

use std::collections::{HashMap, VecDeque};

use fpga_cosim::designs::PORT_STEER;
use fpga_cosim::{Input, Model, Output};
use offload_api::wire::ip::Facts;

use super::{ETHERNET, Way, ip_packet, steer};
use crate::rtl::random;

/// Octets of a beat.
const BEAT: usize = 64;
/// SAs of the table.
const SAS: u64 = fpga_cosim::card::SAS as u64;
/// SAs that are replaced by others, one at a time.
const REKEYED: u64 = 5 * SAS;
/// Octets behind the Ethernet header up to which the RTL follows headers.
const LAST_HEADER: usize = 96;
/// Octets of the longest frame that it takes.
const LONGEST: usize = 16384;

/// A frame on its way out: its octets, and what is said of it.
type Out = (Vec<u8>, u64);

/// The RTL, and what has left it by the card's exit and by the host's.
struct Steer {
    model: Model,
    set: [Input; 4],
    beat: [Input; 4],
    data: Input,
    took: Output,
    can_set: Output,
    set_ends: [Output; 2],
    valid: [Output; 2],
    ready: [Input; 2],
    /// Of a frame for the card: SA, where its ESP is, where it ends; and whether the SPI was unknown.
    told: [Output; 4],
    last: Output,
    bytes: Output,
    out: Output,
    counts: Output,
    begun: Vec<u8>,
    exits: [VecDeque<Out>; 2],
    /// Of 256: clocks in which the wire has no beat, and an exit takes none.
    hesitates: u64,
    seed: u64,
}

impl Steer {
    fn new() -> Self {
        let model = Model::new(&PORT_STEER);
        let (input, output) = (|name| model.input(name), |name| model.output(name));
        let mut this = Self {
            set: ["set_valid_i", "set_add_i", "set_spi_i", "set_index_i"].map(input),
            beat: ["s_valid_i", "s_last_i", "s_error_i", "s_bytes_i"].map(input),
            data: input("s_data_i"),
            took: output("s_ready_o"),
            can_set: output("set_ready_o"),
            set_ends: ["set_done_o", "set_full_o"].map(output),
            valid: ["card_valid_o", "host_valid_o"].map(output),
            ready: ["card_ready_i", "host_ready_i"].map(input),
            told: ["card_sa_o", "card_esp_at_o", "card_end_o", "host_unknown_o"].map(output),
            last: output("m_last_o"),
            bytes: output("m_bytes_o"),
            out: output("m_data_o"),
            counts: output("counts_o"),
            model,
            begun: Vec::new(),
            exits: Default::default(),
            hesitates: 0,
            seed: 1,
        };
        let reset = this.model.input("rst_ni");
        this.clock();
        this.model.put(reset, 1);
        this
    }

    /// A clock; whether the wire's beat, if there is one, was taken.
    fn clock(&mut self) -> bool {
        let takes = self.ready.map(|ready| {
            let takes = random(&mut self.seed) % 256 >= self.hesitates;
            self.model.put(ready, takes.into());
            takes
        });
        self.model.settle();
        let offers = self.valid.map(|valid| self.model.high(valid));
        assert_ne!(offers, [true; 2], "one beat, by two exits");
        for exit in 0..2 {
            if offers[exit] && takes[exit] {
                self.leave(exit);
            }
        }
        let took = self.model.high(self.took);
        self.model.rise();
        took
    }

    /// A beat leaves.
    fn leave(&mut self, exit: usize) {
        let mut octets = [0; BEAT];
        self.model.copy(self.out, &mut octets);
        let len = self.model.value(self.bytes) as usize;
        self.begun.extend(&octets[..len]);
        if self.model.high(self.last) {
            let [sa, at, end, unknown] = self.told.map(|told| self.model.value(told));
            let told = match exit {
                0 => sa << 32 | at << 16 | end,
                _ => unknown,
            };
            self.exits[exit].push_back((std::mem::take(&mut self.begun), told));
        }
    }

    /// Lets an SPI lead to an SA, or no longer; whether there was room.
    fn set(&mut self, spi: u32, sa: Option<u64>, of: u64) -> bool {
        let values = [1, sa.is_some().into(), spi.into(), sa.unwrap_or(of)];
        for (port, value) in self.set.into_iter().zip(values) {
            self.model.put(port, value);
        }
        self.model.settle();
        while !self.model.high(self.can_set) {
            self.clock();
            self.model.settle();
        }
        self.clock();
        self.model.put(self.set[0], 0);
        self.model.settle();
        let [done, full] = self.set_ends.map(|end| self.model.high(end));
        assert!(done, "two clocks");
        self.clock();
        !full
    }

    /// Sends a frame, in as many clocks as it takes.
    fn send(&mut self, frame: &[u8], damaged: bool) {
        let mut beats = frame.chunks(BEAT).peekable();
        while let Some(beat) = beats.next() {
            while random(&mut self.seed) % 256 < self.hesitates {
                self.model.put(self.beat[0], 0);
                self.clock();
            }
            let last = beats.peek().is_none();
            let values = [1, last.into(), (last && damaged).into(), beat.len() as u64];
            for (port, value) in self.beat.into_iter().zip(values) {
                self.model.put(port, value);
            }
            self.model.set(self.data, beat);
            while !self.clock() {}
        }
        self.model.put(self.beat[0], 0);
    }

    /// Clocks until nothing has left for long.
    fn drain(&mut self) {
        let (mut quiet, mut before) = (0, 0);
        while quiet < 2000 {
            self.clock();
            let left = self.begun.len() + self.exits.iter().map(VecDeque::len).sum::<usize>();
            quiet = if left == before { quiet + 1 } else { 0 };
            before = left;
        }
        assert!(self.begun.is_empty(), "half a frame");
    }
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = 4500u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An IP packet, often with more headers than it needs, and now and then with nonsense in them.
fn packet(protocol: u8, payload: &[u8], seed: &mut u64) -> (Vec<u8>, [u8; 2]) {
    let chance = random(seed);
    if chance & 1 == 0 {
        let words = match chance >> 1 & 7 {
            0 => 6 + (chance >> 8 & 7) as usize,
            _ => 5,
        };
        let fragment: u16 = match chance >> 16 & 15 {
            0 => 0x2000,
            1 => 0x0010,
            _ => 0x4000,
        };
        let mut packet = vec![0x40 | words as u8, 0];
        packet.extend((4 * words as u16 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        packet.resize(4 * words, 1);
        packet.extend(payload);
        return (packet, [0x08, 0x00]);
    }
    let mut behind = Vec::new();
    let mut first = protocol;
    if chance >> 1 & 3 == 0 {
        let count = chance >> 8 & 3;
        let kinds: Vec<u8> = (0..count)
            .map(|_| [0, 43, 44, 60][random(seed) as usize % 4])
            .collect();
        for (place, kind) in kinds.iter().enumerate() {
            let next = kinds.get(place + 1).copied().unwrap_or(protocol);
            let words = match random(seed) % 8 {
                0 => 3,
                1 => 9,
                _ => 0,
            };
            let mut header = vec![next, if *kind == 44 { 0 } else { words }];
            // First fragment, or not.
            header.extend([0, (random(seed) % 2) as u8 * 8, 0, 0, 0, 1]);
            header.resize(8 * (usize::from(header[1]) + 1), 2);
            behind.extend(header);
        }
        first = kinds.first().copied().unwrap_or(protocol);
    }
    behind.extend(payload);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((behind.len() as u16).to_be_bytes());
    packet.extend([first, 64]);
    packet.resize(40, 0x20);
    packet.extend(behind);
    (packet, [0x86, 0xdd])
}

/// Some frame.
fn frame(spis: &[u32], seed: &mut u64) -> Vec<u8> {
    let chance = random(seed);
    let known = spis[(chance >> 16) as usize % spis.len()];
    let spi = match chance & 7 {
        0 => random(seed) as u32,
        1 => random(seed) as u32 & 3,
        _ => known,
    };
    let len = match chance >> 8 & 15 {
        0..8 => random(seed) % 64,
        8..15 => random(seed) % 1400,
        _ => random(seed) % 9000,
    };
    let mut esp = spi.to_be_bytes().to_vec();
    esp.extend((0..len).map(|octet| octet as u8));
    let (protocol, payload) = match chance >> 4 & 15 {
        0..6 => (50, esp),
        6..11 => (17, udp(4500, &esp)),
        11 => (17, udp(4500, &[0xff, 0xff][..1 + (len % 2) as usize])),
        12 => (17, udp(500, &esp)),
        13 => (17, udp(4500, &esp[..esp.len().min(9)])),
        14 => (6, esp),
        _ => (50, esp[..(len % 12).min(4) as usize].to_vec()),
    };
    let (packet, kind) = packet(protocol, &payload, seed);
    let mut frame = vec![2; 12];
    frame.extend(kind);
    frame.extend(packet);
    match random(seed) % 24 {
        0 => frame[12] ^= 1,
        1 => frame[14] ^= 1 << (random(seed) % 8),
        2 => frame[16 + (random(seed) % 2) as usize] ^= 1 << (random(seed) % 8),
        3 => frame.truncate(1 + random(seed) as usize % frame.len()),
        // As Ethernet pads.
        4..12 => frame.resize(frame.len().max(60), 0),
        _ => {}
    }
    frame
}

/// What the functional model says, where the RTL looks as far.
fn expected(frame: &[u8]) -> Way {
    let far = ip_packet(frame)
        .and_then(|packet| Facts::of(packet).ok())
        .is_some_and(|facts| facts.header_len > LAST_HEADER);
    if far { Way::Host } else { steer(frame) }
}

#[test]
fn the_rtl_steers_like_the_functional_model() {
    let mut rtl = Steer::new();
    let mut seed = 7;
    // A full table, in which some SAs have made room for others, and some SPIs lead elsewhere by now.
    let mut leads = HashMap::new();
    let mut spis = Vec::new();
    for sa in 0..SAS {
        let spi = random(&mut seed) as u32 | 0x100;
        assert!(rtl.set(spi, Some(sa), sa), "room for {SAS} SAs");
        leads.insert(spi, sa);
        spis.push(spi);
    }
    // As SAs are rekeyed for long: there is always room for as many.
    for _ in 0..REKEYED {
        let sa = random(&mut seed) % SAS;
        let place = &mut spis[sa as usize];
        assert!(rtl.set(*place, None, sa));
        leads.remove(place);
        *place = random(&mut seed) as u32 | 0x100;
        assert!(rtl.set(*place, Some(sa), sa), "room for {SAS} SAs");
        leads.insert(*place, sa);
    }
    for (sa, spi) in (0..SAS).zip(spis.clone()).step_by(3) {
        // Not by an SA to which it does not lead.
        assert!(rtl.set(spi, None, sa ^ 1));
        if sa % 2 == 0 {
            assert!(rtl.set(spi, None, sa));
            leads.remove(&spi);
            let spi = random(&mut seed) as u32 | 0x100;
            assert!(rtl.set(spi, Some(sa), sa));
            leads.insert(spi, sa);
            spis.push(spi);
        } else {
            assert!(rtl.set(spi, Some(sa ^ 1), sa));
            leads.insert(spi, sa ^ 1);
        }
    }
    let mut wanted: [VecDeque<Out>; 2] = Default::default();
    let mut met = [0u64; 6];
    let mut octets_met = 0;
    const FRAMES: u32 = 12_000;
    for number in 0..FRAMES {
        rtl.hesitates = [0, 128, 240][number as usize / 500 % 3];
        let mut frame = frame(&spis, &mut seed);
        let damaged = random(&mut seed).is_multiple_of(32);
        if random(&mut seed).is_multiple_of(1024) {
            frame.resize(LONGEST - 1 + random(&mut seed) as usize % 200, 3);
        }
        rtl.send(&frame, damaged);
        octets_met += frame.len().min(LONGEST) as u64;
        met[0] += 1;
        if damaged || frame.len() > LONGEST {
            met[5] += 1;
            continue;
        }
        let header_len = |frame: &[u8]| Facts::of(&frame[ETHERNET..]).unwrap();
        match expected(&frame) {
            Way::Keepalive => met[4] += 1,
            Way::Host => {
                met[2] += 1;
                wanted[1].push_back((frame, 0));
            }
            Way::Esp { len, spi } => match leads.get(&spi) {
                Some(sa) => {
                    let facts = header_len(&frame);
                    let at = ETHERNET + facts.header_len + if facts.protocol == 17 { 8 } else { 0 };
                    let told = sa << 32 | (at as u64) << 16 | (ETHERNET + len) as u64;
                    met[1] += 1;
                    wanted[0].push_back((frame, told));
                }
                None => {
                    met[2] += 1;
                    met[3] += 1;
                    wanted[1].push_back((frame, 1));
                }
            },
        }
        for (exit, wanted) in rtl.exits.iter_mut().zip(&mut wanted) {
            while let Some(left) = exit.pop_front() {
                assert_eq!(Some(left), wanted.pop_front(), "frame {number}");
            }
        }
    }
    rtl.hesitates = 0;
    rtl.drain();
    assert_eq!(rtl.exits, wanted);
    // received, its octets, exceptions, unknown SPIs, keepalives, damaged: the last one first.
    let mut counts = [0; 48];
    rtl.model.copy(rtl.counts, &mut counts);
    let counts: Vec<u64> = counts
        .chunks_exact(8)
        .map(|count| u64::from_le_bytes(count.try_into().unwrap()))
        .collect();
    assert_eq!(counts, [met[0], octets_met, met[2], met[3], met[4], met[5]]);
    assert!(met.iter().all(|met| *met > 100), "{met:?}");
}

#[test]
fn a_frame_takes_the_rtl_as_many_clocks_as_it_has_beats_or_five() {
    let mut rtl = Steer::new();
    assert!(rtl.set(0x100, Some(5), 5));
    let mut esp = 0x100u32.to_be_bytes().to_vec();
    for (len, most) in [(60, 5), (1514, 24)] {
        esp.resize(len - 34, 9);
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((len as u16 - 14).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 50, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(&esp);
        const FRAMES: u64 = 200;
        let begun = rtl.model.clocks();
        for _ in 0..FRAMES {
            rtl.send(&frame, false);
        }
        let took = rtl.model.clocks() - begun;
        assert!(took <= most * FRAMES, "{took} clocks for frames of {len}");
        rtl.drain();
        assert_eq!(rtl.exits[0].len() as u64, FRAMES);
        rtl.exits[0].clear();
    }
}
