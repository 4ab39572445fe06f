// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses out of pools (RFC 7296 §3.15) with strongSwan: either end gives them to the other; and between two
//! of ours, with all that comes along.

mod gateway;

use std::net::IpAddr;

use gateway::{Gateway, Wire, ours, rekey, theirs, wait};
use netlab::Namespace;
use netlab::traffic::{await_answer, ping};

const SUITE: (&str, &str) = ("aes256gcm16-prfsha384-x25519", "aes128gcm16");

fn assert_pings(wire: &Wire, a: [u8; 4], b: [u8; 4], when: &str) {
    let (a, b) = (IpAddr::from(a), IpAddr::from(b));
    await_answer(&wire.a, a, b);
    for (namespace, from, to) in [(&wire.a, a, b), (&wire.b, b, a)] {
        let report = ping(namespace, from, to, 5).unwrap();
        assert_eq!(report.received, 5, "{when}: {from} to {to}: {report:?}");
    }
}

fn has_address(namespace: &Namespace, address: &str) -> bool {
    let output = namespace.command("ip").args(["-o", "addr"]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).contains(address)
}

/// S60, S62: we ask, strongSwan gives; the address is on our interface as long as the IKE SA is there.
#[test]
fn strongswan_gives_us_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = SUITE;
    let its = theirs(2, ike, esp)
        .replace("version = 2\n", "version = 2\n pools = home\n")
        .replace("remote_ts = 10.1.0.0/24", "remote_ts = dynamic");
    // What closes the connections closes the pools then.
    let its = its + "\n}\npools {\n home {\n addrs = 10.3.0.0/28\n dns = 10.2.0.53\n }\n";
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &its) else {
        return;
    };
    let told = directory.path().join("told");
    let hook = directory.path().join("hook");
    let script = format!(
        "#!/bin/sh\necho \"$1 $INTERFACE $ADDRESSES $DNS_SERVERS\" >> {}\n",
        told.display()
    );
    std::fs::write(&hook, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, executable).unwrap();
    let mine = ours(1, ike, esp, "vips = [\"0.0.0.0\"]", "")
        .replace("local_ts = [\"10.1.0.0/24\"]", "local_ts = [\"dynamic\"]");
    let mine = format!("resolve_hook = {hook:?}\n{mine}");
    let mut a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &mine);
    a.swanctl(&["--initiate", "--child", "net"]);
    let sas = a.swanctl(&["--list-sas"]);
    assert!(
        sas.contains("10.3.0.1/32") && sas.contains("[10.3.0.1]"),
        "{sas}"
    );
    assert!(has_address(&wire.a, "10.3.0.1/32"));
    assert_pings(
        &wire,
        [10, 3, 0, 1],
        [10, 2, 0, 1],
        "with an address of theirs",
    );
    rekey::ike(&a, &b, "gw");
    rekey::child(&b, &a, "net");
    assert_pings(&wire, [10, 3, 0, 1], [10, 2, 0, 1], "after rekeyings");
    a.swanctl(&["--terminate", "--ike", "gw"]);
    a.wait_sas("the end", |sas| sas.trim().is_empty());
    wait("the address's end", || !has_address(&wire.a, "10.3.0.1/32"));
    // And the same again, up to the daemon's end.
    a.swanctl(&["--initiate", "--child", "net"]);
    assert_pings(&wire, [10, 3, 0, 1], [10, 2, 0, 1], "once more");
    assert!(a.stop());
    let told = || std::fs::read_to_string(&told).unwrap();
    wait("the hook's last call", || told().lines().count() >= 4);
    let (up, down) = ("up esp0 10.3.0.1 10.2.0.53", "down esp0 10.3.0.1 10.2.0.53");
    assert_eq!(told().lines().collect::<Vec<_>>(), [up, down, up, down]);
}

/// S60: strongSwan asks, we give; the lease outlives our daemon.
#[test]
fn we_give_strongswan_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = SUITE;
    let its = theirs(2, ike, esp)
        .replace("version = 2\n", "version = 2\n vips = 0.0.0.0\n")
        .replace("local_ts = 10.2.0.0/24", "local_ts = dynamic");
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &its) else {
        return;
    };
    let mine = ours(1, ike, esp, "pools = [\"home\"]", "")
        .replace("remote_ts = [\"10.2.0.0/24\"]", "remote_ts = [\"dynamic\"]");
    let pool = |first: u8| {
        format!("[pools.home]\naddrs = \"10.3.0.{first}-10.3.0.9\"\ndns = [\"10.1.0.53\"]\n")
    };
    let home = directory.path().join("a");
    let mut a = Gateway::ikev2d(&wire.a, &home, &(mine.clone() + &pool(7)));
    b.swanctl(&["--initiate", "--child", "net"]);
    assert_pings(
        &wire,
        [10, 1, 0, 1],
        [10, 3, 0, 7],
        "with an address of ours",
    );
    let pools = a.swanctl(&["--list-pools", "--leases"]);
    assert!(
        pools.contains("10.3.0.7") && pools.contains("b.test"),
        "{pools}"
    );
    assert!(pools.contains("online"), "{pools}");
    b.swanctl(&["--terminate", "--ike", "gw"]);
    a.wait_sas("the end", |sas| sas.trim().is_empty());
    assert!(a.swanctl(&["--list-pools", "--leases"]).contains("offline"));
    assert!(a.stop());
    drop(a);
    // The pool begins elsewhere now, and its owner gets its own address all the same.
    let a = Gateway::ikev2d(&wire.a, &home, &(mine + &pool(3)));
    b.swanctl(&["--initiate", "--child", "net"]);
    assert_pings(&wire, [10, 1, 0, 1], [10, 3, 0, 7], "after a restart");
    drop(a);
}

