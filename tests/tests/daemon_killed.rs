// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `ikev2d` is killed with SIGKILL, at any moment, and its keeper starts the next one: in inline mode
//! the card's traffic does not notice, in lookaside mode the tunnel comes back; no number comes twice,
//! and no SA stays behind.
//!
//! `ESPLANADE_KILLS` sets how often (3 of each kind otherwise), `ESPLANADE_SEED` the moments.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlab::Namespace;
use netlab::analyse::Wire;
use netlab::capture::{Capture, CaptureConfig};
use netlab::link::veth;
use netlab::process::{Guarded, wait_for_listener};
use netlab::traffic::{Datagrams, DatagramsConfig, ping, probe};
use nix::sys::signal::Signal;

const READY: Duration = Duration::from_secs(20);
/// From a kill to a new IKE SA with its child.
const BACK: Duration = Duration::from_secs(10);
/// How long adopted SAs may stay: until their successor is there, and a little longer.
const GONE: Duration = Duration::from_secs(20);
const SECRET: &str = "Killed-PSK-0123456789";
const RATE: u32 = 500;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap())
}

fn outer(site: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, site])
}

fn inner(site: u8) -> IpAddr {
    IpAddr::from([10, site, 0, 1])
}

/// A gateway whose daemon is kept.
struct Site {
    number: u8,
    host: Namespace,
    directory: PathBuf,
    // Before the card, so that it goes first.
    keeper: Guarded,
    _card: Guarded,
}

fn logged(mut command: Command, log: &Path) -> Guarded {
    let file = File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .env("NO_COLOR", "1");
    Guarded::spawn(command).unwrap()
}

impl Site {
    /// Inline where there is a namespace for its wire, lookaside else.
    fn start(number: u8, host: &Namespace, wire: Option<&Namespace>, directory: &Path) -> Self {
        Self::start_with(number, host, wire, directory, 60)
    }

