// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The function without a bus: its registers, its rings, and the engine behind them.

use std::time::{Duration, Instant};

use qat_regs::csr::{self, Layout};
use qat_regs::message::{EMPTY_WORD, HEADER_VALID, Request, Response, ResponseStatus};
use qat_regs::{Generation, MISC_BAR, RING_BAR};
use qat_regs::{mailbox, pfvf};
use zerocopy::{FromZeros, IntoBytes};

use super::job::{self, Done};
use super::{HostMemory, pf};
use crate::fault::{Fault, FaultPlan};

const REQUEST: u64 = size_of::<Request>() as u64;
const RESPONSE: u64 = size_of::<Response>() as u64;
/// Of a ring's source: responses that wait.
const SOURCE_WAITS: u64 = 4;
/// How late a late doorbell or response is.
const LATE: Duration = Duration::from_millis(1);

/// A QAT virtual function, to whoever brings it a bus and the host's memory.
pub struct Vf {
    generation: Generation,
    layout: Layout,
    bundles: Vec<Bundle>,
    from_pf: u32,
    to_pf: u32,
    /// The register of Gen2 that both sides share, what does not interrupt there, and what waits to.
    mailbox: u32,
    mask: u32,
    waiting: u32,
    counters: Counters,
    faults: FaultPlan,
    /// Hangs until a reset.
    stalled: bool,
    /// Reads as all ones until a reset.
    vanished: bool,
    /// Does nothing before.
    rests: Option<Instant>,
    buffer: Vec<u8>,
}

/// What a function has done since its reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub requests: u64,
    /// Of those, answered with an error.
    pub failed: u64,
    /// Accesses to memory of rings that is not there.
    pub dma_faults: u64,
}

#[derive(Clone, Default)]
struct Bundle {
    rings: Vec<Ring>,
    arbiter: u32,
    interrupt_enable: u32,
    interrupt_timer: u32,
    interrupt_flag: u32,
    /// Four bits a ring.
    interrupt_source: u64,
    /// The last responses' opaque words, for forging.
    earlier: u64,
}

#[derive(Clone, Copy, Default)]
struct Ring {
    config: u32,
    base: u64,
    head: u32,
    tail: u32,
}

impl Ring {
    /// Where it starts and its size, if both make sense, and head and tail are places of its entries:
    /// the driver may write any of them.
    fn place(&self, entry: u64) -> Option<(u64, u32)> {
        let octets = csr::ring_octets(self.config)?;
        let aligned = self.base.is_multiple_of(octets) && self.base != 0;
        let within = |at: u32| u64::from(at) < octets && u64::from(at).is_multiple_of(entry);
        let sane = aligned && within(self.head) && within(self.tail);
        sane.then_some((self.base, octets as u32))
    }
}

/// What a round of work came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Interrupts of bundles, each so many times.
    pub interrupts: Vec<(usize, u32)>,
    /// There is more to do.
    pub more: bool,
    /// There is something to do then.
    pub rests: Option<Duration>,
}

