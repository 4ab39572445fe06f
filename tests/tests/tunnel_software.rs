// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two of our daemons, ESP in software: a tunnel is set up, carries traffic, is rekeyed and taken
//! down, all of it through strongSwan's own `swanctl`.

mod gateway;

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, rekey};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig};
use netlab::packet::{Kind, classify};
use netlab::traffic::{ping, probe};
use pcap_file::pcap::PcapReader;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";

fn pair(directory: &std::path::Path, more: &str) -> (Wire, Gateway, Gateway) {
    let wire = Wire::new();
    let a = Gateway::ikev2d(&wire.a, &directory.join("a"), &ours(1, IKE, ESP, more, ""));
    let b = Gateway::ikev2d(&wire.b, &directory.join("b"), &ours(2, IKE, ESP, more, ""));
    (wire, a, b)
}

/// SPIs of the children that are listed as installed.
fn installed(sas: &str) -> usize {
    sas.matches("INSTALLED").count()
}

/// The daemon's settings and a connection, of one that gives a peer up soon.
fn impatient(own: u8, more: &str, child: &str) -> String {
    let secret = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
    let connection = ours(own, IKE, ESP, more, child);
    format!("retransmit_timeout = 0.3\nretransmit_tries = 2\n{connection}\n{secret}")
}

/// B35: initiated, carrying, rekeyed and deleted, with extended sequence numbers and UDP around ESP or without.
#[test]
fn a_tunnel_lives_from_initiation_to_deletion() {
    for more in ["encap = true", "encap = false"] {
        let directory = tempfile::tempdir().unwrap();
        let (wire, mut a, b) = pair(directory.path(), more);
        wire.assert_blocked();
        let said = a.swanctl(&["--initiate", "--child", "net"]);
        assert!(said.contains("initiate completed successfully"), "{said}");
        wire.assert_passes(more);

        let before = a.wait_sas("the tunnel", |sas| installed(sas) == 1);
        for word in [
            "gw: #",
            "ESTABLISHED",
            "IKEv2",
            "'a.test' @ 10.77.0.1",
            "net: #",
            "10.2.0.0/24",
        ] {
            assert!(before.contains(word), "{word}: {before}");
        }
        rekey::child(&a, &b, "net");
        wire.assert_still_passes("after the child's rekeying");

        rekey::ike(&b, &a, "gw");
        wire.assert_still_passes("after the IKE SA's rekeying");

        b.swanctl(&["--terminate", "--ike", "gw"]);
        a.wait_sas("the end", |sas| sas.trim().is_empty());
        let routes = wire.a.ip("route").unwrap();
        assert!(!routes.contains("10.2.0.0"), "{routes}");
        a.swanctl(&["--initiate", "--child", "net"]);
        assert!(a.stop(), "{}", a.tail());
        b.wait_sas("the farewell", |sas| sas.trim().is_empty());
        assert!(!a.vici.exists());
    }
}

/// The same gateways over IPv6, IPv4 and IPv6 inside, with and without UDP around ESP.
#[test]
fn a_tunnel_runs_over_ipv6_and_carries_both_families() {
    for encap in ["encap = true", "encap = false"] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        for (namespace, number) in [(&wire.a, 1), (&wire.b, 2)] {
            let outer = format!("fd77::{number}/64");
            namespace.address("wire", &outer).unwrap();
            let inner = format!("fd0{number}::1/128");
            namespace.address("lo", &inner).unwrap();
        }
        let configuration = |own: u8| {
            let peer = 3 - own;
            ours(own, IKE, ESP, encap, "")
                .replace("10.77.0.", "fd77::")
                .replace(
                    &format!("\"10.{own}.0.0/24\""),
                    &format!("\"10.{own}.0.0/24\", \"fd0{own}::/16\""),
                )
                .replace(
                    &format!("\"10.{peer}.0.0/24\""),
                    &format!("\"10.{peer}.0.0/24\", \"fd0{peer}::/16\""),
                )
        };
        let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &configuration(1));
        let _b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &configuration(2));
        a.swanctl(&["--initiate", "--child", "net"]);
        let sas = a.swanctl(&["--list-sas"]);
        assert!(sas.contains("@ fd77::1["), "{sas}");
        wire.assert_passes(encap);
        let (from, to) = ("fd01::1".parse().unwrap(), "fd02::1".parse().unwrap());
        netlab::traffic::await_answer(&wire.a, from, to);
        let report = netlab::traffic::ping(&wire.a, from, to, 5).unwrap();
        assert_eq!(report.received, 5, "{encap}: {report:?}\n{}", a.tail());
    }
}

