// SPDX-License-Identifier: Apache-2.0 OR MIT
//! S97, S103: signatures and certificates between our daemon and strongSwan's, whoever begins.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gateway::{Gateway, Wire};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use pki::{Holder, Template, ec, p256};

/// How one end authenticates: our words and strongSwan's.
struct End {
    holder: Option<Holder>,
    ours: &'static str,
    theirs: &'static str,
}

fn by_key(
    root: &Holder,
    name: &str,
    key: PKey<Private>,
    ours: &'static str,
    theirs: &'static str,
) -> End {
    End {
        holder: Some(Template::end(name).issue(key, Some(root))),
        ours,
        theirs,
    }
}

fn by_secret() -> End {
    End {
        holder: None,
        ours: "psk",
        theirs: "psk",
    }
}

/// Our configuration: `a` with what it needs to be itself, and to believe `b`.
fn our_connection(
    directory: &Path,
    root: &Holder,
    a: &End,
    b: &End,
    ike: &str,
    esp: &str,
) -> String {
    fs::create_dir_all(directory).unwrap();
    fs::write(
        directory.join("root.pem"),
        root.certificate.to_pem().unwrap(),
    )
    .unwrap();
    let mut local = format!("auth = \"{}\", id = \"a.test\"", a.ours);
    let mut secrets = String::new();
    if let Some(holder) = &a.holder {
        fs::write(
            directory.join("a.pem"),
            holder.certificate.to_pem().unwrap(),
        )
        .unwrap();
        let key = directory.join("a.key");
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let octets = holder
            .key
            .private_key_to_pem_pkcs8_passphrase(cipher, b"open sesame");
        fs::write(&key, octets.unwrap()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        local += ", certs = [\"a.pem\"]";
        secrets = "[secrets.private-a]\nfile = \"a.key\"\nsecret = \"open sesame\"\n".to_owned();
    }
    let mut remote = format!("auth = \"{}\", id = \"b.test\"", b.ours);
    if b.holder.is_some() {
        remote += ", cacerts = [\"root.pem\"]";
    }
    format!(
        "[connections.gw]\nlocal_addrs = [\"10.77.0.1\"]\nremote_addrs = [\"10.77.0.2\"]\n\
         proposals = [\"{ike}\"]\nlocal = {{ {local} }}\nremote = {{ {remote} }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/24\"]\n\
         esp_proposals = [\"{esp}\"]\n{secrets}"
    )
}

fn their_connection(a: &End, b: &End, ike: &str, esp: &str) -> String {
    let certs = if b.holder.is_some() {
        "certs = b.pem"
    } else {
        ""
    };
    let authorities = if a.holder.is_some() {
        "cacerts = root.pem"
    } else {
        ""
    };
    format!(
        "gw {{\n version = 2\n local_addrs = 10.77.0.2\n remote_addrs = 10.77.0.1\n proposals = {ike}\n\
         local {{\n auth = {mine}\n id = b.test\n {certs}\n }}\n\
         remote {{\n auth = {yours}\n id = a.test\n {authorities}\n }}\n\
         children {{ net {{\n local_ts = 10.2.0.0/24\n remote_ts = 10.1.0.0/24\n esp_proposals = {esp}\n\
         }} }} }}",
        mine = b.theirs,
        yours = a.theirs,
    )
}

/// As [`meet_by`], with the same words for both.
fn meet(root: &Holder, ends: [&End; 2], words: (&str, &str), charon: &str) {
    meet_by(root, ends, [words, words], charon);
}

/// Both begin in turn, and traffic passes; proposals in our words and in strongSwan's.
fn meet_by(root: &Holder, ends: [&End; 2], proposals: [(&str, &str); 2], charon: &str) {
    meet_in(2, root, ends, proposals, charon, "");
}

/// The same in a version of IKE, with more that both are told.
fn meet_in(
    version: u8,
    root: &Holder,
    [a, b]: [&End; 2],
    [ours, theirs]: [(&str, &str); 2],
    charon: &str,
    more: &str,
) {
    let ike = ours.0;
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let mut files = vec![("x509ca/root.pem", root.certificate.to_pem().unwrap())];
    if let Some(holder) = &b.holder {
        files.push(("x509/b.pem", holder.certificate.to_pem().unwrap()));
        files.push((
            "private/b.pem",
            holder.key.private_key_to_pem_pkcs8().unwrap(),
        ));
    }
    let theirs = their_connection(a, b, theirs.0, theirs.1);
    let mine = format!("version = {version}\n{more}");
    let theirs = theirs.replacen("version = 2", &mine.replace("true", "yes"), 1);
    let home = directory.path().join("b");
    let Some(b_gateway) = Gateway::strongswan_with(&wire.b, &home, &theirs, charon, &files) else {
        return;
    };
    let home = directory.path().join("a");
    let ours = our_connection(&home, root, a, b, ours.0, ours.1);
    let ours = ours.replacen("[connections.gw]", &format!("[connections.gw]\n{mine}"), 1);
    let a_gateway = Gateway::ikev2d(&wire.a, &home, &ours);
    for (begins, ends) in [(&a_gateway, &b_gateway), (&b_gateway, &a_gateway)] {
        begins.swanctl(&["--initiate", "--child", "net"]);
        let told = format!("{} and {}, {ike}", a.ours, b.ours);
        wire.assert_passes(&told);
        begins.swanctl(&["--terminate", "--ike", "gw"]);
        ends.wait_sas("the deletion", |sas| sas.trim().is_empty());
    }
    if a.holder.is_some() {
        let listed = a_gateway.swanctl(&["--list-certs"]);
        assert!(
            listed.contains("CN=a.test") && listed.contains("has private key"),
            "{listed}"
        );
    }
}

const PLAIN: (&str, &str) = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16");

fn root() -> Holder {
    Template::authority("Root").issue(p256(), None)
}

/// S28, S101, B6: RSA by RFC 7427 with PKCS #1 and PSS; an encrypted key file of ours.
#[test]
fn rsa() {
    let root = root();
    for (ours, theirs) in [
        ("rsa-2048-sha256", "ike:rsa-sha256"),
        ("rsa/pss-sha384", "ike:rsa/pss-sha384"),
    ] {
        let a = by_key(&root, "a.test", pki::rsa(), ours, theirs);
        let b = by_key(&root, "b.test", pki::rsa(), ours, theirs);
        meet(&root, [&a, &b], PLAIN, "");
    }
}

/// B6: ECDSA on P-256, P-384 and P-521 by RFC 7427, each end with its own curve.
#[test]
fn ecdsa_by_rfc_7427() {
    let root = root();
    let a = by_key(&root, "a.test", ec(Nid::SECP384R1), "ecdsa-384", "pubkey");
    let b = by_key(
        &root,
        "b.test",
        ec(Nid::SECP521R1),
        "ecdsa-521-sha512",
        "ike:ecdsa-sha512",
    );
    meet(&root, [&a, &b], PLAIN, "");
}

/// B7: Ed25519 (RFC 8420), with an authority of the same kind.
#[test]
fn ed25519() {
    let root = Template::authority("Root").issue(PKey::generate_ed25519().unwrap(), None);
    let key = || PKey::generate_ed25519().unwrap();
    let a = by_key(&root, "a.test", key(), "ed25519", "pubkey");
    let b = by_key(&root, "b.test", key(), "pubkey", "pubkey");
    meet(&root, [&a, &b], PLAIN, "");
}

/// S113 to S117, S119: Suite B and PRIME by name, with the ECDSA methods of RFC 4754 at a peer that does
/// not know RFC 7427.
#[test]
fn suites_by_name_and_rfc_4754() {
    let root = root();
    let (p256, p384) = (Nid::X9_62_PRIME256V1, Nid::SECP384R1);
    let charon = "signature_authentication = no";
    for (name, curve, auth, theirs) in [
        (
            "Suite-B-GCM-128",
            p256,
            "ecdsa-256-sha256",
            ("aes128-sha256-ecp256", "aes128gcm16-ecp256"),
        ),
        (
            "Suite-B-GCM-256",
            p384,
            "ecdsa-384-sha384",
            ("aes256-sha384-ecp384", "aes256gcm16-ecp384"),
        ),
        (
            "PRIME-128",
            p256,
            "ecdsa-256-sha256",
            ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
        ),
        (
            "PRIME-256",
            p384,
            "ecdsa-384-sha384",
            ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
        ),
    ] {
        let a = by_key(&root, "a.test", ec(curve), auth, "pubkey");
        let b = by_key(&root, "b.test", ec(curve), auth, "pubkey");
        meet_by(&root, [&a, &b], [(name, name), theirs], charon);
    }
}

/// RFC 7296's method 1 with SHA-1, for which `auth` must ask by name.
#[test]
fn rsa_by_method_1_where_it_is_allowed() {
    let root = root();
    let a = by_key(&root, "a.test", pki::rsa(), "rsa-sha1", "pubkey");
    let b = by_key(&root, "b.test", pki::rsa(), "rsa-sha1", "pubkey");
    meet(&root, [&a, &b], PLAIN, "signature_authentication = no");
}

/// S97: a certificate at one end and a preshared key at the other, both ways round.
#[test]
fn each_end_in_its_own_way() {
    let root = root();
    let a = by_key(&root, "a.test", p256(), "ecdsa", "pubkey");
    meet(&root, [&a, &by_secret()], PLAIN, "");
    let b = by_key(&root, "b.test", pki::rsa(), "rsa", "pubkey");
    meet(&root, [&by_secret(), &b], PLAIN, "");
}

/// S102: a certificate of an authority that is not the connection's own is refused on both sides.
#[test]
fn another_authoritys_certificate_is_refused() {
    let (root, other) = (root(), Template::authority("Other").issue(p256(), None));
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let a = by_key(&root, "a.test", p256(), "ecdsa", "pubkey");
    let b = by_key(&other, "b.test", p256(), "ecdsa", "pubkey");
    let holder = b.holder.as_ref().unwrap();
    let files = [
        ("x509ca/root.pem", root.certificate.to_pem().unwrap()),
        ("x509/b.pem", holder.certificate.to_pem().unwrap()),
        (
            "private/b.pem",
            holder.key.private_key_to_pem_pkcs8().unwrap(),
        ),
    ];
    let theirs = their_connection(&a, &b, PLAIN.0, PLAIN.1);
    let home = directory.path().join("b");
    let Some(b_gateway) = Gateway::strongswan_with(&wire.b, &home, &theirs, "", &files) else {
        return;
    };
    let home = directory.path().join("a");
    let ours = our_connection(&home, &root, &a, &b, PLAIN.0, PLAIN.1);
    let a_gateway = Gateway::ikev2d(&wire.a, &home, &ours);
    for gateway in [&a_gateway, &b_gateway] {
        gateway
            .try_swanctl(&["--initiate", "--child", "net"])
            .unwrap_err();
        for side in [&a_gateway, &b_gateway] {
            side.wait_sas("nothing", |sas| sas.trim().is_empty());
        }
    }
    wire.assert_blocked();
}

/// S28, S36, S43, S97: IKEv1's signatures, by RSA and by ECDSA (RFC 4754), in main mode and in aggressive
/// mode; Suite B by name (S117).
#[test]
fn ikev1() {
    let root = root();
    let words = ("aes256-sha384-modp2048", "aes128gcm16");
    for more in ["", "aggressive = true"] {
        let a = by_key(&root, "a.test", pki::rsa(), "rsa", "pubkey");
        let b = by_key(&root, "b.test", pki::rsa(), "rsa", "pubkey");
        meet_in(1, &root, [&a, &b], [words, words], "", more);
    }
    let (p256, p384) = (Nid::X9_62_PRIME256V1, Nid::SECP384R1);
    for (suite, curve, auth, theirs) in [
        (
            "Suite-B-GCM-128",
            p256,
            "ecdsa-256-sha256",
            ("aes128-sha256-ecp256", "aes128gcm16-ecp256"),
        ),
        (
            "Suite-B-GCM-256",
            p384,
            "ecdsa-384-sha384",
            ("aes256-sha384-ecp384", "aes256gcm16-ecp384"),
        ),
    ] {
        let a = by_key(&root, "a.test", ec(curve), auth, "pubkey");
        let b = by_key(&root, "b.test", ec(curve), auth, "pubkey");
        meet_in(1, &root, [&a, &b], [(suite, suite), theirs], "", "");
    }
}
