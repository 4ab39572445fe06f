// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH between two of our daemons: negotiated as IKEv2's protocol 2, carried as IP protocol 51, and each
//! packet's ICV computed again by others (OpenSSL here, scapy where it is installed). strongSwan's ESP in
//! user space has no AH.

mod gateway;

use std::fs;
use std::path::Path;
use std::process::Command;

use gateway::{Gateway, Wire, ours, rekey};
use netlab::capture::{Capture, CaptureConfig};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use pcap_file::pcap::PcapReader;

const IKE: &str = "aes256gcm16-prfsha384-x25519";

fn with_ah(own: u8, ah: &str, more: &str) -> String {
    ours(own, IKE, "ESP", more, "").replace(
        "esp_proposals = [\"ESP\"]",
        &format!("ah_proposals = [\"{ah}\"]"),
    )
}

fn whole() -> CaptureConfig {
    CaptureConfig {
        snap: 1 << 11,
        ..CaptureConfig::default()
    }
}

/// SPI and key of each SA, of the key log's table.
fn keys(directory: &Path) -> Vec<(u32, Vec<u8>)> {
    let table = fs::read_to_string(directory.join("keys/ah_sa")).unwrap();
    let field = |line: &str, at: usize| {
        let field = line.split(',').nth(at).unwrap();
        field.trim_matches('"').trim_start_matches("0x").to_owned()
    };
    let sa = |line: &str| {
        let spi = u32::from_str_radix(&field(line, 3), 16).unwrap();
        (spi, hex::decode(field(line, 7)).unwrap())
    };
    table.lines().map(sa).collect()
}

/// Computes HMAC-SHA-256-128 over each AH packet in IPv4 by the words of RFC 4302 §3.3.3.1; how many.
fn check_icvs(file: &Path, keys: &[(u32, Vec<u8>)], esn: bool) -> usize {
    let mut capture = PcapReader::new(fs::File::open(file).unwrap()).unwrap();
    let mut checked = 0;
    while let Some(frame) = capture.next_packet() {
        let frame = frame.unwrap();
        let Some(packet) = frame
            .data
            .get(14..)
            .filter(|p| p.len() > 44 && p[0] == 0x45)
        else {
            continue;
        };
        if packet[9] != 51 {
            continue;
        }
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let mut covered = packet[..len].to_vec();
        for at in [1, 6, 7, 8, 10, 11] {
            covered[at] = 0;
        }
        let icv = covered[32..48].to_vec();
        covered[32..48].fill(0);
        if esn {
            covered.extend([0; 4]);
        }
        let spi = u32::from_be_bytes(covered[24..28].try_into().unwrap());
        let (_, key) = keys.iter().find(|(of, _)| *of == spi).expect("a logged SA");
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        let expected = signer.sign_oneshot_to_vec(&covered).unwrap();
        assert_eq!(icv, expected[..16], "ICV of SPI {spi:08x}");
        // Next header IPv4, and the packet inside is in the clear.
        assert_eq!((packet[20], packet[48] >> 4), (4, 4));
        checked += 1;
    }
    checked
}

