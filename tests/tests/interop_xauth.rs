// SPDX-License-Identifier: Apache-2.0 OR MIT
//! XAUTH and mode config of IKEv1 with strongSwan: users at either end, addresses asked for and given unasked.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;

use gateway::{Gateway, PASSWORD, Wire, rekey};
use netlab::traffic::{await_answer, ping};
use pki::{Holder, Template, p256};

/// A connection: its name, and IKE proposals that no other one has.
struct Case {
    name: &'static str,
    ike: &'static str,
    ours: &'static str,
    theirs: &'static str,
    rsa: bool,
    user: &'static str,
}

const PULL: Case = Case {
    name: "pull",
    ike: "aes256-sha256-modp2048",
    ours: "",
    theirs: "",
    rsa: false,
    user: "carol",
};

const CASES: [Case; 5] = [
    PULL,
    Case {
        name: "push",
        ike: "aes128-sha256-ecp256",
        ours: "pull = false",
        theirs: "pull = no",
        ..PULL
    },
    Case {
        name: "aggressive",
        ike: "aes256-sha512-ecp384",
        ours: "aggressive = true\naggressive_psk = true",
        theirs: "aggressive = yes",
        ..PULL
    },
    Case {
        name: "rsa",
        ike: "aes192-sha384-modp3072",
        rsa: true,
        ..PULL
    },
    // Whose password the server does not have.
    Case {
        name: "stranger",
        ike: "aes256-sha384-modp2048",
        user: "mallory",
        ..PULL
    },
];

const SERVER_OF_AGGRESSIVE: &str = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes";

/// Our connections, as the user's end or as the other; and strongSwan's, which is what we aren't.
fn texts(we_are_client: bool) -> (String, String) {
    let (mut ours, mut theirs) = (String::new(), String::new());
    // strongSwan answers by the first connection of these addresses, and chooses by identity later.
    let all: Vec<&str> = CASES.iter().map(|case| case.ike).collect();
    for case in &CASES {
        let Case {
            name,
            ike,
            rsa,
            user,
            ..
        } = case;
        let (a, b) = (format!("a-{name}.test"), format!("b-{name}.test"));
        let (auth, certs, cacerts) = match rsa {
            true => ("rsa", ", certs = [\"a.pem\"]", ", cacerts = [\"root.pem\"]"),
            false => ("psk", "", ""),
        };
        let (addresses, xauth, local, remote) = if we_are_client {
            (
                "vips = [\"0.0.0.0\"]",
                format!("local-xauth = {{ auth = \"xauth\", xauth_id = \"{user}\" }}"),
                "dynamic",
                "10.2.0.0/24",
            )
        } else {
            (
                "pools = [\"home\"]",
                "remote-xauth = { auth = \"xauth\" }".to_owned(),
                "10.1.0.0/24",
                "dynamic",
            )
        };
        ours += &format!(
            "[connections.{name}]\nversion = 1\nlocal_addrs = [\"10.77.0.1\"]\n\
             remote_addrs = [\"10.77.0.2\"]\nproposals = [\"{ike}\"]\n{more}\n{addresses}\n{xauth}\n\
             local = {{ auth = \"{auth}\", id = \"{a}\"{certs} }}\n\
             remote = {{ auth = \"{auth}\", id = \"{b}\"{cacerts} }}\n\
             [connections.{name}.children.{name}-net]\nlocal_ts = [\"{local}\"]\n\
             remote_ts = [\"{remote}\"]\nesp_proposals = [\"aes128-sha256\"]\n",
            more = case.ours,
        );
        let (auth, certs, cacerts) = match rsa {
            true => ("pubkey", "certs = b.pem", "cacerts = root.pem"),
            false => ("psk", "", ""),
        };
        let (addresses, xauth, local, remote) = if we_are_client {
            (
                "pools = home",
                "remote-xauth {\n auth = xauth\n }".to_owned(),
                "10.2.0.0/24",
                "dynamic",
            )
        } else {
            (
                "vips = 0.0.0.0",
                format!("local-xauth {{\n auth = xauth\n xauth_id = {user}\n }}"),
                "dynamic",
                "10.1.0.0/24",
            )
        };
        theirs += &format!(
            "{name} {{\n version = 1\n local_addrs = 10.77.0.2\n remote_addrs = 10.77.0.1\n\
             proposals = {proposals}\n{more}\n{addresses}\n\
             local {{\n auth = {auth}\n id = {b}\n {certs}\n }}\n\
             remote {{\n auth = {auth}\n id = {a}\n {cacerts}\n }}\n{xauth}\n\
             children {{ {name}-net {{\n local_ts = {local}\n remote_ts = {remote}\n\
             esp_proposals = aes128-sha256\n }} }} }}\n",
            more = case.theirs,
            proposals = if we_are_client {
                all.join(",")
            } else {
                (*ike).to_owned()
            },
        );
    }
    (ours, theirs)
}

fn passes(wire: &Wire, a: [u8; 4], b: [u8; 4], when: &str) {
    let (a, b) = (IpAddr::from(a), IpAddr::from(b));
    await_answer(&wire.a, a, b);
    for (namespace, from, to) in [(&wire.a, a, b), (&wire.b, b, a)] {
        let report = ping(namespace, from, to, 3).unwrap();
        assert!(report.received >= 2, "{when}: {from} to {to}: {report:?}");
    }
}

