// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How fast the card is, in clocks: packets of several sizes and SAs, sealed and opened, with a host
//! that answers 250 clocks later. And what becomes of a card that is reset amid traffic, or whose bus
//! does not answer. What it makes of packets is compared with the functional model elsewhere.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use fpga_cosim::card::{
    Ends, HostMemory, HostTiming, Inbound, Message, Outbound, QueueSetup, Refused, RtlCard,
    SaConfig, WINDOW_WORDS,
};

const SUBMISSIONS: usize = 0;
const COMPLETIONS: usize = 0x1_0000;
const BUFFERS: usize = 0x2_0000;
const BUFFER: usize = 2048;
/// Of those buffers that are in pieces: a gather list of four entries each.
const LISTS: usize = BUFFERS + RUN * BUFFER;
const LIST: usize = 64;
/// The first so many octets of a buffer are in pieces of one size, multiples of a line; the last one has the rest.
const CUT: usize = 1536;
/// Of a packet in its buffer: sealed, it begins a line of the host's memory. Elsewhere it may lie in one
/// line more, and take a clock more to read or to write.
const OFFSET: usize = 80;
/// Operations in a run, and the ring's depth.
const RUN: usize = 512;
/// The pipes fill meanwhile.
const WARM: usize = 64;
const SAS: u32 = 16;
/// `offload_api::queue::Status::DmaFault`.
const DMA_FAULT: u8 = 3;

/// The host's memory. Each so manyth buffer can't be written, if the second one is there.
struct Memory(Vec<u8>, Option<usize>);

impl HostMemory for Memory {
    fn read(&mut self, iova: u64, into: &mut [u8]) -> bool {
        let from = self.0.get(iova as usize..iova as usize + into.len());
        from.inspect(|from| into.copy_from_slice(from)).is_some()
    }

    fn write(&mut self, iova: u64, octets: &[u8]) -> bool {
        let slot = (iova as usize).checked_sub(BUFFERS).map(|at| at / BUFFER);
        if slot
            .zip(self.1)
            .is_some_and(|(slot, each)| slot.is_multiple_of(each))
        {
            return false;
        }
        let to = self.0.get_mut(iova as usize..iova as usize + octets.len());
        to.map(|to| to.copy_from_slice(octets)).is_some()
    }

    fn post(&mut self, iova: u64, entry: &[u8; 32]) -> bool {
        self.write(iova, entry)
    }
}

impl Memory {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

struct Bench {
    card: RtlCard,
    memory: Memory,
    tail: u32,
    outer: Option<Ends>,
    /// That a buffer is in.
    pieces: usize,
}

impl Bench {
    fn new(latency: u32) -> Self {
        Self::with_outer(latency, None)
    }

    /// SAs that have outer headers.
    fn with_outer(latency: u32, outer: Option<Ends>) -> Self {
        let mut bench = Self {
            card: RtlCard::new(HostTiming {
                latency,
                ..HostTiming::default()
            }),
            memory: Memory(vec![0; LISTS + RUN * LIST], None),
            tail: 0,
            outer,
            pieces: 1,
        };
        bench.set_up();
        bench
    }

    /// SAs and a queue, in a card that has none.
    fn set_up(&mut self) {
        self.tail = 0;
        let (card, memory) = (&mut self.card, &mut self.memory);
        // SAs 0 to 15 seal what 16 to 31 open; each second one has a key of 256 bits.
        for sa in 0..2 * SAS {
            let key = [sa as u8 % SAS as u8; 32];
            let key = &key[..16 + 16 * (sa as usize % 2)];
            card.set_key(sa, key, [sa as u8 % SAS as u8; 4], memory)
                .unwrap();
            let outbound = Outbound {
                next: 1,
                last: 1 << 20,
                ..Outbound::default()
            };
            card.store(sa, &outbound, memory).unwrap();
            card.store(sa, &Inbound::default(), memory).unwrap();
            card.store(sa, &Refused::default(), memory).unwrap();
            card.store_window(sa, &[0; WINDOW_WORDS], memory).unwrap();
            let config = SaConfig {
                outbound: sa < SAS,
                transport: false,
                esn: true,
                numbered: false,
                draining: false,
                soft_time: false,
                hard_time: false,
                window: 1024,
                generation: 1,
                spi: 0x1000 + sa % SAS,
                soft: [u64::MAX; 2],
                hard: [u64::MAX; 2],
                outer: self.outer,
            };
            card.set_sa(sa, Some(&config), memory);
        }
        let rings = QueueSetup {
            submissions: SUBMISSIONS as u64,
            completions: COMPLETIONS as u64,
            depth_log2: RUN.ilog2() as u8,
            priority: 3,
        };
        card.set_queue(0, Some(&rings), memory);
    }

