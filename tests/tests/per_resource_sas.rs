// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B21: several SAs for the same traffic, each a worker's own (RFC 9611), between two of our daemons.

mod gateway;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::card::{json, simulated};
use gateway::{Gateway, SECRET, Wire, ours};
use serde_json::Value;

/// Flows: that none of two workers gets one of them does not happen.
const FLOWS: u8 = 48;

/// Packets that each of the child SAs has sent.
fn sent(sas: &str) -> Vec<u64> {
    let out = sas
        .lines()
        .filter(|line| line.trim_start().starts_with("out "));
    out.map(|line| {
        let packets = line.split(',').nth(2).unwrap();
        packets.split_whitespace().next().unwrap().parse().unwrap()
    })
    .collect()
}

/// Sends a datagram by each flow, again and again, until each has arrived and `done`.
fn flow(wire: &Wire, mut done: impl FnMut() -> bool) {
    let to: SocketAddr = "10.2.0.1:9000".parse().unwrap();
    let receiver = wire.b.enter(|| UdpSocket::bind(to)).unwrap().unwrap();
    let receiving = receiver.set_read_timeout(Some(Duration::from_millis(100)));
    receiving.unwrap();
    let bind = || UdpSocket::bind("10.1.0.1:0").unwrap();
    let senders: Vec<_> = (0..FLOWS).map(|_| wire.a.enter(bind).unwrap()).collect();
    let end = Instant::now() + Duration::from_secs(60);
    let mut arrived = BTreeSet::new();
    while arrived.len() < usize::from(FLOWS) || !done() {
        assert!(
            Instant::now() < end,
            "only {arrived:?} arrive, or not by all SAs"
        );
        for (flow, sender) in (0..FLOWS).zip(&senders) {
            let _ = sender.send_to(&[flow], to);
        }
        let mut flow = [0];
        while receiver.recv(&mut flow).is_ok() {
            arrived.insert(flow[0]);
        }
    }
}

/// Our daemon for one end, with two workers, on a device.
fn start(wire: &Wire, number: u8, directory: &Path, device: &str, child: &str) -> Gateway {
    let (namespace, name) = match number {
        1 => (&wire.a, "a"),
        _ => (&wire.b, "b"),
    };
    let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16-esn");
    let configuration = format!(
        "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
        ours(
            number,
            ike,
            esp,
            "",
            &format!("per_resource_sas = \"auto\"\n{child}")
        )
    );
    let tun = "name = \"esp0\", mtu = 1400, queues = 2";
    Gateway::ikev2d_of(
        namespace,
        &directory.join(name),
        (device, tun),
        &configuration,
    )
}

/// Waits until both ends have one SA for each of two workers.
fn wait_for_both(gateways: [&Gateway; 2]) {
    for gateway in gateways {
        gateway.wait_sas("one SA for each worker", |sas| {
            sas.matches("INSTALLED").count() == 2
        });
    }
}

/// B21: on a card with as many queue pairs as there are workers, each worker's packets go by its own: both pairs'
/// counters move, each by as many packets as one SA has sent.
#[test]
fn each_worker_has_its_own_queue_pair_of_a_card() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("card");
    let _card = simulated(&socket, &["--queues", "2"]);
    let address = format!("vfio-user:{}", socket.display());
    let level = "hw_offload = \"packet\"";
    let a = start(&wire, 1, directory.path(), &address, level);
    let b = start(&wire, 2, directory.path(), "software", "");
    a.swanctl(&["--initiate", "--child", "net"]);
    wait_for_both([&a, &b]);
    let completed = || -> Vec<u64> {
        let inspected = json(&a, &["device", "inspect", &address]);
        let queues = inspected["queues"].as_array().unwrap();
        let of = |queue: &Value| queue["completed"].as_u64().unwrap();
        queues.iter().map(of).collect()
    };
    assert_eq!(completed(), [0, 0]);
    let all_send = || {
        let sas = a.swanctl(&["--list-sas"]);
        sent(&sas).iter().all(|packets| *packets != 0)
    };
    flow(&wire, all_send);
    gateway::wait("each pair has done what one SA has sent", || {
        let (mut pairs, mut sas) = (completed(), sent(&a.swanctl(&["--list-sas"])));
        pairs.sort_unstable();
        sas.sort_unstable();
        pairs == sas && pairs.len() == 2 && !pairs.contains(&0)
    });
}

/// B21: two SAs for two workers; the one that is left is everybody's.
#[test]
fn each_worker_sends_through_its_own_sa_and_through_the_first_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let [a, b] = [1, 2].map(|n| start(&wire, n, directory.path(), "software", ""));
    a.swanctl(&["--initiate", "--child", "net"]);
    wait_for_both([&a, &b]);
    flow(&wire, || {
        let sas = a.swanctl(&["--list-sas"]);
        sent(&sas).iter().all(|packets| *packets != 0)
    });

    // Without the second one its worker's packets go through the first.
    let sas = a.swanctl(&["--list-sas"]);
    let ids = sas
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("net: #"));
    let newest = ids.filter_map(|rest| rest.split(',').next()?.parse::<u64>().ok());
    let newest = newest.max().unwrap().to_string();
    a.swanctl(&["--terminate", "--child-id", &newest]);
    for gateway in [&a, &b] {
        gateway.wait_sas("the other SA", |sas| sas.matches("INSTALLED").count() == 1);
    }
    flow(&wire, || true);
}
