// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs: bursts of operations in, bursts of completions out.

use std::os::fd::BorrowedFd;

use crate::capability::Capabilities;
use crate::error::{DeviceError, OpenQueueError};
use crate::frame::Frame;
use crate::sa::SaHandle;

/// One thread's way into an accelerator. Completions come in the order of submission for each SA.
pub trait QueuePair: Send {
    /// Takes operations from the front of `ops` while there is room and tells how many; the rest
    /// stays with the caller, in order. Nothing is started before [`kick`](Self::kick). Where `ops` has room for the
    /// queue's depth, the engine may keep it, and give another that has.
    ///
    /// # Errors
    /// The device is gone; `ops` is untouched.
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError>;

    /// Starts everything enqueued: one fence and one doorbell a burst.
    ///
    /// # Errors
    /// The device is gone; what was enqueued comes back through `dequeue` as aborted.
    fn kick(&mut self) -> Result<(), DeviceError>;

    /// Appends up to `limit` completions to `done` and tells how many; an empty one with room for the queue's depth may be
    /// exchanged for another that has. A lost device's operations
    /// all come back, as [`Status::Aborted`], save frames that it might still write, which are
    /// quarantined.
    ///
    /// # Errors
    /// The device is gone and nothing is left to bring home.
    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError>;

    /// Prepares to sleep: either completions are ready now, or the descriptor becomes readable with
    /// the next one. No completion is missed between the two.
    ///
    /// # Errors
    /// The device is gone.
    fn arm(&mut self) -> Result<Arm<'_>, DeviceError>;

    /// Operations enqueued and not dequeued yet.
    fn in_flight(&self) -> usize;

    /// Stops the queue and brings every frame home, as far as the device provably can't write it
    /// any more. Dropping it does the same, and the frames go to their pools.
    fn close(self: Box<Self>) -> Vec<Done>;
}

/// Size of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Operations in flight, a power of two.
    pub depth: u32,
}

impl QueueConfig {
    /// Checks it against what an engine can do.
    ///
    /// # Errors
    /// [`OpenQueueError::Depth`].
    pub fn check(&self, capabilities: &Capabilities) -> Result<(), OpenQueueError> {
        let (found, max) = (self.depth, capabilities.max_depth);
        if !found.is_power_of_two() || !(2..=max).contains(&found) {
            return Err(OpenQueueError::Depth { found, max });
        }
        Ok(())
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { depth: 1024 }
    }
}

/// What to wait for.
#[derive(Debug)]
pub enum Arm<'queue> {
    /// Completions can be dequeued now.
    Ready,
    /// Poll this for reading, then dequeue (and arm again).
    Wait(BorrowedFd<'queue>),
}

/// An operation: seal or open, as its SA's direction says. It comes home as what it was, with how it went, so that an
/// engine need not copy it, and may be handed over again.
///
/// Outbound in tunnel mode the frame holds the inner IP packet, in transport mode the IP packet to
/// protect. Inbound it starts at the outer IP header when the SA has
/// [`outer`](crate::sa::SaParams::outer) or is in transport mode, at the ESP header otherwise.
// In this order what is copied is read back as it was written: a load that spans two stores waits for both.
#[derive(Debug)]
#[repr(C)]
pub struct Op {
    /// The packet, changed in place; in a chain of frames where it is large or comes in pieces. All
    /// that is added goes into the room in front of the first and behind the last. When it has come home: sealed or
    /// opened when [`Status::is_ok`]; otherwise empty, since what it holds is neither authentic nor meant to leave.
    pub frame: Frame,
    /// The SA.
    pub sa: SaHandle,
    /// The caller's, and never looked at.
    pub cookie: u64,
    /// At home: full sequence number of the packet, where one was assigned or authenticated; else 0. Before, of one that
    /// [brings a number](Self::is_numbered), that.
    pub sequence: u64,
    /// Of one that brings a number.
    iv: [u8; 16],
    is_numbered: bool,
    /// At home: how it went. It tells nothing before.
    pub status: Status,
    /// At home, inbound: the ESP trailer's next header (4, 41, or the transport protocol; 59 is a dummy to
    /// discard, RFC 4303 §2.6).
    pub next_header: u8,
}

/// An operation that has come home.
pub type Done = Op;

/// A caller's own sequence number and IV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explicit {
    /// Full 64-bit sequence number.
    pub sequence: u64,
    /// IV as on the wire; the suite's [`iv_len`](crate::sa::Suite::iv_len) first octets count.
    pub iv: [u8; 16],
}

impl Op {
    /// One that takes its number from its SA.
    #[inline]
    pub fn new(sa: SaHandle, frame: Frame, cookie: u64) -> Self {
        Self {
            frame,
            sa,
            cookie,
            sequence: 0,
            iv: [0; 16],
            is_numbered: false,
            status: Status::Aborted,
            next_header: 0,
        }
    }

    /// Number and IV, for an SA with [`Numbering::Explicit`](crate::sa::Numbering::Explicit) only.
    #[inline]
    pub fn explicit(&self) -> Option<Explicit> {
        let Self { sequence, iv, .. } = *self;
        self.is_numbered.then_some(Explicit { sequence, iv })
    }

