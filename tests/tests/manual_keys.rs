// SPDX-License-Identifier: Apache-2.0 OR MIT
//! S7, S18: SAs with manual keys, entered at both ends by the configuration and by `esplanade sa add`. They
//! outlive the daemon: killed and started again, it goes on past every number that it ever used.

mod gateway;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, Wire};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig};
use netlab::process::Guarded;
use netlab::traffic::{await_answer, ping, probe};
use pcap_file::pcap::PcapReader;

/// Keys of what goes from A to B, and back.
const ENCRYPTION: [&str; 2] = [
    "8f1d0a3c5e77b2946a10c8fe31d5927e4b6d02f9a87315ce60b4d82f1e93a75c",
    "21c9e4075bd8613fa2907e8c4d15f3b6982ae07c1b6fd4593e08a7c5f2916db4",
];
const INTEGRITY: [&str; 2] = [
    "d3027c9b4e58f1a660e9b3147fc82da5913b6e70c4d95f28a1e60b7d8243c9fe",
    "5a8e13f7c2640bd9e17fa3905c8d2b46f06b9e7143a8d5c2907f1e6bd84a3c25",
];

fn key_table(own: u8, ah: bool) -> String {
    // Host 1 sends with the first, host 2 with the second.
    let (out, back) = if own == 1 { (0, 1) } else { (1, 0) };
    let encryption = format!(
        "encryption_in = \"{}\"\nencryption_out = \"{}\"\n",
        ENCRYPTION[back], ENCRYPTION[out]
    );
    format!(
        "{}integrity_in = \"{}\"\nintegrity_out = \"{}\"\n",
        if ah { String::new() } else { encryption },
        INTEGRITY[back],
        INTEGRITY[out],
    )
}

/// A host's configuration, with its keys in a file beside it and its state in a directory of its own.
fn config(directory: &Path, own: u8, suite: &str, more: &str) -> String {
    let peer = 3 - own;
    let keys = directory.join(format!("{own}.keys"));
    fs::write(&keys, key_table(own, suite.starts_with("ah"))).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "{state}\n[manual.site]\nlocal = \"10.77.0.{own}\"\nremote = \"10.77.0.{peer}\"\n\
         local_ts = [\"10.{own}.0.0/24\"]\nremote_ts = [\"10.{peer}.0.0/24\"]\n\
         suite = \"{suite}\"\nspi_in = \"100{own}\"\nspi_out = \"100{peer}\"\nkeys_file = {keys:?}\n{more}\n",
        state = state(directory, own),
    )
}

fn state(directory: &Path, own: u8) -> String {
    let path = directory.join(format!("state-{own}"));
    format!("state_directory = {path:?}")
}

/// Every (SPI, sequence number) on the wire, ESP and AH; what was seen twice; and packets in the clear.
struct Seen {
    numbers: BTreeMap<u32, Vec<u32>>,
    twice: Vec<(u32, u32)>,
    clear: usize,
}

fn read(file: &Path) -> Seen {
    let mut capture = PcapReader::new(fs::File::open(file).unwrap()).unwrap();
    let mut numbers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let (mut seen, mut twice, mut clear) = (HashSet::new(), Vec::new(), 0);
    while let Some(frame) = capture.next_packet() {
        let frame = frame.unwrap();
        let Some(packet) = frame
            .data
            .get(14..)
            .filter(|p| p.len() > 40 && p[0] == 0x45)
        else {
            continue;
        };
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        let (spi, number) = match packet[9] {
            50 => (word(20), word(24)),
            51 => (word(24), word(28)),
            _ => {
                clear += usize::from(packet[12] == 10 && packet[13] != 77);
                continue;
            }
        };
        if !seen.insert((spi, number)) {
            twice.push((spi, number));
        }
        numbers.entry(spi).or_default().push(number);
    }
    Seen {
        numbers,
        twice,
        clear,
    }
}

/// Starts a host; when it answers, its SAs are there, or refused.
fn start(namespace: &Namespace, directory: &Path, name: &str, config: &str) -> Gateway {
    let gateway = Gateway::ikev2d_with(namespace, &directory.join(name), config);
    gateway.swanctl(&["--list-sas"]);
    gateway
}

fn inner(own: u8) -> IpAddr {
    IpAddr::from([10, own, 0, 1])
}

