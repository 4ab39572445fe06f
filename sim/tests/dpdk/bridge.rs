// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The function under a driver that believes in a file system: BARs are files, which this looks at in
//! turn, and memory is another process's, found by its page map. No kernel driver, no machine.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use qat_regs::csr::{self, Layout};
use qat_regs::message::EMPTY;
use qat_regs::pfvf;
use qat_regs::{Generation, MISC_BAR, RING_BAR};
use sim::fault::FaultPlan;
use sim::qat::{Counters, HostMemory, Vf};

const HUGE_PAGE: u64 = 2 << 20;
/// A bit of a ring's configuration that nobody reads.
const SEEN: u32 = 1 << 31;
/// Octets of a request.
const REQUEST: u64 = 128;
/// How long the bridge looks on without a pause after there was something to do.
const KEEN: Duration = Duration::from_millis(2);

pub(crate) struct Bridge {
    bars: [File; 2],
    vf: Vf,
    layout: Layout,
    arbiters: Vec<u32>,
    /// By request ring.
    shadows: Vec<Shadow>,
    memory: Memory,
    /// Messages to the physical function, in order.
    pub(crate) messages: Vec<u32>,
}

#[derive(Clone, Default)]
struct Shadow {
    tail: u32,
    /// A tail of its own has been seen.
    begun: bool,
    head: u32,
}

/// What the driver did, seen from the function.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) counters: Counters,
    pub(crate) messages: Vec<u32>,
}

