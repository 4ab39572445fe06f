// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B67: what comes of a system call that the daemon is not known to need.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::mpsc::channel;

use ikev2d::config::SeccompSetting;
use ikev2d::seccomp::{self, Process};

/// Says which process a test is: the one that is held to the list.
const INSIDE: &str = "IKEV2D_TEST_SECCOMP";

/// Runs a test of this file again, held to the list.
fn again(test: &str, setting: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, setting);
    command.output().unwrap()
}

/// In the process that is to be held to the list.
fn inside() -> Option<SeccompSetting> {
    match std::env::var(INSIDE).ok()?.as_str() {
        "kill" => Some(SeccompSetting::Kill),
        "log" => Some(SeccompSetting::Log),
        _ => Some(SeccompSetting::Off),
    }
}

#[test]
fn a_call_that_is_not_on_the_list_ends_the_process_by_name() {
    if let Some(setting) = inside() {
        // A thread that was there before is held to it, too.
        let (go, gone) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = gone.recv();
            let _ = nix::unistd::setsid();
        });
        seccomp::apply(setting, Process::Daemon).unwrap();
        drop(go);
        thread.join().unwrap();
        println!("still here");
        return;
    }
    let test = "a_call_that_is_not_on_the_list_ends_the_process_by_name";
    let output = again(test, "kill");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(nix::libc::SIGSYS), "{said}");
    assert!(
        said.contains("system call setsid (112) is not allowed")
            || cfg!(not(target_arch = "x86_64")),
        "{said}"
    );
    for setting in ["log", "off"] {
        let output = again(test, setting);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("still here"));
    }
}

/// Threads start, sockets of IP and files are there; programs and other sockets are not.
#[test]
fn what_is_held_to_the_list_starts_threads_and_no_programs() {
    if let Some(setting) = inside() {
        seccomp::apply(setting, Process::Daemon).unwrap();
        let address = std::thread::spawn(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap()
        });
        assert!(address.join().unwrap().port() != 0);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "text").unwrap();
        std::fs::read_to_string(directory.path().join("file")).unwrap();
        println!("threads, sockets, files");
        let _ = Command::new("/bin/true").status();
        println!("a program");
        return;
    }
    let output = again(
        "what_is_held_to_the_list_starts_threads_and_no_programs",
        "kill",
    );
    let (told, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(told.contains("threads, sockets, files"), "{told}{said}");
    assert!(!told.contains("a program"), "{told}{said}");
    assert_eq!(output.status.signal(), Some(nix::libc::SIGSYS), "{said}");
}
