// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cryptography under ESP: contexts keyed once, only the IV set for each packet.

use openssl::cipher::{Cipher as OpensslCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::memcmp;
use zeroize::Zeroizing;

use esp_aead::{
    Aad, Algorithm, Direction, Key, KeyError, Packet, TAG, cbc, open_burst, seal_burst,
};
use esp_framing::framing::{Layout, aad, nonce};
use offload_api::sa::{
    AeadMode, Cipher, FurtherAead, Integrity, KeyMaterial, Protocol, SaParams, Suite,
};
use offload_api::wire::esp::Header;

use crate::mac::Mac;

/// A suite with its key, for one thread at a time and one direction.
pub struct CipherContext {
    suite: Suite,
    aead: Option<Key>,
    cipher: Option<CipherCtx>,
    /// An AEAD of software alone.
    further: Option<CipherCtx>,
    mac: Option<Mac>,
    salt: Zeroizing<[u8; 4]>,
    seals: bool,
}

/// Opening failed: the integrity check value does not match (or OpenSSL refused to work, which
/// must not be told apart on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIcv;

impl CipherContext {
    /// A context that seals or opens.
    ///
    /// # Errors
    /// What OpenSSL says, such as an algorithm that its configuration forbids.
    pub fn new(suite: Suite, keys: &KeyMaterial, seals: bool) -> Result<Self, KeyError> {
        let aead = aead_key(suite, keys, seals)?;
        let this = Self::beside_aead(suite, keys, seals)?;
        Ok(Self { aead, ..this })
    }

    /// As [`new`](Self::new), of an AEAD whose key somebody else has: by itself it refuses to work.
    pub(crate) fn beside_aead(
        suite: Suite,
        keys: &KeyMaterial,
        seals: bool,
    ) -> Result<Self, KeyError> {
        let cipher = match block_cipher(suite.cipher()) {
            Some(algorithm) => {
                let mut context = CipherCtx::new()?;
                let key = if suite.cipher() == Cipher::DesCbc {
                    // With one key three times EDE3 is DES, which OpenSSL itself keeps in a provider apart.
                    Zeroizing::new(keys.cipher.repeat(3))
                } else {
                    keys.cipher.clone()
                };
                if seals {
                    context.encrypt_init(Some(algorithm), Some(&key), None)?;
                } else {
                    context.decrypt_init(Some(algorithm), Some(&key), None)?;
                }
                context.set_padding(false);
                Some(context)
            }
            None => None,
        };
        let further = further_context(suite, keys, seals)?;
        let mac = Mac::new(suite, keys)?;
        Ok(Self {
            suite,
            aead: None,
            cipher,
            further,
            mac,
            salt: keys.salt.clone(),
            seals,
        })
    }

    /// Seals an ESP packet in place: `packet` is header, IV, plaintext with trailer, and room for
    /// the ICV; `high` the upper half of an extended sequence number.
    ///
    /// # Errors
    /// What OpenSSL says; the packet must not be sent.
    pub fn seal(&mut self, packet: &mut [u8], high: Option<u32>) -> Result<(), SealError> {
        debug_assert!(self.seals);
        if let Some(key) = &self.aead {
            let of = (self.suite, &*self.salt);
            return aead_alone(key, of, packet, high, seal_burst).ok_or(SealError);
        }
        let split = Layout::of(self.suite, packet.len()).ok_or(SealError)?;
        if let Some((context, aead)) = self
            .further
            .as_mut()
            .zip(self.suite.cipher().further_aead())
        {
            return further_run(context, aead, &self.salt, packet, split, (high, true));
        }
        if let Some(cipher) = &mut self.cipher {
            let iv = packet.get(Header::LEN..split.body).ok_or(SealError)?;
            cipher.encrypt_init(None, None, Some(iv))?;
            in_place(cipher, packet, split)?;
        }
        let (authenticated, icv) = packet.split_at_mut(split.icv);
        let code = self.code(authenticated, high)?;
        icv.copy_from_slice(code.get(..icv.len()).ok_or(SealError)?);
        Ok(())
    }

    /// Opens an ESP packet in place: `packet` is header, IV, ciphertext, ICV. Separate integrity is
    /// checked before anything is decrypted.
    ///
    /// # Errors
    /// [`BadIcv`]; what the packet holds then is not authentic.
    pub fn open(&mut self, packet: &mut [u8], high: Option<u32>) -> Result<(), BadIcv> {
        debug_assert!(!self.seals);
        if let Some(key) = &self.aead {
            let of = (self.suite, &*self.salt);
            return aead_alone(key, of, packet, high, open_burst).ok_or(BadIcv);
        }
        let split = Layout::of(self.suite, packet.len()).ok_or(BadIcv)?;
        if let Some((context, aead)) = self
            .further
            .as_mut()
            .zip(self.suite.cipher().further_aead())
        {
            let opened = further_run(context, aead, &self.salt, packet, split, (high, false));
            return opened.map_err(|_| BadIcv);
        }
        let (authenticated, icv) = packet.split_at_mut(split.icv);
        let code = self.code(authenticated, high).map_err(|_| BadIcv)?;
        if !code
            .get(..icv.len())
            .is_some_and(|code| memcmp::eq(code, icv))
        {
            return Err(BadIcv);
        }
        if let Some(cipher) = &mut self.cipher {
            let iv = packet.get(Header::LEN..split.body).ok_or(BadIcv)?;
            cipher
                .decrypt_init(None, None, Some(iv))
                .map_err(|_| BadIcv)?;
            in_place(cipher, packet, split).map_err(|_| BadIcv)?;
        }
        Ok(())
    }

    fn code(&mut self, authenticated: &[u8], high: Option<u32>) -> Result<[u8; 64], SealError> {
        let mac = self.mac.as_mut().ok_or(SealError)?;
        if let Mac::Gmac(_) = mac {
            // RFC 4543 §3.3: an extended number in its place, then the IV and all that follows.
            let (head, len) = aad(authenticated, high);
            let head = head.get(..len).ok_or(SealError)?;
            let rest = authenticated.get(Header::LEN..).ok_or(SealError)?;
            let iv = rest.first_chunk().ok_or(SealError)?;
            return Ok(mac.compute(iv, &[head, rest])?);
        }
        // RFC 4303 §2.2.1: the high half is authenticated but not sent.
        let high = high.map(u32::to_be_bytes);
        let parts: [&[u8]; 2] = [authenticated, high.as_ref().map_or(&[], |h| h)];
        Ok(mac.compute(&[0; 8], &parts)?)
    }
}

/// OpenSSL refused to seal; nothing may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl From<ErrorStack> for SealError {
    fn from(_: ErrorStack) -> Self {
        Self
    }
}

