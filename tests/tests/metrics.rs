// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What Prometheus scrapes from a daemon, read by a parser that is not ours.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, rekey};
use pki::{Template, dsa, p256};
use prometheus_parse::{Sample, Value};

/// Asks for a path; status line with headers, and body.
fn get(socket: &Path, path: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: metrics\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// One scrape, every line of which a parser has understood.
struct Scraped {
    text: String,
    samples: Vec<Sample>,
}

impl Scraped {
    fn new(socket: &Path) -> Self {
        let (head, text) = get(socket, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"));
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let parsed = prometheus_parse::Scrape::parse(text.lines().map(|l| Ok(l.to_owned())));
        let samples = parsed.unwrap().samples;
        assert_eq!(samples.len(), lines.count(), "{text}");
        Self { text, samples }
    }

    /// The sum of the samples that have these labels; nothing if there are none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let fits = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(key) == Some(*value);
            sample.metric == format!("esplanade_{name}") && labels.iter().all(has)
        };
        let values = self
            .samples
            .iter()
            .filter(fits)
            .map(|sample| match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value as u64,
                _ => panic!("{sample:?}"),
            });
        values.reduce(|sum, more| sum + more)
    }
}

/// Scrapes until it looks as it should.
fn wait(socket: &Path, what: &str, fits: impl Fn(&Scraped) -> bool) -> Scraped {
    let end = Instant::now() + PATIENCE;
    loop {
        let scraped = Scraped::new(socket);
        if fits(&scraped) {
            return scraped;
        }
        assert!(Instant::now() < end, "{what}: {}", scraped.text);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// B56: what is configured and what is there, half-open SAs, rekeyings, errors by notification, each
/// SA's counters and its engine, drops; a child's sums outlive its SAs.
#[test]
fn a_tunnels_life_shows_in_what_prometheus_scrapes() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("metrics");
    let (ike, esp) = ("aes128gcm16-prfsha256-x25519", "aes128gcm16");
    let other = "[connections.gw.children.other]\nlocal_ts = [\"10.1.0.0/24\"]\n\
                 remote_ts = [\"10.9.0.0/24\"]\nesp_proposals = [\"aes128gcm16\"]\n";
    let metrics = format!(
        "retransmit_timeout = 1.0\nmetrics = {{ listen = \"unix:{}\" }}\n{}\n{other}\n\
         [secrets.ike-1]\nsecret = \"{SECRET}\"\n",
        socket.display(),
        ours(1, ike, esp, "reauth_time = 0", "")
    );
    let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &metrics);
    let b = directory.path().join("b");
    let b = Gateway::ikev2d(&wire.b, &b, &ours(2, ike, esp, "mobike = true", ""));

    // Its control socket is there before this one; it answers when all is.
    a.swanctl(&["--list-sas"]);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(get(&socket, "/").0.starts_with("HTTP/1.1 404"));

    let gw = [("connection", "gw")];
    let net = [("connection", "gw"), ("child", "net")];
    let before = Scraped::new(&socket);
    assert_eq!(before.value("connections_configured", &[]), Some(1));
    assert_eq!(before.value("connection_configured", &gw), Some(1));
    assert_eq!(before.value("connection_ike_sas", &gw), Some(0));
    assert_eq!(before.value("connection_child_sas", &net), Some(0));
    assert_eq!(before.value("sa_packets_total", &[]), None);
    assert_eq!(before.value("ike_half_open", &[]), Some(0));

    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("with metrics");
    let up = wait(&socket, "ten packets each way", |scraped| {
        let packets = |way| scraped.value("sa_packets_total", &[net[1], ("direction", way)]);
        packets("in") >= Some(10) && packets("out") >= Some(10)
    });
    let established = [gw[0], ("state", "established")];
    assert_eq!(up.value("connection_ike_sas", &established), Some(1));
    assert_eq!(up.value("ike_established", &[]), Some(1));
    assert_eq!(up.value("connection_child_sas", &net), Some(1));
    assert_eq!(up.value("sa_engine", &[("engine", "software")]), Some(2));
    assert_eq!(up.value("sa_replayed_total", &net), Some(0));
    assert!(up.value("sa_carried_bytes_total", &net) >= Some(20 * 28));
    assert_eq!(up.value("engine_up", &[("engine", "software")]), Some(1));
    let carried = up.value("child_packets_total", &net);
    assert!(carried >= Some(20), "{}", up.text);

    a.try_swanctl(&["--initiate", "--child", "other"])
        .unwrap_err();
    rekey::child(&a, &b, "net");
    let rekeyed = wait(&socket, "the child's rekeying", |scraped| {
        scraped.value("child_rekeyed_total", &[]) == Some(1)
            && scraped.value("connection_child_sas", &net) == Some(1)
    });
    let refused = [("type", "TS_UNACCEPTABLE"), ("direction", "received")];
    assert_eq!(
        rekeyed.value("ike_error_notifications_total", &refused),
        Some(1)
    );
    assert_eq!(rekeyed.value("initiations_failed_total", &[]), Some(1));
    // What was rekeyed is not down.
    assert_eq!(rekeyed.value("child_down_total", &[]), None);
    // One that is up is up at once.
    a.swanctl(&["--initiate", "--ike", "gw"]);
    rekey::ike(&a, &b, "gw");
    rekey::reauthenticate(&a, &b, "gw");
    wait(&socket, "the IKE SA's renewals", |scraped| {
        scraped.value("ike_rekeyed_total", &[]) == Some(1)
            && scraped.value("ike_reauthenticated_total", &[]) == Some(1)
            && scraped.value("connection_child_sas", &net) == Some(1)
    });

    // Nothing of the new SAs has been used: all of it is what the old ones carried.
    let after = Scraped::new(&socket);
    assert!(after.value("child_packets_total", &net) >= carried);
    a.swanctl(&["--terminate", "--ike", "gw"]);
    let down = wait(&socket, "the end", |scraped| {
        scraped.value("connection_ike_sas", &gw) == Some(0)
    });
    assert_eq!(down.value("connection_configured", &gw), Some(1));
    assert_eq!(down.value("connection_child_sas", &net), Some(0));
    assert_eq!(down.value("sa_packets_total", &[]), None);
    assert!(down.value("child_packets_total", &net) >= carried);
    assert_eq!(
        down.value("ike_down_total", &[("reason", "terminated")]),
        Some(1)
    );

    // One that the peer has begun, and whose IKE_AUTH does not come for a while: on the other port, which
    // who can move goes to (RFC 4555 §3.3).
    wire.a
        .nft(
            "add table ip f\n\
             add chain ip f input { type filter hook input priority 0; }\n\
             add rule ip f input udp dport 4500 drop\n",
        )
        .unwrap();
    let _ = b.try_swanctl(&["--initiate", "--child", "net", "--timeout", "1"]);
    wait(&socket, "a half-open IKE SA", |scraped| {
        scraped.value("ike_half_open", &[]) == Some(1)
            && scraped.value("ike_established", &[]) == Some(0)
    });
    wire.a.nft("delete table ip f").unwrap();
    wait(&socket, "its peer's authentication", |scraped| {
        scraped.value("ike_half_open", &[]) == Some(0)
            && scraped.value("ike_established", &[]) == Some(1)
    });
    let too_big = down.value("dataplane_drops_total", &[("reason", "too-big")]);
    assert_eq!(too_big, a.statistics().get("too-big").copied());
}

