// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode of the functional model and of the RTL, side by side: the same frames by the same ports, over mixed
//! SAs, rules, refusals, and a bus and ports that hesitate. What leaves by each port must be the same, and so
//! must the ports' counters, the cards' and the SAs'.
//!
//! `RTL_FRAMES=100000` for a longer run, `RTL_SEED` for another one.
#![allow(clippy::unwrap_used)]

mod both;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use fpga_regs::context::{FLAG_ESN, FLAG_OUTBOUND, FLAG_OUTER, FLAG_TRANSPORT, Outer, SaContext};
use fpga_regs::port::{self, PortRole};
use offload_api::sa::{Cipher, Suite};
use zerocopy::{FromZeros, IntoBytes};

use super::rules::Rule;
use super::*;
use crate::BusTiming;
use crate::admin::add_with_key;
use crate::card::FunctionConfig;
use crate::fault::FaultPlan;
use crate::rtl::random;

/// SAs of each direction.
const PAIRS: usize = 12;
/// What the host's frames come from.
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];
const MTU: u32 = 1500;
/// Frames by each port in one round.
const ROUND: u64 = 24;

/// What comes by a port, and what has left.
#[derive(Default)]
struct Line {
    coming: VecDeque<Vec<u8>>,
    left: Vec<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Line>>);

impl Fake {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap()
    }

    fn left(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lock().left)
    }
}

impl FramePort for Fake {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let frame = self.lock().coming.pop_front()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn send(&mut self, frame: &[u8]) -> bool {
        self.lock().left.push(frame.to_vec());
        true
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn mtu(&self) -> u32 {
        MTU
    }
}

impl PacketPort for Fake {
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> Received {
        let mut packets = 0;
        for (buffer, size) in buffers.iter_mut().zip(sizes) {
            let Some(packet) = self.lock().coming.pop_front() else {
                break;
            };
            buffer[OFFSET..OFFSET + packet.len()].copy_from_slice(&packet);
            *size = packet.len();
            packets += 1;
        }
        Received { packets, lost: 0 }
    }
    fn send(&mut self, packets: &mut [Vec<u8>]) -> usize {
        let packets = packets.iter();
        let packets = packets.map(|packet| packet[VIRTIO_NET_HDR_LEN..].to_vec());
        let mut left = self.lock();
        let before = left.left.len();
        left.left.extend(packets);
        left.left.len() - before
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn mtu(&self) -> u32 {
        3000
    }
}

/// A card and its ports.
struct Rig {
    card: Arc<Card>,
    inline: Inline,
    wire: Fake,
    host: Fake,
    exception: Fake,
}

impl Rig {
    fn new(rtl: Option<BusTiming>) -> Self {
        let function = FunctionConfig {
            number: 0,
            of: 1,
            queues: 8,
            max_sas: crate::rtl::MAX_SAS,
            faults: FaultPlan::default(),
            polls: false,
            null_crypto: false,
            paced: false,
            rtl,
        };
        let card = Arc::new(Card::new(function, Arc::new(Bell::new().unwrap())).unwrap());
        let none = InlineConfig {
            wire: PortSpec::None,
            host: PortSpec::None,
            exception: PortSpec::None,
        };
        let mut inline = Inline::open(&none, &Pace::default(), &card).unwrap();
        let [wire, host, exception] = [(); 3].map(|()| Fake::default());
        inline.wire = Box::new(wire.clone());
        inline.host = Box::new(host.clone());
        inline.exception = Box::new(exception.clone());
        inline.from_host = (0..BURST).map(|_| vec![0; buffer_len(3000)]).collect();
        Self {
            card,
            inline,
            wire,
            host,
            exception,
        }
    }

    fn add(&self, context: &SaContext) -> (u32, u32) {
        add_with_key(&mut self.card.lock(), context, Instant::now()).unwrap()
    }

    fn add_rule(&self, rule: &port::Rule) {
        let rule = Rule::decode(rule).unwrap();
        let mut core = self.card.lock();
        core.inline.as_mut().unwrap().rules.add(rule).unwrap();
    }

    /// What left by the wire, sealed and of the exception port; by the host port; by the exception port.
    fn round(&mut self) -> [Vec<Vec<u8>>; 4] {
        self.inline.unknown = Unknown(Instant::now(), 0);
        while self.inline.round(&self.card, true) {}
        let by_host = |frame: &Vec<u8>| frame[6..12] == HOST_MAC;
        let (exceptions, sealed) = self.wire.left().into_iter().partition(by_host);
        [sealed, exceptions, self.host.left(), self.exception.left()]
    }

