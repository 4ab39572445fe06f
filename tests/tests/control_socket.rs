// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control socket as its users meet it: strongSwan's `swanctl`, and clients that send garbage.

mod gateway;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, rekey, theirs, wait, wait_idle};
use netlab::process::Guarded;

const IKE: &str = "aes128gcm16-prfsha256-x25519";
const ESP: &str = "aes128gcm16";

/// A directory for `swanctl` with this configuration.
fn swanctl_conf(directory: &Path, text: &str) -> std::path::PathBuf {
    let directory = directory.join("swanctl");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("swanctl.conf"), text).unwrap();
    directory
}

fn load_all(gateway: &Gateway, directory: &Path) -> (bool, String) {
    let output = Command::new("timeout")
        .args(["20", "swanctl", "--load-all", "--uri"])
        .arg(format!("unix://{}", gateway.vici.display()))
        .env("SWANCTL_DIR", directory)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

/// B54, B55: connections, secrets and pools, loaded, kept over a reload, unloaded.
#[test]
fn swanctl_loads_a_connection_and_its_secret_and_a_tunnel_comes_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let peer = Gateway::ikev2d(
        &wire.b,
        &directory.path().join("b"),
        &ours(2, IKE, ESP, "", ""),
    );
    let empty = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), "");
    let conf = format!(
        "connections {{\n{}\n}}\nsecrets {{\n ike-1 {{\n secret = \"{SECRET}\"\n id = b.test\n }}\n }}\n\
         pools {{\n visitors {{\n addrs = 10.9.0.0/29\n }}\n }}\n",
        theirs(1, IKE, ESP).replace("esp_proposals", "rekey_packets = 7000000\nesp_proposals")
    );
    let swanctl = swanctl_conf(directory.path(), &conf);
    let (ok, said) = load_all(&empty, &swanctl);
    assert!(ok, "{said}");
    assert!(said.contains("successfully loaded 1 connections"), "{said}");
    let conns = empty.swanctl(&["--list-conns"]);
    assert!(
        conns.contains("gw: IKEv2") && conns.contains("10.2.0.0/24"),
        "{conns}"
    );
    assert!(conns.contains("7000000 packets"), "{conns}");
    // What was loaded outlives the configuration's being read again.
    empty.swanctl(&["--reload-settings"]);
    let pools = empty.swanctl(&["--list-pools"]);
    assert!(pools.contains("visitors"), "{pools}");
    empty.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("loaded by swanctl");

    // What is in the file no more goes, what is established stays.
    let swanctl = swanctl_conf(directory.path(), "");
    let (ok, said) = load_all(&empty, &swanctl);
    assert!(ok && said.contains("1 unloaded"), "{said}");
    assert!(empty.swanctl(&["--list-conns"]).trim().is_empty());
    assert!(empty.swanctl(&["--list-pools"]).trim().is_empty());
    wire.assert_passes("unloaded");
    drop(peer);
}

/// B55: a child with `start_action = "start"` that a reload brings is started, with a connection of its own
/// and on the IKE SA that is there; what is there already, is not. What is unwise in it is told, as at the start,
/// and what wants a restart.
#[test]
fn what_a_reload_brings_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let places = [(&wire.a, "a", 1), (&wire.b, "b", 2)];
    let gateways = places.map(|(namespace, name, _)| {
        let configuration = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
        Gateway::ikev2d_with(namespace, &directory.path().join(name), &configuration)
    });
    let add = |at: usize, text: &str| {
        let file = directory.path().join(places[at].1).join("ikev2d.toml");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, before + text).unwrap();
        gateways[at].swanctl(&["--reload-settings"]);
    };
    let [a, b] = &gateways;
    let start = |own| match own {
        1 => "start_action = \"start\"",
        _ => "",
    };
    for at in [1, 0] {
        let own = places[at].2;
        add(at, &ours(own, IKE, ESP, "", start(own)));
    }
    wire.assert_passes("a connection that a reload has brought");
    let further = |own: u8| {
        format!(
            "[connections.gw.children.further]\nlocal_ts = [\"10.{own}.1.0/24\"]\n\
             remote_ts = [\"10.{peer}.1.0/24\"]\nesp_proposals = [\"{ESP}\"]\n{}\n",
            start(own),
            peer = 3 - own,
        )
    };
    for at in [1, 0] {
        add(at, &further(places[at].2));
    }
    a.wait_sas("the further child", |text| text.contains("further: #"));
    add(
        0,
        "[secrets.short]\nids = [\"c.test\"]\nsecret = \"tooshort\"\n",
    );
    let log = fs::read_to_string(&a.log).unwrap();
    assert!(log.contains("secrets.short"), "{}", a.tail());
    assert!(!log.contains("restart ikev2d"), "{}", a.tail());
    let file = directory.path().join("a/ikev2d.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("queues = 1", "queues = 2", 1)).unwrap();
    a.swanctl(&["--reload-settings"]);
    let log = fs::read_to_string(&a.log).unwrap();
    assert!(
        log.contains("daemon.tun.queues has changed: restart ikev2d"),
        "{}",
        a.tail()
    );
    // Nothing is there twice, nor comes so in the time of some round trips.
    wire.assert_passes("what was there before the last reload");
    for gateway in [a, b] {
        let sas = gateway.swanctl(&["--list-sas"]);
        let count = |what: &str| sas.matches(what).count();
        assert_eq!((count("gw: #1"), count("gw: #")), (1, 1), "{sas}");
        assert_eq!((count("net: #"), count("further: #")), (1, 1), "{sas}");
    }
}