/// S21 to S26, B51, B56: algorithms of another time are told of in the log, in the list of SAs and as a metric; without
/// `legacy` nothing of the kind shows. Both versions' errors are counted by their names.
#[test]
fn weak_algorithms_show_wherever_people_look() {
    let (old, new) = (
        ("3des-sha1-modp1024", "3des-sha1", "legacy = true", 2),
        ("aes128-sha256-ecp256", "aes128-sha256", "", 0),
    );
    for (version, (ike, esp, legacy, weak)) in [(1, old), (1, new), (2, old), (2, new)] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let socket = directory.path().join("metrics");
        let of_version =
            |text: String| text.replace("version = 2", &format!("version = {version}"));
        let refusal = match version {
            1 => "NO-PROPOSAL-CHOSEN",
            _ => "NO_PROPOSAL_CHOSEN",
        };
        let config = format!(
            "metrics = {{ listen = \"unix:{}\" }}\n{}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
            socket.display(),
            of_version(ours(1, ike, esp, legacy, ""))
        );
        let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &config);
        let b = directory.path().join("b");
        let b = Gateway::ikev2d(&wire.b, &b, &of_version(ours(2, ike, esp, legacy, "")));
        a.swanctl(&["--initiate", "--child", "net"]);
        let up = wait(&socket, "the child", |scraped| {
            scraped.value("child_up_total", &[]) == Some(1)
        });
        assert_eq!(up.value("legacy_sas_total", &[]), Some(weak));
        let raw = a.swanctl(&["--list-sas", "--raw"]);
        assert_eq!(raw.matches("legacy=").count() as u64, weak, "{raw}");
        let log = std::fs::read_to_string(directory.path().join("a/log")).unwrap();
        let told = log
            .matches("is set up with algorithms of another time")
            .count();
        assert_eq!(told as u64, weak, "{log}");
        assert_eq!(log.contains("would have nobody use"), weak != 0, "{log}");

        b.swanctl(&["--terminate", "--ike", "gw"]);
        drop(b);
        let other = of_version(ours(2, "aes256-sha512-ecp384", "aes256-sha512", "", ""));
        let _b = Gateway::ikev2d(&wire.b, &directory.path().join("other"), &other);
        let error = [("type", refusal), ("direction", "received")];
        let _ = a.try_swanctl(&["--initiate", "--child", "net", "--timeout", "1"]);
        wait(&socket, "the refusal", |scraped| {
            scraped.value("ike_error_notifications_total", &error) >= Some(1)
        });
    }
}

