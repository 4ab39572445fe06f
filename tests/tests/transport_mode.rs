// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP in transport mode between two of our daemons: what two hosts say to each other, and no more than the
//! selectors name. strongSwan's ESP in user space has no transport mode: with it a tunnel is agreed on.

mod gateway;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, Wire, ours, rekey, router, theirs};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig};
use netlab::packet::{Kind, classify};
use netlab::traffic::{Bulk, ping, probe};
use pcap_file::pcap::PcapReader;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes128gcm16";
const TCP: u8 = 6;
const ICMP: u8 = 1;

/// A connection whose child is of the two hosts themselves.
fn between_hosts(own: u8, local: &str, remote: &str, child: &str) -> String {
    let peer = 3 - own;
    ours(own, IKE, ESP, "", &format!("mode = \"transport\"\n{child}"))
        .replace(&format!("10.{own}.0.0/24"), local)
        .replace(&format!("10.{peer}.0.0/24"), remote)
}

/// Packets of ESP, and of these protocols in the clear.
fn seen(file: &Path) -> (usize, Vec<u8>) {
    let mut capture = PcapReader::new(File::open(file).unwrap()).unwrap();
    let (mut esp, mut plain) = (0, Vec::new());
    while let Some(frame) = capture.next_packet() {
        match classify(&frame.unwrap().data).kind {
            Kind::Esp { .. } => esp += 1,
            Kind::Plain { protocol } => plain.push(protocol),
            _ => {}
        }
    }
    (esp, plain)
}

fn assert_pings(wire: &Wire, hosts: [IpAddr; 2], when: &str) {
    let [a, b] = hosts;
    for (namespace, from, to) in [(&wire.a, a, b), (&wire.b, b, a)] {
        let report = ping(namespace, from, to, 5).unwrap();
        assert_eq!(report.received, 5, "{when}: {from} to {to}");
    }
}

/// Some TCP from one host to the other, on a port.
fn stream(wire: &Wire, [a, b]: [IpAddr; 2], port: u16) {
    stream_between((&wire.a, a), (&wire.b, SocketAddr::new(b, port)));
}

