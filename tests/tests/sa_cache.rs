// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's SA cache, read by `esplanade sa` while the daemon runs, hangs and is dead.

mod gateway;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, Wire, ours};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";
const NO_SUCH: i32 = 3;

fn sa(cache: &Path, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .arg("10")
        .arg(tests::program("esplanade"))
        .arg("sa")
        .args(arguments)
        .arg("--cache")
        .arg(cache)
        .output()
        .unwrap()
}

fn json(cache: &Path, arguments: &[&str]) -> Value {
    let output = sa(cache, &[&["-o", "json"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits for what the cache tells to be so.
fn wait(cache: &Path, arguments: &[&str], fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = json(cache, arguments);
        if fits(&found) {
            return found;
        }
        assert!(Instant::now() < end, "{arguments:?}: {found:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn cache_of(gateway: &Gateway) -> PathBuf {
    gateway.vici.with_extension("cache")
}

fn sas(found: &Value) -> &Vec<Value> {
    found["sas"].as_array().unwrap()
}

#[test]
fn the_cache_is_read_while_the_daemon_runs_hangs_and_is_dead() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let gateway = |namespace, own, name: &str| {
        let configuration = ours(own, IKE, ESP, "", "");
        Gateway::ikev2d(namespace, &directory.path().join(name), &configuration)
    };
    let (mut a, _b) = (gateway(&wire.a, 1, "a"), gateway(&wire.b, 2, "b"));
    let cache = cache_of(&a);
    let before = json(&cache, &["list"]);
    assert_eq!(before["writer"]["state"], "runs");
    assert_eq!(before["writer"]["pid"], a.id());
    assert!(sas(&before).is_empty());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(before["writer"]["boot-id"], boot.trim());

    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("up");
    let used = |found: &Value| {
        let used = |sa: &Value| sa["packets"].as_u64() > Some(4) && sa["last-use"].is_string();
        sas(found).len() == 2 && sas(found).iter().all(used)
    };
    let up = wait(&cache, &["list"], used);
    for sa in sas(&up) {
        assert_eq!(sa["name"], "gw/net", "{sa}");
        assert_eq!(sa["engine"], "software", "{sa}");
        assert_eq!(sa["state"], "mature", "{sa}");
        let ends = (&sa["source"], &sa["destination"]);
        match sa["direction"].as_str().unwrap() {
            "out" => {
                assert_eq!(*ends.1, "10.77.0.2", "{sa}");
                assert!(sa["granted"].as_u64() >= sa["sequence"].as_u64(), "{sa}");
            }
            _ => assert_eq!(*ends.0, "10.77.0.2", "{sa}"),
        }
    }
    let spi = sas(&up)[0]["spi"].as_str().unwrap().to_owned();
    let shown = json(&cache, &["show", &spi]);
    assert_eq!(sas(&shown)[0]["spi"], spi.as_str());
    let filters: [(&[&str], usize); 5] = [
        (&["list", "--spi", &spi], 1),
        (&["list", "--name", "net"], 2),
        (&["list", "--name", "gw/net"], 2),
        (&["list", "--name", "other"], 0),
        (&["list", "--destination", "10.77.0.2"], 1),
    ];
    for (arguments, count) in filters {
        assert_eq!(sas(&json(&cache, arguments)).len(), count, "{arguments:?}");
    }
    let events = json(&cache, &["events", "--spi", &spi]);
    let events = events["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "installed"));
    let text = sa(&cache, &["list"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("gw/net") && text.contains(&spi), "{text}");

    let pid = Pid::from_raw(a.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let hung = wait(&cache, &["list"], |found| {
        found["writer"]["state"] == "hangs"
    });
    assert_eq!(sas(&hung).len(), 2);
    kill(pid, Signal::SIGCONT).unwrap();
    wait(&cache, &["list"], |found| {
        found["writer"]["state"] == "runs"
    });

    a.kill();
    let dead = wait(&cache, &["list"], |found| {
        found["writer"]["state"] == "dead"
    });
    assert_eq!(sas(&dead).len(), 2);
    assert_eq!(dead["writer"]["pid"], up["writer"]["pid"]);
    let last = json(&cache, &["events", "--last", "3"]);
    assert_eq!(last["events"].as_array().unwrap().len(), 3);

    // The next daemon's takes the dead one's place, and leaves nothing when it ends in good order.
    let mut a = gateway(&wire.a, 1, "a");
    let anew = json(&cache, &["list"]);
    assert_eq!(anew["writer"]["state"], "runs");
    assert_eq!(anew["writer"]["pid"], a.id());
    // From the answer on it listens to signals.
    a.swanctl(&["--stats"]);
    assert!(a.stop());
    assert_eq!(sa(&cache, &["list"]).status.code(), Some(NO_SUCH));
    assert!(!cache.exists());
}

#[test]
fn s09_a_second_daemon_does_not_take_the_first_ones_cache() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let configuration = ours(1, IKE, ESP, "", "");
    let first = Gateway::ikev2d(&wire.a, &directory.path().join("a"), &configuration);
    let cache = cache_of(&first);
    let file = directory.path().join("second.toml");
    let text = format!(
        "[daemon]\nvici_socket = {:?}\nsa_cache = {{ socket = {cache:?} }}\n",
        directory.path().join("second.vici"),
    );
    fs::write(&file, text).unwrap();
    let mut second = wire.b.command(tests::program("ikev2d"));
    let output = second
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    let expected = format!("process {} publishes its SA cache", first.id());
    assert!(error.contains(&expected), "{error}");
    assert_eq!(json(&cache, &["list"])["writer"]["pid"], first.id());
}
