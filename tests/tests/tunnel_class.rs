// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DSCP and ECN between inner and outer headers (RFC 4301 §5.1.2.1, RFC 6040), as a router between the
//! gateways sees and marks them.

mod gateway;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use gateway::{Gateway, SECRET, Wire, ours};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use offload_api::wire::ip::Facts;
use pcap_file::pcap::PcapReader;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";
const EF: u8 = 46 << 2;
const AF11: u8 = 10 << 2;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
/// Datagrams of each class.
const COUNT: usize = 5;

struct Tunnel {
    wire: Wire,
    a: Gateway,
    b: Gateway,
    v6: bool,
    directory: tempfile::TempDir,
}

impl Tunnel {
    /// Over this IP version, and ESP in UDP or alone, with each end's own word on DSCP.
    fn new(v6: bool, udp: bool, settings: [&str; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        for (namespace, number) in [(&wire.a, 1), (&wire.b, 2)] {
            for (device, address) in [
                ("wire", format!("fd77::{number}/64")),
                ("lo", format!("fd0{number}::1/128")),
            ] {
                namespace.address(device, &address).unwrap();
            }
        }
        let start = |namespace: &Namespace, own: u8, setting: &str| {
            let mut text = ours(own, IKE, ESP, &format!("encap = {udp}"), "");
            for number in [1, 2] {
                text = text.replace(
                    &format!("\"10.{number}.0.0/24\""),
                    &format!("\"10.{number}.0.0/24\", \"fd0{number}::/16\""),
                );
            }
            if v6 {
                text = text.replace("10.77.0.", "fd77::");
            }
            let text = format!("{text}[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
            let tun = format!("name = \"esp0\", queues = 1 {setting}");
            let directory = directory.path().join(own.to_string());
            Gateway::ikev2d_tun(namespace, &directory, &tun, &text)
        };
        let a = start(&wire.a, 1, settings[0]);
        let b = start(&wire.b, 2, settings[1]);
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("before any class");
        Self {
            wire,
            a,
            b,
            v6,
            directory,
        }
    }

    /// Has a router in front of B change the class of ESP that is of this one.
    fn mark(&self, which: &str, change: &str) {
        let family = if self.v6 { "ip6" } else { "ip" };
        let script = format!(
            "table inet router {{ chain before {{ type filter hook prerouting priority -300;\n\
             iifname \"wire\" udp dport 4500 {family} {which} {family} {change}\n\
             iifname \"wire\" meta l4proto esp {family} {which} {family} {change}\n}}\n}}\n"
        );
        self.wire.b.nft(&script).unwrap();
    }

    /// Sends datagrams of a class from A, in both versions inside: what B's wire saw outside, and the
    /// classes that B received, as many as there were.
    fn send(&self, class: u8) -> (BTreeSet<u8>, Vec<u8>) {
        let path = self.directory.path().join("capture");
        let capture =
            Capture::start(&self.wire.b, "wire", &path, CaptureConfig::default()).unwrap();
        let mut received = Vec::new();
        for ends in [["10.1.0.1", "10.2.0.1"], ["fd01::1", "fd02::1"]] {
            let [from, to] = ends.map(|end| SocketAddr::new(end.parse().unwrap(), 7007));
            received.extend(datagrams(&self.wire, from, to, class));
        }
        capture.finish().unwrap();
        (outer_classes(&path), received)
    }
}

/// Classes of what arrives.
fn datagrams(wire: &Wire, from: SocketAddr, to: SocketAddr, class: u8) -> Vec<u8> {
    let open = |namespace: &Namespace, at: SocketAddr| {
        namespace.enter(|| UdpSocket::bind(at).unwrap()).unwrap()
    };
    let (sender, receiver) = (open(&wire.a, from), open(&wire.b, to));
    if from.is_ipv4() {
        setsockopt(&sender, sockopt::Ipv4Tos, &class.into()).unwrap();
        setsockopt(&receiver, sockopt::IpRecvTos, &true).unwrap();
    } else {
        setsockopt(&sender, sockopt::Ipv6TClass, &class.into()).unwrap();
        setsockopt(&receiver, sockopt::Ipv6RecvTClass, &true).unwrap();
    }
    for _ in 0..COUNT {
        sender.send_to(b"class", to).unwrap();
    }
    receiver
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut classes = Vec::new();
    let mut control = cmsg_space!(i32);
    let mut room = [0; 64];
    while classes.len() < COUNT {
        let mut parts = [IoSliceMut::new(&mut room)];
        let message = recvmsg::<SockaddrStorage>(
            receiver.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let Ok(message) = message else { break };
        classes.extend(message.cmsgs().unwrap().map(|control| match control {
            ControlMessageOwned::Ipv4Tos(class) => class,
            ControlMessageOwned::Ipv6TClass(class) => class as u8,
            other => panic!("{other:?}"),
        }));
    }
    classes
}

/// Classes of the ESP packets from A that a capture holds.
fn outer_classes(path: &Path) -> BTreeSet<u8> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut classes = BTreeSet::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        let Ok(facts) = Facts::of(packet.data.get(14..).unwrap_or_default()) else {
            continue;
        };
        let esp = facts.protocol == 50 || facts.ports == Some((4500, 4500));
        let from_a = ["10.77.0.1", "fd77::1"].map(|a| a.parse::<IpAddr>().unwrap());
        if esp && from_a.contains(&facts.source) {
            classes.insert(facts.traffic_class);
        }
    }
    classes
}

const WAYS: [(bool, bool); 4] = [(false, true), (false, false), (true, true), (true, false)];

/// RFC 6040 §4.1 and §4.2.
#[test]
fn class_goes_out_and_congestion_comes_in() {
    for (v6, udp) in WAYS {
        let tunnel = Tunnel::new(v6, udp, ["", ""]);
        let way = format!("IPv6 {v6}, UDP {udp}");
        for class in [EF | ECT_0, EF, AF11 | CE] {
            let (outside, inside) = tunnel.send(class);
            assert!(outside.contains(&class), "{way}: {class:#x}: {outside:x?}");
            assert_eq!(inside, [class; 2 * COUNT], "{way}\n{}", tunnel.a.tail());
        }
        tunnel.mark("dscp ef", "ecn set ce");
        let (_, inside) = tunnel.send(EF | ECT_0);
        assert_eq!(inside, [EF | CE; 2 * COUNT], "{way}");
        assert_eq!(tunnel.b.statistics()["ecn-dropped"], 0, "{way}");
        // Who knows nothing of ECN learns of congestion by a loss.
        let (_, inside) = tunnel.send(EF);
        assert!(inside.is_empty(), "{way}: {inside:x?}");
        let dropped = tunnel.b.statistics()["ecn-dropped"];
        assert_eq!(dropped, 2 * COUNT as u64, "{way}");
    }
}

/// RFC 4301 §5.1.2.1: each end's own choice.
#[test]
fn dscp_is_copied_as_it_is_set() {
    for (v6, udp) in WAYS {
        let settings = [", copy_dscp = \"no\"", ", copy_dscp = \"both\""];
        let tunnel = Tunnel::new(v6, udp, settings);
        let way = format!("IPv6 {v6}, UDP {udp}");
        tunnel.mark("ecn ect0", "dscp set af11");
        let (outside, inside) = tunnel.send(EF | ECT_0);
        assert!(outside.contains(&ECT_0), "{way}: {outside:x?}");
        assert!(
            !outside.iter().any(|class| class & EF == EF),
            "{way}: {outside:x?}"
        );
        assert_eq!(inside, [AF11 | ECT_0; 2 * COUNT], "{way}");
    }
}
