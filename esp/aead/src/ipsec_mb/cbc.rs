// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-CBC with an HMAC by the library: several packets' chains run side by side.
#![expect(unsafe_code, reason = "calls into a C library")]

use std::ffi::c_void;

use zeroize::{Zeroize, Zeroizing};

use super::job::{BURST, Job, Pads, algorithm, jobs};
use super::{Library, Manager};
use crate::Direction;
use crate::cbc::{BODY, Hash, ICV_MAX, IV, Packet};

/// Expands a key for both directions.
pub(super) type ExpandAes =
    unsafe extern "C" fn(key: *const c_void, encryption: *mut c_void, decryption: *mut c_void);
/// The state of a hash behind its first block.
pub(super) type HashBlock = unsafe extern "C" fn(block: *const c_void, state: *mut c_void);

/// A key in the library's form.
pub(crate) struct CbcKey {
    library: &'static Library,
    key_len: u64,
    hash: Hash,
    /// The library's code of it.
    code: u32,
    secrets: Box<Secrets>,
}

#[repr(C, align(64))]
struct Secrets {
    encryption: [[u8; 16]; 15],
    decryption: [[u8; 16]; 15],
    /// The HMAC's states behind its key.
    inner: [u8; 64],
    outer: [u8; 64],
}

impl Drop for CbcKey {
    fn drop(&mut self) {
        self.secrets.encryption.zeroize();
        self.secrets.decryption.zeroize();
        self.secrets.inner.zeroize();
        self.secrets.outer.zeroize();
    }
}

impl Library {
    /// Expands a key of AES, and one of an HMAC that has the hash's length.
    pub(crate) fn expand_cbc(
        &'static self,
        hash: Hash,
        cipher_key: &[u8],
        integrity_key: &[u8],
    ) -> Option<CbcKey> {
        let [aes_128, aes_192, aes_256] = self.expand_aes;
        let expand = match cipher_key.len() {
            16 => aes_128,
            24 => aes_192,
            32 => aes_256,
            _ => return None,
        };
        let block_len = match hash {
            Hash::Sha1 | Hash::Sha256 => 64,
            Hash::Sha384 | Hash::Sha512 => 128,
        };
        if integrity_key.len() != hash.key_len() {
            return None;
        }
        let [sha1, sha256, sha384, sha512] = self.hash_block;
        let hash_block = match hash {
            Hash::Sha1 => sha1,
            Hash::Sha256 => sha256,
            Hash::Sha384 => sha384,
            Hash::Sha512 => sha512,
        };
        let mut secrets = Box::new(Secrets {
            encryption: [[0; 16]; 15],
            decryption: [[0; 16]; 15],
            inner: [0; 64],
            outer: [0; 64],
        });
        let (encryption, decryption) = (&raw mut secrets.encryption, &raw mut secrets.decryption);
        // SAFETY: the key has the length that the function reads; the tables have room for the rounds of
        // the longest, aligned to 16 octets.
        unsafe {
            expand(
                cipher_key.as_ptr().cast(),
                encryption.cast(),
                decryption.cast(),
            )
        };
        let Secrets { inner, outer, .. } = &mut *secrets;
        for (state, pad) in [(inner, 0x36), (outer, 0x5c)] {
            let mut block = Zeroizing::new([pad; 128]);
            for (octet, key) in block.iter_mut().zip(integrity_key) {
                *octet ^= key;
            }
            debug_assert!(block_len <= block.len() && integrity_key.len() <= block_len);
            // SAFETY: a block has 128 octets at most, and a state 64.
            unsafe { hash_block(block.as_ptr().cast(), state.as_mut_ptr().cast()) };
        }
        Some(CbcKey {
            library: self,
            key_len: cipher_key.len() as u64,
            hash,
            code: match hash {
                Hash::Sha1 => 1,
                Hash::Sha256 => 3,
                Hash::Sha384 => 4,
                Hash::Sha512 => 5,
            },
            secrets,
        })
    }

