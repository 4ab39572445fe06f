// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade ike-load` against our daemon and strongSwan's: both loops, what is kept, rekeyed and
//! deleted, and addresses that nobody is at.

use std::process::Command;

use netlab::Namespace;
use serde_json::Value;

mod gateway;

use gateway::{Gateway, SECRET, Wire};

const IKE: &str = "aes128gcm16-prfsha256-ecp256";
const ESP: &str = "aes128gcm16";

fn ours() -> String {
    format!(
        "[connections.load]\nproposals = [\"{IKE}\"]\nunique = \"never\"\n\
         resumption = \"1h\"\nlocal = {{ auth = \"psk\", id = \"responder.load\" }}\nremote = {{ auth = \"psk\" }}\n\
         [connections.load.children.net]\nlocal_ts = [\"10.2.0.0/16\"]\n\
         remote_ts = [\"10.128.0.0/9\"]\nesp_proposals = [\"{ESP}\"]\n"
    )
}

fn theirs() -> String {
    format!(
        "load {{\n version = 2\n proposals = {IKE}\n unique = never\n\
         local {{\n auth = psk\n id = responder.load\n }}\n remote {{\n auth = psk\n }}\n\
         children {{ net {{\n local_ts = 10.2.0.0/16\n remote_ts = 10.128.0.0/9\n\
         esp_proposals = {ESP}\n start_action = none\n }} }} }}"
    )
}

fn load(namespace: &Namespace, peer: &Gateway, arguments: &[&str]) -> Value {
    let pid = peer.id().to_string();
    let mut command: Command = namespace.command(tests::program("esplanade"));
    command
        .args(["ike-load", "10.77.0.2", "-o", "json", "--psk", SECRET])
        .args(["--watch", &pid])
        .args(arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}{}",
        String::from_utf8_lossy(&output.stderr),
        peer.tail()
    );
    serde_json::from_str(&text).unwrap()
}

/// Every mode: what it says it did is what the responder has.
fn every_mode(wire: &Wire, responder: &Gateway) {
    let report = load(&wire.a, responder, &["--count", "20", "--initiators", "3"]);
    assert_eq!(
        (&report["up"], &report["failed"]),
        (&20.into(), &0.into()),
        "{report}"
    );
    assert!(
        report["latency_ms"]["p50"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    assert!(
        report["responder_cpu_us_per_sa"].as_f64().is_some(),
        "{report}"
    );
    responder.wait_sas("the end of all", |sas| sas.trim().is_empty());

    let report = load(&wire.a, responder, &["--count", "20", "--rate", "20"]);
    assert_eq!(
        (&report["up"], &report["failed"]),
        (&20.into(), &0.into()),
        "{report}"
    );
    // The open loop keeps to its schedule: 19 spaces of 50 ms.
    assert!(report["seconds"].as_f64().unwrap() >= 0.95, "{report}");

    let report = load(&wire.a, responder, &["--count", "12", "--keep", "--rekey"]);
    for (what, expected) in [
        ("up", 12),
        ("rekeyed", 12),
        ("children_rekeyed", 12),
        ("lost", 0),
    ] {
        assert_eq!(report[what], expected, "{what}: {report}");
    }
    responder.wait_sas("the end of all", |sas| sas.trim().is_empty());
}

/// S13, B15, B59: set up, rekeyed and deleted, in both loops; then a flood from addresses where nobody is,
/// through which a peer still gets in.
#[test]
fn our_daemon_takes_load_and_a_flood() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    wire.a.route("local 10.64.0.0/16 dev lo").unwrap();
    wire.b.route("10.64.0.0/16 via 10.77.0.1").unwrap();
    let responder = Gateway::ikev2d(&wire.b, &directory.path().join("b"), &ours());
    every_mode(&wire, &responder);
    let from = ["--from", "10.64.0.0/16"];
    let all = ["--count", "40", "--initiators", "8"];
    let report = load(&wire.a, &responder, &[&from[..], &all].concat());
    assert_eq!(report["up"], 40, "{report}");
    // B15: what was lost is resumed by tickets.
    let report = load(&wire.a, &responder, &["--count", "20", "--resume"]);
    assert_eq!(
        (&report["up"], &report["resumed"], &report["failed"]),
        (&20.into(), &20.into(), &0.into()),
        "{report}"
    );
    let flood = [
        &from[..],
        &["--flood", "2", "--port", "1500", "--nat-port", "14500"],
    ]
    .concat();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| load(&wire.a, &responder, &flood));
        std::thread::sleep(std::time::Duration::from_millis(500));
        let report = load(&wire.a, &responder, &["--count", "5", "--initiators", "1"]);
        assert_eq!(report["up"], 5, "{report}");
        let flood = flood.join().unwrap();
        assert!(flood["sent"].as_u64().unwrap() > 1000, "{flood}");
        let growth = flood["responder_growth_bytes"].as_u64().unwrap();
        assert!(growth < 64 << 20, "{flood}");
    });
}

#[test]
fn strongswan_takes_load() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let path = directory.path().join("b");
    if let Some(responder) = Gateway::strongswan(&wire.b, &path, &theirs()) {
        every_mode(&wire, &responder);
    }
}
