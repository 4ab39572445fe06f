// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Intel's multi-buffer library for IPsec, as the system has it: found at run time, never linked.
//!
//! Its manager is a struct that callers read function pointers from, so its layout is part of its
//! ABI. The offsets here are those of release 1.3's header; a library of another release is left alone,
//! and [`Missing`] says so.
#![expect(
    unsafe_code,
    reason = "calls into a C library that is found at run time"
)]

mod cbc;
mod job;

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use crossbeam_queue::ArrayQueue;
use openssl::memcmp;
use zeroize::Zeroize;

use crate::packet::{NONCE, Packet, TAG};
use crate::{Algorithm, Direction};

pub(crate) use cbc::CbcKey;
use cbc::{ExpandAes, HashBlock};
use job::{Additional, BURST, Job, algorithm, jobs};

/// The library's name, as its ABI's first release has it.
const FILE: &str = "libIPSec_MB.so.1";
/// Major and minor release whose layout is known.
const KNOWN: (u32, u32) = (1, 3);
/// Offsets in the manager.
mod offset {
    pub(super) const ERROR: usize = 60;
    pub(super) const EXPAND_AES: [usize; 3] = [112, 120, 128];
    /// Of SHA-1, SHA-256, SHA-384 and SHA-512.
    pub(super) const HASH_BLOCK: [usize; 4] = [160, 176, 184, 192];
    pub(super) const GCM_128_ENC: usize = 256;
    pub(super) const GCM_256_ENC: usize = 272;
    pub(super) const GCM_128_DEC: usize = 280;
    pub(super) const GCM_256_DEC: usize = 296;
    pub(super) const GCM_128_PRE: usize = 448;
    pub(super) const GCM_256_PRE: usize = 464;
    pub(super) const GET_NEXT_BURST: usize = 952;
    pub(super) const SUBMIT_BURST: usize = 960;
    pub(super) const FLUSH_BURST: usize = 976;
}

/// `struct gcm_key_data`.
#[repr(C, align(64))]
struct GcmKey([u8; 1024]);

/// `struct gcm_context_data`, for the library to work in.
#[repr(C, align(64))]
struct GcmContext([u8; 128]);

type GcmPre = unsafe extern "C" fn(key: *const c_void, expanded: *mut GcmKey);
type GcmRun = unsafe extern "C" fn(
    key: *const GcmKey,
    context: *mut GcmContext,
    out: *mut u8,
    input: *const u8,
    len: u64,
    iv: *const u8,
    aad: *const u8,
    aad_len: u64,
    tag: *mut u8,
    tag_len: u64,
);
/// Why the library is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It isn't installed, or can't be loaded.
    NotFound,
    /// It is of another release.
    Release(u32, u32),
    /// It lacks what it should have, or does not start.
    Broken(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "{FILE} is not installed"),
            Self::Release(major, minor) => write!(
                f,
                "{FILE} is of release {major}.{minor}, only {}.{}'s layout is known",
                KNOWN.0, KNOWN.1
            ),
            Self::Broken(what) => write!(f, "{FILE}: {what}"),
        }
    }
}

/// The loaded library.
pub(crate) struct Library {
    alloc: unsafe extern "C" fn(flags: u64) -> *mut c_void,
    init: unsafe extern "C" fn(manager: *mut c_void, architecture: *mut u32),
    free: unsafe extern "C" fn(manager: *mut c_void),
    gcm: [Gcm; 2],
    expand_aes: [ExpandAes; 3],
    hash_block: [HashBlock; 4],
    /// Managers at rest, as many as threads ever worked at once.
    idle: ArrayQueue<Manager>,
    _library: libloading::Library,
}

/// The functions for one length of key; they need no manager.
#[derive(Clone, Copy)]
struct Gcm {
    expand: GcmPre,
    seal: GcmRun,
    open: GcmRun,
}

struct Manager {
    at: NonNull<u8>,
    free: unsafe extern "C" fn(manager: *mut c_void),
}

// SAFETY: a manager has no thread affinity; each is used by whoever has taken it out of the queue.
unsafe impl Send for Manager {}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: allocated by the same library, which is never unloaded, and freed once.
        unsafe { (self.free)(self.at.as_ptr().cast()) }
    }
}

impl Manager {
    /// Reads a function pointer.
    ///
    /// # Safety
    /// `F` is the type of the function at the offset.
    unsafe fn function<F: Copy>(&self, offset: usize) -> Result<F, Missing> {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        // SAFETY: (1) every offset is within the manager, which the library allocated in the known
        // layout; (2) a pointer that is not null is the function that the caller names.
        unsafe {
            let at = self.at.as_ptr().add(offset);
            if at.cast::<*const c_void>().read().is_null() {
                return Err(Missing::Broken("its manager lacks a function"));
            }
            Ok(at.cast::<F>().read())
        }
    }
}

