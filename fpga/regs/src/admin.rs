// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands of the admin queue.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An admin command, 64 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Command {
    /// [`Opcode`].
    pub opcode: u8,
    /// Zero.
    pub reserved0: u8,
    /// Returned with the completion.
    pub id: U16,
    /// SA index or queue number.
    pub index: U32,
    /// SA generation.
    pub generation: U32,
    /// Octets of the payload.
    pub payload_len: U32,
    /// IOVA of the payload.
    pub payload: U64,
    /// Depends on the opcode.
    pub arguments: [U64; 5],
}

/// What an admin command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Nothing; tells that the card is alive.
    Nop = 0,
    /// Creates queue pair `index`: arguments 0 and 1 are the IOVAs of the submission and completion
    /// rings, 2 the depth of both (a power of two), 3 the priority (0 lowest, 3 highest).
    CreateQueue = 1,
    /// Stops queue pair `index`: when this completes the card touches neither its rings nor its
    /// buffers any more.
    DeleteQueue = 2,
    /// Adds an SA from the [`crate::context::SaContext`] in the payload; the completion tells index
    /// and generation. The card has forgotten the payload's address by then; the host zeroes it.
    SaAdd = 3,
    /// Grants sequence numbers: arguments 0 and 1 are the first and last one.
    SaGrant = 4,
    /// Takes back what is left of the grant; the completion's value is the next unused number.
    SaRevoke = 5,
    /// Merges a [`crate::context::ReplayState`] into an inbound SA's window.
    SaReplay = 6,
    /// New lifetimes from a [`crate::context::Lifetimes`] payload.
    SaLifetimes = 7,
    /// New outer headers from a [`crate::context::Outer`] payload.
    SaOuter = 8,
    /// Removes an SA: waits for its operations inside the card, zeroises the keys, bumps the
    /// generation. Writes a [`crate::context::Usage`] to the payload address when `payload_len` is
    /// its size.
    SaRetire = 9,
    /// Writes a [`crate::context::Usage`] to the payload address.
    SaUsage = 10,
    /// Adds many SAs: the payload is an array of [`crate::context::SaContext`], argument 0 their
    /// count, argument 1 the IOVA of an array of [`SaAdded`] for the answers. One that is refused
    /// does not keep the others out; the completion's value is how many were added.
    SaAddBulk = 11,
    /// Writes the [`crate::context::SaDescription`] of this function's first SA at or after `index`
    /// to the payload address; `Stale` when there is none.
    SaNext = 12,
    /// Lets an SA finish what was submitted and refuses what comes later (`sa-stale`), keys and
    /// counters in place until it is retired.
    SaDrain = 13,
    /// Writes a [`crate::queue::QueueDescription`] of queue pair `index` to the payload address.
    QueueQuery = 14,
    /// Writes a [`crate::port::PortDescription`] of port `index` to the payload address.
    PortQuery = 15,
    /// Adds a rule from the [`crate::port::Rule`] in the payload; the completion tells its index and
    /// generation. It goes when its SA goes.
    RuleAdd = 16,
    /// Removes rule `index` of `generation`.
    RuleDelete = 17,
    /// Writes the newest [`ErrorRecord`]s, newest first, to the payload address; the completion's
    /// value is how many.
    ErrorLog = 19,
    /// Runs the card's known answers: the completion's value is 0, or the number of the first suite
    /// that failed plus 1.
    SelfTest = 20,
}

impl Opcode {
    /// The opcode with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        use Opcode::*;
        [
            Nop,
            CreateQueue,
            DeleteQueue,
            SaAdd,
            SaGrant,
            SaRevoke,
            SaReplay,
            SaLifetimes,
            SaOuter,
            SaRetire,
            SaUsage,
            SaAddBulk,
            SaNext,
            SaDrain,
            QueueQuery,
            PortQuery,
            RuleAdd,
            RuleDelete,
            ErrorLog,
            SelfTest,
        ]
        .into_iter()
        .find(|opcode| *opcode as u8 == code)
    }
}

/// An admin completion, 32 octets; written like a data completion, phase last.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandCompletion {
    /// From the command.
    pub id: U16,
    /// Zero.
    pub reserved0: U16,
    /// SA index.
    pub index: U32,
    /// SA generation.
    pub generation: U32,
    /// Zero.
    pub reserved1: U32,
    /// Depends on the opcode.
    pub value: U64,
    /// Zero.
    pub reserved2: [u8; 6],
    /// [`CommandStatus`].
    pub status: u8,
    /// [`crate::descriptor::PHASE`] or 0.
    pub phase: u8,
}

/// Outcome of an admin command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CommandStatus {
    /// Done.
    Ok = 0,
    /// Unknown opcode.
    BadOpcode = 1,
    /// A field makes no sense.
    BadField = 2,
    /// The payload is not reachable.
    DmaFault = 3,
    /// The SA table is full.
    TableFull = 4,
    /// No such SA, or its generation is over.
    Stale = 5,
    /// The grant starts behind; the completion's value is the least first number.
    GrantBehind = 6,
    /// The command does not fit the SA's direction or numbering.
    NotApplicable = 7,
    /// The queue exists already, or does not.
    QueueState = 8,
    /// The suite, mode or a feature is not supported.
    Unsupported = 9,
    /// The key was to come by the mailbox, which holds none of that length.
    KeyMissing = 10,
}

impl CommandStatus {
    /// The status with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        use CommandStatus::*;
        [
            Ok,
            BadOpcode,
            BadField,
            DmaFault,
            TableFull,
            Stale,
            GrantBehind,
            NotApplicable,
            QueueState,
            Unsupported,
            KeyMissing,
        ]
        .into_iter()
        .find(|status| *status as u8 == code)
    }
}

/// Answer to one SA of [`Opcode::SaAddBulk`], 16 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SaAdded {
    /// SA index.
    pub index: U32,
    /// SA generation.
    pub generation: U32,
    /// [`CommandStatus`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// An error that the card noted, 32 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorRecord {
    /// Card's [`crate::registers::identity::TIME`].
    pub time: U64,
    /// Depends on `kind`: an IOVA, a doorbell's value, an opcode.
    pub detail: U64,
    /// Queue pair, or [`ErrorRecord::NO_QUEUE`] for the admin queue.
    pub queue: U32,
    /// [`ErrorKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 11],
}

impl ErrorRecord {
    /// [`Self::queue`] of an error outside the data queues.
    pub const NO_QUEUE: u32 = u32::MAX;
    /// Records that the card keeps.
    pub const KEPT: usize = 16;
}

/// Kind of an [`ErrorRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorKind {
    /// Memory that was not mapped, or with bus mastering off (detail: the IOVA).
    Dma = 1,
    /// A doorbell beyond the ring (detail: its value).
    Doorbell = 2,
    /// A descriptor that made no sense (detail: its opcode).
    Descriptor = 3,
    /// An admin command that was refused (detail: opcode, and the status in bits 8 to 15).
    Command = 4,
    /// A fatal error (detail: [`crate::registers::FatalCause`]).
    Fatal = 5,
}

impl ErrorKind {
    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        use ErrorKind::*;
        [Dma, Doorbell, Descriptor, Command, Fatal]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

const _: () = assert!(size_of::<Command>() == 64);
const _: () = assert!(size_of::<SaAdded>() == 16);
const _: () = assert!(size_of::<ErrorRecord>() == 32);
const _: () = assert!(size_of::<CommandCompletion>() == 32);
