// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs that come and go amid traffic. The peer takes no packet of an SA before the answer that makes it, and none once
//! the answer has come that it is gone (RFC 7296 §1.4.1): the first is on the wire behind the one, and the last before
//! the other.

mod gateway;

use std::fs;
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
/// Reauthentications, and set-ups.
const TIMES: usize = 5;
/// Exchanges.
const IKE_AUTH: u8 = 35;
const INFORMATIONAL: u8 = 37;
const FLOOD: FloodConfig = FloodConfig {
    payload: 64,
    rate: Some(50_000.0),
    length: Duration::from_secs(1),
    urgent: false,
};

/// When the responder has answered requests of this kind, since the epoch.
fn answers(capture: &Path, exchange: u8) -> Vec<Duration> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-T", "fields", "-e", "frame.time_epoch", "-Y"]);
    tshark.arg(format!(
        "isakmp.exchangetype == {exchange} && isakmp.flag_r == 1 && ip.src == 10.77.0.2"
    ));
    let output = tshark.arg("-r").arg(capture).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let time = |line: &str| {
        let (seconds, fraction) = line.split_once('.').unwrap();
        let nanoseconds = format!("{fraction:0<9}").parse().unwrap();
        Duration::new(seconds.parse().unwrap(), nanoseconds)
    };
    text.lines().map(time).collect()
}

/// Both gateways.
fn gateways(wire: &Wire, directory: &Path) -> [Gateway; 2] {
    [(&wire.a, 1, "a"), (&wire.b, 2, "b")].map(|(namespace, number, name)| {
        let connection = ours(number, IKE, ESP, "", "");
        Gateway::ikev2d(namespace, &directory.join(name), &connection)
    })
}

/// What the responder's side sends.
fn flood(wire: &Wire) -> Flood {
    let address = |net| SocketAddr::new(IpAddr::from([10, net, 0, 1]), 7000);
    Flood::start((&wire.b, address(2)), (&wire.a, address(1)), FLOOD).unwrap()
}

/// S78: a responder sends through a child as soon as it has answered (RFC 7296 §2.8), and not before.
#[test]
fn the_first_packet_of_an_sa_leaves_behind_the_answer_that_makes_it() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let [a, b] = gateways(&wire, directory.path());
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after set-up");
    // It sends before it may, too.
    let route = "10.1.0.0/24 dev esp0 src 10.2.0.1 metric 9999";
    wire.b.route(route).unwrap();
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.b, "wire", &file, CaptureConfig::default()).unwrap();
    for _ in 0..TIMES {
        a.swanctl(&["--terminate", "--ike", "gw"]);
        b.wait_sas("the end", |sas| sas.trim().is_empty());
        let flood = flood(&wire);
        a.swanctl(&["--initiate", "--child", "net"]);
        flood.finish().unwrap();
    }
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let answers = answers(&file, IKE_AUTH);
    assert_eq!(answers.len(), TIMES, "{answers:?}");
    let seen = analyse::Wire::read(&file).unwrap();
    let flows = seen.sent_by(IpAddr::from([10, 77, 0, 2]));
    let mut begun: Vec<Duration> = flows.map(|flow| flow.sightings[0].time).collect();
    begun.sort_unstable();
    assert_eq!(begun.len(), TIMES);
    for (begun, answer) in begun.iter().zip(&answers) {
        assert!(begun > answer, "{:?} before", *answer - *begun);
    }
}

/// S78: whoever reauthenticates sends nothing itself, so that the other uses the old SA to its end.
#[test]
fn the_last_packet_of_an_sa_leaves_before_its_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let [a, b] = gateways(&wire, directory.path());
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after set-up");
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.b, "wire", &file, CaptureConfig::default()).unwrap();
    for _ in 0..TIMES {
        let flood = flood(&wire);
        rekey::reauthenticate(&a, &b, "gw");
        flood.finish().unwrap();
    }
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let answers = answers(&file, INFORMATIONAL);
    assert_eq!(answers.len(), TIMES, "{answers:?}");
    // A machine that stands still for longer than an answer waits.
    let log = fs::read_to_string(&b.log).unwrap();
    let gave_up = log.contains("packets of a removed SA take long");
    let seen = analyse::Wire::read(&file).unwrap();
    let mut flows: Vec<_> = seen.sent_by(IpAddr::from([10, 77, 0, 2])).collect();
    flows.sort_by_key(|flow| flow.sightings.first().map(|first| first.time));
    assert_eq!(flows.len(), TIMES + 1);
    for (flow, answer) in flows.iter().zip(&answers) {
        let after = flow.sightings.iter().filter(|seen| seen.time > *answer);
        let before = flow.sightings.len() - after.clone().count();
        let late: Vec<Duration> = after.map(|seen| seen.time - *answer).collect();
        assert!(before > 100, "{before}");
        assert!(
            late.is_empty() || gave_up,
            "{} after {before}: {late:?}",
            late.len()
        );
    }
}
