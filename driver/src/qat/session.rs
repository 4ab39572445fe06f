// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA as the device knows it: a content descriptor in shared memory, and a request to fill in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use esp_framing::framing::{Framing, Layout, aad, nonce};
use offload_api::frame::Frame;
use offload_api::queue::Status;
use offload_api::sa::{Cipher, Direction, Integrity, SaParams, Suite};
use qat_regs::Generation;
use qat_regs::descriptor::{
    self, CipherConfig, HashConfig, UCS_HEADER, aad_word, cipher, hash, mode,
};
use qat_regs::message::{
    CommonFlags, Control, CryptoFlags, HEADER_VALID, Request, command, service, slice,
};
use zerocopy::FromZeros;
use zeroize::Zeroizing;

use super::extra::{self, OWN, Work};
use super::hmac;
use crate::dma::{DmaArena, DmaSlice};
use crate::lock;

/// Octets of a content descriptor's place.
const PLACE: u64 = descriptor::MOST as u64;

/// Content descriptors in memory that the device reads.
pub(super) struct SessionMemory {
    arena: Arc<DmaArena>,
    free: Mutex<Vec<DmaSlice>>,
}

impl SessionMemory {
    /// Room for so many.
    pub(super) fn new(arena: Arc<DmaArena>, sessions: u32) -> Self {
        let places: Vec<_> = (0..sessions).map_while(|_| arena.take(PLACE)).collect();
        Self {
            arena,
            free: Mutex::new(places),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<DmaSlice>> {
        lock(&self.free)
    }
}

/// A content descriptor; zeroised when it goes.
struct Place {
    memory: Arc<SessionMemory>,
    slice: DmaSlice,
}

impl Drop for Place {
    fn drop(&mut self) {
        let zeros = [0; PLACE as usize];
        self.memory.arena.write(self.slice, 0, &zeros);
        self.memory.lock().push(self.slice);
    }
}

/// An SA in the device's words.
pub(super) struct Session {
    pub(super) framing: Framing,
    template: Request,
    salt: Zeroizing<[u8; 4]>,
    /// AES-GCM by a cipher and a hash.
    two_slices: bool,
    /// Zeroised with the session.
    _place: Place,
    /// New operations are refused.
    retiring: AtomicBool,
}

/// Whether a generation does a suite.
pub(super) fn supports(generation: Generation, suite: Suite) -> bool {
    match suite.cipher() {
        Cipher::ChaCha20Poly1305 => generation != Generation::Gen2,
        Cipher::Aes128Gcm | Cipher::Aes256Gcm => true,
        Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => true,
        // Null, and what only software has.
        _ => false,
    }
}

impl Session {
    /// Makes a content descriptor, with AEADs by two slices or in a single pass; nothing where there is
    /// no room, or no such suite.
    pub(super) fn new(
        sa: &SaParams,
        memory: &Arc<SessionMemory>,
        two_slices: bool,
    ) -> Option<Self> {
        let seals = sa.direction == Direction::Outbound;
        let two_slices = two_slices && sa.suite.is_aead();
        let (octets, mut template) = match (sa.suite.is_aead(), two_slices) {
            (true, false) => aead(sa, seals),
            (true, true) => gcm(sa, seals)?,
            (false, _) => chain(sa, seals)?,
        };
        let slice = memory.lock().pop()?;
        memory.arena.write(slice, 0, &octets);
        let place = Place {
            memory: memory.clone(),
            slice,
        };
        template.header_flags = HEADER_VALID;
        template.service = service::CRYPTO;
        template.descriptor = memory.arena.iova_of(slice).into();
        template.descriptor_units = (octets.len() / 8) as u8;
        template.job.digest_len = sa.suite.icv_len() as u8;
        Some(Self {
            framing: Framing::new(sa),
            template,
            salt: sa.keys.salt.clone(),
            two_slices,
            _place: place,
            retiring: AtomicBool::new(false),
        })
    }

    /// Refuses operations from now on.
    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Release);
    }

    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Acquire)
    }

    /// Whether the integrity check value comes, or goes, by the operation's own memory: where an
    /// extended number's high half has to stand behind what is hashed (RFC 4303 §2.2.1).
    fn icv_apart(&self) -> bool {
        self.framing.esn() && !self.framing.suite().is_aead()
    }

    /// The request for a packet.
    pub(super) fn request(&self, opaque: u64, work: Work<'_>) -> Result<Request, Status> {
        let suite = self.framing.suite();
        let len = work.len();
        let layout = Layout::of(suite, len).ok_or(Status::BadLength)?;
        let high = self.framing.high(work.sequence);
        let mut request = self.template;
        request.opaque = opaque.into();
        request.cipher_offset = (layout.body as u32).into();
        request.cipher_len = ((layout.icv - layout.body) as u32).into();
        let address = work.address();
        let head = work.head();
        let mut behind = None;
        if suite.is_aead() {
            let nonce = nonce(&self.salt, head).ok_or(Status::BadLength)?;
            if let Some(iv) = request.iv.first_chunk_mut() {
                *iv = nonce;
            }
            request.job.aad = address.into();
            if self.two_slices {
                // The hash takes whole blocks of additional data, with zeros at their end.
                let (aad, len) = aad(head, high);
                let mut block = [0; GHASH_BLOCK];
                for (octet, of) in block.iter_mut().zip(aad.iter().take(len)) {
                    *octet = *of;
                }
                work.extra.write(extra::AAD, &block);
                request.job.aad = work.extra.address(extra::AAD).into();
                (request.job.offset, request.job.len) = (request.cipher_offset, request.cipher_len);
            } else if high.is_some() {
                let (aad, len) = aad(head, high);
                work.extra
                    .write(extra::AAD, aad.get(..len).unwrap_or_default());
                request.job.aad = work.extra.address(extra::AAD).into();
            }
        } else {
            let iv = layout.body - suite.iv_len()..layout.body;
            let iv = head.get(iv).and_then(|iv| iv.try_into().ok());
            request.iv = iv.ok_or(Status::BadLength)?;
            let hashed = layout.icv + high.map_or(0, |high| size_of_val(&high));
            request.job.len = (hashed as u32).into();
            behind = high;
        }
        if work.frame.is_chained() {
            request.common_flags = CommonFlags::LISTS.bits();
            let seals = self.framing.direction() == Direction::Outbound;
            request.job.digest = work.icv(layout.icv, suite.icv_len(), seals)?.into();
            let (list, octets) = work.list(layout.icv, behind)?;
            (request.source, request.destination) = (list.into(), list.into());
            (request.source_len, request.destination_len) = (octets.into(), octets.into());
            return Ok(request);
        }
        (request.source, request.destination) = (address.into(), address.into());
        let len = len as u32;
        (request.source_len, request.destination_len) = (len.into(), len.into());
        request.job.digest = (address + layout.icv as u64).into();
        if let Some(high) = behind {
            let at = work.esp + layout.icv;
            let icv = work.frame.get_mut(at..).unwrap_or_default();
            work.extra.write(extra::ICV, icv);
            let high = high.to_be_bytes();
            icv.iter_mut()
                .zip(high)
                .for_each(|(octet, high)| *octet = high);
            request.job.digest = work.extra.address(extra::ICV).into();
        }
        Ok(request)
    }

    /// Brings the integrity check value of a sealed packet into it, out of what the operation's own
    /// memory held.
    pub(super) fn finish_sealing(&self, packet: &mut Frame, own: &[u8; OWN]) -> Result<(), Status> {
        // A list has a place of its own for the high half.
        if !self.icv_apart() || packet.is_chained() {
            return Ok(());
        }
        let len = self.framing.suite().icv_len();
        let from = packet.len().checked_sub(len).ok_or(Status::BadLength)?;
        let icv = packet.get_mut(from..).ok_or(Status::BadLength)?;
        let own = own.get(extra::ICV as usize..).unwrap_or_default();
        icv.copy_from_slice(own.get(..len).ok_or(Status::BadLength)?);
        Ok(())
    }
}

