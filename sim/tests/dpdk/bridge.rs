// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The function under a driver that believes in a file system: BARs are files, which this looks at in
//! turn, and memory is another process's, found by its page map. No kernel driver, no machine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use qat_regs::csr::{self, Layout};
use qat_regs::pfvf;
use qat_regs::{Generation, MISC_BAR, RING_BAR};
use sim::fault::FaultPlan;
use sim::qat::{Counters, HostMemory, Vf};

use crate::bar::Bar;

const HUGE_PAGE: u64 = 2 << 20;
/// Left in a register whose value was taken: the driver writes these registers and never reads them, and
/// never writes this. A register in memory says what was written last, not when: without it a tail of
/// an earlier ring would pass for a new one's, and its first request be read while it is written.
const TAKEN: u32 = u32::MAX;
/// How long the bridge looks on without a pause after there was something to do.
const KEEN: Duration = Duration::from_millis(2);

pub(crate) struct Bridge {
    rings: Bar,
    misc: Bar,
    vf: Vf,
    layout: Layout,
    arbiters: Vec<u32>,
    /// By request ring: the responses' head.
    heads: Vec<u32>,
    memory: Memory,
    /// Messages to the physical function, in order.
    pub(crate) messages: Vec<u32>,
}

/// What the driver did, seen from the function.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) counters: Counters,
    pub(crate) messages: Vec<u32>,
}

impl Bridge {
    pub(crate) fn new(device: &Path, generation: Generation) -> Self {
        let layout = Layout::of(generation);
        let rings = Bar::open(&device.join("resource0"));
        // What an earlier program left there means nothing to the next one.
        for offset in (0..layout.bar_size()).step_by(4) {
            rings.word(offset).store(0, Ordering::Release);
        }
        let this = Self {
            rings,
            misc: Bar::open(&device.join("resource2")),
            vf: Vf::new(generation, FaultPlan::default()),
            layout,
            arbiters: vec![0; layout.bundles as usize],
            heads: vec![0; (layout.bundles * layout.rings / 2) as usize],
            memory: Memory::default(),
            messages: Vec::new(),
        };
        for (bundle, ring) in this.all_rings() {
            for register in [layout.config, csr::TAIL] {
                this.register(bundle, register, ring)
                    .store(TAKEN, Ordering::Release);
            }
        }
        this
    }

    /// Serves a process until told to stop.
    pub(crate) fn run(mut self, process: &AtomicI32, stop: &AtomicBool) -> Seen {
        let mut busy = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let process = process.load(Ordering::Acquire);
            self.memory.process.store(process, Ordering::Release);
            if self.turn() {
                busy = Instant::now();
            } else if busy.elapsed() > KEEN {
                std::thread::sleep(Duration::from_micros(200));
            } else {
                std::thread::yield_now();
            }
        }
        Seen {
            counters: self.vf.counters(),
            messages: self.messages,
        }
    }

    fn all_rings(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let rings = self.layout.rings;
        (0..self.layout.bundles).flat_map(move |bundle| (0..rings).map(move |ring| (bundle, ring)))
    }

    /// Where a ring's register is.
    fn at(&self, bundle: u32, register: u64, ring: u32) -> u64 {
        self.layout.bundle * u64::from(bundle) + register + u64::from(ring) * 4
    }

    fn register(&self, bundle: u32, register: u64, ring: u32) -> &AtomicU32 {
        self.rings.word(self.at(bundle, register, ring))
    }

    fn turn(&mut self) -> bool {
        let mut any = self.hear();
        for bundle in 0..self.layout.bundles {
            any |= self.look(bundle);
        }
        let served = self.vf.serve(&self.memory, 32);
        any | served.more
    }

    fn hear(&mut self) -> bool {
        let word = self.misc.word(pfvf::TO_PF).load(Ordering::Acquire);
        if word & pfvf::WAITS == 0 {
            return false;
        }
        self.messages.push(word);
        self.vf.write(MISC_BAR, pfvf::TO_PF, word);
        // The answer is there before the word is taken.
        for register in [pfvf::FROM_PF, pfvf::TO_PF] {
            let value = self.vf.read(MISC_BAR, register);
            self.misc.word(register).store(value, Ordering::Release);
        }
        true
    }

    /// Brings what was written to a bundle's registers into the function.
    fn look(&mut self, bundle: u32) -> bool {
        let requests = self.layout.rings / 2;
        // In this order: whoever sets a pair up writes the responses' configuration behind all but the
        // arbiter, and has turned that off before.
        let fresh = (0..requests).filter(|ring| {
            let responses = self.layout.response_ring(*ring);
            let config = self.register(bundle, self.layout.config, responses);
            config.load(Ordering::Acquire) != TAKEN
        });
        let fresh: Vec<_> = fresh.collect();
        let arbiter = self.register(bundle, csr::ARBITER, 0);
        let arbiter = arbiter.load(Ordering::Acquire);
        let is_on = |ring: &u32| arbiter & 1 << ring != 0;
        let mut any = false;
        for ring in fresh.into_iter().filter(is_on) {
            self.begin(bundle, ring);
            any = true;
        }
        if arbiter != self.arbiters[bundle as usize] {
            let at = self.at(bundle, csr::ARBITER, 0);
            self.vf.write(RING_BAR, at, arbiter);
            self.arbiters[bundle as usize] = arbiter;
            any = true;
        }
        for ring in (0..requests).filter(is_on) {
            any |= self.move_on(bundle, ring);
        }
        any
    }

    /// Takes a pair's head and tail.
    fn move_on(&mut self, bundle: u32, ring: u32) -> bool {
        let responses = self.layout.response_ring(ring);
        let head = self.register(bundle, csr::HEAD, responses);
        let head = head.load(Ordering::Acquire);
        let known = (bundle * self.layout.rings / 2 + ring) as usize;
        if head != self.heads[known] {
            self.heads[known] = head;
            let at = self.at(bundle, csr::HEAD, responses);
            self.vf.write(RING_BAR, at, head);
        }
        let tail = self.register(bundle, csr::TAIL, ring);
        let tail = tail.swap(TAKEN, Ordering::AcqRel);
        if tail == TAKEN {
            return false;
        }
        let at = self.at(bundle, csr::TAIL, ring);
        self.vf.write(RING_BAR, at, tail);
        true
    }

    /// A ring pair that was set up, perhaps for another time.
    fn begin(&mut self, bundle: u32, ring: u32) {
        let responses = self.layout.response_ring(ring);
        for ring in [ring, responses] {
            for register in [self.layout.base_low, self.layout.base_high] {
                let value = self.register(bundle, register, ring);
                let value = value.load(Ordering::Acquire);
                let at = self.at(bundle, register, ring);
                self.vf.write(RING_BAR, at, value);
            }
            let config = self.register(bundle, self.layout.config, ring);
            let config = config.swap(TAKEN, Ordering::AcqRel);
            let at = self.at(bundle, self.layout.config, ring);
            self.vf.write(RING_BAR, at, config);
        }
        // An earlier pair's; there was no response yet for which this one could have written it.
        self.register(bundle, csr::HEAD, responses)
            .store(0, Ordering::Release);
        self.heads[(bundle * self.layout.rings / 2 + ring) as usize] = 0;
    }
}

