// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the `openssl` crate's OCSP lacks: nonces, dates that can be compared, signature algorithms.
#![expect(unsafe_code, reason = "calls into OpenSSL")]

use std::ffi::{c_int, c_uchar};

use foreign_types::ForeignTypeRef;
use openssl::asn1::{Asn1GeneralizedTimeRef, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ocsp::{OcspBasicResponseRef, OcspRequestRef};
use openssl::x509::X509AlgorithmRef;
use openssl_sys as ffi;

unsafe extern "C" {
    /// ocsp.h, since 1.0.
    fn OCSP_request_add1_nonce(
        request: *mut ffi::OCSP_REQUEST,
        value: *mut c_uchar,
        len: c_int,
    ) -> c_int;
    /// ocsp.h, since 1.0.
    fn OCSP_check_nonce(
        request: *mut ffi::OCSP_REQUEST,
        response: *mut ffi::OCSP_BASICRESP,
    ) -> c_int;
    /// ocsp.h, since 1.1.
    fn OCSP_resp_get0_tbs_sigalg(response: *const ffi::OCSP_BASICRESP) -> *const ffi::X509_ALGOR;
}

/// Puts a nonce into a request (RFC 9654).
pub(super) fn add_nonce(
    request: &mut OcspRequestRef,
    mut nonce: [u8; 32],
) -> Result<(), ErrorStack> {
    // SAFETY: (1) the request is live and borrowed mutably; (2) the length is the buffer's, which is
    // only read and copied.
    let done = unsafe { OCSP_request_add1_nonce(request.as_ptr(), nonce.as_mut_ptr(), 32) };
    if done == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// Whether a response has no nonce, or the request's.
pub(super) fn nonce_fits(request: &OcspRequestRef, response: &OcspBasicResponseRef) -> bool {
    /// The request alone has one.
    const ABSENT: c_int = -1;
    const EQUAL: c_int = 1;
    // SAFETY: both are live for the call, which only reads them.
    let found = unsafe { OCSP_check_nonce(request.as_ptr(), response.as_ptr()) };
    matches!(found, EQUAL | ABSENT)
}

/// The same date, in the type that can be compared.
pub(super) fn comparable(time: &Asn1GeneralizedTimeRef) -> &Asn1TimeRef {
    // SAFETY: ASN1_TIME and ASN1_GENERALIZEDTIME are the same type in C (ossl_typ.h), told apart by a
    // field that the functions of ASN1_TIME look at; the lifetime is the argument's.
    unsafe { Asn1TimeRef::from_ptr(time.as_ptr().cast()) }
}

/// What a response is signed with.
pub(super) fn signed_with(response: &OcspBasicResponseRef) -> Option<Nid> {
    // SAFETY: the response is live; what is returned lies in it and is null or lives as long.
    let algorithm = unsafe { OCSP_resp_get0_tbs_sigalg(response.as_ptr()) };
    if algorithm.is_null() {
        return None;
    }
    // SAFETY: not null, and borrowed no longer than the response.
    let algorithm = unsafe { X509AlgorithmRef::from_ptr(algorithm.cast_mut()) };
    Some(algorithm.object().nid())
}
