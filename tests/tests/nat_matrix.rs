// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NATs in every place between two or more `ikev2d`, made of nftables in namespaces: each tunnel carries
//! traffic both ways, is rekeyed under it, and keeps its mapping. And a tunnel that moves with its traffic.

use std::net::IpAddr;
use std::path::Path;

use netlab::Namespace;
use netlab::link::veth;
use netlab::traffic::{await_answer, ping, probe};

mod gateway;

use gateway::{Gateway, rekey, router};

const IKE: &str = "aes128gcm16-prfsha256-x25519";

/// What comes to the router for IKE goes to the host behind it, as with a forwarded port.
fn forward(router: &Namespace, to: &str) {
    router
        .nft(&format!(
            "add chain ip nat prerouting {{ type nat hook prerouting priority -100; }}\n\
             add rule ip nat prerouting iifname \"out\" udp dport {{ 500, 4500 }} dnat to {to}\n"
        ))
        .unwrap();
}

/// A gateway with a net of its own: 10.OWN.0.0/24.
fn gateway(namespace: &Namespace, directory: &Path, own: u8, other: u8, peer: &str) -> Gateway {
    namespace
        .address("lo", &format!("10.{own}.0.1/32"))
        .unwrap();
    let remote = match peer {
        "" => String::new(),
        peer => format!("remote_addrs = [\"{peer}\"]\n"),
    };
    let ts = if other == 0 {
        "10.128.0.0/9".to_owned()
    } else {
        format!("10.{other}.0.0/24")
    };
    let id = if other == 0 {
        String::new()
    } else {
        format!(", id = \"{other}.test\"")
    };
    let connections = format!(
        "[connections.gw]\nproposals = [\"{IKE}\"]\nunique = \"never\"\n{remote}\
         local = {{ auth = \"psk\", id = \"{own}.test\" }}\nremote = {{ auth = \"psk\"{id} }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.{own}.0.0/24\"]\n\
         remote_ts = [\"{ts}\"]\nesp_proposals = [\"aes128gcm16\"]\n"
    );
    Gateway::ikev2d(namespace, &directory.join(format!("{own}")), &connections)
}

fn passes(ends: [(&Namespace, u8); 2], when: &str) {
    let address = |number: u8| IpAddr::from([10, number, 0, 1]);
    await_answer(ends[0].0, address(ends[0].1), address(ends[1].1));
    for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let report = ping(from.0, address(from.1), address(to.1), 5).unwrap();
        assert_eq!(
            report.received, 5,
            "{when}: {} to {}: {report:?}",
            from.1, to.1
        );
    }
}

/// A tunnel's life from the initiator's side, with traffic at each stage.
fn live(initiator: (&Namespace, u8, &Gateway), responder: (&Namespace, u8, &Gateway)) {
    let ends = [(initiator.0, initiator.1), (responder.0, responder.1)];
    initiator.2.swanctl(&["--initiate", "--child", "net"]);
    passes(ends, "after set-up");
    for (by, other, what) in [
        (initiator.2, responder.2, "we"),
        (responder.2, initiator.2, "the peer"),
    ] {
        rekey::child(by, other, "net");
        passes(ends, &format!("{what} rekeyed the child"));
        rekey::ike(by, other, "gw");
        passes(ends, &format!("{what} rekeyed the IKE SA"));
    }
}

/// S111: only the responder is behind a NAT, which forwards its ports.
#[test]
fn the_responder_is_behind_a_nat() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    let nat = router("nat", (&b, "10.98.0"), (&a, "10.88.0"));
    forward(&nat, "10.98.0.2");
    let responder = gateway(&b, directory.path(), 2, 130, "");
    let initiator = gateway(&a, directory.path(), 130, 2, "10.88.0.1");
    live((&a, 130, &initiator), (&b, 2, &responder));
    let sas = initiator.swanctl(&["--list-sas"]);
    assert!(sas.contains("10.88.0.1[4500]"), "{sas}");
}

/// S112: both are.
#[test]
fn both_are_behind_nats() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [a, b, wide] = ["a", "b", "wide"].map(|name| Namespace::new(name).unwrap());
    wide.sysctl("net.ipv4.ip_forward", "1").unwrap();
    let nat_a = router("nata", (&a, "10.99.0"), (&wide, "10.88.0"));
    let nat_b = router("natb", (&b, "10.98.0"), (&wide, "10.87.0"));
    nat_a.route("default via 10.88.0.2").unwrap();
    nat_b.route("default via 10.87.0.2").unwrap();
    forward(&nat_b, "10.98.0.2");
    let responder = gateway(&b, directory.path(), 2, 130, "");
    let initiator = gateway(&a, directory.path(), 130, 2, "10.87.0.1");
    live((&a, 130, &initiator), (&b, 2, &responder));
    let sas = responder.swanctl(&["--list-sas"]);
    assert!(
        sas.contains("10.88.0.1["),
        "the translated address is seen: {sas}"
    );
}