    /// Rings for a ring of operations.
    fn submit(&mut self, place: impl Fn(&Memory, usize) -> (u32, u32, u32)) {
        for slot in 0..RUN {
            let (sa, offset, len) = place(&self.memory, slot);
            let mut entry = [0; 64];
            entry[0] = 1;
            entry[12..16].copy_from_slice(&sa.to_le_bytes());
            entry[16] = 1;
            entry[20..24].copy_from_slice(&(BUFFER as u32).to_le_bytes());
            let buffer = (BUFFERS + slot * BUFFER) as u64;
            entry[24..32].copy_from_slice(&buffer.to_le_bytes());
            if self.pieces > 1 {
                /// `fpga_regs::descriptor::FLAG_GATHER`.
                const GATHER: u8 = 2;
                entry[1] = GATHER;
                entry[2] = self.pieces as u8;
                let list = LISTS + slot * LIST;
                entry[24..32].copy_from_slice(&(list as u64).to_le_bytes());
                self.lay_list(list, buffer);
            }
            entry[32..36].copy_from_slice(&offset.to_le_bytes());
            entry[36..40].copy_from_slice(&len.to_le_bytes());
            let at = SUBMISSIONS + slot * 64;
            self.memory.0[at..at + 64].copy_from_slice(&entry);
        }
        self.tail += RUN as u32;
        self.card.ring(0, self.tail, &mut self.memory);
        self.card.set_running(true);
    }

    fn lay_list(&mut self, list: usize, buffer: u64) {
        let size = CUT / self.pieces;
        for piece in 0..self.pieces {
            let len = match piece + 1 == self.pieces {
                true => BUFFER - piece * size,
                false => size,
            };
            let at = list + 16 * piece;
            let iova = buffer + (piece * size) as u64;
            self.memory.0[at..at + 8].copy_from_slice(&iova.to_le_bytes());
            self.memory.0[at + 8..at + 12].copy_from_slice(&(len as u32).to_le_bytes());
        }
    }

    /// Runs a ring of operations, which must succeed; clocks for each behind the first ones, and clocks in a
    /// second.
    fn run(&mut self, place: impl Fn(&Memory, usize) -> (u32, u32, u32)) -> (f64, f64) {
        self.submit(place);
        let (begun, first_clock) = (Instant::now(), self.card.clocks());
        let (mut done, mut warm) = (0, 0);
        while done < RUN {
            self.card.clock(&mut self.memory);
            while let Some(completed) = self.card.take_completed() {
                assert_eq!(completed.status, 0, "operation {done}");
                done += 1;
                if done == WARM {
                    warm = self.card.clocks();
                }
            }
            assert!(
                self.card.clocks() - first_clock < 200_000,
                "{done} are done"
            );
        }
        let clocks = self.card.clocks();
        let each = (clocks - warm) as f64 / (RUN - WARM) as f64;
        (
            each,
            (clocks - first_clock) as f64 / begun.elapsed().as_secs_f64(),
        )
    }

    /// Goes on until all that was submitted is completed; the statuses.
    fn await_all(&mut self) -> Vec<u8> {
        let mut statuses = Vec::new();
        let begun = self.card.clocks();
        while statuses.len() < RUN {
            self.card.clock(&mut self.memory);
            while let Some(completed) = self.card.take_completed() {
                statuses.push(completed.status);
            }
            let clocks = self.card.clocks() - begun;
            assert!(clocks < 2_000_000, "{} are done", statuses.len());
        }
        statuses
    }

