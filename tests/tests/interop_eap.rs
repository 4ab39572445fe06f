// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP between our daemon and strongSwan's, in both roles.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gateway::{Gateway, PASSWORD, Wire};
use pki::{Holder, Template, p256};

/// What a responder of ours needs to prove itself.
fn write_holder(directory: &Path, holder: &Holder) {
    let key = directory.join("own.key");
    fs::write(&key, holder.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let certificate = holder.certificate.to_pem().unwrap();
    fs::write(directory.join("own.pem"), certificate).unwrap();
}

fn our_connection(local: &str, remote: &str, more: &str) -> String {
    format!(
        "[connections.gw]\nlocal_addrs = [\"10.77.0.1\"]\nremote_addrs = [\"10.77.0.2\"]\n\
         proposals = [\"aes128gcm16-prfsha256-ecp256\"]\nlocal = {{ {local} }}\nremote = {{ {remote} }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/24\"]\n\
         esp_proposals = [\"aes128gcm16\"]\n{more}"
    )
}

fn their_connection(local: &str, remote: &str) -> String {
    format!(
        "gw {{\n version = 2\n local_addrs = 10.77.0.2\n remote_addrs = 10.77.0.1\n \
         proposals = aes128gcm16-prfsha256-ecp256\n local {{\n {local}\n }}\n remote {{\n {remote}\n }}\n\
         children {{ net {{\n local_ts = 10.2.0.0/24\n remote_ts = 10.1.0.0/24\n \
         esp_proposals = aes128gcm16\n }} }} }}"
    )
}

/// B24, B25: strongSwan asks us for a password, and for who we are; a wrong one is refused.
#[test]
fn strongswan_asks_us_for_a_password() {
    let root = Template::authority("Root").issue(p256(), None);
    let holder = Template::end("b.test").issue(p256(), Some(&root));
    let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let files = [
        ("x509ca/root.pem", root.certificate.to_pem().unwrap()),
        ("x509/b.pem", holder.certificate.to_pem().unwrap()),
        (
            "private/b.pem",
            holder.key.private_key_to_pem_pkcs8().unwrap(),
        ),
    ];
    let theirs = their_connection(
        "auth = pubkey\n id = b.test\n certs = b.pem",
        "auth = eap-mschapv2\n eap_id = %any",
    );
    let home = directory.path().join("b");
    let Some(b) = Gateway::strongswan_with(&wire.b, &home, &theirs, "", &files) else {
        return;
    };
    for (password, good) in [("open Sesame", false), (PASSWORD, true)] {
        let home = directory.path().join(format!("a-{good}"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("root.pem"), root.certificate.to_pem().unwrap()).unwrap();
        let secret = format!("[secrets.eap-1]\nids = [\"carol\"]\nsecret = {password:?}\n");
        let ours = our_connection(
            "auth = \"eap-mschapv2\", id = \"a.test\", eap_id = \"carol\"",
            "auth = \"pubkey\", id = \"b.test\", cacerts = [\"root.pem\"]",
            &secret,
        );
        let a = Gateway::ikev2d(&wire.a, &home, &ours);
        let begun = a.try_swanctl(&["--initiate", "--child", "net"]);
        assert_eq!(begun.is_ok(), good, "{begun:?}\n{}\n{}", a.tail(), b.tail());
        if good {
            wire.assert_passes("by our password");
        } else {
            b.wait_sas("nothing", |sas| sas.trim().is_empty());
            wire.assert_blocked();
        }
    }
}

/// B24, B25: we ask strongSwan for a password; whom EAP has authenticated is listed.
#[test]
fn we_ask_strongswan_for_a_password() {
    let root = Template::authority("Root").issue(p256(), None);
    let holder = Template::end("a.test").issue(p256(), Some(&root));
    let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
    let home = directory.path().join("a");
    fs::create_dir_all(&home).unwrap();
    write_holder(&home, &holder);
    let secrets = format!(
        "[secrets.eap-1]\nids = [\"carol\"]\nsecret = {PASSWORD:?}\n\
         [secrets.private-1]\nfile = \"own.key\"\n"
    );
    let ours = our_connection(
        "auth = \"pubkey\", id = \"a.test\", certs = [\"own.pem\"]",
        "auth = \"eap-mschapv2\", eap_id = \"%any\"",
        &secrets,
    );
    let a = Gateway::ikev2d(&wire.a, &home, &ours);
    let files = [("x509ca/root.pem", root.certificate.to_pem().unwrap())];
    let theirs = their_connection(
        "auth = eap-mschapv2\n id = b.test\n eap_id = carol",
        "auth = pubkey\n id = a.test\n cacerts = root.pem",
    );
    let home = directory.path().join("b");
    let Some(b) = Gateway::strongswan_with(&wire.b, &home, &theirs, "", &files) else {
        return;
    };
    let begun = b.try_swanctl(&["--initiate", "--child", "net"]);
    assert!(begun.is_ok(), "{begun:?}\n{}\n{}", a.tail(), b.tail());
    wire.assert_passes("by strongSwan's password");
    a.wait_sas("carol", |sas| sas.contains("carol"));
}

/// Ours for eap-tls: the ends' certificates, and what more each says.
fn our_tls(directory: &Path, root: &Holder, own: &Holder, (local, remote): (&str, &str)) -> String {
    fs::create_dir_all(directory).unwrap();
    write_holder(directory, own);
    let certificate = root.certificate.to_pem().unwrap();
    fs::write(directory.join("root.pem"), certificate).unwrap();
    our_connection(
        &format!("{local}, id = \"a.test\", certs = [\"own.pem\"]"),
        &format!("{remote}, id = \"b.test\", cacerts = [\"root.pem\"]"),
        "[secrets.private-1]\nfile = \"own.key\"\n",
    )
}

/// B24, B26: EAP-TLS with strongSwan in both roles, beside the responder's signature and alone (RFC 5998).
#[test]
fn strongswan_and_we_speak_eap_tls() {
    let root = Template::authority("Root").issue(p256(), None);
    let ours = Template::end("a.test").issue(p256(), Some(&root));
    let theirs = Template::end("b.test").issue(p256(), Some(&root));
    for (we_begin, alone) in [(true, false), (true, true), (false, false), (false, true)] {
        let (directory, wire) = (tempfile::tempdir().unwrap(), Wire::new());
        let files = [
            ("x509ca/root.pem", root.certificate.to_pem().unwrap()),
            ("x509/b.pem", theirs.certificate.to_pem().unwrap()),
            (
                "private/b.pem",
                theirs.key.private_key_to_pem_pkcs8().unwrap(),
            ),
        ];
        // Whoever answers has a signature of its own, unless EAP is alone.
        let (initiator, responder) = ("eap-tls", if alone { "eap-tls" } else { "pubkey" });
        let (own, peers) = match we_begin {
            true => (initiator, responder),
            false => (responder, initiator),
        };
        let connection = their_connection(
            &format!("auth = {peers}\n id = b.test\n certs = b.pem"),
            // Its `cacerts` would be for signatures alone; EAP-TLS believes whom `x509ca` has.
            &format!("auth = {own}\n id = a.test"),
        );
        let home = directory.path().join("b");
        let Some(b) = Gateway::strongswan_with(&wire.b, &home, &connection, "", &files) else {
            return;
        };
        let home = directory.path().join("a");
        let sides = (&*format!("auth = {own:?}"), &*format!("auth = {peers:?}"));
        let a = Gateway::ikev2d(&wire.a, &home, &our_tls(&home, &root, &ours, sides));
        let initiator = if we_begin { &a } else { &b };
        let begun = initiator.try_swanctl(&["--initiate", "--child", "net"]);
        let what = format!("we begin: {we_begin}, alone: {alone}");
        assert!(
            begun.is_ok(),
            "{what}: {begun:?}\n{}\n{}",
            a.tail(),
            b.tail()
        );
        wire.assert_passes(&what);
    }
}
