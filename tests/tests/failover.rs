// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B17, B18: the active member of a cluster is killed and another one goes on with its IKE SAs (RFC 6311):
//! traffic flows again without a new IKE SA, and no number of ESP comes twice.

mod gateway;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gateway::{Gateway, PATIENCE, Wire, ours, rekey};
use netlab::analyse;
use netlab::capture::{Capture, CaptureConfig};

/// Both members have the address 10.77.0.1; they live one after the other.
struct Cluster<'a> {
    wire: &'a Wire,
    directory: &'a Path,
    more: &'a str,
}

impl Cluster<'_> {
    fn member(&self, number: u8) -> Gateway {
        let directory = self.directory.join(format!("member-{number}"));
        let connection = ours(1, IKE, ESP, "", self.more);
        let section = format!(
            "{connection}\n[cluster]\ndirectory = {:?}\nkey_file = {:?}\nmember = {number}\n",
            self.directory.join("shared"),
            self.directory.join("key"),
        );
        Gateway::ikev2d(&self.wire.a, &directory, &section)
    }

    /// The files of IKE SAs.
    fn states(&self) -> Vec<std::path::PathBuf> {
        let all = fs::read_dir(self.directory.join("shared")).unwrap();
        let all = all.map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|e| e == "sa"))
            .collect()
    }
}

const IKE: &str = "aes128gcm16-prfsha256-x25519";
const ESP: &str = "aes128gcm16";

/// The line that names the IKE SA by its number and SPIs.
fn ike_sa(of: &Gateway) -> String {
    let sas = of.swanctl(&["--list-sas"]);
    let line = sas.lines().find(|line| line.starts_with("gw: "));
    line.unwrap_or_else(|| panic!("no IKE SA: {sas}"))
        .to_owned()
}

fn goes_on(initiates: bool) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let key = directory.join("key");
    fs::write(&key, [0x5a; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let wire = Wire::new();
    let file = directory.join("wire.pcapng");
    let capture = Capture::start(&wire.b, "wire", &file, CaptureConfig::default()).unwrap();
    let cluster = Cluster {
        wire: &wire,
        directory,
        more: if initiates {
            "start_action = \"start\""
        } else {
            ""
        },
    };
    let connection = ours(2, IKE, ESP, "", "");
    let peer = Gateway::ikev2d(&wire.b, &directory.join("peer"), &connection);
    let mut first = cluster.member(1);
    if !initiates {
        peer.swanctl(&["--initiate", "--child", "net"]);
    }
    wire.assert_passes("at the beginning");
    let before = ike_sa(&peer);

    first.kill();
    let mut second = cluster.member(2);
    wire.assert_passes("after a member was killed");
    assert_eq!(ike_sa(&peer), before, "{}", second.tail());

    // What is known is from before the child was rekeyed.
    let stale: Vec<_> = cluster
        .states()
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert_eq!(stale.len(), 1);
    rekey::child(&second, &peer, "net");
    wire.assert_passes("after a rekeying");
    second.kill();
    for (path, octets) in &stale {
        fs::write(path, octets).unwrap();
    }
    let mut first = cluster.member(1);
    wire.assert_passes("after a member was killed whose last words were lost");
    assert_eq!(ike_sa(&peer), before, "{}", first.tail());

    // In good order nobody is told, either.
    assert!(first.stop());
    let second = cluster.member(2);
    wire.assert_passes("after a member has ended");
    assert_eq!(ike_sa(&peer), before, "{}", second.tail());

    second.swanctl(&["--terminate", "--ike", "gw"]);
    peer.wait_sas("the end", |sas| sas.trim().is_empty());
    let end = std::time::Instant::now() + PATIENCE;
    while !cluster.states().is_empty() {
        assert!(std::time::Instant::now() < end, "{}", second.tail());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let captured = capture.finish().unwrap();
    assert_eq!(captured.dropped, 0, "the capture missed packets");
    let seen = analyse::Wire::read(&file).unwrap();
    assert_eq!(seen.duplicate_sequence_numbers(), 0);
    assert_eq!(seen.repeated_key_iv(), 0);
    assert_eq!(seen.plaintext, 0, "{:?}", seen.offenders);
}

#[test]
fn another_member_goes_on_with_peers_that_have_come() {
    goes_on(false);
}

#[test]
fn another_member_goes_on_with_peers_that_it_went_to_see() {
    goes_on(true);
}
