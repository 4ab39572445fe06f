// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of a driver as an in-process card sees it.
#![expect(
    unsafe_code,
    reason = "copies to and from memory that the driver shares"
)]

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One mapping.
pub struct Mapping {
    map: MmapRaw,
    iova: u64,
}

/// An array of entries in a mapping that outlives it.
#[derive(Clone, Copy)]
pub struct Entries {
    start: *mut u8,
    mask: u32,
}

// SAFETY: the pointer is only used by the card's own functions, under its lock.
unsafe impl Send for Entries {}

impl Mapping {
    /// Maps a memfd.
    ///
    /// # Errors
    /// The system's.
    pub fn new(fd: BorrowedFd<'_>, len: usize, iova: u64) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        Ok(Self { map, iova })
    }

    /// An array at an IOVA, of a power of two entries. Mappings are never undone while entries are
    /// in use: the card is dropped as a whole.
    pub fn entries(&self, iova: u64, depth: u32, size: usize) -> Option<Entries> {
        let offset = usize::try_from(iova.checked_sub(self.iova)?).ok()?;
        let end = offset.checked_add(depth as usize * size)?;
        (end <= self.map.len() && depth.is_power_of_two()).then(|| Entries {
            start: self.map.as_mut_ptr().wrapping_add(offset),
            mask: depth - 1,
        })
    }

    /// A 32-bit word.
    pub fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let offset = usize::try_from(offset).ok()?;
        if offset % 4 != 0 || offset.checked_add(4)? > self.map.len() {
            return None;
        }
        // SAFETY: in bounds and aligned, alive as long as `self`, only accessed atomically.
        Some(unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) })
    }
}

impl Entries {
    /// Copies an entry out.
    pub fn read<T: FromBytes>(&self, position: u32) -> T {
        let at = (position & self.mask) as usize * size_of::<T>();
        // SAFETY: in bounds by construction and by the mask; any octets are a `T`.
        unsafe { self.start.add(at).cast::<T>().read_unaligned() }
    }

    /// Writes an entry, its first eight octets with one store after the others.
    pub fn post_first<T: IntoBytes + Immutable>(&self, position: u32, entry: &T) {
        let Some((first, body)) = entry.as_bytes().split_first_chunk::<8>() else {
            return;
        };
        let at = (position & self.mask) as usize * size_of::<T>();
        // SAFETY: in bounds by construction and by the mask; entries start at multiples of their
        // size, so the first eight octets are aligned.
        unsafe {
            let target = self.start.add(at);
            std::ptr::copy_nonoverlapping(body.as_ptr(), target.add(first.len()), body.len());
            let word = AtomicU64::from_ptr(target.cast());
            word.store(u64::from_ne_bytes(*first), Ordering::Release);
        }
    }

    /// Writes an entry, its last eight octets with one store after the others.
    pub fn post<T: IntoBytes + Immutable>(&self, position: u32, entry: &T) {
        let Some((body, last)) = entry.as_bytes().split_last_chunk::<8>() else {
            return;
        };
        let at = (position & self.mask) as usize * size_of::<T>();
        // SAFETY: in bounds by construction and by the mask; entries start at multiples of their
        // size, so the last eight octets are aligned.
        unsafe {
            let target = self.start.add(at);
            std::ptr::copy_nonoverlapping(body.as_ptr(), target, body.len());
            let word = AtomicU64::from_ptr(target.add(body.len()).cast());
            word.store(u64::from_ne_bytes(*last), Ordering::Release);
        }
    }
}
