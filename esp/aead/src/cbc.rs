// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-CBC with an HMAC (RFC 3602, RFC 2404, RFC 4868) for bursts of ESP packets, each of a key of its own,
//! in place.
//!
//! A chain can't be hurried, but several packets' go side by side: Intel's multi-buffer library does so
//! where it is installed and has agreed with OpenSSL in this process. Where it is not there is no
//! [`Key`], and packets go one by one. A packet is decrypted while its ICV is computed, and wiped where that
//! does not match.
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "there is no engine for other processors")
)]

#[cfg(target_arch = "x86_64")]
mod agreement;

use crate::Direction;
#[cfg(target_arch = "x86_64")]
use crate::ipsec_mb::CbcKey;

/// Octets of an ESP header.
const HEADER: usize = 8;
/// Octets of an IV, and of a block.
pub(crate) const IV: usize = 16;
/// Where a packet's body begins, behind header and IV.
pub(crate) const BODY: usize = HEADER + IV;
/// Octets of the longest ICV.
pub(crate) const ICV_MAX: usize = 32;
/// Octets of the longest packet; the library counts in 16 bits.
const LONGEST: usize = 65_000;

/// An HMAC's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// HMAC-SHA-1-96.
    Sha1,
    /// HMAC-SHA-256-128.
    Sha256,
    /// HMAC-SHA-384-192.
    Sha384,
    /// HMAC-SHA-512-256.
    Sha512,
}

impl Hash {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Octets of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Packets of a burst from which it pays, by `benches/aead.sh`; fewer are faster one by one. OpenSSL has
    /// instructions for SHA-1 and SHA-256, which a few packets side by side do not make up for.
    pub fn worthwhile(self) -> usize {
        match self {
            Self::Sha1 => 5,
            Self::Sha256 => 8,
            Self::Sha384 | Self::Sha512 => 3,
        }
    }

    /// Octets of an ICV.
    pub fn icv_len(self) -> usize {
        match self {
            Self::Sha1 => 12,
            Self::Sha256 => 16,
            Self::Sha384 => 24,
            Self::Sha512 => 32,
        }
    }
}

/// Whether bursts run here; else why not. The library is loaded when this is asked first.
#[cfg(target_arch = "x86_64")]
pub fn state(hash: Hash) -> &'static crate::select::State {
    agreement::state(hash)
}

/// Whether bursts run here; else why not.
#[cfg(not(target_arch = "x86_64"))]
pub fn state(_: Hash) -> &'static crate::select::State {
    static STATE: std::sync::OnceLock<crate::select::State> = std::sync::OnceLock::new();
    STATE.get_or_init(|| crate::select::State::Unavailable("for x86-64 only".to_owned()))
}

/// A pair of keys, expanded once for all their packets. Any thread may use it.
pub struct Key {
    #[cfg(target_arch = "x86_64")]
    pub(crate) expanded: CbcKey,
    #[cfg(not(target_arch = "x86_64"))]
    hash: Hash,
    /// Its hash's, asked for often.
    icv_len: usize,
    direction: Direction,
}

impl Key {
    /// Expands keys of AES and the HMAC, unless a length is wrong or no engine runs bursts here.
    pub fn new(
        hash: Hash,
        direction: Direction,
        cipher_key: &[u8],
        integrity_key: &[u8],
    ) -> Option<Self> {
        (*state(hash) == crate::select::State::Ready)
            .then(|| Self::unexamined(hash, direction, cipher_key, integrity_key))?
    }