/// S110: two NATs, one after the other.
#[test]
fn two_nats_are_in_a_row() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    // The outer one's inside is the inner one's outside.
    let outer = Namespace::new("outer").unwrap();
    let inner = router("inner", (&a, "10.99.0"), (&outer, "10.89.0"));
    inner.route("default via 10.89.0.2").unwrap();
    veth((&outer, "out"), (&b, "wire")).unwrap();
    outer.address("out", "10.88.0.1/24").unwrap();
    b.address("wire", "10.88.0.2/24").unwrap();
    outer.masquerade("out").unwrap();
    let responder = gateway(&b, directory.path(), 2, 130, "");
    let initiator = gateway(&a, directory.path(), 130, 2, "10.88.0.2");
    live((&a, 130, &initiator), (&b, 2, &responder));
    let sas = responder.swanctl(&["--list-sas"]);
    assert!(
        sas.contains("10.88.0.1["),
        "the outer NAT's address is seen: {sas}"
    );
}

/// S109: several initiators behind one NAT, each with its own mapping and its own traffic.
#[test]
fn several_initiators_are_behind_one_nat() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [nat, b] = ["nat", "b"].map(|name| Namespace::new(name).unwrap());
    veth((&nat, "out"), (&b, "wire")).unwrap();
    nat.address("out", "10.88.0.1/24").unwrap();
    b.address("wire", "10.88.0.2/24").unwrap();
    nat.masquerade("out").unwrap();
    let responder = gateway(&b, directory.path(), 2, 0, "");
    let hosts: Vec<(u8, Namespace, Gateway)> = (130..133)
        .map(|number| {
            let host = Namespace::new(&format!("h{number}")).unwrap();
            veth((&host, "wire"), (&nat, &format!("in{number}"))).unwrap();
            let net = format!("10.99.{number}");
            nat.address(&format!("in{number}"), &format!("{net}.1/24"))
                .unwrap();
            host.address("wire", &format!("{net}.2/24")).unwrap();
            host.route(&format!("default via {net}.1")).unwrap();
            let gateway = gateway(&host, directory.path(), number, 2, "10.88.0.2");
            (number, host, gateway)
        })
        .collect();
    for (_, _, gateway) in &hosts {
        gateway.swanctl(&["--initiate", "--child", "net"]);
    }
    for round in 0..2 {
        for (number, host, gateway) in &hosts {
            passes([(host, *number), (&b, 2)], &format!("round {round}"));
            rekey::ike(gateway, &responder, "gw");
        }
    }
    let sas = responder.swanctl(&["--list-sas"]);
    assert_eq!(sas.matches("ESTABLISHED").count(), 3, "{sas}");
    assert_eq!(sas.matches("10.88.0.1[").count(), 3, "{sas}");
}

/// B14, B63: a tunnel moves to another address of its initiator while traffic runs; what is lost is what
/// was under way.
#[test]
fn a_tunnel_moves_with_its_traffic() {
    netlab::ensure_privileges().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    for (device, net) in [("first", "10.77.0"), ("second", "10.78.0")] {
        veth((&a, device), (&b, device)).unwrap();
        a.address(device, &format!("{net}.1/24")).unwrap();
        b.address(device, &format!("{net}.2/24")).unwrap();
    }
    // The responder has an address that both ways lead to.
    b.address("lo", "10.66.0.2/32").unwrap();
    a.route("10.66.0.2 via 10.77.0.2").unwrap();
    let configuration = |own: u8, other: u8, remote: &str| {
        format!(
            "[connections.gw]\nproposals = [\"{IKE}\"]\nmobike = true\n{remote}\
             local = {{ auth = \"psk\", id = \"{own}.test\" }}\n\
             remote = {{ auth = \"psk\", id = \"{other}.test\" }}\n\
             [connections.gw.children.net]\nlocal_ts = [\"10.{own}.0.0/24\"]\n\
             remote_ts = [\"10.{other}.0.0/24\"]\nesp_proposals = [\"aes128gcm16\"]\n"
        )
    };
    a.address("lo", "10.130.0.1/32").unwrap();
    b.address("lo", "10.2.0.1/32").unwrap();
    let responder = Gateway::ikev2d(
        &b,
        &directory.path().join("b"),
        &configuration(2, 130, "local_addrs = [\"10.66.0.2\"]\n"),
    );
    let initiator = Gateway::ikev2d(
        &a,
        &directory.path().join("a"),
        &configuration(130, 2, "remote_addrs = [\"10.66.0.2\"]\n"),
    );
    initiator.swanctl(&["--initiate", "--child", "net"]);
    passes([(&a, 130), (&b, 2)], "before the move");
    let report = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let (from, to) = (IpAddr::from([10, 130, 0, 1]), IpAddr::from([10, 2, 0, 1]));
            probe(&a, from, to, 60).unwrap()
        });
        std::thread::sleep(std::time::Duration::from_millis(1500));
        a.ip("route replace 10.66.0.2 via 10.78.0.2").unwrap();
        a.ip("addr del 10.77.0.1/24 dev first").unwrap();
        traffic.join().unwrap()
    });
    // It is looked for once a second.
    assert!(report.received >= 40, "{report:?}\n{}", initiator.tail());
    for gateway in [&initiator, &responder] {
        let sas = gateway.wait_sas("the new address", |sas| sas.contains("10.78.0.1[4500]"));
        assert_eq!(sas.matches("ESTABLISHED").count(), 1, "{sas}");
    }
    passes([(&a, 130), (&b, 2)], "after the move");
}