impl Vf {
    /// A function at power-on.
    pub fn new(generation: Generation, faults: FaultPlan) -> Self {
        let layout = Layout::of(generation);
        let mut this = Self {
            generation,
            layout,
            bundles: Vec::new(),
            from_pf: 0,
            to_pf: 0,
            mailbox: 0,
            mask: 0,
            waiting: 0,
            counters: Counters::default(),
            faults,
            stalled: false,
            vanished: false,
            rests: None,
            buffer: Vec::new(),
        };
        this.reset();
        this
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        let bundle = Bundle {
            rings: vec![Ring::default(); self.layout.rings as usize],
            ..Bundle::default()
        };
        self.bundles = vec![bundle; self.layout.bundles as usize];
        (self.from_pf, self.to_pf) = (0, 0);
        (self.mailbox, self.waiting) = (0, 0);
        self.mask = mailbox::SOURCE_BUNDLE | mailbox::SOURCE_MESSAGE;
        self.counters = Counters::default();
        (self.stalled, self.vanished, self.rests) = (false, false, None);
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn is_refused_by_the_bus(&mut self) -> bool {
        self.faults.strikes(Fault::BusError)
    }

    /// Reads a register. What is nothing reads as zero.
    pub fn read(&self, bar: u32, offset: u64) -> u32 {
        if self.vanished {
            return u32::MAX;
        }
        match (bar, offset) {
            (MISC_BAR, _) => self.read_misc(offset),
            (RING_BAR, _) => self.read_ring(offset).unwrap_or(0),
            _ => 0,
        }
    }

    fn read_misc(&self, offset: u64) -> u32 {
        match (self.generation, offset) {
            (Generation::Gen4, pfvf::FROM_PF) => self.from_pf,
            (Generation::Gen4, pfvf::TO_PF) => self.to_pf,
            (Generation::Gen2, mailbox::MAILBOX) => self.mailbox,
            (Generation::Gen2, mailbox::MASK) => self.mask,
            (Generation::Gen2, mailbox::SOURCES) => {
                let rings = self.bundles.iter().any(|bundle| bundle.interrupt_flag != 0);
                let message = mailbox::heard(self.mailbox).is_some();
                let bit = |on: bool, bit: u32| if on { bit } else { 0 };
                bit(rings, mailbox::SOURCE_BUNDLE) | bit(message, mailbox::SOURCE_MESSAGE)
            }
            _ => 0,
        }
    }

    /// Whether an interrupt is due.
    fn write_misc(&mut self, offset: u64, value: u32) -> bool {
        match (self.generation, offset) {
            // Its reader clears the bit, and nothing else.
            (Generation::Gen4, pfvf::FROM_PF) => self.from_pf &= value | !pfvf::WAITS,
            (Generation::Gen4, pfvf::TO_PF) => self.hear(value),
            (Generation::Gen2, mailbox::MAILBOX) => self.hear_by_mailbox(value),
            (Generation::Gen2, mailbox::MASK) => self.mask = value,
            _ => {}
        }
        self.waiting & !self.mask != 0
    }

    fn read_ring(&self, offset: u64) -> Option<u32> {
        let (number, offset) = (offset / self.layout.bundle, offset % self.layout.bundle);
        let bundle = self.bundles.get(usize::try_from(number).ok()?)?;
        if let Some((ring, register)) = self.ring_at(offset) {
            let ring = bundle.rings.get(ring)?;
            let base = ring.base >> self.layout.base_shift;
            return Some(match register {
                RingRegister::Config => ring.config,
                RingRegister::BaseLow => base as u32,
                RingRegister::BaseHigh => (base >> 32) as u32,
                RingRegister::Head => ring.head,
                RingRegister::Tail => ring.tail,
            });
        }
        Some(match offset {
            csr::EMPTY_STATUS => {
                let rings = bundle.rings.iter().enumerate();
                rings.fold(0, |bits, (n, ring)| {
                    bits | u32::from(ring.head == ring.tail) << n
                })
            }
            csr::INTERRUPT_FLAG => bundle.interrupt_flag,
            csr::INTERRUPT_SOURCE => bundle.interrupt_source as u32,
            csr::INTERRUPT_SOURCE_UPPER => (bundle.interrupt_source >> 32) as u32,
            csr::INTERRUPT_ENABLE => bundle.interrupt_enable,
            csr::INTERRUPT_TIMER => bundle.interrupt_timer,
            csr::ARBITER => bundle.arbiter,
            _ => 0,
        })
    }

    /// Writes a register, and tells whether there may be something to [`serve`](Self::serve). What is
    /// nothing takes nothing.
    pub fn write(&mut self, bar: u32, offset: u64, value: u32) -> bool {
        match (bar, offset) {
            _ if self.vanished => false,
            (MISC_BAR, _) => self.write_misc(offset, value),
            (RING_BAR, _) => self.write_ring(offset, value).unwrap_or(false),
            _ => false,
        }
    }

    fn hear(&mut self, word: u32) {
        self.to_pf = word;
        if self.faults.strikes(Fault::DropAnswer) {
            return;
        }
        let said = pfvf::parse(word);
        let answer = pf::answer(self.generation, said, self.layout.bundles);
        if let Some(pair) = answer.resets {
            self.reset_pair(pair as usize);
        }
        // The answer is there before the word is taken.
        if let Some((kind, data)) = answer.said {
            let mut word = pfvf::word(kind, data);
            if self.faults.strikes(Fault::ForgeAnswerStatus) {
                word |= 0xff << 8;
            }
            self.from_pf = word;
        }
        self.to_pf &= !pfvf::WAITS;
    }

    /// As [`hear`](Self::hear), by the register that both sides write.
    fn hear_by_mailbox(&mut self, value: u32) {
        self.mailbox = value;
        let Some(said) = mailbox::heard_by_pf(value) else {
            return;
        };
        if self.faults.strikes(Fault::DropAnswer) {
            return;
        }
        self.mailbox = mailbox::taken_by_pf(value, said.0);
        let answer = pf::answer(self.generation, Some(said), 0);
        if let Some((kind, mut data)) = answer.said {
            if self.faults.strikes(Fault::ForgeAnswerStatus) {
                // The verdict that they can't speak to each other.
                data = data & 0xff | 2 << 8;
            }
            self.mailbox = mailbox::say_by_pf(kind, data);
            self.waiting |= mailbox::SOURCE_MESSAGE;
        }
    }

    fn reset_pair(&mut self, pair: usize) {
        if let Some(bundle) = self.bundles.get_mut(pair) {
            let rings = vec![Ring::default(); bundle.rings.len()];
            *bundle = Bundle {
                rings,
                ..Bundle::default()
            };
        }
    }

    fn write_ring(&mut self, offset: u64, value: u32) -> Option<bool> {
        let (number, offset) = (offset / self.layout.bundle, offset % self.layout.bundle);
        let shift = self.layout.base_shift;
        let at = self.ring_at(offset);
        let bundle = self.bundles.get_mut(usize::try_from(number).ok()?)?;
        let Some((ring, register)) = at else {
            match offset {
                csr::INTERRUPT_FLAG => bundle.interrupt_flag &= !value,
                csr::INTERRUPT_SOURCE => {
                    let upper = bundle.interrupt_source & !u64::from(u32::MAX);
                    bundle.interrupt_source = upper | u64::from(value);
                }
                csr::INTERRUPT_SOURCE_UPPER => {
                    let lower = bundle.interrupt_source & u64::from(u32::MAX);
                    bundle.interrupt_source = lower | u64::from(value) << 32;
                }
                csr::INTERRUPT_ENABLE => bundle.interrupt_enable = value,
                csr::INTERRUPT_TIMER => bundle.interrupt_timer = value,
                csr::INTERRUPT_FLAG_AND_ENABLE => {
                    (bundle.interrupt_flag, bundle.interrupt_enable) = (0, value);
                }
                csr::ARBITER => bundle.arbiter = value,
                _ => return Some(false),
            }
            return Some(true);
        };
        let requests = bundle.rings.len() / 2;
        let ring_number = ring;
        let ring = bundle.rings.get_mut(ring)?;
        match register {
            RingRegister::Head => ring.head = value,
            RingRegister::Tail => {
                ring.tail = value;
                let rung = ring_number < requests;
                if rung && self.faults.strikes(Fault::LoseDoorbell) {
                    return Some(false);
                }
                if rung && self.faults.strikes(Fault::LateDoorbell) {
                    self.rests = Some(Instant::now() + LATE);
                }
                return Some(rung);
            }
            // Whoever sets a ring up starts at its beginning, and writes neither head nor tail.
            RingRegister::Config => {
                (ring.config, ring.head, ring.tail) = (value, 0, 0);
            }
            RingRegister::BaseLow => {
                let low = u64::from(value) << shift;
                let mask = u64::from(u32::MAX) << shift;
                (ring.base, ring.head, ring.tail) = (ring.base & !mask | low, 0, 0);
            }
            RingRegister::BaseHigh => {
                let high = u64::from(value) << (32 + shift);
                let mask = u64::MAX << (32 + shift);
                (ring.base, ring.head, ring.tail) = (ring.base & !mask | high, 0, 0);
            }
        }
        Some(false)
    }

    /// Which ring's which register is there.
    fn ring_at(&self, offset: u64) -> Option<(usize, RingRegister)> {
        let registers = [
            (self.layout.config, RingRegister::Config),
            (self.layout.base_low, RingRegister::BaseLow),
            (self.layout.base_high, RingRegister::BaseHigh),
            (csr::HEAD, RingRegister::Head),
            (csr::TAIL, RingRegister::Tail),
        ];
        registers.into_iter().find_map(|(first, register)| {
            let number = offset.checked_sub(first)? / 4;
            (number < u64::from(self.layout.rings)).then_some((number as usize, register))
        })
    }

    /// Does requests, so many of each ring at most.
    pub fn serve(&mut self, memory: &dyn HostMemory, most: usize) -> Served {
        let mut served = Served::default();
        if self.stalled || self.vanished {
            return served;
        }
        if let Some(rests) = self.rests {
            let left = rests.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                served.rests = Some(left);
                return served;
            }
            self.rests = None;
        }
        for bundle in 0..self.bundles.len() {
            for pair in 0..self.layout.rings / 2 {
                served.more |= self.serve_ring(bundle, pair, memory, most);
            }
            self.raise(bundle, &mut served);
        }
        self.raise_shared(&mut served);
        if let Some(rests) = self.rests {
            served.rests = Some(rests.saturating_duration_since(Instant::now()));
        }
        served
    }