fn aes(suite: Suite) -> u32 {
    match suite.cipher_key_len() {
        16 => cipher::AES_128,
        24 => cipher::AES_192,
        _ => cipher::AES_256,
    }
}

/// A single pass: configuration, key.
fn aead(sa: &SaParams, seals: bool) -> (Zeroizing<Vec<u8>>, Request) {
    let gcm = sa.suite.cipher() != Cipher::ChaCha20Poly1305;
    let config = CipherConfig {
        algorithm: if gcm {
            aes(sa.suite)
        } else {
            cipher::CHACHA20_POLY1305
        },
        mode: if gcm { mode::AEAD } else { mode::CTR },
        decrypts: !seals,
        converts_key: false,
        tag_len: sa.suite.icv_len() as u32,
    };
    let aad_len = if sa.esn { 12 } else { 8 };
    let mut octets = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    octets.extend(config.word().to_le_bytes());
    octets.extend(aad_word(aad_len).to_le_bytes());
    octets.resize(UCS_HEADER, 0);
    octets.extend_from_slice(&sa.keys.cipher);
    let mut template = Request::new_zeroed();
    let mut flags = CryptoFlags::IV_INLINE | CryptoFlags::SINGLE_PASS | CryptoFlags::UCS_SLICE;
    flags.set(CryptoFlags::IV_12, gcm);
    flags |= digest(seals);
    template.crypto_flags = flags.bits().into();
    template.command = command::CIPHER;
    template.job.len = aad_len.into();
    template.control = Control {
        cipher_state_units: 2,
        cipher_key_units: (sa.keys.cipher.len() / 8) as u8,
        cipher_slices: slice::CIPHER | slice::WRITE << 4,
        ..Control::default()
    };
    (octets, template)
}

