// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HMAC by OpenSSL's `EVP_MAC`, keyed once: what the `openssl` crate has no safe wrapper for.
#![expect(unsafe_code, reason = "calls into OpenSSL")]

use std::ptr::{self, NonNull};

use openssl::error::ErrorStack;
use openssl_sys as ffi;

/// `OSSL_PARAM_UTF8_STRING` of OpenSSL's core.h.
const UTF8_STRING: std::ffi::c_uint = 4;

/// A keyed HMAC context. Starting a message anew keeps the key's two precomputed states.
pub(crate) struct Hmac {
    context: NonNull<ffi::EVP_MAC_CTX>,
}

// SAFETY: an EVP_MAC_CTX has no thread affinity; every use takes `&mut self`.
unsafe impl Send for Hmac {}

impl Hmac {
    /// An HMAC with this digest (`SHA2-256`, …) and key.
    pub(crate) fn new(digest: &std::ffi::CStr, key: &[u8]) -> Result<Self, ErrorStack> {
        openssl::init();
        // SAFETY: (1) the strings are NUL-terminated and outlive the calls; (2) each pointer is
        // checked before use and freed exactly once: `mac` below (the context holds its own
        // reference), the context by `Drop`; (3) the parameter array ends with the end marker.
        unsafe {
            let mac = ffi::EVP_MAC_fetch(ptr::null_mut(), c"HMAC".as_ptr(), ptr::null());
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
                    key: c"digest".as_ptr(),
                    data_type: UTF8_STRING,
                    data: digest.as_ptr().cast_mut().cast(),
                    data_size: digest.count_bytes(),
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

    /// The full-length code of the concatenated parts.
    pub(crate) fn compute(&mut self, parts: &[&[u8]]) -> Result<([u8; 64], usize), ErrorStack> {
        let context = self.context.as_ptr();
        let mut code = [0; 64];
        let mut len = 0;
        // SAFETY: the context is valid and exclusively ours; lengths are the slices' own; the
        // output size is passed and 64 octets hold every SHA-2 code.
        unsafe {
            if ffi::EVP_MAC_init(context, ptr::null(), 0, ptr::null()) != 1 {
                return Err(ErrorStack::get());
            }
            for part in parts {
                if ffi::EVP_MAC_update(context, part.as_ptr(), part.len()) != 1 {
                    return Err(ErrorStack::get());
                }
            }
            if ffi::EVP_MAC_final(context, code.as_mut_ptr(), &raw mut len, code.len()) != 1 {
                return Err(ErrorStack::get());
            }
        }
        Ok((code, len))
    }
}

impl Drop for Hmac {
    fn drop(&mut self) {
        // SAFETY: made by EVP_MAC_CTX_new, freed once; OpenSSL cleanses the key.
        unsafe { ffi::EVP_MAC_CTX_free(self.context.as_ptr()) }
    }
}
