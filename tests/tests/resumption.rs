// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B15: a tunnel whose ends have lost each other is resumed by a ticket (RFC 5723) between two daemons:
//! traffic flows again, and neither a key exchange nor a signature is made for it.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gateway::{Gateway, Wire, run};
use netlab::Namespace;
use pki::{Holder, Template, p256};

const IKE_SA_INIT: u8 = 34;
const IKE_AUTH: u8 = 35;
const IKE_SESSION_RESUME: u8 = 38;
const IKE_INTERMEDIATE: u8 = 43;

/// The end 10.77.0.OWN, with a certificate.
fn end(directory: &Path, root: &Holder, own: u8, more: &str) -> String {
    let (me, them) = if own == 1 { ("a", "b") } else { ("b", "a") };
    let peer = 3 - own;
    let holder = Template::end(&format!("{me}.test")).issue(p256(), Some(root));
    fs::create_dir_all(directory).unwrap();
    let write = |name: &str, octets: Vec<u8>| {
        let path = directory.join(name);
        fs::write(&path, octets).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("root.pem", root.certificate.to_pem().unwrap());
    write("own.pem", holder.certificate.to_pem().unwrap());
    write("own.key", holder.key.private_key_to_pem_pkcs8().unwrap());
    format!(
        "retransmit_timeout = 0.5\nretransmit_tries = 3\n\
         [connections.gw]\nlocal_addrs = [\"10.77.0.{own}\"]\nremote_addrs = [\"10.77.0.{peer}\"]\n\
         proposals = [\"aes128gcm16-prfsha256-x25519-ke1_mlkem768\"]\nresumption = \"1h\"\n{more}\n\
         local = {{ auth = \"ecdsa-256-sha256\", id = \"{me}.test\", certs = [\"own.pem\"] }}\n\
         remote = {{ auth = \"pubkey\", id = \"{them}.test\", cacerts = [\"root.pem\"], revocation = \"off\" }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.{own}.0.0/24\"]\n\
         remote_ts = [\"10.{peer}.0.0/24\"]\nesp_proposals = [\"aes128gcm16\"]\n\
         [secrets.private-own]\nfile = \"own.key\"\n"
    )
}

/// Has the kernel count what comes in of some exchanges, by the octet of IKE's header that tells them.
fn count_exchanges(namespace: &Namespace) {
    let mut rules = String::new();
    let mut counters = String::new();
    for exchange in [IKE_SA_INIT, IKE_AUTH, IKE_SESSION_RESUME, IKE_INTERMEDIATE] {
        counters += &format!("counter x{exchange} {{ }}\n");
        // Behind the UDP header, and on the other port behind the non-ESP marker, too.
        rules += &format!(
            "udp dport 500 @th,208,8 {exchange} counter name x{exchange}\n\
             udp dport 4500 @th,64,32 0 @th,240,8 {exchange} counter name x{exchange}\n"
        );
    }
    let script = format!(
        "table inet seen {{\n{counters}\
         chain in {{ type filter hook input priority 0;\n{rules}}}\n}}"
    );
    namespace.nft(&script).unwrap();
}

/// What was counted since the last time: IKE_SA_INIT, IKE_INTERMEDIATE, IKE_SESSION_RESUME, IKE_AUTH.
fn counted(namespace: &Namespace) -> [u64; 4] {
    let mut command = namespace.command("nft");
    command.args(["-j", "reset", "counters"]);
    let text = run(command).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    [IKE_SA_INIT, IKE_INTERMEDIATE, IKE_SESSION_RESUME, IKE_AUTH].map(|exchange| {
        let name = format!("x{exchange}");
        let all = all["nftables"].as_array().unwrap().iter();
        let mut named = all.filter(|one| one["counter"]["name"] == name.as_str());
        named.next().unwrap()["counter"]["packets"]
            .as_u64()
            .unwrap()
    })
}

/// One of a daemon's counters.
fn counter(of: &Gateway, name: &str) -> u64 {
    let text = of.swanctl(&["--counters"]);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(key, _)| key.trim() == name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {text}"));
    value.1.trim().parse().unwrap()
}

/// B15: the client's daemon gives its gateway up and comes back with its ticket: one exchange less than
/// with ML-KEM, and no signature at either end. A gateway that was killed has lost its keys of tickets:
/// it says so, and a full exchange follows at once.
#[test]
fn a_lost_tunnel_is_resumed_without_key_exchange_and_signature() {
    let directory = tempfile::tempdir().unwrap();
    let [of_a, of_b] = ["a", "b"].map(|name| directory.path().join(name));
    let wire = Wire::new();
    let root = Template::authority("Root").issue(p256(), None);
    count_exchanges(&wire.b);
    let a = end(&of_a, &root, 1, "dpd_delay = 1");
    let b = end(&of_b, &root, 2, "");
    let client = Gateway::ikev2d_with(&wire.a, &of_a, &a);
    let mut gateway = Gateway::ikev2d_with(&wire.b, &of_b, &b);
    wire.assert_blocked();

    let initiate = ["--initiate", "--child", "net"];
    client.swanctl(&initiate);
    wire.assert_passes("after a full exchange");
    let [init, intermediate, resume, auth] = counted(&wire.b);
    assert!(
        init >= 1 && intermediate >= 1 && auth >= 1,
        "{init} {intermediate} {auth}"
    );
    assert_eq!(resume, 0);
    let jobs = [counter(&client, "jobs"), counter(&gateway, "jobs")];
    assert!(
        jobs.iter().all(|jobs| *jobs >= 1),
        "each signs and verifies: {jobs:?}"
    );

    let cut = "table inet cut {\n chain in {\n type filter hook input priority -10;\n\
               meta l4proto udp drop;\n}\n}";
    wire.b.nft(cut).unwrap();
    let lost = |sas: &str| sas.trim().is_empty();
    client.wait_sas("the end of what nobody answers", lost);
    wire.b.nft("delete table inet cut").unwrap();
    let _ = counted(&wire.b);
    client.swanctl(&initiate);
    wire.assert_passes("after a resumption");
    let [init, intermediate, resume, auth] = counted(&wire.b);
    assert!(resume >= 1 && auth >= 1, "{resume} {auth}");
    assert_eq!([init, intermediate], [0, 0], "no key exchange");
    for end in [&client, &gateway] {
        assert_eq!(counter(end, "resumptions"), 1);
        assert_eq!(counter(end, "refused-tickets"), 0);
    }
    let now = [counter(&client, "jobs"), counter(&gateway, "jobs")];
    assert_eq!(now, jobs, "no signature");
    // The gateway has let the one go that it had not given up.
    gateway.wait_sas("one IKE SA", |sas| sas.matches("ESTABLISHED").count() == 1);

    gateway.kill();
    client.wait_sas("the end of what nobody answers", lost);
    let gateway = Gateway::ikev2d_with(&wire.b, &of_b, &b);
    let _ = counted(&wire.b);
    client.swanctl(&initiate);
    wire.assert_passes("after a refused ticket");
    let [init, intermediate, resume, auth] = counted(&wire.b);
    assert!(init.min(intermediate).min(resume).min(auth) >= 1);
    assert_eq!(counter(&gateway, "refused-tickets"), 1);
    assert_eq!(counter(&client, "resumptions"), 1);
}