/// Two slices: encrypt and hash, or hash and decrypt; what comes first lies first.
fn chain(sa: &SaParams, seals: bool) -> Option<(Zeroizing<Vec<u8>>, Request)> {
    let algorithm = match sa.suite.integrity() {
        Integrity::HmacSha256 => hash::SHA256,
        Integrity::HmacSha384 => hash::SHA384,
        Integrity::HmacSha512 => hash::SHA512,
        Integrity::None
        | Integrity::HmacMd5
        | Integrity::HmacSha1
        | Integrity::Aes128Gmac
        | Integrity::Aes192Gmac
        | Integrity::Aes256Gmac
        | Integrity::AesXcbc
        | Integrity::AesCmac => return None,
    };
    let icv_len = sa.suite.icv_len();
    let config = CipherConfig {
        algorithm: aes(sa.suite),
        mode: mode::CBC,
        decrypts: !seals,
        converts_key: !seals,
        tag_len: 0,
    };
    let mut key = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    key.extend(u64::from(config.word()).to_le_bytes());
    key.extend_from_slice(&sa.keys.cipher);

    let (block, first, second) = descriptor::hash_sizes(algorithm)?;
    let (inner, outer) = hmac::states(algorithm, &sa.keys.integrity)?;
    let config = HashConfig {
        algorithm,
        precomputed: true,
        digest_len: icv_len as u32,
    };
    let mut states = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    states.extend(u64::from(config.word()).to_le_bytes());
    // Octets that the states have taken in already, as the outer world writes numbers.
    states.extend((block as u32).to_be_bytes());
    states.extend([0; 4]);
    let state1 = states.len();
    states.extend_from_slice(&inner);
    let state2 = states.len();
    states.extend_from_slice(&outer);

    debug_assert_eq!(state2 - state1, first);
    let mut template = Request::new_zeroed();
    template.crypto_flags = (CryptoFlags::IV_INLINE | digest(seals)).bits().into();
    let hash = Hash {
        setup: states,
        state2,
        sizes: (first, second),
        icv_len,
    };
    Some((in_order(sa, seals, &key, &hash, &mut template), template))
}

/// A hash's part of a content descriptor.
struct Hash {
    setup: Zeroizing<Vec<u8>>,
    /// Where the second state is in it.
    state2: usize,
    sizes: (usize, usize),
    icv_len: usize,
}

/// AES-GCM by two slices: one counts, the other hashes.
fn gcm(sa: &SaParams, seals: bool) -> Option<(Zeroizing<Vec<u8>>, Request)> {
    let icv_len = sa.suite.icv_len();
    let config = CipherConfig {
        algorithm: aes(sa.suite),
        mode: mode::CTR,
        decrypts: false,
        converts_key: false,
        tag_len: 0,
    };
    let mut key = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    key.extend(u64::from(config.word()).to_le_bytes());
    key.extend_from_slice(&sa.keys.cipher);
    let config = HashConfig {
        algorithm: hash::GHASH,
        precomputed: true,
        digest_len: icv_len as u32,
    };
    let aad_len: u32 = if sa.esn { 12 } else { 8 };
    let mut setup = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    setup.extend(u64::from(config.word()).to_le_bytes());
    setup.extend((GHASH_BLOCK as u32).to_be_bytes());
    setup.extend([0; 4]);
    setup.extend([0; GHASH_BLOCK]);
    let state2 = setup.len();
    // The subkey, additional data's length, and room for the first counter enciphered.
    setup.extend_from_slice(&*ghash_key(&sa.keys.cipher)?);
    setup.extend(aad_len.to_be_bytes());
    setup.extend([0; 4]);
    setup.extend([0; GHASH_BLOCK]);
    let mut template = Request::new_zeroed();
    let flags = CryptoFlags::IV_INLINE | CryptoFlags::IV_12 | CryptoFlags::PROTOCOL_GCM;
    template.crypto_flags = (flags | digest(seals)).bits().into();
    template.job.aad_padded = GHASH_BLOCK as u8;
    template.job.hash_state_units = (GHASH_BLOCK / 8) as u8;
    let second = setup.len() - state2;
    let hash = Hash {
        setup,
        state2,
        sizes: (GHASH_BLOCK, second),
        icv_len,
    };
    Some((in_order(sa, seals, &key, &hash, &mut template), template))
}

