// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments of ours and of strongSwan's (RFC 7383), and a reauthentication under them.

mod gateway;

use gateway::{Gateway, Wire, ours, rekey, theirs};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

/// So many selectors that IKE_AUTH fits no datagram of 1280 octets.
fn nets(separator: &str, quote: &str) -> String {
    let nets = (0..100).map(|third| format!("{quote}10.1.{third}.0/24{quote}"));
    nets.collect::<Vec<_>>().join(separator)
}

/// S84, S86, S87, S78.
#[test]
fn long_messages_pass_in_fragments_both_ways_and_reauthentication_too() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let b = directory.path().join("b");
    let policy = theirs(2, IKE, ESP).replace(
        "remote_ts = 10.1.0.0/24",
        &format!("remote_ts = {}", nets(",", "")),
    );
    let Some(b_gateway) =
        Gateway::strongswan_with(&wire.b, &b, &policy, " fragment_size = 400\n", &[])
    else {
        return;
    };
    let policy = ours(1, IKE, ESP, "", "").replace("\"10.1.0.0/24\"", &nets(", ", "\""));
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &policy);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("in fragments");
    let log = b_gateway.charon_log();
    assert!(log.contains("received fragment #"), "{log}");
    assert!(log.contains("splitting IKE message"), "{log}");
    rekey::reauthenticate(&a, &b_gateway, "gw");
    wire.assert_still_passes("after reauthentication");
}
