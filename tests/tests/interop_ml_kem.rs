// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ML-KEM with a strongSwan that has it (6.0.2 with OpenSSL 3.5, or later), where there is one: see
//! `Gateway::newer_strongswan`.

mod gateway;

use gateway::{Gateway, Wire, ours, rekey, theirs};

/// IKE and ESP proposals.
const SUITES: [(&str, &str); 4] = [
    (
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
        "aes256gcm16-x25519-ke1_mlkem768",
    ),
    (
        "aes256-sha384-ecp384-ke1_mlkem1024-ke2_mlkem512",
        "aes128gcm16-ecp256-ke1_mlkem512-ke2_mlkem1024",
    ),
    ("aes128gcm16-prfsha256-mlkem768", "aes128gcm16-mlkem512"),
    ("aes256gcm16-prfsha512-mlkem1024", "aes256gcm16-mlkem768"),
];

/// B9, B10, B11: whoever begins, and whoever rekeys.
#[test]
fn either_begins_and_rekeys_with_ml_kem() {
    for (ike, esp) in SUITES {
        for we_begin in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let wire = Wire::new();
            let b = directory.path().join("b");
            let Some(b) = Gateway::newer_strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
                return;
            };
            let a = directory.path().join("a");
            let a = Gateway::ikev2d(&wire.a, &a, &ours(1, ike, esp, "", ""));
            let (first, other) = if we_begin { (&a, &b) } else { (&b, &a) };
            first.swanctl(&["--initiate", "--child", "net"]);
            wire.assert_passes(ike);
            rekey::child(first, other, "net");
            wire.assert_still_passes("after a child's rekeying");
            rekey::child(other, first, "net");
            wire.assert_still_passes("after a child's rekeying by the other");
            rekey::ike(first, other, "gw");
            wire.assert_still_passes("after the IKE SA's rekeying");
            rekey::ike(other, first, "gw");
            wire.assert_still_passes("after the IKE SA's rekeying by the other");
            rekey::child(first, other, "net");
            wire.assert_still_passes("after another child's rekeying");
        }
    }
}

/// B9: both can do IKE_INTERMEDIATE, and none runs: AUTH is as without.
#[test]
fn intermediate_exchanges_that_do_not_run_leave_auth_alone() {
    let (optional, without) = (
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none",
        "aes256gcm16-prfsha384-x25519",
    );
    for (mine, its, we_begin) in [(optional, without, true), (without, optional, false)] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let b = directory.path().join("b");
        let Some(b) = Gateway::newer_strongswan(&wire.b, &b, &theirs(2, its, "aes128gcm16")) else {
            return;
        };
        let a = directory.path().join("a");
        let a = Gateway::ikev2d(&wire.a, &a, &ours(1, mine, "aes128gcm16", "", ""));
        let first = if we_begin { &a } else { &b };
        first.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(mine);
    }
}