    /// Counters of the ports, of the card, and of the SAs.
    fn counters(&self, sas: &[(u32, u32)]) -> (Vec<Vec<u8>>, Vec<u64>, Vec<String>) {
        let mut core = self.card.lock();
        let ports = PortRole::ALL.map(|role| {
            let described = core.inline.as_ref().unwrap().describe(role);
            described.as_bytes().to_vec()
        });
        let card = core.counters;
        let usages = sas.iter().map(|place| {
            core.rtl_pull(*place, false);
            let sa = core.sas.find(place.0, place.1).unwrap();
            format!("{:?}", sa.state.moving().usage)
        });
        let usages = usages.collect();
        let card = [
            card.sealed,
            card.sealed_bytes,
            card.opened,
            card.opened_bytes,
            card.errors,
            card.dma_faults,
        ];
        (ports.to_vec(), card.to_vec(), usages)
    }
}

fn below(seed: &mut u64, end: u64) -> u64 {
    random(seed) % end
}

/// The outer headers of a pair: the same of both SAs, so that what one seals the other opens.
fn outer(pair: usize) -> Outer {
    let mut outer = Outer::new_zeroed();
    let number = pair as u8;
    if pair % 3 == 2 {
        outer.version = 6;
        outer.source = [0x20; 16];
        outer.destination = [0x20; 16];
        (outer.source[15], outer.destination[15]) = (1, 100 + number);
    } else {
        outer.version = 4;
        outer.source[..4].copy_from_slice(&[192, 0, 2, 1]);
        outer.destination[..4].copy_from_slice(&[198, 51, 100, number]);
    }
    if pair % 2 == 1 {
        outer.source_port = 4500.into();
        outer.destination_port = 4500.into();
    }
    outer
}

fn is_transport(pair: usize) -> bool {
    pair % 6 == 4
}

fn context(pair: usize, outbound: bool, outer: &Outer) -> SaContext {
    let mut sa = SaContext::new_zeroed();
    let suite = [Suite::AES_128_GCM, Suite::AES_256_GCM][pair / 2 % 2];
    sa.spi = (0x2000_0000 + pair as u32).to_le_bytes();
    sa.cipher = suite.cipher() as u8;
    sa.integrity = suite.integrity() as u8;
    sa.cipher_key = [pair as u8 + 1; 32];
    if suite.cipher() == Cipher::Aes128Gcm {
        sa.cipher_key[16..].fill(0);
    }
    sa.salt = [pair as u8; 4];
    sa.flags = FLAG_OUTER;
    sa.outer.copy_from_slice(outer.as_bytes());
    if is_transport(pair) {
        sa.flags |= FLAG_TRANSPORT;
    }
    if pair % 4 == 3 {
        sa.flags |= FLAG_ESN;
    }
    sa.lifetimes = [0xff; 48];
    if pair == PAIRS - 1 {
        // A hard limit that is reached: octets, packets.
        sa.lifetimes[32..40].copy_from_slice(&40u64.to_le_bytes());
    }
    if outbound {
        sa.flags |= FLAG_OUTBOUND;
        sa.grant_first = 1u64.to_le_bytes();
        // One that is used up.
        let last: u64 = if pair == 0 { 60 } else { 1 << 20 };
        sa.grant_last = last.to_le_bytes();
    } else {
        sa.replay_window = 128u32.to_le_bytes();
    }
    sa
}

/// Source and destination of a pair's packets, in the clear; IPv6 for some.
fn ends(pair: usize, outer: &Outer) -> (bool, Vec<u8>, Vec<u8>) {
    if is_transport(pair) {
        let len = if outer.version == 6 { 16 } else { 4 };
        let (source, destination) = (&outer.source[..len], &outer.destination[..len]);
        return (len == 16, source.to_vec(), destination.to_vec());
    }
    if pair % 5 == 3 {
        let mut ends = [[0x30; 16], [0x31; 16]];
        ends.iter_mut().for_each(|end| end[1] = pair as u8);
        return (true, ends[0].to_vec(), ends[1].to_vec());
    }
    let number = pair as u8;
    (false, vec![10, number, 0, 5], vec![10, 100 + number, 0, 7])
}

/// A rule for a pair's packets, whose last address octets may be any.
fn rule(pair: usize, outer: &Outer, inbound: bool, sa: (u32, u32)) -> port::Rule {
    let (v6, source, destination) = ends(pair, outer);
    let mut rule = port::Rule::new_zeroed();
    rule.version = if v6 { 6 } else { 4 };
    rule.inbound = inbound.into();
    (rule.sa_index, rule.sa_generation) = (sa.0.into(), sa.1.into());
    for (place, address, last) in [
        (&mut rule.source_start, &source, 0),
        (&mut rule.source_end, &source, 0xff),
        (&mut rule.destination_start, &destination, 0),
        (&mut rule.destination_end, &destination, 0xff),
    ] {
        place[..address.len()].copy_from_slice(address);
        // In transport mode packets have the SA's own ends.
        if !is_transport(pair) {
            place[address.len() - 1] = last;
        }
    }
    rule.source_port_end = u16::MAX.into();
    rule.destination_port_end = u16::MAX.into();
    if inbound && pair.is_multiple_of(2) {
        // Some that were sealed are not permitted; fragments have no ports.
        rule.destination_port_end = 60_000.into();
    }
    rule
}

/// A packet for the host port: often a pair's.
fn packet(seed: &mut u64, outers: &[Outer]) -> Vec<u8> {
    let pair = below(seed, PAIRS as u64 + 1) as usize;
    let (v6, mut source, destination) = match outers.get(pair) {
        Some(outer) => ends(pair, outer),
        None => (false, vec![10, 77, 0, 5], vec![10, 78, 0, 7]),
    };
    if below(seed, 32) == 0 {
        source[1] ^= 1;
    }
    let len = match below(seed, 8) {
        0 => below(seed, 64),
        1 => 1360 + below(seed, 200),
        _ => below(seed, 1300),
    };
    let mut payload: Vec<u8> = (random(seed) as u16).to_be_bytes().to_vec();
    let port = (random(seed) as u16).to_be_bytes();
    payload.extend(port);
    payload.extend((0..len).map(|octet| octet as u8));
    payload.truncate(len as usize);
    let protocol = [6, 17, 132, 1][below(seed, 4) as usize];
    let mut packet = Vec::new();
    if v6 {
        let mut chain = Vec::new();
        let mut first = protocol;
        if below(seed, 4) == 0 {
            let kind = [0, 43, 44, 60][below(seed, 4) as usize];
            let later = below(seed, 2) as u8 * 8;
            chain = vec![
                protocol,
                0,
                0,
                if kind == 44 { later } else { 0 },
                0,
                0,
                0,
                1,
            ];
            first = kind;
        }
        packet.extend([0x60, random(seed) as u8 & 0xf, 0, 0]);
        packet.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
        packet.extend([first, 64]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(chain);
    } else {
        let words = 5 + if below(seed, 16) == 0 {
            below(seed, 10)
        } else {
            0
        } as usize;
        let fragment: u16 = [0x4000, 0x4000, 0x2000, 0x0010, 0][below(seed, 5) as usize];
        packet.extend([0x40 | words as u8, random(seed) as u8]);
        packet.extend((4 * words as u16 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.resize(4 * words, 1);
    }
    packet.extend(payload);
    match below(seed, 48) {
        0 => packet.push(0),
        1 => packet[0] ^= 0x10,
        2 => packet.truncate(1 + below(seed, packet.len() as u64) as usize),
        _ => {}
    }
    packet
}

/// An Ethernet frame of the host for an outer destination, which shows the way to it.
fn shows(outer: &Outer, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend(HOST_MAC);
    if outer.version == 6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64]);
        frame.extend(outer.source);
        frame.extend(outer.destination);
    } else {
        frame.extend([0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(&outer.source[..4]);
        frame.extend(&outer.destination[..4]);
    }
    frame
}

/// A frame for the wire: what was sealed earlier, whole, again, or spoilt; or something else.
fn frame(seed: &mut u64, fresh: &mut VecDeque<Vec<u8>>, old: &[Vec<u8>]) -> Vec<u8> {
    let any = |seed: &mut u64| {
        old.get(below(seed, old.len().max(1) as u64) as usize)
            .cloned()
    };
    let taken = match below(seed, 16) {
        0 => any(seed),
        // Spoilt, somewhere behind the Ethernet header.
        1 => any(seed).map(|mut frame| {
            let at = 14 + below(seed, frame.len() as u64 - 14) as usize;
            frame[at] ^= 1 << below(seed, 8);
            frame
        }),
        2 => any(seed).map(|mut frame| {
            frame.truncate(15 + below(seed, frame.len() as u64 - 14) as usize);
            frame
        }),
        3 => None,
        _ => fresh.pop_front(),
    };
    let mut frame = taken.unwrap_or_else(|| {
        let payload: Vec<u8> = match below(seed, 4) {
            0 => [&[0; 4][..], &[9; 60]].concat(),
            1 => vec![0xff],
            // An SPI that nobody has, but seldom: only some of them pass.
            2 if below(seed, 4) == 0 => [&[0x77; 4][..], &[9; 60]].concat(),
            _ => vec![0, 0, 0, 0, 1],
        };
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((28 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1]);
        frame.extend([0x11, 0x94, 0x11, 0x94]);
        frame.extend((8 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    });
    if frame.len() < 60 || below(seed, 8) == 0 {
        let padded = frame.len().max(60) + below(seed, 8) as usize;
        frame.resize(padded, 0);
    }
    frame
}

fn from_env<T: std::str::FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().ok().unwrap())
}

#[test]
fn the_rtl_passes_frames_between_its_ports_like_the_functional_model() {
    let mut seed = from_env("RTL_SEED", 11);
    let frames: u64 = from_env("RTL_FRAMES", 1500);
    let timing = BusTiming {
        hesitation: 40,
        ..BusTiming::default()
    };
    let mut rigs = [Rig::new(None), Rig::new(Some(timing))];
    let outers: Vec<Outer> = (0..PAIRS).map(outer).collect();
    let mut sas = Vec::new();
    for (pair, outer) in outers.iter().enumerate() {
        for outbound in [true, false] {
            let context = context(pair, outbound, outer);
            let [place, other] = rigs.each_ref().map(|rig| rig.add(&context));
            assert_eq!(place, other);
            let mut rule = rule(pair, outer, !outbound, place);
            rigs.iter().for_each(|rig| rig.add_rule(&rule));
            // Before all others, for some ports: dropped.
            if outbound && pair % 4 == 1 {
                rule.priority = 9.into();
                rule.action = port::RuleAction::Discard as u8;
                rule.protocol = 17;
                rule.destination_port_start = 30_000.into();
                rule.destination_port_end = 50_000.into();
                rigs.iter().for_each(|rig| rig.add_rule(&rule));
            }
            sas.push(place);
        }
    }
    let (mut fresh, mut old) = (VecDeque::new(), Vec::new());
    let mut done = 0;
    while done < frames {
        for _ in 0..1 + below(&mut seed, ROUND) {
            let packet = packet(&mut seed, &outers);
            let frame = frame(&mut seed, &mut fresh, &old);
            // The last pair's way is never shown, others' changes.
            let pair = below(&mut seed, PAIRS as u64 - 2) as usize;
            let mac = [2, 0, 0, 0, 1, below(&mut seed, 4) as u8];
            let shown = shows(&outers[pair], mac);
            for rig in &rigs {
                rig.host.lock().coming.push_back(packet.clone());
                rig.wire.lock().coming.push_back(frame.clone());
                rig.exception.lock().coming.push_back(shown.clone());
            }
            done += 1;
        }
        let [expected, found] = rigs.each_mut().map(Rig::round);
        let [expected_counters, counters] = rigs.each_ref().map(|rig| rig.counters(&sas));
        assert_eq!(counters, expected_counters, "after {done}");
        let names = [
            "sealed",
            "of the exception port",
            "opened",
            "left to the host",
        ];
        for ((expected, found), name) in expected.iter().zip(&found).zip(names) {
            for (number, (expected, found)) in expected.iter().zip(found).enumerate() {
                assert_eq!(found, expected, "{name}, frame {number} after {done}");
            }
            assert_eq!(found.len(), expected.len(), "{name}, after {done}");
        }
        let [sealed, ..] = expected;
        old.extend(sealed.iter().cloned());
        old.drain(..old.len().saturating_sub(200));
        fresh.extend(sealed);
    }
    // Each of them has been met.
    let core = rigs[1].card.lock();
    let [wire, host, exception] =
        PortRole::ALL.map(|role| core.inline.as_ref().unwrap().describe(role));
    for (what, count) in [
        ("sent by the wire", wire.sent),
        ("sent by the host port", host.sent),
        ("sent by the exception port", exception.sent),
        ("not permitted", wire.no_rule),
        ("unknown SPIs", wire.unknown_spi),
        ("refused inbound", wire.refused),
        ("too big", wire.too_big),
        ("no neighbour", wire.no_neighbour),
        ("no rule", host.no_rule),
        ("refused outbound", host.refused),
    ] {
        assert!(count.get() > 5, "{what}: {count}");
    }
}
