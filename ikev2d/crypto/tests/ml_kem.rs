// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The OpenSSL that is built in has ML-KEM-768 (FIPS 203), which Debian 12's own lacks.
#![allow(clippy::unwrap_used)]
#![expect(unsafe_code, reason = "the openssl crate has no key encapsulation")]

use std::ptr;

use openssl_sys as ffi;

/// FIPS 203 table 3: octets of a ciphertext and of a shared secret.
const CIPHERTEXT: usize = 1088;
const SECRET: usize = 32;

#[test]
fn ml_kem_768_encapsulates_and_decapsulates() {
    openssl::init();
    let mut ciphertext = [0; CIPHERTEXT];
    let (mut sent, mut received) = ([0; SECRET], [1; SECRET]);
    // SAFETY: every pointer is checked before use and freed once at the end; each length is that of
    // the buffer beside it.
    unsafe {
        let maker =
            ffi::EVP_PKEY_CTX_new_from_name(ptr::null_mut(), c"ML-KEM-768".as_ptr(), ptr::null());
        assert!(
            !maker.is_null(),
            "no ML-KEM in {}",
            openssl::version::version()
        );
        let mut key = ptr::null_mut();
        assert_eq!(ffi::EVP_PKEY_keygen_init(maker), 1);
        assert_eq!(ffi::EVP_PKEY_keygen(maker, &raw mut key), 1);
        let context = ffi::EVP_PKEY_CTX_new(key, ptr::null_mut());
        assert!(!context.is_null());
        assert_eq!(ffi::EVP_PKEY_encapsulate_init(context, ptr::null()), 1);
        let (mut wrapped, mut secret) = (CIPHERTEXT, SECRET);
        let done = ffi::EVP_PKEY_encapsulate(
            context,
            ciphertext.as_mut_ptr(),
            &raw mut wrapped,
            sent.as_mut_ptr(),
            &raw mut secret,
        );
        assert_eq!((done, wrapped, secret), (1, CIPHERTEXT, SECRET));
        assert_eq!(ffi::EVP_PKEY_decapsulate_init(context, ptr::null()), 1);
        let done = ffi::EVP_PKEY_decapsulate(
            context,
            received.as_mut_ptr(),
            &raw mut secret,
            ciphertext.as_ptr(),
            wrapped,
        );
        assert_eq!((done, secret), (1, SECRET));
        ffi::EVP_PKEY_CTX_free(context);
        ffi::EVP_PKEY_CTX_free(maker);
        ffi::EVP_PKEY_free(key);
    }
    assert_eq!(sent, received);
    assert_ne!(sent, [0; SECRET]);
}
