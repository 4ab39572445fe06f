// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A card in its process, a virtual machine with the card in it, and a hard end to both.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What the guest prints after its last assertion, and only then.
const PASS: &str = "GUEST PASS";

/// What it prints when the card's process is to die.
const KILL: &str = "GUEST kill the card";

/// Signal of a process that has aborted.
const SIGABRT: i32 = 6;

/// How long the card is under load before.
const LOAD: Duration = Duration::from_millis(500);

/// Huge pages: the driver's memory is mapped ten times faster by them. No check of the timer: on a busy
/// host it comes too late for the kernel, which panics.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 intel_iommu=on hugepages=128 panic=-1 loglevel=5 no_timer_check";

/// What is plugged in: a name, what `esplanade sim` is told, and the functions that it has. The first is
/// the one that is killed.
const DEVICES: [(&str, &[&str], usize); 3] = [
    ("card", &["--max-sas", "64", "--queues", "4"], 1),
    ("qat", &["--model", "qat-gen4", "--functions", "2"], 2),
    ("c62x", &["--model", "qat-gen2"], 1),
];

/// A machine to be started.
pub(super) struct Machine<'a> {
    /// QEMU's tree.
    pub(super) qemu: &'a Path,
    /// `esplanade`.
    pub(super) card: &'a Path,
    pub(super) vmlinuz: PathBuf,
    pub(super) initramfs: PathBuf,
    /// The generation of QAT functions that DPDK's driver is given.
    pub(super) dpdk: &'static str,
    /// Whether the card reaches the guest's memory, as it must.
    pub(super) shares_memory: bool,
    /// For sockets and logs.
    pub(super) work: &'a Path,
}

/// How a machine ended that did not fail.
pub(super) enum Ending {
    /// Passed, with what the guest reported.
    Passed(Vec<String>),
    /// QEMU aborted after the card had died. Its vfio-user client does so, now and then, where its
    /// server dies in the middle of a request (`error_setv: Assertion *errp == NULL`, QEMU 11.0):
    /// whether the guest would have passed is not known.
    Aborted,
}

/// A process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots it and waits for its end.
    pub(super) fn run(&self, time_out: Duration) -> Result<Ending> {
        let deadline = Instant::now() + time_out;
        let serial = self.serial();
        // Of an attempt before.
        let _ = fs::remove_file(&serial);
        let devices: Result<Vec<_>> = DEVICES
            .iter()
            .map(|(name, arguments, functions)| {
                self.start_device(name, arguments, *functions, deadline)
            })
            .collect();
        let mut devices = devices?;
        let sockets: Vec<_> = devices.iter().flat_map(|(_, at)| at.clone()).collect();
        let mut alive = true;
        let mut qemu = self.start_qemu(&sockets, &serial)?;
        // Whoever has a dead card open waits in the kernel for its reset: not for the guest's end.
        let report = loop {
            let ended = qemu.0.try_wait()?;
            let report = guest_lines(&serial);
            if report.iter().any(|line| line == PASS) {
                break report;
            }
            if let Some(status) = ended {
                if !alive && status.signal() == Some(SIGABRT) {
                    return Ok(Ending::Aborted);
                }
                // QEMU ends well whatever the guest did.
                let (complaint, tail) = (self.complaint(), tail(&serial));
                bail!("the guest did not pass (QEMU: {status})\n{complaint}{tail}");
            }
            if alive && report.iter().any(|line| line == KILL) {
                sleep(LOAD);
                let (card, _) = devices.first_mut().context("no card")?;
                card.0.kill()?;
                alive = false;
            }
            if Instant::now() >= deadline {
                bail!("no end after {} s\n{}", time_out.as_secs(), tail(&serial));
            }
            sleep(Duration::from_millis(100));
        };
        ensure!(!alive, "the guest passed without a card's death");
        let driven = format!("{} DPDK's driver", self.dpdk);
        ensure!(
            report.iter().any(|line| line.ends_with(&driven)),
            "the guest passed without DPDK"
        );
        Ok(Ending::Passed(report))
    }

    /// What the guest reported last.
    pub(super) fn report(&self) -> Vec<String> {
        guest_lines(&self.serial())
    }

    fn serial(&self) -> PathBuf {
        self.work.join("serial.log")
    }

    /// A device in its process, and the sockets of its functions.
    fn start_device(
        &self,
        name: &str,
        arguments: &[&str],
        functions: usize,
        deadline: Instant,
    ) -> Result<(Process, Vec<PathBuf>)> {
        let socket = self.work.join(format!("{name}.sock"));
        let further = (1..functions).map(|n| self.work.join(format!("{name}.sock.{n}")));
        let sockets: Vec<_> = [socket.clone()].into_iter().chain(further).collect();
        for left in &sockets {
            let _ = fs::remove_file(left);
        }
        let log = File::create(self.work.join(format!("{name}.log")))?;
        let device = Command::new(self.card)
            .arg("sim")
            .args(arguments)
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.card.display()))?;
        let mut device = Process(device);
        while !sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = device.0.try_wait()? {
                bail!("{name} ended with {status}");
            }
            ensure!(Instant::now() < deadline, "{name} does not listen");
            sleep(Duration::from_millis(20));
        }
        Ok((device, sockets))
    }

    fn start_qemu(&self, sockets: &[PathBuf], serial: &Path) -> Result<Process> {
        let within = |path: &str| self.qemu.join(path);
        // Its libraries are another Debian's: by its own loader.
        let loader = ["usr/lib64", "lib64"]
            .map(|folder| within(folder).join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|path| path.exists())
            .context("QEMU's tree has no loader")?;
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| within(folder).display().to_string())
            .join(":");
        let mut command = Command::new(loader);
        command
            .arg("--library-path")
            .arg(libraries)
            .arg(within("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(within(folder));
        }
        let share = if self.shares_memory { "on" } else { "off" };
        let memory = format!("memory-backend-memfd,id=m0,size=512M,share={share}");
        let devices = sockets.iter().flat_map(|socket| {
            let device = format!(
                r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}}}}"#,
                socket.display()
            );
            ["-device".to_owned(), device]
        });
        let log = File::create(self.work.join("qemu.log"))?;
        let child = command
            .args(["-machine", "q35,memory-backend=m0"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "512M", "-object", &memory])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .args(["-device", "intel-iommu,intremap=on,caching-mode=on"])
            .args(devices)
            .arg("-kernel")
            .arg(&self.vmlinuz)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!("{KERNEL_ARGUMENTS} DPDK={}", self.dpdk))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run QEMU")?;
        Ok(Process(child))
    }

    fn complaint(&self) -> String {
        fs::read_to_string(self.work.join("qemu.log")).unwrap_or_default()
    }
}

fn text(serial: &Path) -> String {
    let text = fs::read(serial).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\r', "")
}

fn guest_lines(serial: &Path) -> Vec<String> {
    let text = text(serial);
    let lines = text.lines().filter(|line| line.starts_with("GUEST "));
    lines.map(str::to_owned).collect()
}

/// The last lines of the serial log.
fn tail(serial: &Path) -> String {
    let text = text(serial);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