    #[cfg(target_arch = "x86_64")]
    fn unexamined(
        hash: Hash,
        direction: Direction,
        cipher_key: &[u8],
        integrity_key: &[u8],
    ) -> Option<Self> {
        let library = crate::ipsec_mb::Library::get().ok()?;
        let expanded = library.expand_cbc(hash, cipher_key, integrity_key)?;
        Some(Self {
            expanded,
            icv_len: hash.icv_len(),
            direction,
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn unexamined(_: Hash, _: Direction, _: &[u8], _: &[u8]) -> Option<Self> {
        None
    }

    /// Whether a packet of so many octets from header to ICV can go in a burst: its body is not empty, of
    /// whole blocks, and not longer than bursts take.
    pub fn takes(&self, text: usize) -> bool {
        let body = text.checked_sub(BODY + self.icv_len);
        body.is_some_and(|body| body != 0 && body.is_multiple_of(IV) && text <= LONGEST)
    }

    /// Octets from header to ICV of a payload, with the least of padding (RFC 4303 §2.4).
    pub fn sealed_len(&self, payload: usize) -> usize {
        BODY + (payload + 2).next_multiple_of(IV) + self.hash().icv_len()
    }

    /// The HMAC's hash.
    pub fn hash(&self) -> Hash {
        #[cfg(target_arch = "x86_64")]
        return self.expanded.hash();
        #[cfg(not(target_arch = "x86_64"))]
        self.hash
    }
}

/// One packet of a burst.
pub struct Packet<'data> {
    pub(crate) key: &'data Key,
    /// Header, IV, body, ICV.
    pub(crate) text: &'data mut [u8],
    /// The half of an extended sequence number that is not sent.
    high: Option<u32>,
    pub(crate) authentic: bool,
}

impl<'data> Packet<'data> {
    /// An ESP packet from its header to its ICV, which is to be sealed or opened in place; `high` is the
    /// upper half of an extended sequence number (RFC 4303 §2.2.1). Nothing for one that its key does not
    /// [take](Key::takes).
    pub fn new(key: &'data Key, text: &'data mut [u8], high: Option<u32>) -> Option<Self> {
        key.takes(text.len()).then_some(Self {
            key,
            text,
            high,
            authentic: false,
        })
    }

    /// Whether the packet was sealed, or its ICV matched. Where it did not, the body is zeros.
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }

    pub(crate) fn icv_len(&self) -> usize {
        self.key.icv_len
    }

    /// Where the ICV begins.
    fn icv(&self) -> usize {
        self.text.len() - self.icv_len()
    }

    pub(crate) fn body_len(&self) -> usize {
        self.icv() - BODY
    }

    /// Octets that are authenticated from the header on, with what [`put_high`](Self::put_high) puts there.
    pub(crate) fn hashed_len(&self) -> usize {
        self.icv() + if self.high.is_some() { 4 } else { 0 }
    }

    /// The ICV's field.
    pub(crate) fn icv_field(&mut self) -> &mut [u8] {
        let at = self.icv();
        self.text.get_mut(at..).unwrap_or_default()
    }

    /// Puts the number's half that is not sent behind the body, where it is hashed: over the ICV, of which it returns
    /// what was there.
    pub(crate) fn put_high(&mut self) -> Option<[u8; 4]> {
        let high = self.high?;
        let room = self.icv_field().first_chunk_mut()?;
        Some(std::mem::replace(room, high.to_be_bytes()))
    }

    /// Puts back what was there.
    pub(crate) fn take_high(&mut self, icv: &[u8; 4]) {
        if self.high.is_some()
            && let Some(room) = self.icv_field().first_chunk_mut()
        {
            *room = *icv;
        }
    }

    /// Nothing unauthenticated stays reachable, nor anything that was to be sealed.
    pub(crate) fn wipe(&mut self) {
        self.authentic = false;
        if let Some(body) = self.text.get_mut(BODY..) {
            body.fill(0);
        }
    }
}

/// Seals each packet in place: its body is encrypted and its ICV written. One whose key is for opening
/// has its body wiped, and is not [authentic](Packet::is_authentic).
pub fn seal_burst(packets: &mut [Packet<'_>]) {
    run(packets, Direction::Seal);
}

/// Opens each packet in place: where its ICV matches it is [authentic](Packet::is_authentic), and its body
/// decrypted; where not, its body is zeros.
pub fn open_burst(packets: &mut [Packet<'_>]) {
    run(packets, Direction::Open);
}

fn run(packets: &mut [Packet<'_>], direction: Direction) {
    let made_for = |packet: &Packet<'_>| packet.key.direction;
    for packets in packets.chunk_by_mut(|a, b| made_for(a) == made_for(b)) {
        match packets.first().map(|first| first.key) {
            #[cfg(target_arch = "x86_64")]
            Some(key) if key.direction == direction => key.expanded.run(packets, direction),
            _ => packets.iter_mut().for_each(Packet::wipe),
        }
    }
}
