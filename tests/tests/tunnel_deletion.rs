// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs that the peer deletes amid traffic: it takes no packet of theirs once our answer has come, so that the last of
//! them is on the wire before it (RFC 7296 §1.4.1).

mod gateway;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gateway::{Gateway, Wire, ours, rekey};
use netlab::analyse;
use netlab::capture::{Capture, CaptureConfig};
use netlab::traffic::{Flood, FloodConfig};

const IKE: &str = "aes128gcm16-prfsha256-x25519";
const ESP: &str = "aes128gcm16";
/// Reauthentications.
const TIMES: usize = 5;

/// When the responder has answered the requests that delete, since the epoch.
fn answers(capture: &Path) -> Vec<Duration> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-T", "fields", "-e", "frame.time_epoch", "-Y"]);
    tshark.arg("isakmp.exchangetype == 37 && isakmp.flag_r == 1 && ip.src == 10.77.0.2");
    let output = tshark.arg("-r").arg(capture).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let time = |line: &str| {
        let (seconds, fraction) = line.split_once('.').unwrap();
        let nanoseconds = format!("{fraction:0<9}").parse().unwrap();
        Duration::new(seconds.parse().unwrap(), nanoseconds)
    };
    text.lines().map(time).collect()
}

/// S78: whoever reauthenticates sends nothing itself, so that the other uses the old SA to its end.
#[test]
fn the_last_packet_of_an_sa_leaves_before_its_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let gateway = |namespace, number, name| {
        let connection = ours(number, IKE, ESP, "", "");
        Gateway::ikev2d(namespace, &directory.path().join(name), &connection)
    };
    let (a, b) = (gateway(&wire.a, 1, "a"), gateway(&wire.b, 2, "b"));
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after set-up");
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.b, "wire", &file, CaptureConfig::default()).unwrap();
    let flood = FloodConfig {
        payload: 64,
        rate: Some(50_000.0),
        length: Duration::from_secs(1),
        urgent: false,
    };
    let address = |net| SocketAddr::new(IpAddr::from([10, net, 0, 1]), 7000);
    for _ in 0..TIMES {
        let flood = Flood::start((&wire.b, address(2)), (&wire.a, address(1)), flood).unwrap();
        rekey::reauthenticate(&a, &b, "gw");
        flood.finish().unwrap();
    }
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let answers = answers(&file);
    assert_eq!(answers.len(), TIMES, "{answers:?}");
    let seen = analyse::Wire::read(&file).unwrap();
    let mut flows: Vec<_> = seen.sent_by(IpAddr::from([10, 77, 0, 2])).collect();
    flows.sort_by_key(|flow| flow.sightings.first().map(|first| first.time));
    assert_eq!(flows.len(), TIMES + 1);
    for (flow, answer) in flows.iter().zip(&answers) {
        let after = flow.sightings.iter().filter(|seen| seen.time > *answer);
        let before = flow.sightings.len() - after.clone().count();
        let late: Vec<Duration> = after.map(|seen| seen.time - *answer).collect();
        assert!(before > 100, "{before}");
        assert!(late.is_empty(), "{} after {before}: {late:?}", late.len());
    }
}
