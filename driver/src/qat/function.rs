// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One virtual function: its registers, its physical function's answers, its ring pairs, and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use offload_api::error::DeviceError;
use qat_regs::csr::{self, Layout};
use qat_regs::mailbox;
use qat_regs::message::{Request, Response};
use qat_regs::pfvf::{self, kind};
use qat_regs::{Generation, MISC_BAR, RING_BAR, known_device};
use vfio_user::message::REGION_CONFIG;

use super::extra::EXTRA;
use super::greet;
use super::inspect::PairReport;
use super::ring::Pulse;
use crate::bar::Registers;
use crate::dma::{DmaArena, DmaSlice, IovaAllocator};
use crate::let_go::LetGo;
use crate::lock;
use crate::transport::{MappedRegion, Transport};

/// Memory for rings: two depths of each of four pairs.
const ARENA: usize = 8 << 20;
/// Largest number of operations of a queue pair.
pub(super) const MAX_DEPTH: u32 = 1024;
/// The least entries of a ring.
const LEAST_ENTRIES: u32 = 128;

/// A ring pair: its bundle, and its request ring there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) bundle: u32,
    pub(super) ring: u32,
}

/// Memory of a ring pair.
#[derive(Clone, Copy)]
pub(super) struct RingMemory {
    pub(super) requests: DmaSlice,
    pub(super) responses: DmaSlice,
    pub(super) extras: DmaSlice,
}

/// A virtual function, from its opening to its loss.
pub(super) struct Function {
    pub(super) transport: Box<dyn Transport>,
    pub(super) generation: Generation,
    pub(super) product: &'static str,
    pub(super) arena: Arc<DmaArena>,
    /// Ring pairs for symmetric cryptography.
    pub(super) pairs: Vec<Pair>,
    layout: Layout,
    /// Its physical function answers.
    pub(super) is_heard: bool,
    /// Where the platform lets it be mapped: doorbells are stores then.
    mapped: Option<MappedRegion>,
    /// It interrupts.
    interrupts: AtomicBool,
    /// Ring memory of queues that were closed, by depth.
    rings: Mutex<Vec<(u32, RingMemory)>>,
    pulses: Mutex<Vec<Weak<Pulse>>>,
    /// The arbiter's registers are read and written back.
    arbiter: Mutex<()>,
    /// Where pairs share an interrupt, those that wait for it, by response ring.
    armed: Mutex<u32>,
    /// Held from a word to the physical function until its answer, which does not name the ring pair.
    mailbox: Mutex<()>,
    lost: Mutex<Option<String>>,
    is_lost: AtomicBool,
    /// Memory that is mapped for it: address and octets.
    mappings: Mutex<Vec<(u64, usize)>>,
    let_go: LetGo,
}

impl Function {
    /// Brings a function up: identity, reset, the physical function's word, memory.
    pub(super) fn begin(
        transport: Box<dyn Transport>,
        iovas: &IovaAllocator,
    ) -> Result<Self, DeviceError> {
        let mut id = [0; 4];
        transport.read(REGION_CONFIG, 0, &mut id)?;
        let [a, b, c, d] = id;
        let (vendor, device) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let known = known_device(vendor, device).ok_or_else(|| DeviceError::Protocol {
            what: format!("PCI id {vendor:04x}:{device:04x} is no QAT that this driver knows"),
        })?;
        transport.reset()?;
        // Memory space and bus mastering.
        transport.write(REGION_CONFIG, 4, &6u16.to_le_bytes())?;
        let layout = Layout::of(known.generation);
        let rings = Layout::symmetric(known.generation);
        let all = (0..layout.bundles).flat_map(|bundle| {
            rings.iter().map(move |ring| Pair {
                bundle,
                ring: *ring,
            })
        });
        let mut is_heard = false;
        let pairs = match known.generation {
            Generation::Gen4 => {
                let map = greet::greet(&*transport, layout.bundles)?;
                is_heard = true;
                let symmetric = |pair: &Pair| {
                    let service = pfvf::service_of(map, pair.bundle);
                    matches!(service, pfvf::service::SYMMETRIC | pfvf::service::BOTH)
                };
                all.filter(symmetric).collect::<Vec<_>>()
            }
            Generation::Gen2 => {
                is_heard = greet::greet_by_mailbox(&*transport)?;
                all.collect()
            }
            Generation::Virtual => all.collect(),
        };
        if pairs.is_empty() {
            return Err(DeviceError::Protocol {
                what: "no ring pair does symmetric cryptography: set the physical function's \
                       services to sym"
                    .to_owned(),
            });
        }
        let arena = Arc::new(DmaArena::new(ARENA, iovas.alloc(ARENA as u64))?);
        transport.dma_map(arena.iova(), arena.memory())?;
        let mapped = transport.map(RING_BAR, 0, layout.bar_size() as usize).ok();
        let mappings = vec![(arena.iova(), arena.memory().len)];
        Ok(Self {
            transport,
            generation: known.generation,
            product: known.name,
            arena,
            pairs,
            layout,
            is_heard,
            mapped,
            interrupts: AtomicBool::new(false),
            rings: Mutex::default(),
            pulses: Mutex::default(),
            arbiter: Mutex::default(),
            armed: Mutex::default(),
            mailbox: Mutex::default(),
            lost: Mutex::default(),
            is_lost: AtomicBool::new(false),
            mappings: Mutex::new(mappings),
            let_go: LetGo::default(),
        })
    }

