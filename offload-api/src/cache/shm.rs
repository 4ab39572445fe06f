// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache's memory: a sealed memfd as atomic words.
#![expect(unsafe_code, reason = "a shared mapping seen as atomic words")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

use super::CacheError;
use super::atomic::AtomicU64;

/// Shared memory that can't shrink.
#[derive(Debug)]
pub(super) struct SharedWords {
    map: MmapRaw,
    fd: OwnedFd,
}

impl SharedWords {
    /// New memory of so many words, all zero.
    pub(super) fn create(name: &str, words: usize) -> Result<Self, CacheError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(std::io::Error::from)?;
        rustix::fs::ftruncate(&fd, (words * size_of::<u64>()) as u64)
            .map_err(std::io::Error::from)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(std::io::Error::from)?;
        Self::map(fd, true)
    }

    /// Maps somebody's memory; refuses what could shrink under the mapping.
    pub(super) fn open(fd: OwnedFd, writable: bool) -> Result<Self, CacheError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(std::io::Error::from)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(CacheError::NotSealed);
        }
        Self::map(fd, writable)
    }

    fn map(fd: OwnedFd, writable: bool) -> Result<Self, CacheError> {
        let file = File::from(fd);
        let map = if writable {
            MmapOptions::new().map_raw(&file)?
        } else {
            MmapOptions::new().map_raw_read_only(&file)?
        };
        Ok(Self {
            map,
            fd: file.into(),
        })
    }

    /// The memory's descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        let len = self.map.len() / size_of::<u64>();
        // SAFETY: (1) the mapping is page-aligned and lives as long as `self`; (2) it is sealed
        // against shrinking, so every page stays; (3) every access by any process goes through
        // atomic words, and read-only mappings are only loaded from (`CacheReader` has no stores).
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), len) }
    }
}