/// B54: certificates by `load-cert` and with their connection, in PEM and DER.
#[test]
fn swanctl_loads_certificates_in_either_form() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let gateway = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), "");
    let pki = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-keyout", "key.pem", "-outform", "DER", "-out", "root.der"])
        .args([
            "-subj",
            "/CN=A root in DER",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(pki.status.success(), "{pki:?}");
    let good = theirs(1, IKE, ESP);
    let remote = good.rfind("auth = psk").unwrap();
    let mut text = good.clone();
    text.replace_range(
        remote..,
        &good[remote..].replacen("psk", "pubkey\n cacerts = root.der", 1),
    );
    let swanctl = swanctl_conf(directory.path(), &format!("connections {{\n{text}\n}}\n"));
    let authorities = swanctl.join("x509ca");
    fs::create_dir_all(&authorities).unwrap();
    fs::copy(
        directory.path().join("root.der"),
        authorities.join("root.der"),
    )
    .unwrap();
    let (ok, said) = load_all(&gateway, &swanctl);
    assert!(ok, "{said}");
    assert!(said.contains("successfully loaded 1 connections"), "{said}");
    let certificates = gateway.swanctl(&["--list-certs"]);
    assert!(certificates.contains("A root in DER"), "{certificates}");
    let conns = gateway.swanctl(&["--list-conns"]);
    assert!(conns.contains("gw: IKEv2"), "{conns}");
}

#[test]
fn what_swanctl_may_not_load_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let gateway = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "", ""),
    );
    let good = theirs(1, IKE, ESP);
    for (from, to, expected) in [
        ("gw {", "gw {", "configuration file's"),
        ("gw {", "other {\n aggressive = yes", "aggressive"),
        ("auth = psk", "auth = pubkey", "local.auth"),
        ("10.77.0.2", "10.77.0.256", "10.77.0.256"),
        ("version = 2", "version = 3", "version"),
    ] {
        let text = good.replacen(from, to, 1);
        let text = if from == "gw {" {
            text
        } else {
            text.replacen("gw {", "other {", 1)
        };
        let swanctl = swanctl_conf(directory.path(), &format!("connections {{\n{text}\n}}\n"));
        let (ok, said) = load_all(&gateway, &swanctl);
        assert!(!ok && said.contains(expected), "{from} -> {to}: {said}");
    }
    let swanctl = swanctl_conf(
        directory.path(),
        "secrets {\n ike-1 {\n secret = \"short\"\n }\n }\n",
    );
    let (_, said) = load_all(&gateway, &swanctl);
    assert!(said.contains("at least 8"), "{said}");
}

