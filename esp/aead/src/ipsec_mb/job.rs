// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The library's jobs: one packet each, run several at a time.
#![expect(unsafe_code, reason = "calls into a C library")]

use std::ffi::c_void;
use std::ptr;

use super::{Manager, offset};
use crate::Direction;

/// Jobs in a call; the library takes 128.
pub(super) const BURST: usize = 32;

/// Codes of the library's header.
pub(super) mod algorithm {
    pub(in super::super) const CIPHER_CBC: u32 = 1;
    pub(in super::super) const CIPHER_CHACHA20_POLY1305: u32 = 19;
    pub(in super::super) const HASH_CHACHA20_POLY1305: u32 = 29;
}

const ENCRYPT: u32 = 1;
const DECRYPT: u32 = 2;
const CIPHER_THEN_HASH: u32 = 1;
const HASH_THEN_CIPHER: u32 = 2;
const COMPLETED: u32 = 3;

type Burst = unsafe extern "C" fn(manager: *mut c_void, count: u32, jobs: *mut *mut Job) -> u32;

/// `IMB_JOB`.
#[repr(C)]
pub(super) struct Job {
    pub(super) encryption_key: *const c_void,
    pub(super) decryption_key: *const c_void,
    pub(super) key_len: u64,
    pub(super) source: *const u8,
    pub(super) destination: *mut u8,
    pub(super) cipher_start: u64,
    pub(super) cipher_len: u64,
    pub(super) hash_start: u64,
    pub(super) hash_len: u64,
    pub(super) iv: *const u8,
    pub(super) iv_len: u64,
    pub(super) tag: *mut u8,
    pub(super) tag_len: u64,
    pub(super) extra: Extra,
    pub(super) status: u32,
    pub(super) cipher_mode: u32,
    pub(super) cipher_direction: u32,
    pub(super) hash: u32,
    pub(super) order: u32,
    pub(super) user_data: *mut c_void,
    pub(super) user_data2: *mut c_void,
    pub(super) cipher_function: *const c_void,
    pub(super) hash_function: *const c_void,
    pub(super) gather_state: u32,
    pub(super) next_iv: *mut c_void,
}

const _: () = assert!(size_of::<Job>() == 200 && std::mem::offset_of!(Job, status) == 128);

/// What kinds of algorithms have of their own.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Extra {
    pub(super) aead: Additional,
    pub(super) hmac: Pads,
}

/// An AEAD's additional data.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Additional {
    pub(super) aad: *const u8,
    pub(super) aad_len: u64,
    pub(super) context: *const c_void,
}

/// An HMAC's states behind its two pads.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Pads {
    pub(super) inner: *const c_void,
    pub(super) outer: *const c_void,
    pub(super) none: *const c_void,
}

impl Job {
    /// Sets what all jobs of ours have alike. Field by field: one that is made elsewhere and copied in larger
    /// pieces has those wait for the smaller ones that they are read from.
    pub(super) fn begin(&mut self, direction: Direction) {
        (self.cipher_direction, self.order) = match direction {
            Direction::Seal => (ENCRYPT, CIPHER_THEN_HASH),
            Direction::Open => (DECRYPT, HASH_THEN_CIPHER),
        };
        self.cipher_start = 0;
        self.hash_start = 0;
        self.status = 0;
        // What is behind `order` is for other algorithms, and users of the library.
    }
}

/// Runs so many jobs, and tells whether all were completed.
pub(super) fn jobs(manager: &Manager, count: usize, mut fill: impl FnMut(usize, &mut Job)) -> bool {
    let at = manager.at.as_ptr().cast();
    let mut list = [ptr::null_mut::<Job>(); BURST];
    let count = count.min(BURST);
    // SAFETY: (1) the functions are the manager's; (2) the list has room for `count`; (3) jobs that
    // the library gives are its own, valid until they are submitted, and zeroed by nobody, so each
    // field that it reads is set by `fill`; (4) what jobs point to outlives this function, which does
    // not return before the last is completed.
    unsafe {
        let functions = (
            manager.function::<Burst>(offset::GET_NEXT_BURST),
            manager.function::<Burst>(offset::SUBMIT_BURST),
            manager.function::<Burst>(offset::FLUSH_BURST),
        );
        let (Ok(next), Ok(submit), Ok(flush)) = functions else {
            return false;
        };
        if next(at, count as u32, list.as_mut_ptr()) as usize != count {
            return false;
        }
        for (n, &job) in list.iter().take(count).enumerate() {
            fill(n, &mut *job);
        }
        let good = |list: &[*mut Job; BURST], done: usize| {
            list.iter()
                .take(done)
                .all(|&job| (*job).status == COMPLETED)
        };
        let mut done = submit(at, count as u32, list.as_mut_ptr()) as usize;
        let mut all_good = good(&list, done);
        while done < count {
            let more = flush(at, (count - done) as u32, list.as_mut_ptr()) as usize;
            if more == 0 {
                return false;
            }
            all_good &= good(&list, more);
            done += more;
        }
        all_good
    }
}
