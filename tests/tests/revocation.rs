// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B30: whether a peer's certificate is revoked, asked of OpenSSL's own OCSP responder and fetched as a
//! list, both by HTTP, between two of our daemons.

mod gateway;
#[path = "../../ikev2d/crypto/tests/pki/mod.rs"]
mod pki;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, Wire, ours};
use netlab::Namespace;
use netlab::process::Guarded;
use openssl::nid::Nid;
use pki::{Holder, Template, p256, revocation_list};

const RESPONDER: &str = "OCSP;URI:http://10.77.0.2:8080/";
const LISTS: &str = "URI:http://10.77.0.2:8081/root.crl";

/// What a responder is to know of a certificate.
fn write_index(directory: &Path, holder: &Holder, revoked: bool) {
    let serial = holder.certificate.serial_number().to_bn().unwrap();
    let serial = serial.to_hex_str().unwrap();
    let (letter, since) = if revoked {
        ("R", "250101000000Z")
    } else {
        ("V", "")
    };
    let line = format!("{letter}\t401231235959Z\t{since}\t{serial}\tunknown\t/CN=b\n");
    fs::write(directory.join("index.txt"), line).unwrap();
}

/// `openssl ocsp` for an authority, once it listens.
fn start_responder(namespace: &Namespace, directory: &Path, root: &Holder) -> Guarded {
    let write = |name: &str, octets: Vec<u8>| fs::write(directory.join(name), octets).unwrap();
    write("root.pem", root.certificate.to_pem().unwrap());
    write("root.key", root.key.private_key_to_pem_pkcs8().unwrap());
    let mut command = namespace.command("openssl");
    command.current_dir(directory).stdin(Stdio::null());
    command.args([
        "ocsp",
        "-port",
        "8080",
        "-index",
        "index.txt",
        "-CA",
        "root.pem",
    ]);
    command.args(["-rsigner", "root.pem", "-rkey", "root.key", "-ndays", "1"]);
    let log = directory.join("responder.log");
    let file = File::create(&log).unwrap();
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let mut process = Guarded::spawn(command).unwrap();
    // Not by connecting: who hangs up without a request, it waits for.
    let end = Instant::now() + PATIENCE;
    let told = || fs::read_to_string(&log).unwrap();
    while !told().contains("waiting for OCSP client connections") {
        assert!(
            Instant::now() < end && process.ended().unwrap().is_none(),
            "{}",
            told()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    process
}

/// A server of one list, where there is one.
fn list_server(namespace: &Namespace) -> Arc<Mutex<Option<Vec<u8>>>> {
    let listener = namespace.enter(|| TcpListener::bind("10.77.0.2:8081"));
    let listener = listener.unwrap().unwrap();
    let list = Arc::new(Mutex::new(None::<Vec<u8>>));
    let served = list.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request, mut more) = (stream.unwrap(), Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut more) {
                    Ok(n) if n > 0 => request.extend_from_slice(&more[..n]),
                    _ => break,
                }
            }
            let (status, body) = match served.lock().unwrap().clone() {
                Some(list) => ("200 OK", list),
                None => ("404 Not Found", Vec::new()),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    list
}

/// The configuration of one end, which believes the other's certificate in this way.
fn connection(directory: &Path, own: u8, root: &Holder, holder: &Holder, more: &str) -> String {
    fs::create_dir_all(directory).unwrap();
    let write = |name: &str, octets: Vec<u8>| {
        let path = directory.join(name);
        fs::write(&path, octets).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("root.pem", root.certificate.to_pem().unwrap());
    write("own.pem", holder.certificate.to_pem().unwrap());
    write("own.key", holder.key.private_key_to_pem_pkcs8().unwrap());
    let ours = ours(own, "aes128gcm16-prfsha256-ecp256", "aes128gcm16", "", "");
    let local = "local = { auth = \"pubkey\", certs = [\"own.pem\"]";
    let remote = format!("remote = {{ auth = \"pubkey\", cacerts = [\"root.pem\"]{more}");
    let ours = ours.replace("local = { auth = \"psk\"", local);
    let ours = ours.replace("remote = { auth = \"psk\"", &remote);
    format!("{ours}[secrets.private-own]\nfile = \"own.key\"\n")
}

/// B30: a live responder that says good and revoked; without it a list that is fetched; without both
/// `strict` refuses, and says where it has looked.
#[test]
fn a_live_responder_and_lists_by_http_decide() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let root = Template::authority("Root").issue(p256(), None);
    let a_holder = Template::end("a.test").issue(p256(), Some(&root));
    let mut template = Template::end("b.test");
    template.extensions.push((Nid::INFO_ACCESS, RESPONDER));
    let lists = (Nid::CRL_DISTRIBUTION_POINTS, LISTS);
    template.extensions.push(lists);
    let b_holder = template.issue(p256(), Some(&root));
    let authority = directory.path().join("authority");
    fs::create_dir_all(&authority).unwrap();
    write_index(&authority, &b_holder, false);
    let mut responder = start_responder(&wire.b, &authority, &root);
    let list = list_server(&wire.b);

    let home = directory.path().join("b");
    let b = Gateway::ikev2d(&wire.b, &home, &connection(&home, 2, &root, &b_holder, ""));
    let home = directory.path().join("a");
    let strict = connection(&home, 1, &root, &a_holder, ", revocation = \"strict\"");
    let a = Gateway::ikev2d(&wire.a, &home, &strict);
    let accepted = |why: &str| {
        a.swanctl(&["--flush-certs"]);
        a.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes(why);
        a.swanctl(&["--terminate", "--ike", "gw"]);
        b.wait_sas("the deletion", |sas| sas.trim().is_empty());
    };
    let refused = |whys: &[&str]| {
        a.swanctl(&["--flush-certs"]);
        let before = fs::read_to_string(&a.log).unwrap().len();
        let refused = a.try_swanctl(&["--initiate", "--child", "net"]);
        assert!(refused.is_err(), "{whys:?}: {refused:?}");
        let log = fs::read_to_string(&a.log).unwrap().split_off(before);
        for why in whys {
            assert!(log.contains(why), "{why:?} is not in {log}");
        }
        b.wait_sas("the refusal", |sas| sas.trim().is_empty());
    };
    accepted("the responder says good");
    // It looks at its index before it waits for a request: a running one would answer once more.
    responder.kill().unwrap();
    write_index(&authority, &b_holder, true);
    let mut responder = start_responder(&wire.b, &authority, &root);
    refused(&["the OCSP responder says that it is revoked"]);
    responder.kill().unwrap();
    refused(&[
        "http://10.77.0.2:8080/: no answer",
        "http://10.77.0.2:8081/root.crl: no list: http status: 404",
    ]);
    let signed = |revoked: &[&Holder]| revocation_list(&root, (-1, 1), revoked).to_der().unwrap();
    *list.lock().unwrap() = Some(signed(&[]));
    accepted("a list that does not name it");
    *list.lock().unwrap() = Some(signed(&[&b_holder]));
    refused(&["certificate revoked"]);
}

/// B31, RFC 4806: who is asked brings the answer that it has fetched ahead, so that nobody needs the responder;
/// who is not asked brings none.
#[test]
fn an_answer_that_the_peer_brings_does_without_a_responder() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let root = Template::authority("Root").issue(p256(), None);
    let a_holder = Template::end("a.test").issue(p256(), Some(&root));
    let mut template = Template::end("b.test");
    template.extensions.push((Nid::INFO_ACCESS, RESPONDER));
    let b_holder = template.issue(p256(), Some(&root));
    let authority = directory.path().join("authority");
    fs::create_dir_all(&authority).unwrap();
    write_index(&authority, &b_holder, false);
    let mut responder = start_responder(&wire.b, &authority, &root);
    let home = directory.path().join("b");
    let config = connection(&home, 2, &root, &b_holder, "");
    let b = Gateway::ikev2d(&wire.b, &home, &config);
    let end = Instant::now() + PATIENCE;
    let log = || fs::read_to_string(&b.log).unwrap();
    while !log().contains("an OCSP answer about our own certificate is there") {
        assert!(Instant::now() < end, "{}", b.tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    responder.kill().unwrap();
    for (ocsp, good) in [("reply", false), ("both", true)] {
        let home = directory.path().join(format!("a-{ocsp}"));
        let strict = connection(&home, 1, &root, &a_holder, ", revocation = \"strict\"");
        let strict = strict.replace("version = 2", &format!("version = 2\nocsp = {ocsp:?}"));
        let a = Gateway::ikev2d(&wire.a, &home, &strict);
        let begun = a.try_swanctl(&["--initiate", "--child", "net"]);
        assert_eq!(begun.is_ok(), good, "{ocsp}: {begun:?} {}", a.tail());
        if good {
            wire.assert_passes("by an answer that the peer has brought");
            a.swanctl(&["--terminate", "--ike", "gw"]);
        }
        b.wait_sas("the end", |sas| sas.trim().is_empty());
    }
}
