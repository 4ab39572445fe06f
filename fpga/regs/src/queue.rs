// SPDX-License-Identifier: Apache-2.0 OR MIT
//! State of a queue pair, as the card tells it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a queue pair is and has done, 64 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct QueueDescription {
    /// Entries of its rings.
    pub depth: U32,
    /// 0 lowest, 3 highest.
    pub priority: u8,
    /// [`QueueState`].
    pub state: u8,
    /// Why it stopped: an [`crate::admin::ErrorKind`], or 0.
    pub error: u8,
    /// Zero.
    pub reserved0: u8,
    /// Descriptors taken.
    pub submitted: U64,
    /// Completions written.
    pub completed: U64,
    /// Completions that told an error.
    pub errors: U64,
    /// Interrupts fired.
    pub interrupts: U64,
    /// Octets of packets read.
    pub bytes: U64,
    /// Zero.
    pub reserved1: U64,
    /// Zero.
    pub reserved2: U64,
}

/// State of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum QueueState {
    /// Not created.
    Absent = 0,
    /// Created and served.
    Running = 1,
    /// Stopped by an error of its own: delete it and create it again.
    Failed = 2,
}

impl QueueState {
    /// The state with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Absent, Self::Running, Self::Failed]
            .into_iter()
            .find(|state| *state as u8 == code)
    }
}

const _: () = assert!(size_of::<QueueDescription>() == 64);
