// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of 128 octets and responses of 32.

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What software fills a response ring's entries with: an entry is there when its first four octets
/// are something else.
pub const EMPTY: u8 = 0x7f;
/// The first four octets of an entry that is not there yet.
pub const EMPTY_WORD: u32 = u32::from_le_bytes([EMPTY; 4]);

/// A header that counts, of a request and of a response.
pub const HEADER_VALID: u8 = 1 << 7;

/// Services.
pub mod service {
    /// Does nothing, and answers.
    pub const NULL: u8 = 0;
    /// Symmetric cryptography.
    pub const CRYPTO: u8 = 4;
}

/// Commands of symmetric cryptography.
pub mod command {
    /// A cipher alone, or an AEAD in a single pass.
    pub const CIPHER: u8 = 0;
    /// A hash alone.
    pub const HASH: u8 = 1;
    /// A cipher, and a hash over what it made.
    pub const CIPHER_HASH: u8 = 2;
    /// A hash, and a cipher of what it read.
    pub const HASH_CIPHER: u8 = 3;
}

/// Slices, as the control block chains them.
pub mod slice {
    /// Cipher.
    pub const CIPHER: u8 = 1;
    /// Hash.
    pub const HASH: u8 = 2;
    /// The end.
    pub const WRITE: u8 = 4;
}

bitflags! {
    /// Service flags of symmetric cryptography.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CryptoFlags: u16 {
        /// The first, or a middle, part of a message.
        const PARTIAL_FIRST = 1 << 0;
        /// The last, or a middle, part of a message.
        const PARTIAL_LAST = 1 << 1;
        /// The IV is in the request.
        const IV_INLINE = 1 << 2;
        /// The digest is to be written.
        const DIGEST_RETURNED = 1 << 5;
        /// The digest is to be compared.
        const DIGEST_COMPARED = 1 << 6;
        /// Protocol, low bit.
        const PROTOCOL_CCM = 1 << 7;
        /// AES-GCM by two slices.
        const PROTOCOL_GCM = 1 << 8;
        /// The digest lies in what is enciphered.
        const DIGEST_IN_BUFFER = 1 << 10;
        /// An IV of 12 octets.
        const IV_12 = 1 << 11;
        /// An AEAD in a single pass.
        const SINGLE_PASS = 1 << 13;
        /// By the newer cipher slice, whose configuration has 16 octets.
        const UCS_SLICE = 1 << 14;
        /// By the wireless slice.
        const WIRELESS_SLICE = 1 << 15;
        const _ = !0;
    }
}

bitflags! {
    /// Flags of any request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommonFlags: u8 {
        /// Source and destination are gather lists.
        const LISTS = 1 << 0;
        /// What would be a descriptor's address is the descriptor.
        const DESCRIPTOR_INLINE = 1 << 1;
        const _ = !0;
    }
}

bitflags! {
    /// A response's status: nothing is good.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ResponseStatus: u8 {
        /// A parameter makes no sense.
        const INVALID_PARAMETER = 1 << 1;
        /// The request is not supported.
        const UNSUPPORTED = 1 << 2;
        /// The cryptography failed; above all, the digest is another.
        const CRYPTO_FAILED = 1 << 7;
        const _ = !0;
    }
}

/// A request for symmetric cryptography.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Request {
    /// Zero.
    pub reserved0: u8,
    /// One of [`command`].
    pub command: u8,
    /// One of [`service`].
    pub service: u8,
    /// [`HEADER_VALID`].
    pub header_flags: u8,
    /// [`CryptoFlags`].
    pub crypto_flags: U16,
    /// [`CommonFlags`].
    pub common_flags: u8,
    /// Zero here.
    pub extended_flags: u8,
    /// Where the content descriptor is.
    pub descriptor: U64,
    /// Zero.
    pub reserved1: [u8; 2],
    /// Size of the content descriptor, in units of eight octets.
    pub descriptor_units: u8,
    /// Zero.
    pub reserved2: [u8; 5],
    /// Comes back with the response.
    pub opaque: U64,
    /// Where the octets are, or a list of where.
    pub source: U64,
    /// Where they go; the same address for in place.
    pub destination: U64,
    /// Octets at the source; with lists of no meaning.
    pub source_len: U32,
    /// Octets at the destination.
    pub destination_len: U32,
    /// Where the cipher starts, from the source's start.
    pub cipher_offset: U32,
    /// Octets that it works on.
    pub cipher_len: U32,
    /// IV (or, where that is not inline, its address).
    pub iv: [u8; 16],
    /// What the hash, or the AEAD, works on.
    pub job: Job,
    /// How the content descriptor is laid out.
    pub control: Control,
}

