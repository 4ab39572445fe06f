// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What host and card share, of loom's words, and what they sleep on.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use fpga_regs::descriptor::{Completion, Submission};
use fpga_regs::registers::doorbell;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;
use zerocopy::{FromZeros, IntoBytes};

use crate::handshake::{Page, Slots, Word};

/// A word whose owner fences as it should, or, in a mutant, not at all.
#[derive(Debug)]
pub(super) struct ModelWord<const FENCED: bool>(AtomicU32);

impl<const FENCED: bool> ModelWord<FENCED> {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    fn order(order: Ordering) {
        if FENCED {
            fence(order);
        }
    }
}

impl<const FENCED: bool> Word for ModelWord<FENCED> {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }

    fn fence(order: Ordering) {
        Self::order(order);
    }
}

impl<const FENCED: bool> sim::handshake::Word for ModelWord<FENCED> {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }

    fn fence(order: Ordering) {
        Self::order(order);
    }
}

/// The words of a doorbell page that both sides use.
struct PageWords<const CARD_FENCES: bool> {
    tail: ModelWord<CARD_FENCES>,
    arm: ModelWord<CARD_FENCES>,
    sleeping: ModelWord<CARD_FENCES>,
}

/// Doorbell pages; the card's fences may be missing.
pub(super) struct Doorbells<const CARD_FENCES: bool = true>(Vec<PageWords<CARD_FENCES>>);

impl<const CARD_FENCES: bool> Doorbells<CARD_FENCES> {
    pub(super) fn new(queues: u16) -> Arc<Self> {
        let page = |_| PageWords {
            tail: ModelWord::new(),
            arm: ModelWord::new(),
            sleeping: ModelWord::new(),
        };
        Arc::new(Self((0..queues).map(page).collect()))
    }

    /// A page by the host's access to it; in a mutant its fence of this number is missing.
    pub(super) fn page(&self, queue: u16, missing_fence: Option<u32>) -> HostPage<'_, CARD_FENCES> {
        HostPage {
            words: &self.0[usize::from(queue)],
            missing_fence,
            fences: Cell::new(0),
        }
    }
}

impl<const CARD_FENCES: bool> sim::handshake::Pages for Doorbells<CARD_FENCES> {
    type Word = ModelWord<CARD_FENCES>;

    fn queues(&self) -> u16 {
        self.0.len() as u16
    }

    fn word(&self, queue: u16, register: u64) -> Option<&Self::Word> {
        self.0[usize::from(queue)].word(register)
    }
}

impl<const CARD_FENCES: bool> PageWords<CARD_FENCES> {
    fn word(&self, register: u64) -> Option<&ModelWord<CARD_FENCES>> {
        match register {
            doorbell::TAIL => Some(&self.tail),
            doorbell::ARM => Some(&self.arm),
            doorbell::SLEEPING => Some(&self.sleeping),
            _ => None,
        }
    }
}

/// A volatile access of one word orders nothing else: a relaxed one.
pub(super) struct HostPage<'a, const CARD_FENCES: bool> {
    words: &'a PageWords<CARD_FENCES>,
    missing_fence: Option<u32>,
    fences: Cell<u32>,
}

impl<const CARD_FENCES: bool> Page for HostPage<'_, CARD_FENCES> {
    fn write(&self, register: u64, value: u32) {
        let word = self.words.word(register).unwrap();
        word.0.store(value, Ordering::Relaxed);
    }

    fn read(&self, register: u64) -> u32 {
        self.words.word(register).unwrap().0.load(Ordering::Relaxed)
    }

    fn fence(&self, order: Ordering) {
        if self.missing_fence != Some(self.fences.replace(self.fences.get() + 1)) {
            fence(order);
        }
    }
}

/// Entries of submissions: of each the slot with its generation, and the cookie's place, the sequence
/// number. Copied by words without any order, as memory is.
pub(super) struct Submissions(Vec<[AtomicU64; 2]>);

impl Submissions {
    pub(super) fn new(depth: usize) -> Arc<Self> {
        let entry = |_| [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self((0..depth).map(entry).collect()))
    }

    fn at(&self, position: u32) -> &[AtomicU64; 2] {
        &self.0[position as usize % self.0.len()]
    }
}

impl Slots<Submission> for Arc<Submissions> {
    fn depth(&self) -> u32 {
        self.0.len() as u32
    }

