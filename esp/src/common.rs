// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets of [`Mode::Crypto`](offload_api::sa::Mode) as most are: one AEAD, 32-bit numbers, each in one frame.
//! What an SA's packets have in common is looked up once for them. Whatever is otherwise, or wrong, goes
//! through [`Transform::take_crypto`](crate::transform::Transform::take_crypto), which says what it is.

use esp_aead::{Aad, Key, NONCE, Packet, TAG};

use offload_api::frame::Frame;
use offload_api::wire::esp::Header;

/// ESP header (RFC 4303 §2) and the IV of an AEAD (RFC 4106 §3.1).
const FRONT: usize = Header::LEN + 8;

/// What packets of an SA have in common.
#[derive(Clone, Copy)]
pub(crate) struct Common<'key> {
    pub(crate) key: &'key Key,
    pub(crate) salt: &'key [u8; 4],
    pub(crate) spi: u32,
    /// Octets that there are beside the body when a packet comes.
    pub(crate) around: usize,
    /// What a body is a multiple of, a power of two.
    pub(crate) alignment: usize,
    /// Octets of ICV that the packet lacks.
    pub(crate) room: usize,
}

/// ESP header and IV of a packet that is as it should be.
#[derive(Clone, Copy)]
pub(crate) struct Front([u8; FRONT]);

impl Front {
    /// The packet's number.
    #[inline(always)]
    pub(crate) fn sequence(self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl<'key> Common<'key> {
    /// Nothing for a packet that is not as most are.
    #[inline(always)]
    pub(crate) fn front(&self, frame: &Frame) -> Option<Front> {
        let front = *frame.first_chunk::<FRONT>()?;
        let body = frame.len().checked_sub(self.around)?;
        let [a, b, c, d, ..] = front;
        let fits = u32::from_be_bytes([a, b, c, d]) == self.spi
            && body & (self.alignment - 1) == 0
            && !frame.is_chained()
            && self.room <= frame.tailroom();
        fits.then_some(Front(front))
    }

    /// The packet as the AEAD sees it, with room for an ICV that it lacks; nothing where `front` is not its.
    #[inline(always)]
    pub(crate) fn packet<'data>(
        &self,
        front: Front,
        frame: &'data mut Frame,
    ) -> Option<Packet<'data>>
    where
        'key: 'data,
    {
        let esp = frame.grow(0, self.room)?;
        let (_, sealed) = esp.split_at_mut_checked(FRONT)?;
        let (body, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        let (header, iv) = front.0.split_first_chunk::<{ Header::LEN }>()?;
        let mut nonce = [0; NONCE];
        nonce[..4].copy_from_slice(self.salt);
        nonce[4..].copy_from_slice(iv);
        Some(Packet::new(self.key, &nonce, Aad::from(*header), body, tag))
    }
}