/// S60 to S63, S65, S67, S69, S71, S72, S74: addresses of either family out of our own pools are on the interface,
/// and what came along is handed to the program and listed, until it is undone.
#[test]
fn all_that_a_gateway_gives_is_there_and_undone() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    wire.b.address("lo", "2001:db8:2::1/128").unwrap();
    let (ike, esp) = SUITE;
    let nets = "[\"10.2.0.0/24\", \"2001:db8:2::/64\"]";
    let its = ours(2, ike, esp, "pools = [\"four\", \"six\"]", "")
        .replace(
            "local_ts = [\"10.2.0.0/24\"]",
            &format!("local_ts = {nets}"),
        )
        .replace("remote_ts = [\"10.1.0.0/24\"]", "remote_ts = [\"dynamic\"]")
        + "[pools.four]\naddrs = \"10.3.0.0/28\"\ndns = [\"10.2.0.53\"]\nnbns = [\"10.2.0.42\"]\n\
           dhcp = [\"10.2.0.67\"]\nnetmask = [\"255.255.255.240\"]\nsubnet = [\"10.2.0.0/24\"]\n\
           [pools.six]\naddrs = \"2001:db8:3::/64\"\ndns = [\"2001:db8:2::53\"]\n\
           dhcp = [\"2001:db8:2::547\"]\nsubnet = [\"2001:db8:2::/64\"]\n";
    let _b = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &its);
    let told = directory.path().join("told");
    let hook = directory.path().join("hook");
    let names = [
        "ADDRESSES",
        "DNS_SERVERS",
        "NBNS_SERVERS",
        "DHCP_SERVERS",
        "NETMASKS",
        "SUBNETS",
    ];
    let values = names.map(|name| format!("${name}")).join(" | ");
    let script = format!("#!/bin/sh\necho \"$1 | {values}\" >> {}\n", told.display());
    std::fs::write(&hook, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, executable).unwrap();
    let mine = ours(1, ike, esp, "vips = [\"0.0.0.0\", \"::\"]", "")
        .replace("local_ts = [\"10.1.0.0/24\"]", "local_ts = [\"dynamic\"]")
        .replace(
            "remote_ts = [\"10.2.0.0/24\"]",
            &format!("remote_ts = {nets}"),
        );
    let mine = format!("resolve_hook = {hook:?}\n{mine}");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &mine);
    a.swanctl(&["--initiate", "--child", "net"]);
    let own = ["10.3.0.1/32", "2001:db8:3::1/128"];
    for address in own {
        assert!(has_address(&wire.a, address), "{address}\n{}", a.tail());
    }
    // It is ours at once: routes can have it for their source.
    let six = wire
        .a
        .ip("-6 -o addr show dev esp0 to 2001:db8:3::1")
        .unwrap();
    assert!(six.contains("nodad"), "{six}");
    assert_pings(&wire, [10, 3, 0, 1], [10, 2, 0, 1], "IPv4");
    let six = ["2001:db8:3::1", "2001:db8:2::1"].map(|text| text.parse().unwrap());
    await_answer(&wire.a, six[0], six[1]);
    let report = ping(&wire.a, six[0], six[1], 5).unwrap();
    assert_eq!(report.received, 5, "IPv6: {report:?}");
    let sas = a.swanctl(&["--list-sas", "--raw"]);
    for listed in [
        "local-vips=[10.3.0.1 2001:db8:3::1]",
        "dns=[10.2.0.53 2001:db8:2::53]",
        "nbns=[10.2.0.42]",
        "dhcp=[10.2.0.67 2001:db8:2::547]",
        "netmask=[255.255.255.240]",
        "subnet=[10.2.0.0/24 2001:db8:2::/64]",
    ] {
        assert!(sas.contains(listed), "{listed}: {sas}");
    }
    a.swanctl(&["--terminate", "--ike", "gw"]);
    for address in own {
        wait("an address's end", || !has_address(&wire.a, address));
    }
    let told = || std::fs::read_to_string(&told).unwrap_or_default();
    wait("the hook's last call", || told().lines().count() >= 2);
    let along = "10.3.0.1 2001:db8:3::1 | 10.2.0.53 2001:db8:2::53 | 10.2.0.42 | 10.2.0.67 2001:db8:2::547 | \
                 255.255.255.240 | 10.2.0.0/24 2001:db8:2::/64";
    let calls = ["up", "down"].map(|verb| format!("{verb} | {along}"));
    assert_eq!(told().lines().collect::<Vec<_>>(), calls);
}