/// RFC 4862 §5.4: an address that the host is not sure of yet can be no route's source; the tunnel's route is there
/// all the same.
#[test]
fn a_route_does_without_a_source_that_the_host_is_not_sure_of() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    wire.a
        .sysctl("net.ipv6.conf.wire.dad_transmits", "60")
        .unwrap();
    wire.a.ip("addr add fd01::1/64 dev wire").unwrap();
    let tentative = wire.a.ip("-6 addr show dev wire tentative").unwrap();
    assert!(tentative.contains("fd01::1"), "{tentative}");
    let configuration = |own: u8| {
        let nets = |text: String| text.replace("\"10.1.0.0/24\"", "\"fd01::/64\"");
        nets(ours(own, IKE, ESP, "", "")).replace("\"10.2.0.0/24\"", "\"fd02::/64\"")
    };
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &configuration(1));
    let _b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &configuration(2));
    a.swanctl(&["--initiate", "--child", "net"]);
    let routes = wire.a.ip("-6 route show dev esp0").unwrap();
    let ours = routes.lines().find(|line| line.starts_with("fd02::/64"));
    assert!(
        ours.is_some_and(|route| !route.contains("src")),
        "{routes}\n{}",
        a.tail()
    );
}

/// A gateway with two addresses on the wire answers from the one that it is configured with.
#[test]
fn ike_and_esp_leave_from_the_configured_address() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    // The kernel prefers the first one.
    wire.b.ip("addr del 10.77.0.2/24 dev wire").unwrap();
    wire.b.address("wire", "10.77.0.9/24").unwrap();
    wire.b.address("wire", "10.77.0.2/24").unwrap();
    let route = wire.b.ip("route get 10.77.0.1").unwrap();
    assert!(route.contains("src 10.77.0.9"), "{route}");
    let firewall = "add table ip f\n\
        add chain ip f input { type filter hook input priority 0; }\n\
        add rule ip f input ip saddr 10.77.0.9 ip protocol { udp, esp } drop\n";
    wire.a.nft(firewall).unwrap();
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "encap = true", ""),
    );
    let b = Gateway::ikev2d(
        &wire.b,
        &directory.path().join("b"),
        &ours(2, IKE, ESP, "encap = true", ""),
    );
    for begins in [&a, &b] {
        begins.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("from the second address");
        let sas = a.swanctl(&["--list-sas"]);
        assert!(sas.contains("@ 10.77.0.2["), "{sas}");
        begins.swanctl(&["--terminate", "--ike", "gw"]);
    }
}

