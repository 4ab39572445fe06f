// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the `openssl` crate's revocation lists lack: a place in a store, signature algorithms, and where
//! their deltas are.
#![expect(unsafe_code, reason = "calls into OpenSSL")]

use std::ffi::c_int;

use foreign_types::ForeignTypeRef;
use openssl::asn1::Asn1Integer;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilderRef;
use openssl::x509::{DistPoint, ExtensionType, X509CrlRef};
use openssl_sys as ffi;

unsafe extern "C" {
    /// x509_vfy.h, since 0.9.
    fn X509_STORE_add_crl(store: *mut ffi::X509_STORE, list: *mut ffi::X509_CRL) -> c_int;
    /// x509.h, since 1.1.
    fn X509_CRL_get_signature_nid(list: *const ffi::X509_CRL) -> c_int;
}

/// Where a list's deltas are (RFC 5280 §5.2.6).
pub(super) struct FreshestCrl;

// SAFETY: X509V3_EXT_d2i gives a CRL_DIST_POINTS for this number (ossl's v3_crld.c), which is a stack of
// DIST_POINT.
unsafe impl ExtensionType for FreshestCrl {
    const NID: Nid = Nid::FRESHEST_CRL;
    type Output = Stack<DistPoint>;
}

/// What a list is a delta of (RFC 5280 §5.2.4).
pub(super) struct DeltaIndicator;

// SAFETY: X509V3_EXT_d2i gives an ASN1_INTEGER for this number (ossl's v3_int.c).
unsafe impl ExtensionType for DeltaIndicator {
    const NID: Nid = Nid::DELTA_CRL;
    type Output = Asn1Integer;
}

/// Puts a list into a store, which takes a reference of its own.
pub(super) fn add(store: &mut X509StoreBuilderRef, list: &X509CrlRef) -> Result<(), ErrorStack> {
    // SAFETY: both are live for the call; the store counts its own reference to the list, and changes
    // nothing in it but what is behind the list's own lock.
    let done = unsafe { X509_STORE_add_crl(store.as_ptr(), list.as_ptr()) };
    if done == 1 {
        Ok(())
    } else {
        Err(ErrorStack::get())
    }
}

/// What a list is signed with.
pub(super) fn signed_with(list: &X509CrlRef) -> Nid {
    // SAFETY: the list is live, and only read.
    Nid::from_raw(unsafe { X509_CRL_get_signature_nid(list.as_ptr()) })
}
