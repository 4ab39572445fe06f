// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-XCBC, AES-CMAC and AES-GMAC between two of our daemons, each packet opened again by scapy where that
//! is installed and has the algorithm. (With strongSwan: interop_strongswan.)

mod gateway;

use std::path::Path;
use std::process::Command;

use gateway::{Gateway, Wire, ours, rekey};
use netlab::capture::{Capture, CaptureConfig};

struct Case {
    version: u8,
    ike: &'static str,
    esp: &'static str,
    /// As `swanctl --list-sas` has it.
    listed: &'static str,
    /// The key log's table, and scapy's names, where it has them.
    scapy: Option<(&'static str, [&'static str; 2])>,
}

const GMAC: Option<(&str, [&str; 2])> = Some(("ah_sa", ["AES-NULL-GMAC", "NULL"]));

const CASES: [Case; 7] = [
    Case {
        version: 2,
        ike: "aes128-aesxcbc-x25519",
        esp: "aes128-aesxcbc",
        listed: "ESP:AES_CBC-128/AES_XCBC_96",
        scapy: None,
    },
    Case {
        version: 2,
        ike: "aes256-aescmac-ecp256",
        esp: "aes256-aescmac",
        listed: "ESP:AES_CBC-256/AES_CMAC_96",
        scapy: Some(("esp_sa", ["AES-CBC", "AES-CMAC-96"])),
    },
    Case {
        version: 2,
        ike: "aes128gcm16-prfaescmac-x25519",
        esp: "null-aescmac",
        listed: "ESP:NULL/AES_CMAC_96",
        scapy: Some(("esp_sa", ["NULL", "AES-CMAC-96"])),
    },
    Case {
        version: 2,
        ike: "aes128gcm16-prfaesxcbc-x25519",
        esp: "aes128gmac",
        listed: "ESP:NULL_AES_GMAC-128",
        scapy: GMAC,
    },
    Case {
        version: 2,
        ike: "aes256gcm16-prfsha384-x25519",
        esp: "aes256gmac",
        listed: "ESP:NULL_AES_GMAC-256",
        scapy: GMAC,
    },
    Case {
        version: 1,
        ike: "aes256-sha256-ecp256",
        esp: "aes192gmac",
        listed: "ESP:NULL_AES_GMAC-192",
        scapy: GMAC,
    },
    Case {
        version: 1,
        ike: "aes256-sha256-ecp256",
        esp: "aes256-aesxcbc",
        listed: "ESP:AES_CBC-256/AES_XCBC_96",
        scapy: None,
    },
];

/// How many packets scapy has opened, and of how many SAs; nothing where it is not installed.
fn open_by_scapy(file: &Path, keys: &Path, names: [&str; 2]) -> Option<(usize, usize)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/check_esp.py");
    let python = std::env::var_os("ESPLANADE_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(script).arg(file).arg(keys).args(names);
    let output = command.output().ok();
    let Some(output) = output.filter(|output| output.status.code() != Some(77)) else {
        eprintln!("skipped scapy's opinion: it is not installed (ESPLANADE_PYTHON names a Python)");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
    Some((numbers.next()?, numbers.next()?))
}

/// B47, B51: by either version of IKE, over a rekeying.
#[test]
fn aes_macs_protect_a_tunnel_and_others_open_its_packets() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    for (n, case) in CASES.iter().enumerate() {
        let config = |own| {
            let version = format!("version = {}", case.version);
            ours(own, case.ike, case.esp, "", "").replace("version = 2", &version)
        };
        let files = ["a", "b"].map(|name| directory.path().join(format!("{name}{n}")));
        let a = Gateway::ikev2d(&wire.a, &files[0], &config(1));
        let b = Gateway::ikev2d(&wire.b, &files[1], &config(2));
        let file = directory.path().join(format!("{n}.pcap"));
        let whole = CaptureConfig {
            snap: 1 << 11,
            ..CaptureConfig::default()
        };
        let capture = Capture::start(&wire.a, "wire", &file, whole).unwrap();
        a.swanctl(&["--initiate", "--child", "net"]);
        let sas = a.swanctl(&["--list-sas"]);
        assert!(sas.contains(case.listed), "{}: {sas}", case.listed);
        wire.assert_passes(case.esp);
        rekey::child(&a, &b, "net");
        wire.assert_still_passes("after the rekeying");
        assert_eq!(capture.finish().unwrap().dropped, 0);
        let Some((table, names)) = case.scapy else {
            continue;
        };
        let opened = open_by_scapy(&file, &files[0].join("keys").join(table), names);
        if let Some((packets, sas)) = opened {
            assert!(
                packets >= 40 && sas == 4,
                "{}: {packets} of {sas}",
                case.esp
            );
        }
    }
}
