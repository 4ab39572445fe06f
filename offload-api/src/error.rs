// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One error enum for each verb of the contract, each with its [`Advice`].

use std::net::IpAddr;

use thiserror::Error;

use crate::capability::Features;
use crate::sa::{Cipher, Integrity, Protocol, Suite};

/// What a caller should do about an error. Only [`crate::failover`] acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// The same call may succeed soon.
    RetryLater,
    /// This engine can't do it, software can.
    UseSoftware,
    /// The packet or request is at fault.
    Drop,
    /// A programming or configuration error: no engine will do it.
    Fatal,
}

/// Parameters that no engine could accept.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidSa {
    /// SPIs 0 to 255 are reserved (RFC 4303 §2.1).
    #[error("SPI {spi} is reserved (0 to 255 are)")]
    ReservedSpi {
        /// The SPI.
        spi: u32,
    },
    /// An AEAD with an integrity algorithm, or another cipher without one.
    #[error("{cipher:?} and {integrity:?} do not make a suite")]
    Suite {
        /// The cipher.
        cipher: Cipher,
        /// The integrity algorithm.
        integrity: Integrity,
    },
    /// A key of the wrong length.
    #[error("{what}: expected {expected} octets, found {found}")]
    KeyLength {
        /// Which key.
        what: &'static str,
        /// Octets that the suite takes.
        expected: usize,
        /// Octets that came.
        found: usize,
    },
    /// A window that is neither 0 nor within 32..=4096.
    #[error("replay window {found}: expected 0 (off) or 32 to 4096")]
    ReplayWindow {
        /// The window.
        found: u32,
    },
    /// Extended sequence numbers without a window, which tells their high half (RFC 4303 §3.4.3).
    #[error(
        "extended sequence numbers need a replay window, which tells their high half \
         (RFC 4303 §3.4.3): go without them, or have a window"
    )]
    EsnWithoutWindow,
    /// An empty or reversed grant, one with number 0, or one past the end.
    #[error("grant {first}..={last} is not within 1..={end}")]
    Grant {
        /// First number.
        first: u64,
        /// Last number.
        last: u64,
        /// End of the sequence space.
        end: u64,
    },
    /// Outer addresses of two families.
    #[error("outer addresses {from} and {to} are of different families")]
    MixedOuterFamilies {
        /// Outer source.
        from: IpAddr,
        /// Outer destination.
        to: IpAddr,
    },
    /// Something beside the cryptography, of an SA in [`Mode::Crypto`](crate::sa::Mode::Crypto).
    #[error(
        "with the cryptography alone {what} would be nobody's to see to: leave it out, and do it"
    )]
    BeyondCrypto {
        /// What was asked for.
        what: &'static str,
    },
    /// AH authenticates the addresses that a NAT changes (RFC 3948 §1, RFC 4302 §3.3.3.1).
    #[error("AH does not go in UDP: it authenticates what a NAT changes; use ESP")]
    AhInUdp,
    /// Nothing tells where TFC padding begins (RFC 4303 §2.7).
    #[error(
        "TFC padding is for ESP in tunnel mode: what is inside tells its own length there (RFC 4303 §2.7)"
    )]
    PaddingWithoutLength,
    /// AH's ICV covers the outer header.
    #[error("AH in tunnel mode needs its outer headers: its ICV covers them")]
    AhWithoutOuter,
}

/// Why an engine can't carry an SA.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// The engine has no suite of the protocol at all.
    #[error("the device has no {protocol}")]
    Protocol {
        /// The protocol.
        protocol: Protocol,
    },
    /// The suite is not implemented.
    #[error("suite {suite} is not supported")]
    Suite {
        /// The suite.
        suite: Suite,
    },
    /// The window is too large.
    #[error("replay window {wanted} is larger than the engine's {max}")]
    ReplayWindow {
        /// What was asked.
        wanted: u32,
        /// What there is.
        max: u32,
    },
    /// The device does no more than cryptography.
    #[error("the device ciphers and hashes only: hw_offload = crypto is the most it does")]
    Lookaside,
    /// A feature is missing.
    #[error("feature {feature:?} is not supported")]
    Feature {
        /// The feature.
        feature: Features,
    },
}