    /// An SA that is left behind waits so many seconds for its successor.
    fn start_with(
        number: u8,
        host: &Namespace,
        wire: Option<&Namespace>,
        directory: &Path,
        grace: u64,
    ) -> Self {
        let directory = directory.join(format!("site-{number}"));
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("card");
        let mut command = host.command(tests::program("esplanade"));
        command.args(["--log-level", "info", "sim", "--socket"]);
        command.arg(&socket);
        if let Some(wire) = wire {
            command
                .arg(format!("--wire=af-packet:wire@{}", wire.path()))
                .args(["--host=tun:clear", "--exception=tap:except"]);
        }
        let card = logged(command, &directory.join("card.log"));
        wait_for_listener(&socket, READY, || Ok(())).unwrap();
        if wire.is_some() {
            host.sysctl("net.ipv6.conf.except.disable_ipv6", "1")
                .unwrap();
            host.ip("link set dev except up").unwrap();
            host.address("except", &format!("{}/24", outer(number)))
                .unwrap();
        }
        let (plane, interface) = match wire {
            Some(_) => ("inline", "clear"),
            None => ("tun", "esp0"),
        };
        let peer = 3 - number;
        let start = if number == 1 { "start" } else { "none" };
        let vici = directory.join("vici");
        let config = directory.join("ikev2d.toml");
        let text = format!(
            r#"[daemon]
vici_socket = {vici:?}
device = "vfio-user:{socket}"
dataplane = "{plane}"
failover = {{ block = 1048576, orphan_grace = {grace} }}
tun = {{ name = "{interface}", mtu = 1400, queues = 1 }}
log_level = "debug"
retransmit_timeout = 0.5

[connections.gw]
version = 2
local_addrs = ["{mine}"]
remote_addrs = ["{theirs}"]
proposals = ["aes256gcm16-prfsha384-x25519"]
encap = true
local = {{ auth = "psk", id = "{number}.test" }}
remote = {{ auth = "psk", id = "{peer}.test" }}

[connections.gw.children.net]
local_ts = ["10.{number}.0.0/24"]
remote_ts = ["10.{peer}.0.0/24"]
esp_proposals = ["aes256gcm16-esn"]
start_action = "{start}"

[secrets.ike-1]
secret = "{SECRET}"
"#,
            socket = socket.display(),
            mine = outer(number),
            theirs = outer(peer),
        );
        fs::write(&config, text).unwrap();
        let mut command = host.command(tests::program("esplanade"));
        command.args(["--log-level", "info", "keep", "--"]);
        command
            .arg(tests::program("ikev2d"))
            .arg("--config")
            .arg(&config);
        let keeper = logged(command, &directory.join("ikev2d.log"));
        wait_for_listener(&vici, READY, || Ok(())).unwrap();
        Self {
            number,
            host: host.clone(),
            directory,
            keeper,
            _card: card,
        }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("ikev2d.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    /// The daemon's process, once the keeper has started it.
    fn daemon(&self) -> u32 {
        let keeper = self.keeper.id();
        let end = Instant::now() + READY;
        loop {
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
            let child = children.unwrap_or_default();
            let child = child
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
            let name = fs::read_to_string(format!("/proc/{child}/comm"));
            if name.is_ok_and(|name| name.trim() == "ikev2d") {
                return child.parse().unwrap();
            }
            assert!(Instant::now() < end, "no ikev2d:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill(&self) -> u32 {
        let daemon = self.daemon();
        kill(daemon);
        daemon
    }

    /// What `esplanade VERB` says of the daemon; nothing while it does not answer.
    fn ask(&self, verb: &str) -> Option<serde_json::Value> {
        let mut command = Command::new(tests::program("esplanade"));
        command.args([verb, "-o", "json", "--socket"]);
        command
            .arg(self.directory.join("vici"))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Child SAs that are installed, and the engine of the last one.
    fn installed(&self) -> (usize, String) {
        let Some(answer) = self.ask("sas") else {
            return (0, String::new());
        };
        let mut found = Vec::new();
        walk(&answer, &mut |object| {
            if object.get("state").and_then(|state| state.as_str()) == Some("INSTALLED") {
                let engine = object.get("engine").and_then(|engine| engine.as_str());
                found.push(engine.unwrap_or_default().to_owned());
            }
        });
        (found.len(), found.pop().unwrap_or_default())
    }

    /// A number of the card's.
    fn card(&self, key: &str) -> Option<u64> {
        let answer = self.ask("devices")?;
        let mut found = None;
        walk(&answer, &mut |object| {
            let is_card = object.get("lost-count").is_some();
            let value = object.get(key).filter(|_| is_card);
            let value = value.map(|value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            });
            found = found.or(value.and_then(|value| value.parse().ok()));
        });
        found
    }

    fn wait(&self, what: &str, limit: Duration, holds: impl Fn() -> bool) -> Duration {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < limit,
                "site {}: {what} did not come in {limit:?}:\n{}",
                self.number,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    }

    /// Waits until one child SA is there and nothing else is in the card.
    fn settled(&self) {
        self.wait("one child SA, and nothing else in the card", GONE, || {
            self.installed().0 == 1 && self.card("sas") == Some(2)
        });
    }
}

fn walk(
    value: &serde_json::Value,
    visit: &mut dyn FnMut(&serde_json::Map<String, serde_json::Value>),
) {
    match value {
        serde_json::Value::Object(object) => {
            visit(object);
            object.values().for_each(|value| walk(value, visit));
        }
        serde_json::Value::Array(array) => array.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

fn kill(process: u32) {
    signal(process, Signal::SIGKILL);
}

fn signal(process: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(process as i32);
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Two hosts, and the cards' wire between them.
fn inline_hosts() -> ([Namespace; 2], [Namespace; 2]) {
    let hosts = [Namespace::new("a").unwrap(), Namespace::new("b").unwrap()];
    let wires = [
        Namespace::new("wire-a").unwrap(),
        Namespace::new("wire-b").unwrap(),
    ];
    veth((&wires[0], "wire"), (&wires[1], "wire")).unwrap();
    for wire in &wires {
        wire.sysctl("net.ipv6.conf.wire.disable_ipv6", "1").unwrap();
    }
    for (host, site) in hosts.iter().zip(1..) {
        host.address("lo", &format!("{}/32", inner(site))).unwrap();
    }
    (hosts, wires)
}

#[test]
fn a_card_in_inline_mode_does_not_notice_that_the_daemon_is_killed() {
    netlab::ensure_privileges().unwrap();
    let kills = number("ESPLANADE_KILLS", 3);
    let mut seed = number("ESPLANADE_SEED", 1);
    eprintln!("{kills} kills, ESPLANADE_SEED={seed}");
    let (hosts, wires) = inline_hosts();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&wires[0], "wire", &file, CaptureConfig::default()).unwrap();
    let b = Site::start(2, &hosts[1], Some(&wires[1]), directory.path());
    let mut a = Site::start(1, &hosts[0], Some(&wires[0]), directory.path());
    a.wait("the first tunnel", READY, || {
        a.installed() == (1, "device".to_owned())
    });
    b.wait("the first tunnel", READY, || {
        b.installed() == (1, "device".to_owned())
    });

    let start = Instant::now();
    let shape = |seed| DatagramsConfig {
        size: 300,
        rate: RATE,
        seed,
    };
    let stream = |from: usize, seed| {
        let (source, sink) = (1 + from as u8, 2 - from as u8);
        Datagrams::start(
            (&hosts[from], inner(source)),
            (&hosts[1 - from], SocketAddr::new(inner(sink), 5001)),
            shape(seed),
            start,
        )
        .unwrap()
    };
    let streams = [stream(0, 11), stream(1, 12)];

    let mut slowest = Duration::ZERO;
    let mut adopted = 0;
    for kill in 0..kills {
        // Every other time the next one is killed too while it is at it: at any step of its start, of the
        // IKE exchanges and of the installation of SAs.
        if kill % 2 == 1 {
            let killed = a.kill();
            a.wait("the next daemon", READY, || a.daemon() != killed);
            std::thread::sleep(Duration::from_micros(random(&mut seed) % 400_000));
        } else {
            std::thread::sleep(Duration::from_millis(random(&mut seed) % 1500));
        }
        let killed = a.kill();
        eprintln!("kill {kill} at {:?}", start.elapsed());
        let back = a.wait("a new child SA", BACK, || {
            a.daemon() != killed && a.installed() == (1, "device".to_owned())
        });
        slowest = slowest.max(back);
        adopted += a.card("adopted").unwrap_or(0);
        eprintln!("kill {kill}: child SA back after {back:?}, {adopted} SAs adopted so far");
    }
    a.settled();
    b.settled();
    let reports = streams.map(|stream| stream.finish().unwrap());
    let ports = [&a, &b].map(|site| site.ask("stats").unwrap_or_default());
    for (report, ports) in reports.iter().zip(&ports) {
        let losses: Vec<_> = report
            .losses
            .points()
            .filter(|(_, lost)| *lost != 0)
            .collect();
        eprintln!("lost by tenths of a second: {losses:?}; {ports}");
    }
    assert!(a.keeper.stop().unwrap().success(), "{}", a.log());
    b.wait("the end of the tunnel", BACK, || b.installed().0 == 0);
    let captured = capture.finish().unwrap();
    assert_eq!(captured.dropped, 0, "the capture missed packets");
    let wire = Wire::read(&file).unwrap();
    eprintln!(
        "slowest {slowest:?}; {} packets captured; lost {} and {} of {} and {}",
        captured.packets, reports[0].lost, reports[1].lost, reports[0].sent, reports[1].sent
    );
    assert!(adopted > 0, "no SA was ever adopted:\n{}", a.log());
    for report in &reports {
        assert!(report.sent > u64::from(RATE));
        assert_eq!(
            (report.lost, report.duplicates, report.corrupted),
            (0, 0, 0),
            "{}\n{}",
            a.log(),
            b.log()
        );
    }
    assert_eq!(wire.duplicate_sequence_numbers(), 0);
    assert_eq!(wire.repeated_key_iv(), 0);
    assert_eq!(wire.plaintext + wire.unknown, 0, "{:?}", wire.offenders);
}

#[test]
fn in_lookaside_mode_the_tunnel_comes_back_and_no_number_twice() {
    netlab::ensure_privileges().unwrap();
    let kills = number("ESPLANADE_KILLS", 3);
    let mut seed = number("ESPLANADE_SEED", 2);
    eprintln!("{kills} kills, ESPLANADE_SEED={seed}");
    let hosts = [Namespace::new("a").unwrap(), Namespace::new("b").unwrap()];
    veth((&hosts[0], "wire"), (&hosts[1], "wire")).unwrap();
    for (host, site) in hosts.iter().zip(1..) {
        host.sysctl("net.ipv6.conf.wire.disable_ipv6", "1").unwrap();
        host.address("wire", &format!("{}/24", outer(site)))
            .unwrap();
        host.address("lo", &format!("{}/32", inner(site))).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wire.pcap");
    let capture = Capture::start(&hosts[1], "wire", &file, CaptureConfig::default()).unwrap();
    let b = Site::start(2, &hosts[1], None, directory.path());
    let mut a = Site::start(1, &hosts[0], None, directory.path());
    let tunnel = |site: &Site| site.installed() == (1, "device".to_owned());
    a.wait("the first tunnel", READY, || tunnel(&a));
    let passes = |a: &Site| {
        let report = ping(&a.host, inner(1), inner(2), 2);
        report.is_ok_and(|report| report.received == 2)
    };
    let answers = |a: &Site| {
        let report = probe(&a.host, inner(1), inner(2), 1);
        report.is_ok_and(|report| report.received == 1)
    };
    assert!(passes(&a), "{}", a.log());
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(random(&mut seed) % 700));
        let killed = a.kill();
        let back = a.wait("a new child SA", BACK, || {
            a.daemon() != killed && tunnel(&a)
        });
        a.wait("traffic", BACK, || answers(&a));
        assert!(passes(&a), "{}", a.log());
        eprintln!("kill {kill}: child SA back after {back:?}");
    }
    a.settled();
    b.settled();
    assert!(a.keeper.stop().unwrap().success(), "{}", a.log());
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let wire = Wire::read(&file).unwrap();
    assert_eq!(wire.duplicate_sequence_numbers(), 0);
    assert_eq!(wire.repeated_key_iv(), 0);
}

#[test]
fn sas_that_find_no_successor_in_their_grace_are_retired() {
    netlab::ensure_privileges().unwrap();
    let (hosts, wires) = inline_hosts();
    let directory = tempfile::tempdir().unwrap();
    // Long enough for a slow machine to see that they are there.
    let grace = Duration::from_secs(8);
    let start = |number: u8, grace: Duration| {
        let at = usize::from(number - 1);
        let wire = Some(&wires[at]);
        Site::start_with(number, &hosts[at], wire, directory.path(), grace.as_secs())
    };
    let mut b = start(2, grace);
    let a = start(1, grace);
    a.wait("the first tunnel", READY, || {
        a.installed() == (1, "device".to_owned()) && a.card("sas") == Some(2)
    });
    // Nobody is left to set the tunnel up again with, and nobody has said good-bye.
    let daemon = b.daemon();
    // One that sees its keeper's end says it at once.
    signal(daemon, Signal::SIGSTOP);
    b.keeper.kill().unwrap();
    kill(daemon);
    let begun = Instant::now();
    let killed = a.kill();
    a.wait("SAs that go on without their daemon", grace, || {
        a.daemon() != killed && a.card("adopted") == Some(2) && a.card("sas") == Some(2)
    });
    a.wait("the end of the grace", grace + GONE, || {
        a.card("sas") == Some(0)
    });
    assert!(
        begun.elapsed() >= grace,
        "{:?}\n{}",
        begun.elapsed(),
        a.log()
    );
    assert_eq!(a.installed().0, 0);
    // The card and the cache are both rid of them.
    let mut command = Command::new(tests::program("esplanade"));
    command.args(["sa", "-o", "json", "list", "--cache"]);
    let listed = command.arg(a.directory.join("vici.cache")).output();
    let listed = listed.unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["sas"].as_array().map(Vec::len), Some(0), "{listed}");
}