    fn lay_packets(&mut self, len: usize) {
        for slot in 0..RUN {
            let at = BUFFERS + slot * BUFFER + OFFSET;
            let packet = &mut self.memory.0[at..at + len];
            packet.fill(slot as u8);
            packet[..20].copy_from_slice(&[
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
            ]);
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
    }

    /// Seals packets of a size, by the SAs that are named in turn.
    fn seal(&mut self, len: usize, sas: u32) -> (f64, f64) {
        self.lay_packets(len);
        self.run(to_seal(len, sas))
    }

    /// Opens what was sealed last.
    fn open(&mut self, sas: u32) -> (f64, f64) {
        self.run(to_open(sas))
    }

    /// Whether a slot's packet is what was laid there.
    fn is_laid(&self, slot: usize, len: usize) -> bool {
        let at = BUFFERS + slot * BUFFER + OFFSET;
        self.memory.0[at + 20..at + len]
            .iter()
            .all(|octet| *octet == slot as u8)
    }
}

fn to_seal(len: usize, sas: u32) -> impl Fn(&Memory, usize) -> (u32, u32, u32) {
    move |_, slot| (slot as u32 % sas, OFFSET as u32, len as u32)
}

fn to_open(sas: u32) -> impl Fn(&Memory, usize) -> (u32, u32, u32) {
    move |memory, slot| {
        let done = COMPLETIONS + slot * 32;
        let (offset, len) = (memory.word(done + 16), memory.word(done + 24));
        (SAS + slot as u32 % sas, offset, len)
    }
}

/// The bus goes on with what the card had asked for; none of it may come to the card's next life.
#[test]
fn a_reset_amid_bursts_leaves_a_card_that_works() {
    const LEN: usize = 1420;
    let mut bench = Bench::new(250);
    for life in 0..16u32 {
        bench.card.set_timing(HostTiming {
            latency: 250,
            jitter: 400,
            hesitation: 40,
            seed: life.into(),
            ..HostTiming::default()
        });
        bench.lay_packets(LEN);
        bench.submit(to_seal(LEN, SAS));
        for _ in 0..300 + 89 * life {
            bench.card.clock(&mut bench.memory);
        }
        assert!(!bench.card.is_idle());
        bench.card.reset(&mut bench.memory);
        bench.set_up();
        assert_eq!(bench.card.take_completed(), None);
        bench.lay_packets(LEN);
        bench.submit(to_seal(LEN, SAS));
        assert_eq!(bench.await_all(), [0; RUN], "life {life}");
        bench.submit(to_open(SAS));
        assert_eq!(bench.await_all(), [0; RUN], "life {life}");
        assert!((0..RUN).all(|slot| bench.is_laid(slot, LEN)), "life {life}");
    }
}

#[test]
fn reads_that_are_not_answered_fail_and_late_answers_are_dropped() {
    const LEN: usize = 1420;
    let mut bench = Bench::new(20);
    bench.card.set_timing(HostTiming {
        latency: 20,
        jitter: 1500,
        silence: 200,
        patience: 9,
        ..HostTiming::default()
    });
    bench.lay_packets(LEN);
    bench.submit(to_seal(LEN, SAS));
    let sealed = bench.await_all();
    let failed = sealed.iter().filter(|status| **status == DMA_FAULT).count();
    println!("{failed} of {RUN} failed");
    assert!((1..RUN).contains(&failed));
    assert!(sealed.iter().all(|status| [0, DMA_FAULT].contains(status)));
    assert!(bench.card.counters().dma_faults as usize >= failed);
    // The bus is well again, without a reset.
    bench.card.set_timing(HostTiming::default());
    bench.submit(to_open(SAS));
    let opened = bench.await_all();
    for (slot, (sealed, opened)) in sealed.iter().zip(opened).enumerate() {
        if *sealed == 0 {
            assert_eq!(opened, 0, "packet {slot}");
            assert!(bench.is_laid(slot, LEN), "packet {slot}");
        }
    }
    bench.seal(LEN, SAS);
    bench.open(SAS);
}

/// Some memory, and a page at the end of all addresses.
struct WithTop<'memory>(&'memory mut Memory, [u8; 4096]);

impl WithTop<'_> {
    fn top(&mut self, iova: u64, len: usize) -> Option<&mut [u8]> {
        let at = iova.checked_sub(u64::MAX - 4095)? as usize;
        self.1.get_mut(at..at + len)
    }
}

