// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MOBIKE (RFC 4555) with strongSwan: whoever began moves to another of its addresses while traffic runs, and takes
//! its IKE SA and child along.

mod gateway;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gateway::{Gateway, ours, theirs};
use netlab::Namespace;
use netlab::link::veth;
use netlab::traffic::{await_answer, ping, probe};

const SUITE: (&str, &str) = ("aes256gcm16-prfsha384-x25519", "aes128gcm16");
const INSIDE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 1)),
];

/// Two ways from `a` to an address of `b` that both lead to.
fn two_ways() -> [Namespace; 2] {
    netlab::ensure_privileges().unwrap();
    let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    for (device, net) in [("first", "10.77.0"), ("second", "10.78.0")] {
        veth((&a, device), (&b, device)).unwrap();
        a.address(device, &format!("{net}.1/24")).unwrap();
        b.address(device, &format!("{net}.2/24")).unwrap();
    }
    b.address("lo", "10.66.0.2/32").unwrap();
    a.route("10.66.0.2 via 10.77.0.2").unwrap();
    a.address("lo", "10.1.0.1/32").unwrap();
    b.address("lo", "10.2.0.1/32").unwrap();
    [a, b]
}

/// Five packets pass, either way.
fn assert_passes([a, b]: &[Namespace; 2], when: &str) {
    await_answer(a, INSIDE[0], INSIDE[1]);
    for (namespace, from, to) in [(a, INSIDE[0], INSIDE[1]), (b, INSIDE[1], INSIDE[0])] {
        let report = ping(namespace, from, to, 5).unwrap();
        assert_eq!(report.received, 5, "{when}: {from} to {to}");
    }
}

/// SPIs of the one IKE SA, which has one child and is at this address; nothing elsewhere.
fn at(address: &str, sas: &str) -> Option<String> {
    let children = sas.lines().filter(|line| line.contains(", reqid ")).count();
    let here = sas.contains(&format!("{address}["))
        && sas.matches("ESTABLISHED").count() == 1
        && (children, sas.matches("INSTALLED").count()) == (1, 1);
    let spis = sas.lines().next()?.split("IKEv2,").nth(1)?;
    here.then(|| spis.replace('*', ""))
}

/// The one in `a` has begun, and moves. (strongSwan's ESP in user space can't move a child's SAs: it rekeys them
/// at the new address.)
fn moves(net: &[Namespace; 2], a: &Gateway, b: &Gateway) {
    a.swanctl(&["--initiate", "--child", "net"]);
    assert_passes(net, "before the move");
    let before = a.wait_sas("the tunnel", |sas| at("10.77.0.1", sas).is_some());
    let (received, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let more = |what: &str| {
        let (so_far, end) = (
            received.load(Ordering::Relaxed),
            Instant::now() + Duration::from_secs(30),
        );
        while received.load(Ordering::Relaxed) == so_far {
            assert!(Instant::now() < end, "{what}: nothing passes\n{}", a.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::thread::scope(|scope| {
        let _stops = Stops(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let report = probe(&net[0], INSIDE[0], INSIDE[1], 2);
                received.fetch_add(report.map_or(0, |r| r.received), Ordering::Relaxed);
            }
        });
        more("before the move");
        net[0].ip("route replace 10.66.0.2 via 10.78.0.2").unwrap();
        net[0].ip("addr del 10.77.0.1/24 dev first").unwrap();
        for gateway in [a, b] {
            let after = gateway.wait_sas("the new address", |sas| at("10.78.0.1", sas).is_some());
            assert_eq!(at("10.77.0.1", &before), at("10.78.0.1", &after));
        }
        more("after the move");
    });
    assert_passes(net, "after the move");
    a.swanctl(&["--terminate", "--ike", "gw"]);
    b.wait_sas("the end", |sas| sas.trim().is_empty());
}

/// Sets what ends the traffic, also when a test fails under it.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Of us, where `own` is the number of our net.
fn our_words(own: u8) -> String {
    let words = ours(own, SUITE.0, SUITE.1, "mobike = true", "");
    words
        .replace("remote_addrs = [\"10.77.0.1\"]\n", "")
        .replace("local_addrs = [\"10.77.0.1\"]\n", "")
        .replace("10.77.0.2", "10.66.0.2")
}

fn their_words(own: u8) -> String {
    let words = theirs(own, SUITE.0, SUITE.1);
    words
        .replace(" local_addrs = 10.77.0.1\n", "")
        .replace(" remote_addrs = 10.77.0.1\n", "")
        .replace("10.77.0.2", "10.66.0.2")
}

/// B14, B63.
#[test]
fn we_move_and_strongswan_follows() {
    let (directory, net) = (tempfile::tempdir().unwrap(), two_ways());
    let home = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&net[1], &home, &their_words(2)) else {
        return;
    };
    let a = Gateway::ikev2d(&net[0], &directory.path().join("a"), &our_words(1));
    moves(&net, &a, &b);
}

/// B14, B63.
#[test]
fn strongswan_moves_and_we_follow() {
    let (directory, net) = (tempfile::tempdir().unwrap(), two_ways());
    let home = directory.path().join("a");
    let Some(a) = Gateway::strongswan(&net[0], &home, &their_words(1)) else {
        return;
    };
    let b = Gateway::ikev2d(&net[1], &directory.path().join("b"), &our_words(2));
    moves(&net, &a, &b);
}

/// B14: strongSwan tells us of its second address (RFC 4555 §3.4), and its first one goes, with no word to us or
/// with one (§3.6).
#[test]
fn we_go_where_strongswan_is_still() {
    for cut in ["addr del 10.77.0.2/24 dev first", "link set first down"] {
        let (directory, net) = (tempfile::tempdir().unwrap(), two_ways());
        let theirs = theirs(2, SUITE.0, SUITE.1)
            .replace(" local_addrs = 10.77.0.2\n", "")
            .replace(" remote_addrs = 10.77.0.1\n", "");
        let home = directory.path().join("b");
        let Some(b) = Gateway::strongswan(&net[1], &home, &theirs) else {
            return;
        };
        let ours = ours(1, SUITE.0, SUITE.1, "mobike = true\ndpd_delay = 1", "")
            .replace("local_addrs = [\"10.77.0.1\"]\n", "")
            .replace("\"10.77.0.2\"", "\"10.77.0.2\", \"10.78.0.2\"");
        let a = Gateway::ikev2d(&net[0], &directory.path().join("a"), &ours);
        a.swanctl(&["--initiate", "--child", "net"]);
        assert_passes(&net, "before");
        let before = a.wait_sas("the tunnel", |sas| at("10.77.0.2", sas).is_some());
        net[1].ip(cut).unwrap();
        for gateway in [&a, &b] {
            let after = gateway.wait_sas("the new address", |sas| at("10.78.0.2", sas).is_some());
            assert_eq!(at("10.77.0.2", &before), at("10.78.0.2", &after));
        }
        assert_passes(&net, cut);
    }
}
