// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs are started by a process of its own: those system calls are none of the daemon's, whose
//! filter ([`crate::seccomp`]) would be theirs, too. It knows nothing but the configuration's path, and
//! ends with the daemon.

use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::beside::{self, Beside};
use crate::config::Draft;
use crate::daemon::Along;
use crate::publication;

/// Octets of an order at most: a path, or the addresses that a peer gives.
const LARGEST: usize = 64 * 1024;
/// What a program at its end is said to have done well.
const WELL: &str = "ok";

/// What is to be started.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Hook(HookCall),
    Publish(PublishOrder),
}

/// A call of `daemon.resolve_hook`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HookCall {
    pub(crate) verb: Verb,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) along: Along,
}

/// What has become of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verb {
    Up,
    Down,
}

/// A publisher of the SA cache.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PublishOrder {
    pub(crate) path: PathBuf,
    pub(crate) group: Option<u32>,
    pub(crate) keep: u64,
}

/// The daemon's way to the process.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    socket: Arc<OwnedFd>,
}

impl Launcher {
    /// Starts it.
    pub(crate) fn start(config: &Path) -> anyhow::Result<Self> {
        let ours = beside::start("--launch", config);
        let ours = ours.context("the process that starts programs")?;
        Ok(Self {
            socket: Arc::new(ours),
        })
    }

    /// Calls the program that the configuration names, and waits for its end.
    pub(crate) fn hook(&self, call: HookCall) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        self.order(&Order::Hook(call), &[theirs.as_fd()])?;
        drop(theirs);
        let mut end = String::new();
        ours.read_to_string(&mut end)?;
        match end.as_str() {
            WELL => Ok(()),
            "" => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Err(io::Error::other(end)),
        }
    }

    /// Starts a publisher of what `cache` is open for; it hears the daemon's words at `words`.
    pub(crate) fn publish(
        &self,
        order: PublishOrder,
        words: UnixStream,
        cache: OwnedFd,
    ) -> io::Result<()> {
        self.order(&Order::Publish(order), &[words.as_fd(), cache.as_fd()])
    }

    /// Whether the process has ended.
    pub(crate) fn is_gone(&self) -> bool {
        beside::is_gone(&self.socket)
    }

    fn order(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(order)?;
        beside::send(&self.socket, &[IoSlice::new(&text)], fds)
    }
}

/// How the daemon starts the process that starts programs.
#[derive(Debug, Args)]
pub struct LaunchArguments {
    /// Start what the daemon at standard input orders; the configuration says which program that may be.
    #[arg(long, hide = true, value_name = "CONFIG")]
    launch: Option<PathBuf>,
}

impl LaunchArguments {
    /// Starts programs, if that is what this process is for.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> io::Result<bool> {
        let Some(config) = &self.launch else {
            return Ok(false);
        };
        let beside = Beside::new()?;
        let mut programs = Programs::new(config);
        while let Some((order, fds)) = receive(&beside.daemon)? {
            programs.start(order, fds);
        }
        Ok(true)
    }
}

/// The next order; nothing if the daemon is gone.
fn receive(daemon: &OwnedFd) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let mut text = vec![0; LARGEST];
    let (received, fds) = beside::receive(daemon, &mut text)?;
    if received == 0 {
        return Ok(None);
    }
    let order = serde_json::from_slice(text.get(..received).unwrap_or_default())?;
    Ok(Some((order, fds)))
}

/// What may be started.
struct Programs {
    config: PathBuf,
    /// As the configuration has it, or had it when it could be read last.
    hook: Option<PathBuf>,
}

impl Programs {
    fn new(config: &Path) -> Self {
        let mut programs = Self {
            config: config.to_owned(),
            hook: None,
        };
        programs.look();
        programs
    }

    fn look(&mut self) {
        if let Ok(draft) = Draft::read(&self.config) {
            self.hook = draft.daemon().resolve_hook.clone();
        }
    }

    fn start(&mut self, order: Order, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        match (order, fds.next(), fds.next()) {
            (Order::Hook(call), Some(answer), None) => {
                self.look();
                let hook = self.hook.clone();
                std::thread::spawn(move || {
                    let end = match hook {
                        Some(program) => run(&program, &call),
                        None => "the configuration names no program any more".to_owned(),
                    };
                    // Who has asked may have gone.
                    let _ = UnixStream::from(answer).write_all(end.as_bytes());
                });
            }
            (Order::Publish(order), Some(words), Some(cache)) => {
                let started = publication::command(&order, words, cache).spawn();
                match started {
                    // Someone waits for its end, so that nothing of it is left.
                    Ok(mut process) => drop(std::thread::spawn(move || process.wait())),
                    Err(error) => eprintln!("ikev2d: the SA cache's publisher: {error}"),
                }
            }
            (order, ..) => eprintln!("ikev2d: an order without its descriptors: {order:?}"),
        }
    }
}

/// Runs the hook to its end.
fn run(program: &Path, call: &HookCall) -> String {
    let verb = match call.verb {
        Verb::Up => "up",
        Verb::Down => "down",
    };
    let mut command = Command::new(program);
    command
        .arg(verb)
        .env("INTERFACE", &call.interface)
        .env("ADDRESSES", joined(&call.addresses))
        .env("DNS_SERVERS", joined(&call.along.dns_servers))
        .env("NBNS_SERVERS", joined(&call.along.nbns_servers))
        .env("DHCP_SERVERS", joined(&call.along.dhcp_servers))
        .env("NETMASKS", joined(&call.along.netmasks))
        .env("SUBNETS", joined(&call.along.subnets));
    let said = |what: String| format!("{}: {what}", program.display());
    match command.status() {
        Ok(status) if ExitStatus::success(&status) => WELL.to_owned(),
        Ok(status) => said(status.to_string()),
        Err(error) => said(error.to_string()),
    }
}

fn joined(all: &[impl ToString]) -> String {
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    texts.join(" ")
}
