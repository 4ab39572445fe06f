// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two of our daemons, ESP in software: a tunnel is set up, carries traffic, is rekeyed and taken
//! down, all of it through strongSwan's own `swanctl`.

mod gateway;

use gateway::{Gateway, SECRET, Wire, ours};

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
        let spi = |sas: &str| {
            let line = sas
                .lines()
                .find(|line| line.trim_start().starts_with("in "));
            line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
        };
        let first = spi(&before);

        a.swanctl(&["--rekey", "--child", "net"]);
        let after = a.wait_sas("the new child SA", |sas| {
            installed(sas) == 1 && spi(sas) != first
        });
        wire.assert_still_passes("after the child's rekeying");

        let ike_spi = |sas: &str| {
            sas.lines()
                .next()
                .unwrap()
                .split("IKEv2")
                .nth(1)
                .unwrap()
                .to_owned()
        };
        let old = ike_spi(&after);
        b.swanctl(&["--rekey", "--ike", "gw"]);
        a.wait_sas("the new IKE SA", |sas| {
            sas.matches("ESTABLISHED").count() == 1 && ike_spi(sas) != old && installed(sas) == 1
        });
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
    let impatient = |own: u8, more: &str, child: &str| {
        let secret = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
        let connection = ours(own, IKE, ESP, more, child);
        format!("retransmit_timeout = 0.3\nretransmit_tries = 2\n{connection}\n{secret}")
    };
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
    netlab::traffic::ping(&wire.a, from, to, 5).unwrap();
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
    netlab::traffic::ping(&wire.a, from, to, 5).unwrap();
    a.wait_sas("the tunnel again", |sas| installed(sas) == 1);
    wire.assert_passes("trapped again");
    // Many packets at once ask for one tunnel, also when only the child is missing.
    a.swanctl(&["--terminate", "--child", "net"]);
    a.wait_sas("the child's end", |sas| installed(sas) == 0);
    let flood = [
        "-q", "-w", "2", "-l", "100", "-c", "100", "-I", "10.1.0.1", "10.2.0.1",
    ];
    let _ = wire.a.run("ping", &flood);
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
