// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B67: what the daemon may still do once it runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use netlab::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use openssl::pkey::PKey;

mod gateway;

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours, rekey};

const SUITE: (&str, &str) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16");
/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW (linux/capability.h).
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 13;

/// CAP_DAC_READ_SEARCH.
const READS_ALL: u64 = 1 << 2;

/// A line of a `status` in proc(5).
fn line(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.and_then(|line| line.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name}: {status}"))
        .trim()
        .to_owned()
}

fn set(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&line(status, name), 16).unwrap()
}

/// Each thread's `status`.
fn threads(process: u32) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let all = all.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    all.collect()
}

/// Every thread of a process is `user`, and may do what is `kept` and nothing else; what it starts gets
/// no more than daemons have.
fn assert_left(process: u32, user: u32, kept: u64) {
    let bound = kept | KEPT;
    let threads = threads(process);
    assert!(!threads.is_empty());
    for status in threads {
        let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|name| set(&status, name));
        assert_eq!(sets, [kept, kept, 0, 0], "{status}");
        assert_eq!(set(&status, "CapBnd") & !bound, 0, "{status}");
        assert_eq!(line(&status, "NoNewPrivs"), "1", "{status}");
        let ids = [user; 4].map(|id| id.to_string());
        let found = line(&status, "Uid");
        assert_eq!(
            found.split_whitespace().collect::<Vec<_>>(),
            ids,
            "{status}"
        );
    }
}

/// Every thread of a process is held to a list of system calls.
fn assert_filtered(process: u32) {
    let end = Instant::now() + PATIENCE;
    let filtered = |status: &String| line(status, "Seccomp") == "2";
    // It listens a moment before it is ready.
    while !threads(process).iter().all(filtered) {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the kernel gives threads the slices that they ask for.
fn has_slices() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    version >= (Some(6), Some(12)) && Path::new("/proc/self/sched").exists()
}

/// Processes that a process has started and that still run.
fn children(process: u32) -> Vec<u32> {
    let all = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let texts = all.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let text: Vec<String> = texts.collect();
    let text = text.join(" ");
    let numbers = text
        .split_whitespace()
        .map(|number| number.parse().unwrap());
    numbers.collect()
}

/// The process that a process has started with an option, once it is what that says.
fn child(process: u32, option: &str) -> u32 {
    let wanted = |number: &u32| {
        let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(option)
    };
    let found = children(process).into_iter().find(wanted);
    found.unwrap_or_else(|| panic!("no {option}"))
}

/// Nothing below a directory, and no memory that a process shares, is anybody's.
fn assert_private(process: u32, directory: &Path) {
    let mut left = vec![directory.to_owned()];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            // Into a directory that nobody else may enter, or write in, no word of others leads.
            let denied = if found.is_dir() { 0o002 } else { 0o007 };
            assert_eq!(
                found.mode() & denied,
                0,
                "{}: {:o}",
                path.display(),
                found.mode()
            );
            seen += 1;
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    assert!(seen > 2, "{}", directory.display());
    let mut memory = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(name) = fs::read_link(&path) else {
            continue;
        };
        if name.to_string_lossy().contains("memfd:") {
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", name.display());
            memory += 1;
        }
    }
    assert!(memory > 0);
}

/// A configuration that only `owner` may read, and all that the daemon writes below `own`.
fn configuration(own: &Path, connections: &str, privileges: &str) -> String {
    format!(
        "[daemon]\nvici_socket = {vici:?}\nstate_directory = {state:?}\nkey_log = {keys:?}\nlog_level = \"debug\"\n\
         retransmit_timeout = 1.0\ntun = {{ name = \"esp0\", mtu = 1400, queues = 1 }}\n\
         privileges = {{ {privileges} }}\n{connections}\n[secrets.ike-1]\nsecret = \"{SECRET}\"\n",
        vici = own.join("vici"),
        state = own.join("state"),
        keys = own.join("keys"),
    )
}

struct Place {
    own: PathBuf,
    file: PathBuf,
}

/// A place for a daemon in a directory that anybody may pass through.
fn place(directory: &Path, owner: Option<u32>) -> Place {
    fs::set_permissions(directory, Permissions::from_mode(0o711)).unwrap();
    let (own, file) = (directory.join("own"), directory.join("ikev2d.toml"));
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    chown(&file, owner, None).unwrap();
    Place { own, file }
}

