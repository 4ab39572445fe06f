// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Postquantum preshared keys (RFC 8784) with strongSwan, whoever begins.

mod gateway;

use gateway::{Gateway, PPK, Wire, ours, rekey, theirs};

const SUITE: (&str, &str) = ("aes256gcm16-prfsha384-x25519", "aes128gcm16-x25519");

/// Settings of a connection.
fn settings(required: bool) -> (String, String) {
    let word = if required { "yes" } else { "no" };
    (
        format!("ppk_id = \"ppk.test\"\nppk_required = {required}\n"),
        format!("version = 2\n ppk_id = ppk.test\n ppk_required = {word}\n"),
    )
}

/// A tunnel between our daemon, with the key if it has one, and strongSwan's, which has it. What both
/// list, if it comes up.
fn tunnel(ours_more: &str, key: Option<&str>, theirs_more: &str, we_begin: bool) -> Option<bool> {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = SUITE;
    let b = directory.path().join("b");
    let its = theirs(2, ike, esp).replace("version = 2\n", theirs_more);
    let b = Gateway::strongswan(&wire.b, &b, &its)?;
    let key = key.map_or(String::new(), |key| {
        format!("[secrets.ppk-1]\nids = [\"ppk.test\", \"elsewhere.test\"]\nsecret = \"{key}\"\n")
    });
    let mine = ours(1, ike, esp, ours_more, "") + &key;
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &mine);
    let (first, other) = if we_begin { (&a, &b) } else { (&b, &a) };
    if first
        .try_swanctl(&["--initiate", "--child", "net"])
        .is_err()
    {
        return Some(false);
    }
    let established = |sas: &str| sas.contains("ESTABLISHED") && sas.contains("INSTALLED");
    first.wait_sas("the tunnel", established);
    other.wait_sas("the tunnel", established);
    wire.assert_passes("with a PPK");
    rekey::ike(first, other, "gw");
    wire.assert_still_passes("after a rekeying");
    rekey::child(other, first, "net");
    wire.assert_still_passes("after a child's rekeying");
    Some(true)
}

/// B12.
#[test]
fn both_have_the_key_and_want_it() {
    let (mine, its) = settings(true);
    for we_begin in [true, false] {
        let Some(up) = tunnel(&mine, Some(PPK), &its, we_begin) else {
            return;
        };
        assert!(up, "we begin: {we_begin}");
    }
}

/// B12: NO_PPK_AUTH, and strongSwan's.
#[test]
fn who_lacks_the_key_goes_without_where_that_may_be() {
    for we_begin in [true, false] {
        let (mine, its) = settings(false);
        let Some(up) = tunnel(&mine, None, &its, we_begin) else {
            return;
        };
        assert!(up, "we begin: {we_begin}");
        let Some(up) = tunnel(&mine, Some(PPK), "version = 2\n", we_begin) else {
            return;
        };
        assert!(up, "we begin: {we_begin}");
    }
}

/// B12.
#[test]
fn another_key_and_a_missing_one_that_is_required_are_refused() {
    for we_begin in [true, false] {
        let (mine, its) = settings(false);
        let other = "Another-PPK-0123456789-0123456789";
        let Some(up) = tunnel(&mine, Some(other), &its, we_begin) else {
            return;
        };
        assert!(!up, "we begin: {we_begin}");
        // strongSwan takes any key that it has where no ppk_id is set: it does not have this one.
        let required = "ppk_id = \"elsewhere.test\"\nppk_required = true\n";
        let up = tunnel(required, Some(PPK), "version = 2\n", we_begin);
        assert_eq!(up, Some(false), "we begin: {we_begin}");
    }
}
