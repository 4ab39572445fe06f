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
/// The bridge's nice value, where it may have one.
const URGENT: i32 = -15;

pub(crate) struct Bridge {
    rings: Bar,
    misc: Bar,
    vf: Vf,
    layout: Layout,
    arbiters: Vec<u32>,
    /// By request ring: the responses' head.
    heads: Vec<u32>,
    /// Messages to the physical function, in order.
    messages: Vec<u32>,
    /// Called before each look at a ring's register, for a test of what happens between two.
    pub(crate) before_look: Option<Box<dyn Fn() + Send>>,
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
            messages: Vec::new(),
            before_look: None,
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
        // Hardware doesn't wait for a processor, and DPDK gives it a fifth of a second for some answers.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), URGENT);
        let memory = Memory::default();
        let mut busy = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let process = process.load(Ordering::Acquire);
            memory.process.store(process, Ordering::Release);
            if self.turn(&memory) {
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
        self.before_look.iter().for_each(|run| run());
        self.rings.word(self.at(bundle, register, ring))
    }

    /// Looks at every register once, and does what there is to do; whether there was anything.
    pub(crate) fn turn(&mut self, memory: &dyn HostMemory) -> bool {
        let mut any = self.hear();
        for bundle in 0..self.layout.bundles {
            any |= self.look(bundle);
        }
        let served = self.vf.serve(memory, 32);
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
        let mut any = false;
        for ring in 0..self.layout.rings / 2 {
            any |= self.look_at(bundle, ring);
        }
        let arbiter = self.arbiter(bundle);
        if arbiter != self.arbiters[bundle as usize] {
            let at = self.at(bundle, csr::ARBITER, 0);
            self.vf.write(RING_BAR, at, arbiter);
            self.arbiters[bundle as usize] = arbiter;
            any = true;
        }
        any
    }

    fn arbiter(&self, bundle: u32) -> u32 {
        self.register(bundle, csr::ARBITER, 0)
            .load(Ordering::Acquire)
    }

    /// Takes what was written to a pair's registers, from the last that a driver writes to the first:
    /// whoever sees a tail sees the set-up that it belongs to. A driver may take a pair down and set
    /// it up again between any two of these looks.
    fn look_at(&mut self, bundle: u32, ring: u32) -> bool {
        let responses = self.layout.response_ring(ring);
        let tail = self.register(bundle, csr::TAIL, ring);
        let tail = tail.swap(TAKEN, Ordering::AcqRel);
        let config = self.register(bundle, self.layout.config, responses);
        let is_fresh = config.load(Ordering::Acquire) != TAKEN;
        // Off, it is set up just now: there is a next look.
        let begins = is_fresh && self.arbiter(bundle) & 1 << ring != 0;
        if begins {
            self.begin(bundle, ring);
        }
        let head = self.register(bundle, csr::HEAD, responses);
        let head = head.load(Ordering::Acquire);
        let known = (bundle * self.layout.rings / 2 + ring) as usize;
        if head != self.heads[known] {
            self.heads[known] = head;
            let at = self.at(bundle, csr::HEAD, responses);
            self.vf.write(RING_BAR, at, head);
        }
        if tail == TAKEN {
            return begins;
        }
        let at = self.at(bundle, csr::TAIL, ring);
        self.vf.write(RING_BAR, at, tail);
        true
    }

    /// A ring pair that was set up, perhaps for another time.
    fn begin(&mut self, bundle: u32, ring: u32) {
        let responses = self.layout.response_ring(ring);
        loop {
            let config = self.register(bundle, self.layout.config, responses);
            let config = config.swap(TAKEN, Ordering::AcqRel);
            for ring in [ring, responses] {
                for register in [self.layout.base_low, self.layout.base_high] {
                    let value = self.register(bundle, register, ring);
                    let value = value.load(Ordering::Acquire);
                    let at = self.at(bundle, register, ring);
                    self.vf.write(RING_BAR, at, value);
                }
            }
            let requests = self.register(bundle, self.layout.config, ring);
            let requests = requests.load(Ordering::Acquire);
            let at = self.at(bundle, self.layout.config, ring);
            self.vf.write(RING_BAR, at, requests);
            let at = self.at(bundle, self.layout.config, responses);
            self.vf.write(RING_BAR, at, config);
            // An earlier pair's; there was no response yet for which this one could have written it.
            self.register(bundle, csr::HEAD, responses)
                .store(0, Ordering::Release);
            self.heads[(bundle * self.layout.rings / 2 + ring) as usize] = 0;
            // Set up once more meanwhile, what was read is of both.
            let config = self.register(bundle, self.layout.config, responses);
            if config.load(Ordering::Acquire) == TAKEN {
                return;
            }
        }
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