/// A keyed context of an AEAD that `esp-aead` has not.
fn further_context(
    suite: Suite,
    keys: &KeyMaterial,
    seals: bool,
) -> Result<Option<CipherCtx>, ErrorStack> {
    let Some(aead) = suite.cipher().further_aead() else {
        return Ok(None);
    };
    let ccm = aead.mode == AeadMode::Ccm;
    let cipher = match (aead.mode, aead.key_len) {
        (AeadMode::Ccm, 16) => OpensslCipher::aes_128_ccm(),
        (AeadMode::Ccm, 24) => OpensslCipher::aes_192_ccm(),
        (AeadMode::Ccm, _) => OpensslCipher::aes_256_ccm(),
        (AeadMode::Gcm, 16) => OpensslCipher::aes_128_gcm(),
        (AeadMode::Gcm, 24) => OpensslCipher::aes_192_gcm(),
        (AeadMode::Gcm, _) => OpensslCipher::aes_256_gcm(),
        // A code like any other.
        (AeadMode::Gmac, _) => return Ok(None),
    };
    let mut context = CipherCtx::new()?;
    if seals {
        context.encrypt_init(Some(cipher), None, None)?;
    } else {
        context.decrypt_init(Some(cipher), None, None)?;
    }
    if ccm {
        // These two go before the key.
        context.set_iv_length(CCM_NONCE)?;
        context.set_tag_length(aead.icv_len)?;
    }
    if seals {
        context.encrypt_init(None, Some(&keys.cipher), None)?;
    } else {
        context.decrypt_init(None, Some(&keys.cipher), None)?;
    }
    Ok(Some(context))
}

/// RFC 4309 §4: three octets of salt, eight of IV.
const CCM_NONCE: usize = 11;

/// Salt and IV: of a CCM's salt the first three octets.
fn further_nonce<'n>(
    aead: &FurtherAead,
    salt: &[u8; 4],
    packet: &[u8],
    room: &'n mut [u8; 12],
) -> Option<&'n [u8]> {
    *room = nonce(salt, packet)?;
    if aead.mode == AeadMode::Ccm {
        room.copy_within(4.., 3);
        return room.get(..CCM_NONCE);
    }
    Some(room)
}

/// Seals or opens: but for the nonce's direction and the tag's, the same.
fn further_run(
    context: &mut CipherCtx,
    aead: &FurtherAead,
    salt: &[u8; 4],
    packet: &mut [u8],
    split: Layout,
    (high, seals): (Option<u32>, bool),
) -> Result<(), SealError> {
    let mut room = [0; 12];
    let nonce = further_nonce(aead, salt, packet, &mut room).ok_or(SealError)?;
    let (aad, aad_len) = aad(packet, high);
    let (authenticated, icv) = packet.split_at_mut_checked(split.icv).ok_or(SealError)?;
    let body = authenticated.get_mut(split.body..).ok_or(SealError)?;
    let len = body.len();
    if seals {
        context.encrypt_init(None, None, Some(nonce))?;
    } else {
        context.decrypt_init(None, None, Some(nonce))?;
        context.set_tag(icv)?;
    }
    let ccm = aead.mode == AeadMode::Ccm;
    if ccm {
        context.set_data_len(len)?;
    }
    context.cipher_update(aad.get(..aad_len).ok_or(SealError)?, None)?;
    // Opening, CCM tells here whether the ICV fits, GCM at its end.
    context.cipher_update_inplace(body, len)?;
    if !ccm {
        context.cipher_final(&mut [])?;
    }
    if seals {
        context.tag(icv)?;
    }
    Ok(())
}

