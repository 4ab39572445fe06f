// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A NAT between our daemon and strongSwan's: whoever sits behind it begins, both find it, and the
//! tunnel carries traffic both ways, is rekeyed and deleted.

use std::net::IpAddr;

use netlab::Namespace;
use netlab::link::veth;
use netlab::traffic::{await_answer, ping};

mod gateway;

use gateway::{Gateway, rekey};

const IKE: &str = "aes128gcm16-prfsha256-ecp256";
const ESP: &str = "aes128gcm16";

/// A host behind a router that translates its address, and a host on the other side.
struct Translated {
    inside: Namespace,
    outside: Namespace,
    _router: Namespace,
}

impl Translated {
    fn new() -> Self {
        netlab::ensure_privileges().unwrap();
        let [inside, router, outside] =
            ["inside", "router", "outside"].map(|name| Namespace::new(name).unwrap());
        veth((&inside, "wire"), (&router, "in")).unwrap();
        veth((&router, "out"), (&outside, "wire")).unwrap();
        inside.address("wire", "10.99.0.2/24").unwrap();
        router.address("in", "10.99.0.1/24").unwrap();
        router.address("out", "10.88.0.1/24").unwrap();
        outside.address("wire", "10.88.0.2/24").unwrap();
        inside.route("default via 10.99.0.1").unwrap();
        inside.address("lo", "10.1.0.1/32").unwrap();
        outside.address("lo", "10.2.0.1/32").unwrap();
        router.masquerade("out").unwrap();
        Self {
            inside,
            outside,
            _router: router,
        }
    }

    fn assert_passes(&self, when: &str) {
        let (a, b) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1]));
        await_answer(&self.inside, a, b);
        for (namespace, from, to) in [(&self.inside, a, b), (&self.outside, b, a)] {
            let report = ping(namespace, from, to, 5).unwrap();
            assert_eq!(report.received, 5, "{when}: {from} to {to}: {report:?}");
        }
    }
}

/// Our end: `own` is the number of our net, and an empty `peer` is anybody.
fn ours(own: u8, peer: &str) -> String {
    let other = 3 - own;
    let remote = if peer.is_empty() {
        String::new()
    } else {
        format!("remote_addrs = [\"{peer}\"]")
    };
    format!(
        "[connections.gw]\nproposals = [\"{IKE}\"]\n{remote}\n\
         local = {{ auth = \"psk\", id = \"{own}.test\" }}\n\
         remote = {{ auth = \"psk\", id = \"{other}.test\" }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.{own}.0.0/24\"]\n\
         remote_ts = [\"10.{other}.0.0/24\"]\nesp_proposals = [\"{ESP}\"]\n"
    )
}

/// strongSwan's end.
fn theirs(own: u8, peer: &str) -> String {
    let other = 3 - own;
    format!(
        "gw {{\n version = 2\n remote_addrs = {peer}\n proposals = {IKE}\n\
         local {{\n auth = psk\n id = {own}.test\n }}\n remote {{\n auth = psk\n id = {other}.test\n }}\n\
         children {{ net {{\n local_ts = 10.{own}.0.0/24\n remote_ts = 10.{other}.0.0/24\n\
         esp_proposals = {ESP}\n start_action = none\n }} }} }}"
    )
}

fn live(net: &Translated, inside: &Gateway, outside: &Gateway) {
    inside.swanctl(&["--initiate", "--child", "net"]);
    let sas = outside.wait_sas("the tunnel", |sas| sas.contains("INSTALLED"));
    assert!(
        sas.contains("10.88.0.1["),
        "the translated address is seen: {sas}"
    );
    assert!(sas.contains("10.88.0.2[4500]"), "both have floated: {sas}");
    net.assert_passes("after set-up");
    rekey::child(inside, outside, "net");
    net.assert_passes("after the child's rekeying");
    rekey::ike(inside, outside, "gw");
    net.assert_passes("after the IKE SA's rekeying");
    inside.swanctl(&["--terminate", "--ike", "gw"]);
    outside.wait_sas("the end", |sas| sas.trim().is_empty());
}

/// S104 to S108: we begin from behind the NAT.
#[test]
fn we_are_behind_the_nat() {
    let directory = tempfile::tempdir().unwrap();
    let net = Translated::new();
    let path = directory.path().join("b");
    let Some(outside) = Gateway::strongswan(&net.outside, &path, &theirs(2, "%any")) else {
        return;
    };
    let inside = Gateway::ikev2d(
        &net.inside,
        &directory.path().join("a"),
        &ours(1, "10.88.0.2"),
    );
    live(&net, &inside, &outside);
}

/// S104 to S107, S109: strongSwan begins from behind it.
#[test]
fn strongswan_is_behind_the_nat() {
    let directory = tempfile::tempdir().unwrap();
    let net = Translated::new();
    let path = directory.path().join("a");
    let Some(inside) = Gateway::strongswan(&net.inside, &path, &theirs(1, "10.88.0.2")) else {
        return;
    };
    let outside = Gateway::ikev2d(&net.outside, &directory.path().join("b"), &ours(2, ""));
    live(&net, &inside, &outside);
}

/// The same configuration for IKEv1.
fn v1(configuration: String) -> String {
    configuration
        .replace("version = 2", "version = 1")
        .replace("[connections.gw]\n", "[connections.gw]\nversion = 1\n")
        .replace(IKE, "aes256-sha256-modp2048")
}

/// S104 to S108 in IKEv1 (RFC 3947).
#[test]
fn we_are_behind_the_nat_in_ikev1() {
    let directory = tempfile::tempdir().unwrap();
    let net = Translated::new();
    let path = directory.path().join("b");
    let Some(outside) = Gateway::strongswan(&net.outside, &path, &v1(theirs(2, "%any"))) else {
        return;
    };
    let ours = v1(ours(1, "10.88.0.2"));
    let inside = Gateway::ikev2d(&net.inside, &directory.path().join("a"), &ours);
    live(&net, &inside, &outside);
}

/// S104 to S108 in IKEv1, the other way round.
#[test]
fn strongswan_is_behind_the_nat_in_ikev1() {
    let directory = tempfile::tempdir().unwrap();
    let net = Translated::new();
    let path = directory.path().join("a");
    let Some(inside) = Gateway::strongswan(&net.inside, &path, &v1(theirs(1, "10.88.0.2"))) else {
        return;
    };
    let ours = v1(ours(2, ""));
    let outside = Gateway::ikev2d(&net.outside, &directory.path().join("b"), &ours);
    live(&net, &inside, &outside);
}
