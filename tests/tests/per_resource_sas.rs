// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B21: several SAs for the same traffic, each a worker's own (RFC 9611), between two of our daemons.

mod gateway;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use gateway::{Gateway, SECRET, Wire, ours};

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

#[test]
fn each_worker_sends_through_its_own_sa_and_through_the_first_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16-esn");
    let start = |number: u8| {
        let (namespace, name) = match number {
            1 => (&wire.a, "a"),
            _ => (&wire.b, "b"),
        };
        let child = "per_resource_sas = \"auto\"";
        let configuration = format!(
            "{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
            ours(number, ike, esp, "", child)
        );
        let tun = "name = \"esp0\", mtu = 1400, queues = 2";
        Gateway::ikev2d_tun(namespace, &directory.path().join(name), tun, &configuration)
    };
    let (a, b) = (start(1), start(2));
    a.swanctl(&["--initiate", "--child", "net"]);
    for gateway in [&a, &b] {
        gateway.wait_sas("one SA for each worker", |sas| {
            sas.matches("INSTALLED").count() == 2
        });
    }
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