impl Library {
    /// The library, loaded at the first call.
    pub(crate) fn get() -> Result<&'static Self, &'static Missing> {
        static LIBRARY: OnceLock<Result<Library, Missing>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref()
    }

    fn load() -> Result<Self, Missing> {
        const LACKS: Missing = Missing::Broken("it lacks a function of its ABI");
        // SAFETY: the system's own library; its constructors do nothing but detect the processor.
        let library = unsafe { libloading::Library::new(FILE) }.map_err(|_| Missing::NotFound)?;
        // SAFETY: the types are those of the library's header.
        unsafe {
            let version = *library
                .get::<unsafe extern "C" fn() -> u32>(b"imb_get_version\0")
                .map_err(|_| LACKS)?;
            let version = version();
            let release = (version >> 16, version >> 8 & 0xff);
            if release != KNOWN {
                return Err(Missing::Release(release.0, release.1));
            }
            let alloc = *library.get(b"alloc_mb_mgr\0").map_err(|_| LACKS)?;
            let init = *library.get(b"init_mb_mgr_auto\0").map_err(|_| LACKS)?;
            let free = *library.get(b"free_mb_mgr\0").map_err(|_| LACKS)?;
            let first = manager(alloc, init, free)?;
            let gcm = |expand, seal, open| {
                Ok(Gcm {
                    expand: first.function(expand)?,
                    seal: first.function(seal)?,
                    open: first.function(open)?,
                })
            };
            let gcm = [
                gcm(
                    offset::GCM_128_PRE,
                    offset::GCM_128_ENC,
                    offset::GCM_128_DEC,
                )?,
                gcm(
                    offset::GCM_256_PRE,
                    offset::GCM_256_ENC,
                    offset::GCM_256_DEC,
                )?,
            ];
            let [a, b, c] = offset::EXPAND_AES.map(|at| first.function(at));
            let expand_aes = [a?, b?, c?];
            let [a, b, c, d] = offset::HASH_BLOCK.map(|at| first.function(at));
            let hash_block = [a?, b?, c?, d?];
            let idle = ArrayQueue::new(16);
            let _ = idle.push(first);
            Ok(Self {
                alloc,
                init,
                free,
                gcm,
                expand_aes,
                hash_block,
                idle,
                _library: library,
            })
        }
    }

    fn take_manager(&self) -> Option<Manager> {
        self.idle
            .pop()
            .or_else(|| manager(self.alloc, self.init, self.free).ok())
    }

    /// Expands a key, whose length is the algorithm's.
    pub(crate) fn expand(
        &'static self,
        algorithm: Algorithm,
        direction: Direction,
        key: &[u8],
    ) -> Option<Key> {
        let gcm = |functions: Gcm| {
            let mut expanded = Box::new(GcmKey([0; 1024]));
            // SAFETY: the key has the length that the function reads; the expanded one has room for
            // all that it writes (1,008 octets), aligned as it wants it.
            unsafe { (functions.expand)(key.as_ptr().cast(), &mut *expanded) };
            let run = match direction {
                Direction::Seal => functions.seal,
                Direction::Open => functions.open,
            };
            Form::Gcm(run, expanded)
        };
        let form = match (algorithm, key.len()) {
            (Algorithm::Aes128Gcm, 16) => gcm(self.gcm[0]),
            (Algorithm::Aes256Gcm, 32) => gcm(self.gcm[1]),
            (Algorithm::ChaCha20Poly1305, 32) => Form::ChaCha(Box::new(key.try_into().ok()?)),
            _ => return None,
        };
        Some(Key {
            library: self,
            form,
        })
    }

