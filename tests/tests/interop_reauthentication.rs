// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reauthentication with strongSwan, begun at either end, of an IKE SA that either end has begun: both make before
//! they break (RFC 7296 §2.8.3), and no packet is lost on the way.

mod gateway;

use std::net::SocketAddr;
use std::time::Instant;

use gateway::{Gateway, Wire, ours, rekey, theirs};
use netlab::traffic::{Datagrams, DatagramsConfig};

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
        rekey::under_pings([by, other], flow, || rekey::reauthenticate(by, other, "gw"));
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

/// S78: strongSwan sends through the new SA right behind its answer, and we have it when that has been read.
#[test]
fn packets_right_behind_the_answer_are_received() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let path = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &path, &theirs(2, IKE, ESP)) else {
        return;
    };
    let connection = ours(1, IKE, ESP, "", "");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &connection);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after set-up");
    let [_, (_, from, to)] = wire.flows();
    let datagrams = Datagrams::start(
        (&wire.b, from),
        (&wire.a, SocketAddr::new(to, 7000)),
        DatagramsConfig {
            size: 64,
            rate: 2000,
            seed: 1,
        },
        Instant::now(),
    );
    for _ in 0..5 {
        rekey::reauthenticate(&a, &b, "gw");
    }
    datagrams.unwrap().finish().unwrap();
    let counts = a.statistics();
    assert!(counts["early"] > 0, "{counts:?}");
    assert_eq!(counts["unknown-spi"], 0, "{counts:?}");
    assert_eq!(counts["esp-received"], counts["tun-sent"], "{counts:?}");
}
