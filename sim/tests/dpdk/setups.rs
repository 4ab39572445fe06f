// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bridge under a driver that takes a ring pair down and sets it up again between any two of the
//! bridge's looks, as DPDK does for each case of its suite where the bridge has to wait for a processor.
//! No request may be lost by it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use qat_regs::Generation;
use qat_regs::csr::{self, Layout};
use qat_regs::message::{EMPTY, HEADER_VALID, Request, service};
use sim::qat::HostMemory;
use zerocopy::{FromZeros, IntoBytes};

use super::Device;
use crate::bar::Bar;
use crate::bridge::Bridge;

/// Octets of a ring. A pair that is set up again has another place.
const RING: u64 = 4096;
const PLACES: u64 = 3;
/// Turns within which a request is answered, whatever came between.
const TURNS: usize = 4;

/// The driver's memory, from one ring's size on.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn with(&self, address: u64, len: usize, run: impl FnOnce(&mut [u8])) -> bool {
        let mut memory = self.0.lock().unwrap();
        let at = (address.checked_sub(RING)).and_then(|at| usize::try_from(at).ok());
        let octets = at.and_then(|at| memory.get_mut(at..at.checked_add(len)?));
        octets.map(run).is_some()
    }
}

impl HostMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let len = into.len();
        self.with(address, len, |octets| into.copy_from_slice(octets))
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.with(address, from.len(), |octets| octets.copy_from_slice(from))
    }

    fn publish(&self, address: u64, value: u64) -> bool {
        self.write(address, &value.to_le_bytes())
    }
}

/// A driver whose writes come one by one, in DPDK's order.
struct Driver {
    rings: Bar,
    layout: Layout,
    ring: u32,
    memory: Memory,
    to_write: Mutex<Vec<(u64, u32)>>,
    /// The bridge's looks, and before which of them come so many writes.
    looks: AtomicUsize,
    plan: Mutex<[(usize, usize); 2]>,
}

impl Driver {
    /// The writes that set a pair up at a place.
    fn set_up(&self, place: u64) -> Vec<(u64, u32)> {
        let (layout, ring) = (&self.layout, self.ring);
        let responses = layout.response_ring(ring);
        let bases = [(ring, requests_at(place)), (responses, responses_at(place))];
        let bases = bases.into_iter().flat_map(|(ring, base)| {
            let base = base >> layout.base_shift;
            let (low, high) = (base as u32, (base >> 32) as u32);
            [
                (at(layout.base_low, ring), low),
                (at(layout.base_high, ring), high),
            ]
        });
        let configs = [
            (at(layout.config, ring), csr::request_config(RING)),
            (at(layout.config, responses), csr::response_config(RING)),
            (csr::ARBITER, 1 << ring),
        ];
        bases.chain(configs).collect()
    }

    /// The next writes, in order.
    fn write(&self, count: usize) {
        let mut to_write = self.to_write.lock().unwrap();
        let count = count.min(to_write.len());
        for (at, value) in to_write.drain(..count) {
            self.rings.word(at).store(value, Ordering::Release);
        }
    }

    /// What it does before each of the bridge's looks.
    fn go_on(&self) {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        for (when, count) in *self.plan.lock().unwrap() {
            if when == look {
                self.write(count);
            }
        }
    }

    /// Prepares to take the pair down, to set it up for nothing, to take it down again and to set it
    /// up for a request.
    fn begin(&self, places: [u64; 2]) {
        let [unused, used] = places;
        let request = Request {
            service: service::NULL,
            header_flags: HEADER_VALID,
            ..Request::new_zeroed()
        };
        let memory = &self.memory;
        assert!(memory.write(requests_at(used), request.as_bytes()));
        let clear = |octets: &mut [u8]| octets.fill(EMPTY);
        assert!(memory.with(responses_at(used), RING as usize, clear));
        let down = (csr::ARBITER, 0);
        let mut writes = vec![down];
        writes.extend(self.set_up(unused));
        writes.push(down);
        writes.extend(self.set_up(used));
        writes.push((at(csr::TAIL, self.ring), size_of::<Request>() as u32));
        *self.to_write.lock().unwrap() = writes;
    }

    fn is_answered(&self, place: u64) -> bool {
        let mut word = [EMPTY; 4];
        assert!(self.memory.read(responses_at(place), &mut word));
        word != [EMPTY; 4]
    }
}

fn requests_at(place: u64) -> u64 {
    RING * (1 + 2 * place)
}

fn responses_at(place: u64) -> u64 {
    requests_at(place) + RING
}

fn at(register: u64, ring: u32) -> u64 {
    register + u64::from(ring) * 4
}

fn set_up_between_any_two_looks(id: u16, generation: Generation, ring: u32) {
    let device = Device::new(id, generation);
    let mut bridge = Bridge::new(&device.path(), generation);
    let driver = Arc::new(Driver {
        rings: Bar::open(&device.path().join("resource0")),
        layout: Layout::of(generation),
        ring,
        memory: Memory(Mutex::new(vec![0; (2 * PLACES * RING) as usize])),
        to_write: Mutex::default(),
        looks: AtomicUsize::new(0),
        plan: Mutex::new([(usize::MAX, 0); 2]),
    });
    let theirs = driver.clone();
    bridge.before_look = Some(Box::new(move || theirs.go_on()));
    bridge.turn(&driver.memory);
    let looks = driver.looks.load(Ordering::Relaxed);
    driver.begin([1, 0]);
    let writes = driver.to_write.lock().unwrap().len();
    let mut place = 0;
    for first in 0..looks {
        for (second, count) in
            (first..2 * looks).flat_map(|look| (0..writes).map(move |n| (look, n)))
        {
            let places = [place + 1, place + 2].map(|place| place % PLACES);
            [_, place] = places;
            driver.begin(places);
            *driver.plan.lock().unwrap() = [(first, count), (second, usize::MAX)];
            driver.looks.store(0, Ordering::Relaxed);
            for _ in 0..TURNS {
                bridge.turn(&driver.memory);
            }
            assert!(
                driver.is_answered(place),
                "lost: {count} writes before look {first}, the rest before look {second}"
            );
        }
    }
}

#[test]
fn a_pair_set_up_between_two_looks_of_the_bridge_loses_no_request_on_gen4() {
    set_up_between_any_two_looks(0x4941, Generation::Gen4, 0);
}

#[test]
fn a_pair_set_up_between_two_looks_of_the_bridge_loses_no_request_on_gen2() {
    set_up_between_any_two_looks(0x37c9, Generation::Gen2, 2);
}
