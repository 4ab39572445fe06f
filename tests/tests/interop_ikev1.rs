// SPDX-License-Identifier: Apache-2.0 OR MIT
//! S8, S96: IKEv1 between our daemon and strongSwan's: main mode, aggressive mode, forward secrecy, a NAT, rekeying,
//! liveness, and that neither version falls back to the other.

mod gateway;

use gateway::{Gateway, Wire, ours, rekey, theirs};

/// IKE and ESP proposals, in the syntax that both share.
const SUITES: [(&str, &str); 3] = [
    ("aes256-sha256-modp2048", "aes256-sha256"),
    ("aes128-sha384-ecp384", "aes128gcm16-ecp256"),
    ("aes192-sha512-modp3072", "aes128-sha512-modp2048"),
];

fn v1(configuration: String) -> String {
    configuration.replace("version = 2", "version = 1")
}

fn established(sas: &str) -> bool {
    sas.matches("ESTABLISHED, IKEv1").count() == 1 && sas.matches("INSTALLED").count() == 1
}

fn gone(sas: &str) -> bool {
    sas.trim().is_empty()
}

/// SPI of the child SA that receives.
fn spi(sas: &str) -> Option<String> {
    let line = sas
        .lines()
        .find(|line| line.trim_start().starts_with("in "))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

struct Lab {
    wire: Wire,
    a: Gateway,
    b: Gateway,
    _directory: tempfile::TempDir,
}

/// What both have logged, where a test fails.
impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ours:\n{}\ntheirs:\n{}", self.a.tail(), self.b.tail());
        }
    }
}

impl Lab {
    /// Ours and strongSwan's, with settings of each connection's own; nothing without strongSwan.
    fn new(
        (ike, esp): (&str, &str),
        ours_more: &str,
        theirs_more: &str,
        charon: &str,
    ) -> Option<Self> {
        Self::with_size((ike, esp), ours_more, theirs_more, charon, 0)
    }

    /// The same with the length of our longest datagrams.
    fn with_size(
        (ike, esp): (&str, &str),
        ours_more: &str,
        theirs_more: &str,
        charon: &str,
        fragment_size: usize,
    ) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let b = directory.path().join("b");
        let text = v1(theirs(2, ike, esp));
        let text = text.replacen("gw {", &format!("gw {{\n{theirs_more}\n"), 1);
        let b = Gateway::strongswan_with(&wire.b, &b, &text, charon, &[])?;
        // What gives up soon: two tries.
        let secret = format!("[secrets.ike-1]\nsecret = \"{}\"\n", gateway::SECRET);
        let connection = v1(ours(1, ike, esp, ours_more, ""));
        let text = format!(
            "fragment_size = {fragment_size}\nretransmit_timeout = 1.0\nretransmit_tries = 2\n\
             {connection}\n{secret}"
        );
        let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &text);
        Some(Self {
            wire,
            a,
            b,
            _directory: directory,
        })
    }

    fn rekey_child(&self, by: &Gateway, other: &Gateway) {
        rekey::child(by, other, "net");
        self.wire.assert_still_passes("after a child's rekeying");
    }
}

/// S5, S8, S10, S37 to S40, S49, S96: whoever begins.
#[test]
fn main_mode_and_quick_mode_work_whoever_begins() {
    for (at, suite) in SUITES.into_iter().enumerate() {
        for ours_begin in [true, false] {
            if (at, ours_begin) == (1, false) || (at, ours_begin) == (2, true) {
                continue;
            }
            let Some(lab) = Lab::new(suite, "", "", "") else {
                return;
            };
            let (begins, answers) = if ours_begin {
                (&lab.a, &lab.b)
            } else {
                (&lab.b, &lab.a)
            };
            begins.swanctl(&["--initiate", "--child", "net"]);
            for gateway in [&lab.a, &lab.b] {
                gateway.wait_sas("the tunnel", established);
            }
            lab.wire.assert_passes(suite.0);
            lab.rekey_child(begins, answers);
            lab.rekey_child(answers, begins);
            begins.swanctl(&["--terminate", "--ike", "gw"]);
            answers.wait_sas("the deletion", gone);
            lab.wire.assert_blocked();
        }
    }
}