    /// Entries of the rings for so many operations at once.
    pub(super) fn entries(depth: u32) -> u32 {
        (2 * depth).max(LEAST_ENTRIES)
    }

    /// Whether its ring pairs have one interrupt for all.
    pub(super) fn shares_interrupt(&self) -> bool {
        self.generation == Generation::Gen2
    }

    /// Wires the bundles' vectors; without it completions are polled for.
    pub(super) fn wire(&self, vectors: &[OwnedFd]) {
        let borrowed: Vec<BorrowedFd<'_>> = vectors.iter().map(AsFd::as_fd).collect();
        self.wired(self.transport.enable_msix(&borrowed));
    }

    /// Wires the interrupt that all ring pairs share.
    pub(super) fn wire_shared(&self, vector: &OwnedFd) {
        self.wired(self.transport.enable_msi(vector.as_fd()).and_then(|()| {
            // The physical function's messages are looked for.
            let misc = Registers::new(&*self.transport, MISC_BAR);
            misc.write(mailbox::MASK, mailbox::SOURCE_MESSAGE)
        }));
    }

    fn wired(&self, result: Result<(), DeviceError>) {
        match result {
            Ok(()) => self.interrupts.store(true, Ordering::Relaxed),
            Err(error) => tracing::info!(%error, "no interrupts: completions are polled for"),
        }
    }

