// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reauthentication with strongSwan, begun at either end, of an IKE SA that either end has begun: both make before
//! they break (RFC 7296 §2.8.3), and no packet is lost.

mod gateway;

use gateway::{Gateway, Wire, ours, rekey, theirs};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

/// Two reauthentications of a tunnel that one of us has begun, while packets pass.
fn reauthenticated(begun_by_us: bool, asked_by_us: bool) {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let path = directory.path().join("b");
    let settings = " make_before_break = yes\n";
    let Some(b) = Gateway::strongswan_with(&wire.b, &path, &theirs(2, IKE, ESP), settings, &[])
    else {
        return;
    };
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "", ""),
    );
    let first = if begun_by_us { &a } else { &b };
    first.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after set-up");
    let (by, other) = if asked_by_us { (&a, &b) } else { (&b, &a) };
    // The second is of the IKE SA that the first has made.
    for flow in wire.flows() {
        rekey::under_pings(by, flow, || rekey::reauthenticate(by, other, "gw"));
    }
    wire.assert_still_passes("after reauthentication");
}

/// S78, S80: strongSwan reauthenticates, whoever has begun: its new IKE SA and child SA are there before the old ones
/// go, and we send by what it does.
#[test]
fn strongswan_reauthenticates_and_no_packet_is_lost() {
    reauthenticated(false, false);
    reauthenticated(true, false);
}

/// S78, S80: the same where we reauthenticate.
#[test]
fn we_reauthenticate_and_no_packet_is_lost() {
    reauthenticated(true, true);
    reauthenticated(false, true);
}