impl HostMemory for WithTop<'_> {
    fn read(&mut self, iova: u64, into: &mut [u8]) -> bool {
        match self.top(iova, into.len()) {
            Some(from) => into.copy_from_slice(from),
            None => return self.0.read(iova, into),
        }
        true
    }

    fn write(&mut self, iova: u64, octets: &[u8]) -> bool {
        match self.top(iova, octets.len()) {
            Some(to) => to.copy_from_slice(octets),
            None => return self.0.write(iova, octets),
        }
        true
    }

    fn post(&mut self, iova: u64, entry: &[u8; 32]) -> bool {
        self.write(iova, entry)
    }
}

/// What sealing puts behind a packet that ends with all addresses would come to lie at their beginning, where
/// the ring is.
#[test]
fn nothing_is_written_around_the_end_of_all_addresses() {
    const LEN: usize = 64;
    // Two octets of padding, two of trailer, the ICV.
    const BEHIND: usize = 20;
    for (beyond, expected) in [(0, 0), (1, DMA_FAULT), (BEHIND, DMA_FAULT)] {
        let mut bench = Bench::new(4);
        bench.lay_packets(LEN);
        let end = 4096 - BEHIND + beyond;
        let mut page = [0; 4096];
        page[end - LEN..end]
            .copy_from_slice(&bench.memory.0[BUFFERS + OFFSET..BUFFERS + OFFSET + LEN]);
        let mut entry = [0; 64];
        entry[0] = 1;
        entry[16] = 1;
        entry[20..24].copy_from_slice(&8192u32.to_le_bytes());
        entry[24..32].copy_from_slice(&(u64::MAX - 4095).to_le_bytes());
        entry[32..36].copy_from_slice(&((end - LEN) as u32).to_le_bytes());
        entry[36] = LEN as u8;
        bench.memory.0[..64].copy_from_slice(&entry);
        let before = bench.memory.0[..COMPLETIONS].to_vec();
        let (card, mut memory) = (&mut bench.card, WithTop(&mut bench.memory, page));
        card.ring(0, 1, &mut memory);
        card.set_running(true);
        card.finish(&mut memory).unwrap();
        assert_eq!(card.take_completed().unwrap().status, expected, "{beyond}");
        assert!(memory.0.0[..COMPLETIONS] == before, "{beyond}");
        let written = memory.1 != page;
        assert_eq!(written, expected == 0, "{beyond}");
    }
}

#[test]
fn a_packet_that_cannot_be_written_fails_and_does_not_count() {
    const LEN: usize = 600;
    const EACH: usize = 7;
    let mut bench = Bench::new(20);
    let expected: Vec<u8> = (0..RUN)
        .map(|slot| {
            if slot.is_multiple_of(EACH) {
                DMA_FAULT
            } else {
                0
            }
        })
        .collect();
    let good = expected.iter().filter(|status| **status == 0).count() as u64;
    // Of an SA, which has each sixteenth slot.
    let of = |sa: u32| {
        let slots = expected.iter().skip(sa as usize).step_by(SAS as usize);
        slots.filter(|status| **status == 0).count() as u64
    };
    bench.lay_packets(LEN);
    bench.memory.1 = Some(EACH);
    bench.submit(to_seal(LEN, SAS));
    assert_eq!(bench.await_all(), expected);
    for sa in 0..SAS {
        let state: Outbound = bench.card.load(sa, &mut bench.memory).unwrap();
        assert_eq!(state.packets, of(sa), "SA {sa}");
        assert_eq!(state.bytes, of(sa) * LEN as u64, "SA {sa}");
        // A number is used once, whatever becomes of its packet.
        assert_eq!(state.next, 1 + (RUN as u64 / u64::from(SAS)), "SA {sa}");
    }
    let counters = bench.card.counters();
    assert_eq!(counters.sealed, good);
    assert_eq!(counters.errors, RUN as u64 - good);

    bench.memory.1 = None;
    bench.seal(LEN, SAS);
    bench.memory.1 = Some(EACH);
    bench.submit(to_open(SAS));
    assert_eq!(bench.await_all(), expected);
    for sa in 0..SAS {
        let state: Inbound = bench.card.load(SAS + sa, &mut bench.memory).unwrap();
        assert_eq!(state.packets, of(sa), "SA {sa}");
        assert_eq!(state.bytes, of(sa) * LEN as u64, "SA {sa}");
    }
    assert_eq!(bench.card.counters().opened, good);
}