    pub(super) fn interrupts(&self) -> bool {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Lets the function reach memory; one that is lost needs none.
    pub(super) fn map(
        &self,
        iova: u64,
        memory: offload_api::frame::PoolMemory<'_>,
    ) -> Result<(), DeviceError> {
        // Held, so that a loss unmaps this or finds it never mapped.
        let mut mappings = lock(&self.mappings);
        if self.is_lost() {
            return Ok(());
        }
        self.judge(self.transport.dma_map(iova, memory))?;
        mappings.push((iova, memory.len));
        Ok(())
    }

    pub(super) fn take_rings(&self, depth: u32) -> Result<RingMemory, DeviceError> {
        let mut rings = lock(&self.rings);
        if let Some(at) = rings.iter().position(|(of, _)| *of == depth) {
            return Ok(rings.swap_remove(at).1);
        }
        let entries = u64::from(Self::entries(depth));
        let ring = |entry: usize| {
            let len = entries * entry as u64;
            self.arena.take_aligned(len, len)
        };
        let taken = || {
            Some(RingMemory {
                requests: ring(size_of::<Request>())?,
                responses: ring(size_of::<Response>())?,
                extras: self.arena.take(u64::from(depth) * EXTRA)?,
            })
        };
        taken().ok_or_else(|| DeviceError::Host {
            what: "ring memory",
            error: "used up: queues of fewer different depths need less".to_owned(),
        })
    }

    /// Keeps a closed pair's memory for the next one: nothing writes it any more.
    pub(super) fn put_rings(&self, depth: u32, memory: RingMemory) {
        lock(&self.rings).push((depth, memory));
    }

    fn at(&self, pair: Pair, register: u64) -> u64 {
        u64::from(pair.bundle) * self.layout.bundle + register
    }

    fn ring_at(&self, pair: Pair, ring: u32, register: u64) -> u64 {
        self.at(pair, register) + u64::from(ring) * 4
    }

    fn write(&self, offset: u64, value: u32) -> Result<(), DeviceError> {
        match &self.mapped {
            Some(mapped) => {
                mapped.write(offset, value);
                Ok(())
            }
            None => self.judge(Registers::new(&*self.transport, RING_BAR).write(offset, value)),
        }
    }

    fn write_posted(&self, offset: u64, value: u32) -> Result<(), DeviceError> {
        match &self.mapped {
            Some(_) => self.write(offset, value),
            None => {
                let registers = Registers::new(&*self.transport, RING_BAR);
                self.judge(registers.write_posted(offset, value))
            }
        }
    }

    fn read(&self, offset: u64) -> Result<u32, DeviceError> {
        match &self.mapped {
            Some(mapped) => Ok(mapped.read(offset)),
            None => self.judge(Registers::new(&*self.transport, RING_BAR).read_any(offset)),
        }
    }

    /// Sets a ring pair up and lets the arbiter serve it.
    pub(super) fn start_pair(
        &self,
        pair: Pair,
        requests: u64,
        responses: u64,
        entries: u32,
    ) -> Result<(), DeviceError> {
        let response_ring = self.layout.response_ring(pair.ring);
        let len = |entry: usize| u64::from(entries) * entry as u64;
        let request_config = csr::request_config(len(size_of::<Request>()));
        let response_config = csr::response_config(len(size_of::<Response>()));
        let rings = [
            (pair.ring, requests, request_config),
            (response_ring, responses, response_config),
        ];
        for (ring, base, config) in rings {
            let base = base >> self.layout.base_shift;
            let low = self.ring_at(pair, ring, self.layout.base_low);
            self.write(low, base as u32)?;
            let high = self.ring_at(pair, ring, self.layout.base_high);
            self.write(high, (base >> 32) as u32)?;
            self.write(self.ring_at(pair, ring, self.layout.config), config)?;
        }
        if self.interrupts() {
            let sources: &[_] = if self.shares_interrupt() {
                &[
                    (csr::INTERRUPT_SOURCE, csr::SOURCE_GEN2),
                    (csr::INTERRUPT_SOURCE_UPPER, csr::SOURCE_GEN2),
                ]
            } else {
                &[(csr::INTERRUPT_SOURCE, csr::SOURCE_GEN4)]
            };
            for (register, source) in sources {
                self.write(self.at(pair, *register), *source)?;
            }
            let timer = csr::TIMER_ON | csr::TIMER_LEAST;
            self.write(self.at(pair, csr::INTERRUPT_TIMER), timer)?;
        }
        self.arbitrate(pair, true)
    }

    fn arbitrate(&self, pair: Pair, on: bool) -> Result<(), DeviceError> {
        let _guard = lock(&self.arbiter);
        let offset = self.at(pair, csr::ARBITER);
        let value = self.read(offset)?;
        if value == u32::MAX {
            self.lose("its registers read all ones");
            return self.check();
        }
        let bit = 1 << pair.ring;
        self.write(offset, if on { value | bit } else { value & !bit })
    }

    /// Takes a ring pair away whose operations are home; whether the function was there to hear it.
    pub(super) fn stop_pair(&self, pair: Pair) -> bool {
        let mut armed = lock(&self.armed);
        *armed &= !(1 << self.layout.response_ring(pair.ring));
        let enable = self.at(pair, csr::INTERRUPT_FLAG_AND_ENABLE);
        self.check().is_ok()
            && self.arbitrate(pair, false).is_ok()
            && self.write(enable, *armed).is_ok()
    }

    /// Has the physical function reset a ring pair; whether it has.
    pub(super) fn reset_pair(&self, pair: Pair) -> bool {
        if self.generation != Generation::Gen4 {
            return false;
        }
        let done = Some((kind::RING_PAIR_RESET, pfvf::reset::DONE));
        let word = pfvf::word(kind::RING_PAIR_RESET, pair.bundle);
        let _guard = lock(&self.mailbox);
        greet::ask(&*self.transport, word).is_ok_and(|answer| answer == done)
    }

    /// The doorbell: requests up to this offset.
    pub(super) fn ring(&self, pair: Pair, offset: u32) -> Result<(), DeviceError> {
        self.write_posted(self.ring_at(pair, pair.ring, csr::TAIL), offset)
    }

    /// Responses up to this offset are taken in.
    pub(super) fn consume(&self, pair: Pair, offset: u32) {
        // The pair may be another life's by now.
        if self.is_lost() {
            return;
        }
        let ring = self.layout.response_ring(pair.ring);
        let _ = self.write_posted(self.ring_at(pair, ring, csr::HEAD), offset);
    }

    /// Lets it interrupt for responses that are not taken in; whether it will.
    pub(super) fn arm(&self, pair: Pair) -> bool {
        let bit = 1 << self.layout.response_ring(pair.ring);
        let enable = self.at(pair, csr::INTERRUPT_FLAG_AND_ENABLE);
        if !self.shares_interrupt() {
            return self.interrupts() && self.write_posted(enable, bit).is_ok();
        }
        // Held over the write: the register has both pairs' bits.
        let mut armed = lock(&self.armed);
        *armed |= bit;
        self.interrupts() && self.write_posted(enable, *armed).is_ok()
    }

    /// The interrupt that all share has come: each must be armed anew. Whoever hears of it is to be
    /// told after this.
    pub(super) fn disarm(&self) {
        *lock(&self.armed) = 0;
    }

    /// What a ring pair's registers say.
    pub(super) fn look(&self, pair: Pair) -> Result<PairReport, DeviceError> {
        let responses = self.layout.response_ring(pair.ring);
        let read = |ring, register| self.read(self.ring_at(pair, ring, register));
        Ok(PairReport {
            bundle: pair.bundle,
            ring: pair.ring,
            served: self.read(self.at(pair, csr::ARBITER))? & 1 << pair.ring != 0,
            request_head: read(pair.ring, csr::HEAD)?,
            request_tail: read(pair.ring, csr::TAIL)?,
            response_head: read(responses, csr::HEAD)?,
            response_tail: read(responses, csr::TAIL)?,
        })
    }

    pub(super) fn watch_over(&self, pulse: &Arc<Pulse>) {
        let mut pulses = lock(&self.pulses);
        pulses.retain(|pulse| pulse.strong_count() != 0);
        pulses.push(Arc::downgrade(pulse));
    }

    /// The watchdog's look: whether a ring pair is owed something, and for how many looks the stillest
    /// one has not moved.
    pub(super) fn tick(&self) -> (bool, u32) {
        let pulses = lock(&self.pulses);
        let living = pulses.iter().filter_map(Weak::upgrade);
        living.fold((false, 0), |(owed, stillest), pulse| {
            let owes = pulse.is_owed();
            (owed | owes, pulse.tick().max(stillest))
        })
    }

    /// Notes what an error means for the function.
    fn judge<T>(&self, result: Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Err(error) = &result
            && !matches!(error, DeviceError::Host { .. })
        {
            self.lose(&error.to_string());
        }
        result
    }

    /// Marks the function as lost; whether it was not before.
    pub(super) fn lose(&self, reason: &str) -> bool {
        let mut lost = lock(&self.lost);
        if lost.is_some() {
            return false;
        }
        *lost = Some(reason.to_owned());
        self.is_lost.store(true, Ordering::Release);
        tracing::warn!(reason, "QAT function lost");
        true
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    pub(super) fn lost_reason(&self) -> Option<String> {
        lock(&self.lost).clone()
    }

    pub(super) fn check(&self) -> Result<(), DeviceError> {
        if self.is_lost() {
            let reason = self.lost_reason().unwrap_or_default();
            return Err(DeviceError::Gone { reason });
        }
        Ok(())
    }

    /// Whether a lost function can't write our memory any more: its process has ended, or everything
    /// was unmapped and it said so.
    pub(super) fn has_let_go(&self) -> bool {
        self.let_go.find_out(&*self.transport, || self.unmap())
    }

    /// As [`has_let_go`](Self::has_let_go), without waiting: nothing while it is being found out.
    pub(super) fn knows_let_go(&self) -> Option<bool> {
        self.let_go.known(&*self.transport, || self.unmap())
    }

    fn unmap(&self) -> bool {
        let mut confirmed = true;
        for (iova, len) in lock(&self.mappings).iter() {
            confirmed &= self.transport.dma_unmap(*iova, *len).is_ok();
        }
        confirmed
    }

    /// The end, as far as the function still listens.
    pub(super) fn end(&self, reason: &str) {
        if !self.is_lost() {
            if self.is_heard {
                let _guard = lock(&self.mailbox);
                greet::say_good_bye(&*self.transport, self.generation);
            }
            let _ = self.transport.reset();
            *lock(&self.lost) = Some(reason.to_owned());
            self.is_lost.store(true, Ordering::Release);
        }
        self.has_let_go();
        self.transport.close();
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.end("closed");
    }
}
