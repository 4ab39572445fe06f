// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DPDK's own QAT driver, as Debian ships it, on the simulated function: it probes it, sets rings up,
//! and its test programs check what comes out against vectors of an independent implementation.
//!
//! The driver is given a tree of files for sysfs and a plain file for a device; `cargo xtask dpdk`
//! installs what is missing, sees to huge pages and runs these tests.
#![allow(clippy::unwrap_used)]

#[path = "dpdk/bar.rs"]
mod bar;
#[path = "dpdk/bridge.rs"]
mod bridge;
#[path = "dpdk/perf.rs"]
mod perf;
#[path = "dpdk/setups.rs"]
mod setups;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bridge::{Bridge, Seen};
use perf::{ALGORITHMS, Algorithm, OPERATIONS, Way, named};
use qat_regs::Generation;
use qat_regs::csr::Layout;

/// The function's place on a bus that is not there.
const ADDRESS: &str = "0000:ff:01.0";
/// What a program may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// What DPDK's own suite may take.
const SUITE_PATIENCE: Duration = Duration::from_secs(900);

/// One at a time: they share the machine's huge pages.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Device {
    directory: tempfile::TempDir,
    generation: Generation,
}

impl Device {
    /// A function that sysfs would show, bound to the kernel's plainest driver.
    fn new(id: u16, generation: Generation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("sys").join(ADDRESS);
        fs::create_dir_all(device.join("uio/uio0")).unwrap();
        let driver = directory.path().join("uio_pci_generic");
        fs::create_dir(&driver).unwrap();
        std::os::unix::fs::symlink(driver, device.join("driver")).unwrap();
        let id_text = format!("{id:#06x}");
        let facts = [
            ("vendor", "0x8086"),
            ("device", &id_text),
            ("subsystem_vendor", "0x8086"),
            ("subsystem_device", "0x0000"),
            ("class", "0x0b4000"),
            ("max_vfs", "0"),
            ("numa_node", "0"),
        ];
        for (name, value) in facts {
            fs::write(device.join(name), format!("{value}\n")).unwrap();
        }
        let ring_bar = Layout::of(generation).bar_size();
        let bars = [ring_bar, 0, 0x2000, 0, 0, 0];
        let mut resource = String::new();
        for (bar, size) in bars.into_iter().enumerate() {
            let start = 0xe000_0000 + 0x10_0000 * bar as u64;
            let (start, end, flags) = match size {
                0 => (0, 0, 0),
                size => (start, start + size - 1, 0x4_0200),
            };
            resource += &format!("{start:#018x} {end:#018x} {flags:#018x}\n");
            if size != 0 {
                let file = fs::File::create(device.join(format!("resource{bar}"))).unwrap();
                file.set_len(size).unwrap();
            }
        }
        fs::write(device.join("resource"), resource).unwrap();
        Self {
            directory,
            generation,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sys").join(ADDRESS)
    }

    /// Runs a program of DPDK's in a name space whose /sys/class and /dev are made up.
    fn run(&self, patience: Duration, program: &str, arguments: &[&str], input: &str) -> Run {
        let bridge = Bridge::new(&self.path(), self.generation);
        let (process, stop) = (
            Arc::new(AtomicI32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (theirs, stopped) = (process.clone(), stop.clone());
        let thread = std::thread::spawn(move || bridge.run(&theirs, &stopped));
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-eu",
                "-c",
                NAMESPACE,
                "sh",
            ])
            .arg(self.directory.path().join("dev"))
            .arg(program)
            .args(["-l", "0,1", "-m", "192", "--no-telemetry", "-a", ADDRESS])
            .args(["--file-prefix", &format!("qat{}", std::process::id())])
            .args(arguments)
            .env("SYSFS_PCI_DEVICES", self.directory.path().join("sys"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        fs::create_dir_all(self.directory.path().join("dev")).unwrap();
        let mut child = command.spawn().unwrap();
        process.store(child.id() as i32, Ordering::Release);
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let watch = child.id();
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = ended.clone();
        let killer = std::thread::spawn(move || {
            let start = Instant::now();
            while !has_ended.load(Ordering::Acquire) {
                if start.elapsed() > patience {
                    let process = nix::unistd::Pid::from_raw(watch as i32);
                    let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let output = child.wait_with_output().unwrap();
        ended.store(true, Ordering::Release);
        killer.join().unwrap();
        stop.store(true, Ordering::Release);
        let seen = thread.join().unwrap();
        Run::new(&output, seen)
    }

    fn perf(&self, arguments: &[&str]) -> Run {
        let arguments: Vec<_> = ["--"].iter().chain(arguments).copied().collect();
        let run = self.run(PATIENCE, "dpdk-test-crypto-perf", &arguments, "");
        assert!(run.good, "{arguments:?}:\n{}", run.text);
        run
    }
}

/// Arguments: a directory for devices, and the program with its arguments.
const NAMESPACE: &str = r#"
dev=$1; shift
mount -t tmpfs class /sys/class
mkdir -p /sys/class/uio/uio0/device
head -c 256 /dev/zero > /sys/class/uio/uio0/device/config
printf '\006' | dd of=/sys/class/uio/uio0/device/config bs=1 seek=4 conv=notrunc status=none
mount -t tmpfs dev "$dev"
for device in null zero random urandom tty full; do cp -a /dev/$device "$dev"; done
mkdir "$dev/shm" "$dev/pts" "$dev/hugepages"
mount -t hugetlbfs -o pagesize=2M huge "$dev/hugepages"
: > "$dev/uio0"
ln -s /proc/self/fd "$dev/fd"
mount --rbind "$dev" /dev
exec "$@"
"#;

struct Run {
    text: String,
    good: bool,
    seen: Seen,
}

impl Run {
    fn new(output: &Output, seen: Seen) -> Self {
        let text =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        Self {
            text: text.concat(),
            good: output.status.success(),
            seen,
        }
    }
}

/// Both ways of algorithms, by a good vector and a bad one.
fn verify(device: &Device, algorithms: &[Algorithm]) {
    for algorithm in algorithms {
        for (way, spoiled) in Way::BOTH
            .into_iter()
            .flat_map(|way| [(way, false), (way, true)])
        {
            let path = device.directory.path().join("vector.data");
            fs::write(&path, algorithm.vector(spoiled)).unwrap();
            let run = device.perf(&algorithm.verify(way, path.to_str().unwrap()));
            let failed = perf::failed(&run.text);
            let wanted = if spoiled { OPERATIONS } else { 0 };
            let name = algorithm.name;
            let said = format!("{name} {way:?} spoiled {spoiled}:\n{}", run.text);
            assert_eq!(failed, Some(wanted), "{said}");
            assert!(run.seen.counters.requests >= OPERATIONS, "{said}");
            assert_eq!(run.seen.counters.dma_faults, 0, "{said}");
        }
    }
}

#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_verifies_every_algorithm_on_gen4_and_sees_a_flipped_bit() {
    let _alone = alone();
    verify(&Device::new(0x4941, Generation::Gen4), &ALGORITHMS);
}

/// Without ChaCha20-Poly1305, which it does not have.
#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_verifies_every_algorithm_on_gen2_and_sees_a_flipped_bit() {
    let _alone = alone();
    let known = [
        "aes128gcm16",
        "aes256gcm16",
        "aes128-sha256",
        "aes256-sha512",
    ];
    verify(&Device::new(0x37c9, Generation::Gen2), &named(&known));
}

#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_probes_gen2_without_a_message_and_moves_packets_through_it() {
    let _alone = alone();
    let device = Device::new(0x37c9, Generation::Gen2);
    for algorithm in named(&["aes128gcm16", "aes128-sha256"]) {
        let run = throughput(&device, algorithm);
        assert!(run.seen.messages.is_empty());
        // One more for each queue pair: a request that does nothing, for the firmware's version.
        assert!(run.seen.counters.requests > OPERATIONS);
        assert_eq!(run.seen.counters.failed, 0);
    }
}

/// Moves operations through a function, all of which have to come home.
fn throughput(device: &Device, algorithm: Algorithm) -> Run {
    let run = device.perf(&algorithm.throughput(Way::Seal));
    let rate = perf::rate(&run.text).unwrap_or_else(|| panic!("{}", run.text));
    println!("{}: {rate} M operations/s", algorithm.name);
    run
}

#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_probes_gen4_by_its_six_messages_and_moves_packets_through_it() {
    let _alone = alone();
    let device = Device::new(0x4941, Generation::Gen4);
    for algorithm in named(&["aes128gcm16", "chacha20poly1305", "aes128-sha256"]) {
        let run = throughput(&device, algorithm);
        assert_eq!(
            run.seen.messages,
            [0x2327, 0x3327, 0x0043, 0x0143, 0x0243, 0x0343]
        );
    }
}

/// Parts of DPDK's suite of which no case may fail, and how many pass at least, on each generation.
const SUITES: [(&str, usize, usize); 9] = [
    ("Multi Session Unit Test Suite", 2, 2),
    ("AES GCM Authenticated Test Suite", 52, 52),
    ("Negative AES GCM Test Suite", 12, 12),
    ("Negative AES GMAC Test Suite", 2, 2),
    ("Chacha20-Poly1305 Test Suite", 3, 0),
    ("ESN Test Suite", 2, 2),
    ("Negative HMAC SHA1 Unit Test Suite", 4, 4),
    ("DOCSIS Proto Unit Test Suite", 52, 52),
    ("PDCP Proto Unit Test Suite", 0, 0),
];

/// Words of cases that need what the function does not have: `docs/qat.md` says which.
const BEYOND: [&str; 16] = [
    "CCM",
    "GMAC",
    "CMAC",
    "cmac",
    "XCBC",
    "XTS",
    "DES",
    "NULL",
    "Encrypted Digest mode",
    "snow3g",
    "zuc",
    "kasumi",
    "MD5",
    "SNOW",
    "ZUC",
    "KASUMI",
];

/// Runs DPDK's own suite, of which so many cases pass.
fn suite(device: &Device, passing: usize) {
    let input = "cryptodev_qat_autotest\nquit\n";
    let run = device.run(SUITE_PATIENCE, "dpdk-test", &[], input);
    let lines = || {
        run.text
            .lines()
            .map(|line| line.trim().trim_start_matches("+ "))
    };
    let report: Vec<_> = lines().filter(|line| line.contains(" passed, ")).collect();
    for (name, on_gen4, on_gen2) in SUITES {
        let least = match device.generation {
            Generation::Gen2 => on_gen2,
            _ => on_gen4,
        };
        let row = report.iter().find_map(|row| row.strip_prefix(name));
        let row = row.unwrap_or_else(|| panic!("{name}: not there in\n{}", run.text));
        let row = row.trim_start_matches([' ', ':']);
        let passed: usize = row.split('/').next().unwrap().parse().unwrap();
        let failed = row.split(", ").find(|cell| cell.ends_with("failed"));
        let good = passed >= least && failed.unwrap().starts_with("0/");
        assert!(good, "{name}: {row}\n{}", run.text);
    }
    let mut failed =
        lines().filter(|line| line.starts_with("TestCase [") && line.ends_with(" failed"));
    let known = |case: &&str| BEYOND.iter().any(|word| case.contains(word));
    let new = failed.find(|case| !known(case));
    // What was said before it, too: the suite gives its reasons there.
    let said = || {
        let all: Vec<_> = lines().collect();
        let at = all.iter().position(|line| Some(*line) == new);
        let at = at.unwrap_or_default();
        all[at.saturating_sub(12)..=at].join("\n")
    };
    assert_eq!(
        new,
        None,
        "it failed, and is none of what the function lacks:\n{}",
        said()
    );
    let passed =
        lines().filter(|line| line.starts_with("TestCase [") && line.ends_with(" succeeded"));
    let passed = passed.count();
    println!(
        "{passed} cases of DPDK's suite pass; {:?}",
        run.seen.counters
    );
    assert!(passed >= passing, "{passed} cases pass, {passing} did");
    assert_eq!(run.seen.counters.dma_faults, 0);
}

#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_passes_its_own_suite_on_gen4_but_for_what_the_function_lacks() {
    let _alone = alone();
    suite(&Device::new(0x4941, Generation::Gen4), 271);
}

#[test]
#[ignore = "needs DPDK and huge pages: cargo xtask dpdk"]
fn dpdk_passes_its_own_suite_on_gen2_but_for_what_the_function_lacks() {
    let _alone = alone();
    suite(&Device::new(0x37c9, Generation::Gen2), 284);
}