/// The same by scapy, with all algorithms; nothing where it is not installed.
fn check_by_scapy(file: &Path, keys: &Path) -> Option<usize> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/check_ah.py");
    let python = std::env::var_os("ESPLANADE_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python)
        .arg(script)
        .arg(file)
        .arg(keys)
        .output();
    let output = output
        .ok()
        .filter(|output| output.status.code() != Some(77));
    let Some(output) = output else {
        eprintln!(
            "scapy is not installed: not checked by it (ESPLANADE_PYTHON names one that has it)"
        );
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("scapy: packets and SAs: {text}");
    text.split_whitespace().next()?.parse().ok()
}

/// S47: the tunnel comes up, carries traffic both ways, is rekeyed and deleted; nobody forges it.
#[test]
fn an_ah_tunnel_lives_from_initiation_to_deletion() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let [a_files, b_files] = ["a", "b"].map(|name| directory.path().join(name));
    let config = |own| with_ah(own, "sha256-esn", "encap = false");
    let a = Gateway::ikev2d(&wire.a, &a_files, &config(1));
    let b = Gateway::ikev2d(&wire.b, &b_files, &config(2));
    let file = directory.path().join("ah.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, whole()).unwrap();
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("by AH");
    let sas = a.swanctl(&["--list-sas"]);
    for word in ["INSTALLED", "AH:HMAC_SHA2_256_128", "10.2.0.0/24"] {
        assert!(sas.contains(word), "{word}: {sas}");
    }
    rekey::child(&a, &b, "net");
    assert_eq!(keys(&a_files).len(), 4);
    wire.assert_still_passes("after the rekeying");
    assert_eq!(capture.finish().unwrap().dropped, 0);
    // Four runs of five pings, and their answers.
    let checked = check_icvs(&file, &keys(&a_files), true);
    assert!(checked >= 40, "{checked} packets");
    if let Some(by_scapy) = check_by_scapy(&file, &a_files.join("keys/ah_sa")) {
        assert_eq!(by_scapy, checked);
    }
    a.swanctl(&["--terminate", "--child", "net"]);
    a.wait_sas("the child's end", |sas| !sas.contains("INSTALLED"));
    wire.assert_blocked();
}

/// S20, S47, S49, B35, B57: the same negotiated by IKEv1's quick mode, with the commit bit, and rekeyed by
/// octets.
#[test]
fn ah_is_negotiated_by_ikev1() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let config = |own: u8| {
        let config = with_ah(own, "sha256", "commit = true");
        let config = config.replace("version = 2", "version = 1");
        let child = match own {
            1 => "rekey_bytes = 1000\nah_proposals",
            // Told to the peer, whose own settings have no such end.
            _ => "life_bytes = 1048576\nah_proposals",
        };
        config
            .replace(IKE, "aes256-sha256-ecp256")
            .replace("ah_proposals", child)
    };
    let files = ["a", "b"].map(|name| directory.path().join(name));
    let a = Gateway::ikev2d(&wire.a, &files[0], &config(1));
    let _b = Gateway::ikev2d(&wire.b, &files[1], &config(2));
    let file = directory.path().join("ah.pcap");
    let capture = Capture::start(&wire.a, "wire", &file, whole()).unwrap();
    a.swanctl(&["--initiate", "--child", "net"]);
    let sas = a.swanctl(&["--list-sas"]);
    for word in ["IKEv1", "INSTALLED", "AH:HMAC_SHA2_256_128"] {
        assert!(sas.contains(word), "{word}: {sas}");
    }
    for word in [
        "peer's terms",
        "life_bytes=Some(1048576)",
        "replay=Some(true)",
    ] {
        assert!(a.tail().contains(word), "{word}: {}", a.tail());
    }
    wire.assert_passes("by AH of IKEv1");
    // That was more than a thousand octets, and the next child SA comes without a loss.
    wire.assert_still_passes("over a rekeying by octets");
    a.wait_sas("the child SA after a thousand octets", |sas| {
        sas.matches("INSTALLED").count() == 1 && keys(&files[0]).len() >= 4
    });
    wire.assert_still_passes("by its successor");
    assert_eq!(capture.finish().unwrap().dropped, 0);
    let checked = check_icvs(&file, &keys(&files[0]), false);
    assert!(checked >= 60, "{checked} packets");
    a.swanctl(&["--terminate", "--ike", "gw"]);
    a.wait_sas("the end", |sas| !sas.contains("gw"));
    // B57: an initiator's cookie and the key of AES-256, which Wireshark decrypts IKEv1 by.
    let table = fs::read_to_string(files[0].join("keys/ikev1_decryption_table")).unwrap();
    let lines: Vec<(usize, usize)> = table
        .lines()
        .filter_map(|line| line.split_once(','))
        .map(|(cookie, key)| (cookie.len(), key.len()))
        .collect();
    assert_eq!(lines, [(16, 64)]);
    check_by_tshark(&file, &files[0].join("keys"));
}

