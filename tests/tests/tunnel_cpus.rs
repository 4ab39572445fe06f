// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Workers of the data plane that are kept to processors (`tun.cpus`).

mod gateway;

use std::fs;
use std::path::Path;
use std::process::Command;

use gateway::{Gateway, wait};
use netlab::Namespace;

/// Where threads of this name may run.
fn allowed(process: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    // A thread may have ended meanwhile.
    let read = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    let mine = tasks.filter(|task| read(task, "comm").trim() == name);
    mine.filter_map(|task| {
        let status = read(&task, "status");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(line.trim().to_owned())
    })
    .collect()
}

/// Those that this process may run on.
fn processors() -> Vec<usize> {
    let own = allowed(std::process::id(), &own_name()).pop().unwrap();
    let number = |text: &str| text.parse::<usize>().unwrap();
    own.split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(part)..=number(part),
        })
        .collect()
}

fn own_name() -> String {
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    name.trim().to_owned()
}

#[test]
fn workers_stay_on_the_processors_that_are_named() {
    netlab::ensure_privileges().unwrap();
    let host = Namespace::new("a").unwrap();
    let directory = tempfile::tempdir().unwrap();
    // The last first, so that it is not any order that will do; there may be but one.
    let mut cpus = processors();
    cpus.reverse();
    cpus.truncate(2);
    let tun = format!("name = \"esp0\", mtu = 1400, queues = 2, cpus = {cpus:?}");
    let gateway = Gateway::ikev2d_tun(&host, directory.path(), &tun, "");
    let cycle = cpus.iter().cycle();
    for (worker, cpu) in ["dataplane-0", "dataplane-1"].into_iter().zip(cycle) {
        // It listens to clients before its data plane is there.
        wait(worker, || {
            allowed(gateway.id(), worker) == [cpu.to_string()]
        });
    }
    // The others run where they like.
    let whole = allowed(std::process::id(), &own_name()).pop().unwrap();
    assert!(allowed(gateway.id(), "ikev2d").contains(&whole));
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
