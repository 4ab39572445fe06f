// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The network laboratory itself: namespaces, translation, capture and traffic over a plain wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netlab::analyse::Wire;
use netlab::capture::{Capture, CaptureConfig};
use netlab::link::veth;
use netlab::traffic::{Bulk, Datagrams, DatagramsConfig, Flood, FloodConfig, iperf3, ping};
use netlab::{Namespace, NamespaceError};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Two hosts on one cable.
fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
    veth((&a, "wire"), (&b, "wire")).unwrap();
    a.address("wire", "10.77.0.1/24").unwrap();
    b.address("wire", "10.77.0.2/24").unwrap();
    (a, b)
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

#[test]
fn namespaces_are_apart_and_a_cable_joins_them() {
    let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
    assert!(!a.ip("-o link").unwrap().contains("wire"));
    a.ip("link add private type veth peer name other").unwrap();
    assert!(b.ip("link show private").is_err());
    veth((&a, "wire"), (&b, "wire")).unwrap();
    a.address("wire", "10.77.0.1/24").unwrap();
    b.address("wire", "10.77.0.2/24").unwrap();
    let report = ping(&a, A.into(), B.into(), 3).unwrap();
    assert_eq!((report.sent, report.received), (3, 3));
}

#[test]
fn a_failed_command_says_what_it_was_and_why() {
    let a = Namespace::new("a").unwrap();
    let error = a.ip("link set nothing up").unwrap_err();
    assert!(matches!(error, NamespaceError::Command { .. }));
    let text = error.to_string();
    assert!(
        text.contains("ip link set nothing up") && text.contains("Cannot find device"),
        "{text}"
    );
}

#[test]
fn a_translator_hides_the_sender() {
    let [host, router, server] =
        ["host", "router", "server"].map(|name| Namespace::new(name).unwrap());
    veth((&host, "wire"), (&router, "inside")).unwrap();
    veth((&router, "outside"), (&server, "wire")).unwrap();
    host.address("wire", "10.99.0.2/24").unwrap();
    router.address("inside", "10.99.0.1/24").unwrap();
    router.address("outside", "10.88.0.1/24").unwrap();
    server.address("wire", "10.88.0.2/24").unwrap();
    host.route("default via 10.99.0.1").unwrap();
    router.masquerade("outside").unwrap();

    let bind = |namespace: &Namespace, address| {
        namespace
            .enter(|| UdpSocket::bind(address).unwrap())
            .unwrap()
    };
    let receiver = bind(&server, "10.88.0.2:4500");
    let sender = bind(&host, "10.99.0.2:4500");
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    sender.send_to(b"hello", "10.88.0.2:4500").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"hello");
    assert_eq!(from.ip(), IpAddr::from([10, 88, 0, 1]));
}

#[test]
fn verified_streams_cross_a_wire_and_the_capture_sees_each_packet() {
    let (a, b) = pair();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wire.pcap");
    let capture = Capture::start(&a, "wire", &path, CaptureConfig::default()).unwrap();

    let start = Instant::now();
    let bulk = Bulk::start((&a, A.into()), (&b, at(B, 0)), 1, start).unwrap();
    let config = DatagramsConfig {
        size: 1000,
        rate: 2000,
        seed: 2,
    };
    let datagrams = Datagrams::start((&a, A.into()), (&b, at(B, 0)), config, start).unwrap();
    thread::sleep(Duration::from_millis(800));
    let bulk = bulk.finish().unwrap();
    let datagrams = datagrams.finish().unwrap();
    let summary = capture.finish().unwrap();

    assert!(bulk.intact(), "{bulk:?}");
    assert!(bulk.received > 1 << 20, "{}", bulk.received);
    assert_eq!(bulk.series.total(), bulk.received);
    assert!(datagrams.sent > 1000, "{}", datagrams.sent);
    assert_eq!(
        (datagrams.lost, datagrams.duplicates, datagrams.corrupted),
        (0, 0, 0)
    );

    // All of it was plaintext, in frames that a real cable would carry.
    let wire = Wire::read(&path).unwrap();
    assert_eq!(wire.packets, summary.packets);
    let frames = bulk.received / 1448 + datagrams.sent;
    assert!(
        wire.plaintext + summary.dropped >= frames,
        "{} of {frames}",
        wire.plaintext
    );
    assert_eq!(wire.unknown, 0);
    assert!(wire.flows.is_empty());
}

