// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TFC padding (RFC 4303 §2.7) as the wire between the gateways sees it, and what arrives of it.

mod gateway;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gateway::{Gateway, PATIENCE, Wire, ours, rekey, run, theirs};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig};
use offload_api::wire::ip::Facts;
use pcap_file::pcap::PcapReader;
use serde_json::Value;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
const A: &str = "10.1.0.1";
const B: &str = "10.2.0.1";
/// Of the payloads that are sent: shorter than [`PADDED`] and longer.
const PAYLOADS: [usize; 5] = [1, 200, 571, 572, 573];
/// What A pads to, which the payload of 572 octets just fills.
const PADDED: usize = 600;
/// Of the TUN interfaces.
const MTU: usize = 1400;
/// How long what is known of a path may be old.
const ASKED_AGAIN: Duration = Duration::from_millis(700);

/// Octets of the IPv4 packet around an inner one of so many: outer header, UDP or not, ESP, IV and ICV,
/// and the trailer's two octets, to a multiple of four.
fn outer(inner: usize, udp: bool) -> usize {
    let udp = if udp { 8 } else { 0 };
    20 + udp + 8 + 8 + (inner + 2).next_multiple_of(4) + 16
}

/// The longest inner packet that fits such a path.
fn inner(path: usize, udp: bool) -> usize {
    (path - outer(2, udp) + 4) / 4 * 4 - 2
}

/// Lengths of the ESP packets that come from a host, on the wire.
fn lengths(path: &Path, from: &str) -> BTreeSet<usize> {
    let from: IpAddr = from.parse().unwrap();
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut lengths = BTreeSet::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        let packet = packet.data.get(14..).unwrap_or_default();
        let Ok(facts) = Facts::of(packet) else {
            continue;
        };
        // IKE has four zeros where ESP has its SPI (RFC 3948 §2.2).
        let in_udp = facts.ports == Some((4500, 4500))
            && packet.get(28..32).is_some_and(|spi| spi != [0; 4]);
        if facts.source == from && (facts.protocol == 50 || in_udp) {
            lengths.insert(facts.total_len);
        }
    }
    lengths
}

/// Sends datagrams both ways, which arrive as they were; the lengths of what carried them, from A and B.
fn exchange(wire: &Wire, directory: &Path) -> [BTreeSet<usize>; 2] {
    let open = |namespace: &Namespace, at: &str| {
        let at = SocketAddr::new(at.parse().unwrap(), 7007);
        let socket = namespace.enter(|| UdpSocket::bind(at).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (socket, at)
    };
    let (a, b) = (open(&wire.a, A), open(&wire.b, B));
    let path = directory.join("capture");
    let capture = Capture::start(&wire.b, "wire", &path, CaptureConfig::default()).unwrap();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for len in PAYLOADS {
            let sent: Vec<u8> = (0..len).map(|n| n as u8 ^ 0x5a).collect();
            from.0.send_to(&sent, to.1).unwrap();
            let mut room = [0; 2000];
            let (received, sender) = to.0.recv_from(&mut room).unwrap();
            assert_eq!((&room[..received], sender), (&sent[..], from.1));
        }
    }
    capture.finish().unwrap();
    ["10.77.0.1", "10.77.0.2"].map(|from| lengths(&path, from))
}

