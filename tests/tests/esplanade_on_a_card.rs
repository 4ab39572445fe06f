// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A gateway on a simulated card, looked into, followed and reset with `esplanade` while a tunnel runs.

mod gateway;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gateway::card::{esplanade, json, simulated};
use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, wait_idle};
use netlab::process::Guarded;
use serde_json::Value;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";

/// Engines that carry the tunnel's child SA.
fn engine(gateway: &Gateway) -> String {
    let sas = json(gateway, &["sas"]);
    let children = sas[0]["child-sas"].as_object().unwrap();
    children.values().next().unwrap()["engine"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn wait(what: &str, gateway: &Gateway, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: {}", gateway.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_card_in_use_is_inspected_watched_and_reset_through_its_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("card");
    let _card = simulated(&socket, &[]);
    let address = format!("vfio-user:{}", socket.display());
    let configuration = format!(
        "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
        ours(1, IKE, ESP, "", "hw_offload = \"auto\"")
    );
    let at = directory.path().join("a");
    let a = Gateway::ikev2d_on(&wire.a, &at, &address, &configuration);
    let at = directory.path().join("b");
    let _b = Gateway::ikev2d(&wire.b, &at, &ours(2, IKE, ESP, "", ""));

    let seen = directory.path().join("monitor");
    let mut monitor = Command::new(tests::program("esplanade"));
    monitor
        .args(["monitor", "-o", "json", "--socket"])
        .arg(&a.vici)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&seen).unwrap());
    let monitor = Guarded::spawn(monitor).unwrap();
    wait_idle(monitor.id());

    assert!(
        esplanade(&a, &["up", "net", "--timeout", "20"])
            .status
            .success(),
        "{}",
        a.tail()
    );
    wire.assert_passes("on the card");
    assert_eq!(engine(&a), "device");

    let inspected = json(&a, &["device", "inspect", &address]);
    assert_eq!(inspected["health"], "ok");
    let sas = inspected["sas"].as_array().unwrap();
    assert_eq!(sas.len(), 2, "{inspected}");
    assert!(
        sas.iter().all(|sa| sa["packets"].as_u64().unwrap() >= 5),
        "{inspected}"
    );
    assert!(
        inspected["queues"][0]["completed"].as_u64().unwrap() >= 10,
        "{inspected}"
    );

    let listed = json(&a, &["device", "list"]);
    let cards = listed.as_array().unwrap();
    let card = cards
        .iter()
        .find(|card| card["address"] == address.as_str());
    assert_eq!(card.unwrap()["daemon"]["sas"], 2, "{listed}");

    let top = json(&a, &["top", "--once", "--interval", "0.2"]);
    assert_eq!(top["devices"][0]["name"], address.as_str());
    assert_eq!(top["sas"][0]["engine"], "device");
    assert!(top["queues"][0]["packets"].is_number(), "{top}");
    let top = json(
        &a,
        &["top", "--once", "--interval", "0.2", "--device", &address],
    );
    assert_eq!(top["sas"].as_array().unwrap().len(), 2, "{top}");

    let refused = esplanade(&a, &["device", "reset", &address]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("carries 2 SAs"));
    let reset = json(&a, &["device", "reset", &address, "--yes"]);
    assert_eq!(reset["by-daemon"], true);
    wire.assert_passes("after the reset");
    wait("the SA is back on the card", &a, || engine(&a) == "device");
    wire.assert_passes("back on the card");

    assert!(esplanade(&a, &["down", "--ike", "gw"]).status.success());
    // The last of all.
    wait("the IKE SA's end", &a, || {
        let text = fs::read_to_string(&seen).unwrap();
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut events = events.filter(|event: &Value| event["event"] == "ike-updown");
        events.any(|event| event["data"]["up"] == "no")
    });
    drop(monitor);
    let seen = fs::read_to_string(seen).unwrap();
    let events: Vec<Value> = seen
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |name: &str, fits: &dyn Fn(&Value) -> bool| {
        let found = events
            .iter()
            .any(|event| event["event"] == name && fits(&event["data"]));
        assert!(found, "no {name} as expected in {seen}");
    };
    for up in ["yes", "no"] {
        has("ike-updown", &|data| data["up"] == up);
        has("child-updown", &|data| data["up"] == up);
    }
    has("engine", &|data| {
        data["event"] == "device-lost"
            && data["reason"]
                .as_str()
                .unwrap()
                .ends_with("a reset was asked for")
    });
    has("engine", &|data| data["event"] == "device-returned");
    for engine in ["software", "device"] {
        has("engine", &|data| {
            data["event"] == "moved" && data["engine"] == engine && data["child"] == "net"
        });
    }
}