/// tshark decrypts quick modes by the key log's table; nothing where it is not installed.
fn check_by_tshark(file: &Path, keys: &Path) {
    let tables = tempfile::tempdir().unwrap();
    let table = "ikev1_decryption_table";
    fs::copy(keys.join(table), tables.path().join(table)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.env("WIRESHARK_CONFIG_DIR", tables.path());
    tshark.args(["-T", "fields", "-e", "isakmp.id.data.ipv4_subnet"]);
    tshark.args(["-Y", "isakmp.exchangetype == 32", "-r"]);
    let Ok(output) = tshark.arg(file).output() else {
        eprintln!("tshark is not installed: not checked by it");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // The masks of the proxy ids.
    assert!(text.contains("255.255.255.0"), "{text}{errors}");
}

/// The same over IPv6, with codes by AES and 32-bit numbers; and with SHA-1, where both ends ask for it.
#[test]
fn ah_runs_over_ipv6_and_with_every_algorithm() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    for (namespace, number) in [(&wire.a, 1), (&wire.b, 2)] {
        let outer = format!("fd77::{number}/64");
        namespace.address("wire", &outer).unwrap();
    }
    for (n, (ah, name)) in [
        ("aes128gmac", "AES_128_GMAC"),
        ("aes256gmac-esn", "AES_256_GMAC"),
        ("sha512-esn", "HMAC_SHA2_512_256"),
        ("aescmac-esn", "AES_CMAC_96"),
        ("aesxcbc", "AES_XCBC_96"),
        ("sha1", "HMAC_SHA1_96"),
    ]
    .into_iter()
    .enumerate()
    {
        let legacy = if ah == "sha1" { "legacy = true" } else { "" };
        let config = |own| with_ah(own, ah, legacy).replace("10.77.0.", "fd77::");
        let files = ["a", "b"].map(|name| directory.path().join(format!("{name}{n}")));
        let a = Gateway::ikev2d(&wire.a, &files[0], &config(1));
        let _b = Gateway::ikev2d(&wire.b, &files[1], &config(2));
        let file = directory.path().join(format!("{n}.pcap"));
        let capture = Capture::start(&wire.a, "wire", &file, whole()).unwrap();
        a.swanctl(&["--initiate", "--child", "net"]);
        let sas = a.swanctl(&["--list-sas"]);
        assert!(sas.contains("@ fd77::1[") && sas.contains(name), "{sas}");
        wire.assert_passes(ah);
        assert_eq!(capture.finish().unwrap().dropped, 0);
        // scapy has no AES-XCBC.
        if ah != "aesxcbc"
            && let Some(checked) = check_by_scapy(&file, &files[0].join("keys/ah_sa"))
        {
            assert!(checked >= 20, "{ah}: {checked}");
        }
    }
}

/// AH authenticates what a NAT changes: behind one, or where UDP is asked for, it is not agreed on, and ESP
/// is taken where both are offered.
#[test]
fn ah_does_not_go_in_udp() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let start = |name: &str, more: &str| {
        let config = |own| {
            let both = format!("ah_proposals = [\"sha256\"]\n{more}");
            with_ah(own, "sha256", "encap = true").replace("ah_proposals = [\"sha256\"]", &both)
        };
        let files = ["a", "b"].map(|side| directory.path().join(format!("{side}-{name}")));
        let a = Gateway::ikev2d(&wire.a, &files[0], &config(1));
        let b = Gateway::ikev2d(&wire.b, &files[1], &config(2));
        (a, b)
    };
    let (a, b) = start("ah", "");
    let said = a
        .try_swanctl(&["--initiate", "--child", "net"])
        .unwrap_err();
    assert!(said.contains("NO_PROPOSAL_CHOSEN"), "{said}");
    drop((a, b));
    let (a, _b) = start("both", "esp_proposals = [\"aes256gcm16\"]");
    a.swanctl(&["--initiate", "--child", "net"]);
    let sas = a.swanctl(&["--list-sas"]);
    assert!(
        sas.contains("ESP in UDP") || sas.contains("ESP:AES_GCM_16"),
        "{sas}"
    );
    wire.assert_passes("by ESP");
}