/// What a hash works on, and where its digest is; for a single-pass AEAD of Gen4 its additional data
/// and tag.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Job {
    /// Where the hash starts, from the source's start. AEAD: 0.
    pub offset: U32,
    /// Octets that it works on. AEAD: octets of additional data.
    pub len: U32,
    /// Where the additional data are.
    pub aad: U64,
    /// Where the digest is.
    pub digest: U64,
    /// Two-slice AES-GCM: octets of additional data, rounded up to whole blocks.
    pub aad_padded: u8,
    /// Zero.
    pub reserved: u8,
    /// Two-slice AES-GCM: the same in units of eight octets.
    pub hash_state_units: u8,
    /// Octets of the digest.
    pub digest_len: u8,
}

/// Where the parts of a content descriptor are, in units of eight octets, and which slices work in
/// what order: low half of an octet this slice, high half the next one.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Control {
    /// Cipher state (an IV's length).
    pub cipher_state_units: u8,
    /// Cipher key.
    pub cipher_key_units: u8,
    /// Where the cipher's configuration is.
    pub cipher_config_units: u8,
    /// The cipher's slice and the next one.
    pub cipher_slices: u8,
    /// Cipher padding.
    pub cipher_padding_units: u8,
    /// Hash flags.
    pub hash_flags: u8,
    /// Where the hash's configuration is.
    pub hash_config_units: u8,
    /// The hash's slice and the next one.
    pub hash_slices: u8,
    /// Zero.
    pub reserved0: u8,
    /// Octets of an outer prefix.
    pub outer_prefix_len: u8,
    /// Octets of the digest.
    pub final_len: u8,
    /// Octets of the inner digest that are used.
    pub inner_len: u8,
    /// Zero.
    pub reserved1: u8,
    /// Octets of the first state.
    pub state1_len: u8,
    /// Where the second state is.
    pub state2_units: u8,
    /// Octets of the second state.
    pub state2_len: u8,
    /// Outer hash, which nothing here uses.
    pub outer: [u8; 4],
}

/// A response.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Response {
    /// Zero.
    pub reserved0: u8,
    /// The service's number.
    pub service: u8,
    /// The request's service.
    pub kind: u8,
    /// [`HEADER_VALID`].
    pub header_flags: u8,
    /// Errors of other services.
    pub errors: [u8; 2],
    /// [`ResponseStatus`].
    pub status: u8,
    /// The request's command.
    pub command: u8,
    /// The request's.
    pub opaque: U64,
    /// Nothing here.
    pub reserved1: [u8; 16],
}

/// The head of a gather list.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListHead {
    /// Zero.
    pub reserved: U64,
    /// Entries that follow.
    pub entries: U32,
    /// Zero.
    pub mapped: U32,
}

/// An entry of a gather list.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListEntry {
    /// Octets.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
    /// Where.
    pub address: U64,
}

const _: () = assert!(size_of::<Request>() == 128);
const _: () = assert!(size_of::<Response>() == 32);
const _: () = assert!(std::mem::offset_of!(Request, opaque) == 24);
const _: () = assert!(std::mem::offset_of!(Request, job) == 80);
const _: () = assert!(std::mem::offset_of!(Request, control) == 108);
const _: () = assert!(std::mem::offset_of!(Control, state2_units) == 122 - 108);
const _: () = assert!(std::mem::offset_of!(Job, digest_len) == 107 - 80);
