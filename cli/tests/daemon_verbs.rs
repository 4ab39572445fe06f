// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verbs that ask a daemon: what they send, what they print, and how they exit.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use assert_cmd::Command;
use ikev2d::vici::message::{Section, decode, encode, packet, split_name};

fn esplanade(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("esplanade").unwrap();
    command
        .args(arguments)
        .env_remove("ESPLANADE_VICI")
        .timeout(std::time::Duration::from_secs(20));
    command
}

/// A daemon for one client: it answers its command with events of one name and a response, and tells
/// command and message.
fn daemon(
    socket: &Path,
    event: (&'static str, Vec<Section>),
    response: Section,
) -> JoinHandle<(String, Section)> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        loop {
            let packet = receive(&mut stream);
            let (name, message) = split_name(&packet[1..]).unwrap();
            if packet[0] == packet::EVENT_REGISTER {
                assert_eq!(name, event.0);
                let confirm = encode(packet::EVENT_CONFIRM, None, None).unwrap();
                stream.write_all(&confirm).unwrap();
                continue;
            }
            let asked = (name.to_owned(), decode(message).unwrap());
            for section in &event.1 {
                let packet = encode(packet::EVENT, Some(event.0), Some(section)).unwrap();
                stream.write_all(&packet).unwrap();
            }
            let packet = encode(packet::COMMAND_RESPONSE, None, Some(&response)).unwrap();
            stream.write_all(&packet).unwrap();
            return asked;
        }
    })
}

fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).unwrap();
    packet
}

fn success(yes: &str) -> Section {
    let mut section = Section::default();
    section.put("success", yes);
    section
}

#[test]
fn without_a_daemon_the_exit_status_is_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vici");
    let socket = socket.to_str().unwrap();
    for verb in [
        &["sas"][..],
        &["conns"],
        &["stats"],
        &["devices"],
        &["up", "net"],
        &["down", "net"],
    ] {
        let run = esplanade(verb).args(["--socket", socket]).assert().code(3);
        let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(error.contains(socket), "{error}");
    }
}

#[test]
fn wrong_usage_is_2() {
    esplanade(&["up"]).assert().code(2);
    esplanade(&["down"]).assert().code(2);
    esplanade(&["fly"]).assert().code(2);
    esplanade(&["up", "net", "--timeout", "0"]).assert().code(2);
}

#[test]
fn a_refusal_is_4_with_the_daemons_reason() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vici");
    let mut response = success("no");
    response.put("errmsg", "no connection has a child \"nte\"");
    let asked = daemon(&socket, ("", Vec::new()), response);
    let run = esplanade(&["up", "nte", "--timeout", "3"])
        .env("ESPLANADE_VICI", &socket)
        .assert()
        .code(4);
    let error = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(error.contains("no connection has a child"), "{error}");
    let (command, message) = asked.join().unwrap();
    assert_eq!(command, "initiate");
    assert_eq!(message.text("child"), Some("nte"));
    assert_eq!(message.text("timeout"), Some("3000"));
}

#[test]
fn down_names_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vici");
    let asked = daemon(&socket, ("", Vec::new()), success("yes"));
    esplanade(&["down", "--ike", "site", "--socket"])
        .arg(&socket)
        .assert()
        .success()
        .stdout("site is down\n");
    let (command, message) = asked.join().unwrap();
    assert_eq!(
        (command.as_str(), message.text("ike")),
        ("terminate", Some("site"))
    );
    assert_eq!(message.text("child"), None);
}

#[test]
fn sas_show_engine_and_reason_as_table_and_as_json() {
    let mut child = Section::default();
    child.put("name", "net");
    child.put("spi-in", "00c0ffee");
    child.put("packets-in", 7);
    child.put("engine", "software");
    child.put("engine-reason", "the device is lost");
    let mut children = Section::default();
    children.put_section("net-3", child);
    let mut sa = Section::default();
    sa.put("state", "ESTABLISHED");
    sa.put_section("child-sas", children);
    let mut event = Section::default();
    event.put_section("site", sa);

    let directory = tempfile::tempdir().unwrap();
    for json in [false, true] {
        let socket = directory.path().join(format!("vici-{json}"));
        let asked = daemon(
            &socket,
            ("list-sa", vec![event.clone(), event.clone()]),
            Section::default(),
        );
        let mut command = esplanade(&["sas", "--socket"]);
        command.arg(&socket);
        if json {
            command.arg("--json");
        }
        let run = command.assert().success();
        let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
        assert_eq!(asked.join().unwrap().0, "list-sas");
        if json {
            let sas: serde_json::Value = serde_json::from_str(&output).unwrap();
            assert_eq!(sas.as_array().unwrap().len(), 2);
            let child = &sas[1]["child-sas"]["net-3"];
            assert_eq!(sas[1]["connection"], "site");
            assert_eq!(child["spi-in"], "00c0ffee");
            assert_eq!(child["packets-in"], 7);
            assert_eq!(child["engine"], "software");
        } else {
            assert_eq!(output.lines().count(), 3, "{output}");
            let line = output.lines().nth(1).unwrap();
            for part in ["site", "00c0ffee", "software", "the device is lost"] {
                assert!(line.contains(part), "{part} in {output}");
            }
        }
    }
}