/// S21 to S26, S32: a box of another time, by Junos' set of that name and by our own words; told in the log, in
/// the list of SAs and by a counter.
#[test]
fn algorithms_of_another_time_work_where_legacy_says_so() {
    for (ours, theirs, shown) in [
        (
            ("standard", "standard"),
            ("3des-sha1-modp1024", "3des-sha1-modp1024"),
            "3DES_CBC/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024",
        ),
        (
            ("3des-md5-modp1536", "aes128-md5"),
            ("3des-md5-modp1536", "aes128-md5"),
            "3DES_CBC/HMAC_MD5_96/PRF_HMAC_MD5/MODP_1536",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let files = ["a", "b"].map(|name| directory.path().join(name));
        let text = v1(gateway::theirs(2, theirs.0, theirs.1));
        let Some(b) = Gateway::strongswan(&wire.b, &files[1], &text) else {
            return;
        };
        let text = v1(gateway::ours(1, ours.0, ours.1, "legacy = true", ""));
        let a = Gateway::ikev2d(&wire.a, &files[0], &text);
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(theirs.0);
        let sas = a.swanctl(&["--list-sas"]);
        assert!(sas.contains(shown), "{sas}");
        let raw = a.swanctl(&["--list-sas", "--raw"]);
        assert_eq!(raw.matches("legacy=").count(), 2, "{raw}");
        assert!(
            a.tail().contains("algorithms of another time"),
            "{}",
            a.tail()
        );
        let counters = a.swanctl(&["--counters"]);
        let counted = counters.lines().find(|line| line.contains("legacy-sas"));
        assert!(counted.is_some_and(|line| line.contains('2')), "{counters}");
        rekey::child(&b, &a, "net");
        wire.assert_still_passes("after a rekeying");
    }
}

/// Point 3: phase 1 anew, and the children stay.
#[test]
fn phase_1_is_renewed_under_its_children() {
    for ours_begin in [true, false] {
        let Some(lab) = Lab::new(SUITES[0], "", "", "") else {
            return;
        };
        lab.a.swanctl(&["--initiate", "--child", "net"]);
        lab.wire.assert_passes("at first");
        let before = spi(&lab.a.wait_sas("the tunnel", established));
        let by = if ours_begin { &lab.a } else { &lab.b };
        let old = by.swanctl(&["--list-sas"]);
        let cookies = |sas: &str| {
            let after = sas.split("ESTABLISHED, IKEv1,").nth(1)?;
            after.split_whitespace().next().map(str::to_owned)
        };
        by.swanctl(&["--rekey", "--ike", "gw", "--reauth"]);
        by.wait_sas("the new ISAKMP SA", |sas| {
            cookies(sas).is_some_and(|new| Some(new) != cookies(&old))
        });
        lab.wire.assert_still_passes("after the renewal");
        if ours_begin {
            assert_eq!(spi(&lab.a.swanctl(&["--list-sas"])), before);
        }
    }
}

/// S36, S41, S42, S44: three messages; strongSwan answers and begins; our log warns of what others can read.
#[test]
fn aggressive_mode_works_whoever_begins() {
    let charon = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes";
    for ours_begin in [true, false] {
        let more = "aggressive = true\naggressive_psk = true";
        let Some(lab) = Lab::new(SUITES[0], more, "aggressive = yes", charon) else {
            return;
        };
        let log = lab.a.tail();
        assert!(log.contains("can read both identities"), "{log}");
        let begins = if ours_begin { &lab.a } else { &lab.b };
        begins.swanctl(&["--initiate", "--child", "net"]);
        lab.wire.assert_passes("aggressive");
        lab.rekey_child(&lab.a, &lab.b);
        lab.rekey_child(&lab.b, &lab.a);
    }
}

/// B46: strongSwan takes our fragments and we take its, in aggressive mode and in main mode, in the clear and
/// encrypted.
#[test]
fn long_messages_pass_in_fragments_both_ways() {
    for (mode, ours_more) in [
        ("", ""),
        (
            "aggressive = yes",
            "aggressive = true\naggressive_psk = true",
        ),
    ] {
        let charon =
            "i_dont_care_about_security_and_use_aggressive_mode_psk = yes\nfragment_size = 300\n";
        let theirs_more = format!("fragmentation = yes\n{mode}");
        let suite = ("aes256-sha256-modp4096", "aes256-sha256-modp4096");
        let Some(lab) = Lab::with_size(suite, ours_more, &theirs_more, charon, 300) else {
            return;
        };
        for begins in [&lab.a, &lab.b] {
            begins.swanctl(&["--initiate", "--child", "net"]);
            for gateway in [&lab.a, &lab.b] {
                gateway.wait_sas("the tunnel", established);
            }
            lab.wire.assert_passes("in fragments");
            let log = lab.b.charon_log();
            for said in ["received fragment #", "splitting IKE message"] {
                assert!(log.contains(said), "{said}: {log}");
            }
            begins.swanctl(&["--terminate", "--ike", "gw"]);
            for gateway in [&lab.a, &lab.b] {
                gateway.wait_sas("the deletion", gone);
            }
        }
    }
}

/// A05: aggressive mode with a preshared key is answered only if asked for.
#[test]
fn aggressive_mode_with_a_preshared_key_is_refused_unless_allowed() {
    let charon = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes";
    let more = "aggressive = true";
    let Some(lab) = Lab::new(SUITES[0], more, "aggressive = yes", charon) else {
        return;
    };
    lab.b
        .try_swanctl(&["--initiate", "--child", "net"])
        .unwrap_err();
    assert!(lab.a.tail().contains("aggressive_psk"), "{}", lab.a.tail());
    lab.wire.assert_blocked();
}

/// S51, S93: proxy ids that are no mirror image: the peer hears INVALID-ID-INFORMATION, our log has both.
#[test]
fn other_proxy_ids_are_refused_with_a_line_that_has_both() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let text = v1(theirs(2, SUITES[0].0, SUITES[0].1)).replace("10.2.0.0/24", "10.2.0.0/25");
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &text) else {
        return;
    };
    let ours = v1(ours(1, SUITES[0].0, SUITES[0].1, "", ""));
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &ours);
    let said = b
        .try_swanctl(&["--initiate", "--child", "net"])
        .unwrap_err();
    assert!(said.contains("INVALID_ID_INFORMATION"), "{said}");
    let log = a.tail();
    for side in ["10.1.0.0/24 === 10.2.0.0/25", "10.1.0.0/24 === 10.2.0.0/24"] {
        assert!(log.contains(side), "{log}");
    }
}