/// `dpd_action`, `close_action` and `keyingtries` bring a tunnel back without anybody's help.
#[test]
fn a_tunnel_comes_back_after_its_peer_crashed_or_deleted_it() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let more = "dpd_delay = 1\nkeyingtries = 0";
    let child = "start_action = \"start\"\ndpd_action = \"restart\"\nclose_action = \"start\"";
    // Nobody is there yet: it tries again.
    let a = directory.path().join("a");
    let a = Gateway::ikev2d_with(&wire.a, &a, &impatient(1, more, child));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!a.swanctl(&["--list-sas"]).contains("ESTABLISHED"));
    let start_b = |name: &str| {
        let b = directory.path().join(name);
        Gateway::ikev2d_with(&wire.b, &b, &impatient(2, "", ""))
    };
    let mut b = start_b("b");
    a.wait_sas("the tunnel", |sas| installed(sas) == 1);
    wire.assert_passes("at last");
    b.kill();
    a.wait_sas("the loss", |sas| installed(sas) == 0);
    let b = start_b("b2");
    b.wait_sas("the tunnel after a crash", |sas| installed(sas) == 1);
    wire.assert_passes("after a crash");
    b.swanctl(&["--terminate", "--ike", "gw"]);
    b.wait_sas("the tunnel after a deletion", |sas| installed(sas) == 1);
    wire.assert_passes("after a deletion");
    // What we end ourselves stays ended.
    a.swanctl(&["--terminate", "--ike", "gw"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(a.swanctl(&["--list-sas"]).trim().is_empty());
}

/// ESP packets, and those in the clear that are about an address.
fn on_the_wire(file: &Path, about: IpAddr) -> (usize, Vec<Vec<u8>>) {
    let octets = match about {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut capture = PcapReader::new(File::open(file).unwrap()).unwrap();
    let (mut esp, mut clear) = (0, Vec::new());
    while let Some(frame) = capture.next_packet() {
        let frame = frame.unwrap();
        match classify(&frame.data).kind {
            Kind::Esp { .. } => esp += 1,
            Kind::Plain { .. } if frame.data.windows(octets.len()).any(|part| part == octets) => {
                clear.push(frame.data.to_vec());
            }
            _ => {}
        }
    }
    (esp, clear)
}

/// A host's rules, and its routes but for those to the wire's own net.
fn routing(namespace: &Namespace, family: &str) -> String {
    let rules = namespace.run("ip", &[family, "rule"]).unwrap();
    let routes = namespace.run("ip", &[family, "route", "show", "table", "all"]);
    let routes = routes.unwrap();
    let ours = routes
        .lines()
        .filter(|line| line.contains("esp0") || line.contains("4301"));
    rules + &ours.collect::<Vec<_>>().join("\n")
}

/// RFC 4301 §4.4.1: a tunnel of everything takes everything of our side's, though its peer lies there too; what is
/// to be protected never leaves in the clear: not before the tunnel is there, not when the peer is gone, not when
/// the daemon is. When it ends in good order all is as before.
fn a_tunnel_of_everything(v6: bool) {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (family, all, beyond) = match v6 {
        false => ("-4", "0.0.0.0/0", "198.51.100.1"),
        true => ("-6", "::/0", "2001:db8::1"),
    };
    let ends = |text: &str| match v6 {
        false => text.to_owned(),
        true => text
            .replace("10.77.0.", "fd77::")
            .replace("10.1.0.0/24", "fd01::/16"),
    };
    if v6 {
        wire.a.address("wire", "fd77::1/64").unwrap();
        wire.b.address("wire", "fd77::2/64").unwrap();
        wire.a.address("lo", "fd01::1/128").unwrap();
    }
    let bits = if v6 { 128 } else { 32 };
    wire.b.address("lo", &format!("{beyond}/{bits}")).unwrap();
    let default = ["route", "add", "default", "via", &ends("10.77.0.2")];
    wire.a
        .run("ip", &[&[family][..], &default].concat())
        .unwrap();
    let beyond: IpAddr = beyond.parse().unwrap();
    let from: IpAddr = if v6 { "fd01::1" } else { "10.1.0.1" }.parse().unwrap();
    let before = routing(&wire.a, family);

    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    let start = |own: u8, name: &str| {
        let child = "start_action = \"start\"\ndpd_action = \"restart\"";
        let (more, child) = match own {
            1 => ("dpd_delay = 1\nkeyingtries = 0", child),
            _ => ("", ""),
        };
        let text = ends(&impatient(own, more, child).replace("10.2.0.0/24", all));
        let namespace = if own == 1 { &wire.a } else { &wire.b };
        Gateway::ikev2d_with(namespace, &directory.path().join(name), &text)
    };
    // From our side's address, and without one: the route has it.
    let tries = |answered| {
        let pings = if answered { ping } else { probe };
        let here = pings(&wire.a, from, beyond, 3);
        let to = beyond.to_string();
        let _ = wire.a.run("ping", &["-n", "-c", "1", "-W", "1", &to]);
        here.map_or(0, |report| report.received)
    };
    let mut a = start(1, "a");
    // It answers when its routes are there.
    a.swanctl(&["--list-sas"]);
    assert_eq!(tries(false), 0, "before the tunnel");
    let mut b = start(2, "b");
    a.wait_sas("the tunnel", |sas| installed(sas) == 1);
    netlab::traffic::await_answer(&wire.a, from, beyond);
    assert_eq!(tries(true), 3, "{}", a.tail());
    // The peer's own address, which is of everything, too.
    let peer = ends("10.77.0.2").parse().unwrap();
    assert_eq!(ping(&wire.a, from, peer, 2).unwrap().received, 2);
    let report = wire
        .a
        .run("ping", &["-n", "-c", "1", "-W", "5", &beyond.to_string()]);
    report.unwrap_or_else(|error| panic!("{error}\n{}", routing(&wire.a, family)));

    b.kill();
    a.wait_sas("the loss", |sas| installed(sas) == 0);
    assert_eq!(tries(false), 0, "without the peer");
    a.kill();
    assert_eq!(tries(false), 0, "without the daemon");
    let mut a = start(1, "a2");
    let _b = start(2, "b2");
    a.wait_sas("the tunnel again", |sas| installed(sas) == 1);
    netlab::traffic::await_answer(&wire.a, from, beyond);
    assert_eq!(tries(true), 3, "{}", a.tail());
    capture.finish().unwrap();
    let (esp, clear) = on_the_wire(&file, from);
    assert!(
        esp > 10 && clear.is_empty(),
        "{esp} of ESP, in the clear: {clear:x?}"
    );
    let (_, clear) = on_the_wire(&file, beyond);
    assert!(clear.is_empty(), "{clear:x?}");
    assert!(a.stop(), "{}", a.tail());
    assert_eq!(routing(&wire.a, family), before);
}

/// B43: the whole of IPv4.
#[test]
fn a_tunnel_of_all_ipv4_lets_nothing_out_in_the_clear() {
    a_tunnel_of_everything(false);
}

/// B43: the whole of IPv6.
#[test]
fn a_tunnel_of_all_ipv6_lets_nothing_out_in_the_clear() {
    a_tunnel_of_everything(true);
}

/// B43, RFC 4301 §4.4.1: the same of a net that the peer lies beside; and routes of a daemon that was killed,
/// which the next one does not want, go.
#[test]
fn a_started_tunnels_traffic_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    wire.a.route("default via 10.77.0.2").unwrap();
    let before = routing(&wire.a, "-4");
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    let child = "start_action = \"start\"";
    let mut a = Gateway::ikev2d_with(
        &wire.a,
        &directory.path().join("a"),
        &impatient(1, "keyingtries = 0", child),
    );
    let (from, to) = ([10, 1, 0, 1].into(), [10, 2, 0, 1].into());
    let blocked = || assert!(!probe(&wire.a, from, to, 2).is_ok_and(|report| report.received != 0));
    a.swanctl(&["--list-sas"]);
    blocked();
    let mut b = Gateway::ikev2d_with(&wire.b, &directory.path().join("b"), &impatient(2, "", ""));
    a.wait_sas("the tunnel", |sas| installed(sas) == 1);
    wire.assert_passes("in the tunnel");
    assert!(b.stop(), "{}", b.tail());
    a.wait_sas("the end", |sas| sas.trim().is_empty());
    blocked();
    a.kill();
    blocked();
    capture.finish().unwrap();
    let (esp, clear) = on_the_wire(&file, from);
    assert!(
        esp > 10 && clear.is_empty(),
        "{esp} of ESP, in the clear: {clear:x?}"
    );
    assert!(routing(&wire.a, "-4").contains("unreachable 10.2.0.0/24"));
    let _a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a2"), &impatient(1, "", ""));
    let end = Instant::now() + PATIENCE;
    while routing(&wire.a, "-4") != before {
        assert!(Instant::now() < end, "{}", routing(&wire.a, "-4"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// B43, RFC 4301 §4.4.1: of routes to a net the tunnel's comes first, and leaves the host's own as they are.
#[test]
fn a_hosts_own_routes_to_the_peers_net_stay() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let nets = [
        ("-4", "10.2.0.0/24", "10.2.0.1"),
        ("-6", "fd02::/64", "fd02::1"),
    ];
    for address in ["10.2.0.9/24", "fd02::9/64"] {
        wire.a.address("wire", address).unwrap();
    }
    wire.a
        .ip("-6 route add fd02::/64 dev wire metric 1024")
        .unwrap();
    let routes =
        || nets.map(|(family, net, _)| wire.a.ip(&format!("{family} route show {net}")).unwrap());
    let way =
        || nets.map(|(family, _, to)| wire.a.ip(&format!("{family} route get {to}")).unwrap());
    let before = routes();
    let text = impatient(1, "keyingtries = 0", "start_action = \"start\"")
        .replace("\"10.2.0.0/24\"", "\"10.2.0.0/24\", \"fd02::/64\"")
        .replace("\"10.1.0.0/24\"", "\"10.1.0.0/24\", \"fd01::/16\"");
    let mut a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &text);
    a.swanctl(&["--list-sas"]);
    for (way, before) in way().iter().zip(&before) {
        assert!(
            way.contains("dev esp0") && before.contains("dev wire"),
            "{way}{before}"
        );
    }
    assert!(a.stop(), "{}", a.tail());
    assert_eq!(routes(), before);
    assert!(way().iter().all(|way| way.contains("dev wire")));
}

/// B43, RFC 4301 §4.4.1, RFC 5685: a peer that comes from its own net, or sends us there, is heard and answered
/// past the routes that stand for that net.
#[test]
fn a_peer_may_come_to_lie_in_its_own_net() {
    for redirected in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        wire.a.route("default via 10.77.0.2").unwrap();
        let child = "start_action = \"trap\"";
        let (ours, theirs) = (
            impatient(1, "follow_redirects = true", child),
            impatient(2, "", ""),
        );
        let addresses = |text: String, key: &str, addresses: &str| {
            let single = format!("{key}_addrs = [\"10.77.0.2\"]");
            assert!(text.contains(&single));
            text.replace(&single, &format!("{key}_addrs = [{addresses}]"))
        };
        let (ours, theirs) = match redirected {
            true => (
                ours,
                addresses(theirs, "local", "\"10.77.0.2\", \"10.2.0.1\""),
            ),
            false => (
                addresses(ours, "remote", "\"10.77.0.3\", \"10.2.0.0/24\""),
                addresses(theirs, "local", "\"10.2.0.1\""),
            ),
        };
        let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &ours);
        let b = Gateway::ikev2d_with(&wire.b, &directory.path().join("b"), &theirs);
        if redirected {
            a.swanctl(&["--initiate", "--child", "net"]);
            wire.assert_passes("before");
            b.swanctl(&["--redirect", "--ike", "gw", "--gateway", "10.2.0.1"]);
        } else {
            b.swanctl(&["--initiate", "--child", "net"]);
        }
        a.wait_sas("the tunnel", |sas| {
            installed(sas) == 1 && sas.contains("'b.test' @ 10.2.0.1")
        });
        wire.assert_passes("inside");
    }
}

/// `keyingtries = 0`: it goes on also while this host has no way to the peer.
#[test]
fn a_tunnel_is_tried_again_until_there_is_a_way_to_the_peer() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    wire.a.ip("addr del 10.77.0.1/24 dev wire").unwrap();
    let text = impatient(1, "keyingtries = 0", "start_action = \"start\"");
    let text = text.replace("local_addrs = [\"10.77.0.1\"]\n", "");
    let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &text);
    let _b = Gateway::ikev2d_with(&wire.b, &directory.path().join("b"), &impatient(2, "", ""));
    let end = Instant::now() + Duration::from_secs(60);
    let tries = || {
        std::fs::read_to_string(&a.log)
            .unwrap()
            .matches("could not be started")
            .count()
    };
    while tries() < 2 {
        assert!(Instant::now() < end, "{}", a.tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    wire.a.address("wire", "10.77.0.1/24").unwrap();
    a.wait_sas("the tunnel", |sas| installed(sas) == 1);
    wire.assert_passes("at last");
}

/// B43: a trap policy's first packet starts the child, and waits for it.
#[test]
fn the_first_packet_sets_up_a_trapped_tunnel() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let trap = ours(1, IKE, ESP, "", "start_action = \"trap\"");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &trap);
    let b = Gateway::ikev2d(
        &wire.b,
        &directory.path().join("b"),
        &ours(2, IKE, ESP, "", ""),
    );
    let policies = a.swanctl(&["--list-pols"]);
    assert!(
        policies.contains("gw/net, TUNNEL") && policies.contains("10.2.0.0/24"),
        "{policies}"
    );
    assert!(a.swanctl(&["--list-sas"]).trim().is_empty());
    let (from, to) = ([10, 1, 0, 1].into(), [10, 2, 0, 1].into());
    a.wait_tun(&wire.a);
    probe(&wire.a, from, to, 5).unwrap();
    a.wait_sas("the tunnel", |sas| installed(sas) == 1);
    // Not even the first one is lost.
    a.wait_statistics("all five", |counts| counts["esp-sent"] == 5);
    b.wait_statistics("all five", |counts| counts["tun-sent"] == 5);
    let counts = a.statistics();
    let waited = counts["awaited"] >= 1 && counts["awaited-in-vain"] == 0;
    assert!(waited, "{counts:?}");
    wire.assert_passes("trapped");
    // And again after its end: the route has stayed.
    b.swanctl(&["--terminate", "--ike", "gw"]);
    a.wait_sas("the end", |sas| sas.trim().is_empty());
    probe(&wire.a, from, to, 5).unwrap();
    a.wait_sas("the tunnel again", |sas| installed(sas) == 1);
    wire.assert_passes("trapped again");
    // Many packets at once ask for one tunnel, also when only the child is missing.
    a.swanctl(&["--terminate", "--child", "net"]);
    a.wait_sas("the child's end", |sas| installed(sas) == 0);
    let flood = [
        "-q", "-w", "2", "-l", "100", "-c", "100", "-I", "10.1.0.1", "10.2.0.1",
    ];
    let _ = wire.a.run("ping", &flood);
    a.wait_sas("one tunnel", |sas| installed(sas) >= 1);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let sas = a.swanctl(&["--list-sas"]);
    assert_eq!(installed(&sas), 1, "{sas}");
}