fn lives_through_kills(suite: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (directory, wire) = (directory.path(), Wire::new());
    let file = directory.join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    let configs = [1, 2].map(|own| config(directory, own, suite, ""));
    let mut a = start(&wire.a, directory, "a0", &configs[0]);
    let mut b = start(&wire.b, directory, "b0", &configs[1]);
    wire.assert_passes(suite);
    let sas = a.swanctl(&["--list-sas"]);
    let protocol = if suite.starts_with("ah") {
        "AH:"
    } else {
        "ESP:AES_CBC-256/"
    };
    let algorithm = format!("{protocol}HMAC_SHA2_256_128");
    for word in ["site: #", "MANUAL", "INSTALLED", &algorithm, "10.2.0.0/24"] {
        assert!(sas.contains(word), "{word}: {sas}");
    }
    for round in 1..=3 {
        a.kill();
        a = start(&wire.a, directory, &format!("a{round}"), &configs[0]);
        wire.assert_passes("after A was killed");
        b.kill();
        b = start(&wire.b, directory, &format!("b{round}"), &configs[1]);
        wire.assert_passes("after B was killed");
    }
    // And after an end in good order.
    assert!(a.stop(), "{}", a.tail());
    let a = start(&wire.a, directory, "a9", &configs[0]);
    wire.assert_passes("after a stop");
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let seen = read(&file);
    assert_eq!(seen.twice, [], "numbers came twice");
    assert_eq!(seen.clear, 0, "packets in the clear");
    for spi in [0x1001, 0x1002] {
        let numbers = &seen.numbers[&spi];
        assert!(
            numbers.len() >= 80 && numbers.is_sorted(),
            "{spi:x}: {numbers:?}"
        );
        println!(
            "{suite} SPI {spi:x}: {} packets, numbers 1 to {:?}",
            numbers.len(),
            numbers.last()
        );
    }
    drop((a, b));
}

/// S18, E03: ESP's numbers never come twice, whichever daemon is killed.
#[test]
fn esp_with_manual_keys_outlives_its_daemons() {
    lives_through_kills("aes256-sha256");
}

/// S18, E03: the same of AH's.
#[test]
fn ah_with_manual_keys_outlives_its_daemons() {
    lives_through_kills("ah-sha256");
}

/// S18, E03: the record of a used key is removed: the daemon says so, seals nothing, lets nothing out in the
/// clear, and goes on with `start_at`.
#[test]
fn a_removed_record_is_refused_until_a_start_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, wire) = (directory.path(), Wire::new());
    let file = directory.join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    let configs = [1, 2].map(|own| config(directory, own, "aes256-sha256", ""));
    let mut a = start(&wire.a, directory, "a", &configs[0]);
    let _b = start(&wire.b, directory, "b", &configs[1]);
    wire.assert_passes("at first");
    a.kill();
    let records = fs::read_dir(directory.join("state-1/manual")).unwrap();
    let record = records
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().is_some_and(|name| name.len() == 32))
        .expect("a record of the outbound key");
    fs::remove_file(&record).unwrap();
    let mut a = start(&wire.a, directory, "a2", &configs[0]);
    let told = format!("{} is gone, and this key was used before", record.display());
    assert!(a.tail().contains(&told), "{}", a.tail());
    assert!(a.tail().contains("start_at, --start-at"), "{}", a.tail());
    assert!(!a.swanctl(&["--list-sas"]).contains("INSTALLED"));
    let report = probe(&wire.a, inner(1), inner(2), 2);
    assert!(report.is_ok_and(|report| report.received == 0));
    a.kill();
    let again = config(directory, 1, "aes256-sha256", "start_at = 2000000");
    let mut a = start(&wire.a, directory, "a3", &again);
    wire.assert_passes("with a start");
    // It may stay in the configuration.
    a.kill();
    let _a = start(&wire.a, directory, "a4", &again);
    wire.assert_passes("with the same start");
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let seen = read(&file);
    assert_eq!((seen.twice, seen.clear), (Vec::new(), 0));
    assert!(
        seen.numbers[&0x1002]
            .last()
            .is_some_and(|number| *number > 3_000_000)
    );
}

