// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our daemon and libreswan's pluto, which negotiates and moves no packets: both versions of IKE, whoever begins,
//! rekeys and deletes. That both have the same keys for the same SPIs is read from what pluto would have given its
//! kernel.

mod gateway;
mod pluto;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, Wire, ours};
use pluto::Pluto;

struct Lab {
    a: Gateway,
    b: Pluto,
    keys: PathBuf,
    _wire: Wire,
    _directory: tempfile::TempDir,
}

/// What both have logged, where a test fails.
impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ours:\n{}\npluto:\n{}", self.a.tail(), self.b.tail());
        }
    }
}

impl Lab {
    fn new(version: u8, (ike, esp): (&str, &str), connection: &str) -> Option<Self> {
        let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
        let b = Pluto::new(&wire.b, &directory.path().join("b"), connection)?;
        let a = ours(1, ike, esp, "", "").replace("version = 2", &format!("version = {version}"));
        let home = directory.path().join("a");
        let a = Gateway::ikev2d(&wire.a, &home, &a);
        Some(Self {
            a,
            b,
            keys: home.join("keys/esp_sa"),
            _wire: wire,
            _directory: directory,
        })
    }

    /// One child, between one IKE SA, and pluto has its keys. Its inbound SPI.
    fn wait_tunnel(&self, what: &str, version: u8) -> u32 {
        let sas = self.a.wait_sas(what, |sas| {
            let sign = format!("ESTABLISHED, IKEv{version}");
            sas.matches(&sign).count() == 1 && sas.matches("INSTALLED").count() == 1
        });
        let spis = spis(&sas);
        let end = Instant::now() + PATIENCE;
        loop {
            let (theirs, ours) = (self.b.keys(), our_keys(&self.keys));
            if spis.iter().all(|spi| theirs.contains_key(spi)) {
                for spi in &spis {
                    assert_eq!(ours.get(spi), theirs.get(spi), "{what}: {spi:08x}");
                }
                return spis[0];
            }
            assert!(Instant::now() < end, "{what}: pluto has no SA {spis:08x?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn initiate(&self, we_begin: bool) {
        if we_begin {
            self.a.swanctl(&["--initiate", "--child", "net"]);
        } else {
            self.b.whack(&["--name", "gw", "--initiate"]);
        }
    }

    fn terminate(&self, we_end: bool) {
        if we_end {
            self.a.swanctl(&["--terminate", "--ike", "gw"]);
        } else {
            self.b.whack(&["--name", "gw", "--terminate"]);
        }
    }

    fn wait_gone(&self, what: &str) {
        self.a.wait_sas(what, |sas| sas.trim().is_empty());
        let end = Instant::now() + PATIENCE;
        while !self.b.whack(&["--showstates"]).trim().is_empty() {
            assert!(Instant::now() < end, "{what}: pluto has states still");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_new(&self, what: &str, version: u8, old: u32) -> u32 {
        self.a
            .wait_sas(what, |sas| !sas.contains(&format!("{old:08x}")));
        self.wait_tunnel(what, version)
    }
}

/// SPIs of the child: inbound, outbound.
fn spis(sas: &str) -> [u32; 2] {
    ["in ", "out "].map(|direction| {
        let mut lines = sas.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix(direction)).unwrap();
        let spi = line.trim_start().split([' ', ',']).next().unwrap();
        u32::from_str_radix(spi, 16).unwrap()
    })
}

/// Of the IKE SA.
fn ike_spis(sas: &str) -> Option<String> {
    let line = sas.lines().find(|line| line.contains("ESTABLISHED"))?;
    let spis = line.split("IKEv2,").nth(1)?;
    Some(spis.replace('*', ""))
}

/// By Wireshark's table: SPI, then encryption's key, and integrity's.
fn our_keys(table: &Path) -> BTreeMap<u32, String> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let rows = text.lines().map(|line| {
        let columns: Vec<&str> = line.split(',').map(|word| word.trim_matches('"')).collect();
        let hex = |at: usize| columns[at].trim_start_matches("0x").to_owned();
        let spi = u32::from_str_radix(&hex(3), 16).unwrap();
        (spi, hex(5) + &hex(7))
    });
    rows.collect()
}

/// S9, S11, S12, S57, S58, S76, S77, S59b: IKEv2 with a preshared key, whoever begins, rekeys and deletes.
#[test]
fn ikev2() {
    let suite = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256");
    let theirs =
        "\tkeyexchange=ikev2\n\tike=aes_gcm128-sha2_256-dh19\n\tesp=aes_gcm128;dh19\n\tpfs=yes\n";
    let Some(lab) = Lab::new(2, suite, theirs) else {
        return;
    };
    for we_begin in [true, false] {
        lab.initiate(we_begin);
        let first = lab.wait_tunnel("the tunnel", 2);
        lab.a.swanctl(&["--rekey", "--child", "net"]);
        let second = lab.wait_new("our rekeying", 2, first);
        lab.b.whack(&["--name", "gw", "--rekey-child"]);
        let third = lab.wait_new("pluto's rekeying", 2, second);
        let before = ike_spis(&lab.a.swanctl(&["--list-sas"]));
        if we_begin {
            lab.a.swanctl(&["--rekey", "--ike", "gw"]);
        } else {
            lab.b.whack(&["--name", "gw", "--rekey-ike"]);
        }
        lab.a
            .wait_sas("the new IKE SA", |sas| ike_spis(sas) != before);
        assert_eq!(lab.wait_tunnel("after it", 2), third);
        lab.terminate(we_begin);
        lab.wait_gone("the deletion");
    }
}

/// S5, S8, S37 to S40, S48, S49, S53, S59b: main mode and quick mode with forward secrecy, whoever begins.
#[test]
fn ikev1() {
    let suite = ("aes256-sha256-modp2048", "aes256-sha256-modp2048");
    let theirs =
        "\tkeyexchange=ikev1\n\tike=aes256-sha2_256;dh14\n\tesp=aes256-sha2_256;dh14\n\tpfs=yes\n";
    let Some(lab) = Lab::new(1, suite, theirs) else {
        return;
    };
    for we_begin in [true, false] {
        lab.initiate(we_begin);
        let first = lab.wait_tunnel("the tunnel", 1);
        // pluto rekeys IKEv1's children by their lifetimes alone.
        if we_begin {
            lab.a.swanctl(&["--rekey", "--child", "net"]);
            lab.wait_new("our rekeying", 1, first);
        }
        lab.terminate(we_begin);
        lab.wait_gone("the deletion");
    }
}