#[test]
fn commands_and_events_are_those_that_swanctl_expects() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "", ""),
    );
    let b = Gateway::ikev2d(
        &wire.b,
        &directory.path().join("b"),
        &ours(2, IKE, ESP, "", ""),
    );
    let mode = fs::metadata(&a.vici).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Line by line as it comes: standard output is a file.
    let seen = directory.path().join("monitor");
    let mut monitor = Command::new("stdbuf");
    monitor
        .args(["-oL", "swanctl", "--monitor-sa", "--raw", "--uri"])
        .arg(format!("unix://{}", a.vici.display()))
        .stdin(Stdio::null())
        .stdout(fs::File::create(&seen).unwrap());
    let monitor = Guarded::spawn(monitor).unwrap();
    wait_idle(monitor.id());

    // What this swanctl does not show.
    let mut rekeys = UnixStream::connect(&a.vici).unwrap();
    rekeys
        .write_all(b"\0\0\0\x0b\x03\x09ike-rekey\0\0\0\x0d\x03\x0bchild-rekey")
        .unwrap();
    rekeys.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut confirmed = [0; 10];
    rekeys.read_exact(&mut confirmed).unwrap();
    assert_eq!(confirmed, *b"\0\0\0\x01\x05\0\0\0\x01\x05");

    let said = a.swanctl(&["--initiate", "--child", "net"]);
    for line in [
        "[IKE] IKE_SA gw[1] established between 10.77.0.1[a.test]...10.77.0.2[b.test]",
        "[IKE] CHILD_SA net{",
        "initiate completed successfully",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    wire.assert_passes("initiated");
    rekey::child(&a, &b, "net");
    rekey::ike(&a, &b, "gw");
    a.swanctl(&["--terminate", "--ike", "gw"]);
    b.wait_sas("the end", |sas| sas.trim().is_empty());
    for event in [
        "ike-updown event {up=yes gw {",
        "child-updown event {up=yes gw {",
        "child-updown event {up=no gw {",
        "ike-updown event {up=no gw {",
    ] {
        wait(event, || fs::read_to_string(&seen).unwrap().contains(event));
    }
    drop(monitor);

    for event in [
        &b"\x07\x0bchild-rekey\x01\x02gw"[..],
        b"\x07\x09ike-rekey\x01\x02gw\x01\x03old",
    ] {
        let mut len = [0; 4];
        rekeys.read_exact(&mut len).unwrap();
        let mut seen = vec![0; u32::from_be_bytes(len) as usize];
        rekeys.read_exact(&mut seen).unwrap();
        assert!(
            seen.starts_with(event),
            "{}",
            String::from_utf8_lossy(&seen)
        );
    }

    for (arguments, expected) in [
        (&["--stats"][..], "IKE_SAs: 0 total"),
        (&["--list-algs"], "AES_GCM_16[openssl]"),
        (&["--version", "--daemon"], "ikev2d"),
        (&["--list-authorities"], ""),
        (&["--list-certs"], ""),
        (&["--list-pools"], ""),
        (&["--list-pols"], ""),
        (&["--reload-settings"], ""),
        (&["--counters"], "retransmits"),
    ] {
        let said = a.swanctl(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    for (arguments, expected) in [
        (&["--initiate", "--child", "nope"][..], "nope"),
        (&["--terminate", "--ike", "nope"], "no matching SAs"),
        (&["--rekey", "--child", "nope"], "no matching SAs"),
    ] {
        let said = a.try_swanctl(arguments).unwrap_err();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// Sends octets and waits until the daemon hangs up; what it answered.
fn cut_off(gateway: &Gateway, octets: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&gateway.vici).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may hang up before it has taken everything.
    let _ = stream.write_all(octets);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("{error} for {octets:02x?}"),
    }
}

#[test]
fn garbage_costs_the_client_its_connection_and_the_daemon_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, IKE, ESP, "", ""),
    );
    let packet = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    for octets in [
        // No length at all, none left, far too much.
        packet(&[]),
        u32::MAX.to_be_bytes().to_vec(),
        (512u32 * 1024 + 1).to_be_bytes().to_vec(),
        // Packet types that a client may not send or that are not there.
        packet(&[1]),
        packet(b"\x07\x03log"),
        packet(b"\xff\x03log"),
        // Names that are too long for their packet, or no text.
        packet(&[0]),
        packet(b"\x00\x09stats"),
        packet(b"\x00\x02\xff\xfe"),
        // Messages: cut off, unbalanced, unknown elements, a value longer than the packet.
        packet(b"\x00\x05stats\x01"),
        packet(b"\x00\x05stats\x01\x03abc"),
        packet(b"\x00\x05stats\x09\x01\x01"),
        packet(b"\x00\x05stats\x03\x01a\xff\xffx"),
    ] {
        let answer = cut_off(&a, &octets);
        assert!(
            answer.len() < 16,
            "{octets:02x?} is answered: {answer:02x?}"
        );
    }
    // Sections without end must not be followed down for ever.
    let mut deep = b"\x00\x05stats".to_vec();
    for _ in 0..100_000 {
        deep.extend(b"\x01\x01a");
    }
    cut_off(&a, &packet(&deep));
    // Clients that say nothing, or a bit, hold up nobody.
    let _idle: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = UnixStream::connect(&a.vici).unwrap();
            stream.write_all(&[0, 0, 1]).unwrap();
            stream
        })
        .collect();
    assert!(a.swanctl(&["--stats"]).contains("uptime"));
}