/// Octets of GHASH's block.
const GHASH_BLOCK: usize = 16;

/// GHASH's subkey: a block of zeros, enciphered (NIST SP 800-38D §6.4).
fn ghash_key(key: &[u8]) -> Option<Zeroizing<[u8; GHASH_BLOCK]>> {
    let cipher = match key.len() {
        16 => openssl::cipher::Cipher::aes_128_ecb(),
        24 => openssl::cipher::Cipher::aes_192_ecb(),
        32 => openssl::cipher::Cipher::aes_256_ecb(),
        _ => return None,
    };
    let mut context = openssl::cipher_ctx::CipherCtx::new().ok()?;
    context.encrypt_init(Some(cipher), Some(key), None).ok()?;
    context.set_padding(false);
    // The library wants room for a block more.
    let mut room = Zeroizing::new([0; 2 * GHASH_BLOCK]);
    let zeros = [0; GHASH_BLOCK];
    context.cipher_update(&zeros, Some(&mut *room)).ok()?;
    room.first_chunk().copied().map(Zeroizing::new)
}

/// A content descriptor of a cipher and a hash: what comes first lies first.
fn in_order(
    sa: &SaParams,
    seals: bool,
    key: &[u8],
    hash: &Hash,
    template: &mut Request,
) -> Zeroizing<Vec<u8>> {
    let setup: &[u8] = &hash.setup;
    let mut octets = Zeroizing::new(Vec::with_capacity(descriptor::MOST));
    let (cipher_at, hash_at) = if seals {
        (0, key.len())
    } else {
        (setup.len(), 0)
    };
    let parts = if seals { [key, setup] } else { [setup, key] };
    parts
        .into_iter()
        .for_each(|part| octets.extend_from_slice(part));
    let units = |octets: usize| (octets / 8) as u8;
    template.command = if seals {
        command::CIPHER_HASH
    } else {
        command::HASH_CIPHER
    };
    let next = |this: u8, next: u8| this | next << 4;
    template.control = Control {
        cipher_state_units: 2,
        cipher_key_units: units(sa.keys.cipher.len()),
        cipher_config_units: units(cipher_at),
        cipher_slices: next(
            slice::CIPHER,
            if seals { slice::HASH } else { slice::WRITE },
        ),
        hash_config_units: units(hash_at),
        hash_slices: next(
            slice::HASH,
            if seals { slice::WRITE } else { slice::CIPHER },
        ),
        final_len: hash.icv_len as u8,
        inner_len: hash.icv_len as u8,
        state1_len: hash.sizes.0 as u8,
        state2_units: units(hash_at + hash.state2),
        state2_len: hash.sizes.1 as u8,
        ..Control::default()
    };
    octets
}

fn digest(seals: bool) -> CryptoFlags {
    if seals {
        CryptoFlags::DIGEST_RETURNED
    } else {
        CryptoFlags::DIGEST_COMPARED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subkey_is_that_of_the_gcm_specification() {
        // Test cases 1, 7 and 13 of McGrew and Viega's: keys of zeros.
        let subkeys = [
            (16, "66e94bd4ef8a2c3b884cfa59ca342b2e"),
            (24, "aae06992acbf52a3e8f4a96ec9300bd7"),
            (32, "dc95c078a2408989ad48a21492842087"),
        ];
        for (len, subkey) in subkeys {
            assert_eq!(hex::encode(*ghash_key(&[0; 32][..len]).unwrap()), subkey);
        }
        assert!(ghash_key(&[0; 15]).is_none());
    }
}