#[test]
fn a_wrong_secret_gives_no_tunnel() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "", ""),
    );
    let other = ours(2, IKE, ESP, "", "")
        + "[secrets.ike-other]\nids = [\"a.test\", \"b.test\"]\nsecret = \"another secret entirely\"\n";
    let b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &other);
    let said = a
        .try_swanctl(&["--initiate", "--child", "net"])
        .unwrap_err();
    assert!(said.contains("AUTHENTICATION_FAILED"), "{said}");
    for gateway in [&a, &b] {
        gateway.wait_sas("nothing", |sas| !sas.contains("ESTABLISHED"));
    }
}

/// B53: a child is rekeyed by what it has carried, and ends by that; no packet is lost to the first, and none
/// passes after the second.
#[test]
fn what_a_child_has_carried_rekeys_it_and_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (from, to) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1]));
    let limits = "rekey_packets = 10\nlife_packets = 1000\nrand_packets = 0";
    let a = ours(1, IKE, ESP, "", limits);
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &a);
    let b = ours(2, IKE, ESP, "", "rekey_time = \"0s\"\nlife_packets = 60");
    let b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &b);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("before");
    let spi = |sas: &str| {
        let mut lines = sas.lines().map(str::trim_start);
        let line = lines.find(|line| line.starts_with("in "));
        line.and_then(|line| line.split_whitespace().nth(1).map(str::to_owned))
    };
    let first = spi(&a.swanctl(&["--list-sas"]));
    let report = ping(&wire.a, from, to, 30).unwrap();
    assert_eq!(report.received, 30, "{report:?}");
    let sas = a.wait_sas("another child SA", |sas| {
        installed(sas) == 1 && spi(sas) != first
    });
    assert!(spi(&sas).is_some(), "{sas}");

    // Who rekeys by nothing ends it.
    drop(a);
    let a = ours(1, IKE, ESP, "", "rekey_time = \"0s\"");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a-later"), &a);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("with other limits");
    let report = probe(&wire.a, from, to, 120).unwrap();
    assert!((20..60).contains(&report.received), "{report:?}");
    b.wait_sas("the end", |sas| installed(sas) == 0);
}

/// B66: what a daemon leaves when it crashes holds no keys.
#[test]
fn a_daemon_leaves_no_core() {
    let directory = tempfile::tempdir().unwrap();
    let (_wire, mut a, _b) = pair(directory.path(), "");
    a.swanctl(&["--initiate", "--child", "net"]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", a.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
    assert!(a.stop());
}
