// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA cache: what must outlive a crash, in shared memory.
//!
//! A sealed memfd holds a header, an index from SPI and destination to slots, the slots, and a ring
//! of the last events. One process writes ([`CacheWriter`]), any number read ([`CacheReader`]). It
//! holds metadata only, never keys; above all it records each block of sequence numbers *before* the
//! block may be used, so that whoever takes an SA over starts past it.

mod atomic;
mod layout;
mod reader;
mod seqlock;
#[cfg(not(loom))]
mod shm;
mod writer;

pub use layout::{CacheEntry, CacheState};
pub use reader::{CacheReader, CacheRecord};
pub use writer::{CacheSlot, CacheWriter};

use thiserror::Error;

/// The cache can't be made, opened or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The system refused the memory.
    #[error("SA cache memory: {0}")]
    Memory(#[from] std::io::Error),
    /// Not a cache, or one of another build.
    #[error("SA cache: {what}: expected {expected:#x}, found {found:#x}")]
    Format {
        /// Which field.
        what: &'static str,
        /// What this build writes.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The memory can still be shrunk by another process, which would kill its readers.
    #[error("SA cache memory is not sealed against shrinking")]
    NotSealed,
    /// Another live process writes it.
    #[error("SA cache is written by process {pid}")]
    WriterAlive {
        /// The writer.
        pid: u32,
    },
    /// Every slot is in use; a live SA is never evicted.
    #[error("SA cache is full ({capacity} SAs)")]
    Full {
        /// Slots.
        capacity: u32,
    },
    /// The slot's SA is no more.
    #[error("stale SA cache slot")]
    Stale,
    /// The sequence space has no block left.
    #[error("sequence numbers of SA {spi:08x} are used up")]
    SequenceExhausted {
        /// The SA's SPI.
        spi: u32,
    },
}