/// What a gateway tells of its child's padding.
fn told(gateway: &Gateway) -> Option<String> {
    let mut command = Command::new(tests::program("esplanade"));
    command.args(["sas", "-o", "json", "--socket"]);
    command.arg(&gateway.vici);
    let sas: Value = serde_json::from_str(&run(command).unwrap()).unwrap();
    let children = sas[0]["child-sas"].as_object().unwrap();
    let child = children.values().next().unwrap();
    child.get("tfc-padding").map(|told| match told {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

/// Of packets padded to [`PADDED`], and the one that is longer.
fn padded(udp: bool) -> BTreeSet<usize> {
    [PADDED, 20 + 8 + 573].map(|len| outer(len, udp)).into()
}

/// Of packets that are not padded.
fn plain(udp: bool) -> BTreeSet<usize> {
    PAYLOADS.map(|len| outer(20 + 8 + len, udp)).into()
}

#[test]
fn packets_have_the_length_that_each_end_wants_and_arrive_as_they_were() {
    for udp in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let start = |namespace, own: u8, child: &str| {
            let directory = directory.path().join(own.to_string());
            let encap = format!("encap = {udp}");
            Gateway::ikev2d(namespace, &directory, &ours(own, IKE, ESP, &encap, child))
        };
        let a = start(&wire.a, 1, &format!("tfc_padding = {PADDED}"));
        let b = start(&wire.b, 2, "tfc_padding = \"mtu\"");
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("padded");
        assert_eq!(told(&a), Some(PADDED.to_string()));
        assert_eq!(told(&b), Some("mtu".to_owned()));
        let conns = a.swanctl(&["--list-conns", "--raw"]);
        assert!(conns.contains(&format!("tfc_padding={PADDED}")), "{conns}");

        // Those of the TUN interface are the longest there are.
        let all = |inner| BTreeSet::from([outer(inner, udp)]);
        let expected = [padded(udp), all(MTU)];
        assert_eq!(exchange(&wire, directory.path()), expected, "UDP {udp}");
        // A new child SA goes on like that, whoever asks for it.
        for (by, other) in [(&a, &b), (&b, &a)] {
            rekey::child(by, other, "net");
            wire.assert_still_passes("rekeyed");
            assert_eq!(exchange(&wire, directory.path()), expected, "UDP {udp}");
        }
        // The path becomes narrower, and wide again.
        for path in [1200, 1000, 1440, 1500] {
            for namespace in [&wire.a, &wire.b] {
                let link = format!("link set wire mtu {path}");
                namespace.ip(&link).unwrap();
            }
            std::thread::sleep(ASKED_AGAIN);
            // The first packet asks.
            wire.assert_still_passes("another path");
            let fits = inner(path, udp).min(MTU);
            let expected = [padded(udp), all(fits)];
            assert_eq!(exchange(&wire, directory.path()), expected, "{path}");
        }
        for gateway in [&a, &b] {
            let counts = gateway.statistics();
            for refused in ["refused", "malformed", "send-errors", "too-big"] {
                assert_eq!(counts[refused], 0, "{counts:?}");
            }
        }
    }
}

/// An IKEv1 peer can't say that it takes padding, so it gets none.
#[test]
fn a_peer_that_may_not_take_padding_gets_none_and_that_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = ("aes128-sha256-modp2048", "aes128gcm16");
    let padding = format!("tfc_padding = {PADDED}");
    let text = ours(1, ike, esp, "", &padding).replace("version = 2", "version = 0");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &text);
    let text = ours(2, ike, esp, "", "").replace("version = 2", "version = 1");
    let b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &text);
    b.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("not padded");
    assert_eq!(told(&a).as_deref(), Some("refused by the peer"));
    assert_eq!(told(&b), None);
    let seen = exchange(&wire, directory.path());
    assert_eq!(seen, [plain(false), plain(false)]);
}

/// strongSwan's ESP in user space takes padding off. It sends none itself, whatever `tfc_padding` says; only
/// the kernel's does.
#[test]
fn strongswan_takes_our_padding_and_we_take_its_word() {
    for we_begin in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let theirs =
            theirs(2, IKE, ESP).replace("start_action", "tfc_padding = mtu\n start_action");
        let at = directory.path().join("b");
        let Some(b) = Gateway::strongswan(&wire.b, &at, &theirs) else {
            return;
        };
        let text = ours(1, IKE, ESP, "", &format!("tfc_padding = {PADDED}"));
        let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &text);
        let begins = if we_begin { &a } else { &b };
        begins.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("padded for strongSwan");
        let [from_a, _] = exchange(&wire, directory.path());
        assert_eq!(from_a, padded(true));
        assert_eq!(told(&a), Some(PADDED.to_string()));
        let log = b.charon_log();
        assert!(!log.contains("not using ESPv3 TFC padding"), "{log}");
        assert!(!log.contains("TFC_PAD"), "{log}");
    }
}