    fn write(&self, position: u32, entry: Submission) {
        let slot = u64::from(entry.slot_generation.get()) << 32 | u64::from(entry.slot.get());
        self.at(position)[0].store(slot, Ordering::Relaxed);
        self.at(position)[1].store(entry.sequence.get(), Ordering::Relaxed);
    }

    fn read(&self, position: u32) -> Submission {
        let slot = self.at(position)[0].load(Ordering::Relaxed);
        let sequence = self.at(position)[1].load(Ordering::Relaxed);
        let mut entry = Submission::new_zeroed();
        entry.slot = (slot as u32).into();
        entry.slot_generation = ((slot >> 32) as u32).into();
        entry.sequence = sequence.into();
        entry
    }

    fn last_word(&self, _: u32, _: Ordering) -> u64 {
        unreachable!("submissions have no phase")
    }
}

/// Entries of completions: of each the first 16 octets and the last eight. The card writes the octets
/// between too; nobody looks.
pub(super) struct Completions {
    pub(super) entries: Vec<[AtomicU64; 3]>,
    /// The card's store of the phase orders nothing.
    pub(super) weak_store: bool,
    /// The host's load of the phase orders nothing.
    pub(super) weak_load: bool,
}

const ENTRY: u64 = size_of::<Completion>() as u64;

impl Completions {
    pub(super) fn new(depth: usize) -> Self {
        let entry = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            entries: (0..depth).map(entry).collect(),
            weak_store: false,
            weak_load: false,
        }
    }

    fn at(&self, position: u32) -> &[AtomicU64; 3] {
        &self.entries[position as usize % self.entries.len()]
    }
}

impl Slots<Completion> for Arc<Completions> {
    fn depth(&self) -> u32 {
        self.entries.len() as u32
    }

    fn write(&self, _: u32, _: Completion) {
        unreachable!("the card writes them")
    }

    fn read(&self, position: u32) -> Completion {
        let words = self.at(position).each_ref();
        let [first, second, last] = words.map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let mut entry = Completion::new_zeroed();
        let octets = entry.as_mut_bytes();
        octets[..8].copy_from_slice(&first);
        octets[8..16].copy_from_slice(&second);
        octets[24..].copy_from_slice(&last);
        entry
    }

    fn last_word(&self, position: u32, order: Ordering) -> u64 {
        let order = if self.weak_load {
            Ordering::Relaxed
        } else {
            order
        };
        self.at(position)[2].load(order)
    }
}

impl sim::handshake::Memory for Completions {
    type Fault = std::convert::Infallible;

    fn write(&self, iova: u64, octets: &[u8]) -> Result<(), Self::Fault> {
        let entry = self.at((iova / ENTRY) as u32);
        for (word, octets) in entry.iter().zip(octets.as_chunks().0).take(2) {
            word.store(u64::from_le_bytes(*octets), Ordering::Relaxed);
        }
        Ok(())
    }

    fn store(&self, iova: u64, value: u64, order: Ordering) -> Result<(), Self::Fault> {
        let order = if self.weak_store {
            Ordering::Relaxed
        } else {
            order
        };
        self.at((iova / ENTRY) as u32)[2].store(value, order);
        Ok(())
    }
}

/// An eventfd, and those who may yet write it. Whoever waits for nobody has missed a wake-up.
pub(super) struct EventFd {
    state: Mutex<State>,
}

struct State {
    count: u64,
    writers: u32,
}

impl EventFd {
    pub(super) fn new(writers: u32) -> Arc<Self> {
        let state = Mutex::new(State { count: 0, writers });
        Arc::new(Self { state })
    }

    pub(super) fn write(&self) {
        self.state.lock().unwrap().count += 1;
    }

    /// One of the writers has ended.
    pub(super) fn leave(&self) {
        self.state.lock().unwrap().writers -= 1;
    }

    pub(super) fn drain(&self) {
        self.state.lock().unwrap().count = 0;
    }

    /// Waits until it is written. Not by a condition variable: loom can't tell of a deadlock in a test
    /// that is to panic.
    pub(super) fn wait(&self) {
        loop {
            let state = self.state.lock().unwrap();
            let (count, writers) = (state.count, state.writers);
            drop(state);
            if count != 0 {
                return;
            }
            assert_ne!(writers, 0, "a wake-up was missed");
            thread::yield_now();
        }
    }

    /// Waits until it is written, and empties it.
    pub(super) fn take(&self) {
        self.wait();
        self.drain();
    }
}