/// Runs a block cipher over the body. What is behind a run is the slack of a block that the `openssl`
/// crate asks for; whole blocks without padding never touch it.
fn in_place(cipher: &mut CipherCtx, packet: &mut [u8], split: Layout) -> Result<(), ErrorStack> {
    let len = split.icv - split.body;
    let block = cipher.block_size();
    let Some(body) = packet.get_mut(split.body..) else {
        return Ok(());
    };
    if body.len() >= len + block {
        cipher.cipher_update_inplace(body, len)?;
        return Ok(());
    }
    // A short ICV is no slack: the last block goes by itself, and is the slack of those before it.
    let Some(before) = len.checked_sub(block) else {
        return Ok(());
    };
    if before != 0 {
        cipher.cipher_update_inplace(body, before)?;
    }
    let mut last = [0; 2 * MAX_BLOCK];
    let Some((last, block)) = last.get_mut(..2 * block).zip(body.get_mut(before..len)) else {
        return Ok(());
    };
    let (text, _) = last.split_at_mut(block.len());
    text.copy_from_slice(block);
    cipher.cipher_update_inplace(last, block.len())?;
    let (text, _) = last.split_at(block.len());
    block.copy_from_slice(text);
    Ok(())
}

/// Octets of the largest block.
const MAX_BLOCK: usize = 16;

/// The key of an AEAD; nothing for other suites.
pub(crate) fn aead_key(
    suite: Suite,
    keys: &KeyMaterial,
    seals: bool,
) -> Result<Option<Key>, KeyError> {
    let algorithm = match suite.cipher() {
        Cipher::Aes128Gcm => Algorithm::Aes128Gcm,
        Cipher::Aes256Gcm => Algorithm::Aes256Gcm,
        Cipher::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
        _ => return Ok(None),
    };
    let direction = if seals {
        Direction::Seal
    } else {
        Direction::Open
    };
    Key::new(algorithm, direction, &keys.cipher).map(Some)
}

/// The keys of a suite whose packets go in bursts of CBC here; nothing for others.
pub(crate) fn cbc_key(sa: &SaParams) -> Option<cbc::Key> {
    let hash = match sa.suite.integrity() {
        Integrity::HmacSha1 => cbc::Hash::Sha1,
        Integrity::HmacSha256 => cbc::Hash::Sha256,
        Integrity::HmacSha384 => cbc::Hash::Sha384,
        Integrity::HmacSha512 => cbc::Hash::Sha512,
        _ => return None,
    };
    let aes = [Cipher::Aes128Cbc, Cipher::Aes192Cbc, Cipher::Aes256Cbc];
    if sa.suite.protocol() != Protocol::Esp || !aes.contains(&sa.suite.cipher()) {
        return None;
    }
    let direction = match sa.direction {
        offload_api::sa::Direction::Outbound => Direction::Seal,
        offload_api::sa::Direction::Inbound => Direction::Open,
    };
    cbc::Key::new(hash, direction, &sa.keys.cipher, &sa.keys.integrity)
}

/// As [`CipherContext::seal`] or [`CipherContext::open`], by an AEAD's burst of one; nothing where it failed.
pub(crate) fn aead_alone(
    key: &Key,
    (suite, salt): (Suite, &[u8; 4]),
    packet: &mut [u8],
    high: Option<u32>,
    work: fn(&mut [Packet<'_>]),
) -> Option<()> {
    let split = Layout::of(suite, packet.len())?;
    let head = *packet.first_chunk()?;
    let mut packet = [aead_packet(key, salt, packet, &head, split, high)?];
    work(&mut packet);
    packet.iter().all(Packet::is_authentic).then_some(())
}

/// An ESP packet as the AEAD works on it; `head` is its header and IV.
#[inline(always)]
pub(crate) fn aead_packet<'data>(
    key: &'data Key,
    salt: &[u8; 4],
    packet: &'data mut [u8],
    head: &[u8; Header::LEN + 8],
    split: Layout,
    high: Option<u32>,
) -> Option<Packet<'data>> {
    let (authenticated, icv) = packet.split_at_mut_checked(split.icv)?;
    let body = authenticated.get_mut(split.body..)?;
    let nonce = nonce(salt, head)?;
    let (octets, len) = aad(head, high);
    let aad = match len {
        12 => Aad::from(octets),
        _ => Aad::from(*octets.first_chunk::<8>()?),
    };
    let tag: &mut [u8; TAG] = icv.try_into().ok()?;
    Some(Packet::new(key, &nonce, aad, body, tag))
}

fn block_cipher(cipher: Cipher) -> Option<&'static CipherRef> {
    match cipher {
        Cipher::Aes128Cbc => Some(OpensslCipher::aes_128_cbc()),
        Cipher::Aes192Cbc => Some(OpensslCipher::aes_192_cbc()),
        Cipher::Aes256Cbc => Some(OpensslCipher::aes_256_cbc()),
        Cipher::TripleDesCbc | Cipher::DesCbc => Some(OpensslCipher::des_ede3_cbc()),
        _ => None,
    }
}