/// S29: two daemons with DSA certificates, and where people see it: the log at load and at the SA, the list of SAs,
/// the metric.
#[test]
fn dsa_shows_as_what_is_of_another_time() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let socket = directory.path().join("metrics");
    let root = Template::authority("Root").issue(p256(), None);
    let [a, b] = [(1, "a"), (2, "b")].map(|(number, own)| {
        let folder = directory.path().join(own);
        std::fs::create_dir_all(&folder).unwrap();
        let end = Template::end(&format!("{own}.test")).issue(dsa(), Some(&root));
        let write = |name: &str, octets: Vec<u8>| {
            let path = folder.join(name);
            std::fs::write(&path, octets).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("root.pem", root.certificate.to_pem().unwrap());
        write("own.pem", end.certificate.to_pem().unwrap());
        write("own.key", end.key.private_key_to_pem_pkcs8().unwrap());
        let config = ours(
            number,
            "aes128-sha256-ecp256",
            "aes128-sha256",
            "legacy = true",
            "",
        )
        .replace("version = 2", "version = 1")
        .replacen("\"psk\"", "\"dsa\", certs = [\"own.pem\"]", 1)
        .replacen("\"psk\"", "\"dsa\", cacerts = [\"root.pem\"]", 1);
        let scraped = match number {
            1 => format!("metrics = {{ listen = \"unix:{}\" }}\n", socket.display()),
            _ => String::new(),
        };
        let secrets = "[secrets.private-own]\nfile = \"own.key\"\n";
        let namespace = if number == 1 { &wire.a } else { &wire.b };
        Gateway::ikev2d_with(namespace, &folder, &format!("{scraped}{config}{secrets}"))
    });
    a.swanctl(&["--initiate", "--child", "net"]);
    let up = wait(&socket, "the child", |scraped| {
        scraped.value("child_up_total", &[]) == Some(1)
    });
    assert_eq!(up.value("legacy_sas_total", &[]), Some(1));
    wire.assert_passes("by DSA");
    for (gateway, own) in [(&a, "a"), (&b, "b")] {
        let raw = gateway.swanctl(&["--list-sas", "--raw"]);
        assert_eq!(raw.matches("legacy=dsa").count(), 1, "{raw}");
        let log = std::fs::read_to_string(directory.path().join(own).join("log")).unwrap();
        for part in [
            "would have nobody use",
            "is set up with algorithms of another time",
        ] {
            assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
        }
    }
}
