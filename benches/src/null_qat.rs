// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A QAT virtual function in this process that answers every request at once and leaves the packet as it
//! is: what remains is the driver's own cost, ESP's protocol with it. It works when told to
//! ([`NullQat::work`]), so its share of the time can be told apart.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use driver::transport::{MappedRegion, Transport};
use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use qat_regs::csr::{self, Layout};
use qat_regs::message::{HEADER_VALID, Request, Response};
use qat_regs::pfvf::{self, kind};
use qat_regs::{Generation, KNOWN_DEVICES, MISC_BAR, RING_BAR, VENDOR_ID};
use rustix::fs::MemfdFlags;
use zerocopy::FromZeros;

use crate::memory::{Entries, Mapping};

const LAYOUT: Layout = Layout::of(Generation::Gen4);
/// All ring pairs do symmetric cryptography.
const SERVICES: u16 = 0x6db;

/// The function; cloning shares it. It is its own transport.
#[derive(Clone)]
pub struct NullQat(Arc<Shared>);

struct Shared {
    ring_fd: OwnedFd,
    rings: Mapping,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    from_pf: u32,
    mappings: Vec<Mapping>,
    /// Where the first bundle's rings were found, and how far they are served.
    open: Option<(Entries, Entries, u32)>,
    position: u32,
}

fn host(error: impl ToString) -> DeviceError {
    DeviceError::Host {
        what: "a function's memory",
        error: error.to_string(),
    }
}

impl NullQat {
    /// A function at power-on.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Self, DeviceError> {
        let ring_fd = rustix::fs::memfd_create("rings", MemfdFlags::CLOEXEC).map_err(host)?;
        rustix::fs::ftruncate(&ring_fd, LAYOUT.bar_size()).map_err(host)?;
        let rings = Mapping::new(ring_fd.as_fd(), LAYOUT.bar_size() as usize, 0).map_err(host)?;
        Ok(Self(Arc::new(Shared {
            ring_fd,
            rings,
            state: Mutex::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, offset: u64) -> u32 {
        let word = self.0.rings.word(offset);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Answers what was submitted to the first bundle.
    pub fn work(&self) {
        let mut state = self.state();
        if state.open.is_none() {
            state.open = self.find(&state);
        }
        let Some((requests, responses, mask)) = state.open else {
            return;
        };
        let tail = self.register(csr::TAIL) / size_of::<Request>() as u32;
        while state.position & mask != tail {
            let request: Request = requests.read(state.position);
            let response = Response {
                kind: request.service,
                header_flags: HEADER_VALID,
                command: request.command,
                opaque: request.opaque,
                ..Response::new_zeroed()
            };
            responses.post_first(state.position, &response);
            state.position = state.position.wrapping_add(1);
        }
    }

    fn find(&self, state: &State) -> Option<(Entries, Entries, u32)> {
        let octets = csr::ring_octets(self.register(LAYOUT.config))?;
        let depth = (octets / size_of::<Request>() as u64) as u32;
        let ring = |ring: u64, size: usize| {
            let low = self.register(LAYOUT.base_low + 4 * ring);
            let high = self.register(LAYOUT.base_high + 4 * ring);
            let base = u64::from(high) << 32 | u64::from(low);
            let mut mappings = state.mappings.iter();
            mappings.find_map(|mapping| mapping.entries(base, depth, size))
        };
        let requests = ring(0, size_of::<Request>())?;
        let responses = ring(1, size_of::<Response>())?;
        Some((requests, responses, depth - 1))
    }
}

/// What a physical function answers.
fn answer(word: u32) -> u32 {
    let [low, high] = SERVICES.to_le_bytes();
    match pfvf::parse(word) {
        Some((kind::VERSION_REQUEST, _)) => {
            pfvf::word(kind::VERSION, pfvf::VERSION | pfvf::COMPATIBLE << 8)
        }
        Some((kind::SMALL_BLOCK, data)) => {
            let octet = if pfvf::asked(data).1 == Some(2) {
                low
            } else {
                high
            };
            pfvf::word(kind::BLOCK_ANSWER, pfvf::block_answer(0, octet))
        }
        _ => pfvf::word(kind::RING_PAIR_RESET, pfvf::reset::DONE),
    }
}

impl Transport for NullQat {
    fn name(&self) -> &'static str {
        "in-process"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let value = match (region, offset) {
            (RING_BAR, _) => self.register(offset),
            (MISC_BAR, pfvf::FROM_PF) => self.state().from_pf,
            (MISC_BAR, _) => 0,
            _ => u32::from(KNOWN_DEVICES[0].device) << 16 | u32::from(VENDOR_ID),
        };
        for (octet, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *octet = value;
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if (region, offset) == (MISC_BAR, pfvf::TO_PF)
            && let Ok(word) = data.try_into()
        {
            self.state().from_pf = answer(u32::from_le_bytes(word));
        }
        Ok(())
    }

    fn map(&self, _: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        MappedRegion::new(self.0.ring_fd.as_fd(), offset, len).map_err(host)
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let mapping = Mapping::new(memory.fd, memory.len, iova).map_err(host)?;
        self.state().mappings.push(mapping);
        Ok(())
    }

    fn dma_unmap(&self, _: u64, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn enable_msix(&self, _: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&self) {}

    fn ended(&self) -> bool {
        false
    }
}