#[test]
fn esp_repeated_on_a_real_wire_is_found() {
    let (a, b) = pair();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wire.pcap");
    let capture = Capture::start(&b, "wire", &path, CaptureConfig::default()).unwrap();
    let sender = a.enter(|| UdpSocket::bind((A, 4500)).unwrap()).unwrap();
    let _receiver = b.enter(|| UdpSocket::bind((B, 4500)).unwrap()).unwrap();
    for sequence in [1u32, 2, 3, 2, 5] {
        let mut packet = [7; 64];
        packet[4..8].copy_from_slice(&sequence.to_be_bytes());
        packet[8..16].copy_from_slice(&u64::from(sequence).to_be_bytes());
        sender.send_to(&packet, (B, 4500)).unwrap();
    }
    sender.send_to(&[0; 40], (B, 4500)).unwrap();
    sender.send_to(&[0xff], (B, 4500)).unwrap();
    let summary = capture.finish().unwrap();
    assert_eq!(summary.dropped, 0);
    let wire = Wire::read(&path).unwrap();
    assert_eq!(
        (wire.duplicate_sequence_numbers(), wire.repeated_key_iv()),
        (1, 1)
    );
    assert_eq!((wire.ike, wire.keepalives, wire.plaintext), (1, 1, 0));
    let flow = wire.flows[0].summary();
    assert_eq!(
        (flow.packets, flow.missing, flow.source),
        (5, 1, IpAddr::from(A))
    );
}

#[test]
fn segmentation_offload_hides_no_packet_from_the_capture() {
    const SEGMENTS: u32 = 40;
    let (a, b) = pair();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wire.pcap");
    let capture = Capture::start(&a, "wire", &path, CaptureConfig::default()).unwrap();
    let sender = a.enter(|| UdpSocket::bind((A, 4500)).unwrap()).unwrap();
    let _receiver = b.enter(|| UdpSocket::bind((B, 4500)).unwrap()).unwrap();
    // One system call, as a gateway sends a burst of equal ESP packets.
    let burst: Vec<u8> = (1..=SEGMENTS)
        .flat_map(|sequence| {
            let mut packet = [7; 1400];
            packet[4..8].copy_from_slice(&sequence.to_be_bytes());
            packet[8..16].copy_from_slice(&u64::from(sequence).to_be_bytes());
            packet
        })
        .collect();
    setsockopt(&sender, UdpGsoSegment, &1400).unwrap();
    assert_eq!(sender.send_to(&burst, (B, 4500)).unwrap(), burst.len());
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let wire = Wire::read(&path).unwrap();
    let flow = wire.flows[0].summary();
    assert_eq!((flow.packets, flow.missing), (SEGMENTS.into(), 0));
}

#[test]
fn a_capture_that_missed_packets_says_so() {
    let (a, b) = pair();
    let directory = tempfile::tempdir().unwrap();
    let config = CaptureConfig {
        ring: 1,
        ..CaptureConfig::default()
    };
    // The writer blocks on a pipe that nobody reads, so the ring's few frames run out.
    let fifo = directory.path().join("fifo");
    a.run("mkfifo", &[fifo.to_str().unwrap()]).unwrap();
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut file = std::fs::File::open(fifo).unwrap();
            thread::sleep(Duration::from_millis(1500));
            std::io::copy(&mut file, &mut std::io::sink()).unwrap();
        }
    });
    let capture = Capture::start(&a, "wire", &fifo, config).unwrap();
    let sender = a.enter(|| UdpSocket::bind((A, 4500)).unwrap()).unwrap();
    let _receiver = b.enter(|| UdpSocket::bind((B, 4500)).unwrap()).unwrap();
    for _ in 0..4000 {
        sender.send_to(&[1; 1200], (B, 4500)).unwrap();
    }
    let summary = capture.finish().unwrap();
    reader.join().unwrap();
    assert!(summary.dropped > 0, "{summary:?}");
}

#[test]
fn iperf3_gives_a_second_opinion_where_installed() {
    let (a, b) = pair();
    if let Some(report) = iperf3((&a, A.into()), (&b, at(B, 5201)), 1).unwrap() {
        assert!(report.mbps > 10.0, "{report:?}");
        assert!(report.octets > 1e6, "{report:?}");
    }
}

#[test]
fn a_paced_flood_arrives_and_its_delays_are_taken() {
    let (a, b) = pair();
    for urgent in [true, false] {
        let config = FloodConfig {
            payload: 64,
            rate: Some(1000.0),
            length: Duration::from_millis(300),
            urgent,
        };
        let flood = Flood::start((&a, at(A, 7000)), (&b, at(B, 7000)), config).unwrap();
        let report = flood.finish().unwrap();
        // A machine whose turns are late has left some out.
        assert!(
            (1..=300).contains(&(report.sent + report.skipped)),
            "{report:?}"
        );
        assert!(report.skipped == 0 || !urgent, "{report:?}");
        assert_eq!((report.refused, report.received), (0, report.sent));
        assert_eq!(report.delays.len(), report.received);
        assert!(report.delays.value_at_quantile(0.5) > 1);
    }
}