    /// Gives it a number and an IV, or takes them back.
    #[inline]
    pub fn set_explicit(&mut self, explicit: Option<Explicit>) {
        self.is_numbered = explicit.is_some();
        if let Some(Explicit { sequence, iv }) = explicit {
            self.sequence = sequence;
            self.iv = iv;
        }
    }

    /// Whether it brings a number and an IV.
    #[inline]
    pub fn is_numbered(&self) -> bool {
        self.is_numbered
    }

    /// The IV, of one that brings a number.
    #[inline]
    pub fn iv(&self) -> Option<[u8; 16]> {
        self.is_numbered.then_some(self.iv)
    }

    /// As [`set_explicit`](Self::set_explicit), for a new one.
    #[inline]
    #[must_use]
    pub fn numbered(mut self, explicit: Option<Explicit>) -> Self {
        self.set_explicit(explicit);
        self
    }

    /// How it went: an engine says so of each operation that it brings home, whatever it says already.
    #[inline]
    pub fn complete(&mut self, status: Status, sequence: u64, next_header: u8) {
        self.is_numbered = false;
        self.sequence = sequence;
        self.status = status;
        self.next_header = next_header;
    }

    /// As [`complete`](Self::complete), of what is refused: its packet is gone.
    #[inline]
    #[must_use]
    pub fn refused(mut self, status: Status) -> Done {
        self.frame.clear();
        self.complete(status, 0, 0);
        self
    }
}

/// Outcome of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Done, and a soft limit is reached.
    OkSoftExpired = 1,
    /// The descriptor made no sense.
    BadDescriptor = 2,
    /// The device could not reach the memory.
    DmaFault = 3,
    /// No such SA.
    SaInvalid = 4,
    /// The handle's SA is no more.
    SaStale = 5,
    /// The operation does not fit the SA: a missing or unwanted explicit number.
    WrongNumbering = 6,
    /// The SA belongs to another function.
    OwnerMismatch = 7,
    /// A hard limit is reached.
    HardExpired = 8,
    /// The grant or the sequence space is used up.
    SequenceExhausted = 9,
    /// The integrity check failed.
    BadIcv = 10,
    /// The packet was received before.
    Replayed = 11,
    /// The packet lies left of the window.
    TooOld = 12,
    /// The padding is not 1, 2, 3, … (RFC 4303 §2.4).
    BadPad = 13,
    /// A next header that does not fit the SA's mode.
    BadNextHeader = 14,
    /// Too short, too long, or not aligned.
    BadLength = 15,
    /// The IP header is malformed.
    BadIpHeader = 16,
    /// Outer addresses, ports or the SPI are not the SA's.
    OuterMismatch = 17,
    /// A fragment; reassemble first.
    Fragment = 18,
    /// The frame has too little head- or tailroom.
    NoSpace = 19,
    /// The device was lost or reset.
    Aborted = 20,
    /// The packet lies in more pieces than the engine takes, or in pieces that make no sense.
    BadGather = 21,
}

impl Status {
    /// Every status, for tables and tests.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::OkSoftExpired,
        Self::BadDescriptor,
        Self::DmaFault,
        Self::SaInvalid,
        Self::SaStale,
        Self::WrongNumbering,
        Self::OwnerMismatch,
        Self::HardExpired,
        Self::SequenceExhausted,
        Self::BadIcv,
        Self::Replayed,
        Self::TooOld,
        Self::BadPad,
        Self::BadNextHeader,
        Self::BadLength,
        Self::BadIpHeader,
        Self::OuterMismatch,
        Self::Fragment,
        Self::NoSpace,
        Self::Aborted,
        Self::BadGather,
    ];

    /// Whether the packet may be used.
    #[inline]
    pub fn is_ok(self) -> bool {
        matches!(self, Self::Ok | Self::OkSoftExpired)
    }

    /// The status with this code, as devices report it.
    #[inline]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name in reports, such as `bad-icv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OkSoftExpired => "ok-soft-expired",
            Self::BadDescriptor => "bad-descriptor",
            Self::DmaFault => "dma-fault",
            Self::SaInvalid => "sa-invalid",
            Self::SaStale => "sa-stale",
            Self::WrongNumbering => "wrong-numbering",
            Self::OwnerMismatch => "owner-mismatch",
            Self::HardExpired => "hard-expired",
            Self::SequenceExhausted => "sequence-exhausted",
            Self::BadIcv => "bad-icv",
            Self::Replayed => "replayed",
            Self::TooOld => "too-old",
            Self::BadPad => "bad-pad",
            Self::BadNextHeader => "bad-next-header",
            Self::BadLength => "bad-length",
            Self::BadIpHeader => "bad-ip-header",
            Self::OuterMismatch => "outer-mismatch",
            Self::Fragment => "fragment",
            Self::NoSpace => "no-space",
            Self::Aborted => "aborted",
            Self::BadGather => "bad-gather",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_and_table_agree() {
        for (code, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, code);
            assert_eq!(Status::from_code(code as u8), Some(status));
        }
        assert_eq!(Status::from_code(Status::ALL.len() as u8), None);
    }
}
