// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade keep` and signals: what it is told its service is told, what ends the service on purpose ends
//! both, and what kills it starts the next one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than a machine under load takes to start a shell.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper with a shell's script for its service, which writes to a log.
struct Keeper {
    process: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Keeper {
    fn start(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "").unwrap();
        let process = Command::new(assert_cmd::cargo::cargo_bin("esplanade"))
            .args(["keep", "--", "sh", "-c"])
            .arg(format!("echo start $$ >>$LOG; {script}"))
            .env("LOG", &log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            log,
            _directory: directory,
        }
    }

    /// The services' process ids, once so many have started.
    fn started(&self, count: usize) -> Vec<Pid> {
        self.await_lines("start ", count)
            .iter()
            .map(|line| Pid::from_raw(line["start ".len()..].parse().unwrap()))
            .collect()
    }

    /// The lines that begin so, once there are so many.
    fn await_lines(&self, begin: &str, count: usize) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.log).unwrap();
            let whole = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let lines: Vec<_> = whole
                .map(|line| line.trim_end().to_owned())
                .filter(|line| line.starts_with(begin))
                .collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < end, "{count} of {begin:?}: {text:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the keeper goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const WAIT: &str = "while :; do sleep 0.02; done";

#[test]
fn signals_are_passed_on_and_the_service_s_own_status_is_the_keeper_s() {
    let mut keeper = Keeper::start(&format!(
        "trap 'echo hup >>$LOG' HUP; trap 'echo usr1 >>$LOG' USR1; trap 'echo usr2 >>$LOG' USR2
         trap 'echo term >>$LOG; exit 7' TERM; echo ready >>$LOG; {WAIT}"
    ));
    keeper.await_lines("ready", 1);
    for (signal, line) in [
        (Signal::SIGHUP, "hup"),
        (Signal::SIGUSR1, "usr1"),
        (Signal::SIGUSR2, "usr2"),
        (Signal::SIGHUP, "hup"),
    ] {
        let before = keeper.await_lines(line, 0).len();
        keeper.tell(signal);
        keeper.await_lines(line, before + 1);
    }
    keeper.tell(Signal::SIGTERM);
    keeper.await_lines("term", 1);
    assert_eq!(keeper.ended().code(), Some(7));
    assert_eq!(keeper.started(1).len(), 1, "it was never started again");
}

#[test]
fn a_service_that_a_signal_to_its_keeper_kills_is_not_started_again() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut keeper = Keeper::start("exec sleep 1000");
        keeper.started(1);
        keeper.tell(signal);
        assert_eq!(keeper.ended().code(), Some(128 + signal as i32), "{signal}");
        assert_eq!(keeper.started(1).len(), 1);
    }
}

#[test]
fn a_service_that_is_killed_is_started_again() {
    let mut keeper = Keeper::start("exec sleep 1000");
    let first = keeper.started(1)[0];
    kill(first, Signal::SIGKILL).unwrap();
    let services = keeper.started(2);
    assert_ne!(services[0], services[1]);
    keeper.tell(Signal::SIGTERM);
    keeper.ended();
    assert!(kill(services[1], None).is_err(), "its service lives on");
}

#[test]
fn one_that_fails_is_started_again_until_the_keeper_is_told_to_end() {
    let mut keeper = Keeper::start("exit 1");
    // From here on it rests most of the time.
    keeper.started(6);
    keeper.tell(Signal::SIGTERM);
    assert_eq!(keeper.ended().code(), Some(1));
}

#[test]
fn one_whose_configuration_is_wrong_is_not_started_again() {
    let mut keeper = Keeper::start("exit 2");
    assert_eq!(keeper.ended().code(), Some(2));
    assert_eq!(keeper.started(1).len(), 1);
}

#[test]
fn no_service_outlives_its_keeper() {
    let mut keeper = Keeper::start(&format!(
        "trap 'echo term >>$LOG; exit 0' TERM; echo ready >>$LOG; {WAIT}"
    ));
    keeper.await_lines("ready", 1);
    keeper.process.kill().unwrap();
    keeper.ended();
    keeper.await_lines("term", 1);
}

#[test]
fn what_is_no_program_is_not_started_again() {
    for program in ["/nowhere/ikev2dd", "/etc/passwd"] {
        let output = assert_cmd::Command::cargo_bin("esplanade")
            .unwrap()
            .args(["keep", "--", program])
            .timeout(PATIENCE)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(program), "{errors}");
    }
}
