// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an engine reports beside completions.

use crate::sa::SaHandle;

/// Something happened that is no completion.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A soft limit was reached; said once for each arming.
    SoftExpired {
        /// The SA.
        sa: SaHandle,
        /// Which limit.
        limit: Limit,
    },
    /// A hard limit was reached; the SA has stopped.
    HardExpired {
        /// The SA.
        sa: SaHandle,
        /// Which limit.
        limit: Limit,
    },
    /// The grant runs low: top it up.
    GrantLow {
        /// The SA.
        sa: SaHandle,
        /// Numbers left.
        remaining: u64,
    },
    /// The sequence space is nearly used up: rekey.
    SequenceEnding {
        /// The SA.
        sa: SaHandle,
    },
    /// The last number of the sequence space is used: the SA seals no more.
    SequenceEnd {
        /// The SA.
        sa: SaHandle,
    },
    /// Packets failed their integrity check; said at most once a second for each SA.
    BadIcvBurst {
        /// The SA.
        sa: SaHandle,
        /// How many since the last such event.
        count: u64,
    },
    /// Packets were replayed or too old; said at most once a second for each SA.
    ReplayBurst {
        /// The SA.
        sa: SaHandle,
        /// How many since the last such event.
        count: u64,
    },
    /// An SA found no room in the device's table; said at most once a second.
    TableFull,
    /// A queue pair has stopped by an error of its own; the others go on.
    QueueFailed {
        /// Its number.
        queue: u32,
        /// Why.
        what: &'static str,
    },
    /// The device has zeroised all its SAs on request.
    Zeroised,
    /// The device was lost; its operations come back as aborted.
    DeviceLost {
        /// What was seen.
        reason: String,
    },
    /// The device gave a wrong result and is not used any more.
    DeviceQuarantined {
        /// What was seen.
        reason: String,
    },
    /// The device is back and carries SAs again.
    DeviceReturned,
    /// An SA is now carried by another engine.
    Moved {
        /// The SA.
        sa: SaHandle,
        /// By which.
        engine: Engine,
    },
}

/// A limit of [`crate::sa::Lifetimes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Octets.
    Bytes,
    /// Packets.
    Packets,
    /// Time.
    Time,
}

/// Where an SA lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// In the device.
    Device,
    /// In software.
    Software,
}
