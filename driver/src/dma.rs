// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory for rings and payloads that the device reads and writes, at IOVAs of the driver's choice.
#![expect(
    unsafe_code,
    reason = "copies to and from memory that the device shares"
)]

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use memmap2::{MmapOptions, MmapRaw};
use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::handshake::Slots;
use crate::transport::IovaRange;

/// First IOVA handed out: above 4 GiB, clear of the ranges that platforms reserve below.
pub const IOVA_BASE: u64 = 1 << 32;
/// IOVAs are handed out in these steps, the size of a huge page.
const IOVA_STEP: u64 = 2 << 20;

/// Hands out IOVA ranges, each once.
#[derive(Debug)]
pub struct IovaAllocator {
    next: Mutex<u64>,
    reserved: Vec<IovaRange>,
}

impl Default for IovaAllocator {
    fn default() -> Self {
        Self::avoiding(&[])
    }
}

impl IovaAllocator {
    /// Hands out none of these.
    pub fn avoiding(reserved: &[IovaRange]) -> Self {
        let mut reserved = reserved.to_vec();
        reserved.sort_by_key(|range| range.first);
        Self {
            next: Mutex::new(IOVA_BASE),
            reserved,
        }
    }

    /// A range of `len` octets, aligned to 2 MiB, with a guard of 2 MiB behind it that is never
    /// mapped.
    pub fn alloc(&self, len: u64) -> u64 {
        let mut next = self
            .next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let step = len.next_multiple_of(IOVA_STEP);
        let mut iova = *next;
        for range in &self.reserved {
            if range.first < iova + step && iova <= range.last {
                // The end of the address space is far beyond what devices are given.
                iova = range.last.saturating_add(1).next_multiple_of(IOVA_STEP);
            }
        }
        *next = iova + step + IOVA_STEP;
        iova
    }
}

/// Memory shared with a device, carved up front to back and never given back in part.
#[derive(Debug)]
pub struct DmaArena {
    map: MmapRaw,
    fd: OwnedFd,
    iova: u64,
    used: AtomicU64,
}

/// A piece of an arena.
#[derive(Clone, Copy, Debug)]
pub struct DmaSlice {
    offset: u64,
    len: u64,
}