/// The huge pages of a process, by physical address.
#[derive(Default)]
struct Memory {
    process: AtomicI32,
    pages: Mutex<Option<Pages>>,
}

impl Memory {
    fn find(&self, address: u64) -> Option<u64> {
        let page = address / HUGE_PAGE;
        let mut pages = self.pages.lock().unwrap();
        // A page that was given back may be another one's place by now, or have another place.
        let place = pages.as_ref().and_then(|pages| pages.place(page));
        let place = match place {
            None => {
                let process = self.process.load(Ordering::Acquire);
                *pages = Pages::of(process);
                pages.as_ref()?.place(page)?
            }
            Some(place) => place,
        };
        Some(place + address % HUGE_PAGE)
    }

    /// Visits the pieces of an access, which physical memory may have apart.
    fn pieces(
        &self,
        address: u64,
        len: usize,
        mut visit: impl FnMut(Pid, RemoteIoVec, usize) -> bool,
    ) -> bool {
        let process = Pid::from_raw(self.process.load(Ordering::Acquire));
        let mut done = 0;
        while done < len {
            let Some(at) = address.checked_add(done as u64) else {
                return false;
            };
            let Some(base) = self.find(at) else {
                return false;
            };
            let len = (len - done).min((HUGE_PAGE - at % HUGE_PAGE) as usize);
            let remote = RemoteIoVec {
                base: base as usize,
                len,
            };
            if !visit(process, remote, done) {
                return false;
            }
            done += len;
        }
        true
    }
}

/// Where a process has which huge page, when it was looked at.
struct Pages {
    frames: File,
    places: HashMap<u64, u64>,
}

impl Pages {
    fn of(process: i32) -> Option<Self> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
        let mut this = Self {
            frames: File::open(format!("/proc/{process}/pagemap")).ok()?,
            places: HashMap::new(),
        };
        for line in maps.lines().filter(|line| line.contains("/hugepages/")) {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16));
            for at in (start.ok()?..end.ok()?).step_by(HUGE_PAGE as usize) {
                if let Some(page) = this.page(at) {
                    this.places.insert(page, at);
                }
            }
        }
        Some(this)
    }

    /// Which huge page is there now.
    fn page(&self, at: u64) -> Option<u64> {
        const PRESENT: u64 = 1 << 63;
        let mut entry = [0; 8];
        self.frames.read_exact_at(&mut entry, at / 4096 * 8).ok()?;
        let entry = u64::from_le_bytes(entry);
        let frame = entry & ((1 << 55) - 1);
        (entry & PRESENT != 0).then_some(frame * 4096 / HUGE_PAGE)
    }

    fn place(&self, page: u64) -> Option<u64> {
        let place = *self.places.get(&page)?;
        (self.page(place) == Some(page)).then_some(place)
    }
}

impl HostMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.pieces(address, into.len(), |process, remote, at| {
            let len = remote.len;
            let mut local = [IoSliceMut::new(&mut into[at..at + len])];
            process_vm_readv(process, &mut local, &[remote]) == Ok(len)
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.pieces(address, from.len(), |process, remote, at| {
            let len = remote.len;
            let local = [IoSlice::new(&from[at..at + len])];
            process_vm_writev(process, &local, &[remote]) == Ok(len)
        })
    }

    fn publish(&self, address: u64, value: u64) -> bool {
        self.write(address, &value.to_le_bytes())
    }
}