    fn raise(&mut self, number: usize, served: &mut Served) {
        let Some(bundle) = self.bundles.get_mut(number) else {
            return;
        };
        if bundle.interrupt_timer & csr::TIMER_ON == 0 {
            return;
        }
        let responses = bundle.rings.iter().enumerate();
        let told = |n: usize| bundle.interrupt_source >> (4 * n) & SOURCE_WAITS != 0;
        let waits = responses
            .skip(bundle.rings.len() / 2)
            .filter(|(n, ring)| told(*n) && ring.head != ring.tail)
            .fold(0, |bits, (n, _)| bits | 1 << n);
        let due = waits & bundle.interrupt_enable & !bundle.interrupt_flag;
        if due == 0 {
            return;
        }
        bundle.interrupt_flag |= due;
        if self.generation == Generation::Gen2 {
            self.waiting |= mailbox::SOURCE_BUNDLE;
            return;
        }
        self.interrupt(number, served);
    }

    /// The one interrupt of a Gen2 function, for whatever waits and is not masked.
    fn raise_shared(&mut self, served: &mut Served) {
        if self.waiting & !self.mask != 0 {
            self.waiting &= self.mask;
            self.interrupt(0, served);
        }
    }

    fn interrupt(&mut self, number: usize, served: &mut Served) {
        if self.faults.strikes(Fault::LoseInterrupt) {
            return;
        }
        let mut times = 1;
        if self.faults.strikes(Fault::DuplicateInterrupt) {
            times = 2;
        }
        if self.faults.strikes(Fault::StormInterrupt) {
            times = 1000;
        }
        let wrong = usize::from(self.faults.strikes(Fault::WrongVector));
        let vector = (number + wrong) % self.layout.bundles as usize;
        served.interrupts.push((vector, times));
    }