impl DmaArena {
    /// An arena of `len` octets at `iova`, all zero, of huge pages where there are enough: an IOMMU
    /// maps those many times faster. The caller maps it for the device.
    ///
    /// # Errors
    /// No memory.
    pub fn new(len: usize, iova: u64) -> Result<Self, DeviceError> {
        let make = |pages: MemfdFlags| -> std::io::Result<Self> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
            let fd = rustix::fs::memfd_create("esplanade-rings", flags)?;
            rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::ftruncate(&fd, len as u64)?;
            if !pages.is_empty() {
                // Taken here, so that a shortage is an error and not a later SIGBUS.
                rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
            }
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&fd, seals)?;
            let file = File::from(fd);
            let map = MmapOptions::new().len(len).map_raw(&file)?;
            Ok(Self {
                map,
                fd: file.into(),
                iova,
                used: AtomicU64::new(0),
            })
        };
        let huge = (len as u64)
            .is_multiple_of(IOVA_STEP)
            .then(|| make(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB));
        let made = match huge {
            Some(Ok(arena)) => Ok(arena),
            _ => make(MemfdFlags::empty()),
        };
        made.map_err(|error| DeviceError::Host {
            what: "memory for rings",
            error: error.to_string(),
        })
    }

    /// The memory, for mapping it.
    pub fn memory(&self) -> PoolMemory<'_> {
        PoolMemory {
            fd: self.fd.as_fd(),
            address: self.map.as_mut_ptr().addr(),
            len: self.map.len(),
        }
    }

    /// Where the device sees it.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Takes `len` octets, aligned to a cache line; nothing when the arena is used up.
    pub fn take(&self, len: u64) -> Option<DmaSlice> {
        const LINE: u64 = 64;
        let len = len.next_multiple_of(LINE);
        let offset = self.used.fetch_add(len, Ordering::Relaxed);
        (offset.checked_add(len)? <= self.map.len() as u64).then_some(DmaSlice { offset, len })
    }

    /// As [`take`](Self::take), at a multiple of `alignment` for the device, a power of two.
    pub fn take_aligned(&self, len: u64, alignment: u64) -> Option<DmaSlice> {
        let whole = self.take(len.checked_add(alignment)?)?;
        let start = self.iova + whole.offset;
        let offset = whole.offset + (start.next_multiple_of(alignment) - start);
        Some(DmaSlice { offset, len })
    }

    /// Keeps the memory out of core dumps, as far as the system can.
    pub fn hide(&self) {
        let _ = self.map.advise(memmap2::Advice::DontDump);
    }

    /// Where the device sees a slice.
    pub fn iova_of(&self, slice: DmaSlice) -> u64 {
        self.iova + slice.offset
    }

    /// Copies into a slice, if it fits.
    pub fn write(&self, slice: DmaSlice, at: u64, octets: &[u8]) {
        if let Some(target) = self.locate(slice, at, octets.len()) {
            // SAFETY: in bounds (`locate`); the source is our own; the device reads the entry only
            // after the doorbell that follows.
            unsafe { std::ptr::copy_nonoverlapping(octets.as_ptr(), target, octets.len()) };
        }
    }

    /// Copies out of a slice, if it fits; zeros else.
    pub fn read(&self, slice: DmaSlice, at: u64, octets: &mut [u8]) {
        match self.locate(slice, at, octets.len()) {
            // SAFETY: in bounds (`locate`); the target is our own. The device may write meanwhile if
            // it breaks the protocol; what was copied is validated and not read again.
            Some(source) => unsafe {
                std::ptr::copy_nonoverlapping(source, octets.as_mut_ptr(), octets.len());
            },
            None => octets.fill(0),
        }
    }

    /// An array of `depth` entries over a slice: checked once, here.
    pub(crate) fn entries<T>(self: &Arc<Self>, slice: DmaSlice, depth: u32) -> Option<Entries<T>> {
        let len = (depth as usize).checked_mul(size_of::<T>())?;
        let start = self.locate(slice, 0, len)?;
        // Whole words, so that an entry's last one is aligned.
        let words = size_of::<T>().is_multiple_of(size_of::<u64>())
            && start.align_offset(align_of::<AtomicU64>()) == 0;
        (words && depth.is_power_of_two()).then(|| Entries {
            start,
            mask: depth - 1,
            arena: self.clone(),
            slice,
            entry: PhantomData,
        })
    }

    fn locate(&self, slice: DmaSlice, at: u64, len: usize) -> Option<*mut u8> {
        let end = at.checked_add(len as u64)?;
        let fits = end <= slice.len && slice.offset + slice.len <= self.map.len() as u64;
        fits.then(|| {
            self.map
                .as_mut_ptr()
                .wrapping_add((slice.offset + at) as usize)
        })
    }
}

/// Entries of a ring in an arena, found by positions that count up for ever.
#[derive(Debug)]
pub(crate) struct Entries<T> {
    start: *mut u8,
    mask: u32,
    arena: Arc<DmaArena>,
    slice: DmaSlice,
    entry: PhantomData<fn() -> T>,
}

// SAFETY: the pointer goes into the arena's mapping, which lives as long as `arena`; what is there
// is only ever copied in and out, or accessed atomically.
unsafe impl<T> Send for Entries<T> {}
// SAFETY: as for `Send`; of entries that one thread writes while another reads, the copy is garbage
// and not a reference, and the driver gives each ring's writing to one queue.
unsafe impl<T> Sync for Entries<T> {}

impl<T> Entries<T> {
    pub(crate) fn iova(&self) -> u64 {
        self.arena.iova_of(self.slice)
    }

    pub(crate) fn iova_of(&self, position: u32) -> u64 {
        self.iova() + u64::from(position & self.mask) * size_of::<T>() as u64
    }

    fn at(&self, position: u32) -> *mut u8 {
        let index = (position & self.mask) as usize;
        // The mask keeps it below the depth that `entries` has checked.
        self.start.wrapping_add(index * size_of::<T>())
    }

