// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with the cache: one enum for each verb.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::process::WriterIdentity;

/// A cache was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A size that makes no cache.
    #[error("cache for {found} SAs: expected 1 to {max}")]
    Capacity {
        /// What was asked.
        found: u32,
        /// Most.
        max: u32,
    },
    /// The system refused the memory.
    #[error("cache memory: {0}")]
    Memory(#[from] io::Error),
    /// The new cache can't be written.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// A descriptor is no usable cache.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its size could be changed under a reader, which would kill it.
    #[error("memory is not sealed against shrinking and growing")]
    NotSealed,
    /// No SA cache at all.
    #[error("not an SA cache: magic {found:#018x}, expected {expected:#018x}")]
    Magic {
        /// What is there.
        found: u64,
        /// What should be.
        expected: u64,
    },
    /// Made by another build.
    #[error(
        "SA cache of version {found}, layout {found_layout:#018x}; expected {expected}, {expected_layout:#018x}"
    )]
    Version {
        /// Its version.
        found: u64,
        /// Ours.
        expected: u64,
        /// Its layout hash.
        found_layout: u64,
        /// Ours.
        expected_layout: u64,
    },
    /// The header is damaged.
    #[error("header checksum {found:#018x}, expected {expected:#018x}")]
    Checksum {
        /// What is there.
        found: u64,
        /// What its words give.
        expected: u64,
    },
    /// Header and file disagree.
    #[error("{found} octets of memory, expected {expected}")]
    Size {
        /// What the file has.
        found: u64,
        /// What the header says.
        expected: u64,
    },
    /// The system's word.
    #[error("cache memory: {0}")]
    System(#[from] io::Error),
}

/// No cache was found at a path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody publishes a cache there, or who asks may not have it.
    #[error("{}: {error}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Somebody listens there and gave no cache.
    #[error("{}: no SA cache was given (to this user)", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
    },
    /// What was given is no usable cache.
    #[error(transparent)]
    Open(OpenError),
}

/// The writer's place was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Somebody else has it.
    #[error("another process is the writer: {writer:?}")]
    Taken {
        /// Who, as far as the header tells.
        writer: Option<WriterIdentity>,
    },
    /// The memory can't be mapped.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system's word.
    #[error("cache lock: {0}")]
    System(#[from] io::Error),
}

/// An SA was not entered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InsertError {
    /// Every slot holds a live SA.
    #[error("SA cache is full ({capacity} SAs)")]
    Full {
        /// SAs that fit.
        capacity: u32,
    },
}

/// No sequence numbers were reserved.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// The slot's SA is no more.
    #[error("stale cache slot")]
    Stale,
    /// An inbound SA, or a reservation of nothing.
    #[error("nothing to reserve")]
    NotApplicable,
    /// The sequence space is used up: rekey.
    #[error("all numbers up to {end} are handed out")]
    Exhausted {
        /// End of the sequence space.
        end: u64,
    },
}

/// An SA could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// No such SA.
    #[error("no such SA")]
    NotFound,
    /// A slot outside of the table.
    #[error("slot {found}: expected less than {capacity}")]
    OutOfRange {
        /// The slot.
        found: u32,
        /// Slots that there are.
        capacity: u32,
    },
    /// The slot holds another SA by now, or none.
    #[error("stale cache slot")]
    Stale,
    /// The writer was changing it all the time.
    #[error("the writer is changing the entry")]
    Busy,
    /// The writer died while changing it.
    #[error("a dead writer left the entry half-written")]
    Abandoned,
    /// The checksum or a field is wrong.
    #[error("the entry is damaged")]
    Corrupt,
}
