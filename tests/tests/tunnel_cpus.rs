// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Workers of the data plane that are kept to processors (`tun.cpus`).

mod gateway;

use std::fs::{self, DirEntry};
use std::process::Command;

use gateway::{Gateway, wait};
use netlab::Namespace;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The processors that a thread may run on.
fn allowed(thread: Pid) -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(thread)?;
    let all = 0..CpuSet::count();
    Ok(all.filter(|cpu| set.is_set(*cpu) == Ok(true)).collect())
}

/// Those of a process's threads of this name.
fn allowed_of(process: u32, name: &str) -> Vec<Vec<usize>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap());
    // A thread may have ended meanwhile.
    let comm = |task: &DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let mine = tasks.filter(|task| comm(task).trim() == name);
    let thread = |task: DirEntry| task.file_name().to_str()?.parse().ok().map(Pid::from_raw);
    mine.filter_map(|task| allowed(thread(task)?).ok())
        .collect()
}

#[test]
fn workers_stay_on_the_processors_that_are_named() {
    netlab::ensure_privileges().unwrap();
    let host = Namespace::new("a").unwrap();
    let directory = tempfile::tempdir().unwrap();
    // The last first, so that it is not any order that will do; there may be but one.
    let whole = allowed(Pid::from_raw(0)).unwrap();
    let mut cpus = whole.clone();
    cpus.reverse();
    cpus.truncate(2);
    let tun = format!("name = \"esp0\", mtu = 1400, queues = 2, cpus = {cpus:?}");
    let gateway = Gateway::ikev2d_tun(&host, directory.path(), &tun, "");
    let cycle = cpus.iter().cycle();
    for (worker, cpu) in ["dataplane-0", "dataplane-1"].into_iter().zip(cycle) {
        // It listens to clients before its data plane is there.
        wait(worker, || allowed_of(gateway.id(), worker) == [[*cpu]]);
    }
    // The others run where they like.
    assert!(allowed_of(gateway.id(), "ikev2d").contains(&whole));
}

#[test]
fn a_processor_that_is_not_there_is_named() {
    netlab::ensure_privileges().unwrap();
    let host = Namespace::new("a").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ikev2d.toml");
    let vici = directory.path().join("vici");
    let text = format!(
        "[daemon]\nvici_socket = {vici:?}\ndevice = \"software\"\ntun = {{ name = \"esp0\", cpus = [1023] }}\n"
    );
    fs::write(&file, text).unwrap();
    let mut command: Command = host.command(tests::program("ikev2d"));
    let output = command.arg("--config").arg(&file).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("processor 1023"), "{error}");
    assert!(error.contains("tun.cpus"), "{error}");
}
