// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The doorbell pages: shared memory that driver and card write without a message.
#![expect(unsafe_code, reason = "atomic words of a shared mapping")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use fpga_regs::registers::{DOORBELL_PAGE, doorbell};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::handshake::Pages;

/// One page for each queue pair.
#[derive(Debug)]
pub(crate) struct Doorbells {
    map: MmapRaw,
    file: File,
    queues: u16,
}

impl Doorbells {
    pub(crate) fn new(queues: u16) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("ipa-doorbells", flags)?;
        let len = u64::from(queues) * DOORBELL_PAGE;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(fd);
        let map = MmapOptions::new().len(len as usize).map_raw(&file)?;
        Ok(Self { map, file, queues })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.queues) * DOORBELL_PAGE
    }

    /// Everything back to zero.
    pub(crate) fn clear(&self) {
        (0..self.queues).for_each(|queue| self.clear_page(queue));
    }

    /// A page back to zero, but for what the card says of itself: it may be asleep, and a driver that is
    /// not told wakes nobody.
    pub(crate) fn clear_page(&self, queue: u16) {
        let page = u64::from(queue) * DOORBELL_PAGE;
        let words = (0..DOORBELL_PAGE).step_by(size_of::<u32>());
        for register in words.filter(|register| *register != doorbell::SLEEPING) {
            self.write(page + register, 0);
        }
    }

    /// A word by its offset in the BAR, for access by message.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        self.at(offset)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// As [`read`](Self::read).
    pub(crate) fn write(&self, offset: u64, value: u32) {
        if let Some(word) = self.at(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn at(&self, offset: u64) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset + 4 > self.len() {
            return None;
        }
        // SAFETY: in bounds and aligned (checked; the mapping starts at a page), sealed against
        // shrinking, alive as long as `self`, and only ever accessed atomically.
        Some(unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset as usize).cast()) })
    }
}

impl Pages for Doorbells {
    type Word = AtomicU32;

    fn queues(&self) -> u16 {
        self.queues
    }

    #[inline]
    fn word(&self, queue: u16, register: u64) -> Option<&AtomicU32> {
        self.at(u64::from(queue) * DOORBELL_PAGE + register)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_page_still_tells_that_the_card_sleeps() {
        let doorbells = Doorbells::new(2).unwrap();
        let at = |queue: u64, register| queue * DOORBELL_PAGE + register;
        for queue in 0..2 {
            doorbells.write(at(queue, doorbell::SLEEPING), 1);
            doorbells.write(at(queue, doorbell::TAIL), 7);
        }
        doorbells.clear_page(1);
        assert_eq!(doorbells.read(at(0, doorbell::TAIL)), 7);
        doorbells.clear();
        for queue in 0..2 {
            assert_eq!(doorbells.read(at(queue, doorbell::TAIL)), 0);
            assert_eq!(doorbells.read(at(queue, doorbell::SLEEPING)), 1);
        }
    }
}