    /// Seals or opens packets whose keys are all this library's.
    pub(crate) fn run(&self, packets: &mut [Packet<'_>], direction: Direction) {
        let by_form =
            |a: &Packet<'_>, b: &Packet<'_>| form_of(a, direction) == form_of(b, direction);
        for packets in packets.chunk_by_mut(by_form) {
            match packets.first().and_then(|first| form_of(first, direction)) {
                Some(true) => packets.iter_mut().for_each(|packet| gcm(packet, direction)),
                Some(false) => self.chacha(packets, direction),
                None => packets.iter_mut().for_each(crate::openssl_evp::wipe),
            }
        }
    }

    /// Multi-buffer: several packets in one go.
    fn chacha(&self, packets: &mut [Packet<'_>], direction: Direction) {
        self.in_bursts(packets, crate::openssl_evp::wipe, |manager, packets| {
            let mut tags = [[0; TAG]; BURST];
            let completed = jobs(manager, packets.len(), |n, job| {
                let (Some(packet), Some(tag)) = (packets.get_mut(n), tags.get_mut(n)) else {
                    return;
                };
                chacha_job(job, packet, tag, direction);
            });
            for (packet, tag) in packets.iter_mut().zip(&tags) {
                match direction {
                    Direction::Seal => {
                        *packet.tag = *tag;
                        packet.authentic = completed;
                    }
                    Direction::Open => {
                        packet.authentic = completed && memcmp::eq(tag, packet.tag);
                    }
                }
                if !packet.authentic {
                    crate::openssl_evp::wipe(packet);
                }
            }
            completed
        });
    }

    /// Works on [`BURST`] packets at most at a time, as long as the library does all that it is told to; the rest
    /// is wiped.
    #[inline(always)]
    fn in_bursts<P>(
        &self,
        packets: &mut [P],
        wipe: impl Fn(&mut P),
        work: impl Fn(&Manager, &mut [P]) -> bool,
    ) {
        let Some(manager) = self.take_manager() else {
            packets.iter_mut().for_each(wipe);
            return;
        };
        let mut bursts = packets.chunks_mut(BURST);
        while let Some(packets) = bursts.next() {
            if !work(&manager, packets) {
                bursts.flatten().for_each(wipe);
                // What is left in it is nobody's any more.
                drop(manager);
                return;
            }
        }
        let _ = self.idle.push(manager);
    }
}

fn manager(
    alloc: unsafe extern "C" fn(flags: u64) -> *mut c_void,
    init: unsafe extern "C" fn(manager: *mut c_void, architecture: *mut u32),
    free: unsafe extern "C" fn(manager: *mut c_void),
) -> Result<Manager, Missing> {
    // SAFETY: (1) the functions are the library's own, of these types; (2) a null manager is not used;
    // (3) the error lies in the manager.
    unsafe {
        let at = NonNull::new(alloc(0)).ok_or(Missing::Broken("it has no memory"))?;
        let manager = Manager {
            at: at.cast(),
            free,
        };
        init(at.as_ptr(), ptr::null_mut());
        let error = manager.at.as_ptr().add(offset::ERROR).cast::<i32>().read();
        if error != 0 {
            return Err(Missing::Broken("it does not start on this processor"));
        }
        Ok(manager)
    }
}

fn chacha_job(job: &mut Job, packet: &mut Packet<'_>, tag: &mut [u8; TAG], direction: Direction) {
    let Some(Form::ChaCha(key)) = packet.key.ipsec_mb().map(|key| &key.form) else {
        return;
    };
    let len = packet.body.len() as u64;
    let body = packet.body.as_mut_ptr();
    job.begin(direction);
    job.encryption_key = key.as_ptr().cast();
    job.decryption_key = key.as_ptr().cast();
    job.key_len = 32;
    job.source = body;
    job.destination = body;
    job.cipher_len = len;
    job.hash_len = len;
    job.iv = packet.nonce.as_ptr();
    job.iv_len = NONCE as u64;
    job.tag = tag.as_mut_ptr();
    job.tag_len = TAG as u64;
    job.extra.aead = Additional {
        aad: packet.aad.as_ptr(),
        aad_len: u64::from(packet.aad_len),
        context: ptr::null(),
    };
    job.cipher_mode = algorithm::CIPHER_CHACHA20_POLY1305;
    job.hash = algorithm::HASH_CHACHA20_POLY1305;
}

/// Whether the packet's key is for GCM; nothing where it is for the other direction.
fn form_of(packet: &Packet<'_>, direction: Direction) -> Option<bool> {
    let key = packet
        .key
        .ipsec_mb()
        .filter(|_| packet.key.direction == direction)?;
    Some(matches!(key.form, Form::Gcm(..)))
}

fn gcm(packet: &mut Packet<'_>, direction: Direction) {
    let Some(Form::Gcm(run, key)) = packet.key.ipsec_mb().map(|key| &key.form) else {
        return crate::openssl_evp::wipe(packet);
    };
    let mut context = GcmContext([0; 128]);
    let mut tag = [0; TAG];
    let body = packet.body.as_mut_ptr();
    // SAFETY: (1) the function is the library's for this length of key; (2) it works in place on the
    // body's octets; (3) nonce, additional data and tag have the lengths given.
    unsafe {
        run(
            &**key,
            &mut context,
            body,
            body,
            packet.body.len() as u64,
            packet.nonce.as_ptr(),
            packet.aad.as_ptr(),
            u64::from(packet.aad_len),
            tag.as_mut_ptr(),
            TAG as u64,
        );
    }
    match direction {
        Direction::Seal => {
            *packet.tag = tag;
            packet.authentic = true;
        }
        Direction::Open => {
            packet.authentic = memcmp::eq(&tag, packet.tag);
            if !packet.authentic {
                packet.body.fill(0);
            }
        }
    }
}

/// A key in the library's form.
pub(crate) struct Key {
    library: &'static Library,
    form: Form,
}

enum Form {
    Gcm(GcmRun, Box<GcmKey>),
    ChaCha(Box<[u8; 32]>),
}

impl Key {
    pub(crate) fn library(&self) -> &'static Library {
        self.library
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        match &mut self.form {
            Form::Gcm(_, key) => key.0.zeroize(),
            Form::ChaCha(key) => key.zeroize(),
        }
    }
}