    fn run_cbc(&self, packets: &mut [Packet<'_>], direction: Direction) {
        self.in_bursts(packets, Packet::wipe, |manager, packets| {
            let completed = match direction {
                Direction::Seal => seal(manager, packets),
                Direction::Open => open(manager, packets),
            };
            for packet in packets.iter_mut().filter(|packet| !packet.authentic) {
                packet.wipe();
            }
            completed
        });
    }
}

/// Encrypts bodies and writes ICVs, of [`BURST`] at most; whether the library did all it was told to.
fn seal(manager: &Manager, packets: &mut [Packet<'_>]) -> bool {
    let completed = jobs(manager, packets.len(), |n, job| {
        if let Some(packet) = packets.get_mut(n) {
            // It is hashed before the ICV is written over it.
            packet.put_high();
            fill(job, packet, None, Direction::Seal);
        }
    });
    for packet in packets {
        packet.authentic = completed;
    }
    completed
}

/// Decrypts bodies, and tells by the ICVs which are authentic; otherwise as [`seal`].
fn open(manager: &Manager, packets: &mut [Packet<'_>]) -> bool {
    let mut computed = [[0; ICV_MAX]; BURST];
    // What a high half is written over.
    let mut given = [[0; 4]; BURST];
    for (packet, given) in packets.iter_mut().zip(&mut given) {
        *given = packet.put_high().unwrap_or_default();
    }
    let completed = jobs(manager, packets.len(), |n, job| {
        if let (Some(packet), Some(icv)) = (packets.get_mut(n), computed.get_mut(n)) {
            fill(job, packet, Some(icv), Direction::Open);
        }
    });
    for ((packet, given), computed) in packets.iter_mut().zip(&given).zip(&computed) {
        packet.take_high(given);
        let icv = packet.icv_field();
        packet.authentic = completed
            && match icv.len() {
                12 => same::<12>(computed, icv),
                16 => same::<16>(computed, icv),
                24 => same::<24>(computed, icv),
                _ => same::<ICV_MAX>(computed, icv),
            };
    }
    completed
}

/// Whether ICVs of N octets are the same, in a time that does not tell where they differ.
#[inline]
fn same<const N: usize>(computed: &[u8; ICV_MAX], given: &[u8]) -> bool {
    let (Some(computed), Some(given)) = (computed.first_chunk::<N>(), given.first_chunk::<N>())
    else {
        return false;
    };
    let pairs = computed
        .as_chunks::<4>()
        .0
        .iter()
        .zip(given.as_chunks::<4>().0);
    let difference = pairs.fold(0, |all, (a, b)| {
        all | (u32::from_ne_bytes(*a) ^ u32::from_ne_bytes(*b))
    });
    std::hint::black_box(difference) == 0
}

impl CbcKey {
    pub(crate) fn hash(&self) -> Hash {
        self.hash
    }

    /// Seals or opens packets of the library's keys, each made for the direction.
    pub(crate) fn run(&self, packets: &mut [Packet<'_>], direction: Direction) {
        self.library.run_cbc(packets, direction);
    }
}

/// The ICV goes to `apart`, or else to its field.
fn fill(
    job: &mut Job,
    packet: &mut Packet<'_>,
    apart: Option<&mut [u8; ICV_MAX]>,
    direction: Direction,
) {
    let key = &packet.key.expanded;
    let (cipher_len, hash_len, icv_len) =
        (packet.body_len(), packet.hashed_len(), packet.icv_len());
    let text = packet.text.as_mut_ptr();
    job.begin(direction);
    job.encryption_key = key.secrets.encryption.as_ptr().cast();
    job.decryption_key = key.secrets.decryption.as_ptr().cast();
    job.key_len = key.key_len;
    job.source = text;
    // SAFETY: a packet has its head in front of its body, by `Packet::new`.
    job.destination = unsafe { text.add(BODY) };
    job.cipher_start = BODY as u64;
    job.cipher_len = cipher_len as u64;
    job.hash_len = hash_len as u64;
    // SAFETY: as above, and the IV ends where the body begins.
    job.iv = unsafe { text.add(BODY - IV) };
    job.iv_len = IV as u64;
    job.tag = match apart {
        Some(icv) => icv.as_mut_ptr(),
        // SAFETY: a packet has its ICV behind its body, by `Packet::new`.
        None => unsafe { text.add(BODY + cipher_len) },
    };
    job.tag_len = icv_len as u64;
    job.extra.hmac = Pads {
        inner: key.secrets.inner.as_ptr().cast(),
        outer: key.secrets.outer.as_ptr().cast(),
        none: std::ptr::null(),
    };
    job.cipher_mode = algorithm::CIPHER_CBC;
    job.hash = key.code;
}
