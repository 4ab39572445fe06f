// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HMAC and CMAC by OpenSSL's `EVP_MAC`, keyed once: what the `openssl` crate has no safe wrapper for.
#![expect(unsafe_code, reason = "calls into OpenSSL")]

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use openssl::error::ErrorStack;
use openssl_sys as ffi;

/// `OSSL_PARAM_UTF8_STRING` of OpenSSL's core.h.
const UTF8_STRING: std::ffi::c_uint = 4;

/// A keyed context. Starting a message anew keeps what was made of the key.
pub(crate) struct EvpMac {
    context: NonNull<ffi::EVP_MAC_CTX>,
}

// SAFETY: an EVP_MAC_CTX has no thread affinity; every use takes `&mut self`.
unsafe impl Send for EvpMac {}

impl EvpMac {
    /// An HMAC with this digest (`SHA2-256`, …) and key.
    pub(crate) fn hmac(digest: &CStr, key: &[u8]) -> Result<Self, ErrorStack> {
        Self::new(c"HMAC", (c"digest", digest), key)
    }

    /// A CMAC with this block cipher in CBC mode and key.
    pub(crate) fn cmac(cipher: &CStr, key: &[u8]) -> Result<Self, ErrorStack> {
        Self::new(c"CMAC", (c"cipher", cipher), key)
    }

    fn new(
        algorithm: &CStr,
        (parameter, value): (&CStr, &CStr),
        key: &[u8],
    ) -> Result<Self, ErrorStack> {
        openssl::init();
        // SAFETY: (1) the strings are NUL-terminated and outlive the calls; (2) each pointer is
        // checked before use and freed exactly once: `mac` below (the context holds its own
        // reference), the context by `Drop`; (3) the parameter array ends with the end marker.
        unsafe {
            let mac = ffi::EVP_MAC_fetch(ptr::null_mut(), algorithm.as_ptr(), ptr::null());
            if mac.is_null() {
                return Err(ErrorStack::get());
            }
            let context = NonNull::new(ffi::EVP_MAC_CTX_new(mac));
            ffi::EVP_MAC_free(mac);
            let this = Self {
                context: context.ok_or_else(ErrorStack::get)?,
            };
            let parameters = [
                ffi::OSSL_PARAM {
                    key: parameter.as_ptr(),
                    data_type: UTF8_STRING,
                    data: value.as_ptr().cast_mut().cast(),
                    data_size: value.count_bytes(),
                    return_size: 0,
                },
                ffi::OSSL_PARAM_construct_end(),
            ];
            let parameters = parameters.as_ptr();
            if ffi::EVP_MAC_init(this.context.as_ptr(), key.as_ptr(), key.len(), parameters) != 1 {
                return Err(ErrorStack::get());
            }
            Ok(this)
        }
    }

    /// Begins a message.
    pub(crate) fn start(&mut self) -> Result<(), ErrorStack> {
        // SAFETY: the context is valid and exclusively ours; without a key it keeps the one it has.
        let done = unsafe { ffi::EVP_MAC_init(self.context.as_ptr(), ptr::null(), 0, ptr::null()) };
        done_or_error(done)
    }

    /// Goes on with a message.
    pub(crate) fn update(&mut self, part: &[u8]) -> Result<(), ErrorStack> {
        // SAFETY: the context is valid and exclusively ours; the length is the slice's own.
        let done = unsafe { ffi::EVP_MAC_update(self.context.as_ptr(), part.as_ptr(), part.len()) };
        done_or_error(done)
    }

    /// The message's code, at full length.
    pub(crate) fn finish(&mut self) -> Result<[u8; 64], ErrorStack> {
        let context = self.context.as_ptr();
        let mut code = [0; 64];
        let mut len = 0;
        // SAFETY: the context is valid and exclusively ours; the output's size is passed, and 64 octets
        // hold every code.
        let done =
            unsafe { ffi::EVP_MAC_final(context, code.as_mut_ptr(), &raw mut len, code.len()) };
        done_or_error(done).map(|()| code)
    }
}

fn done_or_error(done: std::ffi::c_int) -> Result<(), ErrorStack> {
    (done == 1).then_some(()).ok_or_else(ErrorStack::get)
}

impl Drop for EvpMac {
    fn drop(&mut self) {
        // SAFETY: made by EVP_MAC_CTX_new, freed once; OpenSSL cleanses the key.
        unsafe { ffi::EVP_MAC_CTX_free(self.context.as_ptr()) }
    }
}
