// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA context and its parts, as admin payloads.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroize;

/// "No limit" in [`Lifetimes`], and "no grant" in [`SaContext`] when first is 0.
pub const UNLIMITED: u64 = u64::MAX;

/// Everything about an SA: payload of `SaAdd`, 1024 octets. Holds keys: zero it after use.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Zeroize)]
#[repr(C)]
pub struct SaContext {
    /// SPI.
    pub spi: [u8; 4],
    /// A code of `offload_api::sa::Cipher`.
    pub cipher: u8,
    /// A code of `offload_api::sa::Integrity`.
    pub integrity: u8,
    /// `FLAG_…`.
    pub flags: u8,
    /// Zero.
    pub reserved0: u8,
    /// Replay window in packets, inbound; little-endian.
    pub replay_window: [u8; 4],
    /// Salt of an AEAD.
    pub salt: [u8; 4],
    /// Encryption key, left-aligned.
    pub cipher_key: [u8; 32],
    /// Integrity key, left-aligned.
    pub integrity_key: [u8; 64],
    /// First number of the first grant, little-endian; 0 for none.
    pub grant_first: [u8; 8],
    /// Last number of the first grant, little-endian.
    pub grant_last: [u8; 8],
    /// Outer headers ([`Outer`]).
    pub outer: [u8; 40],
    /// Limits ([`Lifetimes`]).
    pub lifetimes: [u8; 48],
    /// Window state to start from ([`ReplayState`]); all zero for none.
    pub replay: [u8; 520],
    /// The host's own name for the SA, little-endian; comes back with [`SaDescription`].
    pub cookie: [u8; 8],
    /// Zero.
    pub reserved1: [u8; 280],
}

/// [`SaContext::flags`]: outbound, else inbound.
pub const FLAG_OUTBOUND: u8 = 1 << 0;
/// [`SaContext::flags`]: transport mode, else tunnel.
pub const FLAG_TRANSPORT: u8 = 1 << 1;
/// [`SaContext::flags`]: extended sequence numbers.
pub const FLAG_ESN: u8 = 1 << 2;
/// [`SaContext::flags`]: each descriptor brings number and IV.
pub const FLAG_EXPLICIT: u8 = 1 << 3;
/// [`SaContext::flags`]: [`SaContext::outer`] counts.
pub const FLAG_OUTER: u8 = 1 << 4;
/// [`SaContext::flags`]: key and salt come by the mailbox (`registers::key_mailbox`), and are zero here.
pub const FLAG_MAILBOX: u8 = 1 << 5;

/// Outer headers, 40 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Outer {
    /// Source; an IPv4 address is in the first four octets.
    pub source: [u8; 16],
    /// Destination, likewise.
    pub destination: [u8; 16],
    /// UDP source port; 0 and 0 for no encapsulation.
    pub source_port: U16,
    /// UDP destination port.
    pub destination_port: U16,
    /// 4 or 6.
    pub version: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Limits, 48 octets; [`UNLIMITED`] is none.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Lifetimes {
    /// Soft, octets.
    pub soft_bytes: U64,
    /// Soft, packets.
    pub soft_packets: U64,
    /// Soft, nanoseconds from installation.
    pub soft_time: U64,
    /// Hard, octets.
    pub hard_bytes: U64,
    /// Hard, packets.
    pub hard_packets: U64,
    /// Hard, nanoseconds from installation.
    pub hard_time: U64,
}

/// State of a replay window, 520 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReplayState {
    /// Highest number accepted; 0 for none.
    pub top: U64,
    /// Bit n: `top - n` was seen.
    pub seen: [U64; 64],
}

/// Usage of an SA, 48 octets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Usage {
    /// Packets.
    pub packets: U64,
    /// Octets of inner packets.
    pub bytes: U64,
    /// Last number used, or highest accepted.
    pub sequence: U64,
    /// Bad ICVs.
    pub bad_icv: U64,
    /// Replayed and too old.
    pub replayed: U64,
    /// Other errors.
    pub errors: U64,
}

/// What an SA is, without its keys, 256 octets: how a driver that comes back finds what the card
/// still carries.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SaDescription {
    /// SA index.
    pub index: U32,
    /// SA generation.
    pub generation: U32,
    /// SPI, in host order.
    pub spi: U32,
    /// A code of `offload_api::sa::Cipher`.
    pub cipher: u8,
    /// A code of `offload_api::sa::Integrity`.
    pub integrity: u8,
    /// `FLAG_…`.
    pub flags: u8,
    /// 1 when it drains.
    pub draining: u8,
    /// [`SaContext::cookie`].
    pub cookie: U64,
    /// Outbound: the next number.
    pub sequence_next: U64,
    /// Outbound: the last number of the grant.
    pub grant_last: U64,
    /// Replay window in packets.
    pub replay_window: U32,
    /// Zero.
    pub reserved0: U32,
    /// Outer headers, when the flags say so.
    pub outer: Outer,
    /// Limits.
    pub lifetimes: Lifetimes,
    /// What it has done.
    pub usage: Usage,
    /// Nanoseconds since installation.
    pub age: U64,
    /// Zero.
    pub reserved1: [u8; 64],
}

impl SaDescription {
    /// How many a card tells with one command at most.
    pub const AT_ONCE: usize = 16;
}

/// Bit of [`crate::registers::identity::SUITES`] for codes of cipher and integrity algorithm.
pub fn suite_bit(cipher: u8, integrity: u8) -> u32 {
    (u32::from(cipher & 0x0f) * 4 + u32::from(integrity & 0x03)) % 64
}

const _: () = assert!(size_of::<SaContext>() == 1024);
const _: () = assert!(size_of::<SaDescription>() == 256);
const _: () = assert!(size_of::<Outer>() == 40);
const _: () = assert!(size_of::<Lifetimes>() == 48);
const _: () = assert!(size_of::<ReplayState>() == 520);
const _: () = assert!(size_of::<Usage>() == 48);