/// B47, B51, B52: what the card has not is software's, and why is shown.
#[test]
fn algorithms_that_a_card_has_not_are_done_in_software_visibly() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("card");
    let _card = simulated(&socket, &[]);
    let address = format!("vfio-user:{}", socket.display());
    for esp in ["aes256-aesxcbc", "aes128-aescmac", "aes128gmac"] {
        let configuration = format!(
            "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
            ours(1, IKE, esp, "", "hw_offload = \"auto\"")
        );
        let at = directory.path().join(format!("{esp}-a"));
        let a = Gateway::ikev2d_on(&wire.a, &at, &address, &configuration);
        let at = directory.path().join(format!("{esp}-b"));
        let _b = Gateway::ikev2d(&wire.b, &at, &ours(2, IKE, esp, "", ""));
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(esp);
        assert_eq!(engine(&a), "software");
        let sas = json(&a, &["sas"]).to_string();
        assert!(sas.contains("engine-reason"), "{sas}");
        assert!(sas.contains(esp), "the reason names no {esp}: {sas}");
    }
}

/// B55: an SA whose child is configured no more, and those that take over from it, stay where its configuration
/// has put them, and live as long.
#[test]
fn a_child_that_is_configured_no_more_goes_on_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("card");
    let _card = simulated(&socket, &[]);
    let address = format!("vfio-user:{}", socket.display());
    let connection = ours(1, IKE, ESP, "", "hw_offload = \"no\"\nlife_time = \"7h\"");
    let configuration = format!("{connection}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
    let at = directory.path().join("a");
    let a = Gateway::ikev2d_on(&wire.a, &at, &address, &configuration);
    let at_b = directory.path().join("b");
    let b = Gateway::ikev2d(&wire.b, &at_b, &ours(2, IKE, ESP, "", ""));
    a.swanctl(&["--initiate", "--child", "net"]);
    let assert_is_the_same = |when: &str| {
        wire.assert_passes(when);
        assert_eq!(engine(&a), "software", "{when}");
        let sas = a.swanctl(&["--list-sas", "--raw"]);
        let life = sas.split("life-time=").nth(1);
        let life = life.and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok());
        assert!(life.is_some_and(|life| life > 6 * 3600), "{when}: {sas}");
    };
    assert_is_the_same("as configured");
    let file = at.join("ikev2d.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&connection, "")).unwrap();
    a.swanctl(&["--reload-settings"]);
    assert!(a.swanctl(&["--list-conns"]).trim().is_empty());
    gateway::rekey::child(&a, &b, "net");
    assert_is_the_same("rekeyed");
    gateway::rekey::child(&b, &a, "net");
    assert_is_the_same("rekeyed by the peer");
}

/// B37: no card pads. What is padded is sealed in software, and why is shown; what must be on the card is
/// refused, and why is told.
#[test]
fn padding_that_a_card_has_not_is_done_in_software_visibly() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("card");
    let _card = simulated(&socket, &[]);
    let address = format!("vfio-user:{}", socket.display());
    let at = directory.path().join("b");
    let padding = "tfc_padding = \"mtu\"";
    let _b = Gateway::ikev2d(&wire.b, &at, &ours(2, IKE, ESP, "", padding));
    for level in ["auto", "packet"] {
        let child = format!("tfc_padding = 900\nhw_offload = {level:?}");
        let configuration = format!(
            "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
            ours(1, IKE, ESP, "", &child)
        );
        let at = directory.path().join(level);
        let a = Gateway::ikev2d_on(&wire.a, &at, &address, &configuration);
        let up = a.try_swanctl(&["--initiate", "--child", "net"]);
        if level == "packet" {
            let told = up.unwrap_err();
            assert!(told.contains("TFC_PADDING"), "{told}\n{}", a.tail());
            wire.assert_blocked();
            continue;
        }
        up.unwrap();
        wire.assert_passes("padded");
        assert_eq!(engine(&a), "software");
        let sas = json(&a, &["sas"]).to_string();
        assert!(sas.contains("TFC_PADDING"), "{sas}");
        // What comes in the card opens.
        let inspected = json(&a, &["device", "inspect", &address]);
        let sas = inspected["sas"].as_array().unwrap();
        assert_eq!(sas.len(), 1, "{inspected}");
        assert!(sas[0]["packets"].as_u64().unwrap() >= 5, "{inspected}");
    }
}