impl Bridge {
    pub(crate) fn new(device: &Path, generation: Generation) -> Self {
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true);
            options.open(device.join(name)).unwrap()
        };
        let layout = Layout::of(generation);
        let bars = [open("resource0"), open("resource2")];
        // What an earlier program left there means nothing to the next one.
        let zeros = vec![0; layout.bar_size() as usize];
        bars[0].write_all_at(&zeros, 0).unwrap();
        Self {
            bars,
            vf: Vf::new(generation, FaultPlan::default()),
            layout,
            arbiters: vec![0; layout.bundles as usize],
            shadows: vec![Shadow::default(); (layout.bundles * layout.rings / 2) as usize],
            memory: Memory::default(),
            messages: Vec::new(),
        }
    }

    /// Serves a process until told to stop.
    pub(crate) fn run(mut self, process: &AtomicI32, stop: &AtomicBool) -> Seen {
        let mut busy = Instant::now();
        while !stop.load(Ordering::Acquire) {
            self.memory
                .process
                .store(process.load(Ordering::Acquire), Ordering::Release);
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

    fn get(&self, bar: usize, offset: u64) -> u32 {
        let mut value = [0; 4];
        self.bars[bar].read_exact_at(&mut value, offset).unwrap();
        u32::from_le_bytes(value)
    }

    fn put(&self, bar: usize, offset: u64, value: u32) {
        self.bars[bar]
            .write_all_at(&value.to_le_bytes(), offset)
            .unwrap();
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
        let word = self.get(1, pfvf::TO_PF);
        if word & pfvf::WAITS == 0 {
            return false;
        }
        self.messages.push(word);
        self.vf.write(MISC_BAR, pfvf::TO_PF, word);
        self.put(1, pfvf::FROM_PF, self.vf.read(MISC_BAR, pfvf::FROM_PF));
        self.put(1, pfvf::TO_PF, self.vf.read(MISC_BAR, pfvf::TO_PF));
        true
    }

    /// Brings what was written to a bundle's registers into the function.
    fn look(&mut self, number: u32) -> bool {
        let first = self.layout.bundle * u64::from(number);
        let requests = self.layout.rings / 2;
        let arbiter = self.get(0, first + csr::ARBITER);
        let shadow_of = |ring: u32| (number * requests + ring) as usize;
        let mut any = false;
        for ring in (0..requests).filter(|ring| arbiter & 1 << ring != 0) {
            if self.get(0, first + self.layout.config + u64::from(ring) * 4) & SEEN == 0 {
                self.begin(first, ring);
                self.shadows[shadow_of(ring)] = Shadow::default();
                any = true;
            }
        }
        if arbiter != self.arbiters[number as usize] {
            self.vf.write(RING_BAR, first + csr::ARBITER, arbiter);
            self.arbiters[number as usize] = arbiter;
            any = true;
        }
        for ring in (0..requests).filter(|ring| arbiter & 1 << ring != 0) {
            let tail_at = first + csr::TAIL + u64::from(ring) * 4;
            let head_at = first + csr::HEAD + u64::from(self.layout.response_ring(ring)) * 4;
            let (tail, head) = (self.get(0, tail_at), self.get(0, head_at));
            let mut shadow = self.shadows[shadow_of(ring)].clone();
            if head != shadow.head {
                shadow.head = head;
                self.vf.write(RING_BAR, head_at, head);
            }
            // The tail may still be an earlier pair's: it counts once there is a request before it.
            shadow.begun = shadow.begun || self.is_written(first, ring, tail);
            if shadow.begun && tail != shadow.tail {
                shadow.tail = tail;
                self.vf.write(RING_BAR, tail_at, tail);
                any = true;
            }
            self.shadows[shadow_of(ring)] = shadow;
        }
        any
    }

    /// Whether a request lies before a tail: rings are filled with a pattern when they are set up.
    fn is_written(&self, first: u64, ring: u32, tail: u32) -> bool {
        let half = |register: u64| u64::from(self.get(0, first + register + u64::from(ring) * 4));
        let base = half(self.layout.base_high) << 32 | half(self.layout.base_low);
        let base = base << self.layout.base_shift;
        let mut word = [0; 4];
        u64::from(tail)
            .checked_sub(REQUEST)
            .is_some_and(|at| self.memory.read(base + at, &mut word) && word != [EMPTY; 4])
    }

    /// A ring pair that was set up, perhaps for another time: whoever does writes its configuration, and
    /// this has left a mark there that is gone then.
    fn begin(&mut self, first: u64, ring: u32) {
        for ring in [ring, self.layout.response_ring(ring)] {
            let at = u64::from(ring) * 4;
            let config = self.layout.config;
            for register in [self.layout.base_low, self.layout.base_high, config] {
                let value = self.get(0, first + register + at);
                self.vf.write(RING_BAR, first + register + at, value);
            }
            let marked = self.get(0, first + config + at) | SEEN;
            self.put(0, first + config + at, marked);
            self.put(0, first + csr::HEAD + at, 0);
        }
    }
}

/// The huge pages of a process, by physical address.
#[derive(Default)]
struct Memory {
    process: AtomicI32,
    pages: Mutex<HashMap<u64, u64>>,
}

impl Memory {
    fn find(&self, address: u64) -> Option<u64> {
        let page = address / HUGE_PAGE;
        let mut pages = self.pages.lock().unwrap();
        if !pages.contains_key(&page) {
            *pages = self.look().unwrap_or_default();
        }
        pages.get(&page).map(|start| start + address % HUGE_PAGE)
    }

    fn look(&self) -> Option<HashMap<u64, u64>> {
        const PRESENT: u64 = 1 << 63;
        let process = self.process.load(Ordering::Acquire);
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
        let mut pagemap = File::open(format!("/proc/{process}/pagemap")).ok()?;
        let mut pages = HashMap::new();
        for line in maps.lines().filter(|line| line.contains("/hugepages/")) {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let end = u64::from_str_radix(end, 16).ok()?;
            let mut at = u64::from_str_radix(start, 16).ok()?;
            while at < end {
                let mut entry = [0; 8];
                pagemap.seek(SeekFrom::Start(at / 4096 * 8)).ok()?;
                pagemap.read_exact(&mut entry).ok()?;
                let entry = u64::from_le_bytes(entry);
                if entry & PRESENT != 0 {
                    let frame = entry & ((1 << 55) - 1);
                    pages.insert(frame * 4096 / HUGE_PAGE, at);
                }
                at += HUGE_PAGE;
            }
        }
        Some(pages)
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