#[test]
fn packets_of_1420_octets_take_24_clocks_of_one_sa_or_many() {
    let mut bench = Bench::new(250);
    for sas in [1, SAS] {
        let (sealed, speed) = bench.seal(1420, sas);
        let (opened, _) = bench.open(sas);
        println!("{sas} SAs: {sealed:.2} clocks to seal, {opened:.2} to open; {speed:.0} clocks/s");
        assert!(sealed <= 24.1 && opened <= 24.1);
    }
}

/// The bus takes a line more for them in either direction, and so a clock.
#[test]
fn packets_of_1420_octets_in_outer_headers_take_a_clock_more_to_open() {
    for (v6, udp) in [
        (false, None),
        (false, Some([4500; 2])),
        (true, Some([4500; 2])),
    ] {
        let ends = Ends {
            v6,
            source: [1; 16],
            destination: [2; 16],
            udp,
        };
        let mut bench = Bench::with_outer(250, Some(ends));
        let (sealed, _) = bench.seal(1420, SAS);
        let (opened, _) = bench.open(SAS);
        let named = format!(
            "IPv{}{}",
            if v6 { 6 } else { 4 },
            udp.map_or("", |_| " and UDP")
        );
        println!("{named}: {sealed:.2} clocks to seal, {opened:.2} to open");
        assert!(sealed <= 24.1 && opened <= 25.1);
    }
}

/// One for the line of their list, and one for each cut.
#[test]
fn packets_of_1420_octets_in_pieces_take_some_clocks_more() {
    for (pieces, most) in [(2, 26.1), (4, 28.1)] {
        let mut bench = Bench::new(250);
        bench.pieces = pieces;
        let (sealed, _) = bench.seal(1420, SAS);
        let (opened, _) = bench.open(SAS);
        println!("{pieces} pieces: {sealed:.2} clocks to seal, {opened:.2} to open");
        assert!((0..RUN).all(|slot| bench.is_laid(slot, 1420)));
        assert!(sealed <= most && opened <= most);
    }
}

#[test]
fn small_packets_take_as_long_as_their_state_does() {
    let mut bench = Bench::new(250);
    for len in [64, 128, 256, 512] {
        let (sealed, _) = bench.seal(len, SAS);
        let (opened, _) = bench.open(SAS);
        println!("{len} octets: {sealed:.2} clocks to seal, {opened:.2} to open");
        assert!(sealed <= 12.0 && opened <= 12.0);
    }
}

#[test]
fn registers_answer_amid_traffic() {
    /// `fpga_regs::registers::{identity::MAGIC, statistics::SEALED}`.
    const MAGIC: u64 = 0;
    const SEALED: u64 = 0x4000;
    let mut bench = Bench::new(250);
    bench.lay_packets(1420);
    bench.submit(to_seal(1420, SAS));
    let mut reads = 0;
    while bench.card.counters().sealed < RUN as u64 {
        let (card, memory) = (&mut bench.card, &mut bench.memory);
        let before = card.clocks();
        let magic = card.read_register(MAGIC, memory).unwrap();
        assert_eq!(magic.to_le_bytes(), *b"IPA1");
        assert_eq!(card.clocks() - before, 3);
        let counted = card.counters().sealed as u32;
        let told = card.read_register(SEALED, memory).unwrap();
        assert!((counted..=counted + 4).contains(&told), "{counted} {told}");
        reads += 1;
    }
    assert!(reads > RUN, "{reads}");
    let statuses = bench.await_all();
    assert!(statuses.iter().all(|status| *status == 0));
}

