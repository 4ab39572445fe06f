// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our daemon and strongSwan's: whoever begins, traffic passes, child and IKE SAs are rekeyed from
//! either side, and what one deletes is gone at the other.

mod gateway;

use gateway::{Gateway, Wire, ours, rekey, theirs};

/// IKE and ESP proposals, in the syntax that both share. strongSwan's ESP always runs in UDP here.
const SUITES: [(&str, &str); 8] = [
    ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
    ("aes256gcm16-prfsha384-x25519", "aes256gcm16"),
    ("aes128-sha256-modp2048", "aes128-sha256"),
    ("aes256-sha512-prfsha512-ecp384", "aes256-sha512-x25519"),
    ("aes256ccm16-prfsha384-x25519", "aes256gcm8"),
    ("aes192gcm12-prfsha256-ecp256", "aes128ccm16"),
    ("aes128-aesxcbc-ecp256", "aes256-aesxcbc"),
    ("aes256-aescmac-x25519", "aes128-aescmac-x25519"),
];

fn established(sas: &str) -> bool {
    sas.matches("ESTABLISHED").count() == 1 && sas.matches("INSTALLED").count() == 1
}

fn rekey_child(wire: &Wire, by: &Gateway, other: &Gateway) {
    rekey::child(by, other, "net");
    wire.assert_still_passes("after a child's rekeying");
}

fn rekey_ike(wire: &Wire, by: &Gateway, other: &Gateway) {
    rekey::ike(by, other, "gw");
    wire.assert_still_passes("after the IKE SA's rekeying");
}

fn gone(sas: &str) -> bool {
    sas.trim().is_empty()
}

/// B47, B49, B51: suites of IKE and ESP, where we begin.
#[test]
fn we_begin_with_every_suite() {
    for (ike, esp) in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let b = directory.path().join("b");
        let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
            return;
        };
        let a = Gateway::ikev2d(
            &wire.a,
            &directory.path().join("a"),
            &ours(1, ike, esp, "", ""),
        );
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(ike);
        rekey_child(&wire, &a, &b);
        rekey_ike(&wire, &a, &b);
        rekey_child(&wire, &b, &a);
        a.swanctl(&["--terminate", "--ike", "gw"]);
        b.wait_sas("our deletion", gone);
        wire.assert_blocked();
    }
}

/// B47, B49, B51: the same where strongSwan begins.
#[test]
fn strongswan_begins_with_every_suite() {
    for (ike, esp) in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let b = directory.path().join("b");
        let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
            return;
        };
        let a = Gateway::ikev2d(
            &wire.a,
            &directory.path().join("a"),
            &ours(1, ike, esp, "", ""),
        );
        b.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(ike);
        rekey_child(&wire, &b, &a);
        rekey_ike(&wire, &b, &a);
        rekey_child(&wire, &a, &b);
        b.swanctl(&["--terminate", "--ike", "gw"]);
        a.wait_sas("the peer's deletion", gone);
        wire.assert_blocked();
    }
}

#[test]
fn a_child_deleted_by_either_side_is_gone_at_both_and_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = SUITES[0];
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
        return;
    };
    let a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, ike, esp, "", ""),
    );
    for (begins, ends) in [(&a, &b), (&b, &a), (&a, &a), (&b, &b)] {
        begins.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("with a child");
        ends.swanctl(&["--terminate", "--child", "net"]);
        for gateway in [&a, &b] {
            gateway.wait_sas("the child's end", |sas| {
                sas.contains("ESTABLISHED") && !sas.contains("INSTALLED")
            });
        }
    }
}

#[test]
fn a_peer_that_ends_says_farewell() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (ike, esp) = SUITES[1];
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
        return;
    };
    let start = "start_action = \"start\"";
    let mut a = Gateway::ikev2d(
        &wire.a,
        &directory.path().join("a"),
        &ours(1, ike, esp, "", start),
    );
    b.wait_sas("the tunnel that we start", established);
    wire.assert_passes("started by itself");
    assert!(a.stop(), "{}", a.tail());
    b.wait_sas("our farewell", gone);
}

#[test]
fn no_common_proposal_is_told_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, SUITES[0].0, SUITES[0].1)) else {
        return;
    };
    // IKE agrees, ESP does not: the IKE SA stays or goes, but no child may be there.
    let ours = ours(1, SUITES[0].0, "chacha20poly1305", "", "");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &ours);
    for gateway in [&a, &b] {
        let said = gateway
            .try_swanctl(&["--initiate", "--child", "net"])
            .unwrap_err();
        assert!(said.contains("failed"), "{said}");
        gateway.wait_sas("no child", |sas| !sas.contains("INSTALLED"));
    }
}

/// B43: the packet that starts the child passes through it.
#[test]
fn the_first_packet_of_a_trap_waits_for_its_tunnel() {
    let (ike, esp) = SUITES[0];
    let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let b = directory.path().join("b");
    let Some(b) = Gateway::strongswan(&wire.b, &b, &theirs(2, ike, esp)) else {
        return;
    };
    let trap = ours(1, ike, esp, "", "start_action = \"trap\"");
    let a = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &trap);
    a.wait_tun(&wire.a);
    netlab::traffic::probe(&wire.a, [10, 1, 0, 1].into(), [10, 2, 0, 1].into(), 3).unwrap();
    a.wait_statistics("all three", |counts| counts["esp-sent"] == 3);
    b.wait_sas("all three", |sas| {
        let mut lines = sas.lines().map(str::trim);
        lines.any(|line| line.starts_with("in ") && line.contains(" 3 packets"))
    });
    let counts = a.statistics();
    let waited = counts["awaited"] >= 1 && counts["awaited-in-vain"] == 0;
    assert!(waited, "{counts:?}");
}

/// B47: ENCR_NULL_AUTH_AES_GMAC is agreed on with strongSwan, with the same keys and salts at both ends. Its
/// ESP in user space has no GMAC, so it takes the child back.
#[test]
fn gmac_is_negotiated_with_the_same_keys_at_both_ends() {
    let (ike, esp) = ("aes128gcm16-prfaesxcbc-x25519", "aes192gmac");
    let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    let tells_keys = "filelog { log { chd = 4 } }";
    let theirs = theirs(2, ike, esp);
    let Some(b) = Gateway::strongswan_with(&wire.b, &b, &theirs, tells_keys, &[]) else {
        return;
    };
    let _a = Gateway::ikev2d(&wire.a, &a, &ours(1, ike, esp, "", ""));
    let said = b.try_swanctl(&["--initiate", "--child", "net"]);
    assert!(said.is_err(), "strongSwan has GMAC now: {said:?}");
    let log = b.charon_log();
    let chosen = "selected proposal: ESP:NULL_AES_GMAC_192/NO_EXT_SEQ";
    assert!(log.contains(chosen), "{log}");
    // Ours come in a table, theirs as a dump of 16 octets a line.
    let table = std::fs::read_to_string(a.join("keys/ah_sa")).unwrap();
    let ours: Vec<&str> = table.lines().filter_map(|l| l.split('"').nth(11)).collect();
    let theirs = ["initiator", "responder"].map(|end| {
        let head = format!("encryption {end} key => 28 bytes");
        let dump = log.lines().skip_while(|line| !line.contains(&head)).skip(1);
        let words = dump.take(2).flat_map(|line| {
            let (_, octets) = line.split_once(": ").unwrap();
            octets.split_whitespace().take(16)
        });
        let octets: Vec<String> = words.take(28).map(str::to_lowercase).collect();
        format!("0x{}", octets.concat())
    });
    assert_eq!(ours, theirs);
}