fn start(namespace: &Namespace, place: &Place) -> Gateway {
    let mut command = namespace.command(tests::program("ikev2d"));
    command.arg("--config").arg(&place.file);
    let log = place.file.with_file_name("log");
    Gateway::spawn(command, place.own.join("vici"), log)
}

/// Has it read its configuration again, and waits until it has.
fn reload(gateway: &Gateway) {
    let told = || {
        fs::read_to_string(&gateway.log)
            .unwrap()
            .matches("is read again")
            .count()
    };
    let before = told();
    kill(Pid::from_raw(gateway.id() as i32), Signal::SIGHUP).unwrap();
    let end = Instant::now() + PATIENCE;
    while told() == before {
        assert!(Instant::now() < end, "{}", gateway.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn peer(wire: &Wire, directory: &Path) -> Gateway {
    let (ike, esp) = SUITE;
    Gateway::ikev2d(&wire.b, &directory.join("b"), &ours(2, ike, esp, "", ""))
}

/// A tunnel, a reload that makes an interface, and a rekeying.
fn assert_works(wire: &Wire, a: &Gateway, b: &Gateway, place: &Place) {
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("with what is left");
    let text = fs::read_to_string(&place.file).unwrap();
    fs::write(
        &place.file,
        text + "[interfaces.vpn0]\naddrs = [\"10.9.0.1/24\"]\n",
    )
    .unwrap();
    reload(a);
    let end = Instant::now() + PATIENCE;
    loop {
        let output = wire.a.command("ip").args(["-o", "addr"]).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("10.9.0.1/24") {
            break;
        }
        assert!(Instant::now() < end, "{}", a.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    rekey::child(a, b, "net");
    wire.assert_passes("after a reload and a rekeying");
}

/// No capability but three, in no thread, nor in what it starts; no system call but those of a list; nothing that it makes is anybody's; and
/// what comes after the start still works.
#[test]
fn a_running_daemon_has_what_it_needs_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let b = peer(&wire, directory.path());
    let place = place(directory.path(), None);
    fs::create_dir(&place.own).unwrap();
    let (ike, esp) = SUITE;
    let text = configuration(&place.own, &ours(1, ike, esp, "", ""), "");
    fs::write(&place.file, text).unwrap();
    let mut a = start(&wire.a, &place);
    assert_left(a.id(), nix::unistd::geteuid().as_raw(), KEPT);
    assert_filtered(a.id());
    // What starts programs for it, what that one has started, and what keeps private keys.
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(children(a.id()).len(), 2);
    let launcher = child(a.id(), "--launch");
    assert_left(launcher, own, KEPT);
    assert_left(child(launcher, "--publish-sa-cache"), own, 0);
    let keeper = child(a.id(), "--keep-keys");
    assert_filtered(keeper);
    assert_left(keeper, own, READS_ALL);
    assert_works(&wire, &a, &b, &place);
    assert_filtered(a.id());
    assert_left(a.id(), nix::unistd::geteuid().as_raw(), KEPT);
    assert_private(a.id(), &place.own);
    assert!(a.stop(), "{}", a.tail());
}

/// The data plane's workers have shorter slices than other threads, so that one that is woken goes before them.
#[test]
fn workers_have_shorter_slices_than_other_threads() {
    if !has_slices() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let place = place(directory.path(), None);
    fs::create_dir(&place.own).unwrap();
    fs::write(&place.file, configuration(&place.own, "", "")).unwrap();
    let a = start(&wire.a, &place);
    assert_filtered(a.id());
    let mut workers = 0;
    for task in fs::read_dir(format!("/proc/{}/task", a.id())).unwrap() {
        let task = task.unwrap().path();
        let read = |name| fs::read_to_string(task.join(name));
        // Others may end meanwhile.
        let (Ok(name), Ok(sched)) = (read("comm"), read("sched")) else {
            continue;
        };
        let slice = sched.lines().find_map(|line| line.strip_prefix("se.slice"));
        let slice = slice.unwrap_or_else(|| panic!("{sched}"));
        let nanos: u64 = slice.trim_start_matches([' ', ':']).parse().unwrap();
        let is_worker = name.starts_with("dataplane-");
        assert_eq!(nanos == 100_000, is_worker, "{sched}");
        workers += u32::from(is_worker);
    }
    assert_eq!(workers, 1);
}

/// Capabilities that the configuration keeps are kept, and `drop = false` keeps all.
#[test]
fn a_daemon_keeps_what_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let place = place(directory.path(), None);
    fs::create_dir(&place.own).unwrap();
    let own = nix::unistd::geteuid().as_raw();
    fs::write(
        &place.file,
        configuration(&place.own, "", "keep = [\"DAC_OVERRIDE\"]"),
    )
    .unwrap();
    let a = start(&wire.a, &place);
    assert_left(a.id(), own, KEPT | 1 << 1);
    drop(a);
    fs::write(
        &place.file,
        configuration(&place.own, "", "drop = false, seccomp = \"off\""),
    )
    .unwrap();
    let a = start(&wire.a, &place);
    for status in threads(a.id()) {
        assert_eq!(line(&status, "NoNewPrivs"), "0");
        assert_eq!(line(&status, "Seccomp"), "0");
        assert_ne!(set(&status, "CapEff") & !KEPT, 0);
    }
}

/// Whether octets are in what a process has written to its own memory.
fn has_in_memory(process: u32, octets: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut searched = 0;
    let found = maps.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (number(start), number(end));
        if mode != "rw-p" || end - start > 64 << 20 {
            return false;
        }
        let mut part = vec![0; (end - start) as usize];
        // A thread may have ended meanwhile.
        let read = memory.read_at(&mut part, start).unwrap_or_default();
        searched += read;
        part[..read]
            .windows(octets.len())
            .any(|window| window == octets)
    });
    assert!(found || searched > 1 << 20, "{searched}");
    found
}

/// Private keys sign, before and after a reload, and neither the daemon nor what starts programs for it has
/// them; the daemon may not even read their files. When the process that has them dies, so does the daemon.
#[test]
fn private_keys_are_kept_from_who_reads_what_strangers_send() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let user = nobody();
    let owner = user.as_ref().map(|user| user.uid.as_raw());
    let place = place(directory.path(), owner);
    let mut seeds = Vec::new();
    for name in ["a", "b"] {
        let key = PKey::generate_ed25519().unwrap();
        let path = |end: &str| directory.path().join(format!("{name}.{end}"));
        fs::write(path("key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::set_permissions(path("key"), Permissions::from_mode(0o600)).unwrap();
        fs::write(path("pub"), key.public_key_to_pem().unwrap()).unwrap();
        seeds.push(key.raw_private_key().unwrap());
    }
    let (ike, esp) = SUITE;
    let with_keys = |number: u8, own: &str, other: &str| {
        let file = |name: &str, end: &str| directory.path().join(format!("{name}.{end}"));
        let text = ours(number, ike, esp, "", "");
        let auth = |name| format!("{{ auth = \"ed25519\", pubkeys = [{:?}]", file(name, "pub"));
        let text = text.replace(
            "local = { auth = \"psk\"",
            &format!("local = {}", auth(own)),
        );
        let text = text.replace(
            "remote = { auth = \"psk\"",
            &format!("remote = {}", auth(other)),
        );
        format!(
            "{text}\n[secrets.private-own]\nfile = {:?}\n",
            file(own, "key")
        )
    };
    let privileges = if user.is_some() {
        "user = \"nobody\""
    } else {
        ""
    };
    let text = configuration(&place.own, &with_keys(1, "a", "b"), privileges);
    fs::write(&place.file, text).unwrap();
    if user.is_none() {
        fs::create_dir(&place.own).unwrap();
    }
    let mut a = start(&wire.a, &place);
    let _b = Gateway::ikev2d(
        &wire.b,
        &directory.path().join("b"),
        &with_keys(2, "b", "a"),
    );
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("with keys that are elsewhere");
    reload(&a);
    a.swanctl(&["--terminate", "--ike", "gw"]);
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after a reload");
    let keeper = child(a.id(), "--keep-keys");
    assert!(has_in_memory(keeper, &seeds[0]));
    assert!(!has_in_memory(a.id(), &seeds[0]));
    assert!(!has_in_memory(child(a.id(), "--launch"), &seeds[0]));

    kill(Pid::from_raw(keeper as i32), Signal::SIGKILL).unwrap();
    let end = Instant::now() + PATIENCE;
    let told = || fs::read_to_string(&a.log).unwrap();
    while !told().contains("the process that keeps private keys is gone") {
        assert!(Instant::now() < end, "{}", a.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!a.stop());
}

/// A reload that meets a key file which may not be read changes nothing, and ends neither the daemon nor what
/// keeps its keys.
#[test]
fn a_key_that_may_not_be_read_leaves_what_was_read_before() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let Some(user) = nobody() else { return };
    let place = place(directory.path(), None);
    fs::create_dir(&place.own).unwrap();
    let key = PKey::generate_ed25519().unwrap();
    let (private, public) = (
        directory.path().join("a.key"),
        directory.path().join("a.pub"),
    );
    fs::write(&private, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();
    fs::write(&public, key.public_key_to_pem().unwrap()).unwrap();
    let (ike, esp) = SUITE;
    let auth = format!("local = {{ auth = \"ed25519\", pubkeys = [{public:?}]");
    let connections = ours(1, ike, esp, "", "").replace("local = { auth = \"psk\"", &auth);
    let connections = format!("{connections}\n[secrets.private-own]\nfile = {private:?}\n");
    fs::write(&place.file, configuration(&place.own, &connections, "")).unwrap();
    // As under a service manager that leaves nobody the right to pass by the modes of files.
    let mut command = wire.a.command("setpriv");
    command
        .args(["--bounding-set", "-dac_override,-dac_read_search"])
        .arg(tests::program("ikev2d"))
        .arg("--config")
        .arg(&place.file);
    let log = place.file.with_file_name("log");
    let mut a = Gateway::spawn(command, place.own.join("vici"), log);
    assert!(a.swanctl(&["--list-conns"]).contains("gw"));
    reload(&a);

    chown(&private, Some(user.uid.as_raw()), None).unwrap();
    kill(Pid::from_raw(a.id() as i32), Signal::SIGHUP).unwrap();
    let end = Instant::now() + PATIENCE;
    while !a.tail().contains("the new configuration is not used") {
        assert!(Instant::now() < end, "{}", a.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        a.tail().contains("a.key: Permission denied"),
        "{}",
        a.tail()
    );
    // Longer than it takes to notice that a process beside the daemon is gone.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(a.swanctl(&["--list-conns"]).contains("gw"));
    chown(&private, Some(0), None).unwrap();
    reload(&a);
    assert!(a.stop(), "{}", a.tail());
}

/// The user of another daemon's, if this host lets anybody become it: a namespace of one user does not.
fn nobody() -> Option<User> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let user = User::from_name("nobody").unwrap()?;
    let known = map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|word| word.parse::<u64>().unwrap());
        let (first, count) = (numbers.next().unwrap(), numbers.nth(1).unwrap());
        (first..first + count).contains(&u64::from(user.uid.as_raw()))
    });
    if !known {
        eprintln!("skipped: this user namespace has no other user");
    }
    known.then_some(user)
}

