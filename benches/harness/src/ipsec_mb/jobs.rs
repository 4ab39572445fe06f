// SPDX-License-Identifier: Apache-2.0 OR MIT
//! intel-ipsec-mb's jobs in bursts, with nothing around them: AES-CBC with HMACs, and ChaCha20-Poly1305.
#![expect(
    unsafe_code,
    reason = "calls into a C library that is found at run time"
)]

use std::ffi::c_void;
use std::ptr;

use super::Parts;

/// Jobs in a burst, at most.
pub const BURST: usize = 64;

/// The offsets in release 1.3's manager.
mod offset {
    pub(super) const EXPAND_AES: [usize; 3] = [112, 120, 128];
    pub(super) const HASH_BLOCK: [usize; 4] = [160, 176, 184, 192];
    pub(super) const GET_NEXT_BURST: usize = 952;
    pub(super) const SUBMIT_BURST: usize = 960;
    pub(super) const FLUSH_BURST: usize = 976;
}

/// `IMB_JOB`, as far as it is read; numbers and addresses alike.
#[repr(C)]
#[derive(Clone, Copy)]
struct Job {
    keys: [*const u8; 2],
    key_len: u64,
    source: *const u8,
    destination: *mut u8,
    cipher_start: u64,
    cipher_len: u64,
    hash_start: u64,
    hash_len: u64,
    iv: *const u8,
    iv_len: u64,
    tag: *mut u8,
    tag_len: u64,
    /// Additional data and nothing, or an HMAC's states.
    first: *const u8,
    second: *const u8,
    third: *const u8,
    status: u32,
    cipher_mode: u32,
    cipher_direction: u32,
    hash: u32,
    order: u32,
    rest: [u64; 6],
}

const _: () = assert!(size_of::<Job>() == 200 && std::mem::offset_of!(Job, status) == 128);

type Burst = unsafe extern "C" fn(*mut c_void, u32, *mut *mut Job) -> u32;
type Expand = unsafe extern "C" fn(*const u8, *mut u8, *mut u8);
type HashBlock = unsafe extern "C" fn(*const u8, *mut u8);

/// A manager of the library's, of release 1.3.
pub struct Jobs {
    manager: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    next: Burst,
    submit: Burst,
    flush: Burst,
    expand: [Expand; 3],
    hash_block: [HashBlock; 4],
    _library: libloading::Library,
}

/// Keys of AES-CBC and an HMAC, expanded.
#[repr(C, align(64))]
pub struct CbcKey {
    encryption: [u8; 240],
    _space: [u8; 16],
    decryption: [u8; 240],
    inner: [u8; 64],
    outer: [u8; 64],
    key_len: u64,
    hash: usize,
}