fn stream_between(from: (&Namespace, IpAddr), to: (&Namespace, SocketAddr)) {
    let bulk = Bulk::start(from, to, 7, Instant::now()).unwrap();
    let end = Instant::now() + PATIENCE;
    while bulk.received() < 1 << 20 {
        assert!(Instant::now() < end, "TCP stands still");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(bulk.finish().unwrap().intact());
}

fn rules(namespace: &netlab::Namespace, v6: bool) -> String {
    let family = if v6 { "-6" } else { "-4" };
    namespace.run("ip", &[family, "rule"]).unwrap()
}

/// B40: the first packet to the peer itself sets it up; nothing of what the hosts say is in the clear, over a
/// rekeying; at the end the host's rules are as before.
#[test]
fn what_two_hosts_say_goes_in_transport_mode() {
    for (v6, hosts) in [
        (false, ["10.77.0.1", "10.77.0.2"]),
        (true, ["fd77::1", "fd77::2"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        for (namespace, number) in [(&wire.a, 1), (&wire.b, 2)] {
            let outer = format!("fd77::{number}/64");
            namespace.address("wire", &outer).unwrap();
        }
        let config = |own, child| {
            let text = between_hosts(own, "dynamic", "dynamic", child);
            if v6 {
                text.replace("10.77.0.", "fd77::")
            } else {
                text
            }
        };
        let hosts = hosts.map(|host| host.parse::<IpAddr>().unwrap());
        let before = rules(&wire.b, v6);
        let [a_files, b_files] = ["a", "b"].map(|name| directory.path().join(name));
        let b = Gateway::ikev2d(&wire.b, &b_files, &config(2, ""));
        let a = Gateway::ikev2d(&wire.a, &a_files, &config(1, "start_action = \"trap\""));
        let policies = a.swanctl(&["--list-pols"]);
        assert!(policies.contains("gw/net, TRANSPORT"), "{policies}");
        probe(&wire.a, hosts[0], hosts[1], 5).unwrap();
        for gateway in [&a, &b] {
            gateway.wait_sas("the child", |sas| {
                sas.contains("INSTALLED, TRANSPORT") && !sas.contains("TUNNEL")
            });
        }
        let file = directory.path().join("wire.pcap");
        let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
        assert_pings(&wire, hosts, "in transport mode");
        stream(&wire, hosts, 0);
        rekey::child(&a, &b, "net");
        assert_pings(&wire, hosts, "after the rekeying");
        capture.finish().unwrap();
        let (esp, plain) = seen(&file);
        assert!(esp > 40 && plain.is_empty(), "{esp} of ESP, {plain:?}");

        b.swanctl(&["--terminate", "--ike", "gw"]);
        b.wait_sas("the end", |sas| sas.trim().is_empty());
        let end = Instant::now() + PATIENCE;
        while rules(&wire.b, v6) != before {
            assert!(Instant::now() < end, "{}", rules(&wire.b, v6));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// B40, S20: quick mode agrees on it, too.
#[test]
fn ikev1_agrees_on_transport_mode() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let config = |own| {
        let text = between_hosts(own, "dynamic", "dynamic", "");
        let text = text.replace("version = 2", "version = 1");
        text.replace(IKE, "aes256-sha256-ecp256")
    };
    let files = ["a", "b"].map(|name| directory.path().join(name));
    let a = Gateway::ikev2d(&wire.a, &files[0], &config(1));
    let b = Gateway::ikev2d(&wire.b, &files[1], &config(2));
    a.swanctl(&["--initiate", "--child", "net"]);
    for gateway in [&a, &b] {
        gateway.wait_sas("the child", |sas| {
            sas.contains("IKEv1") && sas.contains("INSTALLED, TRANSPORT")
        });
    }
    let hosts = ["10.77.0.1", "10.77.0.2"].map(|host| host.parse::<IpAddr>().unwrap());
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    assert_pings(&wire, hosts, "in IKEv1's transport mode");
    capture.finish().unwrap();
    let (esp, plain) = seen(&file);
    assert!(esp >= 20 && plain.is_empty(), "{esp} of ESP, {plain:?}");
}

/// B40, S105, S108, RFC 3947 §5.2, RFC 3948 §3.1.2: a host behind a NAT, in IKEv1: UDP carries transport mode, TCP's
/// checksums are brought to the addresses of either side, and it survives rekeyings from both.
#[test]
fn ikev1_takes_transport_mode_through_a_nat() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    let _nat = router("nat", (&a, "10.88.0"), (&b, "10.98.0"));
    let config = |own, local: &str, remote: &str| {
        let text = between_hosts(own, "dynamic", "dynamic", "");
        let text = text
            .replace("version = 2", "version = 1")
            .replace(IKE, "aes256-sha256-ecp256");
        let peer = 3 - own;
        text.replace(&format!("\"10.77.0.{own}\""), &format!("\"{local}\""))
            .replace(&format!("[\"10.77.0.{peer}\"]"), &format!("[\"{remote}\"]"))
    };
    let files = ["a", "b"].map(|name| directory.path().join(name));
    let ours = Gateway::ikev2d(&a, &files[0], &config(1, "10.88.0.2", "10.98.0.2"));
    let theirs = Gateway::ikev2d(&b, &files[1], &config(2, "10.98.0.2", "%any"));
    ours.swanctl(&["--initiate", "--child", "net"]);
    for gateway in [&ours, &theirs] {
        gateway.wait_sas("the child", |sas| sas.contains("INSTALLED, TRANSPORT"));
    }
    // The host behind it has this address in front of it.
    let [inside, mapped, outside] =
        ["10.88.0.2", "10.98.0.1", "10.98.0.2"].map(|host| host.parse::<IpAddr>().unwrap());
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&b, "nat", &file, CaptureConfig::default()).unwrap();
    let passes = |when: &str| {
        for (namespace, from, to) in [(&a, inside, outside), (&b, outside, mapped)] {
            let report = ping(namespace, from, to, 5).unwrap();
            assert_eq!(report.received, 5, "{when}: {from} to {to}");
        }
        stream_between((&a, inside), (&b, SocketAddr::new(outside, 5001)));
    };
    passes("through the NAT");
    for (by, other) in [(&ours, &theirs), (&theirs, &ours)] {
        rekey::child(by, other, "net");
        passes("after a rekeying");
    }
    capture.finish().unwrap();
    // A NAT passes UDP alone, and nothing was in the clear beside it.
    let (esp, plain) = seen(&file);
    assert!(esp > 40 && plain.is_empty(), "{esp} of ESP, {plain:?}");
}

/// B40, S92: only the protocol and port that are agreed on are led through the SA; the rest passes beside it.
#[test]
fn what_the_selectors_do_not_name_passes_beside_transport_mode() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let [a_files, b_files] = ["a", "b"].map(|name| directory.path().join(name));
    let (here, there) = ("10.77.0.1/32[tcp]", "10.77.0.2/32[tcp/5001]");
    let a = Gateway::ikev2d(&wire.a, &a_files, &between_hosts(1, here, there, ""));
    let _b = Gateway::ikev2d(&wire.b, &b_files, &between_hosts(2, there, here, ""));
    a.swanctl(&["--initiate", "--child", "net"]);
    let sas = a.swanctl(&["--list-sas"]);
    assert!(
        sas.contains("TRANSPORT") && sas.contains("10.77.0.2/32[6/5001]"),
        "{sas}"
    );
    let hosts = ["10.77.0.1", "10.77.0.2"].map(|host| host.parse::<IpAddr>().unwrap());
    let files = ["agreed", "other"].map(|name| directory.path().join(name));
    let capture = Capture::start(&wire.a, "wire", &files[0], CaptureConfig::default()).unwrap();
    stream(&wire, hosts, 5001);
    capture.finish().unwrap();
    let (esp, plain) = seen(&files[0]);
    assert!(esp > 10 && !plain.contains(&TCP), "{esp} of ESP, {plain:?}");
    let capture = Capture::start(&wire.a, "wire", &files[1], CaptureConfig::default()).unwrap();
    stream(&wire, hosts, 5002);
    assert_pings(&wire, hosts, "beside");
    capture.finish().unwrap();
    let (esp, plain) = seen(&files[1]);
    assert_eq!(esp, 0);
    assert!(plain.contains(&TCP) && plain.contains(&ICMP), "{plain:?}");
}

/// B40: strongSwan wants ESP in UDP here, as behind a NAT: we decline transport mode, whoever asks for it, and
/// it takes a tunnel.
#[test]
fn strongswan_gets_a_tunnel_where_transport_mode_can_not_be() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let wants = theirs(2, IKE, ESP)
        .replace("10.2.0.0/24", "dynamic")
        .replace("10.1.0.0/24", "dynamic")
        .replace("start_action", "mode = transport\n start_action");
    let files = ["a", "b"].map(|name| directory.path().join(name));
    let Some(b) = Gateway::strongswan(&wire.b, &files[1], &wants) else {
        return;
    };
    let a = Gateway::ikev2d(
        &wire.a,
        &files[0],
        &between_hosts(1, "dynamic", "dynamic", ""),
    );
    for begins in [&a, &b] {
        begins.swanctl(&["--initiate", "--child", "net"]);
        for gateway in [&a, &b] {
            gateway.wait_sas("the child", |sas| sas.contains("INSTALLED, TUNNEL"));
        }
        a.swanctl(&["--terminate", "--ike", "gw"]);
        b.wait_sas("the end", |sas| sas.trim().is_empty());
    }
}