    /// Whether more is to be done at once.
    fn serve_ring(
        &mut self,
        number: usize,
        pair: u32,
        memory: &dyn HostMemory,
        most: usize,
    ) -> bool {
        let response_ring = self.layout.response_ring(pair) as usize;
        let mut turned: Option<Response> = None;
        for _ in 0..most {
            let Some(bundle) = self.bundles.get(number) else {
                return false;
            };
            let (Some(requests), Some(responses)) = (
                bundle.rings.get(pair as usize).copied(),
                bundle.rings.get(response_ring).copied(),
            ) else {
                return false;
            };
            let Some((place, room)) = requests.place(REQUEST).zip(responses.place(RESPONSE)) else {
                return false;
            };
            let served = bundle.arbiter & 1 << pair != 0;
            if !served || requests.head == requests.tail {
                break;
            }
            let full = (responses.tail + RESPONSE as u32) & (room.1 - 1) == responses.head;
            if full {
                break;
            }
            if self.faults.strikes(Fault::Stall) || self.faults.strikes(Fault::Hang) {
                self.stalled = true;
                return false;
            }
            if self.faults.strikes(Fault::VanishRegisters) {
                self.vanished = true;
                return false;
            }
            if self.faults.strikes(Fault::ResetItself) {
                self.reset();
                return false;
            }
            let mut request = Request::new_zeroed();
            let reached = memory.read(place.0 + u64::from(requests.head), request.as_mut_bytes());
            if let Some(ring) = self.ring_mut(number, pair as usize) {
                ring.head = (ring.head + REQUEST as u32) & (place.1 - 1);
            }
            if !reached {
                self.counters.dma_faults += 1;
                continue;
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let mut done = job::run(self.generation, &request, memory, &mut buffer);
            self.buffer = buffer;
            self.counters.requests += 1;
            self.spoil(&request, &mut done, memory);
            self.counters.failed += u64::from(!done.status.is_empty());
            let response = Response {
                service: 1,
                kind: request.service,
                header_flags: HEADER_VALID,
                status: done.status.bits(),
                command: request.command,
                opaque: request.opaque,
                ..Response::new_zeroed()
            };
            self.answer(number, response_ring, response, &mut turned, memory);
        }
        if let Some(response) = turned {
            self.respond(number, response_ring, response, memory);
        }
        let ring = self.bundles.get(number);
        let ring = ring.and_then(|bundle| bundle.rings.get(pair as usize));
        ring.is_some_and(|ring| ring.head != ring.tail) && self.rests.is_none() && {
            let arbiter = self.bundles.get(number).map_or(0, |bundle| bundle.arbiter);
            arbiter & 1 << pair != 0 && !self.is_full(number, response_ring)
        }
    }

    fn is_full(&self, number: usize, ring: usize) -> bool {
        let ring = self.bundles.get(number).and_then(|b| b.rings.get(ring));
        ring.is_none_or(|ring| match ring.place(RESPONSE) {
            Some((_, octets)) => (ring.tail + RESPONSE as u32) & (octets - 1) == ring.head,
            None => true,
        })
    }

    fn ring_mut(&mut self, bundle: usize, ring: usize) -> Option<&mut Ring> {
        self.bundles.get_mut(bundle)?.rings.get_mut(ring)
    }

    /// Faults of what a request made.
    fn spoil(&mut self, request: &Request, done: &mut Done, memory: &dyn HostMemory) {
        if self.faults.is_empty() {
            return;
        }
        let good = done.status.is_empty();
        let fault = if done.seals {
            Fault::CorruptOutput
        } else {
            Fault::CorruptPlain
        };
        if good
            && let Some(last) = done.last_output
            && self.faults.strikes(fault)
        {
            let mut octet = [0];
            let _ = memory.read(last, &mut octet);
            let _ = memory.write(last, &[octet[0] ^ 0x55]);
        }
        if good && !done.seals && self.faults.strikes(Fault::ForgeBadIcv) {
            done.status = ResponseStatus::CRYPTO_FAILED;
        }
        if self.faults.strikes(Fault::ForgeStatus) {
            done.status = ResponseStatus::from_bits_retain(0x59);
        }
        if self.faults.strikes(Fault::StrayDma) {
            let beyond = request.source.get() ^ 1 << 62;
            let _ = memory.write(beyond, &[0xee; 64]);
        }
    }

    /// Faults of a response, and the response.
    fn answer(
        &mut self,
        number: usize,
        ring: usize,
        mut response: Response,
        turned: &mut Option<Response>,
        memory: &dyn HostMemory,
    ) {
        let opaque = response.opaque.get();
        if self.faults.strikes(Fault::DropCompletion) {
            return;
        }
        if self.faults.strikes(Fault::ForgeSlot) {
            response.opaque = (opaque ^ 0xffff_0000_00ff_ff00).into();
        }
        if self.faults.strikes(Fault::ForgeGeneration) {
            let earlier = self.bundles.get(number).map_or(0, |bundle| bundle.earlier);
            response.opaque = earlier.into();
        }
        if let Some(bundle) = self.bundles.get_mut(number) {
            bundle.earlier = opaque;
        }
        if self.faults.strikes(Fault::DelayCompletion) {
            self.rests = Some(Instant::now() + LATE);
        }
        if turned.is_none() && self.faults.strikes(Fault::ReorderCompletion) {
            *turned = Some(response);
            return;
        }
        self.respond(number, ring, response, memory);
        if self.faults.strikes(Fault::DuplicateCompletion) {
            self.respond(number, ring, response, memory);
        }
        if let Some(response) = turned.take() {
            self.respond(number, ring, response, memory);
        }
    }

    fn respond(&mut self, number: usize, ring: usize, response: Response, memory: &dyn HostMemory) {
        let Some(ring) = self.ring_mut(number, ring) else {
            return;
        };
        let Some((base, octets)) = ring.place(RESPONSE) else {
            return;
        };
        let at = base + u64::from(ring.tail);
        ring.tail = (ring.tail + RESPONSE as u32) & (octets - 1);
        let octets = response.as_bytes();
        let Some((first, _)) = octets.split_first_chunk::<8>() else {
            return;
        };
        debug_assert_ne!(
            first
                .first_chunk::<4>()
                .map(|word| u32::from_le_bytes(*word)),
            Some(EMPTY_WORD)
        );
        // Whoever sees the first four octets sees the others.
        let rest = octets.get(4..).unwrap_or_default();
        let written = memory.write(at + 4, rest) && memory.publish(at, u64::from_le_bytes(*first));
        if !written {
            self.counters.dma_faults += 1;
        }
    }
}

#[derive(Clone, Copy)]
enum RingRegister {
    Config,
    BaseLow,
    BaseHigh,
    Head,
    Tail,
}
