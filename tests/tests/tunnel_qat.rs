// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A gateway on two simulated QAT functions, each in a process of its own: the cipher is theirs, ESP
//! around it the host's, and when they die one after the other the tunnel goes on.

mod gateway;

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, rekey};
use netlab::process::{Guarded, wait_for_listener};
use serde_json::Value;

const IKE: &str = "aes256gcm16-prfsha384-x25519";

fn function(socket: &Path) -> Guarded {
    let mut command = Command::new(tests::program("esplanade"));
    command
        .args(["sim", "--model", "qat-gen4", "--socket"])
        .arg(socket)
        .stdin(Stdio::null());
    let mut function = Guarded::spawn(command).unwrap();
    wait_for_listener(socket, PATIENCE, || {
        assert!(function.ended()?.is_none(), "the function ended");
        Ok(())
    })
    .unwrap();
    function
}

/// The engine that carries the tunnel's only child SA, and why.
fn carried(gateway: &Gateway) -> (String, String) {
    let output = Command::new(tests::program("esplanade"))
        .args(["sas", "-o", "json", "--socket"])
        .arg(&gateway.vici)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let sas: Value = serde_json::from_slice(&output.stdout).unwrap();
    let child = sas[0]["child-sas"].as_object().unwrap().values().next();
    let child = child.unwrap();
    let word = |name: &str| child[name].as_str().unwrap_or_default().to_owned();
    (word("engine"), word("reason"))
}

/// `esplanade device`, which asks the daemon that has the functions.
fn device_verb(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = Command::new(tests::program("esplanade"))
        .arg("device")
        .args(arguments)
        .args(["-o", "json", "--socket"])
        .arg(&gateway.vici)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn wait_for_engine(gateway: &Gateway, wanted: &str) {
    let started = Instant::now();
    while carried(gateway).0 != wanted {
        assert!(
            started.elapsed() < PATIENCE,
            "{wanted}: {:?}\n{}",
            carried(gateway),
            gateway.tail()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_tunnel_on_two_qat_functions_outlives_one_and_falls_back_after_both() {
    for esp in [
        "aes256gcm16-esn",
        "aes256-sha256-noesn",
        "chacha20poly1305-esn",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let sockets = ["vf", "vf.1"].map(|name| directory.path().join(name));
        let mut functions: Vec<_> = sockets.iter().map(|socket| function(socket)).collect();
        let device = sockets
            .each_ref()
            .map(|socket| format!("vfio-user:{}", socket.display()));
        let configuration = format!(
            "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
            ours(1, IKE, esp, "", "hw_offload = \"auto\"")
        );
        let at = directory.path().join("a");
        let a = Gateway::ikev2d_on(&wire.a, &at, &device.join(","), &configuration);
        let at = directory.path().join("b");
        let b = Gateway::ikev2d(&wire.b, &at, &ours(2, IKE, esp, "", ""));

        let said = a.swanctl(&["--initiate", "--child", "net"]);
        assert!(said.contains("initiate completed successfully"), "{said}");
        wire.assert_passes(esp);
        wait_for_engine(&a, "device");
        wire.assert_passes("on both functions");
        let address = device.join(",");
        let report = device_verb(&a, &["inspect", &address]);
        let counted = |name: &str| {
            let counters = report["counters"].as_array().unwrap();
            let found = counters.iter().find(|counter| counter[0] == name);
            found.unwrap()[1].as_u64().unwrap()
        };
        assert_eq!(report["functions"].as_array().unwrap().len(), 2);
        assert!(counted("sealed") != 0 && counted("opened") != 0, "{report}");
        assert_eq!(counted("SAs"), 2, "{report}");
        let reset = device_verb(&a, &["reset", &address, "--yes"]);
        assert_eq!(reset["by-daemon"], true, "{reset}");
        wire.assert_still_passes("after a reset");
        wait_for_engine(&a, "device");
        let [from, to] = [[10, 1, 0, 1], [10, 2, 0, 1]].map(IpAddr::from);
        rekey::child_under_pings(&a, &b, "net", (&wire.a, from, to));
        wire.assert_still_passes("after our rekeying");
        rekey::child_under_pings(&b, &a, "net", (&wire.a, from, to));
        wire.assert_still_passes("after the peer's rekeying");
        wait_for_engine(&a, "device");

        drop(functions.pop());
        wire.assert_passes("on the function that is left");
        wait_for_engine(&a, "device");
        drop(functions.pop());
        wire.assert_passes("in software");
        wait_for_engine(&a, "software");
        functions.extend(sockets.iter().map(|socket| function(socket)));
        wait_for_engine(&a, "device");
        wire.assert_passes("on functions that are back");
    }
}

#[test]
fn a_qat_refuses_an_sa_that_must_be_wholly_the_devices() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("vf");
    let _function = function(&socket);
    let device = format!("vfio-user:{}", socket.display());
    let configuration = format!(
        "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
        ours(1, IKE, "aes256gcm16-esn", "", "hw_offload = \"packet\"")
    );
    let at = directory.path().join("a");
    let a = Gateway::ikev2d_on(&wire.a, &at, &device, &configuration);
    let at = directory.path().join("b");
    let _b = Gateway::ikev2d(&wire.b, &at, &ours(2, IKE, "aes256gcm16-esn", "", ""));
    let refused = a.try_swanctl(&["--initiate", "--child", "net", "--timeout", "10"]);
    assert!(refused.is_err(), "{refused:?}\n{}", a.tail());
    assert!(a.tail().contains("ciphers and hashes only"), "{}", a.tail());
    wire.assert_blocked();
}
