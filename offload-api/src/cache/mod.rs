// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA cache: what must outlive a crash of the process that installs SAs, in shared memory.
//!
//! One writer, enforced by the kernel's lock on the file; any number of readers in other processes.
//! It holds metadata, counters and, above all, how far each outbound SA's sequence numbers have been
//! handed out. It never holds keys.
//!
//! What is read from the memory is believed only as far as its checksums and ranges go, since other
//! processes map it; the writer keeps its own truth and never reads back what it wrote.

mod entry;
mod error;
mod index;
mod journal;
mod layout;
mod name;
mod process;
mod publish;
mod reader;
mod recovery;
mod ring;
mod seqlock;
mod shm;
mod writer;

#[cfg(test)]
mod loom_models;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use entry::{CacheEntry, CacheSlot, SaLabel, SaState};
pub use error::{
    ClaimError, ConnectError, CreateError, InsertError, OpenError, ReadError, ReserveError,
};
pub use name::SaName;
pub use process::{WriterIdentity, since_boot};
pub use publish::Publisher;
pub use reader::{CacheReader, CacheRecord, WriterStatus};
pub use recovery::Recovery;
pub use ring::{CacheEvent, CacheEventKind};
pub use writer::CacheWriter;

/// Makes it unreadable who carries the SA in a slot.
#[cfg(test)]
pub(crate) fn spoil_placement(file: &OwnedFd, index: u32) {
    let reader = CacheReader::open(file.try_clone().unwrap()).unwrap();
    let slot = reader.geometry().slot(index).unwrap();
    let at = (slot.start + layout::PLACEMENT) * size_of::<u64>();
    rustix::io::pwrite(file, &u64::MAX.to_ne_bytes(), at as u64).unwrap();
}

/// The memory of an SA cache, kept alive by its descriptor: hand it to a keeper and it outlives the
/// writer.
#[derive(Debug)]
pub struct Cache {
    file: Arc<shm::File>,
}

impl Cache {
    /// Makes an empty cache for `capacity` SAs; `name` shows up in `/proc/PID/maps`.
    ///
    /// # Errors
    /// A capacity of zero or over 2^24, or no memory.
    pub fn create(name: &str, capacity: u32) -> Result<Self, CreateError> {
        let seed = RandomState::new().hash_one(capacity);
        let geometry = layout::Geometry::new(capacity, seed).ok_or(CreateError::Capacity {
            found: capacity,
            max: layout::CAPACITY_MAX,
        })?;
        let file = Arc::new(shm::File::create(name, geometry)?);
        Ok(Self { file })
    }

    /// Takes up a cache that another process made.
    ///
    /// # Errors
    /// It is no sealed SA cache of this version, or its header is damaged.
    pub fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        let file = Arc::new(shm::File::open(fd)?);
        Ok(Self { file })
    }

    /// Becomes the writer: takes over what an earlier one left, with what was half-written removed.
    ///
    /// # Errors
    /// Another process is the writer, or the memory can't be mapped.
    pub fn writer(&self) -> Result<CacheWriter, ClaimError> {
        CacheWriter::claim(&self.file)
    }

    /// A view for reading.
    ///
    /// # Errors
    /// The memory can't be mapped.
    pub fn reader(&self) -> Result<CacheReader, OpenError> {
        CacheReader::open(self.read_only_fd()?)
    }

    /// A descriptor that can't be mapped for writing, for readers in other processes.
    ///
    /// # Errors
    /// The system gives none.
    pub fn read_only_fd(&self) -> Result<OwnedFd, OpenError> {
        Ok(self.file.reopen_read_only()?)
    }
}

impl AsFd for Cache {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests;
