// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B42: route-based VPNs: an interface for each, selectors that fit everything, and the host's routes
//! say what goes through which.

mod gateway;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, SECRET, Wire, rekey};
use netlab::Namespace;
use netlab::traffic::{await_answer, ping, probe};

const INNER: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 1)),
];

/// An interface, and a connection of everything that is bound to it.
fn vpn(own: u8, number: u8, name: &str, child: &str) -> String {
    let peer = 3 - own;
    format!(
        "[interfaces.{name}0]\naddrs = [\"169.254.{number}.{own}/30\"]\n\
         [connections.{name}]\nversion = 2\nlocal_addrs = [\"10.77.0.{own}\"]\n\
         remote_addrs = [\"10.77.0.{peer}\"]\n\
         local = {{ auth = \"psk\", id = \"{name}-{own}.test\" }}\n\
         remote = {{ auth = \"psk\", id = \"{name}-{peer}.test\" }}\n\
         [connections.{name}.children.{name}]\ninterface = \"{name}0\"\n\
         local_ts = [\"0.0.0.0/0\"]\nremote_ts = [\"0.0.0.0/0\"]\n{child}\n"
    )
}

fn start(namespace: &Namespace, directory: &Path, vpns: &str) -> Gateway {
    let configuration = format!("{vpns}[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
    let gateway = Gateway::ikev2d_with(namespace, directory, &configuration);
    // Who answers has its interfaces.
    gateway.swanctl(&["--list-conns"]);
    gateway
}

/// Packets that an interface has carried, either way.
fn carried(namespace: &Namespace, interface: &str) -> u64 {
    let text = namespace
        .ip(&format!("-s -j link show {interface}"))
        .unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let stats = &all[0]["stats64"];
    let of = |way: &str| stats[way]["packets"].as_u64().unwrap();
    of("rx") + of("tx")
}

/// Leads what is behind the peer to an interface, at both ends.
fn lead_by(wire: &Wire, interface: &str) {
    for (namespace, own) in [(&wire.a, 1), (&wire.b, 2)] {
        let peer = 3 - own;
        let route = format!("route replace 10.{peer}.0.0/24 dev {interface} src 10.{own}.0.1");
        namespace.ip(&route).unwrap();
    }
}

/// B42, B55: the host's routes choose between two VPNs; a loaded third one leaves both alone.
#[test]
fn routes_say_which_of_two_tunnels_of_everything_takes_a_packet() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let both = |own| vpn(own, 1, "blue", "") + &vpn(own, 2, "red", "");
    let a = start(&wire.a, &directory.path().join("a"), &both(1));
    let b = start(&wire.b, &directory.path().join("b"), &both(2));
    let routes = wire.a.ip("route").unwrap();
    for name in ["blue", "red"] {
        a.swanctl(&["--initiate", "--child", name]);
    }
    let sas = a.swanctl(&["--list-sas", "--raw"]);
    assert!(
        sas.contains("interface=blue0") && sas.contains("interface=red0"),
        "{sas}"
    );
    // The daemon sets none for them.
    assert_eq!(wire.a.ip("route").unwrap(), routes);
    let rules = wire.a.ip("rule").unwrap();
    assert!(!rules.contains("4301"), "{rules}");

    // The interfaces' own ends.
    for number in [1, 2] {
        let [own, peer] = [1, 2].map(|end| IpAddr::from([169, 254, number, end]));
        await_answer(&wire.a, own, peer);
    }

    let [from, to] = INNER;
    for (by, other) in [("blue0", "red0"), ("red0", "blue0")] {
        lead_by(&wire, by);
        let before = [
            (&wire.a, by),
            (&wire.b, by),
            (&wire.a, other),
            (&wire.b, other),
        ];
        let counts = before.map(|(namespace, name)| carried(namespace, name));
        let report = ping(&wire.a, from, to, 5).unwrap();
        assert_eq!(report.received, 5, "by {by}: {report:?}\n{}", a.tail());
        let after = before.map(|(namespace, name)| carried(namespace, name));
        for at in 0..2 {
            assert!(after[at] >= counts[at] + 10, "{by}: {counts:?}, {after:?}");
            assert!(
                after[at + 2] < counts[at + 2] + 5,
                "{by}: {counts:?}, {after:?}"
            );
        }
    }
    rekey::child_under_pings(&b, &a, "red", (&wire.a, from, to));
    let report = ping(&wire.a, from, to, 5).unwrap();
    assert_eq!(report.received, 5, "after a rekeying: {report:?}");

    // A reload takes one away, and leaves the other as it is.
    lead_by(&wire, "blue0");
    let file = directory.path().join("a").join("ikev2d.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&vpn(1, 2, "red", ""), "")).unwrap();
    a.swanctl(&["--reload-settings"]);
    let end = Instant::now() + PATIENCE;
    while wire.a.ip("link show red0").is_ok() {
        assert!(Instant::now() < end, "{}", a.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    let report = ping(&wire.a, from, to, 5).unwrap();
    assert_eq!(report.received, 5, "after the reload: {report:?}");
    // What comes through the SA whose interface is gone comes out nowhere.
    lead_by_b(&wire, "red0");
    let report = probe(&wire.b, to, from, 2).unwrap();
    assert_eq!(report.received, 0, "{report:?}");
    // And it can come back.
    fs::write(&file, text).unwrap();
    a.swanctl(&["--reload-settings"]);
    a.swanctl(&["--terminate", "--ike", "red"]);
    a.swanctl(&["--initiate", "--child", "red"]);
    lead_by(&wire, "red0");
    await_answer(&wire.a, from, to);
}

fn lead_by_b(wire: &Wire, interface: &str) {
    let route = format!("route replace 10.1.0.0/24 dev {interface} src 10.2.0.1");
    wire.b.ip(&route).unwrap();
}

/// B43: whatever is routed there.
#[test]
fn the_first_packet_that_is_routed_to_an_interface_sets_its_tunnel_up() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let trap = "start_action = \"trap\"";
    let both = |own| vpn(own, 1, "blue", trap) + &vpn(own, 2, "red", trap);
    let a = start(&wire.a, &directory.path().join("a"), &both(1));
    let b = start(&wire.b, &directory.path().join("b"), &both(2));
    lead_by(&wire, "red0");
    let [from, to] = INNER;
    await_answer(&wire.a, from, to);
    for gateway in [&a, &b] {
        let sas = gateway.swanctl(&["--list-sas"]);
        assert!(sas.contains("red: #") && !sas.contains("blue: #"), "{sas}");
    }
}
