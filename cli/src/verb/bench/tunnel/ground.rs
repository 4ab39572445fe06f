// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every tunnel is laid over: two hosts with a wire between them.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlab::Namespace;
use netlab::process::{Guarded, wait_for_listener};
use netlab::traffic::probe;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::verb::demo::write_private;

/// Of every tunnel device: the one that kernel-libipsec has.
pub(super) const MTU: usize = 1400;
/// How long a program may take until it listens, or a tunnel until it carries a packet.
const READY: Duration = Duration::from_secs(20);
/// Milliseconds there and back through empty queues, on a busy machine.
const AT_ONCE_MS: f64 = 20.0;
const TICK: Duration = Duration::from_millis(50);
/// Of each log in an error.
const TAIL: usize = 1000;

/// A host, and a gateway in one.
pub(super) struct End {
    /// `a` or `b`.
    pub(super) name: &'static str,
    pub(super) namespace: Namespace,
    /// On the wire.
    pub(super) outer: IpAddr,
    /// Behind the tunnel.
    pub(super) inner: IpAddr,
    /// For configurations, sockets and logs.
    pub(super) directory: PathBuf,
}

pub(super) struct Ground {
    pub(super) ends: [End; 2],
    _directory: TempDir,
}

impl Ground {
    /// Two namespaces and a veth pair as it comes: segmentation is left to it, as it is to the cards of
    /// real hosts.
    pub(super) fn lay() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("esplanade-bench-")
            .tempdir()?;
        let end = |name: &'static str, host: u8| -> Result<End> {
            let directory = directory.path().join(name);
            fs::create_dir(&directory)?;
            Ok(End {
                name,
                namespace: Namespace::new(name)?,
                outer: IpAddr::from([10, 77, 0, host]),
                inner: IpAddr::from([10, host, 0, 1]),
                directory,
            })
        };
        let ends = [end("a", 1)?, end("b", 2)?];
        let [a, b] = &ends;
        let other = b.namespace.path();
        a.namespace.ip(&format!(
            "link add name wire type veth peer name wire netns {other}"
        ))?;
        for end in &ends {
            end.namespace.ip("link set dev wire up")?;
            end.namespace
                .address("wire", &format!("{}/24", end.outer))?;
            end.namespace.address("lo", &format!("{}/32", end.inner))?;
        }
        Ok(Self {
            ends,
            _directory: directory,
        })
    }

    /// Each end beside the one that it talks to.
    pub(super) fn pairs(&self) -> [(&End, &End); 2] {
        let [a, b] = &self.ends;
        [(a, b), (b, a)]
    }

    /// Lets the hosts find each other without a tunnel.
    pub(super) fn route_directly(&self) -> Result<Running> {
        for (end, peer) in self.pairs() {
            let (inner, via, from) = (peer.inner, peer.outer, end.inner);
            end.namespace
                .route(&format!("{inner} via {via} src {from}"))?;
        }
        Ok(Running::default())
    }

    /// Waits until a packet comes back from the other end.
    pub(super) fn await_other_end(&self) -> Result<()> {
        self.await_answer(f64::INFINITY, "no packet has come through")
    }

    /// Waits until nothing of a flood is left in anybody's queue: until a packet is there and back at once.
    pub(super) fn settle(&self) -> Result<()> {
        self.await_answer(AT_ONCE_MS, "the queues of the last flood are still full")
    }

    /// Pings until an answer comes within so many milliseconds.
    fn await_answer(&self, within: f64, complaint: &str) -> Result<()> {
        let [a, b] = &self.ends;
        let start = Instant::now();
        loop {
            // An error is an address that is not there yet.
            let answer = probe(&a.namespace, a.inner, b.inner, 1);
            let mean = answer.ok().and_then(|report| report.mean_ms);
            if mean.is_some_and(|mean| mean < within) {
                return Ok(());
            }
            if start.elapsed() > READY {
                bail!("{complaint} in {READY:?}");
            }
            std::thread::sleep(TICK);
        }
    }

    /// The last lines that the gateways have said.
    pub(super) fn logs(&self) -> String {
        let mut all = String::new();
        for end in &self.ends {
            let text = fs::read_to_string(end.log()).unwrap_or_default();
            let from = text.len().saturating_sub(TAIL);
            let tail = text.get(from..).unwrap_or(&text).trim();
            if !tail.is_empty() {
                all += &format!("log of {}:\n{tail}\n", end.name);
            }
        }
        all
    }
}

impl End {
    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Starts a program in the end's namespace that writes to its log.
    pub(super) fn spawn(
        &self,
        program: impl AsRef<Path>,
        set: impl FnOnce(&mut Command),
    ) -> Result<Guarded> {
        let program = program.as_ref();
        let mut command = self.namespace.command(program);
        set(&mut command);
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Guarded::spawn(command).with_context(|| format!("cannot start {}", program.display()))
    }

    /// Writes a file that nobody else reads, and says where.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        write_private(&path, text)?;
        Ok(path)
    }
}

/// Waits until `process` listens on a socket.
pub(super) fn await_listener(socket: &Path, process: &mut Guarded) -> Result<()> {
    wait_for_listener(socket, READY, || match process.ended()? {
        None => Ok(()),
        Some(status) => Err(io::Error::other(format!("it has ended with {status}"))),
    })?;
    Ok(())
}

/// The gateways' processes.
#[derive(Default)]
pub(super) struct Running {
    processes: Vec<Guarded>,
}

impl Running {
    pub(super) fn add(&mut self, process: Guarded) {
        self.processes.push(process);
    }

    /// Processor time of all of them so far.
    pub(super) fn cpu(&mut self) -> io::Result<Duration> {
        let mut sum = Duration::ZERO;
        for process in &mut self.processes {
            if let Some(status) = process.ended()? {
                return Err(io::Error::other(format!(
                    "a gateway has ended with {status}"
                )));
            }
            let id = i32::try_from(process.id()).map_err(io::Error::other)?;
            let clock = clock_getcpuclockid(Pid::from_raw(id))?;
            sum += Duration::from(clock_gettime(clock)?);
        }
        Ok(sum)
    }

    /// Ends them.
    pub(super) fn stop(&mut self) {
        self.processes.clear();
    }
}