/// B43, RFC 4301 §4.4.1: the route of what is protected stands while its keys change and while its SA is
/// refused; it goes to where the configuration says, and goes when that is silent.
#[test]
fn routes_are_as_configured_whatever_becomes_of_the_sas() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, wire) = (directory.path(), Wire::new());
    let mut pairs: BTreeMap<&str, String> = BTreeMap::new();
    // Each with keys of its own, by their first digit.
    let mut write = |name: &'static str, digit: char, spi: u32, net: u8| {
        let table = key_table(1, false);
        let table = table.replace("_in = \"", &format!("_in = \"{digit}1"));
        let table = table.replace("_out = \"", &format!("_out = \"{digit}2"));
        let lines = table.lines().map(|line| {
            let (name, key) = line.split_once('"').unwrap();
            format!("{name}\"{}\"\n", &key[..64])
        });
        let keys = directory.join(format!("{name}.keys"));
        fs::write(&keys, lines.collect::<String>()).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        pairs.insert(
            name,
            format!(
                "[manual.{name}]\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\n\
                 local_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.{net}.0.0/24\"]\n\
                 suite = \"aes256-sha256\"\nspi_in = \"{spi}\"\nspi_out = \"{}\"\nkeys_file = {keys:?}\n",
                spi + 1000,
            ),
        );
        pairs.values().cloned().collect::<String>()
    };
    let state = state(directory, 1);
    write("site", '1', 1001, 2);
    // It has site's SPI, and is refused.
    let text = write("twin", '2', 1001, 3);
    let a = start(&wire.a, directory, "a", &format!("{state}\n{text}"));
    let installed = || a.swanctl(&["--list-sas"]).matches("INSTALLED").count();
    assert_eq!(installed(), 1, "{}", a.tail());
    let route = |net: u8| {
        let routes = wire.a.ip("route").unwrap();
        routes.contains(&format!("10.{net}.0.0/24 dev esp0"))
    };
    assert!(route(2) && route(3), "{}", wire.a.ip("route").unwrap());

    let file = directory.join("a/ikev2d.toml");
    let head = fs::read_to_string(&file).unwrap();
    let head = head.split("[manual").next().unwrap().to_owned();
    let reload = |text: &str| {
        fs::write(&file, format!("{head}\n{text}")).unwrap();
        a.swanctl(&["--reload-settings"]);
    };
    let wait = |what: &str, fits: &dyn Fn() -> bool| {
        let end = Instant::now() + PATIENCE;
        while !fits() {
            let late = Instant::now() > end;
            assert!(
                !late,
                "{what}: {}\n{}",
                wire.a.ip("route").unwrap(),
                a.tail()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let seen = directory.join("monitor");
    let mut monitor = wire.a.command("stdbuf");
    monitor.args(["-oL", "ip", "monitor", "route"]);
    monitor.stdout(fs::File::create(&seen).unwrap());
    let _monitor = Guarded::spawn(monitor).unwrap();
    let monitored = |part: &str| fs::read_to_string(&seen).unwrap().contains(part);
    let mark = |net: u8| {
        wait("the monitor", &|| {
            let net = format!("10.{net}.0.0/24");
            // One that is there already is told of no more.
            let _ = wire.a.ip(&format!("route del {net} dev lo"));
            let _ = wire.a.ip(&format!("route replace {net} dev lo"));
            monitored(&net)
        });
    };
    mark(201);
    // Both get new keys; the refused one is for another net by now.
    write("site", '3', 1001, 2);
    reload(&write("twin", '4', 1003, 4));
    wait("new keys", &|| installed() == 2 && route(4) && !route(3));
    assert!(route(2));
    mark(202);
    assert!(monitored("Deleted 10.3.0.0/24"));
    assert!(
        !monitored("Deleted 10.2.0.0/24"),
        "{}",
        fs::read_to_string(&seen).unwrap()
    );
    // Refused again, and then not wanted any more.
    reload(&write("twin", '5', 1001, 5));
    wait("the refusal", &|| installed() == 1 && route(5) && !route(4));
    let only = write("twin", '5', 1001, 5);
    reload(only.split("[manual.twin]").next().unwrap());
    wait("the end", &|| !route(5));
    assert!(route(2));
}

fn esplanade(gateway: &Gateway, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(tests::program("esplanade"))
        .args(arguments)
        .arg("--socket")
        .arg(&gateway.vici)
        .output()
        .unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// The same by the command line: checked, listed, deleted, and added again past every used number.
#[test]
fn manual_sas_are_added_and_deleted_by_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, wire) = (directory.path(), Wire::new());
    let file = directory.join("wire.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, CaptureConfig::default()).unwrap();
    let hosts = [(&wire.a, 1), (&wire.b, 2)].map(|(namespace, own)| {
        let name = format!("host-{own}");
        start(namespace, directory, &name, &state(directory, own))
    });
    let keys = |own: u8, mode: u32| {
        let path = directory.join(format!("{own}.keys"));
        fs::write(&path, key_table(own, false)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let add = |own: u8, name: &str, spi_in: &str, suite: &str, mode: u32| {
        let peer = 3 - own;
        let address = |n: u8| format!("10.77.0.{n}");
        let net = |n: u8| format!("10.{n}.0.0/24");
        let (keys, spi_out) = (keys(own, mode), format!("20{peer}"));
        let arguments = [
            "sa",
            "add",
            name,
            "--local",
            &address(own),
            "--remote",
            &address(peer),
            "--local-ts",
            &net(own),
            "--remote-ts",
            &net(peer),
            "--suite",
            suite,
            "--spi-in",
            spi_in,
            "--spi-out",
            &spi_out,
            "--keys",
            &keys,
        ];
        esplanade(&hosts[usize::from(own - 1)], &arguments)
    };
    let refused = |result: Result<String, String>, part: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    };
    refused(add(1, "site", "201", "aes256-sha256", 0o644), "chmod 600");
    refused(
        add(1, "site", "0fe", "aes256-sha256", 0o600),
        "SPIs 0 to ff are reserved",
    );
    refused(
        add(1, "site", "201", "aes128-sha256", 0o600),
        "expected 16 octets, found 32",
    );
    refused(add(1, "site", "201", "aes256gcm16", 0o600), "RFC 8221");
    let said = add(1, "site", "201", "aes256-sha256", 0o600).unwrap();
    assert!(said.contains("from number 1 on"), "{said}");
    refused(add(1, "site", "203", "aes256-sha256", 0o600), "already");
    refused(
        add(1, "other", "201", "aes256-sha256", 0o600),
        "spi_in 00000201 is site's already",
    );
    refused(add(1, "other", "203", "aes256-sha256", 0o600), "site");
    add(2, "site", "202", "aes256-sha256", 0o600).unwrap();
    wire.assert_passes("by the command line");
    let sas = esplanade(&hosts[0], &["sas"]).unwrap();
    for word in ["site", "MANUAL", "00000201/00000202", "software"] {
        assert!(sas.contains(word), "{word}: {sas}");
    }
    esplanade(&hosts[0], &["sa", "del", "site"]).unwrap();
    refused(
        esplanade(&hosts[0], &["sa", "del", "site"]),
        "no manual SAs",
    );
    assert!(!esplanade(&hosts[0], &["sas"]).unwrap().contains("site"));
    let said = add(1, "site", "201", "aes256-sha256", 0o600).unwrap();
    assert!(!said.contains("from number 1 on"), "{said}");
    wire.assert_passes("again");
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let seen = read(&file);
    assert_eq!((seen.twice, seen.clear), (Vec::new(), 0));
}

/// S7, S18, S47: an implementation that is not ours, live at the other end: scapy opens what we seal and says so by
/// an answer that it seals and we open; in IPv4 and IPv6, with extended numbers and without.
#[test]
fn scapy_and_we_speak_ah() {
    let python = std::env::var_os("ESPLANADE_PYTHON").unwrap_or_else(|| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/ah_peer.py");
    let here = Command::new(&python).arg(&script).output();
    if !here.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "scapy is not installed: not checked by it (ESPLANADE_PYTHON names one that has it)"
        );
        return;
    }
    for (v6, esn) in [(false, false), (false, true), (true, false)] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let mut text = config(directory.path(), 1, "ah-sha256", &format!("esn = {esn}"));
        let mut hosts = ["10.77.0.1", "10.77.0.2"];
        if v6 {
            hosts = ["fd77::1", "fd77::2"];
            for (namespace, host) in [(&wire.a, hosts[0]), (&wire.b, hosts[1])] {
                namespace.address("wire", &format!("{host}/64")).unwrap();
            }
            text = text.replace("10.77.0.", "fd77::");
        }
        // Its kernel has no AH, and is not to say so.
        wire.b
            .nft(
                "add table inet quiet\n\
                 add chain inet quiet input { type filter hook input priority 0; }\n\
                 add rule inet quiet input ip protocol 51 drop\n\
                 add rule inet quiet input ip6 nexthdr 51 drop\n",
            )
            .unwrap();
        let mut peer = wire.b.command(&python);
        peer.arg(&script).args(["wire", hosts[1], hosts[0]]);
        peer.args(["1002", "1001", INTEGRITY[0], INTEGRITY[1]]);
        peer.arg(if esn { "1" } else { "0" });
        let _peer = Guarded::spawn(peer).unwrap();
        let a = start(&wire.a, directory.path(), "a", &text);
        // scapy takes its time to begin.
        await_answer(&wire.a, inner(1), inner(2));
        let report = ping(&wire.a, inner(1), inner(2), 5).unwrap();
        assert_eq!(report.received, 5, "{v6} {esn}: {}", a.tail());
    }
}