/// As another user, with what that one may read: a tunnel, a reload, an interface.
#[test]
fn a_daemon_runs_as_another_user() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let Some(user) = nobody() else { return };
    let b = peer(&wire, directory.path());
    let place = place(directory.path(), Some(user.uid.as_raw()));
    let (ike, esp) = SUITE;
    let connections = ours(1, ike, esp, "", "");
    let text = configuration(&place.own, &connections, "user = \"nobody\"");
    fs::write(&place.file, text).unwrap();
    let mut a = start(&wire.a, &place);
    assert_left(a.id(), user.uid.as_raw(), KEPT);
    assert_works(&wire, &a, &b, &place);
    assert_private(a.id(), &place.own);
    assert!(a.stop(), "{}", a.tail());

    // What it could not do later it says at once.
    let refusal = |place: &Place| {
        let mut command = wire.a.command(tests::program("ikev2d"));
        command
            .arg("--config")
            .arg(&place.file)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    chown(&place.own, Some(0), Some(0)).unwrap();
    let told = refusal(&place);
    assert!(
        told.contains("daemon.vici_socket: user nobody may not write in"),
        "{told}"
    );
    chown(&place.own, Some(user.uid.as_raw()), None).unwrap();
    chown(&place.file, Some(0), Some(0)).unwrap();
    let told = refusal(&place);
    assert!(
        told.contains("user nobody reads it again at every reload"),
        "{told}"
    );
}
