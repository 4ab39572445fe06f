// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ML-KEM with a strongSwan that has it (6.0.2 with OpenSSL 3.5, or later), where there is one: see
//! `Gateway::newer_strongswan`.

mod gateway;

use gateway::{Gateway, Wire, ours, theirs};

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

fn established(sas: &str) -> bool {
    sas.matches("ESTABLISHED").count() == 1 && sas.matches("INSTALLED").count() == 1
}

/// SPIs of the IKE SA, and of what comes in.
fn spis(sas: &str) -> Vec<String> {
    let ours = |line: &&str| line.contains("IKEv2,") || line.trim_start().starts_with("in ");
    let lines = sas.lines().filter(ours);
    let words = lines.flat_map(|line| line.split([' ', ',']).map(|word| word.replace('*', "")));
    words
        .filter(|word| word.len() >= 8 && word.starts_with(|c: char| c.is_ascii_hexdigit()))
        .collect()
}

fn rekey(wire: &Wire, by: &Gateway, watched: &Gateway, what: [&str; 2]) {
    let before = watched.wait_sas("the tunnel", established);
    by.swanctl(&["--rekey", what[0], what[1]]);
    watched.wait_sas("the new SA", |sas| {
        established(sas) && spis(sas) != spis(&before)
    });
    by.wait_sas("the old SA's end", established);
    wire.assert_still_passes("after a rekeying");
}

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
            rekey(&wire, first, other, ["--child", "net"]);
            rekey(&wire, other, first, ["--child", "net"]);
            rekey(&wire, first, other, ["--ike", "gw"]);
            rekey(&wire, other, first, ["--ike", "gw"]);
            rekey(&wire, first, other, ["--child", "net"]);
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