struct Lab {
    wire: Wire,
    a: Gateway,
    b: Gateway,
    _directory: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ours:\n{}\ntheirs:\n{}", self.a.tail(), self.b.tail());
        }
    }
}

impl Lab {
    fn new(we_are_client: bool) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        let root = Template::authority("Root").issue(p256(), None);
        let holder = |name: &str| -> Holder { Template::end(name).issue(pki::rsa(), Some(&root)) };
        let (a, b) = (holder("a-rsa.test"), holder("b-rsa.test"));
        let (ours, theirs) = texts(we_are_client);
        let pool = "\n}\npools {\n home {\n addrs = 10.3.0.0/28\n dns = 10.2.0.53\n }\n";
        let secret = "\n}\nsecrets {\n eap-2 {\n id = mallory\n secret = \"of another time\"\n }\n";
        let theirs = theirs + if we_are_client { pool } else { secret };
        let files = [
            ("x509ca/root.pem", root.certificate.to_pem().unwrap()),
            ("x509/b.pem", b.certificate.to_pem().unwrap()),
            ("private/b.pem", b.key.private_key_to_pem_pkcs8().unwrap()),
        ];
        let home = directory.path().join("b");
        let b = Gateway::strongswan_with(&wire.b, &home, &theirs, SERVER_OF_AGGRESSIVE, &files)?;
        let home = directory.path().join("a");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("root.pem"), root.certificate.to_pem().unwrap()).unwrap();
        fs::write(home.join("a.pem"), a.certificate.to_pem().unwrap()).unwrap();
        let key = home.join("a.key");
        fs::write(&key, a.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut more = format!(
            "[secrets.private-a]\nfile = \"a.key\"\n\
             [secrets.xauth-1]\nids = [\"carol\"]\nsecret = \"{PASSWORD}\"\n"
        );
        more += if we_are_client {
            "[secrets.xauth-2]\nids = [\"mallory\"]\nsecret = \"of another time\"\n"
        } else {
            "[pools.home]\naddrs = \"10.3.0.1-10.3.0.9\"\ndns = [\"10.1.0.53\"]\n"
        };
        let a = Gateway::ikev2d(&wire.a, &home, &(ours + &more));
        Some(Self {
            wire,
            a,
            b,
            _directory: directory,
        })
    }
}

fn gone(sas: &str) -> bool {
    sas.trim().is_empty()
}

/// S59c, S60, S62 in IKEv1: our user proves itself to strongSwan, which gives us an address.
#[test]
fn our_user_proves_itself_to_strongswan() {
    let Some(lab) = Lab::new(true) else { return };
    for case in &CASES {
        let child = format!("{}-net", case.name);
        let done = lab.a.try_swanctl(&["--initiate", "--child", &child]);
        if case.user == "mallory" {
            assert!(done.unwrap_err().contains("does not believe our user"));
            continue;
        }
        done.unwrap_or_else(|said| panic!("{}: {said}", case.name));
        let sas = lab.a.swanctl(&["--list-sas"]);
        assert!(sas.contains("[10.3.0.1]"), "{}: {sas}", case.name);
        passes(&lab.wire, [10, 3, 0, 1], [10, 2, 0, 1], case.name);
        if case.name == "pull" {
            lab.a.swanctl(&["--rekey", "--ike", "pull", "--reauth"]);
            // strongSwan finds no child to renew while it moves it to the new IKE_SA.
            lab.b.wait_sas("the new IKE_SA with the child", |sas| {
                sas.contains("pull: #2, ESTABLISHED")
                    && !sas.contains("pull: #1,")
                    && sas.contains("INSTALLED")
            });
            rekey::child(&lab.b, &lab.a, "pull-net");
            passes(&lab.wire, [10, 3, 0, 1], [10, 2, 0, 1], "after renewals");
        }
        lab.a.swanctl(&["--terminate", "--ike", case.name]);
        lab.a.wait_sas("the end", gone);
        lab.b.wait_sas("the end", gone);
    }
}

/// The other way round: strongSwan's user proves itself to us, and gets an address of ours.
#[test]
fn strongswans_user_proves_itself_to_us() {
    let Some(lab) = Lab::new(false) else { return };
    for case in &CASES {
        let child = format!("{}-net", case.name);
        let done = lab.b.try_swanctl(&["--initiate", "--child", &child]);
        if case.user == "mallory" {
            done.unwrap_err();
            lab.a.wait_sas("nothing", gone);
            continue;
        }
        done.unwrap_or_else(|said| panic!("{}: {said}", case.name));
        let sas = lab
            .a
            .wait_sas("the tunnel", |sas| sas.contains("INSTALLED"));
        assert!(sas.contains("10.3.0.1/32"), "{}: {sas}", case.name);
        passes(&lab.wire, [10, 1, 0, 1], [10, 3, 0, 1], case.name);
        let leases = lab.a.swanctl(&["--list-pools", "--leases"]);
        assert!(leases.contains("carol"), "{leases}");
        lab.b.swanctl(&["--terminate", "--ike", case.name]);
        lab.a.wait_sas("the end", gone);
        lab.b.wait_sas("the end", gone);
    }
}
