// SPDX-License-Identifier: Apache-2.0 OR MIT
//! More than a gateway can carry: every packet arrives or is counted where it was dropped, and IKE is
//! served meanwhile. `OVERLOAD_SECONDS` makes it last longer.

mod gateway;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway::{Gateway, SECRET, Wire, ours};
use netlab::{Namespace, NamespaceError};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";
/// How long a rekeying may take under overload.
const SERVED: Duration = Duration::from_secs(8);

fn seconds() -> u64 {
    let text = std::env::var("OVERLOAD_SECONDS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Sends datagrams as fast as it can.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), NamespaceError>>>,
}

impl Flood {
    /// From each of `from`, to one address; octets that `fill` changes each time.
    fn start(
        namespace: &Namespace,
        from: &[SocketAddr],
        to: SocketAddr,
        fill: fn(u64, &mut [u8]),
    ) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let threads = from.iter().map(|from| {
            let (from, stop, sent) = (*from, stop.clone(), sent.clone());
            let send = move || {
                let socket = UdpSocket::bind(from).unwrap();
                socket.connect(to).unwrap();
                let (mut datagram, mut own) = ([0; 200], 0);
                while !stop.load(Ordering::Relaxed) {
                    own += 1;
                    fill(own, &mut datagram);
                    if socket.send(&datagram).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            namespace.spawn("flood", send).unwrap()
        });
        let threads = threads.collect();
        Self {
            stop,
            sent,
            threads,
        }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// Packets that a namespace's sockets on this port had no room for.
fn socket_drops(namespace: &Namespace, port: u16) -> u64 {
    each_sockets_drops(namespace, port).iter().sum()
}

fn each_sockets_drops(namespace: &Namespace, port: u16) -> Vec<u64> {
    let table = namespace
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/udp"))
        .unwrap()
        .unwrap();
    let own = format!(":{port:04X}");
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let drops = lines.filter(|fields| fields[1].ends_with(&own));
    let number = |fields: Vec<&str>| fields.last().unwrap().parse().unwrap();
    drops.map(number).collect()
}

/// Packets that an interface has dropped, one way.
fn interface_drops(namespace: &Namespace, device: &str, way: &str) -> u64 {
    let text = namespace
        .ip(&format!("-s -j link show dev {device}"))
        .unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    all[0]["stats64"][way]["dropped"].as_u64().unwrap()
}

fn pair(wire: &Wire, directory: &std::path::Path) -> (Gateway, Gateway) {
    // Nothing but what is sent here.
    for namespace in [&wire.a, &wire.b] {
        for of in ["all", "default"] {
            namespace
                .sysctl(&format!("net.ipv6.conf.{of}.disable_ipv6"), "1")
                .unwrap();
        }
    }
    let gateway = |own: u8| {
        let secret = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
        let connection = ours(own, IKE, ESP, "encap = true", "");
        let text = format!("retransmit_timeout = 0.5\n{connection}\n{secret}");
        let (namespace, name) = if own == 1 {
            (&wire.a, "a")
        } else {
            (&wire.b, "b")
        };
        Gateway::ikev2d_with(namespace, &directory.join(name), &text)
    };
    let (a, b) = (gateway(1), gateway(2));
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("before the flood");
    (a, b)
}

/// Rekeys the child, then the IKE SA, until the time is over; each must be done in time.
fn rekey_meanwhile(gateway: &Gateway, end: Instant) {
    let mut done = 0;
    while done < 2 || Instant::now() < end {
        for what in [["--rekey", "--child", "net"], ["--rekey", "--ike", "gw"]] {
            let names = |sas: &str| -> String {
                let words = sas.split_whitespace();
                let numbers = words.filter(|word| word.starts_with('#') || word.contains("_i"));
                numbers.collect::<Vec<_>>().join(" ")
            };
            let (before, began) = (names(&gateway.swanctl(&["--list-sas"])), Instant::now());
            gateway.swanctl(&what);
            loop {
                let sas = gateway.swanctl(&["--list-sas"]);
                let settled = sas.matches("INSTALLED").count() == 1
                    && sas.matches("ESTABLISHED").count() == 1
                    && !sas.contains("REKEY");
                if settled && names(&sas) != before {
                    break;
                }
                let late = began.elapsed() > SERVED;
                assert!(!late, "{what:?} takes too long: {sas}\n{}", gateway.tail());
                std::thread::sleep(Duration::from_millis(50));
            }
            done += 1;
        }
    }
}

#[test]
fn under_overload_everything_arrives_or_is_counted_and_ike_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (a, b) = pair(&wire, directory.path());
    let to: SocketAddr = "10.2.0.1:7777".parse().unwrap();
    let receiver = wire.b.enter(|| UdpSocket::bind(to)).unwrap().unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let (stop, received) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let counting = {
        let (stop, received) = (stop.clone(), received.clone());
        std::thread::spawn(move || {
            let mut room = [0; 256];
            while !stop.load(Ordering::Relaxed) {
                while receiver.recv(&mut room).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
            receiver
        })
    };
    let (before_a, before_b) = (a.statistics(), b.statistics());
    let from = ["10.1.0.1:7001", "10.1.0.1:7002"].map(|from| from.parse().unwrap());
    let flood = Flood::start(&wire.a, &from, to, |_, _| ());
    rekey_meanwhile(&a, Instant::now() + Duration::from_secs(seconds()));
    let sent = flood.finish();
    // What is in queues drains.
    let mut last = (0, Instant::now());
    while last.1.elapsed() < Duration::from_secs(1) {
        let now = received.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let socket_full = socket_drops(&wire.b, 7777);
    stop.store(true, Ordering::Relaxed);
    drop(counting.join().unwrap());
    let received = received.load(Ordering::Relaxed);
    let (stats_a, stats_b) = (a.statistics(), b.statistics());
    let at_a = |name: &str| stats_a[name] - before_a[name];
    let at_b = |name: &str| stats_b[name] - before_b[name];
    let said = format!("sent {sent}, received {received}\na: {stats_a:#?}\nb: {stats_b:#?}");
    assert!(received > 1000 && received < sent, "{said}");

    // From the host into the tunnel: the interface's queue is where too much waits, then drops.
    let queue_full = interface_drops(&wire.a, "esp0", "tx");
    assert_eq!(
        sent,
        at_a("tun-received") + queue_full,
        "queue full: {queue_full}; {said}"
    );
    let dropped: u64 = [
        "no-policy",
        "malformed",
        "too-big",
        "refused",
        "aborted",
        "send-errors",
    ]
    .map(at_a)
    .iter()
    .sum();
    assert_eq!(at_a("tun-received"), at_a("esp-sent") + dropped, "{said}");
    // Over the wire into the other gateway.
    let wire_full = interface_drops(&wire.b, "wire", "rx");
    let esp_full = socket_drops(&wire.b, 4500);
    let lost = at_a("esp-sent") - at_b("esp-received");
    assert_eq!(
        lost,
        wire_full + esp_full,
        "wire {wire_full}, socket {esp_full}; {said}"
    );
    let dropped: u64 = [
        "unknown-spi",
        "overload",
        "bad-icv",
        "replayed",
        "refused",
        "aborted",
        "malformed",
        "selector-mismatch",
        "ecn-dropped",
        "dummies",
        "send-errors",
    ]
    .map(at_b)
    .iter()
    .sum();
    assert_eq!(at_b("esp-received"), at_b("tun-sent") + dropped, "{said}");
    // Out of the tunnel, to the host.
    assert_eq!(
        at_b("tun-sent"),
        received + socket_full,
        "socket full: {socket_full}; {said}"
    );
    println!(
        "offered {sent}, arrived {received}: {:.1} times",
        sent as f64 / received as f64
    );
}

#[test]
fn a_flood_of_forged_esp_keeps_neither_ike_nor_traffic_out() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (a, b) = pair(&wire, directory.path());
    let from = ["10.77.0.1:9001", "10.77.0.1:9002"].map(|from| from.parse().unwrap());
    let to = "10.77.0.2:4500".parse().unwrap();
    let flood = Flood::start(&wire.a, &from, to, |number, datagram| {
        // SPIs that nobody has.
        let spi = (number as u32).wrapping_mul(0x9e37_79b1) | 1 << 31;
        datagram[..4].copy_from_slice(&spi.to_be_bytes());
    });
    let before = b.statistics()["unknown-spi"];
    rekey_meanwhile(&a, Instant::now() + Duration::from_secs(seconds()));
    let sent = flood.finish();
    std::thread::sleep(Duration::from_millis(500));
    let counted = b.statistics()["unknown-spi"] - before;
    let dropped = socket_drops(&wire.b, 4500) + interface_drops(&wire.b, "wire", "rx");
    println!("{sent} forged, {counted} looked at, {dropped} dropped by the kernel");
    assert!(counted > 1000, "{sent} {counted} {dropped}");
    // ESP has one socket, IKE three (first messages, those with a cookie, all others), and those had room
    // for all.
    let each = each_sockets_drops(&wire.b, 4500);
    let dropping = each.iter().filter(|drops| **drops != 0).count();
    assert!(each.len() == 4 && dropping <= 1, "{each:?}");
    wire.assert_passes("after the flood");
}