    /// The first eight octets of an entry, loaded at once, before everything loaded after.
    #[inline]
    pub(crate) fn first_word(&self, position: u32) -> u64 {
        let word = self.at(position);
        // SAFETY: in bounds (`at`) and aligned (`entries`); accessed atomically by both sides.
        u64::from_le(unsafe { AtomicU64::from_ptr(word.cast()) }.load(Ordering::Acquire))
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Slots<T> for Entries<T> {
    fn depth(&self) -> u32 {
        self.mask + 1
    }

    /// Writes an entry; the device may read it after the doorbell that follows.
    #[inline]
    fn write(&self, position: u32, entry: T) {
        // SAFETY: in bounds (`at`), and the device reads it only after the doorbell.
        unsafe { self.at(position).cast::<T>().write_unaligned(entry) };
    }

    /// Copies an entry out, once. The device may write meanwhile if it breaks the protocol; what was
    /// copied is validated and not read again.
    #[inline]
    fn read(&self, position: u32) -> T {
        // SAFETY: in bounds (`at`), and any octets are a `T`.
        unsafe { self.at(position).cast::<T>().read_unaligned() }
    }

    #[inline]
    fn last_word(&self, position: u32, order: Ordering) -> u64 {
        let word = self
            .at(position)
            .wrapping_add(size_of::<T>() - size_of::<u64>());
        // SAFETY: in bounds (`at`) and aligned (`entries`); accessed atomically by both sides.
        u64::from_le(unsafe { AtomicU64::from_ptr(word.cast()) }.load(order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_apart_and_bounds_are_kept() {
        let arena = DmaArena::new(4096, IOVA_BASE).unwrap();
        let (a, b) = (arena.take(100).unwrap(), arena.take(100).unwrap());
        arena.write(a, 0, &[1; 128]);
        arena.write(a, 1, &[2; 128]);
        let mut octets = [9; 128];
        arena.read(b, 0, &mut octets);
        assert_eq!(octets, [0; 128]);
        arena.read(a, 0, &mut octets);
        assert_eq!(octets, [1; 128]);
        arena.read(a, u64::MAX, &mut octets);
        assert_eq!(octets, [0; 128]);
        assert!(arena.take(4096).is_none());
    }

    #[test]
    fn an_aligned_slice_is_aligned_for_the_device() {
        let arena = DmaArena::new(2 << 20, IOVA_BASE).unwrap();
        arena.take(64).unwrap();
        let slice = arena.take_aligned(100, 4096).unwrap();
        assert!(arena.iova_of(slice).is_multiple_of(4096));
        arena.write(slice, 0, &[7; 100]);
        let mut octets = [0; 101];
        arena.read(slice, 0, &mut octets);
        assert_eq!(octets, [0; 101], "beyond its end");
        assert!(arena.take_aligned(2 << 20, 4096).is_none());
    }

    #[test]
    fn entries_wrap_at_their_depth_and_refuse_a_slice_too_small() {
        let arena = Arc::new(DmaArena::new(4096, IOVA_BASE).unwrap());
        let slice = arena.take(64).unwrap();
        assert!(arena.entries::<[u8; 32]>(slice, 4).is_none());
        assert!(arena.entries::<[u8; 16]>(slice, 3).is_none());
        assert!(arena.entries::<[u8; 12]>(slice, 4).is_none());
        let entries = arena.entries::<[u8; 32]>(slice, 2).unwrap();
        entries.write(0, [1; 32]);
        entries.write(u32::MAX, [2; 32]);
        assert_eq!((entries.read(2), entries.read(1)), ([1; 32], [2; 32]));
        assert_eq!(
            entries.last_word(4, Ordering::Relaxed),
            0x0101_0101_0101_0101
        );
    }

    #[test]
    fn iova_ranges_never_touch() {
        let iovas = IovaAllocator::default();
        let (a, b) = (iovas.alloc(1), iovas.alloc(5 << 20));
        assert!(a + IOVA_STEP < b && b + (6 << 20) < iovas.alloc(1));
    }

    #[test]
    fn reserved_addresses_are_never_handed_out() {
        let reserved = |first, last| IovaRange { first, last };
        let ranges = [
            reserved(IOVA_BASE + (1 << 20), IOVA_BASE + (3 << 20)),
            reserved(0xfee0_0000, 0xfeef_ffff),
            reserved(IOVA_BASE + (20 << 20), IOVA_BASE + (20 << 20)),
        ];
        let iovas = IovaAllocator::avoiding(&ranges);
        for len in [1u64, 2 << 20, 9 << 20, 1, 2 << 20] {
            let iova = iovas.alloc(len);
            let clear = |range: &IovaRange| iova + len <= range.first || range.last < iova;
            assert!(
                iova.is_multiple_of(IOVA_STEP) && ranges.iter().all(clear),
                "{iova:#x}"
            );
        }
    }
}