/// One packet's work.
pub enum Task<'a> {
    /// Header, IV, body and ICV of an ESP packet; opened, the ICV goes to the other place.
    Cbc(&'a CbcKey, &'a mut [u8], &'a mut [u8; 32]),
    /// As the façade's packets; opened, the tag goes to the other place.
    ChaCha(&'a [u8; 32], &'a mut Parts, &'a mut [u8; 32]),
}

/// Octets of the ICVs of HMACs with SHA-1, SHA-256, SHA-384 and SHA-512.
const ICVS: [usize; 4] = [12, 16, 24, 32];

impl Jobs {
    /// Loads the library, if it is there in the release whose layout is known.
    pub fn load() -> Option<Self> {
        // SAFETY: (1) the system's own library; (2) the types are those of its header, the offsets those of
        // the release that is asked for.
        unsafe {
            let library = libloading::Library::new("libIPSec_MB.so.1").ok()?;
            let version: unsafe extern "C" fn() -> u32 = *library.get(b"imb_get_version\0").ok()?;
            if version() >> 8 != 0x103 {
                return None;
            }
            let alloc: unsafe extern "C" fn(u64) -> *mut c_void =
                *library.get(b"alloc_mb_mgr\0").ok()?;
            let init: unsafe extern "C" fn(*mut c_void, *mut u32) =
                *library.get(b"init_mb_mgr_auto\0").ok()?;
            let free = *library.get(b"free_mb_mgr\0").ok()?;
            let manager = alloc(0);
            if manager.is_null() {
                return None;
            }
            init(manager, ptr::null_mut());
            let at = |offset| manager.cast::<u8>().add(offset);
            Some(Self {
                manager,
                free,
                next: at(offset::GET_NEXT_BURST).cast::<Burst>().read(),
                submit: at(offset::SUBMIT_BURST).cast::<Burst>().read(),
                flush: at(offset::FLUSH_BURST).cast::<Burst>().read(),
                expand: offset::EXPAND_AES.map(|offset| at(offset).cast::<Expand>().read()),
                hash_block: offset::HASH_BLOCK.map(|offset| at(offset).cast::<HashBlock>().read()),
                _library: library,
            })
        }
    }

    /// Expands keys; the hash by its place among SHA-1, SHA-256, SHA-384 and SHA-512.
    pub fn cbc_key(&self, hash: usize, cipher: &[u8], integrity: &[u8]) -> CbcKey {
        let mut key = CbcKey {
            encryption: [0; 240],
            _space: [0; 16],
            decryption: [0; 240],
            inner: [0; 64],
            outer: [0; 64],
            key_len: cipher.len() as u64,
            hash,
        };
        let expand = self.expand[cipher.len() / 8 - 2];
        let (encryption, decryption) = (key.encryption.as_mut_ptr(), key.decryption.as_mut_ptr());
        // SAFETY: the function for this length of key; the tables have room for the longest key's rounds.
        unsafe { expand(cipher.as_ptr(), encryption, decryption) };
        for (pad, state) in [
            (0x36, key.inner.as_mut_ptr()),
            (0x5c, key.outer.as_mut_ptr()),
        ] {
            let mut block = [pad; 128];
            for (octet, key) in block.iter_mut().zip(integrity) {
                *octet ^= key;
            }
            // SAFETY: a block has 128 octets at most, and a state 64.
            unsafe { self.hash_block[hash](block.as_ptr(), state) };
        }
        key
    }

    /// Seals or opens a burst.
    ///
    /// # Panics
    /// It is too long, or the library refuses a job.
    pub fn run<'a>(&mut self, seal: bool, count: usize, tasks: impl Iterator<Item = Task<'a>>) {
        assert!(count <= BURST);
        let mut list = [ptr::null_mut::<Job>(); BURST];
        // SAFETY: (1) the functions are the manager's; (2) the list has room; (3) every field that is read
        // is set; (4) what jobs point to outlives this call, which ends behind the last.
        unsafe {
            let got = (self.next)(self.manager, count as u32, list.as_mut_ptr());
            assert_eq!(got as usize, count);
            for (&job, task) in list.iter().zip(tasks) {
                *job = fill(seal, task);
            }
            let mut done = (self.submit)(self.manager, count as u32, list.as_mut_ptr()) as usize;
            assert!(list[..done].iter().all(|job| (**job).status == 3));
            while done < count {
                let left = (count - done) as u32;
                let more = (self.flush)(self.manager, left, list.as_mut_ptr()) as usize;
                assert!(more != 0 && list[..more].iter().all(|job| (**job).status == 3));
                done += more;
            }
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, and freed once.
        unsafe { (self.free)(self.manager) }
    }
}

fn fill(seal: bool, task: Task<'_>) -> Job {
    let (cipher_direction, order) = if seal { (1, 1) } else { (2, 2) };
    match task {
        Task::Cbc(key, text, other) => {
            let icv_len = ICVS[key.hash];
            let (authenticated, icv) = text.split_at_mut(text.len() - icv_len);
            let icv = if seal { icv } else { &mut other[..] };
            let (head, body) = authenticated.split_at_mut(24);
            Job {
                keys: [key.encryption.as_ptr(), key.decryption.as_ptr()],
                key_len: key.key_len,
                source: head.as_ptr(),
                destination: body.as_mut_ptr(),
                cipher_start: 24,
                cipher_len: body.len() as u64,
                hash_start: 0,
                hash_len: 24 + body.len() as u64,
                iv: head[8..].as_ptr(),
                iv_len: 16,
                tag: icv.as_mut_ptr(),
                tag_len: icv_len as u64,
                first: key.inner.as_ptr(),
                second: key.outer.as_ptr(),
                third: ptr::null(),
                status: 0,
                cipher_mode: 1,
                cipher_direction,
                hash: [1, 3, 4, 5][key.hash],
                order,
                rest: [0; 6],
            }
        }
        Task::ChaCha(key, parts, other) => Job {
            keys: [key.as_ptr(); 2],
            key_len: 32,
            source: parts.body.as_ptr(),
            destination: parts.body.as_mut_ptr(),
            cipher_start: 0,
            cipher_len: parts.body.len() as u64,
            hash_start: 0,
            hash_len: parts.body.len() as u64,
            iv: parts.nonce.as_ptr(),
            iv_len: 12,
            tag: if seal {
                parts.tag.as_mut_ptr()
            } else {
                other.as_mut_ptr()
            },
            tag_len: 16,
            first: parts.aad.as_ptr(),
            second: ptr::without_provenance(parts.aad.len()),
            third: ptr::null(),
            status: 0,
            cipher_mode: 19,
            cipher_direction,
            hash: 29,
            order,
            rest: [0; 6],
        },
    }
}
