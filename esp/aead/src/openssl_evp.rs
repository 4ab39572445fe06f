// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AEADs by OpenSSL: what runs everywhere.

use crossbeam_queue::ArrayQueue;
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use crate::packet::Packet;
use crate::{Algorithm, Direction, Expanded};

/// Contexts kept for reuse; more threads at once than this make some anew.
const KEPT: usize = 16;

/// A key's contexts at rest, as many as threads ever worked with it at once.
pub(crate) struct Contexts {
    algorithm: Algorithm,
    direction: Direction,
    key: Zeroizing<Vec<u8>>,
    idle: ArrayQueue<CipherCtx>,
}

impl Contexts {
    pub(crate) fn new(
        algorithm: Algorithm,
        direction: Direction,
        key: &[u8],
    ) -> Result<Self, ErrorStack> {
        let this = Self {
            algorithm,
            direction,
            key: Zeroizing::new(key.to_vec()),
            idle: ArrayQueue::new(KEPT),
        };
        let first = this.make()?;
        let _ = this.idle.push(first);
        Ok(this)
    }

    fn make(&self) -> Result<CipherCtx, ErrorStack> {
        let mut context = CipherCtx::new()?;
        let cipher = Some(cipher(self.algorithm));
        match self.direction {
            Direction::Seal => context.encrypt_init(cipher, Some(&self.key), None)?,
            Direction::Open => context.decrypt_init(cipher, Some(&self.key), None)?,
        }
        Ok(context)
    }

    fn run(&self, packets: &mut [Packet<'_>]) {
        let Some(mut context) = self.idle.pop().or_else(|| self.make().ok()) else {
            packets.iter_mut().for_each(wipe);
            return;
        };
        for packet in packets {
            let done = match self.direction {
                Direction::Seal => seal(&mut context, packet),
                Direction::Open => open(&mut context, packet),
            };
            packet.authentic = done.is_ok();
            if done.is_err() {
                wipe(packet);
            }
        }
        // One too many is dropped, and its key with it.
        let _ = self.idle.push(context);
    }
}

/// Seals or opens packets of one key of OpenSSL's.
pub(crate) fn run(packets: &mut [Packet<'_>], direction: Direction) {
    match packets
        .first()
        .map(|first| (&first.key.expanded, first.key.direction))
    {
        Some((Expanded::Openssl(contexts), made_for)) if made_for == direction => {
            contexts.run(packets);
        }
        _ => packets.iter_mut().for_each(wipe),
    }
}

/// Nothing unauthenticated stays reachable, nor anything that was to be sealed.
pub(crate) fn wipe(packet: &mut Packet<'_>) {
    packet.authentic = false;
    packet.body.fill(0);
}

fn seal(context: &mut CipherCtx, packet: &mut Packet<'_>) -> Result<(), ErrorStack> {
    context.encrypt_init(None, None, Some(packet.nonce()))?;
    context.cipher_update(packet.aad(), None)?;
    let len = packet.body.len();
    context.cipher_update_inplace(packet.body, len)?;
    context.cipher_final(&mut [])?;
    context.tag(packet.tag)
}

fn open(context: &mut CipherCtx, packet: &mut Packet<'_>) -> Result<(), ErrorStack> {
    context.decrypt_init(None, None, Some(packet.nonce()))?;
    context.set_tag(packet.tag)?;
    context.cipher_update(packet.aad(), None)?;
    let len = packet.body.len();
    context.cipher_update_inplace(packet.body, len)?;
    context.cipher_final(&mut [])?;
    Ok(())
}

fn cipher(algorithm: Algorithm) -> &'static CipherRef {
    match algorithm {
        Algorithm::Aes128Gcm => Cipher::aes_128_gcm(),
        Algorithm::Aes256Gcm => Cipher::aes_256_gcm(),
        Algorithm::ChaCha20Poly1305 => Cipher::chacha20_poly1305(),
    }
}