#[test]
fn a_queue_asks_for_an_interrupt_before_or_after_its_completions() {
    const ADDRESS: u64 = 0x1_fee0_1000;
    let mut bench = Bench::new(40);
    let (card, memory) = (&mut bench.card, &mut bench.memory);
    // Vector 1 is queue 0's: address, data, unmasked.
    for (word, value) in [ADDRESS as u32, (ADDRESS >> 32) as u32, 77, 0]
        .into_iter()
        .enumerate()
    {
        card.write_table(16 + 4 * word as u64, value, 0xf, memory)
            .unwrap();
    }
    assert_eq!(card.read_table(16, memory).unwrap(), ADDRESS as u32);
    assert_eq!(card.read_table(12, memory).unwrap(), 1, "masked at first");
    let expected = Message {
        vector: 1,
        address: ADDRESS,
        data: 77,
    };
    let sent = |bench: &mut Bench| {
        bench.card.let_messages_out(&mut bench.memory).unwrap();
        bench.card.take_message()
    };
    bench.lay_packets(64);
    bench.submit(to_seal(64, SAS));
    bench.await_all();
    assert_eq!(sent(&mut bench), None, "nobody has asked");
    let all = bench.tail;
    // Completions that the host has not seen yet: told at once, and once.
    bench.card.arm(0, all - 1, &mut bench.memory);
    assert_eq!(sent(&mut bench), Some(expected));
    assert_eq!(sent(&mut bench), None);
    // All seen: told with the next one.
    bench.card.arm(0, all, &mut bench.memory);
    assert_eq!(sent(&mut bench), None);
    bench.submit(to_open(SAS));
    bench.await_all();
    assert_eq!(sent(&mut bench), Some(expected));
    assert_eq!(sent(&mut bench), None);
}

/// For `benches/cosim-speed.sh`: a figure of this machine, so nothing is asserted.
#[test]
#[ignore = "a measurement"]
fn clocks_in_a_second() {
    let mut bench = Bench::new(250);
    for _ in 0..10 {
        let (_, sealing) = bench.seal(1420, SAS);
        let (_, opening) = bench.open(SAS);
        println!("clocks/s: {sealing:.0} {opening:.0}");
    }
}

/// Threads of this process by the name of the one that asks, which its own threads inherit.
fn threads_like_me() -> usize {
    let name = |task: &str| std::fs::read_to_string(format!("/proc/{task}/comm"));
    let mine = name("thread-self").unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| name(&format!("self/task/{}", task.ok()?.file_name().to_str()?)).ok())
        .filter(|name| *name == mine)
        .count()
}

#[test]
fn cards_are_made_moved_and_dropped_by_any_thread() {
    let (tell, ended) = mpsc::channel();
    let work = move || {
        let before = threads_like_me();
        for _ in 0..4 {
            let (first, last) = (Bench::new(4), Bench::new(4));
            assert_eq!(threads_like_me(), before, "a card has no threads");
            drop(last);
            // Over what the card that was made last has left behind.
            let rubbish: Vec<Vec<u8>> = (1..512).map(|size| vec![0xff; size * 8]).collect();
            let other = std::thread::spawn(move || drop(first));
            other.join().unwrap();
            drop(rubbish);
        }
        tell.send(()).unwrap();
    };
    let named = std::thread::Builder::new().name("dropper".to_owned());
    let work = named.spawn(work).unwrap();
    // Far longer than it takes: it used to wait for ever.
    let result = ended.recv_timeout(Duration::from_secs(300));
    assert_ne!(result, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    work.join().unwrap();
}
