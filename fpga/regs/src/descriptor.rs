// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries of the data rings and the event ring.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Opcode of [`Submission`]: seal or open, as the SA says.
pub const OP_PROCESS: u8 = 1;
/// Flag of [`Submission`]: `sequence` and `iv` are the host's own (explicitly numbered SAs).
pub const FLAG_EXPLICIT: u8 = 1 << 0;
/// Flag of [`Submission`]: `buffer` is the IOVA of a list of [`GatherEntry`].
pub const FLAG_GATHER: u8 = 1 << 1;
/// Most octets of a buffer, whether in one piece or in several.
pub const MAX_BUFFER: u32 = 128 << 10;

/// A submission, 64 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Submission {
    /// [`OP_PROCESS`].
    pub opcode: u8,
    /// `FLAG_…`.
    pub flags: u8,
    /// Entries of the gather list; 0 without [`FLAG_GATHER`].
    pub entries: U16,
    /// Slot of the driver's table of operations in flight, returned with the completion.
    pub slot: U32,
    /// Times the slot was used, returned with the completion.
    pub slot_generation: U32,
    /// SA table index.
    pub sa_index: U32,
    /// SA generation.
    pub sa_generation: U32,
    /// Octets of the buffer.
    pub buffer_len: U32,
    /// IOVA of the buffer: the packet with its head- and tailroom; or of its gather list.
    pub buffer: U64,
    /// Where the packet starts in the buffer.
    pub offset: U32,
    /// Octets of the packet.
    pub len: U32,
    /// Explicit sequence number.
    pub sequence: U64,
    /// Explicit IV.
    pub iv: [u8; 16],
}

/// An entry of a gather list, 16 octets: one piece of the buffer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GatherEntry {
    /// IOVA of the piece.
    pub iova: U64,
    /// Octets of the piece, at least one.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
}

/// A completion, 32 octets. The card writes octets 0..24 first and the last eight, with the phase,
/// in one store.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Completion {
    /// From the submission.
    pub slot: U32,
    /// From the submission.
    pub slot_generation: U32,
    /// Sequence number that was assigned or authenticated.
    pub sequence: U64,
    /// Where the resulting packet starts in the buffer.
    pub offset: U32,
    /// Inbound: next header of the ESP trailer.
    pub next_header: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Octets of the resulting packet.
    pub len: U32,
    /// Low 16 bits of the position in the ring, for post-mortems.
    pub position: U16,
    /// A code of `offload_api::queue::Status`.
    pub status: u8,
    /// [`PHASE`] or 0.
    pub phase: u8,
}

/// Phase bit of [`Completion`], [`Event`] and admin completions: set in the first round through the
/// ring, clear in the second, and so on. The host clears the ring before it hands it over.
pub const PHASE: u8 = 0x80;

/// An event, 32 octets; written like a completion.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Event {
    /// SA table index; the queue pair for [`EventKind::QueueError`].
    pub sa_index: U32,
    /// SA generation; 0 for events of no SA.
    pub sa_generation: U32,
    /// Depends on `kind`: numbers left for [`EventKind::GrantLow`], packets since the last such event
    /// for the bursts.
    pub value: U64,
    /// Card's [`crate::registers::identity::TIME`].
    pub time: U64,
    /// Zero.
    pub reserved: [u8; 6],
    /// [`EventKind`].
    pub kind: u8,
    /// [`PHASE`] or 0.
    pub phase: u8,
}

/// Kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// Soft limit by octets.
    SoftBytes = 1,
    /// Soft limit by packets.
    SoftPackets = 2,
    /// Soft limit by time.
    SoftTime = 3,
    /// Hard limit by octets.
    HardBytes = 4,
    /// Hard limit by packets.
    HardPackets = 5,
    /// Hard limit by time.
    HardTime = 6,
    /// The grant is under its low mark.
    GrantLow = 7,
    /// The sequence space nearly ends.
    SequenceEnding = 8,
    /// Packets with a bad ICV; at most once a second for each SA.
    BadIcvBurst = 9,
    /// Replayed packets; at most once a second for each SA.
    ReplayBurst = 10,
    /// An SA found no room in the table; at most once a second.
    TableFull = 11,
    /// A queue pair has stopped (value: an [`crate::admin::ErrorKind`]).
    QueueError = 12,
    /// The last number of the sequence space is used.
    SequenceEnd = 13,
    /// All keys were zeroised on request.
    Zeroised = 15,
}

impl EventKind {
    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        use EventKind::*;
        [
            SoftBytes,
            SoftPackets,
            SoftTime,
            HardBytes,
            HardPackets,
            HardTime,
            GrantLow,
            SequenceEnding,
            BadIcvBurst,
            ReplayBurst,
            TableFull,
            QueueError,
            SequenceEnd,
            Zeroised,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }
}

const _: () = assert!(size_of::<Submission>() == 64);
const _: () = assert!(size_of::<GatherEntry>() == 16);
const _: () = assert!(size_of::<Completion>() == 32);
const _: () = assert!(size_of::<Event>() == 32);
