// SPDX-License-Identifier: Apache-2.0 OR MIT
//! intel-ipsec-mb's own GCM functions, called with nothing in between: what the façade is compared
//! with.
#![expect(
    unsafe_code,
    reason = "calls into a C library that is found at run time"
)]

pub mod jobs;

use std::ffi::c_void;

/// `struct gcm_key_data`, with room to spare.
#[repr(C, align(64))]
struct Expanded([u8; 1024]);

/// `struct gcm_context_data`, with room to spare.
#[repr(C, align(64))]
struct Context([u8; 128]);

type Pre = unsafe extern "C" fn(*const c_void, *mut Expanded);
type Run = unsafe extern "C" fn(
    *const Expanded,
    *mut Context,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);

/// The functions for one length of key, of the library's fastest kind.
pub struct Gcm {
    expand: Pre,
    seal: Run,
    open: Run,
    _library: libloading::Library,
}

/// A key, expanded.
pub struct GcmKey(Box<Expanded>);

/// A packet's parts, where they lie.
pub struct Parts {
    /// Body, worked on in place.
    pub body: Vec<u8>,
    /// Nonce.
    pub nonce: [u8; 12],
    /// Additional data.
    pub aad: [u8; 12],
    /// Tag.
    pub tag: [u8; 16],
}

impl Gcm {
    /// Loads the library, if it is there and has the functions (for processors with VAES).
    pub fn load(bits: u32) -> Option<Self> {
        let name = |part: &str| format!("aes_gcm_{part}_{bits}_vaes_avx512");
        // SAFETY: (1) the system's own library; (2) the types are those of its header.
        unsafe {
            let library = libloading::Library::new("libIPSec_MB.so.1").ok()?;
            Some(Self {
                expand: *library.get(name("pre").as_str()).ok()?,
                seal: *library.get(name("enc").as_str()).ok()?,
                open: *library.get(name("dec").as_str()).ok()?,
                _library: library,
            })
        }
    }

    /// Expands a key of 32 octets, or the first 16 of them.
    pub fn key(&self, key: &[u8; 32]) -> GcmKey {
        let mut expanded = Box::new(Expanded([0; 1024]));
        // SAFETY: the function reads no more than 32 octets and writes 1,008.
        unsafe { (self.expand)(key.as_ptr().cast(), &mut *expanded) };
        GcmKey(expanded)
    }

    /// Seals.
    #[inline]
    pub fn seal(&self, key: &GcmKey, parts: &mut Parts) {
        let mut tag = [0; 16];
        self.run(self.seal, key, parts, &mut tag);
        parts.tag = tag;
    }

    /// Opens, and tells whether the tag matched.
    #[inline]
    pub fn open(&self, key: &GcmKey, parts: &mut Parts) -> bool {
        let mut tag = [0; 16];
        self.run(self.open, key, parts, &mut tag);
        u128::from_ne_bytes(tag) == u128::from_ne_bytes(parts.tag)
    }

    #[inline]
    fn run(&self, run: Run, key: &GcmKey, parts: &mut Parts, tag: &mut [u8; 16]) {
        let mut context = std::mem::MaybeUninit::<Context>::uninit();
        let body = parts.body.as_mut_ptr();
        // SAFETY: the function works in place on the body's octets, reads nonce and additional data
        // of the lengths given, and writes the tag; the context is for it to write first.
        unsafe {
            run(
                &*key.0,
                context.as_mut_ptr(),
                body,
                body,
                parts.body.len() as u64,
                parts.nonce.as_ptr(),
                parts.aad.as_ptr(),
                12,
                tag.as_mut_ptr(),
                16,
            );
        }
    }
}
