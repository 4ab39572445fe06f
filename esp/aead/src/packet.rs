// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A packet as an AEAD sees it.

use crate::Key;

/// Octets of a nonce.
pub const NONCE: usize = 12;
/// Octets of a tag.
pub const TAG: usize = 16;

/// Additional data, 16 octets at most. ESP has SPI and sequence number, 8 octets, or 12 with an extended
/// number (RFC 4106 §5).
#[derive(Clone, Copy, Debug)]
pub struct Aad {
    octets: [u8; 16],
    len: u8,
}

impl Aad {
    /// Additional data, unless it is longer than 16 octets.
    #[inline]
    pub fn new(octets: &[u8]) -> Option<Self> {
        let mut padded = [0; 16];
        padded.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Self {
            octets: padded,
            len: octets.len() as u8,
        })
    }
}

impl From<[u8; 8]> for Aad {
    #[inline]
    fn from(octets: [u8; 8]) -> Self {
        let mut padded = [0; 16];
        padded[..8].copy_from_slice(&octets);
        Self {
            octets: padded,
            len: 8,
        }
    }
}

impl From<[u8; 12]> for Aad {
    #[inline]
    fn from(octets: [u8; 12]) -> Self {
        let mut padded = [0; 16];
        padded[..12].copy_from_slice(&octets);
        Self {
            octets: padded,
            len: 12,
        }
    }
}

/// One packet of a burst.
pub struct Packet<'data> {
    pub(crate) key: &'data Key,
    /// 12 octets, then zeros.
    pub(crate) nonce: [u8; 16],
    /// `aad_len` octets, then zeros.
    pub(crate) aad: [u8; 16],
    pub(crate) aad_len: u8,
    pub(crate) authentic: bool,
    pub(crate) body: &'data mut [u8],
    pub(crate) tag: &'data mut [u8; TAG],
}

impl<'data> Packet<'data> {
    /// A packet whose body is to be sealed or opened in place. The tag is written by sealing, and read
    /// by opening.
    #[inline(always)]
    pub fn new(
        key: &'data Key,
        nonce: &[u8; NONCE],
        aad: Aad,
        body: &'data mut [u8],
        tag: &'data mut [u8; TAG],
    ) -> Self {
        let mut padded = [0; 16];
        padded[..NONCE].copy_from_slice(nonce);
        Self {
            key,
            nonce: padded,
            aad: aad.octets,
            aad_len: aad.len,
            authentic: false,
            body,
            tag,
        }
    }

    /// Whether the packet was sealed, or its tag matched. Where it did not, the body is zeros.
    #[inline]
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }

    pub(crate) fn nonce(&self) -> &[u8] {
        &self.nonce[..NONCE]
    }

    pub(crate) fn aad(&self) -> &[u8] {
        self.aad
            .get(..usize::from(self.aad_len))
            .unwrap_or_default()
    }
}