/// S10: IKEv2 alone does not answer IKEv1, nor the other way round; either does.
#[test]
fn no_version_falls_back_to_the_other() {
    for (ours_version, theirs_version, works) in [
        ("2", "1", false),
        ("1", "2", false),
        ("0", "1", true),
        ("0", "2", true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let set = |text: String, version: &str| {
            text.replace("version = 2", &format!("version = {version}"))
        };
        let (ike, esp) = SUITES[0];
        let b = directory.path().join("b");
        let Some(b) = Gateway::strongswan(&wire.b, &b, &set(theirs(2, ike, esp), theirs_version))
        else {
            return;
        };
        let a = set(ours(1, ike, esp, "", ""), ours_version);
        let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &a);
        if (ours_version, theirs_version) == ("0", "1") {
            // Either version is answered, and IKEv2 alone is begun.
            a.try_swanctl(&["--initiate", "--child", "net", "--timeout", "1"])
                .unwrap_err();
            let begun = a.swanctl(&["--list-sas"]);
            assert!(begun.contains("CONNECTING, IKEv2"), "{begun}");
            assert!(!begun.contains("IKEv1"), "{begun}");
        }
        let said = b.try_swanctl(&["--initiate", "--child", "net"]);
        assert_eq!(
            said.is_ok(),
            works,
            "{ours_version} and {theirs_version}: {said:?}"
        );
        if works {
            wire.assert_passes("either version");
        } else {
            a.try_swanctl(&["--initiate", "--child", "net"])
                .unwrap_err();
            wire.assert_blocked();
        }
    }
}

/// S59b, RFC 3706: a peer that is gone without a word is noticed.
#[test]
fn a_peer_that_dies_is_noticed() {
    let more = "dpd_delay = \"1s\"";
    let Some(mut lab) = Lab::new(SUITES[0], more, "dpd_delay = 1s", "") else {
        return;
    };
    lab.a.swanctl(&["--initiate", "--child", "net"]);
    lab.wire.assert_passes("at first");
    std::thread::sleep(std::time::Duration::from_secs(4));
    // Both have asked and answered by now.
    lab.a.wait_sas("the tunnel", established);
    lab.b.wait_sas("the tunnel", established);
    lab.b.kill();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while !gone(&lab.a.swanctl(&["--list-sas"])) {
        assert!(std::time::Instant::now() < end, "{}", lab.a.tail());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

/// ike-scan, a third implementation of first messages, sees main mode, aggressive mode where it is allowed,
/// and our vendor ids.
#[test]
fn ike_scan_sees_both_modes_and_our_vendor_ids() {
    if !std::path::Path::new("/usr/bin/ike-scan").exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ike-scan is not installed"
        );
        eprintln!("skipped: ike-scan is not installed");
        return;
    }
    let transform = "--trans=(1=7,14=256,2=4,3=1,4=14)";
    for (more, arguments, mode) in [
        ("", vec![], "Main Mode Handshake returned"),
        (
            "aggressive = true\naggressive_psk = true",
            vec!["--aggressive", "--idtype=2", "--id=b.test", "--dhgroup=14"],
            "Aggressive Mode Handshake returned",
        ),
        (
            "aggressive = true",
            vec!["--aggressive", "--idtype=2", "--id=b.test", "--dhgroup=14"],
            "NO-PROPOSAL-CHOSEN",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let ours = v1(ours(1, SUITES[0].0, SUITES[0].1, more, ""));
        let _a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &ours);
        let mut scan = wire.b.command("/usr/bin/ike-scan");
        scan.args(["--retry=2", "--timeout=2000", transform]);
        let output = scan.args(arguments).arg("10.77.0.1").output().unwrap();
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(seen.contains(mode), "{mode}: {seen}");
        if mode.contains("returned") {
            for sign in [
                "Enc=AES KeyLength=256",
                "Group=14:modp2048",
                "Auth=PSK",
                "VID=afcad71368a1f1c96b8696fc77570100",
                "VID=4a131c81070358455c5728f20e95452f",
            ] {
                assert!(seen.contains(sign), "{sign}: {seen}");
            }
        }
    }
}
