// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tunnel of two of our daemons, brought up, looked at and taken down with `esplanade`.

mod gateway;

use std::process::{Command, Output};

use gateway::{Gateway, Wire, ours};
use serde_json::Value;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";

fn esplanade(gateway: &Gateway, arguments: &[&str]) -> Output {
    Command::new(tests::program("esplanade"))
        .args(arguments)
        .arg("--socket")
        .arg(&gateway.vici)
        .output()
        .unwrap()
}

fn table(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = esplanade(gateway, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {error}\n{}",
        gateway.tail()
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json(gateway: &Gateway, verb: &str) -> Value {
    serde_json::from_str(&table(gateway, &[verb, "--json"])).unwrap()
}

#[test]
fn a_tunnel_is_brought_up_looked_at_and_taken_down() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let gateway = |namespace, own, name| {
        let configuration = ours(own, IKE, ESP, "", "");
        Gateway::ikev2d(namespace, &directory.path().join(name), &configuration)
    };
    let (mut a, b) = (gateway(&wire.a, 1, "a"), gateway(&wire.b, 2, "b"));
    assert_eq!(table(&a, &["sas"]), "no SAs\n");
    let connections = json(&a, "conns");
    assert_eq!(connections[0]["connection"], "gw");
    let selectors = &connections[0]["children"]["net"]["remote-ts"];
    assert_eq!(selectors, &serde_json::json!(["10.2.0.0/24"]));

    let refused = esplanade(&a, &["up", "nothing"]);
    assert_eq!(refused.status.code(), Some(4));
    assert_eq!(table(&a, &["up", "net", "--timeout", "20"]), "net is up\n");
    wire.assert_passes("after esplanade up");

    for gateway in [&a, &b] {
        let sas = json(gateway, "sas");
        let children = sas[0]["child-sas"].as_object().unwrap();
        let child = children.values().next().unwrap();
        assert_eq!((sas.as_array().unwrap().len(), children.len()), (1, 1));
        assert_eq!(child["engine"], "software", "{child}");
        assert!(child["packets-in"].as_u64().unwrap() >= 5, "{child}");
        let spi = child["spi-in"].as_str().unwrap();
        let shown = table(gateway, &["sas"]);
        for part in [spi, "ESTABLISHED", "INSTALLED", "software"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
    let sealed = |engines: &Value| -> u64 {
        let engines = engines.as_array().unwrap().iter();
        engines.map(|e| e["sealed"].as_u64().unwrap()).sum()
    };
    assert!(sealed(&json(&a, "devices")) >= 5);
    assert!(json(&a, "stats")["dataplane"]["esp-sent"].as_u64().unwrap() >= 5);
    assert!(table(&a, &["stats"]).contains("esp-sent"));

    assert_eq!(table(&a, &["down", "net"]), "net is down\n");
    wire.assert_blocked();
    assert_eq!(table(&a, &["down", "--ike", "gw"]), "gw is down\n");
    assert_eq!(table(&a, &["sas"]), "no SAs\n");
    assert_eq!(esplanade(&a, &["down", "net"]).status.code(), Some(4));
    assert!(a.stop(), "{}", a.tail());
    assert_eq!(esplanade(&a, &["sas"]).status.code(), Some(3));
}

#[test]
fn a_benchmark_measures_whole_tunnels_beside_a_bare_wire() {
    let output = Command::new(tests::program("esplanade"))
        .args([
            "bench",
            "--ptest=tunnel",
            "--peers=wire",
            "--buffer-sz=64,9000",
        ])
        .args(["--repeats=1", "--warm-up=0", "--tunnel-seconds=1", "--json"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = report["cells"].as_array().unwrap();
    let find = |backend: &str, operation: &str| {
        let mut cells = cells.iter();
        cells.find(|cell| cell["backend"] == backend && cell["operation"] == operation)
    };
    for tunnel in ["ikev2d", "ikev2d-esp", "ikev2d-busy-poll"] {
        let udp = find(tunnel, "udp").unwrap_or_else(|| panic!("{tunnel}: {report}"));
        assert_eq!(udp["suite"], "aes128gcm16-esn");
        assert!(udp["mpps"].as_f64().unwrap() > 0.0, "{udp}");
        assert!(udp["tunnel"]["cpu"].as_f64().unwrap() > 0.0, "{udp}");
        let pdr = find(tunnel, "pdr").unwrap_or_else(|| panic!("{tunnel}: {report}"));
        assert!(pdr["tunnel"]["lost"].as_f64().unwrap() <= 0.005, "{pdr}");
        let delay = find(tunnel, "delay").unwrap();
        let (rate, carried) = (
            &delay["tunnel"]["rate"],
            pdr["mpps"].as_f64().unwrap() * 1e6,
        );
        assert!(rate.as_f64().unwrap() < 0.75 * carried, "{delay} {pdr}");
        assert!(delay["latency"]["count"].as_u64().unwrap() > 0, "{delay}");
    }
    // No gateway, no processor time of one; and nothing that a tunnel adds.
    let wire = find("wire", "udp").unwrap();
    assert_eq!(wire["tunnel"]["cpu"], 0.0);
    assert!(find("wire", "delay").is_none());
    // What was left out is told.
    let absent = report["absent"].to_string();
    assert!(absent.contains("9000"), "{absent}");
}