/// The device is gone or unusable.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// It was removed, its process ended, or all its registers read as ones.
    #[error("device is gone: {reason}")]
    Gone {
        /// What was seen.
        reason: String,
    },
    /// It does not answer within its deadline.
    #[error("device does not answer: {waited_for} took longer than {millis} ms")]
    Timeout {
        /// What was waited for.
        waited_for: &'static str,
        /// The deadline.
        millis: u64,
    },
    /// It reported a fatal error.
    #[error("device reports a fatal error: {cause}")]
    Fatal {
        /// The device's word.
        cause: String,
    },
    /// It said something that the ABI does not allow.
    #[error("device broke its protocol: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
    },
    /// It gave wrong results, and is not used again until it is [released](crate::failover::Failover::release).
    #[error("device is quarantined: {reason}; look into it, then release it")]
    Quarantined {
        /// What was seen.
        reason: String,
    },
    /// It was lost again soon after it came back, and is given a rest.
    #[error("device keeps vanishing: it is taken back in {millis} ms at the earliest")]
    HeldOff {
        /// Time left.
        millis: u64,
    },
    /// The host's own part failed (mapping, memory, descriptors).
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's word.
        error: String,
    },
}

impl DeviceError {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        Advice::UseSoftware
    }
}

/// An SA was not installed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// No engine could accept it.
    #[error("invalid SA: {0}")]
    Invalid(#[from] InvalidSa),
    /// This engine can't.
    #[error("{0}")]
    Unsupported(#[from] Unsupported),
    /// The table is full.
    #[error("SA table is full ({capacity} SAs)")]
    TableFull {
        /// SAs that fit.
        capacity: u32,
    },
    /// The device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl InstallError {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Invalid(_) => Advice::Fatal,
            Self::Unsupported(_) | Self::TableFull { .. } => Advice::UseSoftware,
            Self::Device(error) => error.advice(),
        }
    }
}

/// An SA was not amended, queried or retired.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaError {
    /// The handle's SA is no more.
    #[error("stale SA handle")]
    Stale,
    /// A grant that starts behind what was used or granted.
    #[error("grant starts at {found}, expected {expected} or later")]
    GrantBehind {
        /// Least first number.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The change does not fit this SA.
    #[error("{what}")]
    NotApplicable {
        /// Why.
        what: &'static str,
    },
    /// The changed parameters are invalid.
    #[error("invalid SA: {0}")]
    Invalid(#[from] InvalidSa),
    /// The device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl SaError {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::Device(error) => error.advice(),
            _ => Advice::Fatal,
        }
    }
}

/// A queue pair was not opened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenQueueError {
    /// All are in use.
    #[error("all {max} queue pairs are in use")]
    NoneFree {
        /// How many there are.
        max: u16,
    },
    /// A depth that is no power of two or too large.
    #[error("queue depth {found}: expected a power of two up to {max}")]
    Depth {
        /// What was asked.
        found: u32,
        /// Largest.
        max: u32,
    },
    /// The device failed.
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl OpenQueueError {
    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self {
            Self::NoneFree { .. } => Advice::UseSoftware,
            Self::Depth { .. } => Advice::Fatal,
            Self::Device(error) => error.advice(),
        }
    }
}

/// A frame pool could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Sizes that make no pool.
    #[error(
        "frame pool of {slots} slots of {slot_size} octets with headroom {headroom} makes no sense"
    )]
    Geometry {
        /// Slots.
        slots: u32,
        /// Octets of a slot.
        slot_size: u32,
        /// Octets in front.
        headroom: u32,
    },
    /// The system refused the memory.
    #[error("frame pool memory: {0}")]
    Memory(#[from] std::io::Error),
}
